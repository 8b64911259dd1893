//! From the pages of a listing to the bytes of a backup.

use sha2::{Digest, Sha256};

use super::{BackupHeader, BLOCK, HEADER, MAGIC, RECORD_HEAD_BYTES, TRAILER, TRAILER_BYTES};
use crate::limits::KEY_BYTES_MAX;
use crate::listing::ListItem;

/// Appends a key with its value and revision to a block: what a listing that becomes a backup encodes with.
pub fn encode_record(item: &ListItem<'_>, out: &mut Vec<u8>) {
    let value = item.value.unwrap_or_default();
    let key_bytes = u16::try_from(item.key.len()).expect(KEY_FITS);
    let value_bytes = u32::try_from(value.len()).expect("a value travels in one message, far below 4 GiB");
    out.reserve(RECORD_HEAD_BYTES + item.key.len() + value.len());
    out.extend_from_slice(&key_bytes.to_be_bytes());
    out.extend_from_slice(&value_bytes.to_be_bytes());
    out.extend_from_slice(&item.revision.to_be_bytes());
    out.extend_from_slice(item.key);
    out.extend_from_slice(value);
}

const KEY_FITS: &str = "a key is at most 4 KiB";
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize, "{}", KEY_FITS);

/// Makes one backup, piece by piece, in constant memory.
#[derive(Debug, Default)]
pub struct BackupEncoder {
    hash: Sha256,
    keys: u64,
    bytes: u64,
}

impl BackupEncoder {
    /// The first bytes.
    pub fn begin(&mut self, header: &BackupHeader) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        push_frame(HEADER, &header.encode(), &mut out);
        self.count(&out);
        out
    }

    /// The next keys, in order, as [`encode_record`] wrote them. Nothing when there are none.
    pub fn block(&mut self, keys: usize, records: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if keys > 0 {
            push_frame(BLOCK, records, &mut out);
            self.count(&out);
            self.keys += keys as u64;
        }
        out
    }

    /// The last bytes. Without them it is no backup.
    pub fn end(self) -> Vec<u8> {
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(&self.keys.to_be_bytes());
        trailer.extend_from_slice(&self.bytes.to_be_bytes());
        trailer.extend_from_slice(&self.hash.finalize());
        let mut out = Vec::new();
        push_frame(TRAILER, &trailer, &mut out);
        out
    }

    fn count(&mut self, written: &[u8]) {
        self.hash.update(written);
        self.bytes += written.len() as u64;
    }
}

fn push_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let bytes = u32::try_from(payload.len()).expect("a page of a listing is far below 4 GiB");
    out.push(kind);
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(payload);
    let checksum = crc32c::crc32c(&out[begin..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}
