/* winograd_back.c: the weight's gradient of what winograd.c does, F(4x4,3x3) over pictures and F(4,3) over
 * frames, by the same transforms: with V = B' d B of the input's pieces
 *
 *     M = A gz A' of every 4x4 piece of the result's gradient      dU[f] += M[f]' V[f] over tiles
 *     gw += G' dU G
 *
 * Work goes through buffers that all threads share; `span` tiles at a time, which follows the shape alone. A
 * place's sums run over tiles in order.
 *
 *     V [places][panel][span][NR]    M [places][span][ldm]    dU [places][O][panels * NR]
 *
 * Knows kernels of 3 and stride 1. Refuses to know any other. */
#include "tensor/cpu/vec/product.h"
#include "tensor/cpu/vec/winograd.h"

enum {
    BYTES = 6 << 20, /* of V and M */
    LEAST = 64,      /* tiles of a span, at least, */
    MOST = 256,      /* and at most: a place's panel of V stays in the first cache */
    BAND = 192,      /* output channels of a task, at most; a multiple of MR */
    CHUNK = 256 / NR,
    PAD = 16, /* floats behind each row of M */
};

typedef struct {
    const Call *call;
    ConvShape s;
    const Tensor *gz;
    int threads, across, places;
    int64_t th, tw, tiles, panels, ldm, span, band;
    float *v, *m, *du, *zeros;
} Job;

