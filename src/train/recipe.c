/* recipe.c: the table of recipes. Knows their names. Refuses to know what they learn. */
#include "train/train.h"

#include <string.h>

#define RECIPE_ENTRY(name) &recipe_##name,
static const Recipe *const recipes[] = {RECIPES(RECIPE_ENTRY) NULL};

const Recipe *recipe_at(int i)
{
    return i >= 0 && i < COUNT(recipes) ? recipes[i] : NULL;
}

const char *recipe_everything(const struct gimbal_trainer *t)
{
    (void)t;
    return "*";
}

static const char *name_at(const void *list, int i)
{
    return ((const Recipe *const *)list)[i]->name;
}

int recipe_find(const Recipe **out, const char *name, gimbal_error *err)
{
    for (int i = 0; recipes[i]; i++)
        if (!strcmp(recipes[i]->name, name)) {
            *out = recipes[i];
            return GIMBAL_OK;
        }
    const char *near = nearest_name(name, name_at, recipes, COUNT(recipes) - 1);
    char known[256] = "";
    for (int i = 0; recipes[i]; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 recipes[i]->name);
    if (near)
        return fail_hint(err, GIMBAL_EUSAGE, near, "no recipe '%.60s'; there are %s", name, known);
    return fail(err, GIMBAL_EUSAGE, "no recipe '%.60s'; there are %s", name, known);
}
