/* plans.c: the networks of a run, planned before anything is allocated, and the one memory they share.
 *
 * The text encoder, the U-Net and the VAE's two halves never run at the same time, so the work memory is the
 * largest of the plans, not their sum. It is mapped once: pages that no network touches cost nothing. The VAE
 * encodes and decodes a few frames a call: as many as make about 128 x 128 x 8 pixels, by the picture's size
 * alone, so that neither threads nor free memory change what comes out.
 *
 * Knows sizes and the networks' entry points. Refuses to know prompts, samplers and passes. */
#include "diffusion/engine.h"
#include "tensor/backend.h"

#include <stdlib.h>
#include <string.h>

enum { DECODE_PIXELS = 128 * 128 * 8, DECODE_FRAMES = 8 };

/* Pictures with more pixels are decoded band by band (tiles.c): SD's decoder takes 2560 bytes a pixel, 1.5 GB
 * at the limit. BAND: values of a band's widest tensor. Both decide what comes out, to the last bit. */
enum { WHOLE_PIXELS = 768 * 768, BAND_VALUES = 1 << 23 };

/* ---- planning ---------------------------------------------------------------------------- */

/* Frames of one VAE call: F frames in as few calls as the limit allows, evenly, so that little is padded. */
static int frames_a_call(int frames, int64_t pixels)
{
    const int64_t most = MIN(MAX(DECODE_PIXELS / pixels, 1), DECODE_FRAMES);
    const int64_t calls = (frames + most - 1) / most;
    return (int)((frames + calls - 1) / calls);
}

int plans_decode(Plans *p, gimbal_shape s, gimbal_error *err)
{
    const int64_t factor = vae_factor(p->engine->vae), pixels = s.h * factor * s.w * factor;
    s.f = frames_a_call(s.f, pixels);
    if ((p->vae || p->tiles) && p->decode.f == s.f && p->decode.h == s.h && p->decode.w == s.w)
        return GIMBAL_OK;
    plan_free(p->vae);
    tiles_free(p->tiles);
    p->vae = NULL, p->tiles = NULL;
    p->decode = s;
    if (pixels > WHOLE_PIXELS)
        return tiles_make(&p->tiles, &p->cx, p->engine->vae, s, BAND_VALUES, err);
    Tensor *z = tensor_input(&p->cx, F32, 4, (int64_t[]){s.f, s.h, s.w, s.c}, NULL);
    p->vae = plan_make(&p->cx, vae_decode, p->engine->vae, &z);
    return p->vae ? GIMBAL_OK : pass_on(&p->err, err);
}

int plans_encode(Plans *p, gimbal_shape s, gimbal_error *err)
{
    const int64_t factor = vae_factor(p->engine->vae), height = s.h * factor, width = s.w * factor;
    s.f = frames_a_call(s.f, height * width);
    if (p->encoder && p->encode.f == s.f && p->encode.h == s.h && p->encode.w == s.w)
        return GIMBAL_OK;
    plan_free(p->encoder);
    Tensor *x = tensor_input(&p->cx, F32, 4, (int64_t[]){s.f, height, width, 3}, NULL);
    p->encoder = plan_make(&p->cx, vae_encode, p->engine->vae, &x);
    p->encode = s;
    return p->encoder ? GIMBAL_OK : pass_on(&p->err, err);
}

