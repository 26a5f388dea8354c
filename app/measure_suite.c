/* measure_suite.c: gimbal measure --suite: the measures of a published benchmark, those that can be had here.
 *
 *   i2v-bench   Ren et al., ConsistI2V (TMLR 2024), table 2: eight measures, of which the library has four,
 * three of them with networks. A measure whose network is not in --weights is absent, with the reason; so are
 * those whose networks nobody here can run. None is replaced by something like it.
 *
 * Refuses to know how scores are computed: a measure is there when a meter for it opens. */
#include "app/measure.h"

#include <stdlib.h>
#include <string.h>

const char *const suite_words[] = {"i2v-bench", NULL};

/* In the order of the paper's table. lacks: why it is not here; NULL: a score of that name is. */
static const struct {
    const char *name, *lacks;
} i2v_bench[] = {
    {"temporal_flickering", NULL},
    {"motion_smoothness", "needs AMT, a network that guesses frames, which gimbal does not have; "
                          "motion_smoothness_dis is the same question with optical flow, another number"},
    {"dynamic_degree", NULL},
    {"background_consistency", NULL},
    {"subject_consistency", NULL},
    {"object_consistency", "needs GRiT, a detector that names objects, which gimbal does not have"},
    {"scene_consistency", "needs Tag2Text, a network that names scenes, which gimbal does not have"},
    {"video_text_consistency", "needs ViCLIP, which gimbal does not have; clipsim compares single frames "
                               "with the prompt, another number"},
};

/* Does a meter for this score open? reason: why not. Anything but a missing network is an error. */
static int try_score(const gimbal_measure_order *order, const char *name, char *reason, size_t room,
                     gimbal_error *err)
{
    enum { SIDE = 256 };
    gimbal_meter *meter;
    gimbal_error own = {0};
    gimbal_measure_order one = *order;
    one.scores = name;
    one.width = one.height = SIDE;
    const int code = gimbal_measure_begin(&meter, &one, &own);
    gimbal_measure_free(meter);
    *reason = 0;
    if (code == GIMBAL_EMODEL || code == GIMBAL_ENOSUP)
        snprintf(reason, room, "%s", own.msg);
    else if (code)
        *err = own;
    return *reason ? GIMBAL_OK : code;
}

static int add_name(char **names, const char *name, gimbal_error *err)
{
    char *longer;
    if (asprintf(&longer, "%s%s%s", *names ? *names : "", *names ? "," : "", name) < 0)
        return fail_memory(err);
    free(*names);
    *names = longer;
    return GIMBAL_OK;
}

int suite_begin(gimbal_measure_order *order, char **names, json_t **absent, gimbal_error *err)
{
    *absent = json_object();
    if (!*absent)
        return fail_memory(err);
    for (size_t i = 0; i < sizeof i2v_bench / sizeof *i2v_bench; i++) {
        char missing[1024] = "";
        const char *reason = i2v_bench[i].lacks, *name = i2v_bench[i].name;
        if (!reason)
            TRY(try_score(order, name, missing, sizeof missing, err));
        reason = *missing ? missing : reason;
        if (!reason)
            TRY(add_name(names, name, err));
        else if (json_object_set_new(*absent, name, json_text(reason)))
            return fail_memory(err);
    }
    order->scores = *names;
    return GIMBAL_OK;
}

int suite_print_absent(const char *suite, const json_t *absent, gimbal_error *err)
{
    printf("not measured, of %s:\n", suite);
    print_tree(absent, 2, stdout);
    return flush_stdout(err);
}
