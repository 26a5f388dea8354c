/* t_train_ops.c: gradients of single operators against PyTorch in float64 (tests/golden/training), through
 * the tape, on every backend. All but norms and attention.
 *
 * A case's loss is the sum of y * dy, made by a linear whose weight is dy: what reaches the operator is dy
 * itself. Pictures [rows,C,h,w] and clips [B,C,F,h,w] of the file become [rows,h,w,C] here; weights, tokens
 * and the operands of a loss stay as they are. */
#include "io/io.h"
#include "tensor/backend.h"
#include "tests/check.h"

static const char FILE_NAME[] = "tests/golden/training/ops.safetensors";
static const double TOLERANCE = 2e-6, BF16_TOLERANCE = 1e-2;
enum { OPERANDS = 4 };

typedef struct {
    float *v;
    int64_t n[MAX_DIMS];
    int nd;
    int64_t count;
} Array;

typedef struct Case Case;

/* One case on one backend. */
typedef struct {
    const Case *c;
    Cx cx;
    SafeTensors *file;
    const char *backend;
    Tensor *in[OPERANDS];
    Weight w[OPERANDS];
    const char *in_key[OPERANDS], *w_key[OPERANDS];
    int n_in, n_w;
    Array held[16]; /* memory of the case */
    int n_held;
} Run;

struct Case {
    const char *name;
    Tensor *(*forward)(Run *);
    int stride, pad[4], frames;
    int64_t size[2];
    Act act;
    bool exact; /* y to the bit */
};

/* ---- the file ---------------------------------------------------------------------------- */

static const StEntry *entry(const Run *r, const char *prefix, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s%s", r->c->name, prefix, key);
    const StEntry *e = st_find(r->file, name);
    check(e != NULL, "%s lacks %s", FILE_NAME, name);
    return e;
}

/* In our layout; plain: as in the file. Lives until the case ends. */
static Array read_array(Run *r, const char *prefix, const char *key, bool plain)
{
    const StEntry *e = entry(r, prefix, key);
    Array a = {.nd = e->nd, .count = 1};
    for (int i = 0; i < e->nd; i++)
        a.n[i] = e->n[i], a.count *= e->n[i];
    float *file = malloc((size_t)a.count * sizeof *file);
    a.v = malloc((size_t)a.count * sizeof *a.v);
    widen(e->type, e->data, 0, a.count, file);
    memcpy(a.v, file, (size_t)a.count * sizeof *file);
    if (!plain && a.nd >= 4) { /* [rows, C, (F,) pixels] */
        const int64_t rows = a.n[0], C = a.n[1], F = a.nd == 5 ? a.n[2] : 1, pixels = a.count / rows / C / F;
        for (int64_t i = 0; i < a.count; i++) {
            const int64_t p = i % pixels, f = i / pixels % F, c = i / pixels / F % C,
                          row = i / pixels / F / C;
            a.v[((row * F + f) * pixels + p) * C + c] = file[i];
        }
        const int64_t n[4] = {rows * F, a.n[a.nd - 2], a.n[a.nd - 1], C};
        memcpy(a.n, n, sizeof n);
        a.nd = 4;
    }
    free(file);
    check(r->n_held < COUNT(r->held), "%s has too many arrays", r->c->name);
    r->held[r->n_held++] = a;
    return a;
}

static Tensor *operand(Run *r, const char *key, bool plain)
{
    const Array a = read_array(r, "", key, plain);
    Tensor *t = tensor_input(&r->cx, F32, a.nd, a.n, a.v);
    t->need_grad = true;
    r->in_key[r->n_in] = key;
    return r->in[r->n_in++] = t;
}

static Weight *parameter(Run *r, const char *key)
{
    const Array a = read_array(r, "", key, true);
    Weight *w = &r->w[r->n_w];
    *w = (Weight){.type = F32, .nd = a.nd, .own = a.v, .trainable = true};
    snprintf(w->name, sizeof w->name, "%s.%s", r->c->name, key);
    memcpy(w->n, a.n, sizeof a.n);
    w->grad = calloc((size_t)a.count, sizeof *w->grad);
    r->w_key[r->n_w++] = key;
    return w;
}

/* ---- the operators ----------------------------------------------------------------------- */

static Tensor *conv2d(Run *r)
{
    Tensor *x = operand(r, "x", false);
    Weight *w = parameter(r, "w"), *b = parameter(r, "b");
    return op_conv2d(&r->cx, x, w, r->c->stride, r->c->pad, (Epi){.bias = b});
}

