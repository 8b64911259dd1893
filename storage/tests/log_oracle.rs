//! The log on disk does what the log in memory does and what raft-log does, whatever is asked and however often
//! it is reopened.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/raft_log_oracle.rs"]
mod raft_log_oracle;

use common::{all, waiter, Blob};
use proptest::prelude::*;
use raft_log_oracle::RaftLogOracle;
use vaultdb_storage::log::{LogBounds, LogStore};
use vaultdb_storage::{DiskLog, LogId, LogOptions, MemLog, Vote};

#[derive(Debug, Clone)]
enum Step {
    Append {
        count: u64,
        term_up: u64,
        bytes: usize,
    },
    AppendBad {
        gap: u64,
    },
    TruncateAfter {
        back: u64,
    },
    TruncateAll,
    /// As a follower does that holds entries that were never committed: it goes back some entries and
    /// takes others of a lower term.
    Replace {
        back: u64,
        count: u64,
    },
    Purge {
        ahead: i64,
    },
    SaveVote {
        term: u64,
        node_id: u64,
        committed: bool,
    },
    SaveCommitted {
        ahead: i64,
    },
    Read {
        from: u64,
        count: u64,
        bytes_max: usize,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8u64, 0..2u64, 0..200usize)
            .prop_map(|(count, term_up, bytes)| Step::Append { count, term_up, bytes }),
        1 => (0..3u64).prop_map(|gap| Step::AppendBad { gap }),
        2 => (0..12u64).prop_map(|back| Step::TruncateAfter { back }),
        1 => Just(Step::TruncateAll),
        2 => (1..12u64, 1..12u64).prop_map(|(back, count)| Step::Replace { back, count }),
        2 => (-12..4i64).prop_map(|ahead| Step::Purge { ahead }),
        1 => (0..6u64, 1..4u64, any::<bool>())
            .prop_map(|(term, node_id, committed)| Step::SaveVote { term, node_id, committed }),
        2 => (-12..3i64).prop_map(|ahead| Step::SaveCommitted { ahead }),
        3 => (0..80u64, 0..20u64, 0..600usize)
            .prop_map(|(from, count, bytes_max)| Step::Read { from, count, bytes_max }),
        2 => Just(Step::Reopen),
    ]
}

/// The id at an index that may lie beyond either end, as a caller would know it.
fn id_at(log: &MemLog<Blob>, index: u64, term: u64) -> LogId {
    match log.read(index..index + 1, 1).unwrap().first() {
        Some((id, _)) => *id,
        None if log.bounds().last.is_some_and(|last| index < last.index) => LogId { term: 1, index },
        None => LogId { term, index },
    }
}

/// Does the same to any log. Tells whether it was accepted.
fn apply<L: LogStore<Blob>>(log: &L, step: &Step, oracle: &MemLog<Blob>, term: u64) -> bool {
    let bounds = oracle.bounds();
    let last = bounds.last.map_or(0, |last| last.index);
    let next = bounds.last.map_or(0, |last| last.index + 1);
    let ids = |term, from: u64, count| (from..from + count).map(move |index| LogId { term, index });
    let append = |entries: Vec<(LogId, Blob)>| {
        let (done, durable) = waiter();
        let accepted = log.append(entries, done).is_ok();
        assert_eq!(durable.recv().unwrap().is_ok(), accepted);
        accepted
    };
    match *step {
        Step::Append { count, term_up, bytes } => {
            let blob = Blob(vec![b'x'; bytes]);
            append(ids(term + term_up, next, count).map(|id| (id, blob.clone())).collect())
        }
        Step::AppendBad { gap } => {
            // An empty log may begin anywhere; nothing is bad about it.
            let gap = if bounds.last.is_some() { gap } else { 0 };
            append(vec![(LogId { term, index: next + gap }, Blob(Vec::new()))])
        }
        Step::TruncateAfter { back } => {
            log.truncate_after(Some(id_at(oracle, last.saturating_sub(back), term))).is_ok()
        }
        Step::TruncateAll => log.truncate_after(None).is_ok(),
        Step::Replace { back, count } => {
            let keep = id_at(oracle, last.saturating_sub(back), term);
            log.truncate_after(Some(keep)).is_ok()
                && append(
                    ids(keep.term, keep.index + 1, count).map(|id| (id, Blob(vec![b'r'; 40]))).collect(),
                )
        }
        Step::Purge { ahead } => log.purge(id_at(oracle, last.saturating_add_signed(ahead), term)).is_ok(),
        Step::SaveVote { term, node_id, committed } => {
            let (done, durable) = waiter();
            let accepted = log.save_vote(Vote { term, node_id, committed }, done).is_ok();
            assert_eq!(durable.recv().unwrap().is_ok(), accepted);
            accepted
        }
        Step::SaveCommitted { ahead } => {
            log.save_committed(Some(id_at(oracle, last.saturating_add_signed(ahead), term))).is_ok()
        }
        Step::Read { .. } | Step::Reopen => true,
    }
}

