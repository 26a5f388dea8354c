/* t_train_ops_attention.c: gradients of norms and attention against PyTorch in float64
 * (tests/golden/training), on the reference and on every instruction set of vec that this CPU runs.
 *
 * Kernels are called as plans call them. Gradients hold something before, and must hold that much more
 * afterwards. What is not wanted must change nothing in what is. Pictures [rows,C,h,w] of the file become
 * [rows,h,w,C] here. */
#include "io/io.h"
#include "tensor/backend.h"
#include "tests/check.h"

static const char FILE_NAME[] = "tests/golden/training/ops.safetensors";
static const double TOLERANCE = 2e-6, LOOSE = 3e-5;
static const float HELD = 0.125f; /* what gradients hold before */

typedef struct {
    const char *name;
    OpCode op;
    NormArg norm;
    AttnArg attention;
    int n_kv;
    KvMap map[MAX_KV];
    bool loose; /* a mean of 30; scores of a hundred */
} Case;

static const Case cases[] = {
    {"group_norm_frame", OP_NORM, .norm = {4, 1, 1e-5f, ACT_NONE}},
    {"group_norm_clip", OP_NORM, .norm = {4, 3, 1e-6f, ACT_NONE}},
    {"group_norm_silu", OP_NORM, .norm = {2, 4, 1e-5f, ACT_SILU}},
    {"group_norm_small", OP_NORM, .norm = {4, 2, 1e-6f, ACT_NONE}},
    {"group_norm_far", OP_NORM, .norm = {2, 1, 1e-5f, ACT_NONE}, .loose = true},
    {"layer_norm", OP_NORM, .norm = {0, 0, 1e-5f, ACT_NONE}},
    {"layer_norm_small", OP_NORM, .norm = {0, 0, 1e-5f, ACT_NONE}},
    {"attention_self", OP_ATTN, .attention = {.heads = 3, .frames = 1}, .n_kv = 1},
    {"attention_causal", OP_ATTN, .attention = {.heads = 2, .frames = 1, .causal = true}, .n_kv = 1},
    {"attention_clip", OP_ATTN, .attention = {.heads = 2, .frames = 3}, .n_kv = 1, .map = {KV_CLIP}},
    {"attention_first", OP_ATTN, .attention = {.heads = 2, .frames = 3}, .n_kv = 2,
     .map = {KV_SELF, KV_FIRST}},
    {"attention_time", OP_ATTN, .attention = {.heads = 2, .frames = 5, .in_time = true}, .n_kv = 1},
    {"attention_window", OP_ATTN, .attention = {.heads = 2, .frames = 4, .in_time = true, .width = 2},
     .n_kv = 2, .map = {KV_SELF, KV_WINDOW}},
    {"attention_sharp", OP_ATTN, .attention = {.heads = 1, .frames = 1}, .n_kv = 1, .loose = true},
};

/* An input or a parameter, its gradient, and what that should be. */
typedef struct {
    const char *key;
    Tensor t, grad;
    Weight w;
    float *v, *g, *want;
    size_t count;
} Operand;

enum { OPERANDS = 3 };

/* One case: x, w, b or q, k, v; and the result. */
typedef struct {
    const Case *c;
    Operand o[OPERANDS], out;
    Call call;
} Run;

/* ---- the file ---------------------------------------------------------------------------- */

static const StEntry *entry(const SafeTensors *file, const Run *r, const char *prefix, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s%s", r->c->name, prefix, key);
    const StEntry *e = st_find(file, name);
    check(e != NULL, "%s lacks %s", FILE_NAME, name);
    return e;
}

/* The values in our layout; caller frees. */
static float *read_values(const StEntry *e, size_t *count)
{
    int64_t all = 1;
    for (int i = 0; i < e->nd; i++)
        all *= e->n[i];
    float *plain = malloc((size_t)all * sizeof *plain), *v = malloc((size_t)all * sizeof *v);
    widen(e->type, e->data, 0, all, plain);
    const int64_t C = e->nd == 4 ? e->n[1] : 1, pixels = e->nd == 4 ? e->n[2] * e->n[3] : 1;
    for (int64_t i = 0; i < all; i++) {
        const int64_t p = i % pixels, c = i / pixels % C, row = i / pixels / C;
        v[(row * pixels + p) * C + c] = plain[i];
    }
    free(plain);
    *count = (size_t)all;
    return v;
}

