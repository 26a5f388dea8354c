/* analyze_snr.c: gimbal analyze snr: how much of a clip is left in its noise, band by band (FreeInit, Wu et
 * al., ECCV 2024, section 3.2, figure 3).
 *
 *     SNR_b(t) = abar(t) P_b / (1 - abar(t))       P_b: mean |X0|^2 / (F h w) over the bins of band b
 *
 * in its population form: white noise has power 1 in every bin, so that no draw is needed. X0 is the spectrum
 * of the clip's latents through a model's encoder (posterior means), or without a model of its luma at 64x64,
 * standardised. Refuses to know how schedules are made. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 64, FRAMES = 16, CURVE = 50, MOST_SCHEDULES = 3 };

/* Of one clip. */
typedef struct {
    double power[BANDS], all; /* 1: as strong as unit noise */
    gimbal_shape shape;
} Powers;

typedef struct {
    gimbal_schedule *schedule[MOST_SCHEDULES];
    int schedules;
} Schedules;

/* ---- the clips' powers ------------------------------------------------------------------- */

static int measure(const float *x, gimbal_shape shape, Powers *out, gimbal_error *err)
{
    gimbal_band band[BANDS], all;
    TRY(gimbal_bands(x, NULL, shape, band_edges, BANDS, 1, band, err));
    TRY(gimbal_bands(x, NULL, shape, NULL, 1, 1, &all, err));
    for (int i = 0; i < BANDS; i++)
        out->power[i] = band[i].power;
    out->all = all.power;
    out->shape = shape;
    return GIMBAL_OK;
}

static int measure_luma(Analysis *a, const char *path, Powers *out, gimbal_error *err)
{
    float *luma = NULL;
    int frames;
    TRY(clip_luma(path, a->flags.s.frames ? a->flags.s.frames : FRAMES, SIDE, &luma, &frames, err));
    const int code = measure(luma, (gimbal_shape){1, frames, SIDE, SIDE}, out, err);
    free(luma);
    return code;
}

static int measure_latents(Analysis *a, const char *path, Powers *out, gimbal_error *err)
{
    const gimbal_settings *s = &a->flags.s;
    gimbal_shape shape;
    uint8_t *rgb = NULL;
    int frames;
    TRY(clip_pictures(path, s->frames, s->width, s->height, a->flags.quiet, &rgb, &frames, err));
    int code = analysis_shape(a, frames, &shape, err);
    float *latents = code ? NULL : calloc(clip_values(shape), sizeof *latents);
    if (!code)
        code = latents ? gimbal_encode(a->session, rgb, s->width, s->height, frames, 0, latents, err)
                       : fail_memory(err);
    progress_clear(&a->progress);
    if (!code)
        code = measure(latents, shape, out, err);
    free(latents);
    free(rgb);
    return code;
}

static int begin(Analysis *a, gimbal_error *err)
{
    gimbal_shape ignored;
    TRY(analysis_open(a, err));
    if (!args_has(a->args, "frames"))
        a->flags.s.frames = FRAMES;
    TRY(analysis_begin_small(a, err));
    return analysis_shape(a, 1, &ignored, err); /* sizes that cannot be are refused before clips are read */
}

/* ---- schedules --------------------------------------------------------------------------- */

/* The model's own first, then the two common ones; or the one that --betas names. */
static int find_schedules(Analysis *a, Schedules *out, gimbal_error *err)
{
    const gimbal_settings *s = &a->flags.s;
    const bool asked = args_has(a->args, "betas");
    const char *const names[] = {asked ? s->betas : NULL, "linear", "scaled_linear"};
    for (int i = asked || a->engine ? 0 : 1; i < (asked ? 1 : 3); i++) {
        gimbal_schedule *one;
        TRY(gimbal_schedule_of(&one, a->engine, names[i], s->spacing, s->sampler, s->steps, err));
        if (out->schedules && !strcmp(out->schedule[0]->betas, one->betas))
            free(one);
        else
            out->schedule[out->schedules++] = one;
    }
    return GIMBAL_OK;
}

static void free_schedules(Schedules *s)
{
    for (int i = 0; i < s->schedules; i++)
        free(s->schedule[i]);
}

static double decibels(double alpha_bar, double power)
{
    return 10 * log10(alpha_bar / (1 - alpha_bar) * power);
}

/* ---- findings ---------------------------------------------------------------------------- */

