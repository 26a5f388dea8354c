/* opcheck.c: checks every operator on every CPU backend, and times them.
 *
 *     opcheck [NAME]            cases whose line contains NAME, all without
 *     opcheck --bench [NAME]
 *     opcheck --bench-back [NAME]
 *     opcheck --isas            the instruction sets of vec that this CPU runs, one a line
 *
 * For each case (opcheck_table.c, opcheck_hostile.c) and each backend that takes it, vec once for every
 * instruction set that this CPU runs:
 *   forward    against float64 loops written here (opcheck_truth.c)
 *   gradients  of sum(out * g), g random, against central differences of the float64 loops, at sampled
 *              entries; kernels must add to what gradients hold and touch nothing between a view's channels
 *   threads    1, 2 and 3 threads must give the same bytes, in both directions
 * and vec must take every forward but those the table leaves to the reference, dnn every product: falling
 * back is a failure. Gradients are checked where values are plain: differences mean little elsewhere.
 *
 * A line per case: what, then per backend its error relative to the rms of the truth ("+" forward, "d"
 * gradient). */
#include "tests/opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the largest error, by the rms of the truth. Winograd multiplies sums of inputs by sums of weights and
 * takes up to 64 times such products apart again: its rms error is 2e-6 with 64 input channels and 8e-6 with
 * 1280 (a plain sum's: 7e-7), and in the corner of its tiles errors are ten times that. So its rms is held to
 * WINOGRAD_RMS as well. bf16 keeps 8 bits of a softmax's weights. */
static const double FORWARD_TOLERANCE = 2e-6, WINOGRAD_TOLERANCE = 3e-5, WINOGRAD_RMS = 1e-5,
                    BF16_TOLERANCE = 2e-2;
static const double BACKWARD_TOLERANCE = 2e-5, STEP = 1e-4;
static const float HELD = 0.25f; /* what gradients hold before */
enum { SAMPLES = 6, THREADS = 3 };

/* Entries of an operand whose gradient is known from differences. */
typedef struct {
    int64_t at[SAMPLES];
    double slope[SAMPLES], size; /* size: rms of the slopes */
    int n;
} Slopes;

typedef struct {
    Problem p;
    double *truth, *g; /* of out */
    float *first;
    Slopes slopes[OPERANDS];
    char line[4096];
    size_t used;
    bool failed;
} Check;

static void note(Check *k, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void note(Check *k, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(k->line + k->used, sizeof k->line - k->used, fmt, args);
    va_end(args);
    k->used = MIN(k->used + (size_t)MAX(n, 0), sizeof k->line - 1);
}

/* Notes the failure behind the line. */
#define REQUIRE(k, condition, ...)                                                                           \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            (k)->failed = true;                                                                              \
            note(k, "  FAILED: " __VA_ARGS__);                                                               \
        }                                                                                                    \
    } while (0)

static double rms(const double *v, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i] * v[i];
    return sqrt(sum / (double)n);
}

/* The largest error relative to the rms of the truth, least: where that is 0; NaN when the result has one. */
static double error_of(const float *got, const double *want, int64_t n, double least)
{
    const double size = fmax(rms(want, n), least);
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs(got[i] - want[i]) / size;
        worst = e <= worst ? worst : e;
    }
    return worst;
}

/* sum(out * g) in float64 */
static double loss(Check *k, double *room)
{
    double sum = 0;
    truth(&k->p, room);
    for (int64_t i = 0; i < k->p.out.count; i++)
        sum += room[i] * k->g[i];
    return sum;
}

/* Six entries of each operand, fewer where the truth takes long: one more costs two evaluations. */
static int64_t sample_count(const Problem *p)
{
    double terms = (double)p->in[0].count;
    if (p->in[W0].v && p->c.op != OP_NORM && p->c.op != OP_EMBED)
        terms = (double)row_count(&p->out) * (double)p->in[W0].count;
    for (int set = 0; set < p->c.n_kv; set++)
        terms += (double)p->in[0].count * (double)row_count(&p->in[1 + 2 * set]);
    return MAX(2, MIN(SAMPLES, (int64_t)(3e6 / terms)));
}

