//! Every limit that a client can meet, in one place.

use crate::command::Command;
use crate::error::BadInput;
use crate::guard::Write;
use crate::key::{Key, Value};

/// Largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Largest value unless configured otherwise, in bytes.
pub const VALUE_BYTES_MAX_DEFAULT: usize = 1024 * 1024;
/// Most pairs in one atomic write.
pub const BATCH_PAIRS_MAX: usize = 128;
/// Largest sum of keys and values in one atomic write, in bytes.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Most revisions in one `If-Match` or `If-None-Match`.
pub const CONDITION_TAGS_MAX: usize = 16;
/// Default of `?timeout=`, in milliseconds.
pub const REQUEST_TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// Largest `?timeout=`, in milliseconds.
pub const REQUEST_TIMEOUT_MS_MAX: u64 = 60_000;
/// Items of a page of a listing that asks for no `?limit=`.
pub const LIST_ITEMS_DEFAULT: usize = 1_000;
/// Most items in a page of a listing.
pub const LIST_ITEMS_MAX: usize = 10_000;
/// Most bytes of keys and values in a page of a listing.
pub const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest node name, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// The limits that the configuration can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { value_bytes_max: VALUE_BYTES_MAX_DEFAULT }
    }
}

impl Limits {
    /// Refuses a command that is larger than the limits allow. Keys were checked when they were made.
    ///
    /// # Errors
    /// [`BadInput::EmptyBatch`], [`BadInput::ValueTooLarge`], [`BadInput::TooManyPairs`],
    /// [`BadInput::BatchTooLarge`], [`BadInput::TooManyTags`].
    pub fn check(&self, command: &Command) -> Result<(), BadInput> {
        let pairs = match command {
            Command::Set { pairs } => pairs,
            Command::Delete { .. } | Command::RegisterNode { .. } | Command::AdvanceRevision { .. } => {
                return Ok(())
            }
            Command::Guarded(guarded) => {
                guarded.check_conditions()?;
                match &guarded.write {
                    Write::Set { pairs } => pairs,
                    Write::Delete { .. } => return Ok(()),
                }
            }
        };
        self.check_pairs(pairs)
    }

    /// Refuses pairs that are larger than the limits allow. Keys were checked when they were made.
    ///
    /// # Errors
    /// [`BadInput::EmptyBatch`], [`BadInput::ValueTooLarge`], [`BadInput::TooManyPairs`],
    /// [`BadInput::BatchTooLarge`].
    pub fn check_pairs(&self, pairs: &[(Key, Value)]) -> Result<(), BadInput> {
        if pairs.is_empty() {
            return Err(BadInput::EmptyBatch);
        }
        if pairs.len() > BATCH_PAIRS_MAX {
            return Err(BadInput::TooManyPairs { pairs: pairs.len() });
        }
        let mut total = 0;
        for (key, value) in pairs {
            if value.len() > self.value_bytes_max {
                return Err(BadInput::ValueTooLarge { bytes: value.len(), limit: self.value_bytes_max });
            }
            total += key.as_bytes().len() + value.len();
        }
        // A single pair is bounded by its own limits, which an operator may set above the batch's.
        if pairs.len() > 1 && total > BATCH_BYTES_MAX {
            return Err(BadInput::BatchTooLarge { bytes: total });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Key;

    fn set(count: usize, value_bytes: usize) -> Command {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        let pairs =
            (0..count).map(|i| (Key::new(format!("{i:04}")).expect("short key"), value.clone())).collect();
        Command::Set { pairs }
    }

    /// Each limit admits its own value and refuses one more.
    #[test]
    fn limits_are_inclusive() {
        let limits = Limits::default();
        assert_eq!(limits.check(&set(0, 1)), Err(BadInput::EmptyBatch));
        assert_eq!(limits.check(&set(BATCH_PAIRS_MAX, 1)), Ok(()));
        assert_eq!(
            limits.check(&set(BATCH_PAIRS_MAX + 1, 1)),
            Err(BadInput::TooManyPairs { pairs: BATCH_PAIRS_MAX + 1 })
        );
        assert_eq!(limits.check(&set(1, VALUE_BYTES_MAX_DEFAULT)), Ok(()));
        assert_eq!(
            limits.check(&set(1, VALUE_BYTES_MAX_DEFAULT + 1)),
            Err(BadInput::ValueTooLarge {
                bytes: VALUE_BYTES_MAX_DEFAULT + 1,
                limit: VALUE_BYTES_MAX_DEFAULT
            })
        );
        let each = BATCH_BYTES_MAX / 4 - 4;
        assert_eq!(limits.check(&set(4, each)), Ok(()));
        assert_eq!(
            limits.check(&set(4, each + 1)),
            Err(BadInput::BatchTooLarge { bytes: BATCH_BYTES_MAX + 4 })
        );
    }
}
