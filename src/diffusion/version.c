/* version.c: what this build is, for bug reports: version, commit, compiler, libraries, instruction sets.
 *
 * One list of facts; each is asked of the library that runs, not of the header that was compiled. The one
 * place outside tensor/cpu, io and base that names libraries, because saying what is inside is its purpose.
 */
#include "io/io.h"
#include "tensor/cpu/vec/vec.h"

#include <ctype.h>
#include <dnnl.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#ifndef GIMBAL_COMMIT
#define GIMBAL_COMMIT "unknown"
#endif
#ifdef GIMBAL_SANITIZED
#define SANITIZERS ", sanitizers on"
#else
#define SANITIZERS ""
#endif
#if defined(__clang__)
#define COMPILER "clang"
#else
#define COMPILER "gcc"
#endif

static char info[192], onednn[48], cpu[80];

/* ---- instruction sets -------------------------------------------------------------------- */

static const char *dnnl_set(void)
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

/* Of this machine, by the names that compilers give to sets of x86. */
static const char *machine_set(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return "x86-64-v4 (AVX-512)";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return "x86-64-v3 (AVX2)";
    return "x86-64";
#else
    return "the compiler's baseline";
#endif
}

/* "model name : AMD EPYC" of /proc/cpuinfo, where the kernel knows one. */
static void find_cpu(void)
{
    char *text = NULL;
    size_t size;
    snprintf(cpu, sizeof cpu, "unknown");
    if (read_file(&text, &size, "/proc/cpuinfo", 16u << 20, NULL))
        return;
    const char *at = strstr(text, "model name");
    at = at ? strchr(at, ':') : NULL;
    if (at) {
        at += 1 + strspn(at + 1, " \t");
        int n = (int)MIN(strcspn(at, "\n"), sizeof cpu - 1);
        while (n > 0 && isspace((unsigned char)at[n - 1]))
            n--;
        snprintf(cpu, sizeof cpu, "%.*s", n, at);
    }
    free(text); /* read_file's */
}

/* ---- the list ---------------------------------------------------------------------------- */

#define SET_NAME(name, runs) " " #name

static gimbal_fact facts[] = {
    {"version", GIMBAL_VERSION},
    {"commit", GIMBAL_COMMIT},
    {"compiler", COMPILER " " __VERSION__},
    {"compiled for", &(VEC_ISAS(SET_NAME))[1]},
    {"this machine", NULL},
    {"CPU", cpu},
    {"oneDNN", onednn},
    {"jansson", NULL},
    {"utf8proc", NULL},
    {"OpenSSL", NULL},
#ifdef GIMBAL_SANITIZED
    {"sanitizers", "on"},
#endif
};

static void set(const char *name, const char *value)
{
    for (int i = 0; i < COUNT(facts); i++)
        if (!strcmp(facts[i].name, name))
            facts[i].value = value;
}

static void find_out(void)
{
    const dnnl_version_t *v = dnnl_version();
    find_cpu();
    snprintf(onednn, sizeof onednn, "%d.%d.%d using %s", v->major, v->minor, v->patch, dnnl_set());
    set("this machine", machine_set());
    set("jansson", jansson_version_str());
    set("utf8proc", utf8proc_version());
    set("OpenSSL", OpenSSL_version(OPENSSL_VERSION_STRING));
    snprintf(info, sizeof info, "gimbal %s, " COMPILER " %s, oneDNN %s" SANITIZERS, GIMBAL_VERSION,
             __VERSION__, onednn);
}

static void once(void)
{
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    pthread_once(&done, find_out);
}

const char *gimbal_version(void)
{
    return GIMBAL_VERSION;
}

const char *gimbal_build_info(void)
{
    once();
    return info;
}

const gimbal_fact *gimbal_build_fact(int i)
{
    once();
    return i >= 0 && i < COUNT(facts) ? &facts[i] : NULL;
}
