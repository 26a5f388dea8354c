/* meter_feed.c: pictures to a meter's networks, in batches, and features from them to metrics.
 *
 * A feed is one network with one way of preparing pictures; however many metrics want its features, a picture
 * goes through it once. A batch is NET_BATCH pictures, the last one shorter, and metrics see their frames in
 * order once their batch is computed.
 *
 * Knows which need names which network and preparation. Refuses to know networks (nets.c) and metrics. */
#include "metric/meter.h"

#include <stdlib.h>

/* VBench does not antialias the float frames of its consistency scores; VBench-I2V and CLIPSIM do, the latter
 * on bytes (see metric.h). */
static const struct {
    unsigned need;
    NetKind net;
    Prep prep;
    bool antialias, round;
} kinds[FEED_COUNT] = {
    {NEED_DINO_S, NET_DINO_S, PREP_DINO, false, false},
    {NEED_DINO_B, NET_DINO_B, PREP_DINO, false, false},
    {NEED_CLIP, NET_CLIP, PREP_CLIP, false, false},
    {NEED_DINO_CROP, NET_DINO_B, PREP_DINO_CROP, true, false},
    {NEED_CLIP_ANTIALIAS, NET_CLIP, PREP_CLIP, true, true},
};

int feed_of(unsigned needs)
{
    for (int k = 0; k < FEED_COUNT; k++)
        if (needs & kinds[k].need)
            return k;
    return -1;
}

NetKind feed_net(int feed)
{
    return kinds[feed].net;
}

unsigned feed_networks(unsigned needs)
{
    unsigned bits = needs & NEED_RAFT ? 1u << NET_RAFT : 0;
    for (int k = 0; k < FEED_COUNT; k++)
        if (needs & kinds[k].need)
            bits |= 1u << kinds[k].net;
    return bits;
}

const char *feed_note(const Meter *m, int feed)
{
    return feed < 0 ? "" : m->feeds[feed].antialias ? ";antialias=1" : ";antialias=0";
}

static int open_feed(Meter *m, int k)
{
    Feed *f = &m->feeds[k];
    const int asked = m->order.antialias;
    *f = (Feed){.net = kinds[k].net,
                .prep = kinds[k].prep,
                .antialias = asked < 0 ? kinds[k].antialias : asked,
                .round = kinds[k].round,
                .width = nets_width(m->nets, kinds[k].net)};
    prep_size(f->prep, m->order.width, m->order.height, &f->pw, &f->ph);
    f->pictures = alloc_array((size_t)NET_BATCH * 3 * (size_t)f->pw, (size_t)f->ph * sizeof(float));
    f->features = alloc_array((size_t)NET_BATCH * (size_t)f->width, sizeof(float));
    if (!f->pictures || !f->features)
        return fail(&m->error, GIMBAL_ENOMEM, "no memory for %d pictures of %dx%d on their way to a network",
                    NET_BATCH, f->pw, f->ph);
    return GIMBAL_OK;
}

int feeds_open(Meter *m)
{
    for (int k = 0; k < m->n_jobs; k++) {
        const Job *job = &m->jobs[k];
        if (job->feed >= 0 && !job->undefined && !m->feeds[job->feed].width)
            TRY(open_feed(m, job->feed));
    }
    return GIMBAL_OK;
}

/* Features of the waiting pictures, and the metrics' frames that waited for them. */
static int run_batch(Meter *m, int feed)
{
    Feed *f = &m->feeds[feed];
    TRY(nets_features(m->nets, f->net, f->pictures, f->n, f->pw, f->ph, f->features, &m->error));
    for (int i = 0; i < f->n; i++) {
        const Frame frame = {.i = f->first + i,
                             .w = m->order.width,
                             .h = m->order.height,
                             .fps = m->order.fps,
                             .feature = f->features + (size_t)i * (size_t)f->width,
                             .width = f->width,
                             .meter = m};
        for (int k = 0; k < m->n_jobs; k++)
            if (m->jobs[k].feed == feed && !m->jobs[k].undefined)
                TRY(job_frame(m, &m->jobs[k], &frame));
    }
    f->first += f->n;
    f->n = 0;
    return GIMBAL_OK;
}

int feeds_frame(Meter *m, const uint8_t *rgb)
{
    for (int k = 0; k < FEED_COUNT; k++) {
        Feed *f = &m->feeds[k];
        if (!f->width)
            continue;
        float *to = f->pictures + (size_t)f->n * 3 * (size_t)f->pw * (size_t)f->ph;
        TRY(prep_picture(f->prep, rgb, m->order.width, m->order.height, f->antialias, f->round, to,
                         &m->error));
        if (++f->n == NET_BATCH)
            TRY(run_batch(m, k));
    }
    return GIMBAL_OK;
}

int feeds_end(Meter *m)
{
    for (int k = 0; k < FEED_COUNT; k++)
        if (m->feeds[k].n)
            TRY(run_batch(m, k));
    return GIMBAL_OK;
}

void feeds_close(Meter *m)
{
    for (int k = 0; k < FEED_COUNT; k++) {
        free(m->feeds[k].pictures);
        free(m->feeds[k].features);
        free(m->feeds[k].image);
    }
    free(m->text);
}

const float *meter_text(Meter *m)
{
    if (m->text)
        return m->text;
    float *text = alloc_array(FEATURE_MAX, sizeof *text);
    if (!text)
        fail(&m->error, GIMBAL_ENOMEM, "no memory for the prompt's feature");
    if (!text || nets_text(m->nets, m->order.prompt, text, &m->error)) {
        free(text);
        return NULL;
    }
    return m->text = text;
}

static int image_feature(Meter *m, const Feed *f, const uint8_t *rgb, int w, int h, float *out)
{
    int pw, ph;
    prep_size(f->prep, w, h, &pw, &ph);
    float *picture = alloc_array(3 * (size_t)pw * (size_t)ph, sizeof *picture);
    int code =
        picture ? GIMBAL_OK : fail(&m->error, GIMBAL_ENOMEM, "no memory for a picture of %dx%d", pw, ph);
    if (!code)
        code = prep_picture(f->prep, rgb, w, h, true, true, picture, &m->error);
    if (!code)
        code = nets_features(m->nets, f->net, picture, 1, pw, ph, out, &m->error);
    free(picture);
    return code;
}

const float *meter_image(Meter *m)
{
    const gimbal_measure_order *o = &m->order;
    Feed *f = &m->feeds[m->current->feed];
    if (f->image)
        return f->image;
    float *image = alloc_array((size_t)f->width, sizeof *image);
    int code = image ? GIMBAL_OK : fail(&m->error, GIMBAL_ENOMEM, "no memory for the image's feature");
    if (!code)
        code = o->image ? image_feature(m, f, o->image, o->image_width, o->image_height, image)
                        : image_feature(m, f, m->first, o->width, o->height, image);
    if (code) {
        free(image);
        return NULL;
    }
    return f->image = image;
}
