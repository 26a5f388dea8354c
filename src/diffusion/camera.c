/* camera.c: a camera that moves over a picture: the published moves by name (picture.c), and moves of our
 * own, which are key frames of a window.
 *
 * A window has its middle at (x, y), 0..1 of the picture, a scale (1: the largest upright window of the
 * clip's proportions that fits) and an angle, degrees clockwise. With c, s of the angle, pixel (u, v) of a
 * frame W x H is
 *
 *     p = middle + k R(angle) (u + 1/2 - W/2, v + 1/2 - H/2),    k = scale * min(w / W, h / H)
 *
 * read bilinearly, without a low pass, as all pictures of this model. Between key frames everything is
 * linear. A window that leaves the picture is first made small enough, then moved in.
 *
 * Knows pixels and one small JSON file. Refuses to know latents and models. */
#include "diffusion/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEYS = 4096, MOST_FRAMES = 65536, PATH_LIMIT = 1 << 20, PATH_DEPTH = 8 };

typedef struct {
    double time, x, y, scale, angle;
} Key;

/* ---- key frames -------------------------------------------------------------------------- */

static Key between(const Key *a, const Key *b, double time)
{
    const double t = b->time > a->time ? (time - a->time) / (b->time - a->time) : 1;
    return (Key){time, a->x + t * (b->x - a->x), a->y + t * (b->y - a->y),
                 a->scale + t * (b->scale - a->scale), a->angle + t * (b->angle - a->angle)};
}

/* Before the first key and behind the last, those. */
static Key key_at(const Key *keys, int n, double time)
{
    int i = 0;
    while (i < n && keys[i].time < time)
        i++;
    if (i == 0 || i == n)
        return keys[MIN(i, n - 1)];
    return between(&keys[i - 1], &keys[i], time);
}

/* Source pixels per pixel of the clip at scale 1. */
static double unit(const Shot *shot)
{
    return fmin((double)shot->in.w / shot->width, (double)shot->in.h / shot->height);
}

/* Width and height of the upright box around the window. */
static void extent(const Shot *shot, const Key *key, double *w, double *h)
{
    const double k = key->scale * unit(shot), angle = key->angle * M_PI / 180;
    const double c = fabs(cos(angle)), s = fabs(sin(angle));
    *w = k * (shot->width * c + shot->height * s);
    *h = k * (shot->width * s + shot->height * c);
}

/* Makes the window fit; true when it had to. */
static bool keep_inside(const Shot *shot, Key *key)
{
    const double slack = 1e-9, iw = shot->in.w, ih = shot->in.h;
    double w, h;
    extent(shot, key, &w, &h);
    const double shrink = fmin(1, fmin(iw / w, ih / h)), hw = shrink * w / iw / 2, hh = shrink * h / ih / 2;
    const double x = fmin(fmax(key->x, hw), 1 - hw), y = fmin(fmax(key->y, hh), 1 - hh);
    const bool moved = shrink < 1 - slack || fabs(x - key->x) > slack || fabs(y - key->y) > slack;
    key->scale *= shrink, key->x = x, key->y = y;
    return moved;
}

/* ---- pixels ------------------------------------------------------------------------------ */

/* The picture at (x, y), pixel centres at whole numbers; the border goes on outside. */
static void sample(Picture in, double x, double y, float out[3])
{
    const double cx = fmin(fmax(x, 0), in.w - 1), cy = fmin(fmax(y, 0), in.h - 1);
    const int x0 = (int)cx, y0 = (int)cy, x1 = MIN(x0 + 1, in.w - 1), y1 = MIN(y0 + 1, in.h - 1);
    const double fx = cx - x0, fy = cy - y0;
    const uint8_t *top = in.bytes + 3 * (size_t)y0 * in.row, *low = in.bytes + 3 * (size_t)y1 * in.row;
    for (int c = 0; c < 3; c++)
        out[c] = (float)((1 - fy) * ((1 - fx) * top[3 * x0 + c] + fx * top[3 * x1 + c]) +
                         fy * ((1 - fx) * low[3 * x0 + c] + fx * low[3 * x1 + c]));
}

static void draw(const Shot *shot, const Key *key, float *pixels)
{
    const double k = key->scale * unit(shot), angle = key->angle * M_PI / 180;
    const double c = k * cos(angle), s = k * sin(angle);
    for (int v = 0; v < shot->height; v++)
        for (int u = 0; u < shot->width; u++) {
            const double du = u + 0.5 - shot->width / 2.0, dv = v + 0.5 - shot->height / 2.0;
            sample(shot->in, key->x * shot->in.w + c * du - s * dv - 0.5,
                   key->y * shot->in.h + s * du + c * dv - 0.5,
                   pixels + 3 * ((size_t)v * (size_t)shot->width + (size_t)u));
        }
    picture_normalise(pixels, 3 * (size_t)shot->width * (size_t)shot->height);
}

