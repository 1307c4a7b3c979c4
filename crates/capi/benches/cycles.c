/*
 * What a call of ASYNC_* costs a C program. Run it once on stock libcrypto and once with libasyncjob.so preloaded, and
 * divide. The program prints a line for each measurement: its name, and the nanoseconds of one operation in the fastest
 * batch. The fastest is the best estimate, because noise only adds time.
 *
 *     cc -O2 cycles.c -lcrypto && ./a.out && LD_PRELOAD=.../libasyncjob.so ./a.out
 */
#include <openssl/async.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCHES = 40, OPERATIONS = 20000 };

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int pause_for_ever(void *arg)
{
    (void)arg;
    while (ASYNC_pause_job() == 1)
        ;
    return 0;
}

static int return_at_once(void *arg)
{
    (void)arg;
    return 1;
}

static int pause_once(void *arg)
{
    (void)arg;
    ASYNC_pause_job();
    return 1;
}

static void expect(int got, int wanted, const char *what)
{
    if (got != wanted) {
        fprintf(stderr, "%s: got %d, wanted %d\n", what, got, wanted);
        exit(1);
    }
}

/* A resume and the pause that follows: two switches. */
static void resume_and_pause(ASYNC_WAIT_CTX *ctx)
{
    static ASYNC_JOB *job;
    int ret;

    if (job == NULL)
        expect(ASYNC_start_job(&job, ctx, &ret, pause_for_ever, NULL, 0), ASYNC_PAUSE, "start");
    for (int i = 0; i < OPERATIONS; i++)
        if (ASYNC_start_job(&job, ctx, &ret, pause_for_ever, NULL, 0) != ASYNC_PAUSE)
            abort();
}

/* A job that returns at once, on a stack that was used before: two switches. */
static void start_and_finish(ASYNC_WAIT_CTX *ctx)
{
    int ret;

    for (int i = 0; i < OPERATIONS; i++) {
        ASYNC_JOB *job = NULL;
        if (ASYNC_start_job(&job, ctx, &ret, return_at_once, NULL, 0) != ASYNC_FINISH)
            abort();
    }
}

/* The same with 64 bytes of arguments: libssl passes a structure. */
static void start_and_finish_args(ASYNC_WAIT_CTX *ctx)
{
    char args[64] = { 0 };
    int ret;

    for (int i = 0; i < OPERATIONS; i++) {
        ASYNC_JOB *job = NULL;
        if (ASYNC_start_job(&job, ctx, &ret, return_at_once, args, sizeof(args)) != ASYNC_FINISH)
            abort();
    }
}

/* The calls of one asynchronous operation under libssl: start, pause, resume, finish. */
static void start_pause_finish(ASYNC_WAIT_CTX *ctx)
{
    int ret;

    for (int i = 0; i < OPERATIONS; i++) {
        ASYNC_JOB *job = NULL;
        if (ASYNC_start_job(&job, ctx, &ret, pause_once, NULL, 0) != ASYNC_PAUSE)
            abort();
        if (ASYNC_start_job(&job, ctx, &ret, pause_once, NULL, 0) != ASYNC_FINISH)
            abort();
    }
}

/* Every SSL_read and SSL_write makes this call, in a job and outside. */
static void get_current_job(ASYNC_WAIT_CTX *ctx)
{
    (void)ctx;
    for (int i = 0; i < OPERATIONS; i++)
        if (ASYNC_get_current_job() != NULL)
            abort();
}

static void pause_outside(ASYNC_WAIT_CTX *ctx)
{
    (void)ctx;
    for (int i = 0; i < OPERATIONS; i++)
        if (ASYNC_pause_job() != 1)
            abort();
}

static const char key;

static void cleanup(ASYNC_WAIT_CTX *ctx, const void *by, OSSL_ASYNC_FD fd, void *data)
{
    (void)ctx, (void)by, (void)fd, (void)data;
}

static int callback(void *arg)
{
    (void)arg;
    return 1;
}

static void get_fd(ASYNC_WAIT_CTX *ctx)
{
    OSSL_ASYNC_FD fd;
    void *data;

    ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 5, NULL, cleanup);
    for (int i = 0; i < OPERATIONS; i++)
        if (!ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &data))
            abort();
    ASYNC_WAIT_CTX_clear_fd(ctx, &key);
}

static void get_all_fds(ASYNC_WAIT_CTX *ctx)
{
    OSSL_ASYNC_FD fds[4];
    size_t count;

    ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 5, NULL, cleanup);
    for (int i = 0; i < OPERATIONS; i++)
        if (!ASYNC_WAIT_CTX_get_all_fds(ctx, fds, &count))
            abort();
    ASYNC_WAIT_CTX_clear_fd(ctx, &key);
}

