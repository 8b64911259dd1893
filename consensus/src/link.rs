//! The calling end of a connection to one peer: dials when there is something to send, keeps many
//! requests in flight, and tells a request that was never sent from one whose fate is unknown.
//!
//! Invariant: requests leave in the order of the calls of [`Link::call`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, Instant};
use tokio_util::codec::FramedRead;

use crate::book::Book;
use crate::contacts::Contacts;
use crate::peer_faults::PeerFaults;
use crate::transport::{Connection, Dial};
use crate::wire::{self, Hello, Reader, Request, Response, Writer, PROTOCOL_VERSION};

/// Requests that may wait in a link before it refuses more.
const QUEUE_MAX: usize = 4096;
/// Time to connect and be accepted, for each address of the peer.
const DIAL_MS_MAX: u64 = 1_000;

/// Why a call was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// Nothing of the request was sent.
    #[error("not reached: {0}")]
    NotSent(String),
    /// It was sent, or may have been; the peer may have acted on it.
    #[error("lost: {0}")]
    Lost(String),
}

struct Call {
    /// When it may leave; `None` is at once.
    due: Option<StdInstant>,
    request: Request,
    answer: oneshot::Sender<Result<Response, LinkError>>,
}

/// A handle to the task that owns the connection; the task ends with the last handle.
#[derive(Clone)]
pub struct Link {
    calls: mpsc::Sender<Call>,
    to: u64,
    faults: Arc<PeerFaults>,
}

/// Where a link leads, and who calls.
#[derive(Debug, Clone)]
pub struct Route {
    pub cluster_id: String,
    pub from: u64,
    pub to: u64,
    /// Where the peer is dialled if nothing better is known.
    pub addr: String,
    pub book: Arc<Book>,
    /// A connection on which an answer is awaited and nothing arrives for this long is given up, as is one whose
    /// peer takes nothing for so long.
    pub silence_max: Duration,
    pub faults: Arc<PeerFaults>,
}

impl Link {
    /// The connection lives on `runtime`.
    pub fn open(runtime: &Handle, dialler: Arc<dyn Dial>, route: Route, contacts: Arc<Contacts>) -> Link {
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        let (to, faults) = (route.to, route.faults.clone());
        let task = LinkTask { dialler, route, contacts, queue, held: None, refused: None, out: Vec::new() };
        runtime.spawn(task.run());
        Link { calls, to, faults }
    }

    /// Queues the request at once; the future only waits for the answer.
    pub fn call(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Response, LinkError>> + Send + 'static {
        let (answer, waits) = oneshot::channel();
        let due = self.faults.due(self.to);
        let queued = self.calls.try_send(Call { due, request, answer });
        async move {
            if queued.is_err() {
                return Err(LinkError::NotSent("the queue to the peer is full".into()));
            }
            waits.await.unwrap_or_else(|_| Err(LinkError::Lost("the connection's task ended".into())))
        }
    }
}

struct LinkTask {
    dialler: Arc<dyn Dial>,
    route: Route,
    contacts: Arc<Contacts>,
    queue: mpsc::Receiver<Call>,
    /// Taken from the queue and not to be sent yet.
    held: Option<Call>,
    /// The last reason for a failed dial, so that a lasting one is logged once.
    refused: Option<String>,
    /// Frames on their way to one write; empty between calls of `write`.
    out: Vec<u8>,
}

/// Dials and says hello; the answer, and the connection on which it came.
async fn greet(dialler: &dyn Dial, addr: &str, hello: Hello) -> std::io::Result<(Response, Reader, Writer)> {
    let Connection { read, write } = dialler.dial(addr).await?;
    let mut reader = FramedRead::new(read, wire::frame_codec());
    let mut writer = write;
    wire::send(&mut writer, 0, &Request::Hello(hello)).await?;
    let frame = reader.next().await.ok_or(std::io::ErrorKind::UnexpectedEof)??;
    Ok((wire::parse(frame)?.1, reader, writer))
}

