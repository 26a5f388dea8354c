/* launch.c: was this process started as one of several?
 *
 * Each launcher tells its processes their number in the environment: Open MPI's mpirun, anything that speaks
 * PMIx (srun --mpi=pmix, prterun), anything that speaks PMI (MPICH's hydra, srun --mpi=pmi2). Refuses to know
 * MPI: a program that is run alone must not pay for it. */
#include "ranks/ranks.h"

#include <stdlib.h>

bool ranks_launched(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return true;
    }
    return false;
}
