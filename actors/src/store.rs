//! Reads of the local store: one actor a web worker, on that worker's own arbiter, so that a request
//! is a message without a change of thread.
//!
//! Must never touch the disk on the arbiter: what the cache and memory cannot answer goes to the
//! blocking pool, bounded. Waits for freshness with all reads of its worker together (see [`crate::rounds`]).

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, MessageResult, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use vaultdb_kv::{Consistency, Freshness, Key, Page, ReadError, Revision, Versioned};

use crate::listings::Listing;
use crate::messages::{impl_common_handlers, GetStoreStatus, ReadAnswer, ReadKey, Scan, ScanFrom};
use crate::port::{Lookup, Node};
use crate::rounds::Rounds;
use crate::sentinel::Sentinel;
use crate::slot::unbound_mailbox;

pub(crate) struct StoreActor {
    node: Arc<dyn Node>,
    disk_reads: Arc<Semaphore>,
    /// `None` where each read is to pay for itself.
    rounds: Option<Shared>,
    _sentinel: Sentinel,
}

struct Shared {
    linearizable: Rounds,
    lease: Rounds,
}

impl StoreActor {
    /// To be called on the worker's thread.
    pub fn new(node: Arc<dyn Node>, disk_reads_max: usize, share_reads: bool, sentinel: Sentinel) -> Self {
        let rounds = |level| Rounds::new(node.clone(), level);
        let rounds = share_reads.then(|| Shared {
            linearizable: rounds(Consistency::Linearizable),
            lease: rounds(Consistency::Lease),
        });
        Self { node, disk_reads: Arc::new(Semaphore::new(disk_reads_max)), rounds, _sentinel: sentinel }
    }

    /// Ends once the local store is as fresh as wanted; `None` when it is so already.
    fn freshen(
        &self,
        wanted: Freshness,
        deadline: Instant,
    ) -> Option<impl Future<Output = Result<(), ReadError>>> {
        if self.node.is_fresh(&wanted) {
            return None;
        }
        let node = self.node.clone();
        let round = self.rounds.as_ref().and_then(|rounds| match wanted.consistency {
            Consistency::Linearizable => Some(rounds.linearizable.join(deadline)),
            Consistency::Lease => Some(rounds.lease.join(deadline)),
            Consistency::Stale => None,
        });
        Some(async move {
            let Some(round) = round else { return node.freshen(wanted, deadline).await };
            round.await.unwrap_or(Err(ReadError::Unavailable))?;
            match wanted.min_revision {
                Some(least) if node.revision() < least => {
                    let rest = Freshness { consistency: Consistency::Stale, ..wanted };
                    node.freshen(rest, deadline).await
                }
                Some(_) | None => Ok(()),
            }
        })
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
    }
}

impl_common_handlers!(StoreActor);

/// What memory tells of a key, and the revision of the store before it was asked.
pub(crate) fn read_memory(node: &dyn Node, key: &Key) -> Result<(Revision, Lookup), ReadError> {
    let before = node.revision();
    Ok((before, node.try_get(key)?))
}

/// The answer reflects at least the revision read before the lookup, and the key's own.
pub(crate) fn answer(before: Revision, found: Option<Versioned>) -> ReadAnswer {
    let revision = found.as_ref().map_or(before, |versioned| versioned.revision.max(before));
    ReadAnswer { found, revision }
}

impl Handler<ReadKey> for StoreActor {
    type Result = Response<Result<ReadAnswer, ReadError>>;

    fn handle(&mut self, msg: ReadKey, _: &mut Context<Self>) -> Self::Result {
        if Instant::now() >= msg.deadline {
            return Response::reply(Err(ReadError::Overloaded));
        }
        let (node, disk_reads) = (self.node.clone(), self.disk_reads.clone());
        let Some(fresh) = self.freshen(msg.freshness, msg.deadline) else {
            return match read_memory(&*node, &msg.key) {
                Ok((before, Lookup::Ready(found))) => Response::reply(Ok(answer(before, found))),
                Ok((before, Lookup::NeedsDisk)) => {
                    Response::fut(read_disk(node, disk_reads, msg.key, before, msg.deadline))
                }
                Err(error) => Response::reply(Err(error)),
            };
        };
        Response::fut(async move {
            fresh.await?;
            match read_memory(&*node, &msg.key)? {
                (before, Lookup::Ready(found)) => Ok(answer(before, found)),
                (before, Lookup::NeedsDisk) => {
                    read_disk(node, disk_reads, msg.key, before, msg.deadline).await
                }
            }
        })
    }
}

async fn read_disk(
    node: Arc<dyn Node>,
    disk_reads: Arc<Semaphore>,
    key: Key,
    before: Revision,
    deadline: Instant,
) -> Result<ReadAnswer, ReadError> {
    on_disk(disk_reads, deadline, move || node.get(&key).map(|found| answer(before, found))).await
}

/// Reads on the blocking pool, in its turn.
async fn on_disk<T: Send + 'static>(
    disk_reads: Arc<Semaphore>,
    deadline: Instant,
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let read = async {
        // Held by the read itself: one whose caller gave up still keeps a thread busy.
        let permit = disk_reads.acquire_owned().await.map_err(|_| ReadError::Unavailable)?;
        let read = tokio::task::spawn_blocking(move || {
            let found = read();
            drop(permit);
            found
        });
        match read.await {
            Ok(found) => found,
            Err(error) => Err(ReadError::Store { reason: format!("a read ended abnormally: {error}") }),
        }
    };
    timeout_at(deadline.into(), read).await.unwrap_or(Err(ReadError::Overloaded))
}

impl Handler<Scan> for StoreActor {
    type Result = Response<Result<(Listing, Page), ReadError>>;

    fn handle(&mut self, msg: Scan, _: &mut Context<Self>) -> Self::Result {
        let Scan { from, request, deadline } = msg;
        if Instant::now() >= deadline {
            return Response::reply(Err(ReadError::Overloaded));
        }
        let (node, disk_reads) = (self.node.clone(), self.disk_reads.clone());
        let fresh = match &from {
            ScanFrom::Now(freshness) => self.freshen(*freshness, deadline),
            ScanFrom::Listing(_) => None,
        };
        Response::fut(async move {
            if let Some(fresh) = fresh {
                fresh.await?;
            }
            let scan = move || {
                let listing = match from {
                    // Only now, so that it holds what the wait was for.
                    ScanFrom::Now(Freshness { consistency, .. }) => {
                        Listing::new(node.view()?, request.query.clone(), consistency)
                    }
                    ScanFrom::Listing(listing) => listing,
                };
                let page = listing.page(&request)?;
                Ok((listing, page))
            };
            on_disk(disk_reads, deadline, scan).await
        })
    }
}

impl Handler<GetStoreStatus> for StoreActor {
    type Result = MessageResult<GetStoreStatus>;

    fn handle(&mut self, _: GetStoreStatus, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.node.store_stats())
    }
}
