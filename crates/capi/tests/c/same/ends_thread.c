/*
 * S89: a thread may end in a job: by pthread_exit, or when it is cancelled. The cleanup handlers of the job's code run.
 * The process goes on, and so does the thread, in the destructors of pthread keys: it is in no job there, and may start
 * one. exit ends the process from inside a job.
 */
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void cleanup(void *text)
{
    printf("cleanup of the %s\n", (char *)text);
}

static int other(void *unused)
{
    (void)unused;
    ASYNC_pause_job();
    return 1;
}

static pthread_key_t late;

static void at_exit(void *unused)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1;

    (void)unused;
    printf("at the end %s job", ASYNC_get_current_job() == NULL ? "no" : "a");
    printf(", start %d", ASYNC_start_job(&one, ctx, &ret, other, NULL, 0));
    printf(", resume %d\n", ASYNC_start_job(&one, ctx, &ret, other, NULL, 0));
    ASYNC_WAIT_CTX_free(ctx);
}

/* `how` is the first byte of arguments of any size. */
static int job(void *how)
{
    char end = how == NULL ? 'x' : *(char *)how;

    pthread_cleanup_push(cleanup, "job");
    ASYNC_pause_job();
    if (end == 'e')
        exit(7);
    if (end == 'x')
        pthread_exit("exited");
    pthread_cancel(pthread_self());
    for (;;)
        sleep(1);
    pthread_cleanup_pop(1);
    return 0;
}

struct arguments {
    char *bytes;
    size_t size;
};

static void *thread(void *given)
{
    struct arguments *arguments = given;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL, *two = NULL;
    int ret = -1;

    ASYNC_start_job(&two, ctx, &ret, other, NULL, 0);
    if (late == 0)
        pthread_key_create(&late, at_exit);             /* after the keys of the library */
    pthread_setspecific(late, &late);
    while (ASYNC_start_job(&one, ctx, &ret, job, arguments->bytes, arguments->size) == ASYNC_PAUSE)
        ;
    printf("not reached\n");
    return NULL;
}

static void ends(char *bytes, size_t size)
{
    struct arguments arguments = {bytes, size};
    pthread_t id;
    void *result;

    pthread_create(&id, NULL, thread, &arguments);
    pthread_join(id, &result);
    printf("%s\n", result == PTHREAD_CANCELED ? "cancelled" : (char *)result);
}

int main(void)
{
    static char cancelled[1000] = "c", exited[1000] = "x";
    struct arguments in_child = {"e", 1};
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = NULL;
    int ret = -1, status;
    pid_t child;

    setvbuf(stdout, NULL, _IONBF, 0);
    ends(NULL, 0);
    for (size_t size = 1; size <= 1000; size *= 10) {
        ends(cancelled, size);
        ends(exited, size);
    }
    if ((child = fork()) == 0)
        thread(&in_child);
    waitpid(child, &status, 0);
    printf("the child exited with %d\n", WEXITSTATUS(status));
    printf("start %d\n", ASYNC_start_job(&one, ctx, &ret, other, NULL, 0));
    printf("resume %d\n", ASYNC_start_job(&one, ctx, &ret, other, NULL, 0));
    return 0;
}
