//! The answering end of the Raft port.
//!
//! Invariant: appends of one connection reach openraft in the order in which they arrived.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tokio::sync::{mpsc, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use vaultdb_kv::NodeId;

use crate::api::JoinRequest;
use crate::core::Core;
use crate::formation::{FormAnswer, Plan};
use crate::peer_faults::PeerFaults;
use crate::snapshot::{receive, PIECES_IN_FLIGHT_MAX};
use crate::transport::{Accept, Connection};
use crate::types::{log_id, raft_log_id, raft_vote, vote, Entry, TypeConfig};
use crate::wire::{
    self, Append, AppendAnswer, Hello, Reader, Request, Response, SnapshotChunk, VoteAnswer, VoteCall,
    Writer, PROTOCOL_VERSION,
};

/// Connections at once; a peer needs three.
const CONNECTIONS_MAX: usize = 256;
/// Requests of one connection that are under way at once.
const REQUESTS_MAX: usize = 256;
/// Time for a caller to say who it is.
const HELLO_MS_MAX: u64 = 2_000;
/// Longest that a forwarded request may take, whatever its sender asks.
const DEADLINE_MS_MAX: u64 = 60_000;

/// Accepts connections for as long as the runtime lives.
pub async fn serve(core: Arc<Core>, mut listener: Box<dyn Accept>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok(stream) => {
                let core = core.clone();
                tokio::spawn(async move {
                    if let Err(e) = connection(core, stream).await {
                        log::debug!("a connection to the Raft port ended: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of descriptors, most likely: wait for some to be closed.
                log::warn!("accept on the Raft port: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(core: Arc<Core>, stream: Connection) -> io::Result<()> {
    let Connection { read, write } = stream;
    let mut reader = FramedRead::new(read, wire::frame_codec());
    let mut writer = write;
    let hello = timeout(Duration::from_millis(HELLO_MS_MAX), reader.next()).await;
    let frame = hello.map_err(|_| io::ErrorKind::TimedOut)?.ok_or(io::ErrorKind::UnexpectedEof)??;
    let (id, hello) = match wire::parse(frame)? {
        (id, Request::Hello(hello)) => (id, hello),
        // Who forms a cluster learns that there is one already.
        (id, Request::Form(_)) => return wire::send(&mut writer, id, &Response::Form(member(&core))).await,
        _ => return Err(io::Error::other("the first frame is no hello")),
    };
    core.links.faults.check(hello.from)?;
    if let Some(refusal) = refuse(&core, &hello) {
        wire::send(&mut writer, id, &refusal).await?;
        return Err(io::Error::other(format!("refused node {}: {refusal:?}", hello.from)));
    }
    wire::send(&mut writer, id, &Response::Done).await?;
    let (answers, queue) = mpsc::channel(REQUESTS_MAX);
    let (from, faults) = (hello.from, core.links.faults.clone());
    let session = Session {
        number: core.reception.connection(),
        core,
        from,
        answers,
        places: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    tokio::select! {
        read = session.read_requests(&mut reader) => read,
        written = write_answers(queue, from, &faults, &mut writer) => written,
    }
}

fn member(core: &Core) -> FormAnswer {
    let cluster = Plan { cluster_id: core.me.cluster_id.clone(), founders: core.founders.clone() };
    FormAnswer::Member { cluster, has_leader: core.leadership().leader.is_some() }
}

/// Why a caller is not spoken with.
fn refuse(core: &Core, hello: &Hello) -> Option<Response> {
    if hello.protocol_version != PROTOCOL_VERSION {
        let reason = format!("protocol {} is not {PROTOCOL_VERSION}", hello.protocol_version);
        return Some(Response::Refused(reason));
    }
    if hello.cluster_id != core.me.cluster_id {
        return Some(Response::OtherCluster { cluster_id: core.me.cluster_id.clone() });
    }
    if hello.to != core.me.id {
        let reason = format!("node {} was called, this is node {}", hello.to, core.me.id);
        return Some(Response::Refused(reason));
    }
    None
}

/// An answer and its request; when it may leave, `None` is at once.
struct Answer {
    due: Option<Instant>,
    id: u64,
    response: Response,
}

async fn write_answers(
    mut queue: mpsc::Receiver<Answer>,
    to: NodeId,
    faults: &PeerFaults,
    writer: &mut Writer,
) -> io::Result<()> {
    let mut out = Vec::new();
    let mut held = None;
    loop {
        let next = match held.take() {
            Some(held) => Some(held),
            None => queue.recv().await,
        };
        let Some(first) = next else { return Ok(()) };
        faults.release(to, first.due).await;
        let mut next = Some(first);
        while let Some(Answer { id, response, .. }) = next {
            wire::push_frame(&mut out, id, &response)?;
            next = if out.len() < wire::WRITE_BYTES { queue.try_recv().ok() } else { None };
            if next.as_ref().is_some_and(|answer| faults.holds(to, answer.due)) {
                held = next.take();
            }
        }
        faults.check(to)?;
        wire::write_out(writer, &mut out).await?;
    }
}

struct Session {
    /// Tells this connection from every other.
    number: u64,
    core: Arc<Core>,
    from: NodeId,
    answers: mpsc::Sender<Answer>,
    places: Arc<Semaphore>,
}

/// A piece of a snapshot, the id of its request, and the request's place.
type Piece = (u64, SnapshotChunk, OwnedSemaphorePermit);

impl Session {
    async fn read_requests(&self, reader: &mut Reader) -> io::Result<()> {
        let mut pieces = None;
        while let Some(frame) = reader.next().await {
            let (id, request) = wire::parse(frame?)?;
            self.core.links.faults.check(self.from)?;
            self.core.contacts.heard(self.from);
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match request {
                Request::SnapshotChunk(chunk) => {
                    let pieces = pieces.get_or_insert_with(|| self.write_pieces());
                    // Whoever sends more than may be in flight is not read from.
                    if pieces.send((id, chunk, place)).await.is_err() {
                        return Err(io::Error::other("pieces of a snapshot are no longer taken"));
                    }
                }
                other => self.dispatch(id, other, place)?,
            }
        }
        Ok(())
    }

    /// Takes the pieces of a snapshot one after another, in the order of their arrival.
    fn write_pieces(&self) -> mpsc::Sender<Piece> {
        let (sender, mut pieces) = mpsc::channel::<Piece>(PIECES_IN_FLIGHT_MAX);
        let (core, answers, number) = (self.core.clone(), self.answers.clone(), self.number);
        let from = self.from;
        tokio::spawn(async move {
            while let Some((id, chunk, place)) = pieces.recv().await {
                let response = receive::chunk(core.clone(), number, chunk).await;
                let due = core.links.faults.due(from);
                // The connection may be gone; its peer then counts the piece as lost.
                drop(answers.send(Answer { due, id, response }).await);
                drop(place);
            }
        });
        sender
    }

    fn dispatch(&self, id: u64, request: Request, place: OwnedSemaphorePermit) -> io::Result<()> {
        let core = self.core.clone();
        match request {
            Request::Append(append) => self.append(id, append, place)?,
            Request::SnapshotBegin(begin) => {
                self.answer(id, place, receive::begin(core, self.from, self.number, begin))
            }
            Request::SnapshotEnd => self.answer(id, place, receive::end(core, self.number)),
            Request::Hello(_) => return Err(io::Error::other("a second hello")),
            other => {
                let from = self.from;
                self.answer(id, place, async move { answer(&core, from, other).await });
            }
        }
        Ok(())
    }

    /// Hands the append to openraft before the next frame is read, and waits for its answer apart.
    fn append(&self, id: u64, append: Append, place: OwnedSemaphorePermit) -> io::Result<()> {
        let request = append_request(append)?;
        self.core.heard_leader();
        let raft = self.core.raft.clone();
        let mut call = Box::pin(async move { raft.append_entries(request).await });
        // The first poll puts the request into openraft's queue, which holds far more than all
        // connections may have under way.
        let first = futures::FutureExt::now_or_never(&mut call);
        let (core, arrived) = (self.core.clone(), Instant::now());
        self.answer(id, place, async move {
            let result = match first {
                Some(result) => result,
                None => call.await,
            };
            match result {
                Ok(answer) => {
                    // A leader of an earlier term is none.
                    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                        core.election_clock.heard(arrived);
                    }
                    Response::Append(append_answer(answer))
                }
                Err(e) => Response::Refused(e.to_string()),
            }
        });
        Ok(())
    }

    fn answer(
        &self,
        id: u64,
        place: OwnedSemaphorePermit,
        response: impl std::future::Future<Output = Response> + Send + 'static,
    ) {
        let (answers, from) = (self.answers.clone(), self.from);
        let faults = self.core.links.faults.clone();
        tokio::spawn(async move {
            let response = response.await;
            let due = faults.due(from);
            // The connection may be gone; its peer then counts the request as lost.
            drop(answers.send(Answer { due, id, response }).await);
            drop(place);
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        receive::abandon(&self.core, self.number);
    }
}

fn deadline(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms.min(DEADLINE_MS_MAX))
}

async fn answer(core: &Core, from: NodeId, request: Request) -> Response {
    match request {
        Request::Vote(call) => {
            wait_to_vote(core, &call).await;
            let voted = core.raft.vote(vote_request(call)).await;
            if voted.as_ref().is_ok_and(|answer| answer.vote_granted) {
                core.election_clock.heard(Instant::now());
            }
            vote_answer(voted)
        }
        Request::PreVote(call) => {
            wait_to_vote(core, &call).await;
            vote_answer(core.raft.pre_vote(vote_request(call)).await)
        }
        Request::TransferLeader { from, to, last } => {
            let request = TransferLeaderRequest::new(raft_vote(from), to, last.map(raft_log_id));
            match core.raft.handle_transfer_leader(request).await {
                Ok(Ok(())) => Response::Done,
                Ok(Err(e)) => Response::Refused(e.to_string()),
                Err(e) => Response::Refused(e.to_string()),
            }
        }
        Request::ReadIndex(proof) => match core.read_index_local(proof).await {
            Ok(index) => Response::ReadIndex(index),
            Err(reason) => Response::Refused(reason),
        },
        Request::Propose { commands, deadline_ms } => {
            let propose = |taken| core.propose(taken, deadline(deadline_ms));
            Response::Propose(core.take_within_room(commands, propose).await)
        }
        Request::Accept { commands, deadline_ms } => {
            let accept = |taken| core.accept(taken, deadline(deadline_ms));
            Response::Accept(core.take_within_room(commands, accept).await)
        }
        Request::Join { request, deadline_ms } if core.leadership().is_local => {
            Response::Join(core.join(request, deadline(deadline_ms)).await)
        }
        Request::MoveLeader { to, deadline_ms } if core.leadership().is_local => {
            Response::MoveLeader(core.move_leader(to, deadline(deadline_ms)).await)
        }
        Request::JoinLearner { request, deadline_ms } if core.leadership().is_local => {
            let request = JoinRequest { stays_learner: true, ..request };
            Response::Join(core.join(request, deadline(deadline_ms)).await)
        }
        Request::ChangeMember { order, deadline_ms } if core.leadership().is_local => {
            Response::ChangeMember(core.change_member(order, deadline(deadline_ms)).await)
        }
        Request::Join { .. }
        | Request::JoinLearner { .. }
        | Request::MoveLeader { .. }
        | Request::ChangeMember { .. } => Response::Refused("not the leader".into()),
        Request::Announce(claims) => Response::Announce(core.exchange_claims(from, claims)),
        Request::GetStanding => match core.standing(from).await {
            Ok(standing) => Response::Standing(standing),
            Err(reason) => Response::Refused(reason),
        },
        Request::Ping => Response::Done,
        Request::ExchangeCheckpoints(told) => {
            if core.membership().get_node(&from).is_some() {
                core.agreement.hear(from, told);
            }
            Response::Checkpoints(core.store.tell_checkpoints())
        }
        Request::Hello(_)
        | Request::Form(_)
        | Request::Append(_)
        | Request::SnapshotBegin(_)
        | Request::SnapshotChunk(_)
        | Request::SnapshotEnd => Response::Refused("out of place".into()),
    }
}

/// A node that has just started has forgotten which leader it heard from, and with it the leader's lease:
/// its vote waits until every lease that it may have granted before is over. A leader that gives its place
/// away ends its lease itself.
async fn wait_to_vote(core: &Core, call: &VoteCall) {
    if !call.leadership_transfer {
        tokio::time::sleep_until(core.free_to_vote.into()).await;
    }
}

fn append_request(append: Append) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    use openraft::entry::RaftEntry;
    let entries = append.entries.into_iter();
    Ok(AppendEntriesRequest {
        vote: raft_vote(append.vote),
        prev_log_id: append.prev.map(raft_log_id),
        entries: entries
            .map(|(id, payload)| Ok(Entry::new(raft_log_id(id), payload.try_into()?)))
            .collect::<io::Result<_>>()?,
        leader_commit: append.leader_commit.map(raft_log_id),
    })
}

fn append_answer(answer: AppendEntriesResponse<TypeConfig>) -> AppendAnswer {
    match answer {
        AppendEntriesResponse::Success => AppendAnswer::Success,
        AppendEntriesResponse::PartialSuccess(m) => AppendAnswer::Partial(m.as_ref().map(log_id)),
        AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
        AppendEntriesResponse::HigherVote(v) => AppendAnswer::HigherVote(vote(&v)),
    }
}

fn vote_request(call: VoteCall) -> VoteRequest<TypeConfig> {
    let mut request = VoteRequest::new(raft_vote(call.vote), call.last.map(raft_log_id));
    request.leadership_transfer = call.leadership_transfer;
    request
}

fn vote_answer<E: std::fmt::Display>(result: Result<VoteResponse<TypeConfig>, E>) -> Response {
    match result {
        Ok(v) => Response::Vote(VoteAnswer {
            vote: vote(&v.vote),
            granted: v.vote_granted,
            last: v.last_log_id.as_ref().map(log_id),
        }),
        Err(e) => Response::Refused(e.to_string()),
    }
}
