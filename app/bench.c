/* bench.c: gimbal bench: how fast this machine runs a model, and how fast it could.
 *
 *     bench unet | ops | vae | text | mix      measure; with --json one object a line
 *     bench model -o DIR                       a model folder of published shape with random weights
 *
 * FLOPs are counted by the operators' definition, so that rates compare between programs; what a kernel
 * really multiplies (Winograd makes fewer) is what its share of the peak is taken of. Refuses to know
 * networks and kernels: gimbal_bench measures. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *model, *motion, *family, *size, *dtype, *type, *input, *save, *output;
    uint64_t seed;
    double seconds;
    int frames, guidance, threads, repeat, json, quiet;
} Flags;

static const char *const families[] = {GIMBAL_BENCH_FAMILIES, NULL};
static const char *const dtypes[] = {"f32", "bf16", "auto", NULL};
static const char *const types[] = {"f16", "f32", "bf16", NULL};

#define AT(field) offsetof(Flags, field)
#define TEXT(name, help, def)                                                                                \
    {                                                                                                        \
#name, help, GIMBAL_TEXT, AT(name), 0, 0, 0, def, NULL                                               \
    }
#define CHOICE(name, help, def, list)                                                                        \
    {                                                                                                        \
#name, help, GIMBAL_CHOICE, AT(name), 0, 0, 0, def, list                                             \
    }
#define NUMBER(name, help, type, def, min, max)                                                              \
    {                                                                                                        \
#name, help, type, AT(name), def, min, max, NULL, NULL                                               \
    }
static const gimbal_option options[] = {
    CHOICE(family, "a published shape with random weights (with --model: what the folder holds)", NULL,
           families),
    TEXT(model, "model folder to measure with, instead of random weights", NULL),
    TEXT(motion, "motion adapter of --model", NULL),
    NUMBER(frames, "length of the clip", GIMBAL_INT, 16, 1, 4096),
    TEXT(size, "WIDTHxHEIGHT of the pictures; without it 256x256, for mix 512x512", NULL),
    CHOICE(dtype, "unet, ops: arithmetic, as in generate", "auto", dtypes),
    NUMBER(guidance, "unet, ops: 1: both branches in one call, 0: one", GIMBAL_INT, 1, 0, 1),
    NUMBER(repeat, "timed calls, after one that is not counted", GIMBAL_INT, 3, 1, 1000),
    NUMBER(seconds, "ops: about how long to measure", GIMBAL_REAL, 20, 0, 86400),
    NUMBER(threads, "0: all this process may use", GIMBAL_INT, 0, 0, 1024),
    NUMBER(seed, "of random weights and inputs", GIMBAL_SEED, 0, 0, 0),
    TEXT(input, "unet: file of latents, context and timestep to use", NULL),
    TEXT(save, "unet: file for latents, context, timestep, guidance and the prediction", NULL),
    CHOICE(type, "model: how the weights are stored", "f16", types),
    TEXT(output, "model: the folder to make, also -o", NULL),
    NUMBER(json, "an object a line on stdout", GIMBAL_BOOL, 0, 0, 1),
    NUMBER(quiet, "no words on stderr", GIMBAL_BOOL, 0, 0, 1),
    {.name = NULL},
};

/* What can be measured, and the flags that mean something there. */
static const struct {
    const char *name, *flags[16];
} pieces[] = {
    {"unet",
     {"family", "model", "motion", "frames", "size", "dtype", "guidance", "repeat", "threads", "seed",
      "input", "save", "json", "quiet"}},
    {"ops",
     {"family", "model", "motion", "frames", "size", "dtype", "guidance", "seconds", "threads", "seed",
      "json", "quiet"}},
    {"vae", {"family", "model", "motion", "frames", "size", "repeat", "threads", "seed", "json", "quiet"}},
    {"text", {"family", "model", "motion", "repeat", "threads", "seed", "json", "quiet"}},
    {"mix", {"frames", "size", "repeat", "seed", "json", "quiet"}},
    {"model", {"family", "type", "seed", "output", "quiet"}},
};
enum { PIECES = sizeof pieces / sizeof *pieces };

typedef struct {
    Flags flags;
    gimbal_bench_order order;
    bool titled; /* the heading of the table of rows is printed */
    int drawn;   /* percent on the terminal's line; -1: nothing drawn */
    gimbal_error *err;
} Job;

