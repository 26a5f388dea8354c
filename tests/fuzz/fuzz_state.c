/* fuzz_state.c: a saved run that somebody has changed: each three bytes put a byte (the third) at a place
 * (the first two, low one first) of the state of a run of the golden model, torch noise and a multistep
 * sampler; a first byte of 'w' makes the rest the whole file. What is accepted lies within the run's plan. */
#include "tests/fuzz/fuzz.h"

enum { STATE_VALUES = 4 * 2 * 3 * 3 };

static struct {
    gimbal_session *run;
    char path[64];
    uint8_t *good;
    size_t size;
} saved;

static int save_and_stop(void *user, const gimbal_progress *p)
{
    gimbal_error err = {0};
    (void)user;
    if (strcmp(p->stage, "sample") || p->step < 2)
        return 0;
    WANT(!gimbal_state_save(saved.run, saved.path, &err));
    return 1;
}

/* A run of three steps, stopped after two. */
static void make_state(void)
{
    gimbal_engine *engine;
    gimbal_settings s;
    gimbal_error err = {0}, stopped = {0};
    float latents[STATE_VALUES];
    char *text;
    WANT(!gimbal_open(&engine, "tests/golden/models/animatediff-tiny",
                      "tests/golden/models/animatediff-tiny-motion", &err));
    gimbal_defaults(&s, engine);
    s.prompt = "a cat", s.frames = 2, s.width = s.height = 24, s.steps = 3, s.cfg = 1, s.threads = 1;
    s.sampler = "dpmpp2m", s.rng = "torch", s.progress = save_and_stop;
    snprintf(saved.path, sizeof saved.path, "/dev/shm/gimbal-fuzz-%d.state.safetensors", (int)getpid());
    WANT(!gimbal_begin(&saved.run, engine, &s, &err));
    const gimbal_shape shape = gimbal_latent_shape(saved.run);
    WANT(shape.c * shape.f * shape.h * shape.w == STATE_VALUES);
    WANT(gimbal_sample(saved.run, latents, &stopped) == GIMBAL_ECANCEL);
    WANT(!read_file(&text, &saved.size, saved.path, 1 << 20, &err));
    saved.good = (uint8_t *)text;
}

FUZZ(state)
{
    static MemoryFile file;
    gimbal_error err = {0};
    gimbal_progress at;
    if (!saved.run) {
        make_state();
        unlink(saved.path);
        memory_file(&file);
    }
    const bool whole = size && data[0] == 'w';
    refill(file.fd, whole ? data + 1 : saved.good, whole ? size - 1 : saved.size);
    for (size_t i = 0; !whole && i + 3 <= size; i += 3) {
        const off_t place = (data[i] | data[i + 1] << 8) % (off_t)saved.size;
        WANT(pwrite(file.fd, &data[i + 2], 1, place) == 1);
    }
    const int code = gimbal_state_load(saved.run, file.path, &at, &err);
    want_message(code, &err);
    WANT(code || size || whole || at.step == 2);
    if (!code)
        WANT(at.pass >= 1 && at.pass <= at.passes && at.step >= 1 && at.step <= at.steps && at.calls >= 1 &&
             at.calls <= at.total_calls && at.elapsed >= 0);
    return 0;
}
