/* unet.c: the denoising network: an image U-Net (Rombach et al. 2022) with motion modules (Guo et al. 2024)
 * after its sites, or with layers over time inside them (Wang et al. 2023).
 *
 *     x [B*F,h,w,in], timestep, text  ->  prediction [B*F,h,w,out]
 *
 * A site is resnet -> [temporal convolution] -> [attention over space and text] -> [attention over time] ->
 * [motion module]. Networks that begin from a picture (Ren et al. 2024) find its latent in frame 0 of x; what
 * they predict for it means nothing. Where they say so every block sets frame 0 anew from it. Going down
 * every site's output and every downsampled tensor is kept as a skip; going up each site reads [current,
 * skip]. Sizes that do not halve evenly work: downsampling rounds up, and an upsampler goes to the size of
 * the next skip. All widths of the up path follow from playing the stack of skips through.
 *
 * With guidance one clip is asked about under several texts. Its frames are computed once up to the first
 * layer that reads the text, inside the first transformer over space, and the text's keys and values once per
 * run (unet_text): the same sums, made less often.
 *
 * VideoFusion's residual network (Luo et al. 2023) is an image U-Net that is told each frame's number: its
 * embedding joins the timestep's, so that every frame has a row of its own.
 *
 * Knows blocks and the numbers in UnetShape. Refuses to know configs, files, guidance and samplers. */
#include "model/model.h"

#include <math.h>

enum {
    MAX_SITES = MAX_LAYERS + 1, /* of one level: the up path has one more than the down path */
    MAX_SKIPS = 1 + MAX_LEVELS * (MAX_LAYERS + 1),               /* conv_in, all sites, all downsamplers */
    MAX_TABLE = 1 << 22,                                         /* values of one position table */
    MAX_TEXTS = 2 * (1 + MAX_LEVELS * (MAX_LAYERS + MAX_SITES)), /* transformers that read the text */
};
static const int pad1[4] = {1, 1, 1, 1};

typedef struct {
    Resnet resnet;
    TemporalConv *conv; /* NULL, as those below: none here */
    BlendedConv *blended;
    Transformer *attn, *time, *motion; /* over space; over time: the network's own, a motion adapter's */
} Site;

typedef struct {
    int sites;
    Site *site;
    bool resample;            /* a down- or upsampler follows */
    Weight conv[2], given[2]; /* given: of the picture's latent at the entry, `reads` channels */
    int width, reads;
} Level;

struct Unet {
    UnetShape shape;
    Weight conv_in[2], time1[2], time2[2], norm_out[2], conv_out[2];
    Weight second1[2], second2[2]; /* embedding of the frame stride, or of the frame's number */
    Weight mid_given[2];
    Transformer *entry; /* over time, behind conv_in; or NULL */
    Level down[MAX_LEVELS], up[MAX_LEVELS];
    Site mid[2];                  /* the second has no transformers */
    Transformer *text[MAX_TEXTS]; /* in the order in which they read the text */
    int texts, text_width;
};

const UnetShape *unet_shape(const Unet *u)
{
    return &u->shape;
}

/* ---- checks ------------------------------------------------------------------------------ */

/* Does any transformer over space stand on level i? */
static bool attends(const UnetShape *s, int i)
{
    return s->down_attn[i] || s->up_attn[s->levels - 1 - i] || (s->mid_attn && i == s->levels - 1);
}

static int heads_at(const UnetShape *s, int i)
{
    return s->head_width ? s->width[i] / s->head_width : s->heads[i];
}

/* Channels inside the attention of level i: fewer than outside when heads of a given width do not fill them.
 */
static int inner_at(const UnetShape *s, int i)
{
    return s->head_width ? heads_at(s, i) * s->head_width : s->width[i];
}

static int check_heads(const UnetShape *s, int i, const char *where, gimbal_error *err)
{
    const int w = s->width[i];
    if (s->head_width && w < s->head_width)
        return fail(
            err, GIMBAL_EMODEL,
            "%s: \"attention_head_dim\" (the width of a head) is %d, more than the %d channels of level %d",
            where, s->head_width, w, i);
    if (!s->head_width && (s->heads[i] < 1 || w % s->heads[i]))
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"attention_head_dim\" (the number of heads) of level %d is %d, expected a divisor "
                    "of its %d channels",
                    where, i, s->heads[i], w);
    return GIMBAL_OK;
}

