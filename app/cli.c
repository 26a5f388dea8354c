/* cli.c: the command line taken apart, help written from the same option tables, and small tools.
 *
 * Names, types, ranges and choices are the tables'; every value goes through gimbal_set, which the library's
 * own specs and recipes go through too, so that a wrong value reads the same everywhere. Refuses to know what
 * a flag does. */
#include "app/app.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- errors ------------------------------------------------------------------------------ */

int complain(gimbal_error *err, int code, const char *hint, const char *fmt, ...)
{
    if (err->code)
        return code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
    err->code = code;
    return code;
}

int fail_memory(gimbal_error *err)
{
    return complain(err, GIMBAL_ENOMEM, NULL, "out of memory");
}

int unknown_word(const char *const *words, const char *what, const char *word, gimbal_error *err)
{
    const gimbal_option choice[] = {{.name = what, .type = GIMBAL_CHOICE, .choices = words}, {.name = NULL}};
    const char *chosen;
    return gimbal_set(choice, &chosen, what, word, "", err);
}

/* ---- flags ------------------------------------------------------------------------------- */

static int join_tables(Args *args, const Command *command, gimbal_error *err)
{
    const gimbal_option *parts[] = {command->options, command->settings ? command->settings() : NULL};
    int n = 0;
    for (int i = 0; i < 2; i++)
        for (const gimbal_option *o = parts[i]; o && o->name; o++) {
            if (n == TABLE_ROOM - 1)
                return complain(err, GIMBAL_EUSAGE, NULL, "%s has more than %d flags", command->name, n);
            args->table[n++] = *o;
        }
    return GIMBAL_OK;
}

static const gimbal_option *find(const gimbal_option *table, const char *name, size_t n)
{
    for (; table->name; table++)
        if (strlen(table->name) == n && !memcmp(table->name, name, n))
            return table;
    return NULL;
}

/* What a short flag stands for; NULL: it is none. */
static const char *long_name(const char *word)
{
    return !strcmp(word, "-o") ? "output" : !strcmp(word, "-q") ? "quiet" : NULL;
}

/* argv[*i] is a flag; takes its value too and moves *i past it. */
static int read_flag(Args *args, const Command *command, int argc, char **argv, int *i, gimbal_error *err)
{
    const char *full = long_name(argv[*i]);
    const char *name = full ? full : argv[*i] + 2, *equals = strchr(name, '=');
    const size_t n = equals ? (size_t)(equals - name) : strlen(name);
    char word[80];
    snprintf(word, sizeof word, "%.*s", (int)n, name);
    const gimbal_option *option = find(args->table, name, n);
    if (!option && full)
        return complain(err, GIMBAL_EUSAGE, NULL, "%s has no --%s: %s has no meaning here", command->name,
                        full, argv[*i]);
    if (!option)
        return gimbal_set(args->table, NULL, word, "", "--", err);
    const char *value = equals ? equals + 1 : option->type == GIMBAL_BOOL ? "1" : NULL;
    if (!value && *i + 1 < argc)
        value = argv[++*i];
    if (!value)
        return complain(err, GIMBAL_EUSAGE, NULL, "--%s wants a value", option->name);
    args->flags[args->n_flags].name = option->name;
    args->flags[args->n_flags++].value = value;
    return GIMBAL_OK;
}

int args_read(Args *args, const Command *command, int argc, char **argv, gimbal_error *err)
{
    bool flags = true;
    memset(args, 0, sizeof *args);
    TRY(join_tables(args, command, err));
    args->flags = calloc((size_t)argc + 1, sizeof *args->flags);
    args->words = calloc((size_t)argc + 1, sizeof *args->words);
    args->flags_before = calloc((size_t)argc + 1, sizeof *args->flags_before);
    if (!args->flags || !args->words || !args->flags_before)
        return fail_memory(err);
    for (int i = 0; i < argc && !args->help; i++) {
        const char *word = argv[i];
        if (!flags || word[0] != '-' || !word[1]) {
            args->flags_before[args->n_words] = args->n_flags;
            args->words[args->n_words++] = word;
        } else if (!strcmp(word, "--"))
            flags = false;
        else if (!strcmp(word, "-h") || !strcmp(word, "--help"))
            args->help = true;
        else if (word[1] == '-' || long_name(word))
            TRY(read_flag(args, command, argc, argv, &i, err));
        else
            return complain(err, GIMBAL_EUSAGE, "short flags are -o, -q and -h; -- ends the flags",
                            "%.60s: no such option of %s", word, command->name);
    }
    return GIMBAL_OK;
}