static int64_t over(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Floats from one place to the next: an odd number of cache lines. */
static int64_t place(int64_t floats)
{
    return (over(floats, 16) | 1) * 16;
}
static int64_t v_place(const Job *j)
{
    return place(j->panels * j->span * NR);
}
static int64_t m_place(const Job *j)
{
    return place(j->span * j->ldm);
}
static int64_t u_place(const Job *j)
{
    return j->s.wide * j->panels * NR;
}

static Job job_of(const Cx *cx, const Call *call)
{
    Job j = {.call = call, .s = conv_shape(call), .threads = team(cx, NS_FLOP / 4 * call->flops)};
    j.across = call->op == OP_CONVT ? 1 : 6;
    j.places = 6 * j.across;
    j.th = over(j.s.Ho, 4), j.tw = j.across == 1 ? j.s.Wo : over(j.s.Wo, 4);
    j.tiles = j.s.N * j.th * j.tw;
    j.panels = over(j.s.I, NR);
    j.ldm = over(j.s.wide, VL) * VL + PAD;
    const int64_t most = MIN(MOST, MAX(LEAST, BYTES / 4 / j.places / (j.panels * NR + j.ldm)));
    j.span = over(j.tiles, over(j.tiles, most));
    j.band = over(over(j.s.wide, over(j.s.wide, BAND)), MR) * MR;
    return j;
}

static size_t bytes_of(int64_t floats)
{
    return round64((size_t)floats * sizeof(float));
}

size_t VEC(winograd_back_scratch)(const Cx *cx, const Call *call)
{
    const Job j = job_of(cx, call);
    return bytes_of(j.places * v_place(&j)) + bytes_of(j.places * m_place(&j)) +
           bytes_of(j.places * u_place(&j)) + bytes_of(MAX(j.s.I, j.s.wide));
}

/* ---- transforms -------------------------------------------------------------------------- */

/* A of four values: six. */
INLINE void gradient_line(const V y[4], V m[6])
{
    const V even = y[0] + y[2], odd = y[1] + y[3], far = y[0] + 4 * y[2], odder = 2 * y[1] + 8 * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = far + odder;
    m[4] = far - odder;
    m[5] = y[3];
}

/* Output channels [c, c + n) of a tile of gz, 4 x (4 or 1) pixels at p. */
INLINE void gradient_piece(const int across, const float *const *p, int64_t c, int64_t n, V m[6][6])
{
    const int wide = across == 6 ? 4 : 1;
    V half[6][4];
    UNROLL for (int x = 0; x < wide; x++)
    {
        V line[4], six[6];
        UNROLL for (int y = 0; y < 4; y++) line[y] = ld_some(p[y * wide + x] + c, n);
        gradient_line(line, six);
        UNROLL for (int y = 0; y < 6; y++) half[y][x] = six[y];
    }
    UNROLL for (int y = 0; y < 6; y++)
    {
        if (across == 6)
            gradient_line(half[y], m[y]);
        else
            m[y][0] = half[y][0];
    }
}

INLINE void transform_channels(const Job *j, const int across, const float *const *x, const float *const *g,
                               int64_t at)
{
    V d[6][6];
    for (int64_t c = 0; c < j->panels * NR; c += VL) {
        float *v = j->v + (c / NR * j->span + at) * NR + c % NR;
        if (c < j->s.I)
            input_piece(across, x, c, j->s.I - c, d);
        else
            memset(d, 0, sizeof d);
        UNROLL for (int i = 0; i < 6 * across; i++) st(v + i * v_place(j), d[i / across][i % across]);
    }
    for (int64_t c = 0; c < j->s.wide; c += VL) {
        gradient_piece(across, g, c, j->s.wide - c, d);
        UNROLL for (int i = 0; i < 6 * across; i++)
            st(j->m + i * m_place(j) + at * j->ldm + c, d[i / across][i % across]);
    }
}

/* Tile t of all, as tile `at` of the span. */
static void transform_tile(const Job *j, int64_t t, int64_t at)
{
    const ConvShape *s = &j->s;
    const int wide = j->across == 6 ? 4 : 1;
    const int64_t n = t / (j->th * j->tw), y = t / j->tw % j->th * 4, x = t % j->tw * wide;
    const float *in = j->call->in[0]->d, *gz = j->gz->d, *p[PLACES], *g[16];
    find_pixels(in + n * s->H * s->W * s->ld, s->H, s->W, s->ld, y - s->pad[0], x - s->pad[2], 6, j->across,
                j->zeros, p);
    find_pixels(gz + n * s->Ho * s->Wo * j->gz->ld, s->Ho, s->Wo, j->gz->ld, y, x, 4, wide, j->zeros, g);
    if (j->across == 1)
        transform_channels(j, 1, p, g, at);
    else
        transform_channels(j, 6, p, g, at);
}

/* G' of six values: three. */
INLINE void weight_line(const V u[6], V g[3])
{
    const V near = (u[1] + u[2]) * (1.0f / 6), far = u[3] + u[4];
    g[0] = u[0] * 0.25f - near + far * (1.0f / 24);
    g[1] = (u[2] - u[1]) * (1.0f / 6) + (u[3] - u[4]) * (1.0f / 12);
    g[2] = far * (1.0f / 6) - near + u[5];
}

/* G' dU G at one output channel and VL input channels. */
INLINE void weight_piece(const Job *j, const int across, const float *du, V g[9])
{
    const int wide = across == 6 ? 3 : 1;
    V half[6][3];
    UNROLL for (int y = 0; y < 6; y++)
    {
        V line[6];
        UNROLL for (int x = 0; x < across; x++) line[x] = ld(du + (y * across + x) * u_place(j));
        if (across == 6)
            weight_line(line, half[y]);
        else
            half[y][0] = line[0];
    }
    UNROLL for (int x = 0; x < wide; x++)
    {
        V three[3];
        const V line[6] = {half[0][x], half[1][x], half[2][x], half[3][x], half[4][x], half[5][x]};
        weight_line(line, three);
        UNROLL for (int y = 0; y < 3; y++) g[wide * y + x] = three[y];
    }
}

/* Adds to gw [I][taps] of output channel o. */
static void finish_channel(const Job *j, int64_t o, float *gw)
{
    const int64_t taps = j->across == 6 ? 9 : 3;
    const float *du = j->du + o * j->panels * NR;
    for (int64_t i = 0; i < j->s.I; i += VL) {
        V g[9];
        if (j->across == 6)
            weight_piece(j, 6, du + i, g);
        else
            weight_piece(j, 1, du + i, g);
        for (int64_t k = 0; k < MIN(VL, j->s.I - i); k++)
            for (int64_t t = 0; t < taps; t++)
                gw[(i + k) * taps + t] += g[t][k];
    }
}

/* ---- products ---------------------------------------------------------------------------- */

/* Place f: output channels [o, ..), panels from p on, of `n` tiles. */
static void run_task(const Job *j, int64_t f, int64_t o, int64_t p, int64_t n, bool add)
{
    for (int64_t k = p; k < MIN(p + CHUNK, j->panels); k++)
        product_columns(j->m + f * m_place(j) + o, j->ldm, j->v + f * v_place(j) + k * j->span * NR, n,
                        j->du + f * u_place(j) + o * j->panels * NR + k * NR, j->panels * NR,
                        MIN(j->band, j->s.wide - o), add);
}

/* Called by every thread of a team: the loops' ends wait for all. */
static void run_span(const Job *j, int64_t t0)
{
    const int64_t n = MIN(j->span, j->tiles - t0), bands = over(j->s.wide, j->band),
                  chunks = over(j->panels, CHUNK);
#pragma omp for schedule(dynamic, 4)
    for (int64_t t = 0; t < n; t++)
        transform_tile(j, t0 + t, t);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < j->places * bands * chunks; i++)
        run_task(j, i / chunks / bands, i / chunks % bands * j->band, i % chunks * CHUNK, n, t0 > 0);
}

void VEC(winograd_back)(const Cx *cx, const Call *call, const Tensor *gz, float *gw, char *room)
{
    Job j = job_of(cx, call);
    j.gz = gz;
    j.v = (float *)room;
    j.m = j.v + bytes_of(j.places * v_place(&j)) / sizeof(float);
    j.du = j.m + bytes_of(j.places * m_place(&j)) / sizeof(float);
    j.zeros = j.du + bytes_of(j.places * u_place(&j)) / sizeof(float);
    memset(j.zeros, 0, bytes_of(MAX(j.s.I, j.s.wide)));
#pragma omp parallel num_threads(j.threads)
    {
        for (int64_t t0 = 0; t0 < j.tiles; t0 += j.span)
            run_span(&j, t0);
#pragma omp for schedule(static)
        for (int64_t o = 0; o < j.s.wide; o++)
            finish_channel(&j, o, gw + o * j.s.I * (j.across == 6 ? 9 : 3));
    }
}
