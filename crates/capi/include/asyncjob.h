/*
 * ASYNC_JOB without OpenSSL: the same names, types and numbers as <openssl/async.h>, provided by libasyncjob.
 *
 * cbindgen makes this file from crates/capi-lib/src: do not edit it. A program that has OpenSSL's headers includes
 * <openssl/async.h> instead.
 *
 * A number such as S42 names a behaviour of OpenSSL. docs/openssl-behaviour.md defines the numbers, and says what this
 * library does in each case.
 */

#ifndef ASYNCJOB_H
#define ASYNCJOB_H

#include <stddef.h>

/* Opaque handles. They need not be addresses. */
typedef struct async_job_st ASYNC_JOB;
typedef struct async_wait_ctx_st ASYNC_WAIT_CTX;

#define OSSL_ASYNC_FD int

#ifdef __cplusplus
extern "C" {
#endif

/**
 * `ASYNC_start_job` failed: see the error queue.
 */
#define ASYNC_ERR 0

/**
 * The thread has as many jobs as its limit allows: try again when another job has finished.
 */
#define ASYNC_NO_JOBS 1

/**
 * The job paused.
 */
#define ASYNC_PAUSE 2

/**
 * The job finished, and its result is in `*ret`.
 */
#define ASYNC_FINISH 3

/**
 * The engine uses no callback: wait for the fds. The default.
 */
#define ASYNC_STATUS_UNSUPPORTED 0

/**
 * The engine cannot go on with this session.
 */
#define ASYNC_STATUS_ERR 1

/**
 * The operation was submitted: the engine will call the callback.
 */
#define ASYNC_STATUS_OK 2

/**
 * The operation was not submitted because a queue was full: resume the job later.
 */
#define ASYNC_STATUS_EAGAIN 3

/**
 * Allocates a stack of at least `*size` bytes and writes its size to `*size`. Returns NULL if there is no memory.
 */
typedef void *(*ASYNC_stack_alloc_fn)(size_t *size);

/**
 * Frees such a stack. `addr` may be NULL.
 */
typedef void (*ASYNC_stack_free_fn)(void *addr);

/**
 * `ASYNC_WAIT_CTX_free` calls this function for a wait fd.
 */
typedef void (*ASYNC_cleanup_fn)(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD fd, void *custom_data);

/**
 * An engine calls this function when the operation is done.
 */
typedef int (*ASYNC_callback_fn)(void *arg);

/**
 * No descriptor.
 */
#define OSSL_BAD_ASYNC_FD -1

/**
 * `ASYNC_is_capable(3)`: returns 1 on every system that this library is built for.
 */
int ASYNC_is_capable(void);

/**
 * `ASYNC_start_job(3)`: starts a job if `*job` is NULL, else resumes that job. Returns when the job pauses or
 * finishes.
 *
 * `ctx`, `func`, `args` and `size` are used when a job starts, and ignored when it is resumed. A job may start and
 * resume other jobs.
 *
 * A handle that is stale, that names a running job, or that belongs to another thread gives `ASYNC_ERR`: an error is
 * raised and no function is run. `*job` becomes NULL if the handle was stale, and keeps its value otherwise. See S33,
 * S34, S37.
 *
 * # Safety
 *
 * `job` must point to a handle or to NULL. `ret` must be NULL or point to an int that may be written to during this
 * call. `args` must be NULL or point to `size` bytes that may be read until the job first pauses or finishes. `func`
 * must be a function that may be called with a copy of these bytes, and it must not unwind. The program must resume a
 * job only at a point at which its function may continue. The program must not free a library context while it is the
 * default of a job.
 */
int ASYNC_start_job(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void*), void *args, size_t size);

/**
 * `ASYNC_pause_job(3)`: pauses this job. Control returns to the caller that started or last resumed the job, and comes
 * back when the job is resumed.
 *
 * Outside a job, and in a job that is blocked, this function does nothing and returns 1. It returns 0 when the job is
 * to end without the result that it waits for. Only Rust code cancels a job, so this happens in its jobs only. The
 * caller then reports an error, and does not wait again: later calls return 0 at once.
 */
