/*
 * The program of the manual page ASYNC_start_job(3), written anew. A job prints a message, makes a pipe that will wake
 * it, and pauses. The main program waits for the pipe and resumes the job.
 *
 *     cc manual_page.c $(pkg-config --cflags --libs asyncjob) && ./a.out     without any libcrypto
 *     cc -DWITH_OPENSSL manual_page.c -lcrypto && ./a.out                    the same program on OpenSSL
 */
#ifdef WITH_OPENSSL
#include <openssl/async.h>
#else
#include <asyncjob.h>
#endif
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static const char key; /* its address is unique in the program, as the manual page requires */

static void close_pipe(ASYNC_WAIT_CTX *ctx, const void *the_key, OSSL_ASYNC_FD read_end, void *write_end)
{
    (void)ctx, (void)the_key;
    close(read_end);
    close(*(int *)write_end);
}

static int hello(void *message)
{
    static int ends[2];
    ASYNC_JOB *job = ASYNC_get_current_job();
    char wake = 'X';

    if (job == NULL) {
        printf("Not executing within a job - should not happen\n");
        return 0;
    }
    printf("Executing within a job\n");
    printf("Passed in message is: %s\n", (char *)message);

    if (pipe(ends) != 0) {
        printf("Failed to create a pipe\n");
        return 0;
    }
    ASYNC_WAIT_CTX_set_wait_fd(ASYNC_get_wait_ctx(job), &key, ends[0], &ends[1], close_pipe);

    /* An engine would give the write end to its hardware. This one is done at once: the wake comes before the pause. */
    if (write(ends[1], &wake, 1) != 1)
        return 0;
    ASYNC_pause_job();
    if (read(ends[0], &wake, 1) != 1)
        return 0;

    printf("Resumed the job after a pause\n");
    return 1;
}

int main(void)
{
    static char message[] = "Hello world!";
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    printf("Starting...\n");
    for (;;) {
        struct pollfd wait = { OSSL_BAD_ASYNC_FD, POLLIN, 0 };
        size_t count;

        switch (ASYNC_start_job(&job, ctx, &ret, hello, message, sizeof(message))) {
        case ASYNC_ERR:
            printf("Error executing job\n");
            return 1;
        case ASYNC_NO_JOBS:
            printf("No jobs available\n");
            return 1;
        case ASYNC_FINISH:
            printf("Job finished with return value %d\n", ret);
            ASYNC_WAIT_CTX_free(ctx);
            printf("Finishing\n");
            return 0;
        case ASYNC_PAUSE:
            printf("Job was paused\n");
        }

        /* This job has one wait fd. A program that does not know the number asks for it and allocates an array. */
        if (!ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count) || count != 1) {
            printf("Unexpected number of wait fds\n");
            return 1;
        }
        ASYNC_WAIT_CTX_get_all_fds(ctx, &wait.fd, &count);
        poll(&wait, 1, -1);
    }
}
