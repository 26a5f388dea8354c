/* judge.c: does a model of the toy world draw what its captions say?
 *
 *     judge MODEL [--motion DIR] [--clips 48] [--first 1000000] [--cfg 5] [--steps 25] [--json]
 *
 * Clips of held-out scenes, caption by caption, noise seeds 0, 1, ...; a judge reads size, colour, shape,
 * motion, background and texture back from the pixels. Prints a table in Markdown: how often each came true,
 * with a 95 % Wilson interval; how the subject moves and how steady the frames are; seconds and predicted
 * memory of a clip. With --json one object on a line.
 *
 * Knows the public library and the toy world's judge. A tool of the project, not installed. */
#include "gimbal.h"
#include "tests/kit/toyworld.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char *model, *motion;
    int clips, steps, json;
    double cfg;
    uint64_t first;
    int right[TOY_ATTRIBUTES], all; /* all six right in one clip */
    double seconds, speed, jitter, ssim,
        flicker;      /* means over clips; ssim and flicker of neighbouring frames */
    double megabytes; /* predicted peak of anonymous memory */
    uint8_t rgb[TOY_FRAMES * TOY_SIZE * TOY_SIZE * 3];
    int frames;
} Judge;

static const char *const names[TOY_ATTRIBUTES] = {"size",   "colour", "shape", "motion", "background colour",
                                                  "texture"};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int keep(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Judge *j = user;
    if (i >= TOY_FRAMES || width != TOY_SIZE || height != TOY_SIZE)
        return 1;
    memcpy(j->rgb + (size_t)i * width * height * 3, rgb, (size_t)width * height * 3);
    j->frames = i + 1;
    return 0;
}

static void read_clip(Judge *j, const ToyScene *scene)
{
    int truth[TOY_ATTRIBUTES], seen[TOY_ATTRIBUTES], right = 0;
    double speed, jitter;
    toy_truth(scene, truth);
    toy_read(j->rgb, j->frames, seen);
    for (int a = 0; a < TOY_ATTRIBUTES; a++) {
        j->right[a] += seen[a] == truth[a];
        right += seen[a] == truth[a];
    }
    j->all += right == TOY_ATTRIBUTES;
    toy_track(j->rgb, j->frames, &speed, &jitter);
    j->speed += speed / j->clips, j->jitter += jitter / j->clips;
}

/* SSIM and VBench's flicker score of the clip at hand. */
static int measure(Judge *j, gimbal_error *err)
{
    gimbal_measure_order order;
    gimbal_meter *meter;
    gimbal_score score;
    gimbal_measure_defaults(&order);
    order.scores = "ssim_prev,temporal_flickering", order.width = order.height = TOY_SIZE;
    int code = gimbal_measure_begin(&meter, &order, err);
    for (int i = 0; i < j->frames && !code; i++)
        code = gimbal_measure_frame(meter, j->rgb + (size_t)i * TOY_SIZE * TOY_SIZE * 3, err);
    if (!code)
        code = gimbal_measure_end(meter, err);
    for (int i = 0; !code && !gimbal_measure_score(meter, i, &score); i++)
        *(strcmp(score.name, "ssim_prev") ? &j->flicker : &j->ssim) += score.value / j->clips;
    gimbal_measure_free(meter);
    return code;
}

static int make_clip(Judge *j, gimbal_engine *engine, int k, gimbal_error *err)
{
    gimbal_settings s;
    gimbal_session *run;
    char caption[256];
    const ToyScene scene = toy_scene(j->first + (uint64_t)k);
    toy_caption(&scene, caption, sizeof caption);
    gimbal_defaults(&s, engine);
    s.prompt = caption, s.seed = (uint64_t)k, s.cfg = j->cfg, s.steps = j->steps, s.frames = TOY_FRAMES;
    s.width = s.height = TOY_SIZE;
    gimbal_cost cost = {0};
    int code = k ? GIMBAL_OK : gimbal_predict(engine, &s, &cost, err);
    if (!k)
        j->megabytes = (double)cost.anon_bytes / 1e6;
    if (!code)
        code = gimbal_begin(&run, engine, &s, err);
    if (code)
        return code;
    const gimbal_shape z = gimbal_latent_shape(run);
    float *latents = malloc(sizeof(float) * (size_t)z.c * (size_t)z.f * (size_t)z.h * (size_t)z.w);
    const double since = now();
    code = latents ? gimbal_sample(run, latents, err) : GIMBAL_ENOMEM;
    j->seconds += now() - since;
    if (!code)
        code = gimbal_decode(run, latents, z, keep, j, err);
    if (!code)
        read_clip(j, &scene), code = measure(j, err);
    free(latents);
    gimbal_end(run);
    return code;
}

