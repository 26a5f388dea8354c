/* t_tape.c: gradients: against differences in every parameter, recomputed with the same bits, and planned.
 *
 * The plan is compiled in with GIMBAL_POISON (see t_plan.c): what backward reads must be planned to be alive.
 */
#ifndef GIMBAL_POISON
#define GIMBAL_POISON
#endif
#include "tensor/plan.c"

#include "tests/kit/smallnet.h"

static SmallNet net;
static SnData data;
static Tape *tape;

/* One training step as a graph: loss and, with a tape, all gradients. */
static Tensor *step(Cx *cx, void *self, Tensor **in)
{
    if (self)
        cx->tape = self;
    Tensor *loss = op_mse(cx, sn_forward(cx, &net, in), in[3]);
    if (self)
        backward(cx, loss);
    cx->tape = NULL;
    return cx_failed(cx) ? NULL : loss;
}

static void open_all(Cx *cx, int threads, gimbal_error *err, Tensor *in[4])
{
    memset(err, 0, sizeof *err);
    sn_open(&net);
    sn_data(&data);
    tape = tape_new();
    cx_init(cx, cpu_chain(), threads, err);
    sn_inputs(cx, &data, SN_H, SN_W, in);
}

static void close_all(Cx *cx)
{
    cx_free(cx);
    tape_free(tape);
    sn_close(&net);
}

static void clear_gradients(void)
{
    for (int i = 0; i < net.n_leaves; i++)
        memset(net.leaf[i]->grad, 0, (size_t)weight_count(net.leaf[i]) * sizeof(float));
}

static size_t gradient_count(void)
{
    size_t n = 0;
    for (int i = 0; i < net.n_leaves; i++)
        n += (size_t)weight_count(net.leaf[i]);
    return n;
}

/* All parameters' gradients behind one another; caller frees. */
static float *take_gradients(void)
{
    float *all = malloc(gradient_count() * sizeof *all), *at = all;
    for (int i = 0; i < net.n_leaves; i++) {
        memcpy(at, net.leaf[i]->grad, (size_t)weight_count(net.leaf[i]) * sizeof *at);
        at += weight_count(net.leaf[i]);
    }
    return all;
}

static double loss_now(Cx *cx, Tensor **in)
{
    Tensor *loss = step(cx, NULL, in);
    check_ok(cx->err->code, *cx->err);
    return *(float *)loss->d;
}

/* x moves by +-h along random signs; the loss must change by h times the gradient's sum with these signs. */
static void check_slope(Cx *cx, Tensor **in, const char *name, float *x, const float *gradient, int64_t n)
{
    const float h = 4e-3f;
    uint64_t seed = 1;
    double expected = 0, loss[2], size = 0;
    float *sign = malloc((size_t)n * sizeof *sign), *kept = malloc((size_t)n * sizeof *kept);
    memcpy(kept, x, (size_t)n * sizeof *kept);
    for (int64_t i = 0; i < n; i++) {
        sign[i] = sn_random(&seed) < 0 ? -1.0f : 1.0f;
        expected += (double)sign[i] * gradient[i];
        size += fabs(gradient[i]);
    }
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < n; i++)
            x[i] = kept[i] + (side ? -h : h) * sign[i];
        loss[side] = loss_now(cx, in);
    }
    memcpy(x, kept, (size_t)n * sizeof *kept);
    check(size > 1e-4, "%s has no gradient", name);
    check_near(expected, (loss[0] - loss[1]) / (2 * h), 0.01 * fabs(expected) + 2e-3 * size + 1e-4,
               "slope of %s", name);
    free(sign), free(kept);
}

static void gradients_of_all_parameters_and_inputs_agree_with_differences(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 1, &err, in);
    for (int i = 0; i < 3; i++)
        in[i]->need_grad = true;
    check(step(&cx, tape, in) != NULL, "%.400s", err.msg);
    float *all = take_gradients(), *at = all;
    float *x[] = {data.x, data.time, data.text};
    const char *names[] = {"x", "time", "text"};
    for (int i = 0; i < net.n_leaves; i++) {
        check_slope(&cx, in, net.leaf[i]->name, net.leaf[i]->own, at, weight_count(net.leaf[i]));
        at += weight_count(net.leaf[i]);
    }
    for (int i = 0; i < 3; i++) {
        check(in[i]->grad && in[i]->grad->n[0] == in[i]->n[0], "input %s got no gradient", names[i]);
        check_slope(&cx, in, names[i], x[i], in[i]->grad->d, tensor_count(in[i]));
    }
    check(!in[3]->grad, "the target got a gradient");
    free(all), close_all(&cx);
}

