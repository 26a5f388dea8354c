/* api.c: a trainer from its settings: model, networks that learn, plans, memory, checkpoint; and the dry run,
 * which is the same up to the memory.
 *
 * Knows how the parts come together. Refuses to know what they do. */
#include "train/train.h"

#include "tensor/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const gimbal_ranks alone = {.rank = 0, .size = 1};

/* ---- what is learnt ------------------------------------------------------------------------- */

static int check_batch(const struct gimbal_trainer *t, gimbal_error *err)
{
    const int unit = t->ranks->size * t->s.micro, below = t->s.batch / unit * unit;
    if (t->s.batch % unit == 0)
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE,
                "--batch is %d, expected a multiple of %d (%d processes, %d clips at a time), such as %d",
                t->s.batch, unit, t->ranks->size, t->s.micro, MAX(below, unit));
}

static int read_schedule(struct gimbal_trainer *t, gimbal_error *err)
{
    const char *note;
    TRY(engine_schedule(t->engine, t->s.betas, NULL, &t->schedule, &note, &t->keep, err));
    if (!t->s.prediction)
        t->s.prediction = t->schedule.prediction == PREDICT_V ? "v_prediction" : "epsilon";
    t->schedule.prediction = strcmp(t->s.prediction, "epsilon") ? PREDICT_V : PREDICT_EPSILON;
    TRY(noise_parse(t->s.noise, &t->noise, &t->noise_self, &t->keep, err));
    t->adamw = (AdamW){t->s.beta1, t->s.beta2, t->s.eps, t->s.decay};
    t->ema = (Ema){.decay = t->s.ema, .inv_gamma = 1, .power = t->s.ema_power, .warmup = t->s.ema_warmup};
    return lr_parse(&t->lr, t->s.schedule, t->s.warmup, t->s.steps, t->s.lr, err);
}

static int mark(struct gimbal_trainer *t, gimbal_error *err)
{
    TrainPart parts[4];
    const int n = t->recipe->parts(t->self, t, parts, err);
    if (n < 0)
        return n;
    if (!t->s.train[0])
        t->s.train = t->recipe->patterns(t);
    return set_mark(&t->set, parts, n, t->s.train, &t->keep, err);
}

static int open_model(struct gimbal_trainer *t, const gimbal_train_settings *s, gimbal_error *err)
{
    TRY(train_check(s, err));
    TRY(recipe_find(&t->recipe, s->recipe ? s->recipe : "motion", err));
    t->s = *s;
    TRY(engine_open_training(&t->engine, s->model, s->motion, s->seed, err));
    TRY(train_fill(&t->s, t->engine, t->recipe, &t->keep, err));
    TRY(check_batch(t, err));
    TRY(read_schedule(t, err));
    t->self = arena_alloc(&t->keep, t->recipe->size);
    if (!t->self)
        return fail(err, GIMBAL_ENOMEM, "no memory for a recipe");
    return mark(t, err);
}

/* ---- plans ----------------------------------------------------------------------------------- */

static gimbal_shape latents_shape(const struct gimbal_trainer *t)
{
    const int factor = vae_factor(t->engine->vae);
    return (gimbal_shape){vae_channels(t->engine->vae), t->s.frames, t->s.height / factor,
                          t->s.width / factor};
}

static int plan(struct gimbal_trainer *t, bool recompute, gimbal_error *err)
{
    t->cx.recompute = recompute;
    return t->recipe->plan(t->self, t, err);
}

/* Bytes beside activations: master copies, gradients, two moments, the running mean. */
static uint64_t set_bytes(const struct gimbal_trainer *t)
{
    return (uint64_t)t->set.total * sizeof(float) * (t->s.ema > 0 ? 5 : 4);
}

/* Plans a step. With recompute -1 whatever is kept is kept when it fits into the memory that is free now. */
static int plan_step(struct gimbal_trainer *t, gimbal_error *err)
{
    const char *dtype = strcmp(t->s.dtype, "auto") ? t->s.dtype : engine_fastest_type(t->engine);
    cx_init(&t->cx, cpu_chain(), t->s.threads, &t->err);
    t->cx.bf16 = !strcmp(dtype, "bf16");
    t->batch.shape = latents_shape(t);
    TRY(plan(t, t->s.recompute == 1, err));
    const uint64_t have = memory_available(), need = t->recipe->work_bytes(t->self) + set_bytes(t);
    if (t->s.recompute < 0 && need > have - have / 8)
        TRY(plan(t, true, err));
    const Plan *plans[4];
    set_drop(&t->set, plans, t->recipe->plans(t->self, plans));
    if (!t->set.n)
        return fail(err, GIMBAL_EUSAGE,
                    "no gradient reaches any of the parameters of --train %s: nothing to train", t->s.train);
    return GIMBAL_OK;
}

/* ---- memory ----------------------------------------------------------------------------------- */

