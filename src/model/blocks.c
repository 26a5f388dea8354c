/* blocks.c: what every U-Net and VAE is made of: ResNet block, temporal convolution, attention, transformer
 * over space or over time.
 *
 *     resnet       y = conv2(silu(norm2(conv1(silu(norm1(x))) + time))) + shortcut(x)
 *     temporal     h = x;  four times:  h = conv(silu(norm(h)));  y = h + x
 *     attention    y = to_out(softmax(q k' / sqrt(d)) v) + x
 *     transformer  h = proj_in(norm(x));  per layer:  h += attn1(norm1(h));  h += attn2(norm2(h));  h +=
 * ff(norm3(h)); y = proj_out(h) + x
 *
 * Over space attn1 looks at the frame's own pixels and attn2 at the text. Over time both look at the same
 * pixel in all frames of the clip; in motion modules the sinusoid pe[p,2m] = sin(p w), pe[p,2m+1] = cos(p w),
 * w = 10000^(-2m/C), is added to what they read (never to what the feed-forward reads). Everything stays
 * [B*F,H,W,C]: attention over time works across rows.
 *
 * In ConsistI2V (Ren et al. 2024, section 3.2) attn1 looks at frame 0 of the clip beside, over space at all
 * of it, over time at the pixel's neighbours; over time attn2 looks at the text, and the whole transformer is
 * blended with its input, y = a x + (1 - a) transformer(x). Positions turn queries and keys (not the text's).
 * Frame 0 stands at position 0, so that what is seen of it are rows of the keys that are there already.
 *
 * Knows ops and its own parameters. Refuses to know which network it stands in. */
#include "model/model.h"

#include <math.h>

/* Of the GroupNorm in front of a transformer, of its LayerNorms and of temporal convolutions; no config
 * changes them. */
static const float transformer_group_eps = 1e-6f, layer_norm_eps = 1e-5f, temporal_eps = 1e-5f;

typedef struct TransformerBlock {
    Attention attn1, attn2;
    Weight norm1[2], norm2[2], norm3[2], up[2], down[2], pe, turn1, turn2; /* turn: rotary, of attn1 and 2 */
} TransformerBlock;

