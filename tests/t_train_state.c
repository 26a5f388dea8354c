/* t_train_state.c: what learns (set.c), and a run's state on disk (checkpoint.c).
 *
 * The trainer is put together by hand around a small network and a recipe that writes one file. Kills are
 * simulated by what they leave: folders cut short or half written. */
#include "train/train.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/io_files.h"
#include "tests/kit/smallnet.h"

#include <signal.h>
#include <sys/resource.h>

/* ---- the small network as a part of a recipe ---------------------------------------------- */

static SmallNet net;
static float *net_own[SN_LEAVES], *net_grad[SN_LEAVES];
static Weight idle; /* learns in name only: nothing leads from it to the loss */

static void net_params(void *self, Params *p)
{
    SmallNet *n = self;
    for (int i = 0; i < n->n_leaves && !p->code; i++)
        p->code = p->leaf(p, n->leaf[i]);
}

static void idle_params(void *self, Params *p)
{
    pv_leaf(p, "idle.weight", self, W_LINEAR, 2, (int64_t[]){3, 5});
}

static void open_net(void)
{
    sn_open(&net);
    for (int i = 0; i < net.n_leaves; i++) {
        Weight *w = net.leaf[i]; /* as bound to a file: values of its own come with the set */
        net_own[i] = w->own, net_grad[i] = w->grad;
        w->file = w->own, w->type = F32, w->own = w->grad = NULL;
    }
    idle = (Weight){.own = calloc(15, sizeof(float))};
    for (int i = 0; i < 15; i++)
        idle.own[i] = (float)i;
}

/* The set's arrays are gone; the network's own memory takes their place, to be freed. */
static void close_net(float *idle_own)
{
    for (int i = 0; i < net.n_leaves; i++)
        net.leaf[i]->own = net_own[i], net.leaf[i]->grad = net_grad[i];
    sn_close(&net);
    free(idle_own);
}

/* ---- what learns -------------------------------------------------------------------------- */

/* Values are where they were, padding is zero, and the idle weight is the last one. */
static void check_memory(TrainSet *set)
{
    gimbal_error err = {0};
    check_ok(set_memory(set, true, &err), err);
    for (int i = 0; i < set->n; i++) {
        const Param *p = &set->p[i];
        assert_true(p->w->own == set->value + p->at && p->w->grad == set->grad + p->at);
        assert_true((uintptr_t)p->w->own % 64 == 0);
        assert_memory_equal(set->ema + p->at, p->w->own, (size_t)p->count * sizeof(float));
    }
    for (int i = 0; i < 15; i++)
        assert_true(idle.own[i] == (float)i && set->m[set->total - 16 + i] == 0);
    assert_true(set->value[set->total - 1] == 0); /* padding */
}

static void patterns_choose_what_learns(void **state)
{
    (void)state;
    open_net();
    float *idle_own = idle.own;
    Arena keep = {0};
    gimbal_error err = {0};
    TrainSet set;
    const TrainPart parts[] = {{net_params, &net, 0}, {idle_params, &idle, 0}};
    check_ok(set_mark(&set, parts, 2, "conv_*,attn.out*,idle.weight", &keep, &err), err);
    int64_t all = 0, at = 0;
    int i = 0;
    for (int k = 0; k < net.n_leaves; k++) {
        Weight *w = net.leaf[k];
        const bool want = !strncmp(w->name, "conv_", 5) || !strncmp(w->name, "attn.out", 8);
        check(w->trainable == want, "%s: trainable is %d", w->name, w->trainable);
        all += w->kind == W_TABLE ? 0 : weight_count(w);
        if (!want)
            continue;
        check(set.p[i].w == w && set.p[i].at == at && set.p[i].at % 16 == 0 &&
                  set.p[i].count == weight_count(w),
              "%s is out of place", w->name);
        at += (set.p[i++].count + 15) / 16 * 16;
    }
    assert_int_equal(set.n, i + 1);
    assert_int_equal(set.parameters, all + 15);
    assert_int_equal(set.total, at + 16);
    assert_int_equal(set.begin[1], set.total);
    assert_int_equal(set.begin[MAX_NETS], set.total);
    check_memory(&set);
    set_free(&set);
    assert_null(idle.own);
    assert_false(idle.trainable);
    arena_free(&keep);
    close_net(idle_own);
}

