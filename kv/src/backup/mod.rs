//! The format of a backup: the keys of one revision as a stream that tells whether it is whole.
//!
//! docs/backup-format.md describes it for other programs. Encoding and decoding only: whoever reads or
//! writes the bytes is elsewhere.

mod decode;
mod encode;
mod header;

pub use decode::{BackupDamage, BackupDecoder, Piece, Record};
pub use encode::{encode_record, BackupEncoder};
pub use header::BackupHeader;

/// Begins every backup; the last byte is the version of the format.
pub const MAGIC: [u8; 16] = *b"VaultDB backup\n\x01";

/// Kind of a frame: first the header, then any number of blocks, then the trailer.
const HEADER: u8 = b'H';
const BLOCK: u8 = b'B';
const TRAILER: u8 = b'T';
/// Kind and length of what follows.
const FRAME_HEAD_BYTES: usize = 1 + 4;
/// CRC-32C of the frame up to here.
const CHECKSUM_BYTES: usize = 4;
/// Most bytes of a header.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a block: one item of the largest value that a node can be configured for, or many small ones.
const BLOCK_BYTES_MAX: usize = 17 << 20;
/// Lengths of key and value, revision.
const RECORD_HEAD_BYTES: usize = 2 + 4 + 8;
const SHA256_BYTES: usize = 32;
/// Keys, bytes before the trailer, SHA-256 of these bytes.
const TRAILER_BYTES: usize = 8 + 8 + SHA256_BYTES;

/// What a whole backup turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    pub keys: u64,
    /// Bytes of the whole backup.
    pub bytes: u64,
    /// SHA-256 of all before the trailer, in hexadecimal digits.
    pub sha256: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
