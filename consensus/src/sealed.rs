//! Small files of a data directory that people may read: JSON with a checksum of what it says, replaced as a whole.
//!
//! A file without a checksum is one of an older version and taken as it is.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::Value;
use vaultdb_storage::{write_atomic, StorageError};

/// CRC-32 over the compact JSON of everything else, in hexadecimal.
const CHECKSUM: &str = "crc32";

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) enum SealedError {
    Io(io::Error),
    /// It is not what was written.
    Damaged(String),
}

/// Replaces `dir/name`; durable when this returns.
pub(crate) fn save<T: Serialize>(dir: &Path, name: &str, content: &T) -> Result<(), StorageError> {
    let mut value = serde_json::to_value(content).expect("plain data is always JSON");
    let crc32 = checksum(&value);
    if let Value::Object(fields) = &mut value {
        fields.insert(CHECKSUM.to_owned(), Value::String(crc32));
    }
    write_atomic(dir, name, format!("{value:#}\n").as_bytes())
}

/// What is in `dir/name`; `None` when there is no such file.
pub(crate) fn load<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, SealedError> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => open(&bytes).map(Some).map_err(SealedError::Damaged),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SealedError::Io(e)),
    }
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let stored = value.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
    let expected = Value::String(checksum(&value));
    if stored.is_some_and(|stored| stored != expected) {
        return Err("its checksum is another one".to_owned());
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn checksum(value: &Value) -> String {
    format!("{:08x}", crc32fast::hash(value.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Content {
        zone: String,
        a: Option<u64>,
        list: Vec<u64>,
    }

    /// No flipped bit makes it say something else, and what an older version wrote is read.
    #[test]
    fn sealed_against_flipped_bits() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content { zone: "z\u{e9}".into(), a: Some(7), list: vec![1, 2] };
        assert!(load::<Content>(dir.path(), "f").unwrap().is_none());
        save(dir.path(), "f", &content).unwrap();
        let whole = std::fs::read(dir.path().join("f")).unwrap();
        assert_eq!(open::<Content>(&whole).as_ref(), Ok(&content));
        for place in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[place / 8] ^= 1 << (place % 8);
            // White space may become other white space.
            if let Ok(read) = open::<Content>(&flipped) {
                assert_eq!(read, content, "bit {place}");
            }
        }
        let old = br#"{"zone":"old","a":null,"list":[]}"#;
        assert_eq!(open::<Content>(old).unwrap().zone, "old");
    }
}
