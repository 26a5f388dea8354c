/* t_bind.c: a small network's parameters meet files that fit, nearly fit, and do not fit. */
#include "tests/io_files.h"

/* A convolution 2 -> 3 with 3x3 taps, a linear 4 -> 2, a table that a file may leave out. */
typedef struct {
    Weight conv[2], proj[2], pe;
} Net;

static void net_params(void *self, Params *p)
{
    Net *net = self;
    pv_in(p, "block.%d", 0);
    pv_conv(p, "conv", net->conv, 2, 3, 3);
    pv_linear(p, "to_q", net->proj, 4, 2, true);
    pv_out(p);
    pv_leaf(p, "pe", &net->pe, W_TABLE, 2, (const int64_t[]){5, 4});
}

static void twice_params(void *self, Params *p)
{
    Net *net = self;
    pv_conv(p, "conv", net->conv, 2, 3, 3);
    pv_conv(p, "conv", net->proj, 2, 3, 3);
}

static const float data[64];
static const gimbal_tensor fits[] = {{"block.0.conv.weight", "F32", 4, {3, 2, 3, 3}, data},
                                     {"block.0.conv.bias", "F16", 1, {3}, data},
                                     {"block.0.to_q.weight", "BF16", 2, {2, 4}, data},
                                     {"block.0.to_q.bias", "F32", 1, {2}, data}};

/* Binds the four tensors with fits[at] replaced by `other` (at < 0: none), and `more` added unless NULL. */
static int bind(Net *net, int at, const gimbal_tensor *other, const gimbal_tensor *more,
                const char *const *ignore, const char *prefix, gimbal_error *err)
{
    gimbal_tensor items[5];
    WeightSet *set;
    memcpy(items, fits, sizeof fits);
    if (at >= 0)
        items[at] = *other;
    if (more)
        items[4] = *more;
    memset(net, 0, sizeof *net);
    check_ok(st_write(in_folder("w.safetensors"), items, more ? 5 : 4, NULL, err), *err);
    check_ok(weights_open(&set, in_folder("w.safetensors"), err), *err);
    const int code = bind_weights(set, prefix, net_params, net, ignore, old_diffusers_names, err);
    check(code || (net->conv[0].type == F32 && net->proj[0].type == BF16 &&
                   net->conv[1].file == weights_find(set, "block.0.conv.bias")->data),
          "weights point into the file");
    weights_close(set);
    return code;
}

static void parameters_point_at_the_file_s_bytes(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Net net;
    check_ok(bind(&net, -1, NULL, NULL, NULL, "", &err), err);
    check(weight_given(&net.conv[0]) && !weight_given(&net.pe), "a table may be absent");
    check_ok(bind(&net, -1, NULL, &(gimbal_tensor){"pe", "F32", 2, {5, 4}, data}, NULL, "", &err), err);
    check(weight_given(&net.pe), "and is bound when present");
}

static void old_spellings_and_one_by_one_shapes_fit(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Net net;
    check_ok(bind(&net, 2, &(gimbal_tensor){"block.0.query.weight", "BF16", 2, {2, 4}, data}, NULL, NULL, "",
                  &err),
             err);
    check_ok(bind(&net, 2, &(gimbal_tensor){"block.0.query.weight", "BF16", 4, {2, 4, 1, 1}, data}, NULL,
                  NULL, "", &err),
             err);
    check_ok(bind(&net, 2, &(gimbal_tensor){"block.0.to_q.weight", "BF16", 3, {2, 4, 1}, data}, NULL, NULL,
                  "", &err),
             err);
    check_fails(bind(&net, 2, &(gimbal_tensor){"block.0.to_q.weight", "BF16", 4, {4, 2, 1, 1}, data}, NULL,
                     NULL, "", &err),
                GIMBAL_EMODEL, err, "tensor \"block.0.to_q.weight\" is [4,2,1,1], expected [2,4]");
    check_fails(bind(&net, -1, NULL, &(gimbal_tensor){"block.0.query.weight", "BF16", 2, {2, 4}, data}, NULL,
                     "", &err),
                GIMBAL_EMODEL, err, "1 unknown (\"block.0.query.weight\")");
}

