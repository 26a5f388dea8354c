/* t_media_read.c: clips and pictures read: which files a path means, orientation, colour, transparency,
 * scaling, and files that lie.
 *
 * PNGs of every kind and EXIF blocks are made here byte by byte; what only another program can make is in
 * tests/golden/media (Pillow 13: colours.jpg and .webp at quality 95; rolled.webp and square.webp lossless,
 * animated). The expected values come from formulas below, never from the reader itself. */
#include "tests/media_files.h"

#include <sys/stat.h>

/* ---- files made by hand ------------------------------------------------------------------ */

static void big(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * (3 - i));
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
    }
    return ~crc;
}

static size_t png_chunk(uint8_t *out, const char *type, const void *data, size_t n)
{
    big(out, (uint32_t)n);
    memcpy(out + 4, type, 4);
    memcpy(out + 8, data, n);
    big(out + 8 + n, crc32_of(out + 4, n + 4));
    return n + 12;
}

/* rows: h rows of `stride` bytes, fewer than 65536 in all; kind: PNG's colour type. Not compressed. */
static void write_png(const char *path, int w, int h, int bits, int kind, const uint8_t *rows, size_t stride)
{
    static uint8_t file[70000], raw[66000];
    uint8_t head[13] = {0};
    uint32_t a = 1, b = 0;
    const size_t n = (size_t)h * (stride + 1);
    assert_true(n < 65536);
    memcpy(raw, (const uint8_t[]){0x78, 1, 1, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)~n, (uint8_t)(~n >> 8)},
           7);
    for (int y = 0; y < h; y++) {
        raw[7 + (size_t)y * (stride + 1)] = 0;
        memcpy(raw + 8 + (size_t)y * (stride + 1), rows + (size_t)y * stride, stride);
    }
    for (size_t i = 0; i < n; i++)
        a = (a + raw[7 + i]) % 65521, b = (b + a) % 65521;
    big(raw + 7 + n, b << 16 | a);
    big(head, (uint32_t)w), big(head + 4, (uint32_t)h);
    head[8] = (uint8_t)bits, head[9] = (uint8_t)kind;
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    size_t at_byte = 8 + png_chunk(file + 8, "IHDR", head, 13);
    at_byte += png_chunk(file + at_byte, "IDAT", raw, n + 11);
    at_byte += png_chunk(file + at_byte, "IEND", "", 0);
    put_file(path, file, at_byte);
}

/* The one picture of a file as RGB; its size must be w x h. Caller frees. */
static uint8_t *read_picture(const char *path, int w, int h)
{
    gimbal_error err = {0};
    media_reader *in;
    media_info info;
    check_ok(media_open(&in, path, &info, &err), err);
    check(info.width == w && info.height == h, "%s: %dx%d", path, info.width, info.height);
    uint8_t *rgb = malloc(3 * (size_t)w * (size_t)h), *more = malloc(3 * (size_t)w * (size_t)h);
    check(media_get(in, rgb, &err) == 1, "%s: %.200s", path, err.msg);
    check(media_get(in, more, &err) == 0, "%s: more than one picture", path);
    media_free(in);
    free(more);
    return rgb;
}

static void expect(const char *path, int w, int h, const uint8_t *want, int tolerance)
{
    uint8_t *got = read_picture(path, w, h);
    for (int i = 0; i < 3 * w * h; i++)
        check(abs(got[i] - want[i]) <= tolerance, "%s: x %d y %d channel %d is %d, expected %d", path,
              i / 3 % w, i / 3 / w, i % 3, got[i], want[i]);
    free(got);
}

/* ---- which files a path means ------------------------------------------------------------ */

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