static int enough(const struct gimbal_trainer *t, gimbal_error *err)
{
    const uint64_t work = t->recipe->work_bytes(t->self), set = set_bytes(t), have = memory_available();
    if (work + set <= have)
        return GIMBAL_OK;
    return fail_hint(err, GIMBAL_ENOMEM, "--recompute 1, --micro 1, fewer frames or --ema 0 need less",
                     "a step needs %.0f MiB (activations %.0f, parameters and optimiser %.0f), %.0f MiB are "
                     "available",
                     (double)(work + set) / (1 << 20), (double)work / (1 << 20), (double)set / (1 << 20),
                     (double)have / (1 << 20));
}

/* The empty caption's context, once. */
static int empty_context(struct gimbal_trainer *t, gimbal_error *err)
{
    int32_t ids[TOKENS];
    int cut;
    t->empty = alloc_array((size_t)TOKENS * (size_t)t->engine->shape.context, sizeof(float));
    if (!t->empty)
        return fail(err, GIMBAL_ENOMEM, "no memory for a caption");
    TRY(tokenize(t->engine->tokenizer, "", ids, TOKENS, &cut, err));
    return plans_text(&t->encoders, ids, t->empty, err);
}

static int take_memory(struct gimbal_trainer *t, gimbal_error *err)
{
    const gimbal_shape s = t->batch.shape;
    TRY(enough(t, err));
    TRY(cx_work(&t->cx, t->recipe->work_bytes(t->self), err));
    TRY(set_memory(&t->set, t->s.ema > 0, err));
    TRY(plans_encoders(&t->encoders, t->engine, t->s.threads, s, err));
    t->draw = alloc_array(shape_count(s), sizeof(float));
    if (!t->draw)
        return fail(err, GIMBAL_ENOMEM, "no memory for a clip");
    TRY(batch_make(&t->batch, t->s.micro, s, t->engine->shape.context, t->recipe->decomposed, err));
    if (t->recipe->lambda)
        t->recipe->lambda(t->self, t, t->batch.lambda);
    TRY(trainer_buckets(t, err));
    return empty_context(t, err);
}

/* Master copies begin anew instead of with the files' values. */
static void begin_anew(struct gimbal_trainer *t)
{
    for (int i = 0; i < t->set.n; i++) {
        const Param *p = &t->set.p[i];
        float *value = t->set.value + p->at;
        weight_begin(p->w, t->s.seed, value);
        /* a motion module's first contribution is nothing (Guo et al., section 4.2) */
        if (strstr(p->w->name, "motion_modules") && strstr(p->w->name, ".proj_out."))
            memset(value, 0, (size_t)p->count * sizeof *value);
    }
    if (t->set.ema)
        memcpy(t->set.ema, t->set.value, (size_t)t->set.total * sizeof(float));
}

/* ---- data and caches ---------------------------------------------------------------------------- */

/* Names encoder, data and size: what was encoded under another key is never used. encoder: its parts, bits of
 * PartKind; another network behind the same encoder finds what was encoded for the first. */
static int cache_key(const struct gimbal_trainer *t, const char *what, unsigned encoder, char hex[65],
                     gimbal_error *err)
{
    char text[128];
    TRY(parts_hash(t->engine->part, encoder, true, hex, err));
    Sha256 *sha = sha256_new();
    if (!sha)
        return fail(err, GIMBAL_ENOMEM, "no memory for a hash");
    const int n = snprintf(text, sizeof text, "%s %dx%d 2\n", what, t->s.width, t->s.height);
    sha256_add(sha, text, (size_t)n);
    sha256_add(sha, hex, 64);
    sha256_add(sha, t->clips->identity, strlen(t->clips->identity));
    sha256_end(sha, hex);
    return GIMBAL_OK;
}

static int open_caches(struct gimbal_trainer *t, gimbal_error *err)
{
    char folder[PATH_ROOM], key[65];
    const gimbal_shape s = t->batch.shape;
    if (!strcmp(t->s.cache, "none"))
        return GIMBAL_OK;
    if (t->s.cache[0])
        snprintf(folder, sizeof folder, "%s", t->s.cache);
    else
        TRY(path_join(folder, t->output, "cache", err));
    TRY(cache_key(t, "moments", 1u << PART_VAE, key, err));
    TRY(cache_open(&t->moments, folder, "moments", key, 2 * (int64_t)s.c * s.h * s.w, t->ranks->rank, err));
    TRY(cache_key(t, "text", 1u << PART_TEXT | 1u << PART_TOKENIZER, key, err));
    return cache_open(&t->texts, folder, "text", key, (int64_t)TOKENS * t->engine->shape.context,
                      t->ranks->rank, err);
}

static int split_data(struct gimbal_trainer *t, gimbal_error *err)
{
    const int64_t n = t->clips->count;
    if (n < 1)
        return fail(err, GIMBAL_EUSAGE, "the data holds no clips");
    if (t->s.validate_every == 0)
        t->s.validation = 0;
    t->s.validation = (int)MIN((int64_t)t->s.validation, n / 4);
    t->learnt_from = n - t->s.validation;
    return GIMBAL_OK;
}

