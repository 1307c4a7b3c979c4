/*
 * S37: a job starts a job. Stock returns ASYNC_ERR and puts the running job into the idle pool; a SIGSEGV follows when
 * the outer function returns. With our library, the inner job is a job like any other: its pause returns to the outer
 * job, which resumes it.
 *
 * S26: each job reads its own handle. S43: a job that blocks its pauses does not block the jobs that it starts.
 */
#include "fix.h"

static ASYNC_JOB *outer_seen, *inner_seen;

static int inner(void *unused)
{
    (void)unused;
    inner_seen = ASYNC_get_current_job();
    CHECK(inner_seen != NULL && inner_seen != outer_seen);
    CHECK(ASYNC_pause_job() == 1);
    CHECK(ASYNC_get_current_job() == inner_seen);
    return 21;
}

static int outer(void *unused)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    (void)unused;
    outer_seen = ASYNC_get_current_job();
    STEP(&job, ctx, &ret, inner, ASYNC_PAUSE);          /* back here, not to main */
    CHECK(job == inner_seen && ASYNC_get_wait_ctx(job) == ctx);
    CHECK(ASYNC_get_current_job() == outer_seen);
    CHECK(ASYNC_pause_job() == 1);                      /* to main, the inner job still paused */
    CHECK(ASYNC_get_current_job() == outer_seen);
    STEP(&job, ctx, &ret, inner, ASYNC_FINISH);
    CHECK(job == NULL && ret == 21);

    ASYNC_block_pause();                                /* S37c: the outer job has been resumed before */
    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    CHECK(ASYNC_pause_job() == 1);                      /* blocked: returns at once */
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(job == NULL && ret == 7 && ASYNC_get_current_job() == outer_seen);
    ASYNC_unblock_pause();
    ASYNC_WAIT_CTX_free(ctx);
    return 42;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (int round = 0; round < 3; round++) {           /* fresh stacks (S37a), then used ones (S37b) */
        ASYNC_JOB *job = NULL;
        int ret = -1;
        STEP(&job, ctx, &ret, outer, ASYNC_PAUSE);
        CHECK(job == outer_seen);
        STEP(&job, ctx, &ret, outer, ASYNC_FINISH);
        CHECK(ret == 42 && ASYNC_get_current_job() == NULL && ERR_peek_error() == 0);
    }
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
