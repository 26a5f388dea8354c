/* guide_videofusion.c: one prediction for a clip of two networks: the base's from the key frame k alone, the
 * residual's from every other frame, freed of the base noise (Luo et al., VideoFusion, section 4.2).
 *
 *     bhat   = base(z_k, t)                          a = sqrt(abar), s = sqrt(1 - abar), l the frame's share
 *     z'_i   = z_i - sqrt(l_i) s bhat                = a x_i + sqrt(1 - l_i) s r_i where bhat is right
 *     rhat_i = residual(z'_i, t, i)                  i counted from 1
 *     e_k    = bhat,   e_i = sqrt(l_i) bhat + sqrt(1 - l_i) rhat_i
 *
 * Each network is guided by itself. What is subtracted is the prompt's bhat, unguided, as in training; what
 * goes into e is the guided one. With `rescale` the residual's network, which began as an image model, gets
 * z'_i / sqrt(v) at the timestep whose abar is abar / v, v = abar + (1 - l_i)(1 - abar): there it is an
 * ordinary noised picture.
 *
 * Frames go through the residual's network some at a time, so that a clip of any length takes the same
 * memory; they do not see each other, and a group that is not full is filled with its last frame. In longer
 * clips than were trained the numbers go on: the paper shows 512 frames and does not say what they were told.
 *
 * A residual's network with layers over time sees a clip of the trained length: at the key frame's place its
 * picture, and the others around it. Longer clips are cut so, and the last cut reaches back to be whole. The
 * picture is where the base alone leads from here, in a few DDIM steps ahead: what the base sees at the first
 * steps is too faint to be followed, and frames that went their own way there do not come back.
 *
 * Knows arrays and two networks as callbacks. Refuses to know what a network is, seeds and samplers. */
#include "diffusion/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Latent pixels of one call, at most: eight frames of 512 x 512. */
enum { GROUP_POINTS = 8 * 64 * 64, GROUP_FRAMES = 16 };

int split_group(const NoiseSplit *split, const UnetShape *residual, gimbal_shape s)
{
    if (residual->motion)
        return MIN(s.f, split->frames);
    const int64_t most = MIN(MAX(GROUP_POINTS / ((int64_t)s.h * s.w), 1), GROUP_FRAMES);
    const int64_t frames = MAX(s.f - 1, 1), calls = (frames + most - 1) / most;
    return (int)((frames + calls - 1) / calls);
}

/* Frames of a whole group, the key frame among them. */
static int next_cut(const Split *s, int *at, int *place)
{
    const int others = s->shape.f - 1, each = s->group - 1, from = MAX(MIN(*at, others - each), 0);
    if (*at >= others)
        return 0;
    for (int i = 0, n = from; i < s->group; i++)
        place[i] = i == s->key_place ? s->key : n + (n >= s->key), n += i != s->key_place;
    *at = from + each;
    return s->group;
}

/* The next group: frames from *at on that are not the key frame, of one share where the timestep hangs on it;
 * their places into place [group]. Returns how many. */
static int next_group(const Split *s, int *at, int *place)
{
    int n = 0;
    if (s->over_time)
        return next_cut(s, at, place);
    for (; *at < s->shape.f && n < s->group; ++*at) {
        if (*at == s->key)
            continue;
        if (n && s->rescale && s->share[*at] != s->share[place[0]])
            break;
        place[n++] = *at;
    }
    return n;
}

int split_calls(const Split *s)
{
    int at = 0, calls = 0, place[SPLIT_FRAMES];
    while (next_group(s, &at, place))
        calls++;
    return calls;
}

int split_base_calls(bool over_time, int predictions)
{
    return predictions * (over_time ? 2 + PICTURE_STEPS + 1 : 2) / 2;
}

double split_timestep(const Schedule *schedule, double t, double share, double *scale)
{
    const double a = schedule_a(schedule, t), abar = a * a, v = abar + (1 - share) * (1 - abar);
    int nearest = 0;
    for (int i = 1; i < schedule->T; i++)
        if (fabs(schedule->alpha_bar[i] - abar / v) < fabs(schedule->alpha_bar[nearest] - abar / v))
            nearest = i;
    *scale = 1 / sqrt(v);
    return nearest;
}

/* ---- the two predictions ----------------------------------------------------------------- */

/* alone and guided from s->frame, by the network or as they were before. */
static int ask_base(Split *s, double t, double cfg, gimbal_error *err)
{
    const size_t n = (size_t)s->shape.c * s->shape.h * s->shape.w;
    MemoKey key = s->memo_key;
    key.t = t, key.cfg = branches(cfg) > 1 ? cfg : 1;
    if (s->memo && memo_find(s->memo, &key, s->frame, n, s->alone, s->guided))
        return GIMBAL_OK;
    TRY(s->base.eps(s->base.self, s->frame, NULL, t, cfg, s->alone, s->guided, err));
    if (s->memo)
        memo_keep(s->memo, &key, s->frame, n, s->alone, s->guided);
    return GIMBAL_OK;
}

static void take_key(Split *s, const float *x)
{
    const gimbal_shape z = s->shape;
    const size_t plane = (size_t)z.h * z.w;
    for (int c = 0; c < z.c; c++)
        memcpy(s->frame + c * plane, x + ((size_t)c * z.f + s->key) * plane, plane * sizeof *x);
}