/* ---- begin and end ------------------------------------------------------------------------------- */

static int begin(struct gimbal_trainer *t, const gimbal_train_settings *s, int resume, gimbal_error *err)
{
    bool found = false;
    TRY(open_model(t, s, err));
    TRY(split_data(t, err));
    TRY(plan_step(t, err));
    TRY(checkpoint_folder(t, resume, err));
    TRY(take_memory(t, err));
    if (t->s.fresh)
        begin_anew(t);
    TRY(open_caches(t, err));
    if (t->engine->fresh)
        trainer_note(t, "%d parameters that the model's files lack begin with random values",
                     t->engine->fresh);
    return resume ? checkpoint_load(t, &found, err) : GIMBAL_OK;
}

int gimbal_train_begin(gimbal_trainer **out, const gimbal_train_settings *s, const gimbal_clips *clips,
                       const gimbal_ranks *ranks, const char *output, int resume,
                       int (*event)(void *, const gimbal_train_event *), void *user, gimbal_error *err)
{
    *out = NULL;
    gimbal_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, GIMBAL_ENOMEM, "no memory for a trainer");
    t->clips = clips, t->ranks = ranks ? ranks : &alone, t->event = event, t->user = user;
    t->begun = seconds_now();
    atomic_init(&t->stop, 0);
    t->output = arena_printf(&t->keep, "%s", output);
    const int code = t->output ? begin(t, s, resume, err) : fail(err, GIMBAL_ENOMEM, "no memory for a path");
    if (code)
        gimbal_train_end(t);
    else
        *out = t;
    return code;
}

void gimbal_train_end(gimbal_trainer *t)
{
    if (!t)
        return;
    cache_close(t->moments);
    cache_close(t->texts);
    batch_free(&t->batch);
    plans_free(&t->encoders);
    free(t->empty);
    free(t->draw);
    if (t->self)
        t->recipe->free(t->self);
    if (t->cx.chain)
        cx_free(&t->cx);
    set_free(&t->set);
    gimbal_close(t->engine);
    arena_free(&t->keep);
    free(t);
}

/* ---- the dry run ----------------------------------------------------------------------------------- */

static uint64_t plan_packs(const struct gimbal_trainer *t)
{
    const Plan *plans[4];
    uint64_t most = 0;
    for (int i = t->recipe->plans(t->self, plans) - 1; i >= 0; i--)
        most += plan_pack_bytes(plans[i]);
    return most;
}

static int predict(struct gimbal_trainer *t, const gimbal_train_settings *s, gimbal_train_cost *out,
                   gimbal_error *err)
{
    TRY(open_model(t, s, err));
    TRY(plan_step(t, err));
    const uint64_t bytes = (uint64_t)t->set.total * sizeof(float), planned = t->recipe->work_bytes(t->self);
    const bool recomputed = t->cx.recompute;
    TRY(plan(t, false, err));
    out->activation_bytes = t->recipe->work_bytes(t->self);
    TRY(plan(t, true, err));
    out->recompute_bytes = t->recipe->work_bytes(t->self);
    TRY(plan(t, recomputed, err));
    out->parameters = t->set.parameters;
    out->trained = 0;
    for (int i = 0; i < t->set.n; i++)
        out->trained += t->set.p[i].count;
    out->tensors = t->set.n;
    out->master_bytes = out->gradient_bytes = bytes, out->moment_bytes = 2 * bytes;
    out->ema_bytes = t->s.ema > 0 ? bytes : 0;
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        if (t->engine->part[kind].weights)
            out->weights_bytes += weights_bytes(t->engine->part[kind].weights);
    out->limit_bytes = memory_available();
    out->flops = t->recipe->flops(t->self) / t->s.micro;
    TRY(plans_encoders(&t->encoders, t->engine, t->s.threads, t->batch.shape, err));
    out->anon_bytes = planned + set_bytes(t) + plans_work_bytes(&t->encoders) +
                      plans_beside_bytes(&t->encoders) + plan_packs(t) +
                      batch_bytes(t->s.micro, t->batch.shape, t->engine->shape.context);
    const Plan *plans[4];
    const int n = t->recipe->plans(t->self, plans);
    for (int i = 0; i < n; i++)
        out->seconds +=
            plan_seconds(&t->cx, (Plan *)plans[i], 2.0 / n) * (t->s.batch / t->ranks->size / t->s.micro);
    return cx_failed(&t->cx) ? pass_on(&t->err, err) : GIMBAL_OK;
}

int gimbal_train_predict(const gimbal_train_settings *s, int ranks, gimbal_train_cost *out, gimbal_error *err)
{
    gimbal_ranks some = {.rank = 0, .size = MAX(ranks, 1)};
    gimbal_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, GIMBAL_ENOMEM, "no memory for a trainer");
    *out = (gimbal_train_cost){0};
    t->ranks = &some;
    const int code = predict(t, s, out, err);
    gimbal_train_end(t);
    return code;
}
