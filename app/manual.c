/* manual.c: gimbal help --man, --bash, --zsh: the man page and the completions, written from the option
 * tables that the program itself reads, so that they cannot fall behind it.
 *
 * Printed to stdout; `make install` puts them in place. roff for man(7); bash's and zsh's own completion
 * languages. Flags with choices complete them, those of registries the names in them, all other texts files.
 * Refuses to know what a flag does. */
#include "app/app.h"

#include <string.h>

/* ---- every flag of a subcommand ---------------------------------------------------------- */

/* The i-th flag: its own first, then the settings; NULL past the end. */
static const gimbal_option *flag_at(const Command *command, int i)
{
    const gimbal_option *o = command->options;
    for (; o && o->name; o++)
        if (i-- == 0)
            return o;
    for (o = command->settings ? command->settings() : NULL; o && o->name; o++)
        if (i-- == 0)
            return o;
    return NULL;
}

/* A registry of that name: its entries complete the flag. */
static bool is_registry(const char *name)
{
    gimbal_plugin plugin;
    return !gimbal_plugin_at(name, 0, &plugin);
}

static bool takes_number(const gimbal_option *o)
{
    return o->type == GIMBAL_INT || o->type == GIMBAL_REAL || o->type == GIMBAL_SEED;
}

/* Words that complete a value, each with `before` and `after` around it; false: there is no list. */
static bool print_words(const gimbal_option *o, const char *before, const char *after)
{
    gimbal_plugin plugin;
    for (int i = 0; o->type == GIMBAL_CHOICE && o->choices[i]; i++)
        printf("%s%s%s", before, o->choices[i], after);
    for (int i = 0; o->type == GIMBAL_TEXT && !gimbal_plugin_at(o->name, i, &plugin); i++)
        printf("%s%s%s", before, plugin.name, after);
    return o->type == GIMBAL_CHOICE || (o->type == GIMBAL_TEXT && is_registry(o->name));
}

/* ---- man page ---------------------------------------------------------------------------- */

/* Text as roff: backslashes and dashes as themselves, no line a request by accident. */
static void roff(const char *text)
{
    bool start = true;
    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else
            putchar(*text);
        start = *text == '\n';
    }
}

static void roff_options(const gimbal_option *table, const char *dashes)
{
    char label[256];
    for (const gimbal_option *o = table; o && o->name; o++) {
        option_label(o, dashes, label, sizeof label);
        fputs(".TP\n.B ", stdout);
        roff(label);
        putchar('\n');
        roff(o->help);
        print_default(o, stdout);
        putchar('\n');
    }
}

static void roff_command(const Command *command)
{
    fputs(".SS gimbal ", stdout);
    roff(command->usage);
    putchar('\n');
    roff(command->help);
    putchar('\n');
    roff_options(command->options, "--");
    if (command->settings) {
        fputs(".PP\nSettings; without one, the model's own default holds:\n", stdout);
        roff_options(command->settings(), "--");
    }
    if (command->more) {
        fputs(".PP\n.nf\n", stdout);
        roff(command->more);
        fputs(".fi\n", stdout);
    }
}

static void roff_registry(const char *kind)
{
    gimbal_plugin plugin;
    for (int i = 0; !gimbal_plugin_at(kind, i, &plugin); i++) {
        printf(".SS \\-\\-%s %s\n", kind, plugin.name);
        roff(plugin.help);
        fputs(".\n", stdout);
        if (plugin.source && *plugin.source) {
            fputs(".br\n(", stdout);
            roff(plugin.source);
            fputs(")\n", stdout);
        }
        roff_options(plugin.options, "");
    }
}

static void print_man(void)
{
    printf(".TH GIMBAL 1 \"\" \"gimbal %s\" \"User Commands\"\n", gimbal_version());
    fputs(
        ".SH NAME\ngimbal \\- temporally consistent video diffusion\n"
        ".SH SYNOPSIS\n.B gimbal\n.I COMMAND\n[\\fIFLAGS\\fR]\n"
        ".SH DESCRIPTION\nTurns a prompt into a clip with a diffusion model in a folder, and keeps the clip "
        "steady.\nResults go to standard output, words to standard error. Flags are \\-\\-name value or "
        "\\-\\-name=value; \\-o is\n\\-\\-output, \\-q is \\-\\-quiet, \\-h is \\-\\-help; \\-\\- ends "
        "them.\n"
        "Outputs appear whole or not at all.\n.SH COMMANDS\n",
        stdout);
    for (int i = 0; command_at(i); i++)
        roff_command(command_at(i));
    fputs(".SS gimbal help [TOPIC|\\-\\-man|\\-\\-bash|\\-\\-zsh]\nExplains a command or a registry (noise, "
          "reinit, "
          "sampler); or prints this page, or the completions for a shell.\n"
          ".SS gimbal \\-\\-version [\\-\\-json]\nWhat this build is made of and which formats it writes.\n"
          ".SH METHODS\nFlags that name a method take its knobs behind a colon: "
          "\\-\\-reinit freeinit:passes=3,filter=gaussian.\n",
          stdout);
    roff_registry("noise");
    roff_registry("reinit");
    roff_registry("sampler");
    fputs(".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage, 130 after Ctrl\\-C, 143 after SIGTERM.\n"
          ".SH ENVIRONMENT\n.TP\n.B NO_COLOR, FORCE_COLOR\nChange nothing: gimbal prints no colours.\n"
          ".TP\n.B GOMP_SPINCOUNT, OMP_WAIT_POLICY\nHow threads wait for each other. Unless one of them is "
          "set, "
          "gimbal sets\nGOMP_SPINCOUNT to 1000, which is kind to other programs.\n",
          stdout);
}

/* ---- bash -------------------------------------------------------------------------------- */

