/* t_plan.c: planned memory: the replay equals the eager run, differs from nothing, and reuses memory rightly.
 *
 * The plan is compiled into this program with GIMBAL_POISON, in every build: dead tensors are filled with
 * NaNs, so that a tensor read after its planned life cannot pass unseen. */
#ifndef GIMBAL_POISON
#define GIMBAL_POISON
#endif
#include "tensor/plan.c"

#include "tests/kit/smallnet.h"

#include <time.h>

static SmallNet net;
static SnData data;
static gimbal_error err;
static Cx cx;
static Tensor *in[4];

static void open_all(int threads)
{
    memset(&err, 0, sizeof err);
    sn_open(&net);
    sn_data(&data);
    cx_init(&cx, cpu_chain(), threads, &err);
    sn_inputs(&cx, &data, SN_H, SN_W, in);
}

static void close_all(void)
{
    free(cx.work);
    cx_free(&cx);
    sn_close(&net);
}

static Plan *make(Graph graph, void *self)
{
    Plan *plan = plan_make(&cx, graph, self, in);
    check(plan != NULL, "%.400s", err.msg);
    free(cx.work);
    cx.work_bytes = plan_bytes(plan);
    cx.work = alloc_array(cx.work_bytes, 1);
    check(cx.work != NULL, "no memory");
    return plan;
}

/* ---- the replay -------------------------------------------------------------------------- */

static void a_planned_run_has_the_bits_of_the_eager_one_every_time_on_any_thread_count(void **state)
{
    (void)state;
    const size_t bytes = sizeof(float) * SN_CLIPS * SN_FRAMES * SN_H * SN_W * SN_IN;
    float first[SN_CLIPS * SN_FRAMES * SN_H * SN_W * SN_IN];
    for (int threads = 1; threads <= 3; threads++) {
        open_all(threads);
        Tensor *eager = sn_forward(&cx, &net, in);
        check(eager != NULL, "%.400s", err.msg);
        if (threads == 1)
            memcpy(first, eager->d, bytes);
        Plan *plan = make(sn_forward, &net);
        for (int run = 0; run < 3; run++) {
            Tensor *y = plan_run(&cx, plan, sn_forward, &net, in);
            check(y != NULL, "%.400s", err.msg);
            check(!memcmp(y->d, eager->d, bytes) && !memcmp(y->d, first, bytes), "run %d on %d threads", run,
                  threads);
        }
        plan_free(plan), close_all();
    }
}

static void a_plan_follows_its_inputs_to_other_memory(void **state)
{
    (void)state;
    open_all(2);
    Plan *plan = make(sn_forward, &net);
    SnData *other = malloc(sizeof *other);
    for (size_t i = 0; i < sizeof *other / sizeof(float); i++)
        ((float *)other)[i] = 0.5f * ((float *)&data)[i] + 0.1f;
    cx_reset(&cx);
    sn_inputs(&cx, other, SN_H, SN_W, in);
    Tensor *eager = sn_forward(&cx, &net, in), *y = plan_run(&cx, plan, sn_forward, &net, in);
    check(eager && y && !memcmp(y->d, eager->d, tensor_bytes(y)), "%.400s", err.msg);
    free(other), plan_free(plan), close_all();
}

static void a_dry_run_needs_neither_inputs_nor_weights(void **state)
{
    (void)state;
    open_all(2);
    Plan *plan = make(sn_forward, &net);
    float *own[SN_LEAVES];
    for (int i = 0; i < net.n_leaves; i++)
        own[i] = net.leaf[i]->own, net.leaf[i]->own = NULL;
    sn_inputs(&cx, NULL, SN_H, SN_W, in);
    Plan *blind = make(sn_forward, &net);
    check(plan_flops(blind) == plan_flops(plan), "%g and %g FLOPs", plan_flops(blind), plan_flops(plan));
    check(blind->n_steps == plan->n_steps && blind->bytes, "%d and %d calls", blind->n_steps, plan->n_steps);
    check(!plan_run(&cx, blind, sn_forward, &net, in), "ran without inputs");
    check_fails(err.code, GIMBAL_EMODEL, err, "act: input [2,8] has no data");
    sn_inputs(&cx, &data, SN_H, SN_W, in);
    check(!plan_run(&cx, blind, sn_forward, &net, in), "ran without weights");
    check_fails(err.code, GIMBAL_EMODEL, err, "conv_in.weight has no data");
    for (int i = 0; i < net.n_leaves; i++)
        net.leaf[i]->own = own[i];
    plan_free(plan), plan_free(blind), close_all();
}

