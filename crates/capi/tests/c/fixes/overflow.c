/*
 * S70: a job uses more stack than it has. Stock overwrites the heap, and reports nothing. With our library, the job
 * reaches a guard: the process reports which job it was, and dies of SIGSEGV. The test looks for both. A program that
 * exits has failed.
 */
#include "fix.h"

static int devour(int depth)
{
    volatile char frame[4096];

    frame[0] = (char)depth;
    return depth == 0 ? frame[0] : devour(depth - 1) + frame[0];
}

static int overflow(void *unused)
{
    (void)unused;
    return devour(16 << 10);
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    STEP(&job, ctx, &ret, overflow, ASYNC_FINISH);
    return 1;
}
