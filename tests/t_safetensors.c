/* t_safetensors.c: what is written comes back; what lies, is cut, is damaged or is something else is refused
 * by name.
 *
 * The damage loops do not ask for an error at every byte (a changed weight is still a weight): they ask that
 * no byte can make the reader leave the file, which the sanitizers see because all data of an accepted file
 * is read. */
#include "tests/io_files.h"

#include <fcntl.h>

/* Reads every byte, so that the sanitizers see where the data lies. */
static volatile unsigned sum;
static void read_all(const SafeTensors *st)
{
    for (int i = 0; i < st_count(st); i++)
        for (size_t k = 0; k < st_entry(st, i)->bytes; k++)
            sum += ((const uint8_t *)st_entry(st, i)->data)[k];
}

static const float ramp[6] = {0.5f, -1, 2, 3.25f, -4, 5};
static const uint16_t halves[3] = {0x3C00, 0xC000, 0x3555}; /* F16: 1, -2, 0.33325 */
static const int64_t ids[2] = {7, -8};
static const gimbal_tensor small[] = {{"b", "F16", 1, {3}, halves},     {"a.weight", "F32", 2, {2, 3}, ramp},
                                      {"ids", "I64", 2, {1, 2}, ids},   {"one", "F32", 0, {0}, ramp},
                                      {"none", "F32", 2, {0, 4}, NULL}, {"bytes", "U8", 1, {5}, "hello"},
                                      {"b16", "BF16", 1, {3}, halves}};

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    gimbal_error err = {0};
    SafeTensors *st;
    const char *const metadata[] = {"format", "pt", "note", "grün \"x\"", NULL};
    const char *path = in_folder("x.safetensors");
    check_ok(st_write(path, small, COUNT(small), metadata, &err), err);
    check_ok(st_open(&st, path, &err), err);
    assert_int_equal(st_count(st), COUNT(small));
    assert_string_equal(st_metadata(st, "note"), "grün \"x\"");
    assert_null(st_metadata(st, "absent"));
    for (int i = 1; i < st_count(st); i++)
        check(strcmp(st_entry(st, i - 1)->name, st_entry(st, i)->name) < 0, "entry %d is in name order", i);
    const StEntry *a = st_find(st, "a.weight");
    check(a && a->type == F32 && a->nd == 2 && a->n[0] == 2 && a->n[1] == 3, "a.weight");
    assert_memory_equal(a->data, ramp, sizeof ramp);
    assert_memory_equal(st_find(st, "ids")->data, ids, sizeof ids);
    check(st_find(st, "one")->nd == 0 && st_find(st, "one")->bytes == 4, "a scalar");
    check(st_find(st, "none")->bytes == 0, "an empty tensor");
    assert_null(st_find(st, "a.weigh"));
    assert_int_equal(access(in_folder("x.safetensors"), F_OK), 0);
    st_close(st);
}

static void float_tensors_are_widened(void **state)
{
    (void)state;
    gimbal_error err = {0};
    float *x;
    int64_t n[6];
    const char *path = in_folder("x.safetensors");
    check_ok(gimbal_tensors_write(path, small, COUNT(small), NULL, &err), err);
    check_ok(gimbal_tensor_read(path, "b", &x, n, &err), err);
    check(n[0] == 1 && n[4] == 1 && n[5] == 3, "leading sizes are 1");
    check(x[0] == 1 && x[1] == -2 && fabsf(x[2] - 0.33325f) < 1e-4f, "F16");
    free(x);
    check_ok(gimbal_tensor_read(path, "b16", &x, n, &err), err);
    check(x[0] == 0.0078125f && x[1] == -2, "BF16: %g %g", x[0], x[1]);
    free(x);
    check_ok(gimbal_tensor_read(path, "none", &x, n, &err), err);
    check(n[4] == 0 && n[5] == 4, "an empty tensor");
    free(x);
    check_fails(gimbal_tensor_read(path, "ids", &x, n, &err), GIMBAL_EFORMAT, err,
                "is I64, expected F32, F16 or BF16");
    check_fails(gimbal_tensor_read(path, "latents", &x, n, &err), GIMBAL_EFORMAT, err,
                "no tensor \"latents\"; it has 7: \"a.weight\", \"b\"");
    check_fails(gimbal_tensor_read(in_folder("absent"), "x", &x, n, &err), GIMBAL_EIO, err, "absent");
}

