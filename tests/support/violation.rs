//! Histories held to linearizability, and what a person needs to see of one that is not.
//!
//! Everything that is not needed for the contradiction is left out, as long as the same answer stays without
//! an explanation: observations, what a change told of the state before it, changes that nobody saw.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::linearizability::{check, Objection};
use super::operations::{Action, Answer, Histories, Operation};

/// Lines of an excerpt.
const LINES_MAX: usize = 60;
/// Longest search for a shorter excerpt; what it has reached by then is shown.
const SHRINK_LIMIT: Duration = Duration::from_secs(5);
/// Lengths of the end of a history that are tried by themselves, shortest first.
const TAILS: [usize; 4] = [16, 64, 256, 1024];

/// Why a key's history is not accepted.
#[derive(Debug)]
pub struct Violation {
    pub key: String,
    pub objection: Objection,
    /// What contradicts itself, by time of beginning; the whole history where the search was given up.
    pub excerpt: Vec<Operation>,
    /// The operation that the objection is about.
    pub operation: Operation,
    /// Writes of the value that it returned, whatever became of them.
    pub origins: Vec<Operation>,
}

/// An operation with its place in the whole history.
type Entry = (usize, Operation);

/// Every key whose history is not linearizable.
pub fn violations(histories: &Histories) -> Vec<Violation> {
    histories.iter().filter_map(|(key, history)| violation(key, history)).collect()
}

pub fn violation(key: &str, history: &[Operation]) -> Option<Violation> {
    let objection = check(history).err()?;
    let (at, excerpt) = match &objection {
        Objection::Unexplained { operation, .. } => (*operation, shrink(history, *operation)),
        Objection::TooHard { operation, .. } => (*operation, Vec::new()),
    };
    let operation = history[at].clone();
    let origins = match &operation.answer {
        Answer::Found(Some(found)) => {
            history.iter().filter(|other| other.action.value() == Some(found)).cloned().collect()
        }
        _ => Vec::new(),
    };
    Some(Violation { key: key.to_owned(), objection, excerpt, operation, origins })
}

/// A part of the history in which operation `at` has no explanation either.
fn shrink(history: &[Operation], at: usize) -> Vec<Operation> {
    let end = history[at].ended_ns;
    // What was answered later has no limit yet when that answer arrives.
    let mut left: Vec<Entry> = history
        .iter()
        .enumerate()
        .filter(|(i, op)| *i == at || op.counts() && op.began_ns <= end)
        .map(|(i, op)| (i, op.clone()))
        .filter(|(i, op)| *i == at || op.ended_ns <= end || !op.is_observation())
        .collect();
    for (i, operation) in &mut left {
        if *i != at && operation.is_settled() && operation.ended_ns > end {
            operation.answer = Answer::Unknown("not answered yet".into());
        }
    }
    left.sort_by_key(|(i, operation)| (*i == at, operation.ended_ns));
    left = tail(left, at);
    let limit = Instant::now() + SHRINK_LIMIT;
    // Each round makes more of it superfluous.
    let mut changed = true;
    while changed && Instant::now() < limit {
        changed = false;
        let mut size = left.len();
        while size > 0 {
            let mut from = 0;
            while from < left.len() && Instant::now() < limit {
                match simpler(&left, &(from..from + size), at).filter(|simpler| fails_at(simpler, at)) {
                    Some(simpler) => {
                        // What was not removed has become simpler in place.
                        from += size.saturating_sub(left.len() - simpler.len());
                        left = simpler;
                        changed = true;
                    }
                    None => from += size,
                }
            }
            size /= 2;
        }
    }
    let mut excerpt: Vec<Operation> = left.into_iter().map(|(i, _)| history[i].clone()).collect();
    excerpt.sort_by_key(|operation| operation.began_ns);
    excerpt
}

