/* t_bench.c: random models of published shape, and what gimbal_bench says of a model.
 *
 * Whole models are only counted here; what is written has the shape of published ones and a thousandth of
 * their size. */
#include "diffusion/bench.h"
#include "tests/io_files.h"

#define JSON(...) #__VA_ARGS__
#undef true
#undef false

// clang-format off
static const BenchModel small = {
    "small", "", "animatediff", JSON({"_class_name": "AnimateDiffPipeline"}),
    JSON({"_class_name": "UNet2DConditionModel", "attention_head_dim": 2, "block_out_channels": [32, 48],
          "cross_attention_dim": 24, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
          "in_channels": 4, "layers_per_block": 1, "norm_num_groups": 8, "out_channels": 4, "sample_size": 8,
          "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}),
    JSON({"_class_name": "MotionAdapter", "block_out_channels": [32, 48], "motion_layers_per_block": 1,
          "motion_max_seq_length": 12, "motion_num_attention_heads": 2, "use_motion_mid_block": true}),
    JSON({"_class_name": "AutoencoderKL", "block_out_channels": [8, 16],
          "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "latent_channels": 4,
          "layers_per_block": 1, "norm_num_groups": 4,
          "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}),
    JSON({"hidden_act": "quick_gelu", "hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 77,
          "model_type": "clip_text_model", "num_attention_heads": 3, "num_hidden_layers": 2, "vocab_size": 49408}),
    JSON({"_class_name": "DDIMScheduler", "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012,
          "steps_offset": 1, "clip_sample": false}),
    "<|endoftext|>"};
// clang-format on

static const BenchProgress silent;

static int cancel_late(void *user, double done)
{
    *(double *)user = done;
    return done > 0.5;
}

/* ---- random models ----------------------------------------------------------------------- */

static void published_models_have_the_published_number_of_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        PartKind part;
        BenchCount want;
    } facts[] = {
        {"animatediff-sd15", PART_UNET, {686, 859520964}},
        {"animatediff-sd15", PART_MOTION, {567, 453813440}},
        {"animatediff-sd15-v3", PART_MOTION, {540, 417700800}},
        {"consisti2v", PART_UNET, {1323, 1239625481}},
        {"animatediff-sd15", PART_VAE, {248, 83653863}},
        {"animatediff-sd15", PART_TEXT, {196, 123060480}},
        {"modelscope", PART_UNET, {1480, 1411233860}},
        {"modelscope", PART_TEXT, {372, 340387840}},
        {"modelscope", PART_MOTION, {0, 0}},
        {"sd21", PART_UNET, {686, 865910724}},
    };
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(facts); i++) {
        const BenchModel *m;
        BenchCount got;
        check_ok(bench_model_find(&m, facts[i].name, &err), err);
        check_ok(bench_model_count(m, facts[i].part, &got, &err), err);
        check(got.tensors == facts[i].want.tensors && got.values == facts[i].want.values,
              "%s, %s: %d tensors, %lld values", facts[i].name, part_name(facts[i].part), got.tensors,
              (long long)got.values);
    }
    const BenchModel *m;
    check_fails(bench_model_find(&m, "modelscoop", &err), GIMBAL_EUSAGE, err, "did you mean 'modelscope'");
    for (int i = 0; (m = bench_model_at(i)); i++)
        check(m->help && *m->help, "%s has no help", m->name);
}

static void values_are_a_function_of_seed_name_and_index(void **state)
{
    (void)state;
    Weight w = {.name = "a.weight", .kind = W_LINEAR, .nd = 2, .n = {40, 25}}, other = w;
    float x[1000], part[13], y[1000];
    bench_draw(&w, 7, 0, 1000, x);
    for (int from = 0; from + 13 <= 1000; from += 13) {
        bench_draw(&w, 7, from, 13, part);
        check(!memcmp(part, x + from, sizeof part), "values from %d", from);
    }
    bench_draw(&w, 8, 0, 1000, y);
    check(rel_rms(y, x, 1000) > 1, "another seed");
    strcpy(other.name, "b.weight");
    bench_draw(&other, 7, 0, 1000, y);
    check(rel_rms(y, x, 1000) > 1, "another name");
}

/* Mean and deviation over many values; bounds are about five standard errors. */
static void values_have_the_deviation_that_their_kind_wants(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static const struct {
        WeightKind kind;
        int nd;
        int64_t n[4];
        double mean, deviation;
    } kinds[] = {
        {W_CONV, 4, {64, 100, 3, 3}, 0, 1 / 30.0},
        {W_LINEAR, 2, {256, 256}, 0, 1 / 16.0},
        {W_NORM_SCALE, 1, {N}, 1, 0},
        {W_NORM_SHIFT, 1, {N}, 0, 0.02},
        {W_BIAS, 1, {N}, 0, 0.02},
        {W_EMBEDDING, 2, {1024, 64}, 0, 1},
        {W_BLEND, 1, {N}, 0.5, 0},
    };
    float *x = malloc(N * sizeof *x);
    for (int i = 0; i < COUNT(kinds); i++) {
        Weight w = {.name = "w", .kind = kinds[i].kind, .nd = kinds[i].nd};
        memcpy(w.n, kinds[i].n, sizeof kinds[i].n);
        bench_draw(&w, 1, 0, N, x);
        double sum = 0, squares = 0;
        for (int k = 0; k < N; k++)
            sum += x[k], squares += ((double)x[k] - kinds[i].mean) * ((double)x[k] - kinds[i].mean);
        const double d = kinds[i].deviation;
        check(fabs(sum / N - kinds[i].mean) <= 5 * d / 256, "kind %d: mean %g", i, sum / N);
        check(fabs(sqrt(squares / N) - d) <= 0.02 * d, "kind %d: deviation %g", i, sqrt(squares / N));
    }
    free(x);
}

static void a_model_is_a_folder_that_opens_and_runs(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_engine *e;
    const char *at = in_folder("model");
    check_ok(bench_model_write(&small, F16, 3, at, silent, &err), err);
    check_ok(gimbal_open(&e, at, NULL, &err), err);
    assert_string_equal(gimbal_family(e), "animatediff");
    int32_t ids[77];
    int dropped;
    check_ok(gimbal_tokenize(e, "a cat", ids, &dropped, &err), err);
    const int32_t want[] = {49406, 320, 66, 64, 339, 49407}; /* a</w> c a t</w> of CLIP's vocabulary */
    check(!memcmp(ids, want, sizeof want) && !dropped && ids[76] == 49407, "ids %d %d %d %d", ids[1], ids[2],
          ids[3], ids[4]);
    gimbal_settings s;
    gimbal_session *run;
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.frames = 3, s.width = 24, s.height = 40, s.steps = 2;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    const gimbal_shape z = gimbal_latent_shape(run);
    const size_t n = (size_t)z.c * z.f * z.h * z.w;
    float *x = malloc(n * sizeof *x);
    check_ok(gimbal_sample(run, x, &err), err);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    check(sum / n > 0.01 && sum / n < 100, "mean square %g", sum / n);
    free(x);
    gimbal_end(run);
    gimbal_close(e);
}

/* The bytes of a part's weights; caller frees. */
static char *weights_of(const char *model, const char *part, size_t *size)
{
    char path[300];
    char *bytes;
    gimbal_error err = {0};
    snprintf(path, sizeof path, "%s/%s", model, part);
    check_ok(read_file(&bytes, size, path, 64 << 20, &err), err);
    return bytes;
}

static void the_same_seed_writes_the_same_bytes(void **state)
{
    (void)state;
    static const char part[] = "unet/diffusion_pytorch_model.safetensors";
    gimbal_error err = {0};
    const char *name[] = {in_folder("a"), in_folder("b"), in_folder("c")};
    char *bytes[3];
    size_t size[3];
    for (int i = 0; i < 3; i++) {
        check_ok(bench_model_write(&small, F16, i == 2 ? 6 : 5, name[i], silent, &err), err);
        bytes[i] = weights_of(name[i], part, &size[i]);
    }
    check(size[0] == size[1] && !memcmp(bytes[0], bytes[1], size[0]), "two of one seed");
    check(size[0] == size[2] && memcmp(bytes[0], bytes[2], size[0]), "two seeds");
    for (int i = 0; i < 3; i++)
        free(bytes[i]);
}

/* Half and brain floats are the float32 values, rounded. */
static void every_type_holds_the_same_values(void **state)
{
    (void)state;
    static const struct {
        DType type;
        double step; /* half of the last bit, of values below 2^-14 too */
    } types[] = {{F16, 0x1p-11}, {BF16, 0x1p-8}};
    gimbal_error err = {0};
    char path[300];
    int64_t n[6];
    float *exact, *x;
    const char *tensor = "down_blocks.0.resnets.0.conv1.weight";
    check_ok(bench_model_write(&small, F32, 9, in_folder("F32"), silent, &err), err);
    snprintf(path, sizeof path, "%s/unet/diffusion_pytorch_model.safetensors", in_folder("F32"));
    check_ok(gimbal_tensor_read(path, tensor, &exact, n, &err), err);
    const int64_t count = n[2] * n[3] * n[4] * n[5];
    check(count == 32 * 32 * 9, "%lld values", (long long)count);
    for (int i = 0; i < COUNT(types); i++) {
        const char *at = in_folder(dtype_name(types[i].type));
        check_ok(bench_model_write(&small, types[i].type, 9, at, silent, &err), err);
        snprintf(path, sizeof path, "%s/unet/diffusion_pytorch_model.safetensors", at);
        check_ok(gimbal_tensor_read(path, tensor, &x, n, &err), err);
        double worst = 0;
        int differ = 0;
        for (int64_t k = 0; k < count; k++) {
            const double d = fabs((double)x[k] - exact[k]);
            worst = MAX(worst, d - (types[i].type == F16 ? 0x1p-25 : 0) - types[i].step * fabs(exact[k]));
            differ += x[k] != exact[k];
        }
        check(worst <= 0 && differ > count / 2, "%s: off by %g more than rounding, %d values differ",
              dtype_name(types[i].type), worst, differ);
        free(x);
    }
    free(exact);
}

static bool folder_is_empty(void)
{
    DIR *d = opendir(folder);
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n == 2;
}

static void a_model_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    gimbal_error err = {0};
    double done = 0;
    const char *at = in_folder("model/");
    const BenchProgress stop = {cancel_late, &done};
    check_fails(bench_model_write(&small, F16, 0, at, stop, &err), GIMBAL_ECANCEL, err, "cancel");
    check(done > 0.5 && done < 1 && folder_is_empty(), "after a cancel at %g", done);
    check_ok(bench_model_write(&small, F16, 0, at, silent, &err), err);
    check(is_file(in_folder("model/model_index.json")), "the model");
    check_fails(bench_model_write(&small, F16, 0, at, silent, &err), GIMBAL_EIO, err, "there already");
    check_fails(bench_model_write(&small, F16, 0, in_folder("no/model"), silent, &err), GIMBAL_EIO, err,
                "no folder");
    check_fails(bench_model_write(&small, F16, 0, "", silent, &err), GIMBAL_EUSAGE, err, "empty");
    check(!mkdir(in_folder("empty"), 0777), "mkdir");
    check_ok(bench_model_write(&small, BF16, 0, in_folder("empty"), silent, &err), err);
    check_fails(gimbal_bench_model("sd21", "F8", 0, in_folder("x"), NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "expected F16, F32 or BF16");
    check_fails(gimbal_bench_model("sd99", "F16", 0, in_folder("x"), NULL, NULL, &err), GIMBAL_EUSAGE, err,
                "sd21");
}

static void a_model_without_a_name_leaves_nothing_behind(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_engine *e, *named;
    double began = 0;
    setenv("TMPDIR", folder, 1);
    check_ok(bench_model_open(&e, &small, F16, 3, silent, &began, &err), err);
    check(folder_is_empty() && began > 0, "files are left in TMPDIR");
    check_ok(bench_model_write(&small, F16, 3, in_folder("model"), silent, &err), err);
    check_ok(gimbal_open(&named, in_folder("model"), NULL, &err), err);
    assert_string_equal(gimbal_identity(e), gimbal_identity(named));
    gimbal_close(named);
    gimbal_close(e);
    unsetenv("TMPDIR");
}

/* ---- measuring --------------------------------------------------------------------------- */

typedef struct {
    int operators, classes;
    double flops, need_below, seconds, class_flops, class_seconds;
    bool sound;
} Seen;

static void on_row(void *user, const gimbal_bench_row *r, const gimbal_bench_result *so_far)
{
    Seen *s = user;
    s->sound = s->sound && r->name && r->count > 0 && r->seconds > 0 && r->made <= r->flops * 4 &&
               r->bytes > 0 && r->bound > 0 && so_far->threads > 0 && so_far->isa;
    if (r->kind) {
        s->operators++, s->flops += r->flops, s->seconds += r->seconds;
        s->sound = s->sound && r->backend;
    } else {
        s->classes++, s->class_flops += r->flops, s->class_seconds += r->seconds;
    }
}

static gimbal_bench_order order_of(const char *what, Seen *seen)
{
    gimbal_bench_order o;
    gimbal_bench_defaults(&o);
    *seen = (Seen){.sound = 1};
    o.what = what, o.model = "models/toyworld", o.family = NULL;
    o.frames = 3, o.width = 40, o.height = 24, o.repeat = 2, o.budget = 0.1, o.threads = 2;
    o.row = on_row, o.user = seen;
    return o;
}

static bool about(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

static void operators_sum_up_to_the_plan(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result r;
    gimbal_engine *e;
    gimbal_settings s;
    gimbal_session *run;
    Seen seen;
    gimbal_bench_order o = order_of("ops", &seen);
    check_ok(gimbal_bench(&o, &r, &err), err);
    check(seen.sound && seen.operators > 50 && seen.classes >= 6, "%d operators, %d classes", seen.operators,
          seen.classes);
    check(about(seen.flops, r.flops) && about(seen.class_flops, r.flops) && about(seen.seconds, r.seconds),
          "sums: %g and %g of %g FLOPs, %g of %g s", seen.flops, seen.class_flops, r.flops, seen.seconds,
          r.seconds);
    check(r.bound > 0 && r.made > 0 && r.peak_f32 > 1e9 && r.bandwidth > 1e8 && r.mapped_bytes,
          "bound %g, peak %g, bandwidth %g", r.bound, r.peak_f32, r.bandwidth);
    check_ok(gimbal_open(&e, o.model, NULL, &err), err);
    gimbal_defaults(&s, e);
    s.prompt = "", s.frames = 3, s.width = 40, s.height = 24;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check(about(plan_flops(run->plans.guide.plan[1]), r.flops), "the plan has %g FLOPs, the rows %g",
          plan_flops(run->plans.guide.plan[1]), r.flops);
    gimbal_end(run);
    gimbal_close(e);
}

static void whole_networks_are_timed(void **state)
{
    (void)state;
    static const char *const whats[] = {"unet", "vae", "text", "mix"};
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(whats); i++) {
        gimbal_bench_result r;
        Seen seen;
        gimbal_bench_order o = order_of(whats[i], &seen);
        const bool net = strcmp(whats[i], "mix");
        check_ok(gimbal_bench(&o, &r, &err), err);
        check(seen.sound && r.seconds >= r.least && r.least > 0 && r.flops > 0, "%s: %g s, least %g",
              whats[i], r.seconds, r.least);
        check(!net == !seen.classes && (!net || about(seen.class_flops, r.flops)), "%s: %d classes", whats[i],
              seen.classes);
        /* operators run inside the calls: their times cannot be longer, and are nearly all of them */
        check(!net || (seen.class_seconds < 1.5 * r.seconds && seen.class_seconds > 0.2 * r.seconds),
              "%s: operators %g s of %g s", whats[i], seen.class_seconds, r.seconds);
        check(!net == !r.mapped_bytes && !net == !(r.open_seconds > 0), "%s: mapped %llu, opened in %g s",
              whats[i], (unsigned long long)r.mapped_bytes, r.open_seconds);
    }
}

static void guidance_is_twice_the_work(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result one, two;
    Seen seen;
    gimbal_bench_order o = order_of("unet", &seen);
    check_ok(gimbal_bench(&o, &two, &err), err);
    o.guidance = 0;
    check_ok(gimbal_bench(&o, &one, &err), err);
    check(two.flops > 1.8 * one.flops && two.flops < 2.01 * one.flops, "%g against %g FLOPs", two.flops,
          one.flops);
}

static void inputs_and_prediction_go_through_files(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result r;
    Seen seen;
    gimbal_bench_order o = order_of("unet", &seen);
    static const char *const tensors[] = {"latents", "context", "timestep", "guidance", "prediction"};
    const char *a = in_folder("a.safetensors"), *b = in_folder("b.safetensors");
    o.repeat = 1, o.save = a, o.seed = 4;
    check_ok(gimbal_bench(&o, &r, &err), err);
    o.input = a, o.save = b, o.seed = 5; /* the file's, not the seed's */
    check_ok(gimbal_bench(&o, &r, &err), err);
    for (int i = 0; i < COUNT(tensors); i++) {
        int64_t n[6], m[6];
        float *x, *y;
        check_ok(gimbal_tensor_read(a, tensors[i], &x, n, &err), err);
        check_ok(gimbal_tensor_read(b, tensors[i], &y, m, &err), err);
        const size_t count = (size_t)(n[2] * n[3] * n[4] * n[5]) * (size_t)(n[0] * n[1]);
        check(!memcmp(n, m, sizeof n) && !memcmp(x, y, count * sizeof *x), "%s", tensors[i]);
        free(x);
        free(y);
    }
    o.frames = 4;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EFORMAT, err, "\"latents\" has 180 values");
    o.frames = 3, o.guidance = 0;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EFORMAT, err, "\"context\"");
    o.input = "none.safetensors";
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EIO, err, "none.safetensors");
}