static void wrong_patterns_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"attn.*,conv_ot.*", "did you mean 'conv_out'"},
        {"conv_in", "such as conv_in.weight"},
        {"table", "none of"}, /* positions do not learn */
        {"", "a pattern is empty"},
        {"attn.*,", "a pattern is empty"},
        {"attn.*,nothing.at.all", "none of"},
    };
    open_net();
    Arena keep = {0};
    gimbal_error err = {0};
    TrainSet set;
    const TrainPart part = {net_params, &net, 0};
    for (int i = 0; i < COUNT(wrong); i++)
        check_fails(set_mark(&set, &part, 1, wrong[i].text, &keep, &err), GIMBAL_EUSAGE, err, wrong[i].says);
    check_ok(set_mark(&set, &part, 1, "*", &keep, &err), err);
    assert_false(net.table.trainable);
    assert_int_equal(set.n, net.n_leaves - 1);
    arena_free(&keep);
    close_net(idle.own);
}

static void two_networks_have_names_of_their_own(void **state)
{
    (void)state;
    char name[PARAM_NAME];
    Weight other = {.own = (float[15]){0}};
    float *idle_own;
    open_net();
    idle_own = idle.own;
    Arena keep = {0};
    gimbal_error err = {0};
    TrainSet set;
    const TrainPart parts[] = {{idle_params, &other, 1}, {idle_params, &idle, 0}};
    check_ok(set_mark(&set, parts, 2, "base.*", &keep, &err), err);
    assert_true(set.n == 1 && set.p[0].w == &other && set.begin[1] == 0 && set.begin[2] == 16);
    check_ok(set_mark(&set, parts, 2, "*", &keep, &err), err);
    assert_true(set.n == 2 && set.p[0].w == &idle && set.begin[1] == 16 && set.begin[2] == 32);
    param_name(&set, 0, &idle, name);
    assert_string_equal(name, "residual.idle.weight");
    arena_free(&keep);
    close_net(idle_own);
}

/* ---- learning through the set ------------------------------------------------------------- */

static Tensor *step_graph(Cx *cx, void *tape, Tensor **in)
{
    cx->tape = tape;
    Tensor *loss = op_mse(cx, sn_forward(cx, &net, in), in[3]);
    if (tape)
        backward(cx, loss);
    cx->tape = NULL;
    return cx_failed(cx) ? NULL : loss;
}

/* Every gradient arrives, and a step downhill through the flat arrays alone lowers the loss. */
static void learn_once(Cx *cx, TrainSet *set, Plan *plan, Tape *tape)
{
    static SnData data;
    Tensor *in[4];
    sn_data(&data);
    sn_inputs(cx, NULL, SN_H, SN_W, in);
    Plan *again = plan_make(cx, step_graph, tape, in);
    check_ok(cx->err->code, *cx->err);
    assert_int_equal(plan_bytes(again),
                     plan_bytes(plan)); /* kernels knew that values of its own would come */
    plan_free(again);
    cx->work_bytes = plan_bytes(plan);
    cx->work = alloc_array(cx->work_bytes, 1);
    cx_reset(cx);
    sn_inputs(cx, &data, SN_H, SN_W, in);
    Tensor *loss = plan_run(cx, plan, step_graph, tape, in);
    check_ok(cx->err->code, *cx->err);
    const float before = *(float *)loss->d;
    for (int i = 0; i < set->n; i++)
        check(grad_norm(set->grad + set->p[i].at, set->p[i].count) > 1e-7, "%s got no gradient",
              set->p[i].w->name);
    for (int64_t i = 0; i < set->total; i++)
        set->value[i] -= 0.05f * set->grad[i];
    loss = plan_run(cx, plan, step_graph, tape, in);
    check_ok(cx->err->code, *cx->err);
    check(*(float *)loss->d < before, "the loss was %g and is %g", before, *(float *)loss->d);
}

