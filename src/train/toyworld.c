/* toyworld.c: procedural clips of the bundled model's world, one coloured shape over a background.
 *
 * Grammar and geometry are models/toyworld/README.md's, draw for draw: a scene is a function of one whole
 * number, through splitmix64 (Steele, Lea and Flood, OOPSLA 2014); clip i is scene first + i. The bundled
 * model's own training saw scenes 0.., 2,000,000.. (pictures) and 3,000,000.. (clips); its figures are of
 * scenes 1,000,000 on, which are for validation.
 *
 *     world: 128 x 128 units, x to the right, y down;   frame i = 0..15, 8 a second
 *     picture = background, mark under the subject, subject;  each laid over with its coverage
 *     coverage of a signed distance d = clamp(0.5 - s d, 0, 1),  s pixels to a unit
 *
 * At 128 x 128 s is 1. Every other size is drawn, not resized: s = max(width, height) / 128, so that the
 * world covers the picture, and the longer side of the world that is too much is cut off evenly; edges are
 * one pixel soft at any size.
 *
 * Frames are computed when they are asked for and nothing is kept. Knows pixels and words. Refuses to know
 * models, latents and files. */
#include "io/io.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { WORLD = 128, FRAMES = 16, CELL = 16, CAPTION_ROOM = 128, MOST_SIDE = 8192 };
static const double FLOOR = 116;

static const char *const sizes[] = {"small ", "", "large "};
static const double radii[] = {14, 20, 27};
enum { WHITE = 6, BLACK = 7 };
static const char *const colours[] = {"red", "green", "blue", "yellow", "orange", "purple", "white", "black"};
static const double palette[][3] = {{220, 40, 40},  {40, 170, 70},  {45, 85, 220},   {245, 215, 50},
                                    {245, 140, 30}, {140, 60, 180}, {245, 245, 245}, {20, 20, 20}};
enum { CIRCLE, SQUARE, TRIANGLE, STAR };
static const char *const shapes[] = {"circle", "square", "triangle", "star"};
enum { STILL, LEFT, RIGHT, UP, DOWN, SPINNING, GROWING, BOUNCING };
static const char *const motions[] = {"standing still", "moving left", "moving right", "moving up",
                                      "moving down",    "spinning",    "growing",      "bouncing"};
static const int directions[][2] = {{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}, {0, 0}, {0, 0}, {0, 0}};
enum { PLAIN, STRIPED, CHECKERED };
static const char *const textures[] = {"", "striped ", "checkered "};

/* ---- scenes ------------------------------------------------------------------------------ */

typedef struct {
    int size, colour, motion, shape, bg, texture, form;
    double r, x, y;       /* of frame 0, units */
    double speed;         /* units a frame; degrees a frame of what spins */
    double degrees;       /* of frame 0 */
    double height, phase; /* of a bounce: units; share of a period */
} Scene;

static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int pick(uint64_t *state, int n)
{
    return (int)(uniform(state) * n);
}

static bool moves(const Scene *s)
{
    return s->motion >= LEFT && s->motion <= DOWN;
}

/* What a motion makes of the last two draws. lo, hi: where the centre may be. */
static void set_motion(Scene *s, double lo, double hi, double a, double b)
{
    const int *to = directions[s->motion];
    if (moves(s)) {
        s->speed = 2.2 + a * (fmin(4.2, (hi - lo) / 15) - 2.2);
        const double start = b * (hi - lo - 15 * s->speed); /* all 16 frames stay inside */
        *(to[0] ? &s->x : &s->y) = to[0] + to[1] > 0 ? lo + start : hi - start;
    } else if (s->motion == SPINNING) {
        s->speed = 8 + 4 * a, s->degrees = 360 * b;
    } else if (s->motion == BOUNCING) {
        s->height = 28 + 12 * a, s->phase = b;
    }
}

