/* bench.c: gimbal_bench: whole networks timed on the path that a run takes: open, begin, then one piece of it
 * again and again.
 *
 *     unet  prompts encoded, then one prediction a call (guide.c): what a step costs
 *     vae   gimbal_decode of a clip        text  one prompt        mix  gimbal_mix of a clip
 *
 * A call to warm up is not counted: kernels are compiled and pages come into being there. Median and least of
 * the others; what a plan's operators took in them is summed up by class (bench_ops.c). Memory is what the
 * process has beyond its beginning, looked at while the run's memory is held.
 *
 * Knows sessions from the inside. Refuses to know kernels and how results are shown. */
#include "diffusion/bench.h"

#include "tensor/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_REPEATS = 1000, MOST_FRAMES = 4096, MOST_SIDE = 8192 };

static const char prompt[] = "a red boat on a calm sea at sunrise, waves, detailed",
                  negative[] = "blurry, flickering";

void bench_note_memory(Bench *b)
{
    const uint64_t now = anon_bytes_now();
    if (now > b->anon)
        b->result->peak_bytes = MAX(b->result->peak_bytes, now - b->anon);
}

/* ---- opening ----------------------------------------------------------------------------- */

/* The folder's family must be the one that the order names. */
static int check_family(const Bench *b, gimbal_error *err)
{
    const BenchModel *m;
    if (!b->order->family)
        return GIMBAL_OK;
    TRY(bench_model_find(&m, b->order->family, err));
    if (!strcmp(m->family, gimbal_family(b->engine)))
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "--family is %s, but %s is of the family %s", m->name, b->order->model,
                gimbal_family(b->engine));
}

static int open_engine(Bench *b, double *began, gimbal_error *err)
{
    const gimbal_bench_order *o = b->order;
    const BenchModel *m;
    if (o->model) {
        *began = seconds_now();
        TRY(gimbal_open(&b->engine, o->model, o->motion, err));
        return check_family(b, err);
    }
    TRY(bench_model_find(&m, o->family, err));
    return bench_model_open(&b->engine, m, F16, o->seed, (BenchProgress){o->progress, o->user}, began, err);
}

/* A run of frames x width x height, planned, its memory taken. */
static int begin(Bench *b, int frames, int width, int height, gimbal_error *err)
{
    const gimbal_bench_order *o = b->order;
    gimbal_bench_result *r = b->result;
    gimbal_settings s;
    double began = 0;
    TRY(open_engine(b, &began, err));
    gimbal_defaults(&s, b->engine);
    s.prompt = prompt, s.negative = o->guidance ? negative : "";
    s.frames = frames, s.width = width, s.height = height;
    s.cfg = o->guidance ? MAX(s.cfg, 2) : 1;
    s.seed = o->seed, s.threads = o->threads, s.dtype = o->dtype;
    if (gimbal_needs_image(b->engine)) {
        const int step = gimbal_size_step(b->engine);
        const size_t count = (size_t)b->engine->shape.in * (size_t)(width / step) * (size_t)(height / step);
        s.image = b->picture = alloc_array(count, sizeof *b->picture);
        if (!s.image)
            return fail(err, GIMBAL_ENOMEM, "no memory for a latent of %zu values", count);
        memset(b->picture, 0, count * sizeof *b->picture);
    }
    TRY(gimbal_begin(&b->session, b->engine, &s, err));
    r->open_seconds = seconds_now() - began;
    r->family = o->family ? o->family : gimbal_family(b->engine);
    r->threads = b->session->plans.cx.threads;
    r->dtype = b->session->run.s.dtype; /* of the U-Net */
    return GIMBAL_OK;
}

static void note_mapped(Bench *b, PartKind kind)
{
    const WeightSet *w = b->engine->part[kind].weights;
    b->result->mapped_bytes += w ? weights_bytes(w) : 0;
}

/* ---- timing ------------------------------------------------------------------------------ */