static int check_level(const UnetShape *s, int i, const char *where, gimbal_error *err)
{
    const int w = s->width[i];
    if (w < 1 || w % s->groups)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"block_out_channels\"[%d] is %d, expected a multiple of \"norm_num_groups\", %d",
                    where, i, w, s->groups);
    if (s->layers[i] < 1 || s->layers[i] > MAX_LAYERS)
        return fail(err, GIMBAL_EMODEL, "%s: \"layers_per_block\" of level %d is %d, expected 1 to %d", where,
                    i, s->layers[i], MAX_LAYERS);
    if (!attends(s, i))
        return GIMBAL_OK;
    TRY(check_heads(s, i, where, err));
    if (s->depth[i] < 1)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"transformer_layers_per_block\" of level %d is %d, expected at least 1", where, i,
                    s->depth[i]);
    return GIMBAL_OK;
}

/* Of temporal layers that are blended with their input. */
static int check_blended(const UnetShape *s, int i, const char *where, gimbal_error *err)
{
    const int w = s->width[i];
    if (w % BLENDED_GROUPS)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"block_out_channels\"[%d] is %d, expected a multiple of %d, the groups of temporal "
                    "convolutions",
                    where, i, w, BLENDED_GROUPS);
    if (s->blend_heads < 1 || w % s->blend_heads)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"n_temp_heads\" is %d, expected a divisor of the %d channels of level %d", where,
                    s->blend_heads, w, i);
    return GIMBAL_OK;
}

static int check_motion(const UnetShape *s, int i, const char *where, gimbal_error *err)
{
    const int w = s->width[i], heads = s->motion_heads[i];
    const bool mid = s->motion_mid && i == s->levels - 1;
    if (!heads && !mid)
        return GIMBAL_OK;
    if (heads < 1 || w % heads)
        return fail(
            err, GIMBAL_EMODEL,
            "%s: \"motion_num_attention_heads\" of level %d is %d, expected a divisor of its %d channels",
            where, i, heads, w);
    if (s->motion_depth[i] < 1 || (mid && s->motion_mid_depth < 1))
        return fail(err, GIMBAL_EMODEL, "%s: a motion module of level %d has no transformer layers", where,
                    i);
    if (w % 2)
        return fail(err, GIMBAL_EMODEL,
                    "%s: level %d has %d channels; the positions of motion modules need an even number",
                    where, i, w);
    if (s->max_frames < 1 || s->max_frames > MAX_TABLE / w)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"motion_max_seq_length\" is %d, expected 1 to %d with %d channels", where,
                    s->max_frames, MAX_TABLE / w, w);
    return GIMBAL_OK;
}

int unet_check(const UnetShape *s, const char *where, const char *motion_where, gimbal_error *err)
{
    if (s->levels < 1 || s->levels > MAX_LEVELS)
        return fail(err, GIMBAL_EMODEL, "%s: %d levels, expected 1 to %d", where, s->levels, MAX_LEVELS);
    if (s->in < 1 || s->out < 1 || s->groups < 1 || s->context < 1)
        return fail(err, GIMBAL_EMODEL,
                    "%s: %d input, %d output channels, %d groups, text width %d; all must be positive", where,
                    s->in, s->out, s->groups, s->context);
    if (s->numbered && (s->stride || s->temporal || s->blend_heads))
        return fail(err, GIMBAL_EMODEL,
                    "%s: a network that is told each frame's number has no layers over time of its own",
                    where);
    if (s->width[0] % 2)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"block_out_channels\"[0] is %d; the time embedding needs an even number", where,
                    s->width[0]);
    for (int i = 0; i < s->levels; i++)
        TRY(check_level(s, i, where, err));
    for (int i = 0; i < s->levels && s->blend_heads; i++)
        TRY(check_blended(s, i, where, err));
    for (int i = 0; i < s->levels && s->motion; i++)
        TRY(check_motion(s, i, motion_where, err));
    return GIMBAL_OK;
}

/* ---- building ---------------------------------------------------------------------------- */

typedef struct {
    Unet *unet;
    const UnetShape *s;
    Arena *keep;
    gimbal_error *err;
} Builder;

