/* bench_ops.c: operators of a plan as rows: one by one, and by class.
 *
 *     bound = sum over operators of count * max(FLOPs needed / peak, bytes / bandwidth)
 *
 * FLOPs needed: the products of Winograd's F(4x4,3x3) for a 3x3 convolution of stride 1 and of F(4,3) for one
 * over three frames, by definition elsewhere; peak: of bf16 products where the operator may make them, else
 * of float32. Small tensors may lie in a cache that is faster than memory, so a single operator can come out
 * a little under its bound.
 *
 * Knows plans' reports. Refuses to know networks and how rows are shown. */
#include "diffusion/bench.h"

#include "tensor/backend.h"

#include <string.h>

void bench_peaks(Bench *b)
{
    const Cx *cx = &b->session->plans.cx;
    b->result->peak_f32 = cpu_peak(cx, false);
    b->result->peak_bf16 = cpu_has_bf16() ? cpu_peak(cx, true) : 0;
    b->result->bandwidth = cpu_bandwidth(cx);
}

/* Seconds of so many FLOPs at the peak of the call's type; 0 without measured peaks. */
static double at_peak(const gimbal_bench_result *r, const PlanCall *c, double flops)
{
    const double peak = c->bf16 && r->peak_bf16 > 0 ? r->peak_bf16 : r->peak_f32;
    return peak > 0 ? flops / peak : 0;
}

static double bound_of(const gimbal_bench_result *r, const PlanCall *c)
{
    return MAX(at_peak(r, c, c->need), r->bandwidth > 0 ? c->bytes / r->bandwidth : 0);
}

typedef struct {
    Bench *bench;
    gimbal_bench_row class[CLASS_COUNT];
    bool alone; /* calls were run alone: as often as the plan has them; else as often as they ran */
    int slow;   /* operators left to the reference */
    char first[sizeof((PlanCall *)0)->text];
} Sums;

static void add(gimbal_bench_row *sum, const gimbal_bench_row *r)
{
    sum->count += r->count;
    sum->seconds += MAX(r->seconds, 0);
    sum->flops += r->flops;
    sum->made += r->made;
    sum->bytes += r->bytes;
    sum->ideal += r->ideal;
    sum->bound += r->bound;
}

static int visit(void *user, const PlanCall *c)
{
    Sums *s = user;
    Bench *b = s->bench;
    const double n = s->alone ? c->count : (double)c->runs / b->order->repeat;
    const gimbal_bench_row row = {.name = c->text,
                                  .kind = call_class_name(c->kind),
                                  .backend = c->backend,
                                  .isa = c->isa,
                                  .method = c->method,
                                  .count = (int)(n + 0.5),
                                  .seconds = c->seconds < 0 ? -1 : n * c->seconds,
                                  .flops = n * c->flops,
                                  .made = n * c->made,
                                  .bytes = n * c->bytes,
                                  .ideal = n * at_peak(b->result, c, c->made),
                                  .bound = n * bound_of(b->result, c)};
    add(&s->class[c->kind], &row);
    if (c->slow && !s->slow++)
        snprintf(s->first, sizeof s->first, "%s", c->text);
    bench_note_memory(b);
    if (s->alone && b->order->row)
        b->order->row(b->order->user, &row, b->result);
    return GIMBAL_OK;
}

/* Rows of the classes, and their sum into the result. Returns the sum's seconds. */
static double tell_classes(Sums *s)
{
    Bench *b = s->bench;
    gimbal_bench_row all = {0};
    for (int k = 0; k < CLASS_COUNT; k++) {
        s->class[k].name = call_class_name(k);
        add(&all, &s->class[k]);
        if (s->class[k].count && b->order->row)
            b->order->row(b->order->user, &s->class[k], b -> result);
    }
    b->result->flops = all.flops;
    b->result->made = all.made;
    b->result->ideal = all.ideal;
    b->result->bound = all.bound;
    return all.seconds;
}

int bench_classes(Bench *b, const Plan *plan, gimbal_error *err)
{
    Sums s = {.bench = b};
    Cx *cx = &b->session->plans.cx;
    if (plan_times(cx, plan, visit, &s))
        return pass_on(cx->err, err);
    tell_classes(&s);
    return GIMBAL_OK;
}

int bench_ops(Bench *b, gimbal_error *err)
{
    Sums s = {.bench = b, .alone = true};
    Cx *cx = &b->session->plans.cx;
    bench_peaks(b);
    if (plan_trials(cx, bench_unet_plan(b), b->order->budget, visit, &s))
        return pass_on(cx->err, err);
    b->result->seconds = b->result->least = tell_classes(&s);
    if (!s.slow)
        return GIMBAL_OK;
    return fail_hint(
        err, GIMBAL_ENOSUP,
        "GIMBAL_BACKEND and GIMBAL_ISA limit the kernels; without them this is a fault of gimbal",
        "%d of the operators that have fast kernels ran on the reference loops, first %s", s.slow, s.first);
}
