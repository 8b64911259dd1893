//! What the log replicates, and what applying it answers.
//!
//! Commands are stored on disk and sent between nodes in a positional codec: new variants and fields
//! go to the end, and the frame around them carries a format version.

use serde::{Deserialize, Serialize};

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
}

impl Command {
    /// Keys and values in bytes: what the command weighs in a queue.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Command::Set { pairs } => pairs.iter().map(|(k, v)| k.as_bytes().len() + v.len()).sum(),
            Command::Delete { key } => key.as_bytes().len(),
            Command::RegisterNode { name, instance, addr } => {
                name.len() + instance.as_ref().map_or(0, String::len) + addr.raft.len() + addr.http.len()
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
