/* io.h: files that models come in: safetensors, JSON configs, folders, the CLIP tokenizer; and binding of
 * weights.
 *
 * Every byte read here is hostile until checked. Knows one format per file, and the parameter visitor.
 * Refuses to know models: names.c knows spellings, bind.c walks visitors. */
#ifndef IO_H
#define IO_H

#include "tensor/tensor.h"

#include <jansson.h>

/* ---- safetensors: safetensors.c ---------------------------------------------------------- */

typedef struct {
    const char *name;
    DType type;           /* DTYPE_COUNT: a type that is known by size only (F8_E4M3, U16, ...) */
    const char *spelling; /* of the type, as the file has it */
    int nd;
    int64_t n[8];
    const void *data; /* in the map, any alignment */
    size_t bytes;
} StEntry;

typedef struct SafeTensors SafeTensors;
/* Maps the file and checks everything: header length, JSON, types, shapes, overflow, offsets in range, no
 * overlaps, no holes, no duplicates. EFORMAT says what was found instead when the file is a Git LFS pointer,
 * a web page, a pickle
 * (.ckpt/.bin), a zip, GGUF, or truncated. */
int st_open(SafeTensors **out, const char *path, gimbal_error *err);
/* The same with the file read into memory instead of mapped. */
int st_load(SafeTensors **out, const char *path, gimbal_error *err);
void st_close(SafeTensors *);
int st_count(const SafeTensors *);
const StEntry *st_entry(const SafeTensors *, int i); /* in name order */
const StEntry *st_find(const SafeTensors *, const char *name);
const char *st_metadata(const SafeTensors *, const char *key); /* or NULL */
const char *st_path(const SafeTensors *);
uint64_t st_bytes(const SafeTensors *);                            /* of the file */
void st_header(const SafeTensors *, const char **json, size_t *n); /* for hashing */
/* Names of the original Stable Diffusion spelling: a whole model in one file, which is not read yet. */
bool st_is_single_checkpoint(const SafeTensors *);

/* Types "F32", "U8", ... ; whole or not at all. metadata: key, value, ..., NULL or NULL. */
int st_write(const char *path, const gimbal_tensor *items, int count, const char *const *metadata,
             gimbal_error *err);

/* The same into an open file, which is closed in any case, of tensors whose bytes are made as they are
 * written: `fill` gives bytes [from, from + n) of items[i], in the order of the file, n at most ST_CHUNK and
 * a multiple of 8 but for a tensor's last ones. items[].data is not looked at. A code other than 0 from it
 * ends the writing and is returned. `name` is what messages call the file. */
enum { ST_CHUNK = 1 << 20 };
typedef int (*StFill)(void *user, int i, size_t from, size_t n, void *out);
int st_stream(FILE *, const char *name, const gimbal_tensor *items, int count, const char *const *metadata,
              StFill fill, void *user, gimbal_error *err);

/* ---- JSON: json.c ------------------------------------------------------------------------ */

/* A name from a file, in quotes, safe to print: what is not plain ASCII is escaped, long ones are cut.
 * Returns out. */
enum { QUOTED_ROOM = 128 };
const char *quoted(const char *name, char out[QUOTED_ROOM]);

/* Text of n bytes: an object, nested at most `depth`, no duplicate keys, nothing behind it.
 * Caller: json_decref. */
int json_parse(json_t **out, const char *text, size_t n, int depth, const char *where, gimbal_error *err);
/* Object at the top, depth at most 32, size at most 64 MiB, no duplicate keys. Caller: json_decref. */
int json_read(json_t **out, const char *path, gimbal_error *err);
/* The same of a file that Python's json module wrote: its words NaN, Infinity and -Infinity, where a value
 * may stand, count as null. */
int json_read_python(json_t **out, const char *path, gimbal_error *err);

/* A config's key with a default; EFORMAT names file, key, expected and found. `where` is the file's path. */
int json_get_int(const json_t *, const char *where, const char *key, int def, int min, int max, int *out,
                 gimbal_error *err);
int json_get_real(const json_t *, const char *where, const char *key, double def, double *out,
                  gimbal_error *err);
int json_get_bool(const json_t *, const char *where, const char *key, bool def, bool *out, gimbal_error *err);
/* *out borrowed from the json, or `def`; null counts as absent. */
int json_get_text(const json_t *, const char *where, const char *key, const char *def, const char **out,
                  gimbal_error *err);
/* int list of at most `room`; *n = its length; a single int fills a list of `fill` equal values when fill >
 * 0. Absent: *n = 0. */
int json_get_ints(const json_t *, const char *where, const char *key, int fill, int *out, int room, int *n,
                  gimbal_error *err);

/* Constructor keys whose value we do not implement are refused by name. One line per key: what it may be, as
 * JSON literals ("null", "false", "\"silu\"", "[1,1]", "1.0"), separated by |. Absent is always fine; other
 * keys are ignored. */
typedef struct {
    const char *key, *allowed;
} ConfigRule;
int json_refuse(const json_t *, const char *where, const ConfigRule *rules /* ends: key NULL */,
                gimbal_error *err);

