/* ref_norm.c: GroupNorm and LayerNorm, the meaning.
 *
 *     h = (x - mean) / sqrt(var + eps),   t = h * scale[c] + shift[c],   y = t or SiLU(t)
 *
 * mean and (biased) var over a set: all rows of `per` frames and the channels of one group; with groups 0 the
 * channels of one row. Backward, with d = dL/dh and means over the set:
 *
 *     dL/dx = (d - mean(d) - h * mean(d * h)) / sqrt(var + eps) */
#include "tensor/cpu/ref.h"

typedef struct {
    int64_t sets, rows, groups, width; /* sets of `rows` rows; groups of `width` channels */
} Sets;

typedef struct {
    double mean, over; /* over: 1 / sqrt(var + eps) */
} Moments;

static Sets sets_of(const Call *call)
{
    const Tensor *x = call->in[0];
    const NormArg *a = &call->a.norm;
    const int64_t C = tensor_channels(x), rows = tensor_rows(x);
    if (a->groups == 0)
        return (Sets){rows, 1, 1, C};
    const int64_t sets = x->n[0] / a->per;
    return (Sets){sets, rows / sets, a->groups, C / a->groups};
}

static Moments moments(const Call *call, const Sets *s, int64_t set, int64_t group)
{
    const double count = (double)(s->rows * s->width);
    double mean = 0, var = 0;
    for (int64_t r = set * s->rows; r < (set + 1) * s->rows; r++)
        for (int64_t c = group * s->width; c < (group + 1) * s->width; c++)
            mean += row_at(call->in[0], r)[c];
    mean /= count;
    for (int64_t r = set * s->rows; r < (set + 1) * s->rows; r++)
        for (int64_t c = group * s->width; c < (group + 1) * s->width; c++)
            var += (row_at(call->in[0], r)[c] - mean) * (row_at(call->in[0], r)[c] - mean);
    return (Moments){mean, 1 / sqrt(var / count + call->a.norm.eps)};
}

int ref_norm(Cx *cx, const Call *call)
{
    const Sets s = sets_of(call);
    const float *scale = weight_floats(cx, call->w[0]), *shift = weight_floats(cx, call->w[1]);
    if (!scale || !shift)
        return cx->err->code;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t i = 0; i < s.sets * s.groups; i++) {
        const int64_t set = i / s.groups, group = i % s.groups;
        const Moments m = moments(call, &s, set, group);
        for (int64_t r = set * s.rows; r < (set + 1) * s.rows; r++)
            for (int64_t c = group * s.width; c < (group + 1) * s.width; c++) {
                const double t = (row_at(call->in[0], r)[c] - m.mean) * m.over * scale[c] + shift[c];
                row_at(call->out, r)[c] = (float)act_value(call->a.norm.act, t);
            }
    }
    return 0;
}

size_t ref_norm_scratch(const Call *call)
{
    const Sets s = sets_of(call);
    return (size_t)(s.sets * s.groups) * sizeof(Moments);
}

/* What one value contributes: h, and the gradient of t. */
typedef struct {
    double h, gt;
} Point;

static Point point(const Call *call, Moments m, double scale, double shift, int64_t r, int64_t c, double gy)
{
    const double h = (row_at(call->in[0], r)[c] - m.mean) * m.over;
    return (Point){h, gy * act_slope(call->a.norm.act, h * scale + shift)};
}

static void set_back(const Call *call, const Sets *s, int64_t set, int64_t group, Moments m,
                     const float *scale, const float *shift, const float *gy, int64_t ld, float *gx,
                     int64_t ldx)
{
    const double count = (double)(s->rows * s->width);
    double mean_d = 0, mean_dh = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t r = set * s->rows; r < (set + 1) * s->rows; r++)
            for (int64_t c = group * s->width; c < (group + 1) * s->width; c++) {
                const Point p = point(call, m, scale[c], shift[c], r, c, gy[r * ld + c]);
                const double d = p.gt * scale[c];
                if (pass)
                    gx[r * ldx + c] += (float)(m.over * (d - mean_d - p.h * mean_dh));
                else
                    mean_d += d / count, mean_dh += d * p.h / count;
            }
    }
}

static void channel_back(const Call *call, const Sets *s, const Moments *m, int64_t c, double scale,
                         double shift, const float *gy, int64_t ld)
{
    float *gscale = weight_grad(call->w[0]), *gshift = weight_grad(call->w[1]);
    double sum = 0, sum_h = 0;
    for (int64_t r = 0; r < s->sets * s->rows; r++) {
        const Moments own = m[r / s->rows * s->groups + c / s->width];
        const Point p = point(call, own, scale, shift, r, c, gy[r * ld + c]);
        sum += p.gt, sum_h += p.gt * p.h;
    }
    if (gscale)
        gscale[c] += (float)sum_h;
    if (gshift)
        gshift[c] += (float)sum;
}

int ref_norm_back(Cx *cx, const Call *call)
{
    const Sets s = sets_of(call);
    const float *scale = weight_floats(cx, call->w[0]), *shift = weight_floats(cx, call->w[1]);
    Moments *m = (Moments *)call->tmp;
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(call->in[0], &ldx);
    if (!scale || !shift)
        return cx->err->code;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t i = 0; i < s.sets * s.groups; i++) {
        m[i] = moments(call, &s, i / s.groups, i % s.groups);
        if (gx)
            set_back(call, &s, i / s.groups, i % s.groups, m[i], scale, shift, gy, ld, gx, ldx);
    }
    if (weight_grad(call->w[0]) || weight_grad(call->w[1])) {
        PARALLEL_FOR(cx, HEAVY)
        for (int64_t c = 0; c < s.groups * s.width; c++)
            channel_back(call, &s, m, c, scale[c], shift[c], gy, ld);
    }
    return 0;
}
