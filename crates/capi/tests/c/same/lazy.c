/*
 * A program sets libcrypto's allocator in main. That is possible only if no code has allocated before, and a preloaded
 * library is no exception.
 */
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

static int calls;

static void *allocate(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    calls++;
    return malloc(size);
}

static void *reallocate(void *memory, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return realloc(memory, size);
}

static void release(void *memory, const char *file, int line)
{
    (void)file, (void)line;
    free(memory);
}

static int job(void *unused)
{
    (void)unused;
    return 1;
}

int main(void)
{
    printf("set %d\n", CRYPTO_set_mem_functions(allocate, reallocate, release));
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1, result = ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
    printf("start %d ret %d\n", result, ret);
    ASYNC_WAIT_CTX_free(ctx);
    printf("libcrypto allocates with it: %s\n", calls > 0 ? "yes" : "no");
    return 0;
}
