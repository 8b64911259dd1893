//! CRC-32 over whole files. Of a file that never changes it is worked out once, not for each snapshot that it
//! is part of.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crc32fast::Hasher;
use parking_lot::Mutex;

use super::{SnapshotFile, SnapshotMeta};
use crate::engine::generations::IMMUTABLE_SUFFIX;
use crate::error::StorageError;

const READ_BYTES: usize = 1 << 20;

/// What tells one immutable file from every other. Links to it share all of it; a file that comes to have the
/// same inode later has another time.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    name: String,
    device: u64,
    inode: u64,
    bytes: u64,
    changed_ns: (i64, i64),
}

/// Checksums of the immutable files in the current snapshot.
#[derive(Default)]
pub(crate) struct Checksums {
    known: Mutex<HashMap<Identity, u32>>,
}

impl Checksums {
    /// Describes a file of a snapshot in the making. Reads the file, unless its checksum is known.
    pub(crate) fn describe(&self, dir: &Path, name: String) -> Result<SnapshotFile, StorageError> {
        let path = dir.join(&name);
        let found =
            fs::metadata(&path).map_err(StorageError::io(format!("cannot read {}", path.display())))?;
        let known = self.known.lock().get(&Identity::new(&name, &found)).copied();
        let crc32 = match known {
            Some(crc32) => crc32,
            None => read_through(&path)?.1.finalize(),
        };
        Ok(SnapshotFile { name, bytes: found.len(), crc32 })
    }

    /// From now on the files of this snapshot, which is in `dir`, are the ones that are known.
    pub(crate) fn remember(&self, dir: &Path, meta: &SnapshotMeta) {
        let immutable = meta.files.iter().filter(|file| file.name.ends_with(IMMUTABLE_SUFFIX));
        let known = immutable.filter_map(|file| {
            let found = fs::metadata(dir.join(&file.name)).ok()?;
            Some((Identity::new(&file.name, &found), file.crc32))
        });
        *self.known.lock() = known.collect();
    }
}

impl Identity {
    fn new(name: &str, found: &fs::Metadata) -> Self {
        Self {
            name: name.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            changed_ns: (found.mtime(), found.mtime_nsec()),
        }
    }
}

/// Reads a file to its end: how long it is, and the checksum so far.
pub(crate) fn read_through(path: &Path) -> Result<(u64, Hasher), StorageError> {
    let context = || StorageError::io(format!("cannot read {}", path.display()));
    let mut file = File::open(path).map_err(context())?;
    let (mut bytes, mut hasher) = (0, Hasher::new());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(context())? {
            0 => return Ok((bytes, hasher)),
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::AppliedState;

    /// What is known of an immutable file holds for every link to it, and for nothing that took its place.
    #[test]
    fn known_by_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("1.sst"), b"data").unwrap();
        fs::write(one.join("CURRENT"), b"1").unwrap();
        let sums = Checksums::default();
        let describe = |dir: &Path, name: &str| sums.describe(dir, name.into()).unwrap();
        let real = describe(&one, "1.sst");
        assert_eq!((real.bytes, real.crc32), (4, crc32fast::hash(b"data")));

        // A false one tells whether the file is read.
        let file = |name: &str, bytes| SnapshotFile { name: name.into(), bytes, crc32: 7 };
        let files = vec![file("1.sst", 4), file("CURRENT", 1), file("gone.sst", 4)];
        sums.remember(&one, &SnapshotMeta { id: "s".into(), applied: AppliedState::default(), files });
        fs::hard_link(one.join("1.sst"), two.join("1.sst")).unwrap();
        assert_eq!(describe(&two, "1.sst").crc32, 7);
        assert_eq!(describe(&one, "CURRENT").crc32, crc32fast::hash(b"1"), "it may change");
        fs::remove_file(two.join("1.sst")).unwrap();
        fs::write(two.join("1.sst"), b"atad").unwrap();
        assert_eq!(describe(&two, "1.sst").crc32, crc32fast::hash(b"atad"));
    }
}
