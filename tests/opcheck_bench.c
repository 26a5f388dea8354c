/* opcheck_bench.c: opcheck --bench, --bench-back: the best of a few runs of each case per backend, on all
 * available threads, backends taking turns so that a busy moment hits all of them. Backward: all gradients
 * ("dx dw"), and of operators with weights once more with these frozen ("dx").
 *
 *     case | backend/isa | how it is done | ms | GFLOP/s by the op's definition, or GB/s (inputs read once,
 *     result written once) | how many times oneDNN's speed, where both ran
 *
 * Results of backends that ran the same products are compared: nobody shall be fast by being wrong. An
 * operator that the chain leaves to the reference, though vec claims it, is a failure. */
#include "tests/opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A step of SD 1.5 with guidance (16 frames of 256x256, so 32 pictures; 64x64 is of 512x512), then what else
 * it and a step of the bundled model are made of. */
static const Case timed[] = {
    {CONV, .x = {32, 64, 64, 64}, .O = 64, .bias = true},
    {CONV, .x = {32, 64, 64, 320}, .O = 320, .bias = true},
    {CONV, .x = {32, 32, 32, 4}, .O = 320, .bias = true},
    {CONV, .x = {32, 32, 32, 320}, .O = 320, .bias = true},
    {CONV, .x = {32, 32, 32, 640}, .O = 320, .bias = true},
    {CONV, .x = {32, 32, 32, 960}, .O = 320, .bias = true},
    {CONV, .x = {32, 32, 32, 640}, .O = 640, .bias = true},
    {CONV, .x = {32, 32, 32, 320}, .O = 4, .bias = true},
    {CONV, .x = {32, 16, 16, 320}, .O = 640, .bias = true},
    {CONV, .x = {32, 16, 16, 640}, .O = 640, .bias = true},
    {CONV, .x = {32, 16, 16, 960}, .O = 640, .bias = true},
    {CONV, .x = {32, 16, 16, 1280}, .O = 640, .bias = true},
    {CONV, .x = {32, 16, 16, 1920}, .O = 640, .bias = true},
    {CONV, .x = {32, 16, 16, 1280}, .O = 1280, .bias = true},
    {CONV, .x = {32, 8, 8, 640}, .O = 1280, .bias = true},
    {CONV, .x = {32, 8, 8, 1280}, .O = 1280, .bias = true},
    {CONV, .x = {32, 8, 8, 1920}, .O = 1280, .bias = true},
    {CONV, .x = {32, 8, 8, 2560}, .O = 1280, .bias = true},
    {CONV, .x = {32, 4, 4, 1280}, .O = 1280, .bias = true},
    {CONV, .x = {32, 4, 4, 2560}, .O = 1280, .bias = true},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}, .x = {32, 32, 32, 320}, .O = 320,
     .bias = true},
    {CONV1, .x = {32, 32, 32, 960}, .O = 320, .bias = true},
    {CONV, .x = {1, 512, 512, 128}, .O = 128, .bias = true},
    {CONV, .x = {32, 16, 16, 4}, .O = 32, .bias = true},
    {CONV, .x = {32, 16, 16, 32}, .O = 32, .bias = true},
    {CONV, .x = {32, 8, 8, 64}, .O = 64, .bias = true, .add = true},
    {CONV, .x = {32, 4, 4, 128}, .O = 128, .bias = true},
    {CONV, .x = {32, 16, 16, 32}, .O = 4, .bias = true},
    {CONV, .x = {2, 128, 128, 16}, .O = 16, .bias = true},
    {CONV, .x = {2, 128, 128, 16}, .O = 3, .bias = true},
    {CONVT, .x = {32, 32, 32, 320}, .O = 320, .frames = 16, .bias = true},
    {CONVT, .x = {32, 4, 4, 1280}, .O = 1280, .frames = 16, .bias = true},
    {OP_LINEAR, .x = {16, 1024, 320}, .O = 320, .bias = true},
    {OP_LINEAR, .x = {16, 1024, 320}, .O = 2560, .bias = true, .act = ACT_GEGLU},
    {OP_LINEAR, .x = {16, 64, 1280}, .O = 1280, .bias = true},
    {OP_LINEAR, .x = {2, 77, 768}, .O = 320},
    {OP_LINEAR, .x = {2, 320}, .O = 1280, .bias = true},
    {OP_LINEAR, .x = {32, 256, 32}, .O = 32, .bias = true, .add = true},
    {OP_LINEAR, .x = {32, 256, 32}, .O = 256, .bias = true, .act = ACT_GEGLU},
    {OP_LINEAR, .x = {32, 64, 64}, .O = 64},
    {OP_NORM, .x = {16, 32, 32, 320}, .groups = 32, .per = 16, .act = ACT_SILU},
    {OP_NORM, .x = {16, 1024, 320}},
    {OP_NORM, .x = {32, 16, 16, 32}, .groups = 8, .per = 1, .act = ACT_SILU},
    {OP_NORM, .x = {32, 16, 16, 64}, .groups = 8, .per = 16},
    {OP_NORM, .x = {32, 256, 32}},
    {OP_NORM, .x = {32, 256, 128}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 8, .frames = 16, .n_kv = 1, .L = {1024}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 8, .frames = 16, .n_kv = 1, .map = {KV_CLIP}, .L = {77}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 8, .frames = 16, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {16, 64, 1280}, .heads = 8, .frames = 16, .n_kv = 1, .L = {64}},
    {OP_ATTN, .x = {1, 4096, 512}, .heads = 1, .frames = 1, .n_kv = 1, .L = {4096}},
    {OP_ATTN, .x = {32, 256, 32}, .heads = 2, .frames = 16, .n_kv = 1, .L = {256}},
    {OP_ATTN, .x = {32, 256, 32}, .heads = 2, .frames = 16, .n_kv = 1, .map = {KV_CLIP}, .L = {77}},
    {OP_ATTN, .x = {32, 256, 32}, .heads = 2, .frames = 16, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {32, 256, 64}, .heads = 2, .frames = 16, .n_kv = 1, .L = {256}},
    {OP_ATTN, .x = {32, 256, 64}, .heads = 2, .frames = 16, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {32, 256, 128}, .heads = 2, .frames = 16, .n_kv = 1, .L = {256}},
    {OP_ATTN, .x = {32, 256, 128}, .heads = 2, .frames = 16, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {32, 16, 128}, .heads = 2, .frames = 16, .n_kv = 1, .L = {16}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 5, .frames = 16, .n_kv = 1, .L = {1024}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 5, .frames = 16, .n_kv = 2, .map = {KV_SELF, KV_FIRST},
     .L = {1024, 1024}},
    {OP_ATTN, .x = {16, 1024, 320}, .heads = 8, .frames = 16, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 32},
    {OP_ACT, .x = {16, 1024, 2560}, .act = ACT_GEGLU},
    {OP_ACT, .x = {16, 1024, 320}, .act = ACT_SILU},
    {OP_ADD, .x = {16, 1024, 320}},
    {OP_ROWS, .x = {16, 1024, 320}, .per = 1024, .more = 16},
    {OP_CONCAT, .x = {16, 32, 32, 320}, .more = 320},
    {OP_RESIZE, .x = {16, 16, 16, 640}, .H2 = 32, .W2 = 32},
    {OP_REPEAT, .x = {16, 32, 32, 320}, .more = 2},
    {OP_ROTATE, .x = {16, 1024, 320}, .frames = 16, .more = 80},
    {OP_BLEND, .x = {16, 32, 32, 320}},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}, .x = {32, 16, 16, 32}, .O = 32,
     .bias = true},
    {OP_LINEAR, .x = {32, 256, 32}, .O = 256, .bias = true},
    {OP_LINEAR, .x = {32, 256, 128}, .O = 32, .bias = true},
    {OP_LINEAR, .x = {32, 16, 128}, .O = 1024, .bias = true},
    {OP_ACT, .x = {32, 256, 256}, .act = ACT_GEGLU},
    {OP_ACT, .x = {32, 256, 32}, .act = ACT_SILU},
    {OP_ADD, .x = {32, 256, 32}},
    {OP_CONCAT, .x = {32, 16, 16, 32}, .more = 32},
    {OP_RESIZE, .x = {32, 8, 8, 64}, .H2 = 16, .W2 = 16},
};

