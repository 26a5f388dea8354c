/* t_train_videofusion.c: the joint loss of two networks and its gradients against PyTorch in float64 (base
 * network and residual network of tests/golden/training, two clips of 4 frames, key frame 1, lambda 0.5),
 * that no gradient of the residual's terms reaches the base, the ablation in which it does, and what is
 * saved.
 *
 * Luo et al., VideoFusion, CVPR 2023, section 4.3. A stop that is missing in the input alone moves the norm
 * of the base's gradient by 1.6 %, which no loss shows. */
#include "train/train.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/check.h"

#define FOLDER "tests/golden/training/"

static gimbal_error err;
static char scratch[64], pair[80], output[80]; /* the model folder; where a trainer keeps its state */

PRINTF_LIKE(1, 2) static void shell(const char *fmt, ...)
{
    char command[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    check(system(command) == 0, "%.300s", command);
}

static const char *in_scratch(const char *name)
{
    static char path[2][128];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch, name);
    return path[turn];
}

/* SCRATCH/model: the golden networks as a model folder. */
static int make_model(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/gimbal-train-pair-XXXXXX");
    check(mkdtemp(scratch) != NULL, "mkdtemp");
    snprintf(pair, sizeof pair, "%s/model", scratch), snprintf(output, sizeof output, "%s/out", scratch);
    shell("cp -r " FOLDER "model %s/model && mv %s/model/unet %s/model/base && cp -r " FOLDER
          "residual %s/model/ && "
          "chmod -R u+w %s && echo '{\"lambda\": 0.5, \"key_frame\": 1, \"frame_count\": 4}' > "
          "%s/model/videofusion.json",
          scratch, scratch, scratch, scratch, scratch, scratch);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    shell("rm -rf %s", scratch);
    return 0;
}

static const char *name_of(void *self, int64_t i)
{
    (void)self, (void)i;
    return "a golden clip";
}
static const gimbal_clips no_clips = {.count = 8,
                                      .identity =
                                          "00000000000000000000000000000000000000000000000000000000000000ff",
                                      .name = name_of};

static gimbal_train_settings settings(const char *model, int micro)
{
    gimbal_train_settings s;
    check_ok(gimbal_train_defaults(&s, "videofusion", &err), err);
    s.model = model, s.batch = 2, s.micro = micro, s.frames = 4, s.height = 48, s.width = 40;
    s.warmup = 0, s.clip = 0, s.cache = "none", s.dtype = "f32", s.validation = 0, s.validate_every = 0;
    return s;
}

static gimbal_trainer *begin(const gimbal_train_settings *s)
{
    gimbal_trainer *t;
    check_ok(gimbal_train_begin(&t, s, &no_clips, NULL, output, 0, NULL, NULL, &err), err);
    shell("rm -rf %s/out", scratch);
    return t;
}

/* A picture [C,h,w] as rows [h,w,C]. */
static void rows_of(const float *x, gimbal_shape s, float *rows)
{
    const size_t plane = (size_t)s.h * (size_t)s.w;
    for (size_t c = 0; c < (size_t)s.c; c++)
        for (size_t k = 0; k < plane; k++)
            rows[k * (size_t)s.c + c] = x[c * plane + k];
}

