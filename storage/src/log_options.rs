//! What can be tuned of the Raft log, with the defaults and why they are what they are.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use vaultdb_kv::Faults;

use crate::disk_log::sector::SECTOR_BYTES;

/// Options of the Raft log on disk.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size of one file of the log, in bytes, of 4 KiB to 1 GiB. A file is made of zeros ahead of time,
    /// and deleted as a whole, so a larger one is more to write at once and holds purged entries longer.
    pub segment_bytes: usize,
    /// Decoded entries that are kept in memory, in bytes. Those that are not durable yet are kept besides.
    pub cache_bytes: usize,
    /// Bytes of appends that may wait for the disk before an append waits itself.
    pub queue_bytes_max: usize,
    /// Longest wait of an append for a full queue; then the log fails for good.
    pub queue_wait_max: Duration,
    /// What of the disk is to go wrong, for tests and demonstrations.
    pub faults: Arc<Faults>,
}

/// What a file of the log may measure. A place in it has 32 bits.
const SEGMENT_BYTES: RangeInclusive<usize> = 4 << 10..=1 << 30;

impl LogOptions {
    /// Sectors of one file.
    pub(crate) fn segment_sectors(&self) -> u64 {
        let bytes = self.segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        bytes.div_ceil(SECTOR_BYTES) as u64
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            cache_bytes: 8 << 20,
            queue_bytes_max: 48 << 20,
            queue_wait_max: Duration::from_secs(10),
            faults: Arc::default(),
        }
    }
}