static void wrong_shapes_and_types_are_named(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Net net;
    check_fails(bind(&net, 0, &(gimbal_tensor){"block.0.conv.weight", "F32", 4, {3, 4, 1, 1}, data}, NULL,
                     NULL, "", &err),
                GIMBAL_EMODEL, err,
                "w.safetensors: tensor \"block.0.conv.weight\" is [3,4,1,1], expected [3,2,3,3]");
    check_fails(
        bind(&net, 1, &(gimbal_tensor){"block.0.conv.bias", "F32", 0, {0}, data}, NULL, NULL, "", &err),
        GIMBAL_EMODEL, err, "is [], expected [3]");
    check_fails(
        bind(&net, 1, &(gimbal_tensor){"block.0.conv.bias", "I64", 1, {3}, data}, NULL, NULL, "", &err),
        GIMBAL_EMODEL, err, "is I64; parameters are read as F32, F16 or BF16");
    check_fails(
        bind(&net, 1, &(gimbal_tensor){"block.0.conv.bias", "F8_E4M3", 1, {3}, data}, NULL, NULL, "", &err),
        GIMBAL_EMODEL, err, "is F8_E4M3");
}

static void missing_and_surplus_tensors_are_listed(void **state)
{
    (void)state;
    static const char *const ignore[] = {"position_ids", "*.lora_*.alpha", NULL};
    gimbal_error err = {0};
    Net net;
    check_fails(bind(&net, 3, &(gimbal_tensor){"extra", "F32", 1, {2}, data}, NULL, NULL, "", &err),
                GIMBAL_EMODEL, err, "1 missing (\"block.0.to_q.bias\"), 1 unknown (\"extra\")");
    check_fails(bind(&net, -1, NULL, NULL, NULL, "text_model.", &err), GIMBAL_EMODEL, err,
                "4 missing (\"block.0.conv.weight\", \"block.0.conv.bias\", \"block.0.to_q.weight\", ...), 4 "
                "unknown");
    check_ok(bind(&net, -1, NULL, &(gimbal_tensor){"position_ids", "I64", 2, {1, 3}, data}, ignore, "", &err),
             err);
    check_ok(
        bind(&net, -1, NULL, &(gimbal_tensor){"a.b.lora_x.y.alpha", "U8", 0, {0}, data}, ignore, "", &err),
        err);
    check_fails(
        bind(&net, -1, NULL, &(gimbal_tensor){"x.position_ids", "I64", 2, {1, 3}, data}, ignore, "", &err),
        GIMBAL_EMODEL, err, "1 unknown (\"x.position_ids\")");
    check_fails(
        bind(&net, -1, NULL, &(gimbal_tensor){"a.lora_x.alpha.b", "U8", 0, {0}, data}, ignore, "", &err),
        GIMBAL_EMODEL, err, "looks like a LoRA");
}

static void one_tensor_cannot_serve_two_parameters(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Net net = {0};
    WeightSet *set;
    const gimbal_tensor items[] = {{"conv.weight", "F32", 4, {3, 2, 3, 3}, data},
                                   {"conv.bias", "F32", 1, {3}, data}};
    check_ok(st_write(in_folder("w"), items, 2, NULL, &err), err);
    check_ok(weights_open(&set, in_folder("w"), &err), err);
    check_fails(bind_weights(set, "", twice_params, &net, NULL, NULL, &err), GIMBAL_EMODEL, err,
                "wanted by two parameters");
    weights_close(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(parameters_point_at_the_file_s_bytes),   IN_FOLDER(old_spellings_and_one_by_one_shapes_fit),
        IN_FOLDER(wrong_shapes_and_types_are_named),       IN_FOLDER(missing_and_surplus_tensors_are_listed),
        IN_FOLDER(one_tensor_cannot_serve_two_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
