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
use parking_lot::Mutex;
use tokio::sync::{mpsc, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use vaultdb_storage::SnapshotReceiver;

use crate::core::Core;
use crate::formation::{FormAnswer, Plan};
use crate::state_machine::raft_snapshot;
use crate::transport::{Accept, Connection};
use crate::types::{log_id, raft_log_id, raft_vote, vote, Entry, RaftVote, TypeConfig};
use crate::wire::{
    self, Append, AppendAnswer, Hello, Reader, Request, Response, SnapshotBegin, SnapshotChunk, VoteAnswer,
    VoteCall, Writer, PROTOCOL_VERSION,
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
    if let Some(reason) = refuse(&core, &hello) {
        wire::send(&mut writer, id, &Response::Refused(reason.clone())).await?;
        return Err(io::Error::other(format!("refused node {}: {reason}", hello.from)));
    }
    wire::send(&mut writer, id, &Response::Done).await?;
    let (answers, queue) = mpsc::channel(REQUESTS_MAX);
    let session = Session {
        core,
        from: hello.from,
        answers,
        places: Arc::new(Semaphore::new(REQUESTS_MAX)),
        receiving: Arc::default(),
    };
    tokio::select! {
        read = session.read_requests(&mut reader) => read,
        written = write_answers(queue, &mut writer) => written,
    }
}

fn member(core: &Core) -> FormAnswer {
    let cluster = Plan { cluster_id: core.me.cluster_id.clone(), founders: core.founders.clone() };
    FormAnswer::Member { cluster, has_leader: core.leadership().leader.is_some() }
}

/// Why a caller is not spoken with.
fn refuse(core: &Core, hello: &Hello) -> Option<String> {
    if hello.protocol_version != PROTOCOL_VERSION {
        return Some(format!("protocol {} is not {PROTOCOL_VERSION}", hello.protocol_version));
    }
    if hello.cluster_id != core.me.cluster_id {
        return Some(format!("cluster {} is not {}", hello.cluster_id, core.me.cluster_id));
    }
    if hello.to != core.me.id {
        return Some(format!("node {} was called, this is node {}", hello.to, core.me.id));
    }
    None
}

async fn write_answers(mut queue: mpsc::Receiver<(u64, Response)>, writer: &mut Writer) -> io::Result<()> {
    let mut out = Vec::new();
    while let Some(answer) = queue.recv().await {
        let mut next = Some(answer);
        while let Some((id, response)) = next {
            wire::push_frame(&mut out, id, &response)?;
            next = if out.len() < wire::WRITE_BYTES { queue.try_recv().ok() } else { None };
        }
        wire::write_out(writer, &mut out).await?;
    }
    Ok(())
}

struct Session {
    core: Arc<Core>,
    from: u64,
    answers: mpsc::Sender<(u64, Response)>,
    places: Arc<Semaphore>,
    /// The snapshot that this connection is sending.
    receiving: Arc<Mutex<Option<Receiving>>>,
}

struct Receiving {
    leader: RaftVote,
    receiver: SnapshotReceiver,
}

impl Session {
    async fn read_requests(&self, reader: &mut Reader) -> io::Result<()> {
        while let Some(frame) = reader.next().await {
            let (id, request) = wire::parse(frame?)?;
            self.core.contacts.heard(self.from);
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            self.dispatch(id, request, place)?;
        }
        Ok(())
    }

    fn dispatch(&self, id: u64, request: Request, place: OwnedSemaphorePermit) -> io::Result<()> {
        let core = self.core.clone();
        match request {
            Request::Append(append) => self.append(id, append, place)?,
            Request::SnapshotBegin(begin) => {
                self.answer(id, place, receive_begin(core, self.receiving.clone(), begin))
            }
            Request::SnapshotChunk(chunk) => {
                self.answer(id, place, receive_chunk(self.receiving.clone(), chunk))
            }
            Request::SnapshotEnd => self.answer(id, place, receive_end(core, self.receiving.clone())),
            Request::Hello(_) => return Err(io::Error::other("a second hello")),
            other => self.answer(id, place, async move { answer(&core, other).await }),
        }
        Ok(())
    }

    /// Hands the append to openraft before the next frame is read, and waits for its answer apart.
    fn append(&self, id: u64, append: Append, place: OwnedSemaphorePermit) -> io::Result<()> {
        let request = append_request(append)?;
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
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let response = response.await;
            // The connection may be gone; its peer then counts the request as lost.
            drop(answers.send((id, response)).await);
            drop(place);
        });
    }
}

fn deadline(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms.min(DEADLINE_MS_MAX))
}

async fn answer(core: &Core, request: Request) -> Response {
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
            Response::Propose(core.propose(commands.into_iter(), deadline(deadline_ms)).await)
        }
        Request::Accept { commands, deadline_ms } => {
            Response::Accept(core.accept(commands.into_iter(), deadline(deadline_ms)).await)
        }
        Request::Join { request, deadline_ms } if core.leadership().is_local => {
            Response::Join(core.join(request, deadline(deadline_ms)).await)
        }
        Request::MoveLeader { to, deadline_ms } if core.leadership().is_local => {
            Response::MoveLeader(core.move_leader(to, deadline(deadline_ms)).await)
        }
        Request::Join { .. } | Request::MoveLeader { .. } => Response::Refused("not the leader".into()),
        Request::Ping => Response::Done,
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

type Slot = Arc<Mutex<Option<Receiving>>>;

/// File work runs on the blocking pool: a slow disk must not delay heartbeats.
async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Response::Done,
        Ok(Err(reason)) => Response::Refused(reason),
        Err(e) => Response::Refused(e.to_string()),
    }
}

async fn receive_begin(core: Arc<Core>, slot: Slot, begin: SnapshotBegin) -> Response {
    blocking(move || {
        log::info!("receiving snapshot {} of {} files", begin.meta.id, begin.meta.files.len());
        let receiver = core.store.receive_snapshot(begin.meta).map_err(|e| e.to_string())?;
        *slot.lock() = Some(Receiving { leader: raft_vote(begin.vote), receiver });
        Ok(())
    })
    .await
}

async fn receive_chunk(slot: Slot, chunk: SnapshotChunk) -> Response {
    blocking(move || {
        let mut slot = slot.lock();
        let receiving = slot.as_mut().ok_or("no snapshot was begun")?;
        let SnapshotChunk { file, offset, data, crc32 } = chunk;
        receiving.receiver.write_chunk(file as usize, offset, &data, crc32).map_err(|e| e.to_string())
    })
    .await
}

async fn receive_end(core: Arc<Core>, slot: Slot) -> Response {
    let finished = tokio::task::spawn_blocking(move || {
        let Receiving { leader, receiver } = slot.lock().take().ok_or("no snapshot was begun")?;
        let snapshot = receiver.finish().map_err(|e| e.to_string())?;
        Ok::<_, String>((leader, raft_snapshot(snapshot).map_err(|e| e.to_string())?))
    });
    let (leader, snapshot) = match finished.await {
        Ok(Ok(finished)) => finished,
        Ok(Err(reason)) => return Response::Refused(reason),
        Err(e) => return Response::Refused(e.to_string()),
    };
    match core.raft.install_full_snapshot(leader, snapshot).await {
        Ok(answer) => Response::Snapshot(vote(&answer.vote)),
        Err(e) => Response::Refused(e.to_string()),
    }
}
