/* weight_back.c: gradients of the weights of convolutions and linears.
 *
 *     gw[o][t][i] += sum over rows r of  gz[r][o] * x[under tap t of r][i]
 *
 * A product of columns: gz is read one value at a time, what lies under the taps is packed into panels of NR
 * (t, i). Tasks are a band of output channels times a chunk of panels; they run over the rows DEPTH at a time
 * and keep their sums in scratch. Few channels make few tasks: then the rows are cut into slices too, with
 * sums of their own that are added up in order. How rows are cut follows the shape alone.
 *
 *     sums [slice][O][panels * NR]      of a thread: gz [DEPTH][band], packed [panel][DEPTH][NR]
 *
 * Knows rows and what lies under a kernel. Refuses to know epilogues. */
#include "tensor/cpu/vec/product.h"

enum {
    DEPTH = 256,      /* rows at a time: a packed panel stays in the first cache */
    BAND = 192,       /* output channels of a task, at most, */
    STEP = 48,        /* and what they are a multiple of, as it is of MR and VL */
    CHUNK = 256 / NR, /* panels of a task, at most */
    SLICE = 1024,     /* rows that are worth a slice */
    WANTED = 16,      /* tasks that make slices needless */
    TASKS = 4,        /* wanted per thread */
    PAD = 16,         /* floats behind each row of gz */
};

typedef struct {
    const Call *call;
    ConvShape s;
    const float *gz, *x;
    int64_t ldg;
    int threads;
    int64_t rows, taps, columns, panels, lds, slices, slice, band, chunk;
    float *sums;
    char *room;
    size_t each;
} Job;

