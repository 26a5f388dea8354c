/* t_train_data.c: --data of gimbal train (app/train_data.c, app/train_list.c): a folder's clips and captions
 * come as they lie there, in one order, frame for frame; what is useless is named; what leads out of the
 * folder is refused. The program's files are compiled in. */
#include "app/train.h"
#include "app/train_list.h"
#include "tests/media_files.h"

#include <sys/stat.h>

/* As the program's own, which stand in a file that needs all of it. */
int complain(gimbal_error *err, int code, const char *hint, const char *fmt, ...)
{
    va_list args;
    if (err->code)
        return code;
    va_start(args, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
    return err->code = code;
}

int fail_memory(gimbal_error *err)
{
    return complain(err, GIMBAL_ENOMEM, NULL, "out of memory");
}

bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && !strcmp(text + n - m, ending);
}

/* ---- folders ----------------------------------------------------------------------------- */

static void put_text(const char *name, const char *text)
{
    put_file(at(name), text, strlen(text));
}

/* A clip of `frames` pictures, or a picture. */
static void put_clip(const char *name, int w, int h, int frames)
{
    write_clip(at(name), w, h, frames);
}

static void empty_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "find %s -mindepth 1 -delete", folder);
    assert_int_equal(system(command), 0);
}

static void make_folder(const char *name)
{
    assert_int_equal(mkdir(at(name), 0700), 0);
}

/* Opens what --data names; *warnings (if not NULL) what it said on stderr. */
static int try_open(const char *spec, gimbal_clips *out, char warnings[4096], gimbal_error *err)
{
    FILE *file = tmpfile();
    fflush(stderr);
    const int was = dup(2);
    dup2(fileno(file), 2);
    const int code = clips_open(spec, false, out, err);
    fflush(stderr);
    dup2(was, 2), close(was);
    rewind(file);
    warnings[fread(warnings, 1, 4095, file)] = 0;
    fclose(file);
    return code;
}

static gimbal_clips open_quietly(const char *spec)
{
    char warnings[4096];
    gimbal_clips c;
    gimbal_error err = {0};
    check_ok(try_open(spec, &c, warnings, &err), err);
    assert_string_equal(warnings, "");
    return c;
}

/* "name: frames, caption" of all clips, a line each. */
static const char *list_of(const gimbal_clips *c)
{
    static char text[4096];
    size_t n = 0;
    text[0] = 0;
    for (int64_t i = 0; i < c->count; i++) {
        gimbal_error err = {0};
        int frames;
        const char *caption;
        check_ok(c->look(c->self, i, &frames, &caption, &err), err);
        n +=
            (size_t)snprintf(text + n, sizeof text - n, "%s: %d, %s\n", c->name(c->self, i), frames, caption);
    }
    return text;
}

/* ---- what a folder holds ----------------------------------------------------------------- */

static void words_beside_clips(void **state)
{
    (void)state;
    make_folder("b"), make_folder("b/c"), make_folder(".hidden");
    put_clip("z.gif", 16, 12, 3), put_text("z.txt", "  the last \r\n one\n");
    put_clip("b/one.png", 16, 12, 1), put_text("b/one.txt", "a picture");
    put_clip("b/c/two.avi", 16, 12, 4), put_text("b/c/two.txt", "caf\xc3\xa9");
    put_clip("b/c/two.png", 16, 12, 1);
    put_clip("a.mp4", 16, 12, 5), put_text("a.txt", "");
    put_text(".hidden/x.txt", "x"), put_text("notes.txt", "not a caption of anything"),
        put_text("readme", "x");
    gimbal_clips c = open_quietly(folder);
    assert_string_equal(list_of(&c), "a.mp4: 5, \nb/c/two.avi: 4, caf\xc3\xa9\nb/c/two.png: 1, caf\xc3\xa9\n"
                                     "b/one.png: 1, a picture\nz.gif: 3, the last    one\n");
    c.close(c.self);
    empty_folder();
}

