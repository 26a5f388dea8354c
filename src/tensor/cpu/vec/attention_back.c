/* attention_back.c: cuts the gradients of attention into parts (attention_back.h).
 *
 * A unit is what one thread does alone and in order: over space the queries of a frame and head, over time
 * those of a position and head, in strips as in attention.c. Its sums for keys and values lie together until
 * it is done. Then a set that is the unit's own (KV_SELF) gets them added to its gradient. Sets that other
 * units see too (KV_CLIP, KV_FIRST, KV_WINDOW) get them kept for each frame or position,
 *
 *     shared [frames or positions][keys][C]
 *
 * and when all units are done, each row of the gradient adds up what is kept for it, in order.
 *
 * Refuses to know how a part is done. */
#include "tensor/cpu/vec/attention_back.h"

typedef struct {
    const Call *call;
    const float *gy;
    float *gq; /* NULL: not wanted, as below */
    int64_t ldgy, ldgq;
    float *g[MAX_KV][2]; /* gradients of k and v of each set */
    int64_t ldg[MAX_KV][2];
    float *shared[MAX_KV][2];
    int64_t C, D, padded, keys; /* keys: of a unit, of all sets */
    float scale;
    size_t each; /* bytes of a thread's scratch */
} Job;

static bool is_wanted(const Tensor *t)
{
    return (t->base ? t->base : t)->need_grad;
}

/* Keys of one set that a unit sees at most. */
static int64_t set_keys(const Call *call, int set)
{
    if (call->a.attn.map[set] == KV_WINDOW)
        return WINDOW_KEYS;
    return call->a.attn.arg.in_time ? call->a.attn.arg.frames : call->in[1 + 2 * set]->n[1];
}

static size_t shared_bytes(const Call *call, int set)
{
    const Tensor *q = call->in[0];
    const int64_t units = call->a.attn.arg.in_time ? q->n[0] / call->a.attn.arg.frames * q->n[1] : q->n[0];
    if (call->a.attn.map[set] == KV_SELF)
        return 0;
    return round64((size_t)(units * set_keys(call, set) * tensor_channels(q)) * sizeof(float));
}

/* Room, and sums for keys and values. */
static size_t unit_bytes(const Call *call)
{
    RoomBack room;
    const int64_t D = head_width(call), keys = key_total(call);
    return VEC(furnish_back)(&room, NULL, D, keys) +
           round64((size_t)(2 * keys * padded_width(D)) * sizeof(float));
}

static size_t strip_bytes(const Call *call)
{
    const Strip s = strip_of(call);
    return (3 * strip_floats(&s, s.F) + 2 * strip_floats(&s, s.keys)) * sizeof(float);
}

static size_t thread_bytes(const Call *call)
{
    return unit_bytes(call) + (call->a.attn.arg.in_time ? strip_bytes(call) : 0);
}

size_t VEC(attention_back_scratch)(const Cx *cx, const Call *call)
{
    size_t bytes = (size_t)cx->threads * thread_bytes(call);
    for (int set = 0; set < call->a.attn.n_kv; set++)
        for (int i = 1; i <= 2; i++)
            bytes += is_wanted(call->in[2 * set + i]) ? shared_bytes(call, set) : 0;
    return bytes;
}

/* ---- a unit's keys ----------------------------------------------------------------------- */

/* Keys from the at-th of the unit on, at one head; k and v: where they lie. */
static KeysBack keys_back(const Job *job, int set, int64_t at, float *sums)
{
    return (KeysBack){.gk = job->g[set][0] ? sums + at * job->padded : NULL,
                      .gv = job->g[set][1] ? sums + (job->keys + at) * job->padded : NULL};
}

/* The sums of the key that is the at-th of the unit. */
static void store_sums(const Job *job, const float *sums, int64_t at, int which, bool add, float *to)
{
    const float *from = sums + (which * job->keys + at) * job->padded;
    const float by = which ? 1 : job->scale;
    for (int64_t c = 0; c < job->D; c += VL) {
        const int64_t n = job->D - c;
        const V sum = ld(from + c) * by;
        st_some(to + c, add ? ld_some(to + c, n) + sum : sum, n);
    }
}

/* to [n] += from */
static void add_row(const float *from, int64_t n, float *to)
{
    for (int64_t c = 0; c < n; c += VL)
        st_some(to + c, ld_some(to + c, n - c) + ld_some(from + c, n - c), n - c);
}