static Resnet resnet_of(const UnetShape *s, int in, int out)
{
    return (Resnet){.in = in, .out = out, .time_width = 4 * s->width[0], .groups = s->groups, .eps = s->eps};
}

static void *part_alloc(Builder *b, size_t size)
{
    void *part = arena_alloc(b->keep, size);
    if (!part)
        fail(b->err, GIMBAL_ENOMEM, "no memory for the U-Net's blocks");
    return part;
}

/* Its keys of the text follow those of the transformers before it. */
static void reads_text(Builder *b, Transformer *t)
{
    Unet *u = b->unet;
    t->text_at = u->text_width;
    u->text[u->texts++] = t;
    u->text_width += t->layers * 2 * t->inner;
}

static int over_space(Builder *b, Transformer **t, int i)
{
    const UnetShape *s = b->s;
    if (!(*t = part_alloc(b, sizeof **t)))
        return GIMBAL_ENOMEM;
    TRY(transformer_init(*t, b->keep, s->width[i], inner_at(s, i), heads_at(s, i), s->context, s->groups,
                         s->depth[i], false, s->linear_proj, 0, b->err));
    (*t)->first = s->given_space;
    reads_text(b, *t);
    return GIMBAL_OK;
}

static int over_time(Builder *b, Transformer **t, int channels, int inner, int heads, int depth,
                     int positions)
{
    if (!(*t = part_alloc(b, sizeof **t)))
        return GIMBAL_ENOMEM;
    return transformer_init(*t, b->keep, channels, inner, heads, 0, b->s->groups, depth, true, true,
                            positions, b->err);
}

/* Over time and the text, blended with its input. */
static int over_time_and_text(Builder *b, Transformer **t, int i)
{
    const UnetShape *s = b->s;
    const int w = s->width[i];
    if (!(*t = part_alloc(b, sizeof **t)))
        return GIMBAL_ENOMEM;
    TRY(transformer_init(*t, b->keep, w, w, s->blend_heads, s->context, s->groups, 1, true, s->linear_proj, 0,
                         b->err));
    TRY(transformer_blend(*t, b->keep, s->window, s->rotary, b->err));
    reads_text(b, *t);
    return GIMBAL_OK;
}

/* The two temporal convolutions that there are, where the network has them. */
static int build_conv(Builder *b, Site *site, int i)
{
    const UnetShape *s = b->s;
    const int w = s->width[i];
    if (s->temporal) {
        if (!(site->conv = part_alloc(b, sizeof *site->conv)))
            return GIMBAL_ENOMEM;
        *site->conv = (TemporalConv){.channels = w, .groups = s->groups};
    }
    if (s->blend_heads) {
        if (!(site->blended = part_alloc(b, sizeof *site->blended)))
            return GIMBAL_ENOMEM;
        *site->blended = (BlendedConv){.channels = w};
    }
    return GIMBAL_OK;
}

/* What follows a site's resnet; level i in the order of the down path. */
static int build_site(Builder *b, Site *site, int i, bool attn, bool motion, int motion_depth)
{
    const UnetShape *s = b->s;
    const int w = s->width[i];
    TRY(build_conv(b, site, i));
    if (attn)
        TRY(over_space(b, &site->attn, i));
    if (attn && s->temporal)
        TRY(over_time(b, &site->time, w, inner_at(s, i), heads_at(s, i), s->depth[i], 0));
    if (attn && s->blend_heads && site != &b->unet->mid[0]) /* the mid block has none */
        TRY(over_time_and_text(b, &site->time, i));
    if (motion)
        TRY(over_time(b, &site->motion, w, w, s->motion_heads[i], motion_depth, s->max_frames));
    return GIMBAL_OK;
}

/* in[j]: channels that site j reads; reads: of them, those that come from the level before. */
static int build_level(Builder *b, Level *level, int i, bool attn, int sites, const int *in, int reads,
                       bool resample)
{
    const UnetShape *s = b->s;
    *level = (Level){.sites = sites, .resample = resample, .width = s->width[i], .reads = reads};
    if (!(level->site = part_alloc(b, sizeof *level->site * (size_t)sites)))
        return GIMBAL_ENOMEM;
    for (int j = 0; j < sites; j++) {
        level->site[j].resnet = resnet_of(s, in[j], s->width[i]);
        TRY(build_site(b, &level->site[j], i, attn, s->motion && s->motion_heads[i], s->motion_depth[i]));
    }
    return GIMBAL_OK;
}

