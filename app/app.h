/* app.h: what the program's files share. The program sees gimbal.h and media.h only; that it can be written
 * at all shows that the library's interface is complete.
 *
 *   main.c      the table of subcommands, help, version, errors on stderr, exit status
 *   cli.c       flags to fields, help texts from option tables, small tools for paths and JSON
 *   progress.c  the line on stderr, memory measured on the way, Ctrl-C
 *   fault.c     a model file that shrinks while it is mapped
 *   preview.c   a picture of the running clip                manual.c  man page and completions
 *   resume.c    the state of a running clip beside OUT
 *   file.c      files that appear whole or not at all     prompts.c  prompts in a file
 *   output.c    where pictures go: a clip through media.h, or a tensor in a safetensors file
 *   clip.c      one clip of generate, from settings to files      recipe.c  recipes in and out of files
 *   video.c     the clip that generate --video begins from
 *   image.c     the picture that generate --image begins from, and a camera moving over it
 *   generate.c decode.c info.c sheet.c tokenize.c encode_text.c noise.c bench.c   one subcommand each
 *   train.c and what belongs to it     see train.h
 *   measure.c and what belongs to it   see measure.h
 *
 * stdout holds results only; words go to stderr. A function returns GIMBAL_OK or an error code with *err
 * filled; main alone prints it. */
#ifndef APP_H
#define APP_H

#include "gimbal.h"
#include "media/media.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        int try_code_ = (call);                                                                              \
        if (try_code_)                                                                                       \
            return try_code_;                                                                                \
    } while (0)

/* ---- subcommands: main.c ----------------------------------------------------------------- */

enum { TABLE_ROOM = 96 };

/* The command line of one subcommand, taken apart. Texts are argv's. */
typedef struct {
    gimbal_option table[TABLE_ROOM]; /* every flag of the subcommand, ends with name NULL */
    struct {
        const char *name, *value; /* name: the table's */
    } * flags;
    const char **words; /* what is no flag, in order */
    int *flags_before;  /* [n_words]: how many flags stand before each word */
    int n_flags, n_words;
    bool help;
} Args;

/* A subcommand is a constant struct and a line in COMMANDS. `options` fill a struct of the subcommand's own;
 * where there are settings, it begins with the library's struct of them, whose flags come first. */
typedef struct {
    const char *name, *usage, *help;
    const gimbal_option *options;
    const gimbal_option *(*settings)(void); /* gimbal_setting_options, gimbal_train_options, or NULL */
    const char *more;                       /* end of its --help, or NULL */
    int (*run)(const Args *, gimbal_error *);
} Command;
#define COMMANDS(X)                                                                                          \
    X(generate)                                                                                              \
    X(decode)                                                                                                \
    X(train) X(noise) X(info) X(sheet) X(tokenize) X(encode_text) X(bench) X(measure) X(compare) X(analyze)
#define COMMAND_EXTERN(name) extern const Command command_##name;
COMMANDS(COMMAND_EXTERN)
const Command *command_at(int i); /* NULL past the end */

/* ---- flags, help, small tools: cli.c ----------------------------------------------------- */