/* Seconds a case and backend; what the reference is asked to do; the speed over oneDNN's, and the distance
 * from its result, that Winograd is built for. */
static const double BUDGET = 0.3, REF_FLOPS = 3e8, WANTED = 2.5, DISTANCE = 1e-5;

/* One column of the race. */
typedef struct {
    const Backend *b;
    bool bf16, back, frozen;
    const char *method;
    double best; /* seconds */
} Runner;

enum { RUNNERS = 6 };

static double flops_of(const Case *c, const Problem *p)
{
    if (is_product(c->op))
        return 2.0 * (double)row_count(&p->out) * (double)p->in[W0].count;
    double keys = 0;
    for (int i = 0; c->op == OP_ATTN && i < c->n_kv; i++)
        keys += c->map[i] == KV_WINDOW ? WINDOW_KEYS : c->in_time ? c->frames : (double)c->L[i];
    return 4.0 * (double)p->in[0].count * keys;
}

/* What the fronts in ops.c say of other ops. */
static double front_flops(const Case *c, const Problem *p)
{
    const double cost = c->op == OP_NORM ? (c->act ? 12 : 8) : c->op == OP_ACT ? 8 : 1;
    const double flops = flops_of(c, p);
    return flops > 0 ? flops : cost * (double)p->in[0].count;
}