static int build_levels(Builder *b, Unet *u)
{
    const UnetShape *s = b->s;
    const int last = s->levels - 1;
    int skip[MAX_SKIPS], n = 0, now = s->width[0], in[MAX_SITES];
    skip[n++] = now;
    if (s->temporal)
        TRY(over_time(b, &u->entry, now, s->entry_heads * s->head_width, s->entry_heads, 1, 0));
    for (int i = 0; i <= last; i++) {
        const int reads = now;
        for (int j = 0; j < s->layers[i]; j++)
            in[j] = now, now = skip[n++] = s->width[i];
        TRY(build_level(b, &u->down[i], i, s->down_attn[i], s->layers[i], in, reads, i < last));
        if (i < last)
            skip[n++] = now;
    }
    u->mid[0].resnet = u->mid[1].resnet = resnet_of(s, now, now);
    TRY(build_site(b, &u->mid[0], last, s->mid_attn, s->motion && s->motion_mid, s->motion_mid_depth));
    TRY(build_site(b, &u->mid[1], last, false, false, 0));
    for (int k = 0; k <= last; k++) {
        const int i = last - k, sites = s->layers[i] + 1, reads = now;
        for (int j = 0; j < sites; j++)
            in[j] = now + skip[--n], now = s->width[i];
        TRY(build_level(b, &u->up[k], i, s->up_attn[k], sites, in, reads, k < last));
    }
    return GIMBAL_OK;
}

int unet_build(Unet **out, Arena *keep, const UnetShape *shape, gimbal_error *err)
{
    *out = NULL;
    TRY(unet_check(shape, "U-Net", "motion adapter", err));
    Unet *u = arena_alloc(keep, sizeof *u);
    if (!u)
        return fail(err, GIMBAL_ENOMEM, "no memory for the U-Net's blocks");
    u->shape = *shape;
    Builder b = {u, &u->shape, keep, err};
    TRY(build_levels(&b, u));
    *out = u;
    return GIMBAL_OK;
}

/* ---- parameters -------------------------------------------------------------------------- */

/* t NULL: nothing there. */
static void named_transformer(Params *p, const char *name, int j, Transformer *t)
{
    if (!t)
        return;
    pv_in(p, "%s.%d", name, j);
    transformer_params(p, t);
    pv_out(p);
}

/* All but the motion module, which lies in another file. */
static void site_params(Params *p, Site *site, int j)
{
    pv_in(p, "resnets.%d", j);
    resnet_params(p, &site->resnet);
    pv_out(p);
    if (site->conv) {
        pv_in(p, "temp_convs.%d", j);
        temporal_conv_params(p, site->conv);
        pv_out(p);
    }
    if (site->blended) {
        pv_in(p, "conv3ds.%d", j);
        blended_conv_params(p, site->blended);
        pv_out(p);
    }
    named_transformer(p, "attentions", j, site->attn);
    named_transformer(p, site->blended ? "tempo_attns" : "temp_attentions", j, site->time);
}

static void given_params(Params *p, const UnetShape *s, Weight conv[2], int reads)
{
    if (s->given_entry)
        pv_conv(p, "first_frame_conv", conv, s->in, reads, 1);
}

static void level_params(Params *p, const UnetShape *s, Level *level, const char *resampler)
{
    given_params(p, s, level->given, level->reads);
    for (int j = 0; j < level->sites; j++)
        site_params(p, &level->site[j], j);
    if (level->resample)
        pv_conv(p, resampler, level->conv, level->width, level->width, 3);
}

