//! Watches the free space of the data directory's filesystem, and decides what a node with little of it still does.
//!
//! A thread of its own looks, for a look may wait for the disk. Under the first line writes that set a value are refused
//! ([`Room`]); under the floor the ballast goes, too, so that deletes, compaction, elections and membership can still
//! write. Both end by themselves. Invariant: what this thread takes never leaves less than the first line free, and what
//! it gives back never reaches it: a ballast that goes brings no growth back.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{park_timeout, sleep, JoinHandle};
use std::time::Duration;

use vaultdb_kv::units::show_size;
use vaultdb_kv::{Health, Measured, Room, RoomLines};
use vaultdb_storage::{Ballast, DiskSpace};

use crate::shared::Shared;
use crate::slot::ComponentId;
use crate::status::EventKind;

/// The first line is at most this part of a filesystem, so that a small one is of use at all.
const TOTAL_PER_LINE: u64 = 20;
/// What was entered under a line ends once this part of the line more is free.
const LINE_PER_HYSTERESIS: u64 = 4;
/// The floor is this part of the first line.
const LINE_PER_FLOOR: u64 = 4;
/// The ballast is at most this part of the first line: with a floor's worth it must not reach the line.
const LINE_PER_BALLAST: u64 = 2;
/// The ballast is made where so many first lines stay free beside it.
const LINES_BESIDE_BALLAST: u64 = 2;

/// Shortest time between two looks, however much is written.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// What is watched, and where the lines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceOptions {
    /// Exists.
    pub data_dir: PathBuf,
    /// Under so many free bytes, or a twentieth of the filesystem if that is less, no write that sets a value is taken.
    /// 0: never, and there is no ballast.
    pub free_bytes_min: u64,
    /// Size of the ballast, at most half of the line above; 0: none.
    pub ballast_bytes: u64,
    /// Longest time between two looks; a burst of writes brings the next one forward.
    pub interval: Duration,
}

impl SpaceOptions {
    /// Looks once a second at least.
    pub fn new(data_dir: PathBuf, free_bytes_min: u64, ballast_bytes: u64) -> Self {
        Self { data_dir, free_bytes_min, ballast_bytes, interval: Duration::from_secs(1) }
    }
}

/// The disk as the watch sees it.
trait Disk: Send + 'static {
    fn space(&self) -> io::Result<DiskSpace>;
    /// 0 where there is no ballast.
    fn ballast_bytes(&self) -> io::Result<u64>;
    fn make_ballast(&self, bytes: u64) -> io::Result<()>;
    fn remove_ballast(&self) -> io::Result<()>;
}

struct DataDir {
    path: PathBuf,
    ballast: Ballast,
}

impl Disk for DataDir {
    fn space(&self) -> io::Result<DiskSpace> {
        DiskSpace::of(&self.path)
    }

    fn ballast_bytes(&self) -> io::Result<u64> {
        self.ballast.bytes()
    }

    fn make_ballast(&self, bytes: u64) -> io::Result<()> {
        self.ballast.make(bytes)
    }

    fn remove_ballast(&self) -> io::Result<()> {
        self.ballast.remove()
    }
}

/// How much is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Roomy,
    /// Writes that set a value are refused.
    ReadOnly,
    /// So little that the ballast has gone.
    Exhausted,
}

/// The lines of one filesystem, in free bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lines {
    read_only: u64,
    floor: u64,
    ballast: u64,
}

/// What ends a state that was entered under `line`.
fn end_of(line: u64) -> u64 {
    line.saturating_add(line / LINE_PER_HYSTERESIS)
}

impl Lines {
    fn of(options: &SpaceOptions, total_bytes: u64) -> Self {
        let read_only = options.free_bytes_min.min(total_bytes / TOTAL_PER_LINE);
        Self {
            read_only,
            floor: read_only / LINE_PER_FLOOR,
            ballast: options.ballast_bytes.min(read_only / LINE_PER_BALLAST),
        }
    }

    fn resume(&self) -> u64 {
        end_of(self.read_only)
    }

    /// The level at so many free bytes, after `before`.
    fn level(&self, before: Level, free: u64) -> Level {
        let under = |line: u64, level: Level| free < if before >= level { end_of(line) } else { line };
        if under(self.floor, Level::Exhausted) {
            Level::Exhausted
        } else if under(self.read_only, Level::ReadOnly) {
            Level::ReadOnly
        } else {
            Level::Roomy
        }
    }

    /// How large the ballast is to be where it is `held` bytes large now.
    fn ballast_at(&self, level: Level, free: u64, held: u64) -> u64 {
        let ample = self.read_only.saturating_mul(LINES_BESIDE_BALLAST).saturating_add(self.ballast);
        match level {
            Level::Exhausted => 0,
            Level::Roomy if free.saturating_add(held) >= ample => self.ballast,
            Level::Roomy | Level::ReadOnly => held.min(self.ballast),
        }
    }
}

/// What a look changed.
#[derive(Debug, PartialEq, Eq)]
struct News {
    state: Health,
    reason: Option<String>,
    events: Vec<(EventKind, String)>,
}

struct Watch<D> {
    disk: D,
    options: SpaceOptions,
    room: Arc<Room>,
    level: Level,
    unreadable: bool,
    /// Said once, and not made again before the level changes.
    ballast_failed: bool,
}