static void lines_of_json(void **state)
{
    (void)state;
    make_folder("sub");
    put_clip("sub/1.avi", 16, 12, 4), put_clip("2.gif", 16, 12, 2);
    put_text("2.txt", "not asked for"), put_text("list.csv", "neither, is, this\n");
    put_text("metadata.jsonl",
             "\xef\xbb\xbf{\"file_name\": \"sub/1.avi\", \"text\": \"one\", \"fps\": [8]}\r\n\n"
             "  {\"caption\":\"two \\u00e9\",\"video\":\"2.gif\"}\n"
             "{\"path\":\"2.gif\",\"prompt\":\"again\",\"text\":null}");
    gimbal_clips c = open_quietly(folder);
    assert_string_equal(list_of(&c), "2.gif: 2, again\n2.gif: 2, two \xc3\xa9\nsub/1.avi: 4, one\n");
    c.close(c.self);
    empty_folder();
}

static void tables(void **state)
{
    (void)state;
    put_clip("11.mp4", 16, 12, 4), put_clip("x,y.gif", 16, 12, 2);
    put_text("results_2M.csv",
             "videoid,contentUrl,name,page_dir\r\n11,http://x,\"a \"\"big\"\", red\nball\",007\r\n");
    gimbal_clips c = open_quietly(folder);
    assert_string_equal(list_of(&c), "11.mp4: 4, a \"big\", red\nball\n");
    c.close(c.self);
    put_text("other.csv", "Text , FILE\nwords,\"x,y.gif\"\n\nmore,11.mp4");
    gimbal_error err = {0};
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EUSAGE, err, "several .csv");
    char path[256];
    snprintf(path, sizeof path, "%s", at("other.csv"));
    c = open_quietly(path); /* the list that is meant */
    assert_string_equal(list_of(&c), "11.mp4: 4, more\nx,y.gif: 2, words\n");
    c.close(c.self);
    empty_folder();
}

static void a_folder_of_pictures_in_a_list_is_a_clip(void **state)
{
    (void)state;
    make_folder("shot");
    for (int i = 0; i < 3; i++)
        put_clip((const char *[]){"shot/f1.png", "shot/f2.png", "shot/f10.png"}[i], 16, 12, 1);
    put_text("metadata.jsonl", "{\"file_name\": \"shot\", \"text\": \"three\"}");
    gimbal_clips c = open_quietly(folder);
    assert_string_equal(list_of(&c), "shot: 3, three\n");
    c.close(c.self);
    empty_folder();
}

static void the_world_of_shapes(void **state)
{
    (void)state;
    gimbal_clips c = open_quietly("toyworld"), d = open_quietly("toyworld:count=3,first=7");
    assert_int_equal(c.count, 4096), assert_int_equal(d.count, 3);
    c.close(c.self), d.close(d.self);
    gimbal_error err = {0};
    check_fails(clips_open("toyworld:count=x", false, &c, &err), GIMBAL_EUSAGE, err, "count");
    check_fails(clips_open("toyworlds", false, &c, &err), GIMBAL_EUSAGE, err,
                "--data toyworlds: No such file");
}

/* ---- frames ------------------------------------------------------------------------------ */

/* Largest difference of a picture to frame f of W x H, of which the middle is `width` wide and `height` high.
 */
static int off_by(const uint8_t *rgb, int f, int width, int height)
{
    uint8_t want[W * H * 3];
    int most = 0;
    picture(f, W, H, want);
    for (int y = 0; y < height; y++)
        for (int k = 0; k < 3 * width; k++) {
            const int d =
                abs(rgb[y * 3 * width + k] - want[(y + (H - height) / 2) * 3 * W + k + (W - width) / 2 * 3]);
            most = d > most ? d : most;
        }
    return most;
}

