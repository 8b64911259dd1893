//! From the bytes of a backup to its keys, and to what is wrong with it.
//!
//! Invariant: nothing is told of a frame before its checksum was found right, and of the whole only once
//! its trailer was.

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

use super::{
    hex, BackupHeader, BackupSummary, BLOCK, BLOCK_BYTES_MAX, CHECKSUM_BYTES, FRAME_HEAD_BYTES, HEADER,
    HEADER_BYTES_MAX, MAGIC, RECORD_HEAD_BYTES, TRAILER, TRAILER_BYTES,
};
use crate::key::{Key, Versioned};
use crate::Revision;

/// A key of a backup.
pub type Record = (Key, Versioned);

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Header(BackupHeader),
    /// The next keys, in order.
    Block(Vec<Record>),
    /// The backup is whole.
    End(BackupSummary),
}

/// What is wrong, and where in the backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset}: {reason}")]
pub struct BackupDamage {
    /// Where the frame begins that is not what was written.
    pub offset: u64,
    pub reason: String,
}

/// Takes a backup apart. Give it [`BackupDecoder::wants`] bytes at a time.
#[derive(Debug)]
pub struct BackupDecoder {
    state: State,
    /// Bytes that were taken.
    offset: u64,
    /// Of the frames before this one.
    hash: Sha256,
    revision: Revision,
    keys: u64,
    last_key: Option<Key>,
}

#[derive(Debug)]
enum State {
    Magic,
    FrameHead,
    /// The head of a frame was read, which began at `begin`; `rest` is how much follows it.
    FrameRest {
        head: [u8; FRAME_HEAD_BYTES],
        begin: u64,
        rest: usize,
    },
    Ended,
}

impl Default for BackupDecoder {
    fn default() -> Self {
        Self { state: State::Magic, offset: 0, hash: Sha256::new(), revision: 0, keys: 0, last_key: None }
    }
}

impl BackupDecoder {
    /// How many bytes it takes next; 0 at the end.
    pub fn wants(&self) -> usize {
        match &self.state {
            State::Magic => MAGIC.len(),
            State::FrameHead => FRAME_HEAD_BYTES,
            State::FrameRest { rest, .. } => *rest,
            State::Ended => 0,
        }
    }