/* Clip `from` of the recording and those after it into the batch; `other`: other residual noise. */
static void fill_batch(gimbal_trainer *t, int from, float other)
{
    Batch *b = &t->batch;
    const gimbal_shape s = b->shape;
    const size_t frame = shape_count(s) / (size_t)s.f;
    size_t n;
    float *x = golden(FOLDER "batch.safetensors", "vf.latents", &n),
          *base = golden(FOLDER "batch.safetensors", "vf.b", &n),
          *r = golden(FOLDER "batch.safetensors", "vf.r", &n),
          *time = golden(FOLDER "batch.safetensors", "vf.timesteps", &n),
          *context = golden(FOLDER "batch.safetensors", "context", &n);
    const size_t text = n / 2;
    for (int i = 0; i < b->clips; i++) {
        const int clip = from + i;
        rows_of(base + (size_t)clip * frame, s, b->base + (size_t)i * frame);
        for (int f = 0; f < s.f; f++) {
            const size_t at = (size_t)(i * s.f + f) * frame;
            rows_of(x + (size_t)(clip * s.f + f) * frame, s, b->x0 + at);
            rows_of(r + (size_t)(clip * s.f + f) * frame, s, b->residual + at);
            for (size_t k = 0; k < frame; k++) {
                b->residual[at + k] += other;
                b->noise[at + k] = (float)(sqrt(b->lambda[f]) * b->base[(size_t)i * frame + k] +
                                           sqrt(1 - b->lambda[f]) * b->residual[at + k]);
            }
        }
        b->t[i] = time[clip], b->stride[i] = 1, b->no_image[i] = false, b->sample[i] = b->clip[i] = i;
        memcpy(b->context + (size_t)i * text, context + (size_t)clip * text, text * sizeof(float));
        batch_diffuse(t, b, i);
    }
    free(x), free(base), free(r), free(time), free(context);
}

static double learn(gimbal_trainer *t, bool learns)
{
    double loss[2] = {0}, sum = 0;
    check_ok(t->recipe->learn(t->self, t, &t->batch, learns, loss, &err), err);
    for (int i = 0; i < t->batch.clips; i++)
        sum += loss[i] / 2;
    return sum;
}

static double norm_of(const gimbal_trainer *t, int net)
{
    return grad_norm(t->set.grad + t->set.begin[net], t->set.begin[net + 1] - t->set.begin[net]);
}

/* Every tensor of a network against `prefix`NAME of a recording. */
static void compare(const gimbal_trainer *t, int net, const char *file, const char *prefix, int tensors)
{
    double all[2] = {0};
    int met = 0;
    for (int i = 0; i < t->set.n; i++) {
        const Param *p = &t->set.p[i];
        char name[200];
        size_t n;
        if (p->net != net)
            continue;
        snprintf(name, sizeof name, "%s%s", prefix, p->w->name);
        float *want = golden(file, name, &n);
        const float *have = t->set.grad + p->at;
        double one[2] = {0};
        check((int64_t)n == p->count, "%s has %zu values", name, n);
        for (size_t k = 0; k < n; k++)
            one[0] += pow((double)have[k] - want[k], 2), one[1] += pow(want[k], 2);
        check(sqrt(one[0]) <= 2e-4 * sqrt(one[1]) + 1e-12, "%s: %.2e off", name, sqrt(one[0] / one[1]));
        all[0] += one[0], all[1] += one[1];
        free(want), met++;
    }
    check(met == tensors, "%d tensors of network %d learn, expected %d", met, net, tensors);
    check(sqrt(all[0] / all[1]) < 5e-5, "all gradients of network %d are %.2e off", net,
          sqrt(all[0] / all[1]));
    print_message("network %d: all gradients together %.1e off\n", net, sqrt(all[0] / all[1]));
}

static void losses_and_gradients_are_those_of_pytorch(void **state)
{
    (void)state;
    size_t n;
    float *want = golden(FOLDER "videofusion-base.safetensors", "loss", &n),
          *frames = golden(FOLDER "videofusion-base.safetensors", "frame_loss", &n);
    for (int micro = 1; micro <= 2; micro++)
        for (int recompute = 0; recompute < 2; recompute++) {
            gimbal_train_settings s = settings(pair, micro);
            s.recompute = recompute;
            gimbal_trainer *t = begin(&s);
            double sum = 0;
            for (int i = 0; i < 2; i += micro) {
                double loss[2], look[2];
                fill_batch(t, i, 0);
                check_ok(t->recipe->learn(t->self, t, &t->batch, false, look, &err), err);
                check_ok(t->recipe->learn(t->self, t, &t->batch, true, loss, &err), err);
                for (int k = 0; k < micro; k++) {
                    double mean = 0;
                    for (int f = 0; f < 4; f++)
                        mean += frames[(i + k) * 4 + f] / 4;
                    check(look[k] == loss[k], "looking and learning give different losses");
                    check_near(loss[k], mean, 1e-6 * mean, "loss of clip %d", i + k);
                    sum += loss[k] / 2;
                }
            }
            check_near(sum, want[0], 1e-6 * want[0], "loss");
            compare(t, 0, FOLDER "videofusion-residual.safetensors", "res_grad.", 212);
            compare(t, 1, FOLDER "videofusion-base.safetensors", "base_grad.", 208);
            check_near(norm_of(t, 1), 4.214509, 2e-5, "norm of the base's gradient");
            gimbal_train_end(t);
        }
    free(want), free(frames);
}

