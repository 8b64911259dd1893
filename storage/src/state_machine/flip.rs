//! A state that is disturbed on purpose, as a flipped bit would: for tests of what notices it.

use bytes::Bytes;
use vaultdb_kv::{Key, KeyBounds, Versioned};

use super::StateMachine;
use crate::attempts::AttemptChanges;
use crate::chain::Chain;
use crate::engine::{Changes, EngineHandle};
use crate::error::StorageError;

impl StateMachine {
    /// Flips a bit of the first key's value, if there is one, and one of the chain: from now on this state differs
    /// from every other replica's. May wait for the disk.
    ///
    /// # Errors
    /// [`StorageError::Refused`] before the first entry is applied; what reading and writing fail with.
    pub fn flip_state(&self) -> Result<(), StorageError> {
        let core = &*self.core;
        core.check()?;
        let mut meta = core.applying.lock();
        let log_id = meta
            .applied
            .log_id
            .ok_or_else(|| StorageError::refused("no entry is applied that could be disturbed"))?;
        let engine = core.engine();
        let flipped = first_item(&engine).map_err(|error| core.fail(error))?.map(|(key, found)| {
            let mut value = found.value.to_vec();
            value.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            (key, found.revision, Bytes::from(value))
        });
        let changes = Changes {
            data: flipped.iter().map(|(key, revision, value)| (key, Some((*revision, value)))).collect(),
            log_id,
            revision: meta.applied.revision,
            last_node_id: meta.last_node_id,
            attempts: AttemptChanges::new(&meta.attempts),
            chain: Chain { value: meta.chain.value ^ 1, ..meta.chain },
            ..Changes::default()
        };
        engine.write(&meta, &changes).map_err(|error| core.fail(error))?;
        core.finish(&mut meta, &changes);
        Ok(())
    }
}

fn first_item(engine: &EngineHandle) -> Result<Option<(Key, Versioned)>, StorageError> {
    let mut first = None;
    match engine {
        EngineHandle::Rocks(engine) => {
            engine.write_out()?;
            let all = KeyBounds { lower: Vec::new(), upper: None };
            engine.rocks().view()?.each(&all, false, |key, value, revision| {
                first = Some((key.to_vec(), Versioned { value: Bytes::copy_from_slice(value), revision }));
                false
            })?;
        }
        EngineHandle::Memory(engine) => {
            let (data, _) = engine.copy();
            first = data.into_iter().next().map(|(key, found)| (key.into_vec(), found));
        }
    }
    let key = |bytes| Key::new(bytes).map_err(|error| StorageError::corrupt("a stored key", error));
    first.map(|(bytes, found): (Vec<u8>, Versioned)| Ok((key(bytes)?, found))).transpose()
}