/* Half the width of Wilson's interval around *middle. */
static double wilson(int right, int n, double *middle)
{
    const double z = 1.96, p = (double)right / n, d = 1 + z * z / n;
    *middle = (p + z * z / (2 * n)) / d;
    return z * sqrt(p * (1 - p) / n + z * z / (4.0 * n * n)) / d;
}

static void print_row(const char *name, int right, int n)
{
    double middle;
    const double half = wilson(right, n, &middle);
    printf("| %s | %d of %d | %.1f %% | %.0f to %.0f %% |\n", name, right, n, 100.0 * right / n,
           100 * (middle - half), 100 * (middle + half));
}

static void print_result(const Judge *j)
{
    if (j->json) {
        printf("{\"model\":\"%s\",\"clips\":%d,\"cfg\":%g,\"steps\":%d", j->model, j->clips, j->cfg,
               j->steps);
        for (int a = 0; a < TOY_ATTRIBUTES; a++)
            printf(",\"%s\":%.4f", names[a], (double)j->right[a] / j->clips);
        printf(",\"all\":%.4f,\"speed\":%.3f,\"jitter\":%.3f,\"ssim\":%.5f,\"flicker\":%.5f,\"seconds\":%.3f,"
               "\"megabytes\":%.1f}\n",
               (double)j->all / j->clips, j->speed, j->jitter, j->ssim, j->flicker, j->seconds / j->clips,
               j->megabytes);
        return;
    }
    printf("| attribute | right | share | 95 %% |\n|---|---|---|---|\n");
    for (int a = 0; a < TOY_ATTRIBUTES; a++)
        print_row(names[a], j->right[a], j->clips);
    print_row("all six in one clip", j->all, j->clips);
    printf(
        "\nsubject's speed %.2f pixels a frame, jitter %.2f; SSIM of neighbouring frames %.4f, flicker score "
        "%.4f; sampling a clip %.2f s, %.0f MB\n",
        j->speed, j->jitter, j->ssim, j->flicker, j->seconds / j->clips, j->megabytes);
}

static int read_arguments(Judge *j, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (argv[i][0] != '-' && !j->model) {
            j->model = argv[i];
            continue;
        }
        if (!strcmp(argv[i], "--json")) {
            j->json = 1;
            continue;
        }
        if (!value)
            return -1;
        i++;
        if (!strcmp(argv[i - 1], "--motion"))
            j->motion = value;
        else if (!strcmp(argv[i - 1], "--clips"))
            j->clips = atoi(value);
        else if (!strcmp(argv[i - 1], "--first"))
            j->first = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i - 1], "--cfg"))
            j->cfg = atof(value);
        else if (!strcmp(argv[i - 1], "--steps"))
            j->steps = atoi(value);
        else
            return -1;
    }
    return j->model && j->clips > 0 && j->steps > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    static Judge j = {.clips = 48, .steps = 25, .cfg = 5, .first = 1000000};
    gimbal_error err = {0};
    gimbal_engine *engine;
    if (read_arguments(&j, argc, argv)) {
        fprintf(
            stderr,
            "usage: judge MODEL [--motion DIR] [--clips N] [--first SEED] [--cfg X] [--steps N] [--json]\n");
        return 2;
    }
    int code = gimbal_open(&engine, j.model, j.motion, &err);
    for (int k = 0; k < j.clips && !code; k++)
        code = make_clip(&j, engine, k, &err);
    if (code)
        fprintf(stderr, "judge: %s %s\n", err.msg, err.hint);
    else
        print_result(&j);
    gimbal_close(engine);
    return code ? 1 : 0;
}
