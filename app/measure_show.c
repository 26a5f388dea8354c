/* measure_show.c: measured clips for people and for programs.
 *
 * A score that is not defined is null in JSON and "-" in a table, with its reason. A clip that stands still
 * is perfect in every score of consistency; where nothing moves that is said. Refuses to know how scores are
 * computed. */
#include "app/measure.h"

#include <math.h>
#include <string.h>

static const double moves_least =
    0.01; /* percent of the shorter side per frame: a few hundredths of a pixel */

/* ---- JSON -------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *numbers(const double *values, int n)
{
    json_t *list = json_array();
    for (int i = 0; list && i < n; i++)
        if (json_array_append_new(list, number(values[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static int put_score(json_t *root, const gimbal_score *s, int frames, bool per_frame)
{
    int failed = json_object_set_new(json_object_get(root, "scores"), s->name, number(s->value));
    failed |= json_object_set_new(json_object_get(root, "definitions"), s->name, json_text(s->definition));
    if (s->weights)
        failed |= json_object_set_new(json_object_get(root, "weights"), s->name, json_text(s->weights));
    if (s->why)
        failed |= json_object_set_new(json_object_get(root, "notes"), s->name, json_text(s->why));
    if (per_frame && s->values)
        failed |=
            json_object_set_new(json_object_get(root, "per_frame"), s->name, numbers(s->values, frames));
    return failed;
}

json_t *measured_json(const Measured *m, bool per_frame)
{
    json_t *root =
        json_pack("{s:o, s:i, s:o, s:i, s:i, s:{}, s:{}, s:{}, s:{}}", "path", json_text(m->path), "frames",
                  m->frames, "fps", m->fps > 0 ? json_real(m->fps) : json_null(), "width", m->width, "height",
                  m->height, "scores", "definitions", "weights", "notes");
    int failed = !root;
    if (per_frame)
        failed |= json_object_set_new(root, "per_frame", json_object());
    for (int i = 0; !failed && i < m->n; i++)
        failed |= put_score(root, &m->scores[i], m->frames, per_frame);
    if (!failed && m->note)
        failed |= json_object_set_new(json_object_get(root, "notes"), "clip", json_text(m->note));
    if (!failed)
        return root;
    json_decref(root);
    return NULL;
}

/* ---- tables ------------------------------------------------------------------------------ */

static void print_score(const gimbal_score *s, FILE *out)
{
    static const char *const direction[] = {"lower is better", "", "higher is better"};
    char value[32] = "-";
    if (isfinite(s->value))
        snprintf(value, sizeof value, fabs(s->value) < 1e-2 && s->value != 0 ? "%.3e" : "%.5f", s->value);
    fprintf(out, "  %-23s %10s  %-16s  %s\n", s->name, value, direction[s->better + 1],
            s->why ? s->why : s->help);
}

static void print_values(const Measured *m, FILE *out)
{
    for (int i = 0; i < m->n; i++) {
        const gimbal_score *s = &m->scores[i];
        if (!s->values)
            continue;
        fprintf(out, "  %s per frame:", s->name);
        for (int f = 0; f < m->frames; f++)
            if (isfinite(s->values[f]))
                fprintf(out, " %.5g", s->values[f]);
            else
                fputs(" -", out);
        fputc('\n', out);
    }
}

/* Does something here reward standing still, and does the clip stand still? */
static bool is_frozen(const Measured *m)
{
    const gimbal_score *motion = measured_score(m, "motion_magnitude");
    const gimbal_score *flicker = measured_score(m, "temporal_flickering");
    bool rewards = false;
    for (int i = 0; i < m->n; i++)
        rewards |= m->scores[i].better && isfinite(m->scores[i].value);
    return rewards && ((motion && motion->value < moves_least) || (flicker && flicker->value == 1));
}

void measured_print(const Measured *m, bool per_frame, FILE *out)
{
    const gimbal_score *motion = measured_score(m, "motion_magnitude");
    fprintf(out, "%s: %d frame%s of %dx%d", m->path, m->frames, m->frames == 1 ? "" : "s", m->width,
            m->height);
    if (m->fps > 0)
        fprintf(out, ", %.4g fps", m->fps);
    if (motion && isfinite(motion->value))
        fprintf(out, ", moves %.2g %% of its shorter side per frame", motion->value);
    fputc('\n', out);
    for (int i = 0; i < m->n; i++)
        print_score(&m->scores[i], out);
    if (per_frame)
        print_values(m, out);
    if (is_frozen(m))
        fputs("  warning: nothing moves: a frozen clip scores perfect here\n", out);
    if (m->note)
        fprintf(out, "  note: %s\n", m->note);
}
