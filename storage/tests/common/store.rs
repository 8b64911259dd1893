//! What the tests of the state machine share: a model that is a map, and commands made from a number.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use vaultdb_kv::{
    Applied, ApplyResult, Attempt, Command, Condition, Guarded, IdempotencyKey, Key, MemberAddr, Revision,
    Versioned, Write,
};
use vaultdb_storage::{
    AppliedState, AttemptLimits, EntryFate, LogId, Op, Snapshot, SnapshotMeta, StateMachine, StorageError,
    StoreOptions,
};

pub const KEYS: u64 = 24;

pub fn key(number: u64) -> Key {
    // Some keys are longer than what the engine keeps on the stack.
    let padding = if number % 8 == 7 { "x".repeat(200) } else { String::new() };
    Key::new(format!("key-{number}{padding}")).expect("within the limits")
}

/// Small enough that memtables are flushed and the cache evicts all the time.
pub fn tiny() -> StoreOptions {
    StoreOptions {
        cache_bytes: 4 << 10,
        block_cache_bytes: 64 << 10,
        write_buffer_bytes: 64 << 10,
        attempts: AttemptLimits { records_max: 6, retention_ms: 600 },
        ..StoreOptions::default()
    }
}

pub fn open(dir: &Path) -> StateMachine {
    StateMachine::open(dir, tiny()).expect("open the store")
}

/// The state as a map would hold it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub data: BTreeMap<Key, Versioned>,
    pub applied: AppliedState,
    /// Named writes that were answered, oldest first, with the time of the answer.
    named: Vec<(Attempt, u64, Applied)>,
    elapsed_ms: u64,
    /// Term and clock of the last named write.
    last_reading: (u64, u64),
}

impl Model {
    /// Applies an entry that is no registration, whose rules have tests of their own.
    pub fn apply(&mut self, log_id: LogId, op: &Op) -> Applied {
        self.applied.log_id = Some(log_id);
        let result = match op {
            Op::Blank => ApplyResult::None,
            Op::Membership(membership) => {
                self.applied.membership = Some((log_id, membership.clone()));
                ApplyResult::None
            }
            Op::Command(command) => return self.apply_command(log_id, command),
        };
        Applied { revision: self.applied.revision, result }
    }

    fn apply_command(&mut self, log_id: LogId, command: &Command) -> Applied {
        let result = match command {
            Command::Set { pairs } => {
                self.applied.revision += 1;
                for (key, value) in pairs {
                    let revision: Revision = self.applied.revision;
                    self.data.insert(key.clone(), Versioned { value: value.clone(), revision });
                }
                ApplyResult::Set
            }
            Command::Delete { key } => {
                self.applied.revision += 1;
                ApplyResult::Deleted { existed: self.data.remove(key).is_some() }
            }
            Command::RegisterNode { .. } | Command::AdvanceRevision { .. } => panic!("not in this model"),
            Command::Guarded(guarded) => return self.guarded(log_id, guarded),
        };
        Applied { revision: self.applied.revision, result }
    }

    fn guarded(&mut self, log_id: LogId, guarded: &Guarded) -> Applied {
        let Some(attempt) = &guarded.attempt else { return self.write_if(log_id, guarded) };
        let (term, last_ms) = self.last_reading;
        if term == log_id.term {
            self.elapsed_ms += attempt.leader_ms.saturating_sub(last_ms);
            self.last_reading.1 = last_ms.max(attempt.leader_ms);
        } else {
            self.last_reading = (log_id.term, attempt.leader_ms);
        }
        let now_ms = self.elapsed_ms;
        self.named.retain(|(_, at_ms, _)| now_ms - at_ms < tiny().attempts.retention_ms);
        match self.named.iter().find(|(named, ..)| named.key == attempt.key) {
            Some((named, _, answer)) if named.fingerprint == attempt.fingerprint => answer.clone(),
            Some(_) => Applied { revision: self.applied.revision, result: ApplyResult::AttemptReused },
            None => {
                let answer = self.write_if(log_id, guarded);
                self.named.push((attempt.clone(), now_ms, answer.clone()));
                if self.named.len() > tiny().attempts.records_max {
                    self.named.remove(0);
                }
                answer
            }
        }
    }

    fn write_if(&mut self, log_id: LogId, guarded: &Guarded) -> Applied {
        let keys: Vec<&Key> = match &guarded.write {
            Write::Set { pairs } => pairs.iter().map(|(key, _)| key).collect(),
            Write::Delete { key } => vec![key],
        };
        for key in keys {
            let current = self.data.get(key).map(|found| found.revision);
            if !guarded.conditions.iter().all(|condition| condition.holds(current)) {
                let result = ApplyResult::ConditionFailed { current };
                return Applied { revision: self.applied.revision, result };
            }
        }
        self.apply(log_id, &Op::Command(Command::from(guarded.write.clone()).into()))
    }

