//! A private key in a key service that speaks the protocol of AWS KMS: JSON over HTTP, called by an async client.
//!
//! ```text
//!   AwaitedKey::sign -> circuit -> time-out -> limit -> request -> HTTP
//!                       open?      of the wait          signed
//!                                  and the call
//! ```
//!
//! What is around the call is `tower`, and the circuit is `tower-resilience`. The service wants each request to be
//! signed ("Signature Version 4"): `aws-sigv4` does that, the signer of the SDK of AWS. The whole SDK needs a newer
//! Rust than this crate.

use std::error::Error;
use std::time::{Duration, SystemTime};
use std::{env, fmt};

use asyncjob_rustls::AwaitedKey;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use base64::prelude::{BASE64_STANDARD, Engine};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::{SignatureAlgorithm, SignatureScheme};
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_resilience_circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};

/// Who asks the service: what each request is signed with.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) credentials: Credentials,
    pub(crate) region: String,
}

impl Account {
    /// From the variables that the tools of AWS read, too.
    pub(crate) fn from_environment() -> Result<Account, Box<dyn Error>> {
        let variable = |name| env::var(name).map_err(|error| format!("{name}: {error}"));
        let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
        Ok(Account {
            credentials: Credentials::new(id, secret, env::var("AWS_SESSION_TOKEN").ok(), None, "environment"),
            region: variable("AWS_REGION")?,
        })
    }
}

/// What the service may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// So many requests at a time. The others wait for their turn.
    pub(crate) outstanding: usize,
    /// The longest that a signature may take, the wait for its turn included.
    pub(crate) time: Duration,
    /// After so many failures in a row the service is not asked any more.
    pub(crate) failures: usize,
    /// After this time it is asked once. If that succeeds, it is asked again as before.
    pub(crate) pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            outstanding: 64,
            time: Duration::from_secs(2),
            failures: 5,
            pause: Duration::from_secs(1),
        }
    }
}

/// A client of the service. Clones share the limits.
#[derive(Clone)]
pub(crate) struct Kms {
    calls: BoxCloneSyncService<Call, Value, CircuitBreakerError<BoxError>>,
}

struct Call {
    action: &'static str,
    request: Value,
}

/// Why there is no signature.
#[derive(Debug)]
pub(crate) enum KmsError {
    /// The service has failed too often in a row, and was not asked.
    NotAsked,
    /// The service did not answer, not in time, or with an error.
    Failed(BoxError),
}

impl Kms {
    pub(crate) fn new(endpoint: &str, account: Account, limits: Limits) -> Result<Kms, Box<dyn Error>> {
        let (http, endpoint) = (reqwest::Client::builder().no_proxy().build()?, endpoint.to_owned());
        let limited = ServiceBuilder::new()
            .concurrency_limit(limits.outstanding)
            .service(service_fn(move |call| {
                send(http.clone(), endpoint.clone(), account.clone(), call)
            }));
        let circuit = CircuitBreakerLayer::builder()
            .consecutive_failures(limits.failures)
            .wait_duration_in_open(limits.pause)
            .permitted_calls_in_half_open(1)
            .build()?;
        // `tower` waits for a turn before the call, and its time-out is about the call. So the wait is in the call.
        let waits_in_call = service_fn(move |call| limited.clone().oneshot(call));
        let calls = ServiceBuilder::new()
            .layer(circuit)
            .timeout(limits.time)
            .service(waits_in_call);
        Ok(Kms {
            calls: BoxCloneSyncService::new(calls),
        })
    }

    async fn call(&self, action: &'static str, request: Value) -> Result<Value, KmsError> {
        let mut calls = self.calls.clone();
        let answer = calls.ready().await?.call(Call { action, request }).await;
        Ok(answer?)
    }

    /// The key of this name, and its public half as a certificate holds it.
    pub(crate) async fn key(&self, name: &str) -> Result<(AwaitedKey, Vec<u8>), KmsError> {
        let answer = self.call("GetPublicKey", json!({ "KeyId": name })).await?;
        let spki = bytes(&answer, "PublicKey")?;
        // The second is the first one's old name, and the only one that moto has.
        let spec = ["KeySpec", "CustomerMasterKeySpec"].map(|field| answer[field].as_str());
        let kind = Kind::of(spec[0].or(spec[1]).unwrap_or_default())?;
        let public = spki.get(kind.spki_header..).unwrap_or_default().to_vec();
        Ok((self.signing_key(name, kind, spki), public))
    }

