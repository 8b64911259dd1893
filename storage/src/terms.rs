//! Which term the applied entry at an index is of: what became of a write that a leader accepted.
//!
//! Part of the replicated state. Terms never decrease along the log, so the first applied index of each
//! term tells them all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::LogId;

/// Terms that are remembered. A term is one election, so this outlasts any write that is asked for; the
/// oldest goes first.
pub(crate) const TERMS_MAX: usize = 10_000;

/// What became of an entry that a leader once had in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFate {
    /// Not decided, as far as this node has applied.
    Pending,
    /// It is committed and applied.
    Committed,
    /// Another entry is committed in its place or one of a later term before it: it never takes effect.
    Lost,
    /// Applied so long ago that its term is forgotten.
    Forgotten,
}

/// The first applied index of each term.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct TermHistory {
    first_index: BTreeMap<u64, u64>,
}

impl TermHistory {
    pub(crate) fn last_term(&self) -> Option<u64> {
        self.first_index.keys().next_back().copied()
    }

    pub(crate) fn insert(&mut self, term: u64, first_index: u64) {
        self.first_index.insert(term, first_index);
    }

    /// The terms that are too many once `added` more came.
    pub(crate) fn surplus(&self, added: usize) -> impl Iterator<Item = u64> + '_ {
        let surplus = (self.first_index.len() + added).saturating_sub(TERMS_MAX);
        self.first_index.keys().take(surplus).copied()
    }

    pub(crate) fn remove(&mut self, term: u64) {
        self.first_index.remove(&term);
    }

    /// What became of `entry`, given that entries up to `applied` are applied. The history may be ahead
    /// of `applied`, not behind it.
    pub(crate) fn fate(&self, entry: LogId, applied: Option<LogId>) -> EntryFate {
        let is_applied = applied.is_some_and(|applied| entry.index <= applied.index);
        // The latest term that began at or before the index.
        let there = self.first_index.iter().rev().find(|(_, first)| **first <= entry.index);
        match there {
            // Terms never decrease, so no entry of a lower one can follow.
            Some((term, _)) if *term > entry.term => EntryFate::Lost,
            Some((term, _)) if is_applied && *term == entry.term => EntryFate::Committed,
            Some(_) if is_applied => EntryFate::Lost,
            None if is_applied => EntryFate::Forgotten,
            Some(_) | None => EntryFate::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, over every short log of non-decreasing terms: never a guess.
    #[test]
    fn fate_follows_the_definition() {
        for code in 0..4u32.pow(6) {
            let mut terms: Vec<u64> = (0..6).map(|i| u64::from(code / 4u32.pow(i) % 4)).collect();
            terms.sort_unstable();
            let mut history = TermHistory::default();
            for (index, term) in (10..).zip(&terms) {
                if history.last_term().is_none_or(|last| last < *term) {
                    history.insert(*term, index);
                }
            }
            let applied = LogId { term: terms[5], index: 15 };
            for term in 0..5 {
                for index in 10..20 {
                    let at = |index: u64| terms.get(index as usize - 10).copied();
                    let expected = match at(index) {
                        Some(there) if there == term => EntryFate::Committed,
                        Some(_) => EntryFate::Lost,
                        None if terms.iter().any(|later| *later > term) => EntryFate::Lost,
                        None => EntryFate::Pending,
                    };
                    let fate = history.fate(LogId { term, index }, Some(applied));
                    assert_eq!(fate, expected, "{terms:?} {term}-{index}");
                }
                assert_eq!(history.fate(LogId { term, index: 9 }, Some(applied)), EntryFate::Forgotten);
            }
        }
        assert_eq!(TermHistory::default().fate(LogId { term: 1, index: 1 }, None), EntryFate::Pending);
    }
}
