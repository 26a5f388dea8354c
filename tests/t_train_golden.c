/* t_train_golden.c: whole-network gradients and ten optimiser steps against PyTorch in float64.
 *
 * tests/golden/training: a motion U-Net of 80,284 parameters, two clips of 4 frames with 6 x 5 latents, made
 * with PyTorch 2.15.0 and diffusers 0.33.1 and rounded to float32. Bounds are what float32 costs times ten to
 * fifty; a wrong epsilon costs 4e-4 of all gradients and more, a schedule one step off half of the change. */
#include "train/train.h"
#include "tests/check.h"

#define FOLDER "tests/golden/training/"

static gimbal_error err;

/* ---- data that is never read: batches are filled here ------------------------------------- */

static const char *name_of(void *self, int64_t i)
{
    (void)self, (void)i;
    return "a golden clip";
}
static const gimbal_clips no_clips = {.count = 8,
                                      .identity =
                                          "00000000000000000000000000000000000000000000000000000000000000ff",
                                      .name = name_of};

static SafeTensors *open_gold(const char *name)
{
    char path[128];
    SafeTensors *st;
    snprintf(path, sizeof path, FOLDER "%s.safetensors", name);
    check_ok(st_open(&st, path, &err), err);
    return st;
}

static const float *gold(const SafeTensors *st, const char *name, size_t *count)
{
    const StEntry *e = st_find(st, name);
    check(e && e->type == F32, "%s in %s", name, st_path(st));
    if (count)
        *count = e->bytes / sizeof(float);
    return e->data;
}

/* Row `i` of batch.safetensors into the trainer's batch: [B,C,F,h,w] -> rows [B*F,h,w,C]. */
static void fill_batch(gimbal_trainer *t, const SafeTensors *st, int i)
{
    Batch *b = &t->batch;
    const gimbal_shape s = b->shape;
    const size_t clip = shape_count(s), points = clip / (size_t)s.c, all = clip * (size_t)b->clips;
    const float *x0 = gold(st, "latents", NULL) + (size_t)i * all, *noise = gold(st, "noise", NULL) + i * all;
    for (int n = 0; n < b->clips; n++) {
        for (size_t p = 0; p < points; p++)
            for (int c = 0; c < s.c; c++) {
                b->x0[n * clip + p * s.c + c] = x0[n * clip + c * points + p];
                b->noise[n * clip + p * s.c + c] = noise[n * clip + c * points + p];
            }
        b->t[n] = gold(st, "timesteps", NULL)[i * b->clips + n];
        b->stride[n] = 1, b->no_image[n] = false, b->sample[n] = b->clip[n] = n;
        batch_diffuse(t, b, n);
    }
    size_t count;
    const float *context = gold(st, "context", &count);
    memcpy(b->context, context, count * sizeof(float));
}

static gimbal_train_settings defaults(const char *recipe)
{
    gimbal_train_settings s;
    check_ok(gimbal_train_defaults(&s, recipe, &err), err);
    s.model = FOLDER "model", s.motion = FOLDER "model-motion";
    s.batch = s.micro = 2, s.frames = 4, s.height = 48, s.width = 40;
    s.warmup = 0, s.clip = 0, s.cache = "none", s.dtype = "f32", s.validation = 0;
    return s;
}

static char output[64];

static gimbal_trainer *begin(const gimbal_train_settings *s)
{
    gimbal_trainer *t;
    check_ok(gimbal_train_begin(&t, s, &no_clips, NULL, output, 0, NULL, NULL, &err), err);
    return t;
}

static int make_output(void **state)
{
    (void)state;
    snprintf(output, sizeof output, "/tmp/gimbal-train-XXXXXX");
    return mkdtemp(output) ? 0 : -1;
}

static int remove_output(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", output);
    return system(command);
}

/* ---- gradients ------------------------------------------------------------------------------ */

/* Squares of the difference from gold, and of gold. */
static void add_squares(const float *x, const float *want, int64_t n, double sum[2])
{
    for (int64_t i = 0; i < n; i++) {
        sum[0] += pow((double)x[i] - want[i], 2);
        sum[1] += pow(want[i], 2);
    }
}

static void compare_gradients(const gimbal_trainer *t, const SafeTensors *st, int tensors)
{
    double all[2] = {0};
    check(t->set.n == tensors, "%d tensors learn, expected %d", t->set.n, tensors);
    for (int i = 0; i < t->set.n; i++) {
        const Param *p = &t->set.p[i];
        char name[200];
        size_t count;
        double one[2] = {0};
        snprintf(name, sizeof name, "grad.%s", p->w->name);
        const float *want = gold(st, name, &count);
        check((int64_t)count == p->count, "%s: %zu values, found %lld", name, count, (long long)p->count);
        add_squares(t->set.grad + p->at, want, p->count, one);
        all[0] += one[0], all[1] += one[1];
        check(sqrt(one[0]) <= 2e-4 * sqrt(one[1]) + 1e-12, "%s: %.2e off", name, sqrt(one[0] / one[1]));
    }
    check(sqrt(all[0] / all[1]) < 5e-5, "all gradients together are %.2e off", sqrt(all[0] / all[1]));
}

