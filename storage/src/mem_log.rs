//! The Raft log in memory, for `-inmem` and tests. Everything is "durable" at once.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use parking_lot::Mutex;

use crate::log::{LogBounds, LogStore, OnDurable, Payload};
use crate::log_rules;
use crate::types::{LogId, Vote};

/// The Raft log in memory.
#[derive(Debug)]
pub struct MemLog<P: Payload> {
    state: Mutex<State<P>>,
}

#[derive(Debug)]
struct State<P> {
    entries: BTreeMap<u64, (LogId, P)>,
    bounds: LogBounds,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl<P: Payload> MemLog<P> {
    pub fn new() -> Self {
        let state =
            State { entries: BTreeMap::new(), bounds: LogBounds::default(), vote: None, committed: None };
        Self { state: Mutex::new(state) }
    }

    /// Answers once the state is free again: a callback may look at the log.
    fn change(
        &self,
        done: OnDurable,
        change: impl FnOnce(&mut State<P>) -> io::Result<()>,
    ) -> io::Result<()> {
        let result = change(&mut self.state.lock());
        match &result {
            Ok(()) => done(Ok(())),
            Err(error) => done(Err(io::Error::new(error.kind(), error.to_string()))),
        }
        result
    }
}

impl<P: Payload> Default for MemLog<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Payload> LogStore<P> for MemLog<P> {
    fn bounds(&self) -> LogBounds {
        self.state.lock().bounds
    }

    fn vote(&self) -> Option<Vote> {
        self.state.lock().vote
    }

    fn committed(&self) -> Option<LogId> {
        self.state.lock().committed
    }

    fn save_vote(&self, vote: Vote, done: OnDurable) -> io::Result<()> {
        self.change(done, |state| {
            log_rules::check_vote(state.vote, vote)?;
            state.vote = Some(vote);
            Ok(())
        })
    }

    fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        let Some(next) = committed else { return Ok(()) };
        let mut state = self.state.lock();
        let found = || state.entries.get(&next.index).map(|(id, _)| *id);
        if log_rules::commits(state.bounds, state.committed, next, found) {
            state.committed = Some(next);
        }
        Ok(())
    }

    fn append(&self, entries: Vec<(LogId, P)>, done: OnDurable) -> io::Result<()> {
        self.change(done, |state| {
            log_rules::check_append(state.bounds.last, entries.iter().map(|(id, _)| *id))?;
            if let Some((id, _)) = entries.last() {
                state.bounds.last = Some(*id);
            }
            state.entries.extend(entries.into_iter().map(|(id, payload)| (id.index, (id, payload))));
            Ok(())
        })
    }

    fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        let mut state = self.state.lock();
        let found = last.and_then(|last| state.entries.get(&last.index)).map(|(id, _)| *id);
        if log_rules::check_truncate(state.bounds, state.committed, last, found)? {
            state.entries.split_off(&last.map_or(0, |last| last.index + 1));
            state.bounds.last = last;
        }
        Ok(())
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.bounds.purged.is_some_and(|purged| upto.index <= purged.index) {
            return Ok(());
        }
        state.entries = state.entries.split_off(&(upto.index + 1));
        state.bounds.purged = Some(upto);
        if state.bounds.last.is_none_or(|last| last.index <= upto.index) {
            state.bounds.last = Some(upto);
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(LogId, P)>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.state.lock();
        let mut weight = 0;
        let mut entries = Vec::new();
        for (_, (id, payload)) in state.entries.range(range) {
            weight += payload.weight();
            entries.push((*id, payload.clone()));
            if weight >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    fn bytes_behind(&self, index: u64) -> u64 {
        let state = self.state.lock();
        let behind = state.entries.range(index.saturating_add(1)..);
        behind.map(|(_, (_, payload))| payload.weight() as u64).sum()
    }

    fn first_within(&self, bytes_max: u64) -> u64 {
        let state = self.state.lock();
        let mut left = bytes_max;
        for (index, (_, payload)) in state.entries.iter().rev() {
            match left.checked_sub(payload.weight() as u64) {
                Some(rest) => left = rest,
                None => return index + 1,
            }
        }
        0
    }
}
