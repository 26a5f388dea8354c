/* train.h: what the files of `gimbal train` share.
 *
 *   train.c        the subcommand          train_data.c   --data: a folder of clips as gimbal_clips
 *   train_list.c   lists of clips: metadata.jsonl, .csv (train_list.h)
 *   train_show.c   progress, events as JSON, the dry run's table
 *   train_log.c    OUT/log.jsonl          train_page.c   OUT/index.html
 *   train_model.c  OUT/model              train_sample.c clips from it
 *
 * Knows clips by number. Refuses to know networks. */
#ifndef APP_TRAIN_H
#define APP_TRAIN_H

#include "app/app.h"
#include "ranks/ranks.h"

/* What --data names, to learn from: "toyworld", "toyworld:count=4096,first=0", or a folder of clips and
 * pictures with captions; see train_data.c. Files without a caption and the like are left out, and named on
 * stderr unless quiet. The caller calls out->close. EUSAGE: no such place; EFORMAT: nothing in it that can be
 * learnt from, or a list without the columns that are needed; EIO, ENOMEM. */
int clips_open(const char *spec, bool quiet, gimbal_clips *out, gimbal_error *);

/* ---- the subcommand: train.c ------------------------------------------------------------- */

typedef struct {
    gimbal_train_settings s; /* first: the flags of gimbal_train_options */
    const char *data, *output, *sample_prompt, *sample_prompts, *page;
    int sample_every, resume, dry_run, json, quiet;
} TrainFlags;

/* ---- OUT/log.jsonl: train_log.c ---------------------------------------------------------- */

/* One JSON object a line: "what": begin, step, valid, saved, sample, note; "step"; and what belongs to it.
 * Until the log is open, lines wait in memory. */
typedef struct {
    int fd;          /* -1: not open */
    json_t *waiting; /* lines that came before */
    bool warned;
} TrainLog;
TrainLog train_log(void);
/* Lines up to optimiser step `step`, which a checkpoint holds, stay; later ones belong to work that is lost
 * and are dropped, all of them at step 0. Whole or not at all. EIO. */
int train_log_open(TrainLog *, const char *output, int step, gimbal_error *);
/* Takes the line. One that cannot be written (a full disk) is said on stderr once, and lost. */
void train_log_add(TrainLog *, json_t *line);
void train_log_close(TrainLog *);
/* All whole lines, an array, the caller's. EIO, EFORMAT. */
int train_log_read(const char *output, json_t **lines, gimbal_error *);

/* ---- what is seen: train_show.c ---------------------------------------------------------- */

enum { RECENT = 50 }; /* steps whose mean loss is shown */
typedef struct {
    Progress progress;
    double loss[RECENT];     /* a ring */
    int n;                   /* losses so far */
    int lined;               /* step of the last line, where stderr is no terminal */
    double lined_at;         /* when, seconds */
    gimbal_train_event last; /* of GIMBAL_TRAIN_STEP; its text is NULL */
} TrainShow;
/* On stderr: a bar on a terminal; elsewhere the first and the last step, every hundredth of the run, and at
 * least one line in 30 s; notes, validation and checkpoints always, unless quiet. */
void train_show(TrainShow *, const gimbal_train_event *);
/* As a line of the log; NULL: it does not go there (or no memory). */
json_t *train_event_json(const gimbal_train_event *);
/* All settings by their flags' names, as far as they are known before the model is read. NULL: no memory. */
json_t *train_settings_json(const gimbal_train_settings *);
/* The dry run's result on stdout. */
int train_print_cost(const TrainFlags *, const gimbal_train_cost *, int ranks, gimbal_error *);

/* ---- OUT/model: train_model.c ------------------------------------------------------------ */

/* Is there an entry of that name? */
bool has_entry(const char *folder, const char *name);
/* Makes or renews OUT/model for a checkpoint: *folder its path, the caller's (free); NULL on error. EIO. */
int train_model_link(const TrainFlags *, const char *checkpoint, char **folder, gimbal_error *);

/* ---- samples: train_sample.c ------------------------------------------------------------- */

typedef struct {
    const char **prompts;
    int n;
    char *text; /* of a file, owns its prompts */
    int before; /* step of the checkpoint before */
} TrainSamples;
/* EUSAGE, EIO, EFORMAT. */
int train_samples_read(TrainSamples *, const TrainFlags *, gimbal_error *);
/* OUT/samples/step-N-1.mp4, ... and step-N.png from a model folder, where it is time for some. *line: what
 * the log shall say, or NULL. clips: where families that begin from a picture find one. */
int train_samples_make(TrainSamples *, const TrainFlags *, const gimbal_clips *clips, int step,
                       const char *model, json_t **line, gimbal_error *);
void train_samples_free(TrainSamples *);

/* ---- OUT/index.html: train_page.c -------------------------------------------------------- */

/* From OUT/log.jsonl. EIO, EFORMAT. */
int train_page(const char *output, gimbal_error *);

#endif
