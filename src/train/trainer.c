/* trainer.c: the loop: micro-batches, gradients, one optimiser step, checkpoints, looks at the validation set.
 *
 *     for every step   for every micro-batch of this rank   grad += d loss / d p, means over the step
 *                      sum over ranks;  g *= min(1, clip / |g|);  AdamW;  EMA;  the schedule goes on
 *
 * A step's clips are numbers g = step * batch + j; rank r of R takes j in [r batch/R, (r+1) batch/R). Nothing
 * random is kept between steps, so resuming needs the step's number and the parameters' arrays alone.
 *
 * Knows the order of things. Refuses to know networks, files' formats and terminals. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one optimiser step -------------------------------------------------------------------- */

/* Norms of each network's gradient. EVALUE when one is not finite. */
static int norms(const struct gimbal_trainer *t, double norm[MAX_NETS], gimbal_error *err)
{
    const TrainSet *set = &t->set;
    for (int i = 0; i < MAX_NETS; i++) {
        norm[i] = grad_norm(set->grad + set->begin[i], set->begin[i + 1] - set->begin[i]);
        if (!isfinite(norm[i]))
            return fail_hint(err, GIMBAL_EVALUE, "a smaller --lr, or --clip, may help",
                             "step %lld: the gradient's norm is not finite", (long long)t->step + 1);
    }
    return GIMBAL_OK;
}

static void scale(float *g, int64_t n, float by)
{
    for (int64_t i = 0; i < n; i++)
        g[i] *= by;
}

/* Shares of a blend stay within 0..1, where they are clamped anyway: outside nothing would bring them back. */
static void project(const Param *p, float *value)
{
    if (p->w->kind == W_BLEND)
        *value = fminf(fmaxf(*value, 0), 1);
}

double trainer_lr(const struct gimbal_trainer *t, int net)
{
    return (net ? t->s.base_lr : t->s.lr) * lr_factor(&t->lr, t->step);
}

int trainer_update(struct gimbal_trainer *t, double norm[MAX_NETS], gimbal_error *err)
{
    TrainSet *set = &t->set;
    TRY(norms(t, norm, err));
    for (int i = 0; i < MAX_NETS; i++)
        scale(set->grad + set->begin[i], set->begin[i + 1] - set->begin[i],
              (float)clip_factor(norm[i], t->s.clip));
    for (int i = 0; i < set->n; i++) {
        const Param *p = &set->p[i];
        adamw_step(&t->adamw, trainer_lr(t, p->net), t->step + 1, p->count, set->value + p->at,
                   set->grad + p->at, set->m + p->at, set->v + p->at);
        project(p, set->value + p->at);
    }
    t->step++;
    if (set->ema)
        ema_update(ema_decay(&t->ema, t->step), set->total, set->ema, set->value);
    memset(set->grad, 0, (size_t)set->total * sizeof *set->grad);
    return GIMBAL_OK;
}

/* ---- a step's sums -------------------------------------------------------------------------- */

/* What all ranks add up beside gradients. */
typedef struct {
    double failed, loss, weighted, clips, band[GIMBAL_TRAIN_BANDS], in_band[GIMBAL_TRAIN_BANDS];
} Sums;

static void add_losses(const struct gimbal_trainer *t, Sums *sums, const double *loss)
{
    const Batch *b = &t->batch;
    for (int i = 0; i < b->clips; i++) {
        const int band = MIN((int)(b->t[i] * GIMBAL_TRAIN_BANDS / t->schedule.T), GIMBAL_TRAIN_BANDS - 1);
        sums->loss += loss[i];
        sums->weighted += loss[i] * (double)b->weight[i];
        sums->clips++;
        sums->band[band] += loss[i];
        sums->in_band[band]++;
    }
}

static int say(struct gimbal_trainer *t, gimbal_train_event *e)
{
    e->step = (int)t->step, e->steps = t->s.steps;
    e->elapsed = seconds_now() - t->begun;
    if (t->event && t->event(t->user, e))
        atomic_store(&t->stop, 1);
    return 0;
}

