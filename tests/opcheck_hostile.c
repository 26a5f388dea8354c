/* opcheck_hostile.c: families of cases that kernels dislike: sizes of 1, odd ones, one more or less than a
 * vector; stored weights at odd addresses; large, fine, offset and denormal values; bf16 products.
 *
 * Case i of a family is a function of i; nothing is drawn, so a case can be named and run again. */
#include "tests/opcheck.h"

static const int64_t odd[] = {1, 3, 4, 5, 17, 33};
enum { ODD = COUNT(odd) };

/* ---- shapes ------------------------------------------------------------------------------ */

/* 3x3: pictures of 1 to 9 by 1 to 9, four paddings, all pairs of channels with each stride. */
static Case conv3(int i)
{
    static const int pads[][4] = {{1, 1, 1, 1}, {1, 2, 0, 2}, {2, 0, 3, 1}, {2, 2, 2, 2}};
    const int *p = pads[i / 3 % COUNT(pads)];
    return (Case){OP_CONV2D,
                  .x = {1 + i % 2, 1 + i % 9, 1 + (2 * i + i / 9) % 9, odd[i % ODD]},
                  .O = odd[i / ODD % ODD],
                  .kh = 3,
                  .kw = 3,
                  .stride = i < ODD * ODD ? 1 : 2,
                  .pad = {p[0], p[1], p[2], p[3]},
                  .bias = i % 2,
                  .add = i % 5 == 0,
                  .gap = i % 3};
}

static Case conv_kernels(int i)
{
    static const int kernels[][2] = {{1, 1}, {1, 3}, {3, 1}, {5, 5}, {7, 7}};
    const int *k = kernels[i % COUNT(kernels)];
    return (Case){OP_CONV2D,
                  .x = {1 + i % 3, 1 + i % 7, 1 + 3 * i % 8, odd[i % ODD]},
                  .O = odd[(i / 2 + 2) % ODD],
                  .kh = k[0],
                  .kw = k[1],
                  .stride = 1 + i / 2 % 2,
                  .pad = {k[0] / 2, k[0] / 2, k[1] / 2, k[1] / 2},
                  .bias = i % 2 == 0,
                  .gap = i % 4 == 3 ? 5 : 0};
}

/* Kernels that step over pixels, and such that see pixels unevenly often. */
static Case strides(int i)
{
    static const int kernels[][2] = {{1, 1}, {2, 2}, {2, 3}, {4, 4}, {5, 5}};
    const int *k = kernels[i % COUNT(kernels)];
    return (Case){OP_CONV2D,
                  .x = {1 + i % 2, 5 + i % 4, 6 + i % 5, odd[i % ODD]},
                  .O = odd[(i + 3) % ODD],
                  .kh = k[0],
                  .kw = k[1],
                  .stride = 2 + i / COUNT(kernels) % 3,
                  .pad = {i % k[0], i / 2 % k[0], i / 3 % k[1], i % k[1]},
                  .bias = i % 2,
                  .gap = i % 3};
}

static Case linears(int i)
{
    static const int64_t rows[] = {1, 2, 3, 5, 7, 11, 13, 25, 37};
    return (Case){OP_LINEAR, .x = {rows[i % COUNT(rows)], odd[i % ODD]}, .O = odd[i / ODD % ODD],
                  .bias = i % 2, .gap = i % 3 ? 0 : 2};
}

static Case convts(int i)
{
    static const int frames[] = {1, 2, 3, 7};
    const int F = frames[i % COUNT(frames)];
    return (Case){OP_CONVT,
                  .x = {F * (1 + i % 2), 1 + i % 3, 1 + i % 5, odd[i % ODD]},
                  .O = odd[(i / 2 + 1) % ODD],
                  .kh = 3,
                  .kw = 1,
                  .frames = F,
                  .bias = true};
}

/* Groups of one channel, one group, rows by themselves; over one frame and over all. Of a single value
 * nothing is left but rounding errors, 1 / sqrt(eps) = 316 times as large in gradients. */
static Case norms(int i)
{
    static const int64_t widths[] = {1, 3, 4, 5, 17, 33, 100, 320};
    const int64_t C = widths[i / 3 % COUNT(widths)];
    return (Case){OP_NORM,
                  .x = {4, 1 + i % 5, 1 + i % 7 * 3, C},
                  .groups = i % 3 == 0   ? 0
                            : i % 3 == 1 ? 1
                                         : (int)C,
                  .per = i % 4 < 2 ? 1 : 4,
                  .act = i % 2 ? ACT_SILU : ACT_NONE,
                  .gap = i % 5 ? 0 : 3,
                  .loose = C == 1 ? 4 : 1};
}

