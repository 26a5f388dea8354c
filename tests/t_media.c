/* t_media.c: clips written, format by format, by walking the table of formats where a rule holds for all;
 * what is particular to one format; outputs that cannot be. Reading is t_media_read.c's. */
#include "media/ffmpeg.h"
#include "tests/media_files.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

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

/* PSNR in dB of the ramps: what each format reaches, less 2. The tables of a wrong matrix or range give 25.
 */
static const struct {
    const char *ending;
    double least;
} promises[] = {{".mp4", 41.8}, {".webm", 44.5}, {".gif", 33.7}, {".webp", 99},
                {".avi", 43.8}, {".y4m", 50},    {".png", 99},   {".jpg", 44.7}};

static void every_format_is_as_close_as_it_promises(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        const media_format *format = media_format_at(i);
        double least = 0;
        for (size_t k = 0; k < sizeof promises / sizeof *promises; k++)
            if (!strcmp(promises[k].ending, format->ending))
                least = promises[k].least;
        check(least > 0, "%s: say here how close it is", format->ending);
        write_clip(clip_name(format), 46, 26, FRAMES);
        const Read r = read_clip(clip_name(format), 46, 26);
        check(r.psnr >= least, "%s: PSNR %.2f dB, expected %.2f", format->ending, r.psnr, least);
        files(1);
    }
}

/* The second time on one CPU, because encoders ask how many there are, and with another filling of fresh
 * memory: x264 read uninitialised bytes at widths like these. */
