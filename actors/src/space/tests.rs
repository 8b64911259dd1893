//! What follows from so many free bytes: the disk here is a number.

use std::sync::atomic::AtomicU64;

use vaultdb_kv::{FaultKind, Faults};

use super::*;

const MIB: u64 = 1 << 20;
/// The line is 100 MiB: a twentieth.
const TOTAL: u64 = 2_000 * MIB;

/// A disk that others fill; the ballast takes of the same room.
#[derive(Default)]
struct Fake {
    others: AtomicU64,
    ballast: AtomicU64,
    unreadable: AtomicBool,
    no_ballast: AtomicBool,
    attempts: AtomicU64,
}

impl Fake {
    /// So much is free, the ballast included.
    fn leave(&self, bytes: u64) {
        self.others.store(TOTAL - bytes, Ordering::Relaxed);
    }
}

impl Disk for Arc<Fake> {
    fn space(&self) -> io::Result<DiskSpace> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(io::Error::other("gone"));
        }
        let taken = self.others.load(Ordering::Relaxed) + self.ballast.load(Ordering::Relaxed);
        Ok(DiskSpace { free_bytes: TOTAL.saturating_sub(taken), total_bytes: TOTAL })
    }

    fn ballast_bytes(&self) -> io::Result<u64> {
        Ok(self.ballast.load(Ordering::Relaxed))
    }

    fn make_ballast(&self, bytes: u64) -> io::Result<()> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.no_ballast.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.ballast.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn remove_ballast(&self) -> io::Result<()> {
        self.ballast.store(0, Ordering::Relaxed);
        Ok(())
    }
}

struct Setup {
    disk: Arc<Fake>,
    faults: Arc<Faults>,
    room: Arc<Room>,
    watch: Watch<Arc<Fake>>,
}

fn setup(free_bytes_min: u64, ballast_bytes: u64) -> Setup {
    let disk = Arc::new(Fake::default());
    let faults = Arc::new(Faults::default());
    let room = Arc::new(Room::new("node0", faults.clone()));
    let options = SpaceOptions::new("/nowhere".into(), free_bytes_min, ballast_bytes);
    let watch = Watch::new(disk.clone(), options, room.clone());
    Setup { disk, faults, room, watch }
}

impl Setup {
    /// Looks with so much left; what it says of itself, and the events.
    fn look_at(&mut self, free: u64) -> Option<(Health, Vec<EventKind>)> {
        self.disk.leave(free);
        let news = self.watch.look()?;
        assert_eq!(news.reason.is_none(), news.state == Health::Healthy, "{news:?}");
        Some((news.state, news.events.into_iter().map(|(kind, _)| kind).collect()))
    }

    fn refuses(&self) -> bool {
        self.room.take(0).is_some()
    }

    fn ballast(&self) -> u64 {
        self.disk.ballast.load(Ordering::Relaxed)
    }
}

/// Growth ends under the line and comes back a quarter above it, and each change is told once.
#[test]
fn read_only_with_hysteresis() {
    let mut setup = setup(256 * MIB, 0);
    assert_eq!(setup.look_at(TOTAL), None);
    assert_eq!(setup.look_at(100 * MIB), None, "the line itself is enough");
    assert_eq!(setup.look_at(100 * MIB - 1), Some((Health::Degraded, vec![EventKind::ReadOnly])));
    let shortage = setup.room.take(0).expect("refused");
    assert_eq!((shortage.free_bytes, shortage.needed_bytes), (100 * MIB - 1, 125 * MIB));
    for free in [110 * MIB, 90 * MIB, 125 * MIB - 1] {
        assert_eq!(setup.look_at(free), None);
        assert!(setup.refuses());
    }
    assert_eq!(setup.room.take(0).map(|s| s.free_bytes), Some(125 * MIB - 1), "measured anew");
    assert_eq!(setup.look_at(125 * MIB), Some((Health::Healthy, vec![EventKind::Recovered])));
    assert!(!setup.refuses());
    assert_eq!(setup.look_at(100 * MIB), None);
}

