//! A PKCS#11 URI (RFC 7512): `pkcs11:token=web;object=tls?pin-source=file:/run/secrets/pin`.
//!
//! ```text
//!   pkcs11: name=value ; name=value   ? name=value & name=value
//!           what is looked for          the PIN
//! ```
//!
//! The crate for such URIs, `pk11-uri-parser`, keeps the whole URI in each error, and prints it with the PIN. It leaves
//! the `%` to its caller.

use std::fmt;
use std::path::PathBuf;

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::find::Wanted;
use super::sessions::Pin;

/// A PKCS#11 URI that cannot be used. The text names the attribute, and never its value: it may be a PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriError {
    /// It does not begin with `pkcs11:`.
    Scheme,
    /// A part is not `name=value`.
    NoValue,
    /// An attribute is there twice.
    Twice(String),
    /// The value of this attribute has a character that must be written as `%` and two hexadecimal digits.
    Character(String),
    /// The value of this attribute is not what the attribute takes.
    Value(String),
    /// This attribute says which object is meant, and is not understood here: to ignore it could find another key.
    NotSupported(String),
    /// This attribute belongs into the query, behind a `?`.
    NotInQuery(String),
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UriError::Scheme => f.write_str("a PKCS#11 URI begins with `pkcs11:`"),
            UriError::NoValue => f.write_str("a part of the PKCS#11 URI is not `name=value`"),
            UriError::Twice(name) => write!(f, "`{name}` is in the PKCS#11 URI twice"),
            UriError::Character(name) => write!(
                f,
                "`{name}` in the PKCS#11 URI has a character that must be written as % and two hexadecimal digits"
            ),
            UriError::Value(name) => match name.as_str() {
                "type" => f.write_str("`type` in the PKCS#11 URI is not `private`"),
                "slot-id" => f.write_str("`slot-id` in the PKCS#11 URI is not a number"),
                "pin-source" => f.write_str("`pin-source` in the PKCS#11 URI is neither `file:` nor an absolute path"),
                "pin-value" => f.write_str("the PKCS#11 URI has both `pin-value` and `pin-source`"),
                name => write!(f, "`{name}` in the PKCS#11 URI is not UTF-8"),
            },
            UriError::NotInQuery(name) => write!(f, "`{name}` in the PKCS#11 URI must be behind a `?`"),
            UriError::NotSupported(name) => write!(f, "`{name}` in the PKCS#11 URI is not supported"),
        }
    }
}

impl std::error::Error for UriError {}

/// The attributes of the query that are understood.
const PINS: [&str; 2] = ["pin-value", "pin-source"];

/// What the URI looks for, and where its PIN is.
pub(super) fn parse(uri: &str) -> Result<(Wanted, Option<Pin>), UriError> {
    let rest = uri.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((wanted(path)?, pin(query)?))
}

fn wanted(path: &str) -> Result<Wanted, UriError> {
    let mut wanted = Wanted::default();
    let attributes = attributes(path, ';')?;
    for (at, &(name, value)) in attributes.iter().enumerate() {
        if attributes[..at].iter().any(|(before, _)| *before == name) {
            return Err(UriError::Twice(name.into()));
        }
        // A PIN whose `?` was forgotten would be a part of a name, and names are printed.
        for pin in PINS {
            if name == pin || value.contains(&format!("&{pin}=")) {
                return Err(UriError::NotInQuery(pin.into()));
            }
        }
        match name {
            "token" => wanted.token = Some(text(name, value)?),
            "serial" => wanted.serial = Some(text(name, value)?),
            "manufacturer" => wanted.manufacturer = Some(text(name, value)?),
            "model" => wanted.model = Some(text(name, value)?),
            "object" => wanted.label = Some(text(name, value)?),
            "id" => wanted.id = Some(decoded(name, value)?.to_vec()),
            "slot-id" => {
                let digits = Some(value).filter(|value| value.bytes().all(|digit| digit.is_ascii_digit()));
                let number = digits.and_then(|digits| digits.parse().ok());
                wanted.slot_id = Some(number.ok_or_else(|| UriError::Value(name.into()))?);
            }
            "type" if value == "private" => {}
            "type" => return Err(UriError::Value(name.into())),
            _ => return Err(UriError::NotSupported(name.into())),
        }
    }
    Ok(wanted)
}

/// Other attributes than the PIN's name the module, which the caller has loaded, or belong to a vendor. They do not
/// say which key is meant.
fn pin(query: &str) -> Result<Option<Pin>, UriError> {
    let mut pin = None;
    for (name, value) in attributes(query, '&')? {
        let found = match name {
            "pin-value" => {
                let value = decoded(name, value)?;
                let value = std::str::from_utf8(&value).map_err(|_| UriError::Character(name.into()))?;
                Pin::Value(AuthPin::new(value.into()))
            }
            "pin-source" => {
                let source = text(name, value)?;
                let path = source.strip_prefix("file:").unwrap_or(&source);
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return Err(UriError::Value(name.into()));
                }
                Pin::File(PathBuf::from(path))
            }
            _ => continue,
        };
        match (pin.replace(found), &pin) {
            (None, _) => {}
            (Some(Pin::Value(_)), Some(Pin::Value(_))) | (Some(Pin::File(_)), Some(Pin::File(_))) => {
                return Err(UriError::Twice(name.into()));
            }
            _ => return Err(UriError::Value("pin-value".into())),
        }
    }
    Ok(pin)
}

