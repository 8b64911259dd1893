use bytes::Bytes;

use super::*;
use crate::key::{Key, Versioned};
use crate::listing::ListItem;

fn header() -> BackupHeader {
    BackupHeader {
        cluster_id: "c-1".into(),
        node: "node0".into(),
        version: "0.1.0".into(),
        revision: 9,
        term: 2,
        log_index: 12,
        created_ms: 5,
    }
}

fn records() -> Vec<Record> {
    let record = |key: &'static [u8], value: &'static [u8], revision| {
        let key = Key::new(key).expect("a key");
        (key, Versioned { value: Bytes::from_static(value), revision })
    };
    vec![record(b"\0", b"", 9), record(b"a", b"1", 3), record(b"ab", b"\xff\0", 4), record(b"\xff", b"z", 1)]
}

fn block(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, stored) in records {
        let item = ListItem { key: key.as_bytes(), value: Some(&stored.value), revision: stored.revision };
        encode_record(&item, &mut out);
    }
    out
}

/// Two blocks.
fn backup_of(header: &BackupHeader, records: &[Record]) -> Vec<u8> {
    let mut encoder = BackupEncoder::default();
    let mut out = encoder.begin(header);
    for part in records.chunks(2) {
        out.extend(encoder.block(part.len(), &block(part)));
    }
    out.extend(encoder.block(0, &[]));
    out.extend(encoder.end());
    out
}

fn decode(mut bytes: &[u8]) -> Result<(BackupHeader, Vec<Record>, BackupSummary), BackupDamage> {
    let mut decoder = BackupDecoder::default();
    let (mut header, mut records) = (None, Vec::new());
    loop {
        let (next, rest) = bytes.split_at(decoder.wants().min(bytes.len()));
        bytes = rest;
        match decoder.take(next)? {
            None => {}
            Some(Piece::Header(found)) => header = Some(found),
            Some(Piece::Block(found)) => records.extend(found),
            Some(Piece::End(summary)) if bytes.is_empty() => {
                return Ok((header.expect("comes first"), records, summary))
            }
            Some(Piece::End(_)) => return Err(decoder.cut_off(0)),
        }
    }
}

/// What was written is read, and the trailer counts it.
#[test]
fn comes_back() {
    for count in 0..=4 {
        let records = &records()[..count];
        let bytes = backup_of(&header(), records);
        let (found, keys, summary) = decode(&bytes).expect("whole");
        assert_eq!((found, keys.as_slice()), (header(), records));
        assert_eq!((summary.keys, summary.bytes), (count as u64, bytes.len() as u64));
        let before = bytes.len() - FRAME_HEAD_BYTES - TRAILER_BYTES - CHECKSUM_BYTES;
        use sha2::{Digest, Sha256};
        assert_eq!(summary.sha256, hex(&Sha256::digest(&bytes[..before])));
    }
}

/// The format is pinned: a change of it would make old backups unreadable.
#[test]
fn format_is_pinned() {
    let bytes = backup_of(&header(), &records()[1..2]);
    let text =
        "cluster_id: c-1\nnode: node0\nversion: 0.1.0\nrevision: 9\nterm: 2\nlog_index: 12\ncreated_ms: 5\n";
    assert_eq!(&bytes[..21], [&MAGIC[..], b"H\0\0\0\x5b"].concat());
    assert_eq!(&bytes[21..21 + text.len()], text.as_bytes());
    let block = &bytes[21 + text.len() + 4..];
    assert_eq!(&block[..21], b"B\0\0\0\x10\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x03a1");
    assert_eq!(&block[25..30], b"T\0\0\0\x30");
    let mut changed = bytes.clone();
    changed[15] = 2;
    let refused = decode(&changed).expect_err("another format");
    assert!(refused.reason.contains("format 2"), "{refused}");
}

/// Whatever bit is flipped and wherever it is cut, it is noticed, and where is told.
#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let whole = backup_of(&header(), &records());
    for at in 0..whole.len() {
        let refused = decode(&whole[..at]).expect_err("cut off");
        assert_eq!(refused.offset, at as u64, "{refused}");
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            let refused = decode(&flipped).expect_err("damaged");
            assert!(refused.offset <= whole.len() as u64, "{refused}");
        }
    }
    let longer = [&whole[..], b"x"].concat();
    assert_eq!(decode(&longer).expect_err("too long").offset, whole.len() as u64);
}

/// Frames whose own checksums are right still make no backup when one is left out, moved, doubled or comes
/// from another one.
#[test]
fn frames_belong_together() {
    let other = backup_of(&BackupHeader { revision: 10, ..header() }, &records());
    let whole = backup_of(&header(), &records());
    let frames = |bytes: &[u8]| {
        let mut frames = vec![bytes[..MAGIC.len()].to_vec()];
        let mut at = MAGIC.len();
        while at < bytes.len() {
            let length = u32::from_be_bytes([bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4]]);
            let end = at + FRAME_HEAD_BYTES + length as usize + CHECKSUM_BYTES;
            frames.push(bytes[at..end].to_vec());
            at = end;
        }
        frames
    };
    let (own, foreign) = (frames(&whole), frames(&other));
    assert_eq!(own.len(), 5, "magic, header, two blocks, trailer");
    for order in [[0, 1, 3, 2, 4], [0, 1, 2, 2, 4], [0, 1, 3, 3, 4], [0, 2, 1, 3, 4]] {
        let bytes: Vec<u8> = order.iter().flat_map(|i| own[*i].clone()).collect();
        assert!(decode(&bytes).is_err(), "{order:?}");
    }
    for left_out in 0..own.len() {
        let kept = own.iter().enumerate().filter(|(i, _)| *i != left_out);
        let bytes: Vec<u8> = kept.flat_map(|(_, frame)| frame.clone()).collect();
        assert!(decode(&bytes).is_err(), "{left_out}");
    }
    for swapped in [1, 4] {
        let mut mixed = own.clone();
        mixed[swapped].clone_from(&foreign[swapped]);
        assert!(decode(&mixed.concat()).is_err(), "{swapped}");
    }
}