/* Plans, drops what no gradient reaches, takes memory and runs, in the trainer's order. */
static void learn_with(const Backend *const *chain)
{
    open_net();
    float *idle_own = idle.own;
    Arena keep = {0};
    gimbal_error err = {0};
    TrainSet set;
    Tensor *in[4];
    Cx cx = {0};
    Tape *tape = tape_new();
    const TrainPart parts[] = {{net_params, &net, 0}, {idle_params, &idle, 0}};
    cx_init(&cx, chain, 2, &err);
    check_ok(set_mark(&set, parts, 2, "last.*,conv_in.*,idle.*", &keep, &err), err);
    sn_inputs(&cx, NULL, SN_H, SN_W, in);
    Plan *plan = plan_make(&cx, step_graph, tape, in);
    check_ok(err.code, err);
    assert_true(plan_learnt(plan, &net.in[0]) >= 0 && plan_learnt(plan, &idle) < 0 &&
                plan_learnt(plan, &net.out[0]) < 0);
    const int all = set.n;
    set_drop(&set, (const Plan *const[]){plan}, 1);
    assert_int_equal(set.n, all - 1);
    assert_false(idle.trainable);
    check_ok(set_memory(&set, false, &err), err);
    assert_null(set.ema);
    learn_once(&cx, &set, plan, tape);
    free(cx.work);
    plan_free(plan);
    tape_free(tape);
    cx_free(&cx);
    set_free(&set);
    arena_free(&keep);
    close_net(idle_own);
}

static void gradients_arrive_in_the_flat_arrays(void **state)
{
    (void)state;
    for (const Backend *const *chain = cpu_chain(); *chain; chain++)
        learn_with(chain); /* with every backend, then without the best */
}

/* ---- a trainer by hand -------------------------------------------------------------------- */

static char notes[8][400];
static int n_notes;

static int on_event(void *user, const gimbal_train_event *e)
{
    (void)user;
    if (e->what == GIMBAL_TRAIN_NOTE)
        snprintf(notes[n_notes++ % 8], sizeof notes[0], "%.380s", e->text);
    return 0;
}

static int recipe_fails; /* the code that the recipe's save gives */

static int save_one_file(void *self, struct gimbal_trainer *t, const char *where, bool ema, gimbal_error *err)
{
    (void)self;
    char path[PATH_ROOM];
    TRY(path_join(path, where, "model.safetensors", err));
    const float x[2] = {(float)t->step, ema};
    TRY(st_write(path, &(gimbal_tensor){"x", "F32", 1, {2}, x}, 1, NULL, err));
    return recipe_fails ? (fail)(err, recipe_fails, "the recipe cannot") : GIMBAL_OK;
}

static const Recipe one_file = {.name = "onefile", .save = save_one_file};
static const gimbal_ranks alone = {.size = 1};
static char output[80];

typedef struct {
    struct gimbal_trainer t;
    struct gimbal_engine engine;
    gimbal_clips clips;
    float *idle_own;
} Fake;