fn attributes(list: &str, separator: char) -> Result<Vec<(&str, &str)>, UriError> {
    let parts = list.split(separator).filter(|_| !list.is_empty());
    parts
        .map(|part| part.split_once('=').ok_or(UriError::NoValue))
        .collect()
}

fn text(name: &str, value: &str) -> Result<String, UriError> {
    String::from_utf8(decoded(name, value)?.to_vec()).map_err(|_| UriError::Value(name.into()))
}

fn decoded(name: &str, value: &str) -> Result<Zeroizing<Vec<u8>>, UriError> {
    let wrong = || UriError::Character(name.into());
    // The capacity is enough, so that no piece of a PIN stays behind in a buffer that was too small.
    let mut decoded = Zeroizing::new(Vec::with_capacity(value.len()));
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || {
                    bytes
                        .next()
                        .and_then(|digit| char::from(digit).to_digit(16))
                        .ok_or_else(wrong)
                };
                (digit()? * 16 + digit()?) as u8
            }
            _ if is_plain(byte) => byte,
            _ => return Err(wrong()),
        });
    }
    Ok(decoded)
}

/// What may stand for itself in an attribute: RFC 7512, `pk11-pchar` and `pk11-qchar`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]@!$'()*+,=&/?|".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(uri: &str) -> UriError {
        match parse(uri) {
            Err(error) => error,
            Ok((wanted, _)) => panic!("{uri}: {wanted:?}"),
        }
    }

    #[test]
    fn each_attribute_is_decoded() {
        let uri = "pkcs11:token=My%20token;serial=0a;manufacturer=m;model=M2;object=k%C3%A4y;id=%01%ff7;slot-id=18;\
                   type=private?module-name=x&x-vendor=%00";
        let (wanted, pin) = parse(uri).expect("a good URI");
        assert!(pin.is_none());
        let expected = Wanted {
            token: Some("My token".into()),
            serial: Some("0a".into()),
            manufacturer: Some("m".into()),
            model: Some("M2".into()),
            slot_id: Some(18),
            label: Some("k\u{e4}y".into()),
            id: Some(vec![1, 0xff, b'7']),
        };
        assert_eq!(wanted, expected);
        assert_eq!(parse("pkcs11:").expect("it fits every key").0, Wanted::default());
    }

    #[test]
    fn the_pin_is_found_and_not_printed() {
        let file = |uri: &str| match parse(uri).expect("a good URI").1 {
            Some(Pin::File(path)) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(file("pkcs11:?pin-source=file:/run/p%20n"), PathBuf::from("/run/p n"));
        assert_eq!(file("pkcs11:?pin-source=file:///run/pin"), PathBuf::from("/run/pin"));
        assert_eq!(file("pkcs11:?pin-source=/run/pin"), PathBuf::from("/run/pin"));
        let (_, pin) = parse("pkcs11:token=t?pin-value=12%334").expect("a good URI");
        assert!(matches!(pin, Some(Pin::Value(_))));
        assert!(!format!("{pin:?}").contains("1234"), "{pin:?}");
    }

    #[test]
    fn what_is_not_a_uri_is_refused_by_name() {
        let name = String::from;
        let cases = [
            ("token=t", UriError::Scheme),
            ("PKCS11:token=t", UriError::Scheme),
            ("pkcs11:token", UriError::NoValue),
            ("pkcs11:token=t;", UriError::NoValue),
            ("pkcs11:token=t;token=t", UriError::Twice(name("token"))),
            ("pkcs11:type=private;type=private", UriError::Twice(name("type"))),
            ("pkcs11:token=t;pin-value=1", UriError::NotInQuery(name("pin-value"))),
            ("pkcs11:object=k&pin-value=1", UriError::NotInQuery(name("pin-value"))),
            ("pkcs11:token=t&pin-source=/p", UriError::NotInQuery(name("pin-source"))),
            ("pkcs11:token=t;;object=k", UriError::NoValue),
            (
                "pkcs11:token=t?pin-value=1#part",
                UriError::Character(name("pin-value")),
            ),
            (
                "pkcs11:token=t?pin-source=file://host/p",
                UriError::Value(name("pin-source")),
            ),
            ("pkcs11:token=t?pin-source=p", UriError::Value(name("pin-source"))),
            ("pkcs11:token=t?pin-source=%7Ccat", UriError::Value(name("pin-source"))),
            ("pkcs11:slot-id=99999999999999999999", UriError::Value(name("slot-id"))),
            ("pkcs11:token=a b", UriError::Character(name("token"))),
            ("pkcs11:token=%4", UriError::Character(name("token"))),
            ("pkcs11:token=%+4", UriError::Character(name("token"))),
            ("pkcs11:token=%ff", UriError::Value(name("token"))),
            ("pkcs11:slot-id=+1", UriError::Value(name("slot-id"))),
            ("pkcs11:slot-id=", UriError::Value(name("slot-id"))),
            ("pkcs11:type=cert", UriError::Value(name("type"))),
            (
                "pkcs11:library-version=3",
                UriError::NotSupported(name("library-version")),
            ),
            ("pkcs11:Token=t", UriError::NotSupported(name("Token"))),
            ("pkcs11:?pin-source=|cat", UriError::Value(name("pin-source"))),
            ("pkcs11:?pin-value=1&pin-value=2", UriError::Twice(name("pin-value"))),
            ("pkcs11:?pin-value=1&pin-source=/p", UriError::Value(name("pin-value"))),
            ("pkcs11:?pin-value=1 2", UriError::Character(name("pin-value"))),
        ];
        for (uri, expected) in cases {
            assert_eq!(error(uri), expected, "{uri}");
        }
    }
}
