//! Looks at the framing of RocksDB's MANIFEST before RocksDB does.
//!
//! Its reader never comes to an end over a record whose type says that it is of a recycled log, which one flipped bit
//! makes of any record: a node would hang at its start, and a verification forever. What else may be damaged is left to
//! RocksDB, which finds it by its checksums.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::StorageError;

const BLOCK_BYTES: usize = 32 << 10;
/// A checksum, the length in two bytes, the type in one.
const HEADER_BYTES: usize = 7;
const LENGTH_AT: usize = 4;
const TYPE_AT: usize = 6;
/// Full, first, middle, last; zero is what was never written.
const TYPE_MAX: u8 = 4;

/// Whether the MANIFEST that is in force can be given to RocksDB.
///
/// # Errors
/// [`StorageError::Corrupt`] for a record of a type that no MANIFEST has. [`StorageError::Io`].
pub(super) fn check(dir: &Path) -> Result<(), StorageError> {
    // Without CURRENT, or with one that names nothing, there is nothing to look at; RocksDB tells.
    let Some(name) = read(&dir.join("CURRENT"))?.and_then(|name| String::from_utf8(name).ok()) else {
        return Ok(());
    };
    let name = name.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Ok(());
    }
    let path = dir.join(name);
    let Some(content) = read(&path)? else { return Ok(()) };
    let wrong = records(&content).find(|at| content[at + TYPE_AT] > TYPE_MAX);
    wrong.map_or(Ok(()), |at| {
        let reason = format!("the record at byte {at} has the type {}", content[at + TYPE_AT]);
        Err(StorageError::corrupt(path.display().to_string(), reason))
    })
}

/// `None` when it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(format!("cannot read {}", path.display()))(error)),
    }
}

/// Where the records begin, up to the first that is not whole.
fn records(content: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        // Too short a rest of a block for a header is filled up.
        let rest = BLOCK_BYTES - at % BLOCK_BYTES;
        if rest < HEADER_BYTES {
            at += rest;
        }
        let header = content.get(at..at + HEADER_BYTES)?;
        let length = usize::from(u16::from_le_bytes([header[LENGTH_AT], header[LENGTH_AT + 1]]));
        let begin = at;
        at += HEADER_BYTES + length;
        let is_written = header[TYPE_AT] > 0 || length > 0;
        let is_in_block = begin / BLOCK_BYTES == (at - 1) / BLOCK_BYTES;
        (is_written && (is_in_block || header[TYPE_AT] > TYPE_MAX)).then_some(begin)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let mut record = vec![0xab; HEADER_BYTES + length];
        record[LENGTH_AT..TYPE_AT].copy_from_slice(&u16::try_from(length).unwrap().to_le_bytes());
        record[TYPE_AT] = kind;
        record
    }

    /// Whatever bit of a record's type flips, the database is not opened, and the look at it comes to an end.
    #[test]
    fn no_type_is_taken_for_another() {
        use crate::engine::rocks::{RocksEngine, RocksSettings};
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        let settings = RocksSettings::new(&crate::options::StoreOptions::default());
        drop(RocksEngine::create(&settings, &dir).unwrap());
        check(&dir).unwrap();
        let name = fs::read_to_string(dir.join("CURRENT")).unwrap();
        let path = dir.join(name.trim_end());
        let content = fs::read(&path).unwrap();
        let all: Vec<usize> = records(&content).collect();
        assert!(all.len() > 3, "{all:?}");
        for (at, bit) in all.into_iter().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = content.clone();
            flipped[at + TYPE_AT] ^= 1 << bit;
            fs::write(&path, flipped).unwrap();
            let copy = parent.path().join(format!("copy-{at}-{bit}"));
            fs::create_dir(&copy).unwrap();
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
            let opened = RocksEngine::verify(&settings, &copy, &mut |_| true);
            assert!(matches!(opened, Err(StorageError::Corrupt { .. })), "byte {at}, bit {bit}: {opened:?}");
        }
    }

    /// Records follow each other, skip the rest of a block that holds no header, and end where nothing was written or
    /// something is cut off.
    #[test]
    fn records_are_found() {
        let found = |content: &[u8]| records(content).collect::<Vec<_>>();
        assert_eq!(found(&[]), []);
        let two = [record(1, 10), record(1, 0)].concat();
        assert_eq!(found(&two), [0, 17]);
        assert_eq!(found(&two[..20]), [0]);
        assert_eq!(found(&[two, vec![0; 100]].concat()), [0, 17]);
        let full = [record(2, BLOCK_BYTES - HEADER_BYTES - 6), vec![0; 6], record(4, 3)].concat();
        assert_eq!(found(&full), [0, BLOCK_BYTES]);
        let too_long = [record(1, 5), record(1, BLOCK_BYTES)].concat();
        assert_eq!(found(&too_long), [0]);
    }
}
