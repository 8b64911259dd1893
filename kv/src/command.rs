//! What the log replicates, and what applying it answers.
//!
//! Commands are stored on disk and sent between nodes in a positional codec: new variants and fields
//! go to the end, and the frame around them carries a format version.

use serde::{Deserialize, Serialize};

use crate::guard::{Guarded, Write};
use crate::key::{Key, Value};
use crate::member::{MemberAddr, NodeId};
use crate::Revision;

/// One replicated change of the state machine. Cheap to clone: keys and values share their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets every pair in one atomic write; of two pairs with one key the later wins.
    Set { pairs: Vec<(Key, Value)> },
    /// Removes a key; removing an absent key succeeds.
    Delete { key: Key },
    /// Allots a node id to `name`. Ids are never reused; the same `instance` is given the same id
    /// again, so that a repeated request is harmless.
    RegisterNode {
        name: String,
        /// Drawn at random by a data directory when it is made; `None` in a request typed by hand.
        instance: Option<String>,
        addr: MemberAddr,
    },
    /// A write under conditions, or with a name by which its repetition is known.
    Guarded(Box<Guarded>),
    /// Lets revisions go on `by` further up. Begins a cluster that was forced from one survivor's data, so
    /// that no revision is given to a second write.
    AdvanceRevision { by: u64 },
}

impl Command {
    /// Whether it sets a value, if its condition holds: what a node refuses while its disk is nearly full.
    /// Everything else makes room, or is what a cluster cannot do without.
    pub fn grows(&self) -> bool {
        match self {
            Command::Set { .. } => true,
            Command::Guarded(guarded) => match guarded.write {
                Write::Set { .. } => true,
                Write::Delete { .. } => false,
            },
            Command::Delete { .. } | Command::RegisterNode { .. } | Command::AdvanceRevision { .. } => false,
        }
    }

    /// Keys and values in bytes: what the command weighs in a queue.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Command::Set { pairs } => pairs.iter().map(|(k, v)| k.as_bytes().len() + v.len()).sum(),
            Command::Delete { key } => key.as_bytes().len(),
            Command::RegisterNode { name, instance, addr } => {
                name.len() + instance.as_ref().map_or(0, String::len) + addr.raft.len() + addr.http.len()
            }
            Command::Guarded(guarded) => guarded.payload_bytes(),
            Command::AdvanceRevision { .. } => size_of::<u64>(),
        }
    }
}

/// The answer to an applied command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Revision of the state right after this command. Entries that change no data (a membership
    /// change, a registration) leave it where it was.
    pub revision: Revision,
    pub result: ApplyResult,
}

/// What is particular to a kind of command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyResult {
    /// An entry without a command of ours: a leader's first entry or a membership change.
    None,
    Set,
    Deleted {
        /// Whether the key was there.
        existed: bool,
    },
    NodeRegistered {
        id: NodeId,
    },
    /// A condition did not hold: nothing was changed.
    ConditionFailed {
        /// Revision of the first key of which it did not hold; `None` when that key is absent.
        current: Option<Revision>,
    },
    /// The idempotency key belongs to another request: nothing was changed.
    AttemptReused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Condition, IdempotencyKey};

    /// Only what sets a value grows, with or without a condition.
    #[test]
    fn what_grows() {
        let key = Key::new("k").expect("key");
        let guarded = |write| Command::Guarded(Box::new(Guarded::new(write, vec![Condition::Present], None)));
        assert!(Command::Set { pairs: vec![] }.grows());
        assert!(guarded(Write::Set { pairs: vec![] }).grows());
        assert!(!guarded(Write::Delete { key: key.clone() }).grows());
        assert!(!Command::Delete { key }.grows());
        assert!(!Command::AdvanceRevision { by: 1 }.grows());
    }

    /// The encoding of a command is pinned: a change of it would make old logs unreadable.
    #[test]
    fn encoding_is_pinned() {
        let key = Key::new("k").expect("key");
        let set = Command::Set { pairs: vec![(key.clone(), Value::from_static(b"v"))] };
        assert_eq!(postcard::to_stdvec(&set).expect("encode"), [0, 1, 1, b'k', 1, b'v']);
        let delete = Command::Delete { key };
        assert_eq!(postcard::to_stdvec(&delete).expect("encode"), [1, 1, b'k']);
        let register = Command::RegisterNode {
            name: "n".into(),
            instance: None,
            addr: MemberAddr { raft: "r:1".into(), http: "h:1".into() },
        };
        assert_eq!(
            postcard::to_stdvec(&register).expect("encode"),
            [2, 1, b'n', 0, 3, b'r', b':', b'1', 3, b'h', b':', b'1']
        );
        let write = Write::Delete { key: Key::new("k").expect("key") };
        let conditions = vec![Condition::Revisions(vec![5]), Condition::Absent];
        let guarded = Command::Guarded(Box::new(Guarded::new(write, conditions, None)));
        assert_eq!(postcard::to_stdvec(&guarded).expect("encode"), [3, 1, 1, b'k', 2, 0, 1, 5, 3, 0]);
        let write = Write::Set { pairs: vec![] };
        let name = IdempotencyKey::new("id").expect("visible");
        let guarded = Command::Guarded(Box::new(Guarded::new(write, vec![], Some(name))));
        let bytes = postcard::to_stdvec(&guarded).expect("encode");
        assert_eq!(bytes[..7], [3, 0, 0, 0, 1, 2, b'i']);
        // One byte for each of the hash's, then the leader's time.
        assert_eq!((bytes.len(), bytes[40]), (41, 0));
        let advance = Command::AdvanceRevision { by: 5 };
        assert_eq!(postcard::to_stdvec(&advance).expect("encode"), [4, 5]);
    }
}
