//! A map in memory as the engine, for `-inmem` and tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;
use vaultdb_kv::{Revision, Versioned};

use super::{layout, Changes, Engine, Gauge, Meta};
use crate::error::StorageError;
use crate::state_machine::Lookup;
use crate::types::AppliedState;

#[derive(Default)]
struct State {
    data: BTreeMap<Box<[u8]>, Versioned>,
    meta: Meta,
}

#[derive(Default)]
pub(crate) struct MemoryEngine {
    state: RwLock<State>,
}

impl MemoryEngine {
    /// The whole state in one piece, and the meta that it holds.
    pub(crate) fn dump(&self) -> (Meta, Bytes) {
        let state = self.state.read();
        let data: Vec<(&[u8], Revision, &[u8])> = state
            .data
            .iter()
            .map(|(key, stored)| (key.as_ref(), stored.revision, stored.value.as_ref()))
            .collect();
        (state.meta.clone(), layout::encode_meta(&(&state.meta, data)).into())
    }

    /// A copy of the map, which shares the values, and what it holds.
    pub(crate) fn copy(&self) -> (BTreeMap<Box<[u8]>, Versioned>, AppliedState) {
        let state = self.state.read();
        (state.data.clone(), state.meta.applied.clone())
    }

    pub(crate) fn from_dump(dump: &[u8]) -> Result<Self, StorageError> {
        type Dump = (Meta, Vec<(Vec<u8>, Revision, Vec<u8>)>);
        let (meta, data): Dump = layout::decode_meta("the snapshot", dump)?;
        let data = data
            .into_iter()
            .map(|(key, revision, value)| {
                (key.into_boxed_slice(), Versioned { value: value.into(), revision })
            })
            .collect();
        Ok(Self { state: RwLock::new(State { data, meta }) })
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        Ok(self.state.read().data.get(key).cloned())
    }

    fn try_get(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        self.get(key).map(Lookup::Ready)
    }

    fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StorageError> {
        Ok(self.state.read().data.get(key).map(|stored| stored.revision))
    }

    fn write(&self, _: &Meta, changes: &Changes<'_>) -> Result<(), StorageError> {
        let mut state = self.state.write();
        for (key, change) in &changes.data {
            match change {
                Some((revision, value)) => {
                    // A copy: the bytes given may be a slice of a much larger buffer.
                    let value = Bytes::copy_from_slice(value);
                    state.data.insert(key.as_bytes().into(), Versioned { value, revision: *revision });
                }
                None => {
                    state.data.remove(key.as_bytes());
                }
            }
        }
        state.meta.advance(changes);
        Ok(())
    }

    fn try_write(&self, before: &Meta, changes: &Changes<'_>) -> Result<bool, StorageError> {
        self.write(before, changes).map(|()| true)
    }

    fn load_meta(&self) -> Result<Meta, StorageError> {
        Ok(self.state.read().meta.clone())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn gauge(&self) -> Result<Gauge, StorageError> {
        let keys_estimate = self.state.read().data.len() as u64;
        Ok(Gauge { keys_estimate, ..Gauge::default() })
    }
}