static void frames_come_as_asked_for(void **state)
{
    (void)state;
    put_clip("f.y4m", W, H, FRAMES), put_text("f.txt", "ramps");
    gimbal_clips c = open_quietly(folder);
    gimbal_error err = {0};
    const int wanted[] = {4, 0, 0, 2};
    static uint8_t rgb[4 * W * H * 3];
    check_ok(c.read(c.self, 0, wanted, 4, W, H, rgb, &err), err); /* before any look */
    for (int i = 0; i < 4; i++)
        check(off_by(rgb + i * W * H * 3, wanted[i], W, H) <= 3, "frame %d", wanted[i]);
    check(off_by(rgb, 0, W, H) > 8, "the pictures are too much alike");
    check_ok(c.read(c.self, 0, wanted, 4, 21, H, rgb, &err), err); /* nothing is scaled, the sides are cut */
    for (int i = 0; i < 4; i++)
        check(off_by(rgb + i * 21 * H * 3, wanted[i], 21, H) <= 3, "frame %d", wanted[i]);
    check_ok(c.read(c.self, 0, wanted, 4, W, 11, rgb, &err), err);
    for (int i = 0; i < 4; i++)
        check(off_by(rgb + i * W * 11 * 3, wanted[i], W, 11) <= 3, "frame %d", wanted[i]);
    const int late = FRAMES;
    check_fails(c.read(c.self, 0, &late, 1, W, H, rgb, &err), GIMBAL_EUSAGE, err, "frame 5 of 5");
    check_fails(c.read(c.self, 1, wanted, 1, W, H, rgb, &err), GIMBAL_EUSAGE, err, "clip 1 of 1");
    check_fails(c.read(c.self, 0, wanted, 1, 0, H, rgb, &err), GIMBAL_EUSAGE, err, "0x21");
    c.close(c.self);
    empty_folder();
}

/* A fine pattern becomes its mean, it does not alias; a ramp's middle stays in the middle, whatever the
 * shape. */
static void pictures_are_scaled_with_a_low_pass(void **state)
{
    (void)state;
    enum { BIG_W = 96, BIG_H = 64, SMALL_W = 16, SMALL_H = 16 };
    static uint8_t big[BIG_W * BIG_H * 3], small[SMALL_W * SMALL_H * 3];
    media_writer *out;
    gimbal_error err = {0};
    for (int i = 0; i < BIG_W * BIG_H; i++) {
        big[3 * i] = (i % BIG_W + i / BIG_W) % 2 ? 255 : 0;
        big[3 * i + 1] = (uint8_t)(128 + (i % BIG_W - BIG_W / 2));
        big[3 * i + 2] = (uint8_t)(128 + 2 * (i / BIG_W - BIG_H / 2));
    }
    check_ok(media_create(&out, at("p.png"), BIG_W, BIG_H, FPS, NULL, &err), err);
    check_ok(media_put(out, big, &err), err);
    check_ok(media_close(out, &err), err);
    put_text("p.txt", "p");
    gimbal_clips c = open_quietly(folder);
    const int first = 0;
    check_ok(c.read(c.self, 0, &first, 1, SMALL_W, SMALL_H, small, &err), err);
    for (int y = 2; y < SMALL_H - 2; y++)
        for (int x = 2; x < SMALL_W - 2; x++) {
            const uint8_t *p = small + 3 * (y * SMALL_W + x);
            check(abs(p[0] - 128) <= 3, "x %d, y %d: %d", x, y, p[0]);
            check(abs(p[1] - (128 + 4 * (x - SMALL_W / 2) + 2)) <= 3, "x %d: %d", x, p[1]);
            check(abs(p[2] - (128 + 8 * (y - SMALL_H / 2) + 3)) <= 4, "y %d: %d", y, p[2]);
        }
    c.close(c.self);
    empty_folder();
}

/* ---- what is useless --------------------------------------------------------------------- */

static void bad_files_are_named_and_left_out(void **state)
{
    (void)state;
    char warnings[4096];
    gimbal_clips c;
    gimbal_error err = {0};
    put_clip("good.gif", 16, 12, 2), put_text("good.txt", "good");
    put_clip("wordless.gif", 16, 12, 2);
    put_clip("latin.gif", 16, 12, 2), put_text("latin.txt", "caf\xe9");
    put_text("empty.mp4", ""), put_text("empty.txt", "empty");
    put_text("words.mp4", "no clip at all"), put_text("words.txt", "not a clip");
    check_ok(try_open(folder, &c, warnings, &err), err);
    assert_int_equal(c.count, 2); /* what cannot be decoded is found when it is wanted */
    check(strstr(warnings, "wordless.gif: has no caption: left out"), "%.400s", warnings);
    check(strstr(warnings, "latin.gif: its caption is not UTF-8: left out"), "%.400s", warnings);
    check(strstr(warnings, "empty.mp4: is empty: left out"), "%.400s", warnings);
    check(!strstr(warnings, "words.mp4") && !strstr(warnings, "good.gif"), "%.400s", warnings);
    int frames;
    const char *caption;
    assert_string_equal(c.name(c.self, 1), "words.mp4");
    for (int again = 0; again < 2; again++)
        check_fails(c.look(c.self, 1, &frames, &caption, &err), GIMBAL_EFORMAT, err, "words.mp4");
    check_ok(c.look(c.self, 0, &frames, &caption, &err), err);
    c.close(c.self);
    empty_folder();
}

