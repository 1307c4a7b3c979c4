/* S21, S46: after OPENSSL_cleanup no function works, and none crashes. */
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <stdio.h>

static int job(void *unused)
{
    (void)unused;
    return ASYNC_pause_job() + 1;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1;

    printf("start %d", ASYNC_start_job(&one, ctx, &ret, job, NULL, 0));
    printf(", again %d", ASYNC_start_job(&one, ctx, &ret, job, NULL, 0));
    printf(", ret %d\n", ret);
    ASYNC_WAIT_CTX_free(ctx);
    OPENSSL_cleanup();
    ret = -1;
    printf("start %d, job %s, ret %d\n", ASYNC_start_job(&one, NULL, &ret, job, NULL, 0), one ? "set" : "NULL", ret);
    printf("init %d\n", ASYNC_init_thread(2, 1));
    printf("pause %d\n", ASYNC_pause_job());
    printf("current %s\n", ASYNC_get_current_job() ? "set" : "NULL");
    return 0;
}