static Scene make_scene(uint64_t seed)
{
    static const int forms[] = {0, 0, 1, 2};
    Scene s = {0};
    s.size = pick(&seed, 3);
    s.colour = pick(&seed, 8);
    s.motion = pick(&seed, 8);
    s.shape = pick(&seed, 4);
    s.bg = pick(&seed, 7);
    s.texture = pick(&seed, 3);
    s.form = forms[pick(&seed, 4)];
    s.bg += s.bg >= s.colour; /* never the subject's */
    if (s.motion == SPINNING && s.shape == CIRCLE)
        s.shape = SQUARE + pick(&seed, 3);
    s.r = radii[s.size] * (0.93 + (1.07 - 0.93) * uniform(&seed));
    const double lo = s.motion == GROWING ? 1.15 * 1.25 * s.r + 6 : 1.15 * s.r + 2, hi = WORLD - lo;
    s.x = lo + (hi - lo) * uniform(&seed);
    s.y = lo + (hi - lo) * uniform(&seed);
    const double a = uniform(&seed), b = uniform(&seed);
    set_motion(&s, lo, hi, a, b);
    return s;
}

/* ---- captions ---------------------------------------------------------------------------- */

static const char *article(const char *word)
{
    return strchr("aeiou", word[0]) ? "an" : "a";
}

static void make_caption(const Scene *s, char out[CAPTION_ROOM])
{
    char subject[48], back[48];
    const char *motion = motions[s->motion];
    snprintf(subject, sizeof subject, "%s%s %s", sizes[s->size], colours[s->colour], shapes[s->shape]);
    snprintf(back, sizeof back, "%s%s background", textures[s->texture], colours[s->bg]);
    if (s->form == 0)
        snprintf(out, CAPTION_ROOM, "%s %s %s over %s %s", article(subject), subject, motion, article(back),
                 back);
    else if (s->form == 1)
        snprintf(out, CAPTION_ROOM, "%s %s with %s %s %s", article(back), back, article(subject), subject,
                 motion);
    else
        snprintf(out, CAPTION_ROOM, "%s %s, %s", subject, motion, back);
}

/* ---- a frame ----------------------------------------------------------------------------- */

/* What is the same for all pixels of a frame. Lengths in units; scale: pixels to a unit. */
typedef struct {
    const Scene *s;
    double x, y, r, cos, sin, scale, left, top;
    double back[2][3], colour[3], tint[3]; /* background's two shades; the subject's; the mark's */
} Frame;

static void pose(Frame *f, int i)
{
    const Scene *s = f->s;
    const int *to = directions[s->motion];
    double degrees = s->degrees;
    f->x = s->x + to[0] * s->speed * i, f->y = s->y + to[1] * s->speed * i, f->r = s->r;
    if (s->motion == SPINNING) {
        degrees += s->speed * i;
    } else if (s->motion == GROWING) {
        f->r *= 0.55 + 0.70 * i / 15;
    } else if (s->motion == BOUNCING) {
        const double t = fmod(s->phase + i / 16.0, 1);
        f->y = FLOOR - f->r - s->height * 4 * t * (1 - t);
    }
    f->cos = cos(degrees * M_PI / 180), f->sin = sin(degrees * M_PI / 180);
}

static void paint(Frame *f)
{
    const Scene *s = f->s;
    const double glow = s->bg == WHITE ? 120 : 245, shadow = s->bg == BLACK ? 120 : 20;
    for (int c = 0; c < 3; c++) {
        f->back[0][c] = palette[s->bg][c];
        f->back[1][c] = s->bg == BLACK ? 70 : 0.72 * palette[s->bg][c];
        f->colour[c] = palette[s->colour][c];
        f->tint[c] = s->motion == GROWING ? glow : s->motion == BOUNCING ? shadow : f->colour[c];
    }
}

/* Signed distance to the edge of the star, by its symmetry: the angle from straight up, folded into one half
 * of a point, whose edge runs from the tip at 1.15 r to the notch at 0.52 r and 36 degrees. */
