/* train_model.c: OUT/model: a model folder of links that holds what was learnt last, ready for gimbal
 * generate.
 *
 *     OUT/model/vae            -> the folder that training began from, by its absolute path
 *     OUT/model/motion_adapter -> ../step-00012000/ema/motion_adapter
 *
 * A checkpoint holds trained parts only, the others stay where they are: gigabytes are not copied at every
 * save. `cp -rL OUT/model DIR` makes a folder of its own. Each link is replaced in one step. Knows folders.
 * Refuses to know what is in them. */
#include "app/train.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool has_entry(const char *folder, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return false;
    const bool there = !access(path, F_OK);
    free(path);
    return there;
}

/* FOLDER/name -> target, in place of what is there. 0, or errno. */
static int put_link(const char *folder, const char *name, const char *target)
{
    char *path = NULL, *fresh = NULL;
    int reason = 0;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return ENOMEM;
    if (asprintf(&fresh, "%s/.%s.new", folder, name) < 0)
        reason = ENOMEM, fresh = NULL;
    if (!reason && unlink(fresh) && errno != ENOENT)
        reason = errno;
    if (!reason && (symlink(target, fresh) || rename(fresh, path)))
        reason = errno;
    free(path);
    free(fresh);
    return reason;
}

/* A hub cache folder (models--NAME) leads to the snapshot that refs/main names. */
static void resolve(char *model, size_t room)
{
    char path[PATH_MAX], id[128] = "";
    const int n = snprintf(path, sizeof path, "%s/refs/main", model);
    FILE *file = n > 0 && n < (int)sizeof path ? fopen(path, "r") : NULL;
    const bool named = file && fscanf(file, "%127[0-9a-zA-Z_-]", id) == 1;
    if (file)
        fclose(file);
    if (named && strlen(model) + strlen(id) + 12 < room)
        sprintf(model + strlen(model), "/snapshots/%s", id);
}

/* What to link from one folder. absolute: by real path; else as `prefix`/name. */
typedef struct {
    const char *to, *from, *prefix, *except; /* except: entries of this folder are left out, or NULL */
} Links;

static int link_one(const Links *l, const char *name)
{
    char target[PATH_MAX], path[PATH_MAX];
    const int n = snprintf(path, sizeof path, "%s/%s", l->prefix ? l->prefix : l->from, name);
    if (n < 0 || n >= (int)sizeof path)
        return ENAMETOOLONG;
    if (!l->prefix && !realpath(path, target))
        return errno;
    return put_link(l->to, name, l->prefix ? path : target);
}

static int link_all(const Links *l, gimbal_error *err)
{
    DIR *d = opendir(l->from);
    int reason = d ? 0 : errno;
    for (struct dirent *e; d && !reason && (e = readdir(d));)
        if (e->d_name[0] != '.' && !(l->except && has_entry(l->except, e->d_name)))
            reason = link_one(l, e->d_name);
    if (d)
        closedir(d);
    return reason ? complain(err, GIMBAL_EIO, NULL, "%s: cannot be filled from %s: %s", l->to, l->from,
                             strerror(reason))
                  : GIMBAL_OK;
}

/* An adapter that was given beside the model and is not what was learnt. */
static int link_motion(const char *to, const char *motion, const char *weights, gimbal_error *err)
{
    char target[PATH_MAX];
    struct stat st;
    if (!motion || has_entry(weights, "motion_adapter") || stat(motion, &st) || !S_ISDIR(st.st_mode))
        return GIMBAL_OK;
    const int reason = realpath(motion, target) ? put_link(to, "motion_adapter", target) : errno;
    return reason ? complain(err, GIMBAL_EIO, NULL, "%s/motion_adapter: %s", to, strerror(reason))
                  : GIMBAL_OK;
}

static int fill(const char *to, const TrainFlags *f, const char *checkpoint, gimbal_error *err)
{
    char model[PATH_MAX], weights[PATH_MAX], prefix[PATH_MAX];
    const char *slash = strrchr(checkpoint, '/'), *name = slash ? slash + 1 : checkpoint;
    const char *part = has_entry(checkpoint, "ema") ? "ema" : "weights";
    const int n = snprintf(model, sizeof model, "%s", f->s.model);
    const int m = snprintf(weights, sizeof weights, "%s/%s", checkpoint, part);
    snprintf(prefix, sizeof prefix, "../%s/%s", name, part);
    if (n >= (int)sizeof model || m >= (int)sizeof weights)
        return complain(err, GIMBAL_EIO, NULL, "%s: the name is too long", checkpoint);
    resolve(model, sizeof model);
    if (mkdir(to, 0777) && errno != EEXIST)
        return complain(err, GIMBAL_EIO, NULL, "%s: cannot be made: %s", to, strerror(errno));
    TRY(link_all(&(Links){.to = to, .from = model, .except = weights}, err));
    TRY(link_motion(to, f->s.motion, weights, err));
    return link_all(&(Links){.to = to, .from = weights, .prefix = prefix}, err);
}

int train_model_link(const TrainFlags *f, const char *checkpoint, char **folder, gimbal_error *err)
{
    if (asprintf(folder, "%s/model", f->output) < 0) {
        *folder = NULL;
        return fail_memory(err);
    }
    const int code = fill(*folder, f, checkpoint, err);
    if (!code)
        return GIMBAL_OK;
    free(*folder);
    *folder = NULL;
    return code;
}
