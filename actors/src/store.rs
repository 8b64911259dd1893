//! Reads of the local store: one actor a web worker, on that worker's own arbiter, so that a request
//! is a message without a change of thread.
//!
//! Must never touch the disk on the arbiter: what the cache and memory cannot answer goes to the
//! blocking pool, bounded. Waits for freshness with all reads of its worker together (see [`crate::rounds`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, MessageResult, Response};
use tokio::sync::{oneshot, Semaphore};
use tokio::time::timeout_at;
use vaultdb_kv::{Consistency, Freshness, Key, Page, ReadError, Revision, Versioned};

use crate::listings::Listing;
use crate::messages::{impl_common_handlers, GetStoreStatus, ReadAnswer, ReadKey, Scan, ScanFrom};
use crate::port::{Lookup, Node};
use crate::rounds::{Rounds, Wait};
use crate::sentinel::Sentinel;
use crate::slot::unbound_mailbox;

pub(crate) struct StoreActor {
    reader: Rc<Reader>,
    /// `None` where each read is to pay for itself.
    rounds: Option<Shared>,
    _sentinel: Sentinel,
}

struct Shared {
    linearizable: Rounds<Waiting>,
    lease: Rounds<Waiting>,
}

/// What serves a read once the store is fresh.
struct Reader {
    node: Arc<dyn Node>,
    disk_reads: Arc<Semaphore>,
}

/// What waits for the store to be fresh.
enum Waiting {
    Key(Rc<Reader>, ReadKey),
    Scan(oneshot::Sender<Result<(), ReadError>>),
}

impl StoreActor {
    /// To be called on the worker's thread.
    pub fn new(node: Arc<dyn Node>, disk_reads_max: usize, share_reads: bool, sentinel: Sentinel) -> Self {
        let rounds = |level| Rounds::new(node.clone(), level);
        let rounds = share_reads.then(|| Shared {
            linearizable: rounds(Consistency::Linearizable),
            lease: rounds(Consistency::Lease),
        });
        let disk_reads = Arc::new(Semaphore::new(disk_reads_max));
        Self { reader: Rc::new(Reader { node, disk_reads }), rounds, _sentinel: sentinel }
    }

    /// Serves `caller` once the local store is as fresh as wanted.
    fn freshen(&self, caller: Waiting, wanted: Freshness, deadline: Instant) {
        let rounds = self.rounds.as_ref().and_then(|rounds| match wanted.consistency {
            Consistency::Linearizable => Some(&rounds.linearizable),
            Consistency::Lease => Some(&rounds.lease),
            Consistency::Stale => None,
        });
        match rounds {
            Some(rounds) if wanted.min_revision.is_none() => rounds.join(caller, deadline),
            _ => {
                let node = self.reader.node.clone();
                actix_rt::spawn(async move { caller.serve(&node.freshen(wanted, deadline).await) });
            }
        }
    }
}

impl Wait for Waiting {
    fn is_gone(&self) -> bool {
        match self {
            Waiting::Key(_, read) => read.reply.is_closed(),
            Waiting::Scan(fresh) => fresh.is_closed(),
        }
    }

    fn serve(self, fresh: &Result<(), ReadError>) {
        match self {
            Waiting::Key(reader, read) => match fresh {
                Ok(()) => reader.read(read),
                Err(error) => answer_to(read.reply, Err(error.clone())),
            },
            // A scan that went away needs no answer.
            Waiting::Scan(scan) => drop(scan.send(fresh.clone())),
        }
    }
}

impl Reader {
    fn read(&self, ReadKey { key, deadline, reply, .. }: ReadKey) {
        match read_memory(&*self.node, &key) {
            Ok((before, Lookup::Ready(found))) => answer_to(reply, Ok(answer(before, found))),
            Ok((before, Lookup::NeedsDisk)) => {
                let (node, disk_reads) = (self.node.clone(), self.disk_reads.clone());
                actix_rt::spawn(async move {
                    let read = move || node.get(&key).map(|found| answer(before, found));
                    answer_to(reply, on_disk(disk_reads, deadline, read).await);
                });
            }
            Err(error) => answer_to(reply, Err(error)),
        }
    }
}

fn answer_to(reply: oneshot::Sender<Result<ReadAnswer, ReadError>>, answer: Result<ReadAnswer, ReadError>) {
    // A reader that has given up needs no answer.
    drop(reply.send(answer));
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
    type Result = ();

    fn handle(&mut self, read: ReadKey, _: &mut Context<Self>) {
        if Instant::now() >= read.deadline {
            return answer_to(read.reply, Err(ReadError::Overloaded));
        }
        let (freshness, deadline) = (read.freshness, read.deadline);
        if self.reader.node.is_fresh(&freshness) {
            return self.reader.read(read);
        }
        self.freshen(Waiting::Key(self.reader.clone(), read), freshness, deadline);
    }
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
        let (node, disk_reads) = (self.reader.node.clone(), self.reader.disk_reads.clone());
        let fresh = match &from {
            ScanFrom::Now(freshness) if !node.is_fresh(freshness) => {
                let (scan, fresh) = oneshot::channel();
                self.freshen(Waiting::Scan(scan), *freshness, deadline);
                Some(fresh)
            }
            ScanFrom::Now(_) | ScanFrom::Listing(_) => None,
        };
        Response::fut(async move {
            if let Some(fresh) = fresh {
                fresh.await.unwrap_or(Err(ReadError::Unavailable))?;
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
        MessageResult(self.reader.node.store_stats())
    }
}
