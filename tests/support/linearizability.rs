//! Is there an order of the operations on one key, each at one instant between its sending and its answer,
//! in which a plain register gives every answer that was given? (Herlihy and Wing 1990.)
//!
//! Just-in-time search (Wing and Gong 1993, Lowe 2017): walk through the history by time and keep every
//! *configuration* the key can be in: its state and which operations that are still open have had their
//! effect. Effects are placed only when an answer demands it. An answer that no configuration can give is a
//! violation. Keys are independent, so each is searched by itself (Herlihy and Wing, §3.2).
//!
//! What keeps it small, without losing an order:
//! - What only observes is placed as soon as the state fits: it changes nothing.
//! - A write of unknown outcome stays open for ever. Those with the same effect are counted, not told apart;
//!   values that nobody ever read are one value.
//! - A configuration is dropped when another has the same state and is no worse: it has placed the same
//!   changes, no fewer observations and no more writes of unknown outcome.
//!
//! The work has a limit. A history that exceeds it is reported as such: it never passes.

use std::collections::HashMap;

use super::operations::{Action, Answer, Operation};

/// Changes that may be tried for one key. A healthy run of some thousand operations takes a few thousand.
const STEPS_MAX: usize = 4_000_000;
/// Settled operations on one key that may be open at once: the bits of a set.
const OPEN_MAX: usize = 64;

/// Why a history is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// This operation's answer fits none of the states that the key can have had; those just before it.
    Unexplained { operation: usize, possible: Vec<Option<String>> },
    /// The search was given up.
    TooHard { operation: usize, why: String },
}

/// A state of the key.
type State = usize;
const ABSENT: State = 0;
/// Any value that nobody ever read.
const UNREAD: State = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Needs {
    Nothing,
    Is(State),
    IsNot(State),
}

/// What one operation demands of the state and makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Step {
    needs: Needs,
    sets: Option<State>,
}

impl Step {
    fn fits(&self, state: State) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Needs::Is(wanted) => state == wanted,
            Needs::IsNot(other) => state != other,
        }
    }
}

/// Gives each value that was read a number.
struct States<'a>(HashMap<&'a str, State>);

impl<'a> States<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let mut states = HashMap::new();
        for value in history.iter().filter(|op| op.counts()).filter_map(Operation::observed) {
            let next = states.len() + 2;
            states.entry(value).or_insert(next);
        }
        Self(states)
    }

    fn of(&self, value: &str) -> State {
        self.0.get(value).copied().unwrap_or(UNREAD)
    }

    fn value(&self, state: State) -> Option<String> {
        match state {
            ABSENT => None,
            UNREAD => Some("a value that nobody read".to_owned()),
            _ => self.0.iter().find(|(_, number)| **number == state).map(|(value, _)| (*value).to_owned()),
        }
    }

    fn step(&self, operation: &Operation) -> Step {
        let changes = |needs, value: &str| Step { needs, sets: Some(self.of(value)) };
        let observes = |needs| Step { needs, sets: None };
        match (&operation.action, &operation.answer) {
            (Action::Read, Answer::Found(found)) => {
                observes(Needs::Is(found.as_ref().map_or(ABSENT, |value| self.of(value))))
            }
            (Action::Write { value }, _) => changes(Needs::Nothing, value),
            (Action::Delete, Answer::Deleted(false)) => observes(Needs::Is(ABSENT)),
            (Action::Delete, Answer::Deleted(true)) => {
                Step { needs: Needs::IsNot(ABSENT), sets: Some(ABSENT) }
            }
            (Action::Delete, _) => Step { needs: Needs::Nothing, sets: Some(ABSENT) },
            (Action::Create { .. }, Answer::Refused) => observes(Needs::IsNot(ABSENT)),
            (Action::Create { value }, _) => changes(Needs::Is(ABSENT), value),
            (Action::Swap { from, .. }, Answer::Refused) => observes(Needs::IsNot(self.of(from))),
            (Action::Swap { from, value }, _) => changes(Needs::Is(self.of(from)), value),
            (Action::Read, answer) => unreachable!("a read that is {answer} does not count"),
        }
    }
}

