/* fuzz_folder.c: any bytes as the index of a model in shards ("i JSON"), beside two shards that are there; as
 * the reference of a hub's cache ("h TEXT"); or as the names of a folder's files ("n LINES"). What opens has
 * each tensor once, and no shard lies outside the folder. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>

static char shard_dir[64];
static const char *const shard_files[] = {"model.safetensors.index.json", "refs/main", "model-1.safetensors",
                                          "model-2.safetensors"};

static void shard_path(char out[PATH_ROOM], const char *name)
{
    WANT(!path_join(out, shard_dir, name, NULL));
}

static void remove_shards(void)
{
    static const char *const folders[] = {"snapshots/c0ffee", "snapshots", "refs", ""};
    char path[PATH_ROOM];
    for (int i = 0; i < COUNT(shard_files); i++)
        shard_path(path, shard_files[i]), unlink(path);
    for (int i = 0; i < COUNT(folders); i++)
        shard_path(path, folders[i]), rmdir(path);
}

/* Two shards: a and b in the first, c in the second; a snapshot called c0ffee. */
static void make_shards(void)
{
    static const float x[2] = {1, 2};
    const gimbal_tensor first[] = {{"a", "F32", 1, {2}, x}, {"b", "F32", 1, {1}, x}},
                        second = {"c", "U8", 1, {3}, x};
    static const char *const folders[] = {"refs", "snapshots", "snapshots/c0ffee"};
    char path[PATH_ROOM];
    strcpy(shard_dir, "/dev/shm/gimbal-fuzz-XXXXXX");
    WANT(mkdtemp(shard_dir) != NULL);
    atexit(remove_shards);
    for (int i = 0; i < COUNT(folders); i++)
        shard_path(path, folders[i]), mkdir(path, 0700);
    shard_path(path, shard_files[2]);
    WANT(!st_write(path, first, 2, NULL, NULL));
    shard_path(path, shard_files[3]);
    WANT(!st_write(path, &second, 1, NULL, NULL));
}

static void put_shard_file(const char *name, const uint8_t *data, size_t size)
{
    char path[PATH_ROOM];
    shard_path(path, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    WANT(fd >= 0);
    refill(fd, data, size);
    close(fd);
}

static void try_index(void)
{
    gimbal_error err = {0};
    WeightSet *set;
    const int code = weights_open(&set, shard_dir, &err);
    want_message(code, &err);
    if (code)
        return;
    WANT(weights_count(set) >= 1 && weights_count(set) <= 3 && weights_bytes(set) > 0 && weights_path(set));
    for (int i = 0; i < weights_count(set); i++) {
        const StEntry *e = weights_entry(set, i);
        WANT(weights_find(set, e->name) == e && weights_index(set, e->name) == i);
    }
    Sha256 *sha = sha256_new();
    char hex[65];
    weights_hash(set, sha);
    sha256_end(sha, hex);
    WANT(strlen(hex) == 64 && !weights_entry(set, 99) && weights_index(set, "none") == -1);
    weights_close(set);
}

static void try_hub(void)
{
    char path[PATH_ROOM], want[PATH_ROOM];
    gimbal_error err = {0};
    const int code = hub_folder(path, shard_dir, &err);
    want_message(code, &err);
    shard_path(want, "snapshots/c0ffee");
    WANT(code || !strcmp(path, want));
    memset(&err, 0, sizeof err);
    const int model = model_folder(path, shard_dir, &err);
    want_message(model, &err);
    WANT(model != GIMBAL_OK); /* the snapshot is empty */
}

/* Empty files of these names in the snapshot: none of them is weights. */
static void try_names(const uint8_t *data, size_t size)
{
    enum { MOST = 16 };
    char path[PATH_ROOM], file[PATH_ROOM], *names[MOST];
    int n = 0;
    shard_path(path, "snapshots/c0ffee");
    while (size && n < MOST) {
        char *name = next_text(&data, &size, '\n');
        const bool plain = *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
        const int fd = plain && strlen(name) < 256 && !path_join(file, path, name, NULL)
                           ? open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)
                           : -1;
        if (fd >= 0)
            close(fd), names[n++] = name;
        else
            free(name);
    }
    gimbal_error err = {0}, other = {0};
    WeightSet *set;
    WANT(weights_open(&set, path, &err) != GIMBAL_OK && !set);
    want_message(err.code, &err);
    WANT(model_folder(file, path, &other) == GIMBAL_OK || other.code);
    for (int i = 0; i < n; i++) {
        if (!path_join(file, path, names[i], NULL))
            unlink(file);
        free(names[i]);
    }
}

FUZZ(folder)
{
    if (!shard_dir[0])
        make_shards();
    if (size < 1)
        return 0;
    if (data[0] == 'h') {
        put_shard_file("refs/main", data + 1, size - 1);
        try_hub();
    } else if (data[0] == 'n') {
        try_names(data + 1, size - 1);
    } else {
        put_shard_file("model.safetensors.index.json", data + 1, size - 1);
        try_index();
    }
    return 0;
}
