/* words.c: text as CLIP's tokenizer sees it: cleaned, composed, lower-cased, cut into words.
 *
 * What transformers' slow CLIPTokenizer does without ftfy, in this order: control, format, private and
 * unassigned characters and U+FFFD are dropped; separators become spaces; CJK ideographs get spaces around
 * them; NFC; split at spaces; each word in lower case as Unicode says (U+0130 and the final sigma by hand,
 * utf8proc has neither); each word cut into  special | 's 't 're 've 'm 'll 'd | letters | one digit | other
 * by the first that fits.
 *
 * "Unassigned" is a matter of version. The reference is Python 3.11, hence Unicode 14.0; utf8proc knows
 * 15.0, whose additions are listed below. Knows Unicode. Refuses to know vocabularies. */
#include "io/io.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef utf8proc_int32_t Point;

typedef struct {
    Point from, to;
} Range;

static const Range ideographs[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F},
                                   {0x2B820, 0x2CEAF}, {0x2F800, 0x2FA1F}};

/* New in Unicode 15.0. */
static const Range newcomers[] = {
    {0x0CF3, 0x0CF3},   {0x0ECE, 0x0ECE},   {0x10EFD, 0x10EFF}, {0x1123F, 0x11241}, {0x11B00, 0x11B09},
    {0x11F00, 0x11F10}, {0x11F12, 0x11F3A}, {0x11F3E, 0x11F59}, {0x1342F, 0x1342F}, {0x13439, 0x13455},
    {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1D2C0, 0x1D2D3}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D},
    {0x1E08F, 0x1E08F}, {0x1E4D0, 0x1E4F9}, {0x1F6DC, 0x1F6DC}, {0x1F774, 0x1F776}, {0x1F77B, 0x1F77F},
    {0x1F7D9, 0x1F7D9}, {0x1FA75, 0x1FA77}, {0x1FA87, 0x1FA88}, {0x1FAAD, 0x1FAAF}, {0x1FABB, 0x1FABD},
    {0x1FABF, 0x1FABF}, {0x1FACE, 0x1FACF}, {0x1FADA, 0x1FADB}, {0x1FAE8, 0x1FAE8}, {0x1FAF7, 0x1FAF8},
    {0x2B739, 0x2B739}, {0x31350, 0x323AF}};

/* Upper or lower case by decree, though their category is not a letter's, and not case-ignorable. */
static const Range cased_others[] = {{0xAA, 0xAA},      {0xBA, 0xBA},       {0x2160, 0x217F},
                                     {0x24B6, 0x24E9},  {0x1F130, 0x1F149}, {0x1F150, 0x1F169},
                                     {0x1F170, 0x1F189}};

/* Punctuation that may stand inside a word: an apostrophe does not end it. */
static const Range inside_words[] = {{0x27, 0x27},     {0x2E, 0x2E},     {0x3A, 0x3A},     {0xB7, 0xB7},
                                     {0x387, 0x387},   {0x55F, 0x55F},   {0x5F4, 0x5F4},   {0x2018, 0x2019},
                                     {0x2024, 0x2024}, {0x2027, 0x2027}, {0xFE13, 0xFE13}, {0xFE52, 0xFE52},
                                     {0xFE55, 0xFE55}, {0xFF07, 0xFF07}, {0xFF0E, 0xFF0E}, {0xFF1A, 0xFF1A}};

static bool within(const Range *ranges, int n, Point c)
{
    for (int i = 0; i < n; i++)
        if (c >= ranges[i].from && c <= ranges[i].to)
            return true;
    return false;
}

static bool is_letter(Point c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static bool is_number(Point c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

/* ---- cleaning ---------------------------------------------------------------------------- */

/* '\0' to drop, ' ' for white space, else the character itself. */
static Point cleaned(Point c)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return ' ';
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CS:
        return 0;
    case UTF8PROC_CATEGORY_ZS:
        return ' ';
    default:
        return c == 0xFFFD || (c >= 0x0CF3 && within(newcomers, COUNT(newcomers), c)) ? 0 : c;
    }
}

/* Composition sorts runs of marks in quadratic time; no writing stacks so many. */
enum { MARKS_MAX = 500 };

/* text[n], valid UTF-8, into out[2n + 2]; *out_n bytes. */
static int clean(const char *text, size_t n, char *out, size_t *out_n, gimbal_error *err)
{
    utf8proc_uint8_t *to = (utf8proc_uint8_t *)out;
    int marks = 0;
    for (size_t i = 0; i < n;) {
        Point c;
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
        c = cleaned(c);
        if (!c)
            continue;
        marks = utf8proc_get_property(c)->combining_class ? marks + 1 : 0;
        if (marks > MARKS_MAX)
            return fail(err, GIMBAL_EUSAGE, "the text has more than %d combining marks in a row", MARKS_MAX);
        const bool ideograph = c >= 0x3400 && within(ideographs, COUNT(ideographs), c);
        if (ideograph)
            *to++ = ' ';
        to += utf8proc_encode_char(c, to);
        if (ideograph)
            *to++ = ' ';
    }
    *out_n = (size_t)(to - (utf8proc_uint8_t *)out);
    return GIMBAL_OK;
}