static Tensor tensor_for(const StEntry *e, float *v)
{
    Tensor t = {.d = v, .nd = e->nd, .id = -1, .type = F32, .need_grad = true};
    memcpy(t.n, e->n, (size_t)e->nd * sizeof *t.n);
    if (e->nd == 4)
        t.n[1] = e->n[2], t.n[2] = e->n[3], t.n[3] = e->n[1];
    t.ld = t.n[t.nd - 1];
    return t;
}

static void read_operand(const SafeTensors *file, Run *r, Operand *o, const char *key, const char *result)
{
    const StEntry *e = entry(file, r, "", key);
    size_t same;
    o->key = key;
    o->v = read_values(e, &o->count);
    o->want = read_values(entry(file, r, result ? "" : "d", result ? result : key), &same);
    check(same == o->count, "%s.%s", r->c->name, key);
    o->g = calloc(o->count, sizeof *o->g);
    o->t = tensor_for(e, o->v);
    o->grad = o->t;
    o->grad.d = o->g;
    o->t.grad = &o->grad;
    o->w = (Weight){.type = F32, .nd = e->nd, .own = o->v, .grad = o->g, .trainable = true};
    memcpy(o->w.n, e->n, sizeof o->w.n);
    snprintf(o->w.name, sizeof o->w.name, "%s.%s", r->c->name, key);
}

/* out.v is dy's memory at first, and its gradient for good; out.want is y. */
static void open_run(Run *r, const Case *c)
{
    static const char *const keys[][OPERANDS] = {{"x", "w", "b"}, {"q", "k", "v"}};
    gimbal_error err = {0};
    SafeTensors *file = NULL;
    *r = (Run){.c = c, .call = {.op = c->op, .n_in = 1}};
    check_ok(st_open(&file, FILE_NAME, &err), err);
    for (int i = 0; i < OPERANDS; i++)
        read_operand(file, r, &r->o[i], keys[c->op == OP_ATTN][i], NULL);
    read_operand(file, r, &r->out, "dy", "y");
    st_close(file);
    memcpy(r->out.g, r->out.v, r->out.count * sizeof(float));
    r->call.in[0] = &r->o[0].t, r->call.out = &r->out.t;
    if (c->op == OP_NORM) {
        r->call.w[0] = &r->o[1].w, r->call.w[1] = &r->o[2].w;
        r->call.a.norm = c->norm;
        return;
    }
    r->call.n_in = 1 + 2 * c->n_kv;
    r->call.a.attn.arg = c->attention, r->call.a.attn.n_kv = c->n_kv;
    for (int set = 0; set < c->n_kv; set++) { /* sets share keys and values */
        r->call.in[1 + 2 * set] = &r->o[1].t, r->call.in[2 + 2 * set] = &r->o[2].t;
        r->call.a.attn.map[set] = c->map[set];
    }
}

static void close_run(Run *r)
{
    for (int i = 0; i <= OPERANDS; i++) {
        Operand *o = i < OPERANDS ? &r->o[i] : &r->out;
        free(o->v);
        free(o->g);
        free(o->want);
    }
}

/* ---- the checks -------------------------------------------------------------------------- */

static const Backend *backend_at(int i)
{
    return i ? vec_backend(i - 1) : &backend_ref;
}

static void run(Run *r, const Backend *b, bool backward)
{
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    check_ok(call_run(&cx, b, &r->call, backward), err);
    cx_free(&cx);
}

static void hold(Run *r)
{
    for (int i = 0; i < OPERANDS; i++)
        for (size_t k = 0; k < r->o[i].count; k++)
            r->o[i].g[k] = HELD;
}

