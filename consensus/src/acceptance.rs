//! Writes that are answered once the leader has them on its own disk, before a majority does.
//!
//! openraft tells nobody when an entry is appended, so the command itself carries a hook, which the log
//! adapter takes off and calls. Must never call a write accepted before its fdatasync has returned, and
//! never hold more than [`UNSETTLED_KIB_MAX`] of writes that are accepted and not settled yet.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::BoxStream;
use futures::StreamExt;
use openraft::raft::WriteResult;
use parking_lot::Mutex;
use tokio::sync::{oneshot, OwnedSemaphorePermit};
use tokio::time::timeout_at;
use vaultdb_kv::{Command, NodeId};
use vaultdb_storage::LogId;

use crate::api::ProposeError;
use crate::core::{marked, propose_error, shared, Core};
use crate::link::LinkError;
use crate::network::Lane;
use crate::node::Consensus;
use crate::types::{log_id, SharedCommand, TypeConfig};
use crate::wire::{Request, Response};

/// Accepted writes of one leader whose outcome is open, in KiB. Past it a client is told to come back:
/// without a majority they would pile up until the leader's lease runs out, and again at each next one.
pub const UNSETTLED_KIB_MAX: u32 = 32 * 1024;

/// Told the log id once the entry is durable in this node's log; dropped if that does not come to pass.
#[derive(Clone)]
pub struct AcceptHook(Arc<Mutex<Option<oneshot::Sender<LogId>>>>);

impl fmt::Debug for AcceptHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcceptHook")
    }
}

impl AcceptHook {
    pub fn new() -> (Self, oneshot::Receiver<LogId>) {
        let (tell, told) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(tell)))), told)
    }

    pub fn tell(self, id: LogId) {
        if let Some(tell) = self.0.lock().take() {
            // Whoever waited may have met its deadline.
            let _ = tell.send(id);
        }
    }
}

type Answers = BoxStream<'static, Result<WriteResult<TypeConfig>, openraft::errors::Fatal<TypeConfig>>>;

/// What the writes of one batch have come to.
struct Acceptance {
    answers: Answers,
    /// How many of the answers came.
    answered: usize,
    /// `None` once a hook was called or dropped.
    hooks: Vec<Option<oneshot::Receiver<LogId>>>,
    results: Vec<Option<Result<LogId, ProposeError>>>,
}

enum Event {
    Hook(Result<LogId, oneshot::error::RecvError>),
    Answer(Option<Result<WriteResult<TypeConfig>, openraft::errors::Fatal<TypeConfig>>>),
}

impl Acceptance {
    /// Returns once each write is accepted, refused or past its deadline.
    async fn wait(&mut self, deadline: Instant) {
        for at in 0..self.results.len() {
            while self.results[at].is_none() {
                let next = timeout_at(deadline.into(), next(&mut self.hooks[at], &mut self.answers));
                let unknown = match next.await {
                    Ok(Event::Hook(Ok(id))) => {
                        self.results[at] = Some(Ok(id));
                        continue;
                    }
                    // Not appended, or its fsync failed: the answer tells which.
                    Ok(Event::Hook(Err(_))) => {
                        self.hooks[at] = None;
                        continue;
                    }
                    Ok(Event::Answer(Some(answer))) => {
                        self.take(answer);
                        continue;
                    }
                    Ok(Event::Answer(None)) => "consensus stopped",
                    Err(_) => "not in the leader's log before the deadline",
                };
                let unknown = ProposeError::Unknown { reason: unknown.to_owned() };
                self.results.iter_mut().for_each(|r| _ = r.get_or_insert_with(|| Err(unknown.clone())));
            }
        }
    }

    /// openraft answers in the order of the batch, with the effect or why there is none.
    fn take(&mut self, answer: Result<WriteResult<TypeConfig>, openraft::errors::Fatal<TypeConfig>>) {
        if let Some(result) = self.results.get_mut(self.answered) {
            result.get_or_insert_with(|| match answer {
                Ok(Ok(written)) => Ok(log_id(&written.log_id)),
                Ok(Err(e)) => Err(propose_error(e)),
                Err(fatal) => Err(ProposeError::Unknown { reason: fatal.to_string() }),
            });
        }
        self.answered += 1;
    }

    /// Ends with the last of the writes that are still open.
    async fn settle(mut self, places: Option<OwnedSemaphorePermit>) {
        while self.answered < self.results.len() && self.answers.next().await.is_some() {
            self.answered += 1;
        }
        drop(places);
    }
}