/* Learns batch 0 once; checks the loss. The caller ends the trainer. */
static gimbal_trainer *gradients(const gimbal_train_settings *s, const SafeTensors *st)
{
    gimbal_trainer *t = begin(s);
    SafeTensors *batch = open_gold("batch");
    double loss[2], look[2];
    fill_batch(t, batch, 0);
    check_ok(t->recipe->learn(t->self, t, &t->batch, false, look, &err), err);
    check_ok(t->recipe->learn(t->self, t, &t->batch, true, loss, &err), err);
    check(look[0] == loss[0] && look[1] == loss[1], "looking and learning give different losses");
    const double want = gold(st, "loss", NULL)[0];
    check_near((loss[0] + loss[1]) / 2, want, 1e-6 * want, "loss");
    st_close(batch);
    return t;
}

static void test_full(void **state)
{
    (void)state;
    SafeTensors *st = open_gold("grads-full");
    gimbal_train_settings s = defaults("motion");
    s.train = "*";
    gimbal_trainer *t = gradients(&s, st);
    compare_gradients(t, st, 390);
    gimbal_train_end(t);
    st_close(st);
}

/* Those of the motion modules are the same whether the rest learns or not; nothing else is allocated. */
static void test_motion(void **state)
{
    (void)state;
    SafeTensors *st = open_gold("grads-full");
    gimbal_train_settings s = defaults("motion");
    gimbal_trainer *t = gradients(&s, st);
    compare_gradients(t, st, 182);
    gimbal_train_end(t);
    st_close(st);
}

static void test_motion_frame(void **state)
{
    (void)state;
    SafeTensors *st = open_gold("grads-motion-frame");
    gimbal_train_settings s = defaults("motion");
    s.motion_norm = "frame";
    gimbal_trainer *t = gradients(&s, st);
    compare_gradients(t, st, 182);
    gimbal_train_end(t);
    st_close(st);
}

/* Recomputed blocks, threads and micro-batches: the same bits, the same bits, the same to rounding. */
static void test_same(void **state)
{
    (void)state;
    SafeTensors *st = open_gold("grads-full");
    gimbal_train_settings s = defaults("motion");
    s.train = "*", s.recompute = 0, s.threads = 1;
    gimbal_trainer *plain = gradients(&s, st);
    s.recompute = 1, s.threads = 2;
    gimbal_trainer *again = gradients(&s, st);
    check(plain->cx.work_bytes > again->cx.work_bytes, "recomputation takes %zu bytes, without it %zu",
          again->cx.work_bytes, plain->cx.work_bytes);
    check(!memcmp(plain->set.grad, again->set.grad, (size_t)plain->set.total * sizeof(float)),
          "recomputation changes gradients");
    gimbal_train_end(plain);
    gimbal_train_end(again);
    st_close(st);
}

/* ---- steps ----------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int steps, accumulate;
} Steps;

static void check_params(const gimbal_trainer *t, const SafeTensors *st, const float *start)
{
    double all[2] = {0};
    int seen = 0;
    for (int i = 0; i < t->set.n; i++) {
        const Param *p = &t->set.p[i];
        const struct {
            const char *prefix;
            const float *have;
            double bound;
        } part[] = {{"param.", t->set.value, 0},
                    {"ema.", t->set.ema, 2e-5},
                    {"m.", t->set.m, 1e-4},
                    {"v.", t->set.v, 1e-4}};
        for (int k = 0; k < COUNT(part); k++) {
            char name[200];
            snprintf(name, sizeof name, "%s%s", part[k].prefix, p->w->name);
            const StEntry *e = st_find(st, name);
            if (!e)
                continue;
            const float *want = e->data, *have = part[k].have + p->at;
            double sum[2] = {0};
            add_squares(have, want, p->count, sum);
            if (k) {
                check(sqrt(sum[0]) <= part[k].bound * sqrt(sum[1]), "%s: %.2e off", name,
                      sqrt(sum[0] / sum[1]));
                continue;
            }
            for (int64_t j = 0; j < p->count; j++)
                all[1] += pow((double)want[j] - start[p->at + j], 2);
            all[0] += sum[0], seen++;
        }
    }
    check(seen > 0, "no parameters to compare");
    if (seen == t->set.n)
        check(sqrt(all[0] / all[1]) < 5e-4, "the change of all parameters is %.2e off",
              sqrt(all[0] / all[1]));
}

/* One row of the table of changes: every tensor's, also those that the file does not hold. */
static void check_changes(const gimbal_trainer *t, const SafeTensors *st, const float *start)
{
    const char *names = st_metadata(st, "names");
    const float *row = gold(st, "check", NULL);
    check(names != NULL, "the file names its rows");
    for (const char *at = names; *at; row += 4) {
        const size_t n = strcspn(at, " ");
        const Param *p = NULL;
        for (int i = 0; i < t->set.n && !p; i++)
            if (strlen(t->set.p[i].w->name) == n && !memcmp(t->set.p[i].w->name, at, n))
                p = &t->set.p[i];
        check(p != NULL, "%.*s does not learn", (int)n, at);
        double change = 0;
        for (int64_t j = 0; j < p->count; j++)
            change += pow((double)t->set.value[p->at + j] - start[p->at + j], 2);
        check_near(sqrt(change), row[2], 5e-3 * row[2], "change of %.*s", (int)n, at);
        at += n + (at[n] == ' ');
    }
}