/* Row of a shared set that keeps what `unit` gives to key j. */
static float *shared_row(const Job *job, int set, int which, int64_t unit, int64_t j)
{
    return job->shared[set][which] + (unit * set_keys(job->call, set) + j) * job->C;
}

/* ---- over space -------------------------------------------------------------------------- */

static void store_frame(const Job *job, int64_t frame, int64_t head, const float *sums)
{
    int64_t at = 0;
    for (int set = 0; set < job->call->a.attn.n_kv; set++) {
        const int64_t count = set_keys(job->call, set);
        const bool own = job->call->a.attn.map[set] == KV_SELF;
        for (int which = 0; which < 2; which++)
            for (int64_t j = 0; job->g[set][which] && j < count; j++)
                store_sums(job, sums, at + j, which, own,
                           head * job->D +
                               (own ? job->g[set][which] + (frame * count + j) * job->ldg[set][which]
                                    : shared_row(job, set, which, frame, j)));
        at += count;
    }
}

/* Queries from `index` on of a frame and head. */
static PartBack space_part(const Job *job, int64_t frame, int64_t head, int64_t index, float *sums)
{
    const Call *call = job->call;
    const Tensor *q = call->in[0];
    const int64_t first = frame * q->n[1] + index, from = head * job->D;
    PartBack p = {.D = job->D,
                  .q = row_at(q, first) + from,
                  .y = row_at(call->out, first) + from,
                  .gy = job->gy + first * job->ldgy + from,
                  .gq = job->gq ? job->gq + first * job->ldgq + from : NULL,
                  .ldq = q->ld,
                  .ldy = call->out->ld,
                  .ldgy = job->ldgy,
                  .ldgq = job->ldgq,
                  .count = MIN(NR, q->n[1] - index),
                  .index = index,
                  .scale = job->scale,
                  .n_sets = call->a.attn.n_kv};
    int64_t at = 0;
    for (int set = 0; set < p.n_sets; set++) {
        const Tensor *k = call->in[1 + 2 * set], *v = call->in[2 + 2 * set];
        const KeyRows rows = key_rows(call, set, frame, index + p.count - 1); /* the last query sees most */
        p.set[set] = keys_back(job, set, at, sums);
        p.set[set].k = row_at(k, rows.first) + from, p.set[set].ldk = k->ld * rows.step;
        p.set[set].v = row_at(v, rows.first) + from, p.set[set].ldv = v->ld * rows.step;
        p.set[set].count = rows.count;
        p.set[set].hides = call->a.attn.arg.causal && call->a.attn.map[set] == KV_SELF;
        at += set_keys(call, set);
    }
    return p;
}

static void over_space(Cx *cx, const Job *job)
{
    const int64_t S = job->call->in[0]->n[1], heads = job->call->a.attn.arg.heads;
    PARALLEL_TILES(cx, NS_ATTENTION * job->call->flops)
    for (int64_t i = 0; i < job->call->in[0]->n[0] * heads; i++) {
        char *memory = thread_scratch(job->call, job->each);
        RoomBack room;
        float *sums = (float *)(memory + VEC(furnish_back)(&room, memory, job->D, job->keys));
        memset(sums, 0, (size_t)(2 * job->keys * job->padded) * sizeof *sums);
        PartBack next = space_part(job, i / heads, i % heads, 0, sums);
        for (int64_t index = NR; index < S + NR; index += NR) {
            PartBack now = next;
            if (index < S)
                next = space_part(job, i / heads, i % heads, index, sums), now.next = &next;
            VEC(attend_back)(&now, &room);
        }
        store_frame(job, i / heads, i % heads, sums);
    }
}

/* What frames keep for the rows of a set that their clip shares. */
static void collect_frames(Cx *cx, const Job *job, int set, int which)
{
    const int64_t F = job->call->a.attn.arg.frames, L = set_keys(job->call, set), C = job->C;
    const int64_t apart = job->call->a.attn.map[set] == KV_CLIP ? L : F * L; /* rows from clip to clip */
    const int64_t clips = job->call->in[0]->n[0] / F;
    PARALLEL_FOR(cx, NS_MOVE * (double)(clips * F * L * C))
    for (int64_t i = 0; i < clips * L; i++) {
        float *to = job->g[set][which] + (i / L * apart + i % L) * job->ldg[set][which];
        for (int64_t f = 0; f < F; f++)
            add_row(shared_row(job, set, which, i / L * F + f, i % L), C, to);
    }
}

