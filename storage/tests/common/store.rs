//! What the tests of the state machine share: a model that is a map, and commands made from a number.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use vaultdb_kv::{Applied, ApplyResult, Command, Key, MemberAddr, Revision, Versioned};
use vaultdb_storage::{AppliedState, LogId, Op, Snapshot, SnapshotMeta, StateMachine, StoreOptions};

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
            Op::Command(command) => self.apply_command(command),
        };
        Applied { revision: self.applied.revision, result }
    }

    fn apply_command(&mut self, command: &Command) -> ApplyResult {
        match command {
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
            Command::RegisterNode { .. } => panic!("not in this model"),
        }
    }

    /// The store holds exactly this.
    pub fn check(&self, store: &StateMachine) {
        assert_eq!(store.applied(), self.applied);
        assert_eq!(store.revision(), self.applied.revision);
        for number in 0..KEYS {
            let key = key(number);
            assert_eq!(store.get(&key).expect("read").as_ref(), self.data.get(&key), "{key:?}");
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
        kind => {
            let pairs =
                (0..=kind % 4).map(|i| (key(mix(random + i) % KEYS), value(mix(random ^ i) >> 3))).collect();
            Op::Command(Command::Set { pairs }.into())
        }
    }
}

pub fn register(name: &str, instance: &str) -> Op {
    let addr = MemberAddr { raft: format!("{name}:1"), http: format!("{name}:2") };
    Op::Command(Command::RegisterNode { name: name.into(), instance: Some(instance.into()), addr }.into())
}

pub fn set(pairs: &[(u64, &'static str)]) -> Op {
    let pairs = pairs.iter().map(|(number, value)| (key(*number), Bytes::from_static(value.as_bytes())));
    Op::Command(Command::Set { pairs: pairs.collect() }.into())
}

pub fn at(index: u64) -> LogId {
    LogId { term: 1, index }
}

/// Sends a snapshot in pieces of `bytes` to another store.
pub fn transfer(snapshot: &Snapshot, to: &StateMachine, bytes: usize) -> Snapshot {
    let meta: SnapshotMeta = snapshot.meta().clone();
    let mut receiver = to.receive_snapshot(meta.clone()).expect("begin");
    for (file, described) in meta.files.iter().enumerate() {
        let mut offset = 0;
        while offset < described.bytes {
            let chunk = snapshot.read_chunk(file, offset, bytes).expect("read");
            receiver.write_chunk(file, offset, &chunk, crc32fast::hash(&chunk)).expect("take");
            offset += chunk.len() as u64;
        }
    }
    receiver.finish().expect("whole")
}