/* Names in the order expected; picture i shows frame i. */
static void a_folder_is_its_pictures_in_natural_order(void **state)
{
    (void)state;
    static const char *const names[] = {"f1.png", "f2.jpg", "f02b.png", "f10.PNG", "f0011.png", "g.webp"};
    uint8_t want[W * H * 3], got[W * H * 3];
    gimbal_error err = {0};
    media_reader *in;
    media_info info;
    for (int i = 5; i >= 0; i--) {
        media_writer *out;
        picture(i, W, H, want);
        check_ok(media_create(&out, at(i == 3 ? "f10.png" : names[i]), W, H, FPS, NULL, &err), err);
        check_ok(media_put(out, want, &err), err);
        check_ok(media_close(out, &err), err);
    }
    rename(at("f10.png"), at("f10.PNG"));
    put_file(at("notes.txt"), "f3", 2);
    put_file(at(".f3.png"), "hidden", 6);
    put_file(at("f4.mp4"), "no picture", 10);
    mkdir(at("f5.png"), 0777);
    check_ok(media_open(&in, folder, &info, &err), err);
    assert_int_equal(info.frames, 6);
    for (int i = 0; i < 6; i++) {
        check(media_get(in, got, &err) == 1, "picture %d: %.200s", i, err.msg);
        picture(i, W, H, want);
        for (int k = 0; k < W * H * 3; k++)
            check(abs(got[k] - want[k]) <= (i == 1 ? 6 : 0), "%s does not come as number %d", names[i], i);
    }
    assert_int_equal(media_get(in, got, &err), 0);
    media_free(in);
    rmdir(at("f5.png"));
    files(1);
}

static void a_folder_of_a_written_sequence_gives_the_clip_and_its_recipe(void **state)
{
    (void)state;
    gimbal_error err = {0};
    char *text;
    write_clip(at("f%d.png"), W, H, 12);
    const Read r = read_clip(folder, W, H);
    assert_int_equal(r.frames, 12);
    assert_int_equal(r.largest, 0);
    check_ok(media_recipe(folder, &text, &err), err);
    assert_string_equal(text, recipe);
    free(text);
    files(1);
    write_clip(at("%03d.png"), W, H, 2);
    check_ok(media_recipe(folder, &text, &err), err);
    assert_string_equal(text, recipe);
    free(text);
    files(1);
}

static void a_picture_of_another_size_is_an_error_that_names_it(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_reader *in;
    uint8_t rgb[W * H * 3];
    write_clip(at("f%d.png"), W, H, 3);
    write_clip(at("f1.png"), W + 1, H, 1);
    const char *const paths[] = {folder, at("f%d.png")};
    for (int i = 0; i < 2; i++) {
        check_ok(media_open(&in, paths[i], NULL, &err), err);
        assert_int_equal(media_get(in, rgb, &err), 1);
        check_fails(media_get(in, rgb, &err), GIMBAL_EFORMAT, err, "f1.png: 38x21 pixels, expected 37x21");
        media_free(in);
    }
    files(1);
}

static void a_folder_without_pictures_is_an_error(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_reader *in;
    put_file(at("a.txt"), "x", 1);
    check_fails(media_open(&in, folder, NULL, &err), GIMBAL_EIO, err, "without pictures");
    files(1);
}

/* ---- orientation ------------------------------------------------------------------------- */

/* Where the stored row 0 and column 0 are seen, after the EXIF specification: Top, Bottom, Left, Right. */
static const char *const seen[9] = {"", "TL", "TR", "BR", "BL", "LT", "RT", "RB", "LB"};

static int along(char side, int x, int y, int w, int h)
{
    return side == 'T' ? y : side == 'B' ? h - 1 - y : side == 'L' ? x : w - 1 - x;
}

/* shown [h][w] from stored, as orientation says. */
static void turned(const uint8_t *stored, int orientation, int w, int h, uint8_t *shown)
{
    const int stored_width = orientation > 4 ? h : w;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const int row = along(seen[orientation][0], x, y, w, h);
            const int column = along(seen[orientation][1], x, y, w, h);
            memcpy(shown + 3 * (y * w + x), stored + 3 * (row * stored_width + column), 3);
        }
}

