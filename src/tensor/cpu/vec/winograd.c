/* winograd.c: 3x3 convolutions of stride 1 by Winograd's F(4x4,3x3) (Lavin and Gray, 2016): 36 products for
 * 16 results instead of 144; and convolutions over 3 frames by F(4,3), 6 products for 4 results instead
 * of 12.
 *
 *     V = B' d B   of every 6x6 piece of input that overlaps the next by two
 *     U = G g G'   of every 3x3 kernel
 *     m[f] = V[f] U[f]   for each of the 36 places f: [tiles, I] x [I, O]
 *     y = A' m A   4x4 results
 *
 * Over time the same with the left matrices alone: pieces of 6 frames of one pixel, `across` 1 instead of 6.
 *
 * Work goes through three buffers that all threads share: V of `span` tiles, U of `group` panels (NR output
 * channels each), and m of both. Where all of U fits it is made once and V in small spans that stay in the
 * cache; where it does not, spans are large, so that making U again for each is little beside using it. U is
 * never kept: it is four times the weights.
 *
 *     V [places][span][ldv]    U [panel][places][I][NR]    m [places][span][group*NR]
 *
 * Products go place by place: a block of V's rows lies in the second cache while all panels pass it.
 *
 * Knows kernels of 3. Refuses to know any other. */
#include "tensor/cpu/vec/epilogue.h"
#include "tensor/cpu/vec/product.h"
#include "tensor/cpu/vec/stored.h"
#include "tensor/cpu/vec/winograd.h"

enum {
    BLOCK = 192,       /* tiles of a task: with 1280 channels, a block of V just fits the second cache */
    LEAST = 96,        /* tiles per thread that are worth a span */
    FEWEST = 16,       /* input channels that are worth transforming */
    DEPTH = 768,       /* input channels of one sum; more are summed in pieces */
    PIECE = 64,        /* input channels that one thread transforms at a time */
    U_BYTES = 8 << 20, /* of transformed weights, per thread, that are made once */
    U_GROUP = 3 << 20, /* of more than that, made group by group: still in the third cache when used */
    SMALL = 4 << 20,   /* of V and m per thread, where U is made once */
    LARGE = 64 << 20,  /* of V and m, where it is not */
    PAD = 16,          /* floats behind each row of V and m: rows 4096 bytes apart share cache lines */
};

typedef struct {
    const Call *call;
    const Turn *turn;
    ConvShape s;
    Tail tail;
    int threads, across, places; /* across: pixels of a piece side by side, 6 or 1; places: 6 * across */
    int64_t th, tw, tiles, panels, ldv, ldm, span, group;
    int64_t block, strip; /* tiles and panels of a task */
    float *u, *v, *m, *zeros;
} Job;

