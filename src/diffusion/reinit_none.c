/* reinit_none.c: no re-initialisation: one pass from the initial noise to the clip.
 *
 * The plan never has a second pass, so there is nothing to start one from: `start` stays NULL. Knows the
 * number of steps. Refuses to know everything else. */
#include "diffusion/diffusion.h"

int plan_one_pass(const void *self, int steps, Pass *out, int max)
{
    (void)self;
    if (max < 1)
        return GIMBAL_EUSAGE;
    out[0] = (Pass){.steps = steps};
    return 1;
}

const Reinit reinit_none = {
    .name = "none",
    .help = "one pass from the initial noise",
    .source = "plain sampling",
    .plan = plan_one_pass,
};
