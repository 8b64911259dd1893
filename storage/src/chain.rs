//! A rolling hash over what entries did, by which replicas are told apart that should be the same.
//!
//! Part of the replicated state: each entry is linked to the chain with its place, what it asked for and what came
//! of it, so two nodes at the same index have the same value, however the entries were cut into runs, unless one
//! of them did something else. What is stored and not looked at again is guarded by checksums, not by this.
//!
//! Invariant: what is hashed follows from the meaning of an entry, not from how it is stored. Who changes it
//! raises [`VERSION`]: a chain of another version is not gone on with.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use vaultdb_kv::{Applied, ApplyResult, Command, Key, Value, Write};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::{LogId, Op};

/// Of what is hashed and how.
pub(crate) const VERSION: u8 = 1;
/// A checkpoint is taken at each multiple of this log index: nodes at different indexes have one in common.
const CHECKPOINT_EVERY: u64 = 1024;
/// Checkpoints that are remembered: as far as nodes may be apart and still be compared, in steps of the above.
const CHECKPOINTS_MAX: usize = 64;
const HEADER_WORDS: usize = 8;

/// The hash of all entries after `since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Log index after which it begins: 0 with the cluster. Only chains that begin at the same are comparable.
    pub since: u64,
    pub value: u64,
}

/// The chain as it was right after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub index: u64,
    pub chain: Chain,
}

impl Chain {
    pub(crate) fn beginning_after(index: u64) -> Self {
        Self { since: index, value: 0 }
    }

    /// What is done at the first entry of a term. A chain that did not begin with the cluster, because the data is
    /// older than the chain is, begins anew: so nodes whose chains began anywhere have the same one from there on.
    pub(crate) fn begin_term(&mut self, index: u64) {
        if self.since > 0 {
            *self = Self::beginning_after(index.saturating_sub(1));
        }
    }

    /// Links an entry, given what was answered to it, and the revision and the clock of named writes after it.
    pub(crate) fn link_entry(
        &mut self,
        log_id: LogId,
        op: &Op,
        answer: &Applied,
        revision: u64,
        elapsed_ms: u64,
    ) {
        let (kind, count) = shape(op);
        let (result, detail) = outcome(&answer.result);
        let words: [u64; HEADER_WORDS] = [
            log_id.index,
            log_id.term,
            revision,
            elapsed_ms,
            kind | count << 8,
            result,
            detail,
            answer.revision,
        ];
        let mut header = [0; HEADER_WORDS * 8];
        for (bytes, word) in header.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.link(&header);
        match op {
            Op::Blank => {}
            Op::Membership(membership) => self.link(membership),
            Op::Command(command) => self.link_command(command),
        }
    }

    fn link_command(&mut self, command: &Command) {
        match command {
            Command::Set { pairs } => self.link_pairs(pairs),
            Command::Delete { key } => self.link(key.as_bytes()),
            Command::RegisterNode { name, instance, addr } => {
                for text in [name, instance.as_ref().unwrap_or(&String::new()), &addr.raft, &addr.http] {
                    self.link(text.as_bytes());
                }
            }
            Command::Guarded(guarded) => match &guarded.write {
                Write::Set { pairs } => self.link_pairs(pairs),
                Write::Delete { key } => self.link(key.as_bytes()),
            },
            Command::AdvanceRevision { by } => self.link(&by.to_le_bytes()),
        }
    }

    fn link_pairs(&mut self, pairs: &[(Key, Value)]) {
        for (key, value) in pairs {
            self.link(key.as_bytes());
            self.link(value);
        }
    }

    /// The hash so far is the seed of the next: one pass, no state besides it. The hash takes lengths in.
    fn link(&mut self, bytes: &[u8]) {
        self.value = xxh3_64_with_seed(bytes, self.value);
    }
}

