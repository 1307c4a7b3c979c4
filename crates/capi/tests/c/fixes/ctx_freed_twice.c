/*
 * Two threads free the same wait ctx at the same time. On stock, both free the memory, and the heap is corrupted. With
 * our library, the ctx is freed once, and later wait ctxs have different handles.
 *
 * The two calls of a round begin at about the same time: a random number of steps comes before each.
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

int main(void)
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
        ASYNC_WAIT_CTX *one = ASYNC_WAIT_CTX_new(), *another = ASYNC_WAIT_CTX_new();
        CHECK(one != another);
        ASYNC_WAIT_CTX_free(one);
        ASYNC_WAIT_CTX_free(another);
    }
    begin_round(number, NULL);
    pthread_join(thread, NULL);
    return 0;
}