/// One way in which the history up to now can have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configuration {
    state: State,
    /// Open settled operations that have had their effect, a bit each.
    placed: u64,
    /// How many writes of unknown outcome have had their effect, by kind, in the order of the kinds.
    used: Vec<(usize, u32)>,
}

impl Configuration {
    fn used(&self, kind: usize) -> u32 {
        self.used.binary_search_by_key(&kind, |(k, _)| *k).map_or(0, |at| self.used[at].1)
    }

    fn use_one(&mut self, kind: usize) {
        match self.used.binary_search_by_key(&kind, |(k, _)| *k) {
            Ok(at) => self.used[at].1 += 1,
            Err(at) => self.used.insert(at, (kind, 1)),
        }
    }

    /// Whether `self` can do whatever `other` can, given that both placed the same changes.
    fn is_no_worse_than(&self, other: &Self) -> bool {
        self.placed & other.placed == other.placed
            && self.used.iter().all(|(kind, count)| *count <= other.used(*kind))
    }
}

/// Configurations none of which makes another superfluous.
#[derive(Default)]
struct Frontier {
    by_place: HashMap<(State, u64), Vec<Configuration>>,
}

impl Frontier {
    /// Whether it adds anything. `observers` are the bits of what changes nothing.
    fn insert(&mut self, new: Configuration, observers: u64) -> bool {
        let group = self.by_place.entry((new.state, new.placed & !observers)).or_default();
        if group.iter().any(|old| old.is_no_worse_than(&new)) {
            return false;
        }
        group.retain(|old| !new.is_no_worse_than(old));
        group.push(new);
        true
    }

    fn into_all(self) -> Vec<Configuration> {
        self.by_place.into_values().flatten().collect()
    }
}

/// Writes of unknown outcome that do the same.
struct Kind {
    number: usize,
    step: Step,
    sent: u32,
}

struct Search<'a> {
    states: States<'a>,
    /// Settled operations between their sending and their answer.
    open: Vec<Option<(usize, Step)>>,
    /// Bits of those that change nothing.
    observers: u64,
    /// Each kind of write of unknown outcome that may still have an effect.
    unknown: Vec<Kind>,
    kinds: usize,
    configurations: Vec<Configuration>,
    steps: usize,
}

/// Checks the operations on one key, which is absent at first; answers the work that it took.
///
/// # Errors
/// The first answer, by time, that cannot be explained.
pub fn check(history: &[Operation]) -> Result<usize, Objection> {
    check_within(history, STEPS_MAX)
}

/// As [`check`], with a limit of the caller's own.
///
/// # Errors
/// As [`check`].
pub fn check_within(history: &[Operation], steps_max: usize) -> Result<usize, Objection> {
    // At the same instant, sending comes first: what may overlap is taken to overlap.
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
    for (i, operation) in history.iter().enumerate().filter(|(_, operation)| operation.counts()) {
        events.push((operation.began_ns, false, i));
        if operation.is_settled() {
            events.push((operation.ended_ns, true, i));
        }
    }
    events.sort_unstable();
    let mut search = Search {
        states: States::new(history),
        open: Vec::new(),
        observers: 0,
        unknown: Vec::new(),
        kinds: 0,
        configurations: vec![Configuration { state: ABSENT, placed: 0, used: Vec::new() }],
        steps: 0,
    };
    for (_, is_end, i) in events {
        if is_end {
            search.end(i, steps_max)?;
        } else {
            search.begin(i, &history[i])?;
        }
    }
    Ok(search.steps)
}

