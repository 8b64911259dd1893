//! Keys and values: raw bytes with a length rule each.

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::BadInput;
use crate::limits::KEY_BYTES_MAX;
use crate::Revision;

/// A key: 1 to [`KEY_BYTES_MAX`] bytes, any content. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Bytes);

impl Key {
    /// Checks the length rule.
    ///
    /// # Errors
    /// [`BadInput::EmptyKey`], [`BadInput::KeyTooLarge`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, BadInput> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(BadInput::EmptyKey);
        }
        if bytes.len() > KEY_BYTES_MAX {
            return Err(BadInput::KeyTooLarge { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hashes, equals and orders as its bytes do, so that a map can be asked without making a key.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{}\")", self.0.escape_ascii())
    }
}

/// A value: raw bytes. An empty value is not an absent one.
pub type Value = Bytes;

/// A stored value and the revision of the write that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    pub value: Value,
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length rule is inclusive at both ends and names what broke it.
    #[test]
    fn key_length_rule() {
        assert_eq!(Key::new(Bytes::new()), Err(BadInput::EmptyKey));
        assert!(Key::new(vec![0xff]).is_ok());
        assert!(Key::new(vec![b'k'; KEY_BYTES_MAX]).is_ok());
        assert_eq!(
            Key::new(vec![b'k'; KEY_BYTES_MAX + 1]),
            Err(BadInput::KeyTooLarge { bytes: KEY_BYTES_MAX + 1 })
        );
    }
}