/* ---- what differs is refused ------------------------------------------------------------- */

typedef struct {
    int variant;
    Weight *a, *b;
} Fickle;

/* A graph that is not the same every time. */
static Tensor *fickle(Cx *c, void *self, Tensor **x)
{
    Fickle *f = self;
    Tensor *p = op_act(c, x[0], f->variant == 1 ? ACT_GELU : ACT_SILU), *q = op_act(c, x[0], ACT_GELU);
    Tensor *h = op_conv2d(c, f->variant == 2 ? q : p, f->variant == 3 ? f->b : f->a, f->variant == 4 ? 2 : 1,
                          sn_same, (Epi){0});
    if (f->variant == 5)
        return h;
    h = op_add(c, h, h);
    return f->variant == 6 ? op_add(c, h, h) : h;
}

static void a_call_that_differs_from_the_plan_is_an_error_naming_both(void **state)
{
    (void)state;
    static const char *const says[][3] = {
        {"call 0 differs from the plan in its attributes", "planned act", "met act"},
        {"call 2 differs from the plan in its flow of data", "planned conv2d", "met conv2d"},
        {"call 2 differs from the plan in its weight", "first.conv1.weight", "first.conv2.weight"},
        {"call 2 differs from the plan in its shapes", "planned conv2d", "met conv2d"},
        {"call 3 differs from the plan in its number of calls", "planned add", "met nothing"},
        {"call 4 differs from the plan in its number of calls", "planned nothing more", "met add"},
    };
    open_all(2);
    const int64_t n[4] = {SN_CLIPS * SN_FRAMES, SN_H, SN_W, SN_C};
    in[0] = tensor_input(&cx, F32, 4, n, data.x);
    Fickle f = {0, &net.first.conv1[0], &net.first.conv2[0]};
    Plan *plan = make(fickle, &f);
    for (int k = 0; k < COUNT(says); k++) {
        f.variant = k + 1;
        check(!plan_run(&cx, plan, fickle, &f, in), "variant %d ran", k + 1);
        check(err.code == GIMBAL_EMODEL, "variant %d: code %d", k + 1, err.code);
        for (int i = 0; i < 3; i++)
            check(strstr(err.msg, says[k][i]) != NULL, "\"%.400s\" lacks \"%s\"", err.msg, says[k][i]);
        memset(&err, 0, sizeof err);
    }
    f.variant = 0;
    check(plan_run(&cx, plan, fickle, &f, in) != NULL, "%.400s", err.msg);
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){3, SN_H, 2 * SN_W, SN_C}, data.x);
    check(!plan_run(&cx, plan, fickle, &f, in), "another shape ran");
    check_fails(err.code, GIMBAL_EMODEL, err, "met act [3,5,6,4]");
    plan_free(plan), close_all();
}

static void too_little_memory_is_refused_with_both_numbers(void **state)
{
    (void)state;
    char need[32];
    open_all(2);
    Plan *plan = make(sn_forward, &net);
    snprintf(need, sizeof need, "%zu bytes", plan_bytes(plan));
    cx.work_bytes--;
    check(!plan_run(&cx, plan, sn_forward, &net, in), "ran");
    check_fails(err.code, GIMBAL_ENOMEM, err, need);
    plan_free(plan), close_all();
}

static Tensor *first_result; /* a tensor of another plan */

static Tensor *uses_first_result(Cx *c, void *self, Tensor **x)
{
    (void)self;
    return op_add(c, x[0], first_result);
}

