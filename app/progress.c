/* progress.c: the line on stderr that says how far a run is, the memory seen on the way, and Ctrl-C.
 *
 * On a terminal one line is redrawn at most ten times a second; elsewhere every step is a line of its own.
 * Signals reach a run through four words that a handler may touch. They are this program's only mutable
 * globals, because a signal handler is given nothing else.
 * Refuses to know what is being made. */
#include "app/app.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *print_bytes(uint64_t bytes, char out[24])
{
    if (bytes < 1000000000)
        snprintf(out, 24, "%.0f MB", (double)bytes / 1e6);
    else
        snprintf(out, 24, "%.1f GB", (double)bytes / 1e9);
    return out;
}

/* Anonymous resident bytes of this process; 0 where the system does not say. */
static uint64_t anon_now(void)
{
    unsigned long long kilobytes = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %llu kB", &kilobytes) == 1)
            break;
    if (f)
        fclose(f);
    return 1024 * (uint64_t)kilobytes;
}

/* ---- the line ---------------------------------------------------------------------------- */

Progress progress_begin(bool quiet)
{
    return (Progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO)};
}

void progress_clear(Progress *p)
{
    if (p->shown)
        fprintf(stderr, "\r%*s\r", p->shown, "");
    p->shown = 0;
    fflush(stderr);
}

const char *print_time(double seconds, char out[32])
{
    const long s = seconds < 0 ? 0 : (long)(seconds + 0.5);
    if (seconds < 0)
        snprintf(out, 32, "?");
    else if (s < 3600)
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    return out;
}

/* What is known of one state, without the bar. */
static void print_state(const gimbal_progress *s, char *out, size_t room)
{
    char eta[32], chunk[32] = "";
    if (!s->pass) {
        snprintf(out, room, "%s %d/%d", s->stage, s->step, s->steps);
        return;
    }
    if (s->chunks > 1)
        snprintf(chunk, sizeof chunk, "chunk %d/%d, ", s->chunk, s->chunks);
    snprintf(out, room, "%spass %d/%d, step %d/%d, %.3g s/step, ETA %s", chunk, s->pass, s->passes, s->step,
             s->steps, s->calls ? s->elapsed / s->calls : 0, print_time(s->eta, eta));
}

static int columns(void)
{
    struct winsize size;
    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col ? size.ws_col : 80;
}

static void redraw(Progress *p, double share, const char *state)
{
    enum { BAR = 24 };
    static const char full[] = "########################", empty[] = "------------------------";
    char line[256];
    const int filled = (int)(BAR * share);
    snprintf(line, sizeof line, "[%.*s%.*s] %s", filled, full, BAR - filled, empty, state);
    int n = (int)strlen(line), room = columns() - 1;
    n = n < room ? n : room; /* a line that wraps cannot be redrawn */
    fprintf(stderr, "\r%.*s%*s", n, line, p->shown > n ? p->shown - n : 0, "");
    fflush(stderr);
    p->shown = n;
    p->drawn = clock_seconds();
}

static void note_memory(Progress *p)
{
    const uint64_t anon = anon_now();
    p->peak_anon = anon > p->peak_anon ? anon : p->peak_anon;
}

static void draw(Progress *p, double share, const char *state, bool last)
{
    if (p->quiet)
        return;
    if (p->terminal && (last || clock_seconds() - p->drawn >= 0.1))
        redraw(p, share, state);
    else if (!p->terminal && last)
        fprintf(stderr, "%s\n", state);
}

void progress_line(Progress *p, double share, const char *state, bool last)
{
    note_memory(p);
    draw(p, share, state, last);
}

/* The last state of a stage is always drawn; of sampling, every step has its line. */
int progress_show(Progress *p, const gimbal_progress *s)
{
    char state[128] = "";
    const int done = s->pass ? s->calls : s->step, all = s->pass ? s->total_calls : s->steps;
    note_memory(p);
    p->last = *s;
    p->last.latents = NULL; /* valid during the call only */
    if (strcmp(s->stage, "pass")) {
        print_state(s, state, sizeof state);
        draw(p, all > 0 ? (double)done / all : 0, state, s->step == s->steps || (s->pass && !p->terminal));
    }
    return signals_seen();
}

/* ---- signals ----------------------------------------------------------------------------- */

static _Atomic(gimbal_session *) watched;
static _Atomic(gimbal_trainer *) watched_trainer;
static atomic_int signalled;
static atomic_bool nothing_begun;

static void on_signal(int number)
{
    static const char text[] = "gimbal: cancelled before the work began\n";
    const bool second = atomic_exchange(&signalled, number) != 0;
    if (!second && atomic_load(&nothing_begun) && write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(128 + number);
    if (second || atomic_load(&nothing_begun))
        _exit(128 + number);
    gimbal_session *session = atomic_load(&watched);
    gimbal_trainer *trainer = atomic_load(&watched_trainer);
    if (session)
        gimbal_cancel(session);
    if (trainer)
        gimbal_train_stop(trainer);
}

void signals_install(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* a reader that went away, or a file size limit, is an error of writing, so that temporary files go */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

void signals_watch(gimbal_session *session)
{
    atomic_store(&watched, session);
    if (session && atomic_load(&signalled))
        gimbal_cancel(session);
}

void signals_watch_trainer(gimbal_trainer *trainer)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&watched_trainer, trainer);
    if (trainer && atomic_load(&signalled))
        gimbal_train_stop(trainer);
}

void signals_nothing_begun(bool so)
{
    atomic_store(&nothing_begun, so);
}

bool signals_stop(int number)
{
    gimbal_session *session = atomic_load(&watched);
    atomic_store(&signalled, number);
    if (!session || atomic_load(&nothing_begun))
        return false;
    gimbal_cancel(session);
    return true;
}

int signals_seen(void)
{
    return atomic_load(&signalled);
}

int check_signals(gimbal_error *err)
{
    return signals_seen() ? complain(err, GIMBAL_ECANCEL, NULL, "cancelled") : GIMBAL_OK;
}