    /// Takes exactly as many bytes as it wants.
    ///
    /// # Errors
    /// [`BackupDamage`]; it takes nothing more then.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Piece>, BackupDamage> {
        if bytes.len() != self.wants() {
            return Err(self.cut_off(bytes.len()));
        }
        let begin = self.offset;
        self.offset += bytes.len() as u64;
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Magic => {
                check_magic(bytes)?;
                self.hash.update(bytes);
                self.state = State::FrameHead;
                Ok(None)
            }
            State::FrameHead => {
                self.state = self.frame_head(bytes, begin)?;
                Ok(None)
            }
            State::FrameRest { head, begin, .. } => self.frame(&head, bytes, begin).map(Some),
            State::Ended => Ok(None),
        }
    }

    /// The source ended `got` bytes into what is wanted.
    pub fn cut_off(&self, got: usize) -> BackupDamage {
        let reason = match &self.state {
            State::Ended => "bytes follow the trailer".to_owned(),
            State::Magic | State::FrameHead | State::FrameRest { .. } => {
                format!("it is cut off: it ends {} bytes or more too early", self.wants().saturating_sub(got))
            }
        };
        BackupDamage { offset: self.offset + got as u64, reason }
    }

    fn frame_head(&self, bytes: &[u8], begin: u64) -> Result<State, BackupDamage> {
        let damaged = |reason: String| BackupDamage { offset: begin, reason };
        let mut head = [0; FRAME_HEAD_BYTES];
        head.copy_from_slice(bytes);
        let kind = head[0];
        let length = (&head[1..]).get_u32() as usize;
        let is_first = begin == MAGIC.len() as u64;
        let lengths = match (is_first, kind) {
            (true, HEADER) => 1..=HEADER_BYTES_MAX,
            (false, BLOCK) => 1..=BLOCK_BYTES_MAX,
            (false, TRAILER) => TRAILER_BYTES..=TRAILER_BYTES,
            _ => return Err(damaged(format!("a frame of kind {kind:#04x} has no place there"))),
        };
        if !lengths.contains(&length) {
            return Err(damaged(format!("a frame of kind {kind:#04x} cannot have {length} bytes")));
        }
        Ok(State::FrameRest { head, begin, rest: length + CHECKSUM_BYTES })
    }

    fn frame(
        &mut self,
        head: &[u8; FRAME_HEAD_BYTES],
        rest: &[u8],
        begin: u64,
    ) -> Result<Piece, BackupDamage> {
        let damaged = |reason: String| BackupDamage { offset: begin, reason };
        let (payload, checksum) = rest
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(|| damaged("the frame has no checksum".into()))?;
        let actual = crc32c::crc32c_append(crc32c::crc32c(head), payload);
        let expected = u32::from_be_bytes(*checksum);
        if actual != expected {
            return Err(damaged(format!("the checksum of the frame is {actual:08x}, not {expected:08x}")));
        }
        let piece = match head[0] {
            HEADER => {
                let header = BackupHeader::decode(payload).map_err(damaged)?;
                self.revision = header.revision;
                Piece::Header(header)
            }
            BLOCK => Piece::Block(self.records(Bytes::copy_from_slice(payload)).map_err(damaged)?),
            _ => {
                self.state = State::Ended;
                return self.trailer(payload, begin).map_err(damaged);
            }
        };
        self.hash.update(head);
        self.hash.update(rest);
        self.state = State::FrameHead;
        Ok(piece)
    }

    fn records(&mut self, mut block: Bytes) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        while !block.is_empty() {
            if block.len() < RECORD_HEAD_BYTES {
                return Err("the block ends within a record".into());
            }
            let (key_bytes, value_bytes) = (block.get_u16() as usize, block.get_u32() as usize);
            let revision = block.get_u64();
            if block.len() < key_bytes + value_bytes {
                return Err("the block ends within a record".into());
            }
            let key = Key::new(block.split_to(key_bytes)).map_err(|error| error.to_string())?;
            let value = block.split_to(value_bytes);
            if self.last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(format!("{key:?} does not follow the key before it"));
            }
            if revision > self.revision {
                return Err(format!("{key:?} is of revision {revision}, past the backup's"));
            }
            self.keys += 1;
            self.last_key = Some(key.clone());
            records.push((key, Versioned { value, revision }));
        }
        Ok(records)
    }

    fn trailer(&mut self, mut payload: &[u8], begin: u64) -> Result<Piece, String> {
        let (keys, bytes) = (payload.get_u64(), payload.get_u64());
        if (keys, bytes) != (self.keys, begin) {
            let found = (self.keys, begin);
            return Err(format!(
                "{} keys in {} bytes lie before the trailer, which says {keys} in {bytes}",
                found.0, found.1
            ));
        }
        let hash = std::mem::take(&mut self.hash).finalize();
        if payload != hash.as_slice() {
            return Err(format!("the SHA-256 of all before is {}, not {}", hex(&hash), hex(payload)));
        }
        Ok(Piece::End(BackupSummary { keys, bytes: self.offset, sha256: hex(payload) }))
    }
}

fn check_magic(bytes: &[u8]) -> Result<(), BackupDamage> {
    if bytes == MAGIC {
        return Ok(());
    }
    let name = &MAGIC[..MAGIC.len() - 1];
    let reason = match bytes.split_last() {
        Some((version, found)) if found == name => {
            format!("format {version} is not one that this version of vaultdb reads")
        }
        Some(_) | None => "it does not begin as a backup of VaultDB does".into(),
    };
    Err(BackupDamage { offset: 0, reason })
}
