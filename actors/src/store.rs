//! Reads of the local store: one actor a web worker, on that worker's own arbiter, so that a request
//! is a message without a change of thread.
//!
//! Must never touch the disk on the arbiter: what the cache and memory cannot answer goes to the
//! blocking pool, bounded.

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, MessageResult, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use vaultdb_kv::{Consistency, Key, ReadError, Revision, Versioned};

use crate::messages::{impl_common_handlers, GetStoreStatus, ReadAnswer, ReadKey};
use crate::port::{Lookup, Node};
use crate::sentinel::Sentinel;
use crate::slot::unbound_mailbox;

pub(crate) struct StoreActor {
    node: Arc<dyn Node>,
    disk_reads: Arc<Semaphore>,
    _sentinel: Sentinel,
}

impl StoreActor {
    pub fn new(node: Arc<dyn Node>, disk_reads_max: usize, sentinel: Sentinel) -> Self {
        Self { node, disk_reads: Arc::new(Semaphore::new(disk_reads_max)), _sentinel: sentinel }
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
    }
}

impl_common_handlers!(StoreActor);

/// The answer reflects at least the revision read before the lookup, and the key's own.
fn answer(before: Revision, found: Option<Versioned>) -> ReadAnswer {
    let revision = found.as_ref().map_or(before, |versioned| versioned.revision.max(before));
    ReadAnswer { found, revision }
}

impl Handler<ReadKey> for StoreActor {
    type Result = Response<Result<ReadAnswer, ReadError>>;

    fn handle(&mut self, msg: ReadKey, _: &mut Context<Self>) -> Self::Result {
        if Instant::now() >= msg.deadline {
            return Response::reply(Err(ReadError::Overloaded));
        }
        match msg.consistency {
            Consistency::Stale => {
                let before = self.node.revision();
                match self.node.try_get(&msg.key) {
                    Ok(Lookup::Ready(found)) => Response::reply(Ok(answer(before, found))),
                    Ok(Lookup::NeedsDisk) => Response::fut(read_disk(
                        self.node.clone(),
                        self.disk_reads.clone(),
                        msg.key,
                        before,
                        msg.deadline,
                    )),
                    Err(error) => Response::reply(Err(error)),
                }
            }
            Consistency::Linearizable => {
                let (node, disk_reads) = (self.node.clone(), self.disk_reads.clone());
                Response::fut(async move {
                    node.read_barrier(msg.deadline).await?;
                    let before = node.revision();
                    match node.try_get(&msg.key)? {
                        Lookup::Ready(found) => Ok(answer(before, found)),
                        Lookup::NeedsDisk => read_disk(node, disk_reads, msg.key, before, msg.deadline).await,
                    }
                })
            }
        }
    }
}

async fn read_disk(
    node: Arc<dyn Node>,
    disk_reads: Arc<Semaphore>,
    key: Key,
    before: Revision,
    deadline: Instant,
) -> Result<ReadAnswer, ReadError> {
    let read = async {
        // Held by the read itself: one whose caller gave up still keeps a thread busy.
        let permit = disk_reads.acquire_owned().await.map_err(|_| ReadError::Unavailable)?;
        let read = tokio::task::spawn_blocking(move || {
            let found = node.get(&key);
            drop(permit);
            found
        });
        match read.await {
            Ok(found) => Ok(answer(before, found?)),
            Err(error) => Err(ReadError::Store { reason: format!("a read ended abnormally: {error}") }),
        }
    };
    timeout_at(deadline.into(), read).await.unwrap_or(Err(ReadError::Overloaded))
}

impl Handler<GetStoreStatus> for StoreActor {
    type Result = MessageResult<GetStoreStatus>;

    fn handle(&mut self, _: GetStoreStatus, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.node.store_stats())
    }
}
