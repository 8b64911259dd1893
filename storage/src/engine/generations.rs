//! Which directory under `<data-dir>/rocksdb` holds the data.
//!
//! Each installed snapshot starts a new generation, a numbered directory. The file `CURRENT-GENERATION`
//! names the one in force; replacing it is the single step that makes an installation take effect, so
//! a kill leaves the old data or the new, never a mixture.

use std::fs;
use std::path::{Path, PathBuf};

use super::rocks::{RocksEngine, RocksSettings};
use crate::durable_fs;
use crate::error::StorageError;

const POINTER: &str = "CURRENT-GENERATION";
/// Files of a database that never change once written, so that a hard link is a copy.
pub(crate) const IMMUTABLE_SUFFIX: &str = ".sst";

pub(crate) struct Generations {
    dir: PathBuf,
}

impl Generations {
    pub(crate) fn new(dir: PathBuf) -> Result<Self, StorageError> {
        durable_fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Opens the generation in force, or makes the first one; removes what is left of others.
    pub(crate) fn open_current(&self, settings: &RocksSettings) -> Result<(u64, RocksEngine), StorageError> {
        let current = match self.read_pointer()? {
            Some(number) => number,
            None => return self.create_first(settings),
        };
        let path = self.path(current);
        if !path.is_dir() {
            return Err(StorageError::corrupt(path.display().to_string(), "the directory is missing"));
        }
        let engine = RocksEngine::open(settings, &path)?;
        for other in self.numbers()?.into_iter().filter(|number| *number != current) {
            durable_fs::remove_leftover(&self.path(other));
        }
        Ok((current, engine))
    }

    fn create_first(&self, settings: &RocksSettings) -> Result<(u64, RocksEngine), StorageError> {
        // Nothing is applied before the pointer is there, so a directory without it is a first start
        // that was killed, unless somebody lost the pointer.
        for number in self.numbers()? {
            let path = self.path(number);
            let applied =
                RocksEngine::read_applied_at(settings, &path).ok().and_then(|applied| applied.log_id);
            if applied.is_some() {
                let pointer = self.dir.join(POINTER);
                return Err(StorageError::corrupt(
                    pointer.display().to_string(),
                    format!("it is missing, but {} holds data", path.display()),
                ));
            }
            durable_fs::remove_leftover(&path);
        }
        let first = 1;
        let path = self.path(first);
        durable_fs::create_dir(&path)?;
        let engine = RocksEngine::create(settings, &path)?;
        self.switch_to(first)?;
        Ok((first, engine))
    }

    /// Puts the files of a database that nobody has open into generation `number`, durably.
    pub(crate) fn fill(&self, number: u64, from: &Path, names: &[&str]) -> Result<PathBuf, StorageError> {
        let path = self.path(number);
        durable_fs::remove_leftover(&path);
        durable_fs::create_dir(&path)?;
        for name in names {
            let (source, target) = (from.join(name), path.join(name));
            let context = || StorageError::io(format!("cannot create {}", target.display()));
            if name.ends_with(IMMUTABLE_SUFFIX) {
                fs::hard_link(&source, &target).map_err(context())?;
            } else {
                fs::copy(&source, &target).map_err(context())?;
            }
            durable_fs::sync(&target)?;
            durable_fs::crash_point("install-half-filled");
        }
        durable_fs::sync(&path)?;
        Ok(path)
    }

    /// From its return on `number` is in force.
    pub(crate) fn switch_to(&self, number: u64) -> Result<(), StorageError> {
        durable_fs::write_atomic(&self.dir, POINTER, format!("{number:06}\n").as_bytes())
    }

    /// Whether the file still names the generation that is in force.
    pub(crate) fn check_pointer(&self, number: u64) -> Result<(), StorageError> {
        match self.read_pointer()? {
            Some(found) if found == number => Ok(()),
            found => {
                let pointer = self.dir.join(POINTER).display().to_string();
                Err(StorageError::corrupt(pointer, format!("it names {found:?}, in force is {number}")))
            }
        }
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:06}"))
    }

    fn read_pointer(&self) -> Result<Option<u64>, StorageError> {
        let path = self.dir.join(POINTER);
        let content = match fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(format!("cannot read {}", path.display()))(error)),
        };
        let number = content.strip_suffix('\n').and_then(|digits| digits.parse().ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(StorageError::corrupt(path.display().to_string(), format!("{content:?}"))),
        }
    }

    fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        Ok(durable_fs::names(&self.dir)?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