/* A run of `seed` in the test's folder, at its beginning. */
static Fake *fake_open(void)
{
    gimbal_error err = {0};
    Fake *f = calloc(1, sizeof *f);
    open_net();
    f->idle_own = idle.own;
    memset(f->engine.identity, 'e', 64);
    f->engine.family = &family_animatediff;
    f->clips = (gimbal_clips){.count = 100, .identity = "c0ffee"};
    check_ok(gimbal_train_defaults(&f->t.s, NULL, &err), err);
    f->t.s.lr = 0.1 + 0.2; /* needs all digits */
    f->t.s.batch = 4, f->t.s.keep = 2, f->t.s.train = "last.*", f->t.s.seed = UINT64_MAX;
    f->t.engine = &f->engine, f->t.clips = &f->clips, f->t.ranks = &alone, f->t.recipe = &one_file;
    f->t.output = output, f->t.event = on_event;
    const TrainPart part = {net_params, &net, 0};
    check_ok(set_mark(&f->t.set, &part, 1, f->t.s.train, &f->t.keep, &err), err);
    check_ok(set_memory(&f->t.set, true, &err), err);
    n_notes = 0, recipe_fails = 0;
    return f;
}

static void fake_close(Fake *f)
{
    set_free(&f->t.set);
    arena_free(&f->t.keep);
    close_net(f->idle_own);
    free(f);
}

/* State as after some steps: every number of its own. */
static void fake_learn(Fake *f, int step)
{
    TrainSet *set = &f->t.set;
    float *array[] = {set->value, set->m, set->v, set->ema};
    uint64_t seed = (uint64_t)step;
    f->t.step = step;
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < set->n; i++)
            for (int64_t j = 0; j < set->p[i].count; j++)
                array[k][set->p[i].at + j] = k == 2 ? fabsf(sn_random(&seed)) : sn_random(&seed);
}

static void save_steps(Fake *f, int from, int to)
{
    gimbal_error err = {0};
    char where[PATH_ROOM];
    for (int step = from; step <= to; step++) {
        fake_learn(f, step);
        check_ok(checkpoint_save(&f->t, where, &err), err);
        check(is_folder(where), "%.400s is not there", where);
    }
}

static int in_output(void **state)
{
    if (make_folder(state))
        return -1;
    snprintf(output, sizeof output, "%.60s/out", folder);
    gimbal_error err = {0};
    struct gimbal_trainer t = {.output = output, .ranks = &alone};
    return checkpoint_folder(&t, 0, &err);
}

static const char *at_step(int step, const char *name)
{
    static char path[4][200];
    static int turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%.90s/step-%08d%.80s", output, step, name);
    return out;
}

/* What a fresh run reads must be the state that fake_learn(step) makes. */
static void check_loads(int step)
{
    gimbal_error err = {0};
    bool found = false;
    Fake *f = fake_open();
    check_ok(checkpoint_load(&f->t, &found, &err), err);
    check(found == (step >= 0), "found is %d", found);
    if (step >= 0) {
        TrainSet *set = &f->t.set;
        const size_t bytes = (size_t)set->total * sizeof(float);
        float *read = malloc(4 * bytes), *array[] = {set->value, set->m, set->v, set->ema};
        assert_int_equal(f->t.step, step);
        for (int k = 0; k < 4; k++)
            memcpy((char *)read + (size_t)k * bytes, array[k], bytes);
        fake_learn(f, step);
        for (int k = 0; k < 4; k++)
            assert_memory_equal((char *)read + (size_t)k * bytes, array[k], bytes);
        free(read);
    }
    fake_close(f);
}

static void a_state_comes_back_bit_for_bit(void **state)
{
    (void)state;
    check_loads(-1); /* an empty folder */
    Fake *f = fake_open();
    save_steps(f, 12, 12);
    assert_true(is_file(at_step(12, "/weights/model.safetensors")) &&
                is_file(at_step(12, "/ema/model.safetensors")));
    assert_false(is_folder(at_step(12, ".tmp")));
    fake_close(f);
    check_loads(12);
}

static void what_changes_nothing_may_change(void **state)
{
    (void)state;
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    save_steps(f, 3, 3);
    f->t.s.threads = 7, f->t.s.micro = 2, f->t.s.recompute = 1, f->t.s.save_every = 9, f->t.s.keep = 0;
    f->t.s.model = "elsewhere", f->t.s.cache = "there", f->t.s.save_type = "BF16", f->t.s.validate_every = 1;
    check_ok(checkpoint_load(&f->t, &found, &err), err);
    assert_true(found && n_notes == 0 && !f->t.changes);
    fake_close(f);
}

