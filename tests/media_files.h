/* media_files.h: what the tests of clips share: a folder of their own, pictures that move, clips of them
 * written and read back.
 *
 * Sizes are odd and not square. Pictures are smooth colour ramps, so that what codecs lose is small and a
 * wrong matrix, range, order of channels or row stride is large. */
#ifndef MEDIA_FILES_H
#define MEDIA_FILES_H

#include "media/media.h"
#include "tests/check.h"

#include <dirent.h>
#include <unistd.h>

enum { W = 37, H = 21, FRAMES = 5 };
static const double FPS = 8;
static const char *const recipe = "{\"prompt\": \"a \\\"red\\\" circle, caf\xc3\xa9; 100%\", \"seed\": 7}";

/* ---- a folder of its own, and what lies in it -------------------------------------------- */

static char folder[] = "/tmp/gimbal-media.XXXXXX";

static const char *at(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Number of files; removes them when asked. */
static inline int files(int remove_them)
{
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' || strlen(e->d_name) > 2) {
            n++;
            if (remove_them)
                remove(at(e->d_name));
        }
    if (d)
        closedir(d);
    return n;
}

static inline int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    files(1);
    return rmdir(folder);
}

/* ---- pictures ---------------------------------------------------------------------------- */

static inline void picture(int frame, int w, int h, uint8_t *rgb)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, rgb += 3) {
            rgb[0] = (uint8_t)(20 + 5 * x);
            rgb[1] = (uint8_t)(240 - 8 * y - 4 * frame);
            rgb[2] = (uint8_t)(60 + 2 * x + 3 * y);
        }
}

static inline int try_write(const char *path, int w, int h, int frames, gimbal_error *err)
{
    media_writer *out;
    uint8_t *rgb = malloc((size_t)w * h * 3);
    int code = media_create(&out, path, w, h, FPS, recipe, err);
    for (int f = 0; f < frames && !code; f++) {
        picture(f, w, h, rgb);
        code = media_put(out, rgb, err);
    }
    free(rgb);
    if (!code)
        return media_close(out, err);
    media_abort(out);
    return code;
}

static inline void write_clip(const char *path, int w, int h, int frames)
{
    gimbal_error err = {0};
    check_ok(try_write(path, w, h, frames, &err), err);
}

/* A file's name that takes a clip of this format. */
static inline const char *clip_name(const media_format *format)
{
    static char path[256];
    const char *number = format->pictures ? "%03d" : "";
    snprintf(path, sizeof path, "%s/clip%s%s", folder, number, format->ending);
    return path;
}

/* Reads a clip of pictures like ours: its info, and the difference to them inside w x h: largest, mean and
 * PSNR in dB. */
typedef struct {
    media_info info;
    int frames, largest;
    double mean, psnr;
} Read;

static inline Read read_clip(const char *path, int w, int h)
{
    gimbal_error err = {0};
    media_reader *in;
    Read r = {0};
    double squares = 0;
    check_ok(media_open(&in, path, &r.info, &err), err);
    check(r.info.width >= w && r.info.height >= h, "%s: %dx%d", path, r.info.width, r.info.height);
    uint8_t *got = malloc((size_t)r.info.width * r.info.height * 3), *want = malloc((size_t)w * h * 3);
    int more;
    for (; (more = media_get(in, got, &err)) == 1; r.frames++) {
        picture(r.frames, w, h, want);
        for (int y = 0; y < h; y++)
            for (int i = 0; i < 3 * w; i++) {
                const int d = abs(got[y * 3 * r.info.width + i] - want[y * 3 * w + i]);
                r.largest = d > r.largest ? d : r.largest;
                r.mean += d, squares += d * d;
            }
    }
    if (more)
        fail_msg("%s: %d %s", path, more, err.msg);
    const double n = 3.0 * w * h * r.frames;
    r.mean /= n;
    r.psnr = squares > 0 ? 10 * log10(255 * 255 * n / squares) : 99;
    media_free(in);
    free(got), free(want);
    return r;
}

static inline void put_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n)
        fail_msg("%s cannot be written", path);
    fclose(f);
}

static inline char *bytes_of(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*size + 1);
    if (fread(data, 1, *size, f) != *size)
        fail_msg("%s cannot be read", path);
    fclose(f);
    return data;
}

#endif
