//! What a run of entries does to the state, worked out before anything is written.
//!
//! Deterministic: depends on the state and the entries only, so that every node gives the same answers.

use hashbrown::hash_map::Entry;
use vaultdb_kv::{
    Applied, ApplyResult, Command, Condition, Guarded, Key, MemberAddr, NodeId, Revision, Value, Write,
};

use crate::attempts::{AttemptChanges, AttemptLimits};
use crate::chain::{Checkpoint, Checkpoints};
use crate::engine::{Changes, Meta, Registration};
use crate::error::StorageError;
use crate::types::{LogId, Op};

/// Works out `run`, one answer an entry. `stored` tells a key's revision in the state before the run.
///
/// # Errors
/// [`StorageError::OutOfOrder`] if an entry does not follow the one before, and what `stored` fails with.
pub(crate) fn evaluate<'a>(
    meta: &Meta,
    limits: &AttemptLimits,
    run: &'a [(LogId, Op)],
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<(Changes<'a>, Vec<Applied>), StorageError> {
    let mut changes = Changes {
        revision: meta.applied.revision,
        last_node_id: meta.last_node_id,
        attempts: AttemptChanges::new(&meta.attempts),
        chain: meta.chain,
        ..Changes::default()
    };
    let mut term = meta.terms.last_term();
    let mut answers = Vec::with_capacity(run.len());
    let mut previous = meta.applied.log_id;
    for (log_id, op) in run {
        if previous.is_some_and(|previous| log_id.index <= previous.index || log_id.term < previous.term) {
            return Err(StorageError::OutOfOrder { applied: previous, got: *log_id });
        }
        previous = Some(*log_id);
        changes.log_id = *log_id;
        if term.is_none_or(|term| term < log_id.term) {
            term = Some(log_id.term);
            changes.terms.push((log_id.term, log_id.index));
            changes.chain.begin_term(log_id.index);
        }
        let answer = answer(&mut changes, meta, limits, op, &stored)?;
        let elapsed_ms = changes.attempts.clock.elapsed_ms;
        changes.chain.link_entry(*log_id, op, &answer, changes.revision, elapsed_ms);
        if Checkpoints::is_due(log_id.index) {
            changes.checkpoints.push(Checkpoint { index: log_id.index, chain: changes.chain });
        }
        answers.push(answer);
    }
    Ok((changes, answers))
}

/// Does what one entry asks for.
fn answer<'a>(
    changes: &mut Changes<'a>,
    meta: &Meta,
    limits: &AttemptLimits,
    op: &'a Op,
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<Applied, StorageError> {
    let result = match op {
        Op::Blank => ApplyResult::None,
        Op::Membership(membership) => {
            changes.membership = Some((changes.log_id, membership.clone()));
            ApplyResult::None
        }
        Op::Command(command) => match &**command {
            Command::Set { pairs } => set(changes, pairs),
            Command::Delete { key } => delete(changes, key, &stored)?,
            Command::RegisterNode { name, instance, addr } => {
                ApplyResult::NodeRegistered { id: register(changes, meta, name, instance, addr) }
            }
            Command::AdvanceRevision { by } => {
                changes.revision = changes.revision.saturating_add(*by);
                ApplyResult::None
            }
            Command::Guarded(guarded) => return guard(changes, meta, limits, guarded, &stored),
        },
    };
    Ok(Applied { revision: changes.revision, result })
}

/// A write with a name is answered as it was the first time; one that is new, or has none, is done if its
/// conditions hold.
fn guard<'a>(
    changes: &mut Changes<'a>,
    meta: &Meta,
    limits: &AttemptLimits,
    guarded: &'a Guarded,
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<Applied, StorageError> {
    let Some(attempt) = &guarded.attempt else { return write_if(changes, guarded, stored) };
    let LogId { term, index } = changes.log_id;
    changes.attempts.tick(&meta.attempts, limits, term, attempt.leader_ms);
    match changes.attempts.find(&meta.attempts, attempt) {
        Some(record) if record.fingerprint == attempt.fingerprint => Ok(record.answer.clone()),
        Some(_) => Ok(Applied { revision: changes.revision, result: ApplyResult::AttemptReused }),
        None => {
            let answer = write_if(changes, guarded, stored)?;
            changes.attempts.keep(&meta.attempts, limits, index, attempt, &answer);
            Ok(answer)
        }
    }
}

