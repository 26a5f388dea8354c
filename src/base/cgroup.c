/* cgroup.c: what the process's control groups grant: CPUs and memory, version 2 and version 1.
 *
 * Limits hold for a group and all above it, so every one from the process's own up to the mount is asked. In
 * a container the path of /proc/self/cgroup may not exist below the mount (the kernel shows the host's path):
 * then the walk up simply ends at the mount, whose files are the container's. Refuses to know who asks.
 * `root` stands before /proc and /sys, so that a test can bring its own system. */
#include "base/base.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool v2;
    size_t mount; /* length of the mount point within folder */
    char folder[PATH_ROOM];
} Group;

/* Is `word` one of the words of the comma-separated list [list, end)? */
static bool listed(const char *list, const char *end, const char *word)
{
    const size_t n = strlen(word);
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - list) == n && !memcmp(list, word, n))
            return true;
        list = stop + 1;
    }
    return false;
}

/* One line "id:controllers:path". Version 1 lists controllers; version 2 is the line with none. */
static bool parse_line(const char *line, const char *controller, bool *v2, const char **path)
{
    const char *list = strchr(line, ':');
    const char *colon = list ? strchr(list + 1, ':') : NULL;
    if (!colon)
        return false;
    *v2 = colon == list + 1;
    *path = colon + 1;
    return *v2 || listed(list + 1, colon, controller);
}

/* The process's own group for `controller`. A version 1 line that names it wins: on a system with both, the
 * controller is mounted there. */
static bool own_group(const char *root, const char *controller, Group *g)
{
    char path[PATH_ROOM], *text = NULL, *rest = NULL;
    size_t size;
    bool found = false;
    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path ||
        read_file(&text, &size, path, 1 << 20, NULL))
        return false;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *below;
        bool v2;
        if (!parse_line(line, controller, &v2, &below) || (found && v2))
            continue;
        if (strstr(below, "/..") || !strcmp(below, "/"))
            below = ""; /* outside of our namespace: only the mount can be seen */
        const int mount = snprintf(g->folder, sizeof g->folder, "%s/sys/fs/cgroup%s%s", root, v2 ? "" : "/",
                                   v2 ? "" : controller);
        if (mount < 0 || (size_t)mount + strlen(below) >= sizeof g->folder)
            continue;
        strcpy(g->folder + mount, below);
        g->mount = (size_t)mount;
        g->v2 = v2;
        found = true;
    }
    free(text); /* read_file's */
    return found;
}

/* From a group to the one above; false at the mount. */
static bool go_up(Group *g)
{
    char *slash = strrchr(g->folder, '/');
    if (!slash || (size_t)(slash - g->folder) < g->mount)
        return false;
    *slash = 0;
    return true;
}

static bool number(const Group *g, const char *file, const char *key, uint64_t *out)
{
    char path[PATH_ROOM];
    return !path_join(path, g->folder, file, NULL) && file_number(path, key, out);
}

static double cpus_of(const Group *g)
{
    char path[PATH_ROOM], *text = NULL;
    size_t size;
    uint64_t quota = 0, period = 0;
    if (!g->v2) {
        if (!number(g, "cpu.cfs_quota_us", "", &quota) || !number(g, "cpu.cfs_period_us", "", &period))
            return INFINITY;
    } else {
        if (path_join(path, g->folder, "cpu.max", NULL) || read_file(&text, &size, path, 4096, NULL))
            return INFINITY;
        if (sscanf(text, "%" SCNu64 " %" SCNu64, &quota, &period) != 2) /* "max 100000": no limit */
            period = 0;
        free(text); /* read_file's */
    }
    return quota && period ? (double)quota / (double)period : INFINITY;
}

/* Bytes until the limit. Pages of files count as used but are given back on demand, as MemAvailable has it.
 */
static uint64_t memory_of(const Group *g)
{
    uint64_t limit, used = 0, idle = 0, active = 0;
    if (!number(g, g->v2 ? "memory.max" : "memory.limit_in_bytes", "", &limit) || limit >= UINT64_C(1) << 60)
        return UINT64_MAX; /* version 1 says "no limit" with a number near 2^63 */
    number(g, g->v2 ? "memory.current" : "memory.usage_in_bytes", "", &used);
    number(g, "memory.stat", g->v2 ? "inactive_file" : "total_inactive_file", &idle);
    number(g, "memory.stat", g->v2 ? "active_file" : "total_active_file", &active);
    used -= MIN(used, idle);
    used -= MIN(used, active);
    return limit - MIN(limit, used);
}

double cgroup_cpus(const char *root)
{
    Group g;
    double least = INFINITY;
    for (bool more = own_group(root, "cpu", &g); more; more = go_up(&g))
        least = fmin(least, cpus_of(&g));
    return least;
}

uint64_t cgroup_memory(const char *root)
{
    Group g;
    uint64_t least = UINT64_MAX;
    for (bool more = own_group(root, "memory", &g); more; more = go_up(&g)) {
        const uint64_t here = memory_of(&g);
        least = MIN(least, here);
    }
    return least;
}
