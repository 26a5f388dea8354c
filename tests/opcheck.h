/* opcheck.h: what the files of opcheck share: a case of its table, and the case as data. */
#ifndef OPCHECK_H
#define OPCHECK_H

#include "tensor/backend.h"

/* What an operand holds. PLAIN: multiples of 1/64 up to 1, exact in float32, F16 and BF16; FINE: any float32
 * up to 1, as its type stores it; LARGE: up to 1e4; OFFSET: 1e4 and a little; DENORMAL: of its type. */
typedef enum { PLAIN, FINE, LARGE, OFFSET, DENORMAL } Values;

/* One line of the table. Sizes that an op does not use stay 0. */
typedef struct {
    OpCode op;
    int64_t x[4]; /* shape of the first input, zeros behind it */
    int64_t O, kh, kw;
    int stride, pad[4];
    int gap; /* channels around every input: row stride = channels + gap */
    Act act;
    bool bias, row, add;
    float scale;
    int64_t per; /* rows per row of `row` and of OP_ROWS; frames per statistic */
    int groups;
    int heads, frames, n_kv; /* frames: of a clip, for convt, rotate and first too */
    bool in_time, causal;
    KvMap map[MAX_KV];
    int width;         /* of a line of positions, for KV_WINDOW */
    int64_t L[MAX_KV]; /* keys of each set (space) */
    int64_t more;      /* channels of concat's second input; rows of OP_ROWS; rows of a table; frequencies;
                          1: weights of OP_MSE */
    int64_t H2, W2;    /* resize */
    bool no_ids;
    DType type; /* of weights in the file; shift: bytes off alignment; own: float32 in `own` instead */
    int shift;
    bool own;
    Values x_values, w_values; /* of tensors; of weights */
    bool bf16;                 /* Cx.bf16: checked against the truth on inputs rounded to bf16 */
    bool ref_only;             /* no vec kernel is expected */
    double loose;              /* factor on the tolerances; 0: 1 */
} Case;

/* How most convolutions begin. */
#define CONV OP_CONV2D, .kh = 3, .kw = 3, .stride = 1, .pad = {1, 1, 1, 1}
#define CONV1 OP_CONV2D, .kh = 1, .kw = 1, .stride = 1
#define CONVT OP_CONVT, .kh = 3, .kw = 1

enum { W0 = 2 * MAX_KV + 1, W1, BIAS, ROW, ADD, OPERANDS };

/* An input or a parameter: its values in double, and as backends see it. */
typedef struct {
    int64_t n[MAX_DIMS], count;
    int nd;
    double *v; /* NULL: not used. Exactly representable in what the backends read */
    Tensor t, owner, grad;
    Weight w;
    float *data, *gdata;
    char *raw;
    bool grows;
} Operand;

typedef struct {
    Case c;
    Operand in[OPERANDS], out;
    int32_t *ids;
    Call call;
} Problem;

/* problem.c */
bool problem_make(Problem *, const Case *);
/* For timing: keeps only what backends read. */
void problem_slim(Problem *);
void problem_free(Problem *);
/* "conv2d [2,9,7,5]x[7,5,3,3] s1 p1,1,1,1 bias silu F16" */
void case_text(const Case *, char *out, size_t room);
int64_t row_count(const Operand *);
double uniform(void); /* -1..1, the same sequence in every run of the program */

/* Convolutions and linears: x*w with an epilogue. */
static inline bool is_product(OpCode op)
{
    return op == OP_CONV2D || op == OP_CONVT || op == OP_LINEAR;
}

/* truth.c: the op in float64, written from the formulas of tensor.h alone */
void truth(const Problem *, double *out);

/* table.c: cases that mean something; hostile.c: families of unpleasant ones */
int case_count(void);
Case case_at(int i);
int hostile_count(void);
Case hostile_at(int i);

/* "vec/avx2" */
const char *backend_label(const Backend *);
/* Its word for how it does the call, "" when it has none. */
const char *backend_method(const Backend *, const Cx *, const Call *);

/* bench.c */
int bench(const char *filter, bool back);

#endif