int ASYNC_pause_job(void);

/**
 * `ASYNC_get_current_job(3)`: returns the job that runs this code, or NULL outside a job.
 *
 * The job may be one of Rust code. Every function but `ASYNC_start_job` then works on it, and on its wait ctx.
 */
ASYNC_JOB *ASYNC_get_current_job(void);

/**
 * `ASYNC_get_wait_ctx(3)`: returns the wait ctx that the job was started with. Any thread may call this function.
 *
 * Returns NULL if the program has freed that wait ctx, if the job has ended, and if `job` is NULL. See S47, S61.
 */
ASYNC_WAIT_CTX *ASYNC_get_wait_ctx(ASYNC_JOB *job);

/**
 * `ASYNC_block_pause(3)`: until `ASYNC_unblock_pause` was called as many times, this job does not pause. The count
 * ends with the job. Outside a job this function does nothing. See S43, S44.
 */
void ASYNC_block_pause(void);

/**
 * `ASYNC_unblock_pause(3)`: takes one call of `ASYNC_block_pause` back, if there is one.
 */
void ASYNC_unblock_pause(void);

/**
 * `ASYNC_set_mem_functions(3)`: sets the functions that allocate and free stacks. NULL leaves a function as it is.
 * Returns 1, or 0 once this process has asked for a stack. See S67, S68, S69.
 *
 * # Safety
 *
 * `alloc_fn` and `free_fn` must be NULL or functions that any thread may call. `alloc_fn` is asked for 32768 bytes.
 * The program must not use the memory that `alloc_fn` returns until `free_fn` is called with it. There is no guard
 * below such a stack, so the program must not let a job use more than `alloc_fn` gave.
 */
int ASYNC_set_mem_functions(ASYNC_stack_alloc_fn alloc_fn, ASYNC_stack_free_fn free_fn);

/**
 * `ASYNC_get_mem_functions(3)`: writes the functions that allocate and free stacks, which are never NULL.
 *
 * # Safety
 *
 * `alloc_fn` and `free_fn` must be NULL or valid for writes.
 */
void ASYNC_get_mem_functions(ASYNC_stack_alloc_fn *alloc_fn, ASYNC_stack_free_fn *free_fn);

/**
 * `ASYNC_init_thread(3)`: allows this thread at most `max_size` jobs (0: no limit), and makes `init_size` stacks now.
 *
 * Returns 1, or 0 if `init_size` is above `max_size`. A `max_size` of 0 is not exempt from that.
 *
 * A second call replaces the limit. Jobs that exist stay counted. See S11, S15.
 */
int ASYNC_init_thread(size_t max_size, size_t init_size);

/**
 * `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
 *
 * Paused jobs stay valid and can finish. Inside a job this function does nothing. See S49, S50.
 */
void ASYNC_cleanup_thread(void);

/**
 * `ASYNC_WAIT_CTX_new(3)`: makes a wait ctx. Returns NULL when the process has 16 million.
 */
ASYNC_WAIT_CTX *ASYNC_WAIT_CTX_new(void);

/**
 * `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, and frees the ctx.
 *
 * A cleanup may read the ctx, and may clear its own key or another. A wait fd that a cleanup adds is forgotten. Jobs
 * that were started with this ctx have none from now on. Nothing happens if `ctx` is NULL or was freed before, and if
 * it belongs to Rust code. See S60, S61.
 *
 * # Safety
 *
 * Every cleanup that the program gave to `ASYNC_WAIT_CTX_set_wait_fd` for this ctx must be callable now.
 */
void ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX *ctx);