/* ---- over time --------------------------------------------------------------------------- */

/* What was gathered of a strip. Gradients take the places of q, k and v when these are done with. */
typedef struct {
    float *q, *y, *gy, *k, *v;
} Gathered;

/* Adds the strip's rows to those of a gradient. */
static void scatter_add(const Strip *s, const float *from, int64_t each, float *rows, int64_t ld_rows)
{
    const int64_t width = s->heads * s->D;
    for (int64_t f = 0; f < s->F; f++)
        for (int64_t i = 0; i < s->positions; i++) {
            fetch_later(s, rows, ld_rows, f, i);
            add_row(from + (i * each + f) * width, width,
                    rows + strip_row(s, f, i) * ld_rows + s->head * s->D);
        }
}

/* To what is kept for each position. */
static void keep_windows(const Job *job, const Strip *s, int set, int which, const float *from)
{
    const int64_t width = s->heads * s->D;
    for (int64_t i = 0; i < s->positions; i++)
        for (int64_t j = 0; j < WINDOW_KEYS; j++)
            memcpy(shared_row(job, set, which, s->clip * s->S + s->position + i, j) + s->head * s->D,
                   from + (i * s->keys + j) * width, (size_t)width * sizeof *from);
}

static void scatter_strip(const Job *job, const Strip *s, const Gathered *g)
{
    int64_t at = 0;
    if (job->gq)
        scatter_add(s, g->q, s->F, job->gq, job->ldgq);
    for (int set = 0; set < job->call->a.attn.n_kv; at += set_keys(job->call, set++))
        for (int which = 0; which < 2; which++) {
            const float *from = (which ? g->v : g->k) + at * s->heads * s->D;
            if (!job->g[set][which])
                continue;
            if (job->call->a.attn.map[set] == KV_WINDOW)
                keep_windows(job, s, set, which, from);
            else
                scatter_add(s, from, s->keys, job->g[set][which], job->ldg[set][which]);
        }
}

/* Queries from frame `index` on of one position and head, which g is at. */
static PartBack time_part(const Job *job, const Strip *s, const Gathered *g, int64_t index, float *sums)
{
    const int64_t width = s->heads * s->D, q = index * width, count = MIN(NR, s->F - index);
    const AttnArg *a = &job->call->a.attn.arg;
    PartBack p = {.D = s->D,
                  .q = g->q + q,
                  .y = g->y + q,
                  .gy = g->gy + q,
                  .gq = job->gq ? g->q + q : NULL,
                  .new = true,
                  .ldq = width,
                  .ldy = width,
                  .ldgy = width,
                  .ldgq = width,
                  .count = count,
                  .index = index,
                  .scale = job->scale,
                  .n_sets = job->call->a.attn.n_kv};
    int64_t at = 0;
    for (int set = 0; set < p.n_sets; at += set_keys(job->call, set++)) {
        p.set[set] = keys_back(job, set, at, sums);
        p.set[set].k = g->k + at * width, p.set[set].v = g->v + at * width;
        p.set[set].ldk = p.set[set].ldv = width;
        p.set[set].count = a->causal ? index + count : set_keys(job->call, set);
        p.set[set].hides = a->causal; /* all sets are KV_SELF then */
    }
    return p;
}

/* One position and head, which g is at. */
static void time_unit(const Job *job, const Strip *s, const Gathered *g, RoomBack *room, float *sums)
{
    const int64_t width = s->heads * s->D;
    memset(sums, 0, (size_t)(2 * job->keys * job->padded) * sizeof *sums);
    for (int64_t index = 0; index < s->F; index += NR) {
        const PartBack p = time_part(job, s, g, index, sums);
        VEC(attend_back)(&p, room);
    }
    int64_t at = 0;
    for (int set = 0; set < job->call->a.attn.n_kv; set++)
        for (int64_t end = at + set_keys(job->call, set); at < end; at++) {
            if (job->g[set][0])
                store_sums(job, sums, at, 0, false, g->k + at * width);
            if (job->g[set][1])
                store_sums(job, sums, at, 1, false, g->v + at * width);
        }
}

