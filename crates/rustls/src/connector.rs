//! Connectors of pooled clients, each connect in a job on workers: a layer of `tower`.
//!
//! ```text
//!   the client's pool, on any runtime          a worker
//!     spawns a connect
//!       PinnedConnector::call  --------->  a job:  connect, TLS handshake, Signer::sign
//!       pending                            polled with the runtime of the caller entered
//!       the connection         <---------
//! ```

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use asyncjob_tokio::{Handle, JoinHandle, in_job};
use tokio::runtime;
use tower_layer::Layer;
use tower_service::Service;

/// Any error, as the connectors of pooled clients give them.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Puts each connect of a pooled client into a job on [`Workers`](asyncjob_tokio::Workers): a layer for the
/// `connector_layer` of `reqwest`, and for any connector of `hyper-util`, such as that of `hyper-rustls`.
///
/// A pooled client begins a connect for a request, and lets a task of its own finish it if another connection becomes
/// free meanwhile. So a request in a job does not help: its connect, with the signature of the client's certificate,
/// may go on outside the job. There an [`OffloadedKey`](crate::OffloadedKey) and an [`AwaitedKey`](crate::AwaitedKey)
/// fail, and a key that blocks stalls the thread.
///
/// The connections belong to the runtime that the client runs on, as without the layer. They outlive the workers.
///
/// When the signature of a client fails, the request fails with the error of the key as its last cause, and the server
/// sees a connection that ends: the stream is inside the client's own connector. A
/// [`TlsConnector`](crate::TlsConnector) sends an alert.
///
/// ```
/// # struct Client;
/// # impl Client {
/// #     fn builder() -> Self { Client }
/// #     fn connector_layer<L>(self, _: L) -> Self { self }
/// # }
/// let workers = asyncjob_tokio::Workers::new(2)?; // once in a program
/// let client = Client::builder() // reqwest::Client
///     .connector_layer(asyncjob_rustls::PinnedConnectorLayer::new(&workers));
/// # let _ = client;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PinnedConnectorLayer {
    workers: Handle,
}

impl PinnedConnectorLayer {
    /// Connects on these workers.
    pub fn new(workers: impl Into<Handle>) -> Self {
        PinnedConnectorLayer {
            workers: workers.into(),
        }
    }
}

impl<S> Layer<S> for PinnedConnectorLayer {
    type Service = PinnedConnector<S>;

    fn layer(&self, connector: S) -> PinnedConnector<S> {
        PinnedConnector {
            connector,
            workers: self.workers.clone(),
        }
    }
}

/// A connector whose connects are in jobs: see [`PinnedConnectorLayer`].
#[derive(Clone, Debug)]
pub struct PinnedConnector<S> {
    connector: S,
    workers: Handle,
}

impl<S, R> Service<R> for PinnedConnector<S>
where
    S: Service<R> + Clone + Send + 'static,
    S::Response: Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = PinnedConnecting<S::Response>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(task).map_err(Into::into)
    }

    /// Begins the connect.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn call(&mut self, request: R) -> PinnedConnecting<S::Response> {
        // The one that is ready goes to the worker, and the clone has to become ready.
        let clone = self.connector.clone();
        let mut connector = mem::replace(&mut self.connector, clone);
        let runtime = runtime::Handle::current();
        let connect = move || OnRuntime {
            runtime,
            future: in_job(async move { connector.call(request).await.map_err(Into::into) }),
        };
        PinnedConnecting {
            task: self.workers.spawn_task(connect),
        }
    }
}

/// A connect on a worker: see [`PinnedConnectorLayer`]. It has begun. Dropping the future cancels it.
///
/// # Errors
///
/// Those of the connector. When the connect has no result, because the workers have ended or because it has panicked,
/// the error is a [`JoinError`](asyncjob_tokio::JoinError). When its job has no result, it is a
/// [`JobError`](asyncjob::job_future::JobError).
#[must_use = "dropping the future cancels the connect"]
#[derive(Debug)]
pub struct PinnedConnecting<T> {
    task: JoinHandle<Result<Result<T, BoxError>, asyncjob::job_future::JobError>>,
}

impl<T> Future for PinnedConnecting<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(task).map(|done| done??)
    }
}

/// Polls a future with another runtime entered than the one that polls it. So the sockets and timers that the future
/// makes belong to that runtime. Each poll enters and leaves, so that a job that pauses does not stay in it.
struct OnRuntime<F> {
    runtime: runtime::Handle,
    future: F,
}

impl<F: Future + Unpin> Future for OnRuntime<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        Pin::new(&mut this.future).poll(task)
    }
}
