/* optimizer.c: AdamW, the norm of a gradient, running means of parameters, learning-rate schedules: on plain
 * arrays.
 *
 *     AdamW (Loshchilov and Hutter, ICLR 2019), rounded as PyTorch's single-tensor form rounds:
 *         p = p (1 - lr wd)     m = m + (1-b1)(g - m)     v = b2 v + (1-b2) g g
 *         p = p - (lr/(1-b1^s)) m / (sqrt(v)/sqrt(1-b2^s) + eps)
 *
 * A product that is added to something is rounded once (fmaf): with FMA instructions where the CPU has them,
 * else by libm, with the same bits. Arrays are cut into chunks of fixed length and sums are kept per chunk,
 * so that the number of threads changes no bit; it is OpenMP's own setting of the calling thread.
 *
 * Knows one array at a time. Refuses to know parameters' names, networks and files. */
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16, LANES = 8, SUMS = 1024 };

/* ---- AdamW ------------------------------------------------------------------------------- */

/* The scalars of one step, rounded to float32 where PyTorch rounds them. */
typedef struct {
    float keep;             /* 1 - lr wd */
    float b2, w2;           /* b2, 1 - b2 */
    float weight;           /* of g - m */
    bool from_g;            /* m = g + weight (g - m): weight is then 1 - b1, less 1 */
    float root2, eps, rate; /* sqrt(1 - b2^s), eps, lr / (1 - b1^s) */
} Scalars;

typedef void (*AdamwChunk)(const Scalars *, int64_t n, float *p, const float *g, float *m, float *v);

__attribute__((always_inline)) static inline void adamw_chunk(const Scalars *k, int64_t n, float *restrict p,
                                                              const float *restrict g, float *restrict m,
                                                              float *restrict v)
{
    const Scalars c = *k;
    for (int64_t i = 0; i < n; i++) {
        const float far = g[i] - m[i];
        m[i] = fmaf(c.weight, far, c.from_g ? g[i] : m[i]);
        v[i] = fmaf(c.w2 * g[i], g[i], v[i] * c.b2);
        p[i] = p[i] * c.keep - c.rate * m[i] / (sqrtf(v[i]) / c.root2 + c.eps);
    }
}

static void adamw_anywhere(const Scalars *k, int64_t n, float *p, const float *g, float *m, float *v)
{
    adamw_chunk(k, n, p, g, m, v);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void adamw_fma(const Scalars *k, int64_t n, float *p,
                                                          const float *g, float *m, float *v)
{
    adamw_chunk(k, n, p, g, m, v);
}

static AdamwChunk adamw_here(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? adamw_fma : adamw_anywhere;
}
#else
static AdamwChunk adamw_here(void)
{
    return adamw_anywhere;
}
#endif

void adamw_step(const AdamW *a, double lr, int64_t s, int64_t n, float *p, const float *g, float *m, float *v)
{
    const double w1 = 1 - a->beta1, c1 = 1 - pow(a->beta1, (double)s), c2 = 1 - pow(a->beta2, (double)s);
    const bool from_g = w1 >= 0.5;
    const Scalars k = {.keep = (float)(1 - lr * a->decay),
                       .b2 = (float)a->beta2,
                       .w2 = (float)(1 - a->beta2),
                       .weight = from_g ? (float)w1 - 1 : (float)w1,
                       .from_g = from_g,
                       .root2 = (float)sqrt(c2),
                       .eps = (float)a->eps,
                       .rate = (float)(lr / c1)};
    const AdamwChunk chunk = adamw_here();
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t at = 0; at < n; at += CHUNK)
        chunk(&k, MIN(n - at, CHUNK), p + at, g + at, m + at, v + at);
}

/* ---- norm and clipping ------------------------------------------------------------------- */

