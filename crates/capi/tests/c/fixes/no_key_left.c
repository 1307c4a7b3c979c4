/*
 * The program has taken every pthread key, so no destructor notices that a thread exits. The job of the dead thread is
 * not resumed by another thread, not even by one whose thread-locals lie where those of the dead thread lay. Stock
 * OpenSSL resumes it.
 */
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

static ASYNC_WAIT_CTX *ctx;
static ASYNC_JOB *job;
static int has_run, failed;

static int function(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    has_run = 1;
    return 5;
}

static void *starts(void *unused)
{
    int ret;

    (void)unused;
    failed |= ASYNC_start_job(&job, ctx, &ret, function, NULL, 0) != ASYNC_PAUSE;
    return NULL;
}

static void *resumes(void *unused)
{
    ASYNC_JOB *other = NULL;
    int ret;

    (void)unused;
    failed |= ASYNC_start_job(&job, ctx, &ret, function, NULL, 0) != ASYNC_ERR || has_run;
    failed |= ASYNC_start_job(&other, ctx, &ret, function, NULL, 0) != ASYNC_PAUSE;
    failed |= ASYNC_start_job(&other, ctx, &ret, function, NULL, 0) != ASYNC_FINISH || ret != 5;
    return NULL;
}

int main(void)
{
    void *(*threads[])(void *) = {starts, resumes};
    pthread_key_t key;

    OPENSSL_init_crypto(OPENSSL_INIT_ASYNC, NULL); /* libcrypto has its keys */
    while (pthread_key_create(&key, NULL) == 0)
        continue;
    ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, threads[i], NULL) != 0 || pthread_join(thread, NULL) != 0)
            return EXIT_FAILURE;
    }
    ASYNC_WAIT_CTX_free(ctx);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
