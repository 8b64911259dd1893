//! How long writes spend in each stage on their way, for metrics.
//!
//! The parts that a write passes through record here, once a batch and the queue once a write. Must never
//! hold up a write: no lock is taken for a single write, and what cannot be matched (after a change of
//! leader or a snapshot, or because it is too old) is simply not recorded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vaultdb_kv::histogram::IO_BOUNDS_US;
use vaultdb_kv::{Histogram, HistogramSnapshot};

/// Appends that are remembered until they are applied, and runs of applied entries that are remembered
/// until they are answered; older ones are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// Upper bounds of the buckets, in microseconds: from a hand-over between two threads to the longest
/// timeout of a write.
const BOUNDS_US: &[u64] = &[
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 60_000_000,
];

/// In the order in which a write passes them; a leader syncs and replicates at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From a write's arrival until its batch is taken. The only one with a record for each write.
    Queue,
    /// From there (on a leader that got the batch from another node, from its arrival) to the append.
    Propose,
    /// From an append until it is durable here.
    Fsync,
    /// From an append until its entries are known to be committed and reach the state machine; a follower
    /// knows of it from the leader.
    Quorum,
    /// From there until their effect is readable.
    Apply,
    /// From there until the batch's answers are laid down for whoever asked.
    Answer,
}

impl Stage {
    pub const ALL: [Stage; 6] =
        [Stage::Queue, Stage::Propose, Stage::Fsync, Stage::Quorum, Stage::Apply, Stage::Answer];

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Propose => "propose",
            Stage::Fsync => "fsync",
            Stage::Quorum => "quorum",
            Stage::Apply => "apply",
            Stage::Answer => "answer",
        }
    }
}

/// What [`Stages`] held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteTimes {
    /// The syncs of the log; `None` in memory.
    pub wal_fsync: Option<HistogramSnapshot>,
    /// Of a leader's heartbeats, from sending until the answer, the follower's own fsync included.
    pub round_trips: HistogramSnapshot,
    /// In the order of [`Stage::ALL`].
    pub stages: Vec<(Stage, HistogramSnapshot)>,
}

/// Shared by everything that a write passes through on one node.
#[derive(Debug)]
pub struct Stages {
    /// By [`Stage`].
    histograms: [Histogram; Stage::ALL.len()],
    wal_fsync: Option<Arc<Histogram>>,
    pub(crate) round_trips: Arc<Histogram>,
    /// Not applied yet, in the order of their indexes.
    appended: Mutex<VecDeque<Range>>,
    /// In the order of their indexes.
    applied: Mutex<VecDeque<Range>>,
}

/// Consecutive entries, and when something befell them.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
    at: Instant,
}

fn remember(ranges: &mut VecDeque<Range>, range: Range) {
    if ranges.len() >= REMEMBERED_MAX {
        ranges.pop_front();
    }
    ranges.push_back(range);
}

impl Stages {
    /// `wal_fsync` is how long the log's own syncs took.
    pub fn new(wal_fsync: Option<Arc<Histogram>>) -> Self {
        Self {
            histograms: std::array::from_fn(|_| Histogram::new(BOUNDS_US)),
            wal_fsync,
            round_trips: Arc::new(Histogram::new(IO_BOUNDS_US)),
            appended: Mutex::default(),
            applied: Mutex::default(),
        }
    }

    pub fn record(&self, stage: Stage, took: Duration) {
        self.histograms[stage as usize].record(took);
    }

    /// The entries `first..=last` are handed to the log. They replace what the log had from `first` on.
    pub(crate) fn appended(&self, first: u64, last: u64, at: Instant) {
        let mut appended = self.appended.lock();
        while appended.back().is_some_and(|known| known.last >= first) {
            appended.pop_back();
        }
        remember(&mut appended, Range { first, last, at });
    }

