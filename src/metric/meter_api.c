/* meter_api.c: the public calls of measuring: an order becomes jobs, ended jobs become scores.
 *
 * An order names scores; the metrics that have them are opened, in the registry's order, and only what was
 * named is given out. Without names it is every score that needs no network, and no flow where the caller
 * brings none. A clip that is too small for a metric still gets the others.
 *
 * Knows orders and scores. Refuses to know pictures (meter.c) and networks (meter_feed.c, nets.c). */
#include "metric/meter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void gimbal_measure_defaults(gimbal_measure_order *o)
{
    *o = (gimbal_measure_order){.size = sizeof *o, .antialias = -1};
}

/* ---- names of scores --------------------------------------------------------------------- */

/* The i-th score of all metrics, and where it is; NULL past the end. */
static const Score *score_at(int i, int *metric, int *index)
{
    for (int k = 0; metric_at(k); k++)
        for (int s = 0; metric_at(k)->scores[s].name; s++)
            if (!i--) {
                *metric = k, *index = s;
                return &metric_at(k)->scores[s];
            }
    return NULL;
}

static const char *score_name(const void *list, int i)
{
    int metric, index;
    (void)list;
    return score_at(i, &metric, &index)->name;
}

static int unknown_score(const char *word, gimbal_error *err)
{
    char known[640] = "", hint[96] = "";
    int n = 0, metric, index;
    for (const Score *s; (s = score_at(n, &metric, &index)); n++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", n ? ", " : "", s->name);
    const char *near = nearest_name(word, score_name, NULL, n);
    if (near)
        snprintf(hint, sizeof hint, "did you mean %s?", near);
    return fail_hint(err, GIMBAL_EUSAGE, hint, "score \"%.40s\" is unknown; known: %s", word, known);
}

static bool is_word(const char *name, const char *word, size_t n)
{
    return strlen(name) == n && !memcmp(name, word, n);
}

/* Bits of a metric's scores that a word of n letters names: one of them, or all by the metric's own name. */
static unsigned named_scores(const Metric *metric, const char *word, size_t n)
{
    for (int s = 0; metric->scores[s].name; s++)
        if (is_word(metric->scores[s].name, word, n))
            return 1u << s;
    return is_word(metric->name, word, n) ? ~0u : 0;
}

/* The same of each metric for all words of `names`. */
static int read_names(const char *names, unsigned *wanted, gimbal_error *err)
{
    while (*names) {
        const size_t n = strcspn(names, ",");
        bool known = false;
        for (int k = 0; metric_at(k); k++) {
            const unsigned bits = named_scores(metric_at(k), names, n);
            wanted[k] |= bits;
            known |= bits != 0;
        }
        if (!known) {
            char word[80];
            snprintf(word, sizeof word, "%.*s", (int)MIN(n, sizeof word - 1), names);
            return unknown_score(word, err);
        }
        names += n + (names[n] == ',');
    }
    return GIMBAL_OK;
}

/* ---- jobs -------------------------------------------------------------------------------- */

enum { METRIC_MOST = 64 };

static bool is_offered(const Metric *metric, const gimbal_measure_order *o)
{
    return !(metric->needs & NEED_NETWORK) && (o->flow || !(metric->needs & NEED_FLOW));
}

static int check_needs(const Metric *metric, const gimbal_measure_order *o, gimbal_error *err)
{
    if (metric->needs & NEED_FLOW && !o->flow)
        return fail(err, GIMBAL_ENOSUP, "%s needs optical flow, and there is none", metric->scores[0].name);
    if (metric->needs & NEED_TEXT && (!o->prompt || !*o->prompt))
        return fail(err, GIMBAL_EUSAGE, "%s compares the clip with a prompt, and none is given",
                    metric->scores[0].name);
    return GIMBAL_OK;
}

static int add_job(Meter *m, const Metric *metric, unsigned wanted)
{
    const gimbal_measure_order *o = &m->order;
    Job *job = &m->jobs[m->n_jobs++];
    *job = (Job){.metric = metric, .wanted = wanted, .feed = feed_of(metric->needs)};
    TRY(check_needs(metric, o, &m->error));
    job->self = arena_alloc(&m->arena, metric->size);
    if (MIN(o->width, o->height) < metric->least)
        job->undefined = arena_printf(&m->arena, "pictures of %dx%d; at least %d pixels a side are needed",
                                      o->width, o->height, metric->least);
    if (!job->self || (MIN(o->width, o->height) < metric->least && !job->undefined))
        return fail(&m->error, GIMBAL_ENOMEM, "no memory for metric %s", metric->name);
    return GIMBAL_OK;
}

static int choose_jobs(Meter *m)
{
    unsigned wanted[METRIC_MOST] = {0};
    const char *names = m->order.scores;
    if (names)
        TRY(read_names(names, wanted, &m->error));
    m->jobs = arena_alloc(&m->arena, METRIC_MOST * sizeof *m->jobs);
    if (!m->jobs)
        return fail(&m->error, GIMBAL_ENOMEM, "no memory for the metrics");
    for (int k = 0; metric_at(k) && k < METRIC_MOST; k++) {
        if (!names && is_offered(metric_at(k), &m->order))
            wanted[k] = ~0u;
        if (wanted[k])
            TRY(add_job(m, metric_at(k), wanted[k]));
    }
    return m->n_jobs ? GIMBAL_OK : fail(&m->error, GIMBAL_EUSAGE, "no score is named");
}

static int open_networks(Meter *m)
{
    unsigned needs = 0;
    for (int k = 0; k < m->n_jobs; k++)
        if (!m->jobs[k].undefined)
            needs |= m->jobs[k].metric->needs;
    if (!(needs & NEED_NETWORK))
        return GIMBAL_OK;
    TRY(nets_open(&m->nets, m->order.weights, feed_networks(needs), needs & NEED_TEXT, m->threads,
                  &m->error));
    TRY(feeds_open(m));
    return !(needs & NEED_TEXT) || meter_text(m) ? GIMBAL_OK : m->error.code;
}

static int begin_jobs(Meter *m)
{
    const gimbal_measure_order *o = &m->order;
    for (int k = 0; k < m->n_jobs; k++) {
        Job *job = &m->jobs[k];
        const Metric *metric = job->metric;
        job->definition = arena_printf(&m->arena, "%s%s", metric->definition,
                                       job->undefined ? "" : feed_note(m, job->feed));
        if (!job->definition)
            return fail(&m->error, GIMBAL_ENOMEM, "no memory for metric %s", metric->name);
        if (job->undefined)
            continue;
        m->current = job;
        job->begun = true;
        if (metric->begin && metric->begin(job->self, m, o->width, o->height, o->fps, &m->error))
            return fail(&m->error, GIMBAL_ENOMEM, "metric %s cannot begin", metric->name);
    }
    m->current = NULL;
    return GIMBAL_OK;
}

static int check_order(const gimbal_measure_order *o, gimbal_error *err)
{
    if (o->size != sizeof *o)
        return fail_hint(err, GIMBAL_EUSAGE, "fill it with gimbal_measure_defaults first",
                         "the order's size is %zu, expected %zu", o->size, sizeof *o);
    if (o->width < 1 || o->height < 1 || (int64_t)o->width * o->height > INT32_MAX / 8)
        return fail(err, GIMBAL_EUSAGE, "a clip of %dx%d pixels cannot be measured", o->width, o->height);
    if (o->image && (o->image_width < 1 || o->image_height < 1))
        return fail(err, GIMBAL_EUSAGE, "an image of %dx%d pixels", o->image_width, o->image_height);
    if (!(o->fps >= 0 && o->fps < INFINITY) || o->threads < 0)
        return fail(err, GIMBAL_EUSAGE, "%g frames per second, %d threads: expected at least 0", o->fps,
                    o->threads);
    return GIMBAL_OK;
}

int gimbal_measure_begin(gimbal_meter **out, const gimbal_measure_order *order, gimbal_error *err)
{
    *out = NULL;
    TRY(check_order(order, err));
    Meter *m = calloc(1, sizeof *m);
    if (!m)
        return fail(err, GIMBAL_ENOMEM, "no memory for a meter");
    m->order = *order;
    m->threads = order->threads ? order->threads : threads_available();
    int code = choose_jobs(m);
    code = code ? code : open_networks(m);
    code = code ? code : begin_jobs(m);
    if (!code) {
        *out = m;
        return GIMBAL_OK;
    }
    fail_hint(err, m->error.code, m->error.hint, "%s", m->error.msg);
    code = m->error.code;
    gimbal_measure_free(m);
    return code;
}

/* ---- frames ------------------------------------------------------------------------------ */

/* A meter's error is for every later call too. */
static int tell(const Meter *m, gimbal_error *err)
{
    return m->error.code ? fail_hint(err, m->error.code, m->error.hint, "%s", m->error.msg) : GIMBAL_OK;
}

int gimbal_measure_frame(gimbal_meter *m, const uint8_t *rgb, gimbal_error *err)
{
    if (m->ended)
        return fail(err, GIMBAL_EUSAGE, "a frame after the end of the clip");
    if (m->frames == INT32_MAX)
        return fail(err, GIMBAL_EUSAGE, "a clip of more than %d frames", INT32_MAX);
    if (!m->error.code)
        meter_see(m, rgb);
    return tell(m, err);
}

int gimbal_measure_frames(const gimbal_meter *m)
{
    return m->frames;
}

/* ---- scores ------------------------------------------------------------------------------ */

static int end_job(Meter *m, Job *job)
{
    m->current = job;
    for (int s = 0; s < SCORE_MOST; s++)
        job->value[s] = NAN;
    job->why = job->undefined;
    if (!job->undefined && job->metric->end(job->self, m->frames, job->value, &job->why, &m->error))
        return fail(&m->error, GIMBAL_ENOMEM, "metric %s cannot end", job->metric->name);
    for (int s = 0; s < SCORE_MOST; s++)
        if (job->values[s] && job->room[s] < m->frames)
            TRY(meter_frame_value(m, s, m->frames - 1, NAN));
    m->current = NULL;
    const unsigned needs = job->metric->needs;
    if (job->undefined || !(needs & NEED_NETWORK))
        return GIMBAL_OK;
    const char *hash = nets_sha256(m->nets, needs & NEED_RAFT ? NET_RAFT : feed_net(job->feed), &m->error);
    job->weights = hash ? arena_printf(&m->arena, "%s", hash) : NULL;
    return job->weights ? GIMBAL_OK : fail(&m->error, GIMBAL_ENOMEM, "no memory for a hash");
}

static void fill_score(gimbal_score *out, const Job *job, int s)
{
    const Score *score = &job->metric->scores[s];
    const double value = job->value[s];
    *out = (gimbal_score){.name = score->name,
                          .metric = job->metric->name,
                          .definition = job->definition,
                          .help = score->help,
                          .weights = job->weights,
                          .better = score->better,
                          .value = isfinite(value) ? value : NAN,
                          .values = job->values[s]};
    if (!isfinite(value))
        out->why = job->why ? job->why : "the clip is too short";
}

static int end_all(Meter *m)
{
    TRY(feeds_end(m));
    m->scores = arena_alloc(&m->arena, (size_t)m->n_jobs * SCORE_MOST * sizeof *m->scores);
    if (!m->scores)
        return fail(&m->error, GIMBAL_ENOMEM, "no memory for the scores");
    for (int k = 0; k < m->n_jobs; k++) {
        Job *job = &m->jobs[k];
        TRY(end_job(m, job));
        for (int s = 0; s < SCORE_MOST && job->metric->scores[s].name; s++)
            if (job->wanted & 1u << s)
                fill_score(&m->scores[m->n_scores++], job, s);
    }
    meter_drop_pictures(m);
    return GIMBAL_OK;
}

int gimbal_measure_end(gimbal_meter *m, gimbal_error *err)
{
    if (m->ended)
        return fail(err, GIMBAL_EUSAGE, "the clip has ended before");
    if (!m->frames && !m->error.code)
        return fail(err, GIMBAL_EUSAGE, "a clip without frames");
    m->ended = true;
    if (!m->error.code)
        end_all(m);
    return tell(m, err);
}

int gimbal_measure_score(const gimbal_meter *m, int i, gimbal_score *out)
{
    if (!m->ended || m->error.code || i < 0 || i >= m->n_scores)
        return GIMBAL_EUSAGE;
    *out = m->scores[i];
    return GIMBAL_OK;
}

void gimbal_measure_free(gimbal_meter *m)
{
    if (!m)
        return;
    for (int k = 0; k < m->n_jobs; k++) {
        Job *job = &m->jobs[k];
        if (job->begun && job->metric->close)
            job->metric->close(job->self);
        for (int s = 0; s < SCORE_MOST; s++)
            free(job->values[s]); /* grown with the clip, so not of the arena */
    }
    meter_drop_pictures(m);
    feeds_close(m);
    nets_close(m->nets);
    arena_free(&m->arena);
    free(m);
}

/* ---- features of sets -------------------------------------------------------------------- */

int gimbal_measure_logits(const char *weights, const uint8_t *rgb, int frames, int width, int height,
                          float *out, gimbal_error *err)
{
    Nets *nets;
    if (frames < 9 || width < 1 || height < 1)
        return fail(err, GIMBAL_EUSAGE, "%d frames of %dx%d, expected at least 9", frames, width, height);
    TRY(nets_open(&nets, weights, 1u << NET_I3D, false, 0, err));
    const int code = nets_logits(nets, rgb, frames, width, height, out, err);
    nets_close(nets);
    return code;
}
