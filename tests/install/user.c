/* user.c: the library as a stranger uses it; C99 and C++17 at once, with nothing but gimbal.h and libc.
 *
 *     user MODEL VERSION
 *
 * Asks for the version, a mask and a mix, a tensor's way through a file's errors, and opens MODEL for a run
 * of the smallest size. Status 0 and the word "fine" when all of it holds; else the line that does not.
 * Compiled and run by tests/install.sh against the shared and the static library. */
#include <gimbal.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#define HOLDS(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            printf("line %d does not hold: %s\n", __LINE__, #what);                                          \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

enum { F = 3, H = 4, W = 5 };

/* Of odd and even sizes: gain 1 at frequency 0, and a constant clip goes through the low band unchanged. */
static int arrays(gimbal_error *err)
{
    float mask[F * H * W], one[F * H * W], noise[F * H * W], out[F * H * W];
    gimbal_shape shape;
    double mean = 0;
    shape.c = 1, shape.f = F, shape.h = H, shape.w = W;
    HOLDS(gimbal_mask("freeinit:filter=gaussian", shape, mask, err) == GIMBAL_OK);
    HOLDS(mask[0] == 1.0f && mask[1] < 1.0f && mask[F * H * W - 1] > 0.0f);
    HOLDS(gimbal_noise("white", "philox", 7, 0, shape, noise, err) == GIMBAL_OK);
    for (int i = 0; i < F * H * W; i++)
        one[i] = 2.0f;
    HOLDS(gimbal_mix(one, noise, mask, 1, shape, out, err) == GIMBAL_OK);
    for (int i = 0; i < F * H * W; i++)
        mean += out[i] / (F * H * W);
    HOLDS(fabs(mean - 2) < 1e-5);
    return 0;
}

/* A wrong setting and a missing file are told, with a code, a sentence and a name. */
static int errors(void)
{
    gimbal_error err;
    gimbal_engine *engine = NULL;
    float mask[1];
    gimbal_shape shape = {1, 1, 1, 1};
    memset(&err, 0, sizeof err);
    HOLDS(gimbal_mask("freeinit:filtre=box", shape, mask, &err) == GIMBAL_EUSAGE);
    HOLDS(err.code == GIMBAL_EUSAGE && strstr(err.msg, "filtre"));
    memset(&err, 0, sizeof err);
    HOLDS(gimbal_open(&engine, "no/such/folder", NULL, &err) < 0 && !engine);
    HOLDS(strstr(err.msg, "no/such/folder"));
    HOLDS(gimbal_mask("none", shape, mask, NULL) == GIMBAL_EUSAGE);
    HOLDS(strcmp(gimbal_code_name(GIMBAL_ENOMEM), "out of memory") == 0);
    return 0;
}

static int model(const char *path, gimbal_error *err)
{
    gimbal_engine *engine;
    gimbal_session *run;
    gimbal_settings s;
    gimbal_shape z;
    HOLDS(gimbal_open(&engine, path, NULL, err) == GIMBAL_OK);
    HOLDS(strlen(gimbal_identity(engine)) == 64 && gimbal_size_step(engine) >= 8);
    gimbal_defaults(&s, engine);
    s.prompt = "a small blue square";
    s.frames = 2, s.width = s.height = 8 * gimbal_size_step(engine), s.steps = 1;
    HOLDS(gimbal_begin(&run, engine, &s, err) == GIMBAL_OK);
    z = gimbal_latent_shape(run);
    HOLDS(z.c >= 1 && z.f == 2 && z.h == z.w && z.h >= 1);
    gimbal_end(run);
    gimbal_close(engine);
    return 0;
}

int main(int argc, char **argv)
{
    gimbal_error err;
    memset(&err, 0, sizeof err);
    if (argc != 3)
        return 2;
    HOLDS(strcmp(gimbal_version(), argv[2]) == 0 && gimbal_build_info()[0]);
    if (arrays(&err) || errors() || model(argv[1], &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    puts("fine");
    return 0;
}
