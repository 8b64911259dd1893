//! Data from before there was a chain of hashes, or from a program that went on without it.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use rocksdb::{Options, DB};

use crate::chain::{self, Chain, Checkpoint};
use crate::engine::layout;
use crate::{LogId, Op, StateMachine, StoreOptions};

fn open(dir: &Path) -> StateMachine {
    StateMachine::open(dir, StoreOptions::default()).unwrap()
}

fn now(store: &StateMachine) -> Checkpoint {
    *store.checkpoints().last().unwrap()
}

fn apply(store: &StateMachine, term: u64, index: u64) {
    store.apply(&[(LogId { term, index }, Op::Blank)]).unwrap();
}

/// A store at an index, durable, in which `change` is done to the database before it is opened again.
fn reopened(dir: &Path, index: u64, change: impl FnOnce(&DB)) -> StateMachine {
    let store = open(dir);
    (1..=index).for_each(|index| apply(&store, 1, index));
    store.flush().unwrap();
    drop(store);
    let databases = std::fs::read_dir(dir.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path());
    let [database] = databases.filter(|path| path.is_dir()).collect::<Vec<_>>().try_into().unwrap();
    let db = DB::open(&Options::default(), &database).unwrap();
    change(&db);
    db.flush().unwrap();
    drop(db);
    open(dir)
}

/// Whatever is not the chain of exactly this state is not gone on with: the chain begins where the state is.
#[test]
fn a_chain_of_another_state_is_not_gone_on_with() {
    let chain = |version, index: u64| layout::encode_as(version, &(index, Chain { since: 0, value: 7 }));
    let cases = [
        ("none", None, 3),
        ("left behind", Some(chain(chain::VERSION, 2)), 3),
        ("hashed otherwise", Some(chain(chain::VERSION + 1, 3)), 3),
        ("its own", Some(chain(chain::VERSION, 3)), 0),
    ];
    for (what, stored, since) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = reopened(dir.path(), 3, |db| match stored {
            None => db.delete(layout::CHAIN).unwrap(),
            Some(stored) => db.put(layout::CHAIN, stored).unwrap(),
        });
        let Checkpoint { index, chain } = now(&store);
        assert_eq!((index, chain.since), (3, since), "{what}");
        // Durable with the next entry.
        apply(&store, 1, 4);
        let after = now(&store);
        store.flush().unwrap();
        drop(store);
        assert_eq!(now(&open(dir.path())), after, "{what}");
    }
}

/// Nodes whose data is older than the chain began it at different entries; from the next term on they have the same,
/// and one that has it from the beginning keeps that.
#[test]
fn chains_that_began_anywhere_meet_in_the_next_term() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let without = |db: &DB| db.delete(layout::CHAIN).unwrap();
    let early = reopened(dirs[0].path(), 3, without);
    let late = reopened(dirs[1].path(), 5, without);
    let whole = reopened(dirs[2].path(), 5, |_| {});
    (4..=5).for_each(|index| apply(&early, 1, index));
    assert_ne!(now(&early).chain.since, now(&late).chain.since);
    for store in [&early, &late, &whole] {
        apply(store, 2, 6);
        apply(store, 2, 7);
    }
    assert_eq!(now(&early), now(&late));
    assert_eq!((now(&early).index, now(&early).chain.since), (7, 5));
    assert_eq!(now(&whole).chain.since, 0);
}
