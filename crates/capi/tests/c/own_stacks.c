/*
 * S67 to S69: ASYNC_set_mem_functions, without OpenSSL, which has it since 3.2. Built with our own header.
 *
 * S14, S17: if the allocator returns nothing, or too little, ASYNC_init_thread makes fewer jobs, and ASYNC_start_job
 * returns ASYNC_NO_JOBS.
 */
#include <asyncjob.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);      \
            return 1;                                                           \
        }                                                                       \
    } while (0)

enum { NOTHING, TOO_LITTLE, AS_REQUESTED, MORE };

static int returns = NOTHING, allocated, freed;
static size_t requested;

static void *allocate(size_t *size)
{
    requested = *size;
    if (returns == NOTHING)
        return NULL;
    if (returns == TOO_LITTLE)
        *size = 8192;
    if (returns == MORE)
        *size = 100001;
    allocated++;
    return malloc(*size);
}

static void release(void *memory)
{
    freed++;
    free(memory);
}

static int once(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 3;
}

/* Uses more than 32 KiB, as it may when the allocator returns more. */
static int deep(void *unused)
{
    volatile char frame[60000];

    (void)unused;
    for (size_t i = 0; i < sizeof(frame); i++)
        frame[i] = 7;
    return frame[sizeof(frame) / 2];
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

    CHECK(ASYNC_set_mem_functions(allocate, NULL) == 1);        /* NULL leaves the function as it is */
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == default_free);
    CHECK(ASYNC_set_mem_functions(NULL, release) == 1);
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == release);

    CHECK(ASYNC_init_thread(2, 2) == 1);                                /* S14 */
    CHECK(allocated == 0 && requested == 32768);
    CHECK(ASYNC_set_mem_functions(default_alloc, default_free) == 0);   /* the allocator was called */
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_NO_JOBS && job == NULL);     /* S17 */
    returns = TOO_LITTLE;
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_NO_JOBS && job == NULL);
    CHECK(allocated == 1 && freed == 1);

    allocated = freed = 0;
    returns = AS_REQUESTED;
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_PAUSE);
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_FINISH && ret == 3);
    CHECK(allocated == 1 && freed == 0);
    ASYNC_cleanup_thread();
    CHECK(allocated == 1 && freed == 1);

    returns = MORE;
    CHECK(ASYNC_start_job(&job, ctx, &ret, deep, NULL, 0) == ASYNC_FINISH && ret == 7);
    ASYNC_cleanup_thread();
    CHECK(allocated == 2 && freed == 2);
    ASYNC_WAIT_CTX_free(ctx);
    printf("all checks passed\n");
    return 0;
}