/* A step along a fixed direction in the base's parameters. */
static void move_base(gimbal_trainer *t, double by)
{
    uint64_t seed = 9;
    for (int i = 0; i < t->set.n; i++) {
        Param *p = &t->set.p[i];
        for (int64_t k = 0; k < p->count && p->net == 1; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            t->set.value[p->at + k] += (float)(by * ((double)(seed >> 40) / 16777216.0 - 0.5));
        }
        weight_drop(p->w);
    }
}

/* Changing what only the others see leaves every bit of the base's gradient; yet their loss hangs on the
 * base. */
static void no_gradient_of_the_others_reaches_the_base(void **state)
{
    (void)state;
    gimbal_train_settings s = settings(pair, 2);
    gimbal_trainer *t = begin(&s);
    const size_t from = (size_t)t->set.begin[1], n = (size_t)(t->set.begin[2] - t->set.begin[1]);
    float *one = malloc(n * sizeof *one), *rest = malloc(from * sizeof *rest);
    fill_batch(t, 0, 0);
    const double before = learn(t, true);
    memcpy(one, t->set.grad + from, n * sizeof *one), memcpy(rest, t->set.grad, from * sizeof *rest);
    memset(t->set.grad, 0, (size_t)t->set.total * sizeof(float));
    fill_batch(t, 0, 1.5f);
    check(fabs(learn(t, true) - before) > 0.1, "other residual noise, another loss");
    check(!memcmp(one, t->set.grad + from, n * sizeof *one), "the base's gradient is the key frame's alone");
    check(memcmp(rest, t->set.grad, from * sizeof *rest), "the residual's is not");

    /* the key frame's terms are the same in both, so the slopes along the base differ by what the others say
     */
    double slope[2];
    for (int i = 0; i < 2; i++) {
        fill_batch(t, 0, i ? 1.5f : 0);
        move_base(t, 1e-2);
        const double up = learn(t, false);
        move_base(t, -2e-2);
        slope[i] = (up - learn(t, false)) / 2e-2;
        move_base(t, 1e-2);
    }
    check(fabs(slope[0] - slope[1]) > 1e-2, "slopes are %g and %g", slope[0], slope[1]);
    print_message("slopes along the base: %g and %g\n", slope[0], slope[1]);
    free(one), free(rest);
    gimbal_train_end(t);
}

/* The counter-example: one graph, and the gradient that the recording had without any stop. */
static void without_the_stop_it_does(void **state)
{
    (void)state;
    gimbal_train_settings s = settings(pair, 1);
    gimbal_trainer *t;
    s.stop_gradient = 0;
    t = begin(&s);
    double sum = 0, look = 0;
    for (int i = 0; i < 2; i++) {
        fill_batch(t, i, 0);
        look += learn(t, false);
        sum += learn(t, true);
    }
    size_t n;
    float *want = golden(FOLDER "videofusion-base.safetensors", "loss", &n);
    check_near(sum, want[0], 1e-6 * want[0], "the loss is the same");
    check_near(look, sum, 1e-6 * sum, "looking and learning");
    check_near(norm_of(t, 1), 11.8719, 2e-4, "norm of the base's gradient");
    compare(t, 0, FOLDER "videofusion-residual.safetensors", "res_grad.", 212);
    gimbal_train_end(t);
    free(want);
    s.micro = 2;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "one clip at a time");
}