static void recomputed_gradients_have_the_same_bits_and_a_shorter_tape(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    float *all[2];
    int length[2];
    open_all(&cx, 2, &err, in);
    for (int k = 0; k < 2; k++) {
        clear_gradients();
        cx.recompute = k;
        cx.tape = tape;
        Tensor *loss = op_mse(&cx, sn_forward(&cx, &net, in), in[3]);
        length[k] = tape_length(tape);
        check_ok(backward(&cx, loss), err);
        check(tape_length(tape) == 0, "backward left %d calls", tape_length(tape));
        all[k] = take_gradients();
    }
    check(!memcmp(all[0], all[1], gradient_count() * sizeof(float)), "gradients differ");
    check(length[1] < length[0] / 2, "tape of %d calls, %d with recomputation", length[0], length[1]);
    free(all[0]), free(all[1]), close_all(&cx);
}

/* Gradients of a planned step run twice (memory is used again), and the memory it took. */
static size_t planned(Cx *cx, gimbal_error *err, Tensor **in, const float *expected)
{
    Plan *plan = plan_make(cx, step, tape, in);
    check(plan != NULL, "%.400s", err->msg);
    const size_t bytes = plan_bytes(plan);
    check((double)bytes <= 1.05 * (double)plan_bound(plan), "%zu bytes, the bound is %zu", bytes,
          plan_bound(plan));
    cx->work = alloc_array(bytes, 1), cx->work_bytes = bytes;
    for (int run = 0; run < 2; run++) {
        clear_gradients();
        memset(cx->work, 0xff, bytes);
        check(plan_run(cx, plan, step, tape, in) != NULL, "run %d: %.400s", run, err->msg);
        float *all = take_gradients();
        check(!memcmp(all, expected, gradient_count() * sizeof *all), "run %d: gradients differ from eager's",
              run);
        free(all);
    }
    free(cx->work), plan_free(plan);
    return bytes;
}

static void a_planned_step_equals_the_eager_one_and_recomputation_saves_memory(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 2, &err, in);
    in[0]->need_grad = true;
    check(step(&cx, tape, in) != NULL, "%.400s", err.msg);
    float *all = take_gradients(), x_grad[SN_CLIPS * SN_FRAMES * SN_H * SN_W * SN_IN];
    memcpy(x_grad, in[0]->grad->d, sizeof x_grad);

    const size_t plain = planned(&cx, &err, in, all);
    cx.recompute = true;
    const size_t recomputed = planned(&cx, &err, in, all);
    check(recomputed < plain, "%zu bytes with recomputation, %zu without", recomputed, plain);
    free(all), close_all(&cx);
}

static void gradients_of_inputs_live_to_the_end_of_a_planned_run(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 2, &err, in);
    in[2]->need_grad = true; /* the text: read in the middle of the network */
    check(step(&cx, tape, in) != NULL, "%.400s", err.msg);
    float expected[SN_CLIPS * 7 * SN_TEXT];
    memcpy(expected, in[2]->grad->d, sizeof expected);
    Plan *plan = plan_make(&cx, step, tape, in);
    check(plan && !in[2]->grad, "the dry run left a gradient: %.400s", err.msg);
    cx.work_bytes = plan_bytes(plan), cx.work = alloc_array(cx.work_bytes, 1);
    for (int run = 0; run < 2; run++) {
        check(plan_run(&cx, plan, step, tape, in) != NULL, "%.400s", err.msg);
        check(!memcmp(expected, in[2]->grad->d, sizeof expected), "run %d", run);
    }
    plan_free(plan), free(cx.work), close_all(&cx);
}

