//! The DER that keys outside the process need: tokens and agents give bare numbers and points, and TLS wants them
//! encoded.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

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
    let (&tag, rest) = der.split_first()?;
    let (&length, content) = rest.split_first()?;
    // A point of P-256 has 65 bytes: the short form of the length is enough.
    (tag == OCTET_STRING && length < 0x80 && content.len() == usize::from(length)).then_some(content)
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
        for wrong in [
            &[][..],
            &[0x04],
            &[0x04, 0x02, 7],
            &[0x04, 0x02, 7, 8, 9],
            &[0x03, 0x01, 0],
            &[0x04, 0x81, 0x01, 7],
        ] {
            assert_eq!(octet_string(wrong), None, "{wrong:02x?}");
        }
    }
}