static void a_frozen_base_has_no_gradients_and_is_saved_all_the_same(void **state)
{
    (void)state;
    gimbal_train_settings s = settings(pair, 2);
    s.freeze_base = 1;
    gimbal_trainer *t = begin(&s);
    fill_batch(t, 0, 0);
    learn(t, true);
    assert_int_equal(t->set.n, 212);
    compare(t, 0, FOLDER "videofusion-residual.safetensors", "res_grad.", 212);
    shell("mkdir %s/saved", scratch);
    check_ok(t->recipe->save(t->self, t, in_scratch("saved"), false, &err), err);
    gimbal_train_end(t);
    size_t n;
    float *was = golden(in_scratch("model/base/diffusion_pytorch_model.safetensors"), "conv_in.weight", &n),
          *is = golden(in_scratch("saved/base/diffusion_pytorch_model.safetensors"), "conv_in.weight", &n);
    check(!memcmp(was, is, n * sizeof *was), "the base as it was");
    free(was), free(is);
}

/* From an image model: the residual's network begins as the base's, with layers over time, or at random, and
 * the result is a model. */
static void a_pair_begins_from_an_image_model(void **state)
{
    (void)state;
    static const char *const ways[] = {"base", "video", "new"};
    double losses[3];
    for (int i = 0; i < 3; i++) {
        gimbal_train_settings s = settings(FOLDER "model", 2);
        s.residual = ways[i], s.lr = 1e-3, s.motion = i == 1 ? FOLDER "model-motion" : NULL;
        gimbal_trainer *t = begin(&s);
        check(i == 1 ? t->set.n > 212 + 208 : t->set.n == 212 + 208, "%s: %d tensors", ways[i], t->set.n);
        fill_batch(t, 0, 0);
        losses[i] = learn(t, true);
        double norm[MAX_NETS];
        check_ok(trainer_update(t, norm, &err), err);
        check(norm[0] > 0 && norm[1] > 0, "both learn: norms %g and %g", norm[0], norm[1]);
        check_near(trainer_lr(t, 1), trainer_lr(t, 0) / 10, 1e-12, "the base's learning rate");
        shell("rm -rf %s/saved && mkdir %s/saved", scratch, scratch);
        check_ok(t->recipe->save(t->self, t, in_scratch("saved"), false, &err), err);
        gimbal_train_end(t);
        shell("cd %s && for part in vae text_encoder tokenizer scheduler model_index.json; do cp -r "
              "model/$part "
              "saved/; done",
              scratch);
        gimbal_engine *e;
        check_ok(gimbal_open(&e, in_scratch("saved"), NULL, &err), err);
        check(!strcmp(gimbal_family(e), "videofusion") && e->split.rescale == (i < 2) && e->split.key == 1 &&
                  e->split.frames == 4 && e->run.width == 40 && e->residual_shape.motion == (i == 1),
              "%s: what sampling must know", ways[i]);
        gimbal_settings run;
        gimbal_session *session;
        gimbal_defaults(&run, e);
        run.prompt = "red", run.steps = 2;
        float latents[4 * 9 * 6 * 5];
        for (int frames = 4; frames <= 9; frames += 5) { /* as trained, and longer */
            run.frames = frames;
            check_ok(gimbal_begin(&session, e, &run, &err), err);
            assert_int_equal(shape_count(gimbal_latent_shape(session)), 4 * frames * 6 * 5);
            check_ok(gimbal_sample(session, latents, &err), err);
            gimbal_end(session);
        }
        gimbal_close(e);
    }
    check(losses[0] != losses[1] && losses[1] != losses[2], "the three ways begin differently");
}

/* New modules begin silent, so that the loss is what it was without them, the key frame's row included in the
 * clip and left out of the sum; then they learn. A pair goes on with its own. */
