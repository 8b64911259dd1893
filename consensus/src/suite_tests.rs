//! Property: both logs and both engines keep openraft's storage contract, as its own suite tests it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::StorageError;
use tempfile::TempDir;
use tokio::sync::watch;
use vaultdb_storage::{DiskLog, LogOptions, MemLog, StateMachine, StoreOptions};

use crate::log_store::LogAdapter;
use crate::stages::Stages;
use crate::state_machine::StateMachineAdapter;
use crate::types::TypeConfig;

struct OnDisk;
struct InMemory;

fn stages() -> Arc<Stages> {
    Arc::new(Stages::new(None))
}

fn adapter(store: StateMachine) -> StateMachineAdapter {
    StateMachineAdapter::new(Arc::new(store), Arc::new(watch::channel(0).0), stages())
}

impl StoreBuilder<TypeConfig, LogAdapter, StateMachineAdapter, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogAdapter, StateMachineAdapter), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(&dir.path().join("wal"), LogOptions::default()).unwrap();
        let store = StateMachine::open(dir.path(), StoreOptions::default()).unwrap();
        Ok((dir, LogAdapter::new(Arc::new(log), stages()), adapter(store)))
    }
}

impl StoreBuilder<TypeConfig, LogAdapter, StateMachineAdapter> for InMemory {
    async fn build(&self) -> Result<((), LogAdapter, StateMachineAdapter), StorageError<TypeConfig>> {
        let store = StateMachine::in_memory(StoreOptions::default());
        Ok(((), LogAdapter::new(Arc::new(MemLog::new()), stages()), adapter(store)))
    }
}

#[tokio::test]
async fn disk_log_and_rocksdb_keep_the_contract() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test]
async fn memory_log_and_engine_keep_the_contract() {
    Suite::test_all(InMemory).await.unwrap();
}