/* ---- the command line -------------------------------------------------------------------- */

static int find_piece(const Args *args, int *out, gimbal_error *err)
{
    const char *names[PIECES + 1] = {0};
    for (int i = 0; i < PIECES; i++)
        names[i] = pieces[i].name;
    if (args->n_words != 1)
        return complain(err, GIMBAL_EUSAGE, "gimbal bench unet --family animatediff-sd15",
                        "expected one of unet, ops, vae, text, mix and model, found %d words", args->n_words);
    TRY(unknown_word(names, "benchmark", args->words[0], err));
    for (int i = 0; i < PIECES; i++)
        if (!strcmp(pieces[i].name, args->words[0]))
            *out = i;
    return GIMBAL_OK;
}

static int check_flags(const Args *args, int piece, gimbal_error *err)
{
    for (int i = 0; i < args->n_flags; i++) {
        const char *const *known = pieces[piece].flags;
        while (*known && strcmp(*known, args->flags[i].name))
            known++;
        if (!*known)
            return complain(err, GIMBAL_EUSAGE, NULL, "bench %s: --%s has no meaning here",
                            pieces[piece].name, args->flags[i].name);
    }
    return GIMBAL_OK;
}

/* "512x320" */
static int read_size(const char *text, int *width, int *height, gimbal_error *err)
{
    char *end, *last;
    const long w = strtol(text, &end, 10), h = *end == 'x' ? strtol(end + 1, &last, 10) : 0;
    const bool digits = strspn(text, "0123456789x") == strlen(text);
    if (!digits || *end != 'x' || last == end + 1 || *last || w < 8 || h < 8 || w > 8192 || h > 8192 ||
        w % 8 || h % 8)
        return complain(err, GIMBAL_EUSAGE, "--size 256x256",
                        "--size is %.40s, expected WIDTHxHEIGHT, multiples of 8 from 8 to 8192", text);
    *width = (int)w, *height = (int)h;
    return GIMBAL_OK;
}

/* ---- random weights on their way --------------------------------------------------------- */

static int on_progress(void *user, double done)
{
    Job *job = user;
    const int percent = (int)(100 * done);
    if (!job->flags.quiet && isatty(STDERR_FILENO) && percent > job->drawn) {
        fprintf(stderr, "\rrandom weights: %d %%%s", percent, percent >= 100 ? "\r\x1b[K" : "");
        job->drawn = percent;
    }
    return signals_seen();
}

static int make_model(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    const char *const upper[] = {"F16", "F32", "BF16"};
    if (!f->output)
        return complain(err, GIMBAL_EUSAGE, "-o model", "-o is missing: which folder shall be made?");
    if (!f->family)
        return complain(err, GIMBAL_EUSAGE, "gimbal bench --help lists them",
                        "--family is missing: which shape?");
    for (int i = 0; types[i]; i++)
        if (!strcmp(types[i], f->type))
            return gimbal_bench_model(f->family, upper[i], f->seed, f->output, on_progress, job, err);
    return GIMBAL_EUSAGE;
}

/* ---- results ----------------------------------------------------------------------------- */

static const char *fact(const char *name)
{
    const gimbal_fact *f;
    for (int i = 0; (f = gimbal_build_fact(i)); i++)
        if (!strcmp(f->name, name))
            return f->value;
    return "unknown";
}

static double rate(double amount, double seconds)
{
    return seconds > 0 ? amount / seconds : 0;
}

/* What every line says. seconds, flops, ideal, bound: the line's own. */
static json_t *line_of(const gimbal_bench_result *r, const char *row, double seconds, double flops,
                       double made, double ideal, double bound)
{
    json_t *o = json_pack("{s:s, s:s, s:o, s:i, s:i, s:i, s:s, s:s, s:i, s:s, s:o}", "row", row, "what",
                          r->what, "family", json_text(r->family), "frames", r->frames, "width", r->width,
                          "height", r->height, "dtype", r->dtype ? r->dtype : "f32", "isa", r->isa, "threads",
                          r->threads, "commit", fact("commit"), "cpu", json_text(fact("CPU")));
    json_t *numbers =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:f}", "s_per_step", seconds, "gflops",
                  rate(flops, seconds) * 1e-9, "gflop", flops * 1e-9, "gflop_made", made * 1e-9, "of_peak",
                  rate(ideal, seconds), "s_bound", bound, "peak_bytes", (json_int_t)r->peak_bytes,
                  "mapped_bytes", (json_int_t)r->mapped_bytes, "open_seconds", r->open_seconds);
    if (!o || !numbers || json_object_update(o, numbers)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(numbers);
    return o;
}

