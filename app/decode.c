/* decode.c: gimbal decode: latents in a file back to a clip.
 *
 * Only the VAE works; the recipe that the latents carry goes on into the clip.
 * Refuses to know how the latents were found. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *model, *motion, *output;
    double fps;
    int threads, no_mmap, json, quiet;
} Flags;

#define AT(field) offsetof(Flags, field)
static const gimbal_option options[] = {
    {"model", "the model folder whose VAE decodes", GIMBAL_TEXT, AT(model), 0, 0, 0, NULL, NULL},
    {"motion", "its motion adapter, if the folder has none", GIMBAL_TEXT, AT(motion), 0, 0, 0, NULL, NULL},
    {"output", "OUT, also -o: clip.mp4 .webm .gif .webp .avi .y4m, f%03d.png or .jpg, or .safetensors",
     GIMBAL_TEXT, AT(output), 0, 0, 0, NULL, NULL},
    {"fps", "frames per second; without it the recipe's, or 8", GIMBAL_REAL, AT(fps), 0, 0.01, 1000, NULL,
     NULL},
    {"threads", "0: all this process may use", GIMBAL_INT, AT(threads), 0, 0, 1024, NULL, NULL},
    {"no-mmap", "read the weights into memory instead of mapping their files", GIMBAL_BOOL, AT(no_mmap), 0, 0,
     1, NULL, NULL},
    {"json", "a JSON object on stdout", GIMBAL_BOOL, AT(json), 0, 0, 1, NULL, NULL},
    {"quiet", "no progress, no notes", GIMBAL_BOOL, AT(quiet), 0, 0, 1, NULL, NULL},
    {.name = NULL},
};

typedef struct {
    Flags flags;
    const char *input;
    float *latents; /* [C,F,h,w] */
    gimbal_shape shape;
    char *recipe; /* NULL: none */
    double fps;
    gimbal_engine *engine;
    gimbal_session *session;
    Progress progress;
    Output out;
    bool opened;
    gimbal_error *err;
    int code; /* of on_frame */
} Decode;

static int on_progress(void *user, const gimbal_progress *p)
{
    return progress_show(&((Decode *)user)->progress, p);
}

/* The output is opened with the first picture's size. */
static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Decode *d = user;
    (void)i;
    if (!d->opened) {
        d->code = output_fits(d->flags.output, width, height, d->shape.f, d->fps, d->err);
        if (!d->code)
            d->code =
                output_open(&d->out, d->flags.output, width, height, d->shape.f, d->fps, d->recipe, d->err);
        d->opened = !d->code;
    }
    if (!d->code)
        d->code = output_put(&d->out, rgb, d->err);
    return d->code || signals_seen();
}

/* The networks that are not asked are planned as small as they go. */
static int begin(Decode *d, gimbal_error *err)
{
    gimbal_settings s;
    gimbal_defaults(&s, d->engine);
    s.width = s.height = 8 * gimbal_size_step(d->engine);
    s.frames = s.steps = 1;
    s.threads = d->flags.threads;
    s.progress = on_progress;
    s.user = d;
    TRY(gimbal_begin(&d->session, d->engine, &s, err));
    signals_watch(d->session);
    return GIMBAL_OK;
}

static double recipe_fps(const char *recipe)
{
    json_t *root = recipe ? json_loads(recipe, 0, NULL) : NULL;
    const double fps = json_number_value(json_object_get(root, "fps"));
    json_decref(root);
    return fps > 0 && fps <= 1000 ? fps : 8;
}

static int read_input(Decode *d, gimbal_error *err)
{
    TRY(latents_read(d->input, "latents", &d->latents, &d->shape, err));
    TRY(recipe_read(d->input, &d->recipe, err));
    d->fps = d->flags.fps > 0 ? d->flags.fps : recipe_fps(d->recipe);
    if (d->shape.f > 1 && names_pictures(d->flags.output))
        return output_fits(d->flags.output, 16, 16, d->shape.f, d->fps, err);
    return GIMBAL_OK;
}

static int decode(Decode *d, gimbal_error *err)
{
    const double since = clock_seconds();
    d->err = err;
    d->progress = progress_begin(d->flags.quiet);
    int code = gimbal_decode(d->session, d->latents, d->shape, on_frame, d, err);
    code = d->code ? d->code : code;
    progress_clear(&d->progress);
    if (code == GIMBAL_ECANCEL) {
        err->code = 0;
        return complain(err, code, NULL, "cancelled while decoding; nothing was kept");
    }
    TRY(code);
    const int width = d->out.width, height = d->out.height;
    TRY(output_close(&d->out, err));
    if (!d->flags.quiet)
        fprintf(stderr, "%s: %d frames of %dx%d, %.1f s\n", d->flags.output, d->shape.f, width, height,
                clock_seconds() - since);
    if (d->flags.json)
        return print_json(json_pack("{s:i, s:o, s:i, s:i, s:i, s:f, s:f, s:I}", "schema", 1, "output",
                                    json_text(d->flags.output), "frames", d->shape.f, "width", width,
                                    "height", height, "fps", d->fps, "seconds", clock_seconds() - since,
                                    "peak_anon_bytes", (json_int_t)d->progress.peak_anon),
                          err);
    puts(d->flags.output);
    return flush_stdout(err);
}

static int run_decode(Decode *d, const Args *args, gimbal_error *err)
{
    TRY(args_apply(args, &d->flags, err));
    if (args->n_words != 1)
        return complain(err, GIMBAL_EUSAGE, "gimbal decode --model DIR LATENTS -o OUT",
                        "%d files of latents are given, expected one", args->n_words);
    if (!d->flags.output)
        return complain(err, GIMBAL_EUSAGE, "-o clip.mp4", "-o is missing: where should the clip go?");
    if (!d->flags.model)
        return complain(err, GIMBAL_EUSAGE, "a folder in diffusers layout, e.g. models/toyworld",
                        "--model is missing");
    d->input = args->words[0];
    TRY(output_check(d->flags.output, d->flags.fps > 0 ? d->flags.fps : 8, err));
    TRY(read_input(d, err));
    TRY(open_model(&d->engine, d->flags.model, d->flags.motion, d->flags.no_mmap, d->flags.quiet, err));
    TRY(begin(d, err));
    return decode(d, err);
}

static int run(const Args *args, gimbal_error *err)
{
    Decode d = {0};
    args_defaults(&command_decode, &d.flags);
    const int code = run_decode(&d, args, err);
    signals_watch(NULL);
    output_drop(&d.out);
    gimbal_end(d.session);
    gimbal_close(d.engine);
    free(d.latents);
    free(d.recipe);
    return code;
}

const Command command_decode = {
    .name = "decode",
    .usage = "decode --model DIR LATENTS -o OUT [flags]",
    .help =
        "Turns latents (a file of generate --save-latents: tensor \"latents\" [1,4,F,h,w]) back into a clip.",
    .options = options,
    .run = run,
};
