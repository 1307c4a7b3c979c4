/*
 * S61 (QAT_Engine#143, #292, #349): the program frees a wait ctx while a job that was started with it is paused. On
 * stock, the resume writes to freed memory, and a late completion by an engine reads it. With our library, the job has
 * no wait ctx from then on, and finishes. The late completion finds no callback. A second free does nothing.
 */
#include "fix.h"

static int called;

static int callback(void *unused)
{
    (void)unused;
    return ++called;
}

/* The polling thread of an engine, which asked for the ctx while the job still had it. */
static void *complete_late(void *ctx)
{
    ASYNC_callback_fn late;
    void *argument;
    int fd;

    CHECK(ASYNC_WAIT_CTX_get_callback(ctx, &late, &argument) == 0);
    CHECK(ASYNC_WAIT_CTX_get_fd(ctx, &called, &fd, &argument) == 0);
    CHECK(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK) == 0);
    return NULL;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *others[8];
    ASYNC_JOB *job = NULL;
    pthread_t thread;
    int ret = -1;

    CHECK(ASYNC_WAIT_CTX_set_callback(ctx, callback, NULL) == 1);
    CHECK(ASYNC_WAIT_CTX_set_wait_fd(ctx, &called, 0, NULL, NULL) == 1);
    STEP(&job, ctx, &ret, pause_twice, ASYNC_PAUSE);
    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < 8; i++)                         /* free memory is used again */
        others[i] = ASYNC_WAIT_CTX_new();
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    pthread_create(&thread, NULL, complete_late, ctx);
    pthread_join(thread, NULL);
    CHECK(called == 0);
    ASYNC_WAIT_CTX_free(ctx);
    STEP(&job, ctx, &ret, pause_twice, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, pause_twice, ASYNC_FINISH);
    CHECK(ret == 8);
    for (int i = 0; i < 8; i++)
        ASYNC_WAIT_CTX_free(others[i]);
    return 0;
}
