/* t_json.c: JSON files that may be hostile, typed keys, and the refusal of what is not implemented. */
#include "tests/io_files.h"

static json_t *config(const char *text)
{
    gimbal_error err = {0};
    json_t *json;
    check_ok(json_parse(&json, text, strlen(text), 32, "c.json", &err), err);
    return json;
}

static void bad_files_are_refused_with_place_and_reason(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "empty"},
        {"[1]", "a JSON list, expected an object"},
        {"1", "not valid JSON"},
        {"{\"a\":1} x", "not valid JSON, line 1"},
        {"{\n\"a\":1,}", "line 2"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"a\":{\"b\":[{\"c\":1,\"c\":1}]}}", "duplicate"},
        {"{\"a\":NaN}", "not valid JSON"},
        {"{\"a\":Infinity}", "not valid JSON"},
        {"{\"a\":1e999}", "not valid JSON"},
        {"{\"a\":99999999999999999999}", "not valid JSON"},
        {"{\"a\":\"\\u0000\"}", "not valid JSON"},
        {"{\"a\":\"\xff\"}", "not valid JSON"},
        {"{\"a\":\"\\ud800\"}", "not valid JSON"},
        {"{\"a\"", "not valid JSON"},
        {"version https://git-lfs.github.com/spec/v1\nsize 3\n", "Git LFS pointer"},
    };
    gimbal_error err = {0};
    json_t *json;
    for (int i = 0; i < COUNT(bad); i++) {
        const char *path = put_text("bad.json", bad[i].text);
        assert_int_equal(json_read(&json, path, &err), GIMBAL_EFORMAT);
        check(strstr(err.msg, "bad.json"), "the file is named: %.300s", err.msg);
        err.code = 0;
        check_fails(json_read(&json, path, &err), GIMBAL_EFORMAT, err, bad[i].says);
        assert_null(json);
    }
    check_fails(json_read(&json, folder, &err), GIMBAL_EFORMAT, err, "a folder");
    check_fails(json_read(&json, in_folder("none.json"), &err), GIMBAL_EIO, err, "none.json");
}

static void python_s_words_count_as_null_only_where_asked_for(void **state)
{
    (void)state;
    static const char *const fine[] = {"{\"a\":-Infinity}", "{\"a\": NaN, \"b\":[Infinity,-Infinity , NaN]}",
                                       "{\"a\":\nNaN\n,\"s\":\"NaN, -Infinity \\\" : NaN ,\"}"};
    static const char *const wrong[] = {"{\"a\":--Infinity}",
                                        "{\"a\":+Infinity}",
                                        "{\"a\":-NaN}",
                                        "{\"a\":NaNs}",
                                        "{\"a\":Inf}",
                                        "{\"a\":nullNaN}",
                                        "{\"a\":infinity}",
                                        "{NaN:1}",
                                        "{\"a\":1 NaN}",
                                        "{\"a\":- Infinity}",
                                        "NaN",
                                        "{\"a\":\"x\"NaN}",
                                        "{\"a\":NaN\"x\"}",
                                        "{\"a\":NaN",
                                        "{\"a\":-Infinity,}",
                                        "{\"a\":[NaN NaN]}",
                                        "{\"a\":\"\\\"NaN}"};
    gimbal_error err = {0};
    json_t *json;
    for (int i = 0; i < COUNT(fine); i++) {
        const char *path = put_text("python.json", fine[i]);
        check_fails(json_read(&json, path, &err), GIMBAL_EFORMAT, err, "not valid JSON");
        check_ok(json_read_python(&json, path, &err), err);
        assert_true(json_is_null(json_object_get(json, "a")));
        const json_t *list = json_object_get(json, "b"), *text = json_object_get(json, "s");
        for (size_t k = 0; k < json_array_size(list); k++)
            assert_true(json_is_null(json_array_get(list, k)));
        if (text)
            assert_string_equal(json_string_value(text), "NaN, -Infinity \" : NaN ,");
        json_decref(json);
    }
    for (int i = 0; i < COUNT(wrong); i++) {
        const char *path = put_text("python.json", wrong[i]);
        if (!json_read_python(&json, path, &err))
            fail_msg("%s was read", wrong[i]);
        assert_int_equal(err.code, GIMBAL_EFORMAT);
        assert_null(json);
        err.code = 0;
    }
    /* every byte of a file of nothing else; the copy that is parsed is longer than the file */
    char many[4 * 5000 + 16] = "{\"a\":[NaN";
    for (int i = 1; i < 5000; i++)
        strcpy(many + 9 + 4 * (i - 1), ",NaN");
    strcat(many, "]}");
    check_ok(json_read_python(&json, put_text("python.json", many), &err), err);
    assert_int_equal(json_array_size(json_object_get(json, "a")), 5000);
    json_decref(json);
    check_fails(json_read_python(&json, folder, &err), GIMBAL_EFORMAT, err, "a folder");
}