static void compare(const Run *r, const Backend *b, const Operand *o, const float *got, const char *prefix)
{
    const double e = rel_rms(got, o->want, o->count), most = r->c->loose ? LOOSE : TOLERANCE;
    check(e <= most, "%s/%s %s.%s%s: %.2e from PyTorch's float64, tolerance %.0e", b->name,
          b->isa ? b->isa : "-", r->c->name, prefix, o->key, e, most);
}

static void gradients_are_pytorchs(void **state)
{
    (void)state;
    for (int k = 0; k < COUNT(cases); k++) {
        const Backend *b;
        Run r;
        open_run(&r, &cases[k]);
        for (int i = 0; (b = backend_at(i)) != NULL; i++) {
            run(&r, b, false);
            compare(&r, b, &r.out, r.out.v, "y for ");
            for (int p = 0; p < OPERANDS; p++)
                memset(r.o[p].g, 0, r.o[p].count * sizeof(float));
            run(&r, b, true);
            for (int p = 0; p < OPERANDS; p++)
                compare(&r, b, &r.o[p], r.o[p].g, "d");
        }
        close_run(&r);
    }
}

/* Whether operand i gets a gradient; without one it has no memory for it. */
static void want(Run *r, int i, bool wanted)
{
    Operand *o = &r->o[i];
    const bool is_weight = r->c->op == OP_NORM && i > 0;
    o->t.need_grad = wanted, o->t.grad = wanted ? &o->grad : NULL;
    o->w.trainable = is_weight && wanted, o->w.grad = wanted ? o->g : NULL;
}

/* Every choice of operands that get a gradient: the same bits as with all, nothing for the others. */
static void what_is_not_wanted_changes_nothing(void **state)
{
    (void)state;
    for (int k = 0; k < COUNT(cases); k++) {
        const Backend *b;
        Run r;
        float *all[OPERANDS];
        open_run(&r, &cases[k]);
        for (int p = 0; p < OPERANDS; p++)
            all[p] = malloc(r.o[p].count * sizeof(float));
        for (int i = 0; (b = backend_at(i)) != NULL; i++)
            for (int wanted = (1 << OPERANDS) - 1; wanted > 0; wanted--) {
                for (int p = 0; p < OPERANDS; p++)
                    want(&r, p, wanted >> p & 1);
                run(&r, b, false);
                hold(&r);
                run(&r, b, true);
                for (int p = 0; p < OPERANDS; p++) {
                    const Operand *o = &r.o[p];
                    if (wanted == (1 << OPERANDS) - 1)
                        memcpy(all[p], o->g, o->count * sizeof(float));
                    for (size_t j = 0; j < o->count; j++)
                        check(o->g[j] == (wanted >> p & 1 ? all[p][j] : HELD), "%s/%s %s.d%s[%zu], wanted %d",
                              b->name, b->isa ? b->isa : "-", r.c->name, o->key, j, wanted);
                }
            }
        for (int p = 0; p < OPERANDS; p++)
            free(all[p]);
        close_run(&r);
    }
}

static void gradients_are_added_to(void **state)
{
    (void)state;
    for (int k = 0; k < COUNT(cases); k++) {
        const Backend *b;
        Run r;
        open_run(&r, &cases[k]);
        for (int i = 0; (b = backend_at(i)) != NULL; i++) {
            check(b->backward[r.c->op] != NULL, "%s has no backward of %s", b->name, op_name(r.c->op));
            run(&r, b, false);
            hold(&r);
            run(&r, b, true);
            for (int p = 0; p < OPERANDS; p++)
                for (size_t j = 0; j < r.o[p].count; j++)
                    check_near((double)r.o[p].g[j] - (double)HELD, r.o[p].want[j],
                               1e-4 * (1 + fabs((double)r.o[p].want[j])), "%s %s.d%s[%zu]", b->name,
                               r.c->name, r.o[p].key, j);
        }
        close_run(&r);
    }
}

TESTS(gradients_are_pytorchs, what_is_not_wanted_changes_nothing, gradients_are_added_to)
