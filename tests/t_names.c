/* t_names.c: the parameters that our networks declare against the published tensor lists in tests/names:
 * every name and shape, both ways, and the number of parameters. The configs are those of the published
 * folders, or the constructors' defaults where a key is left out on purpose. */
#include "model/model.h"
#include "tests/check.h"

enum { ROOM = 2048 };

typedef struct {
    char name[160], shape[64];
} Item;

typedef struct {
    Item item[ROOM];
    int n;
    int64_t parameters;
} List;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Item *)a)->name, ((const Item *)b)->name);
}

static void add(List *list, const char *name, const char *shape)
{
    check(list->n < ROOM, "more than %d tensors", ROOM);
    Item *item = &list->item[list->n++];
    snprintf(item->name, sizeof item->name, "%s", name);
    snprintf(item->shape, sizeof item->shape, "%s", shape);
}

static int collect(Params *p, Weight *w)
{
    List *list = p->user;
    char shape[64] = "";
    for (int i = 0; i < w->nd; i++) {
        const size_t at = strlen(shape);
        snprintf(&shape[at], sizeof shape - at, "%s%lld", i ? "," : "", (long long)w->n[i]);
    }
    add(list, w->name, shape);
    list->parameters += weight_count(w);
    return 0;
}

static List *declared(void (*params)(void *, Params *), void *self)
{
    List *list = calloc(1, sizeof *list);
    gimbal_error err = {0};
    Params p = {.leaf = collect, .user = list, .err = &err};
    params(self, &p);
    check(p.code == 0 && p.at == 0, "the walk ends well and where it began");
    qsort(list->item, (size_t)list->n, sizeof *list->item, by_name);
    return list;
}

/* Without those that the authors' own network never reads. */
static List *published(const char *path, const char *const *dead)
{
    List *list = calloc(1, sizeof *list);
    FILE *f = fopen(path, "r");
    char name[160], shape[64];
    check(f != NULL, "%s opens", path);
    while (fscanf(f, "%159s %63s", name, shape) == 2) {
        bool lives = true;
        for (int i = 0; dead && dead[2 * i]; i++)
            lives &= !strstr(name, dead[2 * i]) || !strstr(name, dead[2 * i + 1]);
        if (lives)
            add(list, name, shape);
    }
    fclose(f);
    qsort(list->item, (size_t)list->n, sizeof *list->item, by_name);
    return list;
}

/* dead: pairs of texts that the names have; may be NULL. */
static void check_alive(List *ours, const char *path, const char *const *dead, int64_t parameters)
{
    List *theirs = published(path, dead);
    for (int i = 0; i < ours->n || i < theirs->n; i++) {
        const char *a = i < ours->n ? ours->item[i].name : "nothing",
                   *b = i < theirs->n ? theirs->item[i].name : "nothing";
        check(!strcmp(a, b), "%s, tensor %d: declared %s, published %s", path, i, a, b);
        check(!strcmp(ours->item[i].shape, theirs->item[i].shape), "%s: %s is [%s], published [%s]", path, a,
              ours->item[i].shape, theirs->item[i].shape);
    }
    check(ours->parameters == parameters, "%s: %lld parameters, published %lld", path,
          (long long)ours->parameters, (long long)parameters);
    free(ours), free(theirs);
}

static void check_same(List *ours, const char *path, int64_t parameters)
{
    check_alive(ours, path, NULL, parameters);
}

static json_t *json(const char *text)
{
    json_error_t e;
    json_t *j = json_loads(text, 0, &e);
    check(j != NULL, "%.200s: %s", text, e.text);
    return j;
}

/* runwayml's unet/config.json, and the adapter's. */
static Unet *animatediff(Arena *keep, const char *motion)
{
    gimbal_error err = {0};
    json_t *unet = json(
        "{\"_class_name\": \"UNet2DConditionModel\", \"attention_head_dim\": 8, \"cross_attention_dim\": 768,"
        "\"block_out_channels\": [320, 640, 1280, 1280], \"sample_size\": 64, \"norm_eps\": 1e-05}");
    json_t *adapter = json(motion);
    const FolderConfigs configs = {
        .unet = unet, .motion = adapter, .unet_where = "unet", .motion_where = "motion"};
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *u = NULL;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run, &err), err);
    check(run.frames == 16 && run.width == 512 && run.height == 512, "defaults %d %d %d", run.frames,
          run.width, run.height);
    check_ok(unet_build(&u, keep, &shape, &err), err);
    json_decref(unet), json_decref(adapter);
    return u;
}