static void another_run_is_refused_by_what_differs(void **state)
{
    (void)state;
    gimbal_error err = {0};
    bool found;
    char where[PATH_ROOM];
    Fake *f = fake_open();
    save_steps(f, 3, 3);
    const gimbal_train_settings was = f->t.s;
#define REFUSED(change, back, text)                                                                          \
    do {                                                                                                     \
        change;                                                                                              \
        check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EUSAGE, err, text);                         \
        assert_false(found);                                                                                 \
        back;                                                                                                \
    } while (0)
    REFUSED(f->t.s.lr = 0.3, f->t.s = was, "lr is 0.29999999999999999, the checkpoint's 0.30000000000000004");
    REFUSED(f->t.s.batch = 8, f->t.s = was, "--allow-change");
    REFUSED(f->t.s.seed = 1, f->t.s = was, "seed is \"1\", the checkpoint's \"18446744073709551615\"");
    REFUSED(f->t.s.betas = "linear", f->t.s = was, "betas is \"linear\", the checkpoint's null");
    REFUSED(f->t.recipe = &(Recipe){.name = "twofiles"}, f->t.recipe = &one_file, "recipe is \"twofiles\"");
    REFUSED(f->engine.identity[5] = 'f', f->engine.identity[5] = 'e', "the model's identity");
    REFUSED(f->clips.identity = "7ea", f->clips.identity = "c0ffee", "--allow-change");
    f->t.s.allow_change = 1;
    REFUSED((f->t.s.decay = 0.5, f->t.s.batch = 8), (f->t.s = was, f->t.s.allow_change = 1), "decay is 0.5");
    f->t.s.batch = 8, f->t.s.steps = 77, f->clips.count = 50;
    check_ok(checkpoint_load(&f->t, &found, &err), err);
    assert_true(found && n_notes == 3);
    assert_non_null(strstr(f->t.changes, "batch is 8, the checkpoint's 4"));
    f->t.step = 4;
    check_ok(checkpoint_save(&f->t, where, &err), err);
    f->t.s.batch = 2; /* the second change stands beside the first */
    check_ok(checkpoint_load(&f->t, &found, &err), err);
    assert_non_null(strstr(f->t.changes, "\"3\":["));
    assert_non_null(strstr(f->t.changes, "\"4\":[\"batch is 2, the checkpoint's 8\"]"));
    fake_close(f);
}

static void other_tensors_are_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    save_steps(f, 3, 3);
    TrainSet *set = &f->t.set;
    set->n--;
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EMODEL, err, "tensors, expected");
    set->n++;
    set->p[0].w->n[0]++;
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EMODEL, err, "another shape");
    set->p[0].w->n[0]--;
    set->p[1].w->name[0] = 'L';
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EMODEL, err, "is missing");
    set->p[1].w->name[0] = 'l';
    float *ema = set->ema;
    set->ema = NULL;
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EMODEL, err, "tensors, expected");
    set->ema = ema;
    fake_close(f);
}

static void old_ones_and_leftovers_go(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Fake *f = fake_open();
    save_steps(f, 1, 5);
    for (int step = 1; step <= 5; step++)
        assert_int_equal(is_folder(at_step(step, "")), step >= 4);
    mkdir(at_step(2, ".tmp"), 0777); /* of a dead process */
    put_bytes("out/step-00000002.tmp/state.safetensors", "half", 4);
    put_bytes("out/step-1.txt", "mine", 4);
    mkdir(in_folder("out/step-0000001"), 0777); /* 7 digits: not ours */
    check_fails(checkpoint_folder(&f->t, 0, &err), GIMBAL_EUSAGE, err,
                "2 checkpoints already, the newest of step 5");
    check_ok(checkpoint_folder(&f->t, 1, &err), err);
    assert_false(is_folder(at_step(2, ".tmp")));
    assert_true(is_file(in_folder("out/step-1.txt")) && is_folder(in_folder("out/step-0000001")));
    f->t.s.keep = 0;
    save_steps(f, 6, 8);
    for (int step = 4; step <= 8; step++)
        assert_true(is_folder(at_step(step, "")));
    fake_close(f);
    check_loads(8);
}

