/* resume.c: generate --resume: the state of a running clip beside OUT, so that the same command goes on after
 * a kill or Ctrl-C and makes the same bytes.
 *
 *     DIR/clip.mp4  ->  DIR/.clip.mp4.resume                       the run: gimbal_state_save
 *                       DIR/.clip.mp4.resume.pass1.safetensors     a pass's result, where --save-passes wants
 * it
 *
 * Written after each pass, at least once a minute between (GIMBAL_RESUME_SECONDS), and after Ctrl-C; removed
 * when OUT is there. A state that cannot be written is a warning, for the clip itself may still succeed.
 * Refuses to know what a state holds. */
#include "app/app.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static double seconds_between(void)
{
    static const double usual = 60;
    const char *text = getenv("GIMBAL_RESUME_SECONDS");
    char *end;
    const double seconds = text ? strtod(text, &end) : usual;
    return !text || end == text || *end || !(seconds >= 0) ? usual : seconds;
}

int resume_begin(Resume *r, const char *output, gimbal_error *err)
{
    const char *slash = strrchr(output, '/'), *name = slash ? slash + 1 : output;
    *r = (Resume){.every = seconds_between(), .saved = clock_seconds()};
    if (asprintf(&r->path, "%.*s.%s.resume", (int)(name - output), output, name) < 0) {
        r->path = NULL;
        return fail_memory(err);
    }
    return GIMBAL_OK;
}

void resume_end(Resume *r)
{
    free(r->path);
    r->path = NULL;
}

/* ---- keeping ----------------------------------------------------------------------------- */

static void warn(Resume *r, const char *message)
{
    if (!r->warned)
        fprintf(stderr, "gimbal: warning: the state for --resume is not kept: %s\n", message);
    r->warned = true;
}

bool resume_save(Resume *r, gimbal_session *session)
{
    gimbal_error err = {0};
    if (!r->path || fault_file()) /* what a broken model file led to is not kept */
        return false;
    const int code = gimbal_state_save(session, r->path, &err);
    if (code)
        warn(r, err.msg);
    r->saved = clock_seconds();
    return !code;
}

void resume_keep(Resume *r, gimbal_session *session, const gimbal_progress *p)
{
    const bool ended = !strcmp(p->stage, "pass"), between = !strcmp(p->stage, "sample");
    if (r->path && (ended || (between && clock_seconds() - r->saved >= r->every)))
        resume_save(r, session);
}

static char *pass_file(const Resume *r, int pass)
{
    char *out;
    return asprintf(&out, "%s.pass%d.safetensors", r->path, pass) < 0 ? NULL : out;
}

void resume_keep_pass(Resume *r, const gimbal_progress *p)
{
    gimbal_error err = {0};
    char *path = r->path ? pass_file(r, p->pass) : NULL;
    if (path && latents_write(path, p->latents, p->shape, NULL, &err))
        warn(r, err.msg);
    free(path);
}

/* ---- going on ---------------------------------------------------------------------------- */

static bool exists(const char *path)
{
    return !access(path, F_OK);
}

int resume_load(Resume *r, gimbal_session *session, gimbal_progress *at, gimbal_error *err)
{
    *at = (gimbal_progress){0};
    return r->path && exists(r->path) ? gimbal_state_load(session, r->path, at, err) : GIMBAL_OK;
}

int resume_load_pass(const Resume *r, int pass, gimbal_shape *shape, float **out, gimbal_error *err)
{
    char *path = pass_file(r, pass);
    const int code = path ? latents_read(path, "latents", out, shape, err) : fail_memory(err);
    free(path);
    return code;
}

void resume_say(const gimbal_progress *at)
{
    char chunk[48] = "";
    if (at->chunks > 1)
        snprintf(chunk, sizeof chunk, "chunk %d of %d, ", at->chunk, at->chunks);
    if (at->pass)
        fprintf(stderr,
                "gimbal: going on in %spass %d of %d, after step %d of %d: %d of %d network calls are made\n",
                chunk, at->pass, at->passes, at->step, at->steps, at->calls, at->total_calls);
}

void resume_forget(const Resume *r, int passes)
{
    if (!r->path)
        return;
    unlink(r->path);
    for (int i = 1; i <= passes; i++) {
        char *path = pass_file(r, i);
        if (path)
            unlink(path);
        free(path);
    }
}

/* ---- made already ------------------------------------------------------------------------ */

bool resume_finished(const Resume *r, const char *output, const json_t *recipe)
{
    gimbal_error ignored = {0};
    char *text = NULL;
    if (!r->path || exists(r->path) || !exists(output) || recipe_read(output, &text, &ignored) || !text)
        return false;
    json_t *was = json_loads(text, 0, NULL);
    free(text);
    /* as text: a recipe that was read holds the same numbers in another form */
    char *a = json_dumps(was, JSON_SORT_KEYS | JSON_REAL_PRECISION(15)),
         *b = json_dumps(recipe, JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    const bool same = a && b && !strcmp(a, b);
    free(a);
    free(b);
    json_decref(was);
    return same;
}
