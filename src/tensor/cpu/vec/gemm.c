/* gemm.c: linears, and convolutions whose rows are gathered: any kernel, stride and padding.
 *
 *     y[r][o] = tail( sum over k of a[r][k] * w[o][k] )     r over N*Ho*Wo positions, k over kh*kw*I
 *
 * Three loops around the microkernel: groups of panels (NR output channels each) are packed into scratch by
 * all threads; tasks of `block` rows x `chunk` panels run over `depth` of k at a time, so that a block of a
 * stays in the second cache. For a linear a is the input itself, unless rows lie so far apart that they fall
 * on the same cache lines; then, for bf16, and for convolutions, it is copied. A GEGLU panel holds VL value
 * and VL gate channels, so that both halves meet in registers.
 *
 *     packed [panel][K][NR], or [panel][K/2][NR] pairs of bf16
 *
 * Knows rows, panels and the epilogue. Refuses to know pictures beyond gathering them. */
#include "tensor/cpu/vec/epilogue.h"
#include "tensor/cpu/vec/product.h"
#include "tensor/cpu/vec/stored.h"

enum {
    DEPTH = 384,      /* k at a time */
    BLOCK = 96,       /* rows of a task; a multiple of MR */
    CHUNK = 768 / NR, /* panels of a task */
    PIECE = 256,      /* k (or channels) that one thread packs at a time */
    PACKED = 8 << 20, /* bytes of packed weights per thread */
    TASKS = 4,        /* wanted per thread */
    PAD = 16,         /* floats behind each copied row, against rows on the same cache lines */
};

typedef struct {
    const Call *call;
    const Turn *turn;
    ConvShape s;
    Tail tail;
    bool gathered, bf16, copies;
    int threads;
    int64_t rows, K, O, panels, depth, block, chunk, group;
    char *packed, *room;
    size_t each; /* bytes of a thread's room: a block of a, then chunk tiles of sums */
} Job;

/* ---- cutting ----------------------------------------------------------------------------- */

