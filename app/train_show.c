/* train_show.c: training for people and for programs: a line on stderr, events as JSON, the dry run's table.
 *
 * The loss of single steps jumps with their timesteps; what is shown is the mean of the last RECENT ones.
 * Refuses to know where events come from. */
#include "app/train.h"

#include <math.h>
#include <string.h>

/* ---- stderr ------------------------------------------------------------------------------ */

static double recent_loss(const TrainShow *show)
{
    const int n = show->n < RECENT ? show->n : RECENT;
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += show->loss[i];
    return n ? sum / n : NAN;
}

/* done, of: micro-batches of the step under way; 0: it is finished. */
static void print_step(const TrainShow *show, int step, int done, int of, char *out, size_t room)
{
    char eta[32], part[40] = "", loss[40] = "";
    if (done)
        snprintf(part, sizeof part, " (%d/%d)", done, of);
    if (show->n)
        snprintf(loss, sizeof loss, ", loss %.4f", recent_loss(show));
    const double speed = show->last.clips_per_second;
    const int n = snprintf(out, room, "step %d/%d%s%s", step, show->last.steps, part, loss);
    if (show->n && n > 0 && (size_t)n < room)
        snprintf(out + n, room - (size_t)n, ", ETA %s, %.3g clips/s", print_time(show->last.eta, eta), speed);
}

static bool wants_line(const TrainShow *show, const gimbal_train_event *e)
{
    static const double patience = 30;
    const int hundredth = e->steps / 100 > 1 ? e->steps / 100 : 1;
    return e->step == e->steps || show->n == 1 || e->step - show->lined >= hundredth ||
           clock_seconds() - show->lined_at >= patience;
}

static void show_step(TrainShow *show, const gimbal_train_event *e)
{
    char state[160];
    show->loss[show->n++ % RECENT] = e->loss;
    show->last = *e;
    show->last.text = NULL; /* valid during the call only */
    const bool line = wants_line(show, e), last = e->step == e->steps;
    if (line)
        show->lined = e->step, show->lined_at = clock_seconds();
    print_step(show, e->step, 0, 0, state, sizeof state);
    progress_line(&show->progress, (double)e->step / (e->steps > 0 ? e->steps : 1), state,
                  show->progress.terminal ? last : line);
}

static void show_part(TrainShow *show, const gimbal_train_event *e)
{
    char state[160];
    const double done = e->step + (double)e->done / (e->total > 0 ? e->total : 1);
    show->last.steps = e->steps;
    print_step(show, e->step + 1, e->done, e->total, state, sizeof state);
    progress_line(&show->progress, done / (e->steps > 0 ? e->steps : 1), state, false);
}

static void show_cache(TrainShow *show, const gimbal_train_event *e)
{
    char state[80];
    snprintf(state, sizeof state, "encoding clips %d/%d", e->done, e->total);
    progress_line(&show->progress, (double)e->done / (e->total > 0 ? e->total : 1), state,
                  e->done == e->total);
}

static void show_words(TrainShow *show, const gimbal_train_event *e)
{
    if (show->progress.quiet)
        return;
    progress_clear(&show->progress);
    if (e->what == GIMBAL_TRAIN_NOTE)
        fprintf(stderr, "gimbal: note: %s\n", e->text ? e->text : "");
    if (e->what == GIMBAL_TRAIN_SAVED)
        fprintf(stderr, "step %d: kept %s\n", e->step, e->text ? e->text : "");
    if (e->what != GIMBAL_TRAIN_VALID)
        return;
    fprintf(stderr, "step %d: validation loss %.4f; by timestep, clear to noise:", e->step, e->loss);
    for (int i = 0; i < GIMBAL_TRAIN_BANDS; i++)
        fprintf(stderr, " %.4f", e->band[i]);
    fputc('\n', stderr);
}

void train_show(TrainShow *show, const gimbal_train_event *e)
{
    switch (e->what) {
    case GIMBAL_TRAIN_CACHE:
        show_cache(show, e);
        break;
    case GIMBAL_TRAIN_MICRO:
        show_part(show, e);
        break;
    case GIMBAL_TRAIN_STEP:
        show_step(show, e);
        break;
    case GIMBAL_TRAIN_NOTE:
    case GIMBAL_TRAIN_VALID:
    case GIMBAL_TRAIN_SAVED:
        show_words(show, e);
        break;
    }
}

/* ---- JSON -------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *bands(const gimbal_train_event *e)
{
    json_t *list = json_array();
    for (int i = 0; i < GIMBAL_TRAIN_BANDS; i++)
        json_array_append_new(list, number(e->band[i]));
    return list;
}

/* "step-00000010" of OUT/step-00000010: the folder may move. */
static const char *last_part(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path;
}

