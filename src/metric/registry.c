/* registry.c: the table of metrics, generated from the X-macro line of metric.h.
 *
 * Knows names. Refuses to know what a metric does. */
#include "metric/metric.h"

#define METRIC_REF(name) &metric_##name,
static const Metric *const metrics[] = {METRICS(METRIC_REF)};

const Metric *metric_at(int i)
{
    return i >= 0 && i < COUNT(metrics) ? metrics[i] : NULL;
}