static void names_in_lists_stay_in_the_folder(void **state)
{
    (void)state;
    char warnings[4096];
    gimbal_clips c;
    gimbal_error err = {0};
    make_folder("in");
    put_clip("out.gif", 16, 12, 2), put_clip("in/..x.gif", 16, 12, 2);
    put_text("in/metadata.jsonl",
             "{\"path\": \"../out.gif\", \"text\": \"a\"}\n{\"path\": \"a/../../out.gif\", \"text\": \"b\"}\n"
             "{\"path\": \"/etc/passwd\", \"text\": \"c\"}\n{\"path\": \"..\", \"text\": \"d\"}\n"
             "{\"path\": \"a\\nb\", \"text\": \"e\"}\n{\"path\": \"..x.gif\", \"text\": \"fine\"}\n"
             "{\"path\": \"gone.gif\", \"text\": \"f\"}\n{\"path\": 5, \"text\": \"g\"}\n"
             "{\"path\": \"..x.gif\"}\n[1]\n{\"path\": \"..x.gif\",\n");
    check_ok(try_open(at("in"), &c, warnings, &err), err);
    assert_string_equal(list_of(&c), "..x.gif: 2, fine\n");
    static const char *const said[] = {"../out.gif (line 1): leaves the folder",
                                       "out.gif (line 2): leaves",
                                       "/etc/passwd (line 3): leaves",
                                       ".. (line 4): leaves",
                                       "a?b (line 5): its name holds control",
                                       "gone.gif (line 7): No such file",
                                       "line 8: its \"path\" is no text",
                                       "..x.gif (line 9): has no caption",
                                       "line 10: is no JSON object",
                                       "line 11: is not valid JSON"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        check(strstr(warnings, said[i]), "%.300s lacks %.90s", warnings, said[i]);
    c.close(c.self);
    empty_folder();
}

static void folders_of_nothing_are_refused(void **state)
{
    (void)state;
    char warnings[4096];
    gimbal_clips c;
    gimbal_error err = {0};
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "no clips in it");
    assert_null(c.self);
    put_clip("a.gif", 16, 12, 2);
    check_fails(try_open(folder, &c, warnings, &err), GIMBAL_EFORMAT, err, "a.gif: has no caption");
    put_text("a.gif", "text"), put_text("a.txt", "a");
    check_fails(try_open(folder, &c, warnings, &err), GIMBAL_EFORMAT, err, "none of 1 clips can be read");
    put_text("list.csv", "url,caption\nx,y\n");
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "no column file_name");
    put_text("list.csv", "file,when\nx,y\n");
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "its columns are: file, when");
    put_text("list.csv", "");
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "an empty table");
    put_text("list.csv", "file,caption\n");
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "no clips in it");
    put_file(at("list.csv"), "f\0i\0", 4);
    check_fails(clips_open(folder, false, &c, &err), GIMBAL_EFORMAT, err, "zero bytes");
    check_fails(clips_open(at("a.gif"), false, &c, &err), GIMBAL_EUSAGE, err, "no list");
    empty_folder();
}

static void many_bad_files_are_counted(void **state)
{
    (void)state;
    char text[4096] = "file,caption\ngood.gif,good\n", warnings[4096];
    gimbal_clips c;
    gimbal_error err = {0};
    put_clip("good.gif", 16, 12, 2);
    for (int i = 0; i < 25; i++)
        sprintf(text + strlen(text), "x%02d.gif,words\n", i);
    put_text("metadata.csv", text);
    check_ok(try_open(folder, &c, warnings, &err), err);
    check(strstr(warnings, "x09.gif (line 12)") && !strstr(warnings, "x10.gif"), "%.400s", warnings);
    check(strstr(warnings, "15 more are left out"), "%.400s", warnings);
    assert_int_equal(c.count, 1);
    c.close(c.self);
    empty_folder();
}

