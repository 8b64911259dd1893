//! Writes under a condition or a name: compare and set, and repetition without a second effect.
//!
//! Plain data that is replicated and stored in a positional codec: fields and variants go to the end.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::command::Command;
use crate::error::BadInput;
use crate::key::{Key, Value};
use crate::limits::{CONDITION_TAGS_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use crate::Revision;

/// A change of keys, as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// As [`Command::Set`].
    Set { pairs: Vec<(Key, Value)> },
    /// As [`Command::Delete`].
    Delete { key: Key },
}

impl From<Write> for Command {
    fn from(write: Write) -> Self {
        match write {
            Write::Set { pairs } => Command::Set { pairs },
            Write::Delete { key } => Command::Delete { key },
        }
    }
}

/// What must hold of each key of a write at the moment at which it is applied (RFC 9110, section 13.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `If-Match: "3", "5"`: the key is present at one of these revisions.
    Revisions(Vec<Revision>),
    /// `If-Match: *`: the key is present.
    Present,
    /// `If-None-Match: "3", "5"`: the key is absent, or present at another revision.
    NotRevisions(Vec<Revision>),
    /// `If-None-Match: *`: the key is absent.
    Absent,
}

impl Condition {
    /// Whether it holds of a key that is at `current`, or absent.
    pub fn holds(&self, current: Option<Revision>) -> bool {
        match self {
            Condition::Revisions(any) => current.is_some_and(|current| any.contains(&current)),
            Condition::Present => current.is_some(),
            Condition::NotRevisions(none) => !current.is_some_and(|current| none.contains(&current)),
            Condition::Absent => current.is_none(),
        }
    }

    fn tags(&self) -> &[Revision] {
        match self {
            Condition::Revisions(tags) | Condition::NotRevisions(tags) => tags,
            Condition::Present | Condition::Absent => &[],
        }
    }
}

/// A client's name for one request, by which a repetition of it is known: 1 to
/// [`IDEMPOTENCY_KEY_BYTES_MAX`] visible ASCII characters. One name space for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// # Errors
    /// [`BadInput::IdempotencyKey`].
    pub fn new(key: impl Into<String>) -> Result<Self, BadInput> {
        let key = key.into();
        let ok =
            (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        if ok {
            Ok(Self(key))
        } else {
            Err(BadInput::IdempotencyKey)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SHA-256 over what a request asks for, so that a repetition is told from another request.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Fingerprint {
    /// Requests with the same effect have the same fingerprint: neither the order of pairs nor one that
    /// a later pair of the same key overrides makes a difference, nor does the order of revisions.
    pub fn of(write: &Write, conditions: &[Condition]) -> Self {
        let mut hash = Hash(Sha256::new());
        hash.bytes(b"vaultdb request 1");
        match write {
            Write::Set { pairs } => {
                let pairs: BTreeMap<&Key, &Value> = pairs.iter().map(|(key, value)| (key, value)).collect();
                hash.number(0);
                hash.number(pairs.len() as u64);
                for (key, value) in pairs {
                    hash.bytes(key.as_bytes());
                    hash.bytes(value);
                }
            }
            Write::Delete { key } => {
                hash.number(1);
                hash.bytes(key.as_bytes());
            }
        }
        hash.number(conditions.len() as u64);
        for condition in conditions {
            hash.number(match condition {
                Condition::Revisions(_) => 0,
                Condition::Present => 1,
                Condition::NotRevisions(_) => 2,
                Condition::Absent => 3,
            });
            let mut tags = condition.tags().to_vec();
            tags.sort_unstable();
            tags.dedup();
            hash.number(tags.len() as u64);
            tags.into_iter().for_each(|tag| hash.number(tag));
        }
        Self(hash.0.finalize().into())
    }
}

/// A hash over items that cannot run into each other: numbers have 8 bytes, bytes their length before them.
struct Hash(Sha256);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }
}

/// One try of a named request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub key: IdempotencyKey,
    pub fingerprint: Fingerprint,
    /// When the leader proposed it, in milliseconds of that process's monotonic clock; 0 until then.
    /// Compared only with those of the same term, which are of the same process.
    pub leader_ms: u64,
}

/// A write that takes effect under conditions, or once only, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    pub write: Write,
    /// All must hold of each key. At most two: one for `If-Match`, one for `If-None-Match`.
    pub conditions: Vec<Condition>,
    pub attempt: Option<Attempt>,
}