static Case small_ops(int i)
{
    static const Case kinds[] = {
        {OP_ACT, .x = {2, 7}, .act = ACT_SILU},
        {OP_ACT, .x = {2, 7}, .act = ACT_GELU},
        {OP_ACT, .x = {2, 7}, .act = ACT_QUICK_GELU},
        {OP_ACT, .x = {2, 7}, .act = ACT_GEGLU},
        {OP_ADD, .x = {2, 7}},
        {OP_ROWS, .x = {2, 7}, .per = 7, .more = 2},
        {OP_CONCAT, .x = {2, 7}, .more = 1},
        {OP_REPEAT, .x = {2, 7}, .more = 3},
        {OP_BLEND, .x = {2, 7}},
        {OP_FIRST, .x = {4, 3}, .frames = 2},
        {OP_ROTATE, .x = {6, 5}, .frames = 3},
        {OP_RESIZE, .x = {2, 3, 5}, .H2 = 7, .W2 = 4},
    };
    Case c = kinds[i / ODD];
    c.x[c.op == OP_RESIZE ? 3 : 2] = odd[i % ODD] * (c.act == ACT_GEGLU || c.op == OP_ROTATE ? 2 : 1);
    c.more = c.op == OP_CONCAT ? odd[(i + 2) % ODD] : c.op == OP_ROTATE ? (odd[i % ODD] + 1) / 2 : c.more;
    c.gap = i % 2 ? 3 : 0;
    return c;
}

static Case attentions(int i)
{
    static const int64_t widths[] = {40, 64, 80, 160, 17, 1}, queries[] = {1, 2, 5, 31, 66},
                         keys[] = {1, 97, 8, 77};
    static const int frames[] = {1, 2, 3, 16, 17, 24, 33};
    const int heads = 1 + i % 2;
    Case c = {OP_ATTN,        .x = {2, queries[i % COUNT(queries)], widths[i % COUNT(widths)] * heads},
              .heads = heads, .frames = 2,
              .n_kv = 1,      .gap = i % 3 ? 0 : 5,
              .loose = 2};
    if (i % 3 == 0) {
        c.L[0] = c.x[1], c.causal = i % 2;
    } else if (i % 3 == 1) {
        c.map[0] = KV_CLIP, c.L[0] = keys[i % COUNT(keys)];
    } else {
        c.frames = frames[i / 3 % COUNT(frames)], c.in_time = true, c.causal = i % 2;
        c.x[0] = c.frames * heads, c.x[1] = 1 + i % 3;
    }
    return c;
}

/* Windows in pictures of one line, one column, and both; first frames of one position. */
static Case first_frames(int i)
{
    static const int64_t widths[] = {40, 64, 17, 1, 160}, high[] = {1, 3, 1, 2, 5}, wide[] = {1, 1, 4, 2, 3};
    static const int frames[] = {1, 2, 3, 16, 25};
    const int shape = i / 2 % COUNT(high);
    Case c = {OP_ATTN,    .x = {2, high[shape] * wide[shape], 2 * widths[i / 3 % COUNT(widths)]},
              .heads = 2, .frames = frames[i / 5 % COUNT(frames)],
              .n_kv = 2,  .gap = i % 3 ? 0 : 5,
              .loose = 2};
    c.x[0] = c.frames * (1 + i % 2);
    c.map[i % 4 == 0] = i % 2 ? KV_WINDOW : KV_FIRST; /* before or behind the frame's own */
    c.in_time = i % 2, c.width = (int)wide[shape];
    c.L[0] = c.L[1] = c.x[1];
    return c;
}

/* ---- contents ---------------------------------------------------------------------------- */

