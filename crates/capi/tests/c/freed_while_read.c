/*
 * A thread reads a wait ctx, or asks for that of a job, and is held up after each instruction of its call in turn.
 * Meanwhile another thread frees the ctx and makes the next in its place, or ends the job and starts the next. The call
 * gives what the first had, or says that there is none. It never gives what the next has.
 */
#include "held_up.h"
#include <openssl/async.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { FD, ALL_FDS, CHANGED_FDS, CALLBACK, STATUS, CTX_OF_JOB, KINDS };
enum { FIRST = 3, NEXT = 9 };

static ASYNC_WAIT_CTX *ctx, *of_first, *of_next;
static ASYNC_JOB *job;
static char keys[3];
static int kind, wait_fds;
static atomic_int at_end;

static void check(int holds, const char *what)
{
    if (holds)
        return;
    printf("%s: call %d, %d wait fds, after %d instructions\n", what, kind, wait_fds, hold_after);
    fflush(stdout);
    _Exit(1);
}

static int callback(void *arg)
{
    (void)arg;
    return 1;
}

static ASYNC_WAIT_CTX *filled(int value)
{
    ASYNC_WAIT_CTX *new = ASYNC_WAIT_CTX_new();

    for (int i = 0; i < wait_fds; i++)
        ASYNC_WAIT_CTX_set_wait_fd(new, &keys[i], value, NULL, NULL);
    ASYNC_WAIT_CTX_set_callback(new, callback, (char *)NULL + value);
    ASYNC_WAIT_CTX_set_status(new, value);
    return new;
}

static int pauses(void *arg)
{
    (void)arg;
    return ASYNC_pause_job();
}

static void step(ASYNC_WAIT_CTX *with, int expected)
{
    int ret;

    check(ASYNC_start_job(&job, with, &ret, pauses, NULL, 0) == expected, "the job");
}

/* The thread that has the job. */
static void *replaces(void *unused)
{
    int last = 0;

    of_first = ASYNC_WAIT_CTX_new();
    of_next = ASYNC_WAIT_CTX_new();
    step(of_first, ASYNC_PAUSE);
    atomic_store(&answered, -1);
    while (!atomic_load(&at_end)) {
        if (atomic_load(&held_up) == last) {
            sched_yield();
            continue;
        }
        last = atomic_load(&held_up);
        if (last > 0 && kind == CTX_OF_JOB) {
            step(NULL, ASYNC_FINISH);
            step(of_next, ASYNC_PAUSE);
        } else if (last > 0) {
            ASYNC_WAIT_CTX_free(ctx);
            ctx = filled(NEXT);
        } else if (kind == CTX_OF_JOB) { /* for the next trial */
            step(NULL, ASYNC_FINISH);
            step(of_first, ASYNC_PAUSE);
        }
        atomic_store(&answered, last);
    }
    return unused;
}

static void wait_for(int trial)
{
    while (atomic_load(&answered) != trial)
        sched_yield();
}

static void read_once(ASYNC_WAIT_CTX *read, ASYNC_JOB *of)
{
    int fds[3] = {FIRST, FIRST, FIRST}, live = 0, status = 0;
    size_t count = wait_fds, none = 0;
    ASYNC_callback_fn function;
    ASYNC_WAIT_CTX *found = NULL;
    void *data = (char *)NULL + FIRST;

    switch (kind) {
    case FD:
        HELD_UP(live = ASYNC_WAIT_CTX_get_fd(read, &keys[0], fds, &data));
        data = (char *)NULL + FIRST;
        break;
    case ALL_FDS:
        HELD_UP(live = ASYNC_WAIT_CTX_get_all_fds(read, fds, &count));
        break;
    case CHANGED_FDS:
        HELD_UP(live = ASYNC_WAIT_CTX_get_changed_fds(read, fds, &count, NULL, &none));
        break;
    case CALLBACK:
        HELD_UP(live = ASYNC_WAIT_CTX_get_callback(read, &function, &data));
        break;
    case STATUS:
        HELD_UP(status = ASYNC_WAIT_CTX_get_status(read));
        check(status == FIRST || status == ASYNC_STATUS_UNSUPPORTED, "status");
        return;
    case CTX_OF_JOB:
        HELD_UP(found = ASYNC_get_wait_ctx(of));
        check(found == NULL || found == of_first, "ctx of the job");
        return;
    }
    if (!live)
        return;
    check(fds[0] == FIRST && fds[1] == FIRST && fds[2] == FIRST, "fds");
    check(count == (size_t)wait_fds && none == 0, "number of fds");
    check(data == (char *)NULL + FIRST, "argument of the callback");
}

int main(void)
{
    pthread_t thread;
    int places = 0;

    signal(SIGTRAP, traced);
    pthread_create(&thread, NULL, replaces, NULL);
    while (atomic_load(&answered) != -1)
        sched_yield();
    for (wait_fds = 1; wait_fds <= 3; wait_fds += 2) {
        for (kind = 0; kind < KINDS; kind++) {
            time_t latest = time(NULL) + 6; /* a build without optimisation has thousands */

            for (hold_after = 1; time(NULL) < latest; hold_after++) {
                ctx = filled(FIRST);
                read_once(ctx, job);
                if (instructions >= hold_after)
                    wait_for(hold_after);
                ASYNC_WAIT_CTX_free(ctx);
                if (instructions < hold_after)
                    break;
                places++;
                atomic_store(&held_up, -hold_after);
                wait_for(-hold_after);
            }
        }
    }
    atomic_store(&at_end, 1);
    pthread_join(thread, NULL);
    fprintf(stderr, "%d places\n", places);
    printf("held up %s\n", places > 100 ? "everywhere" : "too seldom");
    return 0;
}
