/*
 * ASYNC_set_mem_functions, without OpenSSL (its 3.0 has none): S67 to S69. With our own header.
 *
 * S14, S17: an allocator that gives nothing, or too little, makes ASYNC_init_thread make fewer jobs and ASYNC_start_job
 * return ASYNC_NO_JOBS.
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

enum { NOTHING, TOO_LITTLE, WHAT_IS_ASKED, MORE };

static int gives = NOTHING, given, taken_back;
static size_t asked;

static void *allocate(size_t *size)
{
    asked = *size;
    if (gives == NOTHING)
        return NULL;
    if (gives == TOO_LITTLE)
        *size = 8192;
    if (gives == MORE)
        *size = 100001;
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

/* Uses more than 32 KiB: all that was given. */
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

    CHECK(ASYNC_set_mem_functions(allocate, NULL) == 1);        /* NULL keeps the one in force */
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == default_free);
    CHECK(ASYNC_set_mem_functions(NULL, take_back) == 1);
    ASYNC_get_mem_functions(&alloc_fn, &free_fn);
    CHECK(alloc_fn == allocate && free_fn == take_back);

    CHECK(ASYNC_init_thread(2, 2) == 1);                                /* S14 */
    CHECK(given == 0 && asked == 32768);
    CHECK(ASYNC_set_mem_functions(default_alloc, default_free) == 0);   /* too late, though nothing was given */
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_NO_JOBS && job == NULL);     /* S17 */
    gives = TOO_LITTLE;
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_NO_JOBS && job == NULL);
    CHECK(given == 1 && taken_back == 1);

    given = taken_back = 0;
    gives = WHAT_IS_ASKED;
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_PAUSE);
    CHECK(ASYNC_start_job(&job, ctx, &ret, once, NULL, 0) == ASYNC_FINISH && ret == 3);
    CHECK(given == 1 && taken_back == 0);
    ASYNC_cleanup_thread();
    CHECK(given == 1 && taken_back == 1);

    gives = MORE;
    CHECK(ASYNC_start_job(&job, ctx, &ret, deep, NULL, 0) == ASYNC_FINISH && ret == 7);
    ASYNC_cleanup_thread();
    CHECK(given == 2 && taken_back == 2);
    ASYNC_WAIT_CTX_free(ctx);
    printf("well\n");
    return 0;
}
