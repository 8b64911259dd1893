//! The unit on disk: a sector of 512 bytes, written whole and once, that tells by itself whether it is whole.
//!
//! ```text
//! 0    batch number, u64                     little endian, as all numbers of the log
//! 8    payload bytes, and the flags of the first and the last sector of a batch, u16
//! 10   payload, zeros after it
//! 507  CRC-32C of the sector's place (segment and sector number) and of all bytes before
//! 511  marker, never zero
//! ```
//!
//! A write that a crash cut short leaves the zeros that were there before: wherever it stopped within a sector,
//! the marker at its end is missing. A sector with something in the place of its marker was therefore written to
//! its end, and if it is not what its checksum says, that is damage. Owns no file.

/// What disks write whole: the smallest logical sector of any disk.
pub(crate) const SECTOR_BYTES: usize = 512;
/// What of it carries records.
pub(crate) const PAYLOAD_BYTES: usize = CRC_AT - PAYLOAD_AT;

const LENGTH_AT: usize = 8;
const PAYLOAD_AT: usize = 10;
const CRC_AT: usize = 507;
const MARKER_AT: usize = 511;
/// Four bits set and four not: no two flipped bits make a zero of it.
const MARKER: u8 = 0xa5;
const FIRST: u16 = 1 << 15;
const LAST: u16 = 1 << 14;

/// One sector, as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sector<'a> {
    /// Never written.
    Empty,
    /// Not written to its end.
    Unfinished,
    Whole(Whole<'a>),
    /// Written to its end, and changed since.
    Damaged,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole<'a> {
    pub batch: u64,
    pub first: bool,
    pub last: bool,
    pub payload: &'a [u8],
}

/// Sectors that a batch of so many bytes takes.
pub(crate) fn sectors_of(payload_bytes: usize) -> u64 {
    payload_bytes.div_ceil(PAYLOAD_BYTES) as u64
}

/// Puts the sectors of a batch into `out`, which is emptied before. They are meant for `segment`, from sector
/// `at` on.
pub(crate) fn frame(out: &mut Vec<u8>, segment: u64, at: u64, batch: u64, payload: &[u8]) {
    let count = payload.len().div_ceil(PAYLOAD_BYTES);
    out.clear();
    out.resize(count * SECTOR_BYTES, 0);
    let sectors = out.chunks_exact_mut(SECTOR_BYTES);
    for (i, (sector, part)) in sectors.zip(payload.chunks(PAYLOAD_BYTES)).enumerate() {
        let mut length = part.len() as u16;
        length |= if i == 0 { FIRST } else { 0 };
        length |= if i + 1 == count { LAST } else { 0 };
        sector[..LENGTH_AT].copy_from_slice(&batch.to_le_bytes());
        sector[LENGTH_AT..PAYLOAD_AT].copy_from_slice(&length.to_le_bytes());
        sector[PAYLOAD_AT..PAYLOAD_AT + part.len()].copy_from_slice(part);
        let crc = checksum(segment, at + i as u64, &sector[..CRC_AT]);
        sector[CRC_AT..MARKER_AT].copy_from_slice(&crc.to_le_bytes());
        sector[MARKER_AT] = MARKER;
    }
}

/// Looks at the sector that was found at that place.
pub(crate) fn parse(sector: &[u8; SECTOR_BYTES], segment: u64, at: u64) -> Sector<'_> {
    if sector[MARKER_AT] == 0 {
        return if is_zero(sector) { Sector::Empty } else { Sector::Unfinished };
    }
    let crc = checksum(segment, at, &sector[..CRC_AT]).to_le_bytes();
    if sector[MARKER_AT] != MARKER || sector[CRC_AT..MARKER_AT] != crc {
        return Sector::Damaged;
    }
    let mut batch = [0; 8];
    batch.copy_from_slice(&sector[..LENGTH_AT]);
    let flags = u16::from_le_bytes([sector[LENGTH_AT], sector[LENGTH_AT + 1]]);
    let (first, last) = (flags & FIRST != 0, flags & LAST != 0);
    let length = usize::from(flags & !(FIRST | LAST));
    // Only the last sector of a batch is not full, and none is empty.
    if length == 0 || length > PAYLOAD_BYTES || (!last && length < PAYLOAD_BYTES) {
        return Sector::Damaged;
    }
    let payload = &sector[PAYLOAD_AT..PAYLOAD_AT + length];
    Sector::Whole(Whole { batch: u64::from_le_bytes(batch), first, last, payload })
}

/// The payload of a sector that is known to be whole, with whatever follows it.
pub(crate) fn payload(sector: &[u8]) -> &[u8] {
    &sector[PAYLOAD_AT..CRC_AT]
}

fn checksum(segment: u64, at: u64, content: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&segment.to_le_bytes());
    place[8..].copy_from_slice(&at.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), content)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In words, which the compiler turns into vector code: all that was never written is looked at when a log
    // is opened.
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    words.map(|word| word.iter().fold(0, |all, byte| all | byte)).all(|all| all == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(bytes: &[u8], i: usize) -> &[u8; SECTOR_BYTES] {
        bytes[i * SECTOR_BYTES..].first_chunk().expect("a whole sector")
    }

    /// What was framed is read back, but only at its own place.
    #[test]
    fn framed_batches_are_read_back() {
        for length in [1, PAYLOAD_BYTES - 1, PAYLOAD_BYTES, PAYLOAD_BYTES + 1, 3 * PAYLOAD_BYTES] {
            let content: Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
            let mut framed = Vec::new();
            frame(&mut framed, 7, 40, 9, &content);
            let count = framed.len() / SECTOR_BYTES;
            assert_eq!(count as u64, sectors_of(length));
            let mut found = Vec::new();
            for i in 0..count {
                let Sector::Whole(whole) = parse(sector(&framed, i), 7, 40 + i as u64) else {
                    panic!("sector {i} of {length} bytes")
                };
                assert_eq!((whole.batch, whole.first, whole.last), (9, i == 0, i + 1 == count));
                found.extend_from_slice(whole.payload);
                assert_eq!(parse(sector(&framed, i), 7, 41 + i as u64), Sector::Damaged);
                assert_eq!(parse(sector(&framed, i), 8, 40 + i as u64), Sector::Damaged);
            }
            assert_eq!(found, content);
        }
    }

    /// A sector cut at any byte is seen as unfinished, one with any bit changed never as whole.
    #[test]
    fn cut_and_changed_sectors() {
        let mut framed = Vec::new();
        frame(&mut framed, 1, 0, 1, b"payload");
        for length in 0..SECTOR_BYTES {
            let mut cut = *sector(&framed, 0);
            cut[length..].fill(0);
            let found = parse(&cut, 1, 0);
            assert_eq!(found, if length == 0 { Sector::Empty } else { Sector::Unfinished }, "{length}");
        }
        for bit in 0..SECTOR_BYTES * 8 {
            let mut changed = *sector(&framed, 0);
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&changed, 1, 0), Sector::Damaged, "bit {bit}");
        }
    }
}