static void the_sd15_unet_has_the_published_tensors(void **state)
{
    (void)state;
    Arena keep = {0};
    check_same(declared(unet_params, animatediff(&keep, "{}")), "tests/names/sd15_unet2d.tsv", 859520964);
    arena_free(&keep);
}

static void the_motion_adapter_v2_has_the_published_tensors(void **state)
{
    (void)state;
    Arena keep = {0};
    check_same(declared(unet_motion_params, animatediff(&keep, "{}")), "tests/names/adapter_v1-5-2.tsv",
               453813440);
    arena_free(&keep);
}

static void the_motion_adapter_v3_has_no_mid_module(void **state)
{
    (void)state;
    Arena keep = {0};
    check_same(declared(unet_motion_params, animatediff(&keep, "{\"use_motion_mid_block\": false}")),
               "tests/names/adapter_v1-5-3.tsv", 417700800);
    arena_free(&keep);
}

/* damo-vilab's unet/config.json. */
static void the_modelscope_unet_has_the_published_tensors(void **state)
{
    (void)state;
    Arena keep = {0};
    gimbal_error err = {0};
    json_t *unet = json(
        "{\"_class_name\": \"UNet3DConditionModel\", \"act_fn\": \"silu\", \"attention_head_dim\": 64,"
        "\"block_out_channels\": [320, 640, 1280, 1280], \"cross_attention_dim\": 1024, "
        "\"layers_per_block\": 2,"
        "\"down_block_types\": [\"CrossAttnDownBlock3D\", \"CrossAttnDownBlock3D\", \"CrossAttnDownBlock3D\","
        "\"DownBlock3D\"], \"up_block_types\": [\"UpBlock3D\", \"CrossAttnUpBlock3D\", "
        "\"CrossAttnUpBlock3D\","
        "\"CrossAttnUpBlock3D\"], \"downsample_padding\": 1, \"in_channels\": 4, \"mid_block_scale_factor\": "
        "1,"
        "\"norm_eps\": 1e-05, \"norm_num_groups\": 32, \"out_channels\": 4, \"sample_size\": 32}");
    const FolderConfigs configs = {.unet = unet, .unet_where = "unet"};
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *u = NULL;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run, &err), err);
    check(run.frames == 16 && run.width == 256 && run.height == 256 && run.steps == 50 && run.fps == 8,
          "defaults of the pipeline");
    check_near(run.cfg, 9, 0, "guidance of the pipeline");
    check_ok(unet_build(&u, &keep, &shape, &err), err);
    List *motion = declared(unet_motion_params, u);
    check(motion->n == 0, "nothing of it lies in a motion adapter");
    check_same(declared(unet_params, u), "tests/names/unet3d.tsv", 1411233860);
    free(motion), json_decref(unet), arena_free(&keep);
}

/* The published unet/config.json, without the keys of which one value is implemented. */
static void the_consisti2v_unet_has_the_published_tensors(void **state)
{
    (void)state;
    static const char *const dead[] = {".conv3ds.", ".time_emb_proj.", ".tempo_attns.", ".rotary_bias.",
                                       NULL};
    Arena keep = {0};
    gimbal_error err = {0};
    json_t *unet =
        json("{\"_class_name\": \"VideoLDMUNet3DConditionModel\", \"attention_head_dim\": [5, 10, 20, "
             "20], \"cross_attention_dim\": 1024, \"use_linear_projection\": true, \"n_frames\": 16,"
             "\"first_frame_condition_mode\": \"concat\", \"augment_temporal_attention\": true,"
             "\"temp_pos_embedding\": \"rotary\", \"use_frame_stride_condition\": true}");
    const FolderConfigs configs = {.unet = unet, .unet_where = "unet"};
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *u = NULL;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run, &err), err);
    check(run.frames == 16 && run.width == 256 && run.height == 256 && run.steps == 50 &&
              run.frame_stride == 3,
          "defaults of the published settings");
    check_ok(unet_build(&u, &keep, &shape, &err), err);
    check_alive(declared(unet_params, u), "tests/names/consisti2v_unet.tsv", dead,
                1249975241 - 10342080 - 7680);
    json_decref(unet), arena_free(&keep);
}