/* The clips of a batch whose loss is not finite, by name. */
static int name_clips(const struct gimbal_trainer *t, const gimbal_error *why, gimbal_error *err)
{
    char names[400] = "";
    for (int i = 0; i < t->batch.clips && strlen(names) < sizeof names - 120; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%.80s (t %.0f)", i ? ", " : "",
                 t->clips->name(t->clips->self, t->batch.clip[i]), t->batch.t[i]);
    return fail_hint(err, GIMBAL_EVALUE,
                     "the last checkpoint is whole; a smaller --lr, or leaving the clip out, may help",
                     "step %lld, %s: %.200s", (long long)t->step + 1, names, why->msg);
}

static int learn_one(struct gimbal_trainer *t, Sums *sums, int64_t g, double *loss, gimbal_error *err)
{
    gimbal_error why = {0};
    TRY(batch_fill(t, &t->batch, g, err));
    const int code = t->recipe->learn(t->self, t, &t->batch, true, loss, &why);
    if (code == GIMBAL_EVALUE)
        return name_clips(t, &why, err);
    if (code)
        return pass_on(&why, err);
    add_losses(t, sums, loss);
    return GIMBAL_OK;
}

static int learn_all(struct gimbal_trainer *t, Sums *sums, gimbal_error *err)
{
    const int share = t->s.batch / t->ranks->size, micros = share / t->s.micro;
    double *loss = alloc_array((size_t)t->s.micro, sizeof *loss);
    int code = loss ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for losses");
    for (int m = 0; m < micros && !code; m++) {
        const int64_t g = t->step * t->s.batch + t->ranks->rank * (int64_t)share + m * (int64_t)t->s.micro;
        code = learn_one(t, sums, g, loss, err);
        gimbal_train_event e = {.what = GIMBAL_TRAIN_MICRO, .done = m + 1, .total = micros};
        if (micros > 1)
            say(t, &e);
    }
    free(loss);
    return code;
}

/* Gradients and sums of all ranks; a rank that failed stops the others too. */
static int reduce(struct gimbal_trainer *t, Sums *sums, int code, gimbal_error *err)
{
    enum { BUCKET = 25 << 18 }; /* 25 MB */
    const gimbal_ranks *r = t->ranks;
    if (r->size == 1)
        return code;
    sums->failed = code ? 1 : 0;
    TRY(r->sum(r->self, (double *)sums, sizeof *sums / sizeof(double), err));
    if (code)
        return code;
    if (sums->failed > 0)
        return fail(err, GIMBAL_ECANCEL, "another rank could not go on");
    for (int64_t at = 0; at < t->set.total; at += BUCKET)
        TRY(r->sum_begin(r->self, t->set.grad + at, (size_t)MIN(BUCKET, t->set.total - at), err));
    return r->sum_end(r->self, err);
}

static int one_step(struct gimbal_trainer *t, gimbal_error *err)
{
    Sums sums = {0};
    double norm[MAX_NETS];
    const double since = seconds_now();
    const int code = learn_all(t, &sums, err);
    TRY(reduce(t, &sums, code, err));
    const double rate = trainer_lr(t, 0);
    TRY(trainer_update(t, norm, err));
    const double seconds = seconds_now() - since;
    t->seconds = t->seconds > 0 ? 0.95 * t->seconds + 0.05 * seconds : seconds;
    gimbal_train_event e = {.what = GIMBAL_TRAIN_STEP,
                            .loss = sums.loss / sums.clips,
                            .weighted = sums.weighted / sums.clips,
                            .norm = norm[0],
                            .base_norm = t->set.begin[2] > t->set.begin[1] ? norm[1] : NAN,
                            .lr = rate,
                            .clips_per_second = t->s.batch / t->seconds,
                            .eta = t->seconds * (double)(t->s.steps - t->step)};
    for (int i = 0; i < GIMBAL_TRAIN_BANDS; i++)
        e.band[i] = sums.in_band[i] > 0 ? sums.band[i] / sums.in_band[i] : NAN;
    return say(t, &e);
}

