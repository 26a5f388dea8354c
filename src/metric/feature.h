/* feature.h: arithmetic of networks' features, for the metrics that compare them.
 *
 * Refuses to know which network a feature is of. */
#ifndef FEATURE_H
#define FEATURE_H

#include "metric/metric.h"

#include <math.h>
#include <string.h>

/* a.b / (|a| |b|); 0 where one of them is nought. */
static inline double cosine(const float *a, const float *b, int n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static inline double not_below_0(double x)
{
    return x < 0 ? 0 : x;
}

static inline void keep_feature(float kept[FEATURE_MAX], const Frame *f)
{
    memcpy(kept, f->feature, (size_t)f->width * sizeof *kept);
}

#endif