/* Every stored type one and three bytes off any alignment, in every way that kernels read weights. */
static Case stored(int i)
{
    static const Case kinds[] = {
        {OP_CONV2D, .x = {1, 5, 6, 19}, .O = 37, .kh = 3, .kw = 3, .stride = 1, .pad = {1, 1, 1, 1}},
        {OP_CONV2D, .x = {1, 5, 6, 32}, .O = 64, .kh = 3, .kw = 3, .stride = 1, .pad = {1, 1, 1, 1}},
        {OP_CONV2D, .x = {1, 5, 6, 32}, .O = 40, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}},
        {OP_CONVT, .x = {3, 2, 3, 35}, .O = 33, .kh = 3, .kw = 1, .frames = 3},
        {OP_LINEAR, .x = {5, 33}, .O = 67},
        {OP_LINEAR, .x = {9, 64}, .O = 64},
        {OP_LINEAR, .x = {9, 40}, .O = 144, .act = ACT_GEGLU},
        {OP_NORM, .x = {2, 3, 4, 35}, .groups = 7, .per = 1},
    };
    static const DType types[] = {F32, F16, BF16};
    Case c = kinds[i / 6];
    c.type = types[i % 3], c.shift = i / 3 % 2 ? 3 : 1;
    c.bias = c.op != OP_NORM;
    return c;
}

/* One case of every forward op with each kind of values; convolutions with 17 channels: a part of a vector.
 */
static const Case of_each[] = {
    {OP_CONV2D, .x = {2, 6, 7, 17}, .O = 33, .kh = 3, .kw = 3, .stride = 1, .pad = {1, 1, 1, 1},
     .bias = true},
    {OP_CONV2D, .x = {1, 6, 7, 17}, .O = 33, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}},
    {OP_CONVT, .x = {3, 2, 3, 17}, .O = 20, .kh = 3, .kw = 1, .frames = 3},
    {OP_LINEAR, .x = {13, 33}, .O = 35, .bias = true, .add = true},
    {OP_NORM, .x = {2, 9, 8, 36}, .groups = 4, .per = 2, .act = ACT_SILU},
    {OP_NORM, .x = {2, 9, 8, 36}, .groups = 36, .per = 1},
    {OP_NORM, .x = {9, 70}},
    {OP_LINEAR, .x = {13, 33}, .O = 70, .bias = true, .act = ACT_GEGLU},
    {OP_LINEAR, .x = {13, 33}, .O = 35, .act = ACT_SILU},
    {OP_ATTN, .x = {2, 21, 32}, .heads = 2, .frames = 1, .n_kv = 1, .L = {21}},
    {OP_ATTN, .x = {6, 3, 32}, .heads = 2, .frames = 6, .n_kv = 1, .in_time = true},
    {OP_ACT, .x = {5, 99}, .act = ACT_SILU},
    {OP_ACT, .x = {5, 99}, .act = ACT_GELU},
    {OP_ACT, .x = {5, 99}, .act = ACT_QUICK_GELU},
    {OP_ACT, .x = {5, 66}, .act = ACT_GEGLU},
    {OP_ADD, .x = {5, 99}},
    {OP_ROWS, .x = {6, 33}, .per = 2, .more = 3},
    {OP_CONCAT, .x = {6, 33}, .more = 5},
    {OP_REPEAT, .x = {6, 33}, .more = 2},
    {OP_RESIZE, .x = {1, 3, 4, 5}, .H2 = 5, .W2 = 7},
    {OP_ROTATE, .x = {4, 3, 36}, .frames = 4, .more = 9},
    {OP_BLEND, .x = {6, 33}},
    {OP_FIRST, .x = {6, 33}, .frames = 3},
    {OP_ATTN, .x = {6, 6, 32}, .heads = 2, .frames = 6, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 3},
};
enum { EACH = COUNT(of_each), PRODUCTS = 4, NORMS = 3 };

static Case values(int i)
{
    static const Values kinds[] = {FINE, LARGE, DENORMAL};
    Case c = of_each[i % EACH];
    c.x_values = kinds[i / EACH];
    c.w_values = c.x_values == FINE ? FINE : PLAIN;
    c.loose = 4;
    return c;
}

/* Weights smaller than the type's normal numbers. Winograd's are fractions of them, rounded to what little
 * float32 has down there. */
static Case tiny_weights(int i)
{
    static const DType types[] = {F32, F16, BF16};
    Case c = of_each[i % PRODUCTS];
    c.type = types[i / PRODUCTS], c.shift = 1;
    c.w_values = DENORMAL;
    c.add = false;
    c.loose = 8;
    return c;
}

/* A mean ten thousand times the deviation. */
static Case offset_norms(int i)
{
    Case c = of_each[PRODUCTS + i];
    c.x_values = OFFSET;
    c.loose = 4;
    return c;
}

