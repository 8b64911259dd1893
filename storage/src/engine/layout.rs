//! How keys and values look inside the engine's one key space.
//!
//! ```text
//! 0x00 'a'          applied log id and revision     written with every run
//! 0x00 'c'          clock of the named writes
//! 0x00 'h'          chain of hashes and the index it is at   written with every run
//! 0x00 'i' index    answer to the named write at that log index (u64, big endian)
//! 0x00 'm'          membership and its log id
//! 0x00 'n'          highest node id ever allotted
//! 0x00 'r' name     latest registration of a name
//! 0x00 't' term     first applied index of that term (u64, big endian)
//! 0x01 key          version byte, revision (u64, big endian), value
//! ```
//! Values under 0x00 are a version byte and a postcard encoding. One key space means one memtable, so
//! that a flush can never persist the data without its applied id or the other way round.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::Serialize;
use vaultdb_kv::{KeyBounds, Revision, Versioned};

use crate::error::StorageError;

pub(crate) const APPLIED: &[u8] = &[0x00, b'a'];
pub(crate) const CLOCK: &[u8] = &[0x00, b'c'];
pub(crate) const CHAIN: &[u8] = &[0x00, b'h'];
pub(crate) const ATTEMPT: &[u8] = &[0x00, b'i'];
pub(crate) const MEMBERSHIP: &[u8] = &[0x00, b'm'];
pub(crate) const LAST_NODE_ID: &[u8] = &[0x00, b'n'];
pub(crate) const REGISTRATION: &[u8] = &[0x00, b'r'];
pub(crate) const TERM: &[u8] = &[0x00, b't'];

pub(crate) const DATA: u8 = 0x01;
/// Follows everything stored under [`DATA`].
const AFTER_DATA: &[u8] = &[DATA + 1];
const META_VERSION: u8 = 1;
const VALUE_VERSION: u8 = 1;
const VALUE_HEADER_BYTES: usize = 1 + 8;
/// Keys up to this long get their prefix on the stack.
const STACK_KEY_BYTES: usize = 128;

/// Calls `then` with the engine's key of a user's key.
pub(crate) fn with_data_key<T>(key: &[u8], then: impl FnOnce(&[u8]) -> T) -> T {
    let len = key.len() + 1;
    if len <= STACK_KEY_BYTES {
        let mut buffer = [DATA; STACK_KEY_BYTES];
        buffer[1..len].copy_from_slice(key);
        then(&buffer[..len])
    } else {
        let mut buffer = Vec::with_capacity(len);
        buffer.push(DATA);
        buffer.extend_from_slice(key);
        then(&buffer)
    }
}

/// The engine's bounds of the user's keys within bounds: the lower one inclusive, the upper one exclusive.
pub(crate) fn data_bounds(bounds: &KeyBounds) -> (Vec<u8>, Vec<u8>) {
    let under = |key: &Vec<u8>| [&[DATA], key.as_slice()].concat();
    (under(&bounds.lower), bounds.upper.as_ref().map_or(AFTER_DATA.to_vec(), under))
}

/// The user's key of an engine's key within [`data_bounds`].
pub(crate) fn user_key(key: &[u8]) -> Result<&[u8], StorageError> {
    match key.split_first() {
        Some((&DATA, user)) if !user.is_empty() => Ok(user),
        _ => Err(StorageError::corrupt("a stored key", format!("\"{}\"", key.escape_ascii()))),
    }
}

pub(crate) fn registration_key(name: &str) -> Vec<u8> {
    [REGISTRATION, name.as_bytes()].concat()
}

