/* probe.c: what a plan will cost: packed weights, seconds, and a table of its distinct calls.
 *
 * Steps that differ only in which tensors and weights they touch take the same time. Each such group is timed
 * once, dearest first, on memory of its own: fewer rows where the call is long (the time is proportional to
 * frames, positions or rows, whatever the op's kernels cut along), the real weights, and the kernel that the
 * plan chose. Groups for which the budget does not last are extended from FLOPs and bytes:
 *
 *     guess = FLOPs / rate + bytes / bandwidth,      seconds = guess * (measured / guess, of the same op)
 *
 * For benchmarks each distinct call is also handed out whole, with how it is done and what it took: in the
 * plan's own runs, or run alone.
 *
 * Knows steps and kernels. Refuses to touch a plan's memory, a tensor's data and a weight's gradient. */
#include "tensor/core.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Step *step;
    int count, runs;              /* runs: of all its steps, */
    double ran;                   /* and the seconds that they took */
    double flops, guess, seconds; /* of one call; seconds < 0: not measured */
} Group;

/* Of its gradient. */
static int64_t weight_bytes(const Weight *w)
{
    return weight_count(w) * (int64_t)sizeof(float);
}

/* As a kernel reads it. */
static double stored_bytes(const Weight *w)
{
    return (double)weight_count(w) * (double)(w->own ? sizeof(float) : dtype_size(w->type));
}

/* Bytes that a step reads and writes, at least. */
static double step_bytes(const Step *s)
{
    Tensor *in[CALL_TENSORS];
    Weight *w[CALL_WEIGHTS];
    double sum = (double)tensor_bytes(s->call.out);
    for (int i = call_tensors(&s->call, in) - 1; i >= 0; i--)
        sum += (double)(tensor_count(in[i]) * (int64_t)dtype_size(in[i]->type));
    for (int i = call_weights(&s->call, w) - 1; i >= 0; i--)
        sum += s->call.op == OP_EMBED ? 0 : stored_bytes(w[i]);
    return s->way == BACKWARD ? 2 * sum : sum;
}

/* Rough rates of a present CPU: they decide the order of timing, and the result where nothing was timed. */
static double guess_seconds(const Step *s, int threads)
{
    return s->call.flops / (25e9 * threads) + step_bytes(s) / 5e9 + 2e-6;
}

static bool same_group(const Step *a, const Step *b)
{
    return a->way == b->way && a->backend == b->backend && !call_difference(&a->call, &b->call, false);
}

/* The distinct steps of a plan; *out is the caller's to free. Returns how many, -1 without memory. */
static int groups_of(const Plan *p, int threads, Group **out)
{
    const Step *step;
    const int n_steps = plan_steps(p, &step);
    Group *g = *out = alloc_array((size_t)MAX(n_steps, 1), sizeof *g);
    int n = 0;
    for (int i = 0; g && i < n_steps; i++) {
        int k = 0;
        while (k < n && !same_group(g[k].step, &step[i]))
            k++;
        if (k == n)
            g[n++] = (Group){.step = &step[i],
                             .flops = step[i].call.flops,
                             .guess = guess_seconds(&step[i], threads),
                             .seconds = -1};
        g[k].count++;
        g[k].runs += step[i].runs;
        g[k].ran += step[i].seconds;
    }
    return g ? n : -1;
}

/* ---- packed weights ---------------------------------------------------------------------- */

typedef struct {
    const Weight *w;
    const Backend *backend;
    size_t bytes;
} Packed;

static int by_weight(const void *a, const void *b)
{
    const Packed *x = a, *y = b;
    if (x->w != y->w)
        return x->w < y->w ? -1 : 1;
    if (x->backend != y->backend)
        return x->backend < y->backend ? -1 : 1;
    return (x->bytes < y->bytes) - (x->bytes > y->bytes); /* largest first */
}

