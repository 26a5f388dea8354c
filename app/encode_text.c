/* encode_text.c: gimbal encode-text: a prompt's context, the last hidden state of the text encoder, into a
 * safetensors file: tensor "context" [1,77,D] float32.
 *
 * Refuses to know text encoders. */
#include "app/app.h"

#include <stdlib.h>

typedef struct {
    const char *model, *motion, *prompt, *save;
    int threads, no_mmap;
} Flags;

#define AT(field) offsetof(Flags, field)
static const gimbal_option options[] = {
    {"model", "the model folder whose text encoder is asked", GIMBAL_TEXT, AT(model), 0, 0, 0, NULL, NULL},
    {"motion", "its motion adapter, if the folder has none", GIMBAL_TEXT, AT(motion), 0, 0, 0, NULL, NULL},
    {"prompt", "the text", GIMBAL_TEXT, AT(prompt), 0, 0, 0, NULL, NULL},
    {"save", "the safetensors file", GIMBAL_TEXT, AT(save), 0, 0, 0, NULL, NULL},
    {"threads", "0: all this process may use", GIMBAL_INT, AT(threads), 0, 0, 1024, NULL, NULL},
    {"no-mmap", "read the weights into memory instead of mapping their files", GIMBAL_BOOL, AT(no_mmap), 0, 0,
     1, NULL, NULL},
    {.name = NULL},
};

/* The other networks are planned as small as they go. */
static int encode(gimbal_engine *engine, const Flags *flags, float *context, gimbal_error *err)
{
    gimbal_session *session;
    gimbal_settings s;
    gimbal_defaults(&s, engine);
    s.width = s.height = 8 * gimbal_size_step(engine);
    s.frames = s.steps = 1;
    s.threads = flags->threads;
    TRY(gimbal_begin(&session, engine, &s, err));
    signals_watch(session);
    const int code = gimbal_context(session, flags->prompt, context, err);
    signals_watch(NULL);
    gimbal_end(session);
    return code;
}

static int save(gimbal_engine *engine, const Flags *flags, gimbal_error *err)
{
    const int width = gimbal_context_width(engine);
    float *context = calloc(77 * (size_t)width, sizeof(float));
    const gimbal_tensor tensor = {"context", "F32", 3, {1, 77, width}, context};
    int code = context ? warn_truncated(engine, "prompt", flags->prompt, err) : fail_memory(err);
    code = code ? code : encode(engine, flags, context, err);
    code = code ? code : check_fault(err);
    code = code ? code : gimbal_tensors_write(flags->save, &tensor, 1, NULL, err);
    free(context);
    return code;
}

static int run(const Args *args, gimbal_error *err)
{
    Flags flags = {0};
    gimbal_engine *engine;
    TRY(args_apply(args, &flags, err));
    if (args->n_words)
        return complain(err, GIMBAL_EUSAGE, "the text goes after --prompt", "\"%.60s\": unexpected argument",
                        args->words[0]);
    if (!flags.prompt)
        return complain(err, GIMBAL_EUSAGE, NULL, "--prompt is missing");
    if (!flags.save)
        return complain(err, GIMBAL_EUSAGE, "--save context.safetensors", "--save is missing");
    TRY(check_place(flags.save, err));
    TRY(open_model(&engine, flags.model, flags.motion, flags.no_mmap, true, err));
    const int code = save(engine, &flags, err);
    gimbal_close(engine);
    TRY(code);
    puts(flags.save);
    return flush_stdout(err);
}

const Command command_encode_text = {
    .name = "encode-text",
    .usage = "encode-text --model DIR --prompt TEXT --save FILE",
    .help = "Writes a prompt's context, the text encoder's last hidden state: tensor \"context\" [1,77,D].",
    .options = options,
    .run = run,
};
