/* reinit_only.c: FreeInit for an engine that has its own network and sampler: arrays in, array out, no model.
 *
 *     reinit_only [LATENTS.safetensors [OUT.safetensors]]
 *
 * LATENTS: tensor "latents" [1,C,F,h,w], the clean clip that a first sampling ended with; without a file a
 * small clip is made. OUT: tensor "latents", the noise that the second sampling starts from. Printed: the
 * energy of each array in the low and the high band, and how much the low band looks like the clip's.
 *
 * For engine authors. Sample once from noise eps0 and keep eps0. Between two samplings:
 *
 *     1. z = a(t) x0 + s(t) eps0        x0: the result; t: the FIRST timestep that the next sampling visits;
 *                                       a^2 = alphas_cumprod[t], s^2 = 1 - a^2
 *     2. gimbal_noise(...)              fresh noise; another seed, or your own generator
 *     3. gimbal_mask(...), once         depends on the shape alone
 *     4. gimbal_mix(z, fresh, mask, 1)  low band of z, high band of fresh, variance kept
 *
 * and sample again from what comes out. All of it is in unit-noise form. A sampler that counts in sigma
 * (k-diffusion's x = x0 + sigma eps) divides the start by a, which is to multiply it by sqrt(1 + sigma^2).
 * An engine with a batch calls this clip by clip; one that stores [F,C,h,w] transposes.
 * Build:
 *
 *     cc reinit_only.c $(pkg-config --cflags --libs gimbal) -lm
 */
#include "gimbal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const spec = "freeinit:filter=butterworth,ds=0.25,dt=0.25";

/* All arrays [C,F,h,w], mask [F,h,w]; one block of memory. */
typedef struct {
    gimbal_shape shape;
    size_t n;
    float *x0, *eps0, *z, *fresh, *start, *zero, *band, *clip_band, *mask;
} Arrays;

static int take_memory(Arrays *a, gimbal_shape shape)
{
    a->shape = shape;
    a->n = (size_t)shape.c * shape.f * shape.h * shape.w;
    float *p = calloc(9 * a->n, sizeof *p);
    float **const array[] = {&a->x0,   &a->eps0, &a->z,         &a->fresh, &a->start,
                             &a->zero, &a->band, &a->clip_band, &a->mask};
    for (size_t i = 0; p && i < sizeof array / sizeof *array; i++)
        *array[i] = p + i * a->n;
    return p ? GIMBAL_OK : GIMBAL_ENOMEM;
}

/* A soft spot that moves to the right, another sign in each channel: what a result could look like. */
static void make_clip(Arrays *a)
{
    const gimbal_shape s = a->shape;
    float *x = a->x0;
    for (int c = 0; c < s.c; c++)
        for (int f = 0; f < s.f; f++)
            for (int i = 0; i < s.h * s.w; i++) {
                const double dx = i % s.w - s.w * (0.3 + 0.4 * f / s.f), dy = i / s.w - s.h / 2.0;
                *x++ = (float)((c % 2 ? -3.0 : 3.0) * exp(-(dx * dx + dy * dy) / (0.1 * s.w * s.h)));
            }
}

/* Sizes of a file's tensor, leading ones 1: one clip, and not so large that products overflow. */
static int to_shape(const int64_t n[6], gimbal_shape *shape, gimbal_error *err)
{
    double values = 1;
    for (int i = 0; i < 6; i++)
        values *= n[i] < 1 || n[i] > 65535 || (i < 2 && n[i] != 1) ? INFINITY : (double)n[i];
    if (values > 1 << 28) {
        snprintf(err->msg, sizeof err->msg,
                 "tensor latents is not one clip [1,C,F,h,w] of at most 2^28 values");
        return GIMBAL_EFORMAT;
    }
    shape->c = (int)n[2], shape->f = (int)n[3], shape->h = (int)n[4], shape->w = (int)n[5];
    return GIMBAL_OK;
}

