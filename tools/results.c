/* results.c: the evidence for our own re-initialisers, on the bundled model (make results, make
 * results-full).
 *
 *     results short|full FOLDER [--table | --part I/N]
 *
 * For every variant and every held-out caption of the toy world: a clip from the same seed, measured by the
 * weight-free metrics and by a judge that reads the caption's attributes back from the pixels. One line of
 * JSON a clip goes into FOLDER/scores.jsonl; what is there already is not made again, so that a run of hours
 * may be stopped and started, or shared: --part 1/2 and --part 2/2 make every other clip, beside each other.
 * Then tables in Markdown on stdout: paired differences against plain sampling
 * and against the control, which shares the last pass's fresh noise but has learnt nothing from any pass.
 *
 * Knows the public library, statistics and the toy world's judge. A tool of the project, not installed. */
#include "flow/flow.h"
#include "gimbal.h"
#include "stats/stats.h"
#include "tests/kit/toyworld.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- what is compared -------------------------------------------------------------------- */

typedef struct {
    const char *name, *reinit;
    int control; /* index of the control with the same fresh noise, -1: none */
    bool brief;  /* among make results' six */
} Variant;

enum { NONE, REDRAW2, REDRAW3, REDRAW5 };
static const Variant variants[] = {
    {"plain", "none", -1, true},
    {"control (redraw 2)", "redraw:passes=2", -1, true},
    {"control (redraw 3)", "redraw:passes=3", -1, true},
    {"control (redraw 5)", "redraw:passes=5", -1, false},
    {"butterworth, 2 passes", "freeinit:passes=2", REDRAW2, true},
    {"butterworth, 3 passes", "freeinit:passes=3", REDRAW3, true},
    {"butterworth, 5 passes", "freeinit:passes=5", REDRAW5, false},
    {"gaussian, 2 passes", "freeinit:passes=2,filter=gaussian", REDRAW2, false},
    {"gaussian, 3 passes", "freeinit:passes=3,filter=gaussian", REDRAW3, false},
    {"gaussian, 5 passes", "freeinit:passes=5,filter=gaussian", REDRAW5, false},
    {"ideal, 2 passes", "freeinit:passes=2,filter=ideal", REDRAW2, false},
    {"ideal, 3 passes", "freeinit:passes=3,filter=ideal", REDRAW3, false},
    {"ideal, 5 passes", "freeinit:passes=5,filter=ideal", REDRAW5, false},
    {"butterworth, as published, 3 passes", "freeinit:passes=3,compat=1", REDRAW3, false},
    {"ideal, as published, 2 passes", "freeinit:passes=2,filter=ideal,compat=1", REDRAW2, false},
    {"ideal, as published, 3 passes", "freeinit:passes=3,filter=ideal,compat=1", REDRAW3, false},
    {"ideal, as published, 5 passes", "freeinit:passes=5,filter=ideal,compat=1", REDRAW5, false},
    {"coarse to fine, 3 passes", "freeinit:passes=3,fast=1", REDRAW3, false},
    {"freqprior", "freqprior", REDRAW3, false},
    {"early 4", "freeinit:passes=2,early=4", REDRAW2, false},
    {"early 4, no guidance", "freeinit:passes=2,early=4,early-cfg=1", REDRAW2, false},
    {"early 6", "freeinit:passes=2,early=6", REDRAW2, false},
    {"early 6, no guidance", "freeinit:passes=2,early=6,early-cfg=1", REDRAW2, false},
    {"early 8", "freeinit:passes=2,early=8", REDRAW2, false},
    {"early 8, no guidance", "freeinit:passes=2,early=8,early-cfg=1", REDRAW2, true},
    {"early 12", "freeinit:passes=2,early=12", REDRAW2, false},
    {"early 12, no guidance", "freeinit:passes=2,early=12,early-cfg=1", REDRAW2, false},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

/* Of a clip: those of the library, then the judge's. */
typedef struct {
    const char *name, *title;
    int better;
} Column;
static const Column columns[] = {
    {"ssim_prev", "SSIM of neighbouring frames", 1},
    {"warp_error", "warping error", -1},
    {"temporal_flickering", "flicker score (VBench)", 1},
    {"motion_smoothness_dis", "motion smoothness (DIS)", 1},
    {"lowpass_share", "low-pass share", 0},
    {"motion_magnitude", "motion, % of the short side a frame", 0},
    {"subject_speed", "subject's speed, pixels a frame", 0},
    {"subject_jitter", "subject's jitter, pixels", -1},
    {"caption_right", "share of the caption that comes true", 1},
};
enum { COLUMNS = sizeof columns / sizeof *columns, MEASURED = 6, SPEED = 6, JITTER, RIGHT };

typedef struct {
    int clips, frames, steps;
    bool brief;
} Size;
static const Size sizes[] = {{24, 8, 10, true}, {48, 16, 25, false}};

typedef struct {
    Size size;
    int part, parts; /* clips part, part + parts, ... are made here */
    gimbal_engine *engine;
    char path[4096]; /* of scores.jsonl */
    uint8_t *rgb;    /* [frames][128][128][3] of the clip being made */
    double score[VARIANTS][64][COLUMNS], seconds[VARIANTS][64];
    bool done[VARIANTS][64];
    double relative[VARIANTS]; /* network calls against plain sampling */
} Study;

enum { FIRST_SCENE = 2000000 }; /* the model was trained on scenes below 1000000 */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool wanted(const Study *s, int v)
{
    return !s->size.brief || variants[v].brief;
}

/* ---- one clip ---------------------------------------------------------------------------- */

static int keep(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Study *s = user;
    memcpy(s->rgb + (size_t)i * width * height * 3, rgb, (size_t)width * height * 3);
    return 0;
}

static int make_clip(Study *s, int v, int k, const char *caption, gimbal_error *err)
{
    gimbal_settings set;
    gimbal_session *run = NULL;
    gimbal_defaults(&set, s->engine);
    set.prompt = caption, set.frames = s->size.frames, set.steps = s->size.steps, set.cfg = 5;
    set.seed = (uint64_t)k, set.reinit = variants[v].reinit;
    int code = gimbal_begin(&run, s->engine, &set, err);
    if (code)
        return code;
    const gimbal_shape z = gimbal_latent_shape(run);
    float *latents = malloc(sizeof(float) * (size_t)z.c * z.f * z.h * z.w);
    const double start = now();
    code = latents ? gimbal_sample(run, latents, err) : GIMBAL_ENOMEM;
    s->seconds[v][k] = now() - start;
    if (!code)
        code = gimbal_decode(run, latents, z, keep, s, err);
    free(latents);
    gimbal_end(run);
    return code;
}

static void judge(Study *s, const ToyScene *scene, double *score)
{
    int truth[TOY_ATTRIBUTES], read[TOY_ATTRIBUTES], right = 0, asked = 0;
    toy_truth(scene, truth);
    toy_read(s->rgb, s->size.frames, read);
    for (int a = 0; a < TOY_ATTRIBUTES; a++)
        if (a != 3 || s->size.frames == TOY_FRAMES)
            right += read[a] == truth[a], asked++;
    score[RIGHT] = (double)right / asked;
    if (!toy_track(s->rgb, s->size.frames, &score[SPEED], &score[JITTER]))
        score[SPEED] = score[JITTER] = NAN;
}

static int measure(Study *s, double *score, gimbal_error *err)
{
    gimbal_measure_order order;
    gimbal_meter *meter = NULL;
    gimbal_score got;
    gimbal_measure_defaults(&order);
    order.scores =
        "ssim_prev,warp_error,temporal_flickering,motion_smoothness_dis,lowpass_share,motion_magnitude";
    order.width = order.height = TOY_SIZE, order.fps = 8, order.flow = flow_dis;
    int code = gimbal_measure_begin(&meter, &order, err);
    for (int f = 0; f < s->size.frames && !code; f++)
        code = gimbal_measure_frame(meter, s->rgb + (size_t)f * TOY_SIZE * TOY_SIZE * 3, err);
    if (!code)
        code = gimbal_measure_end(meter, err);
    for (int i = 0; !code && !gimbal_measure_score(meter, i, &got); i++)
        for (int c = 0; c < MEASURED; c++)
            if (!strcmp(columns[c].name, got.name))
                score[c] = got.value;
    gimbal_measure_free(meter);
    return code;
}

/* ---- scores.jsonl ------------------------------------------------------------------------ */

static int store(const Study *s, int v, int k)
{
    json_t *o =
        json_pack("{s:s, s:i, s:f}", "variant", variants[v].name, "clip", k, "seconds", s->seconds[v][k]);
    for (int c = 0; c < COLUMNS; c++)
        if (isfinite(s->score[v][k][c]))
            json_object_set_new(o, columns[c].name, json_real(s->score[v][k][c]));
    char *line = json_dumps(o, JSON_COMPACT);
    FILE *f = line ? fopen(s->path, "a") : NULL;
    const bool good = f && fprintf(f, "%s\n", line) > 0;
    free(line);
    json_decref(o);
    return f && fclose(f) == 0 && good ? 0 : -1;
}

static void take_line(Study *s, const char *line)
{
    json_t *o = json_loads(line, 0, NULL);
    const char *name = json_string_value(json_object_get(o, "variant"));
    const int k = (int)json_integer_value(json_object_get(o, "clip"));
    for (int v = 0; v < VARIANTS && name && k >= 0 && k < s->size.clips; v++) {
        if (strcmp(variants[v].name, name))
            continue;
        for (int c = 0; c < COLUMNS; c++) {
            const json_t *x = json_object_get(o, columns[c].name);
            s->score[v][k][c] = x ? json_number_value(x) : NAN;
        }
        s->seconds[v][k] = json_number_value(json_object_get(o, "seconds"));
        s->done[v][k] = true;
    }
    json_decref(o);
}

/* A line that was cut short by a kill is no JSON, and its clip is made again. */
static void load(Study *s)
{
    char line[4096];
    FILE *f = fopen(s->path, "r");
    while (f && fgets(line, sizeof line, f))
        take_line(s, line);
    if (f)
        fclose(f);
}

/* Clip by clip, all variants of one before the next, so that a run that was stopped compares like with like.
 */
static int make_all(Study *s, gimbal_error *err)
{
    int made = 0, left = 0;
    const double start = now();
    for (int k = s->part; k < s->size.clips; k += s->parts)
        for (int v = 0; v < VARIANTS; v++)
            left += wanted(s, v) && !s->done[v][k];
    for (int k = s->part; k < s->size.clips; k += s->parts) {
        char caption[256];
        const ToyScene scene = toy_scene(FIRST_SCENE + (uint64_t)k);
        toy_caption(&scene, caption, sizeof caption);
        for (int v = 0; v < VARIANTS; v++) {
            if (!wanted(s, v) || s->done[v][k])
                continue;
            int code = make_clip(s, v, k, caption, err);
            if (!code)
                code = measure(s, s->score[v][k], err);
            if (code)
                return code;
            judge(s, &scene, s->score[v][k]);
            s->done[v][k] = true;
            if (store(s, v, k)) {
                snprintf(err->msg, sizeof err->msg, "scores.jsonl cannot be written");
                return err->code = GIMBAL_EIO;
            }
            made++, left--;
            const double eta = (now() - start) / made * left;
            fprintf(stderr, "clip %d of %d, %s: %.1f s; %d to go, about %.0f min\n", k + 1, s->size.clips,
                    variants[v].name, s->seconds[v][k], left, eta / 60);
        }
    }
    return GIMBAL_OK;
}

/* ---- tables ------------------------------------------------------------------------------ */

/* Values of column c for the clips that both variants have and where both are defined. */
static int pairs(const Study *s, int va, int vb, int c, double *a, double *b)
{
    int n = 0;
    for (int k = 0; k < s->size.clips; k++)
        if (s->done[va][k] && s->done[vb][k] && isfinite(s->score[va][k][c]) && isfinite(s->score[vb][k][c]))
            a[n] = s->score[va][k][c], b[n++] = s->score[vb][k][c];
    return n;
}

static void costs(Study *s)
{
    for (int v = 0; v < VARIANTS; v++) {
        gimbal_settings set;
        gimbal_cost cost;
        gimbal_defaults(&set, s->engine);
        set.prompt = "a circle", set.frames = s->size.frames, set.steps = s->size.steps, set.cfg = 5;
        set.reinit = variants[v].reinit;
        s->relative[v] = wanted(s, v) && !gimbal_predict(s->engine, &set, &cost, NULL) ? cost.relative : NAN;
    }
}

typedef struct {
    Paired d;
    double p; /* corrected; d has it uncorrected */
    bool has;
} Cell;

/* All variants against `base` (-1: each against its control), p-values corrected by Holm over the variants.
 */
static void compare_all(const Study *s, int c, int base, Cell cells[VARIANTS])
{
    double a[64], b[64], p[VARIANTS];
    int order[VARIANTS], m = 0;
    for (int v = 0; v < VARIANTS; v++) {
        const int against = base >= 0 ? base : variants[v].control;
        cells[v].has = wanted(s, v) && against >= 0 && v != against && wanted(s, against);
        const int n = cells[v].has ? pairs(s, against, v, c, a, b) : 0;
        cells[v].has = n >= 6 && !paired_compare(a, b, n, 1, &cells[v].d, NULL);
        if (cells[v].has)
            p[m] = cells[v].d.permutation_p, order[m++] = v;
    }
    holm(p, m, NULL);
    for (int i = 0; i < m; i++)
        cells[order[i]].p = p[i];
}

/* A difference counts when its interval excludes 0 and its corrected p is below 0.05: then it is bold. */
static void print_cell(const Cell *c)
{
    if (!c->has) {
        printf(" |");
        return;
    }
    const bool real = c->p < 0.05 && (c->d.low > 0 || c->d.high < 0);
    const char *bold = real ? "**" : "";
    printf(" %s%+.3g%s [%+.2g, %+.2g] p %.2g (%.2g) |", bold, c->d.mean, bold, c->d.low, c->d.high,
           c->d.permutation_p, c->p);
}

static void print_column(const Study *s, int c)
{
    static Cell plain[VARIANTS], control[VARIANTS];
    compare_all(s, c, NONE, plain);
    compare_all(s, c, -1, control);
    printf("\n### %c%s\n\n", columns[c].title[0] & ~32, columns[c].title + 1);
    printf("%s\n\n| variant | mean | against plain | against its control |\n|---|---|---|---|\n",
           columns[c].better > 0 ? "Higher is better."
           : columns[c].better < 0
               ? "Lower is better."
               : "Neither high nor low is better; it tells what consistency was paid with.");
    for (int v = 0; v < VARIANTS; v++) {
        double sum = 0;
        int n = 0;
        for (int k = 0; k < s->size.clips; k++)
            if (wanted(s, v) && s->done[v][k] && isfinite(s->score[v][k][c]))
                sum += s->score[v][k][c], n++;
        if (!n)
            continue;
        printf("| %s | %.4g |", variants[v].name, sum / n);
        print_cell(&plain[v]);
        print_cell(&control[v]);
        printf("\n");
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_costs(const Study *s)
{
    printf("\n### Cost\n\n| variant | `--reinit` | network calls against plain | clips | seconds a clip, "
           "median |\n"
           "|---|---|---|---|---|\n");
    for (int v = 0; v < VARIANTS; v++) {
        double t[64];
        int n = 0;
        for (int k = 0; k < s->size.clips; k++)
            if (wanted(s, v) && s->done[v][k])
                t[n++] = s->seconds[v][k];
        if (!n)
            continue;
        qsort(t, (size_t)n, sizeof *t, by_size);
        printf("| %s | `%s` | %.2f | %d | %.2f |\n", variants[v].name, variants[v].reinit, s->relative[v], n,
               t[n / 2]);
    }
}

static void print_tables(Study *s)
{
    costs(s);
    printf(
        "%d captions that the model was not trained on, one seed each, %d frames of 128x128, %d DDIM steps, "
        "guidance 5; gimbal %s.\nDifferences are paired, clip by clip: mean, bootstrap 95 %% interval, and "
        "sign-flip p corrected by Holm over the variants\nof a column. Bold: the interval excludes 0 and p "
        "is "
        "below 0.05.\n",
        s->size.clips, s->size.frames, s->size.steps, gimbal_version());
    print_costs(s);
    for (int c = 0; c < COLUMNS; c++)
        print_column(s, c);
}

int main(int argc, char **argv)
{
    static Study s;
    gimbal_error err = {0};
    if (argc < 3 || (strcmp(argv[1], "short") && strcmp(argv[1], "full"))) {
        fprintf(stderr, "usage: results short|full FOLDER [--table | --part I/N]\n");
        return 2;
    }
    s.part = 1, s.parts = 1;
    if (argc > 4 && (sscanf(argv[4], "%d/%d", &s.part, &s.parts) != 2 || s.part < 1 || s.part > s.parts)) {
        fprintf(stderr, "results: --part %s: expected I/N, I from 1 to N\n", argv[4]);
        return 2;
    }
    s.part--;
    s.size = sizes[!strcmp(argv[1], "full")];
    snprintf(s.path, sizeof s.path, "%s/scores.jsonl", argv[2]);
    s.rgb = malloc((size_t)TOY_FRAMES * TOY_SIZE * TOY_SIZE * 3);
    int code = s.rgb ? gimbal_open(&s.engine, "models/toyworld", NULL, &err) : GIMBAL_ENOMEM;
    if (!code) {
        load(&s);
        code = argc == 4 ? GIMBAL_OK : make_all(&s, &err);
    }
    if (code)
        fprintf(stderr, "results: %s\n", err.msg[0] ? err.msg : gimbal_code_name(code));
    else
        print_tables(&s);
    gimbal_close(s.engine);
    free(s.rgb);
    return code ? 1 : 0;
}
