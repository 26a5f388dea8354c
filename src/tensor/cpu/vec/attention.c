/* attention.c: cuts attention into parts (attention.h): over space or over time, by frame or position, head
 * and queries.
 *
 *     y = softmax(q k' * scale) v        over the concatenation of n_kv key sets
 *
 * Over time, frames are the queries of a position. Their rows lie a multiple of 4096 bytes apart at most
 * sizes and would push each other out of the cache: the rows of a few positions are gathered first, which is
 * not a permuted copy of the tensor. A position's keys of all sets lie behind each other then and are one
 * set, but under a causal mask. */
#include "tensor/cpu/vec/attention_time.h"

/* Values of keys that stay in the cache while queries change. */
enum { SHARED = 131072 };

bool VEC(attention_bf16)(const Cx *cx, const Call *call)
{
    return cx->bf16 && !call->a.attn.arg.in_time && call->in[0]->n[1] > VL;
}

/* ---- over space ----------------------------------------------------------------------------- */

static size_t space_bytes(const Cx *cx, const Call *call)
{
    Room room;
    return VEC(furnish)(&room, NULL, head_width(call), call->in[0]->n[1], VEC(attention_bf16)(cx, call));
}

/* How the work is cut: tiles of queries fastest, so that a head's keys are read again from the cache, or
 * heads fastest when the keys of all heads stay there. */
typedef struct {
    int64_t tile, tiles, heads, parts,
        run; /* tile: queries; parts: all; run: of those a thread does on end */
    bool heads_first;
} Cut;

static Cut cut_space(const Cx *cx, const Call *call)
{
    const int64_t S = call->in[0]->n[1], lines = call->in[0]->n[0] * call->a.attn.arg.heads;
    Cut c = {.tile = AT_ONCE, .heads = call->a.attn.arg.heads};
    while (c.tile > NR && lines * ((S + c.tile - 1) / c.tile) < 4 * cx->threads) /* every thread needs some */
        c.tile /= 2;
    c.tiles = (S + c.tile - 1) / c.tile;
    c.parts = lines * c.tiles;
    c.run = MAX(1, c.parts / (16 * cx->threads));
    c.heads_first = c.tiles == 1 || key_total(call) * tensor_channels(call->in[0]) <= SHARED;
    return c;
}

/* The i-th part. */
static Part space_part(const Cx *cx, const Call *call, const Cut *c, int64_t i)
{
    const int64_t frame = i / (c->tiles * c->heads), at = i % (c->tiles * c->heads);
    const int64_t head = c->heads_first ? at % c->heads : at / c->tiles;
    const int64_t index = (c->heads_first ? at / c->heads : at % c->tiles) * c->tile;
    const int64_t S = call->in[0]->n[1], D = head_width(call), first = frame * S + index;
    Part p = {.D = D,
              .q = row_at(call->in[0], first) + head * D,
              .y = row_at(call->out, first) + head * D,
              .ldq = call->in[0]->ld,
              .ldy = call->out->ld,
              .count = MIN(c->tile, S - index),
              .index = index,
              .scale = attention_scale(call),
              .bf16 = VEC(attention_bf16)(cx, call),
              .n_sets = call->a.attn.n_kv};
    for (int set = 0; set < p.n_sets; set++) {
        const Tensor *k = call->in[1 + 2 * set], *v = call->in[2 + 2 * set];
        const KeyRows rows = key_rows(call, set, frame, index + p.count - 1); /* the last query sees most */
        p.set[set] = (Keys){row_at(k, rows.first) + head * D,
                            row_at(v, rows.first) + head * D,
                            k->ld * rows.step,
                            v->ld * rows.step,
                            rows.count,
                            call->a.attn.arg.causal && call->a.attn.map[set] == KV_SELF};
    }
    return p;
}

