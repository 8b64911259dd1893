//! What clients did to one key and what they were told, with times: the input of the checker.

use std::collections::BTreeMap;
use std::fmt;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Read,
    Write {
        value: String,
    },
    Delete,
    /// `If-None-Match: *`: only where the key is absent.
    Create {
        value: String,
    },
    /// `If-Match` with the tag under which `from` was read. As values are unique, the tag stands for it.
    Swap {
        from: String,
        value: String,
    },
}

impl Action {
    /// The value that it would put there.
    pub fn value(&self) -> Option<&str> {
        match self {
            Action::Write { value } | Action::Create { value } | Action::Swap { value, .. } => Some(value),
            Action::Read | Action::Delete => None,
        }
    }
}

/// What the client may conclude.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value that a read found, `None` for an absent key.
    Found(Option<String>),
    /// A write took effect.
    Done,
    /// A delete took effect; whether the key was there.
    Deleted(bool),
    /// The condition of a write did not hold: 412.
    Refused,
    /// It certainly has no effect, now or later.
    Failed(String),
    /// It may take effect at any time after it was sent, once, or never.
    Unknown(String),
}

#[derive(Debug, Clone)]
pub struct Operation {
    pub client: usize,
    pub node: usize,
    pub action: Action,
    pub answer: Answer,
    /// Just before it was sent, in nanoseconds of one monotonic clock of all clients.
    pub began_ns: u64,
    /// Just after its answer had arrived. What is unknown never ends, whatever stands here.
    pub ended_ns: u64,
}

impl Operation {
    /// Whether its effect, if it has one, must lie before [`Operation::ended_ns`].
    pub fn is_settled(&self) -> bool {
        !matches!(self.answer, Answer::Unknown(_))
    }

    /// Whether it says anything about the key: a read that failed does not, nor what was not applied.
    pub fn counts(&self) -> bool {
        match &self.answer {
            Answer::Failed(_) => false,
            Answer::Unknown(_) => self.action != Action::Read,
            Answer::Found(_) | Answer::Done | Answer::Deleted(_) | Answer::Refused => true,
        }
    }

    /// The value that it says something about.
    pub fn observed(&self) -> Option<&str> {
        match (&self.action, &self.answer) {
            (_, Answer::Found(found)) => found.as_deref(),
            (Action::Swap { from, .. }, _) => Some(from),
            _ => None,
        }
    }

    /// Whether it changes nothing, so that it only tells of the state.
    pub fn is_observation(&self) -> bool {
        matches!(self.answer, Answer::Found(_) | Answer::Refused | Answer::Deleted(false))
    }

    /// One line, with times in milliseconds from `origin_ns`.
    pub fn line(&self, origin_ns: u64) -> String {
        let ms = |ns: u64| (ns as f64 - origin_ns as f64) / 1e6;
        let end =
            if self.is_settled() { format!("{:10.3}", ms(self.ended_ns)) } else { "         ∞".into() };
        format!(
            "[{:10.3} ..{end}] client {} at node{}: {} -> {}",
            ms(self.began_ns),
            self.client,
            self.node,
            self.action,
            self.answer
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Read => f.write_str("read"),
            Action::Write { value } => write!(f, "write {value}"),
            Action::Delete => f.write_str("delete"),
            Action::Create { value } => write!(f, "write {value} if absent"),
            Action::Swap { from, value } => write!(f, "write {value} if it is {from}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Found(Some(value)) => f.write_str(value),
            Answer::Found(None) => f.write_str("absent"),
            Answer::Done => f.write_str("done"),
            Answer::Deleted(true) => f.write_str("deleted"),
            Answer::Deleted(false) => f.write_str("was absent"),
            Answer::Refused => f.write_str("condition refused"),
            Answer::Failed(why) => write!(f, "not applied ({why})"),
            Answer::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

/// What clients did, by key.
pub type Histories = BTreeMap<String, Vec<Operation>>;