/* UTF-8 to code points in composed form. Caller frees *out. */
static int compose(const char *text, size_t n, Point **out, size_t *count, gimbal_error *err)
{
    const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_uint8_t *s = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t m = utf8proc_decompose(s, (utf8proc_ssize_t)n, NULL, 0, how);
    *out = m < 0 ? NULL : alloc_array((size_t)m + 1, sizeof **out);
    if (*out)
        m = utf8proc_decompose(s, (utf8proc_ssize_t)n, *out, m, how);
    if (*out && m >= 0)
        m = utf8proc_normalize_utf32(*out, m, how);
    if (!*out || m < 0) {
        free(*out); /* alloc_array: ours */
        *out = NULL;
        return fail(err, GIMBAL_ENOMEM, "no memory for a text of %zu bytes", n);
    }
    *count = (size_t)m;
    return GIMBAL_OK;
}

/* ---- lower case -------------------------------------------------------------------------- */

static bool is_cased(Point c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LT) ||
           within(cased_others, COUNT(cased_others), c);
}

static bool is_case_ignorable(Point c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return within(inside_words, COUNT(inside_words), c);
    }
}

/* Unicode's Final_Sigma: a cased letter before it in the word, none after it. */
static bool sigma_is_final(const Point *word, size_t n, size_t at)
{
    size_t i = at;
    while (i > 0 && is_case_ignorable(word[i - 1]))
        i--;
    if (i == 0 || !is_cased(word[i - 1]))
        return false;
    for (i = at + 1; i < n && is_case_ignorable(word[i]);)
        i++;
    return i == n || !is_cased(word[i]);
}

/* word[n] into out[2n]; returns its length. */
static size_t lower(const Point *word, size_t n, Point *out)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (word[i] == 0x130)
            out[m++] = 'i', out[m++] = 0x307;
        else if (word[i] == 0x3A3)
            out[m++] = sigma_is_final(word, n, i) ? 0x3C2 : 0x3C3;
        else
            out[m++] = utf8proc_tolower(word[i]);
    }
    return m;
}

/* ---- words ------------------------------------------------------------------------------- */

/* The one mark that no alternative of the pattern takes: its other case is a letter, which "neither letter
 * nor number" excludes when case is ignored, while "letter" asks the mark itself. */
static const Point iota_subscript = 0x345;

/* Length of `literal` at the start of w[n], or 0. Case is ignored, under which the long s equals s. */
static size_t begins(const Point *w, size_t n, const char *literal)
{
    size_t i = 0;
    for (; literal[i]; i++)
        if (i >= n || (w[i] != literal[i] && !(literal[i] == 's' && w[i] == 0x17F)))
            return 0;
    return i;
}

/* How many of w[n], n > 0, are the next piece. w[0] is not the iota subscript. */
static size_t piece(const Point *w, size_t n)
{
    static const char *const literals[] = {
        "<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (int i = 0; i < COUNT(literals); i++) {
        const size_t m = begins(w, n, literals[i]);
        if (m)
            return m;
    }
    size_t m = 1;
    if (is_number(w[0]))
        return m;
    const bool letters = is_letter(w[0]);
    while (m < n && is_letter(w[m]) == letters && !is_number(w[m]) && w[m] != iota_subscript)
        m++;
    return m;
}

static int cut_word(const Point *w, size_t n, char *room, int (*word)(void *user, const char *, size_t),
                    void *user)
{
    for (size_t i = 0, m; i < n; i += m) {
        m = 1;
        if (w[i] == iota_subscript)
            continue;
        m = piece(&w[i], n - i);
        utf8proc_uint8_t *to = (utf8proc_uint8_t *)room;
        for (size_t k = i; k < i + m; k++)
            to += utf8proc_encode_char(w[k], to);
        TRY(word(user, room, (size_t)(to - (utf8proc_uint8_t *)room)));
    }
    return GIMBAL_OK;
}

/* Line and paragraph separators survive cleaning and part words all the same. */
static bool parts(Point c)
{
    return c == ' ' || c == 0x2028 || c == 0x2029;
}

int clip_words(const char *text, size_t n, int (*word)(void *user, const char *utf8, size_t n), void *user,
               gimbal_error *err)
{
    size_t clean_n = 0, count = 0;
    Point *points = NULL, *low = NULL;
    char *bytes = alloc_array(2 * n + 2, 1);
    int code = bytes ? clean(text, n, bytes, &clean_n, err)
                     : fail(err, GIMBAL_ENOMEM, "no memory for a text of %zu bytes", n);
    if (!code)
        code = compose(bytes, clean_n, &points, &count, err);
    free(bytes); /* scratch of this call, as all below */
    bytes = code ? NULL : alloc_array(2 * count + 1, 4);
    low = code ? NULL : alloc_array(2 * count + 1, sizeof *low);
    if (!code && (!bytes || !low))
        code = fail(err, GIMBAL_ENOMEM, "no memory for a text of %zu bytes", n);
    for (size_t i = 0; i < count && !code;) {
        size_t end = i;
        while (end < count && !parts(points[end]))
            end++;
        code = cut_word(low, lower(&points[i], end - i, low), bytes, word, user);
        i = end + 1;
    }
    free(points);
    free(low);
    free(bytes);
    return code;
}
