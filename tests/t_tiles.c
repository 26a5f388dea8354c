/* t_tiles.c: a picture decoded band by band is the picture decoded whole.
 *
 * Latents are mosaics of clips that diffusers made with the bundled model (tests/golden/captions48), so that
 * they are a picture's and not noise; sizes are odd, bands as small as they can be. Asked are 45 dB and
 * seams whose gradient is at most 1.02 times what lies elsewhere; what is held here is what the method gives:
 * the same picture up to rounding. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "tensor/backend.h"

#include "tests/models.h"

enum { TILE = 16, CLIP = 4 * 16 * TILE * TILE };

/* z [h,w,4], divided by the scaling factor: frame 0 of one clip after another, 16 x 16 each. */
static float *mosaic(const gimbal_engine *e, int h, int w)
{
    size_t n;
    float *clips = golden("tests/golden/captions48.safetensors", "latents", &n);
    float *z = malloc(sizeof *z * 4 * (size_t)h * (size_t)w);
    const float unscale = (float)(1 / vae_scaling(e->vae));
    const int across = (w + TILE - 1) / TILE;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const float *clip = clips + (size_t)((y / TILE * across + x / TILE) % 48) * CLIP;
            for (int c = 0; c < 4; c++)
                z[(y * w + x) * 4 + c] =
                    unscale * clip[(c * 16) * TILE * TILE + (y % TILE) * TILE + x % TILE];
        }
    free(clips);
    return z;
}

static void give_work(Cx *cx, size_t bytes)
{
    free(cx->work);
    cx->work = alloc_array(bytes, 1), cx->work_bytes = bytes;
    check(cx->work != NULL, "%zu bytes", bytes);
    memset(cx->work, 0xff, bytes); /* what is read before it is written shows */
}

static float *kept(const float *x, int h, int w)
{
    float *y = malloc(sizeof *y * 192 * (size_t)h * (size_t)w);
    memcpy(y, x, sizeof *y * 192 * (size_t)h * (size_t)w);
    return y;
}

/* pictures [8h,8w,3], the caller's */
static float *decode_whole(const gimbal_engine *e, const float *z, int h, int w)
{
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor *in = tensor_input(&cx, F32, 4, (int64_t[]){1, h, w, 4}, z);
    Plan *p = plan_make(&cx, vae_decode, e->vae, &in);
    check(p != NULL, "%.300s", err.msg);
    give_work(&cx, plan_bytes(p));
    const Tensor *y = plan_run(&cx, p, vae_decode, e->vae, &in);
    check(y != NULL, "%.300s", err.msg);
    float *out = kept(y->d, h, w);
    plan_free(p);
    free(cx.work);
    cx_free(&cx);
    return out;
}

static float *decode_banded(const gimbal_engine *e, const float *z, int h, int w, int64_t values, int threads)
{
    Cx cx = {0};
    Tiles *t;
    cx_init(&cx, cpu_chain(), threads, &err);
    check_ok(tiles_make(&t, &cx, e->vae, (gimbal_shape){4, 1, h, w}, values, &err), err);
    give_work(&cx, tiles_bytes(t));
    const float *y = tiles_decode(t, &cx, z);
    check(y != NULL, "%.300s", err.msg);
    float *out = kept(y, h, w);
    tiles_free(t);
    free(cx.work);
    cx_free(&cx);
    return out;
}

/* Of pictures -1..1, clamped as they are shown. */
static double psnr(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = fmin(fmax(a[i], -1), 1) - fmin(fmax(b[i], -1), 1);
        sum += d * d;
    }
    return sum > 0 ? 10 * log10(4 * (double)n / sum) : INFINITY;
}

/* Mean |difference| between rows y-1 and y of the picture. */
static double step_at(const float *x, int y, int width)
{
    double sum = 0;
    for (int i = 0; i < 3 * width; i++)
        sum += fabs((double)x[(size_t)y * width * 3 + i] - x[(size_t)(y - 1) * width * 3 + i]);
    return sum / (3 * width);
}

static void bands_give_the_whole_picture_at_any_size(void **state)
{
    (void)state;
    static const struct {
        int h, w;
        int64_t values;
    } cases[] = {{32, 48, 1}, {33, 21, 20000}, {7, 11, 1},      {1, 5, 1},
                 {2, 1, 1},   {3, 40, 100000}, {13, 9, 1 << 24}};
    gimbal_engine *e = opened(TOYWORLD, NULL);
    for (int i = 0; i < COUNT(cases); i++) {
        const int h = cases[i].h, w = cases[i].w;
        float *z = mosaic(e, h, w), *whole = decode_whole(e, z, h, w);
        float *bands = decode_banded(e, z, h, w, cases[i].values, 2);
        const double db = psnr(bands, whole, 192u * (size_t)h * (size_t)w);
        check(db > 90, "%d x %d latents, bands of %lld values: %.1f dB", w, h, (long long)cases[i].values,
              db);
        free(z), free(whole), free(bands);
    }
    gimbal_close(e);
}

