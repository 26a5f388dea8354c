/* fuzz_options.c: any text as options: lines "kind text", where the kind is n, r or s for the spec of a noise
 * prior, a re-initialiser or a sampler, o for the options of a table of every type, g for a setting
 * "name=value" as the command line hands it over, k the name of a registry. What is accepted reads back from
 * what option_print makes of it, and a re-initialiser's plan stays within its bounds. */
#include "tests/fuzz/fuzz.h"

#include "diffusion/diffusion.h"

#include <math.h>

typedef struct {
    int flag, count;
    double weight;
    const char *text, *word;
    uint64_t seed;
} Every;

static const char *const every_words[] = {"one", "two", "three", NULL};
static const gimbal_option every_table[] = {
    {"flag", "a yes or no", GIMBAL_BOOL, offsetof(Every, flag), 0, 0, 0, NULL, NULL},
    {"count", "a whole number", GIMBAL_INT, offsetof(Every, count), 3, -7, 1000, NULL, NULL},
    {"weight", "a number", GIMBAL_REAL, offsetof(Every, weight), 0.5, -1e6, 1e300, NULL, NULL},
    {"text", "a text", GIMBAL_TEXT, offsetof(Every, text), 0, 0, 0, "t", NULL},
    {"word", "one of three", GIMBAL_CHOICE, offsetof(Every, word), 0, 0, 0, "one", every_words},
    {"seed", "a seed", GIMBAL_SEED, offsetof(Every, seed), 1, 0, 0, NULL, NULL},
    {.name = NULL},
};

static bool field_allowed(const gimbal_option *o, const void *object)
{
    const char *field = (const char *)object + o->offset;
    switch (o->type) {
    case GIMBAL_BOOL:
        return *(const int *)(const void *)field == 0 || *(const int *)(const void *)field == 1;
    case GIMBAL_INT:
        return *(const int *)(const void *)field >= o->min && *(const int *)(const void *)field <= o->max;
    case GIMBAL_REAL:
        return *(const double *)(const void *)field >= o->min &&
               *(const double *)(const void *)field <= o->max;
    case GIMBAL_CHOICE:
        for (int i = 0; o->choices[i]; i++)
            if (!strcmp(*(const char *const *)(const void *)field, o->choices[i]))
                return true;
        return false;
    default:
        return true;
    }
}

/* Every field of `object` is allowed, and printing and setting it gives the same field. */
static void want_read_back(const gimbal_option *table, const void *object)
{
    for (const gimbal_option *o = table; o && o->name; o++) {
        char text[8192], back[8192];
        gimbal_error err = {0};
        union {
            int i;
            double r;
            const char *t;
            uint64_t s;
        } field;
        gimbal_option one[2] = {*o, {.name = NULL}};
        one[0].offset = 0;
        WANT(field_allowed(o, object));
        option_print(o, object, text, sizeof text);
        WANT(!gimbal_set(one, &field, o->name, text, "--", &err));
        option_print(one, &field, back, sizeof back);
        WANT(!strcmp(text, back));
    }
}

static void try_table(const char *text)
{
    Every every;
    Arena keep = {0};
    gimbal_error err = {0};
    const int code = options_parse(every_table, &every, text, "every: ", &keep, &err);
    want_message(code, &err);
    if (!code)
        want_read_back(every_table, &every);
    arena_free(&keep);
}

/* "name=value" */
static void try_setting(char *text)
{
    gimbal_settings s;
    gimbal_error err = {0};
    char *equals = strchr(text, '=');
    if (equals)
        *equals = 0;
    options_default(gimbal_setting_options(), &s);
    const int code = gimbal_set(gimbal_setting_options(), &s, text, equals ? equals + 1 : "", "--", &err);
    want_message(code, &err);
    for (const gimbal_option *o = gimbal_setting_options(); o->name && !code; o++)
        WANT(strcmp(o->name, text) || field_allowed(o, &s));
}

static void try_plan(const Reinit *reinit, const void *self)
{
    static const int steps[] = {1, 2, 25, 1000};
    for (int k = 0; k < COUNT(steps); k++) {
        Pass pass[MAX_PASSES];
        memset(pass, 0xA5, sizeof pass); /* every field is to be set */
        const int n = reinit->plan(self, steps[k], pass, MAX_PASSES);
        WANT(n <= MAX_PASSES);
        for (int i = 0; i < n; i++)
            WANT(pass[i].steps >= 1 && pass[i].run >= 0 && pass[i].run <= pass[i].steps && pass[i].cfg >= 0 &&
                 pass[i].until >= 0);
    }
    Lowpass mask;
    if (reinit->lowpass)
        WANT(reinit->lowpass(self, &mask) <= 0);
}

static void try_spec(char kind, const char *spec)
{
    const Noise *noise;
    const Reinit *reinit;
    const Sampler *sampler;
    void *self;
    Arena keep = {0};
    gimbal_error err = {0};
    int code;
    if (kind == 'n') {
        code = noise_parse(spec, &noise, &self, &keep, &err);
        if (!code) {
            want_read_back(noise->options, self);
            WANT(fabs(noise->corr(self, 0, 0) - 1) < 1e-9 && fabs(noise->corr(self, 0, 3)) <= 1);
        }
    } else if (kind == 'r') {
        code = reinit_parse(spec, &reinit, &self, &keep, &err);
        if (!code)
            want_read_back(reinit->options, self), try_plan(reinit, self);
    } else {
        code = sampler_parse(spec, &sampler, &self, &keep, &err);
        if (!code)
            want_read_back(sampler->options, self);
    }
    want_message(code, &err);
    arena_free(&keep);
}

/* What a registry lists is found by its name, and text that is none of its kinds is no registry. */
static void try_registry(const char *kind)
{
    gimbal_plugin p;
    int n = 0;
    while (!gimbal_plugin_at(kind, n, &p)) {
        WANT(p.name[0] && p.help[0] && p.source[0]);
        n++;
    }
    WANT(n > 0 || (strcmp(kind, "noise") && strcmp(kind, "reinit") && strcmp(kind, "sampler")));
    WANT(gimbal_plugin_at(kind, -1, &p) == GIMBAL_EUSAGE);
}

static const char *setting_name(const void *table, int i)
{
    return ((const gimbal_option *)table)[i].name;
}

FUZZ(options)
{
    while (size) {
        size_t bad;
        char *line = next_text(&data, &size, '\n');
        const char kind = line[0];
        if (strlen(line) < 8000 && kind) {
            char *text = line + 1 + (line[1] == ' ');
            const long n = utf8_check(text, &bad);
            WANT(n < 0 ? bad < strlen(text) : n == (long)strlen(text));
            const char *near = nearest_name(text, setting_name, gimbal_setting_options(), 5);
            WANT(!near || strlen(near) < 16);
            if (kind == 'o')
                try_table(text);
            else if (kind == 'g')
                try_setting(text);
            else if (kind == 'k')
                try_registry(text);
            else if (strchr("nrs", kind))
                try_spec(kind, text);
        }
        free(line);
    }
    return 0;
}