void unet_params(void *unet, Params *p)
{
    Unet *u = unet;
    const int base = u->shape.width[0];
    pv_conv(p, "conv_in", u->conv_in, u->shape.in, base, 3);
    pv_linear(p, "time_embedding.linear_1", u->time1, base, 4 * base, true);
    pv_linear(p, "time_embedding.linear_2", u->time2, 4 * base, 4 * base, true);
    if (u->shape.stride || u->shape.numbered) {
        pv_in(p, "%s", u->shape.stride ? "frame_stride_embedding" : "class_embedding");
        pv_linear(p, "linear_1", u->second1, base, 4 * base, true);
        pv_linear(p, "linear_2", u->second2, 4 * base, 4 * base, true);
        pv_out(p);
    }
    if (u->entry) {
        pv_in(p, "transformer_in");
        transformer_params(p, u->entry);
        pv_out(p);
    }
    for (int i = 0; i < u->shape.levels; i++) {
        pv_in(p, "down_blocks.%d", i);
        level_params(p, &u->shape, &u->down[i], "downsamplers.0.conv");
        pv_out(p);
    }
    pv_in(p, "mid_block");
    given_params(p, &u->shape, u->mid_given, u->shape.width[u->shape.levels - 1]);
    site_params(p, &u->mid[0], 0);
    site_params(p, &u->mid[1], 1);
    pv_out(p);
    for (int i = 0; i < u->shape.levels; i++) {
        pv_in(p, "up_blocks.%d", i);
        level_params(p, &u->shape, &u->up[i], "upsamplers.0.conv");
        pv_out(p);
    }
    pv_norm(p, "conv_norm_out", u->norm_out, base);
    pv_conv(p, "conv_out", u->conv_out, base, u->shape.out, 3);
}

static void motion_params(Params *p, Site *site, int sites)
{
    for (int j = 0; j < sites; j++)
        named_transformer(p, "motion_modules", j, site[j].motion);
}

void unet_motion_params(void *unet, Params *p)
{
    Unet *u = unet;
    for (int i = 0; i < u->shape.levels; i++) {
        pv_in(p, "down_blocks.%d", i);
        motion_params(p, u->down[i].site, u->down[i].sites);
        pv_out(p);
    }
    pv_in(p, "mid_block");
    motion_params(p, u->mid, 1);
    pv_out(p);
    for (int i = 0; i < u->shape.levels; i++) {
        pv_in(p, "up_blocks.%d", i);
        motion_params(p, u->up[i].site, u->up[i].sites);
        pv_out(p);
    }
}

/* ---- forward ----------------------------------------------------------------------------- */

void timestep_features(double t, int width, float *out)
{
    const int half = width / 2;
    for (int j = 0; j < half; j++) {
        const double angle = t * exp(-log(10000.0) * j / half);
        out[j] = (float)cos(angle);
        out[half + j] = (float)sin(angle);
    }
}

/* What stays the same through one call. */
typedef struct {
    Cx *cx;
    Graph motion; /* with one GroupNorm statistic per clip, or per frame; NULL: passed by */
    Graph space;  /* on the text, or on keys and values made of it */
    int frames;
    Tensor *given;        /* x, where every block sets frame 0 anew from it; or NULL */
    Tensor *clips, *text; /* one row a clip, or of the one clip that all texts share; [B,L,*] */
    Tensor *time[2];      /* [rows,4*width0] through SiLU, a row for each clip or frame; of all texts */
} Flow;

/* A tensor with one row for each clip of h: of all texts once h has met the first of them. */
static Tensor *clips_of(const Flow *f, const Tensor *h)
{
    return h->n[0] == f->clips->n[0] * f->frames ? f->clips : f->text;
}

/* The embedding that h's resnets read: rows of clips serve however many frames h has, those of frames one. */
static Tensor *time_of(const Flow *f, const Tensor *h)
{
    return f->time[h->n[0] != f->clips->n[0] * f->frames];
}

static int frames_of(Tensor *const *h_and_clips)
{
    return (int)(h_and_clips[0]->n[0] / h_and_clips[1]->n[0]);
}

/* Graphs of the sites' parts, each recomputed by itself in training. Frames per clip follow from the shapes,
 * h and clips_of(h), so that a graph's `self` is the part and nothing that a call must keep alive. */
static Tensor *resnet_graph(Cx *cx, void *resnet, Tensor **in)
{
    return resnet_forward(cx, resnet, in[0], in[1]);
}

/* in: current, time, skip. The concatenation is inside, so that the tape need not keep it. A skip from before
 * the first text serves all of them. */
static Tensor *joined_resnet_graph(Cx *cx, void *resnet, Tensor **in)
{
    Tensor *skip = op_repeat(cx, in[2], in[0]->n[0] / in[2]->n[0]);
    return resnet_forward(cx, resnet, op_concat(cx, in[0], skip), in[1]);
}

/* in: current, clips, text. */
static Tensor *space_graph(Cx *cx, void *transformer, Tensor **in)
{
    return transformer_forward(cx, transformer, in[0], (TextInput){in[2], false}, frames_of(in), 1);
}