static double star(double qx, double qy, double r)
{
    const double k = M_PI / 5, outer = 1.15 * r, inner = 0.52 * r;
    const double turn = atan2(qx, -qy) + k, a = fabs(turn - 2 * k * floor(turn / (2 * k)) - k);
    const double rho = sqrt(qx * qx + qy * qy), ex = inner * cos(k) - outer, ey = inner * sin(k);
    return ((rho * cos(a) - outer) * ey - rho * sin(a) * ex) / sqrt(ex * ex + ey * ey);
}

/* From the edge of the upright shape of radius r at the origin; inside negative. */
static double edge_distance(int shape, double qx, double qy, double r)
{
    if (shape == CIRCLE)
        return sqrt(qx * qx + qy * qy) - r;
    if (shape == SQUARE)
        return fmax(fabs(qx), fabs(qy)) - 0.84 * r;
    if (shape == TRIANGLE)
        return fmax(qy, 0.8660254 * fabs(qx) - 0.5 * qy) - 0.575 * r;
    return star(qx, qy, r);
}

static double coverage(const Frame *f, double distance)
{
    return fmin(fmax(0.5 - f->scale * distance, 0), 1);
}

/* A comet's tail against the motion, which ends under the subject. */
static double tail(const Frame *f, double qx, double qy)
{
    const int *to = directions[f->s->motion];
    const double length = 1.9 * f->r, t = fmin(fmax(-(qx * to[0] + qy * to[1]) / length, 0), 1);
    const double tx = qx + to[0] * length * t, ty = qy + to[1] * length * t;
    const double part = coverage(f, sqrt(tx * tx + ty * ty) - 0.75 * f->r * (1 - 0.6 * t));
    return part > 0 ? 0.6 * (1 - t) * part * (1 - coverage(f, sqrt(qx * qx + qy * qy) - 0.7 * f->r)) : 0;
}

/* How much of the mark lies over the background at q from the centre, d from the edge. */
static double mark(const Frame *f, double qx, double qy, double d)
{
    if (moves(f->s))
        return tail(f, qx, qy);
    if (f->s->motion == GROWING)
        return 0.45 * coverage(f, d - 5);
    if (f->s->motion != BOUNCING)
        return 0;
    const double sx = qx / f->r, sy = (qy + f->y - FLOOR - 3) / 4; /* an ellipse on the floor */
    return 0.5 * coverage(f, 4 * (sqrt(sx * sx + sy * sy) - 1));
}

static int shade(int texture, double x, double y)
{
    const int i = (int)floor(x / CELL), j = (int)floor(y / CELL);
    return texture == PLAIN ? 0 : (texture == STRIPED ? i : i + j) & 1;
}

/* The colour at x, y of the world. */
static void colour_at(const Frame *f, double x, double y, uint8_t rgb[3])
{
    const double qx = x - f->x, qy = y - f->y;
    const double d = edge_distance(f->s->shape, f->cos * qx + f->sin * qy, f->cos * qy - f->sin * qx, f->r);
    const double under = mark(f, qx, qy, d), over = coverage(f, d);
    const double *back = f->back[shade(f->s->texture, x, y)];
    for (int c = 0; c < 3; c++) {
        const double below = back[c] + under * (f->tint[c] - back[c]);
        rgb[c] = (uint8_t)rint(below + over * (f->colour[c] - below)); /* between colours: 20..245 */
    }
}

/* Frame i as rgb [height][width][3]. */
static void draw(const Scene *s, int i, int width, int height, uint8_t *rgb)
{
    Frame f = {.s = s, .scale = (double)MAX(width, height) / WORLD};
    f.left = (WORLD - width / f.scale) / 2, f.top = (WORLD - height / f.scale) / 2;
    pose(&f, i);
    paint(&f);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, rgb += 3)
            colour_at(&f, f.left + (x + 0.5) / f.scale, f.top + (y + 0.5) / f.scale, rgb);
}

/* ---- the set ----------------------------------------------------------------------------- */

typedef struct {
    int count;
    uint64_t first;
    char caption[CAPTION_ROOM], name[64], identity[65];
} World;

