/* analyze_realnoise.c: gimbal analyze realnoise: does the low band of a diffused clip carry its layout?
 * (FreeInit, Wu et al., ECCV 2024, section 3.2: keep the lowest fifth of the frequencies, randomise the
 * rest.)
 *
 *     z_t   = a(t) z0 + s(t) eps         z0: CLIP through the encoder, t: the first sampled timestep
 *     start = mix(z_t, fresh)            the clip's low band: made into one clip
 *     start = mix(eps, fresh)            the control: the same but for a(t) z0, made into another
 *
 * mix keeps the first one's band under the mask of --reinit. Both share eps, fresh and prompt, so that what
 * the first has more of CLIP came through its low band; --draws repeats that with other noise. Compared in
 * the mask's band of the latents, each channel's mean removed (layout, not colour), in each radial band, and
 * as pictures. Refuses to know masks and schedules. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A fifth of the frequencies: the sphere of radius .725 fills 20 % of the cube. */
static const char default_mask[] = "freeinit:filter=ideal,ds=0.725,dt=0.725";

typedef struct {
    gimbal_settings s; /* of the run: no re-initialiser, `start` as its latents */
    const char *mask_spec;
    uint8_t *rgb; /* CLIP [F][H][W][3] */
    gimbal_shape shape;
    int power;
    float *start, *z0, *eps, *fresh, *result, *mask; /* [C,F,h,w] each, mask [F,h,w] */
    double t, alpha_bar, scale;                      /* scale: what the sampler multiplies its start by */
} Work;

/* How like CLIP something is. */
typedef struct {
    double kept;         /* correlation in the mask's band, means removed */
    double band[BANDS];  /* correlation in each radial band */
    double pixels, psnr; /* correlation and dB of the pictures */
} Likeness;
enum { VALUES = sizeof(Likeness) / sizeof(double) };

/* Means over the draws, and of the difference of `kept` its mean and mean square. */
typedef struct {
    Likeness real, control;
    double more, more_square;
} Means;

/* ---- pictures ---------------------------------------------------------------------------- */

/* Sums over all values of the pictures as they are decoded, and where they go. */
typedef struct {
    const Work *work;
    Output *out; /* or NULL */
    double n, x, y, xx, yy, xy, dd;
    gimbal_error *err;
    int code;
} Pictures;

static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Pictures *p = user;
    const size_t size = 3 * (size_t)width * (size_t)height;
    const uint8_t *real = p->work->rgb + (size_t)i * size;
    for (size_t k = 0; k < size; k++) {
        const double x = real[k], y = rgb[k];
        p->n += 1, p->x += x, p->y += y, p->xx += x * x, p->yy += y * y, p->xy += x * y;
        p->dd += (x - y) * (x - y);
    }
    if (p->out)
        p->code = output_put(p->out, rgb, p->err);
    return p->code || signals_seen();
}

/* Decodes latents, compares them with CLIP, and writes them where out is given. */
static int compare_pictures(Analysis *a, const Work *w, const float *latents, const char *path,
                            Likeness *like, gimbal_error *err)
{
    Output out;
    Pictures p = {.work = w, .err = err};
    if (path) {
        TRY(output_open(&out, path, w->s.width, w->s.height, w->shape.f, a->flags.fps, NULL, err));
        p.out = &out;
    }
    int code = gimbal_decode(a->session, latents, w->shape, on_frame, &p, err);
    code = p.code ? p.code : code;
    progress_clear(&a->progress);
    if (path) {
        code = code ? code : output_close(&out, err);
        output_drop(&out);
    }
    const double n = p.n, deviations = sqrt((p.xx - p.x * p.x / n) * (p.yy - p.y * p.y / n));
    like->pixels = deviations > 0 ? (p.xy - p.x * p.y / n) / deviations : NAN;
    like->psnr = 10 * log10(255.0 * 255.0 * n / p.dd);
    return code;
}

/* ---- latents ----------------------------------------------------------------------------- */

static void remove_means(float *x, gimbal_shape s)
{
    const size_t plane = (size_t)s.f * (size_t)s.h * (size_t)s.w;
    for (int c = 0; c < s.c; c++, x += plane) {
        double mean = 0;
        for (size_t i = 0; i < plane; i++)
            mean += x[i] / (double)plane;
        for (size_t i = 0; i < plane; i++)
            x[i] -= (float)mean;
    }
}

