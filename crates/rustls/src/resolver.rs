//! A certificate that is looked up asynchronously, in the middle of a handshake.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use asyncjob::waiting::await_future;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::other;

/// A [`ResolvesServerCert`] that awaits the certificate while the job of the handshake is paused.
///
/// The future is polled on the thread of the handshake. So it need not be `Send`, and it may use that thread's runtime.
/// It may also borrow from the `ClientHello`.
///
/// | the future gives | the handshake |
/// |---|---|
/// | `Ok(Some(key))` | goes on with this certificate and key |
/// | `Ok(None)` | fails: there is no certificate for this client, and rustls tells it so |
/// | `Err(error)` | fails with this error, which keeps its type. The client gets an alert, `internal_error` |
///
/// Outside a job the handshake fails, too, with an error that says so.
///
/// ```
/// use asyncjob_rustls::AwaitedResolver;
/// use rustls::server::ClientHello;
/// use rustls::sign::CertifiedKey;
/// use std::io;
/// use std::sync::Arc;
///
/// async fn look_up(name: Option<&str>) -> io::Result<Option<Arc<CertifiedKey>>> {
///     # let _ = name;
///     # Ok(None)
///     // ask a database
/// }
///
/// let resolver = AwaitedResolver::new(async |hello: &ClientHello<'_>| look_up(hello.server_name()).await);
/// # let provider = rustls::crypto::ring::default_provider();
/// let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
///     .with_safe_default_protocol_versions()?
///     .with_no_client_auth()
///     .with_cert_resolver(Arc::new(resolver));
/// let acceptor = asyncjob_rustls::TlsAcceptor::from(Arc::new(config));
/// # let _ = acceptor;
/// # Ok::<(), rustls::Error>(())
/// ```
///
/// [`ResolvesServerCert`]: https://docs.rs/rustls/0.23/rustls/server/trait.ResolvesServerCert.html
pub struct AwaitedResolver {
    resolve: Box<Resolve>,
}

type Resolve = dyn Fn(&ClientHello<'_>) -> Result<Option<Arc<CertifiedKey>>, Error> + Send + Sync;

impl AwaitedResolver {
    /// A resolver that asks `look_up`.
    pub fn new<F, E>(look_up: F) -> Self
    where
        F: AsyncFn(&ClientHello<'_>) -> Result<Option<Arc<CertifiedKey>>, E> + Send + Sync + 'static,
        E: StdError + Send + Sync + 'static,
    {
        let resolve = move |hello: &ClientHello<'_>| await_future(look_up(hello)).map_err(other)?.map_err(other);
        AwaitedResolver {
            resolve: Box::new(resolve),
        }
    }
}

impl ResolvesServerCert for AwaitedResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let resolved = (self.resolve)(&hello);
        resolved.unwrap_or_else(|error| {
            // rustls takes no error from a resolver. It takes one from a signer, a moment later.
            let algorithm = algorithm_of(hello.signature_schemes());
            Some(Arc::new(CertifiedKey::new(
                vec![],
                Arc::new(FailedKey { error, algorithm }),
            )))
        })
    }
}

/// An algorithm that this client accepts: with any other one, a handshake of TLS 1.2 would end before it signs.
fn algorithm_of(offered: &[SignatureScheme]) -> SignatureAlgorithm {
    use SignatureScheme::{ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ECDSA_NISTP521_SHA512, ED25519};
    let ecdsa = [ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ECDSA_NISTP521_SHA512];
    match offered {
        offered if ecdsa.iter().any(|scheme| offered.contains(scheme)) => SignatureAlgorithm::ECDSA,
        [ED25519, ..] => SignatureAlgorithm::ED25519,
        _ => SignatureAlgorithm::RSA,
    }
}

/// A key whose signatures fail with the error of a resolver.
#[derive(Debug)]
struct FailedKey {
    error: Error,
    algorithm: SignatureAlgorithm,
}

impl SigningKey for FailedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (error, scheme) = (self.error.clone(), *offered.first()?);
        Some(Box::new(FailedSigner { error, scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

#[derive(Debug)]
struct FailedSigner {
    error: Error,
    scheme: SignatureScheme,
}

impl Signer for FailedSigner {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Err(self.error.clone())
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl fmt::Debug for AwaitedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedResolver").finish_non_exhaustive()
    }
}