/* Both byte orders of TIFF. */
static size_t exif_block(uint8_t *p, int orientation)
{
    static const uint8_t big_endian[] = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0,
                                         3,   0,   0, 0,  1, 0, 0, 0, 0, 0, 0, 0,    0};
    static const uint8_t little_endian[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3,
                                            0,   1,   0,  0, 0, 0, 0, 0, 0, 0, 0,    0, 0};
    memcpy(p, orientation % 2 ? big_endian : little_endian, 26);
    p[orientation % 2 ? 19 : 18] = (uint8_t)orientation;
    return 26;
}

static void write_jpeg_turned(const char *path, int orientation)
{
    size_t n;
    uint8_t exif[64], file[8192];
    uint8_t *jpeg = (uint8_t *)bytes_of(at("plain.jpg"), &n);
    const size_t m = exif_block(exif, orientation);
    assert_true(n + m + 16 < sizeof file);
    memcpy(file, jpeg, 2);
    memcpy(file + 2, (const uint8_t[]){0xFF, 0xE1, 0, (uint8_t)(m + 8), 'E', 'x', 'i', 'f', 0, 0}, 10);
    memcpy(file + 12, exif, m);
    memcpy(file + 12 + m, jpeg + 2, n - 2);
    put_file(path, file, n + m + 10);
    free(jpeg);
}

static void all_eight_orientations_of_a_jpeg_are_honoured(void **state)
{
    (void)state;
    uint8_t want[W * H * 3];
    write_clip(at("plain.jpg"), W, H, 1);
    uint8_t *stored = read_picture(at("plain.jpg"), W, H);
    for (int o = 1; o <= 8; o++) {
        const int w = o > 4 ? H : W, h = o > 4 ? W : H;
        gimbal_error err = {0};
        media_reader *in;
        media_info info;
        write_jpeg_turned(at("turned.jpg"), o);
        turned(stored, o, w, h, want);
        expect(at("turned.jpg"), w, h, want, 0);
        check_ok(media_open(&in, at("turned.jpg"), &info, &err), err);
        media_free(in);
        assert_int_equal(info.orientation, o);
    }
    free(stored);
    files(1);
}

/* A still of ours, [n] bytes, is a bare VP8L; with EXIF it needs VP8X in front. */
static void write_webp_turned(const char *path, const uint8_t *webp, size_t n, int orientation)
{
    uint8_t exif[64], file[8192];
    const size_t m = exif_block(exif, orientation), total = 12 + 18 + (n - 12) + 8 + m;
    const uint8_t low = (uint8_t)(total - 8), high = (uint8_t)((total - 8) >> 8);
    const uint8_t head[30] = {'R', 'I', 'F', 'F', low, high, 0, 0, 'W', 'E',   'B', 'P', 'V',   'P', '8',
                              'X', 10,  0,   0,   0,   8,    0, 0, 0,   W - 1, 0,   0,   H - 1, 0,   0};
    assert_true(total <= sizeof file);
    memcpy(file, head, 30);
    memcpy(file + 30, webp + 12, n - 12);
    memcpy(file + 18 + n, (const uint8_t[]){'E', 'X', 'I', 'F', (uint8_t)m, 0, 0, 0}, 8);
    memcpy(file + 26 + n, exif, m);
    put_file(path, file, total);
}

static void all_eight_orientations_of_a_webp_are_honoured(void **state)
{
    (void)state;
    uint8_t want[W * H * 3];
    size_t n;
    write_clip(at("plain.webp"), W, H, 1);
    uint8_t *stored = read_picture(at("plain.webp"), W, H), *webp = (uint8_t *)bytes_of(at("plain.webp"), &n);
    for (int o = 1; o <= 8; o++) {
        const int w = o > 4 ? H : W, h = o > 4 ? W : H;
        write_webp_turned(at("turned.webp"), webp, n, o);
        turned(stored, o, w, h, want);
        expect(at("turned.webp"), w, h, want, 0);
    }
    free(stored), free(webp);
    files(1);
}

