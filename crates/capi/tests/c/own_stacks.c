/*
 * ASYNC_set_mem_functions, without OpenSSL (its 3.0 has none): S67 to S69. With our own header.
 */
#include <asyncjob.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);      \
            return 1;                                                           \
        }                                                                       \
    } while (0)

static int given, taken_back;
static size_t asked;

static void *allocate(size_t *size)
{
    asked = *size;
    given++;
    return malloc(*size);
}

static void take_back(void *memory)
{
    taken_back++;
    free(memory);
}

static int once(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 3;
}

int main(void)
{
    ASYNC_stack_alloc_fn alloc_fn = NULL, default_alloc;
    ASYNC_stack_free_fn free_fn = NULL, default_free;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    size_t size = 32768;
    int ret = 0;

    ASYNC_get_mem_functions(&default_alloc, &default_free);
    CHECK(default_alloc != NULL && default_free != NULL);
    void *memory = default_alloc(&size);
    CHECK(memory != NULL && size >= 32768);
    default_free(memory);

    CHECK(ASYNC_set_mem_functions(allocate, NULL) == 1);        /* NULL keeps the one in force */
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == default_free);
    CHECK(ASYNC_set_mem_functions(NULL, take_back) == 1);
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == take_back);

    CHECK(ASYNC_init_thread(2, 1) == 1);
    CHECK(given == 1 && asked == 32768);
    CHECK(ASYNC_set_mem_functions(default_alloc, default_free) == 0);   /* too late */
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_PAUSE);
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_FINISH && ret == 3);
    CHECK(given == 1 && taken_back == 0);
    ASYNC_cleanup_thread();
    CHECK(given == 1 && taken_back == 1);
    ASYNC_WAIT_CTX_free(ctx);
    printf("well\n");
    return 0;
}
