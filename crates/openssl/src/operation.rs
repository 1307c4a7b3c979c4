//! Calls of OpenSSL for one stream, each in a job.
//!
//! ```text
//!   Idle(stream) ---- begin ----> a job runs one call of OpenSSL ---- the call returns ----> Idle(stream)
//!                                    |                  ^
//!                         an engine pauses the job      | the engine is done
//!                                    v                  |
//!                                  Busy(job) -----------'
//! ```
//!
//! A call that does not pause ends in the poll that began it. A call that waits for the socket ends, too, and its poll
//! is repeated: a connection that waits for its peer has no job. OpenSSL allows one call at a time for a connection, so
//! a read finds a write in the way while an engine encrypts, and the other way around. It waits then, and is woken.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use asyncjob::JobBuilder;
use asyncjob::job_future::{JobError, JobFuture};
use asyncjob::stack::StackSize;
use openssl::ssl;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_openssl::SslStream;

use crate::ErrorQueue;

/// What is asked of OpenSSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Handshake,
    Read,
    Write,
    Flush,
    Shutdown,
}

const KINDS: usize = 5;

/// A call, with what it needs.
pub(crate) enum Call {
    Accept,
    Connect,
    /// Into a buffer of this size.
    Read(usize),
    Write(Vec<u8>),
    Flush,
    Shutdown,
}

/// What a call returned.
pub(crate) enum Returned {
    Handshake(Result<(), ssl::Error>),
    Read(io::Result<Vec<u8>>),
    /// How many bytes were written. It is 0 for the calls that write no bytes of the caller's.
    Wrote(io::Result<usize>),
}

/// What a job gives back: the stream, and what the call returned unless it waits for the socket.
type Ended<S> = (SslStream<S>, Poll<Returned>);

enum State<S: 'static> {
    Idle(SslStream<S>),
    Busy(Kind, JobFuture<Ended<S>>),
    /// The job of a call had no result, so the stream is gone.
    Gone,
}

/// A stream, and the call that is in progress.
pub(crate) struct Operations<S: 'static> {
    state: State<S>,
    stack_size: Option<StackSize>,
    /// What calls have returned whose callers were not there.
    returned: [Option<Returned>; KINDS],
    waiting: Arc<Waiting>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Operations<S> {
    pub(crate) fn new(stream: SslStream<S>, stack_size: Option<StackSize>) -> Self {
        Operations {
            state: State::Idle(stream),
            stack_size,
            returned: [const { None }; KINDS],
            waiting: Arc::default(),
        }
    }

    /// The stream, unless a call is in progress.
    pub(crate) fn stream(&self) -> Option<&SslStream<S>> {
        match &self.state {
            State::Idle(stream) => Some(stream),
            _ => None,
        }
    }

    /// The stream, unless a call is in progress or a result waits for its caller.
    #[allow(
        clippy::result_large_err,
        reason = "the caller keeps the value, whichever way it comes back"
    )]
    pub(crate) fn into_stream(self) -> Result<SslStream<S>, Self> {
        match self {
            Operations {
                state: State::Idle(stream),
                returned: [None, None, None, None, None],
                ..
            } => Ok(stream),
            other => Err(other),
        }
    }

    /// Makes a call, or goes on with it. `call` is asked for when the call begins, which may be at a later poll.
    ///
    /// # Errors
    ///
    /// When the job of this or of an earlier call has no result. The stream is gone then.
    pub(crate) fn poll(
        &mut self,
        kind: Kind,
        task: &mut Context<'_>,
        call: impl FnOnce() -> Call,
    ) -> Poll<io::Result<Returned>> {
        self.waiting.enter(kind, task.waker());
        if matches!(self.state, State::Busy(..)) {
            ready!(self.poll_job(Some(kind)))?;
        }
        if let Some(returned) = self.returned[kind as usize].take() {
            self.waiting.leave(kind);
            return Poll::Ready(Ok(returned));
        }
        let State::Idle(stream) = std::mem::replace(&mut self.state, State::Gone) else {
            let lost = "the connection was lost with the job of an earlier call";
            return Poll::Ready(Err(io::Error::other(lost)));
        };
        self.state = State::Busy(kind, in_job(stream, call(), task.waker().clone(), self.stack_size));
        ready!(self.poll_job(Some(kind)))?;
        match self.returned[kind as usize].take() {
            Some(returned) => {
                self.waiting.leave(kind);
                Poll::Ready(Ok(returned))
            }
            None => Poll::Pending, // until the socket is ready, which wakes the task of the caller
        }
    }

    /// Reads at most `room` bytes.
    pub(crate) fn poll_read(&mut self, task: &mut Context<'_>, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let returned = ready!(self.poll(Kind::Read, task, || Call::Read(room)))?;
        let Returned::Read(read) = returned else {
            unreachable!("each kind of call has its own result")
        };
        Poll::Ready(read)
    }

    /// Puts back what there was no room for: the buffer may be smaller than the one with which the read began.
    pub(crate) fn unread(&mut self, mut bytes: Vec<u8>, fetched: usize) {
        if bytes.len() > fetched {
            bytes.drain(..fetched);
            self.returned[Kind::Read as usize] = Some(Returned::Read(Ok(bytes)));
        }
    }

    /// Goes on with the call that is in progress, until it has returned.
    fn poll_job(&mut self, by: Option<Kind>) -> Poll<Result<(), JobError>> {
        let State::Busy(kind, job) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let kind = *kind;
        let waker = Waker::from(Arc::clone(&self.waiting));
        let ended = ready!(Pin::new(job).poll(&mut Context::from_waker(&waker)));
        self.state = State::Gone;
        let (stream, returned) = ended.inspect_err(|_| self.waiting.wake_all(None))?;
        self.state = State::Idle(stream);
        if let Poll::Ready(returned) = returned {
            self.returned[kind as usize] = Some(returned);
        }
        self.waiting.wake_all(by);
        Poll::Ready(Ok(()))
    }
}