/* QuickTime's matrix a b u c d v x y w of a track shows stored (x, y) at (a x + c y, b x + d y). */
static void all_eight_display_matrices_of_an_mp4_are_honoured(void **state)
{
    (void)state;
    static const int matrix[9][4] = {{0},           {1, 0, 0, 1}, {-1, 0, 0, 1}, {-1, 0, 0, -1},
                                     {1, 0, 0, -1}, {0, 1, 1, 0}, {0, 1, -1, 0}, {0, -1, -1, 0},
                                     {0, -1, 1, 0}};
    enum { A = 38, B = 22 };
    uint8_t want[A * B * 3];
    size_t n;
    write_clip(at("plain.mp4"), A, B, 1);
    uint8_t *stored = read_picture(at("plain.mp4"), A, B), *mp4 = (uint8_t *)bytes_of(at("plain.mp4"), &n);
    uint8_t *track = memmem(mp4, n, "tkhd", 4);
    assert_non_null(track);
    for (int o = 1; o <= 8; o++) {
        const int w = o > 4 ? B : A, h = o > 4 ? A : B;
        for (int k = 0; k < 4; k++) /* 16.16 */
            big(track + 44 + 4 * (k / 2 * 3 + k % 2), (uint32_t)matrix[o][k] << 16);
        put_file(at("turned.mp4"), mp4, n);
        turned(stored, o, w, h, want);
        expect(at("turned.mp4"), w, h, want, 0);
    }
    memset(track + 44, 0, 36); /* no turn at all: as it is */
    put_file(at("turned.mp4"), mp4, n);
    expect(at("turned.mp4"), A, B, stored, 0);
    free(stored), free(mp4);
    files(1);
}

/* ---- colour and transparency ------------------------------------------------------------- */

static void colours_of_another_programs_pictures_are_right(void **state)
{
    (void)state;
    static const uint8_t patch[8][3] = {{255, 0, 0},   {0, 255, 0},   {0, 0, 255},     {255, 255, 255},
                                        {255, 255, 0}, {0, 255, 255}, {128, 128, 128}, {0, 0, 0}};
    static const char *const names[] = {"tests/golden/media/colours.jpg", "tests/golden/media/colours.webp"};
    for (int i = 0; i < 2; i++) {
        uint8_t *got = read_picture(names[i], 64, 32);
        for (int k = 0; k < 8; k++)
            for (int c = 0; c < 3; c++) {
                const int v = got[3 * ((k / 4 * 16 + 8) * 64 + k % 4 * 16 + 8) + c];
                check(abs(v - patch[k][c]) <= 3, "%s: patch %d channel %d is %d", names[i], k, c, v);
            }
        free(got);
    }
}

/* 8 and 16 bits, grey and colour: every value of 0 to 255 once. */
static void grey_and_deep_pictures_keep_their_values(void **state)
{
    (void)state;
    uint8_t rows[256 * 8], want[256 * 3];
    for (int x = 0; x < 256; x++)
        want[3 * x] = want[3 * x + 1] = want[3 * x + 2] = rows[x] = (uint8_t)x;
    write_png(at("a.png"), 256, 1, 8, 0, rows, 256);
    expect(at("a.png"), 256, 1, want, 0);
    for (int x = 0; x < 256; x++)
        rows[2 * x] = rows[2 * x + 1] = (uint8_t)x;
    write_png(at("a.png"), 256, 1, 16, 0, rows, 512);
    expect(at("a.png"), 256, 1, want, 1);
    for (int x = 0; x < 256; x++)
        for (int c = 0; c < 3; c++) {
            want[3 * x + c] = (uint8_t)(c == 0 ? x : c == 1 ? 255 - x : x / 2);
            rows[6 * x + 2 * c] = rows[6 * x + 2 * c + 1] = want[3 * x + c];
        }
    write_png(at("a.png"), 256, 1, 16, 2, rows, 1536);
    expect(at("a.png"), 256, 1, want, 1);
    files(1);
}