fn write_if<'a>(
    changes: &mut Changes<'a>,
    guarded: &'a Guarded,
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<Applied, StorageError> {
    let failed = match &guarded.write {
        // Without a condition nothing needs to be looked up.
        _ if guarded.conditions.is_empty() => None,
        Write::Set { pairs } => {
            let keys = pairs.iter().map(|(key, _)| key);
            failed_condition(changes, &guarded.conditions, keys, &stored)?
        }
        Write::Delete { key } => {
            failed_condition(changes, &guarded.conditions, std::iter::once(key), &stored)?
        }
    };
    let result = match (failed, &guarded.write) {
        (Some(result), _) => result,
        (None, Write::Set { pairs }) => set(changes, pairs),
        (None, Write::Delete { key }) => delete(changes, key, &stored)?,
    };
    Ok(Applied { revision: changes.revision, result })
}

/// The answer to a write of which a condition does not hold as of this point of the run.
fn failed_condition<'k>(
    changes: &Changes<'_>,
    conditions: &[Condition],
    keys: impl Iterator<Item = &'k Key>,
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<Option<ApplyResult>, StorageError> {
    for key in keys {
        let current = match changes.data.get(key) {
            Some(touched) => touched.map(|(revision, _)| revision),
            None => stored(key.as_bytes())?,
        };
        if !conditions.iter().all(|condition| condition.holds(current)) {
            return Ok(Some(ApplyResult::ConditionFailed { current }));
        }
    }
    Ok(None)
}

fn set<'a>(changes: &mut Changes<'a>, pairs: &'a [(Key, Value)]) -> ApplyResult {
    changes.revision += 1;
    let revision: Revision = changes.revision;
    for (key, value) in pairs {
        changes.data.insert(key, Some((revision, value)));
    }
    ApplyResult::Set
}

fn delete<'a>(
    changes: &mut Changes<'a>,
    key: &'a Key,
    stored: impl Fn(&[u8]) -> Result<Option<Revision>, StorageError>,
) -> Result<ApplyResult, StorageError> {
    let existed = match changes.data.entry(key) {
        // Touched earlier in this run.
        Entry::Occupied(mut touched) => touched.insert(None).is_some(),
        Entry::Vacant(untouched) => {
            let existed = stored(key.as_bytes())?.is_some();
            untouched.insert(None);
            existed
        }
    };
    changes.revision += 1;
    Ok(ApplyResult::Deleted { existed })
}

