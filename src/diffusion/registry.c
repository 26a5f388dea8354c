/* registry.c: the tables of noise priors, re-initialisers and samplers, and "name:key=value,..." as text.
 *
 * Each table is generated from its X-macro line in diffusion.h: a new plug-in is one file and one word
 * there. A row holds addresses of the plug-in's members, because a member's value is no constant
 * expression in C11.
 *
 * Knows names and option tables. Refuses to know what a plug-in does. */
#include "diffusion/diffusion.h"

#include <string.h>

typedef struct {
    const void *plugin;
    const char *const *name, *const *help, *const *source;
    const gimbal_option *const *options;
    const size_t *size;
} Row;

#define ROW(p) {&(p), &(p).name, &(p).help, &(p).source, &(p).options, &(p).size},
#define NOISE_ROW(n) ROW(noise_##n)
#define REINIT_ROW(n) ROW(reinit_##n)
#define SAMPLER_ROW(n) ROW(sampler_##n)
static const Row noises[] = {NOISES(NOISE_ROW)};
static const Row reinits[] = {REINITS(REINIT_ROW)};
static const Row samplers[] = {SAMPLERS(SAMPLER_ROW)};

typedef struct {
    const char *kind, *title; /* as in gimbal_plugin_at; as in messages */
    const Row *rows;
    int count;
} Registry;

static const Registry noise_registry = {"noise", "noise prior", noises, COUNT(noises)};
static const Registry reinit_registry = {"reinit", "re-initialiser", reinits, COUNT(reinits)};
static const Registry sampler_registry = {"sampler", "sampler", samplers, COUNT(samplers)};

static const char *row_name(const void *list, int i)
{
    return *((const Registry *)list)->rows[i].name;
}

static int unknown(const Registry *registry, const char *word, gimbal_error *err)
{
    char known[256] = "";
    for (int i = 0; i < registry->count; i++) {
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", row_name(registry, i));
    }
    const char *near = nearest_name(word, row_name, registry, registry->count);
    char hint[128] = "";
    if (near)
        snprintf(hint, sizeof hint, "did you mean %s?", near);
    return fail_hint(err, GIMBAL_EUSAGE, hint, "%s \"%.64s\" is unknown; known: %s", registry->title, word,
                     known);
}

/* "freeinit:passes=3" -> its row and *self, the private struct filled from the option table. */
static int parse(const Registry *registry, const char *spec, const Row **out, void **self, Arena *keep,
                 gimbal_error *err)
{
    static const gimbal_option none[] = {{.name = NULL}};
    char word[80];
    snprintf(word, sizeof word, "%.*s", (int)MIN(strcspn(spec ? spec : "", ":"), sizeof word - 1),
             spec ? spec : "");

    const Row *row = NULL;
    for (int i = 0; i < registry->count && !row; i++)
        if (!strcmp(word, row_name(registry, i)))
            row = &registry->rows[i];
    if (!row)
        return unknown(registry, word, err);

    void *object = arena_alloc(keep, MAX(*row->size, (size_t)1));
    if (!object)
        return fail(err, GIMBAL_ENOMEM, "%s %s: no memory for its %zu bytes", registry->title, word,
                    *row->size);
    const char *colon = strchr(spec, ':');
    char what[96];
    snprintf(what, sizeof what, "%s: ", word);
    TRY(options_parse(*row->options ? *row->options : none, object, colon ? colon + 1 : "", what, keep, err));
    *out = row, *self = object;
    return GIMBAL_OK;
}

int noise_parse(const char *spec, const Noise **noise, void **self, Arena *keep, gimbal_error *err)
{
    const Row *row;
    TRY(parse(&noise_registry, spec, &row, self, keep, err));
    *noise = row->plugin;
    return GIMBAL_OK;
}

int reinit_parse(const char *spec, const Reinit **reinit, void **self, Arena *keep, gimbal_error *err)
{
    const Row *row;
    TRY(parse(&reinit_registry, spec, &row, self, keep, err));
    *reinit = row->plugin;
    return GIMBAL_OK;
}

int sampler_parse(const char *spec, const Sampler **sampler, void **self, Arena *keep, gimbal_error *err)
{
    const Row *row;
    TRY(parse(&sampler_registry, spec, &row, self, keep, err));
    *sampler = row->plugin;
    return GIMBAL_OK;
}

int diffusion_plugin_at(const char *kind, int i, gimbal_plugin *out)
{
    const Registry *const registries[] = {&noise_registry, &reinit_registry, &sampler_registry};
    for (int r = 0; r < COUNT(registries); r++)
        if (!strcmp(kind, registries[r]->kind) && i < registries[r]->count) {
            const Row *row = &registries[r]->rows[i];
            *out = (gimbal_plugin){*row->name, *row->help, *row->source, *row->options};
            return GIMBAL_OK;
        }
    return GIMBAL_EUSAGE;
}
