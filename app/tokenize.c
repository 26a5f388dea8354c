/* tokenize.c: gimbal tokenize: the 77 token ids of a text, space separated.
 *
 * Refuses to know vocabularies. */
#include "app/app.h"

#include <string.h>

typedef struct {
    const char *model, *motion;
} Flags;

static const gimbal_option options[] = {
    {"model", "the model folder whose tokenizer is asked", GIMBAL_TEXT, offsetof(Flags, model), 0, 0, 0, NULL,
     NULL},
    {"motion", "its motion adapter, if the folder has none", GIMBAL_TEXT, offsetof(Flags, motion), 0, 0, 0,
     NULL, NULL},
    {.name = NULL},
};

static int print_ids(const gimbal_engine *engine, const char *text, gimbal_error *err)
{
    int32_t ids[77];
    TRY(warn_truncated(engine, "text", text, err));
    TRY(gimbal_tokenize(engine, text, ids, NULL, err));
    for (int i = 0; i < 77; i++)
        printf("%d%c", (int)ids[i], i < 76 ? ' ' : '\n');
    return flush_stdout(err);
}

static int run(const Args *args, gimbal_error *err)
{
    Flags flags = {0};
    gimbal_engine *engine;
    TRY(args_apply(args, &flags, err));
    if (args->n_words != 1)
        return complain(err, GIMBAL_EUSAGE, "put it in quotes: gimbal tokenize --model DIR \"a red circle\"",
                        "%d texts are given, expected one", args->n_words);
    TRY(open_model(&engine, flags.model, flags.motion, false, true, err));
    const int code = print_ids(engine, args->words[0], err);
    gimbal_close(engine);
    return code;
}

const Command command_tokenize = {
    .name = "tokenize",
    .usage = "tokenize --model DIR TEXT",
    .help = "Prints the 77 token ids of a text.",
    .options = options,
    .run = run,
};
