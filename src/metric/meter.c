/* meter.c: frames through metrics: which pictures are kept, what several metrics share, whose turn it is.
 *
 * A picture stays while some metric says that it will look at it again; its grey form and the flows from or
 * to it go with it. So the memory of a clip is a few pictures, whatever its length. Flows that metrics
 * announce for a frame are computed side by side, one thread each; then the metrics have their turn one after
 * the other.
 *
 *     grey = 0.299 R + 0.587 G + 0.114 B, float, not rounded (skimage's and OpenCV's weights for luma)
 *
 * Knows pictures and flows. Refuses to know what a metric computes, and networks (meter_feed.c). */
#include "metric/meter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- pictures ---------------------------------------------------------------------------- */

static size_t picture_bytes(const Meter *m)
{
    return 3 * (size_t)m->order.width * (size_t)m->order.height;
}

static Picture *find_picture(const Meter *m, int j)
{
    for (int k = 0; k < m->n_pictures; k++)
        if (m->pictures[k].i == j)
            return &m->pictures[k];
    return NULL;
}

static Picture *picture_of(Meter *m, int j)
{
    Picture *p = j < 0 ? NULL : find_picture(m, j);
    if (!p)
        fail(&m->error, GIMBAL_EUSAGE, "metric %s asks for picture %d, which it did not keep",
             m->current ? m->current->metric->name : "?", j);
    return p;
}

const uint8_t *meter_picture(Meter *m, int j)
{
    const Picture *p = picture_of(m, j);
    return p ? p->rgb : NULL;
}

const float *meter_grey(Meter *m, int j)
{
    Picture *p = picture_of(m, j);
    if (!p)
        return NULL;
    const size_t n = (size_t)m->order.width * (size_t)m->order.height;
    if (!p->grey)
        p->grey = alloc_array(n, sizeof *p->grey);
    if (!p->grey) {
        fail(&m->error, GIMBAL_ENOMEM, "no memory for a grey picture of %dx%d", m->order.width,
             m->order.height);
        return NULL;
    }
    for (size_t k = 0; k < n && !p->grey_known; k++)
        p->grey[k] = 0.299f * p->rgb[3 * k] + 0.587f * p->rgb[3 * k + 1] + 0.114f * p->rgb[3 * k + 2];
    p->grey_known = true;
    return p->grey;
}

/* A copy of the caller's picture as number m->frames. */
static Picture *keep_picture(Meter *m, const uint8_t *rgb)
{
    Picture *p = find_picture(m, -1);
    if (!p) {
        Picture *more = realloc(m->pictures, ((size_t)m->n_pictures + 1) * sizeof *more);
        if (more) {
            m->pictures = more;
            p = &more[m->n_pictures++];
            *p = (Picture){.i = -1, .rgb = malloc(picture_bytes(m))};
        }
    }
    if (!p || !p->rgb) {
        fail(&m->error, GIMBAL_ENOMEM, "no memory to keep a picture of %dx%d", m->order.width,
             m->order.height);
        return NULL;
    }
    memcpy(p->rgb, rgb, picture_bytes(m));
    p->i = m->frames;
    p->grey_known = false;
    return p;
}

static bool is_kept(const Meter *m, int j)
{
    for (int k = 0; k < m->n_jobs; k++) {
        const Job *job = &m->jobs[k];
        if (job->undefined || job->feed >= 0)
            continue;
        if (job->metric->keeps ? job->metric->keeps(job->self, j, m->frames) : j == m->frames)
            return true;
    }
    return false;
}

/* What no metric keeps after frame m->frames makes room. */
static void release_pictures(Meter *m)
{
    for (int k = 0; k < m->n_pictures; k++)
        if (m->pictures[k].i >= 0 && !is_kept(m, m->pictures[k].i))
            m->pictures[k].i = -1;
    for (int k = 0; k < m->n_flows; k++)
        if (m->flows[k].a >= 0 && (!find_picture(m, m->flows[k].a) || !find_picture(m, m->flows[k].b)))
            m->flows[k].a = -1;
}

void meter_drop_pictures(Meter *m)
{
    for (int k = 0; k < m->n_pictures; k++) {
        free(m->pictures[k].rgb);
        free(m->pictures[k].grey);
    }
    for (int k = 0; k < m->n_flows; k++)
        free(m->flows[k].flow);
    free(m->pictures);
    free(m->flows);
    free(m->first);
    m->pictures = NULL, m->flows = NULL, m->first = NULL;
    m->n_pictures = m->n_flows = 0;
}

/* ---- flows ------------------------------------------------------------------------------- */

static Flow *find_flow(const Meter *m, int a, int b, bool raft)
{
    for (int k = 0; k < m->n_flows; k++)
        if (m->flows[k].a == a && m->flows[k].b == b && m->flows[k].raft == raft)
            return &m->flows[k];
    return NULL;
}