static double chunk_squares(const float *g, int64_t n)
{
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += (double)g[i + k] * g[i + k];
    for (; i < n; i++)
        lane[i % LANES] += (double)g[i] * g[i];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

double grad_norm(const float *g, int64_t n)
{
    double total = 0, sum[SUMS];
    for (int64_t from = 0; from < n; from += (int64_t)SUMS * CHUNK) {
        const int64_t here = MIN(n - from, (int64_t)SUMS * CHUNK), chunks = (here + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) if (chunks > 1)
        for (int64_t c = 0; c < chunks; c++)
            sum[c] = chunk_squares(g + from + c * CHUNK, MIN(here - c * CHUNK, CHUNK));
        for (int64_t c = 0; c < chunks; c++)
            total += sum[c];
    }
    return sqrt(total);
}

double clip_factor(double norm, double most)
{
    return most > 0 ? fmin(1, most / (norm + 1e-6)) : 1;
}

/* ---- running mean ------------------------------------------------------------------------ */

double ema_decay(const Ema *e, int64_t step)
{
    const double a = (double)(step - e->after - 1);
    if (a <= 0)
        return 0;
    const double ramp = e->warmup ? 1 - pow(1 + a / e->inv_gamma, -e->power) : (1 + a) / (10 + a);
    return fmax(fmin(ramp, e->decay), e->min_decay);
}

void ema_update(double decay, int64_t n, float *shadow, const float *p)
{
    const float share = (float)(1 - decay);
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t end = MIN(n, at + CHUNK);
        if (decay == 0) /* s - (s - p) need not be p */
            memcpy(shadow + at, p + at, (size_t)(end - at) * sizeof *p);
        else
            for (int64_t i = at; i < end; i++)
                shadow[i] -= share * (shadow[i] - p[i]);
    }
}

/* ---- learning-rate schedules ------------------------------------------------------------- */

/* Names as diffusers has them; number: what may stand behind a colon, and what it is without. */
static const struct {
    const char *name;
    int kind;
    const char *number; /* NULL: nothing may */
    double def, min, max;
} schedules[] = {
    {"constant", LR_CONSTANT, NULL, 0, 0, 0},
    {"linear", LR_LINEAR, NULL, 0, 0, 0},
    {"cosine", LR_COSINE, "cycles", 0.5, 0, 1e6},
    {"cosine_with_restarts", LR_RESTARTS, "cycles", 1, 0, 1e6},
    {"polynomial", LR_POLYNOMIAL, "power", 1, 0, 100},
    {"piecewise", LR_PIECEWISE, NULL, 0, 0, 0},
};

static const char *schedule_name(const void *list, int i)
{
    (void)list;
    return schedules[i].name;
}

/* A decimal number at *at that ends at one of `ends` or the text's end; *at then stands there. Read through
 * an option, so that it means the same in every locale. */
static bool read_number(const char **at, const char *ends, double min, double max, double *out)
{
    const gimbal_option option[] = {{.name = "x", .type = GIMBAL_REAL, .min = min, .max = max},
                                    {.name = NULL}};
    char text[40];
    const size_t n = strcspn(*at, ends);
    if (!n || n >= sizeof text)
        return false;
    snprintf(text, sizeof text, "%.*s", (int)n, *at);
    *at += n;
    return !gimbal_set(option, out, "x", text, "", NULL);
}

/* "1:10,0.1:20,0.01": factors, each before a step but the last, which has none. */
static int read_rules(LrSchedule *s, const char *rules, gimbal_error *err)
{
    const char *at = rules, *wrong = NULL;
    s->n_rules = 0;
    for (double factor, before; !wrong;) {
        if (!read_number(&at, ":,", 0, 1e6, &factor)) {
            wrong = "a factor is not a number from 0 to 1000000";
        } else if (!*at) {
            s->last = factor;
            return GIMBAL_OK;
        } else if (*at++ != ':') {
            wrong = "a factor that is not the last needs a step behind it, FACTOR:STEP";
        } else if (s->n_rules == COUNT(s->rule)) {
            wrong = "there are more than 16";
        } else if (!read_number(&at, ",", 1, INT32_MAX, &before) || before != floor(before) ||
                   (s->n_rules && (int64_t)before <= s->rule[s->n_rules - 1].before)) {
            wrong = "steps must be whole numbers that grow";
        } else if (*at++ != ',') {
            wrong = "the last factor is missing";
        } else {
            s->rule[s->n_rules].factor = factor;
            s->rule[s->n_rules++].before = (int64_t)before;
        }
    }
    return fail_hint(err, GIMBAL_EUSAGE,
                     "piecewise:1:1000,0.1:2000,0.01 is 1 before step 1000, then 0.1, ...",
                     "schedule rules '%.80s': %s", rules, wrong);
}