/// The kind of an entry, and how many items follow its header.
fn shape(op: &Op) -> (u64, u64) {
    let count = |pairs: &[(Key, Value)]| pairs.len() as u64;
    match op {
        Op::Blank => (0, 0),
        Op::Membership(_) => (1, 1),
        Op::Command(command) => match &**command {
            Command::Set { pairs } => (2, count(pairs)),
            Command::Delete { .. } => (3, 1),
            Command::RegisterNode { instance, .. } => (4, u64::from(instance.is_some())),
            Command::Guarded(guarded) => match &guarded.write {
                Write::Set { pairs } => (5, count(pairs)),
                Write::Delete { .. } => (6, 1),
            },
            Command::AdvanceRevision { .. } => (7, 1),
        },
    }
}

fn outcome(result: &ApplyResult) -> (u64, u64) {
    match result {
        ApplyResult::None => (0, 0),
        ApplyResult::Set => (1, 0),
        ApplyResult::Deleted { existed } => (2, u64::from(*existed)),
        ApplyResult::NodeRegistered { id } => (3, *id),
        ApplyResult::ConditionFailed { current: Some(revision) } => (4, *revision),
        ApplyResult::ConditionFailed { current: None } => (5, 0),
        ApplyResult::AttemptReused => (6, 0),
    }
}

/// The last checkpoints, and where the chain is now. In memory: a node that starts begins with the latter alone.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    past: VecDeque<Checkpoint>,
    /// Where the chain was when others were told of it, as many at most: what one of them concluded there can be
    /// checked later, when most have gone on.
    told: VecDeque<Checkpoint>,
    now: Option<Checkpoint>,
}

impl Checkpoints {
    /// Whether one is taken after the entry at an index.
    pub(crate) fn is_due(index: u64) -> bool {
        index % CHECKPOINT_EVERY == 0
    }

    /// Of a state that did not come out of the one before.
    pub(crate) fn starting(applied: Option<LogId>, chain: Chain) -> Self {
        let now = applied.map(|LogId { index, .. }| Checkpoint { index, chain });
        Self { now, ..Self::default() }
    }

    /// Takes those of a run in, and where it ended.
    pub(crate) fn advance(&mut self, taken: &[Checkpoint], now: Checkpoint) {
        self.past.extend(taken);
        keep_last(&mut self.past);
        self.now = Some(now);
    }

    /// The list, for somebody else: where the chain is now is remembered.
    pub(crate) fn tell(&mut self) -> Vec<Checkpoint> {
        if let Some(now) = self.now {
            self.told.retain(|checkpoint| checkpoint.index != now.index);
            self.told.push_back(now);
            keep_last(&mut self.told);
        }
        self.list()
    }

    /// In the order of their indexes, one for each.
    pub(crate) fn list(&self) -> Vec<Checkpoint> {
        let all = self.past.iter().chain(&self.told).copied().chain(self.now);
        all.map(|checkpoint| (checkpoint.index, checkpoint))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect()
    }
}