static void old_unaligned_files_are_read(void **state)
{
    (void)state;
    gimbal_error err = {0};
    float *x;
    int64_t n[6];
    const char *path = put_safetensors("odd",
                                       "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"w\":"
                                       "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}} ",
                                       9);
    check_ok(gimbal_tensor_read(path, "w", &x, n, &err), err);
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    assert_memory_equal(x, bytes, 8);
    free(x);
}

static void every_truncation_and_any_tail_is_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    SafeTensors *st;
    char *bytes;
    size_t n;
    check_ok(st_write(in_folder("x"), small, COUNT(small), NULL, &err), err);
    check_ok(read_file(&bytes, &n, in_folder("x"), 1 << 20, &err), err);
    for (size_t k = 0; k < n; k++) {
        check(st_open(&st, put_bytes("cut", bytes, k), &err) == GIMBAL_EFORMAT, "cut at %zu of %zu", k, n);
        check(!st && err.code == GIMBAL_EFORMAT && strstr(err.msg, "cut"), "cut at %zu: %.300s", k, err.msg);
        err.code = 0;
    }
    bytes[n] = 0; /* read_file put it there */
    check_fails(st_open(&st, put_bytes("long", bytes, n + 1), &err), GIMBAL_EFORMAT, err,
                "1 bytes behind the last tensor");
    free(bytes);
}

static void no_single_damaged_byte_leads_out_of_the_file(void **state)
{
    (void)state;
    static const uint8_t values[] = {0, 0xFF, '"', '{', '}', '[', ',', '9', '-', 'e', '\\', ' '};
    gimbal_error err = {0};
    SafeTensors *st;
    char *bytes;
    size_t n, accepted = 0;
    check_ok(st_write(in_folder("x"), small, COUNT(small), NULL, &err), err);
    check_ok(read_file(&bytes, &n, in_folder("x"), 1 << 20, &err), err);
    const int fd = open(in_folder("x"), O_RDWR);
    for (size_t k = 0; k < n; k++) {
        for (int v = -1; v < COUNT(values); v++) {
            const uint8_t byte = v < 0 ? (uint8_t)(bytes[k] ^ 1) : values[v];
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)k), 1);
            err.code = 0, err.msg[0] = 0;
            if (!st_open(&st, in_folder("x"), &err))
                accepted++, read_all(st), st_close(st);
            else
                check(err.msg[0] && err.code == GIMBAL_EFORMAT, "byte %zu: %.300s", k, err.msg);
        }
        assert_int_equal(pwrite(fd, &bytes[k], 1, (off_t)k), 1);
    }
    check(accepted > 0, "changed data is still data");
    close(fd);
    free(bytes);
}

#define T(name, dtype, shape, from, to)                                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"

