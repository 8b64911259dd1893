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

    /// Completes the state that was taken in: its membership, and the snapshot by which others get it. All
    /// of it is durable when this returns.
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
