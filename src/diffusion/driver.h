/* driver.h: the inside of a run, for the two files that need it: pipeline.c, which makes the run, and
 * driver_state.c, which puts it into a file and takes it out again. */
#ifndef DRIVER_H
#define DRIVER_H

#include "diffusion/diffusion.h"

/* All that a run needs to go on is here between any two network calls: place, arrays, what the sampler
 * remembers. */
struct DriverState {
    Arena keep; /* grids */
    PlannedPass plan[MAX_PASSES];
    int passes, pass;
    int chunk;  /* chunks that are whole */
    int step;   /* of the pass's grid: from..to */
    bool begun; /* x holds the start of `pass`, the sampler is prepared */
    int calls, total_calls;
    double work, total_work;                 /* branches of the calls made, but for the first; of all */
    double elapsed, in_calls, in_first_call; /* seconds: of all driver_runs, of later calls, of the first */
    float *eps0, *x, *next, *raw, *x0, *injected, *history; /* one allocation, at eps0 */
    float *first; /* in it too: [C,1,h,w], what the chunk begins with; nothing without an image */
    float *made;  /* [C,driver_frames,h,w]: the chunks that are whole; NULL when there is one only */
};

/* d->state for a run that has not begun, if there is none yet. Checks all that driver_plan does. */
int driver_prepare(Driver *d, gimbal_error *err);

#endif
