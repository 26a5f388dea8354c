/* mpi.c: sums over ranks with MPI, point to point.
 *
 *     block [n] = part 0 | part 1 | ... | part R-1          part r: values [n r / R, n (r+1) / R)
 *     SCATTER   every rank sends part r of its block to rank r
 *               rank r: part r = sum over ranks 0, 1, ... R-1, in this order
 *     GATHER    rank r sends part r to every rank
 *
 * MPI's own reductions may choose another order by size, load or library; these sums are the same bits in
 * every run. Blocks start in the order in which sums were begun, the same on all ranks, SLOTS of them under
 * way at a time; everything is nonblocking and moves on whenever somebody polls or waits, because MPI
 * libraries progress inside calls only. Whoever waits also listens for a rank that failed (end.c), so that no
 * rank waits for one that will not come. Refuses to know what the sums mean. */
#include "ranks/mpi.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static size_t width(bool wide)
{
    return wide ? sizeof(double) : sizeof(float);
}

static MPI_Datatype type_of(bool wide)
{
    return wide ? MPI_DOUBLE : MPI_FLOAT;
}

int mpi_check(Mpi *m, int mpi_code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;
    if (mpi_code == MPI_SUCCESS)
        return GIMBAL_OK;
    MPI_Error_string(mpi_code, text, &n);
    return fail(&m->broken, GIMBAL_EIO, "MPI, %s: %s", what, text);
}

