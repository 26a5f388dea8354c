/* fault.c: a model file that shrinks while it is mapped.
 *
 * Reading a map past the file's new end raises SIGBUS in whatever thread reads: a kernel's worker, deep in a
 * run that has temporary files. So the handler stops the run as Ctrl-C would: it remembers the file, puts
 * zero pages where the lost ones were, cancels the watched session and returns. What was computed from the
 * zeros is thrown away with the run: main prints the file's name and exits 1. Where no session runs, nothing
 * temporary exists, and the handler says it and ends the program itself.
 *
 * The file's name is the kernel's: /proc/self/maps is searched for the address. Only calls that a handler may
 * make: open, read, close, write, mmap, _exit; no memory, no locks, no stdio.
 * Refuses to know models. Faults that no file explains are left to the system. */
#include "app/app.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NAME_ROOM = 512, MANY = 1 << 20 };

/* With progress.c's the program's mutable globals: a handler is given nothing else. taken: faults so far. */
static atomic_int taken, named;
static char file_name[NAME_ROOM];

/* ---- /proc/self/maps --------------------------------------------------------------------- */

typedef struct {
    uintptr_t from, to;
    char name[NAME_ROOM]; /* empty: no file */
    int n;                /* letters of it */
    int field;            /* words before the name: address, rights, offset, device, inode */
    bool in_word, high;
} Line;

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One letter of "7f00-7f10 r--p 00000000 08:01 42    /path with blanks". */
static void take_letter(Line *line, char c)
{
    uintptr_t *bound = line->high ? &line->to : &line->from;
    const int digit = hex_digit(c);
    if (line->field == 0 && c == '-')
        line->high = true;
    else if (line->field == 0 && digit >= 0)
        *bound = 16 * *bound + (uintptr_t)digit;
    if (line->field >= 5 && (c != ' ' || line->n) && line->n < NAME_ROOM - 1)
        line->name[line->n++] = c;
    if (c == ' ' && line->in_word)
        line->field++;
    line->in_word = c != ' ';
}

/* The map that holds the address; false: none, or the list cannot be read. */
static bool find_map(uintptr_t address, Line *line)
{
    static const Line none;
    char block[1024];
    const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    bool found = false;
    *line = none;
    for (ssize_t n; fd >= 0 && !found && (n = read(fd, block, sizeof block)) > 0;)
        for (ssize_t i = 0; i < n && !found; i++) {
            if (block[i] != '\n') {
                take_letter(line, block[i]);
                continue;
            }
            found = address >= line->from && address < line->to;
            line->name[line->n] = 0;
            if (!found)
                *line = none;
        }
    if (fd >= 0)
        close(fd);
    return found;
}

/* ---- the handler ------------------------------------------------------------------------- */

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody listens: the exit status tells */
}

static void end_program(const char *name)
{
    say("gimbal: error: ");
    say(name);
    say(FAULT_TEXT "\n  hint: " FAULT_HINT "\n");
    _exit(1);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    Line line;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)info->si_addr & ~(page - 1);
    (void)context;
    const bool mapped = find_map(at, &line);
    if (mapped && line.name[0] != '/' && atomic_fetch_add(&taken, 1) > 0 && atomic_load(&taken) < MANY)
        return; /* another thread's handler was here first: the zeros are in place */
    if (!mapped || line.name[0] != '/') {
        signal(number, SIG_DFL); /* not ours: the instruction faults again and the system has its way */
        return;
    }
    if (!atomic_fetch_add(&taken, 1)) {
        memcpy(file_name, line.name, (size_t)line.n + 1);
        atomic_store(&named, 1);
    }
    if (!signals_stop(number) || mmap((void *)at, line.to - at, PROT_READ,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        end_program(line.name);
}

void faults_install(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

const char *fault_file(void)
{
    return atomic_load(&named) ? file_name : NULL;
}

int check_fault(gimbal_error *err)
{
    if (!fault_file())
        return GIMBAL_OK;
    err->code = 0; /* what the run said is a consequence */
    return complain(err, GIMBAL_EIO, FAULT_HINT, "%.400s" FAULT_TEXT, fault_file());
}