static void run_steps(const Steps *run, const gimbal_train_settings *s, bool zero)
{
    SafeTensors *st = open_gold(run->name), *batch = open_gold("batch");
    gimbal_trainer *t = begin(s);
    for (int i = 0; i < t->set.n && zero; i++)
        if (strstr(t->set.p[i].w->name, ".proj_out."))
            memset(t->set.value + t->set.p[i].at, 0, (size_t)t->set.p[i].count * sizeof(float));
    const size_t bytes = (size_t)t->set.total * sizeof(float);
    float *start = malloc(bytes);
    memcpy(start, t->set.value, bytes);
    memcpy(t->set.ema, start, bytes);
    for (int i = 0; i < run->steps; i++) {
        double loss[2], norm[MAX_NETS];
        for (int k = 0; k < run->accumulate; k++) {
            const int row = i * run->accumulate + k;
            fill_batch(t, batch, row % 10);
            check_ok(t->recipe->learn(t->self, t, &t->batch, true, loss, &err), err);
            const double want = gold(st, "loss", NULL)[row];
            const double have =
                (loss[0] * (double)t->batch.weight[0] + loss[1] * (double)t->batch.weight[1]) / 2;
            check_near(have, want, 2e-6 * want, "%s: loss of micro-batch %d", run->name, row);
        }
        check_near(trainer_lr(t, 0), gold(st, "lr", NULL)[i], 1e-6 * s->lr, "%s: rate of step %d", run->name,
                   i);
        check_ok(trainer_update(t, norm, &err), err);
        const double want = gold(st, "norm", NULL)[i];
        check_near(norm[0], want, 5e-6 * want, "%s: norm of step %d", run->name, i);
    }
    check_params(t, st, start);
    check_changes(t, st, start);
    free(start);
    gimbal_train_end(t);
    st_close(st), st_close(batch);
}

static void test_steps_motion(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults("motion");
    s.steps = 10, s.lr = 1e-3, s.warmup = 3, s.clip = 2;
    run_steps(&(Steps){"steps-motion", 10, 1}, &s, false);
}

static void test_steps_full(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults("motion");
    s.train = "*", s.steps = 10, s.batch = 4, s.lr = 2e-4, s.schedule = "cosine", s.warmup = 2, s.clip = 5;
    s.snr_gamma = 5, s.ema_warmup = 1, s.ema_power = 0.75;
    run_steps(&(Steps){"steps-full", 10, 2}, &s, false);
}

static void test_steps_zero(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults("motion");
    s.steps = 4, s.lr = 1e-3, s.clip = 1.2;
    run_steps(&(Steps){"steps-zero", 4, 1}, &s, true);
}

static void test_steps_v(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults("motion");
    s.prediction = "v_prediction", s.snr_gamma = 5, s.steps = 3, s.batch = 4, s.lr = 1e-3, s.beta2 = 0.99;
    s.eps = 1e-6, s.decay = 0.1, s.clip = 1, s.schedule = "linear", s.warmup = 1, s.ema = 0.9;
    run_steps(&(Steps){"steps-v", 3, 2}, &s, false);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_output, remove_output)
    const struct CMUnitTest tests[] = {
        TEST(test_full),         TEST(test_motion),     TEST(test_motion_frame), TEST(test_same),
        TEST(test_steps_motion), TEST(test_steps_full), TEST(test_steps_zero),   TEST(test_steps_v)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
