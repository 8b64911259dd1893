//! The race between a reader's fill of the cache and a write, played step by step.
#![allow(clippy::unwrap_used)]

use vaultdb_kv::{Command, Key};

use super::*;

fn set(index: u64, value: &'static str) -> (LogId, Op) {
    let pairs = vec![(Key::new("k").unwrap(), value.into())];
    (LogId { term: 1, index }, Op::Command(Command::Set { pairs }.into()))
}

/// Does `write` between a reader's look at the engine and its fill; the reader must not put back the old
/// value.
fn race(store: &StateMachine, write: impl FnOnce(&StateMachine)) {
    store.core.cache.clear();
    let Found::Miss(token) = store.core.cache.begin_fill(b"k") else { panic!("just cleared") };
    let old = store.core.engine().get(b"k").unwrap().unwrap();
    write(store);
    assert!(!store.core.cache.complete_fill(token, b"k", &old), "a stale fill went in");
    let found = store.get(&Key::new("k").unwrap()).unwrap().map(|found| found.value);
    assert_ne!(found, Some(old.value));
}

#[test]
fn fill_that_a_write_overtook_is_dropped() {
    let store = StateMachine::in_memory(StoreOptions::default());
    store.apply(&[set(1, "old")]).unwrap();
    race(&store, |store| {
        store.apply(&[set(2, "new")]).unwrap();
    });
    race(&store, |store| {
        let delete = Op::Command(Command::Delete { key: Key::new("k").unwrap() }.into());
        store.apply(&[(LogId { term: 1, index: 3 }, delete)]).unwrap();
    });
}

#[test]
fn fill_that_an_installation_overtook_is_dropped() {
    let peer = StateMachine::in_memory(StoreOptions::default());
    peer.apply(&[set(5, "new")]).unwrap();
    let snapshot = peer.build_snapshot().unwrap();
    let store = StateMachine::in_memory(StoreOptions::default());
    store.apply(&[set(1, "old")]).unwrap();
    race(&store, |store| store.install_snapshot(&snapshot).unwrap());
}

/// What is undisturbed does fill the cache.
#[test]
fn fill_without_a_write_goes_in() {
    let store = StateMachine::in_memory(StoreOptions::default());
    store.apply(&[set(1, "value")]).unwrap();
    store.core.cache.clear();
    let key = Key::new("k").unwrap();
    store.get(&key).unwrap();
    store.try_get(&key).unwrap();
    let cache = store.stats().cache;
    assert_eq!((cache.misses, cache.hits, cache.entries), (1, 1, 1));
}