static void headers_that_lie_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t data;
        const char *says;
    } lies[] = {
        {"{" T("x", "F32", "[2]", "0", "4") "}", 4, "tensor \"x\": F32 of its shape needs 8 bytes, it has 4"},
        {"{" T("x", "F32", "[-1]", "0", "4") "}", 4, "tensor \"x\": size 0 of its shape"},
        {"{" T("x", "F32", "[1,1.0]", "0", "4") "}", 4, "size 1 of its shape is not a whole number"},
        {"{" T("x", "F32", "[\"1\"]", "0", "4") "}", 4, "size 0 of its shape"},
        {"{" T("x", "F32", "1", "0", "4") "}", 4, "\"shape\" is not a list"},
        {"{" T("x", "F32", "[4611686018427387904,4]", "0", "4") "}", 4, "overflows 64 bits"},
        {"{" T("x", "F32", "[0,4611686018427387904,4]", "0", "0") "}", 0, "overflows 64 bits"},
        {"{" T("x", "F32", "[9223372036854775808]", "0", "4") "}", 4, "not valid JSON"},
        {"{" T("x", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "has 9 dimensions"},
        {"{" T("x", "F33", "[1]", "0", "4") "}", 4, "\"dtype\" is \"F33\""},
        {"{" T("x", "F4", "[3]", "0", "1") "}", 1, "F4 of its shape needs 2 bytes"},
        {"{" T("x", "F32", "[1]", "4", "8") "}", 8, "4 bytes before it belong to no tensor"},
        {"{" T("x", "F32", "[1]", "0", "4") "," T("y", "F32", "[1]", "2", "6") "}", 6,
         "tensor \"y\": overlaps another"},
        {"{" T("x", "F32", "[1]", "0", "4") "," T("y", "F32", "[1]", "0", "4") "}", 4, "overlaps another"},
        {"{" T("x", "F32", "[1]", "0", "4") "," T("y", "F32", "[1]", "8", "12") "}", 12,
         "tensor \"y\": 4 bytes before it"},
        {"{" T("x", "F32", "[1]", "4", "0") "}", 4, "data from byte 4 to 0"},
        {"{" T("x", "F32", "[1]", "-4", "0") "}", 4, "data from byte -4 to 0"},
        {"{" T("x", "F32", "[1]", "0", "4.0") "}", 4, "not a list of two whole numbers"},
        {"{" T("x", "F32", "[1]", "0", "4,8") "}", 8, "not a list of two whole numbers"},
        {"{" T("x", "F32", "[1]", "0", "9223372036854775807") "}", 4, "truncated: a tensor ends at byte"},
        {"{" T("x", "F32", "[1]", "0", "4") "," T("x", "F32", "[1]", "4", "8") "}", 8, "duplicate"},
        {"{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "duplicate"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "\"data_offsets\" is not"},
        {"{\"x\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\" is not text"},
        {"{\"x\":[1]}", 4, "tensor \"x\": is not described by an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "metadata \"a\" is not text"},
        {"{\"__metadata__\":[]}", 0, "\"__metadata__\" is not an object"},
        {"{}", 5, "5 bytes behind the last tensor"},
        {"{} x", 0, "not valid JSON"},
        {"{\"x\x1b[31m\\u0007\":1}", 0, "not valid JSON"},
        {"{\"x\\u001b[31m\xc3\xa9\":1}", 0, "tensor \"x\\x1b[31m\\xc3\\xa9\""},
        {"{\"a\":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}", 0, "nested deeper than 16"},
    };
    for (int i = 0; i < COUNT(lies); i++) {
        gimbal_error err = {0};
        SafeTensors *st;
        check_fails(st_open(&st, put_safetensors("lie", lies[i].json, lies[i].data), &err), GIMBAL_EFORMAT,
                    err, lies[i].says);
        assert_null(st);
    }
}

static void legal_oddities_are_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t data;
        int count;
    } odd[] = {
        {"{}", 0, 0},
        {"{\"__metadata__\":{}}   ", 0, 0},
        {"{" T("y", "F8_E4M3", "[3]", "0", "3") "," T("x", "U64", "[1]", "3", "11") "}", 11, 2},
        {"{" T("e", "F32", "[0]", "4", "4") "," T("f", "F32", "[0]", "0", "0") "," T("x", "F32", "[]", "0",
                                                                                     "4") "}",
         4, 3},
        {"{" T("x", "F6_E2M3", "[4]", "0", "3") "," T("", "BOOL", "[1]", "3", "4") "}", 4, 2},
        {"{\"x\":{\"dtype\":\"I8\",\"extra\":{\"a\":[1]},\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1},
    };
    for (int i = 0; i < COUNT(odd); i++) {
        gimbal_error err = {0};
        SafeTensors *st;
        check_ok(st_open(&st, put_safetensors("odd", odd[i].json, odd[i].data), &err), err);
        assert_int_equal(st_count(st), odd[i].count);
        st_close(st);
    }
}

static void other_files_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } files[] = {
        {"", 0, "an empty file"},
        {"\0\0\0\0\0", 5, "5 bytes, too short"},
        {"\0\0\0\0\0\0\0\0", 8, "no JSON header"},
        {"\0\0\0\0\0\0\0\0\0\0\0\0", 12, "no JSON header"},
        {"\x40\0\0\0\0\0\0\0{}", 10, "truncated: the header ends at byte 72, the file has 10"},
        {"\1\xe1\xf5\5\0\0\0\0{}", 10, "header of 100000001 bytes, at most 100000000"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265146304\n", 71,
         "the real file has 4265146304 bytes"},
        {"<!DOCTYPE html><html>", 21, "a web page"},
        {"\n\n <html>not found", 17, "a web page"},
        {"PK\3\4........", 12, "zip archive, most likely a PyTorch pickle"},
        {"\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20", 10, "PyTorch pickle"},
        {"\x80\4\x95.......", 10, "pickle"},
        {"GGUF\3\0\0\0\0\0\0\0", 12, "GGUF"},
        {"\x1f\x8b\x08.......", 10, "gzip"},
        {"{\"error\":\"Entry not found\"}", 27, "JSON text"},
    };
    for (int i = 0; i < COUNT(files); i++) {
        gimbal_error err = {0};
        SafeTensors *st;
        check_fails(st_open(&st, put_bytes("other", files[i].bytes, files[i].n), &err), GIMBAL_EFORMAT, err,
                    files[i].says);
    }
    gimbal_error err = {0};
    SafeTensors *st;
    check_fails(st_open(&st, folder, &err), GIMBAL_EFORMAT, err, "a folder");
    /* a header of 60 bytes makes the file begin with '<' */
    char json[61];
    snprintf(json, sizeof json, "%-60s", "{}");
    check_ok(st_open(&st, put_safetensors("sixty", json, 0), &err), err);
    st_close(st);
}

