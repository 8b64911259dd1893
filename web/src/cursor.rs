//! Cursors: where a listing goes on, as text that a client only hands back.
//!
//! ```text
//! version byte, incarnation and number of the listing (u64 each, big endian), last key, CRC-32 of all that
//! ```
//! in base64url without padding. The checksum tells a cursor that was cut off from one of another key.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use vaultdb_kv::Key;

use crate::model::ListingId;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + 8;
const CHECKSUM_BYTES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) listing: ListingId,
    /// The last key that was given.
    pub(crate) after: Key,
}

/// Why a text is no cursor of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadCursor {
    Malformed,
    /// Whole, but written by another version of this server.
    Foreign,
}

impl Cursor {
    pub(crate) fn encode(&self) -> String {
        let key = self.after.as_bytes();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + CHECKSUM_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.listing.incarnation.to_be_bytes());
        bytes.extend_from_slice(&self.listing.number.to_be_bytes());
        bytes.extend_from_slice(key);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(crate) fn decode(text: &[u8]) -> Result<Self, BadCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor::Malformed)?;
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(BadCursor::Malformed)?;
        if crc32fast::hash(content) != u32::from_be_bytes(*checksum) {
            return Err(BadCursor::Malformed);
        }
        let (version, rest) = content.split_first().ok_or(BadCursor::Malformed)?;
        if *version != VERSION {
            return Err(BadCursor::Foreign);
        }
        let (incarnation, rest) = rest.split_first_chunk().ok_or(BadCursor::Malformed)?;
        let (number, key) = rest.split_first_chunk().ok_or(BadCursor::Malformed)?;
        let after = Key::new(key.to_vec()).map_err(|_| BadCursor::Malformed)?;
        let listing =
            ListingId { incarnation: u64::from_be_bytes(*incarnation), number: u64::from_be_bytes(*number) };
        Ok(Self { listing, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor comes back as it was, whatever the key holds, and needs no encoding in a query.
    #[test]
    fn cursors_come_back() {
        for key in [&b"k"[..], b"\0\xff/?&=+", &[b'k'; 4096]] {
            let listing = ListingId { incarnation: u64::MAX, number: 3 };
            let cursor = Cursor { listing, after: Key::new(key.to_vec()).expect("a key") };
            let text = cursor.encode();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            assert_eq!(Cursor::decode(text.as_bytes()), Ok(cursor));
        }
    }

    /// No part of a cursor, and no cursor with a letter changed, is taken for another cursor.
    #[test]
    fn damaged_cursors_are_refused() {
        let listing = ListingId { incarnation: 1, number: 2 };
        let text = Cursor { listing, after: Key::new("key").expect("a key") }.encode();
        for end in 0..text.len() {
            assert_eq!(Cursor::decode(&text.as_bytes()[..end]), Err(BadCursor::Malformed), "{end}");
            let mut changed = text.clone().into_bytes();
            changed[end] = if changed[end] == b'A' { b'B' } else { b'A' };
            assert_eq!(Cursor::decode(&changed), Err(BadCursor::Malformed), "{end}");
        }
        for text in ["", "?", "AAAA", "AAAAAAA=", "\u{e9}"] {
            assert_eq!(Cursor::decode(text.as_bytes()), Err(BadCursor::Malformed), "{text}");
        }
        let mut other = vec![VERSION + 1, 7];
        other.extend_from_slice(&crc32fast::hash(&other).to_be_bytes());
        assert_eq!(Cursor::decode(URL_SAFE_NO_PAD.encode(other).as_bytes()), Err(BadCursor::Foreign));
    }
}
