//! Receives a snapshot: this node takes one at a time, from whoever leads.
//!
//! Files are written on the blocking pool, so that a slow disk delays no heartbeat; the pieces of one connection
//! one after another, in the order of their arrival.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use vaultdb_kv::{failpoint, NodeId};
use vaultdb_storage::{SnapshotReceiver, Vote};

use super::transfers::Transfer;
use crate::core::Core;
use crate::state_machine::raft_snapshot;
use crate::types::{raft_vote, vote};
use crate::wire::{Response, SnapshotBegin, SnapshotChunk};

/// The place for the one snapshot that this node receives.
#[derive(Default)]
pub struct Reception {
    current: Mutex<Option<Receiving>>,
    connections: AtomicU64,
}

struct Receiving {
    /// The connection that it comes by.
    connection: u64,
    leader: Vote,
    receiver: SnapshotReceiver,
    transfer: Transfer,
}

impl Reception {
    /// A number that tells a connection from every other.
    pub fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes what that connection sends out of its place. What came so far is kept when it is dropped.
    fn take(&self, connection: u64) -> Option<Receiving> {
        self.current.lock().take_if(|current| current.connection == connection)
    }
}

/// Runs file work on the blocking pool.
async fn blocking(work: impl FnOnce() -> Result<Response, String> + Send + 'static) -> Response {
    match spawn_blocking(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(reason)) => Response::Refused(reason),
        Err(e) => Response::Refused(e.to_string()),
    }
}

/// Begins a reception, in place of one that is under way: its connection has broken, and this end is yet to
/// notice, or a newer leader has come.
pub async fn begin(core: Arc<Core>, from: NodeId, connection: u64, begin: SnapshotBegin) -> Response {
    blocking(move || {
        let mut current = core.reception.current.lock();
        if let Some(other) = current.as_ref().filter(|other| other.leader.term > begin.vote.term) {
            return Err(format!("the leader of term {} sends a snapshot already", other.leader.term));
        }
        // First, so that what came by it can be gone on with.
        drop(current.take());
        let receiver = core.store.receive_snapshot(begin.meta).map_err(|e| e.to_string())?;
        let received = receiver.received();
        let transfer = core.transfers.begin_receive(from, receiver.meta());
        transfer.resume(received.iter().sum());
        *current = Some(Receiving { connection, leader: begin.vote, receiver, transfer });
        failpoint::reach("snapshot-begun");
        Ok(Response::SnapshotResume(received))
    })
    .await
}

pub async fn chunk(core: Arc<Core>, connection: u64, chunk: SnapshotChunk) -> Response {
    blocking(move || {
        let mut current = core.reception.current.lock();
        let current = current.as_mut().filter(|current| current.connection == connection);
        let receiving = current.ok_or("no snapshot was begun")?;
        let SnapshotChunk { file, offset, data, crc32 } = chunk;
        let written = receiving.receiver.write_chunk(file as usize, offset, &data, crc32);
        written.map_err(|e| e.to_string()).inspect_err(|reason| log::warn!("refused: {reason}"))?;
        receiving.transfer.advance(data.len() as u64);
        failpoint::reach("snapshot-piece-written");
        Ok(Response::Done)
    })
    .await
}

/// Everything was sent: checks it, and has openraft install it.
pub async fn end(core: Arc<Core>, connection: u64) -> Response {
    let for_files = core.clone();
    let finished = spawn_blocking(move || {
        let receiving = for_files.reception.take(connection).ok_or("no snapshot was begun")?;
        let Receiving { leader, receiver, transfer, .. } = receiving;
        let snapshot = receiver.finish().map_err(|e| e.to_string())?;
        failpoint::reach("snapshot-received");
        Ok::<_, String>((leader, raft_snapshot(snapshot).map_err(|e| e.to_string())?, transfer))
    });
    let (leader, snapshot, transfer) = match finished.await {
        Ok(Ok(finished)) => finished,
        Ok(Err(reason)) => {
            log::warn!("refused: {reason}");
            return Response::Refused(reason);
        }
        Err(e) => return Response::Refused(e.to_string()),
    };
    match core.raft.install_full_snapshot(raft_vote(leader), snapshot).await {
        Ok(answer) => {
            transfer.complete();
            Response::Snapshot(vote(&answer.vote))
        }
        Err(e) => Response::Refused(e.to_string()),
    }
}

/// The connection has ended; what came by it is kept for the next one.
pub fn abandon(core: &Arc<Core>, connection: u64) {
    let for_files = core.clone();
    // Nobody waits: the next reception does what is left undone.
    drop(core.runtime.spawn_blocking(move || drop(for_files.reception.take(connection))));
}