static void bash_values(const Command *command)
{
    for (int i = 0; flag_at(command, i); i++) {
        const gimbal_option *o = flag_at(command, i);
        if (takes_number(o)) {
            printf("    %s:--%s) return ;;\n", command->name, o->name);
        } else if (o->type == GIMBAL_CHOICE || is_registry(o->name)) {
            printf("    %s:--%s) words='", command->name, o->name);
            print_words(o, "", " ");
            fputs("' ;;\n", stdout);
        } else if (o->type == GIMBAL_TEXT) {
            printf("    %s:--%s) files=1 ;;\n", command->name, o->name);
        }
    }
}

static void bash_flags(const Command *command)
{
    printf("    %s) flags='", command->name);
    for (int i = 0; flag_at(command, i); i++)
        printf("--%s ", flag_at(command, i)->name);
    fputs("--help' ;;\n", stdout);
}

static void print_bash(void)
{
    fputs("# bash completion for gimbal, printed by: gimbal help --bash\n"
          "_gimbal()\n{\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} "
          "command=${COMP_WORDS[1]}\n"
          "    local flags= words= files=\n"
          "    COMPREPLY=()\n"
          "    [ \"$word\" = = ] && word=\n"
          "    [ \"$before\" = = ] && before=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
          "        COMPREPLY=($(compgen -W '",
          stdout);
    for (int i = 0; command_at(i); i++)
        printf("%s ", command_at(i)->name);
    fputs("help --help --version' -- \"$word\"))\n        return\n    fi\n"
          "    case $command:$before in\n    *:-o) files=1 ;;\n    --version:*) words='--json' ;;\n    "
          "help:*) words='",
          stdout);
    for (int i = 0; command_at(i); i++)
        printf("%s ", command_at(i)->name);
    fputs("noise reinit sampler --man --bash --zsh' ;;\n", stdout);
    for (int i = 0; command_at(i); i++)
        bash_values(command_at(i));
    fputs("    esac\n    case $command in\n", stdout);
    for (int i = 0; command_at(i); i++)
        bash_flags(command_at(i));
    fputs("    esac\n"
          "    if [ -n \"$words\" ]; then\n"
          "        COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
          "    elif [ -z \"$files\" ] && [ \"${word:0:1}\" = - ]; then\n"
          "        COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n"
          "    else\n"
          "        compopt -o filenames 2> /dev/null\n"
          "        mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
          "    fi\n"
          "}\n"
          "complete -F _gimbal gimbal\n",
          stdout);
}

/* ---- zsh --------------------------------------------------------------------------------- */

/* Inside single quotes, and inside the brackets of an _arguments specification. */
static void zsh_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else if (strchr("[]:\\", *text))
            printf("\\%c", *text);
        else
            putchar(*text);
    }
}

static void zsh_flag(const gimbal_option *o)
{
    printf("            '--%s[", o->name);
    zsh_text(o->help);
    putchar(']');
    if (o->type == GIMBAL_CHOICE || (o->type == GIMBAL_TEXT && is_registry(o->name))) {
        printf(":%s:(", o->name);
        print_words(o, "", " ");
        putchar(')');
    } else if (takes_number(o)) {
        fputs(":number: ", stdout);
    } else if (o->type == GIMBAL_TEXT) {
        printf(":%s:_files", o->name);
    }
    fputs("' \\\n", stdout);
    if (!strcmp(o->name, "output"))
        fputs("            '-o[--output]:output:_files' \\\n", stdout);
    if (!strcmp(o->name, "quiet"))
        fputs("            '-q[--quiet]' \\\n", stdout);
}

static void zsh_command(const Command *command)
{
    printf("        %s)\n            _arguments \\\n", command->name);
    for (int i = 0; flag_at(command, i); i++)
        zsh_flag(flag_at(command, i));
    fputs("            '(-h --help)'{-h,--help}'[every flag]' \\\n            '*:file:_files' ;;\n", stdout);
}

static void print_zsh(void)
{
    fputs("#compdef gimbal\n# zsh completion for gimbal, printed by: gimbal help --zsh\n"
          "_gimbal() {\n"
          "    local curcontext=$curcontext state line\n"
          "    local -a commands\n"
          "    commands=(\n",
          stdout);
    for (int i = 0; command_at(i); i++) {
        printf("        '%s:", command_at(i)->name);
        zsh_text(command_at(i)->help);
        fputs("'\n", stdout);
    }
    fputs("        'help:explains a command or a registry'\n    )\n"
          "    _arguments -C '--version[what this build is made of]' '--help[all commands]' '1: :->command' "
          "'*:: "
          ":->rest'\n"
          "    case $state in\n"
          "    command) _describe command commands ;;\n"
          "    rest)\n"
          "        case $words[1] in\n",
          stdout);
    for (int i = 0; command_at(i); i++)
        zsh_command(command_at(i));
    fputs("        help) _arguments '--man[the man page]' '--bash[completion for bash]' '--zsh[completion "
          "for zsh]' "
          "'1:topic:(",
          stdout);
    for (int i = 0; command_at(i); i++)
        printf("%s ", command_at(i)->name);
    fputs("noise reinit sampler)' ;;\n        esac ;;\n    esac\n}\n"
          "if [ \"$funcstack[1]\" = _gimbal ]; then\n    _gimbal \"$@\"\nelse\n    compdef _gimbal "
          "gimbal\nfi\n",
          stdout);
}

bool print_manual(const char *flag)
{
    static const struct {
        const char *flag;
        void (*print)(void);
    } pages[] = {{"--man", print_man}, {"--bash", print_bash}, {"--zsh", print_zsh}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        if (!strcmp(pages[i].flag, flag)) {
            pages[i].print();
            return true;
        }
    return false;
}