/* ---- validation ------------------------------------------------------------------------------ */

/* Every rank looks at all of it: the numbers are the same on any number of ranks. */
static int validate(struct gimbal_trainer *t, gimbal_error *err)
{
    gimbal_train_event e = {.what = GIMBAL_TRAIN_VALID};
    double *loss = alloc_array((size_t)t->s.micro, sizeof *loss);
    int code = loss ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for losses");
    for (int band = 0; band < GIMBAL_TRAIN_BANDS; band++) {
        int seen = 0;
        for (int v = 0; v < t->s.validation && !code; v += t->s.micro) {
            code = batch_validation(t, &t->batch, v, band, err);
            if (!code)
                code = t->recipe->learn(t->self, t, &t->batch, false, loss, err);
            for (int i = 0; i < t->s.micro && v + i < t->s.validation && !code; i++, seen++)
                e.band[band] += loss[i];
        }
        e.band[band] /= MAX(seen, 1);
        e.loss += e.band[band] / GIMBAL_TRAIN_BANDS;
    }
    free(loss);
    return code ? code : say(t, &e);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static int save(struct gimbal_trainer *t, gimbal_error *err)
{
    char folder[PATH_ROOM];
    int code = GIMBAL_OK;
    if (!t->ranks->rank)
        code = checkpoint_save(t, folder, err);
    if (code || t->ranks->rank)
        return code;
    t->saved = t->step;
    gimbal_train_event e = {.what = GIMBAL_TRAIN_SAVED, .text = folder};
    return say(t, &e);
}

/* A save that fails is said and tried again at the next; only the last one's failure counts. */
static int save_or_say(struct gimbal_trainer *t, bool last, gimbal_error *err)
{
    gimbal_error why = {0};
    const int code = save(t, &why);
    if (!code || last || code != GIMBAL_EIO)
        return code ? pass_on(&why, err) : GIMBAL_OK;
    gimbal_train_event e = {.what = GIMBAL_TRAIN_NOTE, .text = why.msg};
    return say(t, &e);
}

/* Whether any rank was asked to stop: all stop after the same step. */
static int stop_asked(struct gimbal_trainer *t, bool *stop, gimbal_error *err)
{
    double asked = atomic_load(&t->stop);
    if (t->ranks->size > 1)
        TRY(t->ranks->sum(t->ranks->self, &asked, 1, err));
    *stop = asked > 0;
    return GIMBAL_OK;
}

static bool due(int64_t step, int every)
{
    return every > 0 && step % every == 0;
}

int gimbal_train_run(gimbal_trainer *t, gimbal_error *err)
{
    bool stop = false;
    t->begun = seconds_now();
    if (!t->step && t->s.validate_every > 0 && t->s.validation > 0)
        TRY(validate(t, err));
    while (t->step < t->s.steps && !stop) {
        TRY(one_step(t, err));
        TRY(stop_asked(t, &stop, err));
        const bool last = stop || t->step == t->s.steps;
        if (t->s.validation > 0 && (due(t->step, t->s.validate_every) || t->step == t->s.steps))
            TRY(validate(t, err));
        if (last || due(t->step, t->s.save_every))
            TRY(save_or_say(t, last, err));
    }
    if (t->step < t->s.steps)
        return fail(err, GIMBAL_ECANCEL, "stopped after step %lld of %d", (long long)t->step, t->s.steps);
    return GIMBAL_OK;
}

void gimbal_train_stop(gimbal_trainer *t)
{
    atomic_store(&t->stop, 1);
}

int gimbal_train_step(const gimbal_trainer *t)
{
    return (int)t->step;
}