static void note_window(const Shot *shot, int i, const Key *key)
{
    const double k = key->scale * unit(shot), w = k * shot->width, h = k * shot->height;
    const int box[4] = {(int)lrint(key->y * shot->in.h - h / 2), (int)lrint(key->x * shot->in.w - w / 2),
                        (int)lrint(h), (int)lrint(w)};
    if (shot->boxes)
        memcpy(shot->boxes[i], box, sizeof box);
}

static int shoot(const Shot *shot, const Key *keys, int n)
{
    int moved = 0;
    for (int i = 0; i < shot->frames; i++) {
        Key key = key_at(keys, n, shot->frames > 1 ? (double)i / (shot->frames - 1) : 0);
        moved += keep_inside(shot, &key);
        draw(shot, &key, shot->pixels + 3 * (size_t)i * (size_t)shot->width * (size_t)shot->height);
        note_window(shot, i, &key);
    }
    if (shot->clamped)
        *shot->clamped = moved;
    return GIMBAL_OK;
}

/* ---- moves of ours ----------------------------------------------------------------------- */

/* A window of three quarters from one place to another: 0 as far left or up as it goes, 1 the other end. */
static int travel(const Shot *shot, double x0, double y0, double x1, double y1)
{
    double w, h;
    const Key size = {.scale = 0.75};
    extent(shot, &size, &w, &h);
    const double hw = w / shot->in.w / 2, hh = h / shot->in.h / 2, rx = 1 - 2 * hw, ry = 1 - 2 * hh;
    const Key keys[] = {{0, hw + x0 * rx, hh + y0 * ry, size.scale, 0},
                        {1, hw + x1 * rx, hh + y1 * ry, size.scale, 0}};
    return shoot(shot, keys, COUNT(keys));
}

/* From -10 to 10 degrees in the middle; the largest window that fits at both ends fits between them. */
static int roll(const Shot *shot)
{
    double w, h;
    Key keys[] = {{0, 0.5, 0.5, 1, -10}, {1, 0.5, 0.5, 1, 10}};
    extent(shot, &keys[0], &w, &h);
    keys[0].scale = keys[1].scale = fmin(1, fmin(shot->in.w / w, shot->in.h / h));
    return shoot(shot, keys, COUNT(keys));
}

/* ---- paths from files -------------------------------------------------------------------- */

static int read_number(const json_t *key, const char *where, int i, const char *name, double def,
                       double least, double most, double *out, gimbal_error *err)
{
    const json_t *value = json_object_get(key, name);
    *out = value ? json_number_value(value) : def;
    if ((!value || json_is_number(value)) && *out >= least && *out <= most)
        return GIMBAL_OK;
    return fail(err, GIMBAL_EFORMAT, "%s: \"%s\" of frame %d must be a number from %g to %g", where, name, i,
                least, most);
}

static int read_key(const json_t *json, const char *where, int i, Key *key, gimbal_error *err)
{
    static const char *const known[] = {"time", "x", "y", "scale", "angle"};
    const char *name;
    json_t *value;
    if (!json_is_object(json) || !json_object_get(json, "time"))
        return fail(err, GIMBAL_EFORMAT, "%s: frame %d must be an object with \"time\", 0 to 1", where, i);
    json_object_foreach((json_t *)json, name, value)
    {
        bool found = false;
        for (int k = 0; k < COUNT(known); k++)
            found |= !strcmp(name, known[k]);
        if (!found)
            return fail_hint(err, GIMBAL_EFORMAT, "known are time, x, y, scale and angle",
                             "%s: \"%.64s\" of frame %d is unknown", where, name, i);
    }
    TRY(read_number(json, where, i, "time", 0, 0, 1, &key->time, err));
    TRY(read_number(json, where, i, "x", 0.5, 0, 1, &key->x, err));
    TRY(read_number(json, where, i, "y", 0.5, 0, 1, &key->y, err));
    TRY(read_number(json, where, i, "scale", 1, 0.001, 1000, &key->scale, err));
    return read_number(json, where, i, "angle", 0, -36000, 36000, &key->angle, err);
}

static int read_keys(const json_t *json, const char *where, Key *keys, int *n, gimbal_error *err)
{
    const json_t *list = json_object_get(json, "frames");
    const size_t count = json_array_size(list);
    if (count < 1 || count > MOST_KEYS)
        return fail(err, GIMBAL_EFORMAT, "%s: \"frames\" must be a list of 1 to %d key frames", where,
                    MOST_KEYS);
    for (*n = 0; *n < (int)count; ++*n) {
        Key *key = &keys[*n];
        TRY(read_key(json_array_get(list, (size_t)*n), where, *n, key, err));
        if (*n && key->time < key[-1].time)
            return fail(err, GIMBAL_EFORMAT, "%s: frame %d is at time %g, before the one in front of it, %g",
                        where, *n, key->time, key[-1].time);
    }
    return GIMBAL_OK;
}

