//! Writes under a condition or a name: an answer once given stands, within its limits, on every node.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use std::path::Path;

use store::{key, open, tiny, transfer};
use vaultdb_kv::{Applied, ApplyResult, Command, Condition, Guarded, IdempotencyKey, Write};
use vaultdb_storage::{LogId, Op, StateMachine, StoreOptions};

/// A store and the entries that it is given, one by one, under terms and clocks of the test's choice.
struct Log {
    store: StateMachine,
    index: u64,
    term: u64,
    leader_ms: u64,
}

impl Log {
    fn new(store: StateMachine) -> Self {
        Self { store, index: 0, term: 1, leader_ms: 0 }
    }

    fn entry(&mut self, mut guarded: Guarded) -> (LogId, Op) {
        self.index += 1;
        if let Some(attempt) = &mut guarded.attempt {
            attempt.leader_ms = self.leader_ms;
        }
        (
            LogId { term: self.term, index: self.index },
            Op::Command(Command::Guarded(Box::new(guarded)).into()),
        )
    }

    fn apply(&mut self, guarded: Guarded) -> Applied {
        let entry = self.entry(guarded);
        self.store.apply(&[entry]).unwrap().pop().unwrap()
    }

    /// Sets key 1 under a name.
    fn named(&mut self, name: &str, value: &'static str) -> Applied {
        self.apply(named(name, value))
    }
}

fn set(value: &'static str) -> Write {
    Write::Set { pairs: vec![(key(1), value.into())] }
}

fn named(name: &str, value: &'static str) -> Guarded {
    Guarded::new(set(value), vec![], Some(IdempotencyKey::new(name).unwrap()))
}

fn value(store: &StateMachine) -> Option<String> {
    store.get(&key(1)).unwrap().map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

fn revision(answer: &Applied) -> u64 {
    assert_eq!(answer.result, ApplyResult::Set);
    answer.revision
}

/// A condition looks at the state as of its own entry, also within one run, and one that fails changes
/// neither the data nor the revision.
#[test]
fn conditions_look_at_their_own_moment() {
    for in_memory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = if in_memory { StateMachine::in_memory(tiny()) } else { open(dir.path()) };
        let mut log = Log::new(store);
        let mut run = Vec::new();
        for (write, condition) in [
            (set("a"), Condition::Absent),
            (set("b"), Condition::Absent),
            (set("b"), Condition::Revisions(vec![1])),
            (set("c"), Condition::Revisions(vec![1])),
            (Write::Delete { key: key(1) }, Condition::NotRevisions(vec![2])),
            (Write::Delete { key: key(1) }, Condition::Present),
            (Write::Delete { key: key(1) }, Condition::Present),
        ] {
            run.push(log.entry(Guarded::new(write, vec![condition], None)));
        }
        let failed = |current| ApplyResult::ConditionFailed { current };
        let expected = [
            (1, ApplyResult::Set),
            (1, failed(Some(1))),
            (2, ApplyResult::Set),
            (2, failed(Some(2))),
            (2, failed(Some(2))),
            (3, ApplyResult::Deleted { existed: true }),
            (3, failed(None)),
        ];
        let answers = log.store.apply(&run).unwrap();
        let got: Vec<_> = answers.into_iter().map(|answer| (answer.revision, answer.result)).collect();
        assert_eq!(got, expected);
        assert_eq!((log.store.revision(), value(&log.store)), (3, None));
        // From the engine, not the run: the cache knows nothing of an absent key.
        let answer = log.apply(Guarded::new(set("d"), vec![Condition::Present], None));
        assert_eq!(answer.result, failed(None));
        assert_eq!(revision(&log.apply(Guarded::new(set("d"), vec![Condition::Absent], None))), 4);
    }
}

/// The same name and request get the first answer, a failed condition too; another request is refused.
#[test]
fn a_repetition_is_answered_and_not_applied() {
    let mut log = Log::new(StateMachine::in_memory(tiny()));
    let first = log.named("a", "one");
    assert_eq!(revision(&log.named("b", "two")), 2);
    assert_eq!(log.named("a", "one"), first);
    assert_eq!(value(&log.store).as_deref(), Some("two"));
    let reused = log.named("a", "other");
    assert_eq!((reused.revision, reused.result), (2, ApplyResult::AttemptReused));

    let create = || {
        let name = IdempotencyKey::new("create").unwrap();
        Guarded::new(set("new"), vec![Condition::Absent], Some(name))
    };
    let refused = log.apply(create());
    assert_eq!(refused.result, ApplyResult::ConditionFailed { current: Some(2) });
    log.apply(Guarded::new(Write::Delete { key: key(1) }, vec![], None));
    assert_eq!(log.apply(create()), refused, "it would hold by now, but the answer stands");
    assert_eq!(value(&log.store), None);
}

