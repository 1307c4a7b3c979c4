/*
 * S32, S48, S49: ASYNC_cleanup_thread while a job is paused. Stock frees the memory through which the job returns: the
 * job finishes by luck, leaves an internal error in the queue, and leaks. With our library, the job stays valid,
 * finishes, and leaves nothing behind.
 */
#include "fix.h"

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK(ASYNC_init_thread(2, 2) == 1);
    STEP(&job, ctx, &ret, pause_twice, ASYNC_PAUSE);
    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    STEP(&job, ctx, &ret, pause_twice, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, pause_twice, ASYNC_FINISH);
    CHECK(ret == 8 && ERR_peek_error() == 0);
    STEP(&job, ctx, &ret, return_five, ASYNC_FINISH);
    CHECK(ret == 5);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
