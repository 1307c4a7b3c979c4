/*
 * S33: a copy of a finished job's handle. Stock: FINISH with the old result, and the job is put into the pool a second time: two
 * later jobs share one stack. Ours: ASYNC_ERR, an error raised, *job NULL, nothing run; later jobs are their own.
 */
#include "fix.h"

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *stale, *a = NULL, *b = NULL;
    int ret = -1;

    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    stale = job;
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    ret = -1;
    STEP(&stale, ctx, &ret, pause_once, ASYNC_ERR);
    CHECK(ret == -1 && stale == NULL);
    CHECK_ONE_ASYNC_ERROR();

    STEP(&a, ctx, &ret, pause_once, ASYNC_PAUSE);
    STEP(&b, ctx, &ret, pause_twice, ASYNC_PAUSE);
    CHECK(a != b);
    STEP(&a, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(ret == 7);
    STEP(&b, ctx, &ret, pause_twice, ASYNC_PAUSE);
    STEP(&b, ctx, &ret, pause_twice, ASYNC_FINISH);
    CHECK(ret == 8);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