/// A future that makes the call in a job. The call registers `waker` with the socket if it waits for that.
fn in_job<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    mut stream: SslStream<S>,
    call: Call,
    waker: Waker,
    stack_size: Option<StackSize>,
) -> JobFuture<Ended<S>> {
    let job = job(stack_size).future(move || {
        let returned = make(Pin::new(&mut stream), call, &mut Context::from_waker(&waker));
        (stream, returned)
    });
    asyncjob_tokio::watched(job)
}

/// The description of a job in which OpenSSL is called.
pub(crate) fn job(stack_size: Option<StackSize>) -> JobBuilder<'static, ErrorQueue> {
    let job = JobBuilder::new().name("TLS").hooks(ErrorQueue::default());
    match stack_size {
        Some(size) => job.stack_size(size),
        None => job,
    }
}

fn make<S: AsyncRead + AsyncWrite>(
    stream: Pin<&mut SslStream<S>>,
    call: Call,
    task: &mut Context<'_>,
) -> Poll<Returned> {
    match call {
        Call::Accept => stream.poll_accept(task).map(Returned::Handshake),
        Call::Connect => stream.poll_connect(task).map(Returned::Handshake),
        Call::Read(size) => {
            let mut bytes = vec![0; size];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(stream.poll_read(task, &mut buffer));
            let filled = buffer.filled().len();
            bytes.truncate(filled);
            Poll::Ready(Returned::Read(read.map(|()| bytes)))
        }
        Call::Write(bytes) => stream.poll_write(task, &bytes).map(Returned::Wrote),
        Call::Flush => stream.poll_flush(task).map_ok(|()| 0).map(Returned::Wrote),
        Call::Shutdown => stream.poll_shutdown(task).map_ok(|()| 0).map(Returned::Wrote),
    }
}

/// The tasks that wait for the call in progress: for its result, or until it is out of the way.
#[derive(Default)]
struct Waiting(Mutex<[Option<Waker>; KINDS]>);

impl Waiting {
    fn enter(&self, kind: Kind, waker: &Waker) {
        let waker = Some(waker.clone());
        let old = std::mem::replace(&mut self.lock()[kind as usize], waker);
        drop(old); // after the lock is released, as below: wakers are the user's
    }

    fn leave(&self, kind: Kind) {
        let old = self.lock()[kind as usize].take();
        drop(old);
    }

    /// Wakes all tasks, but not the one that polls now.
    fn wake_all(&self, but: Option<Kind>) {
        let mut wakers = self.lock().clone();
        if let Some(kind) = but {
            wakers[kind as usize] = None;
        }
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Option<Waker>; KINDS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all(None);
    }
}
