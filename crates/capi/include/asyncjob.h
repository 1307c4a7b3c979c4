/*
 * ASYNC_JOB without OpenSSL: the same names, types and numbers as <openssl/async.h>, provided by libasyncjob.
 *
 * Made from crates/capi/src by cbindgen: do not edit. With OpenSSL's headers at hand, include <openssl/async.h> instead.
 */

#ifndef ASYNCJOB_H
#define ASYNCJOB_H

#include <stddef.h>

/* Opaque: handles, which need not be addresses. */
typedef struct async_job_st ASYNC_JOB;
typedef struct async_wait_ctx_st ASYNC_WAIT_CTX;

#define OSSL_ASYNC_FD int

// `ASYNC_start_job` failed: see the error queue.
#define ASYNC_ERR 0

// The thread has as many jobs as its limit allows: try again when another job has finished.
#define ASYNC_NO_JOBS 1

// The job paused.
#define ASYNC_PAUSE 2

// The job finished, and its result is in `*ret`.
#define ASYNC_FINISH 3

// The engine uses no callback: wait for the fds. The default.
#define ASYNC_STATUS_UNSUPPORTED 0

// The engine is broken for this session.
#define ASYNC_STATUS_ERR 1

// Submitted: the callback will be called.
#define ASYNC_STATUS_OK 2

// Not submitted, a queue was full: resume the job later.
#define ASYNC_STATUS_EAGAIN 3

// Gives memory for a stack of at least `*size` bytes and writes its size there, or gives NULL.
typedef void *(*ASYNC_stack_alloc_fn)(size_t *size);

// Takes it back; the address may be NULL.
typedef void (*ASYNC_stack_free_fn)(void *addr);

// What [`ASYNC_WAIT_CTX_free`] calls for a wait fd.
typedef void (*ASYNC_cleanup_fn)(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD fd, void *custom_data);

// What an engine calls when the operation is done.
typedef int (*ASYNC_callback_fn)(void *arg);

// No fd.
#define OSSL_BAD_ASYNC_FD -1

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// `ASYNC_is_capable(3)`: returns 1 on every system that this library is built for.
int ASYNC_is_capable(void);

// `ASYNC_start_job(3)`: starts a job if `*job` is NULL, else resumes that job. Returns when the job pauses or
// finishes.
//
// `ctx`, `func`, `args` and `size` are used when a job starts, and ignored when it is resumed. A job may start and
// resume other jobs.
//
// A handle that is stale, that names a running job, or that belongs to another thread gives `ASYNC_ERR`: an error is
// raised and no function is run. `*job` becomes NULL if the handle was stale, and keeps its value otherwise. See S33,
// S34, S37.
//
// # Safety
//
// `job` must point to a handle or to NULL. `ret` must be NULL or point to an int that may be written to during this
// call. `args` must be NULL or point to `size` bytes that may be read until the job first pauses or finishes. `func`
// must be a function that may be called with a copy of these bytes, and it must not unwind. The program must resume a
// job only at a point at which its function may continue. The program must not free a library context while it is the
// default of a job.
int ASYNC_start_job(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void*), void *args, size_t size);

// `ASYNC_pause_job(3)`: pauses this job. Control returns to the caller that started or last resumed the job, and comes
// back when the job is resumed.
//
// Outside a job, and in a job that is blocked, this function does nothing. It returns 1, and never 0.
int ASYNC_pause_job(void);

// `ASYNC_get_current_job(3)`: returns the job that runs this code, or NULL outside a job.
ASYNC_JOB *ASYNC_get_current_job(void);

// `ASYNC_get_wait_ctx(3)`: returns the wait ctx that the job was started with. Any thread may call this function.
//
// Returns NULL if the program has freed that wait ctx, if the job has ended, and if `job` is NULL. See S47, S61.
ASYNC_WAIT_CTX *ASYNC_get_wait_ctx(ASYNC_JOB *job);

// `ASYNC_block_pause(3)`: until `ASYNC_unblock_pause` was called as many times, this job does not pause. The count
// ends with the job. Outside a job this function does nothing. See S43, S44.
void ASYNC_block_pause(void);

// `ASYNC_unblock_pause(3)`: takes one call of `ASYNC_block_pause` back, if there is one.
void ASYNC_unblock_pause(void);

// `ASYNC_set_mem_functions(3)`: 1, or 0 once a stack has been asked for (S67, S68). NULL keeps the function in force.
//
// # Safety
//
// `alloc_fn` is asked for 32768 bytes and gives memory that is nobody else's until it comes to `free_fn`; both may be called from
// any thread. There is no guard below such a stack.
int ASYNC_set_mem_functions(ASYNC_stack_alloc_fn alloc_fn,
                            ASYNC_stack_free_fn free_fn);