static int64_t over(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Few channels are mostly transforms, and a piece of which few results exist is mostly waste: the gathered
 * product is faster there. */
bool VEC(winograd_takes)(const Call *call)
{
    if ((call->op != OP_CONV2D && call->op != OP_CONVT) || call->w[0]->n[2] != 3 ||
        call->epi.act == ACT_GEGLU)
        return false;
    const ConvShape s = conv_shape(call);
    if (s.I < FEWEST || s.stride != 1)
        return false;
    if (call->op == OP_CONVT)
        return 3 * s.Ho > 6 * over(s.Ho, 4);
    return s.kw == 3 && 9 * s.Ho * s.Wo >= 36 * over(s.Ho, 4) * over(s.Wo, 4);
}

/* Floats from one of the places to the next: a few more than needed, an odd number of cache lines, or all
 * places of a tile would fall on the same lines. */
static int64_t place(int64_t floats)
{
    return (over(floats, 16) | 1) * 16;
}
static int64_t u_place(const Job *j)
{
    return place(j->s.I * NR);
}
static int64_t v_place(const Job *j)
{
    return place(j->span * j->ldv);
}
static int64_t m_place(const Job *j)
{
    return place(j->span * j->ldm);
}
static int64_t panel_floats(const Job *j)
{
    return j->places * u_place(j);
}

static Job job_of(const Cx *cx, const Call *call)
{
    Job j = {.call = call, .s = conv_shape(call), .threads = team(cx, NS_FLOP / 2 * call->flops)};
    j.across = call->op == OP_CONVT ? 1 : 6;
    j.places = 6 * j.across;
    j.th = over(j.s.Ho, 4), j.tw = j.across == 1 ? j.s.Wo : over(j.s.Wo, 4);
    j.tiles = j.s.N * j.th * j.tw;
    j.panels = over(j.s.wide, NR);
    j.ldv = over(j.s.I, VL) * VL + PAD;
    const int64_t each = panel_floats(&j) * 4, all = (int64_t)U_BYTES * j.threads;
    const int64_t fits = j.panels * each <= all ? j.panels : MAX(1, (int64_t)U_GROUP * j.threads / each);
    j.group = over(j.panels, over(j.panels, fits));
    j.ldm = j.group * NR + PAD;
    const int64_t bytes = j.group == j.panels ? (int64_t)SMALL * j.threads : (int64_t)LARGE;
    const int64_t most = MAX(LEAST * j.threads, bytes / 4 / j.places / (j.ldv + j.ldm));
    j.span = over(over(j.tiles, over(j.tiles, most)), MR) * MR;
    j.block = over(over(j.span, over(j.span, BLOCK)), MR) * MR;
    const int64_t tasks = j.places * over(j.span, j.block); /* of all panels: more if those are too few */
    j.strip = over(j.group, over(4 * j.threads, tasks));
    return j;
}

static size_t u_bytes(const Job *j)
{
    return round64((size_t)(j->group * panel_floats(j)) * sizeof(float));
}
static size_t v_bytes(const Job *j)
{
    return round64((size_t)(j->places * v_place(j)) * sizeof(float));
}
static size_t m_bytes(const Job *j)
{
    return round64((size_t)(j->places * m_place(j)) * sizeof(float));
}
static size_t zero_bytes(const Job *j)
{
    return round64((size_t)j->s.I * sizeof(float));
}

size_t VEC(winograd_scratch)(const Cx *cx, const Call *call)
{
    const Job j = job_of(cx, call);
    return u_bytes(&j) + v_bytes(&j) + m_bytes(&j) + zero_bytes(&j);
}

/* Per tile and channel: products, and 12 additions for each line of six going in, 10 coming out. */
double VEC(winograd_flops)(const Call *call)
{
    const ConvShape s = conv_shape(call);
    const bool time = call->op == OP_CONVT;
    const double tiles = (double)(s.N * over(s.Ho, 4) * (time ? s.Wo : over(s.Wo, 4)));
    const double in = (double)s.I, out = (double)s.wide;
    return tiles * (time ? 12 * in * out + 12 * in + 10 * out : 72 * in * out + 144 * in + 100 * out);
}

/* ---- V ----------------------------------------------------------------------------------- */

/* Channels [c, c + n) of the tile whose pixels are at p. */
INLINE void input_tile(const Job *j, const int across, const float *const *p, int64_t c, int64_t n, float *v)
{
    V d[6][6];
    input_piece(across, p, c, n, d);
    UNROLL for (int y = 0; y < 6; y++) UNROLL for (int x = 0; x < across; x++)
        st(v + (y * across + x) * v_place(j) + c, d[y][x]);
}

INLINE void input_channels(const Job *j, const int across, const float *const *p, float *v)
{
    int64_t c = 0;
    for (; c + VL <= j->s.I; c += VL)
        input_tile(j, across, p, c, VL, v);
    if (c < j->s.I)
        input_tile(j, across, p, c, j->s.I - c, v);
}

/* Tile t of all, as tile `at` of the span. */
static void transform_tile(const Job *j, int64_t t, int64_t at)
{
    const ConvShape *s = &j->s;
    const int64_t n = t / (j->th * j->tw), y0 = t / j->tw % j->th * 4 - s->pad[0],
                  x0 = j->across == 1 ? t % j->tw : t % j->tw * 4 - s->pad[2];
    const float *image = (const float *)j->call->in[0]->d + n * s->H * s->W * s->ld, *p[PLACES];
    find_pixels(image, s->H, s->W, s->ld, y0, x0, 6, j->across, j->zeros, p);
    if (j->across == 1)
        input_channels(j, 1, p, j->v + at * j->ldv);
    else
        input_channels(j, 6, p, j->v + at * j->ldv);
}

/* ---- U ----------------------------------------------------------------------------------- */

/* G of three values. */
INLINE void kernel_line(V a, V b, V c, V out[6])
{
    const V even = (a + c) * (1.0f / 6), far = a * (1.0f / 24) + c * (1.0f / 6), odd = b * (1.0f / 12);
    out[0] = a * 0.25f;
    out[1] = -even - b * (1.0f / 6);
    out[2] = b * (1.0f / 6) - even;
    out[3] = far + odd;
    out[4] = far - odd;
    out[5] = c;
}

/* VL kernels, one in each lane, to their places. */
INLINE void transform_kernels(const int across, const float (*g)[VL], int64_t apart, float *u)
{
    const int taps = across == 6 ? 3 : 1;
    V t[6][3];
    UNROLL for (int x = 0; x < taps; x++)
    {
        V line[6];
        kernel_line(ld(g[x]), ld(g[taps + x]), ld(g[2 * taps + x]), line);
        UNROLL for (int y = 0; y < 6; y++) t[y][x] = line[y];
    }
    UNROLL for (int y = 0; y < 6; y++)
    {
        V line[6] = {t[y][0]};
        if (across == 6)
            kernel_line(t[y][0], t[y][1], t[y][2], line);
        UNROLL for (int x = 0; x < across; x++) st(u + (y * across + x) * apart, line[x]);
    }
}

/* Kernels of VL output channels from o on, [input channel][tap][VL]. */
static void take_kernels(const Job *j, int64_t taps, int64_t o, int64_t lanes, int64_t i0, int64_t i1,
                         float (*g)[VL])
{
    const int64_t count = taps * (i1 - i0);
    for (int64_t k = 0; k < count; k += VL) {
        V t[VL];
        weight_block(j->call->w[0], taps * j->s.I, o, lanes, taps * i0 + k, MIN(VL, count - k), t);
        for (int i = 0; i < VL; i++)
            st(g[k + i], t[i]);
    }
}

/* The same of a turned weight, which stores those VL kernels behind one another. */
static void turn_kernels(const Job *j, int64_t taps, int64_t o, int64_t lanes, int64_t i0, int64_t i1,
                         float (*g)[VL])
{
    float room[9 * VL + VL];
    for (int64_t i = i0; i < i1; i++, g += taps) {
        const float *w = weight_run(j->call->w[0], (i * j->s.wide + o) * taps, lanes * taps, room);
        for (int64_t k = 0; k < VL; k++)
            for (int64_t t = 0; t < taps; t++)
                g[t][k] = k < lanes ? w[k * taps + taps - 1 - t] : 0;
    }
}

/* Input channels [i0, i1), i1 - i0 <= PIECE, of half h of a panel. */
static void transform_half(const Job *j, int64_t panel, int h, int64_t i0, int64_t i1, float *u)
{
    float g[9 * PIECE + VL][VL];
    const int64_t taps = j->across == 6 ? 9 : 3, o = panel * NR + h * VL;
    (j->turn ? turn_kernels : take_kernels)(j, taps, o, MAX(0, MIN(VL, j->s.wide - o)), i0, i1, g);
    for (int64_t i = i0; i < i1; i++) {
        float *to = u + i * NR + h * VL;
        if (j->across == 1)
            transform_kernels(1, g + (i - i0) * taps, u_place(j), to);
        else
            transform_kernels(6, g + (i - i0) * taps, u_place(j), to);
    }
}

/* ---- products and results ---------------------------------------------------------------- */

/* A' of six values: four. */
INLINE void output_line(const V m[6], V y[4])
{
    const V a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * d;
    y[2] = a + 4 * c;
    y[3] = b + 8 * d + m[5];
}

/* Where the results of a tile go: 4 x 4 of them, over time 4 x 1, fewer at the edges. */
typedef struct {
    int rows, columns;
    TailRow at[4][4];
} Target;

static void find_target(const Job *j, int64_t t, Target *to)
{
    const int64_t wide = j->across == 1 ? 1 : 4;
    const int64_t image = t / (j->th * j->tw), y0 = t / j->tw % j->th * 4, x0 = t % j->tw * wide;
    to->rows = (int)MIN(4, j->s.Ho - y0), to->columns = (int)MIN(wide, j->s.Wo - x0);
    for (int y = 0; y < to->rows; y++)
        for (int x = 0; x < to->columns; x++)
            to->at[y][x] = tail_row(&j->tail, j->call->out, (image * j->s.Ho + y0 + y) * j->s.Wo + x0 + x);
}

/* Result channels [c, c + n) of a tile, from its sums at m. */
INLINE void output_tile(const Job *j, const int across, const Target *to, const float *m, int64_t c,
                        int64_t n)
{
    V e[6][4];
    UNROLL for (int x = 0; x < across; x++)
    {
        V line[6];
        UNROLL for (int y = 0; y < 6; y++) line[y] = ld(m + (y * across + x) * m_place(j));
        output_line(line, e[x]);
    }
    for (int y = 0; y < to->rows; y++) {
        V z[4] = {e[0][y]};
        if (across == 6) {
            const V line[6] = {e[0][y], e[1][y], e[2][y], e[3][y], e[4][y], e[5][y]};
            output_line(line, z);
        }
        for (int x = 0; x < to->columns; x++)
            tail(&j->tail, to->at[y][x], z[x], (V){0}, c, n);
    }
}

/* Place f of tiles [b0, b0 + n) of the span, for panels [p0, p1) of the group. */
static void run_products(const Job *j, int f, int64_t b0, int64_t n, int64_t p0, int64_t p1)
{
    for (int64_t k = 0; k < j->s.I; k += DEPTH)
        for (int64_t p = p0; p < p1; p++)
            product(j->v + f * v_place(j) + b0 * j->ldv + k, j->ldv,
                    j->u + p * panel_floats(j) + f * u_place(j) + k * NR, MIN(DEPTH, j->s.I - k),
                    j->m + f * m_place(j) + b0 * j->ldm + p * NR, j->ldm, n, k > 0);
}

/* Tile `at` of the span that begins at t0, for `count` panels from `first` on. */
static void run_results(const Job *j, int64_t t0, int64_t at, int64_t first, int64_t count)
{
    Target to;
    find_target(j, t0 + at, &to);
    const int64_t c0 = first * NR, c1 = MIN(j->s.wide, (first + count) * NR);
    const float *m = j->m + at * j->ldm;
    for (int64_t c = c0; c < c1; c += VL)
        if (j->across == 1)
            output_tile(j, 1, &to, m + c - c0, c, c1 - c);
        else
            output_tile(j, 6, &to, m + c - c0, c, c1 - c);
}

/* Called by every thread of a team, as run_span: the loops' ends wait for all. Both halves of a panel are one
 * thread's: with 32-byte vectors they share cache lines. */
static void make_u(const Job *j, int64_t first, int64_t count)
{
    const int64_t pieces = over(j->s.I, PIECE);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count * pieces; i++) {
        const int64_t p = i / pieces, i0 = i % pieces * PIECE, i1 = MIN(i0 + PIECE, j->s.I);
        for (int h = 0; h < 2; h++)
            transform_half(j, first + p, h, i0, i1, j->u + p * panel_floats(j));
    }
}

