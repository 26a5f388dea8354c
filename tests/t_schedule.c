/* t_schedule.c: schedules and timesteps against diffusers (tests/golden/schedulers.safetensors: every
 * "ddim" case of manifest.json), the rules for scheduler classes, and what is refused. */
#include "diffusion/diffusion.h"
#include "tests/check.h"

#define GOLDEN "tests/golden/schedulers.safetensors"
#define LINEAR "'beta_schedule':'linear','beta_start':0.00085,'beta_end':0.012"
#define SCALED "'beta_schedule':'scaled_linear','beta_start':0.00085,'beta_end':0.012"

/* The result of the last schedule_read through `read_config`. */
static struct {
    Schedule s;
    const char *note;
    Arena keep;
} last;

static int read_object(const json_t *config, const char *betas, const char *spacing, bool motion,
                       gimbal_error *err)
{
    arena_free(&last.keep);
    return schedule_read(&last.s, config, "x.json", betas, spacing, motion, &last.keep, &last.note, err);
}

/* `text`: the inside of a JSON object, with ' for ". */
static int read_config(const char *text, const char *betas, const char *spacing, bool motion,
                       gimbal_error *err)
{
    char json[2048];
    snprintf(json, sizeof json, "{%s}", text);
    for (char *c = json; *c; c++)
        if (*c == '\'')
            *c = '"';
    json_t *config = json_loads(json, 0, NULL);
    assert_non_null(config);
    const int code = read_object(config, betas, spacing, motion, err);
    json_decref(config);
    return code;
}

static void read_ok(const char *text, const char *betas, const char *spacing, bool motion)
{
    gimbal_error err = {0};
    check_ok(read_config(text, betas, spacing, motion, &err), err);
}

static void alphas_are_those_of_diffusers(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"alphas_cumprod.linear", "'_class_name':'DDIMScheduler'," LINEAR},
        {"alphas_cumprod.scaled", "'_class_name':'DDIMScheduler'," SCALED},
        {"alphas_cumprod.linear_zsnr", "'_class_name':'DDIMScheduler','rescale_betas_zero_snr':true," LINEAR},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        size_t n;
        float *want = golden(GOLDEN, cases[i][0], &n);
        read_ok(cases[i][1], NULL, NULL, false);
        assert_int_equal(n, last.s.T);
        /* float32's own rounding: near zero terminal SNR it is of the difference of two roots */
        for (size_t t = 0; t < n; t++)
            check_near(last.s.alpha_bar[t], want[t], (i == 2 ? 3e-4 : 4e-6) * want[t] + (i == 2 ? 1e-7 : 0),
                       "%s[%zu]", cases[i][0], t);
        free(want);
    }
    assert_true(last.s.alpha_bar[999] == 0.0);
}

static void timesteps_and_coefficients_are_those_of_diffusers(void **state)
{
    (void)state;
    gimbal_error err = {0};
    json_t *manifest, *one;
    const char *name;
    int cases = 0;
    check_ok(json_read(&manifest, "tests/golden/manifest.json", &err), err);
    json_object_foreach(json_object_get(manifest, "schedulers"), name, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "sampler")), "ddim"))
            continue;
        json_t *config = json_object_get(one, "config");
        json_object_set_new(config, "_class_name", json_string("DDIMScheduler"));
        check_ok(read_object(config, NULL, NULL, false, &err), err);
        const int steps = (int)json_integer_value(json_object_get(one, "steps"));
        Grid grid;
        check_ok(grid_make(&grid, &last.s, steps, &last.keep, &err), err);
        assert_int_equal(grid.n, steps);

        char key[3][96];
        static const char *const parts[] = {"timesteps", "alpha_t", "alpha_prev"};
        float *want[3];
        size_t n[3];
        for (int i = 0; i < 3; i++) {
            snprintf(key[i], sizeof key[i], "%s.%s", name, parts[i]);
            want[i] = golden(GOLDEN, key[i], &n[i]);
            assert_int_equal(n[i], steps);
        }
        for (int k = 0; k < steps; k++) {
            const double t = grid.t[k], a = schedule_a(&last.s, t), p = schedule_a(&last.s, t - grid.ratio);
            check(t == want[0][k], "%s[%d]: %g, expected %g", key[0], k, t, want[0][k]);
            check_near(a * a, want[1][k], 2e-6 * want[1][k], "%s[%d]", key[1], k);
            check_near(p * p, want[2][k], 2e-6 * want[2][k], "%s[%d]", key[2], k);
            check_near(a * a + pow(schedule_s(&last.s, t), 2), 1.0, 1e-14, "%s[%d]: a^2 + s^2", key[1], k);
        }
        for (int i = 0; i < 3; i++)
            free(want[i]);
        cases++;
    }
    assert_int_equal(cases, 46);
    json_decref(manifest);
}

