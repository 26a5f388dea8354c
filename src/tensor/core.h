/* core.h: what the files of tensor/ share and nobody else sees: how a checked call becomes a tensor.
 *
 * An operator's front (ops.c) checks shapes, fills a Call and hands it to issue(). What happens then is the
 * mode's business: eager runs it, dry writes it into the plan, run compares it with the plan and runs it at
 * its place. The tape (tape.c) hands in backward calls and gradient buffers by the same door, so that they
 * are planned alike. */
#ifndef CORE_H
#define CORE_H

#include "tensor/backend.h"

enum { EAGER, DRY, RUN }; /* Cx.mode */

/* What one step of a run does: an op, an op's backward kernel, or the birth of a gradient buffer (zeroed). */
typedef enum { FORWARD, BACKWARD, GRADIENT } Way;

enum { CALL_TENSORS = 2 * MAX_KV + 3, CALL_WEIGHTS = 3 };

/* ---- tensor.c ---------------------------------------------------------------------------- */

/* A dense tensor without data, from the arena of the current mode. Impossible sizes are an error. */
Tensor *header(Cx *, DType, int nd, const int64_t *n);
/* The same from a given arena. */
Tensor *header_in(Cx *, Arena *, DType, int nd, const int64_t *n);
size_t tensor_bytes(const Tensor *); /* of an owner */
bool tensor_finite(const Tensor *);

static inline Tensor *owner(const Tensor *t)
{
    return t->base ? t->base : (Tensor *)t;
}

/* Bytes from the owner's first element to t's. Holds in a dry run too, where owners lie at address 0. */
static inline size_t view_offset(const Tensor *t)
{
    return (uintptr_t)t->d - (uintptr_t)owner(t)->d;
}

/* True when work must stop: an earlier error, or cancelled (which becomes the error). */
bool halted(Cx *);

/* A shape as text, "[2,64,64,320]", by value so that it can stand in an argument list. */
typedef struct {
    char s[96];
} Text;
Text shape_text(int nd, const int64_t *n);

/* ---- call.c ------------------------------------------------------------------------------ */

/* Inputs of a call in a fixed order, without NULLs: in[], epi.row, epi.add. Returns how many. */
int call_tensors(const Call *, Tensor *out[CALL_TENSORS]);
int call_weights(const Call *, Weight *out[CALL_WEIGHTS]);
/* Whether input t of the call can have a gradient at all (the target of mse and ids cannot). */
bool call_grows(const Call *, const Tensor *t);
/* What backward kernels of an op read besides out's gradient and weights; the rest may be dead by then. */
enum { READS_IN = 1, READS_OUT = 2 };
int backward_reads(OpCode);
/* The first backend of the chain that does this call; sets call->scratch. NULL with an error. */
const Backend *call_choose(Cx *, Call *, bool backward);
/* What differs between two calls, or NULL. places: weights and memory count too, not only shapes. */
const char *call_difference(const Call *, const Call *, bool places);
/* "conv2d [2,8,8,4]x[32,4,3,3] conv_in.weight" */
int call_text(const Call *, Way, char *out, size_t room);
/* Runs one direction with memory for `scratch` that lives during the call. */
int call_execute(Cx *, const Backend *, Call *, bool backward);
/* With cx->watch: fails when the call's output is not finite. number: of the call in its run, or -1; before:
 * the last weight met, for ops that have none. */
int call_watch(Cx *, const Call *, int number, const Weight *before);

/* ---- plan.c ------------------------------------------------------------------------------ */

/* Checks, allocates out, runs or plans, records on the tape. call->out is a header without data. */
Tensor *issue(Cx *, Call *);
/* The same without tape. Returns 0 or the error's code. */
int perform(Cx *, Call *, Way);
/* Whether input tensor t got its gradient buffer in this run; and the note that it did. */
bool plan_fed(const Plan *, const Tensor *t);
int plan_feed(Cx *, Tensor *t);
Arena *plan_headers(Cx *);

typedef struct {
    Call call; /* as met in the dry run; its tensors stay with the plan */
    Way way;
    const Backend *backend; /* NULL: GRADIENT */
    int out, scratch;       /* slots, or -1 */
    double seconds;         /* that its runs took, all together */
    int runs;
} Step;
int plan_steps(const Plan *, const Step **);
bool plan_bf16(const Plan *); /* its kernels were chosen for, and run with, cx->bf16 */

/* ---- pack.c ------------------------------------------------------------------------------ */

/* Memory that lives over steps [first, last]; last may lie beyond the run. */
typedef struct {
    size_t bytes, offset; /* bytes: a multiple of SLOT_ALIGN */
    int first, last;
    const Tensor *tensor; /* of the dry run; NULL: scratch */
} Slot;
enum { SLOT_ALIGN = 64 };

/* Gives offsets to all slots. *bytes: of the whole block; *bound: the largest sum alive at one step. false:
 * no memory for the tables. */
bool pack_slots(Slot *, int n, int n_steps, size_t *bytes, size_t *bound);

/* ---- tape.c ------------------------------------------------------------------------------ */

int tape_record(Cx *, const Call *);

#endif
