/* t_day.c: what a long run must bear: previews from inside it, weight files that change under it, and
 * questions about the build.
 *
 * Runs are 2 passes of 3 steps on the small model, 5 frames of 40 x 72: odd and not square. Previews and
 * loaded weights must not change a bit of the result. */
#include "models.h"

#include <unistd.h>

enum { C = 4, F = 5, H = 5, W = 9, ONE = C * H * W, ALL = F * ONE, PIXELS = 3 * 8 * H * 8 * W };

typedef struct {
    gimbal_session *session;
    float z[ALL];
    uint8_t picture[PIXELS]; /* the last preview */
    float clean[ONE];        /* and what it shows */
    int steps, previews, decode_reports, cancel_at, refused;
    bool preview, nosy;
} Watch;

/* ---- runs -------------------------------------------------------------------------------- */

static void middle(const float *clip, float *one)
{
    for (int c = 0; c < C; c++)
        memcpy(one + c * H * W, clip + (c * F + F / 2) * H * W, H * W * sizeof *one);
}

static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Watch *w = user;
    assert_true(i == 0 && width == 8 * W && height == 8 * H);
    memcpy(w->picture, rgb, PIXELS);
    w->previews++;
    if (w->previews == w->cancel_at)
        gimbal_cancel(w->session);
    if (w->nosy) { /* a decode inside a decode */
        gimbal_error e = {0};
        check_fails(gimbal_decode(w->session, w->clean, (gimbal_shape){C, 1, H, W}, on_frame, w, &e),
                    GIMBAL_EUSAGE, e, "from a callback");
        w->refused++;
    }
    return 0;
}

/* Calls that would use memory of the run under way. */
static void try_the_rest(Watch *w)
{
    gimbal_error e = {0};
    float *context = calloc(77, sizeof(float) * (size_t)4096);
    check_fails(gimbal_sample(w->session, w->z, &e), GIMBAL_EUSAGE, e,
                "gimbal_sample was called from a callback");
    check_fails(gimbal_context(w->session, "cat", context, &e), GIMBAL_EUSAGE, e,
                "gimbal_context was called from a callback");
    free(context);
    w->refused += 2;
}

static int on_progress(void *user, const gimbal_progress *p)
{
    Watch *w = user;
    gimbal_error e = {0};
    w->decode_reports += !strcmp(p->stage, "decode");
    if (w->nosy && p->pass)
        try_the_rest(w);
    if (strcmp(p->stage, "sample"))
        return 0;
    w->steps++;
    if (!w->preview)
        return 0;
    middle(p->latents, w->clean);
    const int code = gimbal_decode(w->session, w->clean, (gimbal_shape){C, 1, H, W}, on_frame, w, &e);
    assert_true(code == GIMBAL_OK || (code == GIMBAL_ECANCEL && w->cancel_at));
    return 0;
}

static void begin(Watch *w, gimbal_engine *e)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.negative = "blur";
    s.frames = F, s.width = 8 * W, s.height = 8 * H, s.steps = 3, s.seed = 5, s.cfg = 3;
    s.reinit = "freeinit:passes=2";
    s.progress = on_progress, s.user = w;
    check_ok(gimbal_begin(&w->session, e, &s, &err), err);
}

static void run(Watch *w, gimbal_engine *e)
{
    begin(w, e);
    check_ok(gimbal_sample(w->session, w->z, &err), err);
    gimbal_end(w->session);
}

/* The clip that nothing disturbed, made once. */
static const float *quiet_clip(void)
{
    static Watch w;
    if (w.steps)
        return w.z;
    gimbal_engine *e = opened(TINY, MOTION);
    run(&w, e);
    gimbal_close(e);
    assert_int_equal(w.steps, 6);
    return w.z;
}

/* ---- previews ---------------------------------------------------------------------------- */

static void previews_change_no_bit_of_the_clip(void **state)
{
    static Watch w, after;
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    memset(&w, 0, sizeof w);
    w.preview = true;
    begin(&w, e);
    check_ok(gimbal_sample(w.session, w.z, &err), err);
    assert_int_equal(w.previews, 6);
    assert_int_equal(w.decode_reports, 0);
    assert_memory_equal(w.z, quiet_clip(), sizeof w.z);

    /* the last preview is the middle frame of what a decode outside shows */
    memset(&after, 0, sizeof after);
    check_ok(gimbal_decode(w.session, w.clean, (gimbal_shape){C, 1, H, W}, on_frame, &after, &err), err);
    assert_memory_equal(w.picture, after.picture, PIXELS);
    assert_int_equal(w.decode_reports, 1);
    gimbal_end(w.session);
    gimbal_close(e);
}

static void other_calls_from_a_callback_are_refused_by_name_and_do_no_harm(void **state)
{
    static Watch w;
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    memset(&w, 0, sizeof w);
    w.preview = w.nosy = true;
    run(&w, e);
    assert_int_equal(w.refused, 6 + 2 * 8); /* 6 previews, 6 steps and 2 ends of passes */
    assert_memory_equal(w.z, quiet_clip(), sizeof w.z);
    gimbal_close(e);
}

