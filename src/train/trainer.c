/* trainer.c: the loop: micro-batches, gradients, one optimiser step, checkpoints, looks at the validation
 * set.
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
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void)
{
    return 1;
}
static void omp_set_num_threads(int n)
{
    (void)n;
}
#endif

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
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        g[i] *= by;
}

/* Shares of a blend stay within 0..1, where they are clamped anyway: outside nothing would bring them back.
 */
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
    double loss, weighted, clips, band[GIMBAL_TRAIN_BANDS], in_band[GIMBAL_TRAIN_BANDS];
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

void trainer_note(struct gimbal_trainer *t, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    say(t, &(gimbal_train_event){.what = GIMBAL_TRAIN_NOTE, .text = text});
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

/* ---- sums over ranks ------------------------------------------------------------------------- */

/* A stretch of the flat gradient that is complete after one step of one plan. */
typedef struct Bucket {
    int64_t at, count;
    const Plan *plan;
    int step;
    bool begun;
} Bucket;

/* The plan and step behind which p's gradient is complete: plans run one after the other. */
static void complete_after(const struct gimbal_trainer *t, const Param *p, int *plan, int *step)
{
    const Plan *plans[4];
    *plan = -1, *step = -1;
    for (int k = 0, n = t->recipe->plans(t->self, plans); k < n; k++) {
        const int last = plan_learnt(plans[k], p->w);
        if (last >= 0)
            *plan = k, *step = last;
    }
}

/* Buckets of about 25 MB, or an eighth of all: small enough that the first travels while others are made. */
int trainer_buckets(struct gimbal_trainer *t, gimbal_error *err)
{
    enum { BUCKET = 25 << 18 };
    const Plan *plans[4];
    const int64_t most = MAX(1, MIN((int64_t)BUCKET, t->set.total / 8));
    if (t->ranks->size == 1)
        return GIMBAL_OK;
    t->recipe->plans(t->self, plans);
    t->bucket = arena_alloc(&t->keep, (size_t)MAX(t->set.n, 1) * sizeof *t->bucket);
    if (!t->bucket)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d parameters", t->set.n);
    int last = -1;
    for (int i = 0; i < t->set.n; i++) {
        const Param *p = &t->set.p[i];
        const int64_t end = i + 1 < t->set.n ? t->set.p[i + 1].at : t->set.total;
        int plan, step;
        complete_after(t, p, &plan, &step);
        Bucket *b = t->n_buckets ? &t->bucket[t->n_buckets - 1] : NULL;
        if (!b || b->count >= most) {
            b = &t->bucket[t->n_buckets++];
            *b = (Bucket){.at = p->at, .step = -1};
            last = -1;
        }
        b->count = end - b->at;
        if (plan > last || (plan == last && step > b->step))
            last = plan, b->plan = plans[plan], b->step = step;
    }
    return GIMBAL_OK;
}

static void begin_bucket(struct gimbal_trainer *t, Bucket *b)
{
    b->begun = true;
    if (!t->sum_err.code)
        t->ranks->sum_begin(t->ranks->self, t->set.grad + b->at, (size_t)b->count, &t->sum_err);
}

/* After every step of the last micro-batch's plans. */
static void stepped(void *user, const Plan *plan, int step)
{
    struct gimbal_trainer *t = user;
    for (int i = 0; i < t->n_buckets; i++)
        if (!t->bucket[i].begun && t->bucket[i].plan == plan && t->bucket[i].step == step)
            begin_bucket(t, &t->bucket[i]);
    t->ranks->poll(t->ranks->self);
}

/* From now on finished gradients travel while the rest of backward runs. */
static void overlap(struct gimbal_trainer *t, bool on)
{
    if (t->ranks->size == 1)
        return;
    for (int i = 0; i < t->n_buckets && on; i++)
        t->bucket[i].begun = false;
    t->cx.stepped = on ? stepped : NULL, t->cx.stepped_user = t;
}

static int reduce(struct gimbal_trainer *t, Sums *sums, gimbal_error *err)
{
    const gimbal_ranks *r = t->ranks;
    if (r->size == 1)
        return GIMBAL_OK;
    for (int i = 0; i < t->n_buckets; i++)
        if (!t->bucket[i].begun)
            begin_bucket(t, &t->bucket[i]);
    if (t->sum_err.code)
        return pass_on(&t->sum_err, err);
    TRY(r->sum_end(r->self, err));
    return r->sum(r->self, (double *)sums, sizeof *sums / sizeof(double), err);
}

/* ---- a step ------------------------------------------------------------------------------------ */

static int learn_all(struct gimbal_trainer *t, Sums *sums, gimbal_error *err)
{
    const int share = t->s.batch / t->ranks->size, micros = share / t->s.micro;
    double *loss = alloc_array((size_t)t->s.micro, sizeof *loss);
    int code = loss ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for losses");
    for (int m = 0; m < micros && !code; m++) {
        const int64_t g = t->step * t->s.batch + t->ranks->rank * (int64_t)share + m * (int64_t)t->s.micro;
        overlap(t, m == micros - 1);
        code = learn_one(t, sums, g, loss, err);
        gimbal_train_event e = {.what = GIMBAL_TRAIN_MICRO, .done = m + 1, .total = micros};
        if (micros > 1)
            say(t, &e);
    }
    t->cx.stepped = NULL;
    free(loss);
    return code;
}

static int one_step(struct gimbal_trainer *t, gimbal_error *err)
{
    Sums sums = {0};
    double norm[MAX_NETS];
    const double since = seconds_now();
    TRY(learn_all(t, &sums, err));
    TRY(reduce(t, &sums, err));
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
    if (t->ranks->rank) /* rank 0 writes for all */
        return GIMBAL_OK;
    TRY(checkpoint_save(t, folder, err));
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
    trainer_note(t, "%s", why.msg);
    return GIMBAL_OK;
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

static int run(struct gimbal_trainer *t, gimbal_error *err)
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

/* The optimiser's loops are OpenMP's own: as many threads as the settings say, on this thread only. */
int gimbal_train_run(gimbal_trainer *t, gimbal_error *err)
{
    const int was = omp_get_max_threads();
    omp_set_num_threads(t->s.threads);
    const int code = run(t, err);
    omp_set_num_threads(was);
    return code;
}

void gimbal_train_stop(gimbal_trainer *t)
{
    atomic_store(&t->stop, 1);
}

int gimbal_train_step(const gimbal_trainer *t)
{
    return (int)t->step;
}
