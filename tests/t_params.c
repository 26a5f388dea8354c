/* t_params.c: the visitor's names, kinds, shapes and failures; and how weights of any type are widened. */
#include "tensor/backend.h"
#include "tests/check.h"

typedef struct {
    char text[4096];
    int leaves, stop_at;
} Seen;

static int see(Params *p, Weight *w)
{
    Seen *s = p->user;
    size_t at = strlen(s->text);
    at += (size_t)snprintf(s->text + at, sizeof s->text - at, "%s %d", w->name, (int)w->kind);
    for (int i = 0; i < w->nd; i++)
        at += (size_t)snprintf(s->text + at, sizeof s->text - at, "%c%d", i ? ',' : ' ', (int)w->n[i]);
    snprintf(s->text + at, sizeof s->text - at, "\n");
    return ++s->leaves == s->stop_at ? GIMBAL_EIO : 0;
}

static Weight conv[2], linear[2], norm[2], table;

static void walk(Params *p)
{
    pv_in(p, "down_blocks.%d", 3);
    pv_in(p, "resnets.%d", 1);
    pv_conv(p, "conv1", conv, 4, 6, 3);
    pv_out(p);
    pv_linear(p, "to_out.0", linear, 5, 7, false);
    pv_out(p);
    pv_norm(p, "norm", norm, 9);
    pv_leaf(p, "pe", &table, W_TABLE, 3, (int64_t[]){1, 24, 8});
}

static void every_parameter_is_met_with_its_full_name_kind_and_shape(void **state)
{
    (void)state;
    Seen seen = {0};
    gimbal_error err = {0};
    Params p = {.leaf = see, .user = &seen, .err = &err};
    walk(&p);
    assert_string_equal(seen.text, "down_blocks.3.resnets.1.conv1.weight 0 6,4,3,3\n"
                                   "down_blocks.3.resnets.1.conv1.bias 2 6\n"
                                   "down_blocks.3.to_out.0.weight 1 7,5\n"
                                   "norm.weight 3 9\n"
                                   "norm.bias 4 9\n"
                                   "pe 6 1,24,8\n");
    check(!p.code && !p.at && !p.path[0] && !linear[1].nd, "the walk left something");
    seen = (Seen){0};
    walk(&p); /* again: shapes are set anew, not appended */
    check(seen.leaves == 6 && conv[0].nd == 4, "%d leaves", seen.leaves);
}

static void the_walk_stops_at_the_first_failure_and_keeps_its_code(void **state)
{
    (void)state;
    Seen seen = {.stop_at = 2};
    gimbal_error err = {0};
    Params p = {.leaf = see, .user = &seen, .err = &err};
    walk(&p);
    check(p.code == GIMBAL_EIO && seen.leaves == 2, "code %d after %d leaves", p.code, seen.leaves);
}

static void names_that_are_too_long_or_too_deep_are_errors_not_overruns(void **state)
{
    (void)state;
    Seen seen = {0};
    gimbal_error err = {0};
    Params p = {.leaf = see, .user = &seen, .err = &err};
    for (int i = 0; i < 30; i++)
        pv_in(&p, "a_level_of_names_%d", i);
    pv_conv(&p, "conv", conv, 1, 1, 1);
    for (int i = 0; i < 30; i++)
        pv_out(&p);
    check_fails(p.code, GIMBAL_EMODEL, err, "longer than 159");
    check(!seen.leaves && p.depth == 0, "%d leaves, depth %d", seen.leaves, p.depth);

    p = (Params){.leaf = see, .user = &seen, .err = &err};
    for (int i = 0; i < 50; i++)
        pv_in(&p, "a");
    for (int i = 0; i < 50; i++)
        pv_out(&p);
    check_fails(p.code, GIMBAL_EMODEL, err, "more than 32 levels");
    check(p.depth == 0 && p.at == 0, "depth %d, path %s", p.depth, p.path);

    char name[200];
    memset(name, 'n', sizeof name - 1), name[sizeof name - 1] = 0;
    p = (Params){.leaf = see, .user = &seen, .err = &err};
    pv_leaf(&p, name, &table, W_TABLE, 1, (int64_t[]){1});
    check_fails(p.code, GIMBAL_EMODEL, err, "longer than 159");
    p = (Params){.leaf = see, .user = &seen, .err = &err};
    pv_in(&p, "%s", name);
    pv_out(&p);
    check_fails(p.code, GIMBAL_EMODEL, err, "longer than 159");
}