/// At most so many records are kept, and the oldest goes first: a name is good for exactly that many
/// later ones. The same in one run, in many, and over a restart after each.
#[test]
fn records_are_bounded() {
    let records_max = tiny().attempts.records_max;
    for later in [records_max - 1, records_max] {
        for cut in ["each", "one run", "reopened"] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::new(open(dir.path()));
            let names = (0..later).map(|n| format!("later-{n}"));
            let names: Vec<String> =
                std::iter::once("first".into()).chain(names).chain(["first".into()]).collect();
            let run: Vec<_> = names.iter().map(|name| log.entry(named(name, "x"))).collect();
            let answers = if cut == "one run" {
                log.store.apply(&run).unwrap()
            } else {
                let mut answers = Vec::new();
                for entry in run {
                    answers.extend(log.store.apply(&[entry]).unwrap());
                    if cut == "reopened" {
                        log.store.flush().unwrap();
                        drop(log.store);
                        log.store = open(dir.path());
                    }
                }
                answers
            };
            let repeated = answers.last().unwrap();
            let is_kept = later < records_max;
            assert_eq!(*repeated == answers[0], is_kept, "{later} later, {cut}");
            let revision = if is_kept { later + 1 } else { later + 2 };
            assert_eq!(log.store.revision(), revision as u64, "{later} later, {cut}");
        }
    }
}

/// A record goes at its age by the clock of the term's leader, which only named writes advance.
#[test]
fn records_expire() {
    let retention_ms = tiny().attempts.retention_ms;
    for (age_ms, is_kept) in [(retention_ms - 1, true), (retention_ms, false)] {
        let mut log = Log::new(StateMachine::in_memory(tiny()));
        log.leader_ms = 5_000;
        let first = log.named("a", "one");
        log.leader_ms += age_ms;
        let again = log.named("a", "one");
        assert_eq!(again == first, is_kept, "after {age_ms} ms");
    }
}

/// A clock that is wrong, whether far ahead or far behind, neither expires what another leader recorded
/// nor keeps it for ever.
#[test]
fn no_clock_expires_everything() {
    let retention_ms = tiny().attempts.retention_ms;
    let mut log = Log::new(StateMachine::in_memory(tiny()));
    log.leader_ms = 1_000;
    let first = log.named("a", "one");
    for (term, leader_ms) in [(2, u64::MAX), (3, 0), (4, u64::MAX / 2)] {
        (log.term, log.leader_ms) = (term, leader_ms);
        assert_eq!(log.named("a", "one"), first, "term {term}");
        log.leader_ms = leader_ms.saturating_add(retention_ms / 4);
        assert_eq!(log.named("a", "one"), first, "term {term}");
    }
    // Half of its age has passed under terms 3 and 4, the other half does now.
    log.leader_ms += retention_ms / 2;
    assert_ne!(log.named("a", "one"), first);
}

fn records_of(log: &mut Log) -> Vec<Applied> {
    (0..tiny().attempts.records_max).map(|n| log.named(&format!("n-{n}"), "x")).collect()
}

/// Answers survive a restart and travel with a snapshot, on disk and in memory, and so does their age.
#[test]
fn answers_survive_and_travel() {
    let retention_ms = tiny().attempts.retention_ms;
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &Path, in_memory: bool| match in_memory {
        true => StateMachine::in_memory(tiny()),
        false => open(dir),
    };
    for in_memory in [false, true] {
        let mut log = Log::new(open(a.path(), in_memory));
        let answers = records_of(&mut log);
        if !in_memory {
            log.store.flush().unwrap();
            drop(log.store);
            log.store = open(a.path(), in_memory);
            assert_eq!(records_of(&mut log), answers);
        }
        let snapshot = log.store.build_snapshot().unwrap();
        let peer = open(b.path(), in_memory);
        peer.install_snapshot(&transfer(&snapshot, &peer, 1_000)).unwrap();
        log.store = peer;
        log.leader_ms += retention_ms - 1;
        assert_eq!(records_of(&mut log), answers, "in memory: {in_memory}");
        log.leader_ms += 1;
        assert_ne!(records_of(&mut log), answers, "in memory: {in_memory}");
    }
}

/// Records of named writes are no keys.
#[test]
fn records_are_not_counted_as_keys() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::default();
    let mut log = Log::new(StateMachine::open(dir.path(), options.clone()).unwrap());
    for n in 0..500 {
        log.named(&format!("n-{n}"), "x");
    }
    log.store.flush().unwrap();
    drop(log.store);
    let store = StateMachine::open(dir.path(), options).unwrap();
    assert!(store.stats().keys_estimate < 20, "{:?}", store.stats());
}
