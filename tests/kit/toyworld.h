/* toyworld.h: the grammar of the bundled model and a judge that reads a clip's attributes back from its
 * pixels alone.
 *
 * Grammar and geometry: models/toyworld/README.md. A clip is uint8 [F][128][128][3], F from 4 to 16. */
#ifndef TESTS_TOYWORLD_H
#define TESTS_TOYWORLD_H

#include <stddef.h>
#include <stdint.h>

enum { TOY_SIZE = 128, TOY_FRAMES = 16 };

/* In this order wherever they stand in an array: size, colour, shape, motion, background colour, texture. */
enum { TOY_ATTRIBUTES = 6 };
typedef struct {
    int size, colour, shape, motion, bg, texture, caption_form;
} ToyScene;

/* The attributes that clip number `seed` of the training world has. */
ToyScene toy_scene(uint64_t seed);
void toy_caption(const ToyScene *, char *out, size_t room);

/* measured[i] in the order above, -1 where nothing can be read. Motion is judged on 16 frames only. */
void toy_read(const uint8_t *clip, int frames, int measured[TOY_ATTRIBUTES]);

/* How the subject's centroid travels, in pixels: mean distance from frame to frame, and the root mean square
 * of its second differences (0 for an even motion). 0: too few frames show a subject. */
int toy_track(const uint8_t *clip, int frames, double *speed, double *jitter);
void toy_truth(const ToyScene *, int truth[TOY_ATTRIBUTES]);

#endif
