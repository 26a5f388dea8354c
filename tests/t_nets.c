/* t_nets.c: the metrics' networks against PyTorch, and folders of weights that fit, nearly fit and do not
 * fit.
 *
 * Goldens: tests/oracle/metric_nets.py (transformers' ViTModel and CLIPModel, torchvision's RAFT; DINO's own
 * code and I3D written out there). Weights are random and small, in the published spellings. */
#include "tests/metric_nets.h"

#define WANT "tests/golden/metric/nets_want.safetensors"

/* Relative rms of `got` against a golden. */
static void check_golden(const char *name, const float *got, double tolerance)
{
    size_t n;
    float *want = golden(WANT, name, &n);
    check_near(rel_rms(got, want, n), 0, tolerance, "relative rms of %s", name);
    free(want);
}

static void check_features(Nets *n, NetKind kind, int count, int w, int h, const char *name)
{
    float *x = formula_pictures(count, w, h), *y = malloc(sizeof *y * FEATURE_MAX * (size_t)count);
    check_ok(nets_features(n, kind, x, count, w, h, y, &err), err);
    check_golden(name, y, 1e-5);
    free(x), free(y);
}

/* ---- parity ------------------------------------------------------------------------------ */

static void dino_is_the_original_on_square_and_other_pictures(void **state)
{
    (void)state;
    Nets *n = opened_nets(METRIC_NETS, 1u << NET_DINO_S, false);
    assert_int_equal(nets_width(n, NET_DINO_S), 64);
    check_features(n, NET_DINO_S, 3, 32, 32, "dino.native");
    check_features(n, NET_DINO_S, 2, 39, 32, "dino.odd");
    check_features(n, NET_DINO_S, 2, 85, 43, "dino.wide");
    check_features(n, NET_DINO_S, 3, 32, 32, "dino.native");
    nets_close(n);
}

static void transformers_vit_with_a_prefix_and_heads_of_the_config(void **state)
{
    (void)state;
    Nets *n = opened_nets(METRIC_NETS, 1u << NET_DINO_B, false);
    check_features(n, NET_DINO_B, 3, 32, 32, "vit.native");
    nets_close(n);
}

static void clip_sees_and_reads_as_transformers(void **state)
{
    (void)state;
    Nets *n = opened_nets(in_scratch("nets"), 1u << NET_CLIP, true);
    check_features(n, NET_CLIP, 2, 224, 224, "clip.pictures");
    float text[FEATURE_MAX], other[FEATURE_MAX];
    /* the tokens of the golden, past the tokenizer */
    int32_t ids[77];
    for (int i = 0; i < 77; i++)
        ids[i] = 656;
    memcpy(ids, (const int32_t[]){655, 300, 12, 77, 656}, 5 * sizeof *ids);
    Tensor *in = tensor_input(&n->cx, I32, 1, (int64_t[]){77}, ids),
           *h = clip_forward(&n->cx, n->text.clip, &in);
    const Tensor *y = op_linear(&n->cx, h, &n->text.projection[0], (Epi){.bias = NULL});
    check(y != NULL, "%.400s", n->err.msg);
    check_golden("clip.text", (const float *)y->d + 4 * 24, 1e-5);
    check_ok(nets_text(n, "a red ball rolls", text, &err), err);
    check_ok(nets_text(n, "a blue ball rolls", other, &err), err);
    check(rel_rms(text, other, 24) > 1e-3, "two prompts have two features");
    check_fails(nets_text(n, "\xff", text, &err), GIMBAL_EUSAGE, err, "UTF-8");
    nets_close(n);
}

static void raft_is_torchvisions(void **state)
{
    (void)state;
    Nets *n = opened_nets(METRIC_NETS, 1u << NET_RAFT, false);
    const int w = 144, h = 128, step = 5;
    uint8_t *a = formula_picture(0, w, h), *b = formula_picture(3, w, h);
    float *flow = malloc(sizeof *flow * 2 * (size_t)w * (size_t)h),
          *few = malloc(sizeof *few * 2 * (size_t)w * (size_t)h), *to = few;
    check_ok(nets_flow(n, a, b, w, h, flow, &err), err);
    for (int y = 0; y < h; y += step)
        for (int x = 0; x < w; x += step, to += 2)
            memcpy(to, flow + 2 * (y * w + x), 2 * sizeof *to);
    check_golden("raft.flow", few, 1e-4);
    free(a), free(b), free(flow), free(few);
    nets_close(n);
}

