/* t_consisti2v.c: the ConsistI2V U-Net against the authors' code: layer by layer and block by block
 * (tests/golden/consisti2v-tiny), and with weights from a formula in the variants of its config, with the
 * gradients. */
#include "tests/consisti2v.h"

/* ---- against the authors' code ----------------------------------------------------------- */

/* Of single values, relative to 1: eight times the authors' own float32 error, as the goldens' notes say. */
static void check_close(const float *got, const StEntry *want, double tolerance, const char *what)
{
    const size_t n = want->bytes / sizeof(float);
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, (const char *)want->data + i * sizeof x, sizeof x);
        const double d = fabs((double)got[i] - (double)x);
        most = d > most || isnan(d) ? d : most;
    }
    check_near(most, 0, tolerance, "largest distance of %s", what);
}

static void every_block_agrees(void **state)
{
    (void)state;
    enum { BLOCKS = 9 };
    SafeTensors *file;
    Net net;
    open_net(&net);
    check_ok(st_open(&file, FOLDER "unet-batch1.safetensors", &err), err);
    Inputs in = recorded_inputs(&net, file);
    Goldens g = {.file = file, .prefix = "", .frames = in.F};
    UnetCall call = {.unet = net.unet, .frames = in.F};
    Tensor *list[] = {&in.in[0], &in.in[1], &in.in[2], &in.in[3]};
    run(unet_forward, &call, list, 4, &g, BLOCKS);
    float *y = predict(net.unet, &in);
    check_close(y, st_find(file, "output"), 1.99e-5, "the prediction");
    free(y), inputs_free(&in);
    st_close(file), close_net(&net);
}

static void clips_of_one_call_agree(void **state)
{
    (void)state;
    SafeTensors *file;
    Net net;
    open_net(&net);
    check_ok(st_open(&file, FOLDER "unet-batch2.safetensors", &err), err);
    Inputs in = recorded_inputs(&net, file);
    float *y = predict(net.unet, &in);
    check(in.clips == 2, "%d clips", in.clips);
    check_close(y, st_find(file, "output"), 2.38e-5, "the prediction");
    free(y), inputs_free(&in);
    st_close(file), close_net(&net);
}

/* One layer out of the model: its parameters are found under its name. */
static void layer_params(void *transformer, Params *p)
{
    transformer_params(p, transformer);
}

static void layer_resnet(void *resnet, Params *p)
{
    resnet_params(p, resnet);
}

static void layer_conv(void *conv, Params *p)
{
    blended_conv_params(p, conv);
}

typedef struct {
    Net net;
    SafeTensors *file;
    Cx cx;
    int F, level, width, heads;
} Layer;

static void bind_layer(Layer *l, const char *name, void (*params)(void *, Params *), void *self)
{
    static const char *const all[] = {"*", NULL};
    char prefix[80];
    snprintf(prefix, sizeof prefix, "down_blocks.%d.%s.0.", l->level, name);
    check_ok(bind_weights(l->net.set, prefix, params, self, all, NULL, &err), err);
}

/* The recorded x [(B T),C,H,W] as rows, its first `channels`. Caller frees. */
static Tensor layer_input(const Layer *l, int channels)
{
    const StEntry *x = st_find(l->file, "x");
    const int N = (int)x->n[0], C = (int)x->n[1], plane = (int)(x->n[2] * x->n[3]);
    float *rows = channels_last(x->data, N, C, 1, plane, false), *some = malloc(x->bytes);
    for (int r = 0; r < N * plane; r++)
        memcpy(some + (size_t)r * (size_t)channels, rows + (size_t)r * (size_t)C,
               sizeof(float) * (size_t)channels);
    free(rows);
    return input(F32, 4, (int64_t[]){N, x->n[2], x->n[3], channels}, some);
}

