/* t_media.c: clips written and read back, format by format, by walking the table of formats where a rule
 * holds for all.
 *
 * Sizes are odd and not square. Pictures are smooth colour ramps that move, so that what codecs lose is small
 * and a wrong matrix, range, order of channels or row stride is large. */
#include "media/media.h"
#include "tests/check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { W = 37, H = 21, FRAMES = 5 };
static const double FPS = 8;
static const char *recipe = "{\"prompt\": \"a \\\"red\\\" circle, caf\xc3\xa9; 100%\", \"seed\": 7}";

/* ---- a folder of its own, and what lies in it -------------------------------------------- */

static char folder[] = "/tmp/t_media.XXXXXX";

static const char *at(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Number of files; removes them when asked. */
static int files(int remove_them)
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

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    files(1);
    return rmdir(folder);
}

/* ---- pictures ---------------------------------------------------------------------------- */

static void picture(int frame, int w, int h, uint8_t *rgb)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, rgb += 3) {
            rgb[0] = (uint8_t)(20 + 5 * x);
            rgb[1] = (uint8_t)(240 - 8 * y - 4 * frame);
            rgb[2] = (uint8_t)(60 + 2 * x + 3 * y);
        }
}

static int try_write(const char *path, int w, int h, int frames, gimbal_error *err)
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

static void write_clip(const char *path, int w, int h, int frames)
{
    gimbal_error err = {0};
    check_ok(try_write(path, w, h, frames, &err), err);
}

/* A file's name that takes a clip of this format. */
static const char *clip_name(const media_format *format)
{
    static char path[256];
    const char *number = strcmp(format->ending, ".png") ? "" : "%03d";
    snprintf(path, sizeof path, "%s/clip%s%s", folder, number, format->ending);
    return path;
}

/* Reads a clip of pictures like ours: the largest and the mean absolute difference to them inside w x h; its
 * info. */
typedef struct {
    media_info info;
    int frames, largest;
    double mean;
} Read;

static Read read_clip(const char *path, int w, int h)
{
    gimbal_error err = {0};
    media_reader *in;
    Read r = {0};
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
                r.mean += d;
            }
    }
    if (more)
        fail_msg("%s: %d %s", path, more, err.msg);
    r.mean /= 3.0 * w * h * r.frames;
    media_free(in);
    free(got), free(want);
    return r;
}

static char *bytes_of(const char *path, size_t *size)
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

/* ---- every format ------------------------------------------------------------------------ */

static void every_format_gives_back_the_clip_and_its_recipe(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        const media_format *format = media_format_at(i);
        const char *path = clip_name(format);
        gimbal_error err = {0};
        char *text;
        write_clip(path, W, H, FRAMES);
        const Read r = read_clip(path, W, H);
        assert_int_equal(r.frames, FRAMES);
        check(r.mean < 8, "%s: mean difference %.2f", path, r.mean);
        if (r.info.fps)
            check_near(r.info.fps, FPS, 0.2, "%s: frames per second", format->ending);
        check_ok(media_recipe(path, &text, &err), err);
        check(text && !strcmp(text, recipe), "%s: recipe is %s", path, text);
        free(text);
        check(files(1) == (strchr(path, '%') ? FRAMES : 1) + !format->holds_text, "%s: other files are left",
              path);
    }
}

static void every_format_gives_the_same_bytes_twice(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        const char *path = clip_name(media_format_at(i));
        char first[256];
        size_t n, m;
        snprintf(first, sizeof first, path, 0);
        write_clip(path, W, H, FRAMES);
        char *a = bytes_of(first, &n);
        write_clip(path, W, H, FRAMES);
        char *b = bytes_of(first, &m);
        check(n == m && !memcmp(a, b, n), "%s: %zu and %zu bytes", path, n, m);
        free(a), free(b);
        files(1);
    }
}

static void every_format_takes_one_frame_of_one_pixel(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        const char *path = clip_name(media_format_at(i));
        write_clip(path, 1, 1, 1);
        assert_int_equal(read_clip(path, 1, 1).frames, 1);
        files(1);
    }
}