// `ASYNC_get_mem_functions(3)`: the functions in force, never NULL.
//
// # Safety
//
// Both are NULL or may be written to.
void ASYNC_get_mem_functions(ASYNC_stack_alloc_fn *alloc_fn, ASYNC_stack_free_fn *free_fn);

// `ASYNC_init_thread(3)`: allows this thread at most `max_size` jobs (0: no limit), and makes `init_size` stacks now.
//
// Returns 1, or 0 if `init_size` is above `max_size`. A `max_size` of 0 is not exempt from that.
//
// A second call replaces the limit. Jobs that exist stay counted. See S11, S15.
int ASYNC_init_thread(size_t max_size, size_t init_size);

// `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
//
// Paused jobs stay valid and can finish. Inside a job this function does nothing. See S49, S50.
void ASYNC_cleanup_thread(void);

// `ASYNC_WAIT_CTX_new(3)`; NULL when the process has 16 million.
ASYNC_WAIT_CTX *ASYNC_WAIT_CTX_new(void);

// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, with the ctx still readable (S60), and frees the ctx.
//
// A cleanup may clear its own key or another's (a fix of S60); what it adds is forgotten. Jobs bound to the ctx lose
// it (a fix of S61). NULL or a ctx that was freed: nothing.
//
// # Safety
//
// The cleanups given to [`ASYNC_WAIT_CTX_set_wait_fd`] may be called.
void ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX *ctx);

// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`, in front of any other under that key. 1, or 0 for a ctx
// that is NULL or freed.
//
// # Safety
//
// `cleanup`, if not NULL, may be called with these values when the ctx is freed.
int ASYNC_WAIT_CTX_set_wait_fd(ASYNC_WAIT_CTX *ctx,
                               const void *key,
                               OSSL_ASYNC_FD fd,
                               void *custom_data,
                               ASYNC_cleanup_fn cleanup);

// `ASYNC_WAIT_CTX_get_fd(3)`: the newest wait fd under `key`. 1; or 0, with nothing written, if there is none.
//
// # Safety
//
// `fd` and `custom_data` are NULL or may be written to.
int ASYNC_WAIT_CTX_get_fd(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD *fd, void **custom_data);

// `ASYNC_WAIT_CTX_get_all_fds(3)`: how many wait fds there are, and if `fd` is not NULL, which, newest first. 1, or 0
// for a ctx that is NULL or freed.
//
// # Safety
//
// `fd` is NULL or has room for all of them; `numfds` is NULL or may be written to.
int ASYNC_WAIT_CTX_get_all_fds(ASYNC_WAIT_CTX *ctx, OSSL_ASYNC_FD *fd, size_t *numfds);

// `ASYNC_WAIT_CTX_get_changed_fds(3)`: the wait fds added and deleted since a job with this ctx was last resumed,
// newest first, each list if its array is not NULL. 1, or 0 for a ctx that is NULL or freed.
//
// # Safety
//
// The arrays are NULL or have room; the counts are NULL or may be written to.
int ASYNC_WAIT_CTX_get_changed_fds(ASYNC_WAIT_CTX *ctx,
                                   OSSL_ASYNC_FD *addfd,
                                   size_t *numaddfds,
                                   OSSL_ASYNC_FD *delfd,
                                   size_t *numdelfds);

// `ASYNC_WAIT_CTX_clear_fd(3)`: forgets the newest wait fd under `key`, without calling its cleanup. 1, or 0 if there
// is none.
int ASYNC_WAIT_CTX_clear_fd(ASYNC_WAIT_CTX *ctx, const void *key);

// `ASYNC_WAIT_CTX_set_callback(3)`. 1, or 0 for a ctx that is NULL or freed.
//
// # Safety
//
// An engine may call `callback` with `callback_arg`, from any thread.
int ASYNC_WAIT_CTX_set_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn callback, void *callback_arg);

// `ASYNC_WAIT_CTX_get_callback(3)`: 1; or 0, with nothing written, if none is set (S63).
//
// # Safety
//
// `callback` and `callback_arg` are NULL or may be written to.
int ASYNC_WAIT_CTX_get_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn *callback, void **callback_arg);

// `ASYNC_WAIT_CTX_set_status(3)`: any number (S65). 1, or 0 for a ctx that is NULL or freed.
int ASYNC_WAIT_CTX_set_status(ASYNC_WAIT_CTX *ctx, int status);

// `ASYNC_WAIT_CTX_get_status(3)`: what was set last, or `ASYNC_STATUS_UNSUPPORTED`.
int ASYNC_WAIT_CTX_get_status(ASYNC_WAIT_CTX *ctx);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ASYNCJOB_H */
