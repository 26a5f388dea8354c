/* opcheck_table.c: the cases. Sizes are odd and not square on purpose; `gap` makes inputs channel views. */
#include "tests/opcheck.h"

static const Case cases[] = {
    {CONV, .x = {2, 9, 7, 5}, .O = 7, .bias = true},
    {CONV, .x = {1, 5, 6, 4}, .O = 32, .bias = true},
    {CONV, .x = {3, 4, 4, 32}, .O = 4, .bias = true},
    {CONV, .x = {1, 33, 17, 16}, .O = 16, .bias = true},
    {CONV, .x = {1, 41, 9, 24}, .O = 40, .bias = true, .gap = 8},
    {CONV, .x = {2, 8, 8, 33}, .O = 17, .bias = true, .gap = 3},
    {CONV, .x = {1, 1, 1, 8}, .O = 8},
    {CONV, .x = {2, 2, 3, 64}, .O = 64},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}, .x = {2, 9, 8, 6}, .O = 10, .bias = true},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {1, 1, 1, 1}, .x = {1, 40, 7, 16}, .O = 16,
     .bias = true, .gap = 4},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {0, 1, 0, 1}, .x = {2, 8, 10, 8}, .O = 8, .bias = true},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 2, .pad = {0, 1, 0, 1}, .x = {1, 7, 9, 3}, .O = 5},
    {OP_CONV2D, .kh = 3, .kw = 3, .stride = 1, .pad = {2, 0, 1, 3}, .x = {2, 6, 5, 8}, .O = 9, .bias = true},
    {OP_CONV2D, .kh = 1, .kw = 1, .stride = 2, .x = {2, 8, 7, 12}, .O = 6, .bias = true},
    {OP_CONV2D, .kh = 1, .kw = 1, .stride = 1, .pad = {1, 0, 0, 1}, .x = {2, 5, 4, 8}, .O = 8, .bias = true},
    {OP_CONV2D, .kh = 3, .kw = 1, .stride = 1, .pad = {1, 1, 0, 0}, .x = {2, 7, 6, 8}, .O = 8, .bias = true},
    {OP_CONV2D, .kh = 1, .kw = 3, .stride = 2, .pad = {0, 0, 1, 1}, .x = {2, 7, 6, 8}, .O = 8, .bias = true},
    {OP_CONV2D, .kh = 7, .kw = 5, .stride = 3, .pad = {3, 3, 2, 2}, .x = {1, 13, 11, 3}, .O = 8,
     .bias = true},
    {CONV1, .x = {2, 5, 7, 12}, .O = 20, .bias = true},
    {CONV1, .x = {1, 17, 18, 16}, .O = 48, .bias = true, .gap = 5},
    {CONV, .x = {2, 6, 5, 8}, .O = 8, .bias = true, .type = F16, .shift = 1},
    {CONV, .x = {2, 6, 5, 8}, .O = 8, .bias = true, .type = BF16, .shift = 3},
    {CONV, .x = {2, 6, 5, 8}, .O = 8, .bias = true, .shift = 1},
    {CONV, .x = {1, 20, 5, 8}, .O = 8, .bias = true, .own = true},
    {CONV1, .x = {2, 6, 5, 8}, .O = 8, .bias = true, .type = F16, .shift = 5},

    {CONVT, .x = {5, 3, 7, 6}, .O = 10, .frames = 5, .bias = true},
    {CONVT, .x = {6, 2, 3, 24}, .O = 24, .frames = 3, .bias = true},
    {CONVT, .x = {3, 5, 2, 16}, .O = 16, .frames = 1, .bias = true},
    {CONVT, .x = {14, 3, 5, 33}, .O = 17, .frames = 7, .bias = true, .gap = 3},
    {CONVT, .x = {34, 4, 3, 32}, .O = 32, .frames = 17, .bias = true, .gap = 16},
    {CONVT, .x = {2, 1, 1, 8}, .O = 8, .frames = 2},
    {CONVT, .x = {70, 1, 2, 8}, .O = 16, .frames = 70, .bias = true},
    {OP_CONVT, .kh = 1, .kw = 1, .x = {4, 3, 5, 12}, .O = 20, .frames = 2, .bias = true},
    {OP_CONVT, .kh = 5, .kw = 1, .x = {6, 4, 3, 8}, .O = 8, .frames = 3, .bias = true},
    {CONVT, .x = {4, 3, 5, 8}, .O = 8, .frames = 2, .bias = true, .act = ACT_SILU, .add = true, .gap = 5},
    {CONVT, .x = {4, 3, 5, 8}, .O = 8, .frames = 4, .bias = true, .row = true, .per = 15, .scale = 0.5f},
    {CONVT, .x = {5, 3, 2, 8}, .O = 8, .frames = 5, .bias = true, .type = F16, .shift = 1},
    {CONVT, .x = {5, 3, 2, 8}, .O = 8, .frames = 5, .bias = true, .type = BF16, .shift = 3},
    {CONVT, .x = {5, 3, 2, 8}, .O = 8, .frames = 5, .bias = true, .own = true},

    {OP_LINEAR, .x = {7, 33}, .O = 17, .bias = true},
    {OP_LINEAR, .x = {1, 1}, .O = 1},
    {OP_LINEAR, .x = {2, 320}, .O = 1280, .bias = true, .act = ACT_SILU},
    {OP_LINEAR, .x = {1, 77, 64}, .O = 256, .bias = true, .act = ACT_QUICK_GELU},
    {OP_LINEAR, .x = {4, 67, 40}, .O = 320, .bias = true, .act = ACT_GEGLU},
    {OP_LINEAR, .x = {3, 300, 32}, .O = 256, .bias = true, .act = ACT_GEGLU},
    {OP_LINEAR, .x = {2, 90, 96}, .O = 768, .bias = true, .act = ACT_GEGLU, .gap = 7},
    {OP_LINEAR, .x = {3, 260, 40}, .O = 40, .gap = 40},
    {OP_LINEAR, .x = {3, 5, 24}, .O = 24, .bias = true, .type = F16, .shift = 1},
    {OP_LINEAR, .x = {3, 5, 24}, .O = 24, .bias = true, .type = BF16, .shift = 7},
    {OP_LINEAR, .x = {3, 5, 24}, .O = 24, .bias = true, .shift = 2},
    {OP_LINEAR, .x = {3, 5, 24}, .O = 24, .bias = true, .own = true},

    {OP_NORM, .x = {3, 5, 7, 12}, .groups = 4, .per = 1},
    {OP_NORM, .x = {4, 5, 7, 12}, .groups = 4, .per = 2, .act = ACT_SILU},
    {OP_NORM, .x = {6, 9, 8, 32}, .groups = 8, .per = 6, .act = ACT_SILU},
    {OP_NORM, .x = {6, 9, 8, 40}, .groups = 8, .per = 3, .gap = 24},
    {OP_NORM, .x = {2, 13, 10, 33}, .groups = 33, .per = 1, .act = ACT_SILU},
    {OP_NORM, .x = {2, 11, 35}, .groups = 1, .per = 2},
    {OP_NORM, .x = {1, 1, 1, 8}, .groups = 2, .per = 1},
    {OP_NORM, .x = {3, 77, 35}},
    {OP_NORM, .x = {2, 70, 320}, .gap = 16},
    {OP_NORM, .x = {5, 7}, .act = ACT_SILU},
    {OP_NORM, .x = {4, 6, 24}, .type = F16, .shift = 1},
    {OP_NORM, .x = {4, 3, 2, 24}, .groups = 3, .per = 4, .type = BF16, .shift = 1},

    {OP_ATTN, .x = {2, 9, 8}, .heads = 2, .frames = 1, .n_kv = 1, .L = {9}},
    {OP_ATTN, .x = {3, 70, 40}, .heads = 1, .frames = 3, .n_kv = 1, .L = {70}},
    {OP_ATTN, .x = {2, 150, 80}, .heads = 2, .frames = 2, .n_kv = 1, .L = {150}, .gap = 16, .loose = 2},
    {OP_ATTN, .x = {1, 33, 160}, .heads = 1, .frames = 1, .n_kv = 1, .L = {33}},
    {OP_ATTN, .x = {2, 17, 320}, .heads = 8, .frames = 2, .n_kv = 1, .L = {17}},
    {OP_ATTN, .x = {4, 21, 10}, .heads = 2, .frames = 2, .n_kv = 1, .map = {KV_CLIP}, .L = {77}},
    {OP_ATTN, .x = {4, 6, 12}, .heads = 3, .frames = 2, .n_kv = 1, .map = {KV_CLIP}, .L = {131},
     .scale = 0.3f},
    {OP_ATTN, .x = {4, 9, 16}, .heads = 2, .frames = 2, .n_kv = 3, .map = {KV_SELF, KV_CLIP, KV_CLIP},
     .L = {9, 5, 3}},
    {OP_ATTN, .x = {4, 9, 16}, .heads = 2, .frames = 4, .n_kv = 2, .map = {KV_CLIP, KV_SELF}, .L = {3, 20}},
    {OP_ATTN, .x = {2, 77, 16}, .heads = 2, .frames = 1, .n_kv = 1, .L = {77}, .causal = true},
    {OP_ATTN, .x = {1, 150, 8}, .heads = 1, .frames = 1, .n_kv = 1, .L = {150}, .causal = true},
    {OP_ATTN, .x = {16, 5, 16}, .heads = 2, .frames = 16, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {10, 7, 40}, .heads = 4, .frames = 5, .n_kv = 1, .in_time = true, .gap = 8},
    {OP_ATTN, .x = {24, 2, 80}, .heads = 2, .frames = 24, .n_kv = 1, .in_time = true},
    {OP_ATTN, .x = {10, 3, 12}, .heads = 3, .frames = 5, .n_kv = 1, .in_time = true, .causal = true},
    {OP_ATTN, .x = {6, 4, 8}, .heads = 2, .frames = 3, .n_kv = 2, .in_time = true},
    {OP_ATTN, .x = {70, 1, 8}, .heads = 2, .frames = 70, .n_kv = 1, .in_time = true, .causal = true},
    {OP_ATTN, .x = {3, 1, 1}, .heads = 1, .frames = 1, .n_kv = 1, .L = {1}},
    {OP_ATTN, .x = {1, 131, 512}, .heads = 1, .frames = 1, .n_kv = 1, .L = {131}, .loose = 2},
    {OP_ATTN, .x = {1, 301, 66}, .heads = 2, .frames = 1, .n_kv = 1, .L = {301}, .causal = true, .loose = 2},
    {OP_ATTN, .x = {300, 1, 34}, .heads = 2, .frames = 300, .n_kv = 1, .in_time = true, .causal = true,
     .loose = 2},
    {OP_ATTN, .x = {32, 7, 320}, .heads = 8, .frames = 16, .n_kv = 1, .in_time = true, .gap = 5, .loose = 2},
    {OP_ATTN, .x = {34, 2, 2560}, .heads = 8, .frames = 17, .n_kv = 1, .in_time = true, .gap = 3, .loose = 2},
    {OP_ATTN, .x = {1, 101, 40}, .heads = 1, .frames = 1, .n_kv = 1, .L = {101}, .causal = true,
     .x_values = LARGE, .scale = 3e-5f}, /* scores of thousands: one key wins */
    {OP_ATTN, .x = {1, 101, 40}, .heads = 1, .frames = 1, .n_kv = 1, .L = {101}, .causal = true,
     .x_values = LARGE, .scale = 3e-7f, .loose = 20}, /* of a hundred: an ulp shows */
    {OP_ATTN, .x = {4, 101, 34}, .heads = 2, .frames = 2, .n_kv = 3, .map = {KV_SELF, KV_CLIP, KV_SELF},
     .L = {101, 3, 7}, .x_values = FINE, .bf16 = true},
    {OP_ATTN, .x = {6, 9, 16}, .heads = 2, .frames = 3, .n_kv = 2, .map = {KV_SELF, KV_FIRST}, .L = {9, 9}},
    {OP_ATTN, .x = {4, 130, 80}, .heads = 2, .frames = 2, .n_kv = 2, .map = {KV_SELF, KV_FIRST},
     .L = {130, 130}, .gap = 16, .loose = 2},
    {OP_ATTN, .x = {4, 5, 12}, .heads = 3, .frames = 4, .n_kv = 3, .map = {KV_FIRST, KV_CLIP, KV_SELF},
     .L = {7, 3, 5}},
    {OP_ATTN, .x = {4, 37, 34}, .heads = 2, .frames = 2, .n_kv = 3, .map = {KV_FIRST, KV_CLIP, KV_SELF},
     .L = {101, 5, 37}, .gap = 3, .loose = 2},
    {OP_ATTN, .x = {4, 101, 34}, .heads = 2, .frames = 2, .n_kv = 2, .map = {KV_SELF, KV_FIRST},
     .L = {101, 101}, .x_values = FINE, .bf16 = true},
    {OP_ATTN, .x = {10, 12, 16}, .heads = 2, .frames = 5, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 4},
    {OP_ATTN, .x = {32, 35, 40}, .heads = 8, .frames = 16, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 7, .gap = 8},
    {OP_ATTN, .x = {34, 6, 1280}, .heads = 8, .frames = 17, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 3, .gap = 3, .loose = 2},
    {OP_ATTN, .x = {3, 2, 8}, .heads = 2, .frames = 3, .n_kv = 3, .map = {KV_WINDOW, KV_SELF, KV_WINDOW},
     .in_time = true, .width = 1},
    {OP_ATTN, .x = {1, 1, 8}, .heads = 1, .frames = 1, .n_kv = 1, .map = {KV_WINDOW}, .in_time = true,
     .width = 1},
    {OP_ATTN, .x = {290, 2, 34}, .heads = 2, .frames = 290, .n_kv = 2, .map = {KV_SELF, KV_WINDOW},
     .in_time = true, .width = 2, .loose = 2},

    {OP_ROTATE, .x = {10, 3, 2, 32}, .frames = 5, .more = 8},
    {OP_ROTATE, .x = {6, 7, 40}, .frames = 3, .more = 10, .gap = 8},
    {OP_ROTATE, .x = {16, 2, 66}, .frames = 16, .more = 33},
    {OP_ROTATE, .x = {4, 3}, .frames = 2, .more = 1, .own = true},
    {OP_ROTATE, .x = {4, 3, 24}, .frames = 4, .more = 6, .type = F16, .shift = 1},
    {OP_BLEND, .x = {4, 5, 3, 13}},
    {OP_BLEND, .x = {2, 9, 40}, .gap = 5},
    {OP_BLEND, .x = {3, 3}, .type = BF16, .shift = 1},
    {OP_BLEND, .x = {3, 4, 7}, .own = true},
    {OP_FIRST, .x = {6, 5, 3, 13}, .frames = 3},
    {OP_FIRST, .x = {2, 33}, .frames = 1, .gap = 4},
    {OP_FIRST, .x = {7, 2, 8}, .frames = 7, .gap = 3},

    {OP_ACT, .x = {3, 70, 19}, .act = ACT_SILU},
    {OP_ACT, .x = {2, 3, 5, 300}, .act = ACT_GELU, .gap = 3},
    {OP_ACT, .x = {7, 13}, .act = ACT_QUICK_GELU},
    {OP_ACT, .x = {3, 70, 38}, .act = ACT_GEGLU, .gap = 2},
    {OP_ADD, .x = {2, 9, 8, 13}},
    {OP_ADD, .x = {2, 9, 8, 13}, .gap = 5},
    {OP_ROWS, .x = {4, 5, 3, 13}, .per = 15, .more = 2},
    {OP_ROWS, .x = {6, 4, 40}, .per = 4, .more = 3, .gap = 8},
    {OP_ROWS, .x = {5, 7}, .per = 2, .more = 3},
    {OP_CONCAT, .x = {2, 5, 3, 13}, .more = 6},
    {OP_CONCAT, .x = {70, 33}, .more = 1, .gap = 4},
    {OP_RESIZE, .x = {2, 5, 3, 7}, .H2 = 10, .W2 = 6},
    {OP_RESIZE, .x = {2, 4, 9, 16}, .H2 = 7, .W2 = 17, .gap = 6},
    {OP_RESIZE, .x = {1, 7, 5, 3}, .H2 = 3, .W2 = 5},
    {OP_REPEAT, .x = {3, 5, 2, 7}, .more = 2},
    {OP_REPEAT, .x = {1, 33}, .more = 5, .gap = 4},
    {OP_EMBED, .x = {9, 13}, .more = 31, .ref_only = true},
    {OP_EMBED, .x = {9, 13}, .more = 31, .type = F16, .shift = 1, .ref_only = true},
    {OP_EMBED, .x = {9, 13}, .more = 16, .no_ids = true, .ref_only = true},
    {OP_EMBED, .x = {9, 13}, .more = 9, .own = true, .ref_only = true},
    {OP_MSE, .x = {3, 5, 7}, .gap = 2, .ref_only = true},
    {OP_MSE, .x = {3, 5, 7}, .gap = 2, .more = 1, .ref_only = true},
    {OP_MSE, .x = {1, 2, 3, 5}, .more = 1, .ref_only = true},
};

/* Every epilogue of a linear and of a 3x3 convolution: activation, then bit by bit bias, row, addition,
 * scale. */
enum { COMBINATIONS = 16, LINEAR_ACTS = 5, CONV_ACTS = 4 };

static Case epilogue_case(int i)
{
    const bool linear = i < LINEAR_ACTS * COMBINATIONS;
    const int k = linear ? i : i - LINEAR_ACTS * COMBINATIONS, bits = k % COMBINATIONS;
    Case c = {CONV, .x = {2, 4, 3, 6}, .O = 8, .per = 12};
    if (linear)
        c = (Case){OP_LINEAR, .x = {4, 3, 6}, .O = 8, .per = 5};
    c.act = (Act)(k / COMBINATIONS);
    c.bias = bits & 1, c.row = bits & 2, c.add = bits & 4, c.scale = bits & 8 ? 0.5f : 0;
    c.gap = bits == 15 ? 2 : 0;
    return c;
}

int case_count(void)
{
    return COUNT(cases) + (LINEAR_ACTS + CONV_ACTS) * COMBINATIONS;
}

Case case_at(int i)
{
    return i < COUNT(cases) ? cases[i] : epilogue_case(i - COUNT(cases));
}