/**
 * `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`. It hides an earlier one under that key. Returns 1, or 0
 * if `ctx` is NULL or was freed.
 *
 * # Safety
 *
 * `cleanup` must be NULL or a function that may be called with these values when the program frees the ctx, or when
 * Rust code drops it, on any thread. In a job of Rust code, `fd` must stay open until its key is cleared, or until its
 * cleanup is called.
 */
int ASYNC_WAIT_CTX_set_wait_fd(ASYNC_WAIT_CTX *ctx,
                               const void *key,
                               OSSL_ASYNC_FD fd,
                               void *custom_data,
                               ASYNC_cleanup_fn cleanup);

/**
 * `ASYNC_WAIT_CTX_get_fd(3)`: writes the newest wait fd under `key` and its custom data. Returns 1; or 0, with nothing
 * written, if there is none.
 *
 * # Safety
 *
 * `fd` and `custom_data` must be NULL or valid for writes.
 */
int ASYNC_WAIT_CTX_get_fd(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD *fd, void **custom_data);

/**
 * `ASYNC_WAIT_CTX_get_all_fds(3)`: writes the number of wait fds and, if `fd` is not NULL, the wait fds, newest first.
 * Returns 1, or 0 if `ctx` is NULL or was freed.
 *
 * # Safety
 *
 * `fd` must be NULL or point to an array with room for all of them. `numfds` must be NULL or valid for writes.
 */
int ASYNC_WAIT_CTX_get_all_fds(ASYNC_WAIT_CTX *ctx, OSSL_ASYNC_FD *fd, size_t *numfds);

/**
 * `ASYNC_WAIT_CTX_get_changed_fds(3)`: writes the wait fds that were added and those that were removed since a job
 * with this ctx was last resumed.
 *
 * Both lists are newest first. NULL stands for a list or a number that the program does not want. Returns 1, or 0 if
 * `ctx` is NULL or was freed. See S42.
 *
 * # Safety
 *
 * `addfd` and `delfd` must be NULL or point to arrays with room for the lists. `numaddfds` and `numdelfds` must be
 * NULL or valid for writes.
 */
int ASYNC_WAIT_CTX_get_changed_fds(ASYNC_WAIT_CTX *ctx,
                                   OSSL_ASYNC_FD *addfd,
                                   size_t *numaddfds,
                                   OSSL_ASYNC_FD *delfd,
                                   size_t *numdelfds);

/**
 * `ASYNC_WAIT_CTX_clear_fd(3)`: removes the newest wait fd under `key` without calling its cleanup. Returns 1, or 0 if
 * there is none.
 */
int ASYNC_WAIT_CTX_clear_fd(ASYNC_WAIT_CTX *ctx, const void *key);

/**
 * `ASYNC_WAIT_CTX_set_callback(3)`: sets the callback; NULL removes it. Returns 1, or 0 if `ctx` is NULL or was freed.
 *
 * # Safety
 *
 * `callback` must be NULL or a function that an engine may call with `callback_arg`, from any thread.
 */
int ASYNC_WAIT_CTX_set_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn callback, void *callback_arg);

/**
 * `ASYNC_WAIT_CTX_get_callback(3)`: writes the callback and its argument. Returns 1; or 0, with nothing written, if no
 * callback is set. See S63.
 *
 * # Safety
 *
 * `callback` and `callback_arg` must be NULL or valid for writes.
 */
int ASYNC_WAIT_CTX_get_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn *callback, void **callback_arg);

/**
 * `ASYNC_WAIT_CTX_set_status(3)`: sets the status, which may be any number. Returns 1, or 0 if `ctx` is NULL or was
 * freed. See S65.
 */
int ASYNC_WAIT_CTX_set_status(ASYNC_WAIT_CTX *ctx, int status);

/**
 * `ASYNC_WAIT_CTX_get_status(3)`: returns the status that was set last, or `ASYNC_STATUS_UNSUPPORTED`.
 */
int ASYNC_WAIT_CTX_get_status(ASYNC_WAIT_CTX *ctx);

#ifdef __cplusplus
}
#endif

#endif /* ASYNCJOB_H */