size_t plan_pack_bytes(const Plan *p)
{
    const Step *step;
    const int n_steps = plan_steps(p, &step);
    Packed *list = alloc_array((size_t)MAX(n_steps, 1) * CALL_WEIGHTS, sizeof *list);
    size_t n = 0, sum = 0;
    for (int i = 0; list && i < n_steps; i++) {
        Weight *w[CALL_WEIGHTS];
        const Backend *b = step[i].backend;
        for (int k = call_weights(&step[i].call, w) - 1; k >= 0; k--)
            if (b && b->pack_bytes)
                list[n++] = (Packed){w[k], b, b->pack_bytes(&step[i].call, w[k])};
    }
    if (list)
        qsort(list, n, sizeof *list, by_weight);
    for (size_t i = 0; i < n; i++)
        if (!i || list[i].w != list[i - 1].w || list[i].backend != list[i - 1].backend)
            sum += list[i].bytes;
    free(list); /* of this function alone */
    return sum;
}

/* ---- a call on memory of its own --------------------------------------------------------- */

enum {
    BUFFERS = 2 * (CALL_TENSORS + 1) + CALL_WEIGHTS
}; /* values and gradients of inputs and out; of weights */

typedef struct {
    Call call;
    Tensor value[CALL_TENSORS + 1], grad[CALL_TENSORS + 1];
    Weight *weight[CALL_WEIGHTS];
    float *weight_grad[CALL_WEIGHTS]; /* the real ones, put back afterwards */
    void *memory[BUFFERS];
    int n_values, n_weights, n_memory;
} Sample;

/* Along what a call can be cut short: frames, clips x positions (or lines of pixels), sets of frames, rows.
 */
static int64_t call_units(const Call *c)
{
    const Tensor *x = c->n_in ? c->in[0] : NULL;
    switch (c->op) {
    case OP_EMBED:
        return 1;
    case OP_NORM:
        return c->a.norm.groups ? x->n[0] / c->a.norm.per : x->n[0];
    case OP_CONVT:
        return x->n[0] / c->a.frames * x->n[1];
    case OP_ATTN:
        return c->a.attn.arg.in_time ? x->n[0] / c->a.attn.arg.frames * x->n[1] : x->n[0];
    default:
        return x->n[0];
    }
}

/* Attention over `units` of its units or a few less; returns how many. Frames of a clip stay together in
 * time. */
static int64_t cut_attention(Call *c, int64_t units)
{
    AttnArg *a = &c->a.attn.arg;
    const int64_t positions = c->in[0]->n[1], frames = a->frames;
    const int64_t line = a->in_time ? MAX(a->width, 1) : 1; /* windows want whole lines */
    int64_t clips, kept = positions;
    if (a->in_time) {
        clips = MAX(units / positions, 1);
        kept = MIN(MAX(units / line, 1) * line, positions);
    } else {
        clips = MAX(units / frames, 1);
        a->frames = (int)MIN(units, frames);
    }
    c->in[0]->n[0] = c->out->n[0] = clips * a->frames;
    c->in[0]->n[1] = c->out->n[1] = kept;
    for (int i = 0; i < 2 * c->a.attn.n_kv; i++) {
        Tensor *t = c->in[1 + i];
        const bool own = c->a.attn.map[i / 2] != KV_CLIP;
        t->n[0] = own ? clips * a->frames : clips;
        if (a->in_time && own)
            t->n[1] = kept;
    }
    return a->in_time ? clips * kept : clips * a->frames;
}

/* Convolution over time on fewer clips, or fewer lines of one: whole clips, since frames see each other. */
static int64_t cut_clips(Call *c, int64_t units)
{
    const int64_t lines = c->in[0]->n[1], clips = MAX(units / lines, 1), kept = MIN(units, lines);
    Tensor *const cut[] = {c->in[0], c->out, c->epi.add};
    for (int i = 0; i < COUNT(cut); i++)
        if (cut[i])
            cut[i]->n[0] = clips * c->a.frames, cut[i]->n[1] = kept;
    return clips * kept;
}

