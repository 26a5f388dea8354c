/* main.c: the program: the table of subcommands, help, version, and what an error becomes.
 *
 * Exit status: 0 done, 1 failed, 2 wrong usage, 128 + the signal's number after a signal. */
#include "app/app.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMAND_REF(name) &command_##name,
static const Command *const commands[] = {COMMANDS(COMMAND_REF)};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const Command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

const Command *command_at(int i)
{
    return i >= 0 && i < COMMAND_COUNT ? commands[i] : NULL;
}

static int unknown_command(const char *word, gimbal_error *err)
{
    const char *words[COMMAND_COUNT + 2] = {"help"};
    for (int i = 0; i < COMMAND_COUNT; i++)
        words[i + 1] = commands[i]->name;
    return unknown_word(words, "command", word, err);
}

/* Ten lines. */
static void print_overview(FILE *out)
{
    fputs("gimbal makes temporally consistent videos: a prompt becomes a clip (AnimateDiff, ModelScope; "
          "FreeInit).\n\n"
          "  gimbal generate --model models/toyworld --cfg 5 -o plain.mp4 \\\n"
          "      --prompt \"a large red circle moving right over a checkered black background\"\n"
          "  gimbal generate --again plain.mp4 --reinit freeinit:passes=3 -o steady.mp4\n\n"
          "subcommands:",
          out);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, " %s", commands[i]->name);
    fputs("\n\ngimbal help COMMAND explains one; gimbal help noise, reinit and sampler list methods; gimbal "
          "--help says\n"
          "more.\n",
          out);
}

static void print_help(FILE *out)
{
    print_overview(out);
    fputc('\n', out);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->help);
    fputs("\nResults go to stdout, words to stderr. Flags are --name value or --name=value; -- ends them. "
          "Outputs appear\n"
          "whole or not at all. Exit status: 0 done, 1 failed, 2 wrong usage, 130 after Ctrl-C.\n"
          "No colours are printed, so NO_COLOR and FORCE_COLOR change nothing.\n"
          "gimbal --version [--json]: what this build is made of and which formats it writes.\n"
          "gimbal help --man, --bash, --zsh: the man page and completions for shells.\n",
          out);
}

static int help_on(const char *topic, gimbal_error *err)
{
    const Command *command = find_command(topic);
    if (command)
        print_command_help(command, stdout);
    else if (!print_manual(topic) && !print_registry(topic, stdout))
        return unknown_command(topic, err);
    return flush_stdout(err);
}

static int run_command(const Command *command, int argc, char **argv, gimbal_error *err)
{
    Args args;
    int code = args_read(&args, command, argc, argv, err);
    if (!code && args.help)
        print_command_help(command, stdout), code = flush_stdout(err);
    else if (!code)
        code = command->run(&args, err);
    args_free(&args);
    return code;
}

static int dispatch(int argc, char **argv, gimbal_error *err)
{
    const char *word = argv[1];
    const Command *command = find_command(word);
    if (command)
        return run_command(command, argc - 2, argv + 2, err);
    if (!strcmp(word, "help") && argc > 2)
        return help_on(argv[2], err);
    if (!strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h")) {
        print_help(stdout);
        return flush_stdout(err);
    }
    if (!strcmp(word, "--version"))
        return print_version(argc > 2 && !strcmp(argv[2], "--json"), err);
    return unknown_command(word, err);
}

static int exit_status(int code, const gimbal_error *err)
{
    if (!code)
        return EXIT_SUCCESS;
    if (code == GIMBAL_ECANCEL && signals_seen()) {
        fprintf(stderr, "gimbal: %s\n", err->msg);
    } else if (err->msg[0] || code != GIMBAL_EIO) { /* a closed pipe has no message */
        fprintf(stderr, "gimbal: error: %s\n", err->msg[0] ? err->msg : gimbal_code_name(code));
    }
    if (err->hint[0])
        fprintf(stderr, "  hint: %s\n", err->hint);
    if (code == GIMBAL_ECANCEL && signals_seen())
        return 128 + signals_seen();
    return code == GIMBAL_EUSAGE ? 2 : 1;
}

/* OpenMP's threads wait for each other by spinning, 300,000 turns at a time; where the cores are shared with
 * other work that multiplies the run time (toyworld at load 7 on two cores: 4 times). A thousand turns cost
 * nothing measurable on free cores. libgomp reads its environment before main, so this needs a fresh start.
 * What the user has set stays. */
static void spin_less(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("GOMP_SPINCOUNT", "1000", 1))
        return;
    execv("/proc/self/exe", argv); /* where this fails the program runs on as it is */
}

int main(int argc, char **argv)
{
    gimbal_error err = {0};
    spin_less(argv);
    if (argc < 2) {
        print_overview(stderr);
        return 2;
    }
    signals_install();
    faults_install();
    int code = dispatch(argc, argv, &err);
    if (fault_file())
        code = check_fault(&err);
    return exit_status(code, &err);
}