static void whole_checkpoints_are_recognised(void **state)
{
    (void)state;
    gimbal_error err = {0};
    SafeTensors *st;
    check_ok(st_open(&st,
                     put_safetensors(
                         "ckpt", "{" T("model.diffusion_model.out.0.bias", "F16", "[1]", "0", "2") "}", 2),
                     &err),
             err);
    assert_true(st_is_single_checkpoint(st));
    st_close(st);
    check_ok(
        st_open(&st, "tests/golden/models/animatediff-tiny/unet/diffusion_pytorch_model.safetensors", &err),
        err);
    assert_false(st_is_single_checkpoint(st));
    st_close(st);
}

static void what_cannot_be_written_leaves_nothing_behind(void **state)
{
    (void)state;
    static const float one = 1;
    static const struct {
        gimbal_tensor items[2];
        int code;
        const char *says;
    } wrong[] = {
        {{{"a", "F32", 0, {0}, &one}, {"a", "F32", 0, {0}, &one}},
         GIMBAL_EUSAGE,
         "the name \"a\" is used twice"},
        {{{"a", "F32", 0, {0}, &one}, {"b", "F99", 0, {0}, &one}}, GIMBAL_EUSAGE, "\"F99\""},
        {{{"a", "F32", 0, {0}, &one}, {"b", "F32", 1, {1}, NULL}}, GIMBAL_EUSAGE, "has no data"},
        {{{"a", "F32", 0, {0}, &one}, {"b", "F32", 2, {1, -1}, &one}}, GIMBAL_EUSAGE, "impossible shape"},
        {{{"a", "F32", 0, {0}, &one}, {"b", "F32", 7, {1}, &one}}, GIMBAL_EUSAGE, "7 dimensions"},
        {{{"a", "F32", 0, {0}, &one}, {"__metadata__", "F32", 0, {0}, &one}}, GIMBAL_EUSAGE, "__metadata__"},
        {{{"a", "F32", 0, {0}, &one}, {"\xff", "F32", 0, {0}, &one}}, GIMBAL_EUSAGE, "is not UTF-8"},
    };
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(wrong); i++)
        check_fails(st_write(in_folder("w"), wrong[i].items, 2, NULL, &err), wrong[i].code, err,
                    wrong[i].says);
    check_fails(st_write(in_folder("no/such/w"), small, 1, NULL, &err), GIMBAL_EIO, err, "no/such/w");
    check(rmdir(folder) == 0, "the folder is empty");
}

static void hash_of_known_text_is_right(void **state)
{
    (void)state;
    char hex[65];
    Sha256 *h = sha256_new();
    sha256_add(h, "a", 1);
    sha256_add(h, "bc", 2);
    sha256_end(h, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(what_is_written_is_read_back),
        IN_FOLDER(float_tensors_are_widened),
        IN_FOLDER(old_unaligned_files_are_read),
        IN_FOLDER(every_truncation_and_any_tail_is_refused),
        IN_FOLDER(no_single_damaged_byte_leads_out_of_the_file),
        IN_FOLDER(headers_that_lie_are_refused_by_name),
        IN_FOLDER(legal_oddities_are_accepted),
        IN_FOLDER(other_files_are_told_apart),
        IN_FOLDER(whole_checkpoints_are_recognised),
        IN_FOLDER(what_cannot_be_written_leaves_nothing_behind),
        cmocka_unit_test(hash_of_known_text_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