static void set_and_clear_fd(ASYNC_WAIT_CTX *ctx)
{
    for (int i = 0; i < OPERATIONS; i++)
        if (!ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 5, NULL, cleanup) || !ASYNC_WAIT_CTX_clear_fd(ctx, &key))
            abort();
}

static void new_and_free_ctx(ASYNC_WAIT_CTX *unused)
{
    (void)unused;
    for (int i = 0; i < OPERATIONS; i++)
        ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX_new());
}

/* An engine that looks for a callback and then for its wait fd, which it sets once. */
static int engine(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    ASYNC_callback_fn function;
    OSSL_ASYNC_FD fd;
    void *data;

    (void)arg;
    if (ASYNC_WAIT_CTX_get_callback(ctx, &function, &data))
        ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK);
    else if (!ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &data))
        ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 5, NULL, cleanup);
    ASYNC_pause_job();
    return 7;
}

/* An engine that sets and clears its wait fd for each operation. */
static int engine_that_clears(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());

    (void)arg;
    ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 5, NULL, cleanup);
    ASYNC_pause_job();
    ASYNC_WAIT_CTX_clear_fd(ctx, &key);
    return 7;
}

/* What an application does for one operation of an engine, but for the kernel's part. */
static void operation(ASYNC_WAIT_CTX *ctx, int (*body)(void *))
{
    ASYNC_JOB *job = NULL;
    OSSL_ASYNC_FD fds[4], removed[4];
    size_t added_count, removed_count, count;
    int ret;

    if (ASYNC_start_job(&job, ctx, &ret, body, NULL, 0) != ASYNC_PAUSE)
        abort();
    ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &added_count, NULL, &removed_count);
    if (added_count + removed_count > 0)
        ASYNC_WAIT_CTX_get_changed_fds(ctx, fds, &added_count, removed, &removed_count);
    ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count);
    if (count > 0)
        ASYNC_WAIT_CTX_get_all_fds(ctx, fds, &count);
    if (ASYNC_start_job(&job, ctx, &ret, body, NULL, 0) != ASYNC_FINISH || ret != 7)
        abort();
}

static void operation_with_fd(ASYNC_WAIT_CTX *unused)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    (void)unused;
    for (int i = 0; i < OPERATIONS; i++)
        operation(ctx, engine);
    ASYNC_WAIT_CTX_free(ctx);
}

static void operation_with_callback(ASYNC_WAIT_CTX *unused)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    (void)unused;
    ASYNC_WAIT_CTX_set_callback(ctx, callback, NULL);
    for (int i = 0; i < OPERATIONS; i++)
        operation(ctx, engine);
    ASYNC_WAIT_CTX_free(ctx);
}

static void operation_that_clears(ASYNC_WAIT_CTX *ctx)
{
    for (int i = 0; i < OPERATIONS; i++)
        operation(ctx, engine_that_clears);
}

static void operation_with_new_ctx(ASYNC_WAIT_CTX *unused)
{
    (void)unused;
    for (int i = 0; i < OPERATIONS; i++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        operation(ctx, engine);
        ASYNC_WAIT_CTX_free(ctx);
    }
}

static double fastest(void (*batch)(ASYNC_WAIT_CTX *), ASYNC_WAIT_CTX *ctx)
{
    double best = 1e18;

    for (int i = 0; i < BATCHES; i++) {
        double before = now_ns();
        batch(ctx);
        double each = (now_ns() - before) / OPERATIONS;
        if (each < best)
            best = each;
    }
    return best;
}

/* The control: a function that does nothing, called through a pointer. It must cost the same in both runs. */
static void control(ASYNC_WAIT_CTX *ctx)
{
    int (*volatile nothing)(void *) = return_at_once;

    for (int i = 0; i < OPERATIONS; i++)
        nothing(ctx);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*batch)(ASYNC_WAIT_CTX *);
    } measured[] = {
        { "control", control },
        { "resume_and_pause", resume_and_pause },
        { "start_and_finish", start_and_finish },
        { "start_and_finish_args", start_and_finish_args },
        { "start_pause_finish", start_pause_finish },
        { "get_current_job", get_current_job },
        { "pause_outside", pause_outside },
        { "get_fd", get_fd },
        { "get_all_fds", get_all_fds },
        { "set_and_clear_fd", set_and_clear_fd },
        { "new_and_free_ctx", new_and_free_ctx },
        { "operation_with_fd", operation_with_fd },
        { "operation_with_callback", operation_with_callback },
        { "operation_that_clears", operation_that_clears },
        { "operation_with_new_ctx", operation_with_new_ctx },
    };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (size_t i = 0; i < sizeof(measured) / sizeof(measured[0]); i++)
        printf("%s %.2f\n", measured[i].name, fastest(measured[i].batch, ctx));
    return 0;
}
