/* recipe.c: all that is needed to make a clip again, as one line of JSON.
 *
 *     {"gimbal": "0.1.0", "model": "models/toyworld", "motion": null, "identity": "9f..",
 *      "family": "animatediff", "settings": {"prompt": "..", "cfg": 5.0, "seed": "42", ..},
 *      "given": ["latents"]}
 *
 * Settings are the option table's, resolved: what the caller left to the model stands there as a value. Seeds
 * are text, because JSON readers lose the upper bits of 64. `given` names tensors that came from files and
 * are not in the recipe. A recipe comes out of any clip somebody sends: it is parsed as hostile, unknown keys
 * are ignored, and values pass the same checks as the command line's. */
#include "diffusion/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECIPE_LIMIT = 1 << 20, RECIPE_DEPTH = 8 };

/* ---- writing ----------------------------------------------------------------------------- */

static json_t *field_json(const gimbal_option *o, const gimbal_settings *s)
{
    const void *field = (const char *)s + o->offset;
    char seed[24];
    switch (o->type) {
    case GIMBAL_BOOL:
        return json_boolean(*(const int *)field);
    case GIMBAL_INT:
        return json_integer(*(const int *)field);
    case GIMBAL_REAL:
        return json_real(*(const double *)field);
    case GIMBAL_SEED:
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)*(const uint64_t *)field);
        return json_string(seed);
    default:
        break;
    }
    const char *text = *(const char *const *)field;
    return text ? json_string(text) : json_null();
}

static json_t *settings_json(const gimbal_settings *s)
{
    json_t *out = json_object();
    for (const gimbal_option *o = gimbal_setting_options(); out && o->name; o++)
        if (json_object_set_new(out, o->name, field_json(o, s))) {
            json_decref(out);
            return NULL;
        }
    return out;
}

static json_t *given_json(const gimbal_settings *s)
{
    json_t *out = json_array();
    if (s->latents || s->chunk_latents)
        json_array_append_new(out, json_string("latents"));
    if (s->fresh)
        json_array_append_new(out, json_string("reinit-noise"));
    if (s->clip)
        json_array_append_new(out, json_string("clip"));
    if (s->image)
        json_array_append_new(out, json_string("image"));
    if (s->reference)
        json_array_append_new(out, json_string("reference"));
    return out;
}

/* A path may be no UTF-8, which JSON cannot say: then it is left unnamed, the identity still names the model.
 */
static json_t *path_json(const char *path)
{
    size_t bad;
    return json_string(utf8_check(path, &bad) >= 0 ? path : "");
}

char *gimbal_recipe_json(const gimbal_engine *e, const gimbal_settings *settings)
{
    gimbal_settings s = *settings;
    settings_fill(&s, e);
    json_t *root = json_pack("{s:s, s:o, s:o, s:s, s:s, s:o, s:o}", "gimbal", GIMBAL_VERSION, "model",
                             path_json(e->model), "motion", e->motion ? path_json(e->motion) : json_null(),
                             "identity", e->identity, "family", e->family->name, "settings",
                             settings_json(&s), "given", given_json(&s));
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    return text;
}

/* ---- reading ----------------------------------------------------------------------------- */

struct gimbal_recipe {
    json_t *root, *settings;
    const char *model, *motion, *identity; /* in root */
};

static int read_text(const json_t *root, const char *key, const char **out, gimbal_error *err)
{
    TRY(json_get_text(root, "recipe", key, NULL, out, err));
    return *out ? GIMBAL_OK : fail(err, GIMBAL_EFORMAT, "recipe: no \"%s\" in it", key);
}

static int read_recipe(gimbal_recipe *r, const char *json, gimbal_error *err)
{
    const size_t n = strlen(json);
    if (n > RECIPE_LIMIT)
        return fail(err, GIMBAL_EFORMAT, "recipe: %zu bytes, at most %d are read", n, RECIPE_LIMIT);
    TRY(json_parse(&r->root, json, n, RECIPE_DEPTH, "recipe", err));
    TRY(read_text(r->root, "model", &r->model, err));
    TRY(read_text(r->root, "identity", &r->identity, err));
    TRY(json_get_text(r->root, "recipe", "motion", NULL, &r->motion, err));
    r->settings = json_object_get(r->root, "settings");
    return json_is_object(r->settings) ? GIMBAL_OK
                                       : fail(err, GIMBAL_EFORMAT, "recipe: no object \"settings\" in it");
}

int gimbal_recipe_parse(gimbal_recipe **out, const char *json, gimbal_error *err)
{
    *out = NULL;
    gimbal_recipe *r = calloc(1, sizeof *r);
    if (!r)
        return fail(err, GIMBAL_ENOMEM, "no memory for a recipe");
    const int code = read_recipe(r, json, err);
    if (code)
        gimbal_recipe_free(r);
    else
        *out = r;
    return code;
}

const char *gimbal_recipe_model(const gimbal_recipe *r)
{
    return r->model;
}

const char *gimbal_recipe_motion(const gimbal_recipe *r)
{
    return r->motion;
}

const char *gimbal_recipe_identity(const gimbal_recipe *r)
{
    return r->identity;
}

static bool is_text(const gimbal_option *o)
{
    return o->type == GIMBAL_TEXT || o->type == GIMBAL_CHOICE || o->type == GIMBAL_SEED;
}

/* One value through gimbal_set, which wants text; numbers are spelled for it. Null: the model's own. */
static int apply_field(const gimbal_option *o, const json_t *value, gimbal_settings *s, gimbal_error *err)
{
    char number[40] = "";
    const char *text = number;
    if (json_is_null(value))
        return GIMBAL_OK;
    if (json_is_string(value) && is_text(o))
        text = json_string_value(value);
    else if (json_is_integer(value) && o->type != GIMBAL_TEXT && o->type != GIMBAL_CHOICE)
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value) && o->type == GIMBAL_REAL)
        snprintf(number, sizeof number, "%.17g", json_real_value(value));
    else if (json_is_boolean(value) && o->type == GIMBAL_BOOL)
        text = json_is_true(value) ? "1" : "0";
    else
        return fail(err, GIMBAL_EFORMAT, "recipe: \"%s\" has a value of the wrong type", o->name);
    return gimbal_set(gimbal_setting_options(), s, o->name, text, "recipe: ", err);
}

int gimbal_recipe_apply(const gimbal_recipe *r, gimbal_settings *settings, gimbal_error *err)
{
    gimbal_settings s = *settings; /* all or nothing */
    for (const gimbal_option *o = gimbal_setting_options(); o->name; o++) {
        const json_t *value = json_object_get(r->settings, o->name);
        if (value)
            TRY(apply_field(o, value, &s, err));
    }
    *settings = s;
    return GIMBAL_OK;
}

void gimbal_recipe_free(gimbal_recipe *r)
{
    if (!r)
        return;
    json_decref(r->root);
    free(r);
}