void args_defaults(const Command *command, void *object)
{
    for (const gimbal_option *o = command->options; o && o->name; o++) {
        void *field = (char *)object + o->offset;
        if (o->type == GIMBAL_TEXT || o->type == GIMBAL_CHOICE)
            *(const char **)field = o->text;
        else if (o->type == GIMBAL_REAL)
            *(double *)field = o->def;
        else if (o->type == GIMBAL_SEED)
            *(uint64_t *)field = (uint64_t)o->def;
        else
            *(int *)field = (int)o->def;
    }
}

int args_apply(const Args *args, void *object, gimbal_error *err)
{
    for (int i = 0; i < args->n_flags; i++)
        TRY(gimbal_set(args->table, object, args->flags[i].name, args->flags[i].value, "--", err));
    return GIMBAL_OK;
}

bool args_has(const Args *args, const char *name)
{
    for (int i = 0; i < args->n_flags; i++)
        if (!strcmp(args->flags[i].name, name))
            return true;
    return false;
}

void args_free(Args *args)
{
    free(args->flags);
    free(args->words);
    free(args->flags_before);
}

/* ---- help -------------------------------------------------------------------------------- */

/* "--spacing leading|linspace|trailing" */
void option_label(const gimbal_option *o, const char *dashes, char *out, size_t room)
{
    static const char *const placeholder[] = {
        [GIMBAL_BOOL] = "",      [GIMBAL_INT] = " N",   [GIMBAL_REAL] = " X",
        [GIMBAL_TEXT] = " TEXT", [GIMBAL_CHOICE] = " ", [GIMBAL_SEED] = " N",
    };
    size_t n = (size_t)snprintf(out, room, "%s%s%s", dashes, o->name, placeholder[o->type]);
    for (int i = 0; o->type == GIMBAL_CHOICE && o->choices[i] && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%s", i ? "|" : "", o->choices[i]);
}

void print_default(const gimbal_option *o, FILE *out)
{
    const bool text = o->type == GIMBAL_TEXT || o->type == GIMBAL_CHOICE;
    if (text && o->text && *o->text)
        fprintf(out, " [%s]", o->text);
    else if (!text && o->def != 0) /* 0: off, or the model's own */
        fprintf(out, " [%.10g]", o->def);
}

static void print_options(const gimbal_option *table, const char *dashes, FILE *out)
{
    enum { COLUMN = 26 };
    for (const gimbal_option *o = table; o && o->name; o++) {
        char label[160];
        option_label(o, dashes, label, sizeof label);
        if (strlen(label) < COLUMN)
            fprintf(out, "  %-*s%s", COLUMN, label, o->help);
        else
            fprintf(out, "  %s\n  %*s%s", label, COLUMN, "", o->help);
        print_default(o, out);
        fputc('\n', out);
    }
}

void print_command_help(const Command *command, FILE *out)
{
    fprintf(out, "usage: gimbal %s\n\n%s\n\n", command->usage, command->help);
    print_options(command->options, "--", out);
    if (command->settings) {
        fputs("\nsettings (without one, the model's own default holds)\n", out);
        print_options(command->settings(), "--", out);
    }
    if (command->more)
        fprintf(out, "\n%s", command->more);
    gimbal_plugin first;
    if (!gimbal_plugin_at(command->name, 0, &first)) { /* "noise" is a registry too */
        fputc('\n', out);
        print_registry(command->name, out);
    }
}

bool print_registry(const char *kind, FILE *out)
{
    gimbal_plugin plugin;
    int n = 0;
    for (; !gimbal_plugin_at(kind, n, &plugin); n++) {
        fprintf(out, "%s--%s %s%s: %s\n", n ? "\n" : "", kind, plugin.name,
                plugin.options && plugin.options->name ? ":key=value,..." : "", plugin.help);
        if (plugin.source && *plugin.source)
            fprintf(out, "  (%s)\n", plugin.source);
        print_options(plugin.options, "", out);
    }
    return n > 0;
}

/* ---- paths ------------------------------------------------------------------------------- */

bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && !strcasecmp(text + n - m, ending);
}

