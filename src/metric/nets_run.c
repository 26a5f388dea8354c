/* nets_run.c: pictures, texts and clips through the networks of metrics.
 *
 * Vision transformers run planned, a plan for each batch size and picture size as it comes; the others
 * eagerly. RAFT's pictures are padded as VBench pads them: each side to a multiple of 8, the rest split, the
 * smaller half first, borders repeated; 2x/255 - 1.
 *
 * Knows calls. Refuses to know metrics, and how networks came to be (nets.c). */
#include "metric/nets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RAFT_UPDATES = 20 };

static int pass_on(const Nets *n, gimbal_error *err)
{
    const int code = n->err.code ? n->err.code : GIMBAL_EVALUE;
    return fail_hint(err, code, n->err.hint, "%s", n->err.msg);
}

static void clear(Nets *n)
{
    n->err = (gimbal_error){0};
    cx_reset(&n->cx);
}

/* ---- features of pictures ---------------------------------------------------------------- */

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Memory for the present plan. */
static int take_work(Nets *n, gimbal_error *err)
{
    const size_t need = plan_bytes(n->plan);
    if (need > n->cx.work_bytes && need > memory_available())
        return fail(err, GIMBAL_ENOMEM,
                    "%d pictures of %dx%d through a network need %.0f MiB, %.0f are available", n->n, n->pw,
                    n->ph, mib(need), mib(memory_available()));
    return cx_work(&n->cx, need, err);
}

static int plan_features(Nets *n, NetKind kind, int count, int pw, int ph, gimbal_error *err)
{
    TRY(vit_place(n->vit[kind], ph, pw, err));
    if (n->plan && n->planned == kind && n->n == count && n->pw == pw && n->ph == ph)
        return GIMBAL_OK;
    plan_free(n->plan);
    n->planned = kind, n->n = count, n->pw = pw, n->ph = ph;
    Tensor *in = tensor_input(&n->cx, F32, 4, (int64_t[]){count, ph, pw, 3}, NULL);
    n->plan = plan_make(&n->cx, vit_forward, n->vit[kind], &in);
    return n->plan ? take_work(n, err) : pass_on(n, err);
}

int nets_features(Nets *n, NetKind kind, const float *pictures, int count, int pw, int ph, float *features,
                  gimbal_error *err)
{
    clear(n);
    if (kind >= VITS || !n->vit[kind] || count < 1 || count > NET_BATCH)
        return fail(err, GIMBAL_EUSAGE, "%d pictures for network %d, expected 1 to %d and one that is open",
                    count, (int)kind, NET_BATCH);
    TRY(plan_features(n, kind, count, pw, ph, err));
    Tensor *in = tensor_input(&n->cx, F32, 4, (int64_t[]){count, ph, pw, 3}, pictures);
    const Tensor *y = plan_run(&n->cx, n->plan, vit_forward, n->vit[kind], &in);
    if (!y)
        return pass_on(n, err);
    memcpy(features, y->d, sizeof *features * (size_t)tensor_count(y));
    return GIMBAL_OK;
}

/* ---- features of texts ------------------------------------------------------------------- */

int nets_text(Nets *n, const char *prompt, float *feature, gimbal_error *err)
{
    const int room = clip_positions(n->text.clip);
    int dropped;
    clear(n);
    int32_t *ids = alloc_array((size_t)room, sizeof *ids);
    if (!ids)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d tokens", room);
    int code = tokenize(n->text.tokenizer, prompt ? prompt : "", ids, room, &dropped, err);
    if (!code) {
        Tensor *in = tensor_input(&n->cx, I32, 1, (int64_t[]){room}, ids);
        Tensor *h = clip_forward(&n->cx, n->text.clip, &in);
        const Tensor *y = op_linear(&n->cx, h, &n->text.projection[0], (Epi){.bias = NULL});
        int end = 0; /* the first of the largest id: the end of the text */
        for (int i = 1; i < room; i++)
            end = ids[i] > ids[end] ? i : end;
        if (y)
            memcpy(feature, (const float *)y->d + (size_t)end * (size_t)n->text.out,
                   sizeof *feature * (size_t)n->text.out);
        else
            code = pass_on(n, err);
    }
    free(ids); /* of this text */
    return code;
}

/* ---- flow -------------------------------------------------------------------------------- */

int nets_padded(int side)
{
    return (side + RAFT_STEP - 1) / RAFT_STEP * RAFT_STEP;
}

static void padded(const uint8_t *rgb, int w, int h, float *out)
{
    const int W = nets_padded(w), H = nets_padded(h), left = (W - w) / 2, top = (H - h) / 2;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            const int sy = MIN(MAX(y - top, 0), h - 1), sx = MIN(MAX(x - left, 0), w - 1);
            const uint8_t *p = rgb + 3 * ((size_t)sy * (size_t)w + (size_t)sx);
            for (int c = 0; c < 3; c++)
                *out++ = 2 * (p[c] / 255.0f) - 1;
        }
}

int nets_flow(Nets *n, const uint8_t *a, const uint8_t *b, int w, int h, float *out, gimbal_error *err)
{
    const int W = nets_padded(w), H = nets_padded(h);
    const size_t count = 3 * (size_t)W * (size_t)H;
    clear(n);
    float *pictures = alloc_array(count, 2 * sizeof *pictures);
    if (!pictures)
        return fail(err, GIMBAL_ENOMEM, "no memory for two pictures of %dx%d", W, H);
    padded(a, w, h, pictures);
    padded(b, w, h, pictures + count);
    const int code = raft_flow(n->raft, &n->cx, pictures, pictures + count, H, W, RAFT_UPDATES, out);
    free(pictures); /* of this pair */
    return code ? pass_on(n, err) : GIMBAL_OK;
}

/* ---- clips ------------------------------------------------------------------------------- */

static int resized_clip(const uint8_t *rgb, int frames, int w, int h, float *out, gimbal_error *err)
{
    const size_t from = 3 * (size_t)w * (size_t)h, to = 3 * (size_t)I3D_SIDE * I3D_SIDE;
    for (int f = 0; f < frames; f++)
        TRY(prep_picture(PREP_I3D, rgb + (size_t)f * from, w, h, false, false, out + (size_t)f * to, err));
    return GIMBAL_OK;
}

int nets_logits(Nets *n, const uint8_t *rgb, int frames, int w, int h, float *logits, gimbal_error *err)
{
    clear(n);
    if (frames < I3D_LEAST || w < 1 || h < 1)
        return fail(err, GIMBAL_EUSAGE, "I3D takes clips of %d frames or more, found %d of %dx%d", I3D_LEAST,
                    frames, w, h);
    float *clip = alloc_array((size_t)frames, 3 * I3D_SIDE * I3D_SIDE * sizeof *clip);
    if (!clip)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d frames of %dx%d", frames, I3D_SIDE, I3D_SIDE);
    int code = resized_clip(rgb, frames, w, h, clip, err);
    if (!code && i3d_logits(n->i3d, &n->cx, clip, frames, logits))
        code = pass_on(n, err);
    free(clip); /* resized for this call */
    return code;
}
