/* version.c: what this build is, for bug reports: version, compiler, oneDNN, instruction set.
 *
 * The one place outside tensor/cpu that names oneDNN, because saying what is inside is its purpose. */
#include "base/base.h"

#include <dnnl.h>
#include <pthread.h>

static char info[192];

static const char *isa_name(void)
{
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
        return "SSE4.1";
    case dnnl_cpu_isa_avx:
        return "AVX";
    case dnnl_cpu_isa_avx2:
    case dnnl_cpu_isa_avx2_vnni:
        return "AVX2";
    case dnnl_cpu_isa_avx512_core:
    case dnnl_cpu_isa_avx512_core_vnni:
    case dnnl_cpu_isa_avx512_core_bf16:
        return "AVX-512";
    case dnnl_cpu_isa_avx512_core_amx:
        return "AVX-512 with AMX";
    default:
        return "the compiler's baseline";
    }
}

static void write_info(void)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(info, sizeof info, "gimbal %s, gcc-compatible compiler %s, oneDNN %d.%d.%d using %s%s",
             GIMBAL_VERSION, __VERSION__, v->major, v->minor, v->patch, isa_name(),
#ifdef GIMBAL_SANITIZED
             ", sanitizers on"
#else
             ""
#endif
    );
}

const char *gimbal_version(void)
{
    return GIMBAL_VERSION;
}

const char *gimbal_build_info(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, write_info);
    return info;
}