/* One network's calls for a clip of `shape`: calls_of[most] of one branch, of two, ... */
static int plan_guide(Plans *p, Guide *g, const Run *run, Unet *unet, gimbal_shape shape, const int *calls_of,
                      int most, gimbal_error *err)
{
    const UnetShape *net = unet_shape(unet);
    *g = (Guide){
        .cx = &p->cx,
        .call = {.unet = unet, .frames = shape.f, .norm_clip = !strcmp(run->s.motion_norm, "clip")},
        .shape = shape,
        .batch = run->batch,
        .time_width = net->width[0],
        .context_width = net->context,
        .keys_width = unet_text_width(unet),
        .held = run->hold,
        .strided = net->stride,
        .numbered = net->numbered,
        .cfg_image = run->s.cfg_image,
        .rescale = run->s.rescale,
    };
    g->call.keyed = g->keys_width > 0;
    p->cx.bf16 = !strcmp(run->s.dtype, "bf16"); /* the U-Net's plans remember it; the others are float32 */
    for (int b = 1; b <= most && !cx_failed(&p->cx); b++)
        if (calls_of[b - 1] > 0)
            g->plan[b - 1] = guide_plan(g, b);
    if (g->call.keyed && !cx_failed(&p->cx))
        g->text = guide_plan_text(g);
    p->cx.bf16 = false;
    return cx_failed(&p->cx) ? pass_on(&p->err, err) : GIMBAL_OK;
}

/* Of a base network's predictions that are kept for clips with the same base noise: how many. */
static int memo_entries(const Run *run)
{
    enum { MOST = 1 << 28 };
    const uint64_t one = 3 * sizeof(float) * (shape_count(run->shape) / (uint64_t)run->shape.f);
    return (int)MIN(MAX(MOST / one, 1), (uint64_t)split_base_calls(run->over_time, run->calls));
}

/* The base's network for one frame, the residual's for a group of them, and what makes one prediction of
 * both. */
static int plan_two(Plans *p, const Run *run, gimbal_error *err)
{
    const gimbal_engine *e = p->engine;
    gimbal_shape one = run->shape, group = run->shape;
    one.f = 1, group.f = split_group(&e->split, unet_shape(e->residual), run->shape);
    TRY(plan_guide(p, &p->base, run, e->unet, one, run->base_of, COUNT(run->base_of), err));
    TRY(plan_guide(p, &p->guide, run, e->residual, group, run->calls_of, COUNT(run->calls_of), err));
    p->split = (Split){
        .schedule = &run->schedule,
        .shape = run->shape,
        .key = split_key(&e->split, run->shape.f),
        .group = group.f,
        .over_time = unet_shape(e->residual)->motion,
        .key_place = split_key(&e->split, group.f),
        .share = run->share,
        .rescale = e->split.rescale,
        .cfg_base = run->s.cfg_base,
        .base = {guide_eps, &p->base},
        .residual = {guide_eps, &p->guide},
        .memo = e->memo,
        .memo_key = {.bf16 = !strcmp(run->s.dtype, "bf16")},
    };
    p->groups = split_calls(&p->split);
    p->memo_entries = memo_entries(run);
    return GIMBAL_OK;
}

static int plan_unet(Plans *p, const Run *run, gimbal_error *err)
{
    if (p->engine->residual)
        return plan_two(p, run, err);
    p->groups = 1;
    return plan_guide(p, &p->guide, run, p->engine->unet, run->shape, run->calls_of, COUNT(run->calls_of),
                      err);
}

static int plan_text(Plans *p, gimbal_error *err)
{
    Tensor *ids = tensor_input(&p->cx, I32, 1, (int64_t[]){TOKENS}, NULL);
    p->text = plan_make(&p->cx, clip_forward, p->engine->clip, &ids);
    return p->text ? GIMBAL_OK : pass_on(&p->err, err);
}

/* Of two networks what there is beside a guide's clip: the base's keys, a group twice, a frame three times.
 */
static uint64_t split_floats(const gimbal_engine *e, const Run *run)
{
    if (!e->residual)
        return 0;
    const uint64_t frame = shape_count(run->shape) / (uint64_t)run->shape.f,
                   group = (uint64_t)split_group(&e->split, unet_shape(e->residual), run->shape),
                   keys = (uint64_t)unet_text_width(e->residual) * TOKENS * (uint64_t)run->batch;
    return keys + frame * (4 + 2 * group + 3 * (uint64_t)memo_entries(run));
}

