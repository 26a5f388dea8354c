/* schedule.c: the forward process x_t = a(t) x0 + s(t) eps as a table, read from a scheduler_config.json;
 * the timesteps that a pass samples; and what a network's prediction says about x0 and eps.
 *
 *     A(t) = prod over u <= t of (1 - beta(u)),   a = sqrt(A),   s = sqrt(1 - A)           (in double)
 *     zero terminal SNR: sqrt(A) shifted and scaled so that A(T-1) = 0, A(0) stays         (Lin et al. 2023)
 *
 * Keys and defaults are those of the diffusers 0.33 class that the file names. A class whose sampler we
 * have is taken at its word; of others the betas and the prediction type are kept and a note says what
 * replaces the rest.
 *
 * Knows configs and numbers. Refuses to know models, latent shapes, noise and files. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const beta_names[] = {"linear", "scaled_linear", "squaredcos_cap_v2", NULL};
enum { BETAS_LINEAR, BETAS_SCALED, BETAS_COSINE };
static const char *const spacing_names[] = {"leading", "linspace", "trailing", NULL};      /* Spacing */
static const char *const prediction_names[] = {"epsilon", "v_prediction", "sample", NULL}; /* Prediction */

/* ---- scheduler classes ------------------------------------------------------------------- */

static const ConfigRule ddim_rules[] = {{"thresholding", "false|null"}, {NULL, NULL}};
static const ConfigRule euler_rules[] = {
    {"interpolation_type", "\"linear\""},
    {"use_exponential_sigmas", "false|null"},
    {"use_beta_sigmas", "false|null"},
    {"sigma_min", "null"},
    {"sigma_max", "null"},
    {"timestep_type", "\"discrete\""},
    {"final_sigmas_type", "\"zero\""},
    {NULL, NULL},
};
static const ConfigRule dpm_rules[] = {
    {"thresholding", "false|null"},
    {"algorithm_type", "\"dpmsolver++\""},
    {"solver_order", "2"},
    {"solver_type", "\"midpoint\""},
    {"lower_order_final", "true"},
    {"euler_at_final", "false"},
    {"use_exponential_sigmas", "false|null"},
    {"use_beta_sigmas", "false|null"},
    {"use_lu_lambdas", "false|null"},
    {"use_flow_sigmas", "false|null"},
    {"final_sigmas_type", "\"zero\""},
    {"variance_type", "null"},
    {NULL, NULL},
};
/* Of a replaced sampler's keys only those matter that change what the network predicts. */
static const ConfigRule other_rules[] = {
    {"thresholding", "false|null"},
    {"use_flow_sigmas", "false|null"},
    {"variance_type", "null|\"fixed_small\"|\"fixed_small_log\"|\"fixed_large\"|\"fixed_large_log\""},
    {NULL, NULL},
};

typedef struct {
    const char *name;    /* _class_name */
    const char *sampler; /* the registry's, if it does what the class does; NULL: ours differs */
    bool whole; /* spacing, offset, clipping and final alpha are read too, not only betas and prediction */
    double beta_start, beta_end;
    int betas;
    Spacing spacing;
    bool clip, final_one; /* defaults of clip_sample and set_alpha_to_one */
    const ConfigRule *rules;
    const char *remark; /* for the note; NULL: a different solver */
} SchedulerClass;

#define DISTILLED "a distilled model's, made for 4 to 8 steps and guidance 1 to 2"
static const SchedulerClass classes[] = {
    {"DDIMScheduler", "ddim", true, 1e-4, 0.02, BETAS_LINEAR, SPACING_LEADING, true, true, ddim_rules, NULL},
    {"PNDMScheduler", NULL, true, 1e-4, 0.02, BETAS_LINEAR, SPACING_LEADING, false, false, other_rules, NULL},
    {"EulerDiscreteScheduler", "euler", true, 1e-4, 0.02, BETAS_LINEAR, SPACING_LINSPACE, false, true,
     euler_rules, NULL},
    {"DPMSolverMultistepScheduler", "dpmpp2m", true, 1e-4, 0.02, BETAS_LINEAR, SPACING_LINSPACE, false, true,
     dpm_rules, NULL},
    {"EulerAncestralDiscreteScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules,
     "ancestral sampling (ddim with eta 1 is the nearest)"},
    {"UniPCMultistepScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"DEISMultistepScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"LMSDiscreteScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"HeunDiscreteScheduler", NULL, false, 0.00085, 0.012, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"KDPM2DiscreteScheduler", NULL, false, 0.00085, 0.012, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"KDPM2AncestralDiscreteScheduler", NULL, false, 0.00085, 0.012, BETAS_LINEAR, 0, false, true,
     other_rules, NULL},
    {"DPMSolverSinglestepScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules,
     NULL},
    {"DPMSolverSDEScheduler", NULL, false, 0.00085, 0.012, BETAS_LINEAR, 0, false, true, other_rules, NULL},
    {"LCMScheduler", NULL, false, 0.00085, 0.012, BETAS_SCALED, 0, false, true, other_rules, DISTILLED},
    {"TCDScheduler", NULL, false, 0.00085, 0.012, BETAS_SCALED, 0, false, true, other_rules, DISTILLED},
    {"DDPMScheduler", NULL, false, 1e-4, 0.02, BETAS_LINEAR, 0, false, true, other_rules,
     "a training schedule"},
};