/* Correlation of x and z0 in the mask's band: both through the mask, against nothing. */
static int compare_kept(const Work *w, const float *x, double *out, gimbal_error *err)
{
    const size_t n = clip_values(w->shape);
    float *all = calloc(3 * n, sizeof *all), *one = all, *two = all + n, *nothing = all + 2 * n;
    if (!all)
        return fail_memory(err);
    gimbal_band whole;
    int code = gimbal_mix(x, nothing, w->mask, 0, w->shape, one, err);
    code = code ? code : gimbal_mix(w->z0, nothing, w->mask, 0, w->shape, two, err);
    remove_means(one, w->shape);
    remove_means(two, w->shape);
    code = code ? code : gimbal_bands(one, two, w->shape, NULL, 1, 1, &whole, err);
    free(all);
    *out = code ? NAN : whole.correlation;
    return code;
}

static int compare(Analysis *a, const Work *w, const float *latents, const char *path, Likeness *out,
                   gimbal_error *err)
{
    gimbal_band band[BANDS];
    TRY(compare_kept(w, latents, &out->kept, err));
    TRY(gimbal_bands(latents, w->z0, w->shape, band_edges, BANDS, 1, band, err));
    for (int i = 0; i < BANDS; i++)
        out->band[i] = band[i].correlation;
    return compare_pictures(a, w, latents, path, out, err);
}

/* ---- findings ---------------------------------------------------------------------------- */

static void find_row(Findings *f, const char *start, const Likeness *l)
{
    char text[BANDS + 3][32];
    json_t *bands = json_array();
    double x[BANDS], y[BANDS];
    int n = 0;
    for (int i = 0; i < BANDS; i++) {
        const double value = l->band[i];
        snprintf(text[i], sizeof text[i], "%s", number_text(value, "%.3f", (char[32]){0}));
        json_array_append_new(bands, number_json(value));
        if (isfinite(value))
            x[n] = i + 1, y[n++] = value;
    }
    findings_row(f, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", start,
                 number_text(l->kept, "%.3f", text[BANDS]), text[0], text[1], text[2], text[3], text[4],
                 text[5], number_text(l->pixels, "%.3f", text[BANDS + 1]),
                 number_text(l->psnr, "%.2f", text[BANDS + 2]));
    findings_object(f, json_pack("{s:s, s:o, s:o, s:o, s:o}", "start", start, "kept_band",
                                 number_json(l->kept), "bands", bands, "pixels", number_json(l->pixels),
                                 "psnr", number_json(l->psnr)));
    findings_line(f, start, x, y, n);
}

static void find_notes(Analysis *a, const Work *w, const Means *m, int draws)
{
    Findings *f = &a->found;
    double kept = 0;
    char text[32], deviation[64] = "";
    const size_t n = clip_values(w->shape) / (size_t)w->shape.c;
    const double error = draws > 1 ? sqrt(fmax(0, m->more_square - m->more * m->more) / (draws - 1)) : NAN;
    for (size_t i = 0; i < n; i++)
        kept += (double)w->mask[i] / (double)n;
    findings_key(f, "t", json_real(w->t));
    findings_key(f, "alpha_bar", json_real(w->alpha_bar));
    findings_key(f, "mask", json_text(w->mask_spec));
    findings_key(f, "mask_mean", json_real(kept));
    findings_key(f, "draws", json_integer(draws));
    findings_key(f, "kept_difference", number_json(m->more));
    findings_key(f, "kept_difference_error", number_json(error));
    findings_note(
        f, "Likeness to %s, diffused to t = %g (%s dB), seed %llu; %s keeps %.1f %% of the frequencies.",
        a->clips[0], w->t, number_text(10 * log10(w->alpha_bar / (1 - w->alpha_bar)), "%.1f", text),
        (unsigned long long)a->flags.s.seed, w->mask_spec, 100 * kept);
    if (draws > 1)
        snprintf(deviation, sizeof deviation, " (standard error %.3f over %d draws)", error, draws);
    findings_note(
        f, "In the kept band the correlation is %+.3f above the control's%s; the pictures' PSNR %+.2f dB.%s",
        m->more, deviation, m->real.psnr - m->control.psnr,
        draws > 1 ? "" : " One draw proves little: --draws makes more.");
    findings_note(
        f, "kept: correlation of the latents in the mask's band, each channel's mean removed; bands: with "
           "the mean; pixels: of the pictures.");
}