int check_place(const char *path, gimbal_error *err)
{
    struct stat st;
    char *trial;
    const char *slash = strrchr(path, '/');
    const int n = slash ? (int)(slash - path) + 1 : 0;
    if (!*path)
        return complain(err, GIMBAL_EUSAGE, NULL, "the output's name is empty");
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        return complain(err, GIMBAL_EIO, "give the name of a file", "%s: is a folder", path);
    if (asprintf(&trial, "%.*s.gimbal-trial-%d", n, path, (int)getpid()) < 0)
        return fail_memory(err);
    const int fd = open(trial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), reason = errno;
    if (fd >= 0) {
        close(fd);
        unlink(trial);
    }
    free(trial);
    if (fd >= 0)
        return GIMBAL_OK;
    char folder[512];
    snprintf(folder, sizeof folder, "%.*s", n, path);
    const bool missing = n && stat(folder, &st);
    return complain(err, GIMBAL_EIO, missing ? "create the folder first" : NULL, "%s: cannot be written: %s",
                    path, strerror(reason));
}

/* The %d or %0Nd of a file's name: where it begins, its length and digits; NULL: no such thing, or more than
 * it. */
static const char *find_number(const char *path, int *length, int *digits)
{
    const char *slash = strrchr(path, '/'), *percent = strchr(slash ? slash : path, '%');
    if (!percent)
        return NULL;
    const bool wide = percent[1] == '0' && percent[2] >= '1' && percent[2] <= '9';
    *digits = wide ? percent[2] - '0' : 1;
    *length = wide ? 4 : 2;
    const char *end = percent + *length;
    return end[-1] == 'd' && !strchr(end, '%') ? percent : NULL;
}

bool names_pictures(const char *path)
{
    const media_format *format;
    for (int i = 0; (format = media_format_at(i)); i++)
        if (format->pictures && ends_with(path, format->ending))
            return true;
    return false;
}

bool names_clips(const char *path)
{
    int length, digits;
    return !names_pictures(path) && find_number(path, &length, &digits);
}

char *numbered_path(const char *path, int number)
{
    char *out;
    int length, digits, n;
    const char *found = find_number(path, &length, &digits);
    if (found && names_clips(path)) {
        n = asprintf(&out, "%.*s%0*d%s", (int)(found - path), path, digits, number, found + length);
    } else if (found) {
        n = asprintf(&out, "%.*s%04d-%s", (int)(found - path), path, number, found);
    } else {
        const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
        dot = dot ? dot : path + strlen(path);
        n = asprintf(&out, "%.*s-%04d%s", (int)(dot - path), path, number, dot);
    }
    return n < 0 ? NULL : out;
}

/* ---- JSON -------------------------------------------------------------------------------- */

json_t *json_text(const char *text)
{
    json_t *out = text ? json_string(text) : json_null();
    if (out)
        return out;
    char *copy = strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    out = copy ? json_string(copy) : NULL;
    free(copy);
    return out;
}

int print_json(json_t *object, gimbal_error *err)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(object);
    if (!text)
        return fail_memory(err);
    puts(text);
    free(text);
    return flush_stdout(err);
}

static void print_value(const json_t *value, FILE *out)
{
    if (json_is_string(value)) {
        fputs(json_string_value(value), out);
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    fputs(text ? text : "?", out);
    free(text);
}

void print_tree(const json_t *object, int indent, FILE *out)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        fprintf(out, "%*s%s:", indent, "", key);
        if (json_is_object(value) && json_object_size(value)) {
            fputc('\n', out);
            print_tree(value, indent + 2, out);
            continue;
        }
        const json_t *first = json_array_get(value, 0);
        if (json_is_string(first) ||
            json_is_object(first)) { /* a list of sentences or of things: one a line */
            size_t i;
            json_t *item;
            json_array_foreach((json_t *)value, i, item)
            {
                fprintf(out, "\n%*s", indent + 2, "");
                print_value(item, out);
            }
        } else {
            fputc(' ', out);
            print_value(value, out);
        }
        fputc('\n', out);
    }
}

int flush_stdout(gimbal_error *err)
{
    if (!fflush(stdout) && !ferror(stdout))
        return GIMBAL_OK;
    const int reason = errno;
    return complain(err, GIMBAL_EIO, NULL, reason == EPIPE ? "" : "standard output cannot be written: %s",
                    strerror(reason));
}