static void transparent_pictures_lie_on_black(void **state)
{
    (void)state;
    enum { N = 86 };
    uint8_t rows[N * 8], want[N * 3];
    for (int x = 0; x < N; x++) {
        const uint8_t rgba[4] = {255, 200, (uint8_t)(3 * x), (uint8_t)(3 * x)};
        memcpy(rows + 4 * x, rgba, 4);
        for (int c = 0; c < 3; c++)
            want[3 * x + c] = (uint8_t)lround(rgba[c] * (double)rgba[3] / 255);
    }
    write_png(at("a.png"), N, 1, 8, 6, rows, 4 * N);
    expect(at("a.png"), N, 1, want, 0);
    for (int x = N - 1; x >= 0; x--)
        for (int c = 7; c >= 0; c--)
            rows[8 * x + c] = rows[4 * x + c / 2];
    write_png(at("a.png"), N, 1, 16, 6, rows, 8 * N);
    expect(at("a.png"), N, 1, want, 2); /* FFmpeg rounds colour and alpha up by 1 at most */
    for (int x = 0; x < N; x++) {       /* grey with alpha */
        rows[2 * x] = 180, rows[2 * x + 1] = (uint8_t)(3 * x);
        want[3 * x] = want[3 * x + 1] = want[3 * x + 2] = (uint8_t)lround(180 * 3.0 * x / 255);
    }
    write_png(at("a.png"), N, 1, 8, 4, rows, 2 * N);
    expect(at("a.png"), N, 1, want, 0);
    files(1);
}

/* rolled.webp: every frame whole, part transparent; square.webp: small opaque pictures on what was there. */
static void animated_webp_of_another_program_is_read_exactly(void **state)
{
    (void)state;
    enum { A = 23, B = 13 };
    uint8_t got[A * B * 3];
    for (int file = 0; file < 2; file++) {
        gimbal_error err = {0};
        media_reader *in;
        media_info info;
        check_ok(media_open(&in, file ? "tests/golden/media/square.webp" : "tests/golden/media/rolled.webp",
                            &info, &err),
                 err);
        check(info.width == A && info.height == B && info.frames == 5, "its size");
        check_near(info.fps, file ? 20 : 12.5, 1e-9, "mean rate of file %d", file);
        for (int f = 0; f < 5; f++) {
            check(media_get(in, got, &err) == 1, "frame %d: %.200s", f, err.msg);
            for (int y = 0; y < B; y++)
                for (int x = 0; x < A; x++) {
                    const int u = (x + 3 * f) % A, full = u * 12 + (y == 5) * 200,
                              alpha = full < 255 ? full : 255;
                    const int in_square = y >= 3 && y < 7 && x >= 2 + 3 * f && x < 6 + 3 * f;
                    const double rolled[3] = {u * 11 * alpha / 255.0, y * 19 * alpha / 255.0,
                                              (255 - u * 5 - y * 3) * alpha / 255.0};
                    const double square[3] = {in_square ? 250 : x * 10, in_square ? 240 : y * 15,
                                              in_square ? 10 : 90};
                    for (int c = 0; c < 3; c++)
                        check_near(got[3 * (y * A + x) + c], file ? square[c] : rolled[c], 0.5001,
                                   "file %d frame %d x %d y %d channel %d", file, f, x, y, c);
                }
        }
        assert_int_equal(media_get(in, got, &err), 0);
        media_free(in);
    }
}

/* Delays of 2, 50 and 2 hundredths: three pictures, not twenty-seven. */
static void frames_of_variable_rate_come_as_they_are(void **state)
{
    (void)state;
    size_t n;
    write_clip(at("c.gif"), W, H, 3);
    uint8_t *data = (uint8_t *)bytes_of(at("c.gif"), &n);
    for (size_t i = 0, k = 0; i + 8 < n; i++)
        if (data[i] == 0x21 && data[i + 1] == 0xF9 && data[i + 2] == 4)
            data[i + 4] = k++ == 1 ? 50 : 2, data[i + 5] = 0;
    put_file(at("v.gif"), data, n);
    free(data);
    const Read plain = read_clip(at("c.gif"), W, H), r = read_clip(at("v.gif"), W, H);
    assert_int_equal(r.frames, 3);
    check(r.mean == plain.mean, "the same pictures");
    files(1);
}

