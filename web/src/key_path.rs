//! Keys as they stand in a path: percent-encoded bytes, decoded exactly once.
//!
//! Works on the path as it came over the wire. actix-web's own match info is decoded in part and
//! repaired to UTF-8, which would merge different keys.

use bytes::Bytes;
use vaultdb_kv::{BadInput, Key};

use crate::problem::{Code, Problem};

/// Longest piece of a client's input that an error repeats, in bytes.
const ECHO_BYTES_MAX: usize = 128;

/// Decodes the part of a path behind the route's prefix into a key.
///
/// # Errors
/// 400 `invalid_key` for an empty key or a malformed escape, 413 `key_too_large`.
pub(crate) fn key_from_path(raw: &str) -> Result<Key, Problem> {
    Ok(Key::new(decode_key(raw)?)?)
}

/// As [`key_from_path`], for routes whose answer names the key in JSON.
///
/// # Errors
/// Also 400 `invalid_key` when the key is not UTF-8.
pub(crate) fn text_key_from_path(raw: &str) -> Result<Key, Problem> {
    let key = key_from_path(raw)?;
    match std::str::from_utf8(key.as_bytes()) {
        Ok(_) => Ok(key),
        Err(error) => Err(Problem::new(
            Code::InvalidKey,
            format!(
                "the key is not UTF-8 at byte {}: JSON cannot name it, use /v1/kv/{{key}}",
                error.valid_up_to()
            ),
        )),
    }
}

fn decode_key(raw: &str) -> Result<Bytes, Problem> {
    percent_decode(raw).map_err(|at| {
        let rest: String = raw[at..].chars().take(3).collect();
        Problem::new(
            Code::InvalidKey,
            format!(
                "\"{}\" at byte {at} of the encoded key is not a percent-encoded byte: write % as %25",
                rest.escape_debug()
            ),
        )
    })
}

/// Decodes `%XX`; every other byte, `+` too, stands for itself.
///
/// # Errors
/// The position of a `%` that two hexadecimal digits do not follow.
pub(crate) fn percent_decode(raw: &str) -> Result<Bytes, usize> {
    let bytes = raw.as_bytes();
    let Some(first) = bytes.iter().position(|&b| b == b'%') else {
        return Ok(Bytes::copy_from_slice(bytes));
    };
    let mut decoded = Vec::with_capacity(bytes.len());
    decoded.extend_from_slice(&bytes[..first]);
    let mut at = first;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let high = bytes.get(at + 1).and_then(|b| hex(*b)).ok_or(at)?;
            let low = bytes.get(at + 2).and_then(|b| hex(*b)).ok_or(at)?;
            decoded.push(high << 4 | low);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    Ok(decoded.into())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A key as an error may repeat it: printable and of bounded length.
pub(crate) fn echo(bytes: &[u8]) -> String {
    if bytes.len() <= ECHO_BYTES_MAX {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    format!("\"{}…\"", bytes[..ECHO_BYTES_MAX].escape_ascii())
}

impl From<BadInput> for Problem {
    fn from(bad: BadInput) -> Self {
        let (code, limit) = match &bad {
            BadInput::EmptyKey => (Code::InvalidKey, None),
            BadInput::KeyTooLarge { .. } => (Code::KeyTooLarge, Some(vaultdb_kv::limits::KEY_BYTES_MAX)),
            BadInput::ValueTooLarge { limit, .. } => (Code::ValueTooLarge, Some(*limit)),
            BadInput::TooManyPairs { .. } => (Code::BatchTooLarge, Some(vaultdb_kv::limits::BATCH_PAIRS_MAX)),
            BadInput::BatchTooLarge { .. } => {
                (Code::BatchTooLarge, Some(vaultdb_kv::limits::BATCH_BYTES_MAX))
            }
            BadInput::EmptyBatch => (Code::InvalidJson, None),
            BadInput::TooManyTags { .. } => {
                (Code::InvalidParameter, Some(vaultdb_kv::limits::CONDITION_TAGS_MAX))
            }
            BadInput::IdempotencyKey
            | BadInput::NodeName { .. }
            | BadInput::Address { .. }
            | BadInput::Parameter { .. } => (Code::InvalidParameter, None),
        };
        let mut problem = Problem::new(code, bad.to_string());
        problem.limit = limit.map(|limit| limit as u64);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decoding happens once, keeps every byte, and refuses what is not an escape.
    #[test]
    fn decodes_once() {
        let cases: [(&str, &[u8]); 8] = [
            ("plain", b"plain"),
            ("a%2Fb", b"a/b"),
            ("a%2fb", b"a/b"),
            ("%00", b"\0"),
            ("%FF%fe", b"\xff\xfe"),
            ("%25", b"%"),
            ("%2525", b"%25"),
            ("a+b/../c//", b"a+b/../c//"),
        ];
        for (raw, want) in cases {
            assert_eq!(percent_decode(raw).as_deref(), Ok(want), "{raw}");
        }
        for (raw, at) in [("%", 0), ("a%", 1), ("a%2", 1), ("%zz", 0), ("%2g", 0), ("%25%+1", 3), ("%ü", 0)]
        {
            assert_eq!(percent_decode(raw), Err(at), "{raw}");
        }
    }

    /// An error repeats a bounded, printable piece of the input.
    #[test]
    fn echo_is_bounded() {
        assert_eq!(echo(b"a\n\xff"), r#""a\n\xff""#);
        assert!(echo(&[b'k'; 4096]).len() < ECHO_BYTES_MAX + 8);
    }
}