/// A request that repeats an earlier one is given the same id; a node that lost its disk, which has a
/// new instance, the next one. Ids are never reused.
fn register<'a>(
    changes: &mut Changes<'a>,
    meta: &Meta,
    name: &'a str,
    instance: &Option<String>,
    addr: &MemberAddr,
) -> NodeId {
    let latest = changes.registered.get(name).or_else(|| meta.registrations.get(name));
    let same_node = latest.is_some_and(|latest| match (&latest.instance, instance) {
        (Some(known), Some(asking)) => known == asking,
        // Typed by hand on one side or both: the address is all there is to go by.
        (None, _) | (_, None) => latest.addr.may_be(addr),
    });
    let registration = match latest.filter(|_| same_node) {
        Some(latest) => Registration {
            id: latest.id,
            instance: instance.clone().or_else(|| latest.instance.clone()),
            addr: MemberAddr {
                raft: addr.raft.clone(),
                http: if addr.http.is_empty() { latest.addr.http.clone() } else { addr.http.clone() },
            },
        },
        None => {
            changes.last_node_id += 1;
            Registration { id: changes.last_node_id, instance: instance.clone(), addr: addr.clone() }
        }
    };
    let id = registration.id;
    changes.registered.insert(name, registration);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(raft: &str, http: &str) -> MemberAddr {
        MemberAddr { raft: raft.into(), http: http.into() }
    }

    fn ids(requests: &[(&str, Option<&str>, MemberAddr)], runs_of: usize) -> (Vec<NodeId>, Meta) {
        let mut meta = Meta::default();
        let mut ids = Vec::new();
        let ops: Vec<(LogId, Op)> = requests
            .iter()
            .zip(1..)
            .map(|((name, instance, addr), index)| {
                let command = Command::RegisterNode {
                    name: (*name).into(),
                    instance: instance.map(Into::into),
                    addr: addr.clone(),
                };
                (LogId { term: 1, index }, Op::Command(command.into()))
            })
            .collect();
        for run in ops.chunks(runs_of) {
            let (changes, answers) =
                evaluate(&meta, &AttemptLimits::default(), run, |_| Ok(None)).expect("in order");
            meta.advance(&changes);
            ids.extend(answers.into_iter().map(|answer| match answer.result {
                ApplyResult::NodeRegistered { id } => id,
                other => panic!("not a registration: {other:?}"),
            }));
        }
        (ids, meta)
    }

    /// Repeats are harmless, a lost disk gets a new id, no id is used twice, and it makes no
    /// difference how the entries are cut into runs.
    #[test]
    fn registration_rules() {
        let (a, b) = (addr("a:1", "a:2"), addr("b:1", "b:2"));
        let requests = [
            ("n", Some("x"), a.clone()),  // first: 1
            ("n", Some("x"), a.clone()),  // repeated: 1
            ("n", Some("x"), b.clone()),  // moved to another address: 1
            ("n", None, b.clone()),       // by hand for the same address: 1
            ("n", None, addr("b:1", "")), // by hand without the HTTP address: 1
            ("n", Some("y"), b.clone()),  // disk lost: 2
            ("n", Some("x"), b.clone()),  // the old instance is another node by now: 3
            ("m", None, a.clone()),       // another name by hand: 4
            ("m", None, a.clone()),       // repeated: 4
            ("m", Some("z"), a.clone()),  // the node itself comes: adopts 4
            ("m", Some("w"), a.clone()),  // and then lost its disk: 5
            ("m", None, b.clone()),       // by hand for another address: 6
            ("m", Some("w"), a.clone()),  // latest has another address: 7
        ];
        let expected = [1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 7];
        for runs_of in [1, 2, 5, requests.len()] {
            let (ids, meta) = ids(&requests, runs_of);
            assert_eq!(ids, expected, "runs of {runs_of}");
            assert_eq!(meta.last_node_id, 7);
            let n = &meta.registrations["n"];
            assert_eq!((n.id, n.instance.as_deref(), &n.addr), (3, Some("x"), &b));
        }
    }

    /// An HTTP address once told is not forgotten because a later request left it out.
    #[test]
    fn http_address_is_kept() {
        let (ids, meta) = ids(&[("n", Some("x"), addr("a:1", "a:2")), ("n", None, addr("a:1", ""))], 1);
        assert_eq!(ids, [1, 1]);
        let n = &meta.registrations["n"];
        assert_eq!((n.instance.as_deref(), &n.addr), (Some("x"), &addr("a:1", "a:2")));
    }

    /// A delete sees what earlier entries of its own run did.
    #[test]
    fn delete_sees_its_own_run() {
        let key = |name: &'static str| Key::new(name).expect("short");
        let set = |name| Op::Command(Command::Set { pairs: vec![(key(name), Value::new())] }.into());
        let delete = |name| Op::Command(Command::Delete { key: key(name) }.into());
        let ops = [delete("a"), set("a"), delete("a"), delete("a"), delete("stored"), delete("stored")];
        let run: Vec<(LogId, Op)> =
            ops.into_iter().zip(1..).map(|(op, index)| (LogId { term: 1, index }, op)).collect();
        let stored = |key: &[u8]| Ok((key == b"stored").then_some(1));
        let (changes, answers) =
            evaluate(&Meta::default(), &AttemptLimits::default(), &run, stored).expect("in order");
        let existed: Vec<Option<bool>> = answers
            .iter()
            .map(|answer| match answer.result {
                ApplyResult::Deleted { existed } => Some(existed),
                _ => None,
            })
            .collect();
        assert_eq!(existed, [Some(false), None, Some(true), Some(false), Some(true), Some(false)]);
        assert_eq!(changes.revision, 6, "a delete of an absent key counts, too");
        assert!(changes.data.values().all(Option::is_none));
    }

    /// An entry is never applied twice.
    #[test]
    fn order_is_enforced() {
        let at = |term, index| (LogId { term, index }, Op::Blank);
        let mut meta = Meta::default();
        meta.applied.log_id = Some(LogId { term: 2, index: 5 });
        for bad in [vec![at(2, 5)], vec![at(2, 4)], vec![at(1, 6)], vec![at(2, 6), at(2, 6)]] {
            let result = evaluate(&meta, &AttemptLimits::default(), &bad, |_| Ok(None));
            assert!(matches!(result, Err(StorageError::OutOfOrder { .. })), "{bad:?}");
        }
        assert!(evaluate(&meta, &AttemptLimits::default(), &[at(2, 6), at(3, 7)], |_| Ok(None)).is_ok());
    }
}
