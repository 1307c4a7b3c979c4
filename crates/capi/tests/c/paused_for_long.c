/* Pauses two jobs in different places, tells so, and sleeps until its input ends: for a dump and for a debugger. */
#include <fcntl.h>
#include <openssl/async.h>
#include <stdio.h>
#include <unistd.h>

static int pipe_fds[2];

__attribute__((noinline)) static int waits_for_device(int depth)
{
    int value = depth == 0 ? ASYNC_pause_job() : waits_for_device(depth - 1);

    return value + depth;
}

static int signs(void *arg)
{
    (void)arg;
    ASYNC_WAIT_CTX_set_wait_fd(ASYNC_get_wait_ctx(ASYNC_get_current_job()), "key", pipe_fds[0], NULL, NULL);
    return waits_for_device(3);
}

__attribute__((noinline)) static int decrypts(void *arg)
{
    (void)arg;
    return ASYNC_pause_job() + 1;
}

int main(void)
{
    ASYNC_JOB *jobs[2] = {NULL, NULL};
    ASYNC_WAIT_CTX *ctxs[2] = {ASYNC_WAIT_CTX_new(), ASYNC_WAIT_CTX_new()};
    int (*functions[2])(void *) = {signs, decrypts};
    int ret = 0, sum = 0;
    char byte;

    if (pipe(pipe_fds) != 0)
        return 1;
    for (int i = 0; i < 2; i++)
        if (ASYNC_start_job(&jobs[i], ctxs[i], &ret, functions[i], NULL, 0) != ASYNC_PAUSE)
            return 2;
    printf("paused, wait fd %d\n", pipe_fds[0]);
    fflush(stdout);
    while (read(0, &byte, 1) == 1)
        ;
    for (int i = 0; i < 2; i++) {
        if (ASYNC_start_job(&jobs[i], ctxs[i], &ret, functions[i], NULL, 0) != ASYNC_FINISH)
            return 3;
        sum += ret;
        ASYNC_WAIT_CTX_free(ctxs[i]);
    }
    printf("ended, %d\n", sum);
    return sum == 9 ? 0 : 4;
}
