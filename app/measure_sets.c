/* measure_sets.c: gimbal measure --features: distances between two sets of clips, from features in files.
 *
 * A set is a safetensors file with "features" [N,D] (for Frechet and kernel distance) and "logits" [N,C] (for
 * the inception score), float; or a folder of clips, whose I3D logits (Kinetics-400, the first 16 frames) are
 * both. What a distance means depends on how many samples there are: the notes say where that matters.
 *
 * Refuses to know how the distances are computed: that is stats.h's. */
#include "app/measure.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CLIP_FRAMES = 16, LEAST_FRAMES = 9, I3D_CLASSES = 400, USUAL_SAMPLES = 2048 };

typedef struct {
    const char *path;
    float *features, *logits; /* [n,d], [n_logits,c]; or NULL. The same array for a folder of clips */
    int64_t n, d, n_logits, c;
    bool borrowed; /* features are the tensor "logits": the file has no "features" */
    bool clips;
} Set;

static void set_free(Set *set)
{
    if (set->features != set->logits)
        free(set->features);
    free(set->logits);
}

/* ---- features from files ----------------------------------------------------------------- */

static int has_tensor(const char *path, const char *name, bool *out, gimbal_error *err)
{
    char *text;
    TRY(gimbal_describe(path, &text, err));
    json_t *root = json_loads(text, 0, NULL), *item;
    size_t i;
    free(text);
    *out = false;
    json_array_foreach(json_object_get(root, "list"), i, item)
    {
        const char *found = json_string_value(json_object_get(item, "name"));
        *out = *out || (found && !strcmp(found, name));
    }
    json_decref(root);
    return GIMBAL_OK;
}

static int check_finite(const char *path, const char *name, const float *x, int64_t rows, int64_t columns,
                        gimbal_error *err)
{
    for (int64_t i = 0; i < rows * columns; i++)
        if (!isfinite(x[i]))
            return complain(err, GIMBAL_EFORMAT, NULL,
                            "%s: \"%s\" holds %g at row %lld, column %lld, expected finite numbers", path,
                            name, (double)x[i], (long long)(i / columns), (long long)(i % columns));
    return GIMBAL_OK;
}

/* *out [*rows,*columns], or NULL: the file has no such tensor. */
static int read_matrix(const char *path, const char *name, float **out, int64_t *rows, int64_t *columns,
                       gimbal_error *err)
{
    int64_t n[6];
    bool there;
    TRY(has_tensor(path, name, &there, err));
    if (!there)
        return GIMBAL_OK;
    TRY(gimbal_tensor_read(path, name, out, n, err));
    if (n[0] != 1 || n[1] != 1 || n[2] != 1 || n[3] != 1 || n[4] < 1 || n[5] < 1)
        return complain(err, GIMBAL_EFORMAT, NULL,
                        "%s: tensor \"%s\" is [%lld,%lld,%lld,%lld], expected [samples,values]", path, name,
                        (long long)(n[0] * n[1] * n[2]), (long long)n[3], (long long)n[4], (long long)n[5]);
    *rows = n[4], *columns = n[5];
    return check_finite(path, name, *out, n[4], n[5], err);
}

static int set_from_file(Set *set, gimbal_error *err)
{
    TRY(read_matrix(set->path, "features", &set->features, &set->n, &set->d, err));
    TRY(read_matrix(set->path, "logits", &set->logits, &set->n_logits, &set->c, err));
    if (!set->features && !set->logits)
        return complain(err, GIMBAL_EFORMAT, NULL,
                        "%s: expected a tensor \"features\" [N,D] or \"logits\" [N,C], found neither",
                        set->path);
    if (set->features)
        return GIMBAL_OK;
    set->features = set->logits, set->n = set->n_logits, set->d = set->c;
    set->borrowed = true;
    return GIMBAL_OK;
}

/* ---- features of clips ------------------------------------------------------------------- */

typedef struct {
    uint8_t *rgb; /* [CLIP_FRAMES][height][width][3] */
    int n, width, height;
} First;

static int see_first(void *user, int i, const uint8_t *rgb, int width, int height, gimbal_error *err)
{
    First *first = user;
    const size_t size = 3 * (size_t)width * (size_t)height;
    if (i >= CLIP_FRAMES)
        return GIMBAL_OK;
    if (!first->rgb) {
        first->rgb = calloc(CLIP_FRAMES, size);
        first->width = width, first->height = height;
    }
    if (!first->rgb)
        return fail_memory(err);
    memcpy(first->rgb + (size_t)i * size, rgb, size);
    first->n = i + 1;
    return GIMBAL_OK;
}

