/* fuzz_config.c: any JSON as the configs that decide what is built: "s CONFIG" a scheduler's, "c CONFIG" a
 * text encoder's, "v CONFIG" a VAE's, "u CONFIG" 0xFE "CONFIG" a U-Net's and its motion adapter's. What is
 * accepted is built and every parameter declared; a schedule's alphas fall and stay within 0..1, its steps
 * descend within it. */
#include "tests/fuzz/fuzz.h"

#include "diffusion/diffusion.h"

#include <math.h>

static void want_schedule(const Schedule *s, Arena *keep)
{
    static const int steps[] = {1, 2, 25, 999};
    for (int t = 0; t < s->T; t++) {
        WANT(s->alpha_bar[t] >= 0 && s->alpha_bar[t] <= 1);
        WANT(t == 0 || s->alpha_bar[t] <= s->alpha_bar[t - 1]);
    }
    WANT(s->final_alpha >= 0 && s->final_alpha <= 1 && schedule_a(s, -1) >= 0 && schedule_s(s, 0.0) >= 0);
    for (int k = 0; k < COUNT(steps); k++) {
        Grid grid;
        gimbal_error err = {0};
        const int code = grid_make(&grid, s, steps[k], keep, &err);
        want_message(code, &err);
        for (int i = 0; i < grid.n && !code; i++)
            WANT(grid.t[i] >= 0 && grid.t[i] < s->T && (i == 0 || grid.t[i] < grid.t[i - 1]));
    }
}

static void try_scheduler(const json_t *config)
{
    static const char *const betas[] = {NULL, "linear", "scaled_linear"};
    static const char *const spacings[] = {NULL, "leading", "linspace", "trailing"};
    for (int i = 0; i < COUNT(betas) * COUNT(spacings); i++) {
        Arena keep = {0};
        Schedule s;
        const char *note;
        gimbal_error err = {0};
        const int code = schedule_read(&s, config, "fuzz", betas[i % COUNT(betas)],
                                       spacings[i / COUNT(betas)], i % 2, &keep, &note, &err);
        want_message(code, &err);
        if (!code && s.T <= 2000)
            want_schedule(&s, &keep);
        arena_free(&keep);
    }
}

static int count_leaf(Params *p, Weight *w)
{
    (void)w;
    ++*(int *)p->user;
    return 0;
}

static void want_params(void (*params)(void *, Params *), void *network)
{
    int leaves = 0;
    Params p = {.leaf = count_leaf, .user = &leaves};
    params(network, &p);
    WANT(leaves > 0);
}

static void try_unet(const json_t *unet, const json_t *motion)
{
    const FolderConfigs configs = {.unet = unet,
                                   .motion = motion,
                                   .unet_where = "unet",
                                   .motion_where = "motion",
                                   .scheduler_where = "scheduler"};
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *net;
    Arena keep = {0};
    gimbal_error err = {0};
    int code = family_find(&family, &configs, &err);
    if (!code)
        code = family->shape(&configs, &shape, &run, &err);
    if (!code)
        code = unet_build(&net, &keep, &shape, &err);
    want_message(code, &err);
    if (!code)
        want_params(unet_params, net);
    arena_free(&keep);
}

static void try_network(char kind, const json_t *config)
{
    ClipText *clip;
    Vae *vae;
    Arena keep = {0};
    gimbal_error err = {0};
    const int code = kind == 'c' ? clip_build(&clip, &keep, config, "clip", &err)
                                 : vae_build(&vae, &keep, config, "vae", &err);
    want_message(code, &err);
    if (!code && kind == 'c')
        want_params(clip_params, clip);
    if (!code && kind == 'v')
        want_params(vae_params, vae);
    arena_free(&keep);
}

FUZZ(config)
{
    json_t *config = NULL, *motion = NULL;
    if (size < 2)
        return 0;
    const char kind = (char)data[0];
    data += 1, size -= 1;
    char *text = next_text(&data, &size, (char)0xFE), *more = next_text(&data, &size, (char)0xFE);
    if (!json_parse(&config, text, strlen(text), 32, "fuzz", NULL)) {
        if (*more)
            (void)json_parse(&motion, more, strlen(more), 32, "fuzz", NULL);
        if (kind == 's')
            try_scheduler(config);
        else if (kind == 'u')
            try_unet(config, motion);
        else if (kind == 'c' || kind == 'v')
            try_network(kind, config);
    }
    json_decref(config), json_decref(motion);
    free(text), free(more);
    return 0;
}
