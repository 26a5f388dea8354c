/* measure_clip.c: one clip through a meter, and what is kept of it.
 *
 *     measure_frames.c: pictures -> gimbal_measure_frame (and whoever wants to see them) -> scores
 *
 * One picture is in memory at a time. What the order leaves open comes from the clip: size, rate, the prompt
 * of its recipe; the flow is the program's own. Refuses to know what scores mean. */
#include "app/measure.h"
#include "flow/flow.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is kept ------------------------------------------------------------------------ */

static bool copy_text(const char **text)
{
    if (*text)
        *text = strdup(*text);
    return *text;
}

/* Texts and values of the meter's score into memory of our own. */
static int copy_score(gimbal_score *s, int frames, gimbal_error *err)
{
    const bool weights = s->weights, why = s->why;
    const double *values = s->values;
    s->values = NULL;
    bool whole = copy_text(&s->name);
    whole &= copy_text(&s->metric);
    whole &= copy_text(&s->definition);
    whole &= copy_text(&s->help);
    whole &= copy_text(&s->weights) || !weights;
    whole &= copy_text(&s->why) || !why;
    if (values) {
        double *copy = malloc((size_t)frames * sizeof *copy);
        whole &= copy != NULL;
        if (copy)
            memcpy(copy, values, (size_t)frames * sizeof *copy);
        s->values = copy;
    }
    return whole ? GIMBAL_OK : fail_memory(err);
}

static int keep_scores(const gimbal_meter *meter, Measured *out, gimbal_error *err)
{
    gimbal_score score;
    int n = 0;
    while (!gimbal_measure_score(meter, n, &score))
        n++;
    out->frames = gimbal_measure_frames(meter);
    out->scores = calloc((size_t)n + 1, sizeof *out->scores);
    if (!out->scores)
        return fail_memory(err);
    for (; out->n < n; out->n++) {
        gimbal_measure_score(meter, out->n, &out->scores[out->n]);
        if (copy_score(&out->scores[out->n], out->frames, err)) {
            out->n++; /* its texts are ours already */
            return err->code;
        }
    }
    return GIMBAL_OK;
}

void measured_free(Measured *m)
{
    for (int i = 0; i < m->n; i++) {
        gimbal_score *s = &m->scores[i];
        free((char *)s->name);
        free((char *)s->metric);
        free((char *)s->definition);
        free((char *)s->help);
        free((char *)s->weights);
        free((char *)s->why);
        free((double *)s->values);
    }
    free(m->scores);
    free(m->path);
    free(m->recipe);
    free(m->note);
    *m = (Measured){0};
}

const gimbal_score *measured_score(const Measured *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->scores[i].name, name))
            return &m->scores[i];
    return NULL;
}

/* ---- measuring --------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    Frames frames;
    gimbal_measure_order order;
    gimbal_meter *meter;
    json_t *recipe;
    Progress progress;
    double since;
    SeeFrame see;
    void *user;
    uint8_t *rgb;
} Work;

/* A recipe that cannot be read is none: the pictures are what is measured. */
static void read_recipe(Work *w, Measured *out)
{
    gimbal_error ignored = {0};
    if (recipe_read(w->path, &out->recipe, &ignored))
        out->recipe = NULL;
    w->recipe = out->recipe ? json_loads(out->recipe, 0, NULL) : NULL;
    const char *prompt = json_string_value(json_object_get(json_object_get(w->recipe, "settings"), "prompt"));
    if (!w->order.prompt && prompt && *prompt)
        w->order.prompt = prompt;
}

static int show_progress(Work *w, int i, gimbal_error *err)
{
    const gimbal_progress p = {.stage = "measure",
                               .step = i + 1,
                               .steps = w->frames.info.frames,
                               .elapsed = clock_seconds() - w->since,
                               .eta = -1};
    return progress_show(&w->progress, &p) ? check_signals(err) : GIMBAL_OK;
}

static int measure_frames(Work *w, gimbal_error *err)
{
    const int width = w->frames.info.width, height = w->frames.info.height;
    int got = 1;
    for (int i = 0; (got = frames_get(&w->frames, w->rgb, err)) > 0; i++) {
        if (w->see)
            TRY(w->see(w->user, i, w->rgb, width, height, err));
        TRY(gimbal_measure_frame(w->meter, w->rgb, err));
        TRY(show_progress(w, i, err));
    }
    return got ? got : gimbal_measure_end(w->meter, err);
}

/* What the container promised and what came. */
static int note_frames(const Work *w, Measured *out, gimbal_error *err)
{
    const media_info *info = &w->frames.info;
    int n = 0;
    if (info->frames && info->frames != out->frames)
        n = asprintf(&out->note, "its container says %d frames, %d were decoded and measured", info->frames,
                     out->frames);
    else if (w->frames.media && media_uneven(w->frames.media))
        n = asprintf(&out->note,
                     "its frame rate varies; frames were measured one by one, whatever their times");
    if (n >= 0)
        return GIMBAL_OK;
    out->note = NULL;
    return fail_memory(err);
}

static int measure(Work *w, Measured *out, gimbal_error *err)
{
    TRY(frames_open(&w->frames, w->path, err));
    const media_info *info = &w->frames.info;
    read_recipe(w, out);
    w->order.width = out->width = info->width;
    w->order.height = out->height = info->height;
    const double fps = info->fps > 0 ? info->fps : json_number_value(json_object_get(w->recipe, "fps"));
    w->order.fps = out->fps = fps > 0 && fps < 1e6 ? fps : 0;
    if (!w->order.flow && flow_version())
        w->order.flow = flow_dis;
    w->rgb = malloc(3 * (size_t)info->width * (size_t)info->height);
    out->path = strdup(w->path);
    if (!w->rgb || !out->path)
        return fail_memory(err);
    TRY(gimbal_measure_begin(&w->meter, &w->order, err));
    TRY(measure_frames(w, err));
    TRY(keep_scores(w->meter, out, err));
    return note_frames(w, out, err);
}

/* The meter's errors do not know which clip is measured. */
static void name_clip(const char *path, gimbal_error *err)
{
    const size_t n = strlen(path);
    if (err->code == GIMBAL_ECANCEL || !strncmp(err->msg, path, n))
        return;
    gimbal_error named = {0};
    complain(&named, err->code, err->hint, "%.300s: %.460s", path, err->msg);
    *err = named;
}

int measure_clip(const char *path, const gimbal_measure_order *order, bool quiet, SeeFrame see, void *user,
                 Measured *out, gimbal_error *err)
{
    Work w = {.path = path,
              .order = *order,
              .progress = progress_begin(quiet),
              .since = clock_seconds(),
              .see = see,
              .user = user};
    *out = (Measured){0};
    const int code = measure(&w, out, err);
    progress_clear(&w.progress);
    gimbal_measure_free(w.meter);
    frames_close(&w.frames);
    json_decref(w.recipe);
    free(w.rgb);
    if (code) {
        measured_free(out);
        name_clip(path, err);
    }
    return code;
}