/* Flips a byte, or cuts the file after `at` bytes. */
static void damage(const char *path, long at, bool cut_short)
{
    if (cut_short) {
        assert_int_equal(truncate(path, at), 0);
        return;
    }
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    const int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
}

static void torn_checkpoints_are_skipped(void **state)
{
    (void)state;
    Fake *f = fake_open();
    f->t.s.keep = 0;
    save_steps(f, 1, 6);
    fake_close(f);
    damage(at_step(6, "/state.safetensors"), 4000, true);
    unlink(at_step(5, "/manifest.json"));
    damage(at_step(4, "/weights/model.safetensors"), 70, false);
    unlink(at_step(3, "/ema/model.safetensors"));
    mkdir(at_step(9, ".tmp"), 0777);
    check_loads(2);
    assert_int_equal(n_notes, 4);
    assert_non_null(strstr(notes[0], "step-00000006"));
    assert_non_null(strstr(notes[0], "has 4000 bytes, expected"));
    assert_non_null(strstr(notes[2], "SHA-256 differs"));
    f = fake_open(); /* the run goes on, over what was broken */
    f->t.s.keep = 2;
    save_steps(f, 3, 6);
    fake_close(f);
    check_loads(6);
    assert_int_equal(n_notes, 0);
}

static void a_run_without_a_whole_checkpoint_does_not_begin_anew(void **state)
{
    (void)state;
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    save_steps(f, 1, 1);
    damage(at_step(1, "/state.safetensors"), 300, false);
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EFORMAT, err,
                "none of its 1 checkpoints is whole");
    assert_false(found);
    fake_close(f);
}

static void rewrite_manifest(int step, const char *text)
{
    char name[64];
    snprintf(name, sizeof name, "out/step-%08d/manifest.json", step);
    put_bytes(name, text, strlen(text));
}

static void hostile_manifests_and_values_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "{\"step\": 1}",
        "{\"step\": 1, \"files\": []}",
        "{\"step\": 1, \"files\": {}}",
        "{\"step\": 2, \"files\": {\"state.safetensors\": {\"bytes\": 4, \"sha256\": \"x\"}}}",
        "{\"step\": 1, \"files\": {\"state.safetensors\": 4}}",
        "{\"step\": 1, \"files\": {\"state.safetensors\": {\"bytes\": -1, \"sha256\": \"x\"}}}",
        "{\"step\": 1, \"files\": {\"state.safetensors\": {\"bytes\": 4, \"sha256\": 4}}}",
    };
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    save_steps(f, 1, 1);
    for (int i = 0; i < COUNT(wrong); i++) {
        rewrite_manifest(1, wrong[i]);
        check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EFORMAT, err, "none of its 1");
    }
    fake_learn(f, 1); /* whole, but no state that a run can have */
    char where[PATH_ROOM];
    f->t.set.m[3] = NAN;
    check_ok(checkpoint_save(&f->t, where, &err), err);
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EFORMAT, err, "numbers that cannot be");
    fake_learn(f, 1);
    f->t.set.v[3] = -1;
    check_ok(checkpoint_save(&f->t, where, &err), err);
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EFORMAT, err, "numbers that cannot be");
    fake_close(f);
}