static void i3d_is_the_port_with_the_eps_of_its_file(void **state)
{
    (void)state;
    enum { FRAMES = 11 };
    const size_t each = 3 * I3D_SIDE * I3D_SIDE;
    uint8_t *rgb = malloc(FRAMES * each);
    float logits[I3D_CLASSES];
    for (int f = 0; f < FRAMES; f++) {
        uint8_t *one = formula_picture(f, I3D_SIDE, I3D_SIDE);
        memcpy(rgb + (size_t)f * each, one, each);
        free(one);
    }
    check_ok(gimbal_measure_logits(METRIC_NETS, rgb, FRAMES, I3D_SIDE, I3D_SIDE, logits, &err), err);
    check_golden("i3d.logits", logits, 1e-5);
    check_fails(gimbal_measure_logits(METRIC_NETS, rgb, 8, I3D_SIDE, I3D_SIDE, logits, &err), GIMBAL_EUSAGE,
                err, "9");
    free(rgb);
}

/* ---- what does not depend on ... --------------------------------------------------------- */

static void a_batch_is_its_pictures_and_threads_change_no_byte(void **state)
{
    (void)state;
    Nets *n;
    float *x = formula_pictures(NET_BATCH, 48, 32), first[NET_BATCH * 64], one[64];
    for (int threads = 1; threads <= 3; threads++) {
        float y[NET_BATCH * 64];
        check_ok(nets_open(&n, METRIC_NETS, 1u << NET_DINO_S, false, threads, &err), err);
        check_ok(nets_features(n, NET_DINO_S, x, NET_BATCH, 48, 32, y, &err), err);
        if (threads == 1)
            memcpy(first, y, sizeof y);
        check(!memcmp(first, y, sizeof y), "%d threads", threads);
        check_ok(nets_features(n, NET_DINO_S, x + 5 * 3 * 48 * 32, 1, 48, 32, one, &err), err);
        check_near(rel_rms(one, first + 5 * 64, 64), 0, 1e-6, "picture 5 alone");
        nets_close(n);
    }
    free(x);
}

/* torchvision's names to the original's, in this order. */
static const Rename original[] = {
    {"feature_encoder.convnormrelu.0", "module.fnet.conv1"},
    {"context_encoder.convnormrelu.0", "module.cnet.conv1"},
    {"context_encoder.convnormrelu.1", "module.cnet.norm1"},
    {"feature_encoder.conv.", "module.fnet.conv2."},
    {"context_encoder.conv.", "module.cnet.conv2."},
    {"feature_encoder.", "module.fnet."},
    {"context_encoder.", "module.cnet."},
    {"convnormrelu1.0", "conv1"},
    {"convnormrelu1.1", "norm1"},
    {"convnormrelu2.0", "conv2"},
    {"convnormrelu2.1", "norm2"},
    {"mask_predictor.convrelu.0", "module.update_block.mask.0"},
    {"mask_predictor.conv.", "module.update_block.mask.2."},
    {"update_block.motion_encoder.convcorr1.0", "module.update_block.encoder.convc1"},
    {"update_block.motion_encoder.convcorr2.0", "module.update_block.encoder.convc2"},
    {"update_block.motion_encoder.convflow1.0", "module.update_block.encoder.convf1"},
    {"update_block.motion_encoder.convflow2.0", "module.update_block.encoder.convf2"},
    {"update_block.motion_encoder.conv.0", "module.update_block.encoder.conv"},
    {"update_block.recurrent_block.convgru1.convz", "module.update_block.gru.convz1"},
    {"update_block.recurrent_block.convgru1.convr", "module.update_block.gru.convr1"},
    {"update_block.recurrent_block.convgru1.convq", "module.update_block.gru.convq1"},
    {"update_block.recurrent_block.convgru2.convz", "module.update_block.gru.convz2"},
    {"update_block.recurrent_block.convgru2.convr", "module.update_block.gru.convr2"},
    {"update_block.recurrent_block.convgru2.convq", "module.update_block.gru.convq2"},
    {"update_block.flow_head", "module.update_block.flow_head"},
    {NULL, NULL}};

