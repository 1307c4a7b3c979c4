/*
 * S33: a running job is resumed. Here the job resumes itself, with the handle that an earlier pause gave. On stock, the
 * job jumps to its own last pause on its own stack. Our library returns ASYNC_ERR and raises an error, and the job
 * continues.
 */
#include "fix.h"

static int resume_myself(void *unused)
{
    ASYNC_JOB *me = ASYNC_get_current_job();
    int ret = -1;

    (void)unused;
    CHECK(ASYNC_pause_job() == 1);
    STEP(&me, NULL, &ret, resume_myself, ASYNC_ERR);
    CHECK(ret == -1);
    CHECK_ONE_ASYNC_ERROR();
    CHECK(me == ASYNC_get_current_job());               /* the handle is still good: the job is alive */
    return 6;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    STEP(&job, ctx, &ret, resume_myself, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, resume_myself, ASYNC_FINISH);
    CHECK(ret == 6);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
