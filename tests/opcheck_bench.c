/* opcheck_bench.c: opcheck --bench: the best of a few runs of each case per backend, on all available
 * threads.
 *
 * Prints GFLOP/s where arithmetic dominates and GB/s (inputs read once, result written once) elsewhere. */
#include "tests/opcheck.h"

#include <stdlib.h>
#include <string.h>

static const double BUDGET = 0.3, REF_FLOPS = 3e8; /* seconds a case; what the reference is asked to do */

static double flops_of(const Case *c, const Problem *p)
{
    if (is_product(c->op))
        return 2.0 * (double)row_count(&p->out) * (double)p->in[W0].count;
    double keys = 0;
    for (int i = 0; c->op == OP_ATTN && i < c->n_kv; i++)
        keys += c->in_time ? c->frames : (double)c->L[i];
    return 4.0 * (double)p->in[0].count * keys;
}

/* What the fronts in ops.c say of other ops. */
static double front_flops(const Case *c, const Problem *p)
{
    const double cost = c->op == OP_NORM ? (c->act ? 12 : 8) : c->op == OP_ACT ? 8 : 1;
    const double flops = flops_of(c, p);
    return flops > 0 ? flops : cost * (double)p->in[0].count;
}

/* Seconds of the best run, or -1. */
static double time_call(Cx *cx, const Backend *b, Problem *p, bool backward)
{
    double best = -1, began = seconds_now();
    for (int i = 0; i < 50 && (i < 3 || seconds_now() - began < BUDGET); i++) {
        const double start = seconds_now();
        if (call_run(cx, b, &p->call, backward))
            return -1;
        const double took = seconds_now() - start;
        best = best < 0 ? took : MIN(best, took);
    }
    return best;
}

static void print_time(const Case *c, const Problem *p, const char *backend, double seconds)
{
    char text[256];
    const double flops = flops_of(c, p);
    double bytes = 4.0 * (double)p->out.count;
    for (int i = 0; i < OPERANDS; i++)
        bytes += 4.0 * (double)p->in[i].count;
    case_text(c, text, sizeof text);
    printf("%-64s %-5s %9.3f ms  ", text, backend, seconds * 1e3);
    if (flops > 0)
        printf("%7.1f GFLOP/s\n", flops / seconds * 1e-9);
    else
        printf("%7.1f GB/s\n", bytes / seconds * 1e-9);
    fflush(stdout);
}

int bench(const char *filter)
{
    int failed = 0;
    for (int i = 0; i < bench_count(); i++) {
        const Case c = bench_at(i);
        char text[256];
        Problem p;
        gimbal_error err = {0};
        Cx cx = {0};
        case_text(&c, text, sizeof text);
        if (filter && !strstr(text, filter))
            continue;
        cx_init(&cx, cpu_chain(), 0, &err);
        const bool made = problem_make(&p, &c);
        p.call.flops = front_flops(&c, &p);
        for (const Backend *const *b = cpu_chain(); made && *b; b++) {
            if (!(*b)->forward[c.op] || !(*b)->supports(&cx, &p.call, false))
                continue;
            if (!strcmp((*b)->name, "ref") && flops_of(&c, &p) > REF_FLOPS)
                continue;
            const double seconds = time_call(&cx, *b, &p, false);
            failed += seconds < 0;
            print_time(&c, &p, (*b)->name, seconds);
        }
        failed += !made;
        problem_free(&p);
        cx_free(&cx);
    }
    return failed != 0;
}
