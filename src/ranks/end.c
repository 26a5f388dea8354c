/* end.c: how ranks end: all together, with one message, whichever rank failed.
 *
 * A rank that fails by itself sends FAIL to all others, who hear it wherever they wait and give up; then all
 * ranks come here and tell each other their outcome (END), so that all know the same. A rank that dies
 * otherwise is mpirun's to notice: it ends the job. Refuses to know what failed. */
#include "ranks/mpi.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Alike on all machines of a job: one program, one kind of processor. */
static int send_report(Mpi *m, const Report *report, int to, int tag, MPI_Request *link)
{
    return mpi_check(m, MPI_Isend(report, (int)sizeof *report, MPI_BYTE, to, tag, m->comm, link), "ending");
}

void mpi_adopt(gimbal_error *err, const Report *report, int rank, int size)
{
    char who[48] = "";
    if (rank)
        snprintf(who, sizeof who, "rank %d of %d: ", rank, size);
    fail_hint(err, report->code, report->hint, "%s%s", who, report->msg);
}

bool mpi_listen(Mpi *m)
{
    int there = 0;
    MPI_Status status;
    Report report;
    if (m->size == 1 || MPI_Iprobe(MPI_ANY_SOURCE, TAG_FAIL, m->comm, &there, &status) != MPI_SUCCESS ||
        !there)
        return m->broken.code != 0;
    const int from = status.MPI_SOURCE;
    m->told[from] = true;
    if (mpi_check(m,
                  MPI_Recv(&report, (int)sizeof report, MPI_BYTE, from, TAG_FAIL, m->comm, MPI_STATUS_IGNORE),
                  "listening"))
        return true;
    m->heard |= !m->broken.code;
    mpi_adopt(&m->broken, &report, from, m->size);
    return true;
}

static bool pending(const Mpi *m)
{
    bool any = m->first < m->n_sums;
    for (int i = 0; i < SLOTS; i++)
        any |= m->blocks[i].stage != FREE;
    return any;
}

static Report report_of(const Mpi *m, int code, const gimbal_error *err)
{
    Report report;
    memset(&report, 0, sizeof report);
    report.pending = pending(m);
    report.code = m->heard ? GIMBAL_OK : code;
    if (report.code && err) {
        memcpy(report.msg, err->msg, sizeof report.msg);
        memcpy(report.hint, err->hint, sizeof report.hint);
    }
    return report;
}

/* Everybody's report to everybody: all [size], own included. links [3 size]: of FAIL, END, and receiving. */
static int meet(Mpi *m, Report *all, MPI_Request *links)
{
    const Report *own = &all[m->rank];
    int n = 0, arrived = 0;
    for (int r = 0; r < m->size; r++) {
        if (r == m->rank)
            continue;
        if (own->code)
            TRY(send_report(m, own, r, TAG_FAIL, &links[n++]));
        TRY(send_report(m, own, r, TAG_END, &links[n++]));
        TRY(mpi_check(m, MPI_Irecv(&all[r], (int)sizeof *all, MPI_BYTE, r, TAG_END, m->comm, &links[n++]),
                      "ending"));
    }
    for (int idle = 0; !arrived; idle++) {
        mpi_listen(m); /* a FAIL that crossed ours */
        TRY(mpi_check(m, MPI_Testall(n, links, &arrived, MPI_STATUSES_IGNORE), "ending"));
        mpi_rest(idle);
    }
    for (int r = 0; r < m->size; r++)
        while (r != m->rank && all[r].code && !m->told[r])
            mpi_listen(m);
    return GIMBAL_OK;
}

/* rank 0 ends the process, and mpirun, which notices, the others: until then they keep quiet. */
static void wait_for_the_end(void)
{
    const struct timespec patience = {10, 0};
    nanosleep(&patience, NULL);
}

static void mpi_free(Mpi *m)
{
    for (int i = 0; i < SLOTS; i++) {
        free(m->blocks[i].links);
        free(m->blocks[i].parts);
    }
    free(m->sums);
    free(m->told);
    free(m);
}

/* Whose words count: the lowest rank that failed; one that only gave up counts less. -1: all went well. */
static int speaker(const Report *all, int size)
{
    int best = -1;
    for (int r = 0; r < size; r++)
        if (all[r].code && (best < 0 || (all[best].code == GIMBAL_ECANCEL && all[r].code != GIMBAL_ECANCEL)))
            best = r;
    return best;
}

/* What all ranks know now becomes this rank's outcome. */
static int conclude(Mpi *m, const Report *all, gimbal_error *err)
{
    bool clean = true;
    const int who = speaker(all, m->size), code = who < 0 ? GIMBAL_OK : all[who].code;
    err->code = 0;
    for (int r = 0; r < m->size; r++)
        clean &= !all[r].pending;
    if (code)
        mpi_adopt(err, &all[who], who, m->size);
    if (!clean && m->rank)
        wait_for_the_end();
    if (!clean)
        return code;
    MPI_Comm_free(&m->machine);
    MPI_Comm_free(&m->comm);
    MPI_Finalize();
    mpi_free(m);
    return code;
}

int ranks_end(gimbal_ranks *r, int code, gimbal_error *err)
{
    Mpi *m = r->self;
    gimbal_error own = {0};
    if (!m)
        return code;
    err = err ? err : &own;
    r->self = NULL;
    Report *all = calloc((size_t)m->size, sizeof *all);
    MPI_Request *links = calloc(3 * (size_t)m->size, sizeof *links);
    if (all && links) {
        all[m->rank] = report_of(m, code, err);
        if (!meet(m, all, links))
            code = conclude(m, all, err);
        else
            code = fail_hint(err, m->broken.code, m->broken.hint, "%s", m->broken.msg);
    }
    free(all);
    free(links);
    return code;
}
