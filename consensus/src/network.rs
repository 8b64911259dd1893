//! openraft's calls to its peers, over [`Link`]s.
//!
//! Three links lead to each peer, so that none waits behind another: entries and forwarded writes;
//! heartbeats, votes and reads; a snapshot while one is sent.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;
use vaultdb_kv::{Histogram, NodeId};
use vaultdb_storage::{Snapshot, Vote};

use crate::book::Book;
use crate::codec::LogPayload;
use crate::contacts::Contacts;
use crate::identity::Member;
use crate::link::{self, Link, LinkError, Route};
use crate::peer_faults::PeerFaults;
use crate::snapshot::send::{self, STEP_MS_MAX};
use crate::snapshot::throttle::Throttle;
use crate::snapshot::transfers::Transfers;
use crate::transport::Dial;
use crate::types::{
    log_id, raft_log_id, raft_vote, vote, PeerNode, RaftLogId, RaftSnapshot, RaftVote, TypeConfig,
};
use crate::wire::{Append, AppendAnswer, Request, Response, VoteCall};

/// Appends in flight to one peer. Buys latency more than throughput: a peer's fsync is the pace.
const APPENDS_IN_FLIGHT_MAX: usize = 8;
/// How long the news of a commit may wait for entries to go with, in milliseconds. A linearizable read on a
/// follower does not wait for it: the heartbeat that confirms the leader carries the commit, too.
const COMMIT_WAIT_MS: u64 = 1;
/// How long an append may take. openraft's own figure is the heartbeat interval, too short for an
/// fsync that stalls.
const APPEND_MS_MAX: u64 = 2_000;
/// A link on which an answer is awaited and nothing arrives for this long is given up.
const SILENCE_MS_MAX: u64 = 5_000;
/// How long a peer may take to show that it is there, before a snapshot is sent to it.
const PING_MS_MAX: u64 = 1_000;
/// Pause between calls to a peer that is not there, in milliseconds: the first, and the longest.
const BACKOFF_MS: (u64, u64) = (20, 500);

pub type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Which of the links to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Entries,
    Control,
}

/// All links of this node. A peer whose address changes gets new ones.
pub struct Links {
    cluster_id: String,
    from: NodeId,
    pub book: Arc<Book>,
    contacts: Arc<Contacts>,
    round_trips: Arc<Histogram>,
    dialler: Arc<dyn Dial>,
    /// The consensus runtime: connections live there, whoever opens them.
    runtime: Handle,
    links: Mutex<HashMap<(NodeId, Lane), (String, Link)>>,
    transfers: Arc<Transfers>,
    throttle: Arc<Throttle>,
    pub faults: Arc<PeerFaults>,
}

impl Links {
    #[allow(clippy::too_many_arguments)] // Each is a part of its own that the node has made before.
    pub fn new(
        me: &Member,
        contacts: Arc<Contacts>,
        round_trips: Arc<Histogram>,
        dialler: Arc<dyn Dial>,
        runtime: Handle,
        transfers: Arc<Transfers>,
        throttle: Arc<Throttle>,
        faults: Arc<PeerFaults>,
    ) -> Arc<Self> {
        let (book, links) = (Arc::default(), Mutex::default());
        Arc::new(Self {
            cluster_id: me.cluster_id.clone(),
            from: me.id,
            book,
            contacts,
            round_trips,
            dialler,
            runtime,
            links,
            transfers,
            throttle,
            faults,
        })
    }

    fn route(&self, to: NodeId, addr: &str, silence_ms_max: u64) -> Route {
        Route {
            cluster_id: self.cluster_id.clone(),
            from: self.from,
            to,
            addr: addr.to_owned(),
            book: self.book.clone(),
            silence_max: Duration::from_millis(silence_ms_max),
            faults: self.faults.clone(),
        }
    }

    /// The shared link of a lane; from any thread.
    pub fn get(&self, to: NodeId, addr: &str, lane: Lane) -> Link {
        let mut links = self.links.lock();
        match links.get(&(to, lane)) {
            Some((known, link)) if known == addr => link.clone(),
            _ => {
                let link = Link::open(
                    &self.runtime,
                    self.dialler.clone(),
                    self.route(to, addr, SILENCE_MS_MAX),
                    self.contacts.clone(),
                );
                links.insert((to, lane), (addr.to_owned(), link.clone()));
                link
            }
        }
    }

