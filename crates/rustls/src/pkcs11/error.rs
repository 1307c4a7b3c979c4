//! What can go wrong with a key in a token.

use asyncjob::{debug_with_sentence, guide_page};
use std::time::Duration;
use std::{fmt, io};

use cryptoki::error::{Error as TokenError, RvError};

use super::UriError;

/// A key in a token that cannot be opened, or cannot sign. The text says what was looked for, and what to do.
#[non_exhaustive]
pub enum KeyError {
    /// The PKCS#11 URI cannot be used.
    Uri(UriError),
    /// No token fits.
    NoToken {
        /// What was looked for.
        wanted: String,
        /// The tokens that are there.
        present: Vec<String>,
    },
    /// The search names no token, and there is more than one. A PIN is not tried on a token that was not named.
    ManyTokens {
        /// The tokens that are there.
        present: Vec<String>,
    },
    /// The tokens that fit have no private key that fits.
    NoKey {
        /// What was looked for.
        wanted: String,
        /// The tokens that were searched.
        tokens: Vec<String>,
    },
    /// More than one private key fits.
    ManyKeys {
        /// What was looked for.
        wanted: String,
        /// The keys that fit.
        found: Vec<String>,
    },
    /// The token has neither a public key nor a certificate for this private key, and the caller gave none.
    NoPublicKey {
        /// The private key.
        key: String,
    },
    /// What the private key signs does not verify with the public key.
    WrongPair {
        /// The private key.
        key: String,
    },
    /// The key is of a kind that is not supported, or the token cannot sign what TLS needs.
    NotSupported {
        /// The private key.
        key: String,
        /// What is not supported.
        what: String,
    },
    /// The token needs a PIN, and none was given, or an empty one, which was not sent.
    NoPin {
        /// The token.
        token: String,
    },
    /// The PIN could not be read, or the caller's function failed.
    PinSource(io::Error),
    /// The token has refused the PIN. It is not tried again until the key is opened anew.
    PinRefused {
        /// The token.
        token: String,
        /// What the token answered.
        source: TokenError,
    },
    /// A login is needed, and the token has refused the PIN before.
    LoginsStopped {
        /// The token.
        token: String,
    },
    /// The token says that its PIN is locked. The PIN was not tried.
    PinLocked {
        /// The token.
        token: String,
    },
    /// The token says that one more wrong PIN locks it. The PIN was not tried.
    PinFinalTry {
        /// The token.
        token: String,
    },
    /// A login that another signature has begun has not ended: the token hangs, or the function that fetches the PIN.
    LoginHangs {
        /// The token.
        token: String,
        /// How long the signature waited.
        waited: Duration,
    },
    /// All sessions are in use, and none came back.
    NoSession {
        /// The token.
        token: String,
        /// How long the signature waited.
        waited: Duration,
    },
    /// Any other error of the token, or of its library.
    Token(TokenError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sentence(f)?;
        match self {
            // The source says more than a page can.
            KeyError::Uri(_) | KeyError::PinSource(_) | KeyError::Token(_) => Ok(()),
            _ => f.write_str(guide_page!("hsm")),
        }
    }
}

impl KeyError {
    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Uri(_) => f.write_str("the PKCS#11 URI cannot be used"),
            KeyError::NoToken { wanted, present } => {
                write!(f, "there is no token with {wanted}; the tokens are: {}", list(present))
            }
            KeyError::ManyTokens { present } => write!(
                f,
                "no token is named, and there are several: {}; add the token's name, serial or slot",
                list(present)
            ),
            KeyError::NoKey { wanted, tokens } => {
                write!(f, "there is no private key with {wanted} in {}", list(tokens))
            }
            KeyError::ManyKeys { wanted, found } => write!(
                f,
                "more than one private key has {wanted}: {}; add the id, or the serial of the token",
                list(found)
            ),
            KeyError::NoPublicKey { key } => write!(
                f,
                "the token has no public key and no certificate for {key}; give one of them when you open the key"
            ),
            KeyError::WrongPair { key } => {
                write!(
                    f,
                    "what {key} signs does not verify with the public key that belongs to it"
                )
            }
            KeyError::NotSupported { key, what } => write!(f, "{key} cannot be used: {what}"),
            KeyError::NoPin { token } => write!(f, "{token} needs a PIN, and none was given, or an empty one"),
            KeyError::PinSource(_) => f.write_str("the PIN cannot be fetched"),
            KeyError::PinRefused { token, .. } => write!(
                f,
                "{token} has refused the PIN; it is not tried again until the key is opened anew"
            ),
            KeyError::LoginsStopped { token } => write!(
                f,
                "a login is needed, and {token} has refused the PIN before; open the key anew with the right PIN"
            ),
            KeyError::PinLocked { token } => write!(
                f,
                "the PIN of {token} is locked, and was not tried; unlock it with the token's own tool"
            ),
            KeyError::PinFinalTry { token } => write!(
                f,
                "one more wrong PIN locks {token}, so the PIN was not tried; log in once with the token's own tool"
            ),
            KeyError::LoginHangs { token, waited } => {
                write!(
                    f,
                    "a login to {token} that another signature has begun did not end within {waited:?}"
                )
            }
            KeyError::NoSession { token, waited } => {
                write!(f, "{token} had no free session within {waited:?}")
            }
            KeyError::Token(TokenError::Pkcs11(RvError::SessionCount, _)) => {
                f.write_str("the token has no session left: other keys and other programs have them all")
            }
            KeyError::Token(_) => f.write_str("the token has failed"),
        }
    }
}

debug_with_sentence!(
    KeyError: Uri, NoToken, ManyTokens, NoKey, ManyKeys, NoPublicKey, WrongPair, NotSupported, NoPin, PinSource,
    PinRefused, LoginsStopped, PinLocked, PinFinalTry, LoginHangs, NoSession, Token
);

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KeyError::Uri(source) => Some(source),
            KeyError::PinSource(source) => Some(source),
            KeyError::PinRefused { source, .. } | KeyError::Token(source) => Some(source),
            _ => None,
        }
    }
}

impl From<UriError> for KeyError {
    fn from(error: UriError) -> KeyError {
        KeyError::Uri(error)
    }
}

impl From<TokenError> for KeyError {
    fn from(error: TokenError) -> KeyError {
        KeyError::Token(error)
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.join(", ")
}
