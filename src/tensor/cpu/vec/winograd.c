/* winograd.c: 3x3 convolutions of stride 1 by Winograd's F(4x4,3x3) (Lavin and Gray, 2016): 36 products for
 * 16 results instead of 144.
 *
 *     V = B' d B   of every 6x6 piece of input that overlaps the next by two
 *     U = G g G'   of every 3x3 kernel
 *     m[f] = V[f] U[f]   for each of the 36 places f: [tiles, I] x [I, O]
 *     y = A' m A   4x4 results
 *
 * Work goes through two buffers that all threads share: `span` tiles of V and `group` panels of U (NR output
 * channels each). Where all of U fits it is made once and V in small spans that stay in the cache; where it
 * does not, spans are large, so that making U again for each is little beside using it. U is never kept: it
 * is four times the weights.
 *
 *     V [36][span][ldv]    U [panel][36][I][NR]    m, per thread, [36][block][WIDTH*NR]
 *
 * Knows 3x3 kernels. Refuses to know any other. */
#include "tensor/cpu/vec/epilogue.h"
#include "tensor/cpu/vec/product.h"
#include "tensor/cpu/vec/stored.h"

enum {
    PLACES = 36,
    WIDTH = NR < 32 ? 32 / NR : 1, /* panels of a task: a block of V in the second cache serves 32 channels */
    BLOCK = 96,                    /* tiles of a task */
    FEWEST = 16,                   /* input channels that are worth transforming */
    DEPTH = 768,                   /* input channels of one sum; more are summed in pieces */
    PIECE = 64,                    /* input channels that one thread transforms at a time */
    U_BYTES = 8 << 20,             /* of transformed weights, per thread */
    V_SMALL = 6 << 20,             /* of transformed input per thread, where U is made once */
    V_LARGE = 64 << 20,            /* of transformed input, where it is not */
    PAD = 16,                      /* floats behind each row of V: rows 4096 bytes apart share cache lines */
};

typedef struct {
    const Call *call;
    ConvShape s;
    Tail tail;
    int threads;
    int64_t th, tw, tiles, panels, ldv, span, group, block;
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
    if (call->op != OP_CONV2D || call->w[0]->n[2] != 3 || call->w[0]->n[3] != 3 || call->a.conv.stride != 1 ||
        call->epi.act == ACT_GEGLU)
        return false;
    const ConvShape s = conv_shape(call);
    return s.I >= FEWEST && 9 * s.Ho * s.Wo >= PLACES * over(s.Ho, 4) * over(s.Wo, 4);
}

/* Floats from one of the 36 places to the next: a few more than needed, an odd number of cache lines, or all
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
    return place(j->block * WIDTH * NR);
}
static int64_t panel_floats(const Job *j)
{
    return PLACES * u_place(j);
}

static Job job_of(const Cx *cx, const Call *call)
{
    Job j = {.call = call, .s = conv_shape(call), .threads = team(cx, NS_FLOP / 2 * call->flops)};
    j.th = over(j.s.Ho, 4), j.tw = over(j.s.Wo, 4);
    j.tiles = j.s.N * j.th * j.tw;
    j.panels = over(j.s.wide, NR);
    j.ldv = over(j.s.I, VL) * VL + PAD;
    const int64_t fits = MAX(1, (int64_t)U_BYTES * j.threads / 4 / panel_floats(&j));
    j.group = over(j.panels, over(j.panels, fits));
    const int64_t bytes = j.group == j.panels ? (int64_t)V_SMALL * j.threads : (int64_t)V_LARGE;
    const int64_t most = MAX(BLOCK * j.threads, bytes / 4 / PLACES / j.ldv / BLOCK * BLOCK);
    j.span = over(over(j.tiles, over(j.tiles, most)), MR) * MR;
    /* blocks that share the span evenly, and enough of them */
    int64_t blocks = over(j.span, BLOCK);
    const int64_t strips = over(j.group, WIDTH);
    if (blocks * strips < 4 * j.threads)
        blocks = MIN(over(4 * j.threads, strips), over(j.span, MR));
    j.block = over(over(j.span, blocks), MR) * MR;
    return j;
}

static size_t u_bytes(const Job *j)
{
    return round64((size_t)(j->group * panel_floats(j)) * sizeof(float));
}
static size_t v_bytes(const Job *j)
{
    return round64((size_t)(PLACES * v_place(j)) * sizeof(float));
}
static size_t m_bytes(const Job *j)
{
    return (size_t)(PLACES * m_place(j)) * sizeof(float);
}
static size_t zero_bytes(const Job *j)
{
    return round64((size_t)j->s.I * sizeof(float));
}

size_t VEC(winograd_scratch)(const Cx *cx, const Call *call)
{
    const Job j = job_of(cx, call);
    return u_bytes(&j) + v_bytes(&j) + (size_t)cx->threads * m_bytes(&j) + zero_bytes(&j);
}

