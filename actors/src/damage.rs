//! Flips bits in the files of the data directory, as a disk that rots would. For tests and demonstrations only.
//!
//! Nothing else in the actors knows where files are. Reads and writes the disk: only on a blocking thread.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes next to each other of which one bit is flipped.
const BYTES_FLIPPED: usize = 3;
/// The bit: a digit or a letter remains one.
const BIT: u8 = 0x01;
/// The bits of a table are flipped at this part of it.
const TABLE_BYTES_PER_PLACE: u64 = 8;
/// Directories under `rocksdb/` and `snapshots/` that are looked into, one in another.
const DEPTH_MAX: u32 = 4;
/// Snapshots that are in the making or on their way are none yet.
const UNFINISHED: [&str; 2] = ["making-", "incoming-"];

/// Which kind of file is to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFile {
    Wal,
    RocksDb,
    Snapshot,
    Identity,
}

impl DataFile {
    pub const ALL: [DataFile; 4] = [DataFile::Wal, DataFile::RocksDb, DataFile::Snapshot, DataFile::Identity];

    /// The name that users know it by.
    pub fn name(self) -> &'static str {
        match self {
            DataFile::Wal => "wal",
            DataFile::RocksDb => "rocksdb",
            DataFile::Snapshot => "snapshot",
            DataFile::Identity => "identity",
        }
    }
}

/// A file that can be damaged, and how much of it is in use.
struct Target {
    path: PathBuf,
    bytes: u64,
}

/// Flips bits in one file of that kind, in the middle or where a table has data; answers which file and where, or `None`
/// when there is none yet.
pub(crate) fn flip_bits(data_dir: &Path, kind: DataFile) -> io::Result<Option<String>> {
    let Some(target) = find(data_dir, kind)? else { return Ok(None) };
    // The blocks of a table that hold data come first, and of a small one the rest may be the larger part: damage there,
    // of a Bloom filter say, changes no answer and is not looked for.
    let at = target.bytes / if kind == DataFile::RocksDb { TABLE_BYTES_PER_PLACE } else { 2 };
    if kind == DataFile::Snapshot {
        // A table of the database may be the same file: what is damaged then is the copy.
        part_from_links(&target.path)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(&target.path)?;
    let mut bytes = [0; BYTES_FLIPPED];
    let read = file.read_at(&mut bytes, at)?;
    for byte in &mut bytes[..read] {
        *byte ^= BIT;
    }
    file.write_all_at(&bytes[..read], at)?;
    file.sync_data()?;
    let name = target.path.strip_prefix(data_dir).unwrap_or(&target.path);
    Ok(Some(format!("{read} bits of {} were flipped at byte {at}", name.display())))
}

/// The file of that kind of which the most is in use.
fn find(data_dir: &Path, kind: DataFile) -> io::Result<Option<Target>> {
    let mut files = Vec::new();
    match kind {
        DataFile::Wal => gather(&data_dir.join("wal"), 1, &mut files)?,
        DataFile::RocksDb => gather(&data_dir.join("rocksdb"), DEPTH_MAX, &mut files)?,
        DataFile::Snapshot => gather(&data_dir.join("snapshots"), DEPTH_MAX, &mut files)?,
        DataFile::Identity => files.push(data_dir.join("identity.json")),
    }
    let suffix = match kind {
        DataFile::Wal => ".seg",
        DataFile::RocksDb => ".sst",
        DataFile::Snapshot | DataFile::Identity => "",
    };
    files.retain(|path| path.to_string_lossy().ends_with(suffix));
    // The oldest of equal ones.
    files.sort();
    let mut most: Option<Target> = None;
    for path in files {
        let bytes = match used(&path, kind) {
            Ok(bytes) => bytes,
            // Purged or compacted away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if bytes > most.as_ref().map_or(0, |most| most.bytes) {
            most = Some(Target { path, bytes });
        }
    }
    Ok(most)
}

/// Bytes of the file that hold something: a segment of the log ends in zeros that were written ahead of time.
fn used(path: &Path, kind: DataFile) -> io::Result<u64> {
    if kind != DataFile::Wal {
        return Ok(fs::metadata(path)?.len());
    }
    let content = fs::read(path)?;
    let last = content.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

/// All files under a directory, which need not exist.
fn gather(dir: &Path, depth: u32, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if UNFINISHED.iter().any(|unfinished| name.to_string_lossy().starts_with(unfinished)) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && depth > 1 {
            gather(&entry.path(), depth - 1, files)?;
        }
    }
    Ok(())
}

/// Puts a copy in the place of a file that has other names.
fn part_from_links(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.nlink() == 1 {
        return Ok(());
    }
    let copy = path.with_extension("parted");
    fs::copy(path, &copy)?;
    fs::rename(&copy, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vaultdb-damage-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn changed(path: &Path, before: &[u8]) -> Vec<usize> {
        let after = fs::read(path).unwrap();
        assert_eq!(after.len(), before.len());
        (0..before.len()).filter(|i| after[*i] != before[*i]).collect()
    }

    /// Of the log, it is the middle of what is used and not of the zeros behind it.
    #[test]
    fn log_is_damaged_where_it_is_used() {
        let dir = Dir::new("wal");
        assert_eq!(flip_bits(&dir.0, DataFile::Wal).unwrap(), None);
        let long = [[7; 100].as_slice(), &[0; 900]].concat();
        let short = [[7; 50].as_slice(), &[0; 950]].concat();
        let other = dir.put("wal/0000000000000001.seg", &short);
        let hit = dir.put("wal/0000000000000002.seg", &long);
        let unfinished = dir.put("wal/0000000000000003.seg.new", &[7; 1000]);
        let told = flip_bits(&dir.0, DataFile::Wal).unwrap().unwrap();
        assert_eq!(told, "3 bits of wal/0000000000000002.seg were flipped at byte 50");
        assert_eq!(changed(&hit, &long), [50, 51, 52]);
        assert!(changed(&other, &short).is_empty() && changed(&unfinished, &[7; 1000]).is_empty());
    }

    /// Of the store it is the largest table; of a snapshot the largest file, without the database that shares it.
    #[test]
    fn snapshot_is_damaged_without_the_store() {
        let dir = Dir::new("tables");
        let table = dir.put("rocksdb/1/000004.sst", &[1; 400]);
        dir.put("rocksdb/1/000003.sst", &[1; 300]);
        dir.put("rocksdb/1/LOG", &[1; 900]);
        dir.put("snapshots/making-1/000009.sst", &[1; 900]);
        dir.put("snapshots/s-1/META", &[1; 10]);
        let linked = dir.0.join("snapshots/s-1/000004.sst");
        fs::hard_link(&table, &linked).unwrap();
        let told = flip_bits(&dir.0, DataFile::Snapshot).unwrap().unwrap();
        assert!(told.contains("snapshots/s-1/000004.sst"), "{told}");
        assert_eq!(changed(&linked, &[1; 400]), [200, 201, 202]);
        assert!(changed(&table, &[1; 400]).is_empty());
        let told = flip_bits(&dir.0, DataFile::RocksDb).unwrap().unwrap();
        assert!(told.contains("rocksdb/1/000004.sst"), "{told}");
        assert_eq!(changed(&table, &[1; 400]), [50, 51, 52]);
    }

    /// The identity is one file.
    #[test]
    fn identity_is_damaged() {
        let dir = Dir::new("identity");
        let path = dir.put("identity.json", b"0123456789");
        flip_bits(&dir.0, DataFile::Identity).unwrap().unwrap();
        assert_eq!(changed(&path, b"0123456789"), [5, 6, 7]);
    }
}
