/* Does what servers do before their first job, in the order of its arguments, and pauses a job then:
 *
 *   user         drops the rights of root, if it has them
 *   alone        the same, for a user whom no other process has
 *   limit        allows its user no process and no thread more
 *   one          the same after one process more
 *   exec         starts itself anew, with the arguments that follow
 *   root DIR     changes its root directory
 *   fork         goes on in a child, and the parent exits
 *   worker       goes on in a child, and the parent waits for it
 *   workers      the same with two children
 *   reuse FILE   closes all fds but 0, 1 and 2, and opens FILE under the numbers that they had
 *   block        blocks all signals
 *   handle       sets its own action for SIGUSR2
 *   forget       frees the wait ctx of the job when it has paused
 *
 * Prints "paused PID". Each line of its input starts and ends a job, and its end resumes the first job. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/async.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Users of no other program. Their processes are counted. */
enum { USER = 61234, ALONE = 61235 };

static int fails(const char *what)
{
    perror(what);
    exit(10);
}

static void *nothing(void *arg) { return arg; }

__attribute__((noinline)) static int waits_for_device(void *arg)
{
    (void)arg;
    return ASYNC_pause_job() + 6;
}

static int ends(void *arg)
{
    (void)arg;
    return 1;
}

static void handler(int signal) { (void)signal; }

static void become(uid_t user)
{
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(user) != 0 || setuid(user) != 0))
        fails("setuid");
}

static void allow(rlim_t processes)
{
    struct rlimit limit = {processes, processes};

    if (setrlimit(RLIMIT_NPROC, &limit) != 0)
        fails("setrlimit");
}

static void reuse(const char *path)
{
    int last = 3;

    for (int fd = 3; fd < 1024; fd++)
        if (close(fd) == 0)
            last = fd;
    while (1) {
        int fd = open(path, O_RDWR | O_CREAT | O_APPEND, 0600);

        if (fd < 0)
            fails(path);
        if (fd >= last)
            return;
    }
}

int main(int argc, char **argv)
{
    ASYNC_JOB *job = NULL, *other;
    ASYNC_WAIT_CTX *ctx;
    int ret = 0;
    char byte;
    sigset_t all;
    pthread_t thread;
    int forgets = 0;

    for (int i = 1; i < argc; i++) {
        const char *step = argv[i];

        if (strcmp(step, "user") == 0) {
            become(USER);
        } else if (strcmp(step, "alone") == 0) {
            become(ALONE);
        } else if (strcmp(step, "limit") == 0) {
            allow(0);
            if (pthread_create(&thread, NULL, nothing, NULL) != EAGAIN)
                fails("the limit has no effect");
        } else if (strcmp(step, "one") == 0) {
            allow(3); /* this process, its thread for the dump, the child */
        } else if (strcmp(step, "exec") == 0) {
            argv[i] = argv[0];
            execv("/proc/self/exe", argv + i);
            fails(step);
        } else if (strcmp(step, "root") == 0) {
            if (chroot(argv[++i]) != 0 || chdir("/") != 0)
                fails(step);
        } else if (strcmp(step, "fork") == 0) {
            pid_t child = fork();

            if (child < 0)
                fails(step);
            if (child > 0)
                _exit(0);
            setsid();
        } else if (strncmp(step, "worker", 6) == 0) {
            pid_t child = fork();

            if (child > 0 && step[6] == 's')
                child = fork();
            if (child < 0)
                fails(step);
            if (child > 0) {
                while (wait(NULL) > 0 || errno == EINTR)
                    ;
                return 0;
            }
        } else if (strcmp(step, "reuse") == 0) {
            reuse(argv[++i]);
        } else if (strcmp(step, "block") == 0) {
            sigfillset(&all);
            sigprocmask(SIG_SETMASK, &all, NULL);
        } else if (strcmp(step, "handle") == 0) {
            signal(SIGUSR2, handler);
        } else if (strcmp(step, "forget") == 0) {
            forgets = 1;
        } else {
            errno = EINVAL;
            fails(step);
        }
    }
    ctx = ASYNC_WAIT_CTX_new();
    if (ASYNC_start_job(&job, ctx, &ret, waits_for_device, NULL, 0) != ASYNC_PAUSE)
        return 2;
    if (forgets) {
        ASYNC_WAIT_CTX_free(ctx);
        ctx = ASYNC_WAIT_CTX_new();
    }
    printf("paused %d\n", getpid());
    fflush(stdout);
    while (1) {
        ssize_t got = read(0, &byte, 1);

        if (got == 0 || (got < 0 && errno != EINTR))
            break;
        other = NULL;
        if (got == 1 && ASYNC_start_job(&other, ctx, &ret, ends, NULL, 0) != ASYNC_FINISH)
            return 3;
    }
    if (ASYNC_start_job(&job, ctx, &ret, waits_for_device, NULL, 0) != ASYNC_FINISH || ret != 7)
        return 4;
    ASYNC_WAIT_CTX_free(ctx);
    printf("ended\n");
    return 0;
}
