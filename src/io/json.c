/* json.c: JSON text that may be hostile, and typed reading of config keys.
 *
 * jansson parses; before it sees a byte, a scan bounds nesting and the number of values, so that neither the
 * stack nor memory (each value costs some hundred bytes) is in a stranger's hand. Duplicate keys, text
 * behind the end, NaN and numbers beyond double or int64 are errors at any depth; only json_read_python takes
 * Python's NaN, Infinity and -Infinity, as null (diffusers writes "lambda_min_clipped": -Infinity).
 *
 * A getter has three outcomes: the key's value, the default when the key is absent, or EFORMAT with file,
 * key, expected and found. Knows JSON. Refuses to know which keys exist. */
#include "io/io.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_DEPTH = 32, FOUND_ROOM = 96 };
static const size_t config_limit = (size_t)64 << 20;
static const size_t value_limit = 4000000;

const char *quoted(const char *name, char out[QUOTED_ROOM])
{
    size_t at = 0;
    out[at++] = '"';
    for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
        if (at > QUOTED_ROOM - 10) {
            memcpy(&out[at], "...", 3), at += 3;
            break;
        }
        if (*c < 0x20 || *c > 0x7e)
            at += (size_t)snprintf(&out[at], 5, "\\x%02x", *c);
        else if (*c == '"' || *c == '\\')
            out[at++] = '\\', out[at++] = (char)*c;
        else
            out[at++] = (char)*c;
    }
    out[at++] = '"', out[at] = 0;
    return out;
}

/* Brackets and commas outside strings: nesting at most `depth`, values at most value_limit. */
static int bound(const char *text, size_t n, int depth, const char *where, gimbal_error *err)
{
    size_t values = 0;
    int level = 0;
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (inside) {
            if (c == '\\')
                i++;
            else if (c == '"')
                inside = false;
        } else if (c == '"') {
            inside = true;
        } else if (c == '{' || c == '[') {
            values++;
            if (++level > depth)
                return fail(err, GIMBAL_EFORMAT, "%s: JSON is nested deeper than %d levels (byte %zu)", where,
                            depth, i);
        } else if (c == '}' || c == ']') {
            level--;
        } else if (c == ',') {
            values++;
        }
    }
    if (values > value_limit)
        return fail(err, GIMBAL_EFORMAT, "%s: JSON has %zu values, at most %zu are read", where, values,
                    value_limit);
    return GIMBAL_OK;
}

int json_parse(json_t **out, const char *text, size_t n, int depth, const char *where, gimbal_error *err)
{
    *out = NULL;
    TRY(bound(text, n, depth, where, err));
    json_error_t e = {0};
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!json) {
        char q[QUOTED_ROOM];
        if (!e.text[0] || json_error_code(&e) == json_error_out_of_memory)
            return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu bytes of JSON", where, n);
        return fail(err, GIMBAL_EFORMAT, "%s: not valid JSON, line %d, column %d: %s", where, e.line,
                    e.column, quoted(e.text, q));
    }
    if (!json_is_object(json)) {
        json_decref(json);
        return fail(err, GIMBAL_EFORMAT, "%s: a JSON list, expected an object { }", where);
    }
    *out = json;
    return GIMBAL_OK;
}

/* Is text[at..at+length) a word of its own, between what may surround a value? */
static bool alone(const char *text, size_t n, size_t at, size_t length)
{
    static const char before[] = ":,[ \t\r\n", after[] = ",]} \t\r\n";
    return at > 0 && memchr(before, text[at - 1], sizeof before - 1) && at + length < n &&
           memchr(after, text[at + length], sizeof after - 1);
}

/* Python's word for a number that JSON does not have, at text[at]; its length or 0. */
static size_t python_word(const char *text, size_t n, size_t at)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (int i = 0; i < COUNT(words); i++) {
        const size_t length = strlen(words[i]);
        if (n - at >= length && !memcmp(text + at, words[i], length) && alone(text, n, at, length))
            return length;
    }
    return 0;
}