static void the_vae_declares_decoder_and_encoder(void **state)
{
    (void)state;
    Arena keep = {0};
    gimbal_error err = {0};
    Vae *vae = NULL;
    json_t *config =
        json("{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [128, 256, 512, 512], "
             "\"layers_per_block\": 2,"
             "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\", "
             "\"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\", "
             "\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}");
    check_ok(vae_build(&vae, &keep, config, "vae", &err), err);
    check(vae_factor(vae) == 8 && vae_channels(vae) == 4, "factor and channels");
    check_near(vae_scaling(vae), 0.18215, 0, "scaling factor");
    check_same(declared(vae_params, vae), "tests/names/vae.tsv", 83653863);
    json_decref(config), arena_free(&keep);
}

static void the_text_encoder_has_the_published_tensors(void **state)
{
    (void)state;
    Arena keep = {0};
    gimbal_error err = {0};
    ClipText *clip = NULL;
    json_t *config =
        json("{\"hidden_size\": 1024, \"intermediate_size\": 4096, \"num_hidden_layers\": 23,"
             "\"num_attention_heads\": 16, \"hidden_act\": \"gelu\", \"model_type\": \"clip_text_model\"}");
    check_ok(clip_build(&clip, &keep, config, "text", &err), err);
    check(clip_width(clip) == 1024 && clip_positions(clip) == 77 && clip_vocab(clip) == 49408, "its numbers");
    check_same(declared(clip_params, clip), "tests/names/text.tsv", 340387840);
    json_decref(config), arena_free(&keep);
}

static void a_position_table_is_the_published_sinusoid(void **state)
{
    (void)state;
    Arena keep = {0};
    gimbal_error err = {0};
    Transformer t;
    check_ok(transformer_init(&t, &keep, 320, 320, 8, 0, 32, 1, true, true, 32, &err), err);
    const float *pe = t.table->own;
    const double first[4] = {0.8414710, 0.5403023, 0.8099465, 0.5865038};
    for (int c = 0; c < 4; c++)
        check_near(pe[320 + c], first[c], 1e-6, "pe[1,%d]", c);
    check_near(pe[31 * 320], -0.4040376, 1e-6, "pe[31,0]");
    check_near(pe[31 * 320 + 318], 0.0032837, 1e-6, "pe[31,318]");
    check_near(pe[31 * 320 + 319], 0.9999946, 1e-6, "pe[31,319]");
    arena_free(&keep);
}

static void timestep_features_are_cosines_then_sines(void **state)
{
    (void)state;
    float x[320];
    const struct {
        int at;
        double value;
    } known[] = {{0, 0.6799572},   {1, -0.7984300},  {2, 0.5780882},   {159, 0.9946059},
                 {160, 0.7332518}, {161, 0.6020876}, {162, 0.8159743}, {319, 0.1037259}};
    timestep_features(981, 320, x);
    for (int i = 0; i < COUNT(known);
         i++) /* the published values were computed in float32: angles are off by 6e-5 */
        check_near(x[known[i].at], known[i].value, 2e-5, "feature %d of t = 981", known[i].at);
}

TESTS(the_sd15_unet_has_the_published_tensors, the_motion_adapter_v2_has_the_published_tensors,
      the_motion_adapter_v3_has_no_mid_module, the_modelscope_unet_has_the_published_tensors,
      the_consisti2v_unet_has_the_published_tensors, the_vae_declares_decoder_and_encoder,
      the_text_encoder_has_the_published_tensors, a_position_table_is_the_published_sinusoid,
      timestep_features_are_cosines_then_sines)
