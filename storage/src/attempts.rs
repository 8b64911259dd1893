//! The answers that were given to named requests, so that a repetition is answered and not applied again.
//!
//! Part of the replicated state: every node keeps the same records and forgets the same ones at the same
//! entry. Time is therefore measured by the entries themselves. Each carries the monotonic clock of the
//! leader that proposed it; within a term, which has one leader, the differences add up to how long the
//! state has lived. What passed between two terms counts as nothing, so a record may live longer than
//! the retention, never shorter, and no wall clock has a say.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vaultdb_kv::{Applied, Attempt, Fingerprint};

/// How long answers are kept. A rule of the replicated state: the same on every node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Records; one more lets the oldest go.
    pub records_max: usize,
    /// Age at which a record goes, in milliseconds.
    pub retention_ms: u64,
}

impl Default for AttemptLimits {
    fn default() -> Self {
        Self { records_max: 100_000, retention_ms: 10 * 60 * 1_000 }
    }
}

/// How long the state has lived under leaders that were asked for named writes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Clock {
    pub(crate) elapsed_ms: u64,
    /// The last reading, and the term whose leader took it.
    term: u64,
    leader_ms: u64,
}

impl Clock {
    /// What it becomes by a reading of the clock of the leader of `term`.
    pub(crate) fn advanced(self, term: u64, leader_ms: u64) -> Self {
        if term != self.term {
            return Self { term, leader_ms, ..self };
        }
        // Readings may be proposed out of order by some microseconds; time never runs backwards.
        let since_ms = leader_ms.saturating_sub(self.leader_ms);
        Self {
            elapsed_ms: self.elapsed_ms.saturating_add(since_ms),
            term,
            leader_ms: self.leader_ms.max(leader_ms),
        }
    }
}

/// The first answer to a named request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub(crate) key: Arc<str>,
    pub(crate) fingerprint: Fingerprint,
    /// [`Clock::elapsed_ms`] when it was given.
    pub(crate) at_ms: u64,
    pub(crate) answer: Applied,
}

fn write_shared<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    text.serialize(serializer)
}

fn read_shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Arc::from)
}

/// The records in force, oldest first, each under the index of its entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct Attempts {
    pub(crate) clock: Clock,
    records: VecDeque<(u64, Record)>,
    /// How many records went before the first of `records`.
    forgotten: u64,
    /// Counted from the first record ever: its place in `records` is that less `forgotten`.
    by_key: HashMap<Arc<str>, u64>,
}

/// As it is kept in a snapshot of the in-memory engine.
#[derive(Serialize, Deserialize)]
struct Stored {
    clock: Clock,
    records: Vec<(u64, Record)>,
}

impl From<Stored> for Attempts {
    fn from(stored: Stored) -> Self {
        let mut attempts = Attempts { clock: stored.clock, ..Attempts::default() };
        stored.records.into_iter().for_each(|(index, record)| attempts.push(index, record));
        attempts
    }
}

impl From<Attempts> for Stored {
    fn from(attempts: Attempts) -> Self {
        Self { clock: attempts.clock, records: attempts.records.into() }
    }
}

impl Attempts {
    /// Adds the record of the entry at `index`, which comes after all others.
    pub(crate) fn push(&mut self, index: u64, record: Record) {
        self.by_key.insert(record.key.clone(), self.forgotten + self.records.len() as u64);
        self.records.push_back((index, record));
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    fn forget_oldest(&mut self, count: usize) {
        for (_, record) in self.records.drain(..count) {
            // A later record of the same key took its place in the index.
            if self.by_key.get(&record.key) == Some(&self.forgotten) {
                self.by_key.remove(&record.key);
            }
            self.forgotten += 1;
        }
    }

    /// What this becomes by a write of `changes`.
    pub(crate) fn advance(&mut self, changes: &AttemptChanges) {
        self.clock = changes.clock;
        for (index, record) in &changes.added {
            self.push(*index, record.clone());
        }
        self.forget_oldest(changes.gone);
    }
}

/// What a run of entries does to the records, worked out over what is in force before it.
#[derive(Debug, Default)]
pub(crate) struct AttemptChanges {
    pub(crate) clock: Clock,
    pub(crate) added: Vec<(u64, Record)>,
    /// Place in `added` of the latest record of a key.
    by_key: HashMap<Arc<str>, usize>,
    /// Records that went: the oldest of those before the run, then of `added`.
    gone: usize,
}

impl AttemptChanges {
    pub(crate) fn new(before: &Attempts) -> Self {
        Self { clock: before.clock, ..Self::default() }
    }