/* Arrays beside the plans: the guide's clip and prompts, the driver's and sampler's (about ten clips),
 * complex FFT buffers of one channel for three clips, the picture being handed over; a clip or picture to
 * begin from, its latents and pictures, and the few that are encoded at a time as float32; a long video's
 * latents. */
static uint64_t host_bytes(const gimbal_engine *e, const Run *run)
{
    const uint64_t width = (uint64_t)e->shape.context + (uint64_t)unet_text_width(e->unet);
    const uint64_t prompts = (uint64_t)run->batch * TOKENS * width;
    const uint64_t clip = shape_count(run->shape), channel = clip / (uint64_t)run->shape.c;
    const uint64_t given = run->s.latents ? 0 : clip, picture = 3ull * run->s.width * run->s.height;
    const uint64_t pictures = (uint64_t)run_pictures(run), latents = clip / (uint64_t)run->shape.f * pictures;
    const uint64_t begin = sizeof(float) * (2 * latents + picture * MIN(pictures, DECODE_FRAMES)) +
                           picture * pictures * (run->s.clip ? 1 : sizeof(float));
    const uint64_t branches = run->batch == 3 ? 2 * clip : 0; /* the guide's further two */
    const uint64_t video =
        run->s.chunks > 1 ? 2 * shape_count(run->whole) : 0; /* the driver's, the caller's */
    return sizeof(float) *
               (11 * clip + prompts + given + 6 * channel + branches + video + split_floats(e, run)) +
           picture + begin;
}

int plans_make(Plans *p, const gimbal_engine *e, const Run *run, gimbal_error *err)
{
    memset(p, 0, sizeof *p);
    p->engine = e;
    p->host_bytes = host_bytes(e, run);
    p->frame_stride = run->s.frame_stride;
    cx_init(&p->cx, cpu_chain(), run->s.threads, &p->err);
    int code = plan_text(p, err);
    if (!code)
        code = plan_unet(p, run, err);
    if (!code)
        code = plans_decode(p, run->whole, err);
    gimbal_shape pictures = run->shape;
    pictures.f = run_pictures(run);
    if (!code && pictures.f)
        code = plans_encode(p, pictures, err);
    if (code)
        plans_free(p);
    return code;
}

static size_t guide_work_bytes(const Guide *g)
{
    size_t most = g->text ? plan_bytes(g->text) : 0;
    for (int i = 0; i < COUNT(g->plan); i++)
        most = MAX(most, g->plan[i] ? plan_bytes(g->plan[i]) : 0);
    return most;
}

/* All calls use the same packs; the text's are of other weights. */
static size_t guide_pack_bytes(const Guide *g)
{
    size_t most = 0;
    for (int i = 0; i < COUNT(g->plan); i++)
        most = MAX(most, g->plan[i] ? plan_pack_bytes(g->plan[i]) : 0);
    return most + (g->text ? plan_pack_bytes(g->text) : 0);
}

size_t plans_work_bytes(const Plans *p)
{
    size_t nets = plan_bytes(p->text);
    nets = MAX(nets, guide_work_bytes(&p->guide));
    nets = MAX(nets, guide_work_bytes(&p->base));
    nets = MAX(nets, p->vae ? plan_bytes(p->vae) : 0);
    nets = MAX(nets, p->tiles ? tiles_bytes(p->tiles) : 0);
    return MAX(nets, p->encoder ? plan_bytes(p->encoder) : 0);
}

size_t plans_pack_bytes(const Plans *p)
{
    const size_t guide = guide_pack_bytes(&p->guide) + guide_pack_bytes(&p->base);
    return plan_pack_bytes(p->text) + guide + (p->vae ? plan_pack_bytes(p->vae) : 0) +
           (p->tiles ? tiles_pack_bytes(p->tiles) : 0) + (p->encoder ? plan_pack_bytes(p->encoder) : 0);
}

/* ---- memory ------------------------------------------------------------------------------ */

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Measured with libraries' own and oneDNN's compiled kernels, and for each thread its stack and heap. Of
 * toyworld and the golden model at several sizes 2 to 4 MB were found; what oneDNN compiles when it starts is
 * there already. */