    /// Which cluster the node at an address belongs to; `None` when nobody of one answers there.
    pub async fn cluster_at(&self, addr: &str) -> Option<String> {
        link::cluster_at(&*self.dialler, addr, &self.cluster_id, self.from).await
    }

    /// Drops the links to nodes that are no longer members.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.links.lock().retain(|(id, _), _| is_member(*id));
    }
}

#[derive(Clone)]
pub struct Network(pub Arc<Links>);

/// One openraft client: a peer and the lane it uses.
pub struct Peer {
    link: Link,
    links: Arc<Links>,
    to: NodeId,
    addr: String,
}

impl Network {
    fn peer(&self, to: NodeId, node: &PeerNode, lane: Lane) -> Peer {
        let addr = node.addr.raft.clone();
        Peer { link: self.0.get(to, &addr, lane), links: self.0.clone(), to, addr }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &PeerNode) -> Peer {
        self.peer(target, node, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &PeerNode) -> Peer {
        self.peer(target, node, Lane::Control)
    }
}

fn rpc_error(e: LinkError) -> RPCError<TypeConfig> {
    match e {
        LinkError::NotSent(_) => RPCError::Unreachable(Unreachable::new(&e)),
        LinkError::Lost(_) => RPCError::Network(NetworkError::new(&e)),
    }
}

pub fn network_error(reason: String) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(reason))
}

pub fn unexpected(response: &Response) -> RPCError<TypeConfig> {
    match response {
        Response::Refused(reason) => network_error(reason.clone()),
        other => network_error(format!("unexpected answer {other:?}")),
    }
}

pub async fn within(
    limit: Duration,
    call: impl Future<Output = Result<Response, LinkError>>,
) -> Rpc<Response> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(rpc_error),
        Err(_) => Err(RPCError::Network(NetworkError::from_string(format!("no answer within {limit:?}")))),
    }
}

fn append_request(rpc: AppendEntriesRequest<TypeConfig>) -> Request {
    let entries = rpc.entries.into_iter().map(|e| (log_id(&e.log_id), LogPayload::from(e.payload))).collect();
    Request::Append(Append {
        vote: vote(&rpc.vote),
        prev: rpc.prev_log_id.as_ref().map(log_id),
        entries,
        leader_commit: rpc.leader_commit.as_ref().map(log_id),
    })
}

fn append_answer(response: Response) -> Rpc<AppendAnswer> {
    match response {
        Response::Append(answer) => Ok(answer),
        other => Err(unexpected(&other)),
    }
}

/// Calls to a peer are queued as the input yields them, and answered in the same order.
fn pipeline<'s, S>(
    link: Link,
    round_trips: Arc<Histogram>,
    input: S,
) -> BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    let answers = join_commits(input).map(move |Joined { rpc, news_only_before }| {
        let prev = rpc.prev_log_id;
        let last: Option<RaftLogId> = rpc.entries.last().map(|e| e.log_id).or(prev);
        let heartbeat = rpc.entries.is_empty().then(|| (round_trips.clone(), Instant::now()));
        let call = link.call(append_request(rpc));
        async move {
            let answer = within(Duration::from_millis(APPEND_MS_MAX), call).await.and_then(append_answer);
            if let Some((round_trips, sent)) = heartbeat.filter(|_| answer.is_ok()) {
                round_trips.record(sent.elapsed());
            }
            let answer = answer.and_then(|answer| appended(answer, prev, last));
            let first = news_only_before.then(|| match &answer {
                // What the peer said of the entries holds for the place behind which they belong.
                Ok(Ok(_)) => Ok(Ok(prev)),
                other => other.clone(),
            });
            futures::stream::iter(first.into_iter().chain([answer]))
        }
    });
    Box::pin(answers.buffered(APPENDS_IN_FLIGHT_MAX).flatten())
}

fn appended(
    answer: AppendAnswer,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
) -> Rpc<StreamAppendResult<TypeConfig>> {
    Ok(match answer {
        AppendAnswer::Success => Ok(last),
        AppendAnswer::Partial(matching) => Ok(matching.map(raft_log_id)),
        AppendAnswer::HigherVote(higher) => Err(StreamAppendError::HigherVote(raft_vote(higher))),
        AppendAnswer::Conflict => match prev {
            Some(prev) => Err(StreamAppendError::Conflict(prev)),
            // Nothing comes before the first entry, so nothing can conflict with it.
            None => return Err(RPCError::Network(NetworkError::from_string("conflict at the start"))),
        },
    })
}

