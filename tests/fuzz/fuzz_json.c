/* fuzz_json.c: any bytes as a config: parsed, from memory and from a file alike; every kind of getter on
 * every key, and a rule table. */
#include "tests/fuzz/fuzz.h"

static void get_every_way(const json_t *json, const char *key)
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
    WANT(i >= -5 && i <= 5 && n >= 0 && n <= 4);
    WANT(strlen(quoted(key, q)) < QUOTED_ROOM);
}

FUZZ(json)
{
    static const ConfigRule rules[] = {{"a", "null|1|[1,1]"}, {"b", "\"x\"|false"}, {NULL, NULL}};
    static MemoryFile file;
    gimbal_error err = {0}, again = {0};
    json_t *json, *value, *read;
    const char *key;
    if (!file.path[0])
        memory_file(&file);
    refill(file.fd, data, size);
    const int code = json_parse(&json, (const char *)data, size, 32, "fuzz", &err);
    want_message(code, &err);
    const int from_file = json_read(&read, file.path, &again);
    want_message(from_file, &again);
    WANT(!code == !from_file && (code || json_equal(json, read)));
    json_decref(read);
    if (code)
        return 0;
    json_object_foreach(json, key, value) get_every_way(json, key);
    get_every_way(json, "no such key");
    want_message(json_refuse(json, "fuzz", rules, &err), &err);
    json_decref(json);
    return 0;
}
