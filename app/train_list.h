/* train_list.h: lists of clips and their captions, as text: JSON lines, and tables with commas between.
 *
 * Every byte is hostile until checked. Knows the two formats. Refuses to know files and what is in them. */
#ifndef APP_TRAIN_LIST_H
#define APP_TRAIN_LIST_H

#include "gimbal.h"

/* Texts are the list's own. file: below the list's folder; no part of it is "..". caption: UTF-8. */
typedef struct {
    char *file, *caption;
    char *bad;     /* why this one cannot be used; NULL: as far as the list tells it can */
    int64_t line;  /* of the list, from 1; 0: of no list */
    int64_t bytes; /* of the file; the lists do not know */
} ListedClip;
typedef struct {
    ListedClip *clip;
    int64_t count, room;
} ClipList;

/* Appends one, copied; NULL for what is missing. bad: why it cannot be used; NULL: file and caption are
 * checked. ENOMEM. */
int list_add(ClipList *, const char *file, const char *caption, int64_t line, const char *bad,
             gimbal_error *);
/* Gives it a reason, unless it has one. ENOMEM. */
int list_spoil(ListedClip *, const char *reason, gimbal_error *);

/* A JSON object a line: "file_name", "video" or "path"; "text", "caption" or "prompt"; other keys are
 * ignored, empty lines are passed over. A line that is not so becomes a clip with `bad`. where: for messages.
 * EFORMAT: no text at all; ENOMEM. */
int list_jsonl(ClipList *, const char *text, size_t n, const char *where, gimbal_error *);

/* A table (RFC 4180) whose first row names its columns, in any case: "file_name", "file", "path", "video" or
 * "videoid" (then with .mp4 behind it where it has no ending, as WebVid's tables mean it); "caption", "text",
 * "prompt" or "name". Of several columns the first in this order counts. A row that is not so becomes a clip
 * with `bad`. EFORMAT: no text, or a column is missing; the hint names those that are there. ENOMEM. */
int list_csv(ClipList *, const char *text, size_t n, const char *where, gimbal_error *);

void list_free(ClipList *);

#endif