/* ---- scaling ----------------------------------------------------------------------------- */

/* A ramp stays the same ramp at every size, edges aside. */
static void a_scaled_reader_gives_the_whole_picture_at_the_size_asked_for(void **state)
{
    (void)state;
    static const int sizes[][2] = {{60, 30}, {31, 17}, {120, 11}, {1, 1}, {90, 45}};
    uint8_t rows[90 * 45 * 3];
    for (int y = 0; y < 45; y++)
        for (int x = 0; x < 90; x++) {
            uint8_t *p = rows + 3 * (90 * y + x);
            p[0] = (uint8_t)(20 + 2 * x), p[1] = (uint8_t)(20 + 4 * y), p[2] = 77;
        }
    write_png(at("a.png"), 90, 45, 8, 2, rows, 270);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gimbal_error err = {0};
        media_reader *in;
        media_info info;
        const int w = sizes[i][0], h = sizes[i][1];
        uint8_t *got = malloc(3 * (size_t)w * (size_t)h);
        check_ok(media_open_scaled(&in, at("a.png"), w, h, &info, &err), err);
        check(info.width == w && info.height == h && info.file_width == 90 && info.file_height == 45,
              "sizes");
        assert_int_equal(media_get(in, got, &err), 1);
        media_free(in);
        for (int y = h / 8; y < h - h / 8; y++)
            for (int x = w / 8; x < w - w / 8; x++) {
                const uint8_t *p = got + 3 * (y * w + x);
                check_near(p[0], 20 + 2 * ((x + 0.5) * 90 / w - 0.5), 2.5, "%dx%d: red at %d, %d", w, h, x,
                           y);
                check_near(p[1], 20 + 4 * ((y + 0.5) * 45 / h - 0.5), 2.5, "%dx%d: green at %d, %d", w, h, x,
                           y);
                check_near(p[2], 77, 2, "%dx%d: blue at %d, %d", w, h, x, y);
            }
        free(got);
    }
    files(1);
}

/* A red left half on black, shown turned a quarter to the right: the upper half is red. */
static void a_scaled_reader_turns_too(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_writer *out;
    media_reader *in;
    uint8_t rgb[W * H * 3] = {0}, got[16 * 40 * 3];
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W / 2; x++)
            rgb[3 * (y * W + x)] = 250;
    check_ok(media_create(&out, at("plain.jpg"), W, H, FPS, NULL, &err), err);
    check_ok(media_put(out, rgb, &err), err);
    check_ok(media_close(out, &err), err);
    write_jpeg_turned(at("turned.jpg"), 6);
    check_ok(media_open_scaled(&in, at("turned.jpg"), 16, 40, NULL, &err), err);
    assert_int_equal(media_get(in, got, &err), 1);
    media_free(in);
    for (int x = 0; x < 16; x++) {
        check_near(got[3 * (8 * 16 + x)], 250, 6, "red above, at %d", x);
        check_near(got[3 * (32 * 16 + x)], 0, 6, "black below, at %d", x);
    }
    files(1);
    check_fails(media_open_scaled(&in, "x.png", 0, 5, NULL, &err), GIMBAL_EUSAGE, err, "0x5");
    check_fails(media_open_scaled(&in, "x.png", 5, 20000, NULL, &err), GIMBAL_EUSAGE, err, "5x20000");
}

/* ---- hostile input ----------------------------------------------------------------------- */

