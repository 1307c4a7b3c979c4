/*
 * A plug-in that uses libcrypto and is loaded as Perl loads plug-ins: with RTLD_LOCAL, so that no symbol of libcrypto
 * can be found by its name from outside.
 */
#include <openssl/async.h>
#include <openssl/err.h>
#include <stdio.h>

static int job(void *unused)
{
    (void)unused;
    return ASYNC_init_thread(1, 2);                     /* fails, and puts an error onto libcrypto's queue */
}

int run(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1;

    printf("start %d", ASYNC_start_job(&one, ctx, &ret, job, NULL, 0));
    printf(" ret %d error %lx\n", ret, ERR_get_error());
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