/// The key under `prefix` of a number: keys are in the order of their numbers.
pub(crate) fn numbered_key(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

/// The number of a key under a prefix, which was taken off.
pub(crate) fn decode_number(what: &str, stored: &[u8]) -> Result<u64, StorageError> {
    let bytes = stored.try_into();
    let bytes =
        bytes.map_err(|_| StorageError::corrupt(what, format!("its key has {} bytes", stored.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Replaces the content of `out` with the encoding of a value.
pub(crate) fn encode_value(revision: Revision, value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(VALUE_HEADER_BYTES + value.len());
    out.push(VALUE_VERSION);
    out.extend_from_slice(&revision.to_be_bytes());
    out.extend_from_slice(value);
}

pub(crate) fn decode_value(stored: &[u8]) -> Result<Versioned, StorageError> {
    let (revision, value) = split_value(stored)?;
    Ok(Versioned { value: Bytes::copy_from_slice(value), revision })
}

/// The revision of a stored value, without a copy of the rest.
pub(crate) fn decode_revision(stored: &[u8]) -> Result<Revision, StorageError> {
    Ok(split_value(stored)?.0)
}

/// Revision and value, without a copy.
pub(crate) fn split_value(stored: &[u8]) -> Result<(Revision, &[u8]), StorageError> {
    let (header, value) = stored
        .split_at_checked(VALUE_HEADER_BYTES)
        .ok_or_else(|| StorageError::corrupt("a stored value", format!("it has {} bytes", stored.len())))?;
    if header[0] != VALUE_VERSION {
        return Err(StorageError::corrupt("a stored value", format!("unknown format {}", header[0])));
    }
    let mut revision = [0; 8];
    revision.copy_from_slice(&header[1..]);
    Ok((Revision::from_be_bytes(revision), value))
}

pub(crate) fn encode_meta<T: Serialize>(value: &T) -> Vec<u8> {
    encode_as(META_VERSION, value)
}

pub(crate) fn decode_meta<T: DeserializeOwned>(what: &str, stored: &[u8]) -> Result<T, StorageError> {
    decode_as(META_VERSION, what, stored)
}

/// A version byte and the encoding.
pub(crate) fn encode_as<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![version]).expect("writing to a vector cannot fail")
}

/// What [`encode_as`] made with the same version.
pub(crate) fn decode_as<T: DeserializeOwned>(
    expected: u8,
    what: &str,
    stored: &[u8],
) -> Result<T, StorageError> {
    match stored.split_first() {
        Some((version, body)) if *version == expected => {
            postcard::from_bytes(body).map_err(|error| StorageError::corrupt(what, error))
        }
        Some((version, _)) => Err(StorageError::corrupt(what, format!("unknown format {version}"))),
        None => Err(StorageError::corrupt(what, "it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes on disk are pinned: a change of them would make old data unreadable.
    #[test]
    fn layout_is_pinned() {
        let mut value = Vec::new();
        encode_value(258, b"v", &mut value);
        assert_eq!(value, [1, 0, 0, 0, 0, 0, 0, 1, 2, b'v']);
        let decoded = decode_value(&value).expect("just encoded");
        assert_eq!((decoded.revision, decoded.value.as_ref()), (258, b"v".as_ref()));
        assert_eq!(decode_revision(&value).expect("just encoded"), 258);
        assert_eq!(encode_meta(&(Some(7u64), 1u64)), [1, 1, 7, 1]);
        assert_eq!(numbered_key(TERM, 258), [0, b't', 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode_number("it", &numbered_key(TERM, 258)[2..]).expect("just encoded"), 258);
        with_data_key(b"k", |key| assert_eq!(key, [1, b'k']));
        let all = data_bounds(&KeyBounds { lower: vec![], upper: None });
        assert_eq!(all, (vec![1], vec![2]));
        let some = data_bounds(&KeyBounds { lower: b"a".to_vec(), upper: Some(b"b".to_vec()) });
        assert_eq!(some, (vec![1, b'a'], vec![1, b'b']));
        assert_eq!(user_key(&[1, b'k']).expect("a data key"), b"k");
        with_data_key(&[b'k'; 300], |key| assert_eq!((key.len(), key[0], key[300]), (301, 1, b'k')));
    }

    /// A value that this version did not write is corrupt, not a guess.
    #[test]
    fn foreign_bytes_are_refused() {
        for bad in [&[][..], &[1, 0, 0], &[2, 0, 0, 0, 0, 0, 0, 0, 1, b'v']] {
            assert!(matches!(decode_value(bad), Err(StorageError::Corrupt { .. })), "{bad:?}");
        }
        for bad in [&[][..], &[0, b'a'], &[1], &[2, 1]] {
            assert!(matches!(user_key(bad), Err(StorageError::Corrupt { .. })), "{bad:?}");
        }
        for bad in [&[][..], &[9, 1], &[1]] {
            let decoded: Result<(u64, u64), _> = decode_meta("it", bad);
            assert!(matches!(decoded, Err(StorageError::Corrupt { .. })), "{bad:?}");
        }
    }
}
