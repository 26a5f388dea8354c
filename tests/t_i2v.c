/* t_i2v.c: image to video through the library, against the authors' code (tests/golden/consisti2v-tiny):
 * pictures fitted and camera moves pixel by pixel, whole runs with every kind of guidance, with and without
 * FrameInit, from latents, from pictures and from a seed, a long video of two chunks. Then moves of our own,
 * resuming a long video at every step, what a prediction says of it, and refusals.
 *
 * Bounds are the manifest's: 8 times what float32 costs the reference itself. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "media/media.h"

#include "tests/models.h"

#define GOLD "tests/golden/consisti2v-tiny/"

typedef struct {
    uint8_t *rgb;
    int w, h;
} Rgb;

static Rgb picture(const char *path)
{
    media_reader *reader;
    media_info info;
    check_ok(media_open(&reader, path, &info, &err), err);
    Rgb p = {malloc(3 * (size_t)info.width * (size_t)info.height), info.width, info.height};
    assert_int_equal(media_get(reader, p.rgb, &err), 1);
    media_free(reader);
    return p;
}

static json_t *manifest(void)
{
    static json_t *json;
    if (!json)
        check_ok(json_read(&json, GOLD "manifest.json", &err), err);
    return json;
}

/* ---- pixels ------------------------------------------------------------------------------ */

/* pixels [n][h][w][3] against `pixels` [n,3,h,w] of the golden `name`. */
static void check_pixels(const char *name, const float *pixels, int n, int h, int w)
{
    char path[128];
    size_t count, plane = (size_t)h * (size_t)w;
    const double tol = json_number_value(json_object_get(
        json_object_get(json_object_get(json_object_get(manifest(), "files"), name), "tol"), "pixels"));
    snprintf(path, sizeof path, GOLD "%s.safetensors", name);
    float *want = golden(path, "pixels", &count);
    assert_int_equal(count, 3 * (size_t)n * plane);
    assert_true(tol > 0);
    for (size_t f = 0; f < (size_t)n; f++)
        for (size_t c = 0; c < 3; c++)
            for (size_t i = 0; i < plane; i++)
                check_near(pixels[3 * (f * plane + i) + c], want[(f * 3 + c) * plane + i], tol,
                           "%s: frame %zu, channel %zu, pixel %zu", name, f, c, i);
    free(want);
}

static void pictures_are_cropped_as_the_authors_do(void **state)
{
    (void)state;
    const char *name;
    json_t *file;
    int met = 0;
    json_object_foreach(json_object_get(manifest(), "files"), name, file)
    {
        if (strncmp(name, "image-", 6))
            continue;
        char path[128];
        const int width = (int)json_integer_value(json_object_get(file, "width")),
                  height = (int)json_integer_value(json_object_get(file, "height"));
        snprintf(path, sizeof path, GOLD "%s", json_string_value(json_object_get(file, "image")));
        const Rgb p = picture(path);
        float *pixels = malloc(3 * sizeof(float) * (size_t)width * (size_t)height);
        check_ok(gimbal_fit(p.rgb, p.w, p.h, met % 2 ? NULL : "crop", width, height, pixels, &err), err);
        check_pixels(name, pixels, 1, height, width);
        free(p.rgb), free(pixels);
        met++;
    }
    assert_int_equal(met, 5);
}

static void cameras_move_as_the_authors_do(void **state)
{
    (void)state;
    static const char *const moves[] = {"pan-left", "pan-right", "zoom-in", "zoom-out"};
    for (int m = 0; m < COUNT(moves); m++) {
        char name[40], path[128];
        snprintf(name, sizeof name, "camera-%s", moves[m]);
        name[strlen("camera-") + strcspn(moves[m], "-")] = '_';
        const json_t *file = json_object_get(json_object_get(manifest(), "files"), name);
        const int width = (int)json_integer_value(json_object_get(file, "width")),
                  height = (int)json_integer_value(json_object_get(file, "height"));
        snprintf(path, sizeof path, GOLD "%s", json_string_value(json_object_get(file, "image")));
        const Rgb p = picture(path);
        float *pixels = malloc(4 * 3 * sizeof(float) * (size_t)width * (size_t)height);
        int boxes[4][4], clamped = 9;
        check_ok(gimbal_camera(moves[m], p.rgb, p.w, p.h, width, height, 4, pixels, boxes, &clamped, &err),
                 err);
        check_pixels(name, pixels, 4, height, width);
        assert_int_equal(clamped, 0);
        for (int i = 0; i < 16; i++) {
            const json_t *list = json_object_get(file, "boxes_top_left_height_width");
            assert_int_equal(boxes[i / 4][i % 4], json_integer_value(json_array_get(
                                                      json_array_get(list, (size_t)i / 4), (size_t)i % 4)));
        }
        free(p.rgb), free(pixels);
    }
}

