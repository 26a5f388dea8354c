/* flow.h: dense optical flow without weights: DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse
 * Search", ECCV 2016), of OpenCV's video module, preset medium. A small library of the program's, as media
 * is: libgimbal itself links no C++.
 *
 * Knows pictures. Refuses to know what the flow is for. */
#ifndef FLOW_H
#define FLOW_H

#include "gimbal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* gimbal_flow for gimbal_measure_order: grey as OpenCV makes it, results the same for any number of threads.
 * user: NULL. ENOSUP where the build has no OpenCV; EUSAGE below 16 pixels a side; ENOMEM. */
int flow_dis(void *user, const uint8_t *a, const uint8_t *b, int width, int height, float *out,
             gimbal_error *err);
/* OpenCV's version, or NULL: this build has none, and flow_dis always fails. */
const char *flow_version(void);

#ifdef __cplusplus
}
#endif
#endif