static void check_layer(const Layer *l, const char *name, double tolerance, const Tensor *y)
{
    check(y != NULL, "%s: %.300s", name, err.msg);
    float *got = as_pytorch(y, 1);
    check_close(got, st_find(l->file, name), tolerance, name);
    free(got);
}

static void check_resnet(Layer *l, double tolerance)
{
    const int reads = l->level ? l->net.shape.width[l->level - 1] : l->width;
    const StEntry *temb = st_find(l->file, "temb");
    Resnet r = {.in = reads, .out = l->width, .time_width = 4 * 32, .groups = 32, .eps = 1e-5f};
    Params p = {.leaf = drop_layer};
    bind_layer(l, "resnets", layer_resnet, &r);
    Tensor x = layer_input(l, reads), t = input(F32, 2, temb->n, temb->data);
    check_layer(l, "resnets", tolerance, resnet_forward(&l->cx, &r, &x, op_act(&l->cx, &t, ACT_SILU)));
    resnet_params(&p, &r), free(x.d);
}

static void check_conv(Layer *l, double tolerance)
{
    BlendedConv c = {.channels = l->width};
    Params p = {.leaf = drop_layer};
    bind_layer(l, "conv3ds", layer_conv, &c);
    Tensor x = layer_input(l, l->width);
    check_layer(l, "conv3ds", tolerance, blended_conv_forward(&l->cx, &c, &x, l->F));
    blended_conv_params(&p, &c), free(x.d);
}

static void check_attention(Layer *l, bool time, double tolerance)
{
    const char *name = time ? "tempo_attns" : "attentions";
    const StEntry *text = st_find(l->file, "context");
    Transformer t;
    Params p = {.leaf = drop_layer};
    check_ok(transformer_init(&t, &l->net.keep, l->width, l->width, time ? 8 : l->heads, 32, 32, 1, time,
                              true, 0, &err),
             err);
    if (time)
        check_ok(transformer_blend(&t, &l->net.keep, true, true, &err), err);
    t.first = !time;
    bind_layer(l, name, layer_params, &t);
    Tensor x = layer_input(l, l->width), context = input(F32, 3, text->n, text->data);
    check_layer(l, name, tolerance,
                transformer_forward(&l->cx, &t, &x, (TextInput){&context, false}, l->F, 1));
    transformer_params(&p, &t), free(x.d);
}

static void check_layers(int level, int heads, const double tolerance[4])
{
    char path[120];
    Layer l = {.level = level, .heads = heads, .F = 5};
    open_net(&l.net);
    l.width = l.net.shape.width[level];
    snprintf(path, sizeof path, FOLDER "layers-down%d.safetensors", level);
    check_ok(st_open(&l.file, path, &err), err);
    cx_init(&l.cx, cpu_chain(), 2, &err);
    check_resnet(&l, tolerance[0]);
    check_conv(&l, tolerance[1]);
    check_attention(&l, false, tolerance[2]);
    check_attention(&l, true, tolerance[3]);
    cx_free(&l.cx), st_close(l.file), close_net(&l.net);
}

static void every_kind_of_layer_agrees(void **state)
{
    (void)state;
    check_layers(0, 2, (double[]){2.01e-6, 2.35e-6, 2.02e-6, 2.01e-6});
    check_layers(2, 4, (double[]){6.16e-6, 2.53e-6, 1.59e-6, 1.89e-6});
}

/* ---- weights by formula ------------------------------------------------------------------ */

/* What the authors' code gave: mean, standard deviation, the first and the last values. */
typedef struct {
    int B, H, W;
    const char *key, *value; /* of the config, that differs */
    double mean, std, first[6], last[3];
} Known;