static Tensor *conv_time(Run *r)
{
    Tensor *x = operand(r, "x", false);
    Weight *w = parameter(r, "w"), *b = parameter(r, "b");
    return op_convt(&r->cx, x, w, r->c->frames, (Epi){.bias = b});
}

static Tensor *linear(Run *r)
{
    Tensor *x = operand(r, "x", true);
    Weight *w = parameter(r, "w"), *b = parameter(r, "b");
    return op_linear(&r->cx, x, w, (Epi){.bias = b, .act = r->c->act});
}

static Tensor *act(Run *r)
{
    return op_act(&r->cx, operand(r, "x", true), r->c->act);
}

static Tensor *rope(Run *r)
{
    Tensor *x = operand(r, "x", true);
    const int64_t rows = x->n[0] * x->n[1], C = x->n[2]; /* [clips, frames, C] */
    Tensor *y =
        op_rotate(&r->cx, op_view(&r->cx, x, 2, (int64_t[]){rows, C}), parameter(r, "freqs"), (int)x->n[1]);
    return op_view(&r->cx, y, 3, x->n);
}

static Tensor *mix(Run *r)
{
    Tensor *x = operand(r, "x", false);
    return op_blend(&r->cx, x, operand(r, "r", false), parameter(r, "alpha"));
}

static Tensor *upsample(Run *r)
{
    return op_resize(&r->cx, operand(r, "x", false), r->c->size[0], r->c->size[1]);
}

static Tensor *row_add(Run *r)
{
    Tensor *x = operand(r, "x", false);
    return op_rows(&r->cx, x, operand(r, "row", true), r->c->frames * x->n[1] * x->n[2]);
}

static Tensor *concat(Run *r)
{
    Tensor *x = operand(r, "x", false);
    return op_concat(&r->cx, x, operand(r, "skip", false));
}

static Tensor *lookup(Run *r)
{
    static const int32_t ids[] = {3, 0, 3, 5, 1, 3};
    Tensor *at = tensor_input(&r->cx, I32, 1, (int64_t[]){COUNT(ids)}, ids);
    return op_embed(&r->cx, parameter(r, "w"), at, COUNT(ids));
}

/* Cosines, then sines of t * 10000^(-i / half). */
static Tensor *time_mlp(Run *r)
{
    static const double t[] = {0, 1, 500, 999};
    static float features[COUNT(t) * 8];
    for (int i = 0; i < COUNT(t) * 4; i++) {
        const double angle = t[i / 4] * pow(10000, -(i % 4) / 4.0);
        features[i / 4 * 8 + i % 4] = (float)cos(angle);
        features[i / 4 * 8 + 4 + i % 4] = (float)sin(angle);
    }
    Tensor *x = tensor_input(&r->cx, F32, 2, (int64_t[]){COUNT(t), 8}, features);
    Weight *w1 = parameter(r, "w1"), *b1 = parameter(r, "b1"), *w2 = parameter(r, "w2"),
           *b2 = parameter(r, "b2");
    x = op_linear(&r->cx, x, w1, (Epi){.bias = b1, .act = ACT_SILU});
    return op_linear(&r->cx, x, w2, (Epi){.bias = b2});
}

static Tensor *target_of(Run *r)
{
    const Array a = read_array(r, "", "target", true);
    return tensor_input(&r->cx, F32, a.nd, a.n, a.v);
}

static Tensor *mse(Run *r)
{
    Tensor *x = operand(r, "x", true);
    return op_mse(&r->cx, x, target_of(r));
}

/* PyTorch's is the mean over clips of weight times loss. */
static Tensor *mse_weighted(Run *r)
{
    static const float weight[] = {1.0f / 3, 0.2f / 3, 0.013f / 3};
    Tensor *x = operand(r, "x", true);
    Tensor *w = tensor_input(&r->cx, F32, 1, (int64_t[]){COUNT(weight)}, weight);
    return op_channels(&r->cx, op_mse_weighted(&r->cx, x, target_of(r), w), 0, 1);
}

