/* plugins.c: gimbal_plugin_at: all registries of the library under one roof, the highest folder's. Knows tables.
 * Refuses to know what their entries do. */
#include "metric/metric.h"
#include "train/train.h"

#include <string.h>

int gimbal_plugin_at(const char *kind, int i, gimbal_plugin *out)
{
    if (!kind || !out || i < 0)
        return GIMBAL_EUSAGE;
    const Metric *metric = strcmp(kind, "metric") ? NULL : metric_at(i);
    const Family *family = strcmp(kind, "family") ? NULL : family_at(i);
    const Recipe *recipe = strcmp(kind, "recipe") ? NULL : recipe_at(i);
    if (metric)
        *out = (gimbal_plugin){metric->name, metric->help, metric->source, NULL};
    else if (family)
        *out = (gimbal_plugin){family->name, family->help, family->source, NULL};
    else if (recipe)
        *out = (gimbal_plugin){recipe->name, recipe->help, recipe->source, NULL};
    else
        return diffusion_plugin_at(kind, i, out);
    return GIMBAL_OK;
}