/* A picture whose red says x and whose green says y. */
static Rgb ramp(int w, int h)
{
    Rgb p = {malloc(3 * (size_t)w * (size_t)h), w, h};
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            uint8_t *at = p.rgb + 3 * ((size_t)y * (size_t)w + (size_t)x);
            at[0] = (uint8_t)(255 * x / (w - 1)), at[1] = (uint8_t)(255 * y / (h - 1)), at[2] = 128;
        }
    return p;
}

/* Mean of a channel over frame i [16][16][3]. */
static double mean(const float *pixels, int i, int channel)
{
    double sum = 0;
    for (int k = 0; k < 256; k++)
        sum += pixels[3 * (i * 256 + k) + channel] / 256;
    return sum;
}

static void moves_of_ours_go_where_their_names_say(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int x, y; /* direction of the window */
    } moves[] = {{"tilt-up", 0, -1}, {"tilt-down", 0, 1}, {"diagonal", 1, 1}, {"roll", 0, 0}, {"none", 0, 0}};
    for (int s = 0; s < 2; s++) {
        const Rgb p = s ? ramp(64, 40) : ramp(40, 64);
        for (int m = 0; m < COUNT(moves); m++) {
            float x[5 * 3 * 256];
            int boxes[5][4], clamped = 9;
            check_ok(gimbal_camera(moves[m].name, p.rgb, p.w, p.h, 16, 16, 5, x, boxes, &clamped, &err), err);
            check(clamped == 0, "%s: %d frames clamped", moves[m].name, clamped);
            for (int i = 1; i < 5; i++)
                for (int c = 0; c < 2; c++) {
                    const int way = c ? moves[m].y : moves[m].x;
                    const double step = mean(x, i, c) - mean(x, i - 1, c);
                    check(way ? way * step > 0.05 : fabs(step) < 0.02, "%s, frame %d, axis %d: %g",
                          moves[m].name, i, c, step);
                }
            for (int i = 0; i < 5; i++) /* none knows another size */
                check(!strcmp(moves[m].name, "none") ||
                          (boxes[i][0] >= 0 && boxes[i][1] >= 0 && boxes[i][0] + boxes[i][2] <= p.h &&
                           boxes[i][1] + boxes[i][3] <= p.w),
                      "%s: box of frame %d", moves[m].name, i);
            /* the upper left against the upper right: a roll tilts what was level */
            const double tilt = x[1] - x[3 * 15 + 1], end = x[4 * 768 + 1] - x[4 * 768 + 3 * 15 + 1];
            check(!strcmp(moves[m].name, "roll") ? tilt * end < 0 : fabs(tilt) < 1e-6, "%s: tilt %g to %g",
                  moves[m].name, tilt, end);
        }
        free(p.rgb);
    }
}

static int path_of(const char *json, float *pixels, int boxes[4][4], int *clamped)
{
    char spec[80];
    const Rgb p = ramp(64, 40);
    FILE *f = fopen(in_scratch("path.json"), "w");
    fputs(json, f), fclose(f);
    snprintf(spec, sizeof spec, "path:%s", in_scratch("path.json"));
    const int code = gimbal_camera(spec, p.rgb, p.w, p.h, 16, 16, 4, pixels, boxes, clamped, &err);
    free(p.rgb);
    return code;
}

