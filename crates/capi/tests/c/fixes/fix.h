/*
 * Shared by the programs of this directory. Each program does one thing at which stock OpenSSL crashes, leaks or gives
 * a wrong result, and exits with 0 if nothing went wrong. A program is built once, with -lcrypto. It runs on stock
 * OpenSSL, and on our library if that is preloaded.
 */
#ifndef FIX_H
#define FIX_H
#include <openssl/async.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);      \
            fflush(stdout);                                                     \
            _Exit(1);                                                           \
        }                                                                       \
    } while (0)

/* Starts or resumes `job` and checks what the call returns. */
#define STEP(job, ctx, ret, function, wanted) CHECK(ASYNC_start_job(job, ctx, ret, function, NULL, 0) == (wanted))

/* Checks that exactly one error is queued, and that ASYNC_start_job has raised it. */
#define CHECK_ONE_ASYNC_ERROR()                                                 \
    do {                                                                        \
        const char *place = "";                                                 \
        CHECK(ERR_GET_LIB(ERR_get_error_all(NULL, NULL, &place, NULL, NULL)) == ERR_LIB_ASYNC); \
        CHECK(strcmp(place, "ASYNC_start_job") == 0);                           \
        CHECK(ERR_get_error() == 0);                                            \
    } while (0)

static inline int pause_once(void *unused)
{
    (void)unused;
    return ASYNC_pause_job() == 1 ? 7 : -1;
}

static inline int pause_twice(void *unused)
{
    (void)unused;
    return ASYNC_pause_job() == 1 && ASYNC_pause_job() == 1 ? 8 : -1;
}

static inline int return_five(void *unused)
{
    (void)unused;
    return 5;
}
#endif
