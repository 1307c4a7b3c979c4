/*
 * S51, S88: a thread exits while its job is paused, and an engine completes the operation later: it writes to a record
 * on the stack of that job. Stock does the same as our library, except that a resume on another thread runs the job on
 * the context of the dead thread. Our library never uses or frees that stack again, so that the engine may write to the
 * record at any time. The handle is stale: the call returns ASYNC_ERR.
 */
#include "fix.h"

static volatile int *record;                            /* the engine writes here */
static ASYNC_JOB *orphan;

/* Gives the engine a record in the frame of a job, which stays paused when the thread exits. */
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
        *record = i + 1;                                /* the engine completes the operation again */
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
