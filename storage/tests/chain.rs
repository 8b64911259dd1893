//! Replicas at the same index have the same chain of hashes if they did the same, and another one if not.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use proptest::prelude::*;
use store::{at, key, op, open, refused, set, tiny, transfer, value};
use vaultdb_kv::{Command, Key};
use vaultdb_storage::{Chain, Checkpoint, LogId, Op, StateMachine};

fn now(store: &StateMachine) -> Checkpoint {
    *store.checkpoints().last().unwrap()
}

/// Applies entries up to `end` in runs of these lengths, one after another.
fn apply(store: &StateMachine, seed: u64, end: u64, lengths: &[u64]) {
    let mut next = store.applied().log_id.map_or(1, |id| id.index + 1);
    for length in lengths.iter().cycle() {
        if next > end {
            return;
        }
        let last = (next + length - 1).min(end);
        let run: Vec<_> = (next..=last).map(|index| (at(index), op(seed, index))).collect();
        store.apply(&run).unwrap();
        next = last + 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// It makes no difference how entries are cut into runs, where the state is kept, whether the store was opened
    /// again meanwhile or came from a snapshot.
    #[test]
    fn chain_is_the_same_by_every_way(
        seed in any::<u64>(),
        lengths in proptest::collection::vec(1..90u64, 1..6),
        first in 1..900u64,
        second in 1..900u64,
    ) {
        let end = first + second;
        let reference = StateMachine::in_memory(tiny());
        apply(&reference, seed, end, &[1]);

        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        apply(&store, seed, first, &lengths);
        let snapshot = store.build_snapshot().unwrap();
        drop(store);
        let store = open(dir.path());
        prop_assert_eq!(store.applied().log_id, Some(at(first)));
        apply(&store, seed, end, &lengths);
        prop_assert_eq!(now(&store), now(&reference));
        prop_assert_eq!(now(&store).index, end);

        let peer_dir = tempfile::tempdir().unwrap();
        let peer = open(peer_dir.path());
        apply(&peer, seed ^ 1, first / 2, &lengths);
        peer.install_snapshot(&transfer(&snapshot, &peer, 1 << 20)).unwrap();
        prop_assert_eq!(peer.checkpoints().len(), 1, "those before are of another state");
        apply(&peer, seed, end, &[7]);
        prop_assert_eq!(now(&peer), now(&reference));
    }

    /// One entry that does something else makes all later chains different.
    #[test]
    fn one_difference_shows_for_ever(seed in any::<u64>(), place in 1..200u64, after in 0..200u64) {
        let (one, other) = (StateMachine::in_memory(tiny()), StateMachine::in_memory(tiny()));
        apply(&one, seed, place - 1, &[13]);
        apply(&other, seed, place - 1, &[29]);
        prop_assert_eq!(one.checkpoints(), other.checkpoints());
        one.apply(&[(at(place), set(&[(1, "value")]))]).unwrap();
        other.apply(&[(at(place), set(&[(1, "valuE")]))]).unwrap();
        for store in [&one, &other] {
            apply(store, seed, place + after, &[13]);
        }
        prop_assert_eq!(now(&one).index, now(&other).index);
        prop_assert!(now(&one).chain != now(&other).chain);
    }
}

/// The same entry that meets another state has another outcome, and that shows, too.
#[test]
fn a_difference_in_the_state_shows_once_an_entry_meets_it() {
    let (one, other) = (StateMachine::in_memory(tiny()), StateMachine::in_memory(tiny()));
    let delete = || Op::Command(Command::Delete { key: key(1) }.into());
    one.apply(&[(at(1), set(&[(1, "a")])), (at(2), delete())]).unwrap();
    other.apply(&[(at(1), set(&[(2, "a")])), (at(2), delete())]).unwrap();
    assert_ne!(now(&one).chain, now(&other).chain);
}

/// Within a run, too, the checkpoint is the one at its index, not at the end of the run.
#[test]
fn checkpoints_are_taken_inside_of_runs() {
    let (by_one, by_many) = (StateMachine::in_memory(tiny()), StateMachine::in_memory(tiny()));
    apply(&by_one, 5, 5_000, &[1]);
    apply(&by_many, 5, 5_000, &[1_900]);
    let checkpoints = by_many.checkpoints();
    assert_eq!(checkpoints, by_one.checkpoints());
    let indexes: Vec<u64> = checkpoints.iter().map(|checkpoint| checkpoint.index).collect();
    assert_eq!(indexes, [1024, 2048, 3072, 4096, 5000]);
}

/// What is read for a run that then has to go another way leaves no trace.
#[test]
fn a_run_that_was_put_off_counts_once() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (open(dir.path()), open(other_dir.path()));
    let run = [(at(1), op(3, 1)), (at(2), Op::Membership("m".into()))];
    assert_eq!(store.try_apply(&run).unwrap(), None, "a membership goes to RocksDB at once");
    assert!(store.checkpoints().is_empty());
    store.apply(&run).unwrap();
    other.apply(&run).unwrap();
    assert_eq!(store.checkpoints(), other.checkpoints());
}

/// A disturbed state differs in its chain and in a value, at once and after a restart, and nothing heals it.
#[test]
fn a_flip_is_a_difference_that_stays() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (open(dir.path()), open(other_dir.path()));
    assert!(refused(store.flip_state()));
    for store in [&store, &other] {
        store.apply(&[(at(1), set(&[(1, "a"), (2, "b")]))]).unwrap();
    }
    assert_eq!(value(&store, 1).as_deref(), Some("a"));
    store.flip_state().unwrap();
    assert_eq!((value(&store, 1).as_deref(), value(&store, 2).as_deref()), (Some("`"), Some("b")));
    let differs = |store: &StateMachine| {
        assert_eq!(store.applied(), other.applied());
        assert_eq!(now(store).index, now(&other).index);
        assert_ne!(now(store).chain.value, now(&other).chain.value);
        assert_eq!(now(store).chain.since, now(&other).chain.since);
    };
    differs(&store);
    store.flush().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(value(&store, 1).as_deref(), Some("`"));
    differs(&store);
    for store in [&store, &other] {
        store.apply(&[(at(2), set(&[(1, "c")]))]).unwrap();
    }
    differs(&store);
}

/// A store without keys is disturbed in its chain alone; so is one in memory.
#[test]
fn a_flip_needs_no_key() {
    let store = StateMachine::in_memory(tiny());
    store.apply(&[(at(1), Op::Blank)]).unwrap();
    let before = now(&store);
    store.flip_state().unwrap();
    assert_ne!(now(&store), before);
    let pairs = vec![(Key::new("empty").unwrap(), bytes::Bytes::new())];
    store.apply(&[(at(2), Op::Command(Command::Set { pairs }.into()))]).unwrap();
    store.flip_state().unwrap();
    assert_eq!(store.get(&Key::new("empty").unwrap()).unwrap().unwrap().value.len(), 0);
}

/// A cluster's chains begin with it.
#[test]
fn a_new_chain_begins_at_zero() {
    let store = StateMachine::in_memory(tiny());
    assert!(store.checkpoints().is_empty());
    store.apply(&[(LogId { term: 4, index: 9 }, Op::Blank)]).unwrap();
    let Checkpoint { index: 9, chain: Chain { since: 0, value } } = now(&store) else {
        panic!("{:?}", now(&store))
    };
    assert_ne!(value, 0);
}
