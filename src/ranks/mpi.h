/* mpi.h: what mpi.c and end.c share: the state of one rank, and what a failed rank tells the others. */
#ifndef RANKS_MPI_H
#define RANKS_MPI_H

#include "base/base.h"
#include "ranks/ranks.h"

/* its C++ bindings are not ours, and old headers bring them */
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

enum {
    BLOCK_BYTES = 1 << 22, /* of x, summed at once */
    SLOTS = 4,             /* blocks under way: bounds the memory for other ranks' parts */
    TAG_FAIL = 1,
    TAG_END = 2,
    TAG_SHARE = 3,
    TAG_SUM = 16, /* + 2 (block number mod TAG_BLOCKS) + stage */
    TAG_BLOCKS = 1024
};

/* x [n] that shall be summed; `done`: values that are in blocks already. */
typedef struct {
    char *x;
    size_t n, done;
    bool wide; /* doubles, else floats */
} Sum;

typedef enum { FREE, SCATTER, GATHER } BlockStage;
typedef struct {
    BlockStage stage;
    char *x;
    int n;
    bool wide;
    int tag;
    char *parts;        /* [size][values of my part], of the other ranks */
    MPI_Request *links; /* [2 (size - 1)] */
    int n_links;
} Block;

/* code GIMBAL_OK: this rank did not fail by itself. pending: sums were under way. */
typedef struct {
    int code, pending;
    char msg[sizeof((gimbal_error *)0)->msg], hint[sizeof((gimbal_error *)0)->hint];
} Report;

typedef struct {
    MPI_Comm comm, machine; /* of this job alone; the ranks on this machine */
    int rank, size;
    Sum *sums; /* [n_sums], from `first` on not wholly in blocks */
    int n_sums, first, room;
    Block blocks[SLOTS];
    unsigned block;      /* number of the next one, the same on all ranks */
    gimbal_error broken; /* what MPI said first, or the first failed rank */
    bool heard;          /* broken came from another rank */
    bool *told;          /* [size]: that rank's TAG_FAIL was received */
} Mpi;

/* EIO with MPI's own words, kept in m->broken too. */
int mpi_check(Mpi *, int mpi_code, const char *what);
/* Has another rank failed? Then m->broken has its words. */
bool mpi_listen(Mpi *);
/* Gives the core away: others' messages arrive only while others run. idle: turns without progress. */
void mpi_rest(int idle);
/* "rank 3 of 8: ", or nothing for rank 0. */
void mpi_adopt(gimbal_error *, const Report *, int rank, int size);

#endif