static void a_tensor_of_another_plan_is_refused(void **state)
{
    (void)state;
    open_all(2);
    Plan *plan = make(sn_forward, &net);
    first_result = plan_run(&cx, plan, sn_forward, &net, in);
    check(!plan_make(&cx, uses_first_result, NULL, in), "planned");
    check_fails(err.code, GIMBAL_EMODEL, err, "another plan made");
    plan_free(plan), close_all();
}

/* ---- memory ------------------------------------------------------------------------------ */

/* A U of `depth` levels with `width` calls on each, skips across: lives as in a U-Net. in: x [N,H,W,C] */
typedef struct {
    int depth, width;
} Shape;

static Tensor *u_shape(Cx *c, void *self, Tensor **x)
{
    const Shape *s = self;
    Tensor *h = x[0], *skip[64];
    int n = 0;
    for (int d = 0; d < s->depth; d++) {
        for (int i = 0; i < s->width && h; i++) {
            Tensor *wide = op_concat(c, op_concat(c, op_act(c, h, ACT_SILU), h), h);
            h = skip[n++] = op_add(c, op_channels(c, wide, 0, tensor_channels(h)), h);
        }
        if (h)
            h = op_concat(c, op_resize(c, h, (h->n[1] + 1) / 2, (h->n[2] + 1) / 2),
                          op_resize(c, h, (h->n[1] + 1) / 2, (h->n[2] + 1) / 2));
    }
    for (int d = s->depth; d > 0 && h; d--) {
        h = op_resize(c, h, skip[n - 1]->n[1], skip[n - 1]->n[2]);
        for (int i = 0; i < s->width && h; i++) {
            Tensor *both = op_concat(c, h, skip[--n]);
            h = op_add(c, op_channels(c, op_act(c, both, ACT_GELU), 0, tensor_channels(skip[n])), skip[n]);
        }
    }
    return h;
}

static void memory_is_close_to_what_lives_at_once_and_overlaps_nowhere(void **state)
{
    (void)state;
    static const Shape shapes[] = {{1, 2}, {2, 3}, {3, 2}, {4, 3}, {5, 4}};
    open_all(1);
    for (int k = 0; k < COUNT(shapes); k++) {
        Shape s = shapes[k];
        in[0] = tensor_input(&cx, F32, 4, (int64_t[]){3, 67, 45, 7}, NULL);
        Plan *p = plan_make(&cx, u_shape, &s, in);
        check(p != NULL, "%.400s", err.msg);
        check(p->bytes >= p->bound && (double)p->bytes <= 1.04 * (double)p->bound,
              "%d levels of %d: %zu bytes for a bound of %zu", s.depth, s.width, p->bytes, p->bound);
        for (int i = 0; i < p->n_slots; i++)
            for (int j = 0; j < i; j++) {
                const Slot *a = &p->slot[i], *b = &p->slot[j];
                const bool together = a->first <= b->last && b->first <= a->last;
                const bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
                check(!together || apart, "slots %d and %d share bytes", i, j);
            }
        plan_free(p);
    }
    close_all();
}

static void thousands_of_calls_are_planned_in_a_moment(void **state)
{
    (void)state;
    open_all(1);
    Shape s = {6, 10};
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){2, 128, 64, 8}, NULL);
    const clock_t start = clock(); /* of the processor: other programs may be running */
    for (int i = 0; i < 10; i++) {
        Plan *p = plan_make(&cx, u_shape, &s, in);
        check(p && p->n_steps > 400, "%.400s", err.msg);
        plan_free(p);
    }
    const double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    check(took < 5, "10 plans took %.1f s", took);
    close_all();
}

static Tensor *peeked[2];