/* Python's words outside strings as null, padded so that what follows keeps its column. out: room for 4/3 n
 * bytes (NaN is the one that grows). Returns the size. */
static size_t nulls_for_python(const char *text, size_t n, char *out)
{
    size_t size = 0;
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        const size_t length = inside ? 0 : python_word(text, n, i);
        if (length) {
            memcpy(out + size, "null     ", MAX(length, (size_t)4));
            size += MAX(length, (size_t)4), i += length - 1;
            continue;
        }
        if (inside && text[i] == '\\' && i + 1 < n)
            out[size++] = text[i++];
        else if (text[i] == '"')
            inside = !inside;
        out[size++] = text[i];
    }
    return size;
}

static int parse_python(json_t **out, const char *text, size_t n, const char *path, gimbal_error *err)
{
    *out = NULL;
    char *plain = malloc(n / 3 * 4 + 4);
    if (!plain)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu bytes of JSON", path, n);
    const size_t size = nulls_for_python(text, n, plain);
    const int code = json_parse(out, plain, size, CONFIG_DEPTH, path, err);
    free(plain); /* a second copy of the file, needed no longer */
    return code;
}

static int read_json(json_t **out, const char *path, bool python, gimbal_error *err)
{
    *out = NULL;
    if (is_folder(path))
        return fail(err, GIMBAL_EFORMAT, "%s: a folder, expected a JSON file", path);
    char *text = NULL;
    size_t n = 0;
    TRY(read_file(&text, &n, path, config_limit, err));
    int code = GIMBAL_OK;
    if (n == 0)
        code = fail(err, GIMBAL_EFORMAT, "%s: empty, expected a JSON object", path);
    else if (n > 22 && !memcmp(text, "version https://git-lfs", 23))
        code = fail_hint(err, GIMBAL_EFORMAT, "run git lfs pull in the model's folder",
                         "%s: a Git LFS pointer, expected a JSON object", path);
    else
        code = python ? parse_python(out, text, n, path, err)
                      : json_parse(out, text, n, CONFIG_DEPTH, path, err);
    free(text); /* read_file hands it over */
    return code;
}

int json_read(json_t **out, const char *path, gimbal_error *err)
{
    return read_json(out, path, false, err);
}

int json_read_python(json_t **out, const char *path, gimbal_error *err)
{
    return read_json(out, path, true, err);
}

/* ---- typed keys -------------------------------------------------------------------------- */

/* A value as short text for messages. */
static const char *found(const json_t *value, char out[FOUND_ROOM])
{
    char *text =
        json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    if (!text)
        return "a value too large to print";
    const int n = snprintf(out, FOUND_ROOM, "%s", text);
    if (n >= FOUND_ROOM)
        memcpy(&out[FOUND_ROOM - 4], "...", 4);
    free(text);
    return out;
}

static int wrong(const json_t *value, const char *where, const char *key, const char *expected,
                 gimbal_error *err)
{
    char text[FOUND_ROOM];
    return fail(err, GIMBAL_EFORMAT, "%s: \"%s\" is %s, expected %s", where, key, found(value, text),
                expected);
}

int json_get_int(const json_t *json, const char *where, const char *key, int def, int min, int max, int *out,
                 gimbal_error *err)
{
    const json_t *value = json_object_get(json, key);
    *out = def;
    if (!value)
        return GIMBAL_OK;
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %d to %d", min, max);
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return wrong(value, where, key, expected, err);
    *out = (int)json_integer_value(value);
    return GIMBAL_OK;
}

int json_get_real(const json_t *json, const char *where, const char *key, double def, double *out,
                  gimbal_error *err)
{
    const json_t *value = json_object_get(json, key);
    *out = def;
    if (!value)
        return GIMBAL_OK;
    if (!json_is_number(value))
        return wrong(value, where, key, "a number", err);
    *out = json_number_value(value);
    return GIMBAL_OK;
}

