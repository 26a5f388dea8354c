/* ranks.h: several processes that learn together, each called a rank: gimbal_ranks over MPI. A small library
 * of the program's, as media and flow are: libgimbal itself links no MPI.
 *
 *   mpi.c      sums of fixed chunks, point to point, with the link to MPI
 *   end.c      how ranks end: one message for all, whichever rank failed
 *   launch.c   was this process started as one of several?
 *   none.c     what a build without MPI has instead of the first two
 *
 * Sums. x [n] is cut into blocks, a block into one part for each rank; a part travels to its owner, is summed
 * there in the order of ranks (float32 values in double, rounded once), and travels back:
 * 2 (R - 1) / R of x for each of R ranks. Every rank gets the same bits, and every run does.
 *
 * Knows arrays and messages. Refuses to know what is learnt. */
#ifndef RANKS_H
#define RANKS_H

#include "gimbal.h"

#include <stdbool.h>

/* Was this process started by mpirun, srun or their like? Reads the environment only. */
bool ranks_launched(void);

/* Joins the others that were launched with this process. Alone: rank 0 of 1 and self NULL; then nothing of
 * MPI is begun and no other function is called. Functions of *out take self = out->self, come from one thread
 * and return EIO when MPI fails, or the code of a rank that failed, with its message. ENOSUP: launched as one
 * of several, and this build has no MPI; EIO; ENOMEM. */
int ranks_begin(gimbal_ranks *out, gimbal_error *err);

/* Threads for this rank: what the system grants it, a fair share where ranks are bound to the same cores. */
int ranks_threads(const gimbal_ranks *);

/* Meets all ranks once more, each with the outcome of its own work, and ends MPI. code and *err: in, this
 * rank's; out, the same for all: GIMBAL_OK, or what the lowest rank that failed by itself had to say (one
 * that was cancelled only if no other failed otherwise), with its number in front unless it is rank 0. Where
 * sums were still under way MPI cannot be ended: rank 0 returns and is expected to end the process, whereupon
 * mpirun ends the others. Nothing to do when self is NULL. */
int ranks_end(gimbal_ranks *, int code, gimbal_error *err);

/* "Open MPI v4.1.4", or NULL: this build has none. */
const char *ranks_version(void);

#endif
