/* analyze_filters.c: gimbal analyze filters: the four low-pass filters of FreeInit (Wu et al., ECCV 2024,
 * section 4.2 and supplement C) as its code has them and corrected.
 *
 *     mix = Re F^-1( F(low) m + F(high) g ),   g = 1 - m (FreeInit) or sqrt(1 - m^2) (FreqPrior, Yuan et al.
 * 2025)
 *
 * Of two white clips the mix has the variance mean(m'^2 + g'^2), where m'(k) = (m(k) + m(-k)) / 2 is all that
 * the real part lets through of a mask that is not symmetric; measured beside it on drawn clips. Refuses to
 * know how masks are made. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"butterworth", "gaussian", "ideal", "box"};
enum { KINDS = sizeof kinds / sizeof *kinds, FRAMES = 16, SIDE = 64, FACTOR = 8, MOST_VALUES = 1 << 26 };

/* What is known of a mask. */
typedef struct {
    double mean, square, dc, asymmetry; /* asymmetry: the largest |m(k) - m(-k)| */
    double predicted[2], measured[2];   /* variance of a mix: of 1 - m, of sqrt(1 - m^2) */
} Mask;

typedef struct {
    gimbal_shape shape;        /* one channel */
    float *mask, *x, *y, *mix; /* [F,h,w] */
} Room;

/* ---- sizes ------------------------------------------------------------------------------- */

/* "16x64x64" */
static int read_latents(const char *text, gimbal_shape *out, gimbal_error *err)
{
    int at = 0;
    const bool read = sscanf(text, "%5dx%5dx%5d%n", &out->f, &out->h, &out->w, &at) == 3 && !text[at];
    if (!read || strspn(text, "0123456789x") != strlen(text) || out->f < 1 || out->h < 1 || out->w < 1)
        return complain(err, GIMBAL_EUSAGE, "--latents 16x64x64",
                        "--latents is %.40s, expected FxHxW, each at least 1", text);
    return GIMBAL_OK;
}

static int find_shape(const Analysis *a, gimbal_shape *out, gimbal_error *err)
{
    const gimbal_settings *s = &a->flags.s;
    *out = (gimbal_shape){1, s->frames ? s->frames : FRAMES, s->height ? s->height / FACTOR : SIDE,
                          s->width ? s->width / FACTOR : SIDE};
    if (s->width % FACTOR || s->height % FACTOR)
        return complain(err, GIMBAL_EUSAGE, "or give --latents FxHxW",
                        "--width %d --height %d: expected multiples of %d", s->width, s->height, FACTOR);
    if (a->flags.latents && (s->frames || s->width || s->height))
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "--latents stands instead of --frames, --width and --height");
    if (a->flags.latents)
        TRY(read_latents(a->flags.latents, out, err));
    if ((double)out->f * out->h * out->w > MOST_VALUES)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "a clip of %d frames of %dx%d latents, expected at most %d values", out->f, out->h,
                        out->w, MOST_VALUES);
    return GIMBAL_OK;
}

/* ---- one mask ---------------------------------------------------------------------------- */

static double other(double m, int power)
{
    return power ? sqrt(fmax(0, 1 - m * m)) : 1 - m;
}

static void describe(const Room *r, Mask *out)
{
    const gimbal_shape s = r->shape;
    const double n = (double)clip_values(s);
    *out = (Mask){.dc = r->mask[0]};
    for (int t = 0; t < s.f; t++)
        for (int y = 0; y < s.h; y++)
            for (int x = 0; x < s.w; x++) {
                const int mt = (s.f - t) % s.f, my = (s.h - y) % s.h, mx = (s.w - x) % s.w;
                const double m = r->mask[((size_t)t * s.h + y) * s.w + x];
                const double mirror = r->mask[((size_t)mt * s.h + my) * s.w + mx];
                out->mean += m / n, out->square += m * m / n;
                out->asymmetry = fmax(out->asymmetry, fabs(m - mirror));
                for (int power = 0; power < 2; power++) {
                    const double low = (m + mirror) / 2, high = (other(m, power) + other(mirror, power)) / 2;
                    out->predicted[power] += (low * low + high * high) / n;
                }
            }
}

/* Mean square over the draws of mixes of white clips. */
static int measure(const Analysis *a, Room *r, Mask *out, gimbal_error *err)
{
    const size_t n = clip_values(r->shape);
    for (int draw = 0; draw < a->flags.draws; draw++) {
        const uint64_t seed = a->flags.s.seed + 2 * (uint64_t)draw;
        TRY(gimbal_noise("white", "philox", seed, 0, r->shape, r->x, err));
        TRY(gimbal_noise("white", "philox", seed + 1, 0, r->shape, r->y, err));
        for (int power = 0; power < 2; power++) {
            TRY(gimbal_mix(r->x, r->y, r->mask, power, r->shape, r->mix, err));
            for (size_t i = 0; i < n; i++)
                out->measured[power] += (double)r->mix[i] * r->mix[i] / (double)n / a->flags.draws;
        }
        TRY(check_signals(err));
    }
    return GIMBAL_OK;
}

