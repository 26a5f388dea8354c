/* analyze_passes.c: gimbal analyze passes: what each pass of a re-initialiser changes, band by band
 * (FreeInit, Wu et al., ECCV 2024, section 4.1: the low band goes from pass to pass, the high band is drawn
 * anew).
 *
 *     power of z_i in band b;  correlation of z_i and z_(i-1), and of z_i and z_1, in band b
 *
 * z_i [C,F,h,w] is the clean clip after pass i. Refuses to know what the re-initialiser does. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PASSES = 64, COLUMNS = BANDS + 1 }; /* the bands, and all of them together */

typedef struct {
    float *result[MOST_PASSES]; /* [C,F,h,w] */
    int passes;                 /* of the plan; 0: no state was seen yet */
    bool no_memory;
} Passes;

/* Keeps the result of a pass that has ended; one pass alone is nothing to compare. */
static int see(Analysis *a, const gimbal_progress *p)
{
    Passes *own = a->own;
    if (!p->pass || p->pass > MOST_PASSES)
        return 0;
    own->passes = p->passes;
    if (p->passes < 2)
        return -1;
    if (strcmp(p->stage, "pass") || !p->latents)
        return 0;
    const size_t bytes = clip_values(p->shape) * sizeof(float);
    free(own->result[p->pass - 1]);
    own->result[p->pass - 1] = malloc(bytes);
    own->no_memory = !own->result[p->pass - 1];
    if (own->no_memory)
        return -1;
    memcpy(own->result[p->pass - 1], p->latents, bytes);
    return 0;
}

/* out [COLUMNS]: of the bands, and of all together. */
static int bands_of(const float *x, const float *y, gimbal_shape s, gimbal_band *out, gimbal_error *err)
{
    TRY(gimbal_bands(x, y, s, band_edges, BANDS, 1, out, err));
    return gimbal_bands(x, y, s, NULL, 1, 1, out + BANDS, err);
}

static json_t *values_json(const double *value)
{
    json_t *out = json_array();
    for (int i = 0; i < COLUMNS; i++)
        json_array_append_new(out, number_json(value[i]));
    return out;
}

static void find_row(Findings *f, int pass, const char *what, const double *value)
{
    char text[COLUMNS][32];
    for (int i = 0; i < COLUMNS; i++)
        snprintf(text[i], sizeof text[i], "%s", number_text(value[i], "%.3f", (char[32]){0}));
    findings_row(f, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", pass, what, text[0], text[1], text[2], text[3],
                 text[4], text[5], text[6]);
}

/* `with`: the pass that it is compared with, or NULL: its powers. */
static int find_pass(Findings *f, const Passes *own, int pass, const char *what, const float *with,
                     gimbal_shape s, double *value, gimbal_error *err)
{
    gimbal_band band[COLUMNS];
    TRY(bands_of(own->result[pass], with, s, band, err));
    for (int i = 0; i < COLUMNS; i++)
        value[i] = with ? band[i].correlation : band[i].power;
    find_row(f, pass + 1, what, value);
    findings_object(
        f, json_pack("{s:i, s:s, s:o}", "pass", pass + 1, "what", what, "bands", values_json(value)));
    return GIMBAL_OK;
}

static void find_curves(Findings *f, double with[MOST_PASSES][COLUMNS], int passes)
{
    f->axes = (Axes){.title = "correlation with the pass before",
                     .x_label = "pass",
                     .y_label = "correlation",
                     .points = true,
                     .mark = NAN};
    for (int i = 0; i < COLUMNS; i++) {
        double x[MOST_PASSES], y[MOST_PASSES];
        for (int k = 1; k < passes; k++)
            x[k - 1] = k + 1, y[k - 1] = with[k][i];
        if (isfinite(y[0])) /* a band without bins has no line */
            findings_line(f, i < BANDS ? band_names[i] : "all", x, y, passes - 1);
    }
}

static int find(Analysis *a, const Passes *own, gimbal_shape s, gimbal_error *err)
{
    Findings *f = &a->found;
    double value[COLUMNS], with[MOST_PASSES][COLUMNS];
    findings_row(f, "pass\twhat\t%s\t%s\t%s\t%s\t%s\t%s\tall", band_names[0], band_names[1], band_names[2],
                 band_names[3], band_names[4], band_names[5]);
    for (int i = 0; i < own->passes; i++) {
        TRY(find_pass(f, own, i, "power", NULL, s, value, err));
        if (i > 0)
            TRY(find_pass(f, own, i, "with the pass before", own->result[i - 1], s, with[i], err));
        if (i > 1)
            TRY(find_pass(f, own, i, "with pass 1", own->result[0], s, value, err));
    }
    find_curves(f, with, own->passes);
    findings_key(f, "reinit", json_text(a->flags.s.reinit));
    findings_key(f, "passes", json_integer(own->passes));
    findings_note(
        f,
        "%s on latents %dx%dx%dx%d. Powers are against unit noise; a band without a value has no frequency "
        "at this size.",
        a->flags.s.reinit, s.c, s.f, s.h, s.w);
    return GIMBAL_OK;
}

static int sample(Analysis *a, Passes *own, gimbal_error *err)
{
    const gimbal_shape s = gimbal_latent_shape(a->session);
    float *latents = calloc(clip_values(s), sizeof *latents);
    if (!latents)
        return fail_memory(err);
    const int code = analysis_sample(a, latents, err);
    free(latents); /* the last pass has been seen as well */
    if (own->no_memory || own->passes == 1)
        err->code = 0; /* why `see` stopped the run says more than that it did */
    if (own->no_memory)
        return fail_memory(err);
    if (own->passes == 1)
        return complain(err, GIMBAL_EUSAGE, "--reinit freeinit:passes=3",
                        "--reinit %s makes one pass: there is nothing to compare it with", a->flags.s.reinit);
    TRY(code);
    return find(a, own, s, err);
}

static int run(Analysis *a, gimbal_error *err)
{
    Passes own = {.passes = 0};
    if (!a->flags.s.prompt)
        return complain(err, GIMBAL_EUSAGE, "--prompt \"a large red circle moving right\"",
                        "--prompt is missing");
    TRY(analysis_open(a, err));
    if (!args_has(a->args, "reinit"))
        a->flags.s.reinit = "freeinit:passes=3";
    a->see = see;
    a->own = &own;
    int code = analysis_begin(a, &a->flags.s, err);
    if (!code)
        code = sample(a, &own, err);
    for (int i = 0; i < MOST_PASSES; i++)
        free(own.result[i]);
    return code;
}

const Study study_passes = {
    .name = "passes",
    .help = "what each pass of a re-initialiser changes, band by band",
    .shows = "Each band's power after every pass, and how alike passes are there: the low band stays, the "
             "high band is "
             "new (FreeInit, Wu et al. 2024, section 4.1)",
    .flags = {"model", "motion", "no-mmap"},
    .settings = true,
    .run = run,
};