/* The tiny RAFT in its original spelling, in SCRATCH/original. */
static void write_original(void)
{
    SafeTensors *st;
    check_ok(st_open(&st, METRIC_NETS "/raft.safetensors", &err), err);
    const int count = st_count(st);
    gimbal_tensor *items = calloc((size_t)count, sizeof *items);
    char(*names)[160] = calloc((size_t)count, sizeof *names);
    for (int i = 0; i < count; i++) {
        const StEntry *e = st_entry(st, i);
        snprintf(names[i], sizeof names[i], "%s", e->name);
        for (const Rename *r = original; r->from; r++) {
            char *at = strstr(names[i], r->from), rest[160];
            if (!at || (at > names[i] && !strncmp(names[i], "module.update", 13)))
                continue;
            snprintf(rest, sizeof rest, "%s", at + strlen(r->from));
            snprintf(at, sizeof names[i] - (size_t)(at - names[i]), "%s%s", r->to, rest);
        }
        items[i] = (gimbal_tensor){.name = names[i], .type = e->spelling, .nd = e->nd, .data = e->data};
        memcpy(items[i].n, e->n, sizeof items[i].n);
    }
    shell("mkdir %s/original", scratch);
    check_ok(gimbal_tensors_write(in_scratch("original/raft-things.safetensors"), items, count, NULL, &err),
             err);
    st_close(st);
    free(items), free(names);
}

/* Both spellings of the same weights give the same bytes. */
static void raft_in_its_original_spelling(void **state)
{
    (void)state;
    write_original();
    const int w = 130, h = 133; /* padded */
    uint8_t *a = formula_picture(0, w, h), *b = formula_picture(1, w, h);
    const size_t size = 2 * sizeof(float) * (size_t)nets_padded(w) * (size_t)nets_padded(h);
    float *flow[2] = {malloc(size), malloc(size)};
    for (int k = 0; k < 2; k++) {
        Nets *n = opened_nets(k ? in_scratch("original") : METRIC_NETS, 1u << NET_RAFT, false);
        check_ok(nets_flow(n, a, b, w, h, flow[k], &err), err);
        nets_close(n);
    }
    check(!memcmp(flow[0], flow[1], size), "both spellings");
    free(a), free(b), free(flow[0]), free(flow[1]);
}

/* ---- folders ----------------------------------------------------------------------------- */

static void check_missing(const char *path, NetKind kind, const char *text)
{
    Nets *n;
    check_fails(nets_open(&n, path, 1u << kind, false, 1, &err), GIMBAL_EMODEL, err, text);
    assert_null(n);
}

static void a_network_that_is_not_there_is_named_with_its_origin(void **state)
{
    (void)state;
    check_missing(NULL, NET_DINO_S, "--weights");
    shell("mkdir %s/empty", scratch);
    check_missing(in_scratch("empty"), NET_DINO_B, "dino_vitbase16_pretrain.pth");
    check_missing(in_scratch("empty"), NET_CLIP, "openai/clip-vit-base-patch32");
    check_missing(in_scratch("empty"), NET_RAFT, "fcfa4125d6418f4d");
    check_missing(in_scratch("empty"), NET_I3D, "i3d_pretrained_400");
    shell("echo x > %s/empty/raft-things.pth", scratch);
    check_missing(in_scratch("empty"), NET_RAFT, "raft-things.pth is a PyTorch pickle");
    check_missing(in_scratch("empty"), NET_RAFT, "save_file");
    Nets *n;
    check_fails(nets_open(&n, in_scratch("none"), 1u << NET_RAFT, false, 1, &err), GIMBAL_EIO, err, "none");
}

