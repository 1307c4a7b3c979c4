/*
 * S51: OPENSSL_thread_stop resets the pool and its limit. So does ASYNC_cleanup_thread, and a second call does no harm.
 */
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <stdio.h>

static int job(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 1;
}

static void two_jobs(const char *when)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL, *two = NULL;
    int ret, first, second;

    first = ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
    second = ASYNC_start_job(&two, ctx, &ret, job, NULL, 0);
    printf("%s: %d and %d\n", when, first, second);
    if (one != NULL)
        ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
    if (two != NULL)
        ASYNC_start_job(&two, ctx, &ret, job, NULL, 0);
    ASYNC_WAIT_CTX_free(ctx);
}

int main(void)
{
    printf("init %d\n", ASYNC_init_thread(1, 1));
    two_jobs("limit 1");
    OPENSSL_thread_stop();
    two_jobs("after OPENSSL_thread_stop");
    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    printf("init %d\n", ASYNC_init_thread(1, 0));
    two_jobs("limit 1");
    ASYNC_cleanup_thread();
    two_jobs("after ASYNC_cleanup_thread");
    return 0;
}
