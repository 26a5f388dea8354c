/* toyworld.c: scenes, captions and the judge of tests/kit/toyworld.h.
 *
 * The judge finds the background by nearest pattern, the subject by nearest palette colour, its shape by
 * overlap with templates of equal area at any angle, its motion by straight-line fits of centroid and radius.
 * It never sees the caption. Knows pixels; refuses to know models. */
#include "tests/kit/toyworld.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = TOY_SIZE, F = TOY_FRAMES, CROP = 96, CELL = 16 };

static const char *const sizes[] = {"small ", "", "large "};
static const char *const colours[] = {"red", "green", "blue", "yellow", "orange", "purple", "white", "black"};
static const char *const shapes[] = {"circle", "square", "triangle", "star"};
static const char *const motions[] = {"standing still", "moving left", "moving right", "moving up",
                                      "moving down",    "spinning",    "growing",      "bouncing"};
static const char *const textures[] = {"", "striped ", "checkered "};
static const double palette[8][3] = {{220, 40, 40},  {40, 170, 70},  {45, 85, 220},   {245, 215, 50},
                                     {245, 140, 30}, {140, 60, 180}, {245, 245, 245}, {20, 20, 20}};
enum { STILL, LEFT, RIGHT, UP, DOWN, SPIN, GROW, BOUNCE };

/* ---- scenes and captions ----------------------------------------------------------------- */

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

ToyScene toy_scene(uint64_t seed)
{
    static const int forms[] = {0, 0, 1, 2};
    ToyScene s;
    s.size = pick(&seed, 3);
    s.colour = pick(&seed, 8);
    s.motion = pick(&seed, 8);
    s.shape = pick(&seed, 4);
    s.bg = pick(&seed, 7);
    s.texture = pick(&seed, 3);
    s.caption_form = forms[pick(&seed, 4)];
    s.bg += s.bg >= s.colour;
    if (s.motion == SPIN && s.shape == 0)
        s.shape = 1 + pick(&seed, 3);
    return s;
}

static const char *article(const char *word)
{
    return strchr("aeiou", word[0]) ? "an" : "a";
}

void toy_caption(const ToyScene *s, char *out, size_t room)
{
    char subject[64], back[64];
    const char *motion = motions[s->motion];
    snprintf(subject, sizeof subject, "%s%s %s", sizes[s->size], colours[s->colour], shapes[s->shape]);
    snprintf(back, sizeof back, "%s%s background", textures[s->texture], colours[s->bg]);
    if (s->caption_form == 0)
        snprintf(out, room, "%s %s %s over %s %s", article(subject), subject, motion, article(back), back);
    else if (s->caption_form == 1)
        snprintf(out, room, "%s %s with %s %s %s", article(back), back, article(subject), subject, motion);
    else
        snprintf(out, room, "%s %s, %s", subject, motion, back);
}

void toy_truth(const ToyScene *s, int truth[TOY_ATTRIBUTES])
{
    const int all[] = {s->size, s->colour, s->shape, s->motion, s->bg, s->texture};
    memcpy(truth, all, sizeof all);
}

/* ---- the judge --------------------------------------------------------------------------- */

/* Background colour of channel c at pixel (x, y). */
static double background(int texture, int bg, int x, int y, int c)
{
    const int odd = texture == 0 ? 0 : texture == 1 ? (x / CELL) % 2 : (x / CELL + y / CELL) % 2;
    return !odd ? palette[bg][c] : bg == 7 ? 70.0 : palette[bg][c] * 0.72;
}

static double colour_distance(const uint8_t *p, const double colour[3])
{
    const double r = p[0] - colour[0], g = p[1] - colour[1], b = p[2] - colour[2];
    return sqrt(r * r + g * g + b * b);
}

static double background_distance(const uint8_t *p, int texture, int bg, int x, int y)
{
    const double colour[3] = {background(texture, bg, x, y, 0), background(texture, bg, x, y, 1),
                              background(texture, bg, x, y, 2)};
    return colour_distance(p, colour);
}

static const uint8_t *pixel(const uint8_t *clip, int f, int y, int x)
{
    return clip + (((size_t)f * N + y) * N + x) * 3;
}

static void find_background(const uint8_t *clip, int frames, int *texture, int *bg)
{
    double best = INFINITY;
    for (int t = 0; t < 3; t++)
        for (int b = 0; b < 8; b++) {
            double sum = 0;
            for (int f = 0; f < frames; f += 3)
                for (int y = 1; y < N; y += 4)
                    for (int x = 1; x < N; x += 4)
                        sum += fmin(background_distance(pixel(clip, f, y, x), t, b, x, y), 80);
            if (sum < best)
                best = sum, *texture = t, *bg = b;
        }
}

