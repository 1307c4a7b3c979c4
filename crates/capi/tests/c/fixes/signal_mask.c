/*
 * S74: the first time that a job runs on a stack. Stock installs the signal mask of the time at which the stack was
 * made. In builds without CET that mask then stays with the thread. Our library does not touch the mask.
 */
#include "fix.h"
#include <signal.h>

static int is_blocked(void *unused)
{
    sigset_t set;

    (void)unused;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, SIGUSR1);
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    sigset_t set;
    int ret = -1;

    CHECK(ASYNC_init_thread(4, 4) == 1);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    STEP(&job, ctx, &ret, is_blocked, ASYNC_FINISH);
    CHECK(ret == 1);
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(sigismember(&set, SIGUSR1) == 1);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