static Tensor *space_keyed_graph(Cx *cx, void *transformer, Tensor **in)
{
    return transformer_forward(cx, transformer, in[0], (TextInput){in[2], true}, frames_of(in), 1);
}

static Tensor *conv_graph(Cx *cx, void *conv, Tensor **in)
{
    return temporal_conv_forward(cx, conv, in[0], frames_of(in));
}

static Tensor *blended_conv_graph(Cx *cx, void *conv, Tensor **in)
{
    return blended_conv_forward(cx, conv, in[0], frames_of(in));
}

/* Over time; one GroupNorm statistic per clip. */
static Tensor *time_clip_graph(Cx *cx, void *transformer, Tensor **in)
{
    return transformer_forward(cx, transformer, in[0], (TextInput){0}, frames_of(in), frames_of(in));
}

static Tensor *time_frame_graph(Cx *cx, void *transformer, Tensor **in)
{
    return transformer_forward(cx, transformer, in[0], (TextInput){0}, frames_of(in), 1);
}

/* skip may be NULL. `path` names the level: "down_blocks.0". */
static Tensor *site_forward(const Flow *f, Site *site, Tensor *h, Tensor *skip, const char *path, int j)
{
    if (!h)
        return NULL;
    Tensor *time = time_of(f, h);
    h = skip ? block(f->cx, joined_resnet_graph, &site->resnet, (Tensor *[]){h, time, skip}, 3)
             : block(f->cx, resnet_graph, &site->resnet, (Tensor *[]){h, time}, 2);
    tap(f->cx, h, "%s.resnets.%d", path, j);
    if (site->conv && h)
        h = tap(f->cx, block(f->cx, conv_graph, site->conv, (Tensor *[]){h, clips_of(f, h)}, 2),
                "%s.temp_convs.%d", path, j);
    if (site->blended && h)
        h = tap(f->cx, block(f->cx, blended_conv_graph, site->blended, (Tensor *[]){h, clips_of(f, h)}, 2),
                "%s.conv3ds.%d", path, j);
    if (site->attn && h)
        h = tap(f->cx, block(f->cx, f->space, site->attn, (Tensor *[]){h, clips_of(f, h), f->text}, 3),
                "%s.attentions.%d", path, j);
    if (site->time && site->blended && h)
        h = tap(f->cx, block(f->cx, f->space, site->time, (Tensor *[]){h, clips_of(f, h), f->text}, 3),
                "%s.tempo_attns.%d", path, j);
    else if (site->time && h)
        h = tap(f->cx, block(f->cx, time_clip_graph, site->time, (Tensor *[]){h, clips_of(f, h)}, 2),
                "%s.temp_attentions.%d", path, j);
    if (site->motion && f->motion && h)
        h = tap(f->cx, block(f->cx, f->motion, site->motion, (Tensor *[]){h, clips_of(f, h)}, 2),
                "%s.motion_modules.%d", path, j);
    return h;
}

/* At a block's entry: frame 0 of h becomes a projection of the picture's latent. */
static Tensor *with_given(const Flow *f, Tensor *h, Weight conv[2])
{
    if (!f->given || !h)
        return h;
    Tensor *y = op_resize(f->cx, f->given, h->n[1], h->n[2]);
    y = op_linear(f->cx, y, &conv[0], (Epi){.bias = &conv[1]});
    return y ? op_first(f->cx, h, op_repeat(f->cx, y, h->n[0] / y->n[0]), f->frames) : NULL;
}

/* Appends to skip[*n]; gives the level's last tensor. */
static Tensor *down_forward(const Flow *f, Level *level, Tensor *h, Tensor **skip, int *n, int i)
{
    char path[40];
    snprintf(path, sizeof path, "down_blocks.%d", i);
    h = with_given(f, h, level->given);
    for (int j = 0; j < level->sites; j++)
        h = skip[(*n)++] = site_forward(f, &level->site[j], h, NULL, path, j);
    if (level->resample)
        h = skip[(*n)++] = op_conv2d(f->cx, h, &level->conv[0], 2, pad1, (Epi){.bias = &level->conv[1]});
    return tap(f->cx, h, "%s", path);
}