static void time_strip(const Job *job, const Strip *s)
{
    const Call *call = job->call;
    const size_t rows = strip_floats(s, s->F), keys = strip_floats(s, s->keys);
    char *memory = thread_scratch(call, job->each);
    RoomBack room;
    float *sums = (float *)(memory + VEC(furnish_back)(&room, memory, job->D, job->keys));
    float *begin = (float *)(memory + unit_bytes(call));
    const Gathered all = {begin, begin + rows, begin + 2 * rows, begin + 3 * rows, begin + 3 * rows + keys};
    gather(s, call->in[0]->d, call->in[0]->ld, s->F, all.q);
    gather(s, call->out->d, call->out->ld, s->F, all.y);
    gather(s, job->gy, job->ldgy, s->F, all.gy);
    gather_keys(call, s, false, all.k);
    gather_keys(call, s, true, all.v);
    for (int64_t i = 0; i < s->positions; i++)
        for (int64_t h = 0; h < s->heads; h++) {
            const int64_t q = (i * s->F * s->heads + h) * s->D, k = (i * s->keys * s->heads + h) * s->D;
            const Gathered own = {all.q + q, all.y + q, all.gy + q, all.k + k, all.v + k};
            time_unit(job, s, &own, &room, sums);
        }
    scatter_strip(job, s, &all);
}

static void over_time(Cx *cx, const Job *job)
{
    const Strip size = strip_of(job->call);
    PARALLEL_TILES(cx, NS_ATTENTION * job->call->flops)
    for (int64_t i = 0; i < strip_count(job->call, &size); i++) {
        const Strip s = strip_at(job->call, &size, i);
        time_strip(job, &s);
    }
}

/* Adds to a position of frame 0 what is kept by those that have it among their neighbours, itself too at an
 * edge. */
static void collect_position(const Job *job, int set, int which, int64_t clip, int64_t at)
{
    const Call *call = job->call;
    const int64_t S = call->in[0]->n[1], W = call->a.attn.arg.width, y = at / W, x = at % W;
    const int64_t F = call->a.attn.arg.frames, row = clip * F * S + at;
    float *to = job->g[set][which] + row * job->ldg[set][which];
    for (int64_t ny = MAX(y - 1, 0); ny <= MIN(y + 1, S / W - 1); ny++)
        for (int64_t nx = MAX(x - 1, 0); nx <= MIN(x + 1, W - 1); nx++) {
            const int64_t s = ny * W + nx;
            const KeyRows keys = key_rows(call, set, clip * F, s);
            for (int64_t j = 0; j < keys.count; j++)
                if (key_row(&keys, j) == row)
                    add_row(shared_row(job, set, which, clip * S + s, j), job->C, to);
        }
}

static void collect_windows(Cx *cx, const Job *job, int set, int which)
{
    const int64_t S = job->call->in[0]->n[1], clips = job->call->in[0]->n[0] / job->call->a.attn.arg.frames;
    PARALLEL_FOR(cx, NS_MOVE * (double)(clips * S * WINDOW_KEYS * job->C))
    for (int64_t i = 0; i < clips * S; i++)
        collect_position(job, set, which, i / S, i % S);
}

/* ---- the call ---------------------------------------------------------------------------- */

static Job job_of(const Cx *cx, const Call *call)
{
    Job job = {.call = call,
               .C = tensor_channels(call->in[0]),
               .D = head_width(call),
               .padded = padded_width(head_width(call)),
               .keys = key_total(call),
               .scale = attention_scale(call),
               .each = thread_bytes(call)};
    char *rest = call->tmp + (size_t)cx->threads * job.each;
    job.gy = grad_of(call->out, &job.ldgy);
    job.gq = grad_of(call->in[0], &job.ldgq);
    for (int set = 0; set < call->a.attn.n_kv; set++)
        for (int which = 0; which < 2; which++) {
            job.g[set][which] = grad_of(call->in[1 + 2 * set + which], &job.ldg[set][which]);
            job.shared[set][which] = (float *)rest;
            rest += job.g[set][which] ? shared_bytes(call, set) : 0;
        }
    return job;
}

int VEC(attention_back)(Cx *cx, const Call *call)
{
    const Job job = job_of(cx, call);
    if (call->a.attn.arg.in_time)
        over_time(cx, &job);
    else
        over_space(cx, &job);
    for (int set = 0; set < call->a.attn.n_kv; set++)
        for (int which = 0; which < 2; which++) {
            if (!job.g[set][which] || call->a.attn.map[set] == KV_SELF)
                continue;
            if (call->a.attn.map[set] == KV_WINDOW)
                collect_windows(cx, &job, set, which);
            else
                collect_frames(cx, &job, set, which);
        }
    return GIMBAL_OK;
}
