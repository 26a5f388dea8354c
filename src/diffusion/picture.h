/* picture.h: what fitting a picture and moving a camera over it share. Private to picture.c and camera.c.
 *
 * Knows pixels in -1..1. Refuses to know latents and models. */
#ifndef PICTURE_H
#define PICTURE_H

#include "diffusion/diffusion.h"

/* A camera over a picture: what every kind of move is asked for. */
typedef struct {
    Picture in; /* bytes */
    int width, height, frames;
    float *pixels;   /* [frames][height][width][3] */
    int (*boxes)[4]; /* [frames], or NULL */
    int *clamped;    /* or NULL */
} Shot;

/* EUSAGE for sizes that cannot be, of the picture and of the result. */
int picture_check(const uint8_t *rgb, int w, int h, int width, int height, gimbal_error *err);
/* The picture as w x h of torch's bilinear, and of that the window at left, top, of the whole's units 0..255.
 */
int picture_window(Picture in, int w, int h, int left, int top, int width, int height, float *out,
                   gimbal_error *err);
/* 0..255 to -1..1, in place. */
void picture_normalise(float *x, size_t n);
/* The size whose smaller side is `side`: the other is cut to a whole number. EUSAGE when it is beyond reason.
 */
int picture_short_side(Picture in, int side, int *w, int *h, gimbal_error *err);
/* ConsistI2V's moves: dx and growing as their names say. */
int picture_pan(const Shot *, bool right, gimbal_error *err);
int picture_zoom(const Shot *, bool in, gimbal_error *err);

#endif
