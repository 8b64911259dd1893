//! A disk in memory that can fail at any call, and lose at a crash what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk_log::disk::{Disk, DiskFile};
use crate::disk_log::sector::SECTOR_BYTES;

/// What may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Create,
    Rename,
    Remove,
    SyncNames,
    Write,
    Sync,
}

/// Contents of files by name.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Syncs may go on.
    resumed: Condvar,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    calls: BTreeMap<Call, u64>,
    fail: Option<(Call, u64, io::ErrorKind)>,
    failed: bool,
    paused: bool,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

impl SimDisk {
    /// A disk with these files, all durable.
    pub(crate) fn with(image: &Image) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.0.state.lock();
            for (name, content) in image {
                let id = state.files.len();
                state.files.push(Content { now: content.clone(), durable: content.clone() });
                state.names.insert(name.clone(), id);
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    /// What is in the files now: what a process that is killed leaves.
    pub(crate) fn image(&self) -> Image {
        let state = self.0.state.lock();
        state.names.iter().map(|(name, id)| (name.clone(), state.files[*id].now.clone())).collect()
    }

    /// What a loss of power leaves: what is synced, and those of the other sectors that `keep` chooses.
    pub(crate) fn crash(&self, mut keep: impl FnMut(&str, usize) -> bool) -> Image {
        let state = self.0.state.lock();
        let mut image = Image::new();
        for (name, id) in &state.durable_names {
            let Content { now, durable } = &state.files[*id];
            let mut content = durable.clone();
            for (i, sector) in now.chunks(SECTOR_BYTES).enumerate() {
                let at = i * SECTOR_BYTES;
                if durable.get(at..at + sector.len()) == Some(sector) || !keep(name, i) {
                    continue;
                }
                content.resize(content.len().max(at + sector.len()), 0);
                content[at..at + sector.len()].copy_from_slice(sector);
            }
            image.insert(name.clone(), content);
        }
        image
    }

    /// Has the n-th call of that kind from now on, counted from 0, fail.
    pub(crate) fn fail(&self, call: Call, nth: u64, kind: io::ErrorKind) {
        let mut state = self.0.state.lock();
        let before = state.calls.get(&call).copied().unwrap_or(0);
        state.fail = Some((call, before + nth, kind));
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.state.lock().failed
    }

    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.0.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Syncs wait until the disk is resumed.
    pub(crate) fn pause(&self, paused: bool) {
        self.0.state.lock().paused = paused;
        self.0.resumed.notify_all();
    }
}

impl State {
    fn call(&mut self, call: Call) -> io::Result<()> {
        let count = self.calls.entry(call).or_default();
        *count += 1;
        match self.fail {
            Some((failing, nth, kind)) if failing == call && nth + 1 == *count => {
                self.failed = true;
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.state.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.0.state.lock().file(name)?;
        Ok(Arc::new(SimFile { disk: self.0.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.state.lock();
        state.call(Call::Create)?;
        let id = state.files.len();
        state.files.push(Content::default());
        state.names.insert(name.to_owned(), id);
        Ok(Arc::new(SimFile { disk: self.0.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.call(Call::Rename)?;
        let id = state.file(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.call(Call::Remove)?;
        state.file(name)?;
        state.names.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.call(Call::SyncNames)?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("sim")
    }
}

struct SimFile {
    disk: Arc<Inner>,
    id: usize,
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().files[self.id].now.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        let rest = state.files[self.id].now.get(at as usize..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let called = state.call(Call::Write);
        // A write that fails may have written a part.
        let bytes = if called.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let (at, now) = (at as usize, &mut state.files[self.id].now);
        now.resize(now.len().max(at + bytes.len()), 0);
        now[at..at + bytes.len()].copy_from_slice(bytes);
        called
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        while state.paused {
            self.disk.resumed.wait(&mut state);
        }
        state.call(Call::Sync)?;
        let Content { now, durable } = &mut state.files[self.id];
        durable.clone_from(now);
        Ok(())
    }
}
