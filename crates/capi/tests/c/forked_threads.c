/*
 * A program whose threads start jobs and end, so that they hold the locks of the library now and then, forks again and
 * again. Each child goes on with a job of the parent and starts jobs of its own. A lock that another thread held at the
 * moment of the fork would stay locked in the child, which has that thread no more.
 */
#include <openssl/async.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHURNING = 3, CHILDREN = 600, JOBS = 70, CTXS = 200 };

static atomic_int stop;

static int job(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 5;
}

/* More jobs and ctxs than a thread keeps slots for. */
static void *use_much(void *unused)
{
    ASYNC_JOB *jobs[JOBS] = { NULL };
    ASYNC_WAIT_CTX *ctxs[CTXS];
    int ret;

    for (int i = 0; i < CTXS; i++)
        ctxs[i] = ASYNC_WAIT_CTX_new();
    for (int step = 0; step < 2; step++)
        for (int i = 0; i < JOBS; i++)
            ASYNC_start_job(&jobs[i], ctxs[i], &ret, job, NULL, 0);
    for (int i = 0; i < CTXS; i++)
        ASYNC_WAIT_CTX_free(ctxs[i]);
    return unused;
}

static void *churn(void *unused)
{
    while (!atomic_load(&stop)) {
        pthread_t thread;
        pthread_create(&thread, NULL, use_much, NULL);
        pthread_join(thread, NULL);
    }
    return unused;
}

int main(void)
{
    pthread_t threads[CHURNING];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *paused = NULL;
    int ret, hung = 0, failed = 0, forked = 0;

    ASYNC_start_job(&paused, ctx, &ret, job, NULL, 0);
    for (int i = 0; i < CHURNING; i++)
        pthread_create(&threads[i], NULL, churn, NULL);
    for (; forked < CHILDREN && hung == 0; forked++) {
        int status;
        pid_t child = fork();

        if (child == 0) {
            alarm(10);
            if (ASYNC_start_job(&paused, ctx, &ret, job, NULL, 0) != ASYNC_FINISH || ret != 5)
                _exit(1);
            use_much(NULL);
            _exit(0);
        }
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
            hung++;
        else if (status != 0)
            failed++;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < CHURNING; i++)
        pthread_join(threads[i], NULL);
    printf("%d children: %d hung, %d failed\n", forked, hung, failed);
    return 0;
}