static Tensor *mid_forward(const Flow *f, Unet *u, Tensor *h)
{
    h = with_given(f, h, u->mid_given);
    for (int j = 0; j < COUNT(u->mid); j++)
        h = site_forward(f, &u->mid[j], h, NULL, "mid_block", j);
    return tap(f->cx, h, "mid_block");
}

/* Takes from the end of skip[*n]. */
static Tensor *up_forward(const Flow *f, Level *level, Tensor *h, Tensor **skip, int *n, int i)
{
    char path[40];
    snprintf(path, sizeof path, "up_blocks.%d", i);
    h = with_given(f, h, level->given);
    for (int j = 0; j < level->sites; j++)
        h = site_forward(f, &level->site[j], h, skip[--*n], path, j);
    if (level->resample) {
        Tensor *next = skip[*n - 1];
        if (!next)
            return NULL;
        h = op_resize(f->cx, h, next->n[1], next->n[2]);
        h = op_conv2d(f->cx, h, &level->conv[0], 1, pad1, (Epi){.bias = &level->conv[1]});
    }
    return tap(f->cx, h, "%s", path);
}

/* The text: of as many clips as x, or of several that share x's one. */
static bool text_fits(Cx *cx, const UnetCall *call, const Tensor *text, int64_t clips)
{
    const int width = call->keyed ? call->unet->text_width : call->unet->shape.context;
    if (text->nd == 3 && text->n[2] == width && (text->n[0] == clips || clips == 1))
        return true;
    cx_fail(cx, GIMBAL_EMODEL, "U-Net: %s of %lld clips, width %lld, expected %lld clips%s, width %d",
            call->keyed ? "keys and values" : "text", (long long)text->n[0], (long long)tensor_channels(text),
            (long long)clips, clips == 1 ? " or more" : "", width);
    return false;
}

/* Features of the frame stride, a row a clip, or of frames' numbers, a row a frame. */
static bool second_fits(Cx *cx, const UnetShape *s, Tensor **in)
{
    if (!s->stride && !s->numbered) /* callers then give three inputs only */
        return true;
    const Tensor *x = in[3];
    const int64_t rows = s->numbered ? in[0]->n[0] : in[1]->n[0];
    if (x->nd == 2 && x->n[0] == rows && x->n[1] == s->width[0])
        return true;
    cx_fail(cx, GIMBAL_EMODEL, "U-Net: %s features [%lld,%lld], expected [%lld,%d]",
            s->numbered ? "frame number" : "frame stride", (long long)x->n[0], (long long)x->n[1],
            (long long)rows, s->width[0]);
    return false;
}

static bool inputs_fit(Cx *cx, const UnetCall *call, Tensor **in)
{
    const UnetShape *s = &call->unet->shape;
    if (!in[0] || !in[1] || !in[2] || ((s->stride || s->numbered) && !in[3]))
        return false;
    if (call->frames < 1 || in[0]->nd != 4 || in[0]->n[0] % call->frames || in[0]->n[3] != s->in)
        cx_fail(cx, GIMBAL_EMODEL,
                "U-Net: input of %lld frames x %lld channels, expected clips of %d frames x %d channels",
                (long long)in[0]->n[0], (long long)tensor_channels(in[0]), call->frames, s->in);
    else if (s->motion && call->frames > s->max_frames)
        cx_fail(cx, GIMBAL_EMODEL, "U-Net: %d frames, but its motion modules know %d positions", call->frames,
                s->max_frames);
    else if (in[1]->nd != 2 || in[1]->n[0] != in[0]->n[0] / call->frames || in[1]->n[1] != s->width[0])
        cx_fail(cx, GIMBAL_EMODEL, "U-Net: timestep features [%lld,%lld], expected [%lld,%d]",
                (long long)in[1]->n[0], (long long)in[1]->n[1], (long long)in[0]->n[0] / call->frames,
                s->width[0]);
    else if (text_fits(cx, call, in[2], in[1]->n[0]))
        second_fits(cx, s, in);
    return !cx_failed(cx);
}

/* Of layers [from, from + n), counted through all transformers: halves are joined, so that every value moves
 * log2(n) times. */