/// Which cluster the node at an address belongs to; `None` when nobody of one answers there in time.
pub async fn cluster_at(dialler: &dyn Dial, addr: &str, cluster_id: &str, from: u64) -> Option<String> {
    // No node has the id 0: whoever answers refuses, and by the way of it tells the cluster.
    let cluster_id = cluster_id.to_owned();
    let hello = Hello { protocol_version: PROTOCOL_VERSION, cluster_id: cluster_id.clone(), from, to: 0 };
    match timeout(Duration::from_millis(DIAL_MS_MAX), greet(dialler, addr, hello)).await.ok()?.ok()?.0 {
        Response::OtherCluster { cluster_id } => Some(cluster_id),
        Response::Refused(_) => Some(cluster_id),
        _ => None,
    }
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Response, LinkError>>>;

impl LinkTask {
    async fn run(mut self) {
        while let Some(first) = self.next_call().await {
            match self.dial_any().await {
                Ok((reader, writer)) => {
                    self.refused = None;
                    self.serve(first, reader, writer).await;
                }
                Err(error) => self.fail_queued(first, &error),
            }
        }
    }

    async fn next_call(&mut self) -> Option<Call> {
        match self.held.take() {
            Some(held) => Some(held),
            None => self.queue.recv().await,
        }
    }

    fn is_held_back(&self, call: &Call) -> bool {
        self.route.faults.holds(self.route.to, call.due)
    }

    /// Tries each address at which the peer may be.
    async fn dial_any(&self) -> Result<(Reader, Writer), String> {
        self.route.faults.check(self.route.to).map_err(|e| e.to_string())?;
        let mut reasons = Vec::new();
        for addr in self.route.book.candidates(self.route.to, &self.route.addr) {
            match timeout(Duration::from_millis(DIAL_MS_MAX), self.dial(&addr)).await {
                Ok(Ok(connection)) => {
                    self.route.book.worked(self.route.to, &addr);
                    return Ok(connection);
                }
                Ok(Err(e)) => reasons.push(format!("{addr}: {e}")),
                Err(_) => reasons.push(format!("{addr}: no answer within {DIAL_MS_MAX} ms")),
            }
        }
        Err(reasons.join("; "))
    }

    async fn dial(&self, addr: &str) -> std::io::Result<(Reader, Writer)> {
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.route.cluster_id.clone(),
            from: self.route.from,
            to: self.route.to,
        };
        let (answer, reader, writer) = greet(&*self.dialler, addr, hello).await?;
        match answer {
            Response::Done => Ok((reader, writer)),
            Response::Refused(reason) => Err(std::io::Error::other(format!("refused: {reason}"))),
            Response::OtherCluster { cluster_id } => {
                self.route.book.note_other_cluster(addr, &cluster_id);
                Err(std::io::Error::other(format!("it belongs to another cluster, {cluster_id}")))
            }
            other => Err(std::io::Error::other(format!("unexpected answer to hello: {other:?}"))),
        }
    }

    /// Nothing was sent: whoever waits hears so at once and decides on a retry.
    fn fail_queued(&mut self, first: Call, error: &str) {
        if self.refused.as_deref() != Some(error) {
            log::warn!("node {}: {error}", self.route.to);
            self.refused = Some(error.to_owned());
        }
        let mut next = Some(first);
        while let Some(call) = next {
            // A caller that has given up needs no answer; so for every such send below.
            drop(call.answer.send(Err(LinkError::NotSent(error.to_owned()))));
            next = self.held.take().or_else(|| self.queue.try_recv().ok());
        }
    }

    /// Runs one connection until it breaks; then everything sent on it is lost.
    async fn serve(&mut self, first: Call, mut reader: Reader, mut writer: Writer) {
        // A connection that broke while it was written to may have left some.
        self.out.clear();
        let mut waiting = Waiting::new();
        let mut next_id = 1;
        let mut next = Some(first);
        let mut heard = Instant::now();
        let reason = loop {
            if let Some(call) = next.take() {
                if self.is_held_back(&call) {
                    self.held = Some(call);
                } else if let Err(e) = self.write(call, &mut next_id, &mut waiting, &mut writer).await {
                    break e.to_string();
                }
                if waiting.len() == 1 {
                    heard = Instant::now();
                }
            }
            let silent_at = heard + self.route.silence_max;
            let (faults, to) = (&*self.route.faults, self.route.to);
            let held = self.held.as_ref();
            let held_until = held.and_then(|held| held.due);
            tokio::select! {
                call = self.queue.recv(), if held.is_none() => match call {
                    Some(call) => next = Some(call),
                    None => break "closed".into(),
                },
                () = faults.release(to, held_until), if held.is_some() => next = self.held.take(),
                frame = reader.next() => match frame {
                    Some(Ok(frame)) => {
                        if let Err(e) = faults.check(to) {
                            break e.to_string();
                        }
                        heard = Instant::now();
                        self.contacts.heard(self.route.to);
                        match wire::parse::<Response>(frame) {
                            Ok((id, response)) => {
                                if let Some(answer) = waiting.remove(&id) {
                                    drop(answer.send(Ok(response)));
                                }
                            }
                            Err(e) => break e.to_string(),
                        }
                    }
                    Some(Err(e)) => break e.to_string(),
                    None => break "closed by the peer".into(),
                },
                () = tokio::time::sleep_until(silent_at), if !waiting.is_empty() => {
                    waiting.retain(|_, answer| !answer.is_closed());
                    if !waiting.is_empty() {
                        break format!("silent for {:?}", self.route.silence_max);
                    }
                }
            }
        };
        for (_, answer) in waiting {
            drop(answer.send(Err(LinkError::Lost(reason.clone()))));
        }
    }

    /// Writes the call and whatever else is queued, in order, with as few writes as possible.
    async fn write(
        &mut self,
        call: Call,
        next_id: &mut u64,
        waiting: &mut Waiting,
        writer: &mut Writer,
    ) -> std::io::Result<()> {
        let mut next = Some(call);
        while let Some(Call { request, answer, .. }) = next {
            waiting.insert(*next_id, answer);
            wire::push_frame(&mut self.out, *next_id, &request)?;
            *next_id += 1;
            next = self.queue.try_recv().ok();
            if next.as_ref().is_some_and(|call| self.is_held_back(call)) {
                self.held = next.take();
            }
            if next.is_none() || self.out.len() >= wire::WRITE_BYTES {
                self.route.faults.check(self.route.to)?;
                let limit = self.route.silence_max;
                let written = timeout(limit, wire::write_out(writer, &mut self.out)).await;
                written.map_err(|_| {
                    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("took nothing for {limit:?}"))
                })??;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::future::BoxFuture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use vaultdb_kv::{FaultKind, Faults};

    use super::*;
    use crate::wire::SnapshotChunk;

    /// Bytes that the pipe to the peer holds before a write waits.
    const PIPE_BYTES: usize = 4096;
    const LIMIT: Duration = Duration::from_secs(60);

    /// A peer to which one connection leads.
    struct OnePeer(parking_lot::Mutex<Option<DuplexStream>>);

    impl Dial for OnePeer {
        fn dial<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Connection>> {
            Box::pin(async move {
                let stream = self.0.lock().take().ok_or(std::io::ErrorKind::ConnectionRefused)?;
                let (read, write) = tokio::io::split(stream);
                Ok(Connection { read: Box::new(read), write: Box::new(write) })
            })
        }
    }

    /// A link, and the other end of its connection, which has said hello as soon as it is awaited.
    async fn connected(faults: &Arc<Faults>, silence_max: Duration) -> (Link, DuplexStream) {
        let (near, mut far) = tokio::io::duplex(PIPE_BYTES);
        let peers = PeerFaults::new(faults.clone());
        peers.names(|id| Some(format!("node{id}")));
        let route = Route {
            cluster_id: "c".into(),
            from: 1,
            to: 2,
            addr: "there".into(),
            book: Arc::default(),
            silence_max,
            faults: Arc::new(peers),
        };
        let dialler = Arc::new(OnePeer(parking_lot::Mutex::new(Some(near))));
        let link = Link::open(&Handle::current(), dialler, route, Arc::default());
        // The call makes it dial.
        let first = tokio::spawn(link.call(Request::Ping));
        for _ in ["hello", "ping"] {
            let id = read_request(&mut far).await;
            answer(&mut far, id).await;
        }
        first.await.unwrap().unwrap();
        (link, far)
    }

    /// The id of the next request.
    async fn read_request(far: &mut DuplexStream) -> u64 {
        let length = far.read_u32().await.unwrap() as usize;
        let mut frame = vec![0; length];
        far.read_exact(&mut frame).await.unwrap();
        u64::from_le_bytes(frame[..8].try_into().unwrap())
    }

    async fn answer(far: &mut DuplexStream, id: u64) {
        let mut out = Vec::new();
        wire::push_frame(&mut out, id, &Response::Done).unwrap();
        far.write_all(&out).await.unwrap();
    }

    /// A peer that stops reading costs a call no longer than the silence that its link allows.
    #[tokio::test]
    async fn peer_that_takes_nothing_is_given_up() {
        let (link, far) = connected(&Arc::default(), Duration::from_millis(100)).await;
        let data = vec![0; 4 * PIPE_BYTES].into();
        let chunk = SnapshotChunk { file: 0, offset: 0, data, crc32: 0 };
        // Half of what a write may take on any connection, see `wire`.
        let limit = Duration::from_millis(2_500);
        let answer = timeout(limit, link.call(Request::SnapshotChunk(chunk))).await.expect("given up");
        assert!(matches!(&answer, Err(LinkError::Lost(why)) if why.contains("took nothing")), "{answer:?}");
        drop(far);
    }

    /// While a peer's traffic is dropped nothing is sent to it, nor is an answer taken that comes nevertheless.
    #[tokio::test]
    async fn dropped_peer_is_neither_told_nor_heard() {
        let faults = Arc::new(Faults::default());
        let (link, mut far) = connected(&faults, LIMIT).await;
        let waits = tokio::spawn(link.call(Request::Ping));
        let id = read_request(&mut far).await;
        faults.inject(FaultKind::PeerDrop { peer: Some("node2".into()) }, LIMIT);
        answer(&mut far, id).await;
        let lost = timeout(LIMIT, waits).await.expect("an end").unwrap();
        assert!(matches!(&lost, Err(LinkError::Lost(why)) if why.contains("injected")), "{lost:?}");
        let refused = timeout(LIMIT, link.call(Request::Ping)).await.expect("an end");
        assert!(matches!(&refused, Err(LinkError::NotSent(why)) if why.contains("injected")), "{refused:?}");
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "nothing was sent");
    }

    /// Delayed requests leave in their order, at once when the delay is cleared; answers are taken meanwhile.
    #[tokio::test]
    async fn delayed_requests_keep_their_order() {
        let faults = Arc::new(Faults::default());
        let (link, mut far) = connected(&faults, LIMIT).await;
        let before = tokio::spawn(link.call(Request::Ping));
        let id = read_request(&mut far).await;
        faults.inject(FaultKind::PeerDelay { peer: None, delay: LIMIT * 5 }, LIMIT * 5);
        let calls = [link.call(Request::Ping), link.call(Request::Ping)].map(tokio::spawn);
        answer(&mut far, id).await;
        timeout(LIMIT, before).await.expect("taken").unwrap().unwrap();
        let early = timeout(Duration::from_millis(50), far.read_u8()).await;
        assert!(early.is_err(), "held back, not {early:?}");
        faults.clear(None);
        for expected in [id + 1, id + 2] {
            assert_eq!(timeout(LIMIT, read_request(&mut far)).await.expect("sent"), expected);
            answer(&mut far, expected).await;
        }
        for call in calls {
            timeout(LIMIT, call).await.expect("answered").unwrap().unwrap();
        }
    }
}
