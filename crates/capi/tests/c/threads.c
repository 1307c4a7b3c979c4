/*
 * Everything at once. Workers start, pause and finish jobs. Engines, on threads of their own, call get_wait_ctx,
 * get_callback and get_fd for those jobs and call the callbacks, also after a job has ended or a wait ctx was freed.
 * Wait ctxs are freed under paused jobs. Threads exit and new ones start. The program exits with 0 if every job
 * returned its own result.
 *
 * S47: the engines ask on threads of their own. S61: they ask for wait ctxs that are gone, too. S64: nothing but an
 * engine calls a callback.
 *
 *     worker                                     engine
 *     job pauses, handle is published         -> takes the handle at some later time
 *     frees the ctx, finishes the job            asks for ctx, callback and fd; calls the callback
 */
#include <openssl/async.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKERS = 4, ENGINES = 2, GENERATIONS = 3, JOBS = 8, PUBLISHED = 16 };

static int rounds = 400;
static _Atomic(ASYNC_JOB *) published[PUBLISHED];
static atomic_long called, asked, found;
static atomic_int stop;
static int key;

struct operation {
    int number;
    ASYNC_WAIT_CTX *ctx;
};

static void fail(const char *what)
{
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

static int callback(void *unused)
{
    (void)unused;
    atomic_fetch_add(&called, 1);
    return 1;
}

#ifdef RACE
static int raced;                   /* the control: a tool that finds no race here finds none anywhere */
#endif

static int operate(void *argument)
{
    struct operation *o = argument;
    ASYNC_JOB *me = ASYNC_get_current_job();
#ifdef RACE
    raced++;
#endif

    for (int i = 0; i < 1 + o->number % 3; i++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(me);
        if (ctx != NULL) {
            ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, o->number, o, NULL);
            ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK);
        }
        atomic_store(&published[o->number % PUBLISHED], me);
        ASYNC_pause_job();
        if (ASYNC_get_current_job() != me)
            fail("a job is another job after a pause");
        if (ctx != NULL)
            ASYNC_WAIT_CTX_clear_fd(ctx, &key);
    }
    return o->number;
}

static void start(struct operation *o, ASYNC_JOB **job, int number)
{
    int ret;

    *job = NULL;
    o->number = number;
    o->ctx = ASYNC_WAIT_CTX_new();
    ASYNC_WAIT_CTX_set_callback(o->ctx, callback, o);
    if (ASYNC_start_job(job, o->ctx, &ret, operate, o, sizeof(*o)) != ASYNC_PAUSE)
        fail("a job did not pause");
}

static void finish(struct operation *o, ASYNC_JOB **job)
{
    int ret = -1, result;

    if (o->number % 4 == 0) {
        ASYNC_WAIT_CTX_free(o->ctx);                    /* under the paused job */
        o->ctx = NULL;
    }
    while ((result = ASYNC_start_job(job, o->ctx, &ret, operate, NULL, 0)) == ASYNC_PAUSE)
        ;
    if (result != ASYNC_FINISH || ret != o->number)
        fail("a job did not finish with its own result");
    ASYNC_WAIT_CTX_free(o->ctx);
}

static void *worker(void *index)
{
    struct operation operations[JOBS];
    ASYNC_JOB *jobs[JOBS];

    if ((intptr_t)index % 2 == 0 && ASYNC_init_thread(JOBS, JOBS / 2) != 1)
        fail("init_thread");
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < JOBS; i++)
            start(&operations[i], &jobs[i], round * JOBS + i);
        while (atomic_load(&asked) == 0)                /* the engines may not have run yet */
            sched_yield();
        for (int i = 0; i < JOBS; i++)                  /* not in the order in which they started */
            finish(&operations[(i * 5) % JOBS], &jobs[(i * 5) % JOBS]);
        if (round % 50 == 49)
            ASYNC_cleanup_thread();
    }
    return NULL;
}

static void *engine(void *unused)
{
    (void)unused;
    for (unsigned turn = 0; !atomic_load(&stop); turn++) {
        ASYNC_JOB *job = atomic_load(&published[turn % PUBLISHED]);
        ASYNC_callback_fn call;
        void *argument;
        int fd;

        if (job == NULL)
            continue;
        atomic_fetch_add(&asked, 1);
        ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);
        if (ctx == NULL)
            continue;
        if (ASYNC_WAIT_CTX_get_callback(ctx, &call, &argument) == 1) {
            atomic_fetch_add(&found, 1);
            call(argument);
        }
        ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &argument);
        ASYNC_WAIT_CTX_get_status(ctx);
        size_t count, deleted;
        ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &count, NULL, &deleted);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t workers[WORKERS], engines[ENGINES];

    if (argc > 1)
        rounds = atoi(argv[1]);
    for (intptr_t i = 0; i < ENGINES; i++)
        pthread_create(&engines[i], NULL, engine, NULL);
    for (int generation = 0; generation < GENERATIONS; generation++) {
        for (intptr_t i = 0; i < WORKERS; i++)
            pthread_create(&workers[i], NULL, worker, (void *)i);
        for (int i = 0; i < WORKERS; i++)
            pthread_join(workers[i], NULL);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < ENGINES; i++)
        pthread_join(engines[i], NULL);
    printf("%d jobs, engines: handles asked %s, callbacks called %s\n", WORKERS * GENERATIONS * rounds * JOBS,
           atomic_load(&asked) > 0 ? "yes" : "no", atomic_load(&called) == atomic_load(&found) ? "as found" : "wrong");
    return 0;
}