/* Shortens the call, whose tensors are the sample's own, to about `units`; returns the exact number. */
static int64_t cut_call(Call *c, int64_t units)
{
    const double whole = (double)call_units(c);
    if (c->op == OP_EMBED)
        return 1;
    if (c->op == OP_ATTN)
        units = cut_attention(c, units);
    else if (c->op == OP_CONVT)
        units = cut_clips(c, units);
    else {
        const int64_t n = c->op == OP_NORM && c->a.norm.groups ? units * c->a.norm.per : units;
        const int64_t times = c->out->n[0] / c->in[0]->n[0]; /* of a repetition */
        c->in[0]->n[0] = n;
        if (c->op != OP_MSE)
            c->out->n[0] = c->op == OP_REPEAT ? n * times : n;
        if (c->op == OP_ADD || c->op == OP_CONCAT || c->op == OP_MSE || c->op == OP_BLEND ||
            c->op == OP_FIRST)
            c->in[1]->n[0] = n;
        if (c->op == OP_MSE && c->n_in == 3)
            c->in[2]->n[0] = n, c->out->n[0] = 1 + n;
        if (c->epi.add)
            c->epi.add->n[0] = n;
    }
    c->flops *= (double)units / whole;
    return units;
}

/* Zeroed memory that the sample owns. */
static void *sample_memory(Sample *s, size_t bytes)
{
    void *p = alloc_array(MAX(bytes, 1), 1);
    if (p)
        memset(p, 0, bytes);
    return s->memory[s->n_memory++] = p;
}

/* A copy of t that stands alone. */
static Tensor *sample_tensor(Sample *s, const Tensor *t)
{
    if (!t)
        return NULL;
    Tensor *v = &s->value[s->n_values++];
    *v = *t;
    v->need_grad = owner(t)->need_grad;
    v->base = v->grad = NULL;
    v->d = NULL;
    v->id = -1;
    return v;
}

static bool sample_fill(Sample *s, Way way)
{
    for (int i = 0; i < s->n_values; i++) {
        Tensor *v = &s->value[i];
        const int64_t count = tensor_rows(v) * v->ld;
        float *x = v->d = sample_memory(s, (size_t)count * dtype_size(v->type));
        if (!x)
            return false;
        for (int64_t k = 0; v->type == F32 && k < count; k++)
            x[k] = 0.01f * (float)(k * 2654435761u % 101) - 0.5f;
        if (way != BACKWARD || !v->need_grad)
            continue;
        v->grad = &s->grad[i];
        *v->grad = *v;
        v->grad->grad = NULL;
        if (!(v->grad->d = sample_memory(s, (size_t)count * sizeof(float))))
            return false;
    }
    for (int i = 0; way == BACKWARD && i < s->n_weights; i++)
        if (s->weight[i]->trainable &&
            !(s->weight[i]->grad = sample_memory(s, (size_t)weight_bytes(s->weight[i]))))
            return false;
    return true;
}

/* Prepares `*units` of a step's work; *units becomes what it really is. */
static bool sample_make(Sample *s, const Step *step, int64_t *units)
{
    *s = (Sample){.call = step->call};
    s->n_weights = call_weights(&s->call, s->weight);
    for (int i = 0; i < s->n_weights; i++)
        s->weight_grad[i] = s->weight[i]->grad;
    for (int i = 0; i < s->call.n_in; i++)
        s->call.in[i] = sample_tensor(s, s->call.in[i]);
    s->call.epi.row = sample_tensor(s, s->call.epi.row);
    s->call.epi.add = sample_tensor(s, s->call.epi.add);
    s->call.out = sample_tensor(s, s->call.out);
    s->call.out->ld = tensor_channels(s->call.out);
    *units = cut_call(&s->call, *units);
    return sample_fill(s, step->way);
}

static void sample_free(Sample *s)
{
    for (int i = 0; i < s->n_weights; i++)
        if (s->weight[i]->trainable) /* others may be shared with another thread, and were left alone */
            s->weight[i]->grad = s->weight_grad[i];
    for (int i = 0; i < s->n_memory; i++)
        free(s->memory[i]); /* of one timing */
}

/* ---- timing ------------------------------------------------------------------------------ */

/* Seconds of one run of the sample: the least of a few, which is what a busy machine disturbs least; more of
 * them when they are short. < 0: cannot be run. */
