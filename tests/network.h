/* network.h: what tests of networks share: the output of every module against PyTorch's, so that the first
 * one that differs is named, in an eager run and then in a planned one, which must give the same bytes.
 *
 * PyTorch has [N,C,h,w] and [B,C,F,h,w], we have [N,h,w,C]. */
#ifndef NETWORK_H
#define NETWORK_H

#include "model/model.h"
#include "tensor/backend.h"
#include "tests/check.h"

/* Measured 3.4e-6 at most; the smallest slip tried, an epsilon of 1e-6 for 1e-5 in the last norm,
 * costs 1.4e-4. */
static const double module_tolerance = 1e-5;

/* ---- comparing --------------------------------------------------------------------------- */

/* Goldens of one network: the tensor of module M is PREFIX.M in `file`. */
typedef struct {
    const SafeTensors *file;
    const char *prefix;
    int frames, compared;
} Goldens;

/* Our rows x channels in PyTorch's order: [N,C,h,w], or the prediction's [B,C,F,h,w]. Caller frees. */
static inline float *as_pytorch(const Tensor *t, int frames)
{
    const int64_t C = tensor_channels(t), rows = tensor_rows(t);
    const int64_t plane = t->nd == 4 ? t->n[1] * t->n[2] : 1;
    float *out = malloc(sizeof(float) * (size_t)(rows * C));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < C; c++) {
            const int64_t n = r / plane, b = n / frames, f = n % frames;
            const float x = ((const float *)t->d)[r * t->ld + c];
            out[((b * C + c) * frames + f) * plane + r % plane] = x;
        }
    return out;
}

/* A tap: fails at the first module that differs. */
static inline void compare(void *user, const char *module, const Tensor *t)
{
    Goldens *g = user;
    char key[200];
    const bool silu = !strcmp(module, "time_embedding.silu"); /* PyTorch's module ends before the SiLU */
    snprintf(key, sizeof key, "%s%s%s", g->prefix, *g->prefix && *module ? "." : "",
             silu ? "time_embedding" : module);
    const StEntry *want = st_find(g->file, key);
    if (!want && !strcmp(module, "unet"))
        want = st_find(g->file, g->prefix);
    if (!want)
        return;
    const int64_t count = tensor_count(t);
    check(want->bytes == 4 * (size_t)count, "%s: %lld elements, golden %zu", key, (long long)count,
          want->bytes / 4);
    float *got = as_pytorch(t, !strcmp(module, "unet") ? g->frames : 1), *x = malloc(want->bytes);
    memcpy(x, want->data, want->bytes);
    for (int64_t i = 0; silu && i < count; i++)
        x[i] /= 1 + expf(-x[i]);
    check_near(rel_rms(got, x, (size_t)count), 0, module_tolerance, "relative rms of %s", key);
    free(got), free(x);
    g->compared++;
}

/* Runs a graph eagerly with every module compared, then planned: the plan must give the same bytes. */
static inline void run(Graph graph, void *self, Tensor *const in[], int n_in, Goldens *g, int expected)
{
    gimbal_error wrong = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &wrong);
    Tensor *mine[4] = {NULL};
    memcpy(mine, in, sizeof *in * (size_t)n_in);
    cx.tap = compare, cx.tap_user = g;
    Tensor *y = graph(&cx, self, mine);
    check(y != NULL, "eager run: %.400s", wrong.msg);
    check(g->compared == expected, "%d modules compared, expected %d", g->compared, expected);
    const size_t bytes = sizeof(float) * (size_t)tensor_count(y);
    float *kept = malloc(bytes);
    memcpy(kept, y->d, bytes);
    cx_reset(&cx);

    cx.tap = NULL;
    Plan *plan = plan_make(&cx, graph, self, mine);
    check(plan != NULL, "plan: %.400s", wrong.msg);
    cx.work_bytes = plan_bytes(plan);
    cx.work = alloc_array(cx.work_bytes, 1);
    y = plan_run(&cx, plan, graph, self, mine);
    check(y != NULL, "planned run: %.400s", wrong.msg);
    check(!memcmp(kept, y->d, bytes), "the planned run equals the eager one");
    plan_free(plan), free(cx.work), free(kept);
    cx_free(&cx);
}

static inline Tensor input(DType type, int nd, const int64_t *n, const void *data)
{
    Tensor t = {.d = (void *)data, .nd = nd, .id = -1, .type = type, .ld = n[nd - 1]};
    memcpy(t.n, n, sizeof *n * (size_t)nd);
    return t;
}

/* [B,C,F,h,w] -> [B*F,h,w,C]; B = copies of the one clip when `copies`. Caller frees. */
static inline float *channels_last(const float *x, int B, int C, int F, int plane, bool copies)
{
    float *out = malloc(sizeof(float) * (size_t)B * C * F * plane);
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int f = 0; f < F; f++)
                for (int i = 0; i < plane; i++)
                    out[((b * F + f) * plane + i) * C + c] =
                        x[(((copies ? 0 : b) * C + c) * F + f) * plane + i];
    return out;
}

/* Modules that the recording holds for one network. */
static inline int recorded(const SafeTensors *file, const char *prefix)
{
    int n = 0;
    for (int i = 0; i < st_count(file); i++)
        n += !strncmp(st_entry(file, i)->name, prefix, strlen(prefix));
    return n;
}

/* One call of a U-Net on the recorded x, t and context. */
static inline void check_unet(Unet *unet, const SafeTensors *file)
{
    const StEntry *x = st_find(file, "x"), *t = st_find(file, "t"), *context = st_find(file, "context");
    const int base = unet_shape(unet)->width[0], B = (int)x->n[0], C = (int)x->n[1], F = (int)x->n[2];
    float *rows = channels_last(x->data, B, C, F, (int)(x->n[3] * x->n[4]), false);
    float *time = malloc(sizeof(float) * (size_t)(B * base));
    for (int b = 0; b < B; b++)
        timestep_features(((const float *)t->data)[b], base, &time[b * base]);
    Tensor in[] = {input(F32, 4, (int64_t[]){B * F, x->n[3], x->n[4], C}, rows),
                   input(F32, 2, (int64_t[]){B, base}, time), input(F32, 3, context->n, context->data)};
    Goldens g = {.file = file, .prefix = "act.unet", .frames = F};
    UnetCall call = {.unet = unet, .frames = F, .norm_clip = true};
    run(unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]}, 3, &g, recorded(file, "act.unet."));
    free(rows), free(time);
}

/* Outputs of two modules of one run, kept by a tap. */
typedef struct {
    const char *name[2];
    float *kept[2];
    size_t n[2];
} Watch;

static inline void keep_two(void *user, const char *module, const Tensor *t)
{
    Watch *w = user;
    for (int i = 0; i < 2; i++)
        if (!strcmp(module, w->name[i]) && !w->kept[i]) {
            w->n[i] = (size_t)tensor_count(t);
            w->kept[i] = malloc(w->n[i] * sizeof(float));
            memcpy(w->kept[i], t->d, w->n[i] * sizeof(float));
        }
}

#endif
