/* loop.h: the kernels of the loop backend. */
#ifndef LOOP_H
#define LOOP_H

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/loop_math.h"

enum { ROW_BLOCK = 64 }; /* rows that one thread takes at a time */

int loop_norm(Cx *, const Call *);
size_t loop_norm_scratch(const Cx *, const Call *);
int loop_attention(Cx *, const Call *);
size_t loop_attention_scratch(const Call *); /* per thread */

#endif