impl Guarded {
    /// A write with a name or without one; its fingerprint is taken here.
    pub fn new(write: Write, conditions: Vec<Condition>, key: Option<IdempotencyKey>) -> Self {
        let attempt =
            key.map(|key| Attempt { key, fingerprint: Fingerprint::of(&write, &conditions), leader_ms: 0 });
        Self { write, conditions, attempt }
    }

    /// Conditions, name and data in bytes: what it weighs in a queue.
    pub fn payload_bytes(&self) -> usize {
        let data = match &self.write {
            Write::Set { pairs } => pairs.iter().map(|(k, v)| k.as_bytes().len() + v.len()).sum(),
            Write::Delete { key } => key.as_bytes().len(),
        };
        let tags: usize = self.conditions.iter().map(|condition| condition.tags().len()).sum();
        let name = self.attempt.as_ref().map_or(0, |attempt| attempt.key.0.len() + size_of::<Attempt>());
        data + tags * size_of::<Revision>() + name
    }

    /// # Errors
    /// [`BadInput::TooManyTags`].
    pub(crate) fn check_conditions(&self) -> Result<(), BadInput> {
        match self.conditions.iter().map(|condition| condition.tags().len()).max() {
            Some(tags) if tags > CONDITION_TAGS_MAX => Err(BadInput::TooManyTags { tags }),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.to_owned()).expect("short")
    }

    fn set(pairs: &[(&str, &'static str)]) -> Write {
        let pairs = pairs.iter().map(|(k, v)| (key(k), Value::from_static(v.as_bytes())));
        Write::Set { pairs: pairs.collect() }
    }

    /// The table of RFC 9110, sections 13.1.1 and 13.1.2.
    #[test]
    fn conditions_hold_as_http_says() {
        let cases = [
            (Condition::Revisions(vec![3, 5]), Some(5), true),
            (Condition::Revisions(vec![3, 5]), Some(4), false),
            (Condition::Revisions(vec![3, 5]), None, false),
            (Condition::Present, Some(1), true),
            (Condition::Present, None, false),
            (Condition::NotRevisions(vec![3, 5]), Some(5), false),
            (Condition::NotRevisions(vec![3, 5]), Some(4), true),
            (Condition::NotRevisions(vec![3, 5]), None, true),
            (Condition::Absent, Some(1), false),
            (Condition::Absent, None, true),
        ];
        for (condition, current, holds) in cases {
            assert_eq!(condition.holds(current), holds, "{condition:?} of {current:?}");
        }
    }

    /// The same request has one fingerprint however it is written down; any other request another one.
    #[test]
    fn fingerprints_tell_requests_apart() {
        let of = |write: &Write| Fingerprint::of(write, &[]);
        let same = of(&set(&[("a", "1"), ("b", "2")]));
        assert_eq!(of(&set(&[("b", "2"), ("a", "1")])), same);
        assert_eq!(of(&set(&[("a", "0"), ("b", "2"), ("a", "1")])), same);
        let tags = |tags: &[u64]| Fingerprint::of(&set(&[("a", "1")]), &[Condition::Revisions(tags.into())]);
        assert_eq!(tags(&[3, 5]), tags(&[5, 3, 5]));
        let all = [
            same,
            of(&set(&[("a", "1")])),
            of(&set(&[("a", "2"), ("b", "1")])),
            of(&set(&[("a", "1b"), ("x", "2")])),
            of(&set(&[("ab", "")])),
            of(&set(&[("a", "b")])),
            of(&Write::Delete { key: key("a") }),
            of(&Write::Delete { key: key("ab") }),
            tags(&[]),
            tags(&[3]),
            tags(&[3, 5]),
            Fingerprint::of(&set(&[("a", "1")]), &[Condition::NotRevisions(vec![3])]),
            Fingerprint::of(&set(&[("a", "1")]), &[Condition::Absent]),
            Fingerprint::of(&set(&[("a", "1")]), &[Condition::Present]),
            Fingerprint::of(&set(&[("a", "1")]), &[Condition::Present, Condition::Absent]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
        // Stored records are compared with it: it must stay what it is.
        let pinned = format!("{:?}", of(&set(&[("a", "1")])));
        assert_eq!(pinned, "Fingerprint(b5e9..)");
    }

    #[test]
    fn idempotency_keys() {
        for good in ["a", "!~", &"k".repeat(IDEMPOTENCY_KEY_BYTES_MAX)] {
            assert_eq!(IdempotencyKey::new(good).expect("valid").as_str(), good);
        }
        for bad in ["", "a b", "\t", "\u{7f}", "\u{e9}", &"k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1)] {
            assert_eq!(IdempotencyKey::new(bad), Err(BadInput::IdempotencyKey), "{bad:?}");
        }
    }
}