static void find_slopes(Check *k, double *room)
{
    const int64_t wanted = sample_count(&k->p);
    for (int i = 0; i < OPERANDS; i++) {
        Operand *o = &k->p.in[i];
        Slopes *s = &k->slopes[i];
        for (s->n = 0; o->v && o->grows && s->n < MIN(wanted, o->count); s->n++) {
            const int64_t at = s->n == 0 ? o->count - 1 : (int64_t)((uniform() + 1) / 2 * (double)o->count);
            const double was = o->v[at];
            o->v[at] = was + STEP;
            const double up = loss(k, room);
            o->v[at] = was - STEP;
            const double down = loss(k, room);
            o->v[at] = was;
            s->at[s->n] = at, s->slope[s->n] = (up - down) / (2 * STEP);
        }
        s->size = s->n ? rms(s->slope, s->n) : 0;
    }
}

static bool is_plain(const Case *c)
{
    return !c->x_values && !c->w_values && !c->bf16;
}

static bool prepare(Check *k, const Case *c)
{
    *k = (Check){.used = 0};
    if (!problem_make(&k->p, c))
        return false;
    k->p.call.flops = 1e12; /* small as they are, cases shall run on all threads */
    const size_t n = (size_t)k->p.out.count;
    double *room = calloc(n, sizeof *room);
    k->truth = calloc(n, sizeof(double)), k->g = calloc(n, sizeof(double));
    k->first = calloc(n, sizeof(float));
    const bool made = room && k->truth && k->g && k->first;
    for (size_t i = 0; made && i < n; i++)
        k->g[i] = k->p.out.v[i];
    if (made) {
        truth(&k->p, k->truth);
        if (is_plain(c))
            find_slopes(k, room);
    }
    free(room);
    return made;
}

static void clean(Check *k)
{
    problem_free(&k->p);
    free(k->truth);
    free(k->g);
    free(k->first);
}

static bool run(Check *k, const Backend *b, int threads, bool backward)
{
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), threads, &err);
    cx.bf16 = k->p.c.bf16;
    const int code = call_run(&cx, b, &k->p.call, backward);
    REQUIRE(k, !code, "%s %s: %s", backend_label(b), backward ? "backward" : "forward", err.msg);
    cx_free(&cx);
    return !code;
}

const char *backend_label(const Backend *b)
{
    static char label[32];
    snprintf(label, sizeof label, "%s%s%s", b->name, b->isa ? "/" : "", b->isa ? b->isa : "");
    return label;
}

const char *backend_method(const Backend *b, const Cx *cx, const Call *call)
{
    double flops;
    return b->method ? b->method(cx, call, &flops) : "";
}

/* The error's rms relative to that of the truth. */
static double rms_error(const Check *k)
{
    double sum = 0;
    for (int64_t i = 0; i < k->p.out.count; i++)
        sum += pow((double)k->first[i] - k->truth[i], 2);
    return sqrt(sum / (double)k->p.out.count) / fmax(rms(k->truth, k->p.out.count), 1e-6);
}

static double tolerance_of(const Case *c, const char *method)
{
    const double loose = c->loose > 0 ? c->loose : 1;
    if (strstr(method, "winograd"))
        return WINOGRAD_TOLERANCE * loose;
    return (strstr(method, "bf16") && c->op == OP_ATTN ? BF16_TOLERANCE : FORWARD_TOLERANCE) * loose;
}

