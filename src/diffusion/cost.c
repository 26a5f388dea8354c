/* cost.c: gimbal_predict: what a run will take, known before it starts.
 *
 * The networks are planned (no tensor is allocated) and a few of their own operators are timed for about a
 * second, with the real weights. Then
 *
 *     seconds = first calls + texts * encoder + calls * U-Net + chunks * VAE
 *     memory  = work + packs + arrays + kernels' code + what is there already
 *
 * Knows plans and the re-initialiser's count of passes. Refuses to know what the passes do. */
#include "diffusion/engine.h"

#include <malloc.h>
#include <string.h>

/* Seconds of timing for each network: the U-Net is nearly all of a run. */
static const double text_budget = 0.1, unet_budget = 0.9, vae_budget = 0.4;

/* What the first call of each kernel adds: code is compiled, weights are packed (bytes a second). */
static const double compile_seconds = 0.05, pack_rate = 1e9;

/* A trial repeats one call, whose data stay in the cache, and takes the best of a few; in a run each call
 * finds what the one before it left. Ratios of 1.08 to 1.43 were measured over nine runs of both bundled
 * models. */
static const double in_a_run = 1.2;

static int decode_calls(const Plans *p, const Run *run)
{
    return (run->whole.f + p->decode.f - 1) / p->decode.f;
}

/* Only for a clip, picture or reference to begin from, which counts as encoded here. */
static int encode_calls(const Plans *p, const Run *run)
{
    return (run_pictures(run) + p->encode.f - 1) / p->encode.f;
}

static uint64_t mapped_bytes(const gimbal_engine *e)
{
    uint64_t sum = 0;
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        sum += e->part[kind].weights ? weights_bytes(e->part[kind].weights) : 0;
    return e->load ? 0 : sum; /* what was read into memory is there already and counted as such */
}

static double decode_flops(const Plans *p)
{
    return p->vae ? plan_flops(p->vae) : tiles_flops(p->tiles);
}

/* Of the prompts' keys and values, once. */
static double keys_flops(const Plans *p)
{
    return (p->guide.text ? plan_flops(p->guide.text) : 0) + (p->base.text ? plan_flops(p->base.text) : 0);
}

/* Network calls against plain sampling with the same steps, chunks and guidance: a branch of a call is the
 * unit, so that a call without guidance is half of one with it. */
static double relative(const Run *run)
{
    const int plain = run->s.cfg_image > 1 ? 3 : branches(run->s.cfg);
    double sum = 0;
    for (int i = 0; i < COUNT(run->calls_of); i++)
        sum += (double)(i + 1) * run->calls_of[i];
    return sum / ((double)plain * run->s.steps * run->s.chunks);
}

static void count(Plans *p, const Run *run, gimbal_cost *out)
{
    *out = (gimbal_cost){
        .work_bytes = plans_work_bytes(p),
        .pack_bytes = plans_pack_bytes(p),
        .host_bytes = p->host_bytes,
        .mapped_bytes = mapped_bytes(p->engine),
        .flops = MIN(run->batch, 2) * plan_flops(p->text) + keys_flops(p) + plans_flops(p, run) +
                 decode_calls(p, run) * decode_flops(p) +
                 (p->encoder ? encode_calls(p, run) * plan_flops(p->encoder) : 0),
        .relative = relative(run),
        .passes = run->passes,
        .calls = run->calls,
    };
    const uint64_t have = memory_available(), now = anon_bytes_now(), stacks = stack_bytes(run->s.threads);
    out->anon_bytes = out->work_bytes + out->pack_bytes + out->host_bytes + now + plans_beside_bytes(p);
    out->limit_bytes = have < UINT64_MAX - now ? have + now - MIN(have + now, stacks) : UINT64_MAX;
}

/* The better of two short trials: another process may have had the CPU during one. */
static double trial(Plans *p, Plan *plan, double budget)
{
    const double first = plan_seconds(&p->cx, plan, budget / 2),
                 second = plan_seconds(&p->cx, plan, budget / 2);
    return MIN(first, second);
}

/* Seconds of a network's calls: calls_of[most] of one branch, of two, ..., `times` each; and of its keys. */
static double guide_seconds(Plans *p, const Guide *g, const int *calls_of, int most, int times)
{
    double sum = g->text ? trial(p, g->text, text_budget) : 0;
    for (int i = 0; i < most; i++)
        if (g->plan[i])
            sum += (double)calls_of[i] * times * trial(p, g->plan[i], unet_budget);
    return in_a_run * sum;
}

static int timings(Plans *p, const Run *run, double *seconds, gimbal_error *err)
{
    *seconds = compile_seconds + (double)plans_pack_bytes(p) / pack_rate;
    *seconds += in_a_run * MIN(run->batch, 2) * trial(p, p->text, text_budget);
    p->cx.bf16 = !strcmp(run->s.dtype, "bf16");
    const double unet = guide_seconds(p, &p->guide, run->calls_of, COUNT(run->calls_of), p->groups) +
                        guide_seconds(p, &p->base, run->base_of, COUNT(run->base_of), 1);
    p->cx.bf16 = false;
    *seconds += unet;
    if (p->vae)
        *seconds += in_a_run * decode_calls(p, run) * trial(p, p->vae, vae_budget);
    else /* many short plans: at the U-Net's rate */
        *seconds += decode_calls(p, run) * decode_flops(p) * unet / plans_flops(p, run);
    if (p->encoder)
        *seconds += in_a_run * encode_calls(p, run) * trial(p, p->encoder, vae_budget);
    return cx_failed(&p->cx) ? pass_on(&p->err, err) : GIMBAL_OK;
}

int gimbal_predict(gimbal_engine *e, const gimbal_settings *settings, gimbal_cost *out, gimbal_error *err)
{
    Run run;
    Plans plans;
    TRY(engine_can_sample(e, err));
    TRY(run_resolve(&run, e, settings, err));
    int code = plans_make(&plans, e, &run, err);
    if (!code) {
        count(&plans, &run, out);
        code = timings(&plans, &run, &out->seconds, err);
        plans_free(&plans);
        malloc_trim(0); /* the trials' buffers, or they would stand beside the run's */
    }
    run_free(&run);
    return code;
}
