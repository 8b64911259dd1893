//! The whole cluster as one node has gathered it: what each member told last, and who does not answer.
//!
//! Knows nothing of how members are asked. Bounded: so many members, and of each so many figures and events.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::history::FIGURES_MAX;
use crate::observation::{Known, OBSERVED_EVENTS_MAX};

/// Most members that are asked: twice of what a cluster should have.
pub(crate) const MEMBERS_MAX: usize = 16;

/// Rounds in a row that a member misses before it counts as unreachable: one may be a busy machine.
const MISSES_UNREACHABLE: u32 = 2;

/// Where a member is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) haddr: String,
}

/// What a member told, as far as it is looked into. The rest is handed on as it came.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    started_ms: u64,
    fault_injection: bool,
    status: Value,
    figures: Vec<Value>,
    events: Vec<Value>,
}

/// A member as all rounds together know it.
#[derive(Debug, Clone, Serialize, Default)]
pub(crate) struct Sighting {
    name: String,
    haddr: String,
    reachable: bool,
    /// Unix time in milliseconds; `null` while it answers.
    unreachable_since_ms: Option<u64>,
    /// Why it did not answer.
    reason: Option<String>,
    started_ms: Option<u64>,
    fault_injection: bool,
    /// As its own `/status`; `null` while it does not answer.
    status: Option<Value>,
    figures: VecDeque<Value>,
    events: VecDeque<Value>,
    #[serde(skip)]
    known: Known,
    /// Rounds missed since it answered last, and when the first of them was.
    #[serde(skip)]
    misses: (u32, u64),
}

/// A frame for whoever watches.
#[derive(Debug, Serialize)]
pub(crate) struct Frame<'a> {
    /// The node that gathered it.
    pub(crate) gathered_by: &'a str,
    pub(crate) time_ms: u64,
    pub(crate) nodes: Vec<Sighting>,
}

#[derive(Debug, Default)]
pub(crate) struct Gathered {
    nodes: BTreeMap<String, Sighting>,
}

impl Gathered {
    /// What is known of a member's own figures and events.
    pub(crate) fn known(&self, name: &str) -> Known {
        self.nodes.get(name).map(|node| node.known).unwrap_or_default()
    }

    /// Everything that is known.
    pub(crate) fn all(&self) -> Vec<Sighting> {
        self.nodes.values().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes in one round; answers with what it brought. Whoever is in no round any more is forgotten.
    pub(crate) fn take(&mut self, round: Vec<(Place, Result<Told, String>)>, time_ms: u64) -> Vec<Sighting> {
        self.nodes.retain(|name, _| round.iter().any(|(place, _)| place.name == *name));
        let silent_ms = silences(&round);
        let mut news = Vec::new();
        for (Place { name, haddr }, told) in round {
            let node = self.nodes.entry(name.clone()).or_default();
            let silent_ms = silent_ms.get(&name).copied().unwrap_or(0);
            (node.name, node.haddr) = (name, haddr);
            news.push(match told {
                Ok(told) => node.answered(told),
                Err(reason) => node.missed(reason, time_ms.saturating_sub(silent_ms)),
            });
        }
        news
    }
}

impl Sighting {
    /// Answers with the news alone.
    fn answered(&mut self, told: Told) -> Sighting {
        let Told { started_ms, fault_injection, status, figures, events } = told;
        if self.started_ms.replace(started_ms).is_some_and(|before| before != started_ms) {
            // It was asked for what follows the numbers of its former life: the next round asks for all.
            self.known.seq = 0;
        } else {
            self.known.seq = last(&events, "seq").unwrap_or(self.known.seq);
        }
        self.known.figures_ms = last(&figures, "time_ms").unwrap_or(self.known.figures_ms);
        (self.reachable, self.unreachable_since_ms, self.reason) = (true, None, None);
        (self.fault_injection, self.status, self.misses) = (fault_injection, Some(status), (0, 0));
        let (old_figures, old_events) = (std::mem::take(&mut self.figures), std::mem::take(&mut self.events));
        let news = Sighting { figures: figures.into(), events: events.into(), ..self.clone() };
        self.figures = appended(old_figures, &news.figures, FIGURES_MAX);
        self.events = appended(old_events, &news.events, OBSERVED_EVENTS_MAX);
        news
    }