    /// The entries `first..=last`, known to be committed since `committed`, are readable now.
    pub(crate) fn applied(&self, first: u64, last: u64, committed: Instant) {
        let now = Instant::now();
        self.record(Stage::Apply, now.saturating_duration_since(committed));
        let mut appended = self.appended.lock();
        while let Some(known) = appended.front().copied().filter(|known| known.last <= last) {
            appended.pop_front();
            // What ends before the run was skipped by a snapshot.
            if known.last >= first {
                self.record(Stage::Quorum, committed.saturating_duration_since(known.at));
            }
        }
        drop(appended);
        remember(&mut self.applied.lock(), Range { first, last, at: now });
    }

    /// The answers to a batch that ends with the entry `last` are ready.
    pub fn answered(&self, last: u64) {
        let at = {
            let applied = self.applied.lock();
            let place = applied.partition_point(|run| run.last < last);
            applied.get(place).filter(|run| run.first <= last).map(|run| run.at)
        };
        if let Some(at) = at {
            self.record(Stage::Answer, at.elapsed());
        }
    }

    pub fn snapshot(&self) -> WriteTimes {
        let of = |stage: Stage| (stage, self.histograms[stage as usize].snapshot());
        WriteTimes {
            wal_fsync: self.wal_fsync.as_ref().map(|histogram| histogram.snapshot()),
            round_trips: self.round_trips.snapshot(),
            stages: Stage::ALL.into_iter().map(of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(stages: &Stages, stage: Stage) -> u64 {
        stages.histograms[stage as usize].snapshot().count()
    }

    /// An append counts once, when the last of its entries is applied, whatever runs they come in.
    #[test]
    fn appends_are_matched_with_commits() {
        let stages = Stages::new(None);
        let now = Instant::now();
        stages.appended(1, 3, now);
        stages.appended(4, 4, now);
        stages.appended(5, 9, now);
        stages.applied(1, 2, now);
        assert_eq!(count(&stages, Stage::Quorum), 0);
        stages.applied(3, 6, now);
        assert_eq!(count(&stages, Stage::Quorum), 2);
        stages.applied(7, 9, now);
        assert_eq!((count(&stages, Stage::Quorum), count(&stages, Stage::Apply)), (3, 3));
        stages.applied(10, 10, now);
        assert_eq!(count(&stages, Stage::Quorum), 3, "an append of a former process is not known");
    }

    /// What a later leader overwrote, and what a snapshot skipped, never counts.
    #[test]
    fn what_is_not_matched_is_not_recorded() {
        let stages = Stages::new(None);
        let now = Instant::now();
        stages.appended(1, 2, now);
        stages.appended(3, 6, now);
        stages.appended(5, 7, now);
        stages.applied(1, 7, now);
        assert_eq!(count(&stages, Stage::Quorum), 2, "the entries 3 to 6 are not what was appended first");
        stages.appended(8, 8, now);
        stages.applied(101, 101, now);
        assert_eq!(count(&stages, Stage::Quorum), 2);
        assert!(stages.appended.lock().is_empty());
        for (last, answers) in [(50, 0), (101, 1), (102, 1), (7, 2)] {
            stages.answered(last);
            assert_eq!(count(&stages, Stage::Answer), answers, "entry {last}");
        }
    }

    /// Without a majority nothing is committed, and memory does not grow.
    #[test]
    fn memory_is_bounded() {
        let stages = Stages::new(None);
        let now = Instant::now();
        for index in 0..2 * REMEMBERED_MAX as u64 {
            stages.appended(index, index, now);
            stages.applied(index, index, now);
        }
        assert_eq!(stages.applied.lock().len(), REMEMBERED_MAX);
        stages.answered(0);
        assert_eq!(count(&stages, Stage::Answer), 0, "forgotten");
        for index in 0..2 * REMEMBERED_MAX as u64 {
            stages.appended(index, index, now);
        }
        assert_eq!(stages.appended.lock().len(), REMEMBERED_MAX);
    }
}