/* Numbers that NumPy gives and shorter formulas miss: halves that round to even, and products that only
 * look exact. */
static void spacings_round_as_numpy_does(void **state)
{
    (void)state;
    static const struct {
        const char *spacing;
        int T, steps, k;
        double t;
    } cases[] = {
        {"trailing", 1000, 16, 1, 937}, {"trailing", 1000, 16, 3, 811}, {"trailing", 1000, 48, 3, 936},
        {"trailing", 1000, 1, 0, 999},  {"trailing", 7, 2, 1, 3},       {"linspace", 1000, 1, 0, 0},
        {"linspace", 1000, 3, 1, 500},  {"linspace", 1000, 2, 0, 999},  {"linspace", 1000, 2, 1, 0},
        {"linspace", 10, 7, 3, 4},      {"leading", 1000, 7, 0, 853},   {"leading", 1000, 3, 0, 667},
        {"leading", 1000, 999, 0, 999}, {"leading", 1000, 1, 0, 1},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        char text[128];
        gimbal_error err = {0};
        Grid grid;
        snprintf(text, sizeof text, "'_class_name':'DDIMScheduler','steps_offset':1,'num_train_timesteps':%d",
                 cases[i].T);
        read_ok(text, NULL, cases[i].spacing, false);
        check_ok(grid_make(&grid, &last.s, cases[i].steps, &last.keep, &err), err);
        check(grid.t[cases[i].k] == cases[i].t, "%s, %d of %d, step %d: %g, expected %g", cases[i].spacing,
              cases[i].steps, cases[i].T, cases[i].k, grid.t[cases[i].k], cases[i].t);
        check(grid.ratio == cases[i].T / cases[i].steps, "ratio %d", grid.ratio);
        for (int k = 1; k < grid.n; k++)
            check(grid.t[k] < grid.t[k - 1], "%s: step %d does not descend", cases[i].spacing, k);
    }
}

static void a_ddim_folder_is_taken_at_its_word_and_absent_keys_are_the_class_defaults(void **state)
{
    (void)state;
    read_ok("'_class_name':'DDIMScheduler'", NULL, NULL, true);
    assert_null(last.note);
    assert_int_equal(last.s.T, 1000);
    assert_int_equal(last.s.spacing, SPACING_LEADING);
    assert_int_equal(last.s.steps_offset, 0);
    assert_int_equal(last.s.prediction, PREDICT_EPSILON);
    assert_true(last.s.clip_sample && last.s.clip_range == 1.0 && last.s.final_alpha == 1.0 &&
                !last.s.zero_snr);
    assert_string_equal(last.s.betas, "linear");
    check_near(last.s.alpha_bar[0], 1 - 1e-4, 1e-15, "first alpha");
    check_near(last.s.alpha_bar[999], 4.0358e-5, 1e-9, "last alpha");
    read_ok("'_class_name':'DDIMScheduler','set_alpha_to_one':false,'timestep_spacing':'trailing','unknown':["
            "1]," SCALED,
            NULL, NULL, true);
    assert_null(last.note);
    assert_int_equal(last.s.spacing, SPACING_TRAILING);
    assert_string_equal(last.s.betas, "scaled_linear");
    check_near(last.s.final_alpha, 1 - 0.00085, 1e-12, "final alpha");
}