uint64_t plans_beside_bytes(const Plans *p)
{
    enum { CODE = 3000000, THREAD = 300000 };
    return CODE + (uint64_t)p->cx.threads * THREAD;
}

static int enough_memory(const Plans *p, gimbal_error *err)
{
    const uint64_t work = plans_work_bytes(p), pack = plans_pack_bytes(p), have = memory_available();
    const uint64_t beside = plans_beside_bytes(p) + stack_bytes(p->cx.threads);
    const uint64_t need = work + pack + p->host_bytes + beside;
    if (need <= have)
        return GIMBAL_OK;
    return fail_hint(
        err, GIMBAL_ENOMEM, "fewer frames, or a smaller width and height, need less",
        "this run needs %.0f MiB (networks %.0f, packed weights %.0f, arrays %.0f, threads and code %.0f), "
        "%.0f MiB are available",
        mib(need), mib(work), mib(pack), mib(p->host_bytes), mib(beside), mib(have));
}

/* context: of the other network, which reads the same; NULL: one of its own. */
static int guide_memory(Plans *p, Guide *g, float *context, gimbal_error *err)
{
    const size_t clips = g->batch == 3 ? 3 : 1, frame = shape_count(g->shape) / (size_t)g->shape.f;
    g->x = alloc_array(clips * shape_count(g->shape), sizeof(float));
    g->time = alloc_array(clips * (size_t)g->time_width, sizeof(float));
    g->stride = alloc_array(clips * (size_t)g->time_width, sizeof(float));
    g->blank = alloc_array(frame, sizeof(float));
    g->context =
        context ? context : alloc_array((size_t)g->batch * TOKENS * (size_t)g->context_width, sizeof(float));
    g->keys = alloc_array((size_t)g->batch * TOKENS * (size_t)MAX(g->keys_width, 1), sizeof(float));
    g->numbers = alloc_array((size_t)(g->numbered ? g->shape.f : 1) * (size_t)g->time_width, sizeof(float));
    if (!g->x || !g->time || !g->stride || !g->blank || !g->context || !g->keys || !g->numbers)
        return fail(err, GIMBAL_ENOMEM, "no memory for a clip of %zu values", shape_count(g->shape));
    for (size_t i = 0; i < clips; i++)
        timestep_features(p->frame_stride, g->time_width, g->stride + i * (size_t)g->time_width);
    return GIMBAL_OK;
}

static void guide_free(Guide *g)
{
    for (int i = 0; i < COUNT(g->plan); i++)
        plan_free(g->plan[i]);
    plan_free(g->text);
    free(g->x); /* guide_memory's, as those below */
    free(g->time);
    free(g->stride);
    free(g->numbers);
    free(g->blank);
    free(g->keys);
}

int plans_memory(Plans *p, gimbal_error *err)
{
    TRY(enough_memory(p, err));
    TRY(cx_work(&p->cx, plans_work_bytes(p), err));
    TRY(guide_memory(p, &p->guide, NULL, err));
    if (!p->engine->residual)
        return GIMBAL_OK;
    TRY(guide_memory(p, &p->base, p->guide.context, err));
    TRY(memo_room(p->split.memo, p->memo_entries, (size_t)shape_count(p->base.shape), err));
    return split_memory(&p->split, err);
}

int plans_encoders(Plans *p, const gimbal_engine *e, int threads, gimbal_shape latents, gimbal_error *err)
{
    memset(p, 0, sizeof *p);
    p->engine = e;
    cx_init(&p->cx, cpu_chain(), threads, &p->err);
    int code = plan_text(p, err);
    if (!code)
        code = plans_encode(p, latents, err);
    if (!code)
        code = cx_work(&p->cx, plans_work_bytes(p), err);
    if (code)
        plans_free(p);
    return code;
}