static const gimbal_option world_options[] = {
    {.name = "count",
     .help = "clips in all",
     .type = GIMBAL_INT,
     .offset = offsetof(World, count),
     .def = 4096,
     .min = 1,
     .max = INT32_MAX},
    {.name = "first",
     .help = "scene of the first one; 1,000,000 on are for validation",
     .type = GIMBAL_SEED,
     .offset = offsetof(World, first)},
    {.name = NULL},
};

static int check_clip(const World *w, int64_t i, gimbal_error *err)
{
    return i >= 0 && i < w->count
               ? GIMBAL_OK
               : fail(err, GIMBAL_EUSAGE, "toyworld: clip %lld of %d", (long long)i, w->count);
}

static int look(void *self, int64_t i, int *frames, const char **caption, gimbal_error *err)
{
    World *w = self;
    TRY(check_clip(w, i, err));
    const Scene s = make_scene(w->first + (uint64_t)i);
    make_caption(&s, w->caption);
    *frames = FRAMES;
    *caption = w->caption;
    return GIMBAL_OK;
}

static int read_frames(void *self, int64_t i, const int *at, int n, int width, int height, uint8_t *rgb,
                       gimbal_error *err)
{
    const World *w = self;
    TRY(check_clip(w, i, err));
    if (width < 1 || height < 1 || width > MOST_SIDE || height > MOST_SIDE)
        return fail(err, GIMBAL_EUSAGE, "toyworld: pictures of %dx%d, expected sides of 1 to %d pixels",
                    width, height, MOST_SIDE);
    const Scene s = make_scene(w->first + (uint64_t)i);
    for (int k = 0; k < n; k++) {
        if (at[k] < 0 || at[k] >= FRAMES)
            return fail(err, GIMBAL_EUSAGE, "toyworld: frame %d of %d", at[k], FRAMES);
        draw(&s, at[k], width, height, rgb + 3 * (size_t)k * (size_t)width * (size_t)height);
    }
    return GIMBAL_OK;
}

static const char *name_of(void *self, int64_t i)
{
    World *w = self;
    snprintf(w->name, sizeof w->name, "toyworld scene %llu", (unsigned long long)(w->first + (uint64_t)i));
    return w->name;
}

/* The 1 is the grammar's: it changes when the same number would give another clip. */
static int identify(World *w, gimbal_error *err)
{
    char text[96];
    Sha256 *hash = sha256_new();
    if (!hash)
        return fail(err, GIMBAL_ENOMEM, "toyworld: no memory for its identity");
    const int n = snprintf(text, sizeof text, "toyworld 1 first %llu count %d\n",
                           (unsigned long long)w->first, w->count);
    sha256_add(hash, text, (size_t)n);
    sha256_end(hash, w->identity);
    return GIMBAL_OK;
}

static int parse_spec(World *w, const char *spec, gimbal_error *err)
{
    Arena keep = {0};
    const int code = options_parse(world_options, w, spec, "toyworld: ", &keep, err);
    arena_free(&keep);
    TRY(code);
    if (w->first > INT64_MAX - (uint64_t)w->count)
        return fail(err, GIMBAL_EUSAGE, "toyworld: first is %llu, expected 0 to %lld",
                    (unsigned long long)w->first, (long long)(INT64_MAX - w->count));
    return identify(w, err);
}

int gimbal_toyworld(const char *spec, gimbal_clips *out, gimbal_error *err)
{
    World *w = calloc(1, sizeof *w);
    memset(out, 0, sizeof *out);
    if (!w)
        return fail(err, GIMBAL_ENOMEM, "toyworld: no memory");
    const int code = parse_spec(w, spec, err);
    if (code) {
        free(w); /* the caller gets nothing to close */
        return code;
    }
    *out = (gimbal_clips){.count = w->count,
                          .identity = w->identity,
                          .look = look,
                          .read = read_frames,
                          .name = name_of,
                          .close = free,
                          .self = w};
    return GIMBAL_OK;
}