static void find_row(Analysis *a, const char *clip, const Powers *p, const char *betas, double t,
                     double alpha_bar)
{
    char text[BANDS + 1][32];
    json_t *bands = json_array();
    for (int i = 0; i < BANDS; i++) {
        const double db = decibels(alpha_bar, p->power[i]);
        snprintf(text[i], sizeof text[i], "%s", number_text(db, "%+.1f", (char[32]){0}));
        json_array_append_new(bands, number_json(db));
    }
    const double all = decibels(alpha_bar, p->all);
    findings_row(&a->found, "%s\t%s\t%g\t%s\t%s\t%s\t%s\t%s\t%s\t%s", clip, betas, t, text[0], text[1],
                 text[2], text[3], text[4], text[5], number_text(all, "%+.1f", text[BANDS]));
    findings_object(&a->found,
                    json_pack("{s:o, s:s, s:f, s:f, s:o, s:o, s:[i,i,i,i]}", "clip", json_text(clip), "betas",
                              betas, "t", t, "alpha_bar", alpha_bar, "snr_db", bands, "all_db",
                              number_json(all), "shape", p->shape.c, p->shape.f, p->shape.h, p->shape.w));
}

/* The last timestep, and the first that a run samples. */
static void find_rows(Analysis *a, const char *clip, const Powers *p, const Schedules *list)
{
    for (int i = 0; i < list->schedules; i++) {
        const gimbal_schedule *s = list->schedule[i];
        const int last = s->timesteps - 1;
        find_row(a, clip, p, s->betas, last, s->alpha_bar[last]);
        if (s->t[0] < last)
            find_row(a, clip, p, s->betas, s->t[0], s->t_alpha_bar[0]);
    }
}

/* Mean over the clips, in dB, against t. */
static void find_curves(Analysis *a, const Powers *p, const gimbal_schedule *s)
{
    double t[CURVE], db[CURVE];
    a->found.axes = (Axes){.title = "signal to noise of each band",
                           .x_label = "timestep",
                           .y_label = "dB",
                           .mark = s->t[0],
                           .mark_text = "first sampled"};
    for (int band = 0; band < BANDS; band++) {
        for (int i = 0; i < CURVE; i++) {
            const int at = (int)((double)i * (s->timesteps - 1) / (CURVE - 1));
            t[i] = at, db[i] = 0;
            for (int k = 0; k < a->n_clips; k++)
                db[i] += decibels(s->alpha_bar[at], p[k].power[band]) / a->n_clips;
            db[i] = isfinite(db[i]) ? db[i] : NAN;
        }
        findings_line(&a->found, band_names[band], t, db, CURVE);
    }
}

static void find_notes(Analysis *a, const Powers *p, const gimbal_schedule *s)
{
    const double last = s->alpha_bar[s->timesteps - 1];
    int above = 0;
    for (int k = 0; k < a->n_clips; k++)
        above += decibels(last, p[k].power[0]) > 0;
    findings_note(&a->found, "The lowest band is above 0 dB at the last timestep (%s) in %d of %d clip%s.",
                  s->betas, above, a->n_clips, a->n_clips > 1 ? "s" : "");
    findings_note(&a->found, "Bands in FreeInit's radius with ds = dt, 1 = Nyquist; %s.",
                  a->engine ? "latents of the model's encoder, times its scaling factor"
                            : "luma of 64x64, mean 0 and variance 1 over the clip");
}

static int study(Analysis *a, Powers *p, Schedules *list, gimbal_error *err)
{
    findings_row(&a->found, "clip\tbetas\tt\t%s\t%s\t%s\t%s\t%s\t%s\tall", band_names[0], band_names[1],
                 band_names[2], band_names[3], band_names[4], band_names[5]);
    TRY(find_schedules(a, list, err));
    for (int k = 0; k < a->n_clips; k++) {
        TRY(check_signals(err));
        TRY((a->engine ? measure_latents : measure_luma)(a, a->clips[k], &p[k], err));
        find_rows(a, a->clips[k], &p[k], list);
    }
    find_curves(a, p, list->schedule[0]);
    find_notes(a, p, list->schedule[0]);
    return GIMBAL_OK;
}

static int run(Analysis *a, gimbal_error *err)
{
    Schedules list = {.schedules = 0};
    if (a->flags.model)
        TRY(begin(a, err));
    else if (args_has(a->args, "width") || args_has(a->args, "height"))
        return complain(err, GIMBAL_EUSAGE, "add --model DIR", "without a model luma of 64x64 is studied");
    Powers *p = calloc((size_t)a->n_clips, sizeof *p);
    const int code = p ? study(a, p, &list, err) : fail_memory(err);
    free_schedules(&list);
    free(p);
    return code;
}

const Study study_snr = {
    .name = "snr",
    .help = "how much of a clip is left in its noise, band by band",
    .shows = "Signal to noise in dB of each spatio-temporal band of clips diffused to t (FreeInit, Wu et al. "
             "2024, "
             "section 3.2)",
    .flags = {"model", "motion", "no-mmap", "frames", "width", "height", "betas", "spacing", "steps",
              "sampler", "threads"},
    .least_clips = 1,
    .most_clips = 4096,
    .run = run,
};