typedef int (*Piece)(Bench *, void *self, gimbal_error *err);

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One call to warm up, then order->repeat of them; `plan`, if any, counts its operators' times in those. */
static int time_piece(Bench *b, Plan *plan, Piece piece, void *self, gimbal_error *err)
{
    const int n = b->order->repeat;
    double took[MOST_REPEATS];
    TRY(piece(b, self, err));
    bench_note_memory(b);
    if (plan)
        plan_forget_times(plan);
    for (int i = 0; i < n; i++) {
        const double start = seconds_now();
        TRY(piece(b, self, err));
        took[i] = seconds_now() - start;
        bench_note_memory(b);
    }
    qsort(took, (size_t)n, sizeof *took, by_size);
    b->result->least = took[0];
    b->result->seconds = (took[(n - 1) / 2] + took[n / 2]) / 2;
    return GIMBAL_OK;
}

/* ---- the U-Net --------------------------------------------------------------------------- */

typedef struct {
    Denoise net;
    gimbal_shape shape;
    double timestep, cfg;
    float *x, *prediction; /* [C,F,h,w] */
} Step;

static int predict(Bench *b, void *self, gimbal_error *err)
{
    Step *s = self;
    (void)b;
    return s->net.predict(s->net.self, s->x, s->shape, s->timestep, s->cfg, s->prediction, err);
}

Plan *bench_unet_plan(const Bench *b)
{
    return b->session->plans.guide.plan[b->session->run.batch - 1];
}

/* A tensor of the input file, which must have `count` values; its shape is not looked at. */
static int read_values(const char *path, const char *name, size_t count, float *out, gimbal_error *err)
{
    int64_t n[6];
    float *x;
    TRY(gimbal_tensor_read(path, name, &x, n, err));
    size_t found = 1;
    for (int i = 0; i < COUNT(n); i++)
        found *= (size_t)n[i];
    if (found == count)
        memcpy(out, x, count * sizeof *out);
    free(x); /* gimbal_tensor_read's */
    if (found != count)
        return fail(err, GIMBAL_EFORMAT, "%s: tensor \"%s\" has %zu values, this call takes %zu", path, name,
                    found, count);
    return check_given(name, out, count, err);
}

static int read_inputs(Bench *b, Step *s, gimbal_error *err)
{
    Guide *g = &b->session->plans.guide;
    const char *path = b->order->input;
    const size_t texts = (size_t)g->batch * TOKENS * (size_t)g->context_width;
    float t = 0;
    if (!path)
        return gimbal_noise("white", "philox", b->order->seed, 0, s->shape, s->x, err);
    TRY(read_values(path, "latents", shape_count(s->shape), s->x, err));
    TRY(read_values(path, "context", texts, g->context, err));
    TRY(guide_text(g, err));
    TRY(read_values(path, "timestep", 1, &t, err));
    s->timestep = t;
    plans_clear(&b->session->plans);
    return guide_text(g, err);
}

static int save(const Bench *b, const Step *s, gimbal_error *err)
{
    const Guide *g = &b->session->plans.guide;
    const gimbal_shape z = s->shape;
    const float t = (float)s->timestep, cfg = (float)s->cfg;
    const gimbal_tensor items[] = {
        {"latents", "F32", 5, {1, z.c, z.f, z.h, z.w}, s->x},
        {"context", "F32", 3, {g->batch, TOKENS, g->context_width}, g->context},
        {"timestep", "F32", 1, {1}, &t},
        {"guidance", "F32", 1, {1}, &cfg},
        {"prediction", "F32", 5, {1, z.c, z.f, z.h, z.w}, s->prediction},
    };
    return st_write(b->order->save, items, COUNT(items), NULL, err);
}

static int unet_with(Bench *b, Step *s, gimbal_error *err)
{
    gimbal_session *session = b->session;
    if (!s->x || !s->prediction)
        return fail(err, GIMBAL_ENOMEM, "no memory for a clip of %zu values", shape_count(s->shape));
    TRY(session_texts(session, err));
    TRY(read_inputs(b, s, err));
    plans_clear(&session->plans);
    TRY(time_piece(b, bench_unet_plan(b), predict, s, err));
    TRY(bench_classes(b, bench_unet_plan(b), err));
    return b->order->save ? save(b, s, err) : GIMBAL_OK;
}

/* What is timed is one call of one network. */
static int begin_unet(Bench *b, gimbal_error *err)
{
    const gimbal_bench_order *o = b->order;
    TRY(begin(b, o->frames, o->width, o->height, err));
    return b->engine->residual
               ? fail_hint(err, GIMBAL_EUSAGE, "gimbal generate --dry-run tells what a run takes",
                           "%s: this %s model makes a prediction of two networks, and bench %s "
                           "times one",
                           o->model, b->engine->family->name, o->what)
               : GIMBAL_OK;
}