static void a_cancel_during_a_preview_stops_the_run_which_goes_on_later(void **state)
{
    static Watch w;
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    memset(&w, 0, sizeof w);
    w.preview = true, w.cancel_at = 2;
    begin(&w, e);
    check_fails(gimbal_sample(w.session, w.z, &err), GIMBAL_ECANCEL, err, "after 2 of 6 network calls");
    assert_int_equal(w.previews, 2);
    check_ok(gimbal_sample(w.session, w.z, &err), err);
    assert_int_equal(w.steps, 6);
    assert_memory_equal(w.z, quiet_clip(), sizeof w.z);
    gimbal_end(w.session);
    gimbal_close(e);
}

/* ---- weights in memory ------------------------------------------------------------------- */

static void a_loaded_file_is_what_a_mapped_one_is(void **state)
{
    Mapped a, b;
    (void)state;
    check_ok(map_file(&a, in_scratch("model/vae/config.json"), &err), err);
    check_ok(load_file(&b, in_scratch("model/vae/config.json"), &err), err);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    unmap_file(&a);
    shell(": > %s/model/vae/config.json", scratch);
    assert_int_equal(b.data[0], '{');
    unmap_file(&b);
    assert_null(b.data);
    check_ok(load_file(&b, in_scratch("model/vae/config.json"), &err), err);
    assert_true(!b.data && b.size == 0);
    check_fails(load_file(&b, in_scratch("none"), &err), GIMBAL_EIO, err, "No such file");
    check_fails(load_file(&b, scratch, &err), GIMBAL_EIO, err, "found a folder");
    check_fails(load_file(&b, "/dev/zero", &err), GIMBAL_EIO, err, "regular file");
    shell("truncate -s 1T %s/huge", scratch);
    check_fails(load_file(&b, in_scratch("huge"), &err), GIMBAL_ENOMEM, err, "1048576 MiB");
    assert_null(b.data);
}

static void without_maps_the_files_may_go_and_the_clip_is_the_same(void **state)
{
    static Watch w;
    gimbal_settings s;
    gimbal_cost cost;
    gimbal_engine *e;
    (void)state;
    check_ok(gimbal_open_with(&e, in_scratch("model"), NULL, GIMBAL_NO_MMAP, &err), err);
    shell("find %s/model -name '*.safetensors' -exec truncate -s 9 {} +", scratch);
    memset(&w, 0, sizeof w);
    run(&w, e);
    assert_memory_equal(w.z, quiet_clip(), sizeof w.z);
    gimbal_defaults(&s, e);
    s.frames = 1, s.width = s.height = 64, s.steps = 1;
    check_ok(gimbal_predict(e, &s, &cost, &err), err);
    assert_int_equal(cost.mapped_bytes, 0);
    gimbal_close(e);
}

static void unknown_flags_of_opening_are_refused(void **state)
{
    gimbal_engine *e = (gimbal_engine *)&state;
    check_fails(gimbal_open_with(&e, TINY, MOTION, 6, &err), GIMBAL_EUSAGE, err, "0x6");
    assert_null(e);
}

/* ---- questions --------------------------------------------------------------------------- */

static void every_filter_says_how_it_is_mixed(void **state)
{
    gimbal_plugin plugin;
    int power = -1, filters = 0;
    (void)state;
    for (int i = 0; !gimbal_plugin_at("reinit", i, &plugin); i++) {
        float mask[F * H * W];
        const int has = !gimbal_mask(plugin.name, (gimbal_shape){1, F, H, W}, mask, NULL);
        const int says = !gimbal_mask_power(plugin.name, &power, NULL);
        check(has == says, "%s", plugin.name);
        const int kept = strcmp(plugin.name, "frameinit") != 0; /* whose two bands hold one noise */
        check(!has || power == kept, "%s: corrected forms keep the variance", plugin.name);
        filters += has;
    }
    assert_true(filters > 0);
    check_ok(gimbal_mask_power("freeinit:compat=1", &power, &err), err);
    assert_int_equal(power, 0);
    check_fails(gimbal_mask_power("none", &power, &err), GIMBAL_EUSAGE, err, "no low-pass filter");
}

static void facts_of_the_build_have_names_values_and_no_paths(void **state)
{
    (void)state;
    assert_string_equal(gimbal_build_fact(0)->name, "version");
    assert_string_equal(gimbal_build_fact(0)->value, gimbal_version());
    for (int i = 0; gimbal_build_fact(i); i++) {
        const gimbal_fact *fact = gimbal_build_fact(i);
        check(fact->value && *fact->value && !strchr(fact->value, '/'), "%s", fact->name);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(fact->name, gimbal_build_fact(k)->name);
    }
    assert_null(gimbal_build_fact(-1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(previews_change_no_bit_of_the_clip),
        cmocka_unit_test(other_calls_from_a_callback_are_refused_by_name_and_do_no_harm),
        cmocka_unit_test(a_cancel_during_a_preview_stops_the_run_which_goes_on_later),
        WITH_MODEL(a_loaded_file_is_what_a_mapped_one_is),
        WITH_MODEL(without_maps_the_files_may_go_and_the_clip_is_the_same),
        cmocka_unit_test(unknown_flags_of_opening_are_refused),
        cmocka_unit_test(every_filter_says_how_it_is_mixed),
        cmocka_unit_test(facts_of_the_build_have_names_values_and_no_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
