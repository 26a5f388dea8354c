/* vec.h: what the files of the vec backend share. Each of them is ONE template over GCC vector extensions,
 * compiled once per instruction set (VEC_ISA, and VL lanes, come from CMakeLists.txt); names that the linker
 * sees carry the set's name. choose.c, compiled once and for the plainest CPU, picks among the results.
 *
 *     VL  lanes of a vector V: 4 (SSE2, NEON), 8 (AVX2), 16 (AVX-512, and "wide": 16 lanes compiled for AVX2)
 *     NR  columns of a packed panel, two vectors;   MR  rows of the microkernel: MR x NR sums fill the
 *         registers
 *
 * One microkernel (product.h) serves linears, convolutions, Winograd and attention. Weights are read where
 * the file is mapped, widened and packed into scratch at use, and never kept: with 16 frames and more that is
 * a few percent of the work, and a model costs its file in the page cache.
 *
 * A sum runs over k in one fixed order and no other thread adds to it, so results do not depend on how work
 * is cut, which may therefore follow the number of threads. */
#ifndef VEC_H
#define VEC_H

#include "tensor/cpu/cpu.h"

#define VEC_GLUE2(a, b) a##_##b
#define VEC_GLUE(a, b) VEC_GLUE2(a, b)
#define VEC(name) VEC_GLUE(name, VEC_ISA) /* linear -> linear_avx2 */
#define VEC_TEXT2(x) #x
#define VEC_TEXT(x) VEC_TEXT2(x)

/* What x86-64-v4 adds, word by word: clang 14 knows no level's name here. */
#define VEC_AVX512                                                                                           \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                              \
     __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&                             \
     __builtin_cpu_supports("avx512vl"))

/* From the plainest to the best; X(name, runs on this CPU). */
#ifdef __x86_64__
#define VEC_ISAS(X)                                                                                          \
    X(sse2, 1)                                                                                               \
    X(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                 \
    X(wide, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                 \
    X(avx512, VEC_AVX512)                                                                                    \
    X(avx512bf16, VEC_AVX512 &&__builtin_cpu_supports("avx512bf16"))
#else
#define VEC_ISAS(X) X(base, 1)
#endif

/* The backend of the set in use. */
const Backend *vec_chosen(void);

#ifdef VEC_ISA
/* One kernel: how much scratch a call wants, and the call. */
#define VEC_KERNEL(name)                                                                                     \
    int VEC(name)(Cx *, const Call *);                                                                       \
    size_t VEC(name##_scratch)(const Cx *, const Call *)

/* A product whose weight is another's turned around, as gradients of inputs want it: w[0] has the shape
 * [I,O,kh,kw] that the call sees, but the values of [O,I,stored taps]. Tap (u, v) is the stored one at line
 * y - u*step, place x - v*step, in lines of `wide`. */
typedef struct {
    int64_t taps, wide, y, x, step;
} Turn;
enum { TURN_TAPS = 64 }; /* stored, at most */
static inline int64_t turn_tap(const Turn *t, int64_t u, int64_t v)
{
    return (t->y - u * t->step) * t->wide + t->x - v * t->step;
}

/* Convolutions and linears; turn NULL: the weight as it is. */
int VEC(multiply)(Cx *, const Call *, const Turn *);
size_t VEC(multiply_scratch)(const Cx *, const Call *, const Turn *);
/* linear, and convolutions by gathered rows: any kernel, stride, padding */
int VEC(gemm)(Cx *, const Call *, const Turn *);
size_t VEC(gemm_scratch)(const Cx *, const Call *, const Turn *);
/* kernels of 3x3, and of 3 frames, stride 1 */
int VEC(winograd)(Cx *, const Call *, const Turn *);
size_t VEC(winograd_scratch)(const Cx *, const Call *);
bool VEC(winograd_takes)(const Call *);
double VEC(winograd_flops)(const Call *); /* multiplications and additions really made */
VEC_KERNEL(product_back);                 /* gradients of convolutions and linears */
/* gw += the weight's gradient, gz [..., wide] that of x*w: of any product, and of what winograd takes. `room`
 * has as many bytes as the _scratch says. */
void VEC(weight_back)(const Cx *, const Call *, const Tensor *gz, float *gw, char *room);
size_t VEC(weight_back_scratch)(const Cx *, const Call *);
void VEC(winograd_back)(const Cx *, const Call *, const Tensor *gz, float *gw, char *room);
size_t VEC(winograd_back_scratch)(const Cx *, const Call *);
VEC_KERNEL(attention);
bool VEC(attention_bf16)(const Cx *, const Call *); /* whether it multiplies bf16 */
VEC_KERNEL(attention_back);
VEC_KERNEL(norm);
VEC_KERNEL(norm_back);
VEC_KERNEL(rotate);
void VEC(rotate_tables)(const Call *, const float *freqs); /* fills its scratch */
int VEC(blend)(Cx *, const Call *);
int VEC(first)(Cx *, const Call *);
int VEC(act)(Cx *, const Call *);
int VEC(add)(Cx *, const Call *);
int VEC(rows)(Cx *, const Call *);
int VEC(concat)(Cx *, const Call *);
int VEC(resize)(Cx *, const Call *);
int VEC(repeat)(Cx *, const Call *);
VEC_KERNEL(rows_back);
VEC_KERNEL(blend_back);
VEC_KERNEL(rotate_back);
int VEC(act_back)(Cx *, const Call *);
int VEC(add_back)(Cx *, const Call *);
int VEC(concat_back)(Cx *, const Call *);
int VEC(resize_back)(Cx *, const Call *);
int VEC(repeat_back)(Cx *, const Call *);
int VEC(first_back)(Cx *, const Call *);

/* FLOP/s of one thread in a loop of multiply-adds on registers. */
double VEC(peak)(bool bf16);
#endif

#endif
