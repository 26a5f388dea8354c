/* none.c: what a build without OpenCV has in place of dis.cpp: the same functions, saying so.
 *
 * Refuses to know pictures. */
#include "flow/flow.h"
#include "base/base.h"

int flow_dis(void *user, const uint8_t *a, const uint8_t *b, int width, int height, float *out,
             gimbal_error *err)
{
    (void)user, (void)a, (void)b, (void)width, (void)height, (void)out;
    return fail_hint(err, GIMBAL_ENOSUP, "install libopencv-video-dev and build again",
                     "this build has no optical flow: OpenCV was not found");
}

const char *flow_version(void)
{
    return NULL;
}