/* From the key frame of x at t to the picture that the base makes of it. */
static int make_picture(Split *s, const float *x, double t, double cfg, gimbal_error *err)
{
    const size_t n = (size_t)s->shape.c * s->shape.h * s->shape.w;
    const int steps = (int)MAX(ceil(PICTURE_STEPS * t / s->schedule->T), 1);
    take_key(s, x);
    for (int j = 0; j < steps; j++) {
        const double now = j ? floor(t * (steps - j) / steps) : t, next = floor(t * (steps - j - 1) / steps);
        const bool last = j == steps - 1;
        const double a = fmax(schedule_a(s->schedule, now), 1e-3), noise = schedule_s(s->schedule, now),
                     to = last ? 1 : schedule_a(s->schedule, next),
                     rest = last ? 0 : schedule_s(s->schedule, next);
        TRY(ask_base(s, now, cfg, err));
        for (size_t k = 0; k < n; k++)
            s->frame[k] = (float)(to * (s->frame[k] - noise * s->guided[k]) / a + rest * s->guided[k]);
    }
    memcpy(s->picture, s->frame, n * sizeof *s->picture);
    return GIMBAL_OK;
}

/* The picture into place i of rows [C,group,h,w]. */
static void put_picture(const Split *s, int i)
{
    const size_t plane = (size_t)s->shape.h * s->shape.w;
    for (int c = 0; c < s->shape.c; c++)
        memcpy(s->rows + ((size_t)c * s->group + i) * plane, s->picture + c * plane, plane * sizeof *s->rows);
}

/* z' of a frame of x, times `scale`, into place i of rows. */
static void free_of_base(const Split *s, const float *x, int frame, double t, double scale, int i)
{
    const gimbal_shape z = s->shape;
    const size_t plane = (size_t)z.h * z.w;
    const float by = (float)(sqrt(s->share[frame]) * schedule_s(s->schedule, t)), times = (float)scale;
    for (int c = 0; c < z.c; c++) {
        const float *from = x + ((size_t)c * z.f + frame) * plane, *base = s->alone + c * plane;
        float *to = s->rows + ((size_t)c * s->group + i) * plane;
        for (size_t k = 0; k < plane; k++)
            to[k] = times * (from[k] - by * base[k]);
    }
}

/* e of a frame: of the base alone (rhat NULL), or with place i of rhat [C,group,h,w]. */
static void join(const Split *s, int frame, const float *rhat, int i, float *raw)
{
    const gimbal_shape z = s->shape;
    const size_t plane = (size_t)z.h * z.w;
    const double share = s->share[frame];
    const float keep = (float)sqrt(share), own = (float)sqrt(1 - share);
    for (int c = 0; c < z.c; c++) {
        const float *base = s->guided + c * plane;
        float *to = raw + ((size_t)c * z.f + frame) * plane;
        if (!rhat) {
            memcpy(to, base, plane * sizeof *to);
            continue;
        }
        const float *rest = rhat + ((size_t)c * s->group + i) * plane;
        for (size_t k = 0; k < plane; k++)
            to[k] = keep * base[k] + own * rest[k];
    }
}

static int predict_group(Split *s, const float *x, int n, double t, double cfg, float *raw, gimbal_error *err)
{
    double scale = 1, at = t;
    if (s->rescale)
        at = split_timestep(s->schedule, t, s->share[s->place[s->place[0] == s->key]], &scale);
    for (int i = 0; i < s->group; i++) {
        const int frame = s->place[MIN(i, n - 1)];
        s->number[i] = frame + 1;
        if (s->over_time && frame == s->key)
            put_picture(s, i);
        else
            free_of_base(s, x, frame, t, scale, i);
    }
    TRY(s->residual.eps(s->residual.self, s->rows, s->number, at, cfg, NULL, s->rhat, err));
    for (int i = 0; i < n; i++)
        if (s->place[i] != s->key)
            join(s, s->place[i], s->rhat, i, raw);
    return GIMBAL_OK;
}

static int predict(void *self, const float *x, gimbal_shape shape, double t, double cfg, float *raw,
                   gimbal_error *err)
{
    Split *s = self;
    const gimbal_shape z = s->shape;
    if (shape.c != z.c || shape.f != z.f || shape.h != z.h || shape.w != z.w)
        return fail(err, GIMBAL_EMODEL,
                    "the networks were planned for latents [%d,%d,%d,%d], asked for [%d,%d,%d,%d]", z.c, z.f,
                    z.h, z.w, shape.c, shape.f, shape.h, shape.w);
    const double cfg_base = s->cfg_base > 0 ? s->cfg_base : cfg;
    if (s->over_time)
        TRY(make_picture(s, x, t, cfg_base, err));
    take_key(s, x);
    TRY(ask_base(s, t, cfg_base, err));
    join(s, s->key, NULL, 0, raw);
    for (int at = 0, n; (n = next_group(s, &at, s->place)) > 0;)
        TRY(predict_group(s, x, n, t, cfg, raw, err));
    return GIMBAL_OK;
}

/* ---- memory ------------------------------------------------------------------------------ */

int split_memory(Split *s, gimbal_error *err)
{
    const size_t frame = (size_t)s->shape.c * s->shape.h * s->shape.w, group = (size_t)s->group;
    float *memory = alloc_array((4 + 2 * group) * frame, sizeof(float));
    s->number = calloc(2 * group, sizeof *s->number);
    s->frame = memory;
    if (!memory || !s->number)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d frames of %zu values", 2 * s->group + 4, frame);
    s->alone = memory + frame, s->guided = memory + 2 * frame, s->picture = memory + 3 * frame;
    s->rows = memory + 4 * frame, s->rhat = s->rows + group * frame;
    s->place = s->number + group;
    return GIMBAL_OK;
}

void split_free(Split *s)
{
    free(s->frame); /* split_memory's two */
    free(s->number);
}

Denoise split_denoise(Split *s)
{
    return (Denoise){predict, s};
}