json_t *train_event_json(const gimbal_train_event *e)
{
    switch (e->what) {
    case GIMBAL_TRAIN_NOTE:
        return json_pack("{s:s, s:i, s:o}", "what", "note", "step", e->step, "text", json_text(e->text));
    case GIMBAL_TRAIN_VALID:
        return json_pack("{s:s, s:i, s:o, s:o, s:o}", "what", "valid", "step", e->step, "loss",
                         number(e->loss), "band", bands(e), "elapsed", number(e->elapsed));
    case GIMBAL_TRAIN_SAVED:
        return json_pack("{s:s, s:i, s:o}", "what", "saved", "step", e->step, "folder",
                         json_text(last_part(e->text)));
    case GIMBAL_TRAIN_STEP:
        return json_pack("{s:s, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "what", "step", "step",
                         e->step, "steps", e->steps, "loss", number(e->loss), "weighted", number(e->weighted),
                         "norm", number(e->norm), "base_norm", number(e->base_norm), "lr", number(e->lr),
                         "clips_per_second", number(e->clips_per_second), "elapsed", number(e->elapsed),
                         "band", bands(e));
    case GIMBAL_TRAIN_CACHE:
    case GIMBAL_TRAIN_MICRO:
        break;
    }
    return NULL;
}

static json_t *option_json(const gimbal_option *o, const void *object)
{
    const char *at = (const char *)object + o->offset;
    char text[24];
    switch (o->type) {
    case GIMBAL_BOOL:
    case GIMBAL_INT:
        return json_integer(*(const int *)at);
    case GIMBAL_REAL:
        return number(*(const double *)at);
    case GIMBAL_TEXT:
    case GIMBAL_CHOICE:
        return json_text(*(const char *const *)at);
    case GIMBAL_SEED:
        snprintf(text, sizeof text, "%llu", (unsigned long long)*(const uint64_t *)at);
        return *(const uint64_t *)at <= INT64_MAX ? json_integer((json_int_t) * (const uint64_t *)at)
                                                  : json_string(text);
    }
    return json_null();
}

json_t *train_settings_json(const gimbal_train_settings *s)
{
    json_t *all = json_object();
    for (const gimbal_option *o = gimbal_train_options(); all && o->name; o++)
        if (json_object_set_new(all, o->name, option_json(o, s))) {
            json_decref(all);
            return NULL;
        }
    return all;
}

/* ---- the dry run ------------------------------------------------------------------------- */

static json_t *cost_json(const TrainFlags *f, const gimbal_train_cost *c, int ranks)
{
    json_t *cost = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "parameters",
        (json_int_t)c->parameters, "trained", (json_int_t)c->trained, "tensors", (json_int_t)c->tensors,
        "weights_bytes", (json_int_t)c->weights_bytes, "master_bytes", (json_int_t)c->master_bytes,
        "gradient_bytes", (json_int_t)c->gradient_bytes, "moment_bytes", (json_int_t)c->moment_bytes,
        "ema_bytes", (json_int_t)c->ema_bytes, "activation_bytes", (json_int_t)c->activation_bytes,
        "recompute_bytes", (json_int_t)c->recompute_bytes, "anon_bytes", (json_int_t)c->anon_bytes,
        "limit_bytes", (json_int_t)c->limit_bytes, "flops", c->flops, "seconds", c->seconds);
    return cost ? json_pack("{s:i, s:b, s:i, s:o, s:o}", "schema", 1, "dry_run", 1, "ranks", ranks, "cost",
                            cost, "settings", train_settings_json(&f->s))
                : NULL;
}

static void print_row(const char *name, uint64_t bytes, const char *remark)
{
    char text[24];
    printf("%-22s %12s  %s\n", name, print_bytes(bytes, text), remark);
}

static void print_cost(const TrainFlags *f, const gimbal_train_cost *c, int ranks)
{
    char text[24], limit[80], all[32];
    printf("%s on %s", f->s.recipe, f->s.model);
    printf(ranks > 1 ? ", each of %d processes\n" : "\n", ranks);
    printf("%-22s %12lld  of %lld learn, in %lld tensors\n", "parameters", (long long)c->trained,
           (long long)c->parameters, (long long)c->tensors);
    print_row("weights", c->weights_bytes, "mapped files, beside the rest");
    print_row("master copies", c->master_bytes, "float32, of what learns");
    print_row("gradients", c->gradient_bytes, "");
    print_row("moments", c->moment_bytes, "AdamW's two");
    print_row("running mean", c->ema_bytes, c->ema_bytes ? "" : "--ema 0");
    print_row("activations", c->activation_bytes, "when all are kept");
    print_row("", c->recompute_bytes, "when blocks are computed again (--recompute 1)");
    snprintf(limit, sizeof limit, "of %s that can be had%s", print_bytes(c->limit_bytes, text),
             c->anon_bytes > c->limit_bytes ? ": too much" : "");
    print_row("predicted peak", c->anon_bytes, limit);
    printf("%-22s %12.4g  TFLOP a clip: forward, backward, and what is computed again\n", "work",
           c->flops * 1e-12);
    printf("%-22s %12.3g  seconds a step, %s for %d steps\n", "time", c->seconds,
           print_time(c->seconds * f->s.steps, all), f->s.steps);
}

int train_print_cost(const TrainFlags *f, const gimbal_train_cost *c, int ranks, gimbal_error *err)
{
    if (f->json)
        return print_json(cost_json(f, c, ranks), err);
    print_cost(f, c, ranks);
    return flush_stdout(err);
}
