/*
 * Shared by the programs of this directory: each is one "fix" row of the contract, does what stock OpenSSL crashes, leaks or
 * lies about, and exits 0 if it went well. Built once with -lcrypto, it runs on stock and, preloaded, on ours.
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
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);      \
            fflush(stdout);                                                     \
            _Exit(1);                                                           \
        }                                                                       \
    } while (0)

/* Runs `job` one more step and checks what it does. */
#define STEP(job, ctx, ret, function, wanted) CHECK(ASYNC_start_job(job, ctx, ret, function, NULL, 0) == (wanted))

/* Exactly one error is queued, and it is from the ASYNC library. */
#define CHECK_ONE_ASYNC_ERROR()                                                 \
    do {                                                                        \
        CHECK(ERR_GET_LIB(ERR_get_error()) == ERR_LIB_ASYNC);                   \
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
