/*
 * ASYNC_JOB without OpenSSL: the same names, types and numbers as <openssl/async.h>, provided by libasyncjob.
 *
 * Made from crates/capi/src by cbindgen: do not edit. With OpenSSL's headers at hand, include <openssl/async.h> instead.
 */

#ifndef ASYNCJOB_H
#define ASYNCJOB_H

#include <stddef.h>


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

// A job, as C programs see it: an opaque handle.
typedef struct async_job_st {
  uint8_t _opaque[0];
} async_job_st;

// `ASYNC_JOB` of `<openssl/async.h>`.
typedef struct async_job_st ASYNC_JOB;

// A wait ctx, as C programs see it: an opaque handle.
typedef struct async_wait_ctx_st {
  uint8_t _opaque[0];
} async_wait_ctx_st;

// `ASYNC_WAIT_CTX` of `<openssl/async.h>`.
typedef struct async_wait_ctx_st ASYNC_WAIT_CTX;

// What a program waits on.
typedef int OSSL_ASYNC_FD;

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
int ASYNC_start_job(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void*), void *args, size_t size);

// `ASYNC_pause_job(3)`: gives control back to whoever started or resumed this job, until they resume it. Outside a job and
int ASYNC_pause_job(void);

// `ASYNC_get_current_job(3)`: the job that runs this code, or NULL.
ASYNC_JOB *ASYNC_get_current_job(void);

// `ASYNC_get_wait_ctx(3)`: the wait ctx that the job was started with, or NULL: when it has been freed, when the job has
ASYNC_WAIT_CTX *ASYNC_get_wait_ctx(ASYNC_JOB *job);

// `ASYNC_block_pause(3)`: until unblocked as many times, or until it ends (a fix of S44), this job does not pause. Nothing
void ASYNC_block_pause(void);

// `ASYNC_unblock_pause(3)`: takes one `ASYNC_block_pause` back, if there is one.
void ASYNC_unblock_pause(void);

// `ASYNC_init_thread(3)`: at most `max_size` jobs on this thread (0: no limit), `init_size` stacks made now. 1, or 0 for an
int ASYNC_init_thread(size_t max_size,
                      size_t init_size);

// `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
void ASYNC_cleanup_thread(void);

// `ASYNC_WAIT_CTX_new(3)`; NULL when the process has 16 million.
ASYNC_WAIT_CTX *ASYNC_WAIT_CTX_new(void);

// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, with the ctx still readable (S60), and frees the ctx.
void ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX *ctx);

// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`, in front of any other under that key. 1, or 0 for a ctx that
int ASYNC_WAIT_CTX_set_wait_fd(ASYNC_WAIT_CTX *ctx,
                               const void *key,
                               OSSL_ASYNC_FD fd,
                               void *custom_data,
                               ASYNC_cleanup_fn cleanup);

// `ASYNC_WAIT_CTX_get_fd(3)`: the newest wait fd under `key`. 1; or 0, with nothing written, if there is none.
int ASYNC_WAIT_CTX_get_fd(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD *fd, void **custom_data);

// `ASYNC_WAIT_CTX_get_all_fds(3)`: how many wait fds there are, and if `fd` is not NULL, which, newest first. 1, or 0 for a ctx
int ASYNC_WAIT_CTX_get_all_fds(ASYNC_WAIT_CTX *ctx,
                               OSSL_ASYNC_FD *fd,
                               size_t *numfds);

// `ASYNC_WAIT_CTX_get_changed_fds(3)`: the wait fds added and deleted since a job with this ctx was last resumed, newest first,
int ASYNC_WAIT_CTX_get_changed_fds(ASYNC_WAIT_CTX *ctx,
                                   OSSL_ASYNC_FD *addfd,
                                   size_t *numaddfds,
                                   OSSL_ASYNC_FD *delfd,
                                   size_t *numdelfds);

// `ASYNC_WAIT_CTX_clear_fd(3)`: forgets the newest wait fd under `key`, without calling its cleanup. 1, or 0 if there is none.
int ASYNC_WAIT_CTX_clear_fd(ASYNC_WAIT_CTX *ctx,
                            const void *key);

// `ASYNC_WAIT_CTX_set_callback(3)`. 1, or 0 for a ctx that is NULL or freed.
int ASYNC_WAIT_CTX_set_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn callback, void *callback_arg);

// `ASYNC_WAIT_CTX_get_callback(3)`: 1; or 0, with nothing written, if none is set (S63).
int ASYNC_WAIT_CTX_get_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn *callback, void **callback_arg);

// `ASYNC_WAIT_CTX_set_status(3)`: any number (S65). 1, or 0 for a ctx that is NULL or freed.
int ASYNC_WAIT_CTX_set_status(ASYNC_WAIT_CTX *ctx, int status);

// `ASYNC_WAIT_CTX_get_status(3)`: what was set last, or `ASYNC_STATUS_UNSUPPORTED`.
int ASYNC_WAIT_CTX_get_status(ASYNC_WAIT_CTX *ctx);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ASYNCJOB_H */
