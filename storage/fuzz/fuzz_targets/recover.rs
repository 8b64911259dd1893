//! Opens logs that the fuzzer thought up: no content of the files makes recovery panic, and what it accepts is whole.
//!
//! Three kinds of input, by the first byte: raw files; records of any kind in sectors whose checksums are right, for
//! no fuzzer guesses a checksum; and a true log with one damage, of which recovery must either refuse or find all.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/disk_log/mod.rs"]
mod disk_log;
#[path = "../../src/durable_fs.rs"]
mod durable_fs;
mod error;
mod input;
#[path = "../../src/log.rs"]
mod log;
#[path = "../../src/log_options.rs"]
mod log_options;
#[path = "../../src/log_rules.rs"]
mod log_rules;
#[path = "../../src/disk_log/sim_disk.rs"]
mod sim_disk;
mod truth;
#[path = "../../src/types.rs"]
mod types;

use libfuzzer_sys::fuzz_target;

use crate::disk_log::record::Facts;
use crate::disk_log::recover::recover;
use crate::error::StorageError;
use crate::input::Input;
use crate::log::Payload;
use crate::log_options::LogOptions;
use crate::sim_disk::{Image, SimDisk};
use crate::types::LogId;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob(Vec<u8>);

impl Payload for Blob {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> std::io::Result<Self> {
        Ok(Self(bytes.to_vec()))
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

/// What was found, or `None` when it was refused.
fn open(image: &Image) -> Option<(Facts, Vec<(LogId, Blob)>)> {
    let once = |disk: &SimDisk| {
        let options = LogOptions { segment_bytes: 4096, cache_bytes: usize::MAX, ..LogOptions::default() };
        match recover::<Blob>(disk, &options) {
            Ok(found) => {
                let mut entries = Vec::new();
                found.tail.copy(0..u64::MAX, usize::MAX, &mut entries);
                Some((found.tail.facts, entries))
            }
            Err(StorageError::Corrupt { .. } | StorageError::Refused { .. }) => None,
            Err(StorageError::Io { source, .. }) => panic!("this disk does not fail: {source}"),
        }
    };
    let disk = SimDisk::with(image);
    let found = once(&disk)?;
    for pair in found.1.windows(2) {
        assert_eq!(pair[0].0.index + 1, pair[1].0.index);
    }
    if let Some((id, _)) = found.1.last() {
        assert_eq!(found.0.last, Some(*id));
    }
    // What was repaired is whole, and durable.
    let again = once(&SimDisk::with(&disk.crash(|_, _| false)));
    assert_eq!(again.as_ref(), Some(&found));
    Some(found)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    match input.byte() % 4 {
        0 => drop(open(&input.raw_files())),
        1 => drop(open(&input.records())),
        _ => truth::check(&mut input),
    }
});