static void what_is_no_clip_is_an_error_that_names_it(void **state)
{
    (void)state;
    gimbal_error err = {0};
    media_reader *in;
    media_info info;
    char *text;
    put_file(at("text.mp4"), "hello\n", 6);
    put_file(at("text.txt"), "hello\n", 6);
    put_file(at("empty.mp4"), "", 0);
    put_file(at("none.y4m"), "YUV4MPEG2 W16 H16 F8:1 C444\n", 28);
    check_fails(media_open(&in, at("text.mp4"), &info, &err), GIMBAL_EFORMAT, err, "text.mp4");
    check_fails(media_open(&in, at("text.txt"), &info, &err), GIMBAL_EFORMAT, err, "text.txt: not a clip");
    check_fails(media_open(&in, at("empty.mp4"), &info, &err), GIMBAL_EFORMAT, err, "empty.mp4");
    check_fails(media_open(&in, at("none.y4m"), &info, &err), GIMBAL_EFORMAT, err, "none.y4m");
    check_fails(media_open(&in, at("none.mp4"), &info, &err), GIMBAL_EIO, err, "no such file");
    check_fails(media_open(&in, at("f%03d.png"), &info, &err), GIMBAL_EIO, err, "no such pictures");
    check_fails(media_open(&in, "http://127.0.0.1:1/c.mp4", &info, &err), GIMBAL_EIO, err, "no such file");
    check_fails(media_recipe(at("none.mp4"), &text, &err), GIMBAL_EIO, err, "no such file");
    const char *list = "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/c.ts\n#EXT-X-ENDLIST\n";
    put_file(at("list.m3u8"), list, strlen(list));
    check(media_open(&in, at("list.m3u8"), &info, &err) < 0, "a playlist opened the network");
    files(1);
}

/* Sizes that a header claims cost nothing before they are believed. */
static void lying_sizes_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t w, h;
    } sizes[] = {{0, 5},         {5, 0}, {16385, 1}, {1, 40000}, {16384, 16384}, {0x7FFFFFFF, 0x7FFFFFFF},
                 {0xFFFFFFFF, 1}};
    const uint8_t row[12] = {0};
    size_t n;
    write_png(at("a.png"), 4, 1, 8, 2, row, 12);
    uint8_t *data = (uint8_t *)bytes_of(at("a.png"), &n);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gimbal_error err = {0};
        media_reader *in;
        big(data + 16, sizes[i].w), big(data + 20, sizes[i].h);
        big(data + 29, crc32_of(data + 12, 17));
        put_file(at("lie.png"), data, n);
        check_fails(media_open(&in, at("lie.png"), NULL, &err), GIMBAL_EFORMAT, err, "lie.png: ");
        assert_null(in);
    }
    free(data);
    files(1);
}

/* Opens and reads to the end: the code, and the number of pictures. */
static int read_all(const char *path, int *pictures, gimbal_error *err)
{
    static uint8_t rgb[3 * 512 * 512];
    media_reader *in;
    media_info info;
    *pictures = 0;
    int more = media_open(&in, path, &info, err);
    if (more)
        return more;
    more = 1;
    while (more > 0 && info.width <= 512 && info.height <= 512 && (more = media_get(in, rgb, err)) > 0)
        ++*pictures;
    media_free(in);
    return more < 0 ? more : GIMBAL_OK;
}

static void a_clip_that_was_cut_short_is_an_error(void **state)
{
    (void)state;
    for (int i = 0; media_format_at(i); i++) {
        char first[256];
        size_t n;
        snprintf(first, sizeof first, clip_name(media_format_at(i)), 0);
        write_clip(clip_name(media_format_at(i)), W, H, FRAMES);
        char *data = bytes_of(first, &n);
        for (size_t size = 0; size < n - n / 20; size += n / 20 + 1) {
            gimbal_error err = {0};
            int pictures;
            put_file(at("cut"), data, size);
            const int code = read_all(at("cut"), &pictures, &err);
            check(code == GIMBAL_EFORMAT && strstr(err.msg, "/cut: "),
                  "%s: %zu of %zu bytes: code %d, %d pictures, \"%.200s\"", media_format_at(i)->ending, size,
                  n, code, pictures, err.msg);
        }
        free(data);
        files(1);
    }
}