static int find_class(const json_t *config, const char *where, const SchedulerClass **out, gimbal_error *err)
{
    const char *name;
    TRY(json_get_text(config, where, "_class_name", "", &name, err));
    char known[256] = "";
    for (int i = 0; i < COUNT(classes); i++) {
        if (!strcmp(name, classes[i].name)) {
            *out = &classes[i];
            return GIMBAL_OK;
        }
        const size_t used = strlen(known), letters = strlen(classes[i].name) - strlen("Scheduler");
        snprintf(known + used, sizeof known - used, "%s%.*s", i ? ", " : "", (int)letters, classes[i].name);
    }
    char hint[320];
    snprintf(hint, sizeof hint, "known, each ending in Scheduler: %s", known);
    return fail_hint(err, GIMBAL_EMODEL, hint,
                     "%s: \"_class_name\" is \"%.64s\", expected a known scheduler class", where, name);
}

/* Is this build's registry able to do what the class asks for? */
static bool sampler_known(const char *name)
{
#define SAMPLER_NAME(n) #n,
    static const char *const names[] = {SAMPLERS(SAMPLER_NAME)};
    for (int i = 0; name && i < COUNT(names); i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

/* ---- words and betas --------------------------------------------------------------------- */

/* The place of `word` in `names`; `what` stands before it in the message. */
static int word_index(const char *word, const char *const *names, const char *what, int code, int *out,
                      gimbal_error *err)
{
    char known[128] = "";
    for (*out = 0; names[*out]; ++*out) {
        if (!strcmp(word, names[*out]))
            return GIMBAL_OK;
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", *out ? ", " : "", names[*out]);
    }
    return fail(err, code, "%s is \"%.64s\", expected one of %s", what, word, known);
}

/* A key of the file that holds one of `names`; its default as an index. */
static int read_word(const json_t *config, const char *where, const char *key, const char *const *names,
                     int def, int *out, gimbal_error *err)
{
    const char *word;
    char what[256];
    TRY(json_get_text(config, where, key, names[def], &word, err));
    snprintf(what, sizeof what, "%.200s: \"%s\"", where, key);
    return word_index(word, names, what, GIMBAL_EFORMAT, out, err);
}

/* beta [T] out, each in (0, 1). diffusers' cosine form caps them at 0.999. */
static int formula_betas(const json_t *config, const char *where, const SchedulerClass *cls, int kind, int T,
                         double *beta, gimbal_error *err)
{
    double first, last;
    TRY(json_get_real(config, where, "beta_start", cls->beta_start, &first, err));
    TRY(json_get_real(config, where, "beta_end", cls->beta_end, &last, err));
    if (!(first > 0 && first < 1 && last > 0 && last < 1))
        return fail(err, GIMBAL_EFORMAT,
                    "%s: \"beta_start\" is %g and \"beta_end\" %g, expected both in 0..1, without the ends",
                    where, first, last);
    if (kind == BETAS_SCALED)
        first = sqrt(first), last = sqrt(last);
    for (int t = 0; t < T; t++) {
        const double line = T > 1 ? first + t * (last - first) / (T - 1) : first;
        const double from = cos(((double)t / T + 0.008) / 1.008 * M_PI / 2);
        const double to = cos(((double)(t + 1) / T + 0.008) / 1.008 * M_PI / 2);
        beta[t] = kind == BETAS_COSINE   ? fmin(1 - to * to / (from * from), 0.999)
                  : kind == BETAS_SCALED ? line * line
                                         : line;
    }
    return GIMBAL_OK;
}

static int listed_betas(const json_t *list, const char *where, int T, double *beta, gimbal_error *err)
{
    if (!json_is_array(list) || json_array_size(list) != (size_t)T)
        return fail(err, GIMBAL_EFORMAT,
                    "%s: \"trained_betas\" has %zu values, expected num_train_timesteps = %d", where,
                    json_array_size(list), T);
    for (int t = 0; t < T; t++) {
        beta[t] = json_number_value(json_array_get(list, (size_t)t));
        if (!(beta[t] > 0 && beta[t] < 1))
            return fail(err, GIMBAL_EFORMAT,
                        "%s: \"trained_betas\"[%d] is %g, expected a number in 0..1, without the ends", where,
                        t, beta[t]);
    }
    return GIMBAL_OK;
}

/* table [T]: betas in, cumulative alphas out. */
static void accumulate(double *table, int T, bool zero_snr)
{
    double product = 1;
    for (int t = 0; t < T; t++)
        table[t] = product *= 1 - table[t];
    if (!zero_snr)
        return;
    const double first = sqrt(table[0]), last = sqrt(table[T - 1]);
    for (int t = 0; t < T; t++) {
        const double a = (sqrt(table[t]) - last) * (first / (first - last));
        table[t] = a * a;
    }
}

/* ---- reading ----------------------------------------------------------------------------- */

enum { AS_FILE = -1, LISTED = -2 }; /* no setting; trained_betas */

/* T, betas, prediction: what every class has. *betas: the setting or AS_FILE in, what was taken out. */
static int read_process(Schedule *s, const json_t *config, const char *where, const SchedulerClass *cls,
                        int *betas, Arena *keep, gimbal_error *err)
{
    const json_t *list = json_object_get(config, "trained_betas");
    int prediction;
    TRY(json_get_int(config, where, "num_train_timesteps", 1000, 1, 100000, &s->T, err));
    TRY(read_word(config, where, "prediction_type", prediction_names, PREDICT_EPSILON, &prediction, err));
    TRY(json_get_bool(config, where, "rescale_betas_zero_snr", false, &s->zero_snr, err));
    s->prediction = (Prediction)prediction;
    if (s->zero_snr && s->T < 2)
        return fail(err, GIMBAL_EFORMAT,
                    "%s: \"num_train_timesteps\" is 1, expected 2 or more with rescale_betas_zero_snr",
                    where);
    s->alpha_bar = arena_alloc(keep, (size_t)s->T * sizeof *s->alpha_bar);
    if (!s->alpha_bar)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d alphas", where, s->T);
    if (*betas == AS_FILE && list && !json_is_null(list)) {
        *betas = LISTED;
        TRY(listed_betas(list, where, s->T, s->alpha_bar, err));
    } else {
        if (*betas == AS_FILE)
            TRY(read_word(config, where, "beta_schedule", beta_names, cls->betas, betas, err));
        TRY(formula_betas(config, where, cls, *betas, s->T, s->alpha_bar, err));
    }
    s->betas = *betas == LISTED ? NULL : beta_names[*betas];
    s->sampler = sampler_known(cls->sampler) ? cls->sampler : "ddim";
    accumulate(s->alpha_bar, s->T, s->zero_snr);
    if (!(s->alpha_bar[0] > 0)) /* nan: betas too small to be told from 0, stretched to zero SNR */
        return fail(err, GIMBAL_EFORMAT, "%s: its betas leave no noise to rescale to zero SNR", where);
    return GIMBAL_OK;
}

/* Spacing, offset, clipping, final alpha. Where the file's own are not kept, the ones that let DDIM's
 * steps meet: leading, offset 1. */
static int read_sampling(Schedule *s, const json_t *config, const char *where, const SchedulerClass *cls,
                         gimbal_error *err)
{
    int spacing = SPACING_LEADING;
    bool final_one = true;
    s->steps_offset = MIN(1, s->T - 1), s->clip_range = 1, s->lambda_min = -INFINITY;
    if (cls->whole) {
        TRY(read_word(config, where, "timestep_spacing", spacing_names, (int)cls->spacing, &spacing, err));
        TRY(json_get_int(config, where, "steps_offset", 0, 0, s->T - 1, &s->steps_offset, err));
        TRY(json_get_bool(config, where, "set_alpha_to_one", cls->final_one, &final_one, err));
    }
    if (cls->clip) {
        TRY(json_get_bool(config, where, "clip_sample", true, &s->clip_sample, err));
        TRY(json_get_real(config, where, "clip_sample_range", 1.0, &s->clip_range, err));
        if (!(s->clip_range > 0 && s->clip_range <= 1e6))
            return fail(err, GIMBAL_EFORMAT, "%s: \"clip_sample_range\" is %g, expected above 0, up to 1e6",
                        where, s->clip_range);
    }
    /* Python's default is -Infinity, which stands here as null */
    if (cls->sampler && !strcmp(cls->sampler, "dpmpp2m") &&
        !json_is_null(json_object_get(config, "lambda_min_clipped")))
        TRY(json_get_real(config, where, "lambda_min_clipped", -INFINITY, &s->lambda_min, err));
    s->spacing = (Spacing)spacing;
    s->final_alpha = final_one ? 1 : s->alpha_bar[0];
    return GIMBAL_OK;
}

/* What a reader of the file would not expect, or NULL when it is taken at its word. *out NULL: no memory. */
static int make_note(const Schedule *s, const json_t *config, const SchedulerClass *cls, bool for_motion,
                     bool has_motion, Arena *keep, const char **note)
{
    const bool karras = json_is_true(json_object_get(config, "use_karras_sigmas"));
    const char *betas = s->betas ? s->betas : "trained";
    *note = NULL;
    if (for_motion) {
        *note = arena_printf(keep,
                             "PNDMScheduler replaced by DDIM for the motion adapter: %s betas, %s spacing, "
                             "steps_offset 1, no clipping",
                             betas, spacing_names[s->spacing]);
    } else if (!sampler_known(cls->sampler)) {
        const char *why = cls->sampler ? "its sampler is not in this build" : "a solver that we do not have";
        const bool doubt = has_motion && strcmp(betas, "linear");
        *note = arena_printf(keep, "%s (%s) replaced by DDIM: %s betas, %s spacing, steps_offset %d%s",
                             cls->name, cls->remark ? cls->remark : why, betas, spacing_names[s->spacing],
                             s->steps_offset, doubt ? "; motion adapters were trained on linear betas" : "");
    } else if (karras) {
        *note = arena_printf(keep, "%s: use_karras_sigmas is ignored", cls->name);
    } else {
        return GIMBAL_OK;
    }
    return *note ? GIMBAL_OK : GIMBAL_ENOMEM;
}

int schedule_read(Schedule *s, const json_t *config, const char *where, const char *betas,
                  const char *spacing, bool has_motion, Arena *keep, const char **note, gimbal_error *err)
{
    const SchedulerClass *cls;
    int kind = AS_FILE, order = AS_FILE;
    *s = (Schedule){0};
    *note = NULL;
    if (betas)
        TRY(word_index(betas, beta_names, "setting \"betas\"", GIMBAL_EUSAGE, &kind, err));
    if (spacing)
        TRY(word_index(spacing, spacing_names, "setting \"spacing\"", GIMBAL_EUSAGE, &order, err));
    TRY(find_class(config, where, &cls, err));

    /* Motion adapters are trained on linear betas, whatever the image model beneath them says. */
    const bool for_motion = has_motion && !strcmp(cls->name, "PNDMScheduler");
    if (for_motion) {
        cls = &classes[0];
        kind = betas ? kind : BETAS_LINEAR;
    }
    TRY(json_refuse(config, where, cls->rules, err));
    TRY(read_process(s, config, where, cls, &kind, keep, err));
    TRY(read_sampling(s, config, where, cls, err));
    if (for_motion) {
        s->spacing = SPACING_LEADING;
        s->steps_offset = MIN(1, s->T - 1);
        s->clip_sample = false;
    }
    if (spacing)
        s->spacing = (Spacing)order;
    if (make_note(s, config, cls, for_motion, has_motion, keep, note))
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a note", where);
    return GIMBAL_OK;
}

/* ---- use --------------------------------------------------------------------------------- */

static double sigma_of(double alpha_bar)
{
    const double a = alpha_bar > 0 ? alpha_bar : 0x1p-24;
    return sqrt((1 - a) / a);
}

double schedule_sigma(const Schedule *s, double t)
{
    if (t < 0)
        return 0;
    const int low = MIN((int)t, s->T - 1), high = MIN(low + 1, s->T - 1);
    const double from = sigma_of(s->alpha_bar[low]);
    return t > low ? from + (t - low) * (sigma_of(s->alpha_bar[high]) - from) : from;
}

/* A(t). Between timesteps sigma is what is linear: only samplers that go by sigma stop there. */
static double alpha_bar(const Schedule *s, double t)
{
    if (t < 0)
        return s->final_alpha;
    const int low = MIN((int)t, s->T - 1);
    const double sigma = t > low ? schedule_sigma(s, t) : 0;
    return t > low ? 1 / (1 + sigma * sigma) : s->alpha_bar[low];
}

double schedule_a(const Schedule *s, double t)
{
    return sqrt(alpha_bar(s, t));
}

double schedule_s(const Schedule *s, double t)
{
    return sqrt(1 - alpha_bar(s, t));
}

/* The k-th of n timesteps, ascending for leading and linspace, descending for trailing: NumPy's arange
 * and linspace to the bit, because rounding halves to even depends on it. (Where arange's own rounding
 * adds a step n+1, at timestep -1, as it does for 61 of 1000, the reference has a fault and we have n
 * steps.) */
static double spaced(const Schedule *s, int n, int k)
{
    if (s->spacing == SPACING_LEADING)
        return (double)k * (s->T / n) + s->steps_offset;
    if (s->spacing == SPACING_LINSPACE)
        return k == n - 1 && n > 1 ? s->T - 1 : nearbyint(k * ((s->T - 1) / (double)MAX(n - 1, 1)));
    const double apart = (s->T - s->T / (double)n) - s->T;
    return nearbyint(s->T + k * apart) - 1;
}

int grid_make(Grid *grid, const Schedule *s, int steps, Arena *keep, gimbal_error *err)
{
    *grid = (Grid){0};
    if (steps < 1 || steps > s->T)
        return fail(err, GIMBAL_EUSAGE,
                    "steps is %d, expected 1..%d, the timesteps that the model was trained on", steps, s->T);
    double *t = arena_alloc(keep, (size_t)steps * sizeof *t);
    if (!t)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d timesteps", steps);
    for (int k = 0; k < steps; k++)
        t[k] = spaced(s, steps, s->spacing == SPACING_TRAILING ? k : steps - 1 - k);
    if (t[0] > s->T - 1)
        return fail_hint(err, GIMBAL_EUSAGE, "make fewer steps, or use spacing trailing",
                         "%d steps with steps_offset %d begin at timestep %g; the schedule's last is %d",
                         steps, s->steps_offset, t[0], s->T - 1);
    *grid = (Grid){.n = steps, .ratio = s->T / steps, .start = 1, .t = t};
    return GIMBAL_OK;
}

double grid_next(const Grid *grid, int k)
{
    if (grid->ratio)
        return grid->t[k] - grid->ratio;
    return k + 1 < grid->n ? grid->t[k + 1] : -1;
}

/* x = a x0 + s eps and the prediction, solved for x0 and eps. */
static void predict(Prediction prediction, double a, double s, size_t n, const float *x, const float *raw,
                    float *x0, float *eps)
{
    for (size_t i = 0; i < n; i++) {
        double clean = raw[i], noise = raw[i];
        if (prediction == PREDICT_EPSILON) {
            clean = (x[i] - s * raw[i]) / a;
        } else if (prediction == PREDICT_SAMPLE) {
            noise = (x[i] - a * raw[i]) / s;
        } else {
            clean = a * x[i] - s * raw[i];
            noise = a * raw[i] + s * x[i];
        }
        x0[i] = (float)clean;
        eps[i] = (float)noise;
    }
}

void predict_x0_eps(const Schedule *s, double t, size_t n, const float *x, const float *raw, float *x0,
                    float *eps)
{
    predict(s->prediction, schedule_a(s, t), schedule_s(s, t), n, x, raw, x0, eps);
    const float limit = (float)s->clip_range;
    for (size_t i = 0; s->clip_sample && i < n; i++) /* by comparison: fmin and fmax would hide a NaN */
        x0[i] = x0[i] > limit ? limit : x0[i] < -limit ? -limit : x0[i];
}

void predict_at_sigma(Prediction prediction, double sigma, size_t n, const float *x, const float *raw,
                      float *x0, float *eps)
{
    const double a = 1 / sqrt(1 + sigma * sigma);
    predict(prediction, a, sigma * a, n, x, raw, x0, eps);
}