static int64_t over(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static Job job_of(const Cx *cx, const Call *call)
{
    Job j = {.call = call, .s = conv_shape(call), .threads = team(cx, NS_FLOP / 2 * call->flops)};
    j.rows = j.s.N * j.s.Ho * j.s.Wo;
    j.taps = j.s.kh * j.s.kw;
    j.columns = j.taps * j.s.I;
    j.panels = over(j.columns, NR);
    j.lds = j.panels * NR;
    j.band = over(over(j.s.wide, over(j.s.wide, BAND)), STEP) * STEP;
    j.chunk = over(j.panels, over(j.panels, CHUNK));
    const int64_t tasks = over(j.s.wide, j.band) * over(j.panels, j.chunk);
    const int64_t slices = tasks >= WANTED ? 1 : MIN(over(WANTED, tasks), over(j.rows, SLICE));
    j.slice = over(over(j.rows, slices), DEPTH) * DEPTH;
    j.slices = over(j.rows, j.slice);
    while (j.threads > 1 && j.chunk > 1 &&
           j.slices * over(j.s.wide, j.band) * over(j.panels, j.chunk) < TASKS * j.threads)
        j.chunk = over(j.chunk, 2);
    j.each = round64((size_t)(DEPTH * (j.band + PAD + j.chunk * NR)) * sizeof(float));
    return j;
}

static size_t sums_bytes(const Job *j)
{
    return round64((size_t)(j->slices * j->s.wide * j->lds) * sizeof(float));
}

size_t VEC(weight_back_scratch)(const Cx *cx, const Call *call)
{
    const Job j = job_of(cx, call);
    return sums_bytes(&j) + (size_t)cx->threads * j.each;
}

/* Copies `count` <= NR channels of n rows, `apart` floats apart, to rows of NR. */
INLINE void copy_rows(const float *x, int64_t apart, int64_t n, int64_t count, float *out)
{
    for (int64_t r = 0; r < n; r++, x += apart, out += NR) {
        if (count == NR) {
            st(out, ld(x)), st(out + VL, ld(x + VL));
            continue;
        }
        for (int64_t c = 0; c < count; c += VL)
            st_some(out + c, ld_some(x + c, count - c), count - c);
    }
}

static void clear_rows(int64_t n, int64_t count, float *out)
{
    for (int64_t r = 0; r < n; r++)
        memset(out + r * NR, 0, (size_t)count * sizeof *out);
}

/* Channels [i, i + count) under tap t of rows [r, r + n), line of pixels by line. */
static void pack_tap(const Job *j, int64_t t, int64_t i, int64_t count, int64_t r, int64_t n, float *out)
{
    const ConvShape *s = &j->s;
    const int64_t left = t % s->kw - s->pad[2];
    while (n > 0) {
        const int64_t x = r % s->Wo, y = r / s->Wo % s->Ho, picture = r / s->Wo / s->Ho;
        const int64_t line = y * s->stride + t / s->kw - s->pad[0], end = MIN(s->Wo, x + n);
        /* the places whose pixel lies in the picture */
        int64_t from = left < 0 ? over(-left, s->stride) : 0,
                to = s->W > left ? over(s->W - left, s->stride) : 0;
        from = MIN(MAX(from, x), end), to = MIN(MAX(to, from), end);
        if (line < 0 || line >= s->H)
            from = to = end;
        clear_rows(from - x, count, out);
        copy_rows(j->x + ((picture * s->H + line) * s->W + from * s->stride + left) * s->ld + i,
                  s->stride * s->ld, to - from, count, out + (from - x) * NR);
        clear_rows(end - to, count, out + (to - x) * NR);
        out += (end - x) * NR, r += end - x, n -= end - x;
    }
}

/* Rows [r, r + n) of panel p; columns beyond the last are 0. */
static void pack_panel(const Job *j, int64_t p, int64_t r, int64_t n, float *out)
{
    const int64_t end = MIN(j->columns, (p + 1) * NR);
    int64_t k = p * NR;
    while (k < end) {
        const int64_t i = k % j->s.I, count = MIN(j->s.I - i, end - k);
        pack_tap(j, k / j->s.I, i, count, r, n, out + k - p * NR);
        k += count;
    }
    clear_rows(n, (p + 1) * NR - end, out + end - p * NR);
}

/* Output channels [o, o + count) of a slice's sums, panels [p0, p1). */
static void run_task(const Job *j, int64_t slice, int64_t o, int64_t p0, int64_t p1, char *room)
{
    const int64_t count = MIN(j->band, j->s.wide - o), ldb = j->band + PAD, begin = slice * j->slice;
    float *gz = (float *)room, *packed = gz + DEPTH * ldb, *sums = j->sums + (slice * j->s.wide + o) * j->lds;
    for (int64_t r = begin; r < MIN(j->rows, begin + j->slice); r += DEPTH) {
        const int64_t n = MIN(MIN(DEPTH, j->rows - r), begin + j->slice - r);
        for (int64_t k = 0; k < n; k++)
            memcpy(gz + k * ldb, j->gz + (r + k) * j->ldg + o, (size_t)count * sizeof *gz);
        for (int64_t p = p0; p < p1; p++) {
            float *panel = packed + (p - p0) * DEPTH * NR;
            pack_panel(j, p, r, n, panel);
            product_columns(gz, ldb, panel, n, sums + p * NR, j->lds, count, r > begin);
        }
    }
}

/* Adds up the slices of output channel o and adds them to its gradient, [I][taps]. */
static void finish_channel(const Job *j, int64_t o, float *gw)
{
    float *sums = j->sums + o * j->lds;
    for (int64_t s = 1; s < j->slices; s++)
        for (int64_t c = 0; c < j->lds; c += VL)
            st(sums + c, ld(sums + c) + ld(sums + s * j->s.wide * j->lds + c));
    if (j->taps == 1) {
        for (int64_t c = 0; c < j->s.I; c += VL)
            st_some(gw + c, ld_some(gw + c, j->s.I - c) + ld(sums + c), j->s.I - c);
        return;
    }
    for (int64_t i = 0; i < j->s.I; i++)
        for (int64_t t = 0; t < j->taps; t++)
            gw[i * j->taps + t] += sums[t * j->s.I + i];
}

void VEC(weight_back)(const Cx *cx, const Call *call, const Tensor *gz, float *gw, char *room)
{
    Job j = job_of(cx, call);
    j.gz = gz->d, j.ldg = gz->ld, j.x = call->in[0]->d;
    j.sums = (float *)room, j.room = room + sums_bytes(&j);
    const int64_t bands = over(j.s.wide, j.band), chunks = over(j.panels, j.chunk);
#pragma omp parallel num_threads(j.threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < j.slices * bands * chunks; i++) {
            const int64_t p0 = i % chunks * j.chunk;
            run_task(&j, i / chunks / bands, i / chunks % bands * j.band, p0, MIN(j.panels, p0 + j.chunk),
                     j.room + (size_t)omp_get_thread_num() * j.each);
        }
#pragma omp for schedule(static)
        for (int64_t o = 0; o < j.s.wide; o++)
            finish_channel(&j, o, gw + o * j.columns);
    }
}