impl<D: Disk> Watch<D> {
    fn new(disk: D, options: SpaceOptions, room: Arc<Room>) -> Self {
        Self { disk, options, room, level: Level::Roomy, unreadable: false, ballast_failed: false }
    }

    /// Measures, and does what follows.
    fn look(&mut self) -> Option<News> {
        let space = match self.disk.space() {
            Ok(space) => space,
            Err(error) => return self.cannot_tell(&error),
        };
        let lines = Lines::of(&self.options, space.total_bytes);
        let free_bytes = self.room.counted(space.free_bytes);
        let before = self.level;
        self.level = lines.level(before, free_bytes);
        let read_only = self.level >= Level::ReadOnly;
        let measured = Measured { free_bytes, total_bytes: space.total_bytes, read_only };
        self.room.note(measured, RoomLines { read_only: lines.read_only, resume: lines.resume() });
        if self.level != before {
            self.ballast_failed = false;
        }
        self.tend_ballast(&lines, free_bytes);
        let was_unreadable = std::mem::take(&mut self.unreadable);
        (self.level != before || was_unreadable).then(|| news(before, self.level, &lines, &measured))
    }

    /// What was decided last stays.
    fn cannot_tell(&mut self, error: &io::Error) -> Option<News> {
        if std::mem::replace(&mut self.unreadable, true) {
            return None;
        }
        let reason = format!("the free space of the data directory cannot be told: {error}");
        let events = vec![(EventKind::Degraded, reason.clone())];
        Some(News { state: Health::Degraded, reason: Some(reason), events })
    }

    fn tend_ballast(&mut self, lines: &Lines, free: u64) {
        let tended =
            self.disk.ballast_bytes().and_then(|held| match lines.ballast_at(self.level, free, held) {
                wanted if wanted == held => Ok(()),
                0 => self.disk.remove_ballast().inspect(|()| log::info!("disk: the ballast is deleted")),
                _ if self.ballast_failed => Ok(()),
                wanted => self
                    .disk
                    .make_ballast(wanted)
                    .inspect(|()| log::info!("disk: there is a ballast of {}", show_size(wanted))),
            });
        if let Err(error) = tended {
            if !std::mem::replace(&mut self.ballast_failed, true) {
                log::warn!("disk: the ballast: {error}");
            }
        }
    }
}

fn news(before: Level, level: Level, lines: &Lines, measured: &Measured) -> News {
    let Measured { free_bytes, total_bytes, .. } = *measured;
    let free = format!("{} of {} are free", show_size(free_bytes), show_size(total_bytes));
    let refused = format!("writes that set a value are refused until {} are free", show_size(lines.resume()));
    match level {
        Level::Roomy => {
            let events = vec![(EventKind::Recovered, format!("{free}: all writes are taken"))];
            News { state: Health::Healthy, reason: None, events }
        }
        Level::ReadOnly => {
            let reason = format!("{free}: {refused}");
            let kind = if before == Level::Roomy { EventKind::ReadOnly } else { EventKind::Degraded };
            News { state: Health::Degraded, events: vec![(kind, reason.clone())], reason: Some(reason) }
        }
        Level::Exhausted => {
            let reason = format!("only {free}: there is no ballast any more, and {refused}");
            let read_only =
                (before == Level::Roomy).then(|| (EventKind::ReadOnly, format!("{free}: {refused}")));
            let failed = (EventKind::Failed, reason.clone());
            let events = read_only.into_iter().chain([failed]).collect();
            News { state: Health::Failed, reason: Some(reason), events }
        }
    }
}

/// The thread that looks; it ends with this.
pub(crate) struct SpaceWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl SpaceWatch {
    /// Looks once at once, so that a node makes room before it opens anything, then again and again. `None` where there is
    /// nothing to watch.
    pub fn start(shared: &Arc<Shared>) -> Option<Self> {
        let options = shared.options.space.clone()?;
        let interval = options.interval;
        let disk = DataDir { path: options.data_dir.clone(), ballast: Ballast::of(&options.data_dir) };
        let mut watch = Watch::new(disk, options, shared.options.room.clone());
        tell(shared, watch.look());
        let stop = Arc::new(AtomicBool::new(false));
        let (teller, stopped) = (shared.clone(), stop.clone());
        let run = move || loop {
            // Ends early when a burst of writes asks for it.
            park_timeout(interval);
            if stopped.load(Ordering::Acquire) {
                return;
            }
            tell(&teller, watch.look());
            sleep(LOOK_PAUSE);
        };
        match std::thread::Builder::new().name("disk-space".into()).spawn(run) {
            Ok(thread) => {
                shared.options.room.watched_by(thread.thread().clone());
                Some(Self { stop, thread })
            }
            Err(error) => {
                let reason = format!("nobody watches the free space, there is no thread for it: {error}");
                let events = vec![(EventKind::Degraded, reason.clone())];
                tell(shared, Some(News { state: Health::Degraded, reason: Some(reason), events }));
                None
            }
        }
    }
}

impl Drop for SpaceWatch {
    fn drop(&mut self) {
        // Not waited for: a disk that hangs would hold up whoever stops.
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

fn tell(shared: &Shared, news: Option<News>) {
    let Some(News { state, reason, events }) = news else { return };
    shared.disk.set(state, reason);
    for (what, detail) in events {
        shared.events.push(ComponentId::Disk, what, detail);
    }
}

#[cfg(test)]
mod tests;
