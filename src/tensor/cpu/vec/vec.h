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

VEC_KERNEL(gemm);     /* linear, and convolutions by gathered rows: any kernel, stride, padding */
VEC_KERNEL(winograd); /* kernels of 3x3, and of 3 frames, stride 1 */
bool VEC(winograd_takes)(const Call *);
double VEC(winograd_flops)(const Call *); /* multiplications and additions really made */
VEC_KERNEL(attention);
bool VEC(attention_bf16)(const Cx *, const Call *); /* whether it multiplies bf16 */
VEC_KERNEL(norm);
VEC_KERNEL(rotate);
int VEC(blend)(Cx *, const Call *);
int VEC(first)(Cx *, const Call *);
int VEC(act)(Cx *, const Call *);
int VEC(add)(Cx *, const Call *);
int VEC(rows)(Cx *, const Call *);
int VEC(concat)(Cx *, const Call *);
int VEC(resize)(Cx *, const Call *);
int VEC(repeat)(Cx *, const Call *);

/* FLOP/s of one thread in a loop of multiply-adds on registers. */
double VEC(peak)(bool bf16);
#endif

#endif
