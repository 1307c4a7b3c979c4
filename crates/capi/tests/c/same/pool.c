/*
 * S18: the stack of the job that finished last is used first. S19: a job whose handle is lost still counts towards
 * the limit.
 */
#include <openssl/async.h>
#include <stdio.h>

static ASYNC_WAIT_CTX *ctx;

/* Notes the address of a local variable. It is the same whenever this function runs on the same stack. */
static int note(void *address)
{
    char local;

    *(char **)*(void **)address = &local;
    ASYNC_pause_job();
    return 1;
}

static ASYNC_JOB *start(char **address)
{
    ASYNC_JOB *job = NULL;
    int ret, result = ASYNC_start_job(&job, ctx, &ret, note, &address, sizeof(address));

    printf("%d ", result);
    return job;
}

static void finish(ASYNC_JOB *job)
{
    int ret;

    printf("%d ", ASYNC_start_job(&job, ctx, &ret, note, NULL, 0));
}

int main(void)
{
    char *first[3], *again[3];
    ASYNC_JOB *jobs[3];

    ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 3; i++)
        jobs[i] = start(&first[i]);
    finish(jobs[1]);
    finish(jobs[0]);
    finish(jobs[2]);
    for (int i = 0; i < 3; i++)
        jobs[i] = start(&again[i]);
    int in_order = again[0] == first[2] && again[1] == first[0] && again[2] == first[1];
    printf("last in, first out: %s\n", in_order ? "yes" : "no");
    for (int i = 0; i < 3; i++)
        finish(jobs[i]);
    ASYNC_cleanup_thread();

    printf("init %d, ", ASYNC_init_thread(1, 0));
    start(&first[0]);                                   /* its handle is lost */
    start(&first[1]);
    start(&first[1]);
    printf("\n");
    return 0;
}
