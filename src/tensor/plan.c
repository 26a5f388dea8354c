/* plan.c: the dry run, lifetimes, and the replay.
 *
 *     dry    every call becomes a step: kernel chosen, result and scratch become slots, inputs live on
 *     pack   slots that live at the same time get disjoint bytes of one block (pack.c)
 *     run    step k of the run must be step k of the plan; its kernel runs at its place
 *
 * A slot lives over steps [first, last], through all views of it. plan_bound, the largest sum of bytes alive
 * at one step, is what no packing beats.
 *
 * Compiled with GIMBAL_POISON, every slot is filled with NaNs once it is dead, so that a wrong lifetime
 * shows.
 *
 * Knows calls and bytes. Refuses to know what operators compute. */
#include "tensor/core.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* An input of the graph that got a gradient in the current run. */
typedef struct Fed {
    Tensor *t;
    struct Fed *next;
} Fed;

struct Plan {
    Arena kept, headers; /* headers of the dry run, kept for the steps; headers of the current run */
    Step *step;
    Slot *slot;
    int n_steps, room_steps, n_slots, room_slots;
    size_t bytes, bound;
    bool bf16; /* the context's when it was planned: kernels were chosen for it */
    Fed *fed;
    int at;               /* the run's next step */
    const Weight *weight; /* last one met in the run */
};

/* ---- dry run ----------------------------------------------------------------------------- */

/* Room for one more of `size` bytes in a list that doubles. */
static bool grow(void **list, int n, int *room, size_t size)
{
    if (n < *room)
        return true;
    const int more = *room ? *room * 2 : 256;
    void *larger = realloc(*list, (size_t)more * size);
    if (!larger)
        return false;
    *list = larger, *room = more;
    return true;
}

