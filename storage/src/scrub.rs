//! Reads everything at rest and compares it with its checksums, so that damage is found before it is needed.
//!
//! RocksDB's files are read through a copy of hard links with a cache of its own: what the block cache of the
//! database holds would hide the disk. Changes nothing, and holds no lock that reads or applies take.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crc32fast::Hasher;

use crate::error::StorageError;
use crate::snapshot::{meta_file, Snapshot, SnapshotFile, Source};

/// Bytes between two calls of a [`Pace`], about.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Told how many bytes were read since the last call; may wait, and answers whether to go on.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Reads all files of a snapshot on disk. Tells whether it came to the end.
pub(crate) fn snapshot(snapshot: &Snapshot, pace: Pace<'_>) -> Result<bool, StorageError> {
    let Source::Directory(dir) = &snapshot.0.source else { return Ok(true) };
    let (path, known) = dir.with_path(|dir| (dir.to_path_buf(), meta_file::read(dir, meta_file::META)));
    if known?.as_ref() != Some(snapshot.meta()) {
        let what = path.join(meta_file::META).display().to_string();
        return Err(StorageError::corrupt(what, "it does not describe the snapshot any more"));
    }
    for file in &snapshot.meta().files {
        // Given its final name while it is read, it is another path.
        let opened = dir.with_path(|dir| File::open(dir.join(&file.name)));
        if !verify(&path.join(&file.name), opened, file, pace)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn verify(
    path: &Path,
    opened: std::io::Result<File>,
    expected: &SnapshotFile,
    pace: Pace<'_>,
) -> Result<bool, StorageError> {
    let context = || StorageError::io(format!("cannot read {}", path.display()));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StorageError::corrupt(path.display().to_string(), error));
        }
        Err(error) => return Err(context()(error)),
    };
    let (mut bytes, mut hasher) = (0, Hasher::new());
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(context())?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        if !pace(read as u64) {
            return Ok(false);
        }
    }
    if (bytes, hasher.finalize()) != (expected.bytes, expected.crc32) {
        let reason = format!("{bytes} bytes with another checksum than the {} written", expected.bytes);
        return Err(StorageError::corrupt(path.display().to_string(), reason));
    }
    Ok(true)
}
