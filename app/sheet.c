/* sheet.c: gimbal sheet: a contact sheet of clips, one row each, frames evenly spaced in time, thin gaps
 * between.
 *
 *     column k of N shows frame round(k (F - 1) / (N - 1)) of F.
 *
 * Clips are read twice, first to count their frames, because containers need not say. RGB8 throughout.
 * Refuses to know how clips are made. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *output;
    int columns;
} Flags;

static const gimbal_option options[] = {
    {"output", "OUT, also -o: the picture, a .png", GIMBAL_TEXT, offsetof(Flags, output), 0, 0, 0, NULL,
     NULL},
    {"columns", "frames of each clip", GIMBAL_INT, offsetof(Flags, columns), 8, 1, 64, NULL, NULL},
    {.name = NULL},
};

enum { GAP = 4, MOST_SIDE = 16384 };
static const uint8_t gap_colour = 255;

typedef struct {
    const char *path;
    int frames, width, height;
} Row;

typedef struct {
    uint8_t *rgb; /* [height][width][3] */
    int width, height;
} Sheet;

static int count_frames(Row *row, gimbal_error *err)
{
    media_reader *in;
    media_info info;
    TRY(media_open(&in, row->path, &info, err));
    row->width = info.width, row->height = info.height;
    uint8_t *rgb = malloc(3 * (size_t)info.width * (size_t)info.height);
    int more = rgb ? 1 : fail_memory(err);
    while (more > 0 && (more = media_get(in, rgb, err)) > 0) {
        row->frames++;
        if (check_signals(err))
            more = GIMBAL_ECANCEL;
    }
    free(rgb);
    media_free(in);
    TRY(more);
    return row->frames ? GIMBAL_OK : complain(err, GIMBAL_EFORMAT, NULL, "%s: no pictures in it", row->path);
}

static int frame_of_column(const Row *row, int column, int columns)
{
    return columns < 2 ? 0 : (2 * column * (row->frames - 1) + columns - 1) / (2 * (columns - 1));
}

static void paste(Sheet *sheet, const Row *row, const uint8_t *rgb, int x, int y)
{
    for (int i = 0; i < row->height; i++)
        memcpy(sheet->rgb + 3 * ((size_t)(y + i) * (size_t)sheet->width + (size_t)x),
               rgb + 3 * (size_t)i * (size_t)row->width, 3 * (size_t)row->width);
}

/* Frames are asked for in order; a short clip shows one in several columns. */
static int draw_row(Sheet *sheet, const Row *row, int y, int columns, gimbal_error *err)
{
    media_reader *in;
    TRY(media_open(&in, row->path, NULL, err));
    uint8_t *rgb = malloc(3 * (size_t)row->width * (size_t)row->height);
    int code = rgb ? GIMBAL_OK : fail_memory(err);
    for (int frame = 0, column = 0; !code && column < columns; frame++) {
        const int got = media_get(in, rgb, err);
        if (got <= 0)
            code =
                got ? got : complain(err, GIMBAL_EFORMAT, NULL, "%s: ends after %d frames", row->path, frame);
        for (; !code && column < columns && frame_of_column(row, column, columns) == frame; column++)
            paste(sheet, row, rgb, GAP + column * (row->width + GAP), y);
    }
    free(rgb);
    media_free(in);
    return code;
}

static int write_sheet(const Sheet *sheet, const char *path, gimbal_error *err)
{
    media_writer *out;
    TRY(media_create(&out, path, sheet->width, sheet->height, 1, NULL, err));
    const int code = media_put(out, sheet->rgb, err);
    if (!code)
        return media_close(out, err);
    media_abort(out);
    return code;
}

static int draw(Row *rows, int n, int columns, const char *path, gimbal_error *err)
{
    Sheet sheet = {.height = GAP};
    for (int i = 0; i < n; i++) {
        TRY(count_frames(&rows[i], err));
        const int width = GAP + columns * (rows[i].width + GAP);
        sheet.width = width > sheet.width ? width : sheet.width;
        sheet.height += rows[i].height + GAP;
        if (width > MOST_SIDE || sheet.height > MOST_SIDE)
            return complain(err, GIMBAL_EUSAGE, "fewer clips or fewer --columns",
                            "the sheet would be %dx%d pixels, at most %d each way", sheet.width, sheet.height,
                            MOST_SIDE);
    }
    const size_t bytes = 3 * (size_t)sheet.width * (size_t)sheet.height;
    sheet.rgb = malloc(bytes);
    if (!sheet.rgb)
        return fail_memory(err);
    memset(sheet.rgb, gap_colour, bytes);
    int code = GIMBAL_OK;
    for (int i = 0, y = GAP; !code && i < n; y += rows[i++].height + GAP)
        code = draw_row(&sheet, &rows[i], y, columns, err);
    code = code ? code : write_sheet(&sheet, path, err);
    free(sheet.rgb);
    return code;
}

int sheet_write(const char *const *clips, int n, int columns, const char *path, gimbal_error *err)
{
    Row *rows = calloc((size_t)n, sizeof *rows);
    if (!rows)
        return fail_memory(err);
    for (int i = 0; i < n; i++)
        rows[i].path = clips[i];
    const int code = draw(rows, n, columns, path, err);
    free(rows);
    return code;
}

static int run(const Args *args, gimbal_error *err)
{
    Flags flags;
    args_defaults(&command_sheet, &flags);
    TRY(args_apply(args, &flags, err));
    if (!args->n_words)
        return complain(err, GIMBAL_EUSAGE, "gimbal sheet a.mp4 b.mp4 -o sheet.png", "no clip is given");
    if (!flags.output || !ends_with(flags.output, ".png") || strchr(flags.output, '%'))
        return complain(err, GIMBAL_EUSAGE, "-o sheet.png", "-o must name one picture, a .png");
    TRY(output_check(flags.output, 1, err));
    TRY(sheet_write(args->words, args->n_words, flags.columns, flags.output, err));
    puts(flags.output);
    return flush_stdout(err);
}

const Command command_sheet = {
    .name = "sheet",
    .usage = "sheet CLIP... -o OUT.png [--columns N]",
    .help = "Draws clips below each other as rows of frames, evenly spaced in time.",
    .options = options,
    .run = run,
};