static void a_motion_adapter_on_a_pndm_folder_gets_ddim_with_linear_betas(void **state)
{
    (void)state;
    static const char pndm[] = "'_class_name':'PNDMScheduler','skip_prk_steps':true,'set_alpha_to_one':false,"
                               "'clip_sample':true,'steps_offset':0,'timestep_spacing':'trailing'," SCALED;
    read_ok(pndm, NULL, NULL, true);
    assert_non_null(strstr(last.note, "PNDM"));
    assert_non_null(strstr(last.note, "linear betas"));
    assert_string_equal(last.s.betas, "linear");
    assert_int_equal(last.s.spacing, SPACING_LEADING);
    assert_int_equal(last.s.steps_offset, 1);
    assert_false(last.s.clip_sample);
    check_near(last.s.alpha_bar[999], 0.0015789629, 1e-9, "last alpha");
    check_near(last.s.final_alpha, 1 - 0.00085, 1e-12, "final alpha is the file's");

    read_ok(pndm, "scaled_linear", "linspace", true);
    assert_string_equal(last.s.betas, "scaled_linear");
    assert_int_equal(last.s.spacing, SPACING_LINSPACE);
    assert_non_null(strstr(last.note, "scaled_linear betas, linspace"));

    read_ok(pndm, NULL, NULL, false);
    assert_string_equal(last.s.betas, "scaled_linear");
    assert_int_equal(last.s.spacing, SPACING_TRAILING);
    assert_int_equal(last.s.steps_offset, 0);
    assert_false(last.s.clip_sample);
    assert_non_null(strstr(last.note, "PNDM"));
}

static void other_classes_keep_betas_and_prediction_and_say_so(void **state)
{
    (void)state;
    static const char *const others[] = {"EulerAncestralDiscrete",
                                         "UniPCMultistep",
                                         "DEISMultistep",
                                         "LMSDiscrete",
                                         "HeunDiscrete",
                                         "KDPM2Discrete",
                                         "KDPM2AncestralDiscrete",
                                         "DPMSolverSinglestep",
                                         "DPMSolverSDE",
                                         "LCM",
                                         "TCD",
                                         "DDPM"};
    for (int i = 0; i < COUNT(others); i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "'_class_name':'%sScheduler','prediction_type':'v_prediction','steps_offset':3,"
                 "'timestep_spacing':'linspace','clip_sample':true,'use_karras_sigmas':true," SCALED,
                 others[i]);
        read_ok(text, NULL, NULL, true);
        check(last.note && strstr(last.note, others[i]), "%s: note \"%s\"", others[i],
              last.note ? last.note : "");
        check(strstr(last.note, "trained on linear"), "%s: note \"%s\"", others[i], last.note);
        assert_string_equal(last.s.betas, "scaled_linear");
        assert_int_equal(last.s.prediction, PREDICT_V);
        check_near(last.s.alpha_bar[999], 0.0046600, 1e-6, "%s: last alpha", others[i]);
        assert_int_equal(last.s.spacing, SPACING_LEADING);
        assert_int_equal(last.s.steps_offset, 1);
        assert_false(last.s.clip_sample);
    }
    read_ok("'_class_name':'LCMScheduler'", NULL, NULL, false);
    assert_non_null(strstr(last.note, "4 to 8 steps"));
    check_near(last.s.alpha_bar[999], 0.0046600, 1e-6, "LCM's own defaults are Stable Diffusion's");
}

static void euler_and_dpm_folders_keep_their_spacing(void **state)
{
    (void)state;
    static const char *const names[] = {"EulerDiscreteScheduler", "DPMSolverMultistepScheduler"};
    for (int i = 0; i < 2; i++) {
        char text[512];
        snprintf(text, sizeof text, "'_class_name':'%s'," SCALED, names[i]);
        read_ok(text, NULL, NULL, true);
        assert_int_equal(last.s.spacing, SPACING_LINSPACE);
        assert_int_equal(last.s.steps_offset, 0);
        assert_false(last.s.clip_sample);
        assert_string_equal(last.s.betas, "scaled_linear");
    }
}