/* Per tile and channel: products, and about 2 x 6 x 12 additions going in, 2 x 5 x 8 coming out. */
double VEC(winograd_flops)(const Call *call)
{
    const ConvShape s = conv_shape(call);
    const double tiles = (double)(s.N * over(s.Ho, 4) * over(s.Wo, 4));
    return tiles *
           (2.0 * PLACES * (double)s.I * (double)s.wide + 144.0 * (double)s.I + 80.0 * (double)s.wide);
}

/* ---- V ----------------------------------------------------------------------------------- */

/* B' of six values, in place. */
INLINE void input_line(V d[6])
{
    const V a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    d[0] = 4 * d[0] - 5 * d[2] + d[4];
    d[5] = 4 * d[1] - 5 * d[3] + d[5];
    d[1] = a + b;
    d[2] = a - b;
    d[3] = c + e;
    d[4] = c - e;
}

/* Channels [c, c + n) of the tile whose 36 pixels are at p. */
INLINE void input_tile(const Job *j, const float *const p[PLACES], int64_t c, int64_t n, float *v)
{
    V d[6][6];
    UNROLL for (int x = 0; x < 6; x++)
    {
        V line[6];
        UNROLL for (int y = 0; y < 6; y++) line[y] =
            n >= VL ? ld(p[y * 6 + x] + c) : ld_part(p[y * 6 + x] + c, n);
        input_line(line);
        UNROLL for (int y = 0; y < 6; y++) d[y][x] = line[y];
    }
    UNROLL for (int y = 0; y < 6; y++)
    {
        input_line(d[y]);
        UNROLL for (int x = 0; x < 6; x++) st(v + (y * 6 + x) * v_place(j) + c, d[y][x]);
    }
}