/* ---- the clips' names -------------------------------------------------------------------- */

/* -o folder -> folder/low-band.mp4; -o a.webm -> a-low-band.webm; -o a -> a-low-band.mp4. NULL: no memory. */
static char *clip_path(const char *output, const char *name)
{
    struct stat st;
    char *out;
    const char *slash = strrchr(output, '/'), *dot = strrchr(slash ? slash : output, '.');
    const bool folder = !stat(output, &st) && S_ISDIR(st.st_mode);
    const int stem = dot && !folder ? (int)(dot - output) : (int)strlen(output);
    const int n = folder ? asprintf(&out, "%s/%s.mp4", output, name)
                         : asprintf(&out, "%.*s-%s%s", stem, output, name, dot ? dot : ".mp4");
    return n < 0 ? NULL : out;
}

static int find_paths(const Analysis *a, char *path[2], gimbal_error *err)
{
    static const char *const names[] = {"low-band", "control"};
    for (int i = 0; a->flags.output && i < 2; i++) {
        path[i] = clip_path(a->flags.output, names[i]);
        if (!path[i])
            return fail_memory(err);
        TRY(output_check(path[i], a->flags.fps, err));
    }
    return GIMBAL_OK;
}

/* ---- the work ---------------------------------------------------------------------------- */

static int take_room(Work *w, gimbal_error *err)
{
    const size_t n = clip_values(w->shape);
    float **const array[] = {&w->start, &w->z0, &w->eps, &w->fresh, &w->result, &w->mask};
    for (size_t i = 0; i < sizeof array / sizeof *array; i++) {
        *array[i] = calloc(n, sizeof(float));
        if (!*array[i])
            return fail_memory(err);
    }
    return GIMBAL_OK;
}

/* The clip's own length, up to what was asked or is the model's default. */
static int read_input(Analysis *a, Work *w, gimbal_error *err)
{
    gimbal_settings *s = &a->flags.s;
    TRY(clip_pictures(a->clips[0], s->frames, s->width, s->height, a->flags.quiet, &w->rgb, &s->frames, err));
    w->mask_spec = args_has(a->args, "reinit") ? s->reinit : default_mask;
    w->s = *s;
    w->s.reinit = "none";
    return check_signals(err);
}

/* The run's start is borrowed by its session, so that its shape must be known before. */
static int begin(Analysis *a, Work *w, gimbal_error *err)
{
    gimbal_shape one;
    TRY(analysis_begin_small(a, err));
    TRY(analysis_shape(a, 1, &one, err));
    TRY(read_input(a, w, err));
    TRY(analysis_shape(a, w->s.frames, &w->shape, err));
    analysis_end(a);
    TRY(take_room(w, err));
    w->s.latents = w->start;
    return analysis_begin(a, &w->s, err);
}

static int find_start(Analysis *a, Work *w, gimbal_error *err)
{
    gimbal_schedule *schedule;
    const gimbal_settings *s = &w->s;
    TRY(gimbal_schedule_of(&schedule, a->engine, s->betas, s->spacing, s->sampler, s->steps, err));
    w->t = schedule->t[0], w->alpha_bar = schedule->t_alpha_bar[0], w->scale = schedule->start;
    free(schedule);
    TRY(gimbal_mask(w->mask_spec, w->shape, w->mask, err));
    return gimbal_mask_power(w->mask_spec, &w->power, err);
}

/* low [C,F,h,w]: what gives the low band. The sampler multiplies what it is given. */
static int make(Analysis *a, Work *w, const float *low, const char *path, Likeness *out, gimbal_error *err)
{
    const size_t n = clip_values(w->shape);
    TRY(gimbal_mix(low, w->fresh, w->mask, w->power, w->shape, w->start, err));
    for (size_t i = 0; i < n; i++)
        w->start[i] /= (float)w->scale;
    TRY(analysis_sample(a, w->result, err));
    return compare(a, w, w->result, path, out, err);
}

