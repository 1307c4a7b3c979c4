/*
 * S34: a paused job is resumed on another thread. On stock, it runs there, and jumps to the stack of the first thread
 * when it ends: SIGSEGV. Our library returns ASYNC_ERR, raises an error and keeps the handle. The job finishes on its
 * own thread.
 */
#include "fix.h"

static ASYNC_WAIT_CTX *ctx;
static ASYNC_JOB *job;

static void *resume_elsewhere(void *unused)
{
    ASYNC_JOB *copy = job;
    int ret = -1;

    (void)unused;
    STEP(&copy, ctx, &ret, pause_once, ASYNC_ERR);
    CHECK(copy == job && ret == -1);
    CHECK_ONE_ASYNC_ERROR();
    CHECK(ASYNC_get_wait_ctx(job) == ctx);              /* any thread may ask */
    return NULL;
}

int main(void)
{
    pthread_t thread;
    int ret = -1;

    ctx = ASYNC_WAIT_CTX_new();
    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    pthread_create(&thread, NULL, resume_elsewhere, NULL);
    pthread_join(thread, NULL);
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(ret == 7);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
