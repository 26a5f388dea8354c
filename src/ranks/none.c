/* none.c: what a build without MPI has in place of mpi.c and end.c: one process alone.
 *
 * Processes that were launched together and do not know of each other would all write the same folder:
 * that is refused. Refuses to know sums. */
#include "base/base.h"
#include "ranks/ranks.h"

int ranks_begin(gimbal_ranks *out, gimbal_error *err)
{
    *out = (gimbal_ranks){.rank = 0, .size = 1};
    if (!ranks_launched())
        return GIMBAL_OK;
    return fail_hint(err, GIMBAL_ENOSUP, "install libopenmpi-dev and build again",
                     "started by mpirun, but this build has no MPI");
}

int ranks_threads(const gimbal_ranks *r)
{
    (void)r;
    return threads_available();
}

int ranks_end(gimbal_ranks *r, int code, gimbal_error *err)
{
    (void)r, (void)err;
    return code;
}

const char *ranks_version(void)
{
    return NULL;
}