static void the_class_names_the_sampler(void **state)
{
    (void)state;
    static const struct {
        const char *name, *sampler;
    } classes[] = {{"DDIM", "ddim"},
                   {"PNDM", "ddim"},
                   {"EulerDiscrete", "euler"},
                   {"DPMSolverMultistep", "dpmpp2m"},
                   {"EulerAncestralDiscrete", "ddim"},
                   {"UniPCMultistep", "ddim"},
                   {"DDPM", "ddim"}};
    for (int motion = 0; motion < 2; motion++)
        for (int i = 0; i < COUNT(classes); i++) {
            char text[512];
            snprintf(text, sizeof text, "'_class_name':'%sScheduler'," LINEAR, classes[i].name);
            read_ok(text, NULL, NULL, motion);
            assert_string_equal(last.s.sampler, classes[i].sampler);
            /* a note where the class is not what is run */
            const bool replaced = !strcmp(classes[i].sampler, "ddim") && i > 0;
            check((last.note != NULL) == replaced, "%s: %s", classes[i].name,
                  last.note ? last.note : "no note");
        }
    read_ok("'_class_name':'EulerAncestralDiscreteScheduler'", NULL, NULL, false);
    assert_non_null(strstr(last.note, "ancestral"));
    read_ok("'_class_name':'DPMSolverMultistepScheduler','use_karras_sigmas':true", NULL, NULL, false);
    assert_non_null(strstr(last.note, "use_karras_sigmas is ignored"));
    gimbal_error err = {0};
    check_fails(read_config("'_class_name':'DPMSolverMultistepScheduler','algorithm_type':'sde-dpmsolver++'",
                            NULL, NULL, false, &err),
                GIMBAL_EMODEL, err, "sde-dpmsolver++");
}

static void a_threshold_of_lambda_is_dpm_solver_s_alone(void **state)
{
    (void)state;
    gimbal_error err = {0};
    read_ok("'_class_name':'DPMSolverMultistepScheduler'", NULL, NULL, false);
    assert_true(last.s.lambda_min == -INFINITY);
    read_ok("'_class_name':'DPMSolverMultistepScheduler','lambda_min_clipped':null", NULL, NULL, false);
    assert_true(last.s.lambda_min == -INFINITY);
    read_ok("'_class_name':'DPMSolverMultistepScheduler','lambda_min_clipped':-5.1", NULL, NULL, false);
    assert_true(last.s.lambda_min == -5.1);
    read_ok("'_class_name':'EulerDiscreteScheduler','lambda_min_clipped':-5.1", NULL, NULL, false);
    assert_true(last.s.lambda_min == -INFINITY);
    check_fails(read_config("'_class_name':'DPMSolverMultistepScheduler','lambda_min_clipped':'low'", NULL,
                            NULL, false, &err),
                GIMBAL_EFORMAT, err, "lambda_min_clipped");
}

/* Between timesteps a, s and sigma belong together, and sigma is a straight line. */
static void levels_between_timesteps_are_linear_in_sigma(void **state)
{
    (void)state;
    read_ok("'_class_name':'EulerDiscreteScheduler'," SCALED, NULL, NULL, false);
    for (double t = 0; t <= 999; t += 41.625) {
        const double a = schedule_a(&last.s, t), s = schedule_s(&last.s, t),
                     sigma = schedule_sigma(&last.s, t);
        const double low = schedule_sigma(&last.s, floor(t)), high = schedule_sigma(&last.s, ceil(t));
        check_near(s / a, sigma, 1e-12 * sigma, "s/a at %g", t);
        check_near(a * a + s * s, 1, 1e-14, "a^2 + s^2 at %g", t);
        check_near(sigma, low + (t - floor(t)) * (high - low), 1e-12 * sigma, "sigma at %g", t);
    }
    assert_true(schedule_sigma(&last.s, -1) == 0);
    read_ok("'_class_name':'EulerDiscreteScheduler','rescale_betas_zero_snr':true," SCALED, NULL, NULL,
            false);
    check_near(schedule_sigma(&last.s, 999), sqrt(0x1p24 - 1), 1e-9, "zero terminal SNR");
    assert_true(schedule_a(&last.s, 999) == 0);
}