static void predicting_a_steps_time_leaves_gradients_alone(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 1, &err, in);
    for (int i = 0; i < net.n_leaves; i++)
        net.leaf[i]->grad[0] = (float)i + 1;
    Plan *plan = plan_make(&cx, step, tape, in);
    check(plan != NULL, "%.400s", err.msg);
    float *before[SN_LEAVES];
    for (int i = 0; i < net.n_leaves; i++)
        before[i] = net.leaf[i]->grad;
    const double seconds = plan_seconds(&cx, plan, 0.3);
    check(seconds > 0 && seconds < 5 && !err.code, "%g s, %.400s", seconds, err.msg);
    for (int i = 0; i < net.n_leaves; i++)
        check(net.leaf[i]->grad == before[i] && before[i][0] == (float)i + 1, "%s", net.leaf[i]->name);
    plan_free(plan), close_all(&cx);
}

static void frozen_parameters_get_no_gradient_and_cost_no_memory(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 2, &err, in);
    static const Backend *const plain[] = {&backend_ref, NULL}; /* no kernel's scratch beside the tensors */
    cx.chain = plain;
    Plan *whole = plan_make(&cx, step, tape, in);
    for (int i = 0; i < net.n_leaves; i++)
        net.leaf[i]->trainable = strstr(net.leaf[i]->name, "conv_out") != NULL;
    Plan *part = plan_make(&cx, step, tape, in);
    check(whole && part, "%.400s", err.msg);
    check(2 * plan_bytes(part) < plan_bytes(whole), "%zu bytes, %zu for all", plan_bytes(part),
          plan_bytes(whole));
    check(step(&cx, tape, in) != NULL, "%.400s", err.msg);
    for (int i = 0; i < net.n_leaves; i++) {
        double sum = 0;
        for (int64_t k = 0; k < weight_count(net.leaf[i]); k++)
            sum += fabs(net.leaf[i]->grad[k]);
        check((sum > 0) == net.leaf[i]->trainable, "%s has gradients of sum %g", net.leaf[i]->name, sum);
    }
    plan_free(whole), plan_free(part), close_all(&cx);
}

static void a_block_without_anything_to_train_is_not_taped(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 2, &err, in);
    for (int i = 0; i < net.n_leaves; i++)
        net.leaf[i]->trainable = false;
    cx.recompute = true, cx.tape = tape;
    Tensor *loss = op_mse(&cx, sn_forward(&cx, &net, in), in[3]);
    check(loss && !tape_length(tape), "%d calls on the tape", tape_length(tape));
    check_fails(backward(&cx, loss), GIMBAL_EMODEL, err, "nothing that can be trained");
    close_all(&cx);
}

static void backward_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    Cx cx = {0};
    gimbal_error err;
    Tensor *in[4];
    open_all(&cx, 2, &err, in);
    Tensor *loss = op_mse(&cx, sn_forward(&cx, &net, in), in[3]);
    check_fails(backward(&cx, loss), GIMBAL_EMODEL, err, "no tape");
    cx.tape = tape;
    Tensor *y = sn_forward(&cx, &net, in);
    check_fails(backward(&cx, y), GIMBAL_EMODEL, err, "not a single number");
    float *grad = net.in[0].grad;
    net.in[0].grad = NULL;
    check_fails(backward(&cx, op_mse(&cx, y, in[3])), GIMBAL_EMODEL, err, "conv_in.weight");
    net.in[0].grad = grad;
    Epi both = {.act = ACT_SILU, .scale = 0.5f};
    check(!op_conv2d(&cx, in[0], &net.in[0], 1, sn_same, both) && strstr(err.msg, "scale"), "%.400s",
          err.msg);
    close_all(&cx);
}

TESTS(gradients_of_all_parameters_and_inputs_agree_with_differences,
      recomputed_gradients_have_the_same_bits_and_a_shorter_tape,
      a_planned_step_equals_the_eager_one_and_recomputation_saves_memory,
      gradients_of_inputs_live_to_the_end_of_a_planned_run, predicting_a_steps_time_leaves_gradients_alone,
      frozen_parameters_get_no_gradient_and_cost_no_memory, a_block_without_anything_to_train_is_not_taped,
      backward_refuses_what_it_cannot_do)