static void an_abandoned_clip_leaves_nothing(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++)
        for (int frames = 0; frames < 3; frames++) {
            gimbal_error err = {0};
            media_writer *out;
            uint8_t rgb[W * H * 3];
            check_ok(media_create(&out, clip_name(media_format_at(i)), W, H, FPS, recipe, &err), err);
            check(files(0) > 0, "no temporary file while writing");
            for (int f = 0; f < frames; f++) {
                picture(f, W, H, rgb);
                check_ok(media_put(out, rgb, &err), err);
            }
            media_abort(out);
            assert_int_equal(files(0), 0);
        }
}

static void a_clip_without_frames_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        gimbal_error err = {0};
        media_writer *out;
        check_ok(media_create(&out, clip_name(media_format_at(i)), W, H, FPS, recipe, &err), err);
        check_fails(media_close(out, &err), GIMBAL_EUSAGE, err, "no picture");
        assert_int_equal(files(0), 0);
    }
}

/* A limit on file sizes stands in for a full disk. */
static void a_full_disk_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    struct rlimit was, small = {.rlim_cur = 100};
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; media_format_at(i); i++) {
        gimbal_error err = {0};
        setrlimit(RLIMIT_FSIZE, &small);
        const int code = try_write(clip_name(media_format_at(i)), W, H, FRAMES, &err);
        setrlimit(RLIMIT_FSIZE, &was);
        check(code == GIMBAL_EIO, "%s: code %d %.300s", media_format_at(i)->ending, code, err.msg);
        assert_int_equal(files(1), 0);
    }
}

/* ---- what is particular ------------------------------------------------------------------ */

static void pictures_and_y4m_lose_nothing_but_rounding(void **state)
{
    (void)state;
    write_clip(at("f%03d.png"), W, H, FRAMES);
    Read r = read_clip(at("f%03d.png"), W, H);
    assert_int_equal(r.largest, 0);
    assert_int_equal(r.info.frames, FRAMES);
    check(!access(at("f000.png"), R_OK) && !access(at("f004.png"), R_OK), "numbered from 0");
    write_clip(at("c.y4m"), W, H, FRAMES);
    r = read_clip(at("c.y4m"), W, H);
    check(r.largest <= 2, "y4m: largest difference %d", r.largest);
    assert_int_equal(r.info.frames, FRAMES);
    assert_int_equal(r.info.width, W);
    files(1);
}

/* Padding, BT.709 and limited range: with the other matrix the mean difference is above 8. */
static void an_mp4_is_close_and_has_even_sides(void **state)
{
    (void)state;
    write_clip(at("c.mp4"), W, H, FRAMES);
    const Read r = read_clip(at("c.mp4"), W, H);
    assert_int_equal(r.info.width, W + 1);
    assert_int_equal(r.info.height, H + 1);
    assert_int_equal(r.info.frames, FRAMES);
    check(r.mean < 2, "mean difference %.2f", r.mean);
    /* +faststart: the index lies before the pictures, so a clip cut short still opens */
    size_t n;
    char *data = bytes_of(at("c.mp4"), &n);
    char *moov = memmem(data, n, "moov", 4), *mdat = memmem(data, n, "mdat", 4);
    check(moov && mdat && moov < mdat, "the index is in front");
    free(data);
    files(1);
}

static void a_gif_keeps_time_on_average_and_loops(void **state)
{
    (void)state;
    write_clip(at("c.gif"), W, H, 9);
    size_t n;
    uint8_t *data = (uint8_t *)bytes_of(at("c.gif"), &n);
    int hundredths = 0, pictures = 0;
    for (size_t i = 0; i + 8 < n; i++) /* graphic control extensions: 21 F9 04 flags delay(2) */
        if (data[i] == 0x21 && data[i + 1] == 0xF9 && data[i + 2] == 4)
            hundredths += data[i + 4] | data[i + 5] << 8, pictures++;
    assert_int_equal(pictures, 9);
    check(abs(hundredths - 112) <= 1, "nine pictures at 8 fps last %d hundredths of a second", hundredths);
    const uint8_t *loop = memmem(data, n, "NETSCAPE2.0", 11);
    check(loop && loop[13] == 0 && loop[14] == 0, "loops forever");
    free(data);
    files(1);
}

