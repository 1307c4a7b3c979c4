/*
 * S77 again. The program sets the context of the thread with the function of libcrypto itself, which no library can
 * interpose.
 */
#define _GNU_SOURCE
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <dlfcn.h>
#include <stdio.h>

static OSSL_LIB_CTX *mine, *other;
static OSSL_LIB_CTX *(*set_unseen)(OSSL_LIB_CTX *);

static int job(void *unused)
{
    (void)unused;
    printf("job sees %s\n", set_unseen(NULL) == mine ? "mine" : "another");
    set_unseen(other);
    ASYNC_pause_job();
    printf("job sees %s\n", set_unseen(NULL) == other ? "other" : "another");
    return 1;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *paused = NULL;
    int ret;

    *(void **)&set_unseen = dlsym(dlopen("libcrypto.so.3", RTLD_LAZY | RTLD_NOLOAD), "OSSL_LIB_CTX_set0_default");
    mine = OSSL_LIB_CTX_new();
    other = OSSL_LIB_CTX_new();
    set_unseen(mine);
    while (ASYNC_start_job(&paused, ctx, &ret, job, NULL, 0) == ASYNC_PAUSE)
        printf("main sees %s\n", set_unseen(NULL) == mine ? "mine" : "another");
    printf("main sees %s\n", set_unseen(NULL) == mine ? "mine" : "another");
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