static int follow(const Shot *shot, const char *file, gimbal_error *err)
{
    int n = 0;
    size_t size;
    char *text;
    json_t *json = NULL;
    TRY(read_file(&text, &size, file, PATH_LIMIT, err));
    int code = json_parse(&json, text, size, PATH_DEPTH, file, err);
    Key *keys = alloc_array(MOST_KEYS, sizeof *keys);
    if (!code && !keys)
        code = fail(err, GIMBAL_ENOMEM, "no memory for %d key frames", MOST_KEYS);
    if (!code)
        code = read_keys(json, file, keys, &n, err);
    if (!code)
        code = shoot(shot, keys, n);
    free(text); /* the file's text, handed over by read_file */
    free(keys);
    json_decref(json);
    return code;
}

/* ---- by name ----------------------------------------------------------------------------- */

static int still(const Shot *shot, gimbal_error *err)
{
    const size_t n = 3 * (size_t)shot->width * (size_t)shot->height;
    int w = 0, h = 0;
    TRY(picture_short_side(shot->in, shot->height, &w, &h, err));
    TRY(gimbal_fit(shot->in.bytes, shot->in.w, shot->in.h, "crop", shot->width, shot->height, shot->pixels,
                   err));
    const int box[4] = {(int)rint((h - shot->height) / 2.0), (int)rint((w - shot->width) / 2.0), shot->height,
                        shot->width};
    for (int i = 0; i < shot->frames; i++) {
        if (i)
            memcpy(shot->pixels + (size_t)i * n, shot->pixels, n * sizeof(float));
        if (shot->boxes)
            memcpy(shot->boxes[i], box, sizeof box);
    }
    return GIMBAL_OK;
}

typedef enum {
    STILL,
    PAN_LEFT,
    PAN_RIGHT,
    ZOOM_IN,
    ZOOM_OUT,
    TILT_UP,
    TILT_DOWN,
    DIAGONAL,
    ROLL,
    MOVES
} Move;
static const char *const moves[MOVES] = {"none",    "pan-left",  "pan-right", "zoom-in", "zoom-out",
                                         "tilt-up", "tilt-down", "diagonal",  "roll"};

static const char *move_name(const void *list, int i)
{
    return ((const char *const *)list)[i];
}

static int perform(const Shot *shot, Move move, gimbal_error *err)
{
    switch (move) {
    case STILL:
        return still(shot, err);
    case PAN_LEFT:
    case PAN_RIGHT:
        return picture_pan(shot, move == PAN_RIGHT, err);
    case ZOOM_IN:
    case ZOOM_OUT:
        return picture_zoom(shot, move == ZOOM_IN, err);
    case TILT_UP:
        return travel(shot, 0.5, 1, 0.5, 0);
    case TILT_DOWN:
        return travel(shot, 0.5, 0, 0.5, 1);
    case DIAGONAL:
        return travel(shot, 0, 0, 1, 1);
    default:
        return roll(shot);
    }
}

int gimbal_camera(const char *spec, const uint8_t *rgb, int w, int h, int width, int height, int frames,
                  float *pixels, int (*boxes)[4], int *clamped, gimbal_error *err)
{
    const Shot shot = {
        {.bytes = rgb, .w = w, .h = h, .row = (size_t)w}, width, height, frames, pixels, boxes, clamped};
    TRY(picture_check(rgb, w, h, width, height, err));
    if (frames < 1 || frames > MOST_FRAMES)
        return fail(err, GIMBAL_EUSAGE, "a camera over %d frames, expected 1 to %d", frames, MOST_FRAMES);
    if (clamped)
        *clamped = 0;
    if (spec && !strncmp(spec, "path:", 5))
        return follow(&shot, spec + 5, err);
    for (int i = 0; i < MOVES; i++)
        if (spec && !strcmp(spec, moves[i]))
            return perform(&shot, (Move)i, err);
    char hint[80] = "";
    const char *near = nearest_name(spec ? spec : "", move_name, moves, MOVES);
    if (near)
        snprintf(hint, sizeof hint, "did you mean %s?", near);
    return fail_hint(
        err, GIMBAL_EUSAGE, hint,
        "camera is \"%.64s\", expected none, pan-left, pan-right, zoom-in, zoom-out, tilt-up, tilt-down, "
        "diagonal, roll or path:FILE",
        spec ? spec : "(none)");
}