/* A view outlives the name of its base: a long chain of other tensors lies between. */
static Tensor *views(Cx *c, void *self, Tensor **x)
{
    (void)self;
    Tensor *base = op_act(c, x[0], ACT_SILU), *dead = op_act(c, x[0], ACT_GELU);
    Tensor *half = op_channels(c, op_view(c, base, 3, (int64_t[]){SN_CLIPS * SN_FRAMES, SN_H * SN_W, SN_C}),
                               1, 2),
           *h = dead;
    for (int i = 0; i < 5; i++)
        h = op_act(c, h, ACT_SILU);
    h = op_channels(c, op_view(c, h, 3, (int64_t[]){SN_CLIPS * SN_FRAMES, SN_H * SN_W, SN_C}), 0, 2);
    peeked[0] = base, peeked[1] = dead;
    return op_add(c, half, h);
}

static void views_keep_their_base_alive_and_dead_tensors_read_as_nan(void **state)
{
    (void)state;
    open_all(2);
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){SN_CLIPS * SN_FRAMES, SN_H, SN_W, SN_C}, data.x);
    Tensor *eager = views(&cx, NULL, in);
    Plan *plan = make(views, NULL);
    Tensor *y = plan_run(&cx, plan, views, NULL, in);
    check(y && !memcmp(y->d, eager->d, tensor_bytes(y)), "%.400s", err.msg);
    check(tensor_finite(y) && !tensor_finite(peeked[0]) && !tensor_finite(peeked[1]),
          "the dead were not poisoned");
    plan_free(plan), close_all();
}

static Tensor *view_result(Cx *c, void *self, Tensor **x)
{
    (void)self;
    Tensor *h = op_act(c, x[0], ACT_SILU);
    op_act(c, h, ACT_SILU); /* a call behind the last use of h */
    return op_channels(c, h, 1, 2);
}

static void a_result_that_is_a_view_lives_to_the_end(void **state)
{
    (void)state;
    open_all(2);
    Tensor *eager = view_result(&cx, NULL, in);
    Plan *plan = make(view_result, NULL);
    Tensor *y = plan_run(&cx, plan, view_result, NULL, in);
    check(y && y->ld == SN_IN && tensor_channels(y) == 2, "%.400s", err.msg);
    for (int64_t r = 0; r < tensor_rows(y); r++)
        check(!memcmp(row_at(y, r), row_at(eager, r), 2 * sizeof(float)), "row %d", (int)r);
    plan_free(plan), close_all();
}

/* ---- errors ------------------------------------------------------------------------------ */

static void the_first_error_stays_and_every_later_op_gives_nothing(void **state)
{
    (void)state;
    open_all(2);
    Tensor *h = op_conv2d(&cx, in[0], &net.first.conv1[0], 1, sn_same, (Epi){0});
    check(!h && strstr(err.msg,
                       "conv2d first.conv1.weight: x [6,5,3,3] has 3 channels, weight [4,4,3,3] expects 4"),
          "%.400s", err.msg);
    const gimbal_error first = err;
    h = op_add(&cx, h, in[0]);
    h = op_norm(&cx, h, &net.norm[0], &net.norm[1], (NormArg){0});
    check(!h && !op_act(&cx, in[0], ACT_SILU) && !op_view(&cx, in[0], 1, (int64_t[]){1}) &&
              !sn_forward(&cx, &net, in),
          "an op worked after the error");
    check(!memcmp(&first, &err, sizeof err), "the message became: %.400s", err.msg);
    check(!plan_make(&cx, sn_forward, &net, in), "planned after an error");
    close_all();
}