/* A slot with memory that waits for its values; NULL: no memory. */
static Flow *add_flow(Meter *m, int a, int b, bool raft)
{
    Flow *f = NULL;
    for (int k = 0; k < m->n_flows && !f; k++)
        f = m->flows[k].a < 0 ? &m->flows[k] : NULL;
    if (!f) {
        Flow *more = realloc(m->flows, ((size_t)m->n_flows + 1) * sizeof *more);
        if (more) {
            m->flows = more;
            f = &more[m->n_flows++];
            f->a = -1;
            f->flow = alloc_array(2 * (size_t)nets_padded(m->order.width), /* RAFT's are padded */
                                  (size_t)nets_padded(m->order.height) * sizeof(float));
        }
    }
    if (!f || !f->flow) {
        fail(&m->error, GIMBAL_ENOMEM, "no memory for a flow of %dx%d", m->order.width, m->order.height);
        return NULL;
    }
    f->a = a, f->b = b, f->raft = raft;
    return f;
}

static int compute_flow(const Meter *m, Flow *f, gimbal_error *err)
{
    const gimbal_measure_order *o = &m->order;
    const uint8_t *a = find_picture(m, f->a)->rgb, *b = find_picture(m, f->b)->rgb;
    const int code = f->raft ? nets_flow(m->nets, a, b, o->width, o->height, f->flow, err)
                             : o->flow(o->flow_user, a, b, o->width, o->height, f->flow, err);
    if (code)
        f->a = -1;
    return code;
}

const float *meter_flow(Meter *m, int a, int b, bool raft)
{
    Flow *f = find_flow(m, a, b, raft);
    if (f)
        return f->flow;
    if (!picture_of(m, a) || !picture_of(m, b))
        return NULL;
    f = add_flow(m, a, b, raft);
    return f && !compute_flow(m, f, &m->error) ? f->flow : NULL;
}

enum { WAITING_MOST = 16 };

/* Slots of the flows that the metrics will ask for with this frame; what does not fit is computed when asked
 * for. */
static int plan_flows(Meter *m, int slots[WAITING_MOST], int *n)
{
    int pairs[PAIR_MOST][2];
    *n = 0;
    for (int k = 0; k < m->n_jobs; k++) {
        Job *job = &m->jobs[k];
        m->current = job;
        const int asked =
            job->metric->flows && !job->undefined ? job->metric->flows(job->self, m->frames, pairs) : 0;
        for (int p = 0; p < asked; p++) {
            if (*n == WAITING_MOST || find_flow(m, pairs[p][0], pairs[p][1], false))
                continue;
            if (!picture_of(m, pairs[p][0]) || !picture_of(m, pairs[p][1]))
                return m->error.code;
            const Flow *f = add_flow(m, pairs[p][0], pairs[p][1], false);
            if (!f)
                return m->error.code;
            slots[(*n)++] = (int)(f - m->flows);
        }
    }
    return GIMBAL_OK;
}

static int compute_flows(Meter *m)
{
    int slots[WAITING_MOST], n;
    TRY(plan_flows(m, slots, &n));
#pragma omp parallel for schedule(dynamic) num_threads(MIN(m->threads, MAX(n, 1)))
    for (int k = 0; k < n; k++) {
        gimbal_error err = {0};
        if (compute_flow(m, &m->flows[slots[k]], &err)) {
#pragma omp critical
            if (!m->error.code)
                m->error = err;
        }
    }
    return m->error.code;
}

/* ---- turns ------------------------------------------------------------------------------- */

int meter_threads(const Meter *m)
{
    return m->threads;
}

int meter_frame_value(Meter *m, int score, int i, double value)
{
    Job *job = m->current;
    if (i >= job->room[score]) {
        const int room = MAX(i + 1, MIN(2 * (int64_t)job->room[score], INT32_MAX));
        double *more = realloc(job->values[score], (size_t)room * sizeof *more);
        if (!more)
            return fail(&m->error, GIMBAL_ENOMEM, "no memory for the values of %d frames", room);
        for (int k = job->room[score]; k < room; k++)
            more[k] = NAN;
        job->values[score] = more; /* free: gimbal_measure_free */
        job->room[score] = room;
    }
    job->values[score][i] = value;
    return GIMBAL_OK;
}

int job_frame(Meter *m, Job *job, const Frame *frame)
{
    m->current = job;
    const int code = job->metric->frame(job->self, frame, &m->error);
    if (code)
        fail(&m->error, code, "metric %s failed at frame %d", job->metric->name, frame->i);
    m->current = NULL;
    return m->error.code;
}

int meter_see(Meter *m, const uint8_t *rgb)
{
    const Picture *now = keep_picture(m, rgb);
    if (now && !m->first) {
        m->first = malloc(picture_bytes(m));
        if (!m->first)
            return fail(&m->error, GIMBAL_ENOMEM, "no memory to keep the first picture");
        memcpy(m->first, rgb, picture_bytes(m));
    }
    if (!now || compute_flows(m))
        return m->error.code;

    const Picture *before = m->frames ? find_picture(m, m->frames - 1) : NULL;
    const Frame frame = {.i = m->frames,
                         .w = m->order.width,
                         .h = m->order.height,
                         .fps = m->order.fps,
                         .rgb = now->rgb,
                         .prev = before ? before->rgb : NULL,
                         .first = m->first,
                         .meter = m};
    for (int k = 0; k < m->n_jobs; k++)
        if (m->jobs[k].feed < 0 && !m->jobs[k].undefined)
            TRY(job_frame(m, &m->jobs[k], &frame));
    TRY(feeds_frame(m, rgb));
    release_pictures(m);
    m->frames++;
    return GIMBAL_OK;
}
