/* zoo.c: the table of model families: FAMILIES in model.h names them, each in a file of its own.
 *
 * Knows class names. Refuses to know what a family makes of its configs. */
#include "model/model.h"

#include <string.h>

#define FAMILY_ADDRESS(name) &family_##name,
static const Family *const families[] = {FAMILIES(FAMILY_ADDRESS) NULL};

const Family *family_at(int i)
{
    return i >= 0 && i < COUNT(families) ? families[i] : NULL;
}

/* "_class_name" of the U-Net's config; without one what model_index.json says: "unet": ["diffusers", CLASS].
 */
static const char *unet_class(const FolderConfigs *c)
{
    const char *name = json_string_value(json_object_get(c->unet, "_class_name"));
    return name ? name : json_string_value(json_array_get(json_object_get(c->index, "unet"), 1));
}

int family_find(const Family **out, const FolderConfigs *c, gimbal_error *err)
{
    char known[256] = "", q[QUOTED_ROOM];
    const char *found = unet_class(c);
    *out = NULL;
    for (int i = 0; families[i]; i++) {
        if (found && !strcmp(found, families[i]->unet_class) && !families[i]->split == !c->split) {
            *out = families[i];
            return GIMBAL_OK;
        }
        const size_t at = strlen(known);
        snprintf(&known[at], sizeof known - at, "%s%s (%s)", i ? ", " : "", families[i]->unet_class,
                 families[i]->name);
    }
    return fail(err, GIMBAL_EMODEL, "%s: \"_class_name\" is %s; known are %s",
                c->unet_where ? c->unet_where : "U-Net config", found ? quoted(found, q) : "absent", known);
}
