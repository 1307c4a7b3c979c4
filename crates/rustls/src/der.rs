//! The DER that keys outside the process need: tokens and agents give bare numbers and points, and TLS wants them
//! encoded.

const INTEGER: u8 = 0x02;
#[cfg(feature = "pkcs11")]
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
#[cfg(feature = "pkcs11")]
const NULL: u8 = 0x05;
const SEQUENCE: u8 = 0x30;
/// The tag of a certificate's version, which may be left out.
#[cfg(feature = "pkcs11")]
const VERSION: u8 = 0xa0;

/// `ECDSA-Sig-Value`: the form in which TLS wants the two numbers of an ECDSA signature (RFC 3279, 2.2.3).
///
/// `r` and `s` are unsigned, most significant byte first, with or without leading zeros. PKCS#11 gives them as two
/// halves of equal length, and the ssh-agent protocol as two `mpint`.
///
/// ```
/// let signature = asyncjob_rustls::ecdsa_signature(&[0x00, 0x01], &[0x80]);
/// assert_eq!(signature, [0x30, 0x07, 0x02, 0x01, 0x01, 0x02, 0x02, 0x00, 0x80]);
/// ```
pub fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    encoded(SEQUENCE, &[unsigned(r), unsigned(s)].concat())
}

/// `RSAPublicKey` (RFC 8017, A.1.1).
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code))]
pub(crate) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    encoded(SEQUENCE, &[unsigned(modulus), unsigned(exponent)].concat())
}

/// The content of an OCTET STRING. `None` if `der` is not exactly one OCTET STRING.
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code))]
pub(crate) fn octet_string(der: &[u8]) -> Option<&[u8]> {
    let (content, rest) = content(OCTET_STRING, der)?;
    rest.is_empty().then_some(content)
}

/// An OCTET STRING.
#[cfg(feature = "pkcs11")]
pub(crate) fn octet_string_of(content: &[u8]) -> Vec<u8> {
    encoded(OCTET_STRING, content)
}

/// `DigestInfo` (RFC 8017, 9.2): what a PKCS#1 signature signs. `hash` is the object identifier of the hash, in DER.
#[cfg(feature = "pkcs11")]
pub(crate) fn digest_info(hash: &[u8], digest: &[u8]) -> Vec<u8> {
    let algorithm = encoded(SEQUENCE, &[hash, &[NULL, 0]].concat());
    encoded(SEQUENCE, &[algorithm, encoded(OCTET_STRING, digest)].concat())
}

/// What a key in a token needs of its certificate. Each is a whole element in DER.
#[cfg(feature = "pkcs11")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Certificate<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) public_key_info: &'a [u8],
}

/// `Certificate` (RFC 5280, 4.1). `None` if `der` is none.
#[cfg(feature = "pkcs11")]
pub(crate) fn certificate(der: &[u8]) -> Option<Certificate<'_>> {
    let (signed, _) = content(SEQUENCE, der)?;
    let (mut fields, _) = content(SEQUENCE, signed)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = element(fields)?;
    }
    let mut next = || {
        let (found, rest) = element(fields)?;
        fields = rest;
        Some(found)
    };
    let (_serial, _algorithm) = (next()?, next()?);
    let issuer = next()?;
    let _validity = next()?;
    let subject = next()?;
    let public_key_info = next()?;
    Some(Certificate {
        issuer,
        subject,
        public_key_info,
    })
}

/// `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7): the content of its `AlgorithmIdentifier`, and the key. `None` if `der`
/// is not exactly one.
#[cfg(feature = "pkcs11")]
pub(crate) fn public_key_info(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (fields, after) = content(SEQUENCE, der)?;
    let (algorithm, rest) = content(SEQUENCE, fields)?;
    let (bits, end) = content(BIT_STRING, rest)?;
    // The first byte counts the bits that are not used: a key is whole bytes.
    let key = bits.strip_prefix(&[0])?;
    (after.is_empty() && end.is_empty()).then_some((algorithm, key))
}

/// The content of the first element, which has this tag, and what comes after it.
fn content(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = header(der)?;
    let content = der.get(header..header.checked_add(length)?)?;
    (der[0] == tag).then_some((content, &der[header + length..]))
}