static void fronts_say_what_does_not_fit(void **state)
{
    (void)state;
    open_all(2);
    const int wide[4] = {0, 0, 0, 0};
    Weight *w = &net.in[0], *lin = &net.attn.out1[0];
    const AttnArg arg = {.heads = 2, .frames = SN_FRAMES};
    Tensor *x4 = tensor_input(&cx, F32, 4, (int64_t[]){6, 2, 2, 3}, data.x),
           *ids = tensor_input(&cx, I32, 1, (int64_t[]){3}, data.x);
    Tensor *q = tensor_input(&cx, F32, 3, (int64_t[]){6, 5, 4}, data.x),
           *k = tensor_input(&cx, F32, 3, (int64_t[]){3, 5, 4}, data.x);
#define REFUSED(call, text)                                                                                  \
    do {                                                                                                     \
        check(!(call), "%s was accepted", #call);                                                            \
        check_fails(err.code, GIMBAL_EMODEL, err, text);                                                     \
    } while (0)
    REFUSED(op_conv2d(&cx, x4, w, 1, wide, (Epi){0}), "too small");
    REFUSED(op_conv2d(&cx, in[0], w, 0, sn_same, (Epi){0}), "stride 0");
    REFUSED(op_conv2d(&cx, in[0], w, 1, sn_same, (Epi){.add = x4}),
            "addition [6,2,2,3] does not fit result [6,5,3,4]");
    REFUSED(op_conv2d(&cx, in[0], w, 1, sn_same, (Epi){.bias = &net.tqkv[1]}),
            "tqkv.bias has shape [12], expected [4]");
    REFUSED(op_conv2d(&cx, in[0], w, 1, sn_same, (Epi){.row = q, .row_per = 1}), "row addition");
    REFUSED(op_linear(&cx, in[0], lin, (Epi){0}), "linear attn.out1.weight: x [6,5,3,3] has 3 channels");
    REFUSED(op_linear(&cx, in[0], w, (Epi){0}), "neither [O,I] nor [O,I,1,1]");
    REFUSED(op_norm(&cx, q, &net.norm[0], &net.norm[1], (NormArg){.groups = 3, .per = 1}), "3 groups");
    REFUSED(op_norm(&cx, q, &net.norm[0], &net.norm[1], (NormArg){.groups = 2, .per = 4}), "4 frames");
    REFUSED(op_norm(&cx, in[0], &net.norm[0], &net.norm[1], (NormArg){0}),
            "norm_out.weight has shape [4], expected [3]");
    REFUSED(op_attention(&cx, q, &(Kv){k, k, KV_SELF}, 1, arg), "one set per frame");
    REFUSED(op_attention(&cx, q, &(Kv){q, q, KV_CLIP}, 1, arg), "one set per clip");
    REFUSED(op_attention(&cx, q, &(Kv){q, k, KV_SELF}, 1, arg), "differ in shape");
    REFUSED(op_attention(&cx, q, &(Kv){q, q, KV_SELF}, 1, (AttnArg){.heads = 3, .frames = 3}), "3 heads");
    REFUSED(op_attention(&cx, q, &(Kv){q, q, KV_SELF}, 1, (AttnArg){.heads = 1, .frames = 4}), "4 frames");
    REFUSED(op_act(&cx, in[0], ACT_GEGLU), "even number");
    REFUSED(op_add(&cx, in[0], x4), "[6,5,3,3] and [6,2,2,3] differ");
    REFUSED(op_add(&cx, ids, ids), "type I32");
    REFUSED(op_rows(&cx, q, in[1], 1), "do not fit");
    REFUSED(op_concat(&cx, in[0], x4), "channels only");
    REFUSED(op_resize(&cx, in[0], 0, 4), "0x4");
    REFUSED(op_embed(&cx, &net.table, NULL, 4), "4 rows asked of table [3,4]");
    REFUSED(op_embed(&cx, &net.table, q, 3), "expected I32 [3]");
    REFUSED(op_mse(&cx, in[0], x4), "differ in shape");
    REFUSED(op_view(&cx, in[0], 1, (int64_t[]){7}), "270 elements");
    REFUSED(op_view(&cx, op_channels(&cx, in[0], 0, 2), 2, (int64_t[]){45, 4}), "must keep its 2 channels");
    REFUSED(op_channels(&cx, in[0], 2, 2), "do not lie in");
    REFUSED(tensor_input(&cx, F32, 3, (int64_t[]){1 << 30, 1 << 30, 4}, NULL), "cannot be");
    REFUSED(tensor_input(&cx, F32, 2, (int64_t[]){-1, 4}, NULL), "cannot be");
    REFUSED(op_add(&cx, in[0], NULL), "input 2 of 2 is missing");
    close_all();
}

static Tensor *nothing(Cx *c, void *self, Tensor **x)
{
    (void)c, (void)self, (void)x;
    return NULL;
}

static void a_graph_without_a_result_is_an_error(void **state)
{
    (void)state;
    open_all(2);
    check(!plan_make(&cx, nothing, NULL, in), "planned");
    check_fails(err.code, GIMBAL_EMODEL, err, "no result");
    close_all();
}

static atomic_int stop;
static int calls_made;

/* Cancels in the middle. */
static Tensor *interrupted(Cx *c, void *self, Tensor **x)
{
    (void)self;
    Tensor *h = x[0];
    for (int i = 0; i < 6 && h; i++) {
        if (i == 3 && c->mode == RUN)
            atomic_store(&stop, 1);
        h = op_act(c, h, ACT_SILU);
        calls_made += h && c->mode == RUN;
    }
    return h;
}

static void a_cancelled_run_stops_between_two_calls_and_can_be_run_again(void **state)
{
    (void)state;
    open_all(2);
    cx.cancel = &stop;
    Plan *plan = make(interrupted, NULL);
    check(!plan_run(&cx, plan, interrupted, NULL, in) && calls_made == 3, "%d calls were made", calls_made);
    check_fails(err.code, GIMBAL_ECANCEL, err, "cancelled");
    check(!plan_run(&cx, plan, interrupted, NULL, in), "ran while cancelled");
    check_fails(err.code, GIMBAL_ECANCEL, err, "cancelled");
    atomic_store(&stop, 0);
    cx.cancel = NULL;
    check(plan_run(&cx, plan, interrupted, NULL, in) != NULL, "%.400s", err.msg);
    plan_free(plan), close_all();
}

static void values_that_turn_non_finite_name_the_layer_where_they_began(void **state)
{
    (void)state;
    open_all(2);
    Plan *plan = make(sn_forward, &net);
    float *bad = &net.attn.k[0].own[2], kept = *bad;
    *bad = NAN;
    check(!plan_run(&cx, plan, sn_forward, &net, in), "ran");
    check(strstr(err.msg, "attn.k: values") && strstr(err.msg, "own attn.k.weight is not finite"), "%.400s",
          err.msg);
    check_fails(err.code, GIMBAL_EVALUE, err, "--cfg");
    *bad = kept;
    data.x[4] = INFINITY;
    check(!plan_run(&cx, plan, sn_forward, &net, in), "ran");
    check_fails(err.code, GIMBAL_EVALUE, err,
                "conv_in: values turned non-finite (conv2d [6,5,3,4], call 1); its input");
    data.x[4] = 0;
    check(!cx.watch && plan_run(&cx, plan, sn_forward, &net, in), "%.400s", err.msg);
    plan_free(plan), close_all();
}

static void overflow_in_an_op_without_weights_is_placed_behind_the_last_weight(void **state)
{
    (void)state;
    open_all(2);
    Fickle f = {0, &net.first.conv1[0], NULL};
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){6, SN_H, SN_W, SN_C}, data.x);
    for (int i = 0; i < weight_count(f.a); i++)
        f.a->own[i] = 2e38f;
    for (int i = 0; i < COUNT(data.x); i++)
        data.x[i] = 0.5f;
    Plan *plan = make(fickle, &f);
    f.a->own[0] = 2e38f;
    for (int i = 0; i < weight_count(f.a); i++)
        f.a->own[i] = i % 36 ? 0 : 3e38f; /* one tap: x * 3e38 is finite, twice that is not */
    for (int i = 0; i < COUNT(data.x); i++)
        data.x[i] = 1.1f;
    check(!plan_run(&cx, plan, fickle, &f, in), "ran");
    check_fails(err.code, GIMBAL_EVALUE, err,
                "add: values turned non-finite (add [6,5,3,4], call 3 after first.conv1.weight)");
    plan_free(plan), close_all();
}