/* The clip from a file, or one made here. */
static int read_clip(Arrays *a, const char *path, gimbal_error *err)
{
    int64_t n[6];
    float *x = NULL;
    gimbal_shape shape = {4, 16, 32, 32};
    int code = path ? gimbal_tensor_read(path, "latents", &x, n, err) : GIMBAL_OK;
    if (!code && path)
        code = to_shape(n, &shape, err);
    if (!code)
        code = take_memory(a, shape);
    if (!code && !path)
        make_clip(a);
    for (size_t i = 0; !code && path && i < a->n; i++)
        a->x0[i] = x[i];
    free(x);
    return code;
}

static double product(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * y[i];
    return sum / n;
}

/* One line: mean square in the two bands, which add up to the whole because m^2 + (1 - m^2) = 1. */
static int print_bands(Arrays *a, const char *name, const float *x, gimbal_error *err)
{
    int code = gimbal_mix(x, a->zero, a->mask, 1, a->shape, a->band, err); /* F^-1( F(x) m ) */
    if (code)
        return code;
    const double low = product(a->band, a->band, a->n), clip = product(a->clip_band, a->clip_band, a->n),
                 alike = product(a->band, a->clip_band, a->n) / sqrt(low * clip);
    code = gimbal_mix(a->zero, x, a->mask, 1, a->shape, a->band, err); /* F^-1( F(x) sqrt(1 - m^2) ) */
    if (!code)
        printf("%-6s %9.5f %9.5f %9.3f\n", name, low, product(a->band, a->band, a->n), alike);
    return code;
}

/* The four steps. */
static int reinitialise(Arrays *a, gimbal_error *err)
{
    const double alpha_bar =
        0.00247833; /* of AnimateDiff's linear betas at t = 961, 25 leading steps' first */
    const float keep = (float)sqrt(alpha_bar), noise = (float)sqrt(1 - alpha_bar);
    int code = gimbal_noise("white", "philox", 1, 0, a->shape, a->eps0, err); /* your first sampling's */
    if (!code)
        code = gimbal_noise("white", "philox", 2, 0, a->shape, a->fresh, err);
    for (size_t i = 0; i < a->n; i++)
        a->z[i] = keep * a->x0[i] + noise * a->eps0[i];
    if (!code)
        code = gimbal_mask(spec, a->shape, a->mask, err);
    if (!code)
        code = gimbal_mix(a->z, a->fresh, a->mask, 1, a->shape, a->start, err);
    return code;
}

static int report(Arrays *a, gimbal_error *err)
{
    const struct {
        const char *name;
        const float *x;
    } line[] = {{"clip", a->x0}, {"eps0", a->eps0}, {"z", a->z}, {"fresh", a->fresh}, {"start", a->start}};
    int code = gimbal_mix(a->x0, a->zero, a->mask, 1, a->shape, a->clip_band, err);
    puts("        low band high band  low like clip's");
    for (size_t i = 0; !code && i < sizeof line / sizeof *line; i++)
        code = print_bands(a, line[i].name, line[i].x, err);
    return code;
}

int main(int argc, char **argv)
{
    gimbal_error err = {0};
    Arrays a = {0};
    int code = read_clip(&a, argc > 1 ? argv[1] : NULL, &err);
    if (!code)
        code = reinitialise(&a, &err);
    if (!code)
        code = report(&a, &err);
    if (!code && argc > 2) {
        const gimbal_shape s = a.shape;
        const gimbal_tensor item = {"latents", "F32", 5, {1, s.c, s.f, s.h, s.w, 0}, a.start};
        code = gimbal_tensors_write(argv[2], &item, 1, NULL, &err);
    }
    free(a.x0); /* the first of the block */
    if (code) {
        fprintf(stderr, "reinit_only: %s\n", err.msg[0] ? err.msg : gimbal_code_name(code));
        if (err.hint[0])
            fprintf(stderr, "  %s\n", err.hint);
        return 1;
    }
    return 0;
}