/* ---- parts of a model folder: folder.c --------------------------------------------------- */

/* One part's weights: a safetensors file or several shards, found in `dir` by the rules of diffusers folders:
 * plain, then .fp16/.bf16 variants, then an index of shards; or a path that is a file itself. */
typedef struct WeightSet WeightSet;
int weights_open(WeightSet **out, const char *dir_or_file, gimbal_error *err);
/* The same with the files read into memory instead of mapped. */
int weights_load(WeightSet **out, const char *dir_or_file, gimbal_error *err);
void weights_close(WeightSet *);
int weights_count(const WeightSet *);
const StEntry *weights_entry(const WeightSet *, int i);
const StEntry *weights_find(const WeightSet *, const char *name);
int weights_index(const WeightSet *, const char *name); /* for weights_entry; -1: no such tensor */
uint64_t weights_bytes(const WeightSet *);
const char *weights_path(const WeightSet *); /* for messages: the file, or the index */
/* Feeds every file's header to a hash. */
struct Sha256;
void weights_hash(const WeightSet *, struct Sha256 *);

/* A hub cache folder (models--*, with snapshots/) leads to the snapshot that refs/main names; any other path
 * to itself. */
int hub_folder(char out[PATH_ROOM], const char *path, gimbal_error *err);
/* The same for a whole model, and says what it found when `path` is no folder with model_index.json, or
 * unet/ and vae/: a single-file checkpoint, a weights file, or the model folder one level up or down. */
int model_folder(char out[PATH_ROOM], const char *path, gimbal_error *err);

/* ---- binding: bind.c, names.c ------------------------------------------------------------ */

/* A rename: where the canonical name has `to` inside, the file may have `from`. Lists end with from NULL. */
typedef struct {
    const char *from, *to;
} Rename;
/* Spellings of old diffusers files (VAE attention: query, key, value, proj_attn). names.c */
extern const Rename old_diffusers_names[];
/* AnimateDiff's own spelling of motion modules: all of the list apply to a name. names.c */
extern const Rename animatediff_names[];
/* What file has such a name in it ("the file looks like a LoRA: ..."), or NULL. names.c */
const char *foreign_spelling(const char *name);

/* Whether the whole name fits; '*' in the pattern stands for any text. */
bool name_matches(const char *pattern, const char *name);
/* Strict both ways: every parameter that `params(self, p)` declares is bound once to a tensor of its shape
 * (1x1 convolutions may be stored as linear and the reverse), every tensor of the set is used, or matches
 * `ignore` (exact name, or a pattern with * ; NULL-terminated, may be NULL). W_TABLE parameters may be absent
 * (file stays NULL). EMODEL lists the first missing and surplus names and their count. Types other than F32,
 * F16, BF16 are refused for parameters. `prefix` stands before every name in the file ("text_model."),
 * usually "". */
int bind_weights(const WeightSet *, const char *prefix, void (*params)(void *self, Params *), void *self,
                 const char *const *ignore, const Rename *renames, gimbal_error *err);
/* For training that begins with less than the network, as ConsistI2V's with an image model: parameters that
 * match `fresh` (as `ignore`) and that the set lacks get values of their own, weight_begin's, from `keep`.
 * bind_weights does not miss them then. set NULL: it lacks everything. *made (may be NULL): how many. ENOMEM.
 */
int bind_fresh(const WeightSet *, const char *prefix, void (*params)(void *self, Params *), void *self,
               const char *const *fresh, uint64_t seed, Arena *keep, int *made, gimbal_error *err);

/* ---- tokenizer: tokenizer.c -------------------------------------------------------------- */

typedef struct Tokenizer Tokenizer;
/* vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json of `dir`: the slow CLIPTokenizer
 * without ftfy. */
int tokenizer_open(Tokenizer **out, const char *dir, gimbal_error *err);
void tokenizer_close(Tokenizer *);
int tokenizer_vocab(const Tokenizer *); /* largest id + 1 */
/* The character that CLIP writes for a byte, and that character's place in CLIP's own vocabulary, 0 to 255.
 */
int clip_byte(int byte, char text[3]);
/* ids[room] = start, tokens, end, padding; *dropped tokens did not fit. EUSAGE: not UTF-8 (offset named). */
int tokenize(const Tokenizer *, const char *text, int32_t *ids, int room, int *dropped, gimbal_error *err);

/* The words of text[n] (valid UTF-8) as CLIP cuts them, cleaned and in lower case; stops when word() gives
 * other than 0. words.c */
int clip_words(const char *text, size_t n, int (*word)(void *user, const char *utf8, size_t n), void *user,
               gimbal_error *err);

/* ---- hashes: hash.c ---------------------------------------------------------------------- */

typedef struct Sha256 Sha256;
Sha256 *sha256_new(void); /* NULL: no memory */
void sha256_add(Sha256 *, const void *data, size_t n);
void sha256_end(Sha256 *, char hex[65]); /* and frees */

#endif
