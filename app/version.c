/* version.c: gimbal --version: what this program is made of, what it runs on and which formats it writes.
 *
 * The facts are the library's and media.h's; here they are only put in order, as lines or as one JSON object.
 * Refuses to know libraries. */
#include "app/app.h"
#include "ranks/ranks.h"

#include <string.h>

/* ".mp4", ".gif", ..., ".safetensors" */
static json_t *formats(void)
{
    json_t *out = json_array();
    for (int i = 0; media_format_at(i); i++)
        json_array_append_new(out, json_string(media_format_at(i)->ending));
    json_array_append_new(out, json_string(".safetensors"));
    return out;
}

static json_t *names(const char *kind)
{
    gimbal_plugin plugin;
    json_t *out = json_array();
    for (int i = 0; !gimbal_plugin_at(kind, i, &plugin); i++)
        json_array_append_new(out, json_string(plugin.name));
    return out;
}

static void print_list(const char *name, const json_t *list)
{
    size_t i;
    json_t *item;
    printf("%s:", name);
    json_array_foreach((json_t *)list, i, item) printf(" %s", json_string_value(item));
    putchar('\n');
}

int print_version(bool json, gimbal_error *err)
{
    static const char *const kinds[] = {"family", "noise", "reinit", "sampler"};
    json_t *out = json_pack("{s:i}", "schema", 1), *writes = formats();
    for (int i = 0; gimbal_build_fact(i); i++)
        json_object_set_new(out, gimbal_build_fact(i)->name, json_string(gimbal_build_fact(i)->value));
    json_object_set_new(out, "FFmpeg", json_string(media_version()));
    if (ranks_version())
        json_object_set_new(out, "MPI", json_string(ranks_version()));
    json_object_set_new(out, "writes", writes);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        json_object_set_new(out, kinds[i], names(kinds[i]));
    if (json || !out)
        return print_json(out, err);
    printf("gimbal %s\n", gimbal_version());
    for (int i = 1; gimbal_build_fact(i); i++)
        printf("%s: %s\n", gimbal_build_fact(i)->name, gimbal_build_fact(i)->value);
    printf("FFmpeg: %s\n", media_version());
    if (ranks_version())
        printf("MPI: %s\n", ranks_version());
    print_list("writes", writes);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        print_list(kinds[i], json_object_get(out, kinds[i]));
    json_decref(out);
    return flush_stdout(err);
}