    fn missed(&mut self, reason: String, since_ms: u64) -> Sighting {
        let (misses, first_ms) = self.misses;
        self.misses = (misses + 1, if misses == 0 { since_ms } else { first_ms });
        if !self.reachable || self.misses.0 >= MISSES_UNREACHABLE {
            self.unreachable_since_ms.get_or_insert(self.misses.1);
            (self.reachable, self.reason, self.status) = (false, Some(reason), None);
        }
        Sighting { figures: VecDeque::new(), events: VecDeque::new(), ..self.clone() }
    }
}

fn last(items: &[Value], field: &str) -> Option<u64> {
    items.last()?.get(field)?.as_u64()
}

fn appended(mut ring: VecDeque<Value>, news: &VecDeque<Value>, max: usize) -> VecDeque<Value> {
    ring.extend(news.iter().cloned());
    let excess = ring.len().saturating_sub(max);
    ring.drain(..excess);
    ring
}

/// For how long the leader has not heard from each member, in milliseconds: a member may have been away before
/// anybody watched.
fn silences(round: &[(Place, Result<Told, String>)]) -> BTreeMap<String, u64> {
    let statuses = round.iter().filter_map(|(_, told)| Some(&told.as_ref().ok()?.status));
    let leader = statuses.into_iter().find(|status| status["node"]["state"] == "leader");
    let members = leader.and_then(|status| status["cluster"]["members"].as_array());
    let silent =
        |member: &Value| Some((member["name"].as_str()?.to_owned(), member["last_contact_ms"].as_u64()?));
    members.into_iter().flatten().filter_map(silent).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(name: &str) -> Place {
        Place { name: name.into(), haddr: format!("{name}:1") }
    }

    fn told(started_ms: u64, seqs: std::ops::Range<u64>, status: Value) -> Result<Told, String> {
        let events = seqs.map(|seq| json!({"seq": seq, "time_ms": 100 + seq})).collect();
        let figures = vec![json!({"time_ms": 50})];
        Ok(Told { started_ms, fault_injection: true, status, figures, events })
    }

    /// News are what a round brought; everything together is bounded, and a new life of a node begins anew.
    #[test]
    fn rounds_add_up() {
        let mut gathered = Gathered::default();
        gathered.take(vec![(place("a"), told(1, 1..300, Value::Null))], 0);
        assert_eq!(gathered.known("a"), Known { seq: 299, figures_ms: 50 });
        let news = gathered.take(vec![(place("a"), told(1, 300..310, Value::Null))], 0);
        assert_eq!(news[0].events.len(), 10);
        let all = gathered.all();
        assert_eq!(all[0].events.len(), OBSERVED_EVENTS_MAX);
        assert_eq!(all[0].events[0]["seq"], 10);
        gathered.take(vec![(place("a"), told(2, 0..0, Value::Null))], 0);
        assert_eq!(gathered.known("a").seq, 0);
        gathered.take(vec![(place("b"), told(1, 0..0, Value::Null))], 0);
        assert_eq!(gathered.all().len(), 1, "a is no member any more");
    }

    /// One missed round changes nothing, the next one does, and then it is unreachable since the first.
    #[test]
    fn one_miss_is_forgiven() {
        let mut gathered = Gathered::default();
        gathered.take(vec![(place("a"), told(1, 1..2, Value::Null))], 1_000);
        for (time_ms, reachable, since) in [(2_000, true, None), (3_000, false, Some(2_000))] {
            let news = gathered.take(vec![(place("a"), Err("no answer in time".into()))], time_ms);
            assert_eq!((news[0].reachable, news[0].unreachable_since_ms), (reachable, since));
            assert!(news[0].events.is_empty());
        }
        gathered.take(vec![(place("a"), told(1, 2..3, Value::Null))], 4_000);
        let news = gathered.take(vec![(place("a"), Err("refused".into()))], 5_000);
        assert!(news[0].reachable, "it begins anew");
    }

    /// Whoever does not answer is unreachable since it began, or since the leader heard of it last.
    #[test]
    fn silence_is_dated() {
        let mut gathered = Gathered::default();
        let leads = json!({"node": {"state": "leader"},
            "cluster": {"members": [{"name": "b", "last_contact_ms": 700}]}});
        let round = |b| vec![(place("a"), told(1, 1..2, leads.clone())), (place("b"), b)];
        gathered.take(round(Err("refused".into())), 10_000);
        let news = gathered.take(round(Err("no answer in time".into())), 11_000);
        assert_eq!((news[1].reachable, news[1].unreachable_since_ms), (false, Some(9_300)));
        assert_eq!(news[1].reason.as_deref(), Some("no answer in time"));
        let news = gathered.take(round(told(1, 1..2, Value::Null)), 12_000);
        assert_eq!((news[1].reachable, news[1].unreachable_since_ms), (true, None));
    }
}
