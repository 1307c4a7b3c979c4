/* Work of an engine or a provider that a thread does, while the job that waits for it is paused. */
#include <openssl/async.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BY_FD = 0, BY_CALLBACK = 1 };
static atomic_int mode, closed, delay_us;
static atomic_long paused, cancelled, blocked, running;

/* How a thread wakes the job, and whether its work does not end before the next call of this function. */
void pausing_set_mode(int new_mode, int new_closed) {
    mode = new_mode;
    closed = new_closed;
}

/* How long each piece of work takes. */
void pausing_set_delay(int microseconds) { delay_us = microseconds; }

/* How many pieces of work paused their job, were given up by it, or blocked the thread; how many threads work now. */
void pausing_counts(long counts[4]) {
    counts[0] = paused;
    counts[1] = cancelled;
    counts[2] = blocked;
    counts[3] = running;
}

/* The work belongs to the thread and to the code that waits for it. The last of them frees it. */
struct work {
    int (*run)(struct work *);
    void (*release)(struct work *);
    atomic_int owners, done;
    int result, event;
    ASYNC_callback_fn callback;
    void *callback_arg;
};

static void drop_work(struct work *work) {
    if (atomic_fetch_sub(&work->owners, 1) == 1) {
        close(work->event);
        work->release(work);
    }
}

static void *work_on(void *argument) {
    struct work *work = argument;
    uint64_t one = 1;
    usleep(delay_us);
    while (closed)
        usleep(1000);
    work->result = work->run(work);
    atomic_fetch_sub(&running, 1);
    work->done = 1;
    if (work->callback != NULL)
        work->callback(work->callback_arg);
    else if (write(work->event, &one, sizeof one) != sizeof one)
        abort();
    drop_work(work);
    return NULL;
}

/* Does the work on a thread, and pauses the job. Returns its result, or 0 if the job was cancelled. The caller owns the
 * work, and drops it. */
static int run_paused(struct work *work) {
    static const char key;
    ASYNC_JOB *job = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);
    pthread_t thread;
    int went_on = 1;

    work->event = eventfd(0, EFD_CLOEXEC);
    work->owners = 1;
    if (job == NULL) {
        atomic_fetch_add(&blocked, 1);
        return work->run(work);
    }
    if (mode == BY_CALLBACK) {
        if (!ASYNC_WAIT_CTX_get_callback(ctx, &work->callback, &work->callback_arg))
            abort();
        ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK);
    } else if (!ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, work->event, NULL, NULL))
        abort();
    work->owners = 2;
    atomic_fetch_add(&running, 1);
    if (pthread_create(&thread, NULL, work_on, work) != 0)
        abort();
    pthread_detach(thread);
    atomic_fetch_add(&paused, 1);
    while (went_on && !work->done)
        went_on = ASYNC_pause_job();
    if (work->callback != NULL)
        ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_UNSUPPORTED);
    else
        ASYNC_WAIT_CTX_clear_fd(ctx, &key);
    if (work->done)
        return work->result;
    atomic_fetch_add(&cancelled, 1);
    return 0;
}
