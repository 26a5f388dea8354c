/* thread.c: how many threads this process may run, and the time.
 *
 * A container often shows all CPUs of the machine and grants a few: the affinity mask and the cgroup's CPU
 * quota both bound the count. Refuses to know OpenMP: kernels take the number they are given. */
#include "base/base.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

/* CPUs in the affinity mask. The kernel refuses masks smaller than its own, so the mask grows until it fits.
 */
static int affinity(void)
{
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set)
            break;
        const size_t size = CPU_ALLOC_SIZE(cpus);
        const int failed = sched_getaffinity(0, size, set) ? errno : 0;
        const int count = failed ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (!failed)
            return count;
        if (failed != EINVAL)
            break;
    }
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

int threads_available(void)
{
    const double granted = ceil(cgroup_cpus(""));
    const int n = affinity();
    return MAX(1, granted < n ? (int)granted : n);
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
