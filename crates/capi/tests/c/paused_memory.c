/*
 * The memory of a paused job. 10,000 jobs are each paused in their function, and the program prints by how many bytes a
 * job the resident memory in /proc/self/statm grew. Each job has a frame of 512 bytes, as a small engine would have.
 */
#include <openssl/async.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int pause_in_a_frame(void *number)
{
    volatile char frame[512];

    memset((void *)frame, *(int *)number, sizeof(frame));
    ASYNC_pause_job();
    return frame[sizeof(frame) - 1] == (char)*(int *)number;
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

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 10000;
    ASYNC_JOB **jobs = calloc((size_t)count, sizeof(*jobs));
    ASYNC_WAIT_CTX **ctxs = calloc((size_t)count, sizeof(*ctxs));
    int ret, number = 0;

    for (int i = 0; i < count; i++)
        jobs[i] = (ASYNC_JOB *)1, ctxs[i] = ASYNC_WAIT_CTX_new();
    memset(jobs, 0, (size_t)count * sizeof(*jobs));
    long before = resident();
    for (number = 0; number < count; number++)
        if (ASYNC_start_job(&jobs[number], ctxs[number], &ret, pause_in_a_frame, &number, sizeof(number))
            != ASYNC_PAUSE)
            return 1;
    long after = resident();
    for (number = 0; number < count; number++) {
        if (ASYNC_start_job(&jobs[number], ctxs[number], &ret, NULL, NULL, 0) != ASYNC_FINISH || ret != 1)
            return 2;
        ASYNC_WAIT_CTX_free(ctxs[number]);
    }
    printf("%ld\n", (after - before) / count);
    return 0;
}