static Tensor *keys_of(Cx *cx, Unet *u, Tensor *context, int from, int n)
{
    if (n > 1) {
        Tensor *first = keys_of(cx, u, context, from, n / 2);
        return op_concat(cx, first, keys_of(cx, u, context, from + n / 2, n - n / 2));
    }
    int i = 0;
    for (; from >= u->text[i]->layers; i++)
        from -= u->text[i]->layers;
    return transformer_keys(cx, u->text[i], from, context);
}

Tensor *unet_text(Cx *cx, void *unet, Tensor **in)
{
    Unet *u = unet;
    int layers = 0;
    for (int i = 0; i < u->texts; i++)
        layers += u->text[i]->layers;
    if (!layers)
        return cx_fail(cx, GIMBAL_EMODEL, "U-Net: none of its layers reads a text");
    return keys_of(cx, u, in[0], 0, layers);
}

int unet_text_width(const Unet *u)
{
    return u->text_width;
}

/* The embedding of the timestep, and of the frame stride or the frames' numbers, through SiLU: every resnet
 * reads it so, and nothing else reads it. With numbers a row a frame. */
static Tensor *embedding(Cx *cx, Unet *u, Tensor **in, int frames)
{
    Tensor *time = op_linear(cx, in[1], &u->time1[0], (Epi){.bias = &u->time1[1], .act = ACT_SILU});
    if (!u->shape.stride && !u->shape.numbered)
        return op_linear(cx, time, &u->time2[0], (Epi){.bias = &u->time2[1], .act = ACT_SILU});
    Tensor *second = op_linear(cx, in[3], &u->second1[0], (Epi){.bias = &u->second1[1], .act = ACT_SILU});
    if (u->shape.numbered) {
        time = op_linear(cx, time, &u->time2[0], (Epi){.bias = &u->time2[1]});
        time = op_linear(cx, second, &u->second2[0],
                         (Epi){.bias = &u->second2[1], .row = time, .row_per = frames});
    } else {
        second = op_linear(cx, second, &u->second2[0], (Epi){.bias = &u->second2[1]});
        time = op_linear(cx, time, &u->time2[0], (Epi){.bias = &u->time2[1], .add = second});
    }
    return op_act(cx, time, ACT_SILU);
}

Tensor *unet_forward(Cx *cx, void *unet_call, Tensor **in)
{
    const UnetCall *call = unet_call;
    Unet *u = call->unet;
    if (!inputs_fit(cx, call, in))
        return NULL;
    Tensor *time = embedding(cx, u, in, call->frames);
    if (!tap(cx, time, "time_embedding.silu"))
        return NULL;
    const int64_t texts = u->shape.numbered ? in[2]->n[0] / in[1]->n[0] : 1;
    const Flow f = {.cx = cx,
                    .motion = call->still       ? NULL
                              : call->norm_clip ? time_clip_graph
                                                : time_frame_graph,
                    .space = call->keyed ? space_keyed_graph : space_graph,
                    .frames = call->frames,
                    .given = u->shape.given_entry ? in[0] : NULL,
                    .clips = u->shape.numbered ? in[1] : time,
                    .text = in[2],
                    .time = {time, op_repeat(cx, time, texts)}};

    Tensor *skip[MAX_SKIPS],
        *h = op_conv2d(cx, in[0], &u->conv_in[0], 1, pad1, (Epi){.bias = &u->conv_in[1]});
    int n = 0;
    tap(cx, h, "conv_in");
    if (u->entry && h)
        h = tap(cx, block(cx, time_clip_graph, u->entry, (Tensor *[]){h, time}, 2), "transformer_in");
    skip[n++] = h;
    for (int i = 0; i < u->shape.levels; i++)
        h = down_forward(&f, &u->down[i], h, skip, &n, i);
    h = mid_forward(&f, u, h);
    for (int i = 0; i < u->shape.levels; i++)
        h = up_forward(&f, &u->up[i], h, skip, &n, i);
    h = op_norm(cx, h, &u->norm_out[0], &u->norm_out[1],
                (NormArg){.groups = u->shape.groups, .per = 1, .eps = u->shape.eps, .act = ACT_SILU});
    h = op_conv2d(cx, h, &u->conv_out[0], 1, pad1, (Epi){.bias = &u->conv_out[1]});
    if (!h) /* below: a network that reads no text gives all of them the same */
        return NULL;
    return tap(cx, op_repeat(cx, h, in[2]->n[0] * call->frames / h->n[0]), "unet");
}
