/*
 * What a thread leaves behind. 2,000 threads run one after another, each with a pool, jobs that finish, and wait ctxs,
 * and with jobs once more in a destructor, when the library has freed what the thread had. The program prints by how
 * many bytes a thread the resident memory grew after the first 200.
 */
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* So many that the loss of those that a thread keeps shows. */
enum { CTXS = 16 };

static int job(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 1;
}

static pthread_key_t late;

static void use(void)
{
    ASYNC_WAIT_CTX *ctxs[CTXS], *ctx;
    ASYNC_JOB *jobs[4] = { NULL };
    int ret;

    if (ASYNC_init_thread(8, 4) != 1)
        abort();
    for (int i = 0; i < CTXS; i++)
        if ((ctxs[i] = ASYNC_WAIT_CTX_new()) == NULL)
            abort();
    ctx = ctxs[0];
    for (int step = 0; step < 2; step++)
        for (int i = 0; i < 4; i++)
            if (ASYNC_start_job(&jobs[i], ctx, &ret, job, NULL, 0) != (step == 0 ? ASYNC_PAUSE : ASYNC_FINISH))
                abort();
    for (int i = 0; i < CTXS; i++)
        ASYNC_WAIT_CTX_free(ctxs[i]);
}

static void use_late(void *unused)
{
    (void)unused;
    use();
}

static void *thread(void *unused)
{
    use();
    pthread_setspecific(late, &late);
    return unused;
}

static long resident(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    if (statm == NULL || fscanf(statm, "%*d %ld", &pages) != 1)
        abort();
    fclose(statm);
    return pages * sysconf(_SC_PAGESIZE);
}

static void churn(int threads)
{
    for (int i = 0; i < threads; i++) {
        pthread_t one;
        pthread_create(&one, NULL, thread, NULL);
        pthread_join(one, NULL);
    }
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 2000;

    ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX_new()); /* the library makes its key, and glibc takes keys in this order */
    pthread_key_create(&late, use_late);
    churn(threads / 10);
    long before = resident();
    churn(threads);
    printf("%ld\n", (resident() - before) / threads);
    return 0;
}
