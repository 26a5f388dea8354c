/* models.h: what tests of the whole library share: the bundled models, a copy of one that may be damaged,
 * opening.
 *
 * A copy lives in a folder of its own under /tmp, made before a test and removed after it. */
#ifndef MODELS_H
#define MODELS_H

#include "base/base.h"
#include "tests/check.h"

#define TINY "tests/golden/models/animatediff-tiny"
#define MOTION "tests/golden/models/animatediff-tiny-motion"
#define TOYWORLD "models/toyworld"

static gimbal_error err;
static char scratch[64];

PRINTF_LIKE(1, 2) static inline void shell(const char *fmt, ...)
{
    char command[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    check(system(command) == 0, "%.300s", command);
}

/* A fresh copy of TINY as SCRATCH/model with its adapter inside. */
static inline int copy_model(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/gimbal-engine-XXXXXX");
    check(mkdtemp(scratch) != NULL, "mkdtemp");
    shell("cp -r " TINY " %s/model && cp -r " MOTION " %s/model/motion_adapter && chmod -R u+w %s", scratch,
          scratch, scratch);
    return 0;
}

static inline int remove_model(void **state)
{
    (void)state;
    shell("rm -rf %s", scratch);
    return 0;
}

static inline const char *in_scratch(const char *name)
{
    static char path[2][PATH_ROOM];
    static int turn;
    turn = !turn;
    snprintf(path[turn], PATH_ROOM, "%s/%s", scratch, name);
    return path[turn];
}

static inline gimbal_engine *opened(const char *model, const char *motion)
{
    gimbal_engine *e;
    check_ok(gimbal_open(&e, model, motion, &err), err);
    return e;
}

#define WITH_MODEL(f) cmocka_unit_test_setup_teardown(f, copy_model, remove_model)

#endif
