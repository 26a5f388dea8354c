/* family_videofusion.c: two image U-Nets that share a clip's noise between them, in a folder of ours:
 *
 *     base/, residual/    UNet2DConditionModel folders of diffusers; the residual's network has
 *                         class_embed_type "timestep": it is told each frame's number, counted from 1
 *     residual/motion_adapter/    a MotionAdapter, where it has layers over time (the paper tells of none)
 *     videofusion.json    {"lambda": 0.5, "key_frame": 7, "frame_count": 16, "rescale": true,
 *                          "width": 256, "height": 256}
 *
 * lambda: the share of the base in the noise of every frame but the key frame, or a list with one for each
 * frame. key_frame: counted from 0, the middle, floor(frame_count / 2) - 1, when it is absent. rescale: the
 * residual's network sees its frames at unit variance. width and height: the usual picture, or the base's
 * sample_size.
 *
 * Clips of another length have their own middle as key frame; what was listed frame by frame fits one length.
 *
 * Luo et al., VideoFusion: Decomposed Diffusion Models, CVPR 2023, sections 3 and 4; the folder is ours.
 * Knows the three configs. Refuses to know weights, files and sampling. */
#include "model/model.h"

enum { SIDE = 8192 }; /* pixels */

int split_key(const NoiseSplit *s, int frames)
{
    return frames == s->frames ? s->key : MAX(frames / 2 - 1, 0);
}

double split_share(const NoiseSplit *s, int frames, int frame)
{
    if (frame == split_key(s, frames))
        return 1;
    return s->lambda[s->listed ? MIN(frame, s->frames - 1) : 0];
}

/* ---- videofusion.json -------------------------------------------------------------------- */

static int read_share(const Config *c, const json_t *value, int frame, NoiseSplit *s)
{
    const double share = json_is_number(value) ? json_number_value(value) : -1;
    const bool key = frame == s->key;
    if (share >= 0 && (key ? share == 1 : share < 1)) {
        s->lambda[frame] = share;
        return GIMBAL_OK;
    }
    char name[40] = "\"lambda\"", found[40] = "not a number";
    if (s->listed)
        snprintf(name, sizeof name, "\"lambda\"[%d]", frame);
    if (json_is_number(value))
        snprintf(found, sizeof found, "%g", json_number_value(value));
    if (key)
        return fail(c->err, GIMBAL_EMODEL, "%s: %s is %s, expected 1: frame %d is the key frame", c->where,
                    name, found, frame);
    return fail(c->err, GIMBAL_EMODEL,
                "%s: %s is %s, expected at least 0 and below 1: at 1 nothing would be left to the residual",
                c->where, name, found);
}

/* A number, or a list of one for each frame. */
static int read_lambda(const Config *c, NoiseSplit *s)
{
    const json_t *value = json_object_get(c->json, "lambda");
    s->listed = json_is_array(value);
    if (!s->listed) {
        const int key = s->key;
        s->key = -1; /* the number is of all others */
        const int code = value ? read_share(c, value, 0, s) : GIMBAL_OK;
        s->key = key;
        s->lambda[0] = value ? s->lambda[0] : 0.5;
        return code;
    }
    if (json_array_size(value) != (size_t)s->frames)
        return fail(c->err, GIMBAL_EMODEL, "%s: \"lambda\" has %zu entries, expected \"frame_count\", %d",
                    c->where, json_array_size(value), s->frames);
    for (int i = 0; i < s->frames; i++)
        TRY(read_share(c, json_array_get(value, (size_t)i), i, s));
    return GIMBAL_OK;
}

static int read_split(const Config *c, NoiseSplit *s)
{
    TRY(json_get_int(c->json, c->where, "frame_count", 16, 1, SPLIT_FRAMES, &s->frames, c->err));
    const int middle = MAX(s->frames / 2 - 1, 0);
    TRY(json_get_int(c->json, c->where, "key_frame", middle, 0, SPLIT_FRAMES - 1, &s->key, c->err));
    if (s->key >= s->frames)
        return fail(
            c->err, GIMBAL_EMODEL,
            "%s: \"key_frame\" is %d, expected 0 to %d: it is counted from 0, and \"frame_count\" is %d",
            c->where, s->key, s->frames - 1, s->frames);
    TRY(json_get_bool(c->json, c->where, "rescale", false, &s->rescale, c->err));
    return read_lambda(c, s);
}