/// The first element, with its header, and what comes after it.
#[cfg(feature = "pkcs11")]
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = header(der)?;
    der.split_at_checked(header.checked_add(length)?)
}

/// The lengths of the first element's header and content.
fn header(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, first));
    }
    let count = first - 0x80;
    let bytes = der.get(2..2 + count)?;
    // DER has one form of each length: the shortest. Four bytes are more than any certificate needs.
    let length = bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    let is_shortest = (1..=4).contains(&count) && bytes[0] != 0 && length >= 0x80;
    is_shortest.then_some((2 + count, length))
}

/// An INTEGER that is not negative: no leading zeros, except one before a high bit.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    let number = &number[start..];
    let padding = number.first().is_none_or(|&byte| byte >= 0x80);
    let content = [if padding { &[0][..] } else { &[] }, number].concat();
    encoded(INTEGER, &content)
}

fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    if content.len() < 0x80 {
        der.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().position(|&byte| byte != 0).unwrap_or(0)..];
        der.push(0x80 | length.len() as u8);
        der.extend(length);
    }
    der.extend(content);
    der
}

#[cfg(test)]
mod tests {
    use super::{ecdsa_signature, octet_string, rsa_public_key};

    #[test]
    fn a_number_is_never_read_as_negative_and_never_padded_twice() {
        let cases: [(&[u8], &[u8]); 5] = [
            (&[], &[0x02, 0x01, 0x00]),
            (&[0x00, 0x00], &[0x02, 0x01, 0x00]),
            (&[0x7f], &[0x02, 0x01, 0x7f]),
            (&[0x80], &[0x02, 0x02, 0x00, 0x80]),
            (&[0x00, 0x00, 0x80], &[0x02, 0x02, 0x00, 0x80]),
        ];
        for (number, integer) in cases {
            assert_eq!(super::unsigned(number), integer, "{number:02x?}");
        }
    }

    #[test]
    fn a_long_content_has_a_long_length() {
        let key = rsa_public_key(&[0x80; 256], &[0x01, 0x00, 0x01]);
        assert_eq!(key[..8], [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01]);
        assert_eq!(key.len(), 4 + 0x010a);
        let signature = ecdsa_signature(&[0xff; 66], &[0xff; 66]);
        assert_eq!(signature[..3], [0x30, 0x81, 2 * (2 + 67)]);
    }

    #[test]
    fn only_an_octet_string_is_taken_apart() {
        assert_eq!(octet_string(&[0x04, 0x02, 7, 8]), Some(&[7, 8][..]));
        // The point of a P-521 key needs the long form.
        let point = [&[0x04, 0x81, 0x85][..], &[7; 0x85]].concat();
        assert_eq!(octet_string(&point), Some(&[7; 0x85][..]));
        for wrong in [
            &[][..],
            &[0x04],
            &[0x04, 0x02, 7],
            &[0x04, 0x02, 7, 8, 9],
            &[0x03, 0x01, 0],
            &[0x04, 0x81, 0x01, 7],
            &[0x04, 0x80],
            &[0x04, 0x82, 0x00, 0x80],
            &[0x04, 0xff, 0xff],
        ] {
            assert_eq!(octet_string(wrong), None, "{wrong:02x?}");
        }
    }

    #[cfg(feature = "pkcs11")]
    #[test]
    fn a_certificate_is_taken_apart_and_its_pieces_never_panic() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["localhost".into()])
            .and_then(|parameters| parameters.self_signed(&key))
            .expect("a certificate");
        let der = certificate.der();
        let parts = super::certificate(der).expect("it is one");
        assert_eq!(parts.issuer, parts.subject);
        let (_, public) = super::public_key_info(parts.public_key_info).expect("it is one");
        assert_eq!(public, rcgen::PublicKeyData::der_bytes(&key));
        for end in 0..der.len() {
            assert_eq!(super::certificate(&der[..end]), None, "{end}");
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut changed = der.to_vec();
                changed[at] ^= 1 << bit;
                let info = super::certificate(&changed).map(|parts| parts.public_key_info);
                info.and_then(super::public_key_info); // either is fine
            }
        }
    }
}