/* ---- identity ---------------------------------------------------------------------------- */

/* Names, sizes and captions make it; the order of a list and other files do not. */
static void a_set_is_known_by_its_content(void **state)
{
    (void)state;
    char id[6][65];
    static const char *const lists[] = {
        "file,text\na.gif,one\nb.gif,two\n", "file,text\nb.gif,two\na.gif,one\n",
        "file,text\na.gif,one\nb.gif,too\n", "file,text\na.gif,oneb\nb.gif,two\n", "file,text\na.gif,one\n"};
    put_clip("a.gif", 16, 12, 2), put_clip("b.gif", 16, 12, 2);
    for (int i = 0; i < 6; i++) {
        put_text("list.csv", lists[i % 5]);
        if (i == 5)
            put_clip("b.gif", 16, 12, 3);
        gimbal_clips c = open_quietly(folder);
        assert_int_equal(strlen(c.identity), 64);
        snprintf(id[i], sizeof id[i], "%s", c.identity);
        c.close(c.self);
    }
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++)
            assert_int_equal(!strcmp(id[i], id[j]), i == 1 && j == 0);
    empty_folder();
}

/* ---- tables, letter by letter ------------------------------------------------------------ */

static void rows_are_what_rfc_4180_says(void **state)
{
    (void)state;
    static const char text[] = "file,caption,x\n"
                               "1.gif,plain\n"              /* line 2 */
                               "\"2.gif\",\"\",z\r\n"       /* 3 */
                               "3.gif,\"a\r\n\"\"b\"\"\"\r" /* 4 and 5 */
                               "4.gif,half \"quoted\"\n"    /* 6 */
                               "5.gif\n\n"                  /* 7 */
                               ",no file,\n"                /* 9 */
                               "6.gif,\"open\nend,";        /* 10 */
    static const struct {
        const char *file, *caption, *bad;
        int line;
    } want[] = {{"1.gif", "plain", NULL, 2},
                {"2.gif", "", NULL, 3},
                {"3.gif", "a\r\n\"b\"", NULL, 4},
                {"4.gif", "half \"quoted\"", NULL, 6},
                {NULL, NULL, "has too few cells", 7},
                {"", "no file", "names no file", 9},
                {NULL, NULL, "begins a quote that never ends", 10}};
    ClipList list = {0};
    gimbal_error err = {0};
    check_ok(list_csv(&list, text, sizeof text - 1, "t", &err), err);
    assert_int_equal(list.count, sizeof want / sizeof *want);
    for (int i = 0; i < list.count; i++) {
        const ListedClip *c = &list.clip[i];
        check(!c->file == !want[i].file && (!c->file || !strcmp(c->file, want[i].file)), "row %d: %s", i,
              c->file);
        check(!c->caption == !want[i].caption && (!c->caption || !strcmp(c->caption, want[i].caption)),
              "row %d", i);
        check(!c->bad == !want[i].bad && (!c->bad || !strcmp(c->bad, want[i].bad)), "row %d: %s", i, c->bad);
        assert_int_equal(c->line, want[i].line);
    }
    list_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_beside_clips),
        cmocka_unit_test(lines_of_json),
        cmocka_unit_test(tables),
        cmocka_unit_test(a_folder_of_pictures_in_a_list_is_a_clip),
        cmocka_unit_test(the_world_of_shapes),
        cmocka_unit_test(frames_come_as_asked_for),
        cmocka_unit_test(pictures_are_scaled_with_a_low_pass),
        cmocka_unit_test(bad_files_are_named_and_left_out),
        cmocka_unit_test(names_in_lists_stay_in_the_folder),
        cmocka_unit_test(folders_of_nothing_are_refused),
        cmocka_unit_test(many_bad_files_are_counted),
        cmocka_unit_test(a_set_is_known_by_its_content),
        cmocka_unit_test(rows_are_what_rfc_4180_says),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