/// Chunks of raft-log, so that it begins new ones as well.
const CHUNK_BYTES: usize = 1000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_logs_are_the_same(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let raft_log = RaftLogOracle::open(&dir.path().join("raft-log"), CHUNK_BYTES);
        let options = LogOptions { segment_bytes: 4096, cache_bytes: 300, ..LogOptions::default() };
        let open = || DiskLog::<Blob>::open(&dir.path().join("wal"), options.clone()).unwrap();
        let memory = MemLog::new();
        let mut disk = Some(open());
        for step in &steps {
            // The highest term so far, so that new entries are never below it unless a step asks for it.
            let term = memory.bounds().last.map_or(1, |last| last.term);
            match step {
                Step::Reopen => {
                    drop(disk.take());
                    disk = Some(open());
                }
                Step::Read { from, count, bytes_max } => {
                    let range = *from..from + count;
                    let expected = memory.read(range.clone(), *bytes_max).unwrap();
                    prop_assert_eq!(disk.as_ref().unwrap().read(range, *bytes_max).unwrap(), expected);
                }
                step => {
                    let log = disk.as_ref().unwrap();
                    // The disk first: the oracle is asked what the state before the step is.
                    let on_disk = apply(log, step, &memory, term);
                    let before = MemLog::new();
                    copy(&memory, &before);
                    let was = state(&memory);
                    let in_memory = apply(&memory, step, &before, term);
                    prop_assert_eq!(on_disk, in_memory, "{:?}", step);
                    if in_memory && (state(&memory) != was || replaces(step)) {
                        apply(&raft_log, step, &before, term);
                    }
                }
            }
            let log = disk.as_ref().unwrap();
            for expected in [state(&memory), state(&raft_log)] {
                prop_assert_eq!(state(log), expected, "{:?}", step);
            }
            prop_assert_eq!(all(log), all(&memory), "{:?}", step);
            prop_assert_eq!(all(log), all(&raft_log), "{:?}", step);
        }
    }
}

fn state<L: LogStore<Blob>>(log: &L) -> (LogBounds, Option<Vote>, Option<LogId>) {
    (log.bounds(), log.vote(), log.committed())
}

/// Whether the step may change entries although the bounds stay. Of other steps that change nothing raft-log, which
/// checks nothing, must not be told.
fn replaces(step: &Step) -> bool {
    matches!(
        step,
        Step::Append { .. } | Step::AppendBad { .. } | Step::Replace { .. } | Step::SaveVote { .. }
    )
}

/// What the steps look up in the log, as it was.
fn copy(from: &MemLog<Blob>, to: &MemLog<Blob>) {
    let bounds = from.bounds();
    if let Some(purged) = bounds.purged {
        to.purge(purged).unwrap();
    }
    let (done, _) = waiter();
    to.append(all(from), done).unwrap();
}