static void one_picture_holds_one_frame(void **state)
{
    (void)state;
    gimbal_error err = {0};
    write_clip(at("one.png"), W, H, 1);
    const Read r = read_clip(at("one.png"), W, H);
    assert_int_equal(r.largest, 0);
    assert_int_equal(r.info.frames, 1);
    files(1);
    check_fails(try_write(at("one.png"), W, H, 2, &err), GIMBAL_EUSAGE, err, "one picture");
    assert_int_equal(files(0), 0);
}

static void a_sequence_ends_at_the_first_gap_and_may_begin_at_one(void **state)
{
    (void)state;
    write_clip(at("f%d.png"), W, H, FRAMES);
    remove(at("f0.png"));
    remove(at("f3.png"));
    gimbal_error err = {0};
    media_info info;
    media_reader *in;
    uint8_t got[W * H * 3], want[W * H * 3];
    check_ok(media_open(&in, at("f%d.png"), &info, &err), err);
    assert_int_equal(info.frames, 2);
    for (int f = 1; f <= 2; f++) {
        assert_int_equal(media_get(in, got, &err), 1);
        picture(f, W, H, want);
        assert_memory_equal(got, want, sizeof got);
    }
    assert_int_equal(media_get(in, got, &err), 0);
    media_free(in);
    files(1);
}

static void a_clip_without_a_recipe_has_none(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_writer *out;
    uint8_t rgb[W * H * 3];
    char *text;
    check_ok(media_create(&out, at("c.mp4"), W, H, FPS, NULL, &err), err);
    picture(0, W, H, rgb);
    check_ok(media_put(out, rgb, &err), err);
    check_ok(media_close(out, &err), err);
    check_ok(media_recipe(at("c.mp4"), &text, &err), err);
    assert_null(text);
    assert_int_equal(files(1), 1);
}

/* ---- refused before any work ------------------------------------------------------------- */