/* One entry of a manifest, true to the file at `path`. */
static void describe(char *out, size_t room, const char *name, const char *path)
{
    Mapped m;
    gimbal_error err = {0};
    char hex[65];
    Sha256 *sha = sha256_new();
    check_ok(load_file(&m, path, &err), err);
    sha256_add(sha, m.data, m.size);
    sha256_end(sha, hex);
    snprintf(out, room, "\"%s\": {\"bytes\": %zu, \"sha256\": \"%s\"}", name, m.size, hex);
    unmap_file(&m);
}

/* A manifest of the state alone and of one file more, NULL: none. */
static void reseal(int step, const char *name, const char *path)
{
    char text[1000], first[300], second[400] = "";
    describe(first, sizeof first, "state.safetensors", at_step(step, "/state.safetensors"));
    if (name)
        describe(second, sizeof second, name, path);
    snprintf(text, sizeof text, "{\"step\": %d, \"files\": {%s%s%s}}", step, first, name ? ", " : "", second);
    rewrite_manifest(step, text);
}

static void files_outside_the_folder_are_not_looked_at(void **state)
{
    (void)state;
    char absolute[200];
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    save_steps(f, 1, 1);
    snprintf(absolute, sizeof absolute, "%s", put_bytes("out/note", "secret", 6));
    put_bytes("out/step-00000001/note", "secret", 6);
    symlink("../note", in_folder("out/step-00000001/link"));
    const char *const wrong[] = {"../note",
                                 "weights/../../note",
                                 "..",
                                 "./note",
                                 "weights/./../note",
                                 "/note",
                                 "//note",
                                 "",
                                 "note/",
                                 absolute,
                                 "link"};
    reseal(1, "note", absolute);
    check_ok(checkpoint_load(&f->t, &found, &err), err);
    assert_true(found);
    for (int i = 0; i < COUNT(wrong); i++) {
        reseal(1, wrong[i], absolute);
        check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EFORMAT, err, "none of its 1");
    }
    fake_close(f);
}

/* The state's metadata with one text exchanged, and no tensors. */
static void rewrite_state(const char *key, const char *value)
{
    static const char *const keys[] = {"gimbal.state", "gimbal.step",        "gimbal.config",
                                       "gimbal.model", "gimbal.data_sha256", "gimbal.data_count"};
    const char *metadata[2 * COUNT(keys) + 3] = {NULL};
    gimbal_error err = {0};
    SafeTensors *st;
    int n = 0;
    check_ok(st_load(&st, at_step(1, "/state.safetensors"), &err), err);
    for (int i = 0; i < COUNT(keys); i++)
        if (strcmp(keys[i], key))
            metadata[n++] = keys[i], metadata[n++] = st_metadata(st, keys[i]);
    if (value)
        metadata[n++] = key, metadata[n++] = value;
    check_ok(st_write(at_step(1, "/state.safetensors"), NULL, 0, metadata, &err), err);
    st_close(st);
    reseal(1, NULL, NULL);
}

static void hostile_metadata_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
        int code;
        const char *says;
    } wrong[] = {
        {"gimbal.state", "2", GIMBAL_EFORMAT, "no training state, version 1"},
        {"gimbal.state", NULL, GIMBAL_EFORMAT, "no training state, version 1"},
        {"gimbal.step", "2", GIMBAL_EFORMAT, "of step 1"},
        {"gimbal.config", NULL, GIMBAL_EFORMAT, "lacks gimbal.config"},
        {"gimbal.config", "[1]", GIMBAL_EFORMAT, "none of its 1"},
        {"gimbal.config", "{\"lr\": ", GIMBAL_EFORMAT, "none of its 1"},
        {"gimbal.config", "{}", GIMBAL_EUSAGE, "recipe is \"onefile\", the checkpoint's unknown"},
        {"gimbal.model", NULL, GIMBAL_EUSAGE, "the model's identity"},
        {"gimbal.data_sha256", "%s%n", GIMBAL_EUSAGE,
         "the data's identity is \"c0ffee\", the checkpoint's \"%s%n\""},
        {"gimbal.data_count", "101", GIMBAL_EUSAGE, "the number of clips"},
        {"gimbal.changes", "[]", GIMBAL_EFORMAT, "none of its 1"},
        {"gimbal.changes", "{}", GIMBAL_EMODEL, "is missing"}, /* all is well but for the tensors */
    };
    gimbal_error err = {0};
    bool found;
    Fake *f = fake_open();
    for (int i = 0; i < COUNT(wrong); i++) {
        save_steps(f, 1, 1);
        rewrite_state(wrong[i].key, wrong[i].value);
        check_fails(checkpoint_load(&f->t, &found, &err), wrong[i].code, err, wrong[i].says);
    }
    save_steps(f, 1, 1); /* a setting that this library does not know */
    json_t *config = train_config(&f->t);
    json_object_set_new(config, "future", json_integer(1));
    char *text = train_json_text(config);
    rewrite_state("gimbal.config", text);
    check_fails(checkpoint_load(&f->t, &found, &err), GIMBAL_EUSAGE, err,
                "future is unknown, the checkpoint's 1");
    json_decref(config);
    free(text);
    fake_close(f);
}