static int unknown_schedule(const char *text, gimbal_error *err)
{
    char known[160] = "", word[40], hint[96] = "";
    for (int i = 0; i < COUNT(schedules); i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 schedules[i].name);
    snprintf(word, sizeof word, "%.*s", (int)strcspn(text, ":"), text);
    const char *near = nearest_name(word, schedule_name, NULL, COUNT(schedules));
    if (near)
        snprintf(hint, sizeof hint, "did you mean '%s'?", near);
    return fail_hint(err, GIMBAL_EUSAGE, hint, "schedule '%.60s' is unknown; there are %s", text, known);
}

int lr_parse(LrSchedule *s, const char *text, int64_t warmup, int64_t total, double lr, gimbal_error *err)
{
    int i = 0;
    const size_t n = strcspn(text, ":");
    while (i < COUNT(schedules) && (strlen(schedules[i].name) != n || memcmp(schedules[i].name, text, n)))
        i++;
    if (i == COUNT(schedules))
        return unknown_schedule(text, err);
    *s = (LrSchedule){.kind = schedules[i].kind, .warmup = warmup, .total = total, .end = 1e-7, .lr = lr};
    if (s->kind == LR_PIECEWISE)
        return read_rules(s, text[n] ? text + n + 1 : "", err);
    double number = schedules[i].def;
    const char *at = text + n + 1;
    if (text[n] && !schedules[i].number)
        return fail(err, GIMBAL_EUSAGE, "schedule '%.60s': nothing may follow %s", text, schedules[i].name);
    if (text[n] && (!read_number(&at, "", schedules[i].min, schedules[i].max, &number) || *at))
        return fail(err, GIMBAL_EUSAGE, "schedule '%.60s': %s after the colon must be %g to %g", text,
                    schedules[i].number, schedules[i].min, schedules[i].max);
    s->cycles = s->power = number;
    if (s->kind == LR_POLYNOMIAL && !(lr > s->end))
        return fail(err, GIMBAL_EUSAGE, "schedule polynomial ends at a learning rate of %g, lr is %g", s->end,
                    lr);
    return GIMBAL_OK;
}

static double piecewise(const LrSchedule *s, int64_t done)
{
    for (int i = 0; i < s->n_rules; i++)
        if (done < s->rule[i].before)
            return s->rule[i].factor;
    return s->last;
}

double lr_factor(const LrSchedule *s, int64_t done)
{
    static const double pi = 3.14159265358979323846;
    if (s->kind == LR_PIECEWISE)
        return piecewise(s, done);
    if (done < s->warmup)
        return (double)done / (double)s->warmup;
    const double span = (double)MAX(1, s->total - s->warmup), q = (double)(done - s->warmup) / span;
    switch (s->kind) {
    case LR_LINEAR:
        return fmax(0, (double)(s->total - done) / span);
    case LR_COSINE:
        return fmax(0, 0.5 * (1 + cos(pi * s->cycles * 2 * q)));
    case LR_RESTARTS:
        return q >= 1 ? 0 : fmax(0, 0.5 * (1 + cos(pi * fmod(s->cycles * q, 1))));
    case LR_POLYNOMIAL:
        return done > s->total ? s->end / s->lr : ((s->lr - s->end) * pow(1 - q, s->power) + s->end) / s->lr;
    default:
        return 1;
    }
}