void mpi_rest(int idle)
{
    static const struct timespec nap = {0, 50000};
    if (idle < 1000)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

/* ---- blocks ------------------------------------------------------------------------------ */

static int part_begin(const Block *b, int rank, int size)
{
    return (int)((int64_t)b->n * rank / size);
}

static int part_count(const Block *b, int rank, int size)
{
    return part_begin(b, rank + 1, size) - part_begin(b, rank, size);
}

static char *part_at(const Block *b, int rank, int size)
{
    return b->x + (size_t)part_begin(b, rank, size) * width(b->wide);
}

/* Sends and receives n values if there are any. */
static void send_part(Mpi *m, Block *b, const void *x, int n, int to)
{
    if (n && to != m->rank && !m->broken.code)
        mpi_check(m,
                  MPI_Isend(x, n, type_of(b->wide), to, b->tag + (b->stage == GATHER), m->comm,
                            &b->links[b->n_links++]),
                  "sending a sum");
}

static void receive_part(Mpi *m, Block *b, void *x, int n, int from)
{
    if (n && from != m->rank && !m->broken.code)
        mpi_check(m,
                  MPI_Irecv(x, n, type_of(b->wide), from, b->tag + (b->stage == GATHER), m->comm,
                            &b->links[b->n_links++]),
                  "receiving a sum");
}

static void begin_scatter(Mpi *m, Block *b)
{
    const int mine = part_count(b, m->rank, m->size);
    b->stage = SCATTER;
    b->n_links = 0;
    for (int r = 0; r < m->size; r++)
        receive_part(m, b, b->parts + (size_t)r * (size_t)mine * width(b->wide), mine, r);
    for (int r = 0; r < m->size; r++)
        send_part(m, b, part_at(b, r, m->size), part_count(b, r, m->size), r);
}

static void begin_gather(Mpi *m, Block *b)
{
    const int mine = part_count(b, m->rank, m->size);
    b->stage = GATHER;
    b->n_links = 0;
    for (int r = 0; r < m->size; r++)
        receive_part(m, b, part_at(b, r, m->size), part_count(b, r, m->size), r);
    for (int r = 0; r < m->size; r++)
        send_part(m, b, part_at(b, m->rank, m->size), mine, r);
}

/* In the order of ranks, from the first value on: x + 0 is not always x. */
static void sum_floats(const Mpi *m, float *x, const float *parts, int n)
{
    for (int i = 0; i < n; i++) {
        double sum = m->rank == 0 ? x[i] : parts[i];
        for (int r = 1; r < m->size; r++)
            sum += r == m->rank ? x[i] : parts[(size_t)r * (size_t)n + (size_t)i];
        x[i] = (float)sum;
    }
}

static void sum_doubles(const Mpi *m, double *x, const double *parts, int n)
{
    for (int i = 0; i < n; i++) {
        double sum = m->rank == 0 ? x[i] : parts[i];
        for (int r = 1; r < m->size; r++)
            sum += r == m->rank ? x[i] : parts[(size_t)r * (size_t)n + (size_t)i];
        x[i] = sum;
    }
}

/* Moves one block on; true: something happened. */
static bool advance(Mpi *m, Block *b)
{
    int arrived = 0;
    const int mine = part_count(b, m->rank, m->size);
    if (mpi_check(m, MPI_Testall(b->n_links, b->links, &arrived, MPI_STATUSES_IGNORE), "waiting for a sum") ||
        !arrived)
        return false;
    b->n_links = 0;
    if (b->stage == GATHER) {
        b->stage = FREE;
        return true;
    }
    if (b->wide)
        sum_doubles(m, (double *)part_at(b, m->rank, m->size), (const double *)b->parts, mine);
    else
        sum_floats(m, (float *)part_at(b, m->rank, m->size), (const float *)b->parts, mine);
    begin_gather(m, b);
    return true;
}

/* The next block of the sums that wait for one; false: there is none. */
static bool start(Mpi *m, Block *b)
{
    if (m->first == m->n_sums)
        return false;
    Sum *s = &m->sums[m->first];
    const size_t most = BLOCK_BYTES / width(s->wide), left = s->n - s->done;
    b->x = s->x + s->done * width(s->wide);
    b->n = (int)MIN(most, left);
    b->wide = s->wide;
    b->tag = TAG_SUM + 2 * (int)(m->block++ % TAG_BLOCKS);
    s->done += (size_t)b->n;
    m->first += s->done == s->n;
    begin_scatter(m, b);
    return true;
}

/* One round over all blocks; true: something happened. *busy: something is left to do. */
static bool progress(Mpi *m, bool *busy)
{
    bool moved = false;
    *busy = false;
    for (int i = 0; i < SLOTS && !m->broken.code; i++) {
        Block *b = &m->blocks[i];
        if (b->stage != FREE)
            moved |= advance(m, b);
        if (b->stage == FREE && !m->broken.code)
            moved |= start(m, b);
        *busy |= b->stage != FREE;
    }
    if (!*busy)
        m->n_sums = m->first = 0;
    return moved;
}

static int give(const Mpi *m, gimbal_error *err)
{
    return m->broken.code ? fail_hint(err, m->broken.code, m->broken.hint, "%s", m->broken.msg) : GIMBAL_OK;
}

static int wait_sums(Mpi *m, gimbal_error *err)
{
    bool busy = true;
    for (int idle = 0; busy && !m->broken.code && !mpi_listen(m); idle++) {
        if (progress(m, &busy))
            idle = 0;
        if (busy)
            mpi_rest(idle);
    }
    return give(m, err);
}

/* ---- gimbal_ranks ------------------------------------------------------------------------ */

static int queue(Mpi *m, void *x, size_t n, bool wide, gimbal_error *err)
{
    TRY(give(m, err));
    if (!n || m->size == 1)
        return GIMBAL_OK;
    if (m->n_sums == m->room) {
        const int room = 2 * m->room + 16;
        Sum *more = realloc(m->sums, (size_t)room * sizeof *more);
        if (!more)
            return fail(err, GIMBAL_ENOMEM, "no memory for a list of %d sums", room);
        m->sums = more;
        m->room = room;
    }
    m->sums[m->n_sums++] = (Sum){.x = x, .n = n, .wide = wide};
    return GIMBAL_OK;
}

static void poll(void *self)
{
    bool busy;
    progress(self, &busy);
}

static int sum_begin(void *self, float *x, size_t n, gimbal_error *err)
{
    TRY(queue(self, x, n, false, err));
    poll(self);
    return GIMBAL_OK;
}

static int sum_end(void *self, gimbal_error *err)
{
    return wait_sums(self, err);
}

/* Waits for the floats under way too: they began earlier. */
static int sum(void *self, double *x, size_t n, gimbal_error *err)
{
    TRY(queue(self, x, n, true, err));
    return wait_sums(self, err);
}

static int wait_links(Mpi *m, int n, MPI_Request *links)
{
    int arrived = 0;
    for (int idle = 0; !m->broken.code && !mpi_listen(m); idle++) {
        if (mpi_check(m, MPI_Testall(n, links, &arrived, MPI_STATUSES_IGNORE), "sharing") || arrived)
            break;
        mpi_rest(idle);
    }
    return m->broken.code;
}

static int share_block(Mpi *m, char *x, int bytes)
{
    MPI_Request *links = m->blocks[0].links; /* no sum is under way */
    int n = 0;
    if (m->rank)
        mpi_check(m, MPI_Irecv(x, bytes, MPI_BYTE, 0, TAG_SHARE, m->comm, &links[n++]), "sharing");
    for (int r = 1; r < m->size && !m->rank; r++)
        mpi_check(m, MPI_Isend(x, bytes, MPI_BYTE, r, TAG_SHARE, m->comm, &links[n++]), "sharing");
    return wait_links(m, n, links);
}

static int share(void *self, void *x, size_t bytes, gimbal_error *err)
{
    Mpi *m = self;
    TRY(wait_sums(m, err));
    for (size_t at = 0; m->size > 1 && at < bytes && !m->broken.code; at += BLOCK_BYTES)
        share_block(m, (char *)x + at, (int)MIN((size_t)BLOCK_BYTES, bytes - at));
    return give(m, err);
}

/* ---- begin ------------------------------------------------------------------------------- */

static int make_room(Mpi *m, gimbal_error *err)
{
    const size_t parts = BLOCK_BYTES + (size_t)m->size * sizeof(double);
    m->told = calloc((size_t)m->size, sizeof *m->told);
    for (int i = 0; i < SLOTS; i++) {
        m->blocks[i].links = calloc(2 * (size_t)m->size, sizeof(MPI_Request));
        m->blocks[i].parts = m->size > 1 ? malloc(parts) : NULL;
        if (!m->told || !m->blocks[i].links || (m->size > 1 && !m->blocks[i].parts))
            return fail(err, GIMBAL_ENOMEM, "no memory for sums over %d ranks", m->size);
    }
    return GIMBAL_OK;
}

static int join(Mpi *m, gimbal_error *err)
{
    int provided, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_dup(MPI_COMM_WORLD, &m->comm);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &m->machine);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN);
    mpi_check(m, code, "joining the other ranks");
    TRY(give(m, err));
    MPI_Comm_rank(m->comm, &m->rank);
    MPI_Comm_size(m->comm, &m->size);
    return make_room(m, err);
}