static void find_mask(Findings *f, const char *kind, const char *form, const Mask *m)
{
    findings_row(f, "%s\t%s\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f", kind, form, 100 * m->mean,
                 100 * m->square, m->dc, m->asymmetry, m->predicted[0], m->measured[0], m->predicted[1],
                 m->measured[1]);
    findings_object(f, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:{s:f, s:f}, s:{s:f, s:f}}", "filter", kind,
                                 "form", form, "mean", m->mean, "mean_square", m->square, "dc", m->dc,
                                 "asymmetry", m->asymmetry, "variance_1_minus_m", "predicted",
                                 m->predicted[0], "measured", m->measured[0], "variance_power", "predicted",
                                 m->predicted[1], "measured", m->measured[1]));
}

/* Gain along x, the other two frequencies 0. */
static int find_curve(Findings *f, const char *kind, const char *form, const Room *r, gimbal_error *err)
{
    char name[40];
    const int n = r->shape.w / 2 + 1;
    double *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    for (int i = 0; i < n && x && y; i++)
        x[i] = i / (r->shape.w / 2.0), y[i] = r->mask[i % r->shape.w];
    snprintf(name, sizeof name, "%s, %s", kind, form);
    if (x && y)
        findings_line(f, name, x, y, n);
    const int code = x && y ? GIMBAL_OK : fail_memory(err);
    free(x);
    free(y);
    return code;
}

static int study_mask(Analysis *a, Room *r, const char *kind, int published, gimbal_error *err)
{
    char spec[160];
    const char *form = published ? "as published" : "corrected";
    Mask mask;
    snprintf(spec, sizeof spec, "freeinit:filter=%s,order=%d,ds=%.17g,dt=%.17g,compat=%d", kind,
             a->flags.order, a->flags.ds, a->flags.dt, published);
    TRY(gimbal_mask(spec, r->shape, r->mask, err));
    describe(r, &mask);
    TRY(measure(a, r, &mask, err));
    find_mask(&a->found, kind, form, &mask);
    return find_curve(&a->found, kind, form, r, err);
}

static int study(Analysis *a, Room *r, gimbal_error *err)
{
    Findings *f = &a->found;
    const gimbal_shape s = r->shape;
    f->axes = (Axes){.title = "gain along one axis of space",
                     .x_label = "frequency, 1 = Nyquist",
                     .y_label = "gain",
                     .mark = a->flags.ds,
                     .mark_text = "ds"};
    findings_row(f,
                 "filter\tform\tkept %%\tkept^2 %%\tDC\tasymmetry\tvar 1-m\tdrawn\tvar sqrt(1-m^2)\tdrawn");
    findings_key(f, "shape", json_pack("[i,i,i]", s.f, s.h, s.w));
    for (int k = 0; k < KINDS; k++)
        for (int published = 1; published >= 0; published--)
            TRY(study_mask(a, r, kinds[k], published, err));
    findings_note(
        f,
        "%dx%dx%d latents, ds %g, dt %g, order %d. kept: mean of the mask m and of m^2; asymmetry: largest "
        "|m(k) - m(-k)|.",
        s.f, s.h, s.w, a->flags.ds, a->flags.dt, a->flags.order);
    findings_note(f,
                  "var: variance of a mix of two white clips, expected, and drawn %d times (deviation %.1g).",
                  a->flags.draws, sqrt(2.0 / (double)clip_values(s) / a->flags.draws));
    return GIMBAL_OK;
}

static int run(Analysis *a, gimbal_error *err)
{
    Room r = {.mask = NULL};
    TRY(find_shape(a, &r.shape, err));
    const size_t n = clip_values(r.shape);
    float *all = calloc(4 * n, sizeof *all);
    if (!all)
        return fail_memory(err);
    r.mask = all, r.x = all + n, r.y = all + 2 * n, r.mix = all + 3 * n;
    const int code = study(a, &r, err);
    free(all);
    return code;
}

const Study study_filters = {
    .name = "filters",
    .help = "the four low-pass filters, as published and corrected",
    .shows = "FreeInit's low-pass filters as published and corrected (FreeInit, Wu et al. 2024, section 4.2, "
             "supplement C)",
    .flags = {"frames", "width", "height", "latents", "ds", "dt", "order", "draws", "seed"},
    .run = run,
};