/* ---- cost -------------------------------------------------------------------------------- */

static void flops_and_packed_bytes_are_counted_once_each(void **state)
{
    (void)state;
    open_all(2);
    Fickle f = {6, &net.first.conv1[0], NULL};
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){6, SN_H, SN_W, SN_C}, data.x);
    Plan *p = make(fickle, &f);
    const double values = 6.0 * SN_H * SN_W * SN_C;
    check_near(plan_flops(p), values * (2 * 8 + 2 * 9 * SN_C + 2), 0, "FLOPs");
    check(plan_bound(p) >= 2 * 4 * (size_t)values, "bound of %zu bytes", plan_bound(p));
    plan_free(p), close_all();
}

static void predicted_time_is_near_the_measured_one_and_leaves_everything_as_it_was(void **state)
{
    (void)state;
    open_all(1);
    in[0] = tensor_input(&cx, F32, 4, (int64_t[]){6, 16, 14, SN_IN}, data.x);
    Plan *p = make(sn_forward, &net);
    memset(cx.work, 0x55, cx.work_bytes);
    float grad = net.in[0].grad[3] = 5;
    const double predicted = plan_seconds(&cx, p, 0.5);
    for (size_t i = 0; i < cx.work_bytes; i++)
        check(cx.work[i] == 0x55, "byte %zu of the working memory was touched", i);
    check(net.in[0].grad[3] == grad && !err.code, "%.400s", err.msg);
    double least = 1e9;
    for (int i = 0; i < 20; i++) {
        const double start = seconds_now();
        check(plan_run(&cx, p, sn_forward, &net, in) != NULL, "%.400s", err.msg);
        least = MIN(least, seconds_now() - start);
    }
    check(predicted > 0.2 * least && predicted < 5 * least, "predicted %.3g s, took %.3g s", predicted,
          least);
    const double blind = plan_seconds(&cx, p, 0);
    check(blind > 0 && blind < 10, "without timing: %g s", blind);
    plan_free(p), close_all();
}