/* Bands of 8 rows: each eighth row might be a seam. */
static void no_seam_is_steeper_than_the_picture(void **state)
{
    (void)state;
    enum { H = 24, W = 32, ROWS = 8 };
    gimbal_engine *e = opened(TOYWORLD, NULL);
    float *z = mosaic(e, H, W), *whole = decode_whole(e, z, H, W), *bands = decode_banded(e, z, H, W, 1, 2);
    double seam[2] = {0}, elsewhere[2] = {0};
    for (int y = 1; y < 8 * H; y++) {
        double *sum[2] = {y % ROWS ? &elsewhere[0] : &seam[0], y % ROWS ? &elsewhere[1] : &seam[1]};
        *sum[0] += step_at(whole, y, 8 * W), *sum[1] += step_at(bands, y, 8 * W);
    }
    const double ratio = seam[1] / elsewhere[1] / (seam[0] / elsewhere[0]);
    check(ratio < 1.02 && ratio > 1 / 1.02, "seams against elsewhere: %.4f times the whole picture's", ratio);
    free(z), free(whole), free(bands);
    gimbal_close(e);
}

static void bands_give_the_same_bytes_on_any_number_of_threads(void **state)
{
    (void)state;
    enum { H = 9, W = 14 };
    gimbal_engine *e = opened(TOYWORLD, NULL);
    float *z = mosaic(e, H, W), *one = decode_banded(e, z, H, W, 1, 1),
          *three = decode_banded(e, z, H, W, 1, 3);
    check(!memcmp(one, three, sizeof *one * 192 * H * W), "%.3g away", rel_rms(three, one, 192 * H * W));
    free(z), free(one), free(three);
    gimbal_close(e);
}

/* A level without neighbours, widths that change inside and between levels. */
static void other_decoders_go_through_bands_too(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    const int h = 11, w = 6, factor = vae_factor(e->vae);
    const size_t n = 3 * (size_t)(h * w * factor * factor);
    float *z = malloc(sizeof *z * 4 * (size_t)(h * w));
    check_ok(gimbal_noise("white", "philox", 5, 0, (gimbal_shape){4, 1, h, w}, z, &err), err);
    check(factor == 8, "the pictures below are 8 times as large as latents, not %d", factor);
    float *whole = decode_whole(e, z, h, w), *bands = decode_banded(e, z, h, w, 1, 2);
    check_near(rel_rms(bands, whole, n), 0, 1e-4, "bands against whole");
    free(z), free(whole), free(bands);
    gimbal_close(e);
}

/* The limit is by the picture alone. */
static void pictures_up_to_768_by_768_are_decoded_whole(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    Plans p = {.engine = e};
    cx_init(&p.cx, cpu_chain(), 2, &p.err);
    check_ok(plans_decode(&p, (gimbal_shape){4, 3, 96, 96}, &err), err);
    assert_true(p.vae && !p.tiles);
    const size_t whole = plan_bytes(p.vae);
    check_ok(plans_decode(&p, (gimbal_shape){4, 3, 96, 97}, &err), err);
    assert_true(!p.vae && p.tiles);
    check(tiles_bytes(p.tiles) < whole * 3 / 4, "bands take %zu bytes, a whole picture %zu",
          tiles_bytes(p.tiles), whole);
    check_ok(plans_decode(&p, (gimbal_shape){4, 1, 4, 4}, &err), err);
    assert_true(p.vae && !p.tiles);
    plan_free(p.vae);
    cx_free(&p.cx);
    gimbal_close(e);
}

typedef struct {
    int frames;
    size_t bytes;
    uint8_t *last;
} Seen;

static int see(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Seen *s = user;
    s->frames = i + 1, s->bytes = 3u * (size_t)width * (size_t)height;
    s->last = realloc(s->last, s->bytes);
    memcpy(s->last, rgb, s->bytes);
    return 0;
}

/* Through the public call: 98 x 96 latents are just above the limit. */
static void large_latents_are_decoded_by_the_library(void **state)
{
    (void)state;
    enum { H = 96, W = 98 };
    gimbal_engine *e = opened(TOYWORLD, NULL);
    gimbal_settings s;
    gimbal_session *run;
    Seen seen = {0};
    gimbal_defaults(&s, e);
    s.frames = 1, s.width = s.height = 64, s.steps = 1;
    float *z = mosaic(e, H, W), *x = malloc(sizeof *x * 4 * H * W), *whole = decode_whole(e, z, H, W);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < H * W; i++)
            x[c * H * W + i] = z[i * 4 + c] * (float)vae_scaling(e->vae);
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_decode(run, x, (gimbal_shape){4, 1, H, W}, see, &seen, &err), err);
    check(seen.frames == 1 && seen.bytes == 192 * H * W, "%d frames of %zu bytes", seen.frames, seen.bytes);
    int worst = 0;
    for (size_t i = 0; i < seen.bytes; i++) {
        const float want = 255 * fminf(fmaxf(whole[i] / 2 + 0.5f, 0), 1);
        worst = MAX(worst, abs(seen.last[i] - (int)rintf(want)));
    }
    check(worst <= 1, "bytes differ by %d", worst);
    free(z), free(x), free(whole), free(seen.last);
    gimbal_end(run);
    gimbal_close(e);
}

TESTS(bands_give_the_whole_picture_at_any_size, no_seam_is_steeper_than_the_picture,
      bands_give_the_same_bytes_on_any_number_of_threads, other_decoders_go_through_bands_too,
      pictures_up_to_768_by_768_are_decoded_whole, large_latents_are_decoded_by_the_library)