static void paths_are_followed_and_kept_inside(void **state)
{
    (void)state;
    float x[4 * 768];
    int boxes[4][4], clamped;
    check_ok(path_of("{\"frames\":[{\"time\":0,\"x\":0.4,\"y\":0.5,\"scale\":0.5},"
                     "{\"time\":1,\"x\":0.7,\"y\":0.5,\"scale\":0.5}]}",
                     x, boxes, &clamped),
             err);
    assert_int_equal(clamped, 0);
    for (int i = 0; i < 4; i++) { /* 20 x 20 of 64 x 40; middle at 0.4 + 0.1 i */
        const int want[4] = {10, (int)lrint(64 * (0.4 + 0.1 * i) - 10), 20, 20};
        assert_memory_equal(boxes[i], want, sizeof want);
        check_near(mean(x, i, 0), 2 * (0.4 + 0.1 * i) - 1, 0.02, "frame %d", i);
    }
    check_ok(
        path_of("{\"frames\":[{\"time\":0.5,\"x\":1,\"y\":0,\"scale\":2,\"angle\":45}]}", x, boxes, &clamped),
        err);
    assert_int_equal(clamped, 4);
    check_ok(path_of("{\"frames\":[{\"time\":0,\"x\":1,\"scale\":0.5},{\"time\":1,\"scale\":0.5}]}", x, boxes,
                     &clamped),
             err);
    assert_int_equal(clamped, 1); /* at 1; not at 0.83, for half a window is 10 of 64 */

    static const char *const bad[][2] = {{"", "path.json"},
                                         {"[]", "expected an object"},
                                         {"{\"frames\":[]}", "frames"},
                                         {"{\"frames\":[{\"x\":0}]}", "time"},
                                         {"{\"frames\":[{\"time\":2}]}", "0 to 1"},
                                         {"{\"frames\":[{\"time\":0,\"x\":\"a\"}]}", "\"x\""},
                                         {"{\"frames\":[{\"time\":0,\"scale\":0}]}", "scale"},
                                         {"{\"frames\":[{\"time\":0,\"zoom\":1}]}", "zoom"},
                                         {"{\"frames\":[{\"time\":1},{\"time\":0}]}", "in front"},
                                         {"{\"frames\":[{\"time\":0,\"angle\":1e300}]}", "angle"}};
    for (int i = 0; i < COUNT(bad); i++)
        check_fails(path_of(bad[i][0], x, boxes, &clamped), GIMBAL_EFORMAT, err, bad[i][1]);
}

