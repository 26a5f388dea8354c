/* epilogue.c: what follows x*w in a convolution or linear, for the backends that make x*w alone (dnn, ref):
 *
 *     y = act(z + bias + row[r / row_per]) * scale + add          GEGLU: value half times GELU of the gate
 * half
 *
 * z [rows, wide]; y [rows, C] with C = wide, or half of it for GEGLU. Activations are the reference's own, in
 * double: this is for the plain path, not the fast one (vec/epilogue.h).
 *
 * Knows Epi. Refuses to know where z came from; it may be the result's own memory. */
#include "tensor/cpu/ref.h"

/* What one row adds; each may be NULL. */
typedef struct {
    const float *bias, *row, *add;
} Terms;

static float sum_at(const float *z, const Terms *t, int64_t c)
{
    return z[c] + (t->bias ? t->bias[c] : 0) + (t->row ? t->row[c] : 0);
}

static void plain_row(const float *z, const Terms *t, float scale, int64_t C, float *y)
{
    for (int64_t c = 0; c < C; c++)
        y[c] = sum_at(z, t, c) * scale + (t->add ? t->add[c] : 0);
}

static void act_row(Act act, const float *z, const Terms *t, float scale, int64_t C, float *y)
{
    for (int64_t c = 0; c < C; c++) {
        double a = sum_at(z, t, c);
        a = act == ACT_GEGLU ? a * act_value(ACT_GELU, sum_at(z, t, C + c)) : act_value(act, a);
        y[c] = (float)(a * scale + (t->add ? t->add[c] : 0));
    }
}

void epilogue_rows(const Call *call, const float *z, int64_t ldz, int64_t r0, int64_t n, const float *bias)
{
    const Epi *e = &call->epi;
    const float scale = e->scale != 0 ? e->scale : 1;
    const int64_t C = tensor_channels(call->out);
    if (!bias && !e->row && !e->add && e->act == ACT_NONE && scale == 1 && z == row_at(call->out, r0))
        return;
    for (int64_t r = r0; r < r0 + n; r++, z += ldz) {
        const Terms t = {bias, e->row ? row_at(e->row, r / e->row_per) : NULL,
                         e->add ? row_at(e->add, r) : NULL};
        if (e->act == ACT_NONE)
            plain_row(z, &t, scale, C, row_at(call->out, r));
        else
            act_row(e->act, z, &t, scale, C, row_at(call->out, r));
    }
}
