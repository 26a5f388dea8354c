/* analyze_leak.c: gimbal analyze leak: what a schedule leaves of the clip where sampling begins (FreeInit, Wu
 * et al., ECCV 2024, section 3.1).
 *
 *     SNR(t) = abar / (1 - abar),    sigma = s / (a + s): where flow matching, (1 - sigma) x0 + sigma eps,
 * has it
 *
 * Over all frequencies together, of a clip of unit variance; analyze snr says where they are. Refuses to know
 * how schedules are made. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>

enum { FRAMEINIT_LEVEL = 850, CURVE = 50 };

static double snr_db(double alpha_bar)
{
    return 10 * log10(alpha_bar / (1 - alpha_bar));
}

static void find_row(Findings *f, const gimbal_schedule *s, const char *where, double t, double alpha_bar)
{
    char db[32];
    const double a = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar), sigma = noise / (a + noise);
    findings_row(f, "%s\t%s\t%d\t%s\t%g\t%.4f\t%s\t%.3f", s->betas, s->spacing, s->steps, where, t, a,
                 number_text(snr_db(alpha_bar), "%.1f", db), sigma);
    findings_object(f,
                    json_pack("{s:s, s:s, s:s, s:i, s:s, s:f, s:f, s:o, s:f}", "betas", s->betas, "spacing",
                              s->spacing, "sampler", s->sampler, "steps", s->steps, "where", where, "t", t,
                              "sqrt_alpha_bar", a, "snr_db", number_json(snr_db(alpha_bar)), "sigma", sigma));
}

static void find_curve(Findings *f, const gimbal_schedule *s)
{
    double t[CURVE], db[CURVE];
    for (int i = 0; i < CURVE; i++) {
        const int at = (int)((double)i * (s->timesteps - 1) / (CURVE - 1));
        const double value = snr_db(s->alpha_bar[at]);
        t[i] = at, db[i] = isfinite(value) ? value : NAN;
    }
    findings_line(f, s->betas, t, db, CURVE);
}

static void find_notes(Findings *f, const gimbal_schedule *s)
{
    const double first = snr_db(s->t_alpha_bar[0]), last = snr_db(s->alpha_bar[s->timesteps - 1]);
    if (s->zero_snr)
        findings_note(
            f,
            "%s: zero terminal SNR: nothing of the clip is left at timestep %d. Noising a result to it "
            "keeps nothing of that result.",
            s->betas, s->timesteps - 1);
    else if (s->t[0] < s->timesteps - 1)
        findings_note(
            f,
            "%s: sampling begins at %g, not at %d: noise made for %d is %.1f dB weaker in the clip than "
            "what is expected there.",
            s->betas, s->t[0], s->timesteps - 1, s->timesteps - 1, first - last);
}

static int study_one(Analysis *a, const char *betas, gimbal_error *err)
{
    const gimbal_settings *set = &a->flags.s;
    gimbal_schedule *s;
    TRY(gimbal_schedule_of(&s, a->engine, betas, set->spacing, set->sampler, set->steps, err));
    const int last = s->timesteps - 1;
    Findings *f = &a->found;
    find_row(f, s, "last", last, s->alpha_bar[last]);
    find_row(f, s, "first sampled", s->t[0], s->t_alpha_bar[0]);
    if (last > FRAMEINIT_LEVEL)
        find_row(f, s, "FrameInit's", FRAMEINIT_LEVEL, s->alpha_bar[FRAMEINIT_LEVEL]);
    if (!f->lines)
        f->axes = (Axes){.title = "what is left of the clip",
                         .x_label = "timestep",
                         .y_label = "signal to noise, dB",
                         .mark = s->t[0],
                         .mark_text = "first sampled"};
    find_curve(f, s);
    find_notes(f, s);
    free(s);
    return GIMBAL_OK;
}

static int run(Analysis *a, gimbal_error *err)
{
    if (a->flags.model)
        TRY(analysis_open(a, err));
    findings_row(&a->found, "betas\tspacing\tsteps\twhere\tt\tsqrt(abar)\tSNR dB\tsigma");
    if (a->engine || a->flags.s.betas)
        return study_one(a, args_has(a->args, "betas") ? a->flags.s.betas : NULL, err);
    TRY(study_one(a, "linear", err));
    return study_one(a, "scaled_linear", err);
}

const Study study_leak = {
    .name = "leak",
    .help = "what a schedule leaves of the clip where sampling begins",
    .shows = "What the schedule leaves of a clip at the timesteps where sampling begins (FreeInit, Wu et al. "
             "2024, "
             "section 3.1)",
    .flags = {"model", "motion", "no-mmap", "betas", "spacing", "steps", "sampler"},
    .run = run,
};
