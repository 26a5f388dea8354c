/* t_threads.c: what several threads may do at once with one library and one engine: runs side by side,
 * opening, describing, tokenising, predicting, drawing noise, reading recipes, and cancelling somebody else's
 * run.
 *
 * Each thread does what it does alone first and must get the same bytes. Built with -fsanitize=thread (make
 * tsan) the same program shows races; OpenMP is off there, and oneDNN is told to use one thread. The threads
 * meet at a barrier, so that they really run together. Checks of a thread are reported by the main one. */
#include "base/base.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/models.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, VALUES = 4 * 3 * 3 * 5, PIXELS = 3 * 3 * 24 * 40 };

static pthread_barrier_t together;
static gimbal_engine *engine;

/* One thread's work: `work` returns NULL or what went wrong. */
typedef struct Job {
    pthread_t thread;
    const char *(*work)(struct Job *);
    int number;
    gimbal_error err;
    float latents[VALUES];
    uint8_t rgb[PIXELS];
    const char *wrong;
} Job;

static void *start_together(void *job)
{
    Job *j = job;
    pthread_barrier_wait(&together);
    j->wrong = j->work(j);
    return NULL;
}

/* Runs `work` on THREADS threads at once; jobs[] afterwards holds what each made. */
static void run_jobs(Job *jobs, const char *(*work)(Job *))
{
    check(!pthread_barrier_init(&together, NULL, THREADS), "barrier");
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (Job){.work = work, .number = i};
        check(!pthread_create(&jobs[i].thread, NULL, start_together, &jobs[i]), "thread %d", i);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(jobs[i].thread, NULL);
    pthread_barrier_destroy(&together);
    for (int i = 0; i < THREADS; i++)
        check(!jobs[i].wrong, "thread %d: %s: %.200s", i, jobs[i].wrong, jobs[i].err.msg);
}

/* ---- runs -------------------------------------------------------------------------------- */

static gimbal_settings settings_of(const gimbal_engine *e, int number)
{
    static const char *const prompts[] = {"a cat", "a dog", "a red circle", ""};
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = prompts[number % COUNT(prompts)];
    s.seed = (uint64_t)number;
    s.frames = 3, s.width = 40, s.height = 24, s.steps = 2, s.cfg = 5, s.threads = 1 + number % 2;
    s.reinit = "freeinit:passes=2";
    return s;
}

static int keep_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    const size_t n = (size_t)3 * width * height;
    memcpy((uint8_t *)user + n * (size_t)i, rgb, n);
    return 0;
}

static const char *whole_run(Job *j)
{
    gimbal_session *run;
    const gimbal_settings s = settings_of(engine, j->number);
    if (gimbal_begin(&run, engine, &s, &j->err))
        return "gimbal_begin";
    const gimbal_shape shape = gimbal_latent_shape(run);
    const char *wrong = shape.c * shape.f * shape.h * shape.w != VALUES ? "shape" : NULL;
    if (!wrong && gimbal_sample(run, j->latents, &j->err))
        wrong = "gimbal_sample";
    if (!wrong && gimbal_decode(run, j->latents, shape, keep_frame, j->rgb, &j->err))
        wrong = "gimbal_decode";
    gimbal_end(run);
    return wrong;
}

static void runs_side_by_side_on_one_engine_make_what_each_makes_alone(void **state)
{
    (void)state;
    static Job jobs[THREADS];
    engine = opened(TINY, MOTION); /* fresh: its weights are packed by whoever comes first */
    run_jobs(jobs, whole_run);
    for (int i = 0; i < THREADS; i++) {
        static Job alone;
        alone = (Job){.number = i};
        check(!whole_run(&alone), "alone");
        check(!memcmp(alone.latents, jobs[i].latents, sizeof alone.latents), "latents of thread %d", i);
        check(!memcmp(alone.rgb, jobs[i].rgb, sizeof alone.rgb), "pictures of thread %d", i);
        check(i == 0 || memcmp(jobs[0].rgb, jobs[i].rgb, sizeof alone.rgb), "threads 0 and %d alike", i);
    }
    gimbal_close(engine);
}

/* ---- everything else --------------------------------------------------------------------- */

/* Opens an engine of its own, asks it everything, closes it. */
static const char *open_and_ask(Job *j)
{
    gimbal_engine *e;
    int32_t ids[77], again[77];
    char *json = NULL;
    if (gimbal_open(&e, TINY, MOTION, &j->err))
        return "gimbal_open";
    const bool same = !strcmp(gimbal_identity(e), gimbal_identity(engine)) && gimbal_build_info()[0] &&
                      gimbal_size_step(e) == gimbal_size_step(engine);
    const char *wrong = same ? NULL : "another identity";
    if (!wrong && gimbal_tokenize(e, "a cat on a mat", ids, NULL, &j->err))
        wrong = "gimbal_tokenize";
    if (!wrong &&
        (gimbal_tokenize(engine, "a cat on a mat", again, NULL, &j->err) || memcmp(ids, again, sizeof ids)))
        wrong = "gimbal_tokenize of the shared engine";
    gimbal_close(e);
    if (!wrong && gimbal_describe(j->number % 2 ? TINY : MOTION, &json, &j->err))
        wrong = "gimbal_describe";
    free(json);
    return wrong;
}

