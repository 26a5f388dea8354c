/* t_options.c: option tables: what each type accepts, what messages say, that printing reads back, and
 * suggestions. */
#include "base/base.h"
#include "tests/check.h"

#include <limits.h>
#include <locale.h>

typedef struct {
    int fast, passes, any;
    double ds, scale;
    uint64_t seed;
    const char *filter, *path;
} Knobs;

static const char *const filter_names[] = {"butterworth", "gaussian", "ideal", "box", NULL};
static const gimbal_option table[] = {
    {"passes", "", GIMBAL_INT, offsetof(Knobs, passes), 3, 1, 64, NULL, NULL},
    {"fast", "", GIMBAL_BOOL, offsetof(Knobs, fast), 0, 0, 1, NULL, NULL},
    {"filter", "", GIMBAL_CHOICE, offsetof(Knobs, filter), 0, 0, 0, "butterworth", filter_names},
    {"ds", "", GIMBAL_REAL, offsetof(Knobs, ds), 0.25, 0, 1, NULL, NULL},
    {"scale", "", GIMBAL_REAL, offsetof(Knobs, scale), -1.5, -1e308, HUGE_VAL, NULL, NULL},
    {"seed", "", GIMBAL_SEED, offsetof(Knobs, seed), 7, 0, 0, NULL, NULL},
    {"any", "", GIMBAL_INT, offsetof(Knobs, any), 0, INT_MIN, INT_MAX, NULL, NULL},
    {"path", "", GIMBAL_TEXT, offsetof(Knobs, path), 0, 0, 0, NULL, NULL},
    {0},
};

static void defaults_fill_every_field(void **state)
{
    Knobs k;
    (void)state;
    memset(&k, 0x55, sizeof k);
    options_default(table, &k);
    assert_true(k.passes == 3 && k.fast == 0 && k.ds == 0.25 && k.scale == -1.5 && k.seed == 7 && k.any == 0);
    assert_ptr_equal(k.filter, table[2].text);
    assert_null(k.path);
}

static void specs_set_fields_after_the_defaults(void **state)
{
    Arena keep = {0};
    gimbal_error err = {0};
    Knobs k = {.passes = 50};
    (void)state;
    check_ok(options_parse(table, &k, "filter=gaussian,fast,ds=5e-1,path=a=b,seed=0xFF", "freeinit: ", &keep,
                           &err),
             err);
    assert_true(k.passes == 3 && k.fast == 1 && k.ds == 0.5 && k.seed == 255);
    assert_ptr_equal(k.filter, filter_names[1]);
    assert_string_equal(k.path, "a=b");
    check_ok(options_parse(table, &k, "", "freeinit: ", &keep, &err), err);
    assert_true(k.fast == 0 && k.ds == 0.25);
    check_ok(options_parse(table, &k, NULL, "freeinit: ", &keep, &err), err);
    check_ok(options_parse(NULL, &k, "", "white: ", &keep, &err), err);
    arena_free(&keep);
}

/* TEXT values of a spec live in the arena: the spec may go. */
static void texts_outlive_the_spec(void **state)
{
    Arena keep = {0};
    Knobs k;
    char spec[] = "path=clip.mp4,passes=4";
    (void)state;
    assert_int_equal(options_parse(table, &k, spec, "", &keep, NULL), 0);
    memset(spec, 'x', sizeof spec - 1);
    assert_string_equal(k.path, "clip.mp4");
    assert_int_equal(k.passes, 4);
    arena_free(&keep);
}