static double time_sample(Cx *cx, Sample *s, const Step *step, double target)
{
    const bool back = step->way == BACKWARD;
    double least = 1e9, sum = 0;
    if (call_run(cx, step->backend, &s->call, back)) /* packs weights, builds kernels */
        return -1;
    for (int i = 0; i < 2 || (i < 8 && sum + least < MAX(3 * target, 2e-3)); i++) {
        const double start = seconds_now();
        if (call_run(cx, step->backend, &s->call, back))
            return -1;
        const double took = seconds_now() - start;
        least = MIN(least, took);
        sum += took;
    }
    return least;
}

/* With fewer pictures than this kernels may cut each into bands, which are other kernels to compile and keep.
 */
enum { FEW_PICTURES = 16 };

/* Seconds of one whole call of the group, from a run of about `target` seconds; pace: what guesses are off
 * by. */
static double time_group(Cx *cx, const Group *g, double target, double pace)
{
    for (int i = 0; i < COUNT(g->step->call.w); i++)
        if (g->step->call.w[i] && !weight_given(g->step->call.w[i]))
            return -1; /* a dry run of a network without its file */
    const int64_t whole = call_units(&g->step->call);
    /* kernels share a call among threads by units: keep all threads busy */
    int64_t units = (int64_t)((double)whole * MIN(1.0, target / (g->guess * pace)));
    units = MAX(units / cx->threads, 1) * cx->threads;
    if (g->step->call.op == OP_CONV2D)
        units = MAX(units, FEW_PICTURES);
    units = MIN(whole, units);
    if (g->guess * pace * (double)units / (double)whole > MAX(8 * target, 0.05))
        return -1; /* the least that can be timed is too long: a picture's attention grows with its area
                      squared */
    Sample s;
    double seconds = -1;
    if (sample_make(&s, g->step, &units))
        seconds = time_sample(cx, &s, g->step, target);
    sample_free(&s);
    return seconds < 0 ? -1 : seconds * (double)whole / (double)units;
}

static int by_cost(const void *a, const void *b)
{
    const Group *x = a, *y = b;
    const double p = x->guess * x->count, q = y->guess * y->count;
    return (p < q) - (p > q);
}

/* measured / guessed over the groups of one op and direction (op < 0: all), 0 when none was measured. */
static double pace_of(const Group *g, int n, int op, Way way)
{
    double measured = 0, guessed = 0;
    for (int i = 0; i < n; i++)
        if (g[i].seconds >= 0 && (op < 0 || (g[i].step->call.op == (OpCode)op && g[i].step->way == way)))
            measured += g[i].seconds * g[i].count, guessed += g[i].guess * g[i].count;
    return guessed > 0 ? measured / guessed : 0;
}

static void time_groups(Cx *cx, const atomic_int *cancel, Group *g, int n, double budget)
{
    const double start = seconds_now();
    double rest = 0;
    for (int i = 0; i < n; i++)
        rest += g[i].guess * g[i].count;
    for (int i = 0; i < n && !(cancel && atomic_load(cancel)); i++) {
        const double left = budget - (seconds_now() - start), cost = g[i].guess * g[i].count;
        if (left <= 0)
            break;
        const double pace = pace_of(g, n, -1, FORWARD);
        /* one run to warm up and a few to time, out of the group's share of what is left */
        if (g[i].step->backend)
            g[i].seconds = time_group(cx, &g[i], MAX(left * cost / rest, 1e-3) / 4, pace > 0 ? pace : 1);
        rest -= cost;
    }
}