static void damaged_webp_places_are_refused(void **state)
{
    (void)state;
    /* byte of the first ANMF from its tag on, what it becomes, what the message says */
    static const struct {
        int byte, value;
        const char *text;
    } harm[] = {{8, 200, "lies outside"},  {13, 1, "lies outside"}, {14, 9, "were announced"},
                {17, 3, "were announced"}, {4, 3, "too few"},       {7, 255, "cut short"},
                {24, 'X', "decoding"}};
    size_t n;
    uint8_t *data = (uint8_t *)bytes_of("tests/golden/media/rolled.webp", &n), *copy = malloc(n);
    for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
        gimbal_error err = {0};
        int pictures;
        memcpy(copy, data, n);
        uint8_t *frame = memmem(copy, n, "ANMF", 4);
        frame[harm[i].byte] = (uint8_t)harm[i].value;
        put_file(at("bad.webp"), copy, n);
        check_fails(read_all(at("bad.webp"), &pictures, &err), GIMBAL_EFORMAT, err, harm[i].text);
    }
    free(data), free(copy);
    files(1);
}

/* Nothing of FFmpeg's talk reaches stderr either. */
static void damaged_clips_end_in_an_error_or_in_pictures(void **state)
{
    (void)state;
    uint32_t dice = 1;
    fflush(stderr);
    const int stderr_was = dup(2);
    assert_non_null(freopen(at("talk"), "w", stderr));
    for (int i = 0; media_format_at(i); i++) {
        char first[256];
        size_t n;
        snprintf(first, sizeof first, clip_name(media_format_at(i)), 0);
        write_clip(clip_name(media_format_at(i)), W, H, FRAMES);
        char *data = bytes_of(first, &n), *copy = malloc(n);
        for (int round = 0; round < 60; round++) {
            gimbal_error err = {0};
            int pictures;
            memcpy(copy, data, n);
            for (int k = 0; k < 8; k++) {
                dice = dice * 1664525 + 1013904223;
                copy[(dice >> 8) % (n < 1500 || k % 2 ? n : 1500)] = (char)(dice >> 3);
            }
            put_file(at("bad"), copy, round % 3 ? n : (size_t)(dice >> 4) % n);
            const int code = read_all(at("bad"), &pictures, &err);
            check(code ? err.msg[0] != 0 : pictures > 0, "%s: code %d and \"%.300s\"",
                  media_format_at(i)->ending, code, err.msg);
        }
        free(data), free(copy);
    }
    fflush(stderr);
    dup2(stderr_was, 2);
    close(stderr_was);
    size_t n;
    char *talk = bytes_of(at("talk"), &n);
    check(n == 0, "on stderr: %.200s", talk);
    free(talk);
    files(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_ends_at_the_first_gap_and_may_begin_at_one),
        cmocka_unit_test(a_folder_is_its_pictures_in_natural_order),
        cmocka_unit_test(a_folder_of_a_written_sequence_gives_the_clip_and_its_recipe),
        cmocka_unit_test(a_picture_of_another_size_is_an_error_that_names_it),
        cmocka_unit_test(a_folder_without_pictures_is_an_error),
        cmocka_unit_test(all_eight_orientations_of_a_jpeg_are_honoured),
        cmocka_unit_test(all_eight_orientations_of_a_webp_are_honoured),
        cmocka_unit_test(all_eight_display_matrices_of_an_mp4_are_honoured),
        cmocka_unit_test(colours_of_another_programs_pictures_are_right),
        cmocka_unit_test(grey_and_deep_pictures_keep_their_values),
        cmocka_unit_test(transparent_pictures_lie_on_black),
        cmocka_unit_test(animated_webp_of_another_program_is_read_exactly),
        cmocka_unit_test(frames_of_variable_rate_come_as_they_are),
        cmocka_unit_test(a_scaled_reader_gives_the_whole_picture_at_the_size_asked_for),
        cmocka_unit_test(a_scaled_reader_turns_too),
        cmocka_unit_test(what_is_no_clip_is_an_error_that_names_it),
        cmocka_unit_test(lying_sizes_are_refused),
        cmocka_unit_test(a_clip_that_was_cut_short_is_an_error),
        cmocka_unit_test(damaged_webp_places_are_refused),
        cmocka_unit_test(damaged_clips_end_in_an_error_or_in_pictures),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