/* One pair of clips: w->result is room for what the low band is taken from, until the run overwrites it. */
static int draw(Analysis *a, Work *w, int number, char *const path[2], Means *sum, gimbal_error *err)
{
    Likeness real, control;
    const uint64_t seed = a->flags.s.seed + 2 * (uint64_t)number;
    const float signal = (float)sqrt(w->alpha_bar), noise = (float)sqrt(1 - w->alpha_bar);
    TRY(gimbal_noise(w->s.noise, w->s.rng, seed, 0, w->shape, w->eps, err));
    TRY(gimbal_noise(w->s.noise, w->s.rng, seed + 1, 0, w->shape, w->fresh, err));
    for (size_t i = 0; i < clip_values(w->shape); i++)
        w->result[i] = signal * w->z0[i] + noise * w->eps[i];
    TRY(make(a, w, w->result, number ? NULL : path[0], &real, err));
    TRY(make(a, w, w->eps, number ? NULL : path[1], &control, err));
    const double more = real.kept - control.kept;
    sum->more += more, sum->more_square += more * more;
    for (int i = 0; i < VALUES; i++) {
        ((double *)&sum->real)[i] += ((const double *)&real)[i];
        ((double *)&sum->control)[i] += ((const double *)&control)[i];
    }
    return GIMBAL_OK;
}

static int study(Analysis *a, Work *w, char *const path[2], gimbal_error *err)
{
    Likeness vae;
    Means mean = {.more = 0};
    const int draws = args_has(a->args, "draws") ? a->flags.draws : 1;
    TRY(gimbal_encode(a->session, w->rgb, w->s.width, w->s.height, w->shape.f, 0, w->z0, err));
    progress_clear(&a->progress);
    TRY(compare(a, w, w->z0, NULL, &vae, err));
    for (int i = 0; i < draws; i++)
        TRY(draw(a, w, i, path, &mean, err));
    for (size_t i = 0; i < sizeof mean / sizeof(double); i++)
        ((double *)&mean)[i] /= draws;
    a->found.axes = (Axes){.title = "correlation with the clip's latents",
                           .x_label = "band, from low to high",
                           .y_label = "correlation",
                           .points = true,
                           .mark = NAN};
    findings_row(&a->found, "start\tkept\t%s\t%s\t%s\t%s\t%s\t%s\tpixels\tPSNR dB", band_names[0],
                 band_names[1], band_names[2], band_names[3], band_names[4], band_names[5]);
    find_row(&a->found, "the clip's low band", &mean.real);
    find_row(&a->found, "noise alone (control)", &mean.control);
    find_row(&a->found, "the clip itself, through the VAE", &vae);
    find_notes(a, w, &mean, draws);
    return GIMBAL_OK;
}

static int prepare(Analysis *a, Work *w, char *path[2], gimbal_error *err)
{
    if (!a->flags.s.prompt)
        return complain(err, GIMBAL_EUSAGE, "--prompt \"a large red circle moving right\"",
                        "--prompt is missing");
    TRY(find_paths(a, path, err));
    TRY(analysis_open(a, err));
    TRY(begin(a, w, err));
    for (int i = 0; i < 2 && path[i]; i++)
        TRY(output_fits(path[i], w->s.width, w->s.height, w->s.frames, a->flags.fps, err));
    return find_start(a, w, err);
}

static int run(Analysis *a, gimbal_error *err)
{
    Work w = {.power = 0};
    char *path[2] = {NULL, NULL};
    int code = prepare(a, &w, path, err);
    if (!code)
        code = study(a, &w, path, err);
    float *const arrays[] = {w.start, w.z0, w.eps, w.fresh, w.result, w.mask};
    analysis_end(a); /* its session borrows w.start */
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    free(path[0]);
    free(path[1]);
    free(w.rgb);
    return code;
}

const Study study_realnoise = {
    .name = "realnoise",
    .help = "does the low band of a diffused clip carry its layout?",
    .shows = "A clip made from the low band of a diffused clip, and one from noise alone under the same high "
             "band: "
             "which is like the clip? (FreeInit, Wu et al. 2024, section 3.2)",
    .flags = {"model", "motion", "no-mmap", "fps", "draws"},
    .settings = true,
    .makes_clips = true,
    .least_clips = 1,
    .most_clips = 1,
    .run = run,
};