double plan_seconds(Cx *cx, Plan *p, double budget)
{
    Group *g;
    const int n = groups_of(p, cx->threads, &g);
    if (n < 0) {
        cx_fail(cx, GIMBAL_ENOMEM, "no memory to predict the time of a plan");
        return 0;
    }
    qsort(g, (size_t)n, sizeof *g, by_cost);
    Cx own; /* errors of a trial are no errors of the run */
    cx_init(&own, cx->chain, cx->threads, NULL);
    own.bf16 = plan_bf16(p);
    time_groups(&own, cx->cancel, g, n, budget);
    cx_free(&own);

    double sum = 0;
    for (int i = 0; i < n; i++) {
        double pace = g[i].step->backend ? pace_of(g, n, (int)g[i].step->call.op, g[i].step->way) : 1;
        if (pace <= 0)
            pace = pace_of(g, n, -1, FORWARD);
        const double one = g[i].seconds >= 0 ? g[i].seconds : g[i].guess * (pace > 0 ? pace : 1);
        sum += one * g[i].count;
    }
    free(g); /* of this function alone */
    return sum;
}

/* ---- the table --------------------------------------------------------------------------- */

static int by_flops(const void *a, const void *b)
{
    const Group *x = a, *y = b;
    const double p = x->flops * x->count, q = y->flops * y->count;
    return p != q ? (p < q) - (p > q) : by_cost(a, b);
}

int plan_print(const Plan *p, char *out, size_t room)
{
    Group *g;
    const int n = groups_of(p, 1, &g);
    size_t at = 0;
    if (room)
        *out = 0;
    if (n > 0)
        qsort(g, (size_t)n, sizeof *g, by_flops);
    for (int i = 0; i < n; i++) {
        Call call = g[i].step->call;
        const Weight *w = call.w[0];
        const Tensor *x = call.n_in ? call.in[0] : call.out;
        const int wrote = snprintf(
            at < room ? out + at : NULL, at < room ? room - at : 0, "%s%s %s%s%s %s %dx %.3g GFLOP\n",
            g[i].step->backend ? op_name(call.op) : "gradient", g[i].step->way == BACKWARD ? " backward" : "",
            shape_text(x->nd, x->n).s, w ? "x" : "", w ? shape_text(w->nd, w->n).s : "",
            g[i].step->backend ? g[i].step->backend->name : "-", g[i].count, g[i].flops * g[i].count * 1e-9);
        at += wrote > 0 ? (size_t)wrote : 0;
    }
    free(g); /* of this function alone */
    return n < 0 ? GIMBAL_ENOMEM : (int)at;
}

/* ---- every distinct call, for benchmarks ------------------------------------------------- */

const char *call_class_name(CallClass kind)
{
#define CLASS_NAME(name, text) [CLASS_##name] = text,
    static const char *const names[CLASS_COUNT] = {CALL_CLASSES(CLASS_NAME)};
    return names[kind];
}

/* A 3x3 convolution of stride 1, which Winograd's transforms serve. */
static bool is_conv3(const Call *c)
{
    return c->op == OP_CONV2D && c->a.conv.stride == 1 && c->w[0]->n[2] == 3 && c->w[0]->n[3] == 3;
}

static CallClass class_of(const Call *c)
{
    switch (c->op) {
    case OP_CONV2D:
        return is_conv3(c) ? CLASS_CONV3 : CLASS_CONV;
    case OP_CONVT:
        return CLASS_CONV;
    case OP_LINEAR:
        return CLASS_LINEAR;
    case OP_ATTN:
        return c->a.attn.arg.in_time ? CLASS_TIME : CLASS_ATTENTION;
    case OP_NORM:
        return CLASS_NORM;
    default:
        return CLASS_REST;
    }
}

/* Products of F(4x4,3x3): 36 for each tile of 4x4 results and pair of channels; of F(4,3) over frames: 6 for
 * 4 frames. Tiles at the edge are whole ones, so a picture of a pixel or two is cheaper done directly. */
static double fewest_flops(const Call *c)
{
    const int64_t *n = c->out->n, frames = c->a.frames;
    int64_t products = 0; /* of a pair of channels */
    if (is_conv3(c))
        products = 36 * n[0] * ((n[1] + 3) / 4) * ((n[2] + 3) / 4);
    else if (c->op == OP_CONVT && c->w[0]->n[2] == 3)
        products = 6 * (n[0] / frames) * ((frames + 3) / 4) * n[1] * n[2];
    else
        return c->flops;
    return MIN(c->flops, 2.0 * (double)products * (double)(c->w[0]->n[0] * c->w[0]->n[1]));
}