static void betas_come_in_three_formulas_or_a_list(void **state)
{
    (void)state;
    read_ok("'_class_name':'DDIMScheduler','beta_schedule':'squaredcos_cap_v2','num_train_timesteps':5", NULL,
            NULL, false);
    double product = 1, f0 = pow(cos(0.008 / 1.008 * M_PI / 2), 2);
    for (int t = 0; t < 4; t++)
        check_near(last.s.alpha_bar[t], pow(cos(((t + 1) / 5.0 + 0.008) / 1.008 * M_PI / 2), 2) / f0, 1e-14,
                   "cosine");
    product = last.s.alpha_bar[3] * 0.001; /* the last beta is capped at 0.999 */
    check_near(last.s.alpha_bar[4], product, 1e-14, "capped");
    read_ok("'_class_name':'DDIMScheduler','trained_betas':[0.1,0.2,0.5],'num_train_timesteps':3", NULL, NULL,
            false);
    assert_null(last.s.betas);
    check_near(last.s.alpha_bar[2], 0.9 * 0.8 * 0.5, 1e-15, "list");
    read_ok("'_class_name':'DDIMScheduler','trained_betas':[0.1,0.2,0.5],'num_train_timesteps':3", "linear",
            NULL, false);
    check_near(last.s.alpha_bar[0], 1 - 1e-4, 1e-15, "a setting goes before the list");
    read_ok("'_class_name':'DDIMScheduler','num_train_timesteps':1", NULL, NULL, false);
    check_near(last.s.alpha_bar[0], 1 - 1e-4, 1e-15, "one timestep");
}

static void impossible_configs_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *says;
    } cases[] = {
        {"'beta_start':0.1", GIMBAL_EMODEL, "_class_name"},
        {"'_class_name':'FlowMatchEulerDiscreteScheduler'", GIMBAL_EMODEL, "EulerDiscrete"},
        {"'_class_name':7", GIMBAL_EFORMAT, "_class_name"},
        {"'_class_name':'DDIMScheduler','thresholding':true", GIMBAL_EMODEL, "thresholding"},
        {"'_class_name':'DDIMScheduler','num_train_timesteps':0", GIMBAL_EFORMAT, "num_train_timesteps"},
        {"'_class_name':'DDIMScheduler','num_train_timesteps':100001", GIMBAL_EFORMAT, "num_train_timesteps"},
        {"'_class_name':'DDIMScheduler','num_train_timesteps':1,'rescale_betas_zero_snr':true",
         GIMBAL_EFORMAT, "num_train_timesteps"},
        {"'_class_name':'DDIMScheduler','beta_start':0", GIMBAL_EFORMAT, "beta_start"},
        {"'_class_name':'DDIMScheduler','beta_end':1", GIMBAL_EFORMAT, "beta_end"},
        {"'_class_name':'DDIMScheduler','beta_end':'big'", GIMBAL_EFORMAT, "beta_end"},
        {"'_class_name':'DDIMScheduler','beta_schedule':'sigmoid'", GIMBAL_EFORMAT, "squaredcos_cap_v2"},
        {"'_class_name':'DDIMScheduler','prediction_type':'flow'", GIMBAL_EFORMAT, "v_prediction"},
        {"'_class_name':'DDIMScheduler','timestep_spacing':'karras'", GIMBAL_EFORMAT,
         "leading, linspace, trailing"},
        {"'_class_name':'DDIMScheduler','steps_offset':-1", GIMBAL_EFORMAT, "steps_offset"},
        {"'_class_name':'DDIMScheduler','steps_offset':1000", GIMBAL_EFORMAT, "steps_offset"},
        {"'_class_name':'DDIMScheduler','clip_sample_range':0", GIMBAL_EFORMAT, "clip_sample_range"},
        {"'_class_name':'DDIMScheduler','trained_betas':[0.1]", GIMBAL_EFORMAT, "1 values"},
        {"'_class_name':'DDIMScheduler','trained_betas':[0.1,'x'],'num_train_timesteps':2", GIMBAL_EFORMAT,
         "trained_betas"},
        {"'_class_name':'EulerDiscreteScheduler','timestep_type':'continuous'", GIMBAL_EMODEL,
         "timestep_type"},
        {"'_class_name':'DPMSolverMultistepScheduler','algorithm_type':'sde-dpmsolver++'", GIMBAL_EMODEL,
         "algorithm_type"},
        {"'_class_name':'UniPCMultistepScheduler','use_flow_sigmas':true", GIMBAL_EMODEL, "use_flow_sigmas"},
        {"'_class_name':'DDPMScheduler','variance_type':'learned_range'", GIMBAL_EMODEL, "variance_type"},
    };
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(cases); i++)
        check_fails(read_config(cases[i].text, NULL, NULL, false, &err), cases[i].code, err, cases[i].says);
    check_fails(read_config("'_class_name':'DDIMScheduler'", "cosine", NULL, false, &err), GIMBAL_EUSAGE, err,
                "betas");
    check_fails(read_config("'_class_name':'DDIMScheduler'", NULL, "even", false, &err), GIMBAL_EUSAGE, err,
                "spacing");
}

