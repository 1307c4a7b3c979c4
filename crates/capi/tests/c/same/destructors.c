/*
 * S51: a thread exits. The destructors of other pthread keys, made before and after ours, start jobs when what our
 * library and Rust keep for the thread may be gone already. glibc calls the destructors in the order of the keys, and
 * again.
 */
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>

static pthread_key_t early, late;
static int finished;

static int job(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 1;
}

static void run_a_job(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = 0;

    while (ASYNC_start_job(&one, ctx, &ret, job, NULL, 0) == ASYNC_PAUSE)
        ;
    finished += ret;
    ASYNC_WAIT_CTX_free(ctx);
}

static void at_exit(void *unused)
{
    (void)unused;
    run_a_job();
}

static void *thread(void *unused)
{
    pthread_setspecific(early, &early);
    run_a_job();
    pthread_key_create(&late, at_exit);
    pthread_setspecific(late, &late);
    return unused;
}

int main(void)
{
    pthread_t one;

    pthread_key_create(&early, at_exit);
    for (int i = 0; i < 10; i++) {
        pthread_create(&one, NULL, thread, NULL);
        pthread_join(one, NULL);
    }
    printf("%d jobs\n", finished);
    return 0;
}
