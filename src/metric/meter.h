/* meter.h: the inside of a meter, for meter.c, meter_feed.c and meter_api.c alone. Metrics see metric.h. */
#ifndef METER_H
#define METER_H

#include "metric/metric.h"

typedef struct {
    int i; /* number of the picture; -1: free */
    uint8_t *rgb;
    float *grey; /* allocated when first wanted */
    bool grey_known;
} Picture;

typedef struct {
    int a, b; /* a -1: free */
    bool raft;
    float *flow; /* [h][w][2] */
} Flow;

/* A metric at work. */
typedef struct {
    const Metric *metric;
    void *self;
    bool begun;
    unsigned wanted;       /* bits of scores */
    int feed;              /* -1: it sees pictures */
    const char *undefined; /* why no score of it can be; it is not asked then */
    const char *definition, *weights, *why;
    double value[SCORE_MOST];
    double *values[SCORE_MOST]; /* [room], NaN where none; NULL: no value came */
    int room[SCORE_MOST];
} Job;

/* Pictures on their way through one network. */
typedef struct {
    NetKind net;
    Prep prep;
    bool antialias, round;
    int pw, ph, width;
    float *pictures; /* [NET_BATCH][ph][pw][3] */
    float *features; /* [NET_BATCH][width] */
    float *image;    /* meter_image's [width], or NULL */
    int n, first;    /* waiting; number of the first of them */
} Feed;
enum { FEED_COUNT = 5 };

struct gimbal_meter {
    gimbal_measure_order order;
    Arena arena; /* jobs, states, texts, scores */
    gimbal_error error;
    int frames, threads;
    bool ended;
    Picture *pictures;
    uint8_t *first; /* the clip's first picture, while something needs it */
    Flow *flows;
    int n_pictures, n_flows;
    Job *jobs, *current; /* current: whose call is running */
    int n_jobs;
    Nets *nets;
    float *text;
    Feed feeds[FEED_COUNT]; /* width 0: not in use */
    gimbal_score *scores;
    int n_scores;
};

/* meter_feed.c */
int feed_of(unsigned needs);            /* index of the feed that these needs name, or -1 */
unsigned feed_networks(unsigned needs); /* bits 1 << NetKind */
NetKind feed_net(int feed);
int feeds_open(Meter *);
int feeds_frame(Meter *, const uint8_t *rgb); /* pictures of this frame into every feed; full batches run */
int feeds_end(Meter *);
void feeds_close(Meter *);
/* "antialias=1" of this feed, or of a metric without one "". */
const char *feed_note(const Meter *, int feed);

/* meter.c */
int job_frame(Meter *, Job *, const Frame *);
int meter_see(Meter *, const uint8_t *rgb);
void meter_drop_pictures(Meter *);

#endif
