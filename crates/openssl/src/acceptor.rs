//! Servers and clients of TLS whose handshakes are in jobs.

use std::future::Future;

use asyncjob::stack::StackSize;
use asyncjob_tokio::{Handle, JoinError};
use openssl::ssl::{ConnectConfiguration, Ssl, SslAcceptor};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::stream::{Error, SslStream};

/// Accepts TLS connections, whose engines and providers pause.
///
/// ```no_run
/// # use openssl::ssl::SslAcceptor;
/// # async fn serve(listener: tokio::net::TcpListener, acceptor: SslAcceptor) -> std::io::Result<()> {
/// let acceptor = asyncjob_openssl::TlsAcceptor::from(acceptor);
/// loop {
///     let (stream, _) = listener.accept().await?;
///     let acceptor = acceptor.clone();
///     tokio::task::spawn_local(async move {
///         match acceptor.accept(stream).await {
///             Ok(_stream) => {} // serve it
///             Err(error) => eprintln!("a handshake: {error:?}"), // with what OpenSSL says
///         }
///     });
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct TlsAcceptor {
    acceptor: SslAcceptor,
    stack_size: Option<StackSize>,
}

impl From<SslAcceptor> for TlsAcceptor {
    fn from(acceptor: SslAcceptor) -> Self {
        TlsAcceptor {
            acceptor,
            stack_size: None,
        }
    }
}

impl TlsAcceptor {
    /// A stack of another size than the thread's pool has, for an engine or a callback that needs more.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// The handshake on `stream`. Dropping the future cancels it, also in the middle of a signature.
    ///
    /// # Errors
    ///
    /// [`Error`], if the handshake fails.
    pub async fn accept<S>(&self, stream: S) -> Result<SslStream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let ssl = Ssl::new(self.acceptor.context()).map_err(Error::Setup)?;
        let mut stream = SslStream::with_stack_size(ssl, stream, self.stack_size).map_err(Error::Setup)?;
        stream.accept().await?;
        Ok(stream)
    }

    /// Runs each handshake on one of these workers. The future is `Send`, for `tokio::spawn`. The stream is that of
    /// `tokio_openssl`, and may go anywhere: only the handshake pauses. To have reads and writes pause, too, serve the
    /// whole connection on the workers, with [`Handle::spawn_task`].
    pub fn accept_on<S>(
        &self,
        workers: &Handle,
        stream: S,
    ) -> impl Future<Output = Result<Result<tokio_openssl::SslStream<S>, Error>, JoinError>> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let acceptor = self.clone();
        workers.spawn_task(move || async move {
            let stream = acceptor.accept(stream).await?;
            Ok(stream.into_inner().expect("the only call has returned"))
        })
    }
}

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

/// Connects to a TLS server, as [`tokio_openssl`] does with the same configuration. The client's own key may pause.
///
/// # Errors
///
/// [`Error`], if the handshake fails.
///
/// ```no_run
/// # use openssl::ssl::{SslConnector, SslMethod};
/// # async fn get() -> Result<(), Box<dyn std::error::Error>> {
/// let connector = SslConnector::builder(SslMethod::tls())?.build();
/// let stream = tokio::net::TcpStream::connect("example.org:443").await?;
/// let _stream = asyncjob_openssl::connect(connector.configure()?, "example.org", stream).await?;
/// # Ok(())
/// # }
/// ```
///
/// [`tokio_openssl`]: https://docs.rs/tokio-openssl/latest/tokio_openssl/
pub async fn connect<S>(configuration: ConnectConfiguration, domain: &str, stream: S) -> Result<SslStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ssl = configuration.into_ssl(domain).map_err(Error::Setup)?;
    let mut stream = SslStream::new(ssl, stream).map_err(Error::Setup)?;
    stream.connect().await?;
    Ok(stream)
}