static Case bf16_linears(int i)
{
    static const int64_t sizes[] = {1, 3, 17, 33, 64, 101};
    static const DType types[] = {F32, BF16, F16};
    return (Case){OP_LINEAR,
                  .x = {1 + 7 * i % 20, sizes[i % COUNT(sizes)]},
                  .O = 2 * sizes[(i / 2 + 1) % COUNT(sizes)],
                  .act = i % 4 == 3 ? ACT_GEGLU : ACT_NONE,
                  .bias = i % 2,
                  .type = types[i % 3],
                  .shift = i % 2,
                  .gap = i % 5 ? 0 : 3,
                  .x_values = FINE,
                  .w_values = FINE,
                  .bf16 = true,
                  .loose = 2};
}

/* Queries enough for a panel of any width. */
static Case bf16_attentions(int i)
{
    static const int64_t widths[] = {40, 64, 80, 160, 17}, queries[] = {17, 33, 100};
    const int64_t S = queries[i % COUNT(queries)];
    return (Case){OP_ATTN,
                  .x = {2, S, 2 * widths[i % COUNT(widths)]},
                  .heads = 2,
                  .frames = 2,
                  .n_kv = 1,
                  .map = {i % 2 ? KV_CLIP : KV_SELF},
                  .L = {i % 2 ? 77 : S},
                  .x_values = FINE,
                  .bf16 = true};
}

/* ---- large ------------------------------------------------------------------------------- */

/* More transformed weights, more tiles, and more of both, than Winograd works on at a time. */
static Case winograd_cuts(int i)
{
    static const int64_t shapes[][5] = {
        {1, 5, 6, 512, 200}, {1, 8, 8, 1280, 70}, {1, 99, 101, 64, 3}, {100, 1, 1, 4096, 33}};
    const int64_t *s = shapes[i];
    return (Case){
        CONV, .x = {s[0], s[1], s[2], s[3]}, .O = s[4], .x_values = FINE, .w_values = FINE, .loose = 4,
    };
}

/* More rows and channels than gradients of weights sum up at a time. */
static Case long_sums(int i)
{
    static const Case kinds[] = {
        {OP_LINEAR, .x = {1, 2100, 17}, .O = 33, .bias = true, .row = true, .per = 700},
        {OP_LINEAR, .x = {700, 40}, .O = 400, .bias = true, .gap = 3},
        {OP_LINEAR, .x = {2, 150, 33}, .O = 70, .bias = true, .act = ACT_GEGLU},
        {OP_LINEAR, .x = {300, 288}, .O = 8, .scale = 0.5f, .add = true},
        {CONV1, .x = {3, 20, 21, 33}, .O = 200, .bias = true},
        {CONV, .x = {5, 17, 13, 20}, .O = 36, .bias = true, .row = true, .per = 221},
        {CONV, .x = {2, 9, 12, 70}, .O = 210},
        {OP_CONV2D, .x = {5, 33, 31, 20}, .O = 17, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}},
        {CONVT, .x = {24, 9, 7, 20}, .O = 36, .frames = 8, .bias = true, .gap = 5},
        {CONV, .x = {20, 17, 18, 16}, .O = 17, .gap = 1},
        {CONVT, .x = {16, 9, 11, 20}, .O = 18, .frames = 8},
        {OP_ROWS, .x = {4, 300, 37}, .per = 150, .more = 3, .gap = 2},
    };
    return kinds[i];
}

static const struct {
    int count;
    Case (*make)(int);
} families[] = {
    {2 * ODD * ODD, conv3},
    {30, conv_kernels},
    {ODD * ODD, linears},
    {12, convts},
    {24, norms},
    {12 * ODD, small_ops},
    {42, attentions},
    {50, first_frames},
    {48, stored},
    {3 * EACH, values},
    {3 * PRODUCTS, tiny_weights},
    {NORMS, offset_norms},
    {18, bf16_linears},
    {15, bf16_attentions},
    {4, winograd_cuts},
    {30, strides},
    {12, long_sums},
};

int hostile_count(void)
{
    int n = 0;
    for (int f = 0; f < COUNT(families); f++)
        n += families[f].count;
    return n;
}

Case hostile_at(int i)
{
    int f = 0;
    while (i >= families[f].count)
        i -= families[f++].count;
    return families[f].make(i);
}
