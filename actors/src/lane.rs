//! A lane takes batches from the queue and sees each to its end: committed, definitely refused (back
//! into the queue), or unknown.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{timeout, timeout_at};
use vaultdb_consensus::api::{Committed, ProposeError};
use vaultdb_kv::{Applied, ApplyResult, Command, WriteError};
use vaultdb_storage::LogId;

use crate::messages::{Handed, Propose};
use crate::pending::Ack;
use crate::port::Outcomes;
use crate::queue::{Item, LaneGuard, Queue};

/// A batch that takes longer no longer holds up the next one: its quorum may be gone, and what comes
/// after it must be in the leader's log when the quorum is back.
const BATCH_STALLED: Duration = Duration::from_millis(250);
/// Consensus ends a batch by its deadline; this much later the lane stops believing that.
const BATCH_GRACE: Duration = Duration::from_millis(500);
/// First wait after a definite refusal; doubles up to [`BACKOFF_MAX`]. A change of leadership ends it.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(160);

/// Runs until nothing waits.
pub(crate) async fn run(guard: LaneGuard) {
    let queue = &guard.0;
    let mut backoff = BACKOFF_FIRST;
    while !queue.is_empty() && !queue.is_closed() {
        // Made before leadership is read, so that no change is missed in between.
        let changed = queue.leader_changed.notified();
        let leadership = queue.node().leadership();
        let refused = match &leadership.leader {
            None => true,
            Some(leader) => {
                let since = Instant::now();
                let (items, commands) = queue.take_batch(since);
                if items.is_empty() {
                    continue;
                }
                let route = if leadership.is_local {
                    Route::Local
                } else {
                    Route::Peer { id: leader.id, name: leader.name.clone() }
                };
                send_or_detach(queue, route, items, commands, since).await
            }
        };
        if refused {
            // Either ending of the wait leads to another look. A new leader may refuse until a quorum follows it,
            // which is a matter of milliseconds.
            backoff = match timeout(backoff, changed).await {
                Ok(()) => BACKOFF_FIRST,
                Err(_) => (backoff * 2).min(BACKOFF_MAX),
            };
            queue.sweep(Instant::now());
        } else {
            backoff = BACKOFF_FIRST;
        }
    }
}

enum Route {
    Local,
    Peer { id: vaultdb_kv::NodeId, name: String },
}

/// Sends a batch; once it stalls, lets it go on by itself. Returns whether any of it was refused.
async fn send_or_detach(
    queue: &Rc<Queue>,
    route: Route,
    items: Vec<Item>,
    commands: Vec<Arc<Command>>,
    since: Instant,
) -> bool {
    let queue = queue.clone();
    let mut batch = Box::pin(async move {
        let outcomes = send(&queue, &route, &items, commands, since).await;
        settle(&queue, &route, items, outcomes)
    });
    match timeout(BATCH_STALLED, &mut batch).await {
        Ok(refused) => refused,
        Err(_) => {
            actix_rt::spawn(batch);
            false
        }
    }
}

async fn send(
    queue: &Queue,
    route: &Route,
    items: &[Item],
    commands: Vec<Arc<Command>>,
    since: Instant,
) -> Outcomes {
    let count = items.len();
    let deadline = items.iter().map(|item| item.write.deadline).max().unwrap_or_else(Instant::now);
    let all = |error: ProposeError| vec![Err(error); count];
    let sent = async {
        if queue.ack == Ack::Leader {
            let to = match route {
                Route::Local => None,
                Route::Peer { id, .. } => Some(*id),
            };
            let accepted = queue.node().accept(to, commands, deadline).await;
            return accepted.into_iter().map(|outcome| outcome.map(not_applied_yet)).collect();
        }
        match route {
            Route::Peer { id, .. } => queue.node().forward(*id, commands, deadline).await,
            Route::Local => {
                let handed = Handed::default();
                let propose = Propose { batch: commands, since, deadline, handed: handed.clone() };
                let unanswered = match queue.raft.send(propose) {
                    Ok(request) => match request.await {
                        Ok(outcomes) => return outcomes,
                        Err(_) => handed.is_marked(),
                    },
                    Err(_) => false,
                };
                if unanswered {
                    all(ProposeError::Unknown { reason: "the raft node actor failed meanwhile".into() })
                } else {
                    all(ProposeError::NotLeader)
                }
            }
        }
    };
    match timeout_at((deadline + BATCH_GRACE).into(), sent).await {
        Ok(outcomes) => outcomes,
        Err(_) => all(ProposeError::Unknown { reason: "timed out".into() }),
    }
}

/// Of a write that is only accepted the log id is all there is to tell.
fn not_applied_yet(log_id: LogId) -> Committed {
    Committed { log_id, applied: Applied { revision: 0, result: ApplyResult::None } }
}

/// Answers each write, or puts it back. Returns whether any was put back.
fn settle(queue: &Rc<Queue>, route: &Route, items: Vec<Item>, outcomes: Outcomes) -> bool {
    let mut refused = Vec::new();
    let mut unreachable = None;
    let mut last_index = None;
    let mut outcomes = outcomes.into_iter();
    for item in items {
        match outcomes.next() {
            Some(Ok(committed)) => {
                last_index = last_index.max(Some(committed.log_id.index));
                queue.answer(item, Ok(committed));
            }
            Some(Err(ProposeError::NotLeader)) => refused.push(item),
            Some(Err(ProposeError::Unreachable { reason })) => {
                unreachable.get_or_insert(reason);
                refused.push(item);
            }
            Some(Err(ProposeError::Unknown { reason })) => {
                queue.answer(item, Err(WriteError::Unknown { reason }));
            }
            Some(Err(ProposeError::Overloaded)) => queue.answer(item, Err(WriteError::Overloaded)),
            Some(Err(ProposeError::OutOfSpace(why))) => queue.answer(item, Err(WriteError::OutOfSpace(why))),
            Some(Err(ProposeError::Stopping)) => queue.answer(item, Err(WriteError::Unavailable)),
            None => queue.answer(item, Err(WriteError::unknown("consensus gave no answer"))),
        }
    }
    if let (Some(reason), Route::Peer { name, .. }) = (unreachable, route) {
        queue.tell_unreachable(name.clone(), reason);
    }
    // Elsewhere, and of writes that are only accepted, it is not known here when they were applied.
    if let (Some(index), Route::Local, Ack::Majority) = (last_index, route, queue.ack) {
        queue.node().stages().answered(index);
    }
    queue.deliver();
    let any = !refused.is_empty();
    queue.put_back(refused);
    // A batch that was let go may outlive its lane.
    queue.pump();
    any
}