/// The ballast is made where there is room beside it, goes under the floor, and comes back when there is room again. That
/// it went lets no growth in.
#[test]
fn ballast_goes_and_comes_back() {
    let mut setup = setup(100 * MIB, 32 * MIB);
    assert_eq!(setup.look_at(232 * MIB - 1), None);
    assert_eq!(setup.ballast(), 0, "not where it would soon be in the way");
    assert_eq!(setup.look_at(232 * MIB), None);
    assert_eq!(setup.ballast(), 32 * MIB);
    assert_eq!(setup.look_at(200 * MIB), None);
    assert_eq!(setup.ballast(), 32 * MIB);

    assert_eq!(setup.look_at(60 * MIB), Some((Health::Degraded, vec![EventKind::ReadOnly])));
    assert_eq!(setup.ballast(), 32 * MIB, "28 MiB are free beside it");
    assert_eq!(setup.look_at(56 * MIB), Some((Health::Failed, vec![EventKind::Failed])));
    assert_eq!(setup.ballast(), 0);
    assert_eq!(setup.look_at(56 * MIB), Some((Health::Degraded, vec![EventKind::Degraded])));
    assert!(setup.refuses(), "what the ballast gave back is not for growth");
    assert_eq!(setup.look_at(20 * MIB), Some((Health::Failed, vec![EventKind::Failed])));
    assert_eq!(setup.look_at(31 * MIB), None, "the floor has its hysteresis, too");

    assert_eq!(setup.look_at(150 * MIB), Some((Health::Healthy, vec![EventKind::Recovered])));
    assert_eq!(setup.ballast(), 0);
    assert_eq!(setup.look_at(400 * MIB), None);
    assert_eq!(setup.ballast(), 32 * MIB);
}

/// However the sizes are set, a ballast that goes does not bring growth back, and one that is made leaves room.
#[test]
fn ballast_never_decides_over_growth() {
    for free_bytes_min in [0, 1, MIB, 99 * MIB, 256 * MIB, u64::MAX] {
        for ballast_bytes in [0, 1, 32 * MIB, u64::MAX] {
            for total in [0, 19, 64 * MIB, TOTAL, u64::MAX] {
                let options = SpaceOptions::new("/nowhere".into(), free_bytes_min, ballast_bytes);
                let lines = Lines::of(&options, total);
                assert!(lines.floor + lines.ballast <= lines.read_only, "{lines:?}");
                assert!(lines.read_only <= total / 20 && lines.read_only <= free_bytes_min, "{lines:?}");
                if lines.ballast > 0 {
                    let least = lines.read_only * 2 + lines.ballast;
                    assert_eq!(lines.ballast_at(Level::Roomy, least, 0), lines.ballast);
                    assert_eq!(lines.ballast_at(Level::Roomy, least - 1, 0), 0);
                }
            }
        }
    }
}

/// 0 switches all of it off, the ballast of an earlier run included; the figures are told nevertheless.
#[test]
fn off() {
    let mut setup = setup(0, 32 * MIB);
    setup.disk.ballast.store(7, Ordering::Relaxed);
    assert_eq!(setup.look_at(0), None);
    assert_eq!((setup.refuses(), setup.ballast()), (false, 0), "off");
    setup.faults.inject(FaultKind::DiskFull, Duration::from_secs(60));
    assert_eq!(setup.look_at(MIB), None);
    assert!(!setup.refuses());
    assert_eq!(setup.room.measured().map(|m| m.total_bytes), Some(TOTAL));
}

/// While the fault is on the disk counts as full, whatever is free; then all is as before.
#[test]
fn full_by_fault() {
    let mut setup = setup(100 * MIB, 32 * MIB);
    assert_eq!(setup.look_at(TOTAL), None);
    let fault = setup.faults.inject(FaultKind::DiskFull, Duration::from_secs(60));
    assert!(setup.refuses(), "before any look");
    let both = vec![EventKind::ReadOnly, EventKind::Failed];
    assert_eq!(setup.look_at(TOTAL), Some((Health::Failed, both)));
    assert_eq!((setup.room.measured().map(|m| m.free_bytes), setup.ballast()), (Some(0), 0));
    setup.faults.clear(fault);
    assert!(setup.refuses(), "until it is looked again");
    assert_eq!(setup.look_at(TOTAL), Some((Health::Healthy, vec![EventKind::Recovered])));
    assert_eq!((setup.refuses(), setup.ballast()), (false, 32 * MIB));
}

/// A disk that does not answer changes nothing but what the node says of it.
#[test]
fn unreadable() {
    let mut setup = setup(100 * MIB, 0);
    assert_eq!(setup.look_at(50 * MIB), Some((Health::Degraded, vec![EventKind::ReadOnly])));
    setup.disk.unreadable.store(true, Ordering::Relaxed);
    assert_eq!(setup.look_at(TOTAL), Some((Health::Degraded, vec![EventKind::Degraded])));
    assert_eq!(setup.look_at(TOTAL), None);
    assert!(setup.refuses());
    setup.disk.unreadable.store(false, Ordering::Relaxed);
    assert_eq!(setup.look_at(50 * MIB), Some((Health::Degraded, vec![EventKind::Degraded])));
    assert_eq!(setup.look_at(TOTAL), Some((Health::Healthy, vec![EventKind::Recovered])));
}

/// A filesystem that allocates nothing ahead is asked once, and is no trouble.
#[test]
fn ballast_that_cannot_be_made() {
    let mut setup = setup(100 * MIB, 32 * MIB);
    setup.disk.no_ballast.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(setup.look_at(TOTAL), None);
    }
    assert_eq!((setup.ballast(), setup.disk.attempts.load(Ordering::Relaxed)), (0, 1));
}
