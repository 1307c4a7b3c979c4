/*
 * S4, S11, S75, S76: the errors that are raised. The error queue and errno belong to the thread, and not to the job.
 * So does the rounding mode beside builds of OpenSSL without CET, which those with CET exchange at each switch.
 */
#include <openssl/async.h>
#include <openssl/err.h>
#include <errno.h>
#include <fenv.h>
#include <stdio.h>

static const char *rounding(void)
{
    return fegetround() == FE_UPWARD ? "up" : "to nearest";
}

static int job(void *unused)
{
    (void)unused;
    printf("job: errno %d\n", errno);
    errno = 11;
    fesetround(FE_UPWARD);
    ERR_raise(ERR_LIB_USER, 42);
    ASYNC_pause_job();
    printf("job: errno %d, error %lx, rounding %s\n", errno, ERR_peek_error(), rounding());
    return 1;
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    unsigned long error;
    const char *place;
    int ret;

    for (size_t max = 0; max < 3; max++) {
        printf("init %zu 2: %d", max, ASYNC_init_thread(max, 2));
        while ((error = ERR_get_error_all(NULL, NULL, &place, NULL, NULL)) != 0)
            printf(" error %lx %s, %s, in %s", error, ERR_lib_error_string(error), ERR_reason_error_string(error),
                   place);
        printf("\n");
    }
    errno = 7;
    ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
    printf("main: errno %d, error %lx, rounding %s\n", errno, ERR_get_error(), rounding());
    errno = 12;
    fesetround(FE_TONEAREST);
    ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
    printf("main: errno %d, error %lx\n", errno, ERR_peek_error());
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