/* Who takes part: the chain, without the reference where it would take long, and vec once more with bf16. */
static int enter(Runner r[RUNNERS], Cx *cx, Problem *p)
{
    int n = 0;
    for (const Backend *const *b = cpu_chain(); *b; b++)
        for (int bf16 = 0; bf16 <= (cpu_has_bf16() && (*b)->isa); bf16++) {
            cx->bf16 = bf16;
            if (!(*b)->forward[p->c.op] || !(*b)->supports(cx, &p->call, false))
                continue;
            if (!strcmp((*b)->name, "ref") && flops_of(&p->c, p) > REF_FLOPS)
                continue;
            const char *method = backend_method(*b, cx, &p->call);
            if ((!bf16 || strstr(method, "bf16")) && n < RUNNERS)
                r[n++] = (Runner){*b, bf16, false, false, method, -1};
        }
    return n;
}

/* The same for gradients. The forward's multiply-adds are met once for each of input and weight. */
static int enter_back(Runner r[RUNNERS], Cx *cx, Problem *p)
{
    const bool weights = p->in[W0].v != NULL;
    int n = 0;
    cx->bf16 = false;
    for (const Backend *const *b = cpu_chain(); *b; b++)
        for (int frozen = 0; frozen <= weights; frozen++) {
            for (int i = W0; i <= BIAS; i++)
                p->in[i].w.trainable = !frozen;
            if (!(*b)->backward[p->c.op] || !(*b)->supports(cx, &p->call, true))
                continue;
            if (!strcmp((*b)->name, "ref") && flops_of(&p->c, p) > REF_FLOPS)
                continue;
            if (n < RUNNERS)
                r[n++] = (Runner){*b, false, true, frozen, !weights ? "" : frozen ? "dx" : "dx dw", -1};
        }
    return n;
}

/* What runner r made: the result, or the first input's gradient. */
static float *made_by(const Runner *r, const Problem *p, int64_t *count)
{
    const Operand *o = r->back ? &p->in[0] : &p->out;
    *count = o->count;
    return r->back ? o->gdata : o->data;
}

/* Gradients begin at 0; the result's are some numbers. */
static void ready_gradients(Problem *p)
{
    for (int i = 0; i < OPERANDS; i++)
        if (p->in[i].gdata)
            memset(p->in[i].gdata, 0, (size_t)p->in[i].count * sizeof(float));
    memcpy(p->out.gdata, p->out.data, (size_t)p->out.count * sizeof(float));
}

static bool run_once(const Runner *r, Cx *cx, Problem *p, bool first, double *took)
{
    for (int i = W0; r->back && i <= BIAS; i++)
        p->in[i].w.trainable = !r->frozen;
    if (r->back && first)
        memset(p->in[0].gdata, 0, (size_t)p->in[0].count * sizeof *p->in[0].gdata);
    p->call.flops = front_flops(&p->c, p) * (!r->back ? 1 : p->in[W0].v && r->frozen ? 1 : 2);
    cx->bf16 = r->bf16;
    const double start = seconds_now();
    const int code = call_run(cx, r->b, &p->call, r->back);
    *took = seconds_now() - start;
    return !code;
}

