//! `GET /v1/events`: what this node saw and did, as JSON or live as server-sent events.
//!
//! Read from memory, so also while the supervisor hangs. A stream is a cursor into the ring: it holds no
//! events that its client has not taken, and no permit of a request.

use std::fmt::Write;
use std::io;
use std::rc::Rc;

use actix_web::http::header::{HeaderMap, HeaderName};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admission::StreamSeat;
use crate::app::{Call, Worker};
use crate::backend::Backend;
use crate::listing::{needs_chunks, wants_stream};
use crate::model::{Event, EventPage, EVENTS_MAX};
use crate::params::{decode, once, refuse};
use crate::problem::{Code, Problem};
use crate::reply::{Content, Media, Reply};

const EVENT_STREAM: &str = "text/event-stream";
/// Where a client was that comes back by itself (HTML, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Most events in one piece of a stream.
const PIECE_EVENTS_MAX: usize = 64;
/// How a stream begins: at once, so that its client knows that it is open, and with the time after which a
/// client that lost it comes back, in milliseconds.
const HELLO: &str = "retry: 1000\n\n";
/// Clients ignore it; it shows them and what is between that the stream lives.
const HEARTBEAT: &str = ": heartbeat\n\n";

#[derive(Serialize)]
struct EventsView<'a> {
    events: Vec<EventView<'a>>,
    last_seq: u64,
}

#[derive(Serialize)]
struct EventView<'a> {
    seq: u64,
    time_ms: u64,
    component: &'static str,
    what: &'static str,
    detail: &'a str,
}

impl<'a> EventView<'a> {
    fn of(event: &'a Event) -> Self {
        let Event { seq, time_ms, component, what, .. } = *event;
        Self { seq, time_ms, component, what: what.as_str(), detail: &event.detail }
    }
}

impl<B: Backend> Worker<B> {
    pub(crate) fn events(self: &Rc<Self>, call: Call<'_>, head_only: bool) -> Result<Reply, Problem> {
        call.params()?;
        let since = since(call.http.uri().query())?;
        let headers = call.http.headers();
        if wants_stream(headers, EVENT_STREAM) {
            needs_chunks(&call)?;
            let last_id = last_event_id(headers)?;
            let content = if head_only { Content::Untold } else { self.live_events(since, last_id)? };
            return Ok(Reply::with(Media::EventStream, content));
        }
        let page = self.backend.events().page(since.unwrap_or(0), EVENTS_MAX);
        let events = page.events.iter().map(EventView::of).collect();
        Ok(Reply::json_of(&EventsView { events, last_seq: page.last_seq }))
    }

    fn live_events(self: &Rc<Self>, since: Option<u64>, last_id: Option<u64>) -> Result<Content, Problem> {
        let seat = self.shared.admission.admit_event_stream()?;
        let news = self.backend.events().subscribe();
        let last_seq = *news.borrow();
        let after = match last_id {
            // Of an earlier process, whose numbers mean nothing here: its client has seen none of these.
            Some(id) if id > last_seq => 0,
            Some(id) => id,
            // Nothing but what is new.
            None => since.unwrap_or(0).min(last_seq),
        };
        let follower = Follower { worker: Rc::clone(self), news, after, _seat: seat };
        let pieces = stream::unfold(follower, |mut follower| async move {
            let piece = follower.next().await?;
            Some((Ok::<_, io::Error>(Bytes::from(piece)), follower))
        });
        let hello = stream::once(async { Ok(Bytes::from_static(HELLO.as_bytes())) });
        Ok(Content::Stream(hello.chain(pieces).boxed_local()))
    }
}

enum Woken {
    News,
    /// Nothing happened for a while.
    Quiet,
}

/// One client that follows the events.
struct Follower<B: Backend> {
    worker: Rc<Worker<B>>,
    news: watch::Receiver<u64>,
    /// The number of the last event that it was given.
    after: u64,
    _seat: StreamSeat,
}

impl<B: Backend> Follower<B> {
    /// What the client is given next; `None` once the server stops.
    async fn next(&mut self) -> Option<String> {
        // Before the look: news that come after it are not overlooked.
        self.news.mark_unchanged();
        if let Some(piece) = self.take() {
            return Some(piece);
        }
        match self.wait().await? {
            Woken::News => Some(self.take().unwrap_or_default()),
            Woken::Quiet => Some(HEARTBEAT.to_owned()),
        }
    }

    /// `None` once the server stops.
    async fn wait(&mut self) -> Option<Woken> {
        let shared = &self.worker.shared;
        tokio::select! {
            () = shared.stopping.notified() => None,
            news = timeout(shared.options.event_heartbeat, self.news.changed()) => match news {
                Ok(Ok(())) => Some(Woken::News),
                // The ring lives for as long as the backend: nobody would be left to tell anything.
                Ok(Err(_)) => None,
                Err(_) => Some(Woken::Quiet),
            },
        }
    }

    /// What there is by now, if anything.
    fn take(&mut self) -> Option<String> {
        let page = self.worker.backend.events().page(self.after, PIECE_EVENTS_MAX);
        self.after = page.events.last()?.seq;
        Some(lines(&page))
    }
}

/// Events as the format of server-sent events has them (HTML, section 9.2.6). JSON on one line: a line feed
/// within it would be the end of the data.
fn lines(page: &EventPage) -> String {
    let mut text = String::new();
    if page.missed > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "event: missed\ndata: {{\"missed\":{}}}\n\n", page.missed);
    }
    for event in &page.events {
        let data = serde_json::to_string(&EventView::of(event)).expect("plain data always serialises");
        let _ = write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", event.seq, event.what.as_str());
    }
    text
}

fn since(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let mut since = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(name)? == "since" {
            let number = number(&decode(value)?);
            let number = number.ok_or_else(|| refuse("since", "must be the number of an event"))?;
            once(&mut since, "since", number)?;
        }
    }
    Ok(since)
}

/// # Errors
/// 400 `invalid_parameter` for what is no number; a client that never had one sends an empty line or none.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let id = value.to_str().ok().and_then(number);
    let refused = || Problem::new(Code::InvalidParameter, "header last-event-id: is no number of an event");
    id.map(Some).ok_or_else(refused)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