static void print_row_json(Job *job, const gimbal_bench_row *row, const gimbal_bench_result *r)
{
    json_t *o = line_of(r, row->kind ? "operator" : "class", row->seconds, row->flops, row->made, row->ideal,
                        row->bound);
    json_t *more =
        json_pack("{s:s, s:s, s:s*, s:s*, s:s*, s:i, s:I}", "name", row->name, "class",
                  row->kind ? row->kind : row->name, "backend", row->backend, "kernel_isa", row->isa,
                  "method", row->method, "count", row->count, "bytes", (json_int_t)row->bytes);
    if (o && more)
        json_object_update(o, more);
    json_decref(more);
    print_json(o, job->err);
}

static void print_title(Job *job, const gimbal_bench_result *r)
{
    char bf16[40] = "";
    if (job->titled)
        return;
    job->titled = true;
    if (r->peak_bf16 > 0)
        snprintf(bf16, sizeof bf16, ", bf16 %.1f", r->peak_bf16 * 1e-9);
    printf("%s, %d thread%s, %s, commit %s\n", fact("CPU"), r->threads, r->threads > 1 ? "s" : "", r->isa,
           fact("commit"));
    printf("measured peaks: f32 %.1f GFLOP/s%s, memory %.1f GB/s\n", r->peak_f32 * 1e-9, bf16,
           r->bandwidth * 1e-9);
    printf("%6s %10s %10s %9s %8s %8s  %s\n", "calls", "GFLOP", "ms", "GFLOP/s", "of peak", "of bound",
           "operator");
}

static void print_row(void *user, const gimbal_bench_row *row, const gimbal_bench_result *r)
{
    Job *job = user;
    char how[120] = "";
    if (job->flags.json) {
        print_row_json(job, row, r);
        return;
    }
    print_title(job, r);
    if (row->backend)
        snprintf(how, sizeof how, "  %s%s%s%s%s", row->backend, row->isa ? " " : "", row->isa ? row->isa : "",
                 row->method ? ", " : "", row->method ? row->method : "");
    printf("%6d %10.3f %10.3f %9.1f %6.1f %% %6.1f %%  %s%s\n", row->count, row->flops * 1e-9,
           row->seconds * 1e3, rate(row->flops, row->seconds) * 1e-9, 100 * rate(row->ideal, row->seconds),
           100 * rate(row->bound, row->seconds), row->name, how);
    fflush(stdout);
}

/* The line that is quoted: it says where it comes from. */
static void print_result(const gimbal_bench_result *r)
{
    char peak[24], mapped[24], least[80] = "", opened[40] = "", shares[80] = "", clip[60] = "";
    const bool ops = !strcmp(r->what, "ops");
    if (!ops)
        snprintf(least, sizeof least, " (least %.6g of %d)", r->least, r->repeat);
    if (r->frames)
        snprintf(clip, sizeof clip, " %d frames %dx%d", r->frames, r->width, r->height);
    int n = 0;
    if (r->peak_f32 > 0)
        n = snprintf(shares, sizeof shares, ", %.1f %% of peak", 100 * rate(r->ideal, r->seconds));
    if (r->bound > 0)
        snprintf(shares + n, sizeof shares - (size_t)n, ", bound %.6g s (%.1f %%)", r->bound,
                 100 * rate(r->bound, r->seconds));
    if (r->open_seconds > 0)
        snprintf(opened, sizeof opened, ", open to first operator %.3f s", r->open_seconds);
    printf(
        "%s%s%s%s %s: %.6g s%s%s, %.1f GFLOP/s%s, memory %s above %s mapped%s; commit %s, %s, %d thread%s, "
        "%s\n",
        r->what, r->family ? " " : "", r->family ? r->family : "", clip, r->dtype ? r->dtype : "f32",
        r->seconds, strcmp(r->what, "unet") ? "" : "/step", least, rate(r->flops, r->seconds) * 1e-9, shares,
        print_bytes(r->peak_bytes, peak), print_bytes(r->mapped_bytes, mapped), opened, fact("commit"),
        fact("CPU"), r->threads, r->threads > 1 ? "s" : "", r->isa);
}

