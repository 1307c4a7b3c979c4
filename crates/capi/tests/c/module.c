/* A plug-in on libcrypto, as Perl loads them: RTLD_LOCAL, so no symbol of libcrypto can be found by name from outside. */
#include <openssl/async.h>
#include <openssl/err.h>
#include <stdio.h>

static int job(void *unused)
{
    (void)unused;
    return ASYNC_init_thread(1, 2);                     /* fails, and says so on libcrypto's queue */
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
