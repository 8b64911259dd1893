//! Encodings on disk and on the wire: a format byte, then postcard.
//!
//! postcard is positional: fields and variants are only ever added at the end, and any other change
//! raises the format byte.

use std::collections::BTreeSet;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vaultdb_kv::NodeId;
use vaultdb_storage::log::Payload;

use crate::types::{lasting_learners, EntryPayload, Membership, SharedCommand, WireMembership};

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
    /// As `Membership`, and which of its learners stay learners.
    MembershipWithLearners(WireMembership, BTreeSet<NodeId>),
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
            LogPayload::Blank | LogPayload::Membership(_) | LogPayload::MembershipWithLearners(..) => 0,
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
            EntryPayload::Membership(m) => match lasting_learners(&m) {
                none if none.is_empty() => LogPayload::Membership(WireMembership::from(&m)),
                lasting => LogPayload::MembershipWithLearners(WireMembership::from(&m), lasting),
            },
        }
    }
}

impl TryFrom<LogPayload> for EntryPayload {
    type Error = io::Error;

    fn try_from(payload: LogPayload) -> io::Result<Self> {
        Ok(match payload {
            LogPayload::Blank => EntryPayload::Blank,
            LogPayload::Command(command) => EntryPayload::Normal(command),
            LogPayload::Membership(m) => EntryPayload::Membership(m.with_learners(&BTreeSet::new())?),
            LogPayload::MembershipWithLearners(m, lasting) => {
                EntryPayload::Membership(m.with_learners(&lasting)?)
            }
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

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The value at the beginning, and the bytes behind it.
fn take<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::take_from_bytes(rest).map_err(|e| invalid(e.to_string())),
        Some((other, _)) => Err(invalid(format!("format {other} is not one this version reads"))),
        None => Err(invalid("no bytes".into())),
    }
}

/// # Errors
/// `InvalidData` when the format is unknown, the bytes are not an encoding of `T`, or some are left.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match take(bytes)? {
        (value, []) => Ok(value),
        (_, left) => Err(invalid(format!("{} bytes are left after the value", left.len()))),
    }
}

/// The membership as the state machine keeps it: a [`WireMembership`] and, only if there are any, the
/// learners that stay learners as an encoding of their own.
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = encode(&WireMembership::from(membership));
    let lasting = lasting_learners(membership);
    if !lasting.is_empty() {
        out.extend(encode(&lasting));
    }
    out
}

/// # Errors
/// `InvalidData` when it is not what [`encode_membership`] makes.
pub fn decode_membership(bytes: &[u8]) -> io::Result<Membership> {
    let (membership, rest): (WireMembership, _) = take(bytes)?;
    let lasting = if rest.is_empty() { BTreeSet::new() } else { decode(rest)? };
    membership.with_learners(&lasting)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use vaultdb_kv::{Command, Key};

    use super::*;
    use crate::types::PeerNode;

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

    /// Which learners stay learners survives the log and the state machine; without any, both are as
    /// they were before there were such learners.
    #[test]
    fn lasting_learners_survive() {
        let node = |stays_learner| PeerNode { name: "n".into(), stays_learner, ..PeerNode::default() };
        let voters = vec![BTreeSet::from([1])];
        let plain = Membership::new(voters.clone(), BTreeMap::from([(1, node(false))])).expect("valid");
        assert_eq!(encode_membership(&plain), encode(&WireMembership::from(&plain)));
        let payload = LogPayload::from(EntryPayload::Membership(plain));
        assert!(matches!(payload, LogPayload::Membership(_)));

        let nodes = BTreeMap::from([(1, node(false)), (2, node(true))]);
        let lasting = Membership::new(voters, nodes).expect("valid");
        let stored = encode_membership(&lasting);
        assert_eq!(decode_membership(&stored).expect("decode"), lasting);
        for cut in 0..stored.len() {
            assert_ne!(decode_membership(&stored[..cut]).ok().as_ref(), Some(&lasting), "cut at {cut}");
        }
        let bytes = encode(&LogPayload::from(EntryPayload::Membership(lasting.clone())));
        let back = EntryPayload::try_from(decode::<LogPayload>(&bytes).expect("decode")).expect("valid");
        assert_eq!(back, EntryPayload::Membership(lasting));
    }
}
