/* fuzz_recipe.c: any text as a clip's recipe: parsed, asked for its names, applied to settings. What is
 * applied lies within the option table's ranges, and a recipe written from it says the same; what is refused
 * changes nothing. */
#include "tests/fuzz/fuzz.h"

/* An engine to write recipes for: the golden model, opened once. */
static const gimbal_engine *recipe_engine(void)
{
    static gimbal_engine *engine;
    gimbal_error err = {0};
    if (!engine)
        WANT(!gimbal_open(&engine, "tests/golden/models/animatediff-tiny",
                          "tests/golden/models/animatediff-tiny-motion", &err));
    return engine;
}

/* `s` through a recipe of ours and back. */
static void round_trip_recipe(const gimbal_settings *s)
{
    gimbal_recipe *recipe;
    gimbal_settings back = *s;
    gimbal_error err = {0};
    char *json = gimbal_recipe_json(recipe_engine(), s);
    WANT(json && !strchr(json, '\n'));
    WANT(!gimbal_recipe_parse(&recipe, json, &err) && !gimbal_recipe_apply(recipe, &back, &err));
    WANT(!strcmp(gimbal_recipe_identity(recipe), gimbal_identity(recipe_engine())));
    for (const gimbal_option *o = gimbal_setting_options(); o->name; o++) {
        char was[8192], is[8192];
        option_print(o, s, was, sizeof was);
        option_print(o, &back, is, sizeof is);
        WANT(!was[0] || !strcmp(o->name, "threads") || !strcmp(o->name, "dtype") || !strcmp(was, is));
    }
    gimbal_recipe_free(recipe);
    free(json);
}

static void want_in_range(const gimbal_settings *s)
{
    for (const gimbal_option *o = gimbal_setting_options(); o->name; o++) {
        const char *field = (const char *)s + o->offset;
        if (o->type == GIMBAL_INT)
            WANT(*(const int *)(const void *)field >= o->min && *(const int *)(const void *)field <= o->max);
        if (o->type == GIMBAL_REAL)
            WANT(*(const double *)(const void *)field >= o->min &&
                 *(const double *)(const void *)field <= o->max);
    }
}

FUZZ(recipe)
{
    gimbal_error err = {0};
    gimbal_recipe *recipe;
    gimbal_settings before, s;
    memset(&before, 0, sizeof before);
    before.size = sizeof before;
    options_default(gimbal_setting_options(), &before);
    before.frames = 5, before.width = before.height = 64, before.steps = 2;
    s = before;

    char *text = next_text(&data, &size, 0);
    int code = gimbal_recipe_parse(&recipe, text, &err);
    want_message(code, &err);
    WANT(!code == (recipe != NULL));
    if (!code) {
        WANT(gimbal_recipe_model(recipe) && gimbal_recipe_identity(recipe));
        WANT(!gimbal_recipe_motion(recipe) || strlen(gimbal_recipe_motion(recipe)) < (1 << 20));
        code = gimbal_recipe_apply(recipe, &s, &err);
        want_message(code, &err);
        if (code)
            WANT(!memcmp(&s, &before, sizeof s));
        else
            want_in_range(&s), round_trip_recipe(&s);
    }
    gimbal_recipe_free(recipe);
    free(text);
    return 0;
}