static const Case cases[] = {
    {"conv3_s1", conv2d, .stride = 1, .pad = {1, 1, 1, 1}},
    {"conv3_s2_even", conv2d, .stride = 2, .pad = {1, 1, 1, 1}},
    {"conv3_s2_odd", conv2d, .stride = 2, .pad = {1, 1, 1, 1}},
    {"conv3_s2_asym", conv2d, .stride = 2, .pad = {0, 1, 0, 1}},
    {"conv1", conv2d, .stride = 1},
    {"conv_time", conv_time, .frames = 4},
    {"conv_time_1frame", conv_time, .frames = 1},
    {"linear", .forward = linear},
    {"geglu", linear, .act = ACT_GEGLU},
    {"silu", act, .act = ACT_SILU},
    {"gelu", act, .act = ACT_GELU},
    {"rope", .forward = rope},
    {"mix", .forward = mix},
    {"upsample_twice", upsample, .size = {6, 8}, .exact = true},
    {"upsample_odd", upsample, .size = {5, 7}, .exact = true},
    {"row_add", row_add, .frames = 3, .exact = true},
    {"concat", concat, .exact = true},
    {"lookup", lookup, .exact = true},
    {"time_mlp", .forward = time_mlp},
    {"mse", .forward = mse},
    {"mse_weighted", .forward = mse_weighted},
};

/* ---- running ----------------------------------------------------------------------------- */

/* The file's gradient or result under `key`, against ours; dense. */
static void compare(Run *r, const char *prefix, const char *key, bool plain, const float *got, bool exact)
{
    const Array want = read_array(r, prefix, key, plain);
    check_near(rel_rms(got, want.v, (size_t)want.count), 0,
               exact        ? 0
               : r->cx.bf16 ? BF16_TOLERANCE
                            : TOLERANCE,
               "%s.%s%s on %s%s", r->c->name, prefix, key, r->backend, r->cx.bf16 ? " bf16" : "");
}

static void differentiate(Run *r, Tensor *y, bool plain)
{
    const Array dy = read_array(r, "", "dy", plain);
    Weight w = {.name = "dy", .type = F32, .nd = 2, .n = {1, dy.count}, .own = dy.v};
    check(y && tensor_count(y) == dy.count, "%s on %s: %.400s", r->c->name, r->backend, r->cx.err->msg);
    Tensor *all = op_view(&r->cx, y, 2, (int64_t[]){1, dy.count});
    check_ok(backward(&r->cx, op_linear(&r->cx, all, &w, (Epi){0})), *r->cx.err);
}

static void run_case(const Case *c, const Backend *b, SafeTensors *file, int threads, bool bf16)
{
    const Backend *const chain[] = {b, &backend_ref, NULL};
    const bool plain = c->forward == mse || c->forward == mse_weighted;
    Run r = {.c = c, .file = file, .backend = b->isa ? b->isa : b->name};
    Tape *tape = tape_new();
    cx_init(&r.cx, chain, threads, NULL);
    r.cx.tape = tape, r.cx.bf16 = bf16;
    Tensor *y = c->forward(&r);
    differentiate(&r, y, plain);
    compare(&r, "", "y", plain, y->d, c->exact);
    for (int i = 0; i < r.n_in; i++)
        compare(&r, "d", r.in_key[i], plain, r.in[i]->grad->d, false);
    for (int i = 0; i < r.n_w; i++)
        compare(&r, "d", r.w_key[i], true, r.w[i].grad, false);
    for (int i = 0; i < r.n_w; i++)
        weight_drop(&r.w[i]), free(r.w[i].grad);
    for (int i = 0; i < r.n_held; i++)
        free(r.held[i].v);
    cx_free(&r.cx);
    tape_free(tape);
}

static void run_all(const Backend *b, bool bf16)
{
    gimbal_error err = {0};
    SafeTensors *file = NULL;
    check_ok(st_open(&file, FILE_NAME, &err), err);
    for (int threads = 1; threads <= 2; threads++)
        for (int i = 0; i < COUNT(cases); i++)
            run_case(&cases[i], b, file, threads, bf16);
    st_close(file);
}

static void the_reference_agrees_with_pytorch(void **state)
{
    (void)state;
    run_all(&backend_ref, false);
}

static void onednn_agrees_with_pytorch(void **state)
{
    (void)state;
    run_all(&backend_dnn, false);
}

static void every_instruction_set_agrees_with_pytorch(void **state)
{
    (void)state;
    const Backend *b;
    for (int i = 0; (b = vec_backend(i)) != NULL; i++)
        run_all(b, false);
}

static void rounding_factors_to_bf16_changes_little(void **state)
{
    (void)state;
    const Backend *b;
    for (int i = 0; (b = vec_backend(i)) != NULL; i++)
        run_all(b, true);
}

TESTS(the_reference_agrees_with_pytorch, onednn_agrees_with_pytorch,
      every_instruction_set_agrees_with_pytorch, rounding_factors_to_bf16_changes_little)
