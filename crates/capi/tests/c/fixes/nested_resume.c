/*
 * S37d: a job resumes another paused job. On stock, the other job finishes, and the first crashes when it ends, because
 * the context through which it returns was overwritten. With our library, this is an ordinary resume.
 */
#include "fix.h"

static ASYNC_JOB *other;
static ASYNC_WAIT_CTX *ctx;

static int resume_the_other(void *unused)
{
    ASYNC_JOB *me = ASYNC_get_current_job();
    int ret = -1;

    (void)unused;
    STEP(&other, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(ret == 7 && other == NULL && ASYNC_get_current_job() == me);
    return 9;
}

int main(void)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    ctx = ASYNC_WAIT_CTX_new();
    STEP(&other, ctx, &ret, pause_once, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, resume_the_other, ASYNC_FINISH);
    CHECK(ret == 9);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
