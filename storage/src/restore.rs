//! Filling an empty store with keys that have revisions already.
//!
//! Invariant: a store that is half filled holds no membership and no snapshot; whoever fills it puts what
//! makes a node of it in place afterwards.

use vaultdb_kv::backup::Record;
use vaultdb_kv::Key;

use crate::engine::Changes;
use crate::error::StorageError;
use crate::state_machine::StateMachine;
use crate::types::AppliedState;

impl StateMachine {
    /// Takes in the next keys of a state that is to be at `target`. Give it all of them, then
    /// [`StateMachine::finish_restore`].
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the store holds anything but a part of that state. After any other
    /// error the store is poisoned.
    pub fn restore(&self, target: &AppliedState, records: &[Record]) -> Result<(), StorageError> {
        let (Some(log_id), revision) = (target.log_id, target.revision) else {
            return Err(StorageError::refused("a restored state needs a place in the log"));
        };
        let data = records.iter().map(|(key, stored)| (key, Some((stored.revision, &stored.value))));
        let data: hashbrown::HashMap<&Key, _> = data.collect();
        self.take_in(&Changes { data, log_id, revision, ..Changes::default() })
    }

    /// Completes the state that was taken in: its membership, and the snapshot by which others get it, and with it
    /// the chain of hashes that begins here. All of it is durable when this returns.
    ///
    /// # Errors
    /// As [`StateMachine::restore`].
    pub fn finish_restore(&self, target: &AppliedState) -> Result<(), StorageError> {
        let (Some(log_id), Some(membership)) = (target.log_id, target.membership.clone()) else {
            return Err(StorageError::refused("a restored state needs a membership"));
        };
        self.take_in(&Changes {
            log_id,
            revision: target.revision,
            membership: Some(membership),
            terms: vec![(log_id.term, log_id.index)],
            ..Changes::default()
        })?;
        self.build_snapshot().map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use vaultdb_kv::Versioned;

    use super::*;
    use crate::chain::{Chain, Checkpoint};
    use crate::options::StoreOptions;
    use crate::types::LogId;

    fn record(key: &'static str, revision: u64) -> Record {
        (Key::new(key).unwrap(), Versioned { value: Bytes::from(key), revision })
    }

    /// A restored state is there after a restart, with a snapshot of it, and only an empty store becomes one.
    #[test]
    fn restored_state_is_durable_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log_id = LogId { term: 3, index: 100 };
        let target = AppliedState {
            log_id: Some(log_id),
            membership: Some((log_id, Bytes::from_static(b"m"))),
            revision: 70,
        };
        let store = StateMachine::open(dir.path(), StoreOptions::default()).unwrap();
        store.restore(&target, &[record("a", 7), record("b", 9)]).unwrap();
        store.restore(&target, &[record("c", 8)]).unwrap();
        store.finish_restore(&target).unwrap();
        drop(store);
        let store = StateMachine::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.applied(), target);
        assert_eq!(store.current_snapshot().unwrap().meta().applied, target);
        let begins = Checkpoint { index: 100, chain: Chain::default() };
        assert_eq!(store.checkpoints(), [begins], "as a new cluster's does");
        for (key, revision) in [("a", 7), ("b", 9), ("c", 8)] {
            let found = store.get(&Key::new(key).unwrap()).unwrap().unwrap();
            assert_eq!((found.value, found.revision), (Bytes::from(key), revision));
        }
        let other = AppliedState { log_id: Some(LogId { term: 3, index: 101 }), ..target };
        let refused = store.restore(&other, &[record("d", 1)]).unwrap_err();
        assert!(matches!(refused, StorageError::Refused { .. }), "{refused}");
        assert!(store.get(&Key::new("d").unwrap()).unwrap().is_none());
    }
}
