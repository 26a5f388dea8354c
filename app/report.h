/* report.h: what report_picture.c, report_view.c and report_clip.c share: small pictures, and what was kept
 * of a clip. */
#ifndef APP_REPORT_H
#define APP_REPORT_H

#include "app/measure.h"

/* ---- pictures: report_picture.c ---------------------------------------------------------- */

/* RGB8 [height][width][3] */
typedef struct {
    uint8_t *rgb;
    int width, height, frame;
} Picture;
/* The size that fits into side x side, never larger than the picture. */
void fit_size(int width, int height, int side, int *w, int *h);
/* Means over the boxes that the output's pixels cover: out [h][w][3], w <= width, h <= height. */
void shrink(const uint8_t *rgb, int width, int height, uint8_t *out, int w, int h);
/* *out: the picture within side x side; false: no memory. Caller frees out->rgb. */
bool shrink_to(Picture *out, const uint8_t *rgb, int width, int height, int side, int frame);
/* Dark to bright for 0 to 1, of steadily growing lightness. */
void heat_colour(double share, uint8_t rgb[3]);
/* <img> alone, its width and height as given. */
void page_image(Page *, const uint8_t *rgb, int width, int height, const char *alt);
/* A scale of heat_colour from 0 to `most` in `unit`, as SVG. */
void page_heat_scale(Page *, double most, const char *unit);

/* One of several plots side by side, in a <div class="plots">: half the page wide. report_plot.c */
void page_small_plot(Page *, const Axes *, const Line *, int lines);

/* ---- what was kept of a clip: report_view.c ---------------------------------------------- */

enum { THUMB_SIDE = 240, PAIR_SIDE = 320, SLICE_SIDE = 320, MOST_SLICES = 1024, MOST_THUMBS = 32 };

struct ClipView {
    int most, frames, width, height;
    Picture *thumbs; /* [n_thumbs], of frames 0, stride, 2 stride, ...; room for KEPT most */
    int n_thumbs, thumb_stride;
    uint8_t *last; /* [height][width][3] of the frame seen last */
    uint8_t *across,
        *down; /* [n_slices][across_side][3], [..][down_side][3]: middle row and column over time */
    int n_slices, slice_stride, across_side, down_side;
    double *luma,
        *change; /* [frames]: mean luma; mean |difference| to the frame before, NaN at 0; grey levels */
    int room;
    Picture before,
        after;   /* the neighbours with the largest mean difference; rgb NULL: fewer than two frames */
    float *heat; /* [before.height][before.width]: their |difference|, mean over the channels, grey levels */
};

/* The spectrum of x [n]: amplitude[k], k = 0 .. m/2, at k/m cycles per sample, of windows of m = min(n,
 * MOST_SLICES) one after the other, their powers averaged: a sine of amplitude A at k/m gives A. Returns m.
 */
int time_spectrum(const double *x, int n, double amplitude[MOST_SLICES / 2 + 1]);

#endif