/// A request, which may stand for an earlier one without entries as well.
struct Joined {
    rpc: AppendEntriesRequest<TypeConfig>,
    news_only_before: bool,
}

/// openraft tells each follower of each commit at once, in a request of its own if there is no entry to
/// send. Under load the next entries are a moment away and tell the same: such a request waits for them, and
/// one message with one answer does for both, half of all messages at few connections.
///
/// Both ask the peer whether it holds the same entry before; a later commit implies the earlier one.
fn join_commits<S>(input: S) -> impl Stream<Item = Joined> + Send
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    futures::stream::unfold((input.fuse(), None), |(mut input, held)| async move {
        let rpc = match held {
            Some(held) => held,
            None => input.next().await?,
        };
        if !rpc.entries.is_empty() {
            return Some((Joined { rpc, news_only_before: false }, (input, None)));
        }
        match timeout(Duration::from_millis(COMMIT_WAIT_MS), input.next()).await {
            Ok(Some(next)) if next.prev_log_id == rpc.prev_log_id && next.vote == rpc.vote => {
                Some((Joined { rpc: next, news_only_before: true }, (input, None)))
            }
            Ok(next) => Some((Joined { rpc, news_only_before: false }, (input, next))),
            Err(_) => Some((Joined { rpc, news_only_before: false }, (input, None))),
        }
    })
}

impl Peer {
    async fn send_snapshot(&self, leader: Vote, snapshot: Snapshot) -> Rpc<Vote> {
        let links = &*self.links;
        // A peer that is not there is found so without a connection that fails each time.
        let control = links.get(self.to, &self.addr, Lane::Control);
        within(Duration::from_millis(PING_MS_MAX), control.call(Request::Ping)).await?;
        // A connection of its own: it ends with the transfer.
        let route = links.route(self.to, &self.addr, STEP_MS_MAX);
        let link = Link::open(&links.runtime, links.dialler.clone(), route, links.contacts.clone());
        let transfer = links.transfers.begin_send(self.to, &snapshot);
        let vote = send::send(&link, leader, &snapshot, &links.throttle, &transfer).await?;
        transfer.complete();
        Ok(vote)
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre: bool,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let call = VoteCall {
            vote: vote(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(log_id),
            leadership_transfer: rpc.leadership_transfer,
        };
        let request = if pre { Request::PreVote(call) } else { Request::Vote(call) };
        let control = self.links.get(self.to, &self.addr, Lane::Control);
        match within(option.hard_ttl(), control.call(request)).await? {
            Response::Vote(v) => Ok(VoteResponse::new(raft_vote(v.vote), v.last.map(raft_log_id), v.granted)),
            other => Err(unexpected(&other)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let call = self.link.call(append_request(rpc));
        Ok(match append_answer(within(Duration::from_millis(APPEND_MS_MAX), call).await?)? {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::Partial(m) => AppendEntriesResponse::PartialSuccess(m.map(raft_log_id)),
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(v) => AppendEntriesResponse::HigherVote(raft_vote(v)),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let stream = pipeline(self.link.clone(), self.links.round_trips.clone(), input);
        Box::pin(async move { Ok(stream) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_vote(rpc, false, option).await
    }

    // openraft's default grants: a node that is cut off would elect itself again and again.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_vote(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        leader: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = self.send_snapshot(vote(&leader), snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => Ok(SnapshotResponse::new(raft_vote(sent.map_err(snapshot_error)?))),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = Request::TransferLeader {
            from: vote(rpc.from_leader()),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(log_id),
        };
        let control = self.links.get(self.to, &self.addr, Lane::Control);
        match within(option.hard_ttl(), control.call(request)).await? {
            Response::Done => Ok(Ok(())),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, longest) = BACKOFF_MS;
        let delays = std::iter::successors(Some(first), move |ms| Some((ms * 2).min(longest)));
        Some(Backoff::new(delays.map(Duration::from_millis)))
    }
}

fn snapshot_error(e: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    match e {
        RPCError::Unreachable(e) => StreamingError::Unreachable(e),
        RPCError::Timeout(e) => StreamingError::Timeout(e),
        RPCError::Network(e) => StreamingError::Network(e),
        RPCError::RemoteError(e) => match e.source {},
    }
}
