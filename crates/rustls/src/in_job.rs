//! A handshake as a future: in a job of this thread, or in one of a worker.
//!
//! ```text
//!   TlsAcceptor    ---> Accept,  FallibleAccept     InJob: stays on its thread
//!   TlsConnector   ---> Connect, FallibleConnect
//!        | pinned
//!        v
//!   PinnedTls..    ---> PinnedAccept, ...           OnWorker: an InJob on a worker, and the handle to it
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use asyncjob::JobBuilder;
use asyncjob::job_future::{JobError, JobFuture};
use asyncjob::stack::StackSize;
use asyncjob_tokio::JoinHandle;

use crate::handshake::Handshake;

/// What a handshake gives: the stream, or the error and the connection. The connection is not there if the job has
/// ended without a result.
pub(crate) type Fallible<S, IO> = Result<S, (io::Error, Option<IO>)>;

/// A handshake in a job. A trait object has one reason not to be `Send`, where the job itself has six. So the compiler
/// gives one error.
pub(crate) type InJob<S, IO> = Pin<Box<dyn HandshakeNeedsPinnedOrSpawnLocal<Handshake<S, IO>>>>;

/// A handshake in a job of a worker.
pub(crate) type OnWorker<S, IO> = JoinHandle<Fallible<S, IO>>;

/// Names the ways out when the compiler says that a handshake cannot be sent between threads.
///
/// A job stays on the thread that started it, and so does the handshake in it. Use one of these:
///
/// * `tokio::task::spawn_local` instead of `tokio::spawn`, on a `LocalSet` or a current-thread runtime;
/// * [`TlsAcceptor::pinned`](crate::TlsAcceptor::pinned), [`TlsConnector::pinned`](crate::TlsConnector::pinned) or
///   [`StartHandshake::pinned`](crate::StartHandshake::pinned), whose handshakes run on workers, for `tokio::spawn` and
///   for servers that call it.
///
/// It is a trait because the compiler names a trait object that is not `Send`.
pub trait HandshakeNeedsPinnedOrSpawnLocal<T>: Future<Output = Result<T, JobError>> + fmt::Debug {}

impl<T> HandshakeNeedsPinnedOrSpawnLocal<T> for JobFuture<T> {}

/// Polls `handshake` in a job.
pub(crate) fn in_job<S: 'static, IO: 'static>(
    stack_size: Option<StackSize>,
    handshake: impl Future<Output = Handshake<S, IO>> + 'static,
) -> InJob<S, IO> {
    let mut builder = JobBuilder::new().name("TLS handshake");
    if let Some(size) = stack_size {
        builder = builder.stack_size(size);
    }
    Box::pin(asyncjob_tokio::watched(builder.in_job(handshake)))
}

pub(crate) fn poll_in_job<S, IO>(job: &mut InJob<S, IO>, task: &mut Context<'_>) -> Poll<Fallible<S, IO>> {
    job.as_mut().poll(task).map(|outcome| match outcome {
        Ok(Ok(stream)) => Ok(*stream),
        Ok(Err(failed)) => Err((failed.0, Some(failed.1))),
        Err(error) => Err((error.into(), None)),
    })
}

pub(crate) fn poll_on_worker<S, IO>(job: &mut OnWorker<S, IO>, task: &mut Context<'_>) -> Poll<Fallible<S, IO>> {
    let done = Pin::new(job).poll(task);
    done.map(|outcome| outcome.unwrap_or_else(|error| Err((error.into(), None))))
}

pub(crate) fn without_connection<S, IO>(done: Fallible<S, IO>) -> io::Result<S> {
    done.map_err(|(error, _)| error)
}