static void check_forward(Check *k, const Backend *b, const char *method)
{
    const Operand *out = &k->p.out;
    const size_t bytes = (size_t)out->count * sizeof(float);
    const double tolerance = tolerance_of(&k->p.c, method);
    const bool tiny = k->p.c.x_values == DENORMAL || k->p.c.w_values == DENORMAL;
    for (int threads = 1; threads <= THREADS; threads++) {
        memset(out->data, 0xff, bytes); /* NaN: every value must be written */
        if (!run(k, b, threads, false))
            return;
        if (threads == 1)
            memcpy(k->first, out->data, bytes);
        else
            REQUIRE(k, !memcmp(k->first, out->data, bytes), "%s: %d threads give other bytes",
                    backend_label(b), threads);
    }
    const double e = error_of(k->first, k->truth, out->count, tiny ? 1e-40 : 1e-6);
    note(k, "  %s +%.1e", backend_label(b), e);
    REQUIRE(k, e <= tolerance, "tolerance %.1e", tolerance);
    if (strstr(method, "winograd") && !tiny)
        REQUIRE(k, rms_error(k) <= WINOGRAD_RMS, "rms %.1e, tolerance %.1e", rms_error(k), WINOGRAD_RMS);
}

/* Element `at` of an operand's gradient, without what it held. */
static double gradient_at(const Operand *o, bool is_weight, int64_t at)
{
    if (is_weight)
        return (double)o->gdata[at] - (double)HELD;
    const int64_t C = o->t.n[o->t.nd - 1], from = (float *)o->t.d - o->data;
    return (double)o->gdata[at / C * o->t.ld + from + at % C] - (double)HELD;
}

static int64_t gradient_count(const Operand *o, bool is_weight)
{
    return is_weight || !o->t.nd ? o->count : row_count(o) * o->t.ld;
}

static bool between_untouched(const Operand *o)
{
    const int64_t C = o->t.n[o->t.nd - 1], from = (float *)o->t.d - o->data;
    for (int64_t i = 0; i < row_count(o) * o->t.ld; i++) {
        const int64_t c = i % o->t.ld - from;
        if ((c < 0 || c >= C) && o->gdata[i] != HELD)
            return false;
    }
    return true;
}

static uint64_t hash_gradients(const Check *k)
{
    uint64_t h = 1469598103934665603ull;
    for (int i = 0; i < OPERANDS; i++) {
        const Operand *o = &k->p.in[i];
        const bool is_weight = i == W0 || i == W1 || i == BIAS;
        for (int64_t j = 0; o->v && j < gradient_count(o, is_weight) * 4; j++)
            h = (h ^ ((const uint8_t *)o->gdata)[j]) * 1099511628211ull;
    }
    return h;
}

static void reset_gradients(Check *k)
{
    for (int i = 0; i < OPERANDS; i++) {
        Operand *o = &k->p.in[i];
        for (int64_t j = 0; o->v && j < gradient_count(o, i == W0 || i == W1 || i == BIAS); j++)
            o->gdata[j] = HELD;
    }
    for (int64_t i = 0; i < k->p.out.count; i++)
        k->p.out.gdata[i] = (float)k->g[i];
}

static void check_backward(Check *k, const Backend *b)
{
    uint64_t first = 0;
    for (int threads = 1; threads <= THREADS; threads++) {
        reset_gradients(k);
        if (!run(k, b, threads, true))
            return;
        first = threads == 1 ? hash_gradients(k) : first;
        REQUIRE(k, first == hash_gradients(k), "%s gradients: %d threads give other bytes", b->name, threads);
    }
    double worst = 0;
    for (int i = 0; i < OPERANDS; i++) {
        const Operand *o = &k->p.in[i];
        const Slopes *s = &k->slopes[i];
        const bool is_weight = i == W0 || i == W1 || i == BIAS;
        for (int j = 0; j < s->n; j++) {
            const double e = fabs(gradient_at(o, is_weight, s->at[j]) - s->slope[j]) / fmax(s->size, 0.1);
            worst = e <= worst ? worst : e;
        }
        if (o->v && !is_weight)
            REQUIRE(k, between_untouched(o), "%s: gradient of operand %d written between channels", b->name,
                    i);
    }
    const double tolerance = BACKWARD_TOLERANCE * (k->p.c.loose > 0 ? k->p.c.loose : 1);
    note(k, " d%.1e", worst);
    REQUIRE(k, worst <= tolerance, "tolerance %.1e", tolerance);
}