Tensor *tap(Cx *cx, Tensor *output, const char *fmt, ...)
{
    if (!cx->tap || !output)
        return output;
    char module[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(module, sizeof module, fmt, args);
    va_end(args);
    cx->tap(cx->tap_user, module, output);
    return output;
}

/* ---- ResNet block ------------------------------------------------------------------------ */

void resnet_params(Params *p, Resnet *r)
{
    pv_norm(p, "norm1", r->norm1, r->in);
    pv_conv(p, "conv1", r->conv1, r->in, r->out, 3);
    if (r->time_width)
        pv_linear(p, "time_emb_proj", r->time, r->time_width, r->out, true);
    pv_norm(p, "norm2", r->norm2, r->out);
    pv_conv(p, "conv2", r->conv2, r->out, r->out, 3);
    if (r->in != r->out)
        pv_conv(p, "conv_shortcut", r->shortcut, r->in, r->out, 1);
}

Tensor *resnet_forward(Cx *cx, Resnet *r, Tensor *x, Tensor *time)
{
    static const int pad[4] = {1, 1, 1, 1};
    if (!x || (r->time_width && !time))
        return NULL;
    const NormArg norm = {.groups = r->groups, .per = 1, .eps = r->eps, .act = ACT_SILU};
    Epi first = {.bias = &r->conv1[1]}, second = {.bias = &r->conv2[1], .add = x};
    if (r->time_width) {
        first.row = op_linear(cx, time, &r->time[0], (Epi){.bias = &r->time[1]});
        first.row_per = x->n[0] / time->n[0] * x->n[1] * x->n[2];
        if (!first.row)
            return NULL;
    }
    Tensor *h = op_norm(cx, x, &r->norm1[0], &r->norm1[1], norm);
    h = op_conv2d(cx, h, &r->conv1[0], 1, pad, first);
    h = op_norm(cx, h, &r->norm2[0], &r->norm2[1], norm);
    if (r->in != r->out)
        second.add = op_linear(cx, x, &r->shortcut[0], (Epi){.bias = &r->shortcut[1]});
    return second.add ? op_conv2d(cx, h, &r->conv2[0], 1, pad, second) : NULL;
}

/* ---- temporal convolution ---------------------------------------------------------------- */

/* Places in the lists of layers that the names count; later stages have a dropout between. */
static const char *const stage_conv[] = {"2", "3", "3", "3"};

void temporal_conv_params(Params *p, TemporalConv *t)
{
    for (int i = 0; i < COUNT(t->stage); i++) {
        pv_in(p, "conv%d", i + 1);
        pv_norm(p, "0", t->stage[i].norm, t->channels);
        pv_convt(p, stage_conv[i], t->stage[i].conv, t->channels, t->channels, 3);
        pv_out(p);
    }
}

Tensor *temporal_conv_forward(Cx *cx, TemporalConv *t, Tensor *x, int frames)
{
    const NormArg norm = {.groups = t->groups, .per = frames, .eps = temporal_eps, .act = ACT_SILU};
    const int last = COUNT(t->stage) - 1;
    Tensor *h = x;
    for (int i = 0; i <= last; i++) {
        Weight *scale = t->stage[i].norm, *conv = t->stage[i].conv;
        h = op_norm(cx, h, &scale[0], &scale[1], norm);
        h = op_convt(cx, h, &conv[0], frames, (Epi){.bias = &conv[1], .add = i == last ? x : NULL});
    }
    return h;
}

/* ---- attention --------------------------------------------------------------------------- */

void attention_params(Params *p, const char *name, Attention *a)
{
    pv_in(p, "%s", name);
    pv_linear(p, "to_q", a->q, a->width, a->inner, a->qkv_bias);
    pv_linear(p, "to_k", a->k, a->context, a->inner, a->qkv_bias);
    pv_linear(p, "to_v", a->v, a->context, a->inner, a->qkv_bias);
    pv_linear(p, "to_out.0", a->out, a->inner, a->width, true);
    pv_out(p);
}

static Tensor *project(Cx *cx, const Attention *a, Tensor *x, Weight w[2])
{
    return op_linear(cx, x, &w[0], (Epi){.bias = a->qkv_bias ? &w[1] : NULL});
}

/* The frames of one clip, for each of `clips`; those of all of them as they are. */
static Tensor *for_clips(Cx *cx, Tensor *x, int64_t clips, int frames)
{
    return x ? op_repeat(cx, x, MAX(clips * frames / x->n[0], 1)) : NULL;
}

/* Queries know nothing of the text: they are there before the frames are repeated for it. */
static Tensor *attend(Cx *cx, Attention *a, Tensor *q, const Kv *kv, int n_kv, Tensor *add, AttnArg arg)
{
    arg.heads = a->heads;
    if (kv->map == KV_CLIP && kv->k) {
        q = for_clips(cx, q, kv->k->n[0], arg.frames);
        add = for_clips(cx, add, kv->k->n[0], arg.frames);
    }
    Tensor *y = op_attention(cx, q, kv, n_kv, arg);
    return op_linear(cx, y, &a->out[0], (Epi){.bias = &a->out[1], .add = add});
}

Tensor *attention_forward(Cx *cx, Attention *a, Tensor *x, Tensor *context, Tensor *add, AttnArg arg)
{
    Tensor *source = context ? context : x, *q = project(cx, a, x, a->q);
    const Kv kv = {.k = project(cx, a, source, a->k),
                   .v = project(cx, a, source, a->v),
                   .map = context ? KV_CLIP : KV_SELF};
    return attend(cx, a, q, &kv, 1, add, arg);
}

/* ---- transformer ------------------------------------------------------------------------- */

/* w = 10000^(-m/period); the angle is rounded to float32 as in the tables that adapter files carry. */
void position_table(float *table, int length, int width, int period)
{
    for (int m = 0; m < width; m += 2) {
        const float w = (float)exp(m * -log(10000.0) / period);
        for (int p = 0; p < length; p++) {
            const float angle = (float)p * w;
            table[(size_t)p * width + m] = (float)sin(angle);
            if (m + 1 < width)
                table[(size_t)p * width + m + 1] = (float)cos(angle);
        }
    }
}

static Weight *computed_table(Arena *keep, int length, int width, int period)
{
    Weight *w = arena_alloc(keep, sizeof *w);
    float *table = arena_alloc(keep, sizeof(float) * (size_t)length * (size_t)width);
    if (!w || !table)
        return NULL;
    position_table(table, length, width, period);
    *w = (Weight){
        .name = "pos_embed.pe", .kind = W_TABLE, .type = F32, .nd = 3, .n = {1, length, width}, .own = table};
    return w;
}

int transformer_init(Transformer *t, Arena *keep, int channels, int inner, int heads, int context, int groups,
                     int layers, bool temporal, bool linear_proj, int max_frames, gimbal_error *err)
{
    *t = (Transformer){.channels = channels,
                       .inner = inner,
                       .groups = groups,
                       .layers = layers,
                       .temporal = temporal,
                       .linear_proj = linear_proj,
                       .max_frames = max_frames};
    t->blocks = arena_alloc(keep, sizeof *t->blocks * (size_t)layers);
    if (max_frames)
        t->table = computed_table(keep, max_frames, inner, inner);
    if (!t->blocks || (max_frames && !t->table))
        return fail(err, GIMBAL_ENOMEM, "no memory for a transformer of %d layers, %d channels", layers,
                    inner);
    for (int i = 0; i < layers; i++) {
        const Attention self = {.width = inner, .inner = inner, .context = inner, .heads = heads};
        t->blocks[i].attn1 = t->blocks[i].attn2 = self;
        if (context)
            t->blocks[i].attn2.context = context;
    }
    return GIMBAL_OK;
}

int transformer_blend(Transformer *t, Arena *keep, bool window, bool rotary, gimbal_error *err)
{
    enum { POSITIONS = 256 };
    t->blended = true, t->window = window, t->rotary = rotary;
    if (rotary)
        return GIMBAL_OK;
    t->max_frames = POSITIONS;
    t->table = computed_table(keep, POSITIONS, t->inner, 2 * t->inner);
    return t->table ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for %d positions", POSITIONS);
}

static void turn_params(Params *p, const Transformer *t, const char *attention, Weight *turn)
{
    if (!t->rotary)
        return;
    pv_in(p, "%s", attention);
    pv_leaf(p, "rotary_emb.freqs", turn, W_ROTARY, 1, (int64_t[]){t->inner / 4});
    pv_out(p);
}

static void block_params(Params *p, const Transformer *t, TransformerBlock *b)
{
    const int64_t table[3] = {1, t->max_frames, t->inner};
    pv_norm(p, "norm1", b->norm1, t->inner);
    attention_params(p, "attn1", &b->attn1);
    turn_params(p, t, "attn1", &b->turn1);
    pv_norm(p, "norm2", b->norm2, t->inner);
    attention_params(p, "attn2", &b->attn2);
    turn_params(p, t, "attn2", &b->turn2);
    pv_norm(p, "norm3", b->norm3, t->inner);
    pv_linear(p, "ff.net.0.proj", b->up, t->inner, 8 * t->inner, true);
    pv_linear(p, "ff.net.2", b->down, 4 * t->inner, t->inner, true);
    if (t->max_frames && !t->blended)
        pv_leaf(p, "pos_embed.pe", &b->pe, W_TABLE, 3, table);
}

void transformer_params(Params *p, Transformer *t)
{
    if (t->blended)
        pv_leaf(p, "alpha", &t->alpha, W_BLEND, 1, (int64_t[]){1});
    pv_norm(p, "norm", t->norm, t->channels);
    if (t->linear_proj)
        pv_linear(p, "proj_in", t->proj_in, t->channels, t->inner, true);
    else
        pv_conv(p, "proj_in", t->proj_in, t->channels, t->inner, 1);
    for (int i = 0; i < t->layers; i++) {
        pv_in(p, "transformer_blocks.%d", i);
        block_params(p, t, &t->blocks[i]);
        pv_out(p);
    }
    if (t->linear_proj)
        pv_linear(p, "proj_out", t->proj_out, t->inner, t->channels, true);
    else
        pv_conv(p, "proj_out", t->proj_out, t->inner, t->channels, 1);
}

static Tensor *layer_norm(Cx *cx, Tensor *h, Weight w[2])
{
    return op_norm(cx, h, &w[0], &w[1], (NormArg){.groups = 0, .per = 1, .eps = layer_norm_eps});
}

/* Queries or keys of x, at their frames' positions. */
static Tensor *placed(Cx *cx, const Transformer *t, Tensor *x, Weight *turn, int frames)
{
    return t->rotary ? op_rotate(cx, x, turn, frames) : x;
}

/* Layer i's first attention: to the frame's own pixels or the pixel's own frames, and to frame 0. */
static Tensor *attend_own(Cx *cx, Transformer *t, int i, Tensor *x, Tensor *add, AttnArg arg)
{
    TransformerBlock *b = &t->blocks[i];
    Attention *a = &b->attn1;
    Tensor *q = placed(cx, t, project(cx, a, x, a->q), &b->turn1, arg.frames),
           *k = placed(cx, t, project(cx, a, x, a->k), &b->turn1, arg.frames), *v = project(cx, a, x, a->v);
    const Kv kv[2] = {{k, v, KV_SELF}, {k, v, t->temporal ? KV_WINDOW : KV_FIRST}};
    return attend(cx, a, q, kv, t->window || t->first ? 2 : 1, add, arg);
}

/* Layer i's second attention: to the text, or over time once more to itself. */
static Tensor *attend_again(Cx *cx, Transformer *t, int i, Tensor *x, TextInput text, Tensor *add,
                            AttnArg arg)
{
    TransformerBlock *b = &t->blocks[i];
    Attention *a = &b->attn2;
    if (!text.of)
        return attention_forward(cx, a, x, NULL, add, arg);
    arg.in_time = false; /* the same text for all frames */
    const int64_t at = t->text_at + 2 * (int64_t)t->inner * i;
    Tensor *q = placed(cx, t, project(cx, a, x, a->q), &b->turn2, arg.frames);
    Kv kv = {.map = KV_CLIP};
    kv.k = text.keyed ? op_channels(cx, text.of, at, t->inner) : project(cx, a, text.of, a->k);
    kv.v = text.keyed ? op_channels(cx, text.of, at + t->inner, t->inner) : project(cx, a, text.of, a->v);
    return attend(cx, a, q, &kv, 1, add, arg);
}

/* h [B*F,S,inner] -> the same, or of one clip [F,S,inner] -> of all texts. width: positions of a line. */
static Tensor *block_forward(Cx *cx, Transformer *t, int i, Tensor *h, TextInput text, int frames, int width)
{
    TransformerBlock *b = &t->blocks[i];
    const AttnArg arg = {.frames = frames, .in_time = t->temporal, .width = t->window ? width : 0};
    const int64_t positions = h->n[1];
    Tensor *place = NULL;
    if (t->max_frames) {
        place = op_embed(cx, weight_given(&b->pe) ? &b->pe : t->table, NULL, frames);
        if (!place)
            return NULL;
    }
    Tensor *n = layer_norm(cx, h, b->norm1);
    if (place)
        n = op_rows(cx, n, place, positions);
    h = attend_own(cx, t, i, n, h, arg);
    n = layer_norm(cx, h, b->norm2);
    if (place)
        n = op_rows(cx, n, place, positions);
    h = attend_again(cx, t, i, n, text, h, arg);
    n = layer_norm(cx, h, b->norm3);
    n = op_linear(cx, n, &b->up[0], (Epi){.bias = &b->up[1], .act = ACT_GEGLU});
    return op_linear(cx, n, &b->down[0], (Epi){.bias = &b->down[1], .add = h});
}

Tensor *transformer_keys(Cx *cx, Transformer *t, int i, Tensor *context)
{
    Attention *a = &t->blocks[i].attn2;
    Tensor *k = project(cx, a, context, a->k);
    return op_concat(cx, k, project(cx, a, context, a->v));
}

Tensor *transformer_forward(Cx *cx, Transformer *t, Tensor *x, TextInput text, int frames, int norm_per)
{
    if (!x || (!t->temporal && !text.of))
        return NULL;
    if (t->max_frames && frames > t->max_frames)
        return cx_fail(cx, GIMBAL_EMODEL, "%d frames, but the motion modules know %d positions", frames,
                       t->max_frames);
    const int64_t tokens[3] = {x->n[0], x->n[1] * x->n[2], t->inner};
    const NormArg norm = {.groups = t->groups, .per = norm_per, .eps = transformer_group_eps};
    Tensor *h = op_norm(cx, x, &t->norm[0], &t->norm[1], norm);
    h = op_linear(cx, h, &t->proj_in[0], (Epi){.bias = &t->proj_in[1]});
    h = op_view(cx, h, 3, tokens);
    for (int i = 0; i < t->layers && h; i++)
        h = block_forward(cx, t, i, h, text, frames, (int)x->n[2]);
    if (!h)
        return NULL;
    if (text.of)
        x = for_clips(cx, x, text.of->n[0], frames);
    if (!x)
        return NULL;
    h = op_view(cx, h, 4, (int64_t[]){h->n[0], x->n[1], x->n[2], t->inner});
    h = op_linear(cx, h, &t->proj_out[0], (Epi){.bias = &t->proj_out[1], .add = x});
    return t->blended ? op_blend(cx, x, h, &t->alpha) : h;
}