static int print_result_json(const gimbal_bench_result *r, gimbal_error *err)
{
    json_t *o = line_of(r, "total", r->seconds, r->flops, r->made, r->ideal, r->bound);
    json_t *more = json_pack("{s:f, s:i, s:f, s:f, s:f}", "s_least", r->least, "repeat", r->repeat,
                             "peak_f32_gflops", r->peak_f32 * 1e-9, "peak_bf16_gflops", r->peak_bf16 * 1e-9,
                             "bandwidth_gb_s", r->bandwidth * 1e-9);
    if (o && more)
        json_object_update(o, more);
    json_decref(more);
    return print_json(o, err);
}

/* ---- the subcommand ---------------------------------------------------------------------- */

static int measure(Job *job, const char *what, gimbal_error *err)
{
    const Flags *f = &job->flags;
    gimbal_bench_order *o = &job->order;
    gimbal_bench_result r = {0};
    gimbal_bench_defaults(o);
    o->what = what, o->model = f->model, o->motion = f->motion, o->dtype = f->dtype;
    o->family = f->family || f->model ? f->family : o->family;
    o->frames = f->frames, o->guidance = f->guidance, o->threads = f->threads, o->repeat = f->repeat;
    o->budget = f->seconds, o->seed = f->seed, o->input = f->input, o->save = f->save;
    o->progress = on_progress, o->row = print_row, o->user = job;
    TRY(read_size(f->size               ? f->size
                  : strcmp(what, "mix") ? "256x256"
                                        : "512x512",
                  &o->width, &o->height, err));
    if (f->motion && !f->model)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "--motion belongs to a --model; random models have their own");
    if (f->save)
        TRY(check_place(f->save, err));
    signals_nothing_begun(true);
    TRY(gimbal_bench(o, &r, err));
    signals_nothing_begun(false);
    if (f->json)
        return print_result_json(&r, err);
    print_result(&r);
    return flush_stdout(err);
}

static int run(const Args *args, gimbal_error *err)
{
    Job job = {.drawn = -1, .err = err};
    int piece = 0;
    TRY(find_piece(args, &piece, err));
    TRY(check_flags(args, piece, err));
    args_defaults(&command_bench, &job.flags);
    TRY(args_apply(args, &job.flags, err));
    if (!strcmp(pieces[piece].name, "model"))
        return make_model(&job, err);
    return measure(&job, pieces[piece].name, err);
}

const Command command_bench = {
    .name = "bench",
    .usage =
        "bench unet|ops|vae|text|mix|model [--family NAME | --model DIR] [--frames N] [--size WxH] [...]",
    .help = "measures a model of full size, without a download",
    .options = options,
    .more =
        "unet   one prediction of the network for a clip, as each step of generate makes it: seconds, and "
        "what\n"
        "       its operators took, by class\n"
        "ops    every distinct operator of it alone, with the kernel that ran, against the measured peaks;\n"
        "       bound: what no kernel can beat. Fails when one with fast kernels ran on the reference loops\n"
        "vae    decoding the clip              text   encoding a prompt\n"
        "mix    FreeInit's mix of the clip's latents, on one thread\n"
        "model  writes a model folder with random weights (3 to 6 GB): --family NAME --type f16 -o DIR\n\n"
        "GFLOP/s count multiplications and additions by definition; shares of the peak count those that the\n"
        "kernel really makes (Winograd makes fewer). The peaks are measured first. Memory is anonymous "
        "memory\n"
        "beyond the mapped weights. Random weights lie in files without a name, which vanish with the "
        "program.\n"
        "With --json every line is an object: a row \"operator\", \"class\" or \"total\".\n\n"
        "  gimbal bench unet --family animatediff-sd15 --frames 16 --size 256x256\n"
        "  gimbal bench ops --model models/toyworld --size 128x128\n"
        "  gimbal bench mix --size 512x512\n",
    .run = run,
};