/// The end of the history, where that alone contradicts a read; what may explain the read stays.
fn tail(all: Vec<Entry>, at: usize) -> Vec<Entry> {
    let Some((_, Operation { answer: Answer::Found(found), .. })) = all.last().cloned() else { return all };
    let explains = |op: &Operation| match &found {
        Some(found) => op.action.value() == Some(found),
        None => op.action == Action::Delete && !op.is_settled(),
    };
    for length in TAILS.into_iter().filter(|length| *length < all.len()) {
        let first = all.len() - length;
        let stays = |(place, (_, op)): &(usize, &Entry)| *place >= first || explains(op);
        let some: Vec<_> = all.iter().enumerate().filter(stays).map(|(_, entry)| entry.clone()).collect();
        if fails_at(&some, at) {
            return some;
        }
    }
    all
}

/// The history with less in `part`: an order that explains the whole explains this as well. `None` when there
/// is nothing to leave out.
fn simpler(all: &[Entry], part: &Range<usize>, at: usize) -> Option<Vec<Entry>> {
    let read: Vec<&str> = all.iter().filter_map(|(_, op)| op.observed()).collect();
    let absence_read = all.iter().any(|(_, op)| match (&op.action, &op.answer) {
        (_, Answer::Found(found)) => found.is_none(),
        (Action::Create { .. }, answer) => *answer != Answer::Refused,
        (_, answer) => *answer == Answer::Deleted(false),
    });
    let mut changed = false;
    let mut rest = Vec::with_capacity(all.len());
    for (place, (i, op)) in all.iter().enumerate() {
        let superfluous = match &op.action {
            _ if !part.contains(&place) || *i == at => {
                rest.push((*i, op.clone()));
                continue;
            }
            _ if op.is_observation() => true,
            // Nobody tells whether it took effect.
            Action::Write { value } => !read.contains(&value.as_str()),
            Action::Delete => !matches!(op.answer, Answer::Deleted(_)) && !absence_read,
            _ => false,
        };
        changed |= superfluous;
        if !superfluous {
            let weaker = weaker(op);
            changed |= weaker.is_some();
            rest.push((*i, weaker.unwrap_or_else(|| op.clone())));
        }
    }
    changed.then_some(rest)
}

/// The same change without a word about what was there before.
fn weaker(op: &Operation) -> Option<Operation> {
    let (action, answer) = match (&op.action, &op.answer) {
        (Action::Delete, Answer::Deleted(true)) => (Action::Delete, Answer::Done),
        (Action::Create { value } | Action::Swap { value, .. }, answer) if *answer != Answer::Refused => {
            (Action::Write { value: value.clone() }, answer.clone())
        }
        _ => return None,
    };
    Some(Operation { action, answer, ..op.clone() })
}

fn fails_at(entries: &[Entry], at: usize) -> bool {
    let history: Vec<Operation> = entries.iter().map(|(_, operation)| operation.clone()).collect();
    match check(&history) {
        Err(Objection::Unexplained { operation, .. }) => entries[operation].0 == at,
        _ => false,
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let origin = self.excerpt.first().map_or(self.operation.began_ns, |first| first.began_ns);
        match &self.objection {
            Objection::TooHard { why, .. } => {
                writeln!(f, "{key}: not checked to the end, which counts as a failure: {why}, at")?;
                return writeln!(f, "  {}", self.operation.line(origin));
            }
            Objection::Unexplained { possible, .. } => {
                writeln!(f, "{key}: not linearizable. No order of these explains (times in ms)")?;
                writeln!(f, "  {}", self.operation.line(origin))?;
                let possible: Vec<&str> = possible.iter().map(|v| v.as_deref().unwrap_or("absent")).collect();
                writeln!(f, "just before its answer the key could be: {}", possible.join(", "))?;
            }
        }
        if matches!(self.operation.answer, Answer::Found(Some(_))) && self.origins.is_empty() {
            writeln!(f, "nobody ever wrote that value")?;
        }
        for write in &self.origins {
            writeln!(f, "that value comes from\n  {}", write.line(origin))?;
        }
        writeln!(f, "the contradiction, by time:")?;
        let skipped = self.excerpt.len().saturating_sub(LINES_MAX);
        if skipped > 0 {
            writeln!(f, "  ({skipped} earlier ones left out)")?;
        }
        for operation in &self.excerpt[skipped..] {
            writeln!(f, "  {}", operation.line(origin))?;
        }
        Ok(())
    }
}