static int find_colour(const uint8_t *clip, int frames, int texture, int bg)
{
    int count[8] = {0}, best = 0;
    for (int f = 0; f < frames; f += 2)
        for (int y = 0; y < N; y += 2)
            for (int x = 0; x < N; x += 2) {
                const uint8_t *p = pixel(clip, f, y, x);
                if (background_distance(p, texture, bg, x, y) <= 50)
                    continue;
                int near = 0;
                for (int c = 1; c < 8; c++)
                    if (colour_distance(p, palette[c]) < colour_distance(p, palette[near]))
                        near = c;
                count[near]++;
            }
    count[bg] = 0;
    for (int c = 1; c < 8; c++)
        if (count[c] > count[best])
            best = c;
    return best;
}

/* One frame's subject: its mask cropped about the centroid. */
typedef struct {
    double area, cx, cy;
    uint8_t crop[CROP][CROP];
} Subject;

static int find_subject(const uint8_t *clip, int f, int texture, int bg, int colour, Subject *out)
{
    static uint8_t mask[N][N];
    double sx = 0, sy = 0;
    memset(out, 0, sizeof *out);
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++) {
            const uint8_t *p = pixel(clip, f, y, x);
            const double to = colour_distance(p, palette[colour]);
            mask[y][x] = to < 90 && to < background_distance(p, texture, bg, x, y);
            if (mask[y][x])
                out->area++, sx += x + 0.5, sy += y + 0.5;
        }
    if (out->area <= 60)
        return 0;
    out->cx = sx / out->area, out->cy = sy / out->area;
    const int x0 = (int)rint(out->cx - CROP / 2), y0 = (int)rint(out->cy - CROP / 2);
    for (int y = 0; y < CROP; y++)
        for (int x = 0; x < CROP; x++)
            if (y + y0 >= 0 && y + y0 < N && x + x0 >= 0 && x + x0 < N)
                out->crop[y][x] = mask[y + y0][x + x0];
    return 1;
}

/* Signed distance to the upright shape of radius r at the origin. */
static double shape_distance(int shape, double qx, double qy, double r)
{
    if (shape == 0)
        return hypot(qx, qy) - r;
    if (shape == 1)
        return fmax(fabs(qx), fabs(qy)) - 0.84 * r;
    if (shape == 2)
        return fmax(qy, 0.8660254 * fabs(qx) - 0.5 * qy) - 0.575 * r;
    const double k = M_PI / 5, outer = 1.15 * r, inner = 0.52 * r;
    const double turn = atan2(qx, -qy) + k, a = fabs(turn - 2 * k * floor(turn / (2 * k)) - k);
    const double rho = hypot(qx, qy), ex = inner * cos(k) - outer, ey = inner * sin(k);
    return ((rho * cos(a) - outer) * ey - rho * sin(a) * ex) / hypot(ex, ey);
}

static double overlap_with_template(const uint8_t crop[CROP][CROP], int shape, double r, double degrees)
{
    const double a = degrees * M_PI / 180, c = cos(a), s = sin(a);
    int both = 0, either = 0;
    for (int y = 0; y < CROP; y++)
        for (int x = 0; x < CROP; x++) {
            const double qx = x - CROP / 2 + 0.5, qy = y - CROP / 2 + 0.5;
            const int in = shape_distance(shape, c * qx + s * qy, -s * qx + c * qy, r) < 0;
            both += in && crop[y][x], either += in || crop[y][x];
        }
    return (double)both / (either ? either : 1);
}

static double overlap(const uint8_t a[CROP][CROP], const uint8_t b[CROP][CROP])
{
    int both = 0, either = 0;
    for (int y = 0; y < CROP; y++)
        for (int x = 0; x < CROP; x++)
            both += a[y][x] && b[y][x], either += a[y][x] || b[y][x];
    return (double)both / (either ? either : 1);
}

static const double unit_area[] = {M_PI, 2.8224, 1.7180, 1.7575};

static int find_shape(const Subject *seen, int n)
{
    static const double turn[] = {1, 90, 120, 72}; /* degrees after which the shape repeats */
    double best = -1;
    int found = 0;
    for (int s = 0; s < 4; s++) {
        double sum = 0;
        for (int f = 0; f < n; f += 4) {
            const double r = rint(2 * sqrt(seen[f].area / unit_area[s])) / 2;
            double top = 0;
            for (double d = 0; d < turn[s]; d += 7.5)
                top = fmax(top, overlap_with_template(seen[f].crop, s, r, d));
            sum += top;
        }
        if (sum > best)
            best = sum, found = s;
    }
    return found;
}

