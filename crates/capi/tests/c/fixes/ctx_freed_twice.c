/*
 * Two threads free the same wait ctx at the same time. On stock, both free the memory, and the heap is corrupted. With
 * our library, the ctx is freed once, and later wait ctxs have different handles.
 *
 * - In a cleanup of the ctx, another thread frees it.
 * - Both begin at about the same time: a random number of steps comes before each.
 * - One thread is held up after each instruction of its call in turn. Meanwhile the other frees the ctx, and makes one
 *   of its own in the same place, which has to live on.
 */
#include "fix.h"
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

static _Atomic(ASYNC_WAIT_CTX *) shared;
static atomic_int round_begun, round_freed;

static void wait_until(atomic_int *reached, int number)
{
    for (int tries = 0; atomic_load(reached) != number; tries++)
        if (tries > 10000)
            sched_yield();
}

static void free_shared(unsigned *random)
{
    *random = *random * 1103515245 + 12345;
    for (volatile unsigned steps = (*random >> 16) % 200; steps > 0; steps--)
        ;
    ASYNC_WAIT_CTX_free(atomic_load(&shared));
}

static void *free_too(void *unused)
{
    unsigned random = 7;

    for (int number = 1;; number++) {
        wait_until(&round_begun, number);
        if (atomic_load(&shared) == NULL)
            return unused;
        free_shared(&random);
        atomic_store(&round_freed, number);
    }
}

static void begin_round(int number, ASYNC_WAIT_CTX *ctx)
{
    atomic_store(&shared, ctx);
    atomic_store(&round_begun, number);
}

static void *free_it(void *ctx)
{
    ASYNC_WAIT_CTX_free(ctx);
    return NULL;
}

static void cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *calls)
{
    pthread_t thread;

    (void)key, (void)fd;
    CHECK(++*(int *)calls == 1);
    pthread_create(&thread, NULL, free_it, ctx);
    pthread_join(thread, NULL);
}

static void check_next_two(void)
{
    ASYNC_WAIT_CTX *one = ASYNC_WAIT_CTX_new(), *another = ASYNC_WAIT_CTX_new();

    CHECK(one != another);
    ASYNC_WAIT_CTX_free(one);
    ASYNC_WAIT_CTX_free(another);
}

static void in_a_cleanup(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int calls = 0;

    CHECK(ASYNC_WAIT_CTX_set_wait_fd(ctx, &shared, 3, &calls, cleanup) == 1);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(calls == 1);
    check_next_two();
}

static void at_random(void)
{
    clock_t end = clock() + 2 * CLOCKS_PER_SEC;         /* processor time of both threads */
    time_t latest = time(NULL) + 30;                    /* a busy machine gives little of it */
    unsigned random = 3;
    int number = 1;
    pthread_t thread;

    pthread_create(&thread, NULL, free_too, NULL);
    for (; number % 1024 != 0 || (clock() < end && time(NULL) < latest); number++) {
        begin_round(number, ASYNC_WAIT_CTX_new());
        free_shared(&random);
        wait_until(&round_freed, number);
        check_next_two();
    }
    begin_round(number, NULL);
    pthread_join(thread, NULL);
}

#ifdef __x86_64__
#include "../held_up.h"

static ASYNC_WAIT_CTX *next;

static void *free_meanwhile(void *unused)
{
    for (int number = 1;; number++) {
        wait_until(&held_up, number);
        if (atomic_load(&shared) == NULL)
            return unused;
        ASYNC_WAIT_CTX_free(atomic_load(&shared));
        next = ASYNC_WAIT_CTX_new();
        CHECK(ASYNC_WAIT_CTX_set_wait_fd(next, &shared, 7, NULL, NULL) == 1);
        atomic_store(&answered, number);
    }
}

static void held_up_everywhere(void)
{
    time_t latest = time(NULL) + 10;                    /* a build without optimisation has thousands */
    pthread_t thread;

    signal(SIGTRAP, traced);
    pthread_create(&thread, NULL, free_meanwhile, NULL);
    for (hold_after = 1; time(NULL) < latest; hold_after++) {
        int fd = -1;
        void *data;

        atomic_store(&shared, ASYNC_WAIT_CTX_new());
        HELD_UP(ASYNC_WAIT_CTX_free(atomic_load(&shared)));
        if (instructions < hold_after)
            break;
        wait_until(&answered, hold_after);
        CHECK(ASYNC_WAIT_CTX_get_fd(next, &shared, &fd, &data) == 1 && fd == 7);
        check_next_two();
        ASYNC_WAIT_CTX_free(next);
    }
    atomic_store(&shared, NULL);
    atomic_store(&held_up, hold_after);
    pthread_join(thread, NULL);
}
#endif

int main(void)
{
    in_a_cleanup();
    at_random();
#ifdef __x86_64__
    held_up_everywhere();
#endif
    return 0;
}
