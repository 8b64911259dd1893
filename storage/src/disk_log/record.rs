//! What a batch is made of: records, each with a checksum of its header and one of its body, so that one that is
//! read back alone, for a follower that is far behind, is verified as well. Owns no file.
//!
//! ```text
//! 0    kind, u8
//! 1    body bytes, u32
//! 5    CRC-32C of the body
//! 9    CRC-32C of the nine bytes before
//! 13   body
//! ```

use crate::log_rules;
use crate::types::{LogId, Vote};

pub(crate) const HEADER_BYTES: usize = 13;
/// A whole record of the state.
pub(crate) const STATE_BYTES: usize = HEADER_BYTES + 1 + VOTE_BYTES + 3 * OPTIONAL_ID_BYTES;
/// Most bytes of an entry. Its place in a segment must fit into 32 bits.
pub(crate) const ENTRY_BYTES_MAX: usize = 1 << 30;

/// Grows when a log of an older version would be read wrongly.
const FORMAT_VERSION: u8 = 1;
const OPTIONAL_ID_BYTES: usize = 17;
/// Present, term, node id, committed.
const VOTE_BYTES: usize = 18;

const KIND_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_COMMITTED: u8 = 4;
const KIND_TRUNCATE: u8 = 5;
const KIND_PURGE: u8 = 6;

/// All that the log holds besides entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// The first of each segment: what was before it, so that earlier segments can be deleted.
    State(Facts),
    Entry(LogId, &'a [u8]),
    Vote(Vote),
    Committed(LogId),
    /// Nothing is left after this id, or nothing at all.
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// Appends a record that is no entry.
pub(crate) fn put(out: &mut Vec<u8>, record: &Record<'_>) {
    let at = begin(out);
    let kind = match record {
        Record::State(facts) => {
            out.push(FORMAT_VERSION);
            put_vote(out, facts.vote);
            for id in [facts.purged, facts.last, facts.committed] {
                put_optional(out, id);
            }
            KIND_STATE
        }
        Record::Entry(id, payload) => {
            put_id(out, *id);
            out.extend_from_slice(payload);
            KIND_ENTRY
        }
        Record::Vote(vote) => {
            put_vote(out, Some(*vote));
            KIND_VOTE
        }
        Record::Committed(id) => {
            put_optional(out, Some(*id));
            KIND_COMMITTED
        }
        Record::Truncate(id) => {
            put_optional(out, *id);
            KIND_TRUNCATE
        }
        Record::Purge(id) => {
            put_optional(out, Some(*id));
            KIND_PURGE
        }
    };
    end(out, at, kind);
}

/// Appends an entry whose payload `encode` writes.
///
/// # Errors
/// When the entry is too large.
pub(crate) fn put_entry(
    out: &mut Vec<u8>,
    id: LogId,
    encode: impl FnOnce(&mut Vec<u8>),
) -> std::io::Result<()> {
    let at = begin(out);
    put_id(out, id);
    encode(out);
    let bytes = out.len() - at - HEADER_BYTES;
    if bytes > ENTRY_BYTES_MAX {
        return Err(log_rules::refused(format!("an entry of {bytes} bytes is too large")));
    }
    end(out, at, KIND_ENTRY);
    Ok(())
}

fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    at
}