/* Another text in the file must reach the keys that the network's layers made of the order's own prompts. */
static void the_context_of_a_file_is_what_the_network_reads(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result r;
    Seen seen;
    gimbal_bench_order o = order_of("unet", &seen);
    const char *a = in_folder("a.safetensors"), *b = in_folder("b.safetensors");
    o.repeat = 1, o.save = a;
    check_ok(gimbal_bench(&o, &r, &err), err);
    size_t n_x, n_context, n_e;
    float *x = golden(a, "latents", &n_x), *context = golden(a, "context", &n_context);
    float *before = golden(a, "prediction", &n_e), t = 100;
    for (size_t i = 0; i < n_context; i++)
        context[i] = -context[i];
    const gimbal_tensor items[] = {{"latents", "F32", 1, {(int64_t)n_x}, x},
                                   {"context", "F32", 1, {(int64_t)n_context}, context},
                                   {"timestep", "F32", 1, {1}, &t}};
    for (int i = 2; i <= 3; i++) { /* the text alone, then the timestep too */
        t = i == 2 ? 800 : 100;
        check_ok(st_write(in_folder("c.safetensors"), items, 3, NULL, &err), err);
        o.input = in_folder("c.safetensors"), o.save = b;
        check_ok(gimbal_bench(&o, &r, &err), err);
        float *after = golden(b, "prediction", &n_e);
        check(rel_rms(after, before, n_e) > 1e-3, "change %d is not seen", i);
        free(before);
        before = after;
    }
    free(before);
    free(context);
    free(x);
}