    /// The store holds exactly this.
    pub fn check(&self, store: &StateMachine) {
        assert_eq!(store.applied(), self.applied);
        assert_eq!(store.revision(), self.applied.revision);
        for number in 0..KEYS {
            let key = key(number);
            assert_eq!(store.get(&key).expect("read").as_ref(), self.data.get(&key), "{key:?}");
        }
        let applied = self.applied.log_id.map_or(0, |id| id.index);
        for index in 1..=applied {
            let LogId { term, .. } = at(index);
            assert_eq!(store.fate(at(index)), EntryFate::Committed);
            assert_eq!(store.fate(LogId { term: term - 1, index }), EntryFate::Lost);
            assert_eq!(store.fate(LogId { term: term + 1, index }), EntryFate::Lost);
        }
        let later = LogId { index: applied + 9, ..self.applied.log_id.unwrap_or(at(1)) };
        assert_eq!(store.fate(later), EntryFate::Pending);
        if applied > 0 {
            assert_eq!(store.fate(LogId { term: later.term - 1, ..later }), EntryFate::Lost);
        }
    }
}

/// A deterministic sequence (SplitMix64, Steele et al. 2014).
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The entry at an index, the same in every process that is given the same seed.
pub fn op(seed: u64, index: u64) -> Op {
    let random = mix(seed ^ mix(index));
    let value = |random: u64| {
        let len = if random % 16 == 0 { 5_000 } else { random % 200 };
        Bytes::from(random.to_le_bytes().repeat(len as usize / 8 + 1))
    };
    match random % 16 {
        0 => Op::Blank,
        1 => Op::Membership(Bytes::from(random.to_le_bytes().to_vec())),
        2..=5 => Op::Command(Command::Delete { key: key((random >> 8) % KEYS) }.into()),
        6..=9 => guarded(random, index),
        kind => {
            let pairs =
                (0..=kind % 4).map(|i| (key(mix(random + i) % KEYS), value(mix(random ^ i) >> 3))).collect();
            Op::Command(Command::Set { pairs }.into())
        }
    }
}

/// A write under conditions, named ones mostly repeating each other.
fn guarded(random: u64, index: u64) -> Op {
    let name = (random >> 8) % 8;
    let is_named = random >> 16 & 3 > 0;
    // What a named write asks for follows from its name, but for a few that are other requests.
    let what = if is_named { name + 8 * u64::from(random >> 24 & 7 == 0) } else { random >> 32 };
    let write = match what % 3 {
        0 => Write::Delete { key: key(what % KEYS) },
        count => Write::Set {
            pairs: (0..count).map(|i| (key((what + i) % KEYS), Bytes::from(what.to_string()))).collect(),
        },
    };
    let conditions = match what % 5 {
        0 => vec![],
        1 => vec![Condition::Absent],
        2 => vec![Condition::Present],
        // Of the revisions that are likely some, so that it holds now and then.
        3 => vec![Condition::Revisions((0..index).step_by(2).collect())],
        _ => vec![Condition::Present, Condition::NotRevisions((0..index).step_by(3).collect())],
    };
    let key = is_named.then(|| IdempotencyKey::new(format!("name-{name}")).expect("visible"));
    let mut guarded = Guarded::new(write, conditions, key);
    if let Some(attempt) = &mut guarded.attempt {
        attempt.leader_ms = index * 20 + random % 50;
    }
    Op::Command(Command::Guarded(Box::new(guarded)).into())
}

pub fn register(name: &str, instance: &str) -> Op {
    let addr = MemberAddr { raft: format!("{name}:1"), http: format!("{name}:2") };
    Op::Command(Command::RegisterNode { name: name.into(), instance: Some(instance.into()), addr }.into())
}

pub fn set(pairs: &[(u64, &'static str)]) -> Op {
    let pairs = pairs.iter().map(|(number, value)| (key(*number), Bytes::from_static(value.as_bytes())));
    Op::Command(Command::Set { pairs: pairs.collect() }.into())
}

/// A new term now and then.
pub fn at(index: u64) -> LogId {
    LogId { term: 1 + index / 40, index }
}

/// Sends a snapshot in pieces of `bytes` to another store.
pub fn transfer(snapshot: &Snapshot, to: &StateMachine, bytes: usize) -> Snapshot {
    let meta: SnapshotMeta = snapshot.meta().clone();
    let mut receiver = to.receive_snapshot(meta.clone()).expect("begin");
    for (file, described) in meta.files.iter().enumerate() {
        let mut offset = receiver.received()[file];
        while offset < described.bytes {
            let chunk = snapshot.read_chunk(file, offset, bytes).expect("read");
            receiver.write_chunk(file, offset, &chunk, crc32fast::hash(&chunk)).expect("take");
            offset += chunk.len() as u64;
        }
    }
    receiver.finish().expect("whole")
}

/// Names in a directory, in order.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("list").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// What a store has under a key of [`key`].
pub fn value(store: &StateMachine, number: u64) -> Option<String> {
    let found = store.get(&key(number)).expect("read");
    found.map(|found| String::from_utf8(found.value.to_vec()).expect("UTF-8"))
}

/// Whether nothing was done; any other outcome is a failure of the test.
pub fn refused<T: std::fmt::Debug>(result: Result<T, StorageError>) -> bool {
    match result {
        Err(StorageError::Refused { .. }) => true,
        other => panic!("not refused: {other:?}"),
    }
}