static void impossible_step_counts_are_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Grid grid;
    read_ok("'_class_name':'DDIMScheduler','steps_offset':1", NULL, NULL, false);
    check_fails(grid_make(&grid, &last.s, 0, &last.keep, &err), GIMBAL_EUSAGE, err, "1..1000");
    check_fails(grid_make(&grid, &last.s, -3, &last.keep, &err), GIMBAL_EUSAGE, err, "steps is -3");
    check_fails(grid_make(&grid, &last.s, 1001, &last.keep, &err), GIMBAL_EUSAGE, err, "1..1000");
    check_fails(grid_make(&grid, &last.s, 1000, &last.keep, &err), GIMBAL_EUSAGE, err, "trailing");
}

static void predictions_split_into_the_clip_and_the_noise_they_were_made_of(void **state)
{
    (void)state;
    read_ok("'_class_name':'DDIMScheduler'," LINEAR, NULL, NULL, false);
    for (int clip = 0; clip < 2; clip++)
        for (int p = 0; p < 3; p++) {
            const float x0[3] = {0.5f, -3.0f, 2.0f}, eps[3] = {-1.0f, 0.25f, 2.0f};
            const double t = 321, a = schedule_a(&last.s, t), s = schedule_s(&last.s, t);
            float x[3], raw[3], clean[3], noise[3];
            for (int i = 0; i < 3; i++) {
                x[i] = (float)(a * x0[i] + s * eps[i]);
                raw[i] = p == PREDICT_EPSILON  ? eps[i]
                         : p == PREDICT_SAMPLE ? x0[i]
                                               : (float)(a * eps[i] - s * x0[i]);
            }
            last.s.prediction = (Prediction)p, last.s.clip_sample = clip;
            predict_x0_eps(&last.s, t, 3, x, raw, clean, noise);
            for (int i = 0; i < 3; i++) {
                check_near(clean[i], clip ? fmin(fmax(x0[i], -1), 1) : x0[i], 2e-6, "prediction %d, x0", p);
                check_near(noise[i], eps[i], 2e-6, "prediction %d, eps is not re-derived from a clipped x0",
                           p);
            }
            raw[0] = NAN;
            predict_x0_eps(&last.s, t, 1, x, raw, clean, noise);
            check(isnan(clean[0]), "clipping hides a NaN");
        }
    arena_free(&last.keep);
}

TESTS(alphas_are_those_of_diffusers, timesteps_and_coefficients_are_those_of_diffusers,
      spacings_round_as_numpy_does, a_ddim_folder_is_taken_at_its_word_and_absent_keys_are_the_class_defaults,
      a_motion_adapter_on_a_pndm_folder_gets_ddim_with_linear_betas,
      other_classes_keep_betas_and_prediction_and_say_so, euler_and_dpm_folders_keep_their_spacing,
      the_class_names_the_sampler, a_threshold_of_lambda_is_dpm_solver_s_alone,
      levels_between_timesteps_are_linear_in_sigma, betas_come_in_three_formulas_or_a_list,
      impossible_configs_are_refused_by_name, impossible_step_counts_are_refused,
      predictions_split_into_the_clip_and_the_noise_they_were_made_of)
