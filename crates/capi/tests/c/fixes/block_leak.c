/*
 * S44: a job returns without calling ASYNC_unblock_pause (openssl#4020). On stock, the thread can never pause a job
 * again. With our library, the count belongs to the job and ends with it.
 */
#include "fix.h"

static int forget_to_unblock(void *unused)
{
    (void)unused;
    ASYNC_block_pause();
    ASYNC_block_pause();
    CHECK(ASYNC_pause_job() == 1);                      /* blocked: returns at once */
    return 3;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    STEP(&job, ctx, &ret, forget_to_unblock, ASYNC_FINISH);
    CHECK(ret == 3);
    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(ret == 7);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