/* Tile t of all, as tile `at` of the span. */
static void transform_tile(const Job *j, int64_t t, int64_t at)
{
    const ConvShape *s = &j->s;
    const int64_t n = t / (j->th * j->tw), y0 = t / j->tw % j->th * 4 - s->pad[0],
                  x0 = t % j->tw * 4 - s->pad[2];
    const float *image = (const float *)j->call->in[0]->d + n * s->H * s->W * s->ld, *p[PLACES];
    for (int i = 0; i < PLACES; i++) {
        const int64_t y = y0 + i / 6, x = x0 + i % 6;
        p[i] = y < 0 || y >= s->H || x < 0 || x >= s->W ? j->zeros : image + (y * s->W + x) * s->ld;
    }
    float *v = j->v + at * j->ldv;
    int64_t c = 0;
    for (; c + VL <= s->I; c += VL)
        input_tile(j, p, c, VL, v);
    if (c < s->I)
        input_tile(j, p, c, s->I - c, v);
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

/* VL kernels, one in each lane, to their 36 places. */
INLINE void transform_kernels(const V g[9], int64_t apart, float *u)
{
    V t[6][3];
    UNROLL for (int x = 0; x < 3; x++)
    {
        V line[6];
        kernel_line(g[x], g[3 + x], g[6 + x], line);
        UNROLL for (int y = 0; y < 6; y++) t[y][x] = line[y];
    }
    UNROLL for (int y = 0; y < 6; y++)
    {
        V line[6];
        kernel_line(t[y][0], t[y][1], t[y][2], line);
        UNROLL for (int x = 0; x < 6; x++) st(u + (y * 6 + x) * apart, line[x]);
    }
}

/* Input channels [i0, i1), i1 - i0 <= PIECE, of half h of a panel. */
static void transform_half(const Job *j, int64_t panel, int h, int64_t i0, int64_t i1, float *u)
{
    float g[9 * PIECE + VL][VL];
    const int64_t o = panel * NR + h * VL, lanes = MAX(0, MIN(VL, j->s.wide - o)), count = 9 * (i1 - i0);
    for (int64_t k = 0; k < count; k += VL) {
        V t[VL];
        weight_block(j->call->w[0], 9 * j->s.I, o, lanes, 9 * i0 + k, MIN(VL, count - k), t);
        for (int i = 0; i < VL; i++)
            st(g[k + i], t[i]);
    }
    for (int64_t i = i0; i < i1; i++) {
        V kernel[9];
        for (int k = 0; k < 9; k++)
            kernel[k] = ld(g[(i - i0) * 9 + k]);
        transform_kernels(kernel, u_place(j), u + i * NR + h * VL);
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

/* Where the results of a tile go: 4 x 4 of them, fewer at the edges. */
typedef struct {
    int rows, columns;
    TailRow at[4][4];
} Target;

static void find_target(const Job *j, int64_t t, Target *to)
{
    const int64_t image = t / (j->th * j->tw), y0 = t / j->tw % j->th * 4, x0 = t % j->tw * 4;
    to->rows = (int)MIN(4, j->s.Ho - y0), to->columns = (int)MIN(4, j->s.Wo - x0);
    for (int y = 0; y < to->rows; y++)
        for (int x = 0; x < to->columns; x++)
            to->at[y][x] = tail_row(&j->tail, j->call->out, (image * j->s.Ho + y0 + y) * j->s.Wo + x0 + x);
}

/* Result channels [c, c + n) of a tile, from its sums at m. */
INLINE void output_tile(const Job *j, const Target *to, const float *m, int64_t c, int64_t n)
{
    V e[6][4];
    UNROLL for (int x = 0; x < 6; x++)
    {
        V line[6];
        UNROLL for (int y = 0; y < 6; y++) line[y] = ld(m + (y * 6 + x) * m_place(j));
        output_line(line, e[x]);
    }
    for (int y = 0; y < to->rows; y++) {
        const V line[6] = {e[0][y], e[1][y], e[2][y], e[3][y], e[4][y], e[5][y]};
        V z[4];
        output_line(line, z);
        for (int x = 0; x < to->columns; x++)
            tail(&j->tail, to->at[y][x], z[x], (V){0}, c, n);
    }
}

/* Tiles [b0, b0 + n) of the span that begins at t0, for `count` panels from `panel` on, packed at u. */
static void run_task(const Job *j, int64_t t0, int64_t b0, int64_t n, int64_t panel, int64_t count,
                     const float *u, float *m)
{
    const int64_t ldm = WIDTH * NR;
    for (int f = 0; f < PLACES; f++)
        for (int64_t p = 0; p < count; p++)
            for (int64_t k = 0; k < j->s.I; k += DEPTH)
                product(j->v + f * v_place(j) + b0 * j->ldv + k, j->ldv,
                        u + p * panel_floats(j) + f * u_place(j) + k * NR, MIN(DEPTH, j->s.I - k),
                        m + f * m_place(j) + p * NR, ldm, n, k > 0);
    const int64_t c0 = panel * NR, c1 = MIN(j->s.wide, (panel + count) * NR);
    for (int64_t t = 0; t < n; t++) {
        Target to;
        find_target(j, t0 + b0 + t, &to);
        for (int64_t c = c0; c < c1; c += VL)
            output_tile(j, &to, m + t * ldm + c - c0, c, c1 - c);
    }
}

/* Called by every thread of a team, as run_span: the loops' ends wait for all. */
static void make_u(const Job *j, int64_t first, int64_t count)
{
    const int64_t pieces = over(j->s.I, PIECE);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count * pieces * 2; i++) {
        const int64_t p = i / 2 / pieces, i0 = i / 2 % pieces * PIECE;
        transform_half(j, first + p, (int)(i % 2), i0, MIN(i0 + PIECE, j->s.I), j->u + p * panel_floats(j));
    }
}

static void run_span(const Job *j, int64_t t0, bool new_u)
{
    const int64_t n = MIN(j->span, j->tiles - t0), blocks = over(n, j->block);
    float *m = j->m + (size_t)omp_get_thread_num() * m_bytes(j) / sizeof(float);
#pragma omp for schedule(dynamic, 8)
    for (int64_t t = 0; t < n; t++)
        transform_tile(j, t0 + t, t);
    for (int64_t first = 0; first < j->panels; first += j->group) {
        const int64_t count = MIN(j->group, j->panels - first);
        if (new_u)
            make_u(j, first, count);
        const int64_t strips = over(count, WIDTH);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * strips; i++) {
            const int64_t b0 = i / strips * j->block, p = i % strips * WIDTH;
            run_task(j, t0, b0, MIN(j->block, n - b0), first + p, MIN(WIDTH, count - p),
                     j->u + p * panel_floats(j), m);
        }
    }
}

int VEC(winograd)(Cx *cx, const Call *call)
{
    Job j = job_of(cx, call);
    const bool biased = call->epi.bias && weight_given(call->epi.bias);
    const float *bias = biased ? weight_floats(cx, call->epi.bias) : NULL;
    if (cx_failed(cx))
        return cx->err->code;
    j.tail = tail_of(call, bias);
    j.u = (float *)call->tmp;
    j.v = (float *)(call->tmp + u_bytes(&j));
    j.m = (float *)(call->tmp + u_bytes(&j) + v_bytes(&j));
    j.zeros = j.m + (size_t)cx->threads * m_bytes(&j) / sizeof(float);
    memset(j.zeros, 0, zero_bytes(&j));
#pragma omp parallel num_threads(j.threads)
    for (int64_t t0 = 0; t0 < j.tiles; t0 += j.span)
        run_span(&j, t0, t0 == 0 || j.group < j.panels);
    return 0;
}