/* The value of a half by the definition. */
static double half(unsigned h)
{
    const int exponent = h >> 10 & 31;
    const double fraction = (h & 1023) / 1024.0, sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return fraction > 0 ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14));
}

static void all_halves_widen_exactly_at_odd_addresses(void **state)
{
    (void)state;
    char *bytes = malloc(2 * 65536 + 1), *odd = bytes + 1;
    float *out = malloc(65536 * sizeof *out);
    for (unsigned h = 0; h < 65536; h++)
        memcpy(odd + 2 * h, &(uint16_t){(uint16_t)h}, 2);
    widen(F16, odd, 0, 65536, out);
    for (unsigned h = 0; h < 65536; h++) {
        const double want = half(h);
        check(isnan(want) ? isnan(out[h]) : out[h] == want && !signbit(out[h]) == !signbit(want),
              "half %04x gives %g", h, (double)out[h]);
    }
    widen(BF16, odd, 0, 65536, out);
    for (unsigned h = 0; h < 65536; h++) {
        uint32_t bits;
        memcpy(&bits, &out[h], 4);
        check(bits == h << 16, "bfloat %04x gives %08x", h, bits);
    }
    free(bytes), free(out);
}

static void every_type_widens_from_any_address_and_offset(void **state)
{
    (void)state;
    static const int values[] = {-3, 0, 1, 100, -128, 127};
    enum { N = COUNT(values) };
    static const DType types[] = {F32, F64, I8, I16, I32, I64};
    for (int t = 0; t < COUNT(types); t++)
        for (int shift = 0; shift < 8; shift++) {
            char bytes[8 * N + 8];
            float out[N];
            for (int i = 0; i < N; i++) {
                char *at = bytes + shift + (size_t)i * dtype_size(types[t]);
                const int v = values[i];
                switch (types[t]) {
                case F32:
                    memcpy(at, &(float){(float)v}, 4);
                    break;
                case F64:
                    memcpy(at, &(double){v}, 8);
                    break;
                case I8:
                    memcpy(at, &(int8_t){(int8_t)v}, 1);
                    break;
                case I16:
                    memcpy(at, &(int16_t){(int16_t)v}, 2);
                    break;
                case I32:
                    memcpy(at, &(int32_t){v}, 4);
                    break;
                default:
                    memcpy(at, &(int64_t){v}, 8);
                    break;
                }
            }
            widen(types[t], bytes + shift, 1, N - 1, out);
            for (int i = 1; i < N; i++)
                check(out[i - 1] == (float)values[i], "%s at %d: %g", dtype_name(types[t]), shift,
                      (double)out[i - 1]);
        }
    float out[3];
    widen(U8, "\xff\x00\x07", 0, 3, out);
    check(out[0] == 255 && out[1] == 0 && out[2] == 7, "U8");
    widen(BOOL8, "\xff\x00\x07", 0, 3, out);
    check(out[0] == 1 && out[1] == 0 && out[2] == 1, "BOOL8");
}

static void a_weights_own_values_stand_before_the_files_and_packs_can_be_dropped(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Cx cx;
    cx_init(&cx, cpu_chain(), 1, &err);
    const uint16_t file[] = {0x3f80, 0x4000, 0x4040}; /* 1, 2, 3 */
    float own[] = {7, 8, 9}, out[2];
    Weight w = {.name = "w", .type = BF16, .nd = 1, .n = {3}, .file = file};
    weight_widen(&w, 1, 2, out);
    check(out[0] == 2 && out[1] == 3, "file: %g %g", (double)out[0], (double)out[1]);
    const float *wide = weight_floats(&cx, &w);
    check(wide && wide[2] == 3 && weight_floats(&cx, &w) == wide, "widened twice");
    weight_drop(&w);
    check(!w.pack[0] && w.file == file, "not dropped");
    w.own = own;
    weight_widen(&w, 1, 2, out);
    check(out[0] == 8 && out[1] == 9 && weight_floats(&cx, &w) == own, "own: %g %g", (double)out[0],
          (double)out[1]);
    weight_drop(&w);
    cx_free(&cx);
}

TESTS(every_parameter_is_met_with_its_full_name_kind_and_shape,
      the_walk_stops_at_the_first_failure_and_keeps_its_code,
      names_that_are_too_long_or_too_deep_are_errors_not_overruns, all_halves_widen_exactly_at_odd_addresses,
      every_type_widens_from_any_address_and_offset,
      a_weights_own_values_stand_before_the_files_and_packs_can_be_dropped)
