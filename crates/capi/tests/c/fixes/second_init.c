/*
 * S15: ASYNC_init_thread twice on one thread. On stock, the first pool and its idle jobs leak (Valgrind shows it), and
 * the jobs that are paused in it are no longer counted: a limit of 1 allows a second job. With our library, the new
 * limit replaces the old one, the jobs that exist stay counted, and nothing leaks.
 */
#include "fix.h"

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *another = NULL;
    int ret = -1;

    CHECK(ASYNC_init_thread(1, 1) == 1);
    STEP(&job, ctx, &ret, pause_once, ASYNC_PAUSE);
    CHECK(ASYNC_init_thread(1, 1) == 1);
    STEP(&another, ctx, &ret, pause_once, ASYNC_NO_JOBS);
    CHECK(another == NULL && ERR_peek_error() == 0);

    CHECK(ASYNC_init_thread(2, 0) == 1);
    STEP(&another, ctx, &ret, pause_once, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, pause_once, ASYNC_FINISH);
    STEP(&another, ctx, &ret, pause_once, ASYNC_FINISH);
    CHECK(ret == 7);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