static void the_table_has_a_line_per_distinct_call_and_respects_its_room(void **state)
{
    (void)state;
    open_all(2);
    Plan *p = make(sn_forward, &net);
    char text[8192], cut[40];
    const int n = plan_print(p, text, sizeof text), m = plan_print(p, cut, sizeof cut);
    check(n == (int)strlen(text) && m == n && strlen(cut) == sizeof cut - 1, "%d, %d letters", n, m);
    check(strstr(text, "conv2d [6,5,3,4]x[4,4,3,3]") && strstr(text, "attention [6,15,4]") &&
              strstr(text, "GFLOP\n"),
          "%.400s", text);
    double last = INFINITY;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const double flops = atof(strstr(line, "x ") + 2);
        check(flops <= last * 1.01, "not dearest first: %s", line);
        last = flops;
    }
    plan_free(p), close_all();
}

TESTS(a_planned_run_has_the_bits_of_the_eager_one_every_time_on_any_thread_count,
      a_plan_follows_its_inputs_to_other_memory, a_dry_run_needs_neither_inputs_nor_weights,
      a_call_that_differs_from_the_plan_is_an_error_naming_both,
      too_little_memory_is_refused_with_both_numbers, a_tensor_of_another_plan_is_refused,
      memory_is_close_to_what_lives_at_once_and_overlaps_nowhere, thousands_of_calls_are_planned_in_a_moment,
      views_keep_their_base_alive_and_dead_tensors_read_as_nan, a_result_that_is_a_view_lives_to_the_end,
      the_first_error_stays_and_every_later_op_gives_nothing, fronts_say_what_does_not_fit,
      a_graph_without_a_result_is_an_error, a_cancelled_run_stops_between_two_calls_and_can_be_run_again,
      values_that_turn_non_finite_name_the_layer_where_they_began,
      overflow_in_an_op_without_weights_is_placed_behind_the_last_weight,
      flops_and_packed_bytes_are_counted_once_each,
      predicted_time_is_near_the_measured_one_and_leaves_everything_as_it_was,
      the_table_has_a_line_per_distinct_call_and_respects_its_room)
