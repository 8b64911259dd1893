//! Looks at the end of the log before raft-log opens it, and cuts off what a crash left unfinished.
//!
//! raft-log alone would cut at the first record that ends too early, and lose what follows. Here a cut is
//! made only where nothing whole follows; any other damage is reported, never repaired.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use raft_log::codeq::Decode;
use raft_log::{chunked_wal, RaftLogAction, RaftLogRecord, WALRecord};

use super::wal_types::{self, WalTypes};
use crate::durable_fs;
use crate::error::StorageError;
use crate::log::Payload;
use crate::types::LogId;

/// Disks write whole sectors: where writing stopped, zeros begin at a multiple of this.
const SECTOR_BYTES: usize = 512;
/// Every record but that of an entry is shorter than this: the longest, a checkpoint, takes 83 bytes.
const SMALL_RECORD_BYTES_MAX: usize = 128;

/// Chunk files in order, with the place in the log where each begins.
pub(crate) fn chunks(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let mut chunks: Vec<(u64, PathBuf)> = durable_fs::names(dir)?
        .into_iter()
        .filter_map(|name| {
            let start = chunked_wal::Config::parse_chunk_file_name(&name).ok()?;
            Some((start, dir.join(name)))
        })
        .collect();
    chunks.sort();
    Ok(chunks)
}

/// Cuts an unfinished last write off, and makes what is left durable: entries that were written and not
/// synced when the process died are read by the next one, which must not build on them otherwise.
pub(crate) fn repair_tail<P: Payload>(dir: &Path) -> Result<(), StorageError> {
    let mut chunks = chunks(dir)?;
    while let Some((_, path)) = chunks.pop() {
        let context = |what: &str| StorageError::io(format!("cannot {what} {}", path.display()));
        let bytes = fs::read(&path).map_err(context("read"))?;
        let valid = valid_prefix::<P>(&bytes)
            .map_err(|reason| StorageError::corrupt(format!("the Raft log in {}", path.display()), reason))?;
        if valid == 0 {
            // The first record of a chunk is written only after the chunk before is durable.
            log::warn!("{} was begun and never written to: removing it", path.display());
            fs::remove_file(&path).map_err(context("remove"))?;
            durable_fs::sync(dir)?;
            continue;
        }
        if valid < bytes.len() {
            let cut = bytes.len() - valid;
            log::warn!("cutting the last {cut} bytes, an unfinished write, off {}", path.display());
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(valid as u64))
                .map_err(context("cut"))?;
        }
        return durable_fs::sync(&path);
    }
    Ok(())
}

/// Length of the records that are whole, or why what follows them is not an unfinished write.
fn valid_prefix<P: Payload>(bytes: &[u8]) -> Result<usize, String> {
    let mut at = 0;
    while at < bytes.len() {
        match decode::<P>(&bytes[at..]) {
            Ok((_, size)) => at += size,
            Err(error) if is_unfinished(&error, &bytes[at..], at) => return Ok(at),
            Err(error) => return Err(format!("record at byte {at}: {error}")),
        }
    }
    Ok(at)
}

/// Whether the damaged record with which `rest` begins, at byte `at` of its file, was not wholly written:
/// the file ends within it, or from within it on holds only zeros.
fn is_unfinished(error: &io::Error, rest: &[u8], at: usize) -> bool {
    let size = wal_types::entry_record_bytes(rest).unwrap_or(SMALL_RECORD_BYTES_MAX);
    if error.kind() == io::ErrorKind::UnexpectedEof {
        // An early end that its size does not explain is a damaged size.
        return rest.len() < size;
    }
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // The length of a file can become durable before its content (ext4 and XFS, a power loss).
    let unwritten_from = (at + written).next_multiple_of(SECTOR_BYTES) - at;
    written == 0 || (unwritten_from < size && unwritten_from < rest.len())
}

fn decode<P: Payload>(bytes: &[u8]) -> io::Result<(RaftLogRecord<WalTypes<P>>, usize)> {
    let mut rest = bytes;
    let record = RaftLogRecord::<WalTypes<P>>::decode(&mut rest)?;
    Ok((record, bytes.len() - rest.len()))
}

/// The entries that a chunk file holds; of several with one index the last, which replaced the others.
pub(crate) fn entries<P: Payload>(path: &Path) -> io::Result<std::collections::BTreeMap<u64, (LogId, P)>> {
    let bytes = fs::read(path)?;
    let mut entries = std::collections::BTreeMap::new();
    let mut at = 0;
    while at < bytes.len() {
        let (record, size) = decode::<P>(&bytes[at..])?;
        at += size;
        if let WALRecord::Action(RaftLogAction::Append(id, payload)) = record {
            entries.insert(id.0.index, (id.0, payload.0));
        }
    }
    Ok(entries)
}
