/* check.h: what test programs share: a list of tests as main(), checks with messages, golden tensors,
 * distances.
 *
 * Tests run from the top of the checkout; goldens are in tests/golden. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gimbal.h"

/* TESTS(a, b, c): main() that runs cmocka tests a, b and c. */
#define CHECK_E0(...) __VA_ARGS__
#define CHECK_E1(...) CHECK_E0(CHECK_E0(CHECK_E0(__VA_ARGS__)))
#define CHECK_E2(...) CHECK_E1(CHECK_E1(CHECK_E1(__VA_ARGS__)))
#define CHECK_E3(...) CHECK_E2(CHECK_E2(CHECK_E2(__VA_ARGS__)))
#define CHECK_NONE ()
#define CHECK_MAP(f, ...) cmocka_unit_test(f), __VA_OPT__(CHECK_AGAIN CHECK_NONE(__VA_ARGS__))
#define CHECK_AGAIN() CHECK_MAP
#define TESTS(...)                                                                                           \
    int main(void)                                                                                           \
    {                                                                                                        \
        const struct CMUnitTest tests[] = {CHECK_E3(CHECK_MAP(__VA_ARGS__))};                                \
        return cmocka_run_group_tests(tests, NULL, NULL);                                                    \
    }

/* Fails with a printf-like message when !(|a - b| <= tolerance); NaN fails. */
#define check_near(a, b, tolerance, ...)                                                                     \
    do {                                                                                                     \
        const double a_ = (a), b_ = (b), t_ = (tolerance);                                                   \
        if (!(fabs(a_ - b_) <= t_)) {                                                                        \
            char what_[256];                                                                                 \
            snprintf(what_, sizeof what_, __VA_ARGS__);                                                      \
            fail_msg("%s: %.9g, expected %.9g within %.2g", what_, a_, b_, t_);                              \
        }                                                                                                    \
    } while (0)

#define check(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            char what_[512];                                                                                 \
            snprintf(what_, sizeof what_, __VA_ARGS__);                                                      \
            fail_msg("%s: %s", what_, #condition);                                                           \
        }                                                                                                    \
    } while (0)

/* A call that must succeed; prints its error otherwise. `err` is a gimbal_error lvalue. */
#define check_ok(call, err)                                                                                  \
    do {                                                                                                     \
        const int code_ = (call);                                                                            \
        if (code_)                                                                                           \
            fail_msg("%s: %d %s (%s)", #call, code_, (err).msg, (err).hint);                                 \
    } while (0)

/* A call that must fail with `code` and whose message must contain `text`; clears err. */
#define check_fails(call, want, err, text)                                                                   \
    do {                                                                                                     \
        const int code_ = (call);                                                                            \
        if (code_ != (want))                                                                                 \
            fail_msg("%s: code %d (%s), expected %d", #call, code_, (err).msg, (want));                      \
        if (!strstr((err).msg, (text)) && !strstr((err).hint, (text)))                                       \
            fail_msg("%s: message \"%s\" (hint \"%s\") lacks \"%s\"", #call, (err).msg, (err).hint, (text)); \
        memset(&(err), 0, sizeof(err));                                                                      \
    } while (0)

/* sqrt(sum (a-b)^2 / sum b^2) */
static inline double rel_rms(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++)
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), s += (double)b[i] * b[i];
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

/* A float tensor of a safetensors file; *count its size. Fails the test when absent. Caller frees. */
static inline float *golden(const char *file, const char *name, size_t *count)
{
    gimbal_error err = {0};
    int64_t n[6];
    float *x = NULL;
    if (gimbal_tensor_read(file, name, &x, n, &err))
        fail_msg("%s: %s", file, err.msg);
    *count = (size_t)(n[0] * n[1] * n[2] * n[3] * n[4] * n[5]);
    return x;
}

#endif