static const struct {
    const char *spec, *said;
} wrong_specs[] = {
    {"passes=-1", "freeinit: passes is -1, expected 1 to 64"},
    {"passes=65", "freeinit: passes is 65, expected 1 to 64"},
    {"passes=99999999999999999999", "freeinit: passes is 99999999999999999999, expected 1 to 64"},
    {"passes=3x", "freeinit: passes: '3x' is not a whole number"},
    {"passes=3.0", "freeinit: passes: '3.0' is not a whole number"},
    {"passes=", "freeinit: passes: '' is not a whole number"},
    {"passes", "freeinit: passes has no value, expected passes=..."},
    {"ds=1.01", "freeinit: ds is 1.01, expected 0 to 1"},
    {"ds=nan", "freeinit: ds: 'nan' is not a number"},
    {"ds=inf", "freeinit: ds: 'inf' is not a number"},
    {"ds= 0.5", "freeinit: ds: ' 0.5' is not a number"},
    {"ds=0.5f", "freeinit: ds: '0.5f' is not a number"},
    {"ds=0x1p-1", "freeinit: ds: '0x1p-1' is not a number"},
    {"ds=e", "freeinit: ds: 'e' is not a number"},
    {"ds=1-1", "freeinit: ds: '1-1' is not a number"},
    {"scale=1e999", "freeinit: scale is 1e999, expected at least -1e+308"},
    {"seed=-1", "freeinit: seed is -1, expected 0 to 18446744073709551615"},
    {"seed=18446744073709551616", "expected 0 to 18446744073709551615"},
    {"seed=0x", "freeinit: seed is 0x"},
    {"seed=1.5", "freeinit: seed is 1.5"},
    {"any=2147483648", "freeinit: any is 2147483648, expected at least -2147483648"},
    {"fast=2", "freeinit: fast: '2' is neither yes nor no"},
    {"filter=gausian", "freeinit: filter is 'gausian', expected one of butterworth, gaussian, ideal, box"},
    {"filter=gausian", "did you mean 'gaussian'?"},
    {"filter=", "expected one of butterworth"},
    {"pases=3", "freeinit: pases: no such option"},
    {"pases=3", "did you mean 'passes'? known: passes, fast, filter, ds, scale, seed, any, path"},
    {"zzzzzz", "known: passes, fast"},
    {"fast,fast", "freeinit: fast is given twice"},
    {"ds=0.1,passes=2,ds=0.1", "freeinit: ds is given twice"},
    {"fast,,passes=2", "freeinit: an option is missing beside a comma in 'fast,,passes=2'"},
    {"fast,", "an option is missing"},
    {",", "an option is missing"},
    {"=3", "no such option"},
};

static void specs_that_are_wrong_say_what_where_and_what_was_expected(void **state)
{
    Arena keep = {0};
    gimbal_error err = {0};
    Knobs k;
    (void)state;
    for (int i = 0; i < COUNT(wrong_specs); i++)
        check_fails(options_parse(table, &k, wrong_specs[i].spec, "freeinit: ", &keep, &err), GIMBAL_EUSAGE,
                    err, wrong_specs[i].said);
    check_fails(options_parse(NULL, &k, "x=1", "white: ", &keep, &err), GIMBAL_EUSAGE, err,
                "white: x: no such option");
    arena_free(&keep);
}

static void the_command_line_is_named_with_its_dashes(void **state)
{
    gimbal_error err = {0};
    Knobs k = {0};
    (void)state;
    check_fails(gimbal_set(table, &k, "passes", "0", "--", &err), GIMBAL_EUSAGE, err,
                "--passes is 0, expected 1 to 64");
    check_fails(gimbal_set(table, &k, "ds", "nan", "--", &err), GIMBAL_EUSAGE, err,
                "--ds: 'nan' is not a number");
    check_fails(gimbal_set(table, &k, "fliter", "box", "--", &err), GIMBAL_EUSAGE, err,
                "did you mean '--filter'?");
    assert_true(k.passes == 0 && k.ds == 0 && !k.filter);
}

static void set_keeps_the_pointers_it_says(void **state)
{
    gimbal_error err = {0};
    Knobs k = {0};
    char text[] = "mine", choice[] = "box";
    (void)state;
    check_ok(gimbal_set(table, &k, "path", text, "--", &err), err);
    check_ok(gimbal_set(table, &k, "filter", choice, "--", &err), err);
    assert_ptr_equal(k.path, text);
    assert_ptr_equal(k.filter, filter_names[3]);
}

static void booleans_have_eight_words(void **state)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on", "FALSE", "Yes"};
    (void)state;
    for (int i = 0; i < COUNT(words); i++) {
        Knobs k = {.fast = 7};
        assert_int_equal(gimbal_set(table, &k, "fast", words[i], "", NULL), 0);
        check(k.fast == i % 2, "%s", words[i]);
    }
}

static void numbers_reach_the_ends_of_their_range(void **state)
{
    Knobs k;
    (void)state;
    assert_int_equal(gimbal_set(table, &k, "any", "-2147483648", "", NULL), 0);
    assert_int_equal(k.any, INT_MIN);
    assert_int_equal(gimbal_set(table, &k, "any", "+2147483647", "", NULL), 0);
    assert_int_equal(k.any, INT_MAX);
    assert_int_equal(gimbal_set(table, &k, "seed", "18446744073709551615", "", NULL), 0);
    assert_true(k.seed == UINT64_MAX);
    assert_int_equal(gimbal_set(table, &k, "seed", "0xffffffffffffffff", "", NULL), 0);
    assert_true(k.seed == UINT64_MAX);
    assert_int_equal(gimbal_set(table, &k, "seed", "010", "", NULL), 0);
    assert_true(k.seed == 10);
    assert_int_equal(gimbal_set(table, &k, "scale", "1e-400", "", NULL),
                     0); /* too small is 0, not an error */
    assert_true(k.scale == 0);
}