/* ---- the family -------------------------------------------------------------------------- */

/* The base's network tells the size where videofusion.json does not. */
static int defaults(const Config *base, const Config *c, RunDefaults *run)
{
    int size[2];
    *run = (RunDefaults){.steps = 50, .cfg = 7.5, .fps = 8, .noise = "shared:lambda=-1,key=-2"};
    TRY(config_sample_size(base, 64, size));
    TRY(json_get_int(c->json, c->where, "frame_count", 16, 1, SPLIT_FRAMES, &run->frames, c->err));
    TRY(json_get_int(c->json, c->where, "width", 8 * size[1], 8, SIDE, &run->width, c->err));
    return json_get_int(c->json, c->where, "height", 8 * size[0], 8, SIDE, &run->height, c->err);
}

static int shape(const FolderConfigs *configs, UnetShape *out, RunDefaults *run, gimbal_error *err)
{
    const Config base = {configs->unet, configs->unet_where, err},
                 split = {configs->split, configs->split_where, err};
    UnetShape s = {0};
    TRY(config_unet2d(&base, false, &s));
    TRY(unet_check(&s, base.where, NULL, err));
    TRY(defaults(&base, &split, run));
    s.max_frames = SPLIT_FRAMES;
    *out = s;
    return GIMBAL_OK;
}

/* Both see the same latents under the same text. */
static int check_pair(const Config *c, const UnetShape *residual, const char *base_where,
                      const UnetShape *base)
{
    if (residual->in != base->in)
        return fail_hint(c->err, GIMBAL_EMODEL, "base/ and residual/ are of one training run",
                         "%s: \"in_channels\" is %d, but that of %s is %d", c->where, residual->in,
                         base_where, base->in);
    if (residual->context != base->context)
        return fail_hint(c->err, GIMBAL_EMODEL, "base/ and residual/ are of one training run",
                         "%s: \"cross_attention_dim\" is %d, but that of %s is %d", c->where,
                         residual->context, base_where, base->context);
    return GIMBAL_OK;
}

/* Frames that see each other have one timestep. */
static int check_over_time(const Config *c, const UnetShape *residual, const NoiseSplit *s)
{
    if (s->listed && s->rescale)
        return fail(c->err, GIMBAL_EMODEL,
                    "%s: \"lambda\" is a list and \"rescale\" is true, but residual/motion_adapter/ knows "
                    "frames of one timestep",
                    c->where);
    if (s->frames > residual->max_frames)
        return fail(c->err, GIMBAL_EMODEL,
                    "%s: \"frame_count\" is %d, but residual/motion_adapter/ knows %d positions", c->where,
                    s->frames, residual->max_frames);
    return GIMBAL_OK;
}

static int split(const FolderConfigs *configs, const UnetShape *base, UnetShape *residual, NoiseSplit *out,
                 gimbal_error *err)
{
    const Config c = {configs->residual, configs->residual_where, err},
                 json = {configs->split, configs->split_where, err},
                 motion = {configs->motion, configs->motion_where, err};
    static const ConfigRule same_class[] = {{"_class_name", "\"UNet2DConditionModel\""}, {NULL, NULL}};
    UnetShape s = {0};
    TRY(json_refuse(c.json, c.where, same_class, err));
    TRY(config_unet2d(&c, true, &s));
    TRY(unet_check(&s, c.where, NULL, err));
    TRY(check_pair(&c, &s, configs->unet_where, base));
    if (motion.json) {
        TRY(config_motion(&motion, c.where, &s));
        TRY(unet_check(&s, c.where, motion.where, err));
    }
    *residual = s;
    *out = (NoiseSplit){0};
    TRY(read_split(&json, out));
    return s.motion ? check_over_time(&json, &s, out) : GIMBAL_OK;
}

static const char *const nothing[] = {NULL};

const Family family_videofusion = {
    .name = "videofusion",
    .help = "two image models: one for the noise that a clip shares, one for each frame's own",
    .source = "Luo et al., VideoFusion: Decomposed Diffusion Models, CVPR 2023",
    .unet_class = "UNet2DConditionModel",
    .shape = shape,
    .split = split,
    .unet_ignore = nothing,
    .motion_ignore = nothing,
};
