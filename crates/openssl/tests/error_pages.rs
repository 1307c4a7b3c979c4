//! Promise: an error of this crate says in its `Debug` what OpenSSL says. No page of the guide says more.

use std::path::Path;

use asyncjob_openssl::Error;
use asyncjob_testing::error_pages::{check_errors, leads_nowhere};
use openssl::error::ErrorStack;
use openssl::ssl::{SslContext, SslFiletype, SslMethod};

/// What OpenSSL says of a file that is not there.
fn refused() -> ErrorStack {
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context
        .set_private_key_file("/nowhere/key.pem", SslFiletype::PEM)
        .unwrap_err()
}

#[test]
fn each_error_says_what_its_source_says() {
    const SOURCE: &str = "its source is what OpenSSL says";
    let cases = [
        leads_nowhere(SOURCE, Error::Setup(refused())),
        leads_nowhere(SOURCE, Error::Handshake(refused().into())),
        leads_nowhere(
            "its source is the error of the job",
            Error::Job(std::io::Error::other("lost")),
        ),
    ];
    check_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &cases);
    let printed = format!("{:?}", Error::Handshake(refused().into()));
    assert!(
        printed.starts_with("Handshake: the handshake failed: ") && printed.contains("/nowhere/key.pem"),
        "{printed}"
    );
}