static void every_format_gives_the_same_bytes_twice(void **state)
{
    (void)state;
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    for (int i = 0; media_format_at(i); i++) {
        const char *path = clip_name(media_format_at(i));
        char first[256];
        size_t n, m;
        snprintf(first, sizeof first, path, 0);
        write_clip(path, 72, 40, FRAMES);
        char *a = bytes_of(first, &n);
        sched_setaffinity(0, sizeof one, &one);
        mallopt(M_PERTURB, 1);
        write_clip(path, 72, 40, FRAMES);
        sched_setaffinity(0, sizeof all, &all);
        mallopt(M_PERTURB, 0);
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

/* /proc takes no new files from anybody, root included. */
static void every_format_is_refused_where_nothing_can_be_made(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        gimbal_error err = {0};
        media_writer *out;
        char path[64];
        snprintf(path, sizeof path, "/proc/clip%s", media_format_at(i)->ending);
        check_fails(media_create(&out, path, W, H, FPS, recipe, &err), GIMBAL_EIO, err, path);
        assert_null(out);
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

/* Times of 24 frames per second are no whole milliseconds; they may not drift. */
static void a_webp_keeps_time_on_average_and_loops(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_writer *out;
    uint8_t rgb[W * H * 3];
    size_t n;
    check_ok(media_create(&out, at("c.webp"), W, H, 24, NULL, &err), err);
    for (int f = 0; f < 24; f++) {
        picture(f, W, H, rgb);
        check_ok(media_put(out, rgb, &err), err);
    }
    check_ok(media_close(out, &err), err);
    const Read r = read_clip(at("c.webp"), W, H);
    assert_int_equal(r.frames, 24);
    assert_int_equal(r.info.frames, 24);
    check_near(r.info.fps, 24, 0.03, "frames per second");
    uint8_t *data = (uint8_t *)bytes_of(at("c.webp"), &n);
    const uint8_t *anim = memmem(data, n, "ANIM", 4);
    check(anim && anim[12] == 0 && anim[13] == 0, "loops forever");
    free(data);
    files(1);
}

static void an_avi_is_motion_jpeg_with_the_recipe_as_its_comment(void **state)
{
    (void)state;
    size_t n;
    write_clip(at("c.avi"), W, H, FRAMES);
    char *data = bytes_of(at("c.avi"), &n);
    check(memmem(data, n, "vidsMJPG", 8), "its codec is MJPG");
    const char *comment = memmem(data, n, "ICMT", 4);
    check(comment && !strcmp(comment + 8, recipe), "ICMT holds the recipe");
    check(!memmem(data, n, "Lavf5", 5) && !memmem(data, n, "Lavc5", 5), "no version of FFmpeg inside");
    free(data);
    files(1);
}

static void a_webm_is_vp9_and_says_its_colours(void **state)
{
    (void)state;
    size_t n;
    write_clip(at("c.webm"), W, H, FRAMES);
    char *data = bytes_of(at("c.webm"), &n);
    check(memmem(data, n, "webm", 4) && memmem(data, n, "V_VP9", 5), "WebM with VP9");
    const uint8_t matrix[] = {0x55, 0xB1, 0x81, 1}, range[] = {0x55, 0xB9, 0x81, 1};
    check(memmem(data, n, matrix, 4) && memmem(data, n, range, 4), "BT.709, limited range");
    check(!memmem(data, n, "Lavf5", 5) && !memmem(data, n, "Lavc5", 5), "no version of FFmpeg inside");
    free(data);
    const Read r = read_clip(at("c.webm"), W, H);
    assert_int_equal(r.info.width, W + 1);
    assert_int_equal(r.info.height, H + 1);
    files(1);
}

static void one_picture_holds_one_frame(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        gimbal_error err = {0};
        char path[256];
        snprintf(path, sizeof path, "%s/one%s", folder, media_format_at(i)->ending);
        if (!media_format_at(i)->pictures)
            continue;
        write_clip(path, W, H, 1);
        const Read r = read_clip(path, W, H);
        check(r.largest <= 6, "%s: largest difference %d", path, r.largest);
        assert_int_equal(r.info.frames, 1);
        files(1);
        check_fails(try_write(path, W, H, 2, &err), GIMBAL_EUSAGE, err, "one picture");
        assert_int_equal(files(0), 0);
    }
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

static void a_format_that_ffmpeg_lacks_is_refused_by_name(void **state)
{
    (void)state;
    gimbal_error err = {0};
    const Format codec = {.show = {".xyz", "", 0, 0}, .muxer = "mp4", .encoder = "libnone"};
    check_fails(format_check(&codec, "clip.xyz", &err), GIMBAL_ENOSUP, err, "clip.xyz");
    check_fails(format_check(&codec, "clip.xyz", &err), GIMBAL_ENOSUP, err, "encoder libnone");
    check_fails(format_check(&codec, "clip.xyz", &err), GIMBAL_ENOSUP, err, "this build writes .mp4, .webm");
    const Format container = {.show = {".xyz", "", 0, 0}, .muxer = "nonesuch", .encoder = "png"};
    check_fails(format_check(&container, "clip.xyz", &err), GIMBAL_ENOSUP, err, "container nonesuch");
    const Format picture = {.show = {".xyz", "", 0, 1}, .encoder = "png"};
    check_ok(format_check(&picture, "clip.xyz", &err), err);
}

/* ---- refused before any work ------------------------------------------------------------- */

static void outputs_that_cannot_be_are_found_before_the_work(void **state)
{
    (void)state;
    gimbal_error err = {0};
    check_fails(media_check("", W, H, FPS, &err), GIMBAL_EUSAGE, err, "empty");
    for (int i = 0; media_format_at(i); i++)
        check_fails(media_check(at("c.mp5"), W, H, FPS, &err), GIMBAL_ENOSUP, err,
                    media_format_at(i)->ending);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_gives_back_the_clip_and_its_recipe),
        cmocka_unit_test(every_format_is_as_close_as_it_promises),
        cmocka_unit_test(every_format_gives_the_same_bytes_twice),
        cmocka_unit_test(every_format_takes_one_frame_of_one_pixel),
        cmocka_unit_test(an_abandoned_clip_leaves_nothing),
        cmocka_unit_test(a_clip_without_frames_is_refused_and_leaves_nothing),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_nothing),
        cmocka_unit_test(every_format_is_refused_where_nothing_can_be_made),
        cmocka_unit_test(pictures_and_y4m_lose_nothing_but_rounding),
        cmocka_unit_test(an_mp4_is_close_and_has_even_sides),
        cmocka_unit_test(a_gif_keeps_time_on_average_and_loops),
        cmocka_unit_test(a_webp_keeps_time_on_average_and_loops),
        cmocka_unit_test(an_avi_is_motion_jpeg_with_the_recipe_as_its_comment),
        cmocka_unit_test(a_webm_is_vp9_and_says_its_colours),
        cmocka_unit_test(one_picture_holds_one_frame),
        cmocka_unit_test(a_clip_without_a_recipe_has_none),
        cmocka_unit_test(a_format_that_ffmpeg_lacks_is_refused_by_name),
        cmocka_unit_test(outputs_that_cannot_be_are_found_before_the_work),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
