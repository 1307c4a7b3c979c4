/*
 * S33: a copy of the handle of a finished job is resumed. Stock returns FINISH with the old result and puts the job
 * into the pool a second time: two later jobs share one stack. Our library returns ASYNC_ERR, raises an error, sets
 * *job to NULL and runs nothing. Later jobs have stacks of their own.
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
