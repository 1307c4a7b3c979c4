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

// The pool of the thread is at its limit: try again when another job has finished.
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

// `ASYNC_is_capable(3)`: 1, on every system that this is built for.
int ASYNC_is_capable(void);

// `ASYNC_start_job(3)`: starts a job if `*job` is NULL, else resumes that job, and returns when it pauses or finishes.
//
// `ctx`, `func`, `args` and `size` count at the start only. A job may start and resume others (a fix of S37). A handle that is
// stale, of a running job or of another thread gives `ASYNC_ERR`, raises an error and runs nothing (fixes of S33, S34); of
// these only a stale one sets `*job` to NULL.
//
// # Safety
//
// `job` points to a handle. `ret`, if not NULL, may be written until the job has finished. `func` is a function that does not
// unwind; `args`, if not NULL, points to `size` readable bytes. The job is resumed from wherever its function may run.
int ASYNC_start_job(ASYNC_JOB **job,
                    ASYNC_WAIT_CTX *ctx,
                    int *ret,
                    int (*func)(void*),
                    void *args,
                    size_t size);

// `ASYNC_pause_job(3)`: gives control back to whoever started or resumed this job, until they resume it. Outside a job and
// while blocked it does nothing. 1; 0 is never returned.
int ASYNC_pause_job(void);

// `ASYNC_get_current_job(3)`: the job that runs this code, or NULL.
ASYNC_JOB *ASYNC_get_current_job(void);

// `ASYNC_get_wait_ctx(3)`: the wait ctx that the job was started with, or NULL: when it has been freed, when the job has
// ended, when `job` is NULL (fixes of S47 and S61). From any thread.
ASYNC_WAIT_CTX *ASYNC_get_wait_ctx(ASYNC_JOB *job);

// `ASYNC_block_pause(3)`: until unblocked as many times, or until it ends (a fix of S44), this job does not pause. Nothing
// outside a job.
void ASYNC_block_pause(void);

// `ASYNC_unblock_pause(3)`: takes one `ASYNC_block_pause` back, if there is one.
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

// `ASYNC_init_thread(3)`: at most `max_size` jobs on this thread (0: no limit), `init_size` stacks made now. 1, or 0 for an
// `init_size` above `max_size`, also above an unlimited one (S11).
//
// A second call changes the limit; jobs that exist stay counted (a fix of S15).
int ASYNC_init_thread(size_t max_size,
                      size_t init_size);

// `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
//
// Paused jobs stay valid and can finish (a fix of S49). Inside a job it does nothing (a fix of S50).
void ASYNC_cleanup_thread(void);

// `ASYNC_WAIT_CTX_new(3)`; NULL when the process has 16 million.
ASYNC_WAIT_CTX *ASYNC_WAIT_CTX_new(void);

// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, with the ctx still readable (S60), and frees the ctx.
//
// A cleanup may clear its own key or another's (a fix of S60); what it adds is forgotten. Jobs bound to the ctx lose it (a fix of
// S61). NULL or a ctx that was freed: nothing.
//
// # Safety
//
// The cleanups given to [`ASYNC_WAIT_CTX_set_wait_fd`] may be called.
void ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX *ctx);

// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`, in front of any other under that key. 1, or 0 for a ctx that
// is NULL or freed.
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

// `ASYNC_WAIT_CTX_get_all_fds(3)`: how many wait fds there are, and if `fd` is not NULL, which, newest first. 1, or 0 for a ctx
// that is NULL or freed.
//
// # Safety
//
// `fd` is NULL or has room for all of them; `numfds` is NULL or may be written to.
int ASYNC_WAIT_CTX_get_all_fds(ASYNC_WAIT_CTX *ctx,
                               OSSL_ASYNC_FD *fd,
                               size_t *numfds);

// `ASYNC_WAIT_CTX_get_changed_fds(3)`: the wait fds added and deleted since a job with this ctx was last resumed, newest first,
// each list if its array is not NULL. 1, or 0 for a ctx that is NULL or freed.
//
// # Safety
//
// The arrays are NULL or have room; the counts are NULL or may be written to.
int ASYNC_WAIT_CTX_get_changed_fds(ASYNC_WAIT_CTX *ctx,
                                   OSSL_ASYNC_FD *addfd,
                                   size_t *numaddfds,
                                   OSSL_ASYNC_FD *delfd,
                                   size_t *numdelfds);

// `ASYNC_WAIT_CTX_clear_fd(3)`: forgets the newest wait fd under `key`, without calling its cleanup. 1, or 0 if there is none.
int ASYNC_WAIT_CTX_clear_fd(ASYNC_WAIT_CTX *ctx,
                            const void *key);

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