/* The cheapest score is measured on the way: it reads whatever measure reads. */
static int clip_logits(const char *path, const char *weights, float *logits, gimbal_error *err)
{
    First first = {0};
    Measured measured;
    gimbal_measure_order order;
    gimbal_measure_defaults(&order);
    order.scores = "temporal_flickering";
    int code = measure_clip(path, &order, true, see_first, &first, &measured, err);
    if (!code) {
        measured_free(&measured);
        code = first.n >= LEAST_FRAMES
                   ? GIMBAL_OK
                   : complain(err, GIMBAL_EUSAGE, "leave it out of the folder",
                              "%s has %d frames, I3D needs %d or more", path, first.n, LEAST_FRAMES);
    }
    if (!code)
        code = gimbal_measure_logits(weights, first.rgb, first.n, first.width, first.height, logits, err);
    free(first.rgb);
    return code;
}

static int set_from_clips(Set *set, const char *weights, bool quiet, gimbal_error *err)
{
    Clips clips = {0};
    if (!weights)
        return complain(err, GIMBAL_EUSAGE,
                        "the folder that holds the I3D network, or give a safetensors file of features",
                        "%s is a folder of clips: --weights is missing", set->path);
    int code = clips_find(&clips, &set->path, 1, err);
    set->logits = set->features = code ? NULL : calloc((size_t)clips.n, I3D_CLASSES * sizeof(float));
    if (!code && !set->logits)
        code = fail_memory(err);
    const double start = clock_seconds();
    for (int i = 0; !code && i < clips.n; i++) {
        code = check_signals(err);
        code = code ? code : clip_logits(clips.paths[i], weights, set->logits + (size_t)i * I3D_CLASSES, err);
        if (!code && !quiet)
            show_clip_progress(i + 1, clips.n, start);
    }
    set->n = set->n_logits = clips.n, set->d = set->c = I3D_CLASSES;
    set->clips = true;
    clips_free(&clips);
    return code;
}

static int set_open(Set *set, const char *path, const char *weights, bool quiet, gimbal_error *err)
{
    struct stat st;
    *set = (Set){.path = path};
    return !stat(path, &st) && S_ISDIR(st.st_mode) ? set_from_clips(set, weights, quiet, err)
                                                   : set_from_file(set, err);
}

/* ---- scores ------------------------------------------------------------------------------ */

enum { FRECHET = 1, KVD = 2, IS = 4 };

/* "frechet,is" -> bits; NULL: what can be had. */
static int read_metrics(const char *metric, bool pair, unsigned *out, gimbal_error *err)
{
    static const char *const words[] = {"frechet", "kvd", "is", NULL};
    char word[64];
    *out = metric ? 0 : pair ? FRECHET | KVD | IS : IS;
    for (const char *at = metric; at && *at;) {
        const size_t n = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)(n < 63 ? n : 63), at);
        if (n)
            TRY(unknown_word(words, "metric", word, err));
        for (int i = 0; words[i]; i++)
            *out |= strcmp(word, words[i]) ? 0u : 1u << i;
        at += n + (at[n] == ',');
    }
    if (!*out)
        return complain(err, GIMBAL_EUSAGE, "frechet, kvd, is", "--metric names none");
    if (!pair && *out & (FRECHET | KVD))
        return complain(err, GIMBAL_EUSAGE, "the set to compare with", "--with is missing");
    return GIMBAL_OK;
}

static void note(json_t *root, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(json_t *root, const char *fmt, ...)
{
    char *text;
    va_list args;
    va_start(args, fmt);
    const int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0)
        return;
    json_array_append_new(json_object_get(root, "notes"), json_text(text));
    free(text);
}

static void put_score(json_t *root, const char *name, double value, const char *definition)
{
    json_object_set_new(json_object_get(root, "scores"), name,
                        isfinite(value) ? json_real(value) : json_null());
    json_object_set_new(json_object_get(root, "definitions"), name, json_string(definition));
}