static void over_space(Cx *cx, const Call *call)
{
    const Cut c = cut_space(cx, call);
    PARALLEL_TILES(cx, NS_ATTENTION * call->flops)
    for (int64_t from = 0; from < c.parts; from += c.run) {
        const int64_t end = MIN(c.parts, from + c.run);
        Room room;
        char *memory = thread_scratch(call, space_bytes(cx, call));
        VEC(furnish)(&room, memory, head_width(call), call->in[0]->n[1], VEC(attention_bf16)(cx, call));
        Part next = space_part(cx, call, &c, from);
        for (int64_t i = from; i < end; i++) {
            Part now = next;
            if (i + 1 < end)
                next = space_part(cx, call, &c, i + 1), now.next = &next;
            VEC(attend)(&now, &room);
        }
    }
}

/* ---- over time ------------------------------------------------------------------------------ */

static size_t time_bytes(const Call *call)
{
    Room room;
    const Strip s = strip_of(call);
    return VEC(furnish)(&room, NULL, s.D, s.F, false) +
           2 * (strip_floats(&s, s.F) + strip_floats(&s, s.keys)) * sizeof(float);
}

static void scatter(const Strip *s, const float *from, const Tensor *t)
{
    const int64_t width = s->heads * s->D;
    for (int64_t f = 0; f < s->F; f++)
        for (int64_t i = 0; i < s->positions; i++)
            memcpy(row_at(t, strip_row(s, f, i)) + s->head * s->D, from + (i * s->F + f) * width,
                   (size_t)width * sizeof(float));
}

/* What was gathered of a strip, or from one of its positions and heads on. */
typedef struct {
    float *q, *y, *k, *v;
} Gathered;

/* Queries [index, index + count) of one position and head. */
static void time_tile(const Call *call, const Strip *s, Gathered g, int64_t index, Room *room)
{
    const int64_t width = s->heads * s->D, count = MIN(AT_ONCE, s->F - index);
    Part p = {.q = g.q + index * width,
              .y = g.y + index * width,
              .ldq = width,
              .ldy = width,
              .count = count,
              .index = index,
              .D = s->D,
              .scale = attention_scale(call),
              .n_sets = 1,
              .set = {{g.k, g.v, width, width, s->keys, false}}};
    if (call->a.attn.arg.causal) { /* all sets are KV_SELF then */
        p.n_sets = call->a.attn.n_kv;
        for (int64_t set = 0; set < p.n_sets; set++)
            p.set[set] =
                (Keys){g.k + set * s->F * width, g.v + set * s->F * width, width, width, index + count, true};
    }
    VEC(attend)(&p, room);
}

static void time_strip(const Call *call, const Strip *s)
{
    const int64_t rows = (int64_t)strip_floats(s, s->F), keys = (int64_t)strip_floats(s, s->keys);
    char *memory = thread_scratch(call, time_bytes(call));
    Room room;
    float *begin = (float *)(memory + VEC(furnish)(&room, memory, s->D, s->F, false));
    const Gathered all = {begin, begin + rows, begin + 2 * rows, begin + 2 * rows + keys};
    gather(s, call->in[0]->d, call->in[0]->ld, s->F, all.q);
    gather_keys(call, s, false, all.k);
    gather_keys(call, s, true, all.v);
    for (int64_t i = 0; i < s->positions; i++)
        for (int64_t h = 0; h < s->heads; h++) {
            const int64_t q = (i * s->F * s->heads + h) * s->D, k = (i * s->keys * s->heads + h) * s->D;
            const Gathered own = {all.q + q, all.y + q, all.k + k, all.v + k};
            for (int64_t index = 0; index < s->F; index += AT_ONCE)
                time_tile(call, s, own, index, &room);
        }
    scatter(s, all.y, call->out);
}

static void over_time(Cx *cx, const Call *call)
{
    const Strip size = strip_of(call);
    PARALLEL_TILES(cx, NS_ATTENTION * call->flops)
    for (int64_t i = 0; i < strip_count(call, &size); i++) {
        const Strip s = strip_at(call, &size, i);
        time_strip(call, &s);
    }
}

size_t VEC(attention_scratch)(const Cx *cx, const Call *call)
{
    const size_t each = call->a.attn.arg.in_time ? time_bytes(call) : space_bytes(cx, call);
    return each * (size_t)cx->threads;
}

int VEC(attention)(Cx *cx, const Call *call)
{
    if (call->a.attn.arg.in_time)
        over_time(cx, call);
    else
        over_space(cx, call);
    return GIMBAL_OK;
}
