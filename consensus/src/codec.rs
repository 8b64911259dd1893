//! Encodings on disk and on the wire: a format byte, then postcard.
//!
//! postcard is positional: fields and variants are only ever added at the end, and any other change
//! raises the format byte.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vaultdb_storage::log::Payload;

use crate::types::{EntryPayload, Membership, SharedCommand, WireMembership};

/// Format of everything this module writes.
const FORMAT: u8 = 1;
/// What an entry weighs in memory besides its keys and values, in bytes: an estimate.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// What a log entry carries, as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPayload {
    Blank,
    Command(SharedCommand),
    Membership(WireMembership),
}

impl Payload for LogPayload {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_into(self, out);
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        decode(bytes)
    }

    fn weight(&self) -> usize {
        let own = match self {
            LogPayload::Blank | LogPayload::Membership(_) => 0,
            LogPayload::Command(command) => command.0.payload_bytes(),
        };
        own + ENTRY_OVERHEAD_BYTES
    }
}

impl From<EntryPayload> for LogPayload {
    fn from(payload: EntryPayload) -> Self {
        match payload {
            EntryPayload::Blank => LogPayload::Blank,
            EntryPayload::Normal(command) => LogPayload::Command(command),
            EntryPayload::Membership(m) => LogPayload::Membership(WireMembership::from(&m)),
        }
    }
}

impl TryFrom<LogPayload> for EntryPayload {
    type Error = io::Error;

    fn try_from(payload: LogPayload) -> io::Result<Self> {
        Ok(match payload {
            LogPayload::Blank => EntryPayload::Blank,
            LogPayload::Command(command) => EntryPayload::Normal(command),
            LogPayload::Membership(m) => EntryPayload::Membership(Membership::try_from(m)?),
        })
    }
}

/// Appends the format byte and the encoding of `value`.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    out.push(FORMAT);
    let buffer = std::mem::take(out);
    *out = postcard::to_extend(value, buffer).expect("encoding plain data into memory cannot fail");
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// # Errors
/// `InvalidData` when the format is unknown, the bytes are not an encoding of `T`, or some are left.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    match bytes.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, left)) => Err(invalid(format!("{} bytes are left after the value", left.len()))),
            Err(e) => Err(invalid(e.to_string())),
        },
        Some((other, _)) => Err(invalid(format!("format {other} is not one this version reads"))),
        None => Err(invalid("no bytes".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vaultdb_kv::{Command, Key};

    use super::*;

    /// What is stored is pinned byte for byte, and damage is an error, never a panic.
    #[test]
    fn entries_are_pinned_and_damage_is_refused() {
        let command = Command::Delete { key: Key::new("k").expect("key") };
        let payload = LogPayload::Command(SharedCommand::new(Arc::new(command)));
        let bytes = encode(&payload);
        assert_eq!(bytes, [1, 1, 1, 1, b'k']);
        assert_eq!(decode::<LogPayload>(&bytes).expect("decode"), payload);
        for cut in 0..bytes.len() {
            assert!(decode::<LogPayload>(&bytes[..cut]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<LogPayload>(&longer).is_err());
        assert!(decode::<LogPayload>(&[2, 0]).is_err());
    }
}