static void pictures_that_cannot_be_are_refused(void **state)
{
    (void)state;
    const Rgb p = ramp(40, 64), one = ramp(2, 2);
    float x[3 * 3 * 256];
    int clamped;
    check_fails(gimbal_fit(p.rgb, p.w, p.h, "fill", 16, 16, x, &err), GIMBAL_EUSAGE, err,
                "crop, pad, stretch");
    check_fails(gimbal_fit(p.rgb, 0, 1, NULL, 16, 16, x, &err), GIMBAL_EUSAGE, err, "0x1");
    check_fails(gimbal_fit(p.rgb, p.w, p.h, NULL, 16, 1 << 20, x, &err), GIMBAL_EUSAGE, err, "1048576");
    check_fails(gimbal_camera("pan-left", p.rgb, p.w, p.h, 24, 16, 3, x, NULL, NULL, &err), GIMBAL_EUSAGE,
                err, "at most 16");
    check_fails(gimbal_camera("zoom-in", p.rgb, p.w, p.h, 24, 16, 3, x, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "width is 24");
    check_fails(gimbal_camera("zoom-inn", p.rgb, p.w, p.h, 16, 16, 3, x, NULL, NULL, &err), GIMBAL_EUSAGE,
                err, "did you mean zoom-in");
    check_fails(gimbal_camera("none", p.rgb, p.w, p.h, 16, 16, 0, x, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "0 frames");
    check_fails(gimbal_camera("path:/nowhere/x", p.rgb, p.w, p.h, 16, 16, 3, x, NULL, NULL, &err), GIMBAL_EIO,
                err, "/nowhere/x");
    /* one pixel is a picture: every way of fitting and every move makes something of it */
    static const char *const fits[] = {"crop", "pad", "stretch"}, *const moves[] = {"none",     "zoom-out",
                                                                                    "pan-left", "tilt-up",
                                                                                    "diagonal", "roll"};
    for (int i = 0; i < COUNT(fits); i++) {
        memset(x, 0xff, sizeof x);
        check_ok(gimbal_fit(one.rgb, 1, 1, fits[i], 16, 16, x, &err), err);
        for (int k = 0; k < 768; k++)
            check(x[k] >= -1 && x[k] <= 1, "%s: value %d", fits[i], k);
    }
    for (int i = 0; i < COUNT(moves); i++) {
        memset(x, 0xff, sizeof x);
        check_ok(gimbal_camera(moves[i], one.rgb, 1, 1, 16, 16, 3, x, NULL, &clamped, &err), err);
        for (int k = 0; k < 3 * 768; k++)
            check(x[k] >= -1 && x[k] <= 1, "%s: value %d", moves[i], k);
    }
    /* bars: the whole of a portrait in a landscape */
    check_ok(gimbal_fit(p.rgb, p.w, p.h, "pad", 16, 16, x, &err), err);
    check(x[0] == -1 && x[3 * 2] == -1 && x[3 * 3 + 2] > -1 && x[3 * 13] == -1 && x[3 * 12 + 2] > -1, "bars");
    free(p.rgb), free(one.rgb);
}

/* ---- whole runs -------------------------------------------------------------------------- */

typedef struct {
    gimbal_engine *engine;
    gimbal_settings s;
    const char *picture, *camera; /* files and words of the command line */
    float *latents, *chunk, *image, *reference;
} Case;

static const char *file_of(const char *value, char out[256])
{
    const char *slash = strchr(value, '/');
    snprintf(out, 256, GOLD "%s", slash ? slash + 1 : value);
    return out;
}

static void take_latents(Case *c, const char *path)
{
    size_t n;
    SafeTensors *st;
    c->s.latents = c->latents = golden(path, "latents", &n);
    check_ok(st_open(&st, path, &err), err);
    if (st_find(st, "chunk1"))
        c->s.chunk_latents = c->chunk = golden(path, "chunk1", &n), c->s.n_chunk_latents = 1;
    st_close(st);
}

/* The command line as settings. */
static void take_arguments(Case *c, const json_t *args)
{
    for (size_t i = 1; i + 1 < json_array_size(args); i += 2) {
        size_t n;
        static char pictures[256];
        char path[256];
        const char *flag = json_string_value(json_array_get(args, i)),
                   *value = json_string_value(json_array_get(args, i + 1));
        file_of(value, path);
        if (!strcmp(flag, "--image"))
            c->picture = strcpy(pictures, path);
        else if (!strcmp(flag, "--camera"))
            c->camera = value;
        else if (!strcmp(flag, "--latents"))
            take_latents(c, path);
        else if (!strcmp(flag, "--image-latents"))
            c->s.image = c->image = golden(path, "latents", &n);
        else if (strcmp(flag, "--model") && strcmp(flag, "--save-latents") && strcmp(flag, "-o"))
            check_ok(gimbal_set(gimbal_setting_options(), &c->s, flag + 2, value, "--", &err), err);
    }
}

static void open_case(Case *c, const json_t *args)
{
    memset(c, 0, sizeof *c);
    c->engine = opened(GOLD "model", NULL);
    gimbal_defaults(&c->s, c->engine);
    take_arguments(c, args);
    const gimbal_settings *s = &c->s;
    const size_t frame = 4 * (size_t)(s->width / 8) * (size_t)(s->height / 8);
    if (!c->image)
        c->s.image = c->image = malloc(frame * sizeof(float));
    if (c->camera)
        c->s.reference = c->reference = malloc(frame * (size_t)s->frames * sizeof(float));
}

static void close_case(Case *c)
{
    gimbal_close(c->engine);
    free(c->latents), free(c->chunk), free(c->image), free(c->reference);
}

/* Fills what the session was promised. */
static void encode_case(Case *c, gimbal_session *run)
{
    const gimbal_settings *s = &c->s;
    const int n = c->camera ? s->frames : 1;
    const size_t plane = (size_t)(s->width / 8) * (size_t)(s->height / 8);
    const Rgb p = picture(c->picture);
    float *pixels = malloc(3 * sizeof(float) * (size_t)n * (size_t)s->width * (size_t)s->height);
    check_ok(gimbal_camera(c->camera ? c->camera : "none", p.rgb, p.w, p.h, s->width, s->height, n, pixels,
                           NULL, NULL, &err),
             err);
    check_ok(gimbal_encode_pixels(run, pixels, s->width, s->height, n, 1, c->camera ? c->reference : c->image,
                                  &err),
             err);
    for (size_t k = 0; c->camera && k < 4; k++)
        memcpy(c->image + k * plane, c->reference + k * (size_t)n * plane, plane * sizeof(float));
    free(p.rgb), free(pixels);
}

static bool given_image(const json_t *args)
{
    for (size_t i = 0; i < json_array_size(args); i++)
        if (!strcmp(json_string_value(json_array_get(args, i)), "--image-latents"))
            return true;
    return false;
}

static const StEntry *shown;

/* The pictures that a case keeps: the first and the last. */
static int look(void *user, int i, const uint8_t *rgb, int width, int height)
{
    const size_t n = 3 * (size_t)width * (size_t)height;
    const int last = *(const int *)user - 1;
    const uint8_t *want = (const uint8_t *)shown->data + (i ? n : 0);
    for (size_t k = 0; k < n && (i == 0 || i == last); k++)
        check(abs(rgb[k] - want[k]) <= 1, "frame %d, value %zu: %d, expected %d", i, k, rgb[k], want[k]);
    return 0;
}

static void check_case(const json_t *json)
{
    Case c;
    size_t n;
    SafeTensors *st;
    gimbal_session *run;
    char path[256];
    const char *name = json_string_value(json_object_get(json, "name"));
    const json_t *args = json_object_get(json, "args");
    open_case(&c, args);
    check_ok(gimbal_begin(&run, c.engine, &c.s, &err), err);
    if (!given_image(args))
        encode_case(&c, run);
    snprintf(path, sizeof path, GOLD "%s", json_string_value(json_object_get(json, "expect")));
    float *want = golden(path, "latents", &n), *have = malloc(n * sizeof *have);
    const gimbal_shape z = gimbal_latent_shape(run);
    assert_int_equal(n, shape_count(z));
    check_ok(gimbal_sample(run, have, &err), err);
    const double bound = 8 * json_number_value(json_object_get(json, "rel_rms64")),
                 off = rel_rms(have, want, n);
    print_message("%-12s %.2g of the bound\n", name, off / bound);
    assert_true(bound > 0);
    check_near(off, 0, bound, "%s", name);
    for (size_t i = 0; i < n; i++)
        check_near(have[i], want[i], json_number_value(json_object_get(json, "tol")), "%s: value %zu", name,
                   i);
    check_ok(st_open(&st, path, &err), err);
    shown = st_find(st, "frames");
    if (shown)
        check_ok(gimbal_decode(run, have, z, look, (void *)&z.f, &err), err);
    st_close(st);
    free(want), free(have);
    gimbal_end(run);
    close_case(&c);
}

static void runs_match_the_authors_code(void **state)
{
    (void)state;
    size_t i;
    json_t *json;
    const json_t *cases = json_object_get(manifest(), "cases");
    json_array_foreach(cases, i, json) check_case(json);
    assert_int_equal(i, 12);
}

/* ---- long videos ------------------------------------------------------------------------- */

enum {
    FRAMES = 3,
    CHUNKS = 3,
    STEPS = 2,
    WIDTH = 32,
    HEIGHT = 40,
    LONG = CHUNKS * (FRAMES - 1) + 1,
    PLANE = 4 * 5
};
static float image[4 * PLANE];

static gimbal_settings long_video(const gimbal_engine *e, const char *rng)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    philox_normal(8, 0, 0, (gimbal_shape){4, 1, 5, 4}, image);
    s.frames = FRAMES, s.width = WIDTH, s.height = HEIGHT, s.steps = STEPS, s.chunks = CHUNKS;
    s.prompt = "a red fox", s.cfg = 3, s.cfg_image = 1.5, s.eta = 0.5, s.rng = rng, s.image = image,
    s.seed = 5;
    return s;
}

/* Saves at the stop_at-th callback of sampling and cancels there. */
typedef struct {
    gimbal_session *run;
    int calls, stop_at;
    gimbal_progress last;
} Stop;

static int on_progress(void *user, const gimbal_progress *p)
{
    Stop *stop = user;
    if (strcmp(p->stage, "sample") && strcmp(p->stage, "pass"))
        return 0;
    stop->last = *p;
    check(p->chunks == CHUNKS && p->shape.f == FRAMES && p->total_calls == CHUNKS * STEPS, "chunk %d of %d",
          p->chunk, p->chunks);
    assert_int_equal(p->chunk, stop->calls / (STEPS + 1) + 1);
    for (int c = 0; c < 4 && p->chunk == 1; c++) /* the first frame is the picture from the first step on */
        assert_memory_equal(p->latents + (size_t)c * FRAMES * PLANE, image + c * PLANE,
                            PLANE * sizeof(float));
    if (++stop->calls != stop->stop_at)
        return 0;
    check_ok(gimbal_state_save(stop->run, in_scratch("state"), &err), err);
    return 1;
}

static int run_until(gimbal_engine *e, gimbal_settings s, int at, float *latents)
{
    Stop stop = {.stop_at = at};
    s.progress = on_progress, s.user = &stop;
    check_ok(gimbal_begin(&stop.run, e, &s, &err), err);
    assert_int_equal(gimbal_latent_shape(stop.run).f, LONG);
    const int code = gimbal_sample(stop.run, latents, &err);
    gimbal_end(stop.run);
    if (!code)
        assert_int_equal(stop.last.calls, CHUNKS * STEPS);
    err.code = 0;
    return code;
}

static void a_long_video_goes_on_to_the_same_bytes_from_every_place(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    float whole[4 * LONG * PLANE], again[4 * LONG * PLANE];
    for (int torch = 0; torch < 2; torch++) {
        gimbal_settings s = long_video(e, torch ? "torch" : "philox");
        assert_int_equal(run_until(e, s, 0, whole), GIMBAL_OK);
        for (int at = 1; at <= CHUNKS * (STEPS + 1); at++) {
            gimbal_session *run;
            gimbal_progress where;
            memset(again, 0, sizeof again);
            assert_int_equal(run_until(e, s, at, again), GIMBAL_ECANCEL);
            s.threads = 1 + at % 2;
            check_ok(gimbal_begin(&run, e, &s, &err), err);
            check_ok(gimbal_state_load(run, in_scratch("state"), &where, &err), err);
            assert_int_equal(where.chunk, (at - 1) / (STEPS + 1) + 1);
            check_ok(gimbal_sample(run, again, &err), err);
            gimbal_end(run);
            check(!memcmp(whole, again, sizeof whole), "%s: gone on at callback %d", s.rng, at);
        }
        gimbal_session *run; /* another picture is another run */
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        image[3] += 1;
        check_fails(gimbal_state_load(run, in_scratch("state"), NULL, &err), GIMBAL_EUSAGE, err,
                    "other values");
        gimbal_end(run);
    }
    gimbal_close(e);
}

/* Every pass of every chunk holds the picture; three chunks of two passes. */
static void freeinit_holds_the_picture(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    static const char *const samplers[] = {"ddim", "euler", "dpmpp2m"};
    for (int i = 0; i < COUNT(samplers); i++) {
        float x[4 * LONG * PLANE];
        gimbal_session *run;
        gimbal_settings s = long_video(e, "philox");
        s.reinit = "freeinit:passes=2", s.sampler = samplers[i], s.eta = 0;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        assert_int_equal(run->run.calls, CHUNKS * 2 * STEPS);
        check_ok(gimbal_sample(run, x, &err), err);
        gimbal_end(run);
        for (int c = 0; c < 4; c++)
            check(!memcmp(x + c * LONG * PLANE, image + c * PLANE, sizeof(float) * PLANE), "%s: frame 0",
                  samplers[i]);
        check(rel_rms(x + PLANE, x, PLANE) > 1e-3, "%s: frame 1 is another", samplers[i]);
    }
    gimbal_close(e);
}

/* Chunk k by hand: a run of its own that begins with the frame before, on the noise of its absolute frames.
 */
static void a_chunk_is_a_run_from_the_last_frame(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    float whole[4 * LONG * PLANE], one[4 * FRAMES * PLANE], noise[4 * FRAMES * PLANE], first[4 * PLANE];
    gimbal_settings s = long_video(e, "philox");
    s.eta = 0, s.noise = "progressive:alpha=1";
    assert_int_equal(run_until(e, s, 0, whole), GIMBAL_OK);
    memcpy(first, image, sizeof first);
    for (int k = 0; k < CHUNKS; k++) {
        gimbal_session *run;
        gimbal_settings t = s;
        check_ok(gimbal_noise(s.noise, "philox", s.seed, k * (FRAMES - 1), (gimbal_shape){4, FRAMES, 5, 4},
                              noise, &err),
                 err);
        t.chunks = 1, t.image = first, t.latents = noise;
        check_ok(gimbal_begin(&run, e, &t, &err), err);
        check_ok(gimbal_sample(run, one, &err), err);
        gimbal_end(run);
        for (int c = 0; c < 4; c++) {
            check(!memcmp(one + c * FRAMES * PLANE, whole + (c * LONG + k * (FRAMES - 1)) * PLANE,
                          sizeof(float) * FRAMES * PLANE),
                  "chunk %d, channel %d", k, c);
            memcpy(first + c * PLANE, one + (c * FRAMES + FRAMES - 1) * PLANE, sizeof(float) * PLANE);
        }
    }
    gimbal_close(e);
}

static void a_prediction_counts_chunks_and_memory_grows_by_latents(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    gimbal_settings s = long_video(e, "philox");
    gimbal_cost few, many;
    s.frames = 8, s.chunks = 2;
    check_ok(gimbal_predict(e, &s, &few, &err), err);
    s.chunks = 73; /* 512 frames */
    check_ok(gimbal_predict(e, &s, &many, &err), err);
    assert_int_equal(few.calls, 2 * STEPS);
    assert_int_equal(many.calls, 73 * STEPS);
    check_near(few.relative, 1, 1e-9, "relative");
    check_near(many.relative, 1, 1e-9, "relative");
    assert_int_equal(many.host_bytes - few.host_bytes, sizeof(float) * 2 * 4 * PLANE * 71 * 7);
    assert_int_equal(many.work_bytes, few.work_bytes);
    check(many.flops > 30 * few.flops, "%g and %g", few.flops, many.flops);
    gimbal_close(e);
}

static void settings_that_cannot_be_are_refused_by_name(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    gimbal_session *run;
    assert_int_equal(gimbal_needs_image(e), 1);
    const gimbal_settings s = long_video(e, "philox");
    assert_int_equal(s.frame_stride, 3);
    float fresh[4 * FRAMES * PLANE] = {0};
    gimbal_settings o[] = {s, s, s, s, s, s, s, s};
    static const char *const says[] = {"--image",           "--frames is 1",  "65536",
                                       "--rescale",         "further chunks", "re-initialisation noise",
                                       "the clip to begin", "early-cfg"};
    o[0].image = NULL;
    o[1].frames = 1;
    o[2].frames = 4096, o[2].chunks = 17;
    o[3].rescale = 0.5;
    o[4].chunk_latents = fresh, o[4].n_chunk_latents = 3;
    o[5].fresh = fresh, o[5].n_fresh = 1;
    o[6].clip = fresh;
    o[7].reinit = "freeinit:passes=2,early=1,early-cfg=1";
    for (int i = 0; i < COUNT(o); i++)
        check_fails(gimbal_begin(&run, e, &o[i], &err), GIMBAL_EUSAGE, err,
                    strcmp(says[i], "early-cfg") ? says[i] : "guidance scale of its own");
    gimbal_close(e);
}

/* raw (phi std(prompt) / std(raw) + 1 - phi) moves what comes out, and not at phi 0. */
static void rescaled_guidance_is_calmer(void **state)
{
    (void)state;
    gimbal_engine *e = opened(GOLD "model", NULL);
    double power[2];
    for (int i = 0; i < 2; i++) {
        float x[4 * FRAMES * PLANE];
        gimbal_session *run;
        gimbal_settings s = long_video(e, "philox");
        s.chunks = 1, s.cfg_image = 1, s.cfg = 30, s.steps = 4, s.eta = 0, s.rescale = i;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        check_ok(gimbal_sample(run, x, &err), err);
        gimbal_end(run);
        power[i] = 0;
        for (int k = 0; k < COUNT(x); k++)
            power[i] += x[k] * (double)x[k];
    }
    check(power[1] < 0.9 * power[0], "%g without, %g with", power[0], power[1]);
    gimbal_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_are_cropped_as_the_authors_do),
        cmocka_unit_test(cameras_move_as_the_authors_do),
        cmocka_unit_test(moves_of_ours_go_where_their_names_say),
        WITH_MODEL(paths_are_followed_and_kept_inside),
        cmocka_unit_test(pictures_that_cannot_be_are_refused),
        cmocka_unit_test(runs_match_the_authors_code),
        WITH_MODEL(a_long_video_goes_on_to_the_same_bytes_from_every_place),
        cmocka_unit_test(freeinit_holds_the_picture),
        cmocka_unit_test(a_chunk_is_a_run_from_the_last_frame),
        cmocka_unit_test(a_prediction_counts_chunks_and_memory_grows_by_latents),
        cmocka_unit_test(settings_that_cannot_be_are_refused_by_name),
        cmocka_unit_test(rescaled_guidance_is_calmer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
