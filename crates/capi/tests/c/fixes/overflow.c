/*
 * S70: a job uses more stack than it has. Stock: overwrites the heap, silently. Ours: meets a guard, and the process says which job it was
 * before it dies of SIGSEGV. The test looks for both; exiting at all is the failure.
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
