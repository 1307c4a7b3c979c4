/*
 * S33, continued: a stale handle is resumed when its stack already belongs to the next job. Stock resumes the next job.
 * With our library, the handle names a job that has ended: the call returns ASYNC_ERR, and the next job has not run.
 * S31: the job that has ended has no wait ctx.
 */
#include "fix.h"

static int steps;

static int count_steps(void *unused)
{
    (void)unused;
    steps++;
    ASYNC_pause_job();
    steps++;
    return 1;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *stale, *next = NULL;
    int ret = -1;

    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    stale = job;
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    STEP(&next, ctx, &ret, count_steps, ASYNC_PAUSE);
    CHECK(steps == 1);
    STEP(&stale, ctx, &ret, pause_once, ASYNC_ERR);
    CHECK(steps == 1);
    CHECK(ASYNC_get_wait_ctx(stale) == NULL);
    CHECK_ONE_ASYNC_ERROR();
    STEP(&next, ctx, &ret, count_steps, ASYNC_FINISH);
    CHECK(steps == 2);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
