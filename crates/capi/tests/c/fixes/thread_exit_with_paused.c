/*
 * S51, S88: a thread ends while its job is paused, and an engine completes the operation later, into a record on that job's stack.
 * Stock: as ours, but a resume from a living thread runs the job on the dead thread's context. Ours: the stack is never
 * reused and never freed, the handle is dead (ASYNC_ERR), and the record may be written to at any time.
 */
#include "fix.h"

static volatile int *record;                            /* where the engine was told to write */
static ASYNC_JOB *orphan;

/* The point: this frame outlives the thread, paused. */
__attribute__((noinline)) static void submit(volatile int *mine)
{
    record = mine;
}

static int wait_for_the_engine(void *unused)
{
    volatile int mine = 0;

    (void)unused;
    submit(&mine);
    while (mine == 0)
        ASYNC_pause_job();
    return mine;
}

static void *start_and_end(void *ctx)
{
    int ret = -1;

    CHECK(ASYNC_init_thread(4, 4) == 1);
    STEP(&orphan, ctx, &ret, wait_for_the_engine, ASYNC_PAUSE);
    return NULL;
}

static void *use_many_stacks(void *ctx)
{
    ASYNC_JOB *jobs[16] = { NULL };
    int ret = -1;

    for (int i = 0; i < 16; i++)
        STEP(&jobs[i], ctx, &ret, pause_once, ASYNC_PAUSE);
    for (int i = 0; i < 16; i++) {
        *record = i + 1;                                /* a completion may come now, too */
        STEP(&jobs[i], ctx, &ret, pause_once, ASYNC_FINISH);
        CHECK(ret == 7 && *record == i + 1);
    }
    return NULL;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    pthread_t thread;
    int ret = -1;

    pthread_create(&thread, NULL, start_and_end, ctx);
    pthread_join(thread, NULL);
    *record = 1;
    for (int i = 0; i < 4; i++) {
        pthread_create(&thread, NULL, use_many_stacks, ctx);
        pthread_join(thread, NULL);
    }
    STEP(&orphan, ctx, &ret, wait_for_the_engine, ASYNC_ERR);
    CHECK_ONE_ASYNC_ERROR();
    CHECK(ret == -1);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
