//! `GET /v1/cluster`: the whole cluster from one node, as one answer or live.
//!
//! One task of the node asks every member once a second, on behalf of all who watch, and ends when nobody
//! does. A watcher holds no permit of ordinary requests, waits for nobody but that task, and ends with the
//! server.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep_until, timeout};

use crate::app::{Call, Shared, Worker};
use crate::backend::Backend;
use crate::gather::{Frame, Gathered, Place, Sighting, Told, MEMBERS_MAX};
use crate::history::unix_ms;
use crate::listing::{needs_chunks, wants_stream};
use crate::model::{NodeStatus, EVENTS_MAX};
use crate::observation::Known;
use crate::problem::{Code, Problem};
use crate::reply::{Content, Media, Reply};

/// Most who watch one node at once.
pub const WATCHERS_MAX: usize = 64;
/// From the begin of one round to that of the next.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How long a member may take to answer.
const MEMBER_PATIENCE: Duration = Duration::from_millis(800);
/// A watcher that hears nothing for longer has lost the task that gathers; its client comes again.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Frames that a slow watcher may be behind before it gets everything anew.
const FRAMES_BEHIND_MAX: usize = 8;
const EVENT_STREAM: &str = "text/event-stream";

/// Where all who watch this node meet.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    updates: broadcast::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct State {
    watchers: usize,
    is_gathering: bool,
    gathered: Gathered,
}

impl Default for Hub {
    fn default() -> Self {
        Self { state: Mutex::default(), updates: broadcast::Sender::new(FRAMES_BEHIND_MAX) }
    }
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        // A round that panicked left at worst a part of its news.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's place among those who watch; free again on drop.
struct Watch {
    shared: Arc<Shared>,
    updates: broadcast::Receiver<Bytes>,
    /// Whether it has been given everything, so that updates suffice.
    is_current: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.hub.state().watchers -= 1;
    }
}

/// Held by the task that gathers, so that another begins after it, however it ends.
struct Gathering {
    shared: Arc<Shared>,
    /// Whether it has told so itself.
    is_over: bool,
}

impl Drop for Gathering {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.hub.state().is_gathering = false;
        }
    }
}

impl<B: Backend> Worker<B> {
    pub(crate) async fn cluster(self: &Rc<Self>, call: Call<'_>, head_only: bool) -> Result<Reply, Problem> {
        call.params()?;
        let is_stream = wants_stream(call.http.headers(), EVENT_STREAM);
        let media = if is_stream { Media::EventStream } else { Media::Json };
        if is_stream {
            needs_chunks(&call)?;
        }
        if head_only {
            return Ok(Reply::with(media, Content::Untold));
        }
        let mut watch = self.watch()?;
        if is_stream {
            return Ok(Reply::with(media, watch.into_content()));
        }
        if !watch.wait_current().await {
            return Err(Problem::new(Code::Starting, "the node is starting or stopping"));
        }
        Ok(Reply::json(watch.everything()))
    }

    /// # Errors
    /// 429 when too many watch already.
    fn watch(self: &Rc<Self>) -> Result<Watch, Problem> {
        let hub = &self.shared.hub;
        let mut state = hub.state();
        if state.watchers >= WATCHERS_MAX {
            let detail = format!("{WATCHERS_MAX} clients watch this node already");
            return Err(Problem::new(Code::Overloaded, detail).with_limit(WATCHERS_MAX as u64));
        }
        state.watchers += 1;
        let updates = hub.updates.subscribe();
        if !state.is_gathering {
            state.is_gathering = true;
            state.gathered = Gathered::default();
            let gathering = Gathering { shared: Arc::clone(&self.shared), is_over: false };
            actix_web::rt::spawn(Rc::clone(self).gather(gathering));
        }
        Ok(Watch { shared: Arc::clone(&self.shared), updates, is_current: !state.gathered.is_empty() })
    }

    /// One round a second while anybody watches.
    async fn gather(self: Rc<Self>, mut gathering: Gathering) {
        let hub = &self.shared.hub;
        loop {
            let next = Instant::now() + ROUND_INTERVAL;
            let round = self.ask_all().await;
            let time_ms = unix_ms();
            let update = {
                let mut state = hub.state();
                if state.watchers == 0 {
                    // Within the same lock, so that a watcher who comes now begins another.
                    state.is_gathering = false;
                    gathering.is_over = true;
                    return;
                }
                let nodes = state.gathered.take(round, time_ms);
                self.shared.frame("update", time_ms, nodes)
            };
            // Nobody left to take it: the next round will see that.
            let _ = hub.updates.send(update);
            sleep_until(next.into()).await;
        }
    }

