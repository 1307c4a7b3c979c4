/* S35: after fork, a paused job is resumed in the child and, independently, in the parent. */
#include <openssl/async.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static int job(void *who)
{
    int steps = 0;

    ASYNC_pause_job();
    steps++;
    printf("%s: step %d\n", **(const char ***)who, steps);
    ASYNC_pause_job();
    steps++;
    printf("%s: step %d\n", **(const char ***)who, steps);
    return steps;
}

int main(void)
{
    static const char *name = "parent";
    const char **who = &name;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1, status;

    ASYNC_start_job(&one, ctx, &ret, job, &who, sizeof(who));
    pid_t child = fork();
    if (child == 0)
        name = "child";
    else
        waitpid(child, &status, 0);
    while (ASYNC_start_job(&one, ctx, &ret, job, NULL, 0) == ASYNC_PAUSE)
        ;
    printf("%s: ret %d\n", name, ret);
    fflush(stdout);
    if (child == 0)
        _exit(0);
    return 0;
}
