//! `GET /v1/observation`: what one node tells the node that draws the whole cluster.

use serde::Serialize;

use crate::app::{Call, Worker};
use crate::backend::Backend;
use crate::history::{unix_ms, Figure};
use crate::model::{Event, NodeStatus, EVENTS_MAX};
use crate::params::{decode, once, refuse};
use crate::problem::Problem;
use crate::reply::Reply;
use crate::status::StatusView;

/// Most events in one answer, the latest.
pub(crate) const OBSERVED_EVENTS_MAX: usize = 300;

/// What the caller has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// Number of the last event.
    pub(crate) seq: u64,
    /// Time of the last figure.
    pub(crate) figures_ms: u64,
}

/// A node, by itself.
#[derive(Serialize)]
pub(crate) struct Observation<'a> {
    node: &'a str,
    /// When this life of the node began; event numbers start again with it.
    started_ms: u64,
    time_ms: u64,
    fault_injection: bool,
    status: StatusView<'a>,
    figures: Vec<Figure>,
    events: Vec<EventView<'a>>,
}

#[derive(Serialize)]
struct EventView<'a> {
    seq: u64,
    time_ms: u64,
    component: &'a str,
    what: &'a str,
    detail: &'a str,
}

impl Known {
    /// # Errors
    /// 400 `invalid_parameter` for a malformed or repeated parameter.
    fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let (mut seq, mut figures_ms) = (None, None);
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match decode(name)?.as_ref() {
                "since" => once(&mut seq, "since", number("since", &decode(value)?)?)?,
                "figures_since_ms" => {
                    once(&mut figures_ms, "figures_since_ms", number("figures_since_ms", &decode(value)?)?)?;
                }
                _ => {}
            }
        }
        Ok(Self { seq: seq.unwrap_or(0), figures_ms: figures_ms.unwrap_or(0) })
    }
}

fn number(name: &'static str, text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| refuse(name, "must be a number"))
}

impl<B: Backend> Worker<B> {
    pub(crate) async fn observation(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let known = Known::parse(call.http.uri().query())?;
        let status = self.backend.status().await;
        let events = self.backend.events().page(known.seq, EVENTS_MAX).events;
        let revision = status.store.revision;
        Ok(Reply::json_of(&self.observe(known, &status, &events)).at(revision))
    }

    pub(crate) fn observe<'a>(
        &'a self,
        known: Known,
        status: &'a NodeStatus,
        events: &'a [Event],
    ) -> Observation<'a> {
        let latest = &events[events.len().saturating_sub(OBSERVED_EVENTS_MAX)..];
        Observation {
            node: &self.shared.options.node_name,
            started_ms: self.shared.started_ms,
            time_ms: unix_ms(),
            fault_injection: self.backend.may_inject_faults(),
            status: StatusView::of(status),
            figures: self.shared.history.since(known.figures_ms),
            events: latest.iter().map(EventView::of).collect(),
        }
    }
}

impl<'a> EventView<'a> {
    fn of(event: &'a Event) -> Self {
        let Event { seq, time_ms, component, what, detail } = event;
        Self { seq: *seq, time_ms: *time_ms, component, what: what.as_str(), detail }
    }
}