/* Whether the backend does this direction; *method: its word for how it does the forward. */
static bool takes(const Check *k, const Backend *b, bool backward, const char **method)
{
    Call call = k->p.call;
    Cx cx = {.threads = THREADS, .bf16 = k->p.c.bf16};
    if (!(backward ? b->backward : b->forward)[call.op] || !b->supports(&cx, &call, backward))
        return false;
    *method = backend_method(b, &cx, &call);
    return true;
}

static void check_backend(Check *k, const Backend *b, bool expected)
{
    const char *method = "";
    if (!takes(k, b, false, &method)) {
        REQUIRE(k, !expected, "%s does not take it", backend_label(b));
    } else if (!k->p.c.bf16) {
        check_forward(k, b, method);
    } else if (b->isa) { /* the others multiply what they are given */
        REQUIRE(k, strstr(method, "bf16"), "%s: no bf16, but %s", backend_label(b), method);
        check_forward(k, b, method);
    }
    if (is_plain(&k->p.c) && takes(k, b, true, &method))
        check_backward(k, b);
}

static void check_all(Check *k)
{
    const Case *c = &k->p.c;
    const Backend *b;
    check_backend(k, &backend_ref, true);
    check_backend(k, &backend_dnn, is_product(c->op));
    for (int i = 0; (b = vec_backend(i)) != NULL; i++)
        check_backend(k, b, !c->ref_only);
}

/* Ids come from outside: one beyond the table is an error with both numbers, not a read. */
static bool embed_refuses_ids_outside_the_table(void)
{
    bool good = true;
    for (int32_t id = -1; id <= 31; id += 32) {
        Problem p;
        gimbal_error err = {0};
        Cx cx = {0};
        const Case c = {OP_EMBED, .x = {3, 5}, .more = 31};
        cx_init(&cx, cpu_chain(), 1, &err);
        char wanted[16];
        snprintf(wanted, sizeof wanted, "id %d ", id);
        if (!problem_make(&p, &c))
            good = false;
        else
            p.ids[1] = id, good &= call_run(&cx, &backend_ref, &p.call, false) == GIMBAL_EMODEL;
        good = good && strstr(err.msg, wanted) && strstr(err.msg, "0 to 30") && strstr(err.msg, "case.table");
        problem_free(&p);
        cx_free(&cx);
    }
    printf("embed refuses ids outside the table: %s\n", good ? "ok" : "FAILED");
    return good;
}

static int print_isas(void)
{
    const Backend *b;
    for (int i = 0; (b = vec_backend(i)) != NULL; i++)
        printf("%s\n", b->isa);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--isas"))
        return print_isas();
    if (argc > 1 && (!strcmp(argv[1], "--bench") || !strcmp(argv[1], "--bench-back")))
        return bench(argc > 2 ? argv[2] : NULL, !strcmp(argv[1], "--bench-back"));
    int passed = 0, failed = 0;
    for (int i = 0; i < case_count() + hostile_count(); i++) {
        const Case c = i < case_count() ? case_at(i) : hostile_at(i - case_count());
        char text[256];
        Check k;
        case_text(&c, text, sizeof text);
        if (argc > 1 && !strstr(text, argv[1]))
            continue;
        if (prepare(&k, &c))
            check_all(&k);
        else
            REQUIRE(&k, false, "no memory");
        printf("%-62s%s\n", text, k.line);
        k.failed ? failed++ : passed++;
        clean(&k);
    }
    if (argc < 2 || strstr("embed refuses ids", argv[1]))
        embed_refuses_ids_outside_the_table() ? passed++ : failed++;
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
