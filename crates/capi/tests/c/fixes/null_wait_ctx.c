/*
 * S28, S47: a job without a wait ctx. On stock, the job starts and pauses, and the resume is a SIGSEGV. So is
 * ASYNC_get_wait_ctx(NULL). With our library, it is a job like any other, and its wait ctx is NULL. Each function of a
 * wait ctx returns 0 for NULL.
 */
#include "fix.h"

int main(void)
{
    ASYNC_JOB *job = NULL;
    ASYNC_callback_fn callback;
    size_t count = 3, deleted = 3;
    void *custom;
    int ret = -1, fd;

    STEP(&job, NULL, &ret, pause_twice, ASYNC_PAUSE);
    CHECK(job != NULL && ASYNC_get_wait_ctx(job) == NULL);
    STEP(&job, NULL, &ret, pause_twice, ASYNC_PAUSE);
    STEP(&job, NULL, &ret, pause_twice, ASYNC_FINISH);
    CHECK(ret == 8);

    CHECK(ASYNC_get_wait_ctx(NULL) == NULL);
    CHECK(ASYNC_WAIT_CTX_set_wait_fd(NULL, &ret, 0, NULL, NULL) == 0);
    CHECK(ASYNC_WAIT_CTX_get_fd(NULL, &ret, &fd, &custom) == 0);
    CHECK(ASYNC_WAIT_CTX_get_all_fds(NULL, NULL, &count) == 0);
    CHECK(ASYNC_WAIT_CTX_get_changed_fds(NULL, NULL, &count, NULL, &deleted) == 0);
    CHECK(ASYNC_WAIT_CTX_clear_fd(NULL, &ret) == 0);
    CHECK(ASYNC_WAIT_CTX_set_callback(NULL, NULL, NULL) == 0);
    CHECK(ASYNC_WAIT_CTX_get_callback(NULL, &callback, &custom) == 0);
    CHECK(ASYNC_WAIT_CTX_set_status(NULL, 2) == 0);
    CHECK(ASYNC_WAIT_CTX_get_status(NULL) == 0);
    return 0;
}
