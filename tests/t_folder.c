/* t_folder.c: which file of a folder is taken, shards and their index, hub caches, and what is said
 * otherwise. */
#include "tests/io_files.h"

static const float values[4] = {1, 2, 3, 4};

/* A file of the test's folder with one-element tensors of these names; NULL ends. */
static void put_weights(const char *file, const char *a, const char *b)
{
    gimbal_error err = {0};
    const gimbal_tensor items[] = {{a, "F32", 1, {1}, values}, {b, "F32", 1, {1}, values + 1}};
    check_ok(st_write(in_folder(file), items, b ? 2 : 1, NULL, &err), err);
}

static void the_plain_file_comes_first_and_non_ema_never(void **state)
{
    (void)state;
    /* from the last choice to the first: each new file is preferred to all before it */
    static const char *const order[] = {"model.safetensors", "diffusion_pytorch_model.abc.safetensors",
                                        "diffusion_pytorch_model.bf16.safetensors",
                                        "diffusion_pytorch_model.fp16.safetensors",
                                        "diffusion_pytorch_model.safetensors"};
    gimbal_error err = {0};
    WeightSet *set;
    put_weights("diffusion_pytorch_model.aa.non_ema.safetensors", "x", NULL);
    put_weights("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "x", NULL);
    put_text("diffusion_pytorch_model.bin", "PK\3\4");
    check_fails(weights_open(&set, folder, &err), GIMBAL_EMODEL, err,
                "found \"diffusion_pytorch_model.aa.non_ema.safetensors\"");
    for (int i = 0; i < COUNT(order); i++) {
        put_weights(order[i], "x", "y");
        check_ok(weights_open(&set, folder, &err), err);
        check(strstr(weights_path(set), order[i]), "%s, expected %s", weights_path(set), order[i]);
        assert_int_equal(weights_count(set), 2);
        check(weights_bytes(set) > 8 && weights_find(set, "y") && !weights_find(set, "z"), "content");
        weights_close(set);
    }
    check_ok(weights_open(&set, in_folder("diffusion_pytorch_model.aa.non_ema.safetensors"), &err), err);
    weights_close(set);
}

static void a_folder_without_weights_says_what_it_has(void **state)
{
    (void)state;
    gimbal_error err = {0};
    WeightSet *set;
    check_fails(weights_open(&set, folder, &err), GIMBAL_EMODEL, err, "an empty folder");
    put_text("config.json", "{}");
    put_text("pytorch_model.bin", "x");
    check_fails(weights_open(&set, folder, &err), GIMBAL_EMODEL, err,
                "found \"config.json\", \"pytorch_model.bin\"");
    check_fails(weights_open(&set, folder, &err), GIMBAL_EMODEL, err, "pickles (.bin, .ckpt) are not read");
    unlink(in_folder("pytorch_model.bin"));
    put_weights("model-00001-of-00002.safetensors", "x", NULL);
    check_fails(weights_open(&set, folder, &err), GIMBAL_EMODEL, err, "lack their index");
    check_fails(weights_open(&set, in_folder("none"), &err), GIMBAL_EIO, err, "none");
    check_fails(weights_open(&set, put_text("x.bin", "PK\3\4----------"), &err), GIMBAL_EFORMAT, err,
                "pickle");
    check(!symlink("../../blobs/0", in_folder("model.safetensors")), "link");
    check_fails(weights_open(&set, folder, &err), GIMBAL_EIO, err, "a link to a file that is not there");
}

static void shards_are_one_set_in_name_order(void **state)
{
    (void)state;
    gimbal_error err = {0};
    WeightSet *set;
    put_weights("model-00001-of-00002.safetensors", "c", "a");
    put_weights("model-00002-of-00002.safetensors", "b", NULL);
    put_text("model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"c\":\"model-00001-of-00002.safetensors\","
             "\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002.safetensors\"}}");
    for (int i = 0; i < 2; i++) {
        check_ok(weights_open(&set, i ? in_folder("model.safetensors.index.json") : folder, &err), err);
        assert_int_equal(weights_count(set), 3);
        assert_string_equal(weights_entry(set, 0)->name, "a");
        assert_string_equal(weights_entry(set, 1)->name, "b");
        assert_string_equal(weights_entry(set, 2)->name, "c");
        assert_int_equal(weights_index(set, "c"), 2);
        assert_int_equal(weights_index(set, "d"), -1);
        check(strstr(weights_path(set), "index.json"), "%s", weights_path(set));
        weights_close(set);
    }
}

static void an_index_that_lies_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int code;
        const char *says;
    } lies[] = {
        {"{}", GIMBAL_EFORMAT, "\"weight_map\" is missing"},
        {"{\"weight_map\":[]}", GIMBAL_EFORMAT, "\"weight_map\" is missing"},
        {"{\"weight_map\":{}}", GIMBAL_EFORMAT, "names 0 shards"},
        {"{\"weight_map\":{\"a\":1}}", GIMBAL_EFORMAT, "the file of tensor \"a\" is not text"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", GIMBAL_EFORMAT,
         "\"../s1.safetensors\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", GIMBAL_EFORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", GIMBAL_EFORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", GIMBAL_EFORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"s1.bin\"}}", GIMBAL_EFORMAT, "not a safetensors file"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"z\":\"s3.safetensors\"}}", GIMBAL_EIO,
         "s3.safetensors"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"q\":\"s1.safetensors\"}}", GIMBAL_EFORMAT,
         "tensor \"q\" is not in its shard \"s1.safetensors\""},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\",\"d\":\"s4.safetensors\"}}",
         GIMBAL_EFORMAT, "tensor \"b\" is not in its shard"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}}", GIMBAL_EFORMAT,
         "tensor \"a\" is in two shards"},
    };
    gimbal_error err = {0};
    WeightSet *set;
    put_weights("s1.safetensors", "a", NULL);
    put_weights("s2.safetensors", "a", "c");
    put_weights("s4.safetensors", "b", "d");
    for (int i = 0; i < COUNT(lies); i++) {
        put_text("model.safetensors.index.json", lies[i].json);
        check_fails(weights_open(&set, folder, &err), lies[i].code, err, lies[i].says);
        assert_null(set);
    }
}