impl Search<'_> {
    fn begin(&mut self, i: usize, operation: &Operation) -> Result<(), Objection> {
        let step = self.states.step(operation);
        if !operation.is_settled() {
            match self.unknown.iter_mut().find(|kind| kind.step == step) {
                Some(kind) => kind.sent += 1,
                None => {
                    self.unknown.push(Kind { number: self.kinds, step, sent: 1 });
                    self.kinds += 1;
                }
            }
            return Ok(());
        }
        let slot = match self.open.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.open.len() < OPEN_MAX => {
                self.open.push(None);
                self.open.len() - 1
            }
            None => {
                let why = format!("more than {OPEN_MAX} operations are open at once");
                return Err(Objection::TooHard { operation: i, why });
            }
        };
        self.open[slot] = Some((i, step));
        if step.sets.is_none() {
            self.observers |= 1 << slot;
            for configuration in self.configurations.iter_mut().filter(|c| step.fits(c.state)) {
                configuration.placed |= 1 << slot;
            }
        }
        Ok(())
    }

    /// The answer of operation `i` has arrived: only configurations in which it had its effect remain.
    fn end(&mut self, i: usize, steps_max: usize) -> Result<(), Objection> {
        let slot = self.open.iter().position(|open| open.is_some_and(|(operation, _)| operation == i));
        let slot = slot.expect("it was opened when it began");
        let bit = 1 << slot;
        let observers = self.observers;
        let before = std::mem::take(&mut self.configurations);
        let mut after = Frontier::default();
        // What was tried on the way, so that nothing is tried twice.
        let mut tried = Frontier::default();
        let mut todo: Vec<Configuration> = Vec::new();
        let mut take = |mut configuration: Configuration, todo: &mut Vec<Configuration>| {
            if configuration.placed & bit != 0 {
                configuration.placed &= !bit;
                after.insert(configuration, observers & !bit);
            } else if tried.insert(configuration.clone(), observers) {
                todo.push(configuration);
            }
        };
        before.iter().for_each(|configuration| take(configuration.clone(), &mut todo));
        while let Some(configuration) = todo.pop() {
            for next in successors(&self.open, &self.unknown, &configuration) {
                self.steps += 1;
                if self.steps > steps_max {
                    let why = format!("more than {steps_max} steps of search");
                    return Err(Objection::TooHard { operation: i, why });
                }
                take(next, &mut todo);
            }
        }
        self.configurations = after.into_all();
        self.open[slot] = None;
        self.observers &= !bit;
        if !self.configurations.is_empty() {
            self.forget_used_up();
            return Ok(());
        }
        let mut possible: Vec<_> = before.iter().map(|c| self.states.value(c.state)).collect();
        possible.sort();
        possible.dedup();
        Err(Objection::Unexplained { operation: i, possible })
    }
}

impl Search<'_> {
    /// Drops the kinds all of which have had their effect, however it went.
    fn forget_used_up(&mut self) {
        let configurations = &mut self.configurations;
        self.unknown.retain(|Kind { number, sent, .. }| {
            let used_up = configurations.iter().all(|c| c.used(*number) == *sent);
            if used_up {
                configurations.iter_mut().for_each(|c| c.used.retain(|(kind, _)| kind != number));
            }
            !used_up
        });
    }
}

/// Every configuration that one more change leads to.
fn successors(open: &[Option<(usize, Step)>], unknown: &[Kind], from: &Configuration) -> Vec<Configuration> {
    let mut found = Vec::new();
    for (slot, step) in open.iter().enumerate().filter_map(|(slot, open)| Some((slot, open.as_ref()?.1))) {
        if let (Some(state), 0, true) = (step.sets, from.placed & (1 << slot), step.fits(from.state)) {
            found.push(Configuration { state, placed: from.placed | 1 << slot, used: from.used.clone() });
        }
    }
    for Kind { number, step, sent } in unknown {
        let Some(state) = step.sets.filter(|state| *state != from.state) else { continue };
        if step.fits(from.state) && from.used(*number) < *sent {
            let mut next = Configuration { state, ..from.clone() };
            next.use_one(*number);
            found.push(next);
        }
    }
    for next in &mut found {
        for (slot, step) in open.iter().enumerate().filter_map(|(slot, open)| Some((slot, open.as_ref()?.1)))
        {
            if step.sets.is_none() && step.fits(next.state) {
                next.placed |= 1 << slot;
            }
        }
    }
    found
}