    async fn ask_all(&self) -> Vec<(Place, Result<Told, String>)> {
        let known = |name: &str| self.shared.hub.state().gathered.known(name);
        let own_name = self.shared.options.node_name.as_str();
        let own_known = known(own_name);
        let status = self.backend.status().await;
        let events = self.backend.events().page(own_known.seq, EVENTS_MAX).events;
        let own = serde_json::to_value(self.observe(own_known, &status, &events))
            .and_then(serde_json::from_value)
            .map_err(|error| error.to_string());
        let others = peers(&status).into_iter().map(|place| {
            let known = known(&place.name);
            async move {
                let told = self.ask(&place, known).await;
                (place, told)
            }
        });
        let mut round = join_all(others).await;
        round.push((Place { name: own_name.to_owned(), haddr: status.node.haddr.clone() }, own));
        round
    }

    async fn ask(&self, place: &Place, known: Known) -> Result<Told, String> {
        let Known { seq, figures_ms } = known;
        let what = format!("GET /v1/observation?since={seq}&figures_since_ms={figures_ms}");
        let deadline = Instant::now() + MEMBER_PATIENCE;
        let answer = self.backend.ask_member(place.haddr.clone(), what, Vec::new(), deadline).await?;
        if answer.status != 200 {
            return Err(format!("it answers {}", answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("unexpected answer: {error}"))
    }
}

/// The other members.
fn peers(status: &NodeStatus) -> Vec<Place> {
    let members = status.cluster.iter().flat_map(|cluster| &cluster.members);
    let others = members.filter(|member| member.member.name != status.node.name);
    others
        .take(MEMBERS_MAX)
        .map(|member| Place { name: member.member.name.clone(), haddr: member.member.addr.http.clone() })
        .collect()
}

impl Shared {
    /// A server-sent event. JSON has no line breaks of its own, so it is one line of data.
    fn frame(&self, event: &str, time_ms: u64, nodes: Vec<Sighting>) -> Bytes {
        let frame = Frame { gathered_by: &self.options.node_name, time_ms, nodes };
        let json = serde_json::to_string(&frame).expect("plain data always serialises");
        format!("event: {event}\ndata: {json}\n\n").into()
    }
}

impl Watch {
    /// Everything that is known, as JSON.
    fn everything(&self) -> Vec<u8> {
        let nodes = self.shared.hub.state().gathered.all();
        let frame = Frame { gathered_by: &self.shared.options.node_name, time_ms: unix_ms(), nodes };
        serde_json::to_vec(&frame).expect("plain data always serialises")
    }

    /// Waits for the first round; `false` when there will be none.
    async fn wait_current(&mut self) -> bool {
        if !self.is_current {
            self.is_current = self.update().await.is_some();
        }
        self.is_current
    }

    fn into_content(self) -> Content {
        let frames = stream::unfold((self, false), |(mut watch, is_greeted)| async move {
            let frame = watch.frame(is_greeted).await?;
            Some((Ok::<_, io::Error>(frame), (watch, true)))
        });
        Content::Stream(frames.boxed_local())
    }

    /// The next event: everything at first, and again for whoever has missed some; otherwise what is new.
    async fn frame(&mut self, is_greeted: bool) -> Option<Bytes> {
        if is_greeted {
            if let Ok(update) = self.update().await? {
                return Some(update);
            }
        } else if !self.wait_current().await {
            return None;
        }
        let nodes = self.shared.hub.state().gathered.all();
        Some(self.shared.frame("snapshot", unix_ms(), nodes))
    }

    /// `None` when there will be no more: the server stops, or the task that gathers was lost.
    async fn update(&mut self) -> Option<Result<Bytes, RecvError>> {
        let Self { shared, updates, .. } = self;
        tokio::select! {
            () = shared.stopping.notified() => None,
            update = timeout(SILENCE_MAX, updates.recv()) => update.ok(),
        }
    }
}
