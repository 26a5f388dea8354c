/* choose.c: which of the compiled instruction sets this CPU runs, and which one is used. Compiled once, for
 * the plainest CPU.
 *
 * GIMBAL_ISA names the best set that may be used; an unknown name, or one that the CPU lacks, allows all (the
 * variable is for tests, and nothing down here may print). "wide" is for tests alone: 16 lanes on a CPU whose
 * vectors have 8. */
#include "tensor/cpu/vec/vec.h"

#include <pthread.h>
#include <stdlib.h>

#define DECLARE(name, runs)                                                                                  \
    extern const Backend backend_vec_##name;                                                                 \
    double peak_##name(bool bf16);
VEC_ISAS(DECLARE)

typedef struct {
    const Backend *backend;
    double (*peak)(bool bf16);
} Set;

#define ONE(name, runs) +1
enum { SETS = 0 VEC_ISAS(ONE) };

static Set present[SETS];
static int n_present, chosen;

static void look(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
#endif
#define ADD(name, runs)                                                                                      \
    if (runs)                                                                                                \
        present[n_present++] = (Set){&backend_vec_##name, peak_##name};
    VEC_ISAS(ADD)
    const char *wanted = getenv("GIMBAL_ISA");
    chosen = n_present - 1;
    if (!strcmp(present[chosen].backend->isa, "wide"))
        chosen--;
    for (int i = 0; wanted && i < n_present; i++)
        if (!strcmp(present[i].backend->isa, wanted))
            chosen = i;
}

static void look_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
}

const Backend *vec_backend(int i)
{
    look_once();
    return i >= 0 && i < n_present ? present[i].backend : NULL;
}

const Backend *vec_chosen(void)
{
    look_once();
    return present[chosen].backend;
}

bool cpu_has_bf16(void)
{
    return !strcmp(vec_chosen()->isa, "avx512bf16");
}

double cpu_peak(const Cx *cx, bool bf16)
{
    double sum = 0;
    look_once();
#ifdef _OPENMP
#pragma omp parallel num_threads(cx->threads) reduction(+ : sum)
#else
    (void)cx;
#endif
    sum += present[chosen].peak(bf16);
    return sum;
}