static void a_full_disk_loses_nothing(void **state)
{
    (void)state;
    struct rlimit was, small;
    gimbal_error err = {0};
    char where[PATH_ROOM];
    Fake *f = fake_open();
    save_steps(f, 1, 1);
    fake_learn(f, 2);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    for (rlim_t most = 0; most <= 6000; most += 2000) { /* at once, within the state, within what follows */
        small.rlim_cur = most;
        setrlimit(RLIMIT_FSIZE, &small);
        const int code = checkpoint_save(&f->t, where, &err);
        setrlimit(RLIMIT_FSIZE, &was);
        check(code == GIMBAL_EIO && *err.msg, "%d bytes: code %d", (int)most, code);
        err = (gimbal_error){0};
        assert_false(is_folder(at_step(2, "")) || is_folder(at_step(2, ".tmp")));
    }
    recipe_fails = GIMBAL_EIO;
    check_fails(checkpoint_save(&f->t, where, &err), GIMBAL_EIO, err, "the recipe cannot");
    assert_false(is_folder(at_step(2, "")) || is_folder(at_step(2, ".tmp")));
    fake_close(f);
    check_loads(1);
}

static void the_same_state_gives_the_same_bytes(void **state)
{
    (void)state;
    Mapped a, b;
    gimbal_error err = {0};
    Fake *f = fake_open();
    save_steps(f, 5, 5);
    check_ok(load_file(&a, at_step(5, "/state.safetensors"), &err), err);
    f->t.s.threads = 3, f->t.s.micro = 1, f->t.s.model = "another/path";
    save_steps(f, 5, 5); /* over the first */
    check_ok(load_file(&b, at_step(5, "/state.safetensors"), &err), err);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    unmap_file(&a), unmap_file(&b);
    fake_close(f);
    check_loads(5);
}

#define RUN(f) cmocka_unit_test_setup_teardown(f, in_output, drop_folder)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_choose_what_learns),
        cmocka_unit_test(wrong_patterns_are_refused),
        cmocka_unit_test(two_networks_have_names_of_their_own),
        cmocka_unit_test(gradients_arrive_in_the_flat_arrays),
        RUN(a_state_comes_back_bit_for_bit),
        RUN(what_changes_nothing_may_change),
        RUN(another_run_is_refused_by_what_differs),
        RUN(other_tensors_are_refused),
        RUN(old_ones_and_leftovers_go),
        RUN(torn_checkpoints_are_skipped),
        RUN(a_run_without_a_whole_checkpoint_does_not_begin_anew),
        RUN(hostile_manifests_and_values_are_refused),
        RUN(files_outside_the_folder_are_not_looked_at),
        RUN(hostile_metadata_is_refused),
        RUN(a_full_disk_loses_nothing),
        RUN(the_same_state_gives_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