static void check_known(const Known *k)
{
    Net net;
    double sum = 0, square = 0;
    formula_net(&net, k->key, k->value);
    Inputs in = formula_inputs(net.unet, k->B, k->H, k->W);
    float *y = predict(net.unet, &in);
    const int n = k->B * 4 * 4 * k->H * k->W;
    for (int i = 0; i < n; i++)
        sum += y[i], square += (double)y[i] * y[i];
    const char *what = k->value ? k->value : "as published";
    check_near(sum / n, k->mean, 1e-6, "%s %d,%d,%d: mean", what, k->B, k->H, k->W);
    check_near(sqrt((square - sum * sum / n) / (n - 1)), k->std, 1e-6, "%s: deviation", what);
    for (int i = 0; i < 6 && k->first[i] != 0; i++)
        check_near(y[i], k->first[i], 1.5e-5, "%s %d,%d,%d: value %d", what, k->B, k->H, k->W, i);
    for (int i = 0; i < 3 && k->last[i] != 0; i++)
        check_near(y[n - 3 + i], k->last[i], 1.5e-5, "%s: value %d", what, n - 3 + i);
    free(y), inputs_free(&in), close_net(&net);
}

static void the_formula_is_the_one_of_the_known_values(void **state)
{
    (void)state;
    const uint32_t crc = crc32_of("conv_in.weight");
    check(crc == 0x8b431568, "CRC32 %08x", crc);
    const double known[3] = {-0.1472059, 0.0808919, -0.1071023};
    for (uint32_t i = 0; i < 3; i++)
        check_near(hashed(crc, i, sqrt(3.0 / 36)), known[i], 1e-7, "conv_in.weight[%u]", i);
}

static void known_sizes_and_variants_agree(void **state)
{
    (void)state;
    static const Known known[] = {
        {1,
         8,
         8,
         NULL,
         NULL,
         0.0097141,
         0.5529950,
         {0.15166, -0.20457, -0.08422, 0.51480, 0.40588, -0.32113},
         {0.13719, 0.13278, -0.40163}},
        {2,
         8,
         16,
         NULL,
         NULL,
         0.0043239,
         0.5592395,
         {0.00536, -0.55663, 0.55879, -0.01527, 0.70348, 0.53770},
         {0.20942, 0.10831, 0.26930}},
        {1,
         10,
         6,
         NULL,
         NULL,
         0.0024432,
         0.5814474,
         {-0.65779, -0.23361, -0.96938, -0.07130, -0.56552, -0.14776},
         {0.35411, 0.35190, 0.63588}},
        {1,
         8,
         8,
         "augment_temporal_attention",
         "false",
         0.0127622,
         0.5483523,
         {-0.17470, -0.09444, -0.57080, -0.00753},
         {0}},
        {1,
         8,
         8,
         "first_frame_condition_mode",
         "\"input_only\"",
         0.0104522,
         0.5525331,
         {-0.11984, -0.28293, -0.11302, 0.43056},
         {0}},
        {1,
         8,
         8,
         "temp_pos_embedding",
         "\"sinusoidal\"",
         -0.0026249,
         0.5433171,
         {0.11568, -0.31647, -0.17592, 0.21530},
         {0}},
    };
    for (int i = 0; i < COUNT(known); i++)
        check_known(&known[i]);
}

/* ---- training ---------------------------------------------------------------------------- */

static int train(Params *p, Weight *w)
{
    (void)p;
    w->trainable = true;
    w->grad = calloc((size_t)weight_count(w), sizeof *w->grad);
    return 0;
}

/* Gradients that the authors' code gives: norm of the whole, first values; of the mean square over frames 1
 * on. Ours is the mean over frame 0 too, which counts 0: its target is its own prediction. */
typedef struct {
    const char *name;
    double norm, first[3];
} Gradient;