static void check_reads_back(const Knobs *k, const gimbal_option *o, const char *want)
{
    char text[64];
    Knobs again = {0};
    option_print(o, k, text, sizeof text);
    if (want)
        assert_string_equal(text, want);
    assert_int_equal(gimbal_set(table, &again, o->name, text, "", NULL), 0);
    if (o->type == GIMBAL_REAL)
        check(!memcmp((char *)&again + o->offset, (const char *)k + o->offset, sizeof(double)), "%s", text);
    if (o->type == GIMBAL_SEED)
        assert_true(again.seed == k->seed);
    if (o->type == GIMBAL_INT || o->type == GIMBAL_BOOL)
        assert_int_equal(*(int *)((char *)&again + o->offset), *(const int *)((const char *)k + o->offset));
}

static void what_is_printed_reads_back_exactly(void **state)
{
    static const struct {
        double value;
        const char *text;
    } reals[] = {{0.25, "0.25"},    {7.5, "7.5"},       {0.1, "0.1"},
                 {-0.0, "-0"},      {1e22, "1e+22"},    {1.0 / 3, NULL},
                 {0.1 + 0.2, NULL}, {5e-324, "5e-324"}, {1.7976931348623157e308, NULL},
                 {100000, "1e+05"}};
    Knobs k = {.passes = 12, .fast = 1, .seed = UINT64_MAX, .any = INT_MIN, .filter = filter_names[2]};
    char text[64];
    (void)state;
    for (int i = 0; i < COUNT(reals); i++) {
        k.scale = reals[i].value;
        check_reads_back(&k, &table[4], reals[i].text);
    }
    check_reads_back(&k, &table[0], "12");
    check_reads_back(&k, &table[1], "1");
    check_reads_back(&k, &table[5], "18446744073709551615");
    check_reads_back(&k, &table[6], "-2147483648");
    check_reads_back(&k, &table[2], "ideal");
    option_print(&table[7], &k, text, sizeof text);
    assert_string_equal(text, "");
    option_print(&table[2], &k, text, 3);
    assert_string_equal(text, "id");
}

/* A program that has chosen a language with decimal commas must read and write the same recipes. */
static void the_decimal_point_does_not_follow_the_locale(void **state)
{
    static const char *const commas[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE.utf8"};
    Knobs k = {0};
    char text[64];
    bool chosen = false;
    (void)state;
    for (int i = 0; i < COUNT(commas) && !chosen; i++)
        chosen = setlocale(LC_ALL, commas[i]);
    assert_int_equal(gimbal_set(table, &k, "ds", "0.5", "", NULL), 0);
    option_print(&table[3], &k, text, sizeof text);
    setlocale(LC_ALL, "C");
    assert_string_equal(text, "0.5");
}

static const char *word_at(const void *list, int i)
{
    return ((const char *const *)list)[i];
}

static void the_nearest_name_is_within_a_third_of_the_letters(void **state)
{
    static const char *const names[] = {"passes", "fast", "filter", "butterworth", "cfg"};
    static const struct {
        const char *word, *want;
    } cases[] = {
        {"passes", "passes"},
        {"PASSES", "passes"},
        {"pases", "passes"},
        {"passess", "passes"},
        {"apsses", "passes"},
        {"fsat", "fast"},
        {"fliter", "filter"},
        {"Filtre", "filter"},
        {"fa", NULL},
        {"slow", NULL},
        {"buterwort", "butterworth"},
        {"btterwrth", "butterworth"},
        {"worth", NULL},
        {"cgf", "cfg"},
        {"c", NULL},
        {"", NULL},
    };
    char longest[1000];
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = nearest_name(cases[i].word, word_at, names, COUNT(names));
        check(got == cases[i].want || (got && cases[i].want && !strcmp(got, cases[i].want)),
              "'%s' is near '%s'", cases[i].word, got ? got : "nothing");
    }
    memset(longest, 'p', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_null(nearest_name(longest, word_at, names, COUNT(names)));
    assert_null(nearest_name("passes", word_at, names, 0));
}

TESTS(defaults_fill_every_field, specs_set_fields_after_the_defaults, texts_outlive_the_spec,
      specs_that_are_wrong_say_what_where_and_what_was_expected, the_command_line_is_named_with_its_dashes,
      set_keeps_the_pointers_it_says, booleans_have_eight_words, numbers_reach_the_ends_of_their_range,
      what_is_printed_reads_back_exactly, the_decimal_point_does_not_follow_the_locale,
      the_nearest_name_is_within_a_third_of_the_letters)