int ranks_begin(gimbal_ranks *out, gimbal_error *err)
{
    *out = (gimbal_ranks){.rank = 0, .size = 1};
    if (!ranks_launched())
        return GIMBAL_OK;
    Mpi *m = calloc(1, sizeof *m);
    if (!m)
        return fail(err, GIMBAL_ENOMEM, "no memory for the list of ranks");
    const int code = join(m, err);
    if (code) { /* the process ends, and what it has goes with it */
        free(m);
        return code;
    }
    *out = (gimbal_ranks){m->rank, m->size, sum, sum_begin, poll, sum_end, share, m};
    return GIMBAL_OK;
}

/* ---- threads ----------------------------------------------------------------------------- */

/* Ranks of a machine that are bound to cores of their own use them; ranks that may use the same cores share
 * them out: as many threads as there are cores in all masks together. */
int ranks_threads(const gimbal_ranks *r)
{
    const Mpi *m = r->self;
    const int mine = threads_available();
    if (!m)
        return mine;
    cpu_set_t mask, all;
    CPU_ZERO(&mask);
    int ranks = 1, wanted = mine, known = !sched_getaffinity(0, sizeof mask, &mask);
    MPI_Comm_size(m->machine, &ranks);
    MPI_Allreduce(MPI_IN_PLACE, &known, 1, MPI_INT, MPI_MIN, m->machine);
    MPI_Allreduce(MPI_IN_PLACE, &wanted, 1, MPI_INT, MPI_SUM, m->machine);
    MPI_Allreduce(&mask, &all, (int)sizeof mask, MPI_BYTE, MPI_BOR, m->machine);
    if (!known || ranks < 2 || wanted <= CPU_COUNT(&all))
        return mine;
    return MAX(1, MIN(mine, CPU_COUNT(&all) / ranks));
}

const char *ranks_version(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING + 1]; /* written once, the same by everybody */
    int n = 0;
    if (!text[0])
        MPI_Get_library_version(text, &n);
    text[strcspn(text, ",\n")] = 0;
    return text;
}