/* A straight line through v[0..n): slope a frame and share of the variance explained; *range of v itself. */
static double fit(const double *v, int n, double *explained, double *range)
{
    double mean = 0, sii = 0, siv = 0, svv = 0, low = v[0], high = v[0], rest = 0;
    for (int i = 0; i < n; i++)
        mean += v[i] / n, low = fmin(low, v[i]), high = fmax(high, v[i]);
    for (int i = 0; i < n; i++) {
        const double di = i - (n - 1) / 2.0, dv = v[i] - mean;
        sii += di * di, siv += di * dv, svv += dv * dv;
    }
    const double slope = siv / sii;
    for (int i = 0; i < n; i++)
        rest += pow(v[i] - mean - slope * (i - (n - 1) / 2.0), 2);
    *explained = 1 - rest / fmax(svv, 1e-9 * n);
    *range = high - low;
    return slope;
}

static int find_motion(const Subject *seen, int n, int shape, double *radius)
{
    double x[F], y[F], r[F], ex, ey, er, rx, ry, rr, mean = 0, twist = 0;
    for (int i = 0; i < n; i++) {
        x[i] = seen[i].cx, y[i] = seen[i].cy, r[i] = sqrt(seen[i].area / unit_area[shape]);
        mean += r[i] / n;
        if (i >= 3)
            twist += overlap(seen[i - 3].crop, seen[i].crop) / (n - 3);
    }
    const double kx = fit(x, n, &ex, &rx), ky = fit(y, n, &ey, &ry), kr = fit(r, n, &er, &rr);
    *radius = mean;
    if ((mean + 7.5 * kr) / fmax(mean - 7.5 * kr, 1) > 1.4 && er > 0.7)
        return GROW;
    if (fmax(fabs(kx), fabs(ky)) > 0.8 && (fabs(kx) > fabs(ky) ? ex : ey) > 0.85)
        return fabs(kx) > fabs(ky) ? (kx < 0 ? LEFT : RIGHT) : (ky < 0 ? UP : DOWN);
    if (ry > 12 && ry > 2 * rx)
        return BOUNCE;
    if (fmax(rx, ry) >= 12)
        return -1;
    return twist < 0.86 ? SPIN : STILL;
}

/* Subjects of the frames that show one, in order; *at: their frames' numbers. */
static int find_subjects(const uint8_t *clip, int frames, int attributes[TOY_ATTRIBUTES], Subject *seen,
                         int *at)
{
    int texture = 0, bg = 0, n = 0;
    find_background(clip, frames, &texture, &bg);
    const int colour = find_colour(clip, frames, texture, bg);
    for (int f = 0; f < frames; f++)
        if (find_subject(clip, f, texture, bg, colour, &seen[n]))
            at[n++] = f;
    const int all[] = {-1, colour, -1, -1, bg, texture};
    memcpy(attributes, all, sizeof all);
    return n;
}

void toy_read(const uint8_t *clip, int frames, int measured[TOY_ATTRIBUTES])
{
    Subject seen[F];
    int at[F];
    const int n = find_subjects(clip, frames, measured, seen, at);
    if (n < frames / 2)
        return;
    double r;
    const int shape = find_shape(seen, n), motion = find_motion(seen, n, shape, &r);
    r /= motion == GROW ? 0.9 : 1.0;
    measured[0] = r < 16.8 ? 0 : r < 23.2 ? 1 : 2;
    measured[2] = shape;
    measured[3] = frames == F ? motion : -1;
}

int toy_track(const uint8_t *clip, int frames, double *speed, double *jitter)
{
    Subject seen[F];
    int at[F], ignored[TOY_ATTRIBUTES], steps = 0, turns = 0;
    const int n = find_subjects(clip, frames, ignored, seen, at);
    double way = 0, sum = 0;
    for (int i = 1; i < n; i++) {
        if (at[i] - at[i - 1] != 1)
            continue;
        const double dx = seen[i].cx - seen[i - 1].cx, dy = seen[i].cy - seen[i - 1].cy;
        way += hypot(dx, dy), steps++;
        if (i < 2 || at[i - 1] - at[i - 2] != 1)
            continue;
        const double ex = seen[i - 1].cx - seen[i - 2].cx, ey = seen[i - 1].cy - seen[i - 2].cy;
        sum += (dx - ex) * (dx - ex) + (dy - ey) * (dy - ey), turns++;
    }
    *speed = steps ? way / steps : 0;
    *jitter = turns ? sqrt(sum / turns) : 0;
    return n >= frames / 2 && turns > 0;
}
