/*
 * S50: ASYNC_cleanup_thread inside a job. Stock frees the context that the job needs to return. Our library refuses the
 * call, and it has no effect.
 */
#include "fix.h"

static int clean_up(void *unused)
{
    ASYNC_JOB *me = ASYNC_get_current_job();

    (void)unused;
    ASYNC_cleanup_thread();
    CHECK(ASYNC_get_current_job() == me && me != NULL);
    CHECK(ASYNC_pause_job() == 1);
    return 4;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *another = NULL;
    int ret = -1;

    CHECK(ASYNC_init_thread(1, 1) == 1);
    STEP(&job, ctx, &ret, clean_up, ASYNC_PAUSE);
    STEP(&another, ctx, &ret, return_five, ASYNC_NO_JOBS);  /* the limit still holds */
    STEP(&job, ctx, &ret, clean_up, ASYNC_FINISH);
    CHECK(ret == 4);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