static void large_pictures_are_decoded_and_counted_too(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result r;
    Seen seen;
    gimbal_bench_order o = order_of("vae", &seen);
    o.frames = 1, o.width = 776, o.height = 768, o.repeat = 1; /* a little above what is decoded whole */
    check_ok(gimbal_bench(&o, &r, &err), err);
    check(r.flops > 1e9 && r.seconds > 0 && r.ideal > 0 && r.peak_bytes > 0, "%g FLOPs, %g s", r.flops,
          r.seconds);
}

static void orders_that_cannot_be_are_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_bench_result r;
    Seen seen;
    const gimbal_bench_order good = order_of("unet", &seen);
    gimbal_bench_order o = good;
    o.size = 8;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "gimbal_bench_defaults");
    o = good, o.what = "gpu";
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "unet, ops, vae, text, mix");
    o = good, o.frames = 0;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "frames is 0");
    o = good, o.frames = 33;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "at most 32");
    o = good, o.width = 17;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "multiple of 8");
    o = good, o.repeat = 0;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "repeat");
    o = good, o.budget = NAN;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "budget");
    o = good, o.family = "modelscope";
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "of the family animatediff");
    o = good, o.model = "none";
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EIO, err, "none");
    o = good, o.what = "mix", o.height = 9;
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "multiples of 8");
    o = good, o.model = NULL, o.family = "sd3";
    check_fails(gimbal_bench(&o, &r, &err), GIMBAL_EUSAGE, err, "sd21");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_models_have_the_published_number_of_parameters),
        cmocka_unit_test(values_are_a_function_of_seed_name_and_index),
        cmocka_unit_test(values_have_the_deviation_that_their_kind_wants),
        IN_FOLDER(a_model_is_a_folder_that_opens_and_runs),
        IN_FOLDER(the_same_seed_writes_the_same_bytes),
        IN_FOLDER(every_type_holds_the_same_values),
        IN_FOLDER(a_model_appears_whole_or_not_at_all),
        IN_FOLDER(a_model_without_a_name_leaves_nothing_behind),
        cmocka_unit_test(operators_sum_up_to_the_plan),
        cmocka_unit_test(whole_networks_are_timed),
        cmocka_unit_test(guidance_is_twice_the_work),
        IN_FOLDER(inputs_and_prediction_go_through_files),
        IN_FOLDER(the_context_of_a_file_is_what_the_network_reads),
        cmocka_unit_test(large_pictures_are_decoded_and_counted_too),
        cmocka_unit_test(orders_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
