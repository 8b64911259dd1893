//! How log ids, votes and payloads look inside raft-log's records, which carry a CRC-32 each.
//!
//! A payload has a header with a checksum of its own. Without it a damaged length would make a record
//! in the middle of the log look like the incomplete last one, and all that follows be cut off.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::io::{self, Read};
use std::marker::PhantomData;

use raft_log::codeq::{Decode, Encode};

use super::delivery::Mark;
use crate::log::Payload;
use crate::log_rules;
use crate::types::{LogId, Vote};

const PAYLOAD_VERSION: u8 = 1;
const VERSION_AND_LENGTH_BYTES: usize = 1 + 4;
const HEADER_BYTES: usize = VERSION_AND_LENGTH_BYTES + 4;

/// raft-log's set of types for payloads `P`.
pub(crate) struct WalTypes<P>(PhantomData<fn() -> P>);

// By hand: derived, they would ask the same of `P`.
impl<P> Debug for WalTypes<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WalTypes")
    }
}

impl<P> Default for WalTypes<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<P> Clone for WalTypes<P> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<P> PartialEq for WalTypes<P> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<P> Eq for WalTypes<P> {}

impl<P: Payload> raft_log::Types for WalTypes<P> {
    type LogId = WalLogId;
    type LogPayload = WalPayload<P>;
    type Vote = WalVote;
    type Callback = Mark;
    type UserData = ();

    fn log_index(log_id: &WalLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &WalPayload<P>) -> u64 {
        payload.0.weight() as u64
    }
}

/// Term, then index, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WalLogId(pub(crate) LogId);

impl Encode for WalLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.0.term.encode(&mut w)? + self.0.index.encode(&mut w)?)
    }
}

impl Decode for WalLogId {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        Ok(Self(LogId { term: u64::decode(&mut r)?, index: u64::decode(&mut r)? }))
    }
}

/// Term, node id, whether it won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalVote(pub(crate) Vote);

/// raft-log accepts a vote that is not less than the one before.
impl PartialOrd for WalVote {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            Some(Ordering::Equal)
        } else if log_rules::vote_may_follow(self.0, other.0) {
            Some(Ordering::Less)
        } else if log_rules::vote_may_follow(other.0, self.0) {
            Some(Ordering::Greater)
        } else {
            None
        }
    }
}

impl Encode for WalVote {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let vote = self.0;
        Ok(vote.term.encode(&mut w)?
            + vote.node_id.encode(&mut w)?
            + u8::from(vote.committed).encode(&mut w)?)
    }
}

impl Decode for WalVote {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let (term, node_id) = (u64::decode(&mut r)?, u64::decode(&mut r)?);
        let committed = match u8::decode(&mut r)? {
            0 => false,
            1 => true,
            other => return Err(damaged(format!("a vote cannot be committed: {other}"))),
        };
        Ok(Self(Vote { term, node_id, committed }))
    }
}

/// Version, length, CRC-32 of these two, then the payload's own encoding.
#[derive(Debug, Clone)]
pub(crate) struct WalPayload<P>(pub(crate) P);

impl<P: Payload> Encode for WalPayload<P> {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let mut record = Vec::with_capacity(HEADER_BYTES + self.0.weight());
        record.resize(HEADER_BYTES, 0);
        self.0.encode(&mut record);
        let len = u32::try_from(record.len() - HEADER_BYTES)
            .map_err(|_| log_rules::refused(format!("an entry of {} bytes is too large", record.len())))?;
        record[0] = PAYLOAD_VERSION;
        record[1..VERSION_AND_LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
        let crc = crc32fast::hash(&record[..VERSION_AND_LENGTH_BYTES]);
        record[VERSION_AND_LENGTH_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
        w.write_all(&record)?;
        Ok(record.len())
    }
}

impl<P: Payload> Decode for WalPayload<P> {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        r.read_exact(&mut header)?;
        let len = payload_bytes(&header)?;
        let mut body = Vec::new();
        let read = r.take(u64::from(len)).read_to_end(&mut body)?;
        if read < len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Whatever a payload reports, a whole record that it cannot read is damaged, never incomplete.
        P::decode(&body).map(Self).map_err(|error| damaged(format!("an entry cannot be read: {error}")))
    }
}

/// Size of the whole record of an entry that begins with `record`, as its header tells; `None` when it is
/// not one, or its header is damaged or cut off.
pub(crate) fn entry_record_bytes(record: &[u8]) -> Option<usize> {
    const APPEND: [u8; 4] = 1u32.to_be_bytes();
    const LOG_ID_BYTES: usize = 16;
    const RECORD_CRC_BYTES: usize = 8;
    let after_id = record.strip_prefix(&APPEND)?.get(LOG_ID_BYTES..)?;
    let len = payload_bytes(after_id.first_chunk()?).ok()?;
    Some(APPEND.len() + LOG_ID_BYTES + HEADER_BYTES + len as usize + RECORD_CRC_BYTES)
}

fn payload_bytes(header: &[u8; HEADER_BYTES]) -> io::Result<u32> {
    let (head, crc) = header.split_at(VERSION_AND_LENGTH_BYTES);
    if crc32fast::hash(head).to_be_bytes() != *crc {
        return Err(damaged("the header of an entry does not match its checksum".into()));
    }
    if head[0] != PAYLOAD_VERSION {
        return Err(damaged(format!("entry of unknown format {}", head[0])));
    }
    let mut len = [0; 4];
    len.copy_from_slice(&head[1..]);
    Ok(u32::from_be_bytes(len))
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