int json_get_bool(const json_t *json, const char *where, const char *key, bool def, bool *out,
                  gimbal_error *err)
{
    const json_t *value = json_object_get(json, key);
    *out = def;
    if (!value)
        return GIMBAL_OK;
    if (!json_is_boolean(value))
        return wrong(value, where, key, "true or false", err);
    *out = json_is_true(value);
    return GIMBAL_OK;
}

int json_get_text(const json_t *json, const char *where, const char *key, const char *def, const char **out,
                  gimbal_error *err)
{
    const json_t *value = json_object_get(json, key);
    *out = def;
    if (!value || json_is_null(value))
        return GIMBAL_OK;
    if (!json_is_string(value))
        return wrong(value, where, key, "text", err);
    *out = json_string_value(value);
    return GIMBAL_OK;
}

static bool fits_int(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= INT_MIN &&
           json_integer_value(value) <= INT_MAX;
}

int json_get_ints(const json_t *json, const char *where, const char *key, int fill, int *out, int room,
                  int *n, gimbal_error *err)
{
    const json_t *value = json_object_get(json, key);
    *n = 0;
    if (!value || json_is_null(value))
        return GIMBAL_OK;
    char expected[80];
    snprintf(expected, sizeof expected, "%s of at most %d integers",
             fill > 0 ? "an integer or a list" : "a list", room);
    const bool single = fill > 0 && fill <= room && fits_int(value);
    const size_t count = single ? (size_t)fill : json_array_size(value);
    if ((!single && !json_is_array(value)) || count > (size_t)room)
        return wrong(value, where, key, expected, err);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = single ? value : json_array_get(value, i);
        if (!fits_int(item))
            return wrong(value, where, key, expected, err);
        out[i] = (int)json_integer_value(item);
    }
    *n = (int)count;
    return GIMBAL_OK;
}

/* ---- refusing what is not implemented ---------------------------------------------------- */

/* Equal as JSON values; 1 equals 1.0, at any depth of lists. */
static bool same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    if (!json_is_array(a) || !json_is_array(b))
        return json_equal(a, b);
    if (json_array_size(a) != json_array_size(b))
        return false;
    for (size_t i = 0; i < json_array_size(a); i++)
        if (!same(json_array_get(a, i), json_array_get(b, i)))
            return false;
    return true;
}

/* Is `value` one of the literals of "null|false|[1,1]"? */
static int allowed(const json_t *value, const char *literals, bool *yes, gimbal_error *err)
{
    *yes = false;
    for (const char *from = literals; !*yes; from++) {
        const size_t n = strcspn(from, "|");
        json_error_t e;
        json_t *literal = json_loadb(from, n, JSON_DECODE_ANY, &e);
        if (!literal)
            return fail(err, GIMBAL_ENOMEM, "no memory for the literal %.*s", (int)n, from);
        *yes = same(value, literal);
        json_decref(literal);
        from += n;
        if (!*from)
            break;
    }
    return GIMBAL_OK;
}

/* "null|false" as "null or false". */
static void spell(const char *literals, char *out, size_t room)
{
    size_t at = 0;
    for (const char *c = literals; *c && at + 8 < room; c++) {
        if (*c == '|')
            at += (size_t)snprintf(&out[at], room - at, " or ");
        else
            out[at++] = *c;
    }
    out[at] = 0;
}

int json_refuse(const json_t *json, const char *where, const ConfigRule *rules, gimbal_error *err)
{
    for (; rules->key; rules++) {
        const json_t *value = json_object_get(json, rules->key);
        bool yes = true;
        if (value)
            TRY(allowed(value, rules->allowed, &yes, err));
        if (yes)
            continue;
        char text[FOUND_ROOM], list[200];
        spell(rules->allowed, list, sizeof list);
        return fail_hint(err, GIMBAL_EMODEL, "this variant of the network is not implemented",
                         "%s: \"%s\" is %s; only %s is supported", where, rules->key, found(value, text),
                         list);
    }
    return GIMBAL_OK;
}