async fn next(hook: &mut Option<oneshot::Receiver<LogId>>, answers: &mut Answers) -> Event {
    match hook {
        Some(hook) => tokio::select! {
            biased;
            told = hook => Event::Hook(told),
            answer = answers.next() => Event::Answer(answer),
        },
        None => Event::Answer(answers.next().await),
    }
}

/// What a write takes of [`UNSETTLED_KIB_MAX`]. At most all of it, so that the largest fits alone.
fn weight_kib(command: &SharedCommand) -> u32 {
    let kib = command.0.payload_bytes() / 1024 + 1;
    u32::try_from(kib).unwrap_or(UNSETTLED_KIB_MAX).min(UNSETTLED_KIB_MAX)
}

impl Core {
    /// Appends on this node as the leader; each answer comes once its command is durable in this log.
    /// What no longer fits among the unsettled ones is refused, and all behind it.
    pub async fn accept(
        &self,
        commands: impl ExactSizeIterator<Item = SharedCommand>,
        deadline: Instant,
    ) -> Vec<Result<LogId, ProposeError>> {
        let count = commands.len();
        let mut places: Option<OwnedSemaphorePermit> = None;
        let (mut hooked, mut hooks) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for command in marked(commands, Instant::now()) {
            let place = self.unsettled.clone().try_acquire_many_owned(weight_kib(&command));
            match (place, &mut places) {
                (Ok(place), Some(places)) => places.merge(place),
                (Ok(place), None) => places = Some(place),
                (Err(_), _) => break,
            }
            let (hook, told) = AcceptHook::new();
            hooked.push(command.hooked(hook));
            hooks.push(Some(told));
        }
        let mut results = vec![Err(ProposeError::Overloaded); count];
        if hooked.is_empty() {
            return results;
        }
        // A closed channel means that the core never received the batch.
        let Ok(answers) = self.raft.client_write_many(hooked).await else {
            return vec![Err(ProposeError::Stopping); count];
        };
        let open = vec![None; hooks.len()];
        let mut acceptance = Acceptance { answers, answered: 0, hooks, results: open };
        acceptance.wait(deadline).await;
        for (result, known) in results.iter_mut().zip(&acceptance.results) {
            if let Some(known) = known {
                result.clone_from(known);
            }
        }
        self.runtime.spawn(acceptance.settle(places));
        results
    }
}

impl Consensus {
    /// Appends on this node as the leader: one answer a command, in order, by the deadline, each once it is
    /// durable in this node's log. It may still be lost.
    pub async fn accept(
        &self,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> Vec<Result<LogId, ProposeError>> {
        self.core.accept(shared(batch), deadline).await
    }

    /// As [`Consensus::accept`], on the leader over the Raft port.
    pub async fn forward_accept(
        &self,
        to: NodeId,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> Vec<Result<LogId, ProposeError>> {
        let count = batch.len();
        let commands = shared(batch).collect();
        let request = Request::Accept { commands, deadline_ms: millis_until(deadline) };
        self.forward_request(to, request, count, deadline, |response| match response {
            Response::Accept(results) => Ok(results),
            other => Err(other),
        })
        .await
    }

    /// Sends a batch to the leader over the Raft port, and takes its answers out of the response.
    pub(crate) async fn forward_request<T: Clone>(
        &self,
        to: NodeId,
        request: Request,
        count: usize,
        deadline: Instant,
        results: impl FnOnce(Response) -> Result<Vec<Result<T, ProposeError>>, Response>,
    ) -> Vec<Result<T, ProposeError>> {
        let all = |e: ProposeError| vec![Err(e); count];
        let unknown = |reason: String| all(ProposeError::Unknown { reason });
        let Some(addr) = self.core.raft_addr(to) else {
            return all(ProposeError::Unreachable { reason: format!("node {to} is not a member") });
        };
        let call = self.core.links.get(to, &addr, Lane::Entries).call(request);
        match timeout_at(deadline.into(), call).await {
            Ok(Ok(response)) => match results(response) {
                Ok(results) if results.len() == count => results,
                Ok(results) => unknown(format!("{} answers to {count} writes", results.len())),
                Err(other) => unknown(format!("unexpected answer {other:?}")),
            },
            Ok(Err(LinkError::NotSent(reason))) => all(ProposeError::Unreachable { reason }),
            Ok(Err(LinkError::Lost(reason))) => unknown(reason),
            Err(_) => unknown("no answer from the leader in time".into()),
        }
    }
}

pub fn millis_until(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