static void outputs_that_cannot_be_are_found_before_the_work(void **state)
{
    (void)state;
    gimbal_error err = {0};
    check_fails(media_check("", W, H, FPS, &err), GIMBAL_EUSAGE, err, "empty");
    check_fails(media_check(at("c.mp5"), W, H, FPS, &err), GIMBAL_ENOSUP, err, ".mp4, .gif, .y4m, .png");
    check_fails(media_check(at("c.mp5"), W, H, FPS, &err), GIMBAL_ENOSUP, err, "did you mean .mp4?");
    check_fails(media_check(at("clip"), W, H, FPS, &err), GIMBAL_ENOSUP, err, "no ending");
    check_fails(media_check(at("none/c.mp4"), W, H, FPS, &err), GIMBAL_EIO, err, "does not exist");
    check_fails(media_check("/proc/none/c.mp4", W, H, FPS, &err), GIMBAL_EIO, err, "does not exist");
    check_fails(media_check(at("c.mp4"), 0, H, FPS, &err), GIMBAL_EUSAGE, err, "0x21");
    check_fails(media_check(at("c.mp4"), W, 20000, FPS, &err), GIMBAL_EUSAGE, err, "37x20000");
    check_fails(media_check(at("c.mp4"), W, H, 0, &err), GIMBAL_EUSAGE, err, "frames per second");
    check_fails(media_check(at("c.mp4"), W, H, -1, &err), GIMBAL_EUSAGE, err, "frames per second");
    check_fails(media_check(at("c.mp4"), W, H, NAN, &err), GIMBAL_EUSAGE, err, "frames per second");
    check_fails(media_check(at("c.mp4"), W, H, INFINITY, &err), GIMBAL_EUSAGE, err, "frames per second");
    check_fails(media_check(at("c.gif"), W, H, 60, &err), GIMBAL_EUSAGE, err, "at most 50");
    check_fails(media_check(at("c%03d.mp4"), W, H, FPS, &err), GIMBAL_EUSAGE, err, "takes no %");
    const char *bad[] = {"%s.png",   "%d%d.png",  "%%d.png", "%n%d.png", "%3d.png",
                         "%03x.png", "%012d.png", "%.png",   "%0d.png"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_fails(media_check(at(bad[i]), W, H, FPS, &err), GIMBAL_EUSAGE, err, "one %d");
    mkdir(at("d.mp4"), 0777);
    check_fails(media_check(at("d.mp4"), W, H, FPS, &err), GIMBAL_EIO, err, "is a folder");
    check_ok(media_check(at("c.MP4"), W, H, FPS, &err), err);
    check_ok(media_check(at("c%03d.png"), W, H, FPS, &err), err);
    assert_int_equal(files(1), 1);
}

/* ---- hostile input ----------------------------------------------------------------------- */

static void what_is_no_clip_is_an_error_that_names_it(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_reader *in;
    media_info info;
    char *text;
    FILE *f = fopen(at("text.mp4"), "w");
    fputs("hello", f);
    fclose(f);
    check_fails(media_open(&in, at("text.mp4"), &info, &err), GIMBAL_EFORMAT, err, "text.mp4");
    check_fails(media_open(&in, at("none.mp4"), &info, &err), GIMBAL_EIO, err, "no such file");
    check_fails(media_open(&in, at("f%03d.png"), &info, &err), GIMBAL_EIO, err, "no such pictures");
    check_fails(media_open(&in, folder, &info, &err), GIMBAL_EIO, err, "is a folder");
    check_fails(media_open(&in, "http://127.0.0.1:1/c.mp4", &info, &err), GIMBAL_EIO, err, "no such file");
    check_fails(media_recipe(at("none.mp4"), &text, &err), GIMBAL_EIO, err, "no such file");
    f = fopen(at("list.m3u8"), "w");
    fputs("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/c.ts\n#EXT-X-ENDLIST\n", f);
    fclose(f);
    check(media_open(&in, at("list.m3u8"), &info, &err) < 0, "a playlist opened the network");
    files(1);
}

static void damaged_clips_end_in_an_error_or_in_pictures(void **state)
{
    (void)state;
    uint8_t *rgb = malloc(3 * 512 * 512);
    uint32_t dice = 1;
    for (int i = 0; media_format_at(i); i++) {
        char first[256];
        size_t n;
        snprintf(first, sizeof first, clip_name(media_format_at(i)), 0);
        write_clip(clip_name(media_format_at(i)), W, H, FRAMES);
        char *data = bytes_of(first, &n);
        for (int round = 0; round < 60; round++) {
            gimbal_error err = {0};
            media_reader *in;
            media_info info;
            char *copy = malloc(n);
            memcpy(copy, data, n);
            for (int k = 0; k < 8; k++) {
                dice = dice * 1664525 + 1013904223;
                copy[(dice >> 8) % (n < 1500 || k % 2 ? n : 1500)] = (char)(dice >> 3);
            }
            FILE *f = fopen(at("bad"), "wb");
            fwrite(copy, 1, round % 3 ? n : (size_t)(dice >> 4) % n, f);
            fclose(f);
            free(copy);
            if (!media_open(&in, at("bad"), &info, &err) && info.width <= 512 && info.height <= 512) {
                for (int k = 0; k < 50 && media_get(in, rgb, &err) == 1; k++)
                    continue;
                media_free(in);
            } else if (!err.code)
                media_free(in);
            check(!err.code || err.msg[0], "an error without a message");
        }
        free(data);
        files(1);
    }
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_gives_back_the_clip_and_its_recipe),
        cmocka_unit_test(every_format_gives_the_same_bytes_twice),
        cmocka_unit_test(every_format_takes_one_frame_of_one_pixel),
        cmocka_unit_test(an_abandoned_clip_leaves_nothing),
        cmocka_unit_test(a_clip_without_frames_is_refused_and_leaves_nothing),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_nothing),
        cmocka_unit_test(pictures_and_y4m_lose_nothing_but_rounding),
        cmocka_unit_test(an_mp4_is_close_and_has_even_sides),
        cmocka_unit_test(a_gif_keeps_time_on_average_and_loops),
        cmocka_unit_test(one_picture_holds_one_frame),
        cmocka_unit_test(a_sequence_ends_at_the_first_gap_and_may_begin_at_one),
        cmocka_unit_test(a_clip_without_a_recipe_has_none),
        cmocka_unit_test(outputs_that_cannot_be_are_found_before_the_work),
        cmocka_unit_test(what_is_no_clip_is_an_error_that_names_it),
        cmocka_unit_test(damaged_clips_end_in_an_error_or_in_pictures),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