fn keep_last(checkpoints: &mut VecDeque<Checkpoint>) {
    let surplus = checkpoints.len().saturating_sub(CHECKPOINTS_MAX);
    checkpoints.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn set(key: &'static str, value: &'static str) -> Op {
        let pairs = vec![(Key::new(key).expect("short"), Bytes::from(value))];
        Op::Command(Command::Set { pairs }.into())
    }

    fn linked(log_id: LogId, op: &Op, result: ApplyResult, revision: u64, elapsed_ms: u64) -> u64 {
        let mut chain = Chain::default();
        chain.link_entry(log_id, op, &Applied { revision, result }, revision, elapsed_ms);
        chain.value
    }

    /// Values are pinned, by another implementation of the hash: nodes of two builds must agree on what the same
    /// entries give. Who changes this raises the version.
    #[test]
    fn chain_is_pinned() {
        assert_eq!(VERSION, 1);
        let mut chain = Chain::default();
        let answer = |revision| Applied { revision, result: ApplyResult::Set };
        chain.link_entry(LogId { term: 1, index: 1 }, &set("k", "v"), &answer(1), 1, 0);
        chain.link_entry(LogId { term: 1, index: 2 }, &set("k", ""), &answer(2), 2, 0);
        assert_eq!(chain, Chain { since: 0, value: 0x2d11_b21d_48bb_4f5d });
    }

    /// Whatever two entries differ in, their chains do.
    #[test]
    fn every_difference_shows() {
        let at = |term, index| LogId { term, index };
        let op = set("k", "v");
        let base = linked(at(1, 2), &op, ApplyResult::Set, 3, 4);
        let failed = |current| ApplyResult::ConditionFailed { current };
        let others = [
            linked(at(2, 2), &op, ApplyResult::Set, 3, 4),
            linked(at(1, 3), &op, ApplyResult::Set, 3, 4),
            linked(at(1, 2), &op, ApplyResult::Set, 4, 4),
            linked(at(1, 2), &op, ApplyResult::Set, 3, 5),
            linked(at(1, 2), &set("k", "w"), ApplyResult::Set, 3, 4),
            linked(at(1, 2), &set("kv", ""), ApplyResult::Set, 3, 4),
            linked(at(1, 2), &Op::Blank, ApplyResult::None, 3, 4),
            linked(at(1, 2), &Op::Membership(Bytes::from("m")), ApplyResult::None, 3, 4),
            linked(at(1, 2), &op, failed(None), 3, 4),
            linked(at(1, 2), &op, failed(Some(0)), 3, 4),
            linked(at(1, 2), &op, failed(Some(1)), 3, 4),
            linked(at(1, 2), &op, ApplyResult::AttemptReused, 3, 4),
        ];
        let all: std::collections::HashSet<u64> = others.iter().copied().chain([base]).collect();
        assert_eq!(all.len(), others.len() + 1);
    }

    /// As many checkpoints as the bound allows, the latest ones; the state that there is now counts, not a
    /// checkpoint that was taken at its index.
    #[test]
    fn checkpoints_are_bounded() {
        let at = |index, value| Checkpoint { index, chain: Chain { since: 0, value } };
        let mut checkpoints = Checkpoints::default();
        assert_eq!(checkpoints.list(), []);
        for i in 1..200 {
            checkpoints.advance(&[at(i * 1024, i)], at(i * 1024 + 7, 0));
        }
        let list = checkpoints.list();
        assert_eq!(list.len(), CHECKPOINTS_MAX + 1);
        assert_eq!((list[0], list[CHECKPOINTS_MAX]), (at(136 * 1024, 136), at(199 * 1024 + 7, 0)));
        checkpoints.advance(&[at(200 * 1024, 1)], at(200 * 1024, 2));
        let last_two = checkpoints.list()[CHECKPOINTS_MAX - 2..].to_vec();
        assert_eq!(last_two, [at(199 * 1024, 199), at(200 * 1024, 2)]);
    }

    /// What was told is told again when the chain has gone on, within the bound; a later one of the same index takes
    /// its place.
    #[test]
    fn what_was_told_is_remembered() {
        let at = |index, value| Checkpoint { index, chain: Chain { since: 0, value } };
        let mut checkpoints = Checkpoints::default();
        assert_eq!(checkpoints.tell(), []);
        checkpoints.advance(&[], at(3, 3));
        assert_eq!(checkpoints.tell(), [at(3, 3)]);
        checkpoints.advance(&[], at(3, 4));
        assert_eq!(checkpoints.tell(), [at(3, 4)]);
        checkpoints.advance(&[], at(4, 5));
        checkpoints.advance(&[at(1024, 6)], at(1025, 7));
        assert_eq!(checkpoints.list(), [at(3, 4), at(1024, 6), at(1025, 7)]);
        for i in 1026..2000 {
            checkpoints.advance(&[], at(i, i));
            checkpoints.tell();
        }
        assert_eq!(checkpoints.list().len(), 1 + CHECKPOINTS_MAX);
        assert_eq!(checkpoints.list()[0], at(1024, 6));
    }
}