fn end(out: &mut [u8], at: usize, kind: u8) {
    let (header, body) = out[at..].split_at_mut(HEADER_BYTES);
    header[0] = kind;
    header[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[5..9].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc32c::crc32c(&header[..9]);
    header[9..].copy_from_slice(&crc.to_le_bytes());
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

fn put_optional(out: &mut Vec<u8>, id: Option<LogId>) {
    out.push(u8::from(id.is_some()));
    put_id(out, id.unwrap_or_default());
}

fn put_vote(out: &mut Vec<u8>, vote: Option<Vote>) {
    out.push(u8::from(vote.is_some()));
    let vote = vote.unwrap_or_default();
    out.extend_from_slice(&vote.term.to_le_bytes());
    out.extend_from_slice(&vote.node_id.to_le_bytes());
    out.push(u8::from(vote.committed));
}

/// Size of the whole record that `bytes` begins with.
///
/// # Errors
/// When its header is not what was written; `bytes` must hold all of that.
pub(crate) fn record_bytes(bytes: &[u8]) -> Result<usize, String> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("a record ends within its header")?;
    if crc32c::crc32c(&header[..9]).to_le_bytes() != header[9..] {
        return Err("the header of a record does not match its checksum".into());
    }
    Ok(HEADER_BYTES + u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize)
}

/// The record that `bytes` begins with, and its size.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), String> {
    let size = record_bytes(bytes)?;
    let mut body = bytes.get(HEADER_BYTES..size).ok_or("a record ends within its body")?;
    if crc32c::crc32c(body).to_le_bytes() != bytes[5..9] {
        return Err("the body of a record does not match its checksum".into());
    }
    let body = &mut body;
    let record = match bytes[0] {
        KIND_STATE => {
            let [version] = take(body)?;
            if version != FORMAT_VERSION {
                return Err(format!("format {version} of the log is unknown"));
            }
            let vote = take_vote(body)?;
            let (purged, last, committed) =
                (take_optional(body)?, take_optional(body)?, take_optional(body)?);
            Record::State(Facts { vote, purged, last, committed })
        }
        KIND_ENTRY => Record::Entry(take_id(body)?, std::mem::take(body)),
        KIND_VOTE => Record::Vote(take_vote(body)?.ok_or("a vote is missing")?),
        KIND_COMMITTED => Record::Committed(take_optional(body)?.ok_or("an id is missing")?),
        KIND_TRUNCATE => Record::Truncate(take_optional(body)?),
        KIND_PURGE => Record::Purge(take_optional(body)?.ok_or("an id is missing")?),
        kind => return Err(format!("a record of unknown kind {kind}")),
    };
    if !body.is_empty() {
        return Err(format!("{} bytes too many in a record", body.len()));
    }
    Ok((record, size))
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], String> {
    let (taken, rest) = body.split_first_chunk().ok_or("a record is too short")?;
    *body = rest;
    Ok(*taken)
}

fn take_id(body: &mut &[u8]) -> Result<LogId, String> {
    let id = LogId { term: u64::from_le_bytes(take(body)?), index: u64::from_le_bytes(take(body)?) };
    // No log comes so far, and whoever reads it may count on there being a next index.
    match id.index {
        u64::MAX => Err("an index without a next one".into()),
        _ => Ok(id),
    }
}

fn take_flag(body: &mut &[u8]) -> Result<bool, String> {
    match take(body)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(format!("a flag of {other}")),
    }
}

fn take_optional(body: &mut &[u8]) -> Result<Option<LogId>, String> {
    let present = take_flag(body)?;
    let id = take_id(body)?;
    Ok(present.then_some(id))
}

fn take_vote(body: &mut &[u8]) -> Result<Option<Vote>, String> {
    let present = take_flag(body)?;
    let (term, node_id) = (u64::from_le_bytes(take(body)?), u64::from_le_bytes(take(body)?));
    let committed = take_flag(body)?;
    Ok(present.then_some(Vote { term, node_id, committed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record<'static>> {
        let id = |term, index| LogId { term, index };
        let vote = Vote { term: 3, node_id: 7, committed: true };
        vec![
            Record::State(Facts::default()),
            Record::State(Facts {
                vote: Some(vote),
                purged: Some(id(1, 2)),
                last: Some(id(3, 4)),
                committed: Some(id(2, 3)),
            }),
            Record::Entry(id(3, 5), b"payload"),
            Record::Entry(id(3, 6), b""),
            Record::Vote(vote),
            Record::Committed(id(3, 5)),
            Record::Truncate(None),
            Record::Truncate(Some(id(3, 4))),
            Record::Purge(id(u64::MAX, u64::MAX - 1)),
        ]
    }

    /// Records are read back as they were written; with any bit changed, or cut anywhere, none is.
    #[test]
    fn whole_records_only() {
        for record in samples() {
            let mut bytes = Vec::new();
            put(&mut bytes, &record);
            assert_eq!(decode(&bytes), Ok((record, bytes.len())));
            if let Record::State(_) = record {
                assert_eq!(bytes.len(), STATE_BYTES);
            }
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length]).is_err(), "{record:?} cut at {length}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&changed).is_err(), "{record:?}, bit {bit}");
            }
        }
    }
}
