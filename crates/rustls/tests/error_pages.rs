//! Promise: each error of this crate ends with the address of the page of the guide that helps, or is here with the
//! reason why it does not.
#![cfg(feature = "pkcs11")]

use std::io;
use std::path::Path;
use std::time::Duration;

use asyncjob_rustls::pkcs11::{KeyError, UriError};
use asyncjob_testing::error_pages::{check_errors, leads_nowhere, leads_to};
use cryptoki::error::Error as TokenError;

#[test]
fn each_error_leads_to_the_page_that_helps() {
    const URI: &str = "the sentence says what is wrong with the URI";
    const SOURCE: &str = "its source says what";
    let (token, key, wanted) = (|| "a token".to_owned(), || "a key".to_owned(), || "a label".to_owned());
    let waited = Duration::from_secs(1);
    let cases = [
        leads_nowhere(URI, UriError::Scheme),
        leads_nowhere(URI, UriError::NoValue),
        leads_nowhere(URI, UriError::Twice("id".to_owned())),
        leads_nowhere(URI, UriError::Character("id".to_owned())),
        leads_nowhere(URI, UriError::Value("id".to_owned())),
        leads_nowhere(URI, UriError::NotSupported("id".to_owned())),
        leads_nowhere(URI, UriError::NotInQuery("pin-value".to_owned())),
        leads_nowhere(URI, KeyError::Uri(UriError::Scheme)),
        leads_to(
            "hsm",
            KeyError::NoToken {
                wanted: wanted(),
                present: vec![token()],
            },
        ),
        leads_to(
            "hsm",
            KeyError::ManyTokens {
                present: vec![token(), token()],
            },
        ),
        leads_to(
            "hsm",
            KeyError::NoKey {
                wanted: wanted(),
                tokens: vec![token()],
            },
        ),
        leads_to(
            "hsm",
            KeyError::ManyKeys {
                wanted: wanted(),
                found: vec![key(), key()],
            },
        ),
        leads_to("hsm", KeyError::NoPublicKey { key: key() }),
        leads_to("hsm", KeyError::WrongPair { key: key() }),
        leads_to(
            "hsm",
            KeyError::NotSupported {
                key: key(),
                what: "its curve".to_owned(),
            },
        ),
        leads_to("hsm", KeyError::NoPin { token: token() }),
        leads_nowhere(SOURCE, KeyError::PinSource(io::Error::other("no file"))),
        leads_to(
            "hsm",
            KeyError::PinRefused {
                token: token(),
                source: TokenError::NotSupported,
            },
        ),
        leads_to("hsm", KeyError::LoginsStopped { token: token() }),
        leads_to("hsm", KeyError::PinLocked { token: token() }),
        leads_to("hsm", KeyError::PinFinalTry { token: token() }),
        leads_to("hsm", KeyError::LoginHangs { token: token(), waited }),
        leads_to("hsm", KeyError::NoSession { token: token(), waited }),
        leads_nowhere(SOURCE, KeyError::Token(TokenError::NotSupported)),
    ];
    check_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &cases);
}