    /// Whether there is nothing to be written.
    pub(crate) fn is_empty(&self, before: &Attempts) -> bool {
        self.clock == before.clock && self.added.is_empty() && self.gone == 0
    }

    /// Reads the time of an entry and forgets what is too old by it.
    pub(crate) fn tick(&mut self, before: &Attempts, limits: &AttemptLimits, term: u64, leader_ms: u64) {
        self.clock = self.clock.advanced(term, leader_ms);
        while let Some(oldest) = self.get(before, self.gone) {
            if self.clock.elapsed_ms.saturating_sub(oldest.at_ms) < limits.retention_ms {
                break;
            }
            self.gone += 1;
        }
    }

    /// The record of a request of that name, if it is still in force.
    pub(crate) fn find<'c>(&'c self, before: &'c Attempts, attempt: &Attempt) -> Option<&'c Record> {
        let key = attempt.key.as_str();
        let place = match self.by_key.get(key) {
            Some(added) => before.records.len() + added,
            None => usize::try_from(before.by_key.get(key)? - before.forgotten).ok()?,
        };
        self.get(before, place).filter(|_| place >= self.gone)
    }

    /// Keeps the answer to the entry at `index`; past the limit the oldest goes.
    pub(crate) fn keep(
        &mut self,
        before: &Attempts,
        limits: &AttemptLimits,
        index: u64,
        attempt: &Attempt,
        answer: &Applied,
    ) {
        let key: Arc<str> = attempt.key.as_str().into();
        let record = Record {
            key: key.clone(),
            fingerprint: attempt.fingerprint,
            at_ms: self.clock.elapsed_ms,
            answer: answer.clone(),
        };
        self.by_key.insert(key, self.added.len());
        self.added.push((index, record));
        let kept = before.records.len() + self.added.len() - self.gone;
        self.gone += kept.saturating_sub(limits.records_max);
    }

    /// Indexes under which records are stored and must go.
    pub(crate) fn removed<'c>(&self, before: &'c Attempts) -> impl Iterator<Item = u64> + 'c {
        before.records.iter().take(self.gone).map(|(index, _)| *index)
    }

    /// Records that came and are still in force at the end.
    pub(crate) fn stored(&self, before: &Attempts) -> &[(u64, Record)] {
        let gone_at_once = self.gone.saturating_sub(before.records.len());
        &self.added[gone_at_once..]
    }

    fn get<'c>(&'c self, before: &'c Attempts, place: usize) -> Option<&'c Record> {
        let record = match place.checked_sub(before.records.len()) {
            None => before.records.get(place),
            Some(added) => self.added.get(added),
        };
        record.map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a term the leader's clock counts; between terms nothing does, whatever the clocks say; and
    /// it never runs backwards.
    #[test]
    fn clock_adds_up_within_terms() {
        let readings =
            [(1, 5_000, 0), (1, 6_000, 1_000), (1, 5_900, 1_000), (1, 6_100, 1_100), (2, u64::MAX, 1_100)];
        let mut clock = Clock::default();
        for (term, leader_ms, expected) in readings.into_iter().chain([(3, 0, 1_100), (3, 50, 1_150)]) {
            clock = clock.advanced(term, leader_ms);
            assert_eq!(clock.elapsed_ms, expected, "term {term} at {leader_ms}");
        }
    }
}