static int64_t over(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static bool is_gathered(const ConvShape *s)
{
    return s->kh * s->kw > 1 || s->stride > 1 || s->pad[0] || s->pad[1] || s->pad[2] || s->pad[3];
}

/* MR rows that all fall on the same lines of the first cache, which holds eight of each, push each other out.
 */
static bool rows_collide(int64_t ld)
{
    return MR > 8 && ld * (int64_t)sizeof(float) % 4096 == 0;
}

static size_t panel_bytes(const Job *j)
{
    return (size_t)(j->bf16 ? over(j->K, 2) : j->K) * NR * sizeof(float);
}

static size_t block_bytes(const Job *j)
{
    return j->copies ? round64((size_t)(j->block * (j->depth + PAD)) * sizeof(float)) : 0;
}

static void cut_work(Job *j)
{
    const int64_t most = MAX(1, (int64_t)((size_t)PACKED * (size_t)j->threads / panel_bytes(j)));
    j->depth = over(over(j->K, over(j->K, DEPTH)), 2) * 2;
    j->group = over(j->panels, over(j->panels, most));
    j->block = MIN(BLOCK, over(j->rows, MR) * MR);
    j->chunk = MIN(CHUNK, j->group);
    while (j->threads > 1 && over(j->rows, j->block) * over(j->group, j->chunk) < TASKS * j->threads) {
        if (j->chunk > 4 || (j->block <= MR && j->chunk > 1))
            j->chunk = over(j->chunk, 2);
        else if (j->block > MR)
            j->block = over(over(j->block, 2), MR) * MR;
        else
            break;
    }
}

static Job job_of(const Cx *cx, const Call *call, const Turn *turn)
{
    Job j = {.call = call, .turn = turn, .s = conv_shape(call), .threads = team(cx, NS_FLOP * call->flops)};
    const bool halves = call->epi.act == ACT_GEGLU;
    j.gathered = is_gathered(&j.s) || (turn && turn->taps > 1);
    j.bf16 = cx->bf16 && call->op == OP_LINEAR;
    j.copies = j.gathered || j.bf16 || rows_collide(j.s.ld);
    j.rows = j.s.N * j.s.Ho * j.s.Wo;
    j.K = j.s.kh * j.s.kw * j.s.I;
    j.O = halves ? j.s.wide / 2 : j.s.wide;
    j.panels = over(j.O, halves ? VL : NR);
    cut_work(&j);
    j.each = block_bytes(&j) + (size_t)(j.chunk * j.block) * NR * sizeof(float);
    return j;
}

size_t VEC(gemm_scratch)(const Cx *cx, const Call *call, const Turn *turn)
{
    const Job j = job_of(cx, call, turn);
    return round64((size_t)j.group * panel_bytes(&j)) + (size_t)cx->threads * round64(j.each);
}

/* ---- packing weights --------------------------------------------------------------------- */

/* VL rows t of k, k+1, ... for the lanes of half h of a panel. */
INLINE void put(const Job *j, V t[VL], int64_t k, int64_t n, int h, char *panel)
{
    if (j->bf16) {
        uint32_t *pair = (uint32_t *)panel + k / 2 * NR + h * VL;
        for (int64_t i = 0; i < n; i += 2, pair += NR)
            *(U1 *)pair = round_bf16(t[i]) | round_bf16(i + 1 < n ? t[i + 1] : (V){0}) << 16;
    } else {
        float *out = (float *)panel + k * NR + h * VL;
        for (int64_t i = 0; i < n; i++)
            st(out + i * NR, t[i]);
    }
}

/* First output channel of half h of a panel, and in *lanes how many of the VL exist. */
static int64_t panel_channel(const Job *j, int64_t panel, int h, int64_t *lanes)
{
    const bool halves = j->tail.act == ACT_GEGLU;
    const int64_t at = halves ? panel * VL : panel * NR + h * VL;
    *lanes = MAX(0, MIN(VL, j->O - at));
    return halves ? h * j->O + at : at;
}

/* Turned, rows of k lie as they are wanted. */
static void pack_linear(const Job *j, int64_t panel, int64_t k0, int64_t k1, char *out)
{
    const Weight *w = j->call->w[0];
    for (int h = 0; h < 2; h++) {
        int64_t lanes;
        const int64_t o = panel_channel(j, panel, h, &lanes);
        for (int64_t k = k0; k < k1; k += VL) {
            const int64_t n = MIN(VL, k1 - k);
            V t[VL];
            if (!j->turn)
                weight_block(w, j->K, o, lanes, k, n, t);
            for (int64_t i = 0; j->turn && i < n; i++)
                t[i] = lanes ? weight_part(w, (k + i) * j->O + o, lanes) : (V){0};
            put(j, t, k, n, h, out);
        }
    }
}

/* Channels [i0, i1) of all taps: the file has taps fastest, packed rows are [tap][channel]. */
static void pack_gathered(const Job *j, int64_t panel, int64_t i0, int64_t i1, char *out)
{
    const int64_t taps = j->s.kh * j->s.kw, end = i1 * taps;
    for (int h = 0; h < 2; h++) {
        int64_t lanes;
        const int64_t o = panel_channel(j, panel, h, &lanes);
        for (int64_t at = i0 * taps; at < end; at += VL) {
            const int64_t n = MIN(VL, end - at);
            V t[VL];
            weight_block(j->call->w[0], j->K, o, lanes, at, n, t);
            for (int64_t i = 0; i < n; i++)
                put(j, t + i, (at + i) % taps * j->s.I + (at + i) / taps, 1, h, out);
        }
    }
}

/* The same of a turned weight: stored are VL kernels behind one another for each of our channels. */
static void pack_turned(const Job *j, int64_t panel, int64_t i0, int64_t i1, char *out)
{
    const int64_t taps = j->s.kh * j->s.kw, stored = j->turn->taps;
    float room[VL * TURN_TAPS + VL];
    for (int h = 0; h < 2; h++) {
        int64_t lanes;
        const int64_t o = panel_channel(j, panel, h, &lanes);
        for (int64_t i = i0; i < i1; i++) {
            const float *w = weight_run(j->call->w[0], (i * j->O + o) * stored, lanes * stored, room);
            for (int64_t t = 0; t < taps; t++) {
                const float *from = w + turn_tap(j->turn, t / j->s.kw, t % j->s.kw);
                float *to = (float *)out + (t * j->s.I + i) * NR + h * VL;
                for (int64_t k = 0; k < VL; k++)
                    to[k] = k < lanes ? from[k * stored] : 0;
            }
        }
    }
}

/* Piece of the packing of panels [first, first + n); pieces are numbered. */
static int64_t packing_pieces(const Job *j)
{
    return over(j->gathered ? j->s.I : j->K, PIECE);
}

static void pack_piece(const Job *j, int64_t first, int64_t piece)
{
    const int64_t per = packing_pieces(j), p = piece / per, from = piece % per * PIECE;
    char *out = j->packed + (size_t)p * panel_bytes(j);
    if (j->gathered && j->turn)
        pack_turned(j, first + p, from, MIN(from + PIECE, j->s.I), out);
    else if (j->gathered)
        pack_gathered(j, first + p, from, MIN(from + PIECE, j->s.I), out);
    else
        pack_linear(j, first + p, from, MIN(from + PIECE, j->K), out);
}

/* ---- rows of a --------------------------------------------------------------------------- */

/* k0..k1 of one position's values under the kernel. */
static void gather_row(const Job *j, int64_t r, int64_t k0, int64_t k1, float *out)
{
    const ConvShape *s = &j->s;
    const int64_t x = r % s->Wo, y = r / s->Wo % s->Ho, n = r / s->Wo / s->Ho;
    for (int64_t k = k0; k < k1;) {
        const int64_t t = k / s->I, i = k % s->I, count = MIN(s->I - i, k1 - k);
        const int64_t yy = y * s->stride - s->pad[0] + t / s->kw, xx = x * s->stride - s->pad[2] + t % s->kw;
        if (yy < 0 || yy >= s->H || xx < 0 || xx >= s->W)
            memset(out, 0, (size_t)count * sizeof *out);
        else
            memcpy(out, (const float *)j->call->in[0]->d + ((n * s->H + yy) * s->W + xx) * s->ld + i,
                   (size_t)count * sizeof *out);
        out += count, k += count;
    }
}

/* Rows [r0, r0 + n), k0..k1, into this thread's room. */
static void copy_block(const Job *j, int64_t r0, int64_t n, int64_t k0, int64_t k1, float *out)
{
    for (int64_t r = 0; r < n; r++, out += j->depth + PAD) {
        const float *x = row_at(j->call->in[0], j->gathered ? 0 : r0 + r) + k0;
        if (j->gathered) {
            gather_row(j, r0 + r, k0, k1, out);
        } else if (j->bf16) {
            to_bf16(x, k1 - k0, (uint16_t *)out);
            if ((k1 - k0) % 2)
                ((uint16_t *)out)[k1 - k0] = 0;
        } else {
            memcpy(out, x, (size_t)(k1 - k0) * sizeof *out);
        }
    }
}

/* ---- one task ---------------------------------------------------------------------------- */

static void finish_tile(const Job *j, int64_t panel, int64_t r0, int64_t n, const float *c)
{
    const bool halves = j->tail.act == ACT_GEGLU;
    const int64_t at = panel * (halves ? VL : NR), left = j->O - at;
    for (int64_t r = 0; r < n; r++, c += NR) {
        const TailRow row = tail_row(&j->tail, j->call->out, r0 + r);
        tail(&j->tail, row, ld(c), ld(c + VL), at, left);
        if (!halves && left > VL)
            tail(&j->tail, row, ld(c + VL), (V){0}, at + VL, left - VL);
    }
}

/* Rows [r0, r0 + n) x panels [p0, p1) of the packed group that begins at `first`. */
static void run_task(const Job *j, int64_t first, int64_t r0, int64_t n, int64_t p0, int64_t p1, char *room)
{
    float *copy = (float *)room, *sums = (float *)(room + block_bytes(j));
    for (int64_t k0 = 0; k0 < j->K; k0 += j->depth) {
        const int64_t k1 = MIN(j->K, k0 + j->depth), stride = j->copies ? j->depth + PAD : j->s.ld;
        const float *a = copy;
        if (j->copies)
            copy_block(j, r0, n, k0, k1, copy);
        else
            a = row_at(j->call->in[0], r0) + k0;
        for (int64_t p = p0; p < p1; p++) {
            const char *panel = j->packed + (size_t)(p - first) * panel_bytes(j);
            float *c = sums + (p - p0) * j->block * NR;
            if (j->bf16)
                product_bf16((const uint32_t *)a, stride, (const uint32_t *)panel + k0 / 2 * NR,
                             over(k1 - k0, 2), c, NR, n, k0 > 0);
            else
                product(a, stride, (const float *)panel + k0 * NR, k1 - k0, c, NR, n, k0 > 0);
            if (k1 == j->K)
                finish_tile(j, p, r0, n, c);
        }
    }
}

/* Called by every thread of a team: the loops' ends wait for all. */
static void run_group(const Job *j, int64_t first)
{
    const int64_t count = MIN(j->group, j->panels - first), chunks = over(count, j->chunk);
    char *room = j->room + (size_t)omp_get_thread_num() * round64(j->each);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count * packing_pieces(j); i++)
        pack_piece(j, first, i);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < over(j->rows, j->block) * chunks; i++) {
        const int64_t r0 = i / chunks * j->block, p0 = first + i % chunks * j->chunk;
        run_task(j, first, r0, MIN(j->block, j->rows - r0), p0, MIN(first + count, p0 + j->chunk), room);
    }
}

int VEC(gemm)(Cx *cx, const Call *call, const Turn *turn)
{
    Job j = job_of(cx, call, turn);
    const bool biased = call->epi.bias && weight_given(call->epi.bias);
    const float *bias = biased ? weight_floats(cx, call->epi.bias) : NULL;
    if (cx_failed(cx))
        return cx->err->code;
    j.tail = tail_of(call, bias);
    j.packed = call->tmp;
    j.room = call->tmp + round64((size_t)j.group * panel_bytes(&j));
#pragma omp parallel num_threads(j.threads)
    for (int64_t first = 0; first < j.panels; first += j.group)
        run_group(&j, first);
    return 0;
}
