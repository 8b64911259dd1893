//! Whatever is done to the state machine, it holds what a map would hold.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use proptest::prelude::*;
use store::{at, key, mix, op, open, tiny, transfer, Model, KEYS};
use vaultdb_storage::{Lookup, Op, StateMachine};

#[derive(Debug, Clone)]
enum Step {
    Apply {
        runs: Vec<usize>,
    },
    ReadSome {
        seed: u64,
    },
    Flush,
    Snapshot,
    /// A store that lags behind is given a snapshot, then the entries after it, and takes over.
    MoveToPeer {
        lag: u64,
        chunk_bytes: usize,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(1..12usize, 1..5).prop_map(|runs| Step::Apply { runs }),
        3 => any::<u64>().prop_map(|seed| Step::ReadSome { seed }),
        1 => Just(Step::Flush),
        1 => Just(Step::Snapshot),
        1 => (0..40u64, 1..40_000usize)
            .prop_map(|(lag, chunk_bytes)| Step::MoveToPeer { lag, chunk_bytes }),
        1 => Just(Step::Reopen),
    ]
}

/// The model after each entry: what the state is at any applied index.
struct History {
    seed: u64,
    models: Vec<Model>,
}

impl History {
    fn last(&self) -> &Model {
        self.models.last().unwrap()
    }

    fn end(&self) -> u64 {
        self.models.len() as u64 - 1
    }

    /// Applies entries `from` to `to` (inclusive, from 1) as one run, and checks the answers.
    fn apply(&mut self, store: &StateMachine, from: u64, to: u64) {
        let run: Vec<_> = (from..=to).map(|index| (at(index), op(self.seed, index))).collect();
        let answers = store.apply(&run).unwrap();
        assert_eq!(answers.len(), run.len());
        for ((log_id, op), answer) in run.iter().zip(answers) {
            let mut model = self.models[log_id.index as usize - 1].clone();
            assert_eq!(model.apply(*log_id, op), answer, "{log_id:?} {op:?}");
            match self.models.get(log_id.index as usize) {
                Some(before) => assert_eq!(before, &model),
                None => self.models.push(model),
            }
        }
    }

    /// What is there after a restart is the state at some index; the rest comes from the log.
    fn recover(&mut self, store: &StateMachine) {
        let applied = store.applied().log_id.map_or(0, |id| id.index);
        self.models[applied as usize].check(store);
        if applied < self.end() {
            self.apply(store, applied + 1, self.end());
        }
        self.last().check(store);
    }
}

fn read_some(store: &StateMachine, model: &Model, seed: u64) {
    for i in 0..8 {
        let key = key(mix(seed.wrapping_add(i)) % KEYS);
        let expected = model.data.get(&key);
        match store.try_get(&key).unwrap() {
            Lookup::Ready(found) => assert_eq!(found.as_ref(), expected, "{key:?}"),
            Lookup::NeedsDisk => assert_eq!(store.get(&key).unwrap().as_ref(), expected, "{key:?}"),
        }
    }
}

fn run(seed: u64, steps: &[Step], in_memory: bool) {
    let mut dir = tempfile::tempdir().unwrap();
    let make = |dir: &std::path::Path| if in_memory { StateMachine::in_memory(tiny()) } else { open(dir) };
    let mut store = make(dir.path());
    let mut history = History { seed, models: vec![Model::default()] };
    for step in steps {
        match step {
            Step::Apply { runs } => {
                for length in runs {
                    let from = history.end() + 1;
                    history.apply(&store, from, from + *length as u64 - 1);
                }
            }
            Step::ReadSome { seed } => read_some(&store, history.last(), *seed),
            Step::Flush => store.flush().unwrap(),
            Step::Snapshot => {
                let snapshot = store.build_snapshot().unwrap();
                assert_eq!(snapshot.meta().applied, history.last().applied);
            }
            Step::MoveToPeer { lag, chunk_bytes } => {
                let snapshot = store.build_snapshot().unwrap();
                let peer_dir = tempfile::tempdir().unwrap();
                let peer = make(peer_dir.path());
                let behind = history.end().saturating_sub(*lag);
                if behind > 0 {
                    history.apply(&peer, 1, behind);
                }
                let ahead = history.end() + 1;
                history.apply(&store, ahead, ahead + lag % 5);
                peer.install_snapshot(&transfer(&snapshot, &peer, *chunk_bytes)).unwrap();
                assert_eq!(peer.current_snapshot().unwrap().meta(), snapshot.meta());
                history.recover(&peer);
                store = peer;
                dir = peer_dir;
            }
            Step::Reopen if !in_memory => {
                drop(store);
                store = open(dir.path());
                history.recover(&store);
            }
            Step::Reopen => {}
        }
        assert_eq!(store.applied(), history.last().applied);
    }
    history.last().check(&store);
    let cache = store.stats().cache;
    assert!(cache.bytes <= tiny().cache_bytes as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_equals_map(seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..40)) {
        run(seed, &steps, false);
    }

    #[test]
    fn memory_store_equals_map(seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..40)) {
        run(seed, &steps, true);
    }
}

/// Readers that race with writes and installations never see a value older than what was published
/// before they began, in the cache or elsewhere.
#[test]
fn concurrent_reads_are_never_stale() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use vaultdb_kv::Command;

    let dir = tempfile::tempdir().unwrap();
    let store =
        StateMachine::open(dir.path(), vaultdb_storage::StoreOptions { cache_bytes: 8 << 10, ..tiny() })
            .unwrap();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (store, stop, reads) = (&store, &stop, &reads);
            scope.spawn(move || {
                let mut round = reader;
                while !stop.load(Ordering::Relaxed) {
                    round = mix(round);
                    let key = key(round % KEYS);
                    // Every entry sets every key, so a value is never older than the revision.
                    let published = store.revision();
                    let found = store.get(&key).unwrap();
                    let revision = found.map_or(0, |found| found.revision);
                    assert!(revision >= published, "revision {revision} after {published} was published");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for index in 1..=3_000 {
            // Larger together than the cache, so that entries are evicted and read again all the time.
            let value = bytes::Bytes::from(vec![0; 300]);
            let pairs = (0..KEYS).map(|number| (key(number), value.clone())).collect();
            store.apply(&[(at(index), Op::Command(Command::Set { pairs }.into()))]).unwrap();
            if index % 500 == 0 {
                let snapshot = store.build_snapshot().unwrap();
                store.install_snapshot(&transfer(&snapshot, &store, 1 << 20)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.into_inner() > 1_000);
}