static void bombs_are_refused_before_they_are_parsed(void **state)
{
    (void)state;
    enum { N = 9000000 };
    gimbal_error err = {0};
    json_t *json;
    char *text = malloc(N + 8);
    memset(text, '[', N);
    memcpy(text, "{\"a\":", 5);
    check_fails(json_parse(&json, text, N, 32, "deep", &err), GIMBAL_EFORMAT, err, "nested deeper than 32");
    for (size_t i = 6; i + 1 < N; i += 2)
        text[i] = '0', text[i + 1] = ',';
    check_fails(json_parse(&json, text, N, 32, "wide", &err), GIMBAL_EFORMAT, err, "values, at most 4000000");
    free(text);
    /* brackets inside text do not nest */
    json = config("{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"{{{{\"}");
    json_decref(json);
}

static void keys_have_types_defaults_and_ranges(void **state)
{
    (void)state;
    gimbal_error err = {0};
    json_t *c = config(
        "{\"i\":7,\"r\":0.5,\"b\":true,\"t\":\"x\",\"n\":null,\"l\":[1,2,3],\"m\":[1,2.5],\"big\":4294967296,"
        "\"neg\":-1,\"s\":[\"a\"]}");
    int i, list[4], n;
    double r;
    bool b;
    const char *t;
    check_ok(json_get_int(c, "c.json", "i", 1, 0, 10, &i, &err), err);
    assert_int_equal(i, 7);
    check_ok(json_get_int(c, "c.json", "absent", 5, 0, 1, &i, &err), err);
    assert_int_equal(i, 5);
    check_fails(json_get_int(c, "c.json", "i", 1, 0, 6, &i, &err), GIMBAL_EFORMAT, err,
                "c.json: \"i\" is 7, expected an integer from 0 to 6");
    check_fails(json_get_int(c, "c.json", "r", 1, 0, 6, &i, &err), GIMBAL_EFORMAT, err, "\"r\" is 0.5");
    check_fails(json_get_int(c, "c.json", "n", 1, 0, 6, &i, &err), GIMBAL_EFORMAT, err, "\"n\" is null");
    check_fails(json_get_int(c, "c.json", "big", 1, 0, 2147483647, &i, &err), GIMBAL_EFORMAT, err,
                "4294967296");
    check_fails(json_get_int(c, "c.json", "t", 1, 0, 6, &i, &err), GIMBAL_EFORMAT, err, "\"t\" is \"x\"");
    check_ok(json_get_real(c, "c.json", "i", 1, &r, &err), err);
    check_near(r, 7, 0, "integers are numbers");
    check_ok(json_get_real(c, "c.json", "absent", 0.25, &r, &err), err);
    check_near(r, 0.25, 0, "default");
    check_fails(json_get_real(c, "c.json", "b", 1, &r, &err), GIMBAL_EFORMAT, err,
                "\"b\" is true, expected a number");
    check_ok(json_get_bool(c, "c.json", "b", false, &b, &err), err);
    assert_true(b);
    check_fails(json_get_bool(c, "c.json", "i", false, &b, &err), GIMBAL_EFORMAT, err,
                "expected true or false");
    check_ok(json_get_text(c, "c.json", "n", "def", &t, &err), err);
    assert_string_equal(t, "def");
    check_fails(json_get_text(c, "c.json", "l", "def", &t, &err), GIMBAL_EFORMAT, err,
                "\"l\" is [1,2,3], expected text");
    check_ok(json_get_ints(c, "c.json", "l", 0, list, 4, &n, &err), err);
    check(n == 3 && list[2] == 3, "a list");
    check_ok(json_get_ints(c, "c.json", "i", 4, list, 4, &n, &err), err);
    check(n == 4 && list[0] == 7 && list[3] == 7, "one number fills the list");
    check_ok(json_get_ints(c, "c.json", "n", 4, list, 4, &n, &err), err);
    assert_int_equal(n, 0);
    check_fails(json_get_ints(c, "c.json", "i", 0, list, 4, &n, &err), GIMBAL_EFORMAT, err,
                "expected a list of at most 4");
    check_fails(json_get_ints(c, "c.json", "l", 0, list, 2, &n, &err), GIMBAL_EFORMAT, err,
                "at most 2 integers");
    check_fails(json_get_ints(c, "c.json", "m", 0, list, 4, &n, &err), GIMBAL_EFORMAT, err,
                "\"m\" is [1,2.5]");
    check_fails(json_get_ints(c, "c.json", "big", 2, list, 4, &n, &err), GIMBAL_EFORMAT, err, "4294967296");
    json_decref(c);
}

static void values_without_implementation_are_refused_by_name(void **state)
{
    (void)state;
    static const ConfigRule rules[] = {{"dual_cross_attention", "false"},
                                       {"act_fn", "\"silu\"|\"swish\""},
                                       {"mid_block_scale_factor", "1"},
                                       {"pads", "null|[1,1]"},
                                       {NULL, NULL}};
    static const char *const fine[] = {
        "{}", "{\"dual_cross_attention\":false,\"act_fn\":\"swish\",\"other\":3}",
        "{\"mid_block_scale_factor\":1.0,\"pads\":[1.0,1]}", "{\"pads\":null}"};
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"{\"dual_cross_attention\":true}",
         "u.json: \"dual_cross_attention\" is true; only false is supported"},
        {"{\"dual_cross_attention\":null}", "\"dual_cross_attention\" is null"},
        {"{\"dual_cross_attention\":0}", "\"dual_cross_attention\" is 0"},
        {"{\"act_fn\":\"gelu\"}", "\"act_fn\" is \"gelu\"; only \"silu\" or \"swish\" is supported"},
        {"{\"mid_block_scale_factor\":1.5}", "is 1.5; only 1 is supported"},
        {"{\"mid_block_scale_factor\":\"1\"}", "is \"1\"; only 1"},
        {"{\"pads\":[1,1,1]}", "is [1,1,1]; only null or [1,1] is supported"},
        {"{\"pads\":1}", "is 1; only null or [1,1]"},
    };
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(fine); i++) {
        json_t *c = config(fine[i]);
        check_ok(json_refuse(c, "u.json", rules, &err), err);
        json_decref(c);
    }
    for (int i = 0; i < COUNT(wrong); i++) {
        json_t *c = config(wrong[i].text);
        check_fails(json_refuse(c, "u.json", rules, &err), GIMBAL_EMODEL, err, wrong[i].says);
        json_decref(c);
    }
}

static void names_from_files_are_safe_to_print(void **state)
{
    (void)state;
    char q[QUOTED_ROOM], longer[400];
    assert_string_equal(quoted("unet.conv", q), "\"unet.conv\"");
    assert_string_equal(quoted("a\"\\\n\x1b[0m\xc3\xbc", q), "\"a\\\"\\\\\\x0a\\x1b[0m\\xc3\\xbc\"");
    memset(longer, '\1', sizeof longer);
    longer[399] = 0;
    check(strlen(quoted(longer, q)) < QUOTED_ROOM && strstr(q, "...\""), "long names are cut: %s", q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(bad_files_are_refused_with_place_and_reason),
        IN_FOLDER(python_s_words_count_as_null_only_where_asked_for),
        cmocka_unit_test(bombs_are_refused_before_they_are_parsed),
        cmocka_unit_test(keys_have_types_defaults_and_ranges),
        cmocka_unit_test(values_without_implementation_are_refused_by_name),
        cmocka_unit_test(names_from_files_are_safe_to_print),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