static int unet(Bench *b, gimbal_error *err)
{
    TRY(begin_unet(b, err));
    note_mapped(b, PART_UNET);
    note_mapped(b, PART_MOTION);
    bench_peaks(b);
    gimbal_session *session = b->session;
    const gimbal_shape z = session->run.shape;
    Step s = {.net = guide_denoise(&session->plans.guide),
              .shape = z,
              .timestep = floor(0.8 * b->engine->train_steps),
              .cfg = session->run.s.cfg,
              .x = alloc_array(shape_count(z), sizeof(float)),
              .prediction = alloc_array(shape_count(z), sizeof(float))};
    const int code = unet_with(b, &s, err);
    free(s.x);
    free(s.prediction);
    return code;
}

static int ops(Bench *b, gimbal_error *err)
{
    TRY(begin_unet(b, err));
    note_mapped(b, PART_UNET);
    note_mapped(b, PART_MOTION);
    return bench_ops(b, err);
}

/* ---- VAE and text ------------------------------------------------------------------------ */

typedef struct {
    float *latents;
    gimbal_shape shape;
} Clip;

static int drop_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    (void)user, (void)i, (void)rgb, (void)width, (void)height;
    return 0;
}

static int decode(Bench *b, void *self, gimbal_error *err)
{
    const Clip *c = self;
    return gimbal_decode(b->session, c->latents, c->shape, drop_frame, NULL, err);
}

static int vae(Bench *b, gimbal_error *err)
{
    const gimbal_bench_order *o = b->order;
    /* a decoder takes any number of frames; the session around it plans the U-Net too, for one */
    TRY(begin(b, 1, o->width, o->height, err));
    note_mapped(b, PART_VAE);
    b->result->dtype = "f32";
    Clip c = {.shape = b->session->run.shape};
    c.shape.f = o->frames;
    Plans *p = &b->session->plans;
    TRY(plans_decode(p, c.shape, err));
    if (!(c.latents = alloc_array(shape_count(c.shape), sizeof(float))))
        return fail(err, GIMBAL_ENOMEM, "no memory for a clip of %zu values", shape_count(c.shape));
    bench_peaks(b);
    int code = gimbal_noise("white", "philox", o->seed, 0, c.shape, c.latents, err);
    if (!code)
        code = time_piece(b, p->vae, decode, &c, err);
    free(c.latents);
    if (code || p->vae)
        return code ? code : bench_classes(b, p->vae, err);
    /* a large picture goes band by band through many small plans: the sum alone is told */
    b->result->flops = b->result->made = o->frames * tiles_flops(p->tiles);
    b->result->ideal = b->result->flops / b->result->peak_f32;
    return GIMBAL_OK;
}

static int encode_text(Bench *b, void *self, gimbal_error *err)
{
    return gimbal_context(b->session, prompt, self, err);
}

static int text(Bench *b, gimbal_error *err)
{
    TRY(begin(b, 1, 64, 64, err));
    note_mapped(b, PART_TEXT);
    b->result->dtype = "f32";
    b->result->frames = b->result->width = b->result->height = 0;
    bench_peaks(b);
    float *context = alloc_array((size_t)TOKENS * (size_t)gimbal_context_width(b->engine), sizeof(float));
    if (!context)
        return fail(err, GIMBAL_ENOMEM, "no memory for a text");
    const int code = time_piece(b, b->session->plans.text, encode_text, context, err);
    free(context);
    return code ? code : bench_classes(b, b->session->plans.text, err);
}

/* ---- FreeInit's mix ---------------------------------------------------------------------- */

typedef struct {
    float *low, *high, *mask, *out;
    gimbal_shape shape;
} Mix;

static int mix_once(Bench *b, void *self, gimbal_error *err)
{
    const Mix *m = self;
    (void)b;
    return gimbal_mix(m->low, m->high, m->mask, 1, m->shape, m->out, err);
}

/* Three transforms of 5 n log2 n FLOPs for each channel. */
static double mix_flops(gimbal_shape s)
{
    const double n = (double)s.f * s.h * s.w;
    return s.c * 3 * 5 * n * log2(MAX(n, 2));
}

