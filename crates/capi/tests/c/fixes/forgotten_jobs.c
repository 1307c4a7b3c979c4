/*
 * S88: a server frees the wait ctxs of connections that went away while their jobs were paused, and never resumes
 * those jobs. On stock each of them keeps its place in the limit of the thread: the fifth start finds no job. With our
 * library the places and the memory below the stack pointers come back. A job that is resumed after all goes on, and
 * has its place again.
 */
#include "fix.h"

#define LIMIT 4
#define FORGOTTEN 200

/* Uses five pages of its stack, and pauses near the top of it. */
static int deep(void)
{
    volatile char bytes[5 * 4096];

    memset((char *)bytes, 1, sizeof(bytes));
    return bytes[100];
}

static int uses_stack(void *unused)
{
    return deep() + pause_once(unused);
}

/* In kB, from the kernel. */
static long resident(void)
{
    long pages = -1;
    FILE *file = fopen("/proc/self/statm", "r");

    CHECK(file != NULL && fscanf(file, "%*d %ld", &pages) == 1);
    fclose(file);
    return pages * 4;
}

static void forget(ASYNC_JOB **job)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int ret = -1;

    *job = NULL;
    STEP(job, ctx, &ret, uses_stack, ASYNC_PAUSE);
    ASYNC_WAIT_CTX_free(ctx);
}

int main(void)
{
    static ASYNC_JOB *forgotten[FORGOTTEN], *more[LIMIT];
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job = NULL;
    int ret = -1, i;
    long before;

    CHECK(ASYNC_init_thread(LIMIT, 0) == 1);
    for (i = 0; i < 50; i++)
        forget(&forgotten[i]);
    before = resident();
    for (; i < FORGOTTEN; i++)
        forget(&forgotten[i]);
    /* Each keeps one page at the top of its stack, or two, of the six that it has touched. */
    if (getenv("LD_PRELOAD") != NULL && strstr(getenv("LD_PRELOAD"), "valgrind") == NULL)
        CHECK(resident() - before < 150 * 4 * 4);

    /* The limit counts the jobs that are not forgotten. */
    ctx = ASYNC_WAIT_CTX_new();
    for (i = 0; i < LIMIT; i++)
        STEP(&more[i], ctx, &ret, pause_once, ASYNC_PAUSE);
    STEP(&job, ctx, &ret, pause_once, ASYNC_NO_JOBS);

    /* A forgotten job that is resumed after all. */
    CHECK(ASYNC_get_wait_ctx(forgotten[3]) == NULL);
    STEP(&forgotten[3], ctx, &ret, NULL, ASYNC_FINISH);
    CHECK(ret == 8);
    STEP(&job, ctx, &ret, pause_once, ASYNC_NO_JOBS);
    for (i = 0; i < LIMIT; i++)
        STEP(&more[i], ctx, &ret, NULL, ASYNC_FINISH);
    STEP(&job, ctx, &ret, return_five, ASYNC_FINISH);
    for (i = 0; i < FORGOTTEN; i++)
        if (forgotten[i] != NULL)
            STEP(&forgotten[i], ctx, &ret, NULL, ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