/* Operators that no net of ours can afford to leave to the reference loops. */
static bool wants_fast(OpCode op)
{
    return op == OP_CONV2D || op == OP_CONVT || op == OP_LINEAR || op == OP_ATTN || op == OP_NORM ||
           op == OP_ACT || op == OP_ADD;
}

static PlanCall call_report(const Cx *cx, const Group *g)
{
    const Call *c = &g->step->call;
    const Backend *b = g->step->backend;
    PlanCall p = {.kind = b ? class_of(c) : CLASS_REST,
                  .backend = b ? b->name : "-",
                  .isa = b ? b->isa : NULL,
                  .slow = b && wants_fast(c->op) && !strcmp(b->name, "ref"),
                  .bf16 = cx->bf16 && (c->op == OP_LINEAR || c->op == OP_ATTN),
                  .count = g->count,
                  .runs = g->runs,
                  .flops = c->flops,
                  .made = c->flops,
                  .need = b ? fewest_flops(c) : 0,
                  .bytes = step_bytes(g->step),
                  .seconds = g->seconds};
    if (b && b->method && g->step->way == FORWARD)
        p.method = b->method(cx, c, &p.made);
    call_text(c, g->step->way, p.text, sizeof p.text);
    return p;
}

/* The whole call alone: the least of a few runs, for at most `budget` seconds once it has run twice. */
static double trial_of(Cx *cx, const Group *g, double budget)
{
    int64_t units = call_units(&g->step->call);
    double least = -1, sum = 0;
    Sample s;
    if (sample_make(&s, g->step, &units) && !call_run(cx, g->step->backend, &s.call, false))
        for (int i = 0; i == 0 || (i < 50 && sum + least < budget); i++) {
            const double start = seconds_now();
            if (call_run(cx, g->step->backend, &s.call, false))
                break;
            const double took = seconds_now() - start;
            least = least < 0 ? took : MIN(least, took);
            sum += took;
        }
    sample_free(&s);
    return least;
}

/* budget < 0: seconds of the plan's own runs. */
static int visit_groups(Cx *cx, Group *g, int n, double budget, PlanVisit visit, void *user)
{
    double all = 0;
    int code = GIMBAL_OK;
    for (int i = 0; i < n; i++)
        all += g[i].guess;
    for (int i = 0; i < n && !code; i++) {
        if (budget < 0)
            g[i].seconds = g[i].runs ? g[i].ran / g[i].runs : -1;
        else if (cx->cancel && atomic_load(cx->cancel))
            return GIMBAL_ECANCEL;
        else if (g[i].step->way == FORWARD)
            g[i].seconds = trial_of(cx, &g[i], budget * g[i].guess / all);
        const PlanCall report = call_report(cx, &g[i]);
        code = visit(user, &report);
    }
    return code;
}

static int visit_plan(Cx *cx, const Plan *p, double budget, PlanVisit visit, void *user)
{
    Group *g;
    const int n = groups_of(p, cx->threads, &g);
    int code = n < 0 ? GIMBAL_ENOMEM : GIMBAL_OK;
    if (n > 0)
        qsort(g, (size_t)n, sizeof *g, by_cost);
    Cx own; /* errors of a trial are no errors of the run */
    cx_init(&own, cx->chain, cx->threads, NULL);
    own.bf16 = plan_bf16(p), own.cancel = cx->cancel;
    if (!code)
        code = visit_groups(&own, g, n, budget, visit, user);
    cx_free(&own);
    free(g); /* of this function alone */
    if (code)
        cx_fail(cx, code, "the plan's calls could not be listed: %s", gimbal_code_name(code));
    return code;
}

int plan_times(Cx *cx, const Plan *p, PlanVisit visit, void *user)
{
    return visit_plan(cx, p, -1, visit, user);
}

int plan_trials(Cx *cx, const Plan *p, double budget, PlanVisit visit, void *user)
{
    return visit_plan(cx, p, MAX(budget, 0), visit, user);
}