static int mix_with(Bench *b, Mix *m, gimbal_error *err)
{
    if (!m->low || !m->high || !m->mask || !m->out)
        return fail(err, GIMBAL_ENOMEM, "no memory for a clip of %zu values", shape_count(m->shape));
    TRY(gimbal_noise("white", "philox", b->order->seed, 0, m->shape, m->low, err));
    TRY(gimbal_noise("white", "philox", b->order->seed + 1, 0, m->shape, m->high, err));
    TRY(gimbal_mask("freeinit", m->shape, m->mask, err));
    return time_piece(b, NULL, mix_once, m, err);
}

static int mix(Bench *b, gimbal_error *err)
{
    const gimbal_bench_order *o = b->order;
    const gimbal_shape s = {4, o->frames, o->height / 8, o->width / 8};
    if (o->width % 8 || o->height % 8)
        return fail(err, GIMBAL_EUSAGE, "the size is %d x %d, expected multiples of 8", o->width, o->height);
    const size_t n = shape_count(s), size = sizeof(float);
    Mix m = {alloc_array(n, size), alloc_array(n, size), alloc_array(n, size), alloc_array(n, size), s};
    b->result->threads = 1, b->result->dtype = "f32";
    b->result->flops = b->result->made = mix_flops(s);
    const int code = mix_with(b, &m, err);
    free(m.low);
    free(m.high);
    free(m.mask);
    free(m.out);
    return code;
}

/* ---- orders ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int (*run)(Bench *, gimbal_error *err);
} pieces[] = {{"unet", unet}, {"ops", ops}, {"vae", vae}, {"text", text}, {"mix", mix}};

void gimbal_bench_defaults(gimbal_bench_order *o)
{
    static const char *const families[] = {GIMBAL_BENCH_FAMILIES};
    *o = (gimbal_bench_order){.size = sizeof *o,
                              .what = "unet",
                              .family = families[0],
                              .dtype = "auto",
                              .frames = 16,
                              .width = 256,
                              .height = 256,
                              .guidance = 1,
                              .repeat = 3,
                              .budget = 20};
}

static int check_range(const char *name, double value, double min, double max, gimbal_error *err)
{
    if (value >= min && value <= max)
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "the order's %s is %g, expected %g to %g", name, value, min, max);
}

static int check_order(const gimbal_bench_order *o, gimbal_error *err)
{
    if (o->size != sizeof *o)
        return fail(err, GIMBAL_EUSAGE,
                    "the order's size is %zu, expected %zu: fill it with "
                    "gimbal_bench_defaults",
                    o->size, sizeof *o);
    TRY(check_range("frames", o->frames, 1, MOST_FRAMES, err));
    TRY(check_range("width", o->width, 8, MOST_SIDE, err));
    TRY(check_range("height", o->height, 8, MOST_SIDE, err));
    TRY(check_range("guidance", o->guidance, 0, 1, err));
    TRY(check_range("repeat", o->repeat, 1, MOST_REPEATS, err));
    return check_range("budget", o->budget, 0, 1e6, err);
}

static int run_piece(Bench *b, gimbal_error *err)
{
    for (int i = 0; i < COUNT(pieces); i++)
        if (b->order->what && !strcmp(pieces[i].name, b->order->what))
            return pieces[i].run(b, err);
    return fail(err, GIMBAL_EUSAGE, "\"%.40s\" is no benchmark, expected one of unet, ops, vae, text, mix",
                b->order->what ? b->order->what : "");
}

int gimbal_bench(const gimbal_bench_order *order, gimbal_bench_result *out, gimbal_error *err)
{
    const Backend *best = cpu_chain()[0];
    TRY(check_order(order, err));
    *out = (gimbal_bench_result){.what = order->what,
                                 .isa = best->isa ? best->isa : best->name,
                                 .frames = order->frames,
                                 .width = order->width,
                                 .height = order->height,
                                 .repeat = order->repeat};
    Bench b = {.order = order, .result = out, .anon = anon_bytes_now()};
    const int code = run_piece(&b, err);
    bench_note_memory(&b);
    gimbal_end(b.session);
    gimbal_close(b.engine);
    free(b.picture); /* the session's settings pointed to it */
    return code;
}