static const char *read_own_recipe(const gimbal_settings *s, gimbal_error *e)
{
    gimbal_recipe *recipe;
    gimbal_settings back = settings_of(engine, 0);
    char *text = gimbal_recipe_json(engine, s);
    if (!text || gimbal_recipe_parse(&recipe, text, e)) {
        free(text);
        return "gimbal_recipe_parse";
    }
    const bool good =
        !gimbal_recipe_apply(recipe, &back, e) && back.seed == s->seed && !strcmp(back.prompt, s->prompt);
    gimbal_recipe_free(recipe);
    free(text);
    return good ? NULL : "gimbal_recipe_apply";
}

/* Calls that need no session: every one but the first on the shared engine. */
static const char *ask_the_engine(Job *j)
{
    gimbal_cost cost;
    float mask[3 * 3 * 5];
    const gimbal_settings s = settings_of(engine, j->number);
    const gimbal_shape shape = {4, 3, 3, 5};
    if (gimbal_noise("white", j->number % 2 ? "torch" : "philox", 7, 0, shape, j->latents, &j->err))
        return "gimbal_noise";
    if (gimbal_mask("freeinit:filter=gaussian", shape, mask, &j->err) ||
        gimbal_mix(j->latents, j->latents, mask, 0, shape, j->latents, &j->err))
        return "gimbal_mix";
    if (gimbal_predict(engine, &s, &cost, &j->err) || cost.calls != 4)
        return "gimbal_predict";
    return read_own_recipe(&s, &j->err);
}

/* Each gets its own error, in its own words. */
static const char *fail_in_own_words(Job *j)
{
    char path[64];
    gimbal_engine *e;
    snprintf(path, sizeof path, "no/such/model-%d", j->number);
    if (gimbal_open(&e, path, NULL, &j->err) != GIMBAL_EIO || e)
        return "an engine of nothing";
    return strstr(j->err.msg, path) ? NULL : "somebody else's message";
}

static void opening_and_asking_go_side_by_side(void **state)
{
    (void)state;
    static Job jobs[THREADS];
    engine = opened(TINY, MOTION);
    run_jobs(jobs, open_and_ask);
    run_jobs(jobs, ask_the_engine);
    run_jobs(jobs, fail_in_own_words);
    gimbal_close(engine);
}

/* ---- cancelling -------------------------------------------------------------------------- */

typedef struct {
    gimbal_session *run;
    atomic_int steps;
} Watched;

static int count_steps(void *user, const gimbal_progress *p)
{
    (void)p;
    atomic_fetch_add(&((Watched *)user)->steps, 1);
    return 0;
}

static void *cancel_after_a_step(void *user)
{
    Watched *w = user;
    while (atomic_load(&w->steps) < 4) /* two texts, two steps */
        sched_yield();
    gimbal_cancel(w->run);
    return NULL;
}

static void a_run_cancelled_by_another_thread_stops_and_goes_on(void **state)
{
    (void)state;
    static float want[VALUES], got[VALUES];
    static Watched watched;
    pthread_t other;
    engine = opened(TINY, MOTION);
    gimbal_settings s = settings_of(engine, 1);
    s.steps = 40;
    check_ok(gimbal_begin(&watched.run, engine, &s, &err), err);
    check_ok(gimbal_sample(watched.run, want, &err), err);
    gimbal_end(watched.run);

    s.progress = count_steps, s.user = &watched;
    check_ok(gimbal_begin(&watched.run, engine, &s, &err), err);
    check(!pthread_create(&other, NULL, cancel_after_a_step, &watched), "thread");
    const int code = gimbal_sample(watched.run, got, &err);
    pthread_join(other, NULL);
    check(code == GIMBAL_ECANCEL, "code %d after %d steps: %.200s", code, atomic_load(&watched.steps),
          err.msg);
    check(atomic_load(&watched.steps) < 2 + 2 * 40, "all %d steps were made", atomic_load(&watched.steps));
    memset(&err, 0, sizeof err);
    check_ok(gimbal_sample(watched.run, got, &err), err);
    check(!memcmp(want, got, sizeof want), "a cancelled run went on to other latents");
    gimbal_end(watched.run);
    gimbal_close(engine);
}

TESTS(runs_side_by_side_on_one_engine_make_what_each_makes_alone, opening_and_asking_go_side_by_side,
      a_run_cancelled_by_another_thread_stops_and_goes_on)