static void layers_over_time_begin_with_nothing_and_learn(void **state)
{
    (void)state;
    double before[2], after, norm[MAX_NETS];
    shell("mkdir %s/new && cp " FOLDER "model-motion/config.json %s/new", scratch, scratch);
    gimbal_train_settings s = settings(FOLDER "model", 2);
    gimbal_trainer *t = begin(&s);
    fill_batch(t, 0, 0);
    before[0] = learn(t, false);
    gimbal_train_end(t);

    s.residual = "video", s.motion = in_scratch("new"), s.train = "*motion_modules*", s.lr = 1e-2,
    s.steps = 40;
    t = begin(&s);
    fill_batch(t, 0, 0);
    before[1] = learn(t, false);
    check_near(before[1], before[0], 1e-6 * before[0], "the loss with silent modules");
    for (int i = 0; i < s.steps; i++) {
        learn(t, true);
        check_ok(trainer_update(t, norm, &err), err);
    }
    after = learn(t, false);
    check(after < 0.97 * before[1], "the loss was %g and is %g", before[1], after);
    shell("mkdir %s/saved && cp -r %s/model/[!br]* %s/saved/", scratch, scratch, scratch);
    check_ok(t->recipe->save(t->self, t, in_scratch("saved"), false, &err), err);
    gimbal_train_end(t);

    gimbal_train_settings pairs = settings(in_scratch("saved"), 2);
    t = begin(&pairs);
    fill_batch(t, 0, 0);
    check_near(learn(t, false), after, 1e-6 * after, "the pair's loss");
    gimbal_train_end(t);
}

/* Steps on one batch: both parts of the loss fall, and each network's gradient is clipped by itself. */
static void the_pair_learns_a_batch(void **state)
{
    (void)state;
    gimbal_train_settings s = settings(pair, 2);
    s.lr = 2e-3, s.base_lr = 1e-3, s.clip = 1, s.steps = 60;
    gimbal_trainer *t = begin(&s);
    double first[MAX_NETS] = {0}, norm[MAX_NETS];
    fill_batch(t, 0, 0);
    const double before = learn(t, false);
    for (int i = 0; i < s.steps; i++) {
        learn(t, true);
        check_ok(trainer_update(t, i ? norm : first, &err), err);
    }
    const double after = learn(t, false);
    check(after < 0.8 * before, "the loss was %g and is %g", before, after);
    print_message("loss %g, after %d steps %g\n", before, s.steps, after);
    check(first[1] > 4 && first[0] > 0 && first[0] != first[1], "norms %g and %g", first[0], first[1]);
    gimbal_train_end(t);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    gimbal_trainer *t;
    gimbal_train_settings s = settings(pair, 2);
    s.lambda = 0.4;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "learnt with 0.5");
    s = settings(pair, 2), s.key_frame = 2;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "learnt with 1");
    s = settings(pair, 2), s.frames = 1;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "2 to 512 frames");
    s = settings(pair, 2), s.prediction = "v_prediction";
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "learns noise");
    s = settings(pair, 2), s.noise_offset = 0.1;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "--noise-offset would not be used");
    s = settings("tests/golden/consisti2v-tiny/model", 2), s.width = s.height = -1;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "image models");
    s = settings(FOLDER "model", 2), s.residual = "video";
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "motion adapter");
    s = settings(FOLDER "model", 1), s.residual = "video", s.motion = FOLDER "model-motion";
    s.stop_gradient = 0;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "without layers over time");
    s.stop_gradient = 1, s.frames = 99;
    check_fails(gimbal_train_begin(&t, &s, &no_clips, NULL, output, 0, NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "--frames is 99");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_model, remove_model)
    const struct CMUnitTest tests[] = {
        TEST(losses_and_gradients_are_those_of_pytorch),
        TEST(no_gradient_of_the_others_reaches_the_base),
        TEST(without_the_stop_it_does),
        TEST(a_frozen_base_has_no_gradients_and_is_saved_all_the_same),
        TEST(a_pair_begins_from_an_image_model),
        TEST(layers_over_time_begin_with_nothing_and_learn),
        TEST(the_pair_learns_a_batch),
        TEST(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