/* A new slot that lives at the current step, or -1. */
static int slot_add(Plan *p, size_t bytes, const Tensor *t)
{
    if (!grow((void **)&p->slot, p->n_slots, &p->room_slots, sizeof *p->slot))
        return -1;
    bytes = (bytes + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    p->slot[p->n_slots] = (Slot){.bytes = bytes, .first = p->n_steps, .last = p->n_steps, .tensor = t};
    return p->n_slots++;
}

/* Where t's memory is planned; NULL for inputs. */
static Slot *slot_of(Plan *p, const Tensor *t)
{
    const Tensor *o = t ? owner(t) : NULL;
    return o && o->id >= 0 && o->id < p->n_slots && p->slot[o->id].tensor == o ? &p->slot[o->id] : NULL;
}

static void slot_use(Plan *p, const Tensor *t)
{
    Slot *s = slot_of(p, t);
    if (s)
        s->last = MAX(s->last, p->n_steps);
}

/* Lives to the end of the run: the result, and gradients that a caller asked for. */
static void slot_hold(Plan *p, const Tensor *t)
{
    Slot *s = slot_of(p, t);
    if (s)
        s->last = INT_MAX;
}

/* Whether all tensors of the call are inputs or this plan's own. */
static bool all_ours(Plan *p, const Call *c)
{
    Tensor *in[CALL_TENSORS];
    for (int i = call_tensors(c, in) - 1; i >= 0; i--)
        if (owner(in[i])->id >= 0 && !slot_of(p, in[i]))
            return false;
    return true;
}

static void use_all(Plan *p, const Call *c, Way way)
{
    Tensor *in[CALL_TENSORS];
    const int n = call_tensors(c, in);
    const int reads = way == BACKWARD ? backward_reads(c->op) : READS_IN;
    for (int i = 0; i < n; i++) {
        if (reads & READS_IN)
            slot_use(p, in[i]);
        if (way == BACKWARD && call_grows(c, in[i]))
            slot_use(p, owner(in[i])->grad);
    }
    if (way == BACKWARD) {
        if (reads & READS_OUT)
            slot_use(p, c->out);
        slot_use(p, owner(c->out)->grad);
    }
}

/* The plan outlives the graph's inputs: their headers are copied, gradients and data do not matter. */
static bool keep_tensor(Plan *p, Tensor **t, bool always)
{
    if (!*t || ((*t)->id >= 0 && !always))
        return true;
    Tensor *copy = arena_alloc(&p->kept, sizeof *copy);
    if (!copy)
        return false;
    *copy = **t;
    copy->grad = NULL;
    *t = copy;
    return keep_tensor(p, &copy->base, false);
}

static bool keep_call(Plan *p, Call *c, Way way)
{
    /* a gradient's header may lie beside the input that it belongs to */
    bool ok = keep_tensor(p, &c->out, way == GRADIENT) && keep_tensor(p, &c->epi.row, false) &&
              keep_tensor(p, &c->epi.add, false);
    for (int i = 0; i < c->n_in; i++)
        ok = ok && keep_tensor(p, &c->in[i], false);
    return ok;
}

/* Writes the call down as the plan's next step. */
static int note(Cx *cx, Call *c, Way way)
{
    Plan *p = cx->plan;
    Step s = {.way = way, .out = -1, .scratch = -1};
    if (!all_ours(p, c)) {
        cx_fail(cx, GIMBAL_EMODEL,
                "%s: given a tensor that another plan made; wrap its data with tensor_input", op_name(c->op));
        return GIMBAL_EMODEL;
    }
    if (way != GRADIENT && !(s.backend = call_choose(cx, c, way == BACKWARD)))
        return cx->err->code;
    bool ok = grow((void **)&p->step, p->n_steps, &p->room_steps, sizeof *p->step);
    if (ok && way != BACKWARD)
        ok = (s.out = c->out->id = slot_add(p, tensor_bytes(c->out), c->out)) >= 0;
    if (ok && c->scratch)
        ok = (s.scratch = slot_add(p, c->scratch, NULL)) >= 0;
    if (ok) {
        use_all(p, c, way);
        s.call = *c;
        ok = keep_call(p, &s.call, way);
    }
    if (!ok) {
        cx_fail(cx, GIMBAL_ENOMEM, "no memory to plan %d calls", p->n_steps + 1);
        return GIMBAL_ENOMEM;
    }
    p->step[p->n_steps++] = s;
    return GIMBAL_OK;
}

/* ---- making and freeing ------------------------------------------------------------------ */

/* Whoever made the inputs keeps them; gradients they got belong to the plan. */
static void forget_fed(Plan *p)
{
    for (Fed *f = p->fed; f; f = f->next)
        f->t->grad = NULL;
    p->fed = NULL;
}

Plan *plan_make(Cx *cx, Graph graph, void *self, Tensor **in)
{
    if (halted(cx))
        return NULL;
    Plan *p = calloc(1, sizeof *p);
    if (!p)
        return cx_fail(cx, GIMBAL_ENOMEM, "no memory for a plan");
    p->bf16 = cx->bf16;
    if (cx->tape)
        tape_clear(cx->tape);
    cx->plan = p, cx->mode = DRY;
    Tensor *result = graph(cx, self, in);
    cx->plan = NULL, cx->mode = EAGER;
    if (cx->tape)
        tape_clear(cx->tape); /* its nodes are of the dry run */
    forget_fed(p);
    if (!result)
        cx_fail(cx, GIMBAL_EMODEL, "the graph gave no result");
    slot_hold(p, result);
    if (!cx_failed(cx) && !pack_slots(p->slot, p->n_slots, p->n_steps, &p->bytes, &p->bound))
        cx_fail(cx, GIMBAL_ENOMEM, "no memory to pack %d tensors", p->n_slots);
    if (!cx_failed(cx))
        return p;
    plan_free(p);
    return NULL;
}

void plan_free(Plan *p)
{
    if (!p)
        return;
    arena_free(&p->kept);
    arena_free(&p->headers);
    free(p->step), free(p->slot); /* lists that grew by realloc */
    free(p);
}

Arena *plan_headers(Cx *cx)
{
    return cx->mode == DRY ? &cx->plan->kept : cx->mode == RUN ? &cx->plan->headers : &cx->headers;
}

bool plan_fed(const Plan *p, const Tensor *t)
{
    for (const Fed *f = p->fed; f; f = f->next)
        if (f->t == t)
            return true;
    return false;
}

int plan_feed(Cx *cx, Tensor *t)
{
    Plan *p = cx->plan;
    Fed *f = arena_alloc(plan_headers(cx), sizeof *f);
    if (!f) {
        cx_fail(cx, GIMBAL_ENOMEM, "no memory for a gradient's header");
        return GIMBAL_ENOMEM;
    }
    *f = (Fed){t, p->fed};
    p->fed = f;
    if (cx->mode == DRY)
        slot_hold(p, t->grad);
    return GIMBAL_OK;
}

/* ---- numbers of a plan ------------------------------------------------------------------- */

size_t plan_bytes(const Plan *p)
{
    return p->bytes;
}

size_t plan_bound(const Plan *p)
{
    return p->bound;
}

double plan_flops(const Plan *p)
{
    double sum = 0;
    for (int i = 0; i < p->n_steps; i++)
        sum += p->step[i].call.flops;
    return sum;
}

int plan_learnt(const Plan *p, const Weight *weight)
{
    Weight *w[CALL_WEIGHTS];
    for (int i = p->n_steps - 1; i >= 0 && weight->trainable; i--)
        if (p->step[i].way == BACKWARD)
            for (int k = call_weights(&p->step[i].call, w) - 1; k >= 0; k--)
                if (w[k] == weight)
                    return i;
    return -1;
}

bool plan_bf16(const Plan *p)
{
    return p->bf16;
}

void plan_forget_times(Plan *p)
{
    for (int i = 0; i < p->n_steps; i++)
        p->step[i].seconds = 0, p->step[i].runs = 0;
}

int plan_steps(const Plan *p, const Step **steps)
{
    *steps = p->step;
    return p->n_steps;
}

/* ---- run --------------------------------------------------------------------------------- */

static int differs(Cx *cx, const char *what, const Step *planned, const Call *met, Way way)
{
    char want[256] = "nothing more", have[256] = "nothing";
    if (planned)
        call_text(&planned->call, planned->way, want, sizeof want);
    if (met)
        call_text(met, way, have, sizeof have);
    return fail_hint(cx->err, GIMBAL_EMODEL,
                     "the shapes or the network changed since plan_make, or the model's code looked at data",
                     "call %d differs from the plan in its %s: planned %s, met %s", cx->plan->at, what, want,
                     have);
}

/* Step k of the plan, if this call is it. */
static const Step *expected(Cx *cx, const Call *c, Way way)
{
    const Plan *p = cx->plan;
    const Step *s = p->at < p->n_steps ? &p->step[p->at] : NULL;
    const char *diff = !s              ? "number of calls"
                       : s->way != way ? "direction"
                                       : call_difference(&s->call, c, true);
    if (!diff)
        return s;
    differs(cx, diff, s, c, way);
    return NULL;
}

#ifdef GIMBAL_POISON
static void poison_bytes(char *at, size_t bytes)
{
    memset(at, 0xff, bytes); /* every float a NaN */
}

/* Slots whose last use was the step just run. */
static void poison_dead(Cx *cx, int step)
{
    const Plan *p = cx->plan;
    for (int i = 0; i < p->n_slots; i++)
        if (p->slot[i].last == step)
            poison_bytes(cx->work + p->slot[i].offset, p->slot[i].bytes);
}
#else
#define poison_bytes(at, bytes) ((void)0)
#define poison_dead(cx, step) ((void)0)
#endif

static int replay(Cx *cx, Call *c, Way way)
{
    Plan *p = cx->plan;
    const Step *s = expected(cx, c, way);
    if (!s)
        return cx->err->code;
    if (s->out >= 0) {
        c->out->d = cx->work + p->slot[s->out].offset;
        c->out->id = s->out;
    }
    c->scratch = s->call.scratch;
    c->tmp = s->scratch >= 0 ? cx->work + p->slot[s->scratch].offset : NULL;
    if (c->w[0])
        p->weight = c->w[0];
    const double start = seconds_now();
    if (way == GRADIENT)
        memset(c->out->d, 0, tensor_bytes(c->out));
    else
        TRY((way == BACKWARD ? s->backend->backward : s->backend->forward)[c->op](cx, c));
    p->step[p->at].seconds += seconds_now() - start;
    p->step[p->at].runs++;
    if (way == FORWARD)
        TRY(call_watch(cx, c, p->at, p->weight));
    poison_dead(cx, p->at);
    if (cx->stepped)
        cx->stepped(cx->stepped_user, p, p->at);
    p->at++;
    return GIMBAL_OK;
}

static int eager(Cx *cx, Call *c, Way way)
{
    if (way != BACKWARD) {
        char *d = arena_alloc(&cx->eager, tensor_bytes(c->out) + SLOT_ALIGN); /* zeroed */
        if (!d) {
            cx_fail(cx, GIMBAL_ENOMEM, "no memory for a tensor %s", shape_text(c->out->nd, c->out->n).s);
            return GIMBAL_ENOMEM;
        }
        c->out->d = d + (SLOT_ALIGN - (uintptr_t)d % SLOT_ALIGN) % SLOT_ALIGN;
    }
    if (way == GRADIENT)
        return GIMBAL_OK;
    const Backend *backend = call_choose(cx, c, way == BACKWARD);
    if (!backend)
        return cx->err->code;
    TRY(call_execute(cx, backend, c, way == BACKWARD));
    return way == FORWARD ? call_watch(cx, c, -1, NULL) : GIMBAL_OK;
}

int perform(Cx *cx, Call *c, Way way)
{
    if (halted(cx))
        return cx->err->code;
    const int code = cx->mode == DRY   ? note(cx, c, way)
                     : cx->mode == RUN ? replay(cx, c, way)
                                       : eager(cx, c, way);
    if (code && !cx_failed(cx)) /* a kernel that returns a code without a message */
        cx_fail(cx, code, "%s failed", op_name(c->op));
    return code;
}

Tensor *issue(Cx *cx, Call *c)
{
    if (!c->out)
        return NULL;
    if (cx->tape || cx->in_block) {
        Tensor *in[CALL_TENSORS];
        Weight *w[CALL_WEIGHTS];
        for (int i = call_tensors(c, in) - 1; i >= 0; i--)
            c->out->need_grad |= call_grows(c, in[i]);
        for (int i = call_weights(c, w) - 1; i >= 0; i--)
            c->out->need_grad |= w[i]->trainable;
    }
    if (perform(cx, c, FORWARD))
        return NULL;
    if (cx->tape && c->out->need_grad && tape_record(cx, c))
        return NULL;
    return c->out;
}

/* One replay of the whole plan. */
static Tensor *run_once(Cx *cx, Plan *p, Graph graph, void *self, Tensor **in)
{
    arena_reset(&p->headers);
    p->at = 0, p->fed = NULL, p->weight = NULL;
    if (cx->tape)
        tape_clear(cx->tape);
    poison_bytes(cx->work, p->bytes);
    const bool bf16 = cx->bf16;
    cx->plan = p, cx->mode = RUN, cx->bf16 = p->bf16;
    Tensor *result = graph(cx, self, in);
    if (!cx_failed(cx) && p->at < p->n_steps)
        differs(cx, "number of calls", &p->step[p->at], NULL, FORWARD);
    cx->plan = NULL, cx->mode = EAGER, cx->bf16 = bf16;
    if (!cx_failed(cx) && !result)
        cx_fail(cx, GIMBAL_EMODEL, "the graph gave no result");
    return cx_failed(cx) ? NULL : result;
}

Tensor *plan_run(Cx *cx, Plan *p, Graph graph, void *self, Tensor **in)
{
    if (halted(cx))
        return NULL;
    if (p->bytes && (!cx->work || cx->work_bytes < p->bytes))
        return cx_fail(cx, GIMBAL_ENOMEM, "the plan needs %zu bytes of working memory, given are %zu",
                       p->bytes, cx->work ? cx->work_bytes : 0);
    Tensor *result = run_once(cx, p, graph, self, in);
    if (!result || tensor_finite(result))
        return result;
    cx->watch = true; /* once more, to find where it began */
    run_once(cx, p, graph, self, in);
    cx->watch = false;
    return cx_fail(cx, GIMBAL_EVALUE,
                   "the network's result is not finite, and no operator's alone is to blame");
}