/* As in the library: the first error is kept, the code returned. hint NULL: none. */
int complain(gimbal_error *, int code, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int fail_memory(gimbal_error *);

/* Takes argv apart: --name value, --name=value, -o value, -- ends flags. EUSAGE names what is wrong. */
int args_read(Args *, const Command *, int argc, char **argv, gimbal_error *);
/* Own options to their defaults, then the flags in order. The settings in front are left to the caller. */
void args_defaults(const Command *, void *object);
int args_apply(const Args *, void *object, gimbal_error *);
bool args_has(const Args *, const char *name);
void args_free(Args *);

void print_command_help(const Command *, FILE *);
/* "--spacing leading|linspace|trailing"; " [philox]", or nothing. */
void option_label(const gimbal_option *, const char *dashes, char *out, size_t room);
void print_default(const gimbal_option *, FILE *);
/* "noise", "reinit", "sampler": its entries and their knobs; false: no such registry. */
bool print_registry(const char *kind, FILE *);
/* The nearest of a NULL-terminated list of words, as "did you mean ...?" in err->hint; EUSAGE. */
int unknown_word(const char *const *words, const char *what, const char *word, gimbal_error *);

bool ends_with(const char *text, const char *ending);
/* Can a file of this name be made? Tries it in the folder and removes the trial. EIO. */
int check_place(const char *path, gimbal_error *);
/* Does the name hold a %d for the clip's number? (In a .png it counts pictures.) */
bool names_clips(const char *path);
/* Is it a format of single pictures (.png, .jpg), which holds a clip only as a sequence? */
bool names_pictures(const char *path);
/* A file of head and body that appears whole or not at all (file.c); body_size 0: of the head alone. EIO. */
int write_whole(const char *path, const void *head, size_t head_size, const void *body, size_t body_size,
                gimbal_error *);
/* The name of clip `number` of several: its %d filled in, or the number before the ending; before the
 * pictures' number in a sequence. Caller frees; NULL: no memory. */
char *numbered_path(const char *path, int number);
/* Text as JSON; bytes that are no UTF-8 become '?'. */
json_t *json_text(const char *);
/* One object on stdout: a line. Or "key: value" lines for people, nested objects indented. */
int print_json(json_t *, gimbal_error *);
void print_tree(const json_t *, int indent, FILE *);
/* Everything printed so far has arrived; EIO when not (quiet about a closed pipe). */
int flush_stdout(gimbal_error *);

/* ---- progress, memory, Ctrl-C: progress.c ------------------------------------------------ */

typedef struct {
    bool quiet, terminal;
    int shown;          /* letters on the redrawn line */
    double drawn;       /* when, seconds */
    uint64_t peak_anon; /* largest anonymous memory seen at a callback, bytes */
    gimbal_progress last;
} Progress;
Progress progress_begin(bool quiet);
/* Draws or prints one state; nonzero when the run should stop. */
int progress_show(Progress *, const gimbal_progress *);
/* Work that is not sampling: `state` behind a bar on a terminal, where `last` is always drawn; elsewhere a
 * line when `last` says so. share: 0..1 of the work that is done. */
void progress_line(Progress *, double share, const char *state, bool last);
void progress_clear(Progress *);
/* "0:07", "1:02:03"; "?" while unknown (below 0). */
const char *print_time(double seconds, char out[32]);

double clock_seconds(void);
/* "61 MB", "1.3 GB" */
const char *print_bytes(uint64_t bytes, char out[24]);

/* SIGINT and SIGTERM cancel what `watch` was given last (NULL: nothing runs) and are remembered; a second one
 * ends the program at once. */
void signals_install(void);
void signals_watch(gimbal_session *);
/* The same with a trainer, which is asked to stop; SIGUSR1 means that too then, because mpirun passes it on.
 */
void signals_watch_trainer(gimbal_trainer *);
/* While it is so (a model is opened, a cost estimated: calls that cannot be cancelled), the first signal ends
 * the program at once too. */
void signals_nothing_begun(bool so);
int signals_seen(void); /* the signal's number, or 0 */
/* ECANCEL once a signal was seen. */
int check_signals(gimbal_error *);
/* For another handler: remembers `number` and cancels what is watched; false: nothing is, or nothing begun.
 */
bool signals_stop(int number);

/* ---- contact sheets: sheet.c -------------------------------------------------------------- */

/* A PNG of clips below each other as rows of frames, evenly spaced in time. EFORMAT, EIO, ECANCEL. */
int sheet_write(const char *const *clips, int n, int columns, const char *path, gimbal_error *);

/* ---- mapped files that shrink: fault.c --------------------------------------------------- */

#define FAULT_TEXT ": changed while in use"
#define FAULT_HINT "use --no-mmap, or do not modify models while they are used"
void faults_install(void);
/* The file that shrank, or NULL. signals_seen is SIGBUS then. */
const char *fault_file(void);
/* EIO naming it, over any earlier error. Asked before anything computed appears in a file. */
int check_fault(gimbal_error *);

/* ---- outputs: output.c ------------------------------------------------------------------- */

typedef struct {
    const char *path;
    media_writer *media; /* or: */
    uint8_t *frames;     /* [F,H,W,3] for a safetensors file */
    int width, height, count, room;
    const char *recipe; /* borrowed until the end */
} Output;

/* Before any work, sizes still unknown: is it a format that can be written, in a place that can be written?
 */
int output_check(const char *path, double fps, gimbal_error *);
/* The same with the sizes; makes nothing. */
int output_fits(const char *path, int width, int height, int frames, double fps, gimbal_error *);
int output_open(Output *, const char *path, int width, int height, int frames, double fps, const char *recipe,
                gimbal_error *);
int output_put(Output *, const uint8_t *rgb, gimbal_error *);
int output_close(Output *, gimbal_error *);
void output_drop(Output *); /* nothing to do after a close */
uint64_t output_bytes(const char *path, int width, int height, int frames);

/* ---- prompts: prompts.c ------------------------------------------------------------------ */

/* EUSAGE names `what` when the text (NULL is fine) is not UTF-8. */
int check_utf8(const char *what, const char *text, gimbal_error *);
/* The lines of a file, empty ones passed over: *text owns them; free both, also on error. flag: for messages.
 * EIO, EFORMAT; EUSAGE: no prompt in it. */
int prompts_read(const char *flag, const char *path, char **text, const char ***prompts, int *n,
                 gimbal_error *);

/* ---- one model, latents in files: recipe.c ----------------------------------------------- */

/* Opens the model and prints its notes on stderr unless quiet. no_mmap: its weights are read into memory. */
int open_model(gimbal_engine **, const char *model, const char *motion, bool no_mmap, bool quiet,
               gimbal_error *);
/* Warns on stderr when a prompt is longer than the text encoder's context. */
int warn_truncated(const gimbal_engine *, const char *what, const char *text, gimbal_error *);

/* Latents of a file, [1,4,F,h,w] or [4,F,h,w]: *out [C,F,h,w], caller frees. */
int latents_read(const char *path, const char *tensor, float **out, gimbal_shape *, gimbal_error *);
int latents_write(const char *path, const float *, gimbal_shape, const char *recipe, gimbal_error *);

/* A recipe is the library's, and beside it what only the program knows: fps, and the files that gave tensors.
 * Without the number of threads, which changes no byte, and without a strength where no clip is begun from.
 * NULL: no memory. */
json_t *recipe_make(const gimbal_engine *, const gimbal_settings *, double fps, const char *latents,
                    const char *reinit_noise, const char *video);
/* The recipe that a clip or a safetensors file carries, as text; caller frees. 0 with *text NULL: none. */
int recipe_read(const char *path, char **text, gimbal_error *);

/* ---- a clip to begin from: video.c ------------------------------------------------------- */

/* Opens and counts: info->frames is the number that can be decoded, at most `most`. */
int video_look(const char *path, int most, media_info *, gimbal_error *);
/* Its first frames at width x height: *rgb [frames][height][width][3], caller frees, also on error. EUSAGE,
 * naming the flag that wants them, when it has fewer. */
int video_read(const char *flag, const char *path, int width, int height, int frames, uint8_t **rgb,
               gimbal_error *);
/* Says on stderr when scaling to width x height changes the shape, and which multiples of `step` would not.
 */
void video_note_shape(const char *path, const media_info *, int width, int height, int step);

/* ---- a picture to begin from: image.c ---------------------------------------------------- */

/* In: what flags or a recipe say. Out, step by step: the picture, what is encoded of it. */
typedef struct {
    const char *path, *fit, *camera, *latents, *reference; /* flags, or NULL */
    json_t *recipe;                                        /* of image_from_recipe: owns texts of it */
    const char *was_sha256, *was_camera_sha256;            /* that the picture must still have, or NULL */
    uint8_t *rgb;                                          /* [height][width][3], as it is */
    int width, height;
    char sha256[65], camera_sha256[65]; /* of picture and camera path; empty: none */
    float *pixels;                      /* [n][H][W][3] in -1..1, to be encoded; NULL: nothing is */
    int n;                              /* 1, or the frames that a camera sees */
    uint8_t *clip;                      /* of --reference [F][H][W][3] */
} Image;
/* EUSAGE for flags that contradict each other. */
int image_check(const Image *, gimbal_error *);
/* What the flags leave open comes from a recipe. */
void image_from_recipe(Image *, const json_t *recipe);
/* Adds what a recipe must hold; nonzero: no memory. */
int image_to_recipe(const Image *, json_t *recipe);
/* Checks and reads; says on stderr what is odd about the picture unless quiet. EFORMAT: not what the recipe
 * says it was. */
int image_open(Image *, bool quiet, gimbal_error *);
/* Cuts it to the run's size, once or for each of the `frames` of a camera; reads --reference. */
int image_fit(Image *, int width, int height, int frames, bool quiet, gimbal_error *);
uint64_t image_bytes(const Image *, int width, int height, int frames); /* what image_fit will take */
bool image_begins(const Image *);                                       /* is there a first frame? */
bool image_refers(const Image *); /* is there a clip for FrameInit's low band? */
/* first [C,1,h,w] and reference [C,F,h,w], as far as there is something to encode; F: s.f. */
int image_encode(const Image *, gimbal_session *, int width, int height, gimbal_shape s, float *first,
                 float *reference, gimbal_error *);
/* What the camera sees, as a clip. EUSAGE when it does not move. */
int image_preview(const Image *, const char *path, int width, int height, double fps, gimbal_error *);
void image_free(Image *);

/* ---- NumPy's arrays: npy.c --------------------------------------------------------------- */

/* x [n[0],...,n[nd-1]], whole or not at all. */
int npy_write(const char *path, const float *x, const int64_t *n, int nd, gimbal_error *);
/* As gimbal_tensor_read: *out float32, caller frees; n gets 6 sizes, leading ones 1. */
int npy_read(const char *path, float **out, int64_t n[6], gimbal_error *);

/* ---- printed pages: manual.c, version.c -------------------------------------------------- */

/* "--man", "--bash", "--zsh" on stdout; false: no such page. */
bool print_manual(const char *flag);
int print_version(bool json, gimbal_error *);

/* ---- a picture of the running clip: preview.c -------------------------------------------- */

typedef struct {
    const char *path; /* NULL: none wanted */
    int every;        /* steps */
} Preview;
int preview_check(const char *path, gimbal_error *);
/* To be called from gimbal_sample's progress; draws when a picture is due. */
void preview_show(Preview *, gimbal_session *, const gimbal_progress *, Progress *);

/* ---- a clip that outlives the process: resume.c ------------------------------------------ */

typedef struct {
    char *path;          /* of the state; NULL: not wanted, and nothing below does anything */
    double every, saved; /* seconds: between two states; when the last one was written */
    bool warned;
} Resume;
int resume_begin(Resume *, const char *output, gimbal_error *);
void resume_end(Resume *); /* frees; files stay */
/* To be called from gimbal_sample's progress: writes the state when it is time. */
void resume_keep(Resume *, gimbal_session *, const gimbal_progress *);
/* A pass has ended: its latents too. */
void resume_keep_pass(Resume *, const gimbal_progress *);
bool resume_save(Resume *, gimbal_session *); /* now; false: it could not be */
/* If there is a state, the session goes on from it; *at says where, at->pass 0: there is none. */
int resume_load(Resume *, gimbal_session *, gimbal_progress *at, gimbal_error *);
int resume_load_pass(const Resume *, int pass, gimbal_shape *, float **out,
                     gimbal_error *);       /* caller frees */
void resume_say(const gimbal_progress *at); /* on stderr */
void resume_forget(const Resume *, int passes);
/* Is OUT there, made by just this recipe, and no state left? */
bool resume_finished(const Resume *, const char *output, const json_t *recipe);

/* ---- one clip: clip.c -------------------------------------------------------------------- */

/* In: what to make and where to. Out, after clip_begin: session, shape, recipe; after clip_make: the figures.
 */
typedef struct {
    gimbal_engine *engine;
    gimbal_settings settings;
    gimbal_shape shape; /* of the result's latents: with chunks the whole video's */
    const char *output, *latents, *reinit_noise, *save_latents, *save_passes; /* paths or NULL */
    const char *video;                                                        /* path, or NULL; then: */
    const uint8_t *begin; /* its pictures [F][H][W][3], borrowed */
    const Image *image;   /* borrowed */
    double fps;
    int passes; /* of the re-initialiser's plan */
    int number; /* of several clips, from 1; 0: the only one */
    Progress progress;
    Preview preview;
    Resume resume; /* resume_begin before clip_begin, where it is wanted */

    gimbal_session *session;
    float *given, *fresh, *result; /* [C,F,h,w], [passes-1][C,F,h,w], [C,shape.f,h,w] */
    float *given_chunks;           /* [chunks-1][C,F,h,w] */
    float *encoded;                /* [C,F,h,w] of `begin` */
    float *first, *reference;      /* [C,1,h,w], [C,F,h,w] of `image` */
    float **finished;              /* [passes] results of the passes, when save_passes */
    json_t *recipe;
    char *recipe_text;
    double seconds;
} Clip;
/* Checks everything that can be checked without work: tensors from files, sizes, memory, places. */
int clip_begin(Clip *, gimbal_error *);
int clip_make(Clip *, gimbal_error *);
void clip_end(Clip *);

#endif