    /// A key whose signatures the service makes.
    pub(crate) fn signing_key(&self, name: &str, kind: Kind, spki: Vec<u8>) -> AwaitedKey {
        let (kms, name) = (self.clone(), name.to_owned());
        let sign = move |_, message| kms.clone().sign(name.clone(), kind.name, message);
        AwaitedKey::new(kind.algorithm, [kind.scheme], sign).public_key(SubjectPublicKeyInfoDer::from(spki))
    }

    async fn sign(self, name: String, algorithm: &'static str, message: Vec<u8>) -> Result<Vec<u8>, KmsError> {
        let request = json!({
            "KeyId": name,
            "Message": BASE64_STANDARD.encode(message),
            "MessageType": "RAW",
            "SigningAlgorithm": algorithm,
        });
        bytes(&self.call("Sign", request).await?, "Signature")
    }
}

/// One request and its answer.
async fn send(http: reqwest::Client, endpoint: String, account: Account, call: Call) -> Result<Value, BoxError> {
    let (target, body) = (format!("TrentService.{}", call.action), call.request.to_string());
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", target.as_str()),
    ];
    let mut request = http.post(&endpoint);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    // The signature is about the headers, the body and the time.
    let identity = account.credentials.into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(&account.region)
        .name("kms")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?;
    let body_bytes = SignableBody::Bytes(body.as_bytes());
    let signable = SignableRequest::new("POST", &endpoint, headers.into_iter(), body_bytes)?;
    let (instructions, _) = sign(signable, &parameters.into())?.into_parts();
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    let response = request.body(body).send().await?;
    let (status, answer) = (response.status(), response.bytes().await?);
    if !status.is_success() {
        // Not always JSON: a proxy in between may have answered.
        let answer = String::from_utf8_lossy(&answer);
        return Err(format!("the key service answers {status}: {answer}").into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

fn bytes(answer: &Value, field: &str) -> Result<Vec<u8>, KmsError> {
    let text = answer[field].as_str().ok_or_else(|| format!("no {field} in {answer}"));
    BASE64_STANDARD
        .decode(text.map_err(|error| KmsError::Failed(error.into()))?)
        .map_err(|error| KmsError::Failed(error.into()))
}

/// What the service calls a kind of key, and what TLS calls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    name: &'static str,
    algorithm: SignatureAlgorithm,
    scheme: SignatureScheme,
    /// How many bytes of the public key's `SubjectPublicKeyInfo` are before the key itself: the same for each key of
    /// the kind.
    spki_header: usize,
}

impl Kind {
    pub(crate) const P256: Kind = Kind {
        name: "ECDSA_SHA_256",
        algorithm: SignatureAlgorithm::ECDSA,
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        spki_header: 26,
    };
    /// For TLS 1.2. The salt of the service's PSS signatures has another length than TLS 1.3 wants.
    pub(crate) const RSA_2048: Kind = Kind {
        name: "RSASSA_PKCS1_V1_5_SHA_256",
        algorithm: SignatureAlgorithm::RSA,
        scheme: SignatureScheme::RSA_PKCS1_SHA256,
        spki_header: 24,
    };

    fn of(spec: &str) -> Result<Kind, KmsError> {
        match spec {
            "ECC_NIST_P256" => Ok(Kind::P256),
            "RSA_2048" => Ok(Kind::RSA_2048),
            _ => Err(KmsError::Failed(
                format!("keys of the kind {spec} are not in this example").into(),
            )),
        }
    }
}

impl From<CircuitBreakerError<BoxError>> for KmsError {
    fn from(error: CircuitBreakerError<BoxError>) -> Self {
        match error {
            CircuitBreakerError::OpenCircuit => KmsError::NotAsked,
            CircuitBreakerError::Inner(error) => KmsError::Failed(error),
        }
    }
}

impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KmsError::NotAsked => f.write_str("the key service has failed too often in a row: it is asked again later"),
            KmsError::Failed(_) => f.write_str("the key service has made no signature"),
        }
    }
}

impl Error for KmsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            KmsError::NotAsked => None,
            KmsError::Failed(error) => Some(&**error),
        }
    }
}