static void damaged_and_foreign_files_are_named(void **state)
{
    (void)state;
    shell("mkdir %s/cut && head -c 9000 %s/nets/raft.safetensors > %s/cut/raft.safetensors", scratch, scratch,
          scratch);
    check_missing(in_scratch("cut"), NET_RAFT, "cut/raft.safetensors");
    /* without the metadata that names it, the width of 64 is no ViT-S/16 */
    SafeTensors *st;
    check_ok(st_open(&st, METRIC_NETS "/dino-vits16.safetensors", &err), err);
    gimbal_tensor items[64];
    const int count = st_count(st);
    for (int i = 0; i < count; i++) {
        const StEntry *e = st_entry(st, i);
        items[i] = (gimbal_tensor){.name = e->name, .type = e->spelling, .nd = e->nd, .data = e->data};
        memcpy(items[i].n, e->n, sizeof items[i].n);
    }
    shell("mkdir %s/size %s/shape", scratch, scratch);
    check_ok(gimbal_tensors_write(in_scratch("size/a.safetensors"), items, count, NULL, &err), err);
    check_missing(in_scratch("size"), NET_DINO_S, "size/a.safetensors is one of another size");
    /* a matrix of another shape */
    const char *const named[] = {"network", "dino-vits16", NULL};
    int changed = 0;
    for (int i = 0; i < count; i++)
        if (!strcmp(items[i].name, "blocks.1.mlp.fc2.weight")) {
            const int64_t n = items[i].n[0];
            items[i].n[0] = items[i].n[1], items[i].n[1] = n, changed++;
        }
    assert_int_equal(changed, 1);
    check_ok(gimbal_tensors_write(in_scratch("shape/a.safetensors"), items, count, named, &err), err);
    check_missing(in_scratch("shape"), NET_DINO_S, "blocks.1.mlp.fc2.weight");
    /* a tensor less */
    for (int i = 0; i < count; i++)
        memcpy(items[i].n, st_entry(st, i)->n, sizeof items[i].n);
    check_ok(gimbal_tensors_write(in_scratch("shape/a.safetensors"), items + 1, count - 1, named, &err), err);
    check_missing(in_scratch("shape"), NET_DINO_S, items[0].name);
    st_close(st);
}

static void configs_beside_the_weights_are_believed_when_they_fit(void **state)
{
    (void)state;
    Nets *n;
    shell("echo '{\"hidden_size\": 32, \"num_attention_heads\": 5}' > %s/nets/dino-vitb16/config.json",
          scratch);
    check_missing(in_scratch("nets"), NET_DINO_B, "5 heads");
    shell("echo '{\"hidden_size\": 31, \"num_attention_heads\": 5}' > %s/nets/dino-vitb16/config.json",
          scratch);
    check_missing(in_scratch("nets"), NET_DINO_B, "heads are taken to be 64 wide");
    shell("rm %s/nets/clip/vocab.json", scratch);
    check_fails(nets_open(&n, in_scratch("nets"), 1u << NET_CLIP, true, 1, &err), GIMBAL_EIO, err,
                "vocab.json");
}

static void the_hash_is_the_files(void **state)
{
    (void)state;
    Nets *n = opened_nets(METRIC_NETS, 1u << NET_RAFT, false);
    const char *sha = nets_sha256(n, NET_RAFT, &err);
    check(sha != NULL, "%.400s", err.msg);
    shell("echo '%s  " METRIC_NETS "/raft.safetensors' | sha256sum --check --status", sha);
    assert_ptr_equal(sha, nets_sha256(n, NET_RAFT, &err));
    nets_close(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dino_is_the_original_on_square_and_other_pictures),
        cmocka_unit_test(transformers_vit_with_a_prefix_and_heads_of_the_config),
        WITH_NETS(clip_sees_and_reads_as_transformers),
        cmocka_unit_test(raft_is_torchvisions),
        cmocka_unit_test(i3d_is_the_port_with_the_eps_of_its_file),
        cmocka_unit_test(a_batch_is_its_pictures_and_threads_change_no_byte),
        WITH_NETS(raft_in_its_original_spelling),
        WITH_NETS(a_network_that_is_not_there_is_named_with_its_origin),
        WITH_NETS(damaged_and_foreign_files_are_named),
        WITH_NETS(configs_beside_the_weights_are_believed_when_they_fit),
        cmocka_unit_test(the_hash_is_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
