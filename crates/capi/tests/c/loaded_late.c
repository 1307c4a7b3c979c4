/*
 * Loads the library whose path is the argument when threads exist already, so that their thread-locals of it are made
 * at the first call. Each thread runs jobs on it..
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 16, JOBS = 8, PAUSES = 10 };

static __typeof__(&ASYNC_start_job) start_job;
static __typeof__(&ASYNC_pause_job) pause_job;
static __typeof__(&ASYNC_get_current_job) get_current_job;
static __typeof__(&ASYNC_WAIT_CTX_new) ctx_new;
static __typeof__(&ASYNC_WAIT_CTX_free) ctx_free;
static pthread_barrier_t loaded;

static int job(void *argument)
{
    double sum = *(int *)argument;

    for (int i = 0; i < PAUSES; i++) {
        if (get_current_job() == NULL || !pause_job())
            abort();
        sum += 0.5;
    }
    return (int)sum;
}

static void *thread(void *finished)
{
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *jobs[JOBS] = { NULL };
    int ret;

    pthread_barrier_wait(&loaded);
    if (get_current_job() != NULL || (ctx = ctx_new()) == NULL)
        abort();
    for (int step = 0; step <= PAUSES; step++)
        for (int i = 0; i < JOBS; i++) {
            int expected = step == PAUSES ? ASYNC_FINISH : ASYNC_PAUSE;
            if (start_job(&jobs[i], ctx, &ret, job, &i, sizeof(i)) != expected)
                abort();
            if (expected == ASYNC_FINISH && ret == i + PAUSES / 2)
                ++*(int *)finished;
        }
    ctx_free(ctx);
    return NULL;
}

static void find(void *library, const char *name, void *function)
{
    if ((*(void **)function = dlsym(library, name)) == NULL)
        abort();
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    int finished[THREADS] = { 0 }, total = 0;
    void *library;

    pthread_barrier_init(&loaded, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, thread, &finished[i]) != 0)
            abort();
    if (argc < 2 || (library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL)) == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    find(library, "ASYNC_start_job", &start_job);
    find(library, "ASYNC_pause_job", &pause_job);
    find(library, "ASYNC_get_current_job", &get_current_job);
    find(library, "ASYNC_WAIT_CTX_new", &ctx_new);
    find(library, "ASYNC_WAIT_CTX_free", &ctx_free);
    pthread_barrier_wait(&loaded);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        total += finished[i];
    }
    printf("%d jobs\n", total);
    return 0;
}