static void run_group(const Job *j, int64_t t0, int64_t n, int64_t first, int64_t count)
{
    const int64_t blocks = over(n, j->block), strips = over(count, j->strip);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < j->places * blocks * strips; i++) {
        const int64_t b0 = i / strips % blocks * j->block, p0 = i % strips * j->strip;
        run_products(j, (int)(i / strips / blocks), b0, MIN(j->block, n - b0), p0, MIN(p0 + j->strip, count));
    }
#pragma omp for schedule(dynamic, 4)
    for (int64_t t = 0; t < n; t++)
        run_results(j, t0, t, first, count);
}

static void run_span(const Job *j, int64_t t0, bool new_u)
{
    const int64_t n = MIN(j->span, j->tiles - t0);
#pragma omp for schedule(dynamic, 8)
    for (int64_t t = 0; t < n; t++)
        transform_tile(j, t0 + t, t);
    for (int64_t first = 0; first < j->panels; first += j->group) {
        const int64_t count = MIN(j->group, j->panels - first);
        if (new_u)
            make_u(j, first, count);
        run_group(j, t0, n, first, count);
    }
}

int VEC(winograd)(Cx *cx, const Call *call, const Turn *turn)
{
    Job j = job_of(cx, call);
    const bool biased = call->epi.bias && weight_given(call->epi.bias);
    const float *bias = biased ? weight_floats(cx, call->epi.bias) : NULL;
    if (cx_failed(cx))
        return cx->err->code;
    j.tail = tail_of(call, bias);
    j.turn = turn;
    j.u = (float *)call->tmp;
    j.v = (float *)(call->tmp + u_bytes(&j));
    j.m = (float *)(call->tmp + u_bytes(&j) + v_bytes(&j));
    j.zeros = j.m + m_bytes(&j) / sizeof(float);
    memset(j.zeros, 0, zero_bytes(&j));
#pragma omp parallel num_threads(j.threads)
    for (int64_t t0 = 0; t0 < j.tiles; t0 += j.span)
        run_span(&j, t0, t0 == 0 || j.group < j.panels);
    return 0;
}
