//! What the log holds, as its callers see it: ahead of the disk by what is under way.
//!
//! The newest entries are kept decoded: all that are not durable yet, and as many of the others as the cache may
//! hold. Of all entries the terms are known. Does no I/O.

use std::collections::VecDeque;
use std::ops::Range;

use super::record::Facts;
use crate::log::{LogBounds, Payload};
use crate::types::LogId;

pub(crate) struct Tail<P> {
    pub facts: Facts,
    /// Where each term begins. Covers all entries that there are.
    terms: VecDeque<TermStart>,
    /// The last entries, without a hole, up to `facts.last`.
    cached: VecDeque<Cached<P>>,
    cached_bytes: usize,
}

struct TermStart {
    index: u64,
    term: u64,
}

pub(crate) struct Cached<P> {
    id: LogId,
    payload: P,
    bytes: usize,
    /// The operation that wrote it.
    operation: u64,
}

impl<P: Payload> Tail<P> {
    pub(crate) fn new(facts: Facts) -> Self {
        Self { facts, terms: VecDeque::new(), cached: VecDeque::new(), cached_bytes: 0 }
    }

    pub(crate) fn bounds(&self) -> LogBounds {
        LogBounds { purged: self.facts.purged, last: self.facts.last }
    }

    /// The entry at that index, if there is one.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        let (purged, last) = (self.facts.purged, self.facts.last?);
        if index > last.index || purged.is_some_and(|purged| index <= purged.index) {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        let start = self.terms.get(after.checked_sub(1)?)?;
        Some(LogId { term: start.term, index })
    }

    /// Indexes of `range` that there are entries for.
    pub(crate) fn clamp(&self, range: Range<u64>) -> Range<u64> {
        let (Some(last), Some(first)) = (self.facts.last, self.terms.front()) else { return 0..0 };
        let first = self.facts.purged.map_or(first.index, |purged| first.index.max(purged.index + 1));
        range.start.max(first)..range.end.min(last.index + 1)
    }

    /// Adds an entry that follows the last one; `operation` is what writes it.
    pub(crate) fn push(&mut self, id: LogId, payload: P, operation: u64) {
        if self.terms.back().is_none_or(|start| start.term != id.term) {
            self.terms.push_back(TermStart { index: id.index, term: id.term });
        }
        self.facts.last = Some(id);
        let bytes = payload.weight();
        self.cached_bytes += bytes;
        self.cached.push_back(Cached { id, payload, bytes, operation });
    }

    pub(crate) fn truncate_after(&mut self, keep: Option<LogId>) {
        let end = keep.map_or(0, |keep| keep.index + 1);
        while self.cached.back().is_some_and(|entry| entry.id.index >= end) {
            self.cached_bytes -= self.cached.pop_back().map_or(0, |entry| entry.bytes);
        }
        while self.terms.back().is_some_and(|start| start.index >= end) {
            self.terms.pop_back();
        }
        self.facts.last = keep;
    }

    /// Gives back what was cached of it, for dropping it may take a while.
    pub(crate) fn purge(&mut self, upto: LogId) -> VecDeque<Cached<P>> {
        let count = self.cached.partition_point(|entry| entry.id.index <= upto.index);
        let kept = self.cached.split_off(count);
        let purged = std::mem::replace(&mut self.cached, kept);
        self.cached_bytes -= purged.iter().map(|entry| entry.bytes).sum::<usize>();
        while self.terms.get(1).is_some_and(|next| next.index <= upto.index + 1) {
            self.terms.pop_front();
        }
        self.facts.purged = Some(upto);
        if self.facts.last.is_none_or(|last| last.index <= upto.index) {
            self.facts.last = Some(upto);
            self.terms.clear();
        }
        purged
    }

    /// Moves the oldest entries to `evicted`, at most so many, as long as the cache holds more than `bytes_max`
    /// and they are durable: written by an operation below `durable_end`.
    pub(crate) fn evict(
        &mut self,
        bytes_max: usize,
        durable_end: u64,
        count_max: usize,
        evicted: &mut Vec<Cached<P>>,
    ) {
        for _ in 0..count_max {
            let durable = self.cached.front().is_some_and(|entry| entry.operation < durable_end);
            if self.cached_bytes <= bytes_max || !durable {
                return;
            }
            let entry = self.cached.pop_front().expect("looked at above");
            self.cached_bytes -= entry.bytes;
            evicted.push(entry);
        }
    }

    /// Index of the first entry that is cached; there may be none.
    pub(crate) fn cached_from(&self) -> Option<u64> {
        self.cached.front().map(|entry| entry.id.index)
    }

    /// Copies cached entries of `range`, which begins among them, until they weigh `bytes_max`.
    pub(crate) fn copy(&self, range: Range<u64>, bytes_max: usize, into: &mut Vec<(LogId, P)>) {
        let Some(from) = self.cached_from() else { return };
        let skipped = usize::try_from(range.start.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for entry in self.cached.iter().skip(skipped) {
            if entry.id.index >= range.end {
                return;
            }
            into.push((entry.id, entry.payload.clone()));
            bytes += entry.bytes;
            if bytes >= bytes_max {
                return;
            }
        }
    }
}