static void note_samples(json_t *root, const Set *a, const Set *b)
{
    const long long n = a->n, m = b->n, d = a->d;
    if (n <= d || m <= d)
        note(root,
             "%lld and %lld samples of %lld dimensions: covariances of so few samples are singular and the "
             "Frechet "
             "distance is biased far upwards; compare it only with distances of the same numbers",
             n, m, d);
    else if (n < USUAL_SAMPLES || m < USUAL_SAMPLES)
        note(root,
             "%lld and %lld samples: published figures mostly use %d a side, and fewer bias the Frechet "
             "distance "
             "upwards",
             n, m, USUAL_SAMPLES);
    if (n != m)
        note(root, "the sets differ in size: their share of that bias differs too");
}

/* Features of the same width, for distances. */
static int check_pair(const Set *a, const Set *b, gimbal_error *err)
{
    if (a->d != b->d)
        return complain(err, GIMBAL_EUSAGE, "both sets must come from the same network",
                        "%s has features of %lld values, %s of %lld", a->path, (long long)a->d, b->path,
                        (long long)b->d);
    return GIMBAL_OK;
}

static int put_distances(json_t *root, const Set *a, const Set *b, unsigned wanted, gimbal_error *err)
{
    double value;
    if (!(wanted & (FRECHET | KVD)))
        return GIMBAL_OK;
    TRY(check_pair(a, b, err));
    if (wanted & FRECHET) {
        TRY(frechet_distance(a->features, a->n, b->features, b->n, a->d, &value, err));
        put_score(root, "frechet", value, "frechet_distance:gaussian,1/(n-1)/1");
        note_samples(root, a, b);
    }
    if (wanted & KVD) {
        TRY(kernel_distance(a->features, a->n, b->features, b->n, a->d, &value, err));
        put_score(root, "kvd", value, "kernel_distance:(x.y/d+1)^3,unbiased,all/1");
    }
    if (a->borrowed || b->borrowed)
        note(root, "no tensor \"features\" in %s: its \"logits\" are the features",
             a->borrowed ? a->path : b->path);
    if (a->clips || b->clips)
        note(root, "features of clips: I3D (Kinetics-400) logits of the first %d frames, 224x224 bilinear",
             CLIP_FRAMES);
    return GIMBAL_OK;
}

static int put_inception(json_t *root, const Set *a, unsigned wanted, gimbal_error *err)
{
    double value = NAN;
    if (!(wanted & IS))
        return GIMBAL_OK;
    if (a->logits)
        TRY(inception_score(a->logits, a->n_logits, a->c, &value, err));
    else
        note(root, "no tensor \"logits\" in %s: no inception score", a->path);
    put_score(root, "is", value,
              a->clips ? "inception_score:i3d-kinetics-400,splits=1/1" : "inception_score:splits=1/1");
    if (a->clips)
        note(root,
             "published inception scores of videos use C3D's 101 classes of UCF-101, these are I3D's 400");
    return GIMBAL_OK;
}

static int print_sets(const Set *a, const Set *b, unsigned wanted, bool json, gimbal_error *err)
{
    json_t *m = b ? json_integer(b->n) : json_null();
    json_t *root = json_pack("{s:o, s:o, s:I, s:o, s:I, s:{}, s:{}, s:[]}", "features", json_text(a->path),
                             "with", json_text(b ? b->path : NULL), "n", (json_int_t)a->n, "m", m, "d",
                             (json_int_t)a->d, "scores", "definitions", "notes");
    int code = root ? GIMBAL_OK : fail_memory(err);
    code = code ? code : put_distances(root, a, b, wanted, err);
    code = code ? code : put_inception(root, a, wanted, err);
    if (!code && json)
        return print_json(root, err);
    if (!code)
        print_tree(root, 0, stdout);
    json_decref(root);
    return code ? code : flush_stdout(err);
}

int measure_sets(const char *features, const char *with, const char *metric, const char *weights, bool json,
                 bool quiet, gimbal_error *err)
{
    unsigned wanted;
    Set a, b = {0};
    TRY(read_metrics(metric, with != NULL, &wanted, err));
    int code = set_open(&a, features, weights, quiet, err);
    if (with && !code)
        code = set_open(&b, with, weights, quiet, err);
    code = code ? code : print_sets(&a, with ? &b : NULL, wanted, json, err);
    set_free(&a);
    set_free(&b);
    return code;
}