/* What was taken: the caller of plans_make gives it back. */
void plans_free(Plans *p)
{
    plan_free(p->text);
    guide_free(&p->guide);
    guide_free(&p->base);
    free(p->guide.context); /* of both */
    split_free(&p->split);
    plan_free(p->vae);
    tiles_free(p->tiles);
    plan_free(p->encoder);
    if (p->engine)
        cx_free(&p->cx);
    memset(p, 0, sizeof *p);
}

/* ---- running ----------------------------------------------------------------------------- */

void plans_clear(Plans *p)
{
    p->err = (gimbal_error){0};
    cx_reset(&p->cx);
}

int plans_text(Plans *p, const int32_t *ids, float *context, gimbal_error *err)
{
    plans_clear(p);
    Tensor *in = tensor_input(&p->cx, I32, 1, (int64_t[]){TOKENS}, ids);
    const Tensor *y = plan_run(&p->cx, p->text, clip_forward, p->engine->clip, &in);
    if (!y)
        return pass_on(&p->err, err);
    const size_t width = (size_t)tensor_channels(y);
    for (size_t i = 0; i < TOKENS; i++)
        memcpy(context + i * width, (const float *)y->d + i * (size_t)y->ld, width * sizeof(float));
    return GIMBAL_OK;
}

int plans_picture(Plans *p, const float *z, const float **pictures, gimbal_error *err)
{
    const gimbal_shape s = p->decode;
    TRY(cx_work(&p->cx, plans_work_bytes(p), err));
    plans_clear(p);
    if (p->tiles) {
        *pictures = tiles_decode(p->tiles, &p->cx, z);
        return *pictures ? GIMBAL_OK : pass_on(&p->err, err);
    }
    Tensor *in = tensor_input(&p->cx, F32, 4, (int64_t[]){s.f, s.h, s.w, s.c}, z);
    const Tensor *y = plan_run(&p->cx, p->vae, vae_decode, p->engine->vae, &in);
    if (!y)
        return pass_on(&p->err, err);
    *pictures = y->d;
    return GIMBAL_OK;
}

int plans_moments(Plans *p, const float *pictures, const float **moments, gimbal_error *err)
{
    const gimbal_shape s = p->encode;
    const int64_t factor = vae_factor(p->engine->vae);
    TRY(cx_work(&p->cx, plans_work_bytes(p), err));
    plans_clear(p);
    Tensor *in = tensor_input(&p->cx, F32, 4, (int64_t[]){s.f, s.h * factor, s.w * factor, 3}, pictures);
    const Tensor *y = plan_run(&p->cx, p->encoder, vae_encode, p->engine->vae, &in);
    if (!y)
        return pass_on(&p->err, err);
    *moments = y->d;
    return GIMBAL_OK;
}

int plans_keys(Plans *p, gimbal_error *err)
{
    const Guide *g = &p->guide;
    TRY(guide_text(&p->guide, err));
    if (!p->engine->residual)
        return GIMBAL_OK;
    TRY(guide_text(&p->base, err));
    Sha256 *sha = sha256_new();
    if (!sha)
        return fail(err, GIMBAL_ENOMEM, "no memory for a hash");
    sha256_add(sha, g->context, (size_t)g->batch * TOKENS * (size_t)g->context_width * sizeof *g->context);
    sha256_end(sha, p->split.memo_key.text);
    return GIMBAL_OK;
}

Denoise plans_denoise(Plans *p)
{
    return p->engine->residual ? split_denoise(&p->split) : guide_denoise(&p->guide);
}

double plans_flops(const Plans *p, const Run *run)
{
    double sum = 0;
    for (int i = 0; i < COUNT(run->calls_of); i++)
        if (p->guide.plan[i])
            sum += (double)run->calls_of[i] * p->groups * plan_flops(p->guide.plan[i]);
    for (int i = 0; i < COUNT(run->base_of); i++)
        if (p->base.plan[i])
            sum += run->base_of[i] * plan_flops(p->base.plan[i]);
    return sum;
}