/* Times all; *distance: relative rms between the results of vec and dnn, or -1. */
static bool race(Runner *r, int n, Cx *cx, Problem *p, float *room, double *distance)
{
    const double began = seconds_now();
    double apart = 0, size = 0, took;
    for (int i = 0; i < 50 && (i < 3 || seconds_now() - began < BUDGET * n); i++)
        for (int k = 0; k < n; k++) {
            int64_t count;
            const float *made = made_by(&r[k], p, &count);
            if (!run_once(&r[k], cx, p, i == 0, &took))
                return false;
            r[k].best = r[k].best < 0 ? took : MIN(r[k].best, took);
            if (i == 0 && r[k].b->isa && !r[k].bf16)
                memcpy(room, made, (size_t)count * sizeof *room);
            for (int64_t j = 0; i == 0 && !strcmp(r[k].b->name, "dnn") && j < count; j++) {
                apart += pow((double)room[j] - (double)made[j], 2);
                size += pow((double)made[j], 2);
            }
        }
    *distance = size > 0 && r[0].b->isa ? sqrt(apart / size) : -1;
    return true;
}

static double bytes_of(const Problem *p)
{
    double bytes = 4.0 * (double)p->out.count;
    for (int i = 0; i < OPERANDS; i++)
        bytes += 4.0 * (double)p->in[i].count;
    return bytes;
}

/* Issue 5's convolutions. */
static bool is_raced(const Case *c, const Runner *r)
{
    return !r->back && c->op == OP_CONV2D && c->kh == 3 && c->stride == 1 && c->x[3] >= 64 && c->O >= 64 &&
           c->x[1] >= 8 && c->x[1] <= 64;
}

static void print_runner(const Case *c, const Problem *p, const Runner *r, const Runner *dnn)
{
    char text[256];
    const double times = r->back && is_product(c->op) && !r->frozen ? 2 : 1, flops = flops_of(c, p) * times;
    case_text(c, text, sizeof text);
    printf("%-62s %-16s %-20s %9.3f ms %8.1f %s", text, backend_label(r->b), r->method, r->best * 1e3,
           (flops > 0 ? flops : bytes_of(p)) / r->best * 1e-9, flops > 0 ? "GFLOP/s" : "GB/s");
    if (dnn && dnn != r)
        printf("  %5.2fx dnn%s", dnn->best / r->best,
               is_raced(c, r) && r->b->isa && dnn->best / r->best < WANTED ? " (below 2.5)" : "");
    printf("\n");
}

/* Returns whether all went well. */
static bool bench_case(const Case *c, Problem *p, Cx *cx, bool back)
{
    Runner r[RUNNERS];
    double distance = -1;
    if (back)
        ready_gradients(p);
    else
        problem_slim(p);
    p->call.flops = front_flops(c, p);
    const int n = back ? enter_back(r, cx, p) : enter(r, cx, p);
    float *room = calloc((size_t)MAX(p->out.count, p->in[0].count), sizeof *room);
    bool good = room && n > 0 && race(r, n, cx, p, room, &distance);
    free(room);
    for (int k = 0; good && k < n; k++) {
        const Runner *dnn = NULL;
        for (int i = 0; i < n; i++)
            dnn = !strcmp(r[i].b->name, "dnn") && r[i].frozen == r[k].frozen ? &r[i] : dnn;
        print_runner(c, p, &r[k], dnn);
    }
    if (good && cpu_chain()[0]->isa && !r[0].b->isa)
        good = false, printf("  FAILED: fell back to %s\n", r[0].b->name);
    if (distance > DISTANCE)
        good = false, printf("  FAILED: vec and dnn are %.1e apart (relative rms)\n", distance);
    fflush(stdout);
    return good;
}

int bench(const char *filter, bool back)
{
    int failed = 0;
    for (int i = 0; i < COUNT(timed); i++) {
        char text[256];
        Problem p;
        gimbal_error err = {0};
        Cx cx = {0};
        case_text(&timed[i], text, sizeof text);
        if (filter && !strstr(text, filter))
            continue;
        cx_init(&cx, cpu_chain(), 0, &err);
        const bool good = problem_make(&p, &timed[i]) && bench_case(&timed[i], &p, &cx, back);
        if (!good)
            failed++, printf("%s: failed %s\n", text, err.msg);
        problem_free(&p);
        cx_free(&cx);
    }
    return failed != 0;
}
