/* fuzz_json.c: any bytes as a config: parsed, every kind of getter on every key, and a rule table. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ConfigRule rules[] = {{"a", "null|1|[1,1]"}, {"b", "\"x\"|false"}, {NULL, NULL}};
    gimbal_error err = {0};
    json_t *json, *value;
    const char *key;
    const int code = json_parse(&json, (const char *)data, size, 32, "fuzz", &err);
    want_message(code, &err);
    if (code)
        return 0;
    json_object_foreach(json, key, value)
    {
        int i, list[4], n;
        double r;
        bool b;
        const char *t;
        char q[QUOTED_ROOM];
        gimbal_error e[6] = {0};
        want_message(json_get_int(json, "fuzz", key, 0, -5, 5, &i, &e[0]), &e[0]);
        want_message(json_get_real(json, "fuzz", key, 0, &r, &e[1]), &e[1]);
        want_message(json_get_bool(json, "fuzz", key, 0, &b, &e[2]), &e[2]);
        want_message(json_get_text(json, "fuzz", key, "", &t, &e[3]), &e[3]);
        want_message(json_get_ints(json, "fuzz", key, 2, list, 4, &n, &e[4]), &e[4]);
        if (strlen(quoted(key, q)) >= QUOTED_ROOM)
            abort();
    }
    want_message(json_refuse(json, "fuzz", rules, &err), &err);
    json_decref(json);
    return 0;
}