static const Gradient gradients[] = {
    {"conv_in.weight", 0.5523745, {1.16454e-2, 2.50542e-2, -1.18085e-2}},
    {"conv_out.bias", 0.1621858, {-4.08468e-2}},
    {"down_blocks.0.tempo_attns.0.alpha", 2.13826e-2, {2.13826e-2}},
    {"down_blocks.0.conv3ds.0.alpha", 2.63420e-2, {-2.63420e-2}},
    {"down_blocks.0.tempo_attns.0.transformer_blocks.0.attn1.rotary_emb.freqs",
     1.543771e-2,
     {3.50668e-3, -4.29113e-3, 3.20604e-3}},
    {"down_blocks.0.tempo_attns.0.transformer_blocks.0.attn2.rotary_emb.freqs", 7.252150e-3, {-3.29076e-3}},
    {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.weight",
     4.994320e-2,
     {8.95388e-5, 7.07711e-4}},
    {"frame_stride_embedding.linear_2.weight", 6.772550e-2, {0}},
};
static const double SHARE = 4.0 / 5; /* of the frames */

typedef struct {
    double square;
    int known;
} Sums;

static int check_gradient(Params *p, Weight *w)
{
    Sums *sums = p->user;
    double square = 0;
    for (int64_t i = 0; i < weight_count(w); i++)
        square += (double)w->grad[i] * w->grad[i];
    check(square > 0, "%s has a gradient", w->name);
    sums->square += square;
    for (int k = 0; k < COUNT(gradients); k++) {
        const Gradient *g = &gradients[k];
        if (strcmp(g->name, w->name) != 0)
            continue;
        sums->known++;
        check_near(sqrt(square) / SHARE, g->norm, 1e-4 * g->norm, "norm of %s", g->name);
        for (int i = 0; i < 3 && g->first[i] != 0; i++)
            check_near(w->grad[i] / SHARE, g->first[i], 1e-4 * g->norm, "%s, value %d", g->name, i);
    }
    return 0;
}

/* Every frame's rows of the target: of frame 0 what is predicted. */
static float *target_rows(Unet *unet, Inputs *in)
{
    const size_t plane = (size_t)(in->H * in->W), frame = 4 * plane;
    float *target = hashed_values("input.target", 4 * (size_t)(in->F - 1) * plane, 1.5);
    Inputs aimed = inputs_of(unet, target, target, in->context, 1, in->F, in->H, in->W, in->L);
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    UnetCall call = {.unet = unet, .frames = in->F};
    const Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in->in[0], &in->in[1], &in->in[2], &in->in[3]});
    check(y != NULL, "%.400s", err.msg);
    memcpy(aimed.x, y->d, sizeof(float) * frame);
    float *rows = aimed.x;
    aimed.x = NULL;
    cx_free(&cx), inputs_free(&aimed), free(target);
    return rows;
}

static void gradients_agree(void **state)
{
    (void)state;
    Net net;
    Sums sums = {0};
    Cx cx = {0};
    formula_net(&net, NULL, NULL);
    Inputs in = formula_inputs(net.unet, 1, 8, 8);
    float *rows = target_rows(net.unet, &in);
    walk(net.unet, train, NULL);
    cx_init(&cx, cpu_chain(), 2, &err);
    cx.tape = tape_new();
    Tensor target = input(F32, 4, in.in[0].n, rows);
    UnetCall call = {.unet = net.unet, .frames = in.F};
    Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in.in[0], &in.in[1], &in.in[2], &in.in[3]});
    Tensor *loss = op_mse(&cx, y, &target);
    check(loss != NULL && !backward(&cx, loss), "%.400s", err.msg);
    check_near(*(float *)loss->d / SHARE, 1.0678906, 2e-6, "loss");
    walk(net.unet, check_gradient, &sums);
    check(sums.known == COUNT(gradients), "%d of the known gradients met", sums.known);
    check_near(sqrt(sums.square) / SHARE, 3.105838, 1e-4, "norm of all gradients");
    tape_free(cx.tape), cx_free(&cx);
    free(rows), inputs_free(&in), close_net(&net);
}

TESTS(every_kind_of_layer_agrees, every_block_agrees, clips_of_one_call_agree,
      the_formula_is_the_one_of_the_known_values, known_sizes_and_variants_agree, gradients_agree)