static void the_hash_sees_headers_and_not_the_path(void **state)
{
    (void)state;
    gimbal_error err = {0};
    char hex[3][65];
    const char *const names[3][2] = {{"x", "y"}, {"x", "y"}, {"x", "z"}};
    for (int i = 0; i < 3; i++) {
        WeightSet *set;
        const char *file = i == 1 ? "other.safetensors" : "model.safetensors";
        put_weights(file, names[i][0], names[i][1]);
        check_ok(weights_open(&set, in_folder(file), &err), err);
        Sha256 *h = sha256_new();
        weights_hash(set, h);
        sha256_end(h, hex[i]);
        weights_close(set);
    }
    assert_string_equal(hex[0], hex[1]);
    assert_string_not_equal(hex[0], hex[2]);
}

static void a_hub_cache_leads_to_its_snapshot(void **state)
{
    (void)state;
    gimbal_error err = {0};
    char out[PATH_ROOM];
    mkdir(in_folder("m"), 0777), mkdir(in_folder("m/refs"), 0777), mkdir(in_folder("m/snapshots"), 0777);
    mkdir(in_folder("m/snapshots/abc"), 0777), mkdir(in_folder("m/snapshots/abc/unet"), 0777);
    check_ok(hub_folder(out, folder, &err), err);
    assert_string_equal(out, folder);
    check_ok(hub_folder(out, in_folder("m"), &err), err);
    assert_string_equal(out, in_folder("m/snapshots/abc"));
    check_fails(model_folder(out, in_folder("m"), &err), GIMBAL_EMODEL, err, "not a model folder");
    mkdir(in_folder("m/snapshots/abc/vae"), 0777), mkdir(in_folder("m/snapshots/def"), 0777);
    check_fails(hub_folder(out, in_folder("m"), &err), GIMBAL_EMODEL, err, "2 snapshots and no refs/main");
    put_text("m/refs/main", "abc\n");
    check_ok(model_folder(out, in_folder("m"), &err), err);
    assert_string_equal(out, in_folder("m/snapshots/abc"));
    put_text("m/refs/main", "xyz");
    check_fails(hub_folder(out, in_folder("m"), &err), GIMBAL_EMODEL, err, "names the snapshot xyz");
    put_text("m/refs/main", "../../..");
    check_fails(hub_folder(out, in_folder("m"), &err), GIMBAL_EFORMAT, err, "not the name of a snapshot");
}

static void what_is_no_model_folder_is_named(void **state)
{
    (void)state;
    gimbal_error err = {0};
    char out[PATH_ROOM];
    put_weights("sd.safetensors", "model.diffusion_model.out.2.bias", NULL);
    put_weights("x.safetensors", "x", NULL);
    check_fails(model_folder(out, in_folder("sd.safetensors"), &err), GIMBAL_EMODEL, err,
                "a single-file checkpoint: not read yet");
    check_fails(model_folder(out, in_folder("x.safetensors"), &err), GIMBAL_EMODEL, err,
                "a file, expected a model folder");
    check_fails(model_folder(out, put_text("sd.ckpt", "PK\3\4-----"), &err), GIMBAL_EFORMAT, err, "pickle");
    check_fails(model_folder(out, in_folder("none"), &err), GIMBAL_EIO, err, "no such folder");
    check_fails(model_folder(out, folder, &err), GIMBAL_EMODEL, err, "expected model_index.json");
    mkdir(in_folder("m"), 0777), mkdir(in_folder("m/unet"), 0777);
    put_text("m/model_index.json", "{}");
    check_fails(model_folder(out, folder, &err), GIMBAL_EMODEL, err, "did you mean");
    check_fails(model_folder(out, in_folder("m/unet"), &err), GIMBAL_EMODEL, err, "/m/unet/..?");
    check_ok(model_folder(out, in_folder("m"), &err), err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(the_plain_file_comes_first_and_non_ema_never),
        IN_FOLDER(a_folder_without_weights_says_what_it_has),
        IN_FOLDER(shards_are_one_set_in_name_order),
        IN_FOLDER(an_index_that_lies_is_refused),
        IN_FOLDER(the_hash_sees_headers_and_not_the_path),
        IN_FOLDER(a_hub_cache_leads_to_its_snapshot),
        IN_FOLDER(what_is_no_model_folder_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
