//! What a node's cache keeps, what it costs, and what it saves.
//!
//! Informs three decisions: what the cache keeps (docs/adr/0009-cache-policy.md), how much of it only what was
//! read again may take, and whether there is a cache at all beside RocksDB's own. Traces are drawn from fixed
//! seeds: hit rates differ from run to run by a few tenths of a point, as keys fall into other shards.
//!
//! `make bench-cache`.

#![allow(clippy::unwrap_used)]

#[path = "../src/cache.rs"]
#[allow(dead_code)]
mod cache;
#[path = "cache/policies.rs"]
mod policies;
#[path = "../src/segments.rs"]
#[allow(dead_code)]
mod segments;
#[path = "../src/stats.rs"]
#[allow(dead_code)]
mod stats;

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::Instant;

use bytes::Bytes;
use policies::{Make, Policy, Share, POLICIES};
use vaultdb_bench::{digits, KeySpace, Keys, Values};
use vaultdb_kv::{Command, Key};
use vaultdb_storage::{LogId, Lookup, Op, StateMachine, StoreOptions};

const VALUE_BYTES: usize = 100;
const KEYS: u64 = 100_000;
const KEYS_MANY: u64 = 1_000_000;
/// What an entry of these keys and values counts.
const ENTRY_BYTES: usize = 16 + VALUE_BYTES + segments::ENTRY_OVERHEAD_BYTES;
const SIZES_PERCENT: [usize; 3] = [1, 5, 10];
/// Of a cache that may be protected; with 0 it is an LRU.
const SHARES_PERCENT: [usize; 6] = [0, 50, 67, 80, 90, 95];
/// Reads that count, after as many that do not.
const READS: usize = 1_000_000;
/// Reads of one thread, and of a store, whose time is taken.
const TIMED_READS: usize = 300_000;
/// A scan of so many neighbouring keys comes after so many other reads.
const SCAN: u64 = 10_000;
const SCAN_EVERY: usize = 20_000;
/// After so many reads a hot set moves to other keys.
const SHIFT_EVERY: usize = 100_000;
const TIMED_ROUNDS: usize = 5;
const STORE_ROUNDS: usize = 2;
/// Bytes of a cache that holds all keys of any store here.
const AMPLE: usize = 1 << 30;
const PAIRS_OF_A_WRITE: u64 = 100;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keys in the order in which they are read, and whether each counts.
type Trace = Vec<(u64, bool)>;

fn drawn(zipf_theta: Option<f64>, stream: u64) -> Trace {
    let mut keys = Keys::new(&KeySpace { count: KEYS, seed: 1, zipf_theta }, stream);
    (0..2 * READS).map(|_| (keys.draw(), true)).collect()
}

/// Only the reads between the scans count: what a scan reads nobody finds again.
fn with_scans(theta: f64) -> Trace {
    let mut trace = Trace::new();
    let mut scanned = 0;
    for chunk in drawn(Some(theta), 0).chunks(SCAN_EVERY) {
        trace.extend_from_slice(chunk);
        trace.extend((0..SCAN).map(|step| ((scanned + step) % KEYS, false)));
        scanned += SCAN;
    }
    trace
}

fn shifting(theta: f64) -> Trace {
    let mut trace = drawn(Some(theta), 0);
    for (at, (key, _)) in trace.iter_mut().enumerate() {
        let moves = (at / SHIFT_EVERY) as u64;
        *key = (*key + moves * (KEYS / 7)) % KEYS;
    }
    trace
}

fn loads() -> Vec<(&'static str, Trace)> {
    vec![
        ("uniform", drawn(None, 0)),
        ("Zipf 0.8", drawn(Some(0.8), 0)),
        ("Zipf 0.99", drawn(Some(0.99), 0)),
        ("Zipf 1.1", drawn(Some(1.1), 0)),
        ("Zipf 0.99 with scans", with_scans(0.99)),
        ("Zipf 0.99, shifting", shifting(0.99)),
    ]
}

/// In percent, of the reads that count in the second half.
fn hit_rate(policy: &dyn Policy, trace: &[(u64, bool)]) -> f64 {
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let (mut hits, mut reads) = (0_u64, 0_u64);
    for (at, (key, counts)) in trace.iter().enumerate() {
        let hit = policy.read(&digits(*key), &value);
        if *counts && at >= trace.len() / 2 {
            reads += 1;
            hits += u64::from(hit);
        }
    }
    100.0 * hits as f64 / reads as f64
}

/// Nanoseconds of one read on each of so many threads, all of which read at once.
fn cost_ns(policy: &dyn Policy, threads: usize) -> f64 {
    let traces: Vec<Vec<[u8; 16]>> = (0..threads)
        .map(|thread| {
            let trace = drawn(Some(0.99), thread as u64);
            trace[..TIMED_READS].iter().map(|(key, _)| digits(*key)).collect()
        })
        .collect();
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    for key in traces.iter().flatten() {
        policy.read(key, &value);
    }
    let mut rounds: Vec<f64> = (0..TIMED_ROUNDS)
        .map(|_| {
            let barrier = Barrier::new(threads);
            let run = |trace: &Vec<[u8; 16]>| {
                barrier.wait();
                let began = Instant::now();
                for key in trace {
                    black_box(policy.read(key, &value));
                }
                began.elapsed().as_secs_f64() * 1e9 / trace.len() as f64
            };
            std::thread::scope(|scope| {
                let running: Vec<_> = traces.iter().map(|trace| scope.spawn(|| run(trace))).collect();
                running.into_iter().map(|thread| thread.join().unwrap()).fold(0.0, f64::max)
            })
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn print_hit_rates() {
    println!("Hits in percent of the reads, {KEYS} keys, by the share of them that fits:\n");
    let names: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
    println!("| load | fits | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for (load, trace) in loads() {
        for percent in SIZES_PERCENT {
            let bytes = KEYS as usize * percent / 100 * ENTRY_BYTES;
            let cells: Vec<_> = POLICIES
                .iter()
                .map(|(_, make): &(_, Make)| format!("{:.1}", hit_rate(&*make(bytes), &trace)))
                .collect();
            println!("| {load} | {percent} % | {} |", cells.join(" | "));
        }
    }
}

fn print_shares() {
    println!("\nHits in percent, by the share that only what was read again may take, without shards:\n");
    let names: Vec<_> = SHARES_PERCENT.iter().map(|share| format!("{share} %")).collect();
    println!("| load | fits | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for (load, trace) in loads() {
        for percent in SIZES_PERCENT {
            let bytes = KEYS as usize * percent / 100 * ENTRY_BYTES;
            let rate = |share: &usize| format!("{:.1}", hit_rate(&Share::new(bytes, *share), &trace));
            let cells: Vec<_> = SHARES_PERCENT.iter().map(rate).collect();
            println!("| {load} | {percent} % | {} |", cells.join(" | "));
        }
    }
}

fn print_costs() {
    println!(
        "\nNanoseconds of one read, Zipf 0.99, median of {TIMED_ROUNDS} rounds of {TIMED_READS} reads:\n"
    );
    println!(
        "| policy | all hit, 1 thread | all hit, 2 threads | 10 % fit, 1 thread | 10 % fit, 2 threads |"
    );
    println!("|---|---|---|---|---|");
    for (name, make) in POLICIES {
        let mut cells = Vec::new();
        for percent in [400, 10] {
            for threads in [1, 2] {
                let policy = make(KEYS as usize * percent / 100 * ENTRY_BYTES);
                cells.push(format!("{:.0}", cost_ns(&*policy, threads)));
            }
        }
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// Writes every key once, as entries of the log would.
fn fill(store: &StateMachine, keys: u64) {
    let values = Values::new(1, VALUE_BYTES);
    let mut value = Vec::new();
    for (index, first) in (0..keys).step_by(PAIRS_OF_A_WRITE as usize).enumerate() {
        let pairs = (first..first + PAIRS_OF_A_WRITE)
            .map(|key| {
                values.write(key, &mut value);
                (key_of(key), Bytes::copy_from_slice(&value))
            })
            .collect();
        let log_id = LogId { term: 1, index: index as u64 };
        store.apply(&[(log_id, Op::Command(Command::Set { pairs }.into()))]).unwrap();
    }
}

fn key_of(key: u64) -> Key {
    Key::new(Bytes::copy_from_slice(&digits(key))).unwrap()
}

/// Nanoseconds of one read, and how many of a hundred needed the disk.
fn store_ns(store: &StateMachine, keys: u64, zipf_theta: Option<f64>) -> (f64, f64) {
    let mut drawn = Keys::new(&KeySpace { count: keys, seed: 2, zipf_theta }, 0);
    let mut rounds = Vec::new();
    let mut from_disk = 0_u64;
    // The first round is not counted: it brings in what is read often.
    for _ in 0..=STORE_ROUNDS {
        from_disk = 0;
        // Other keys each time: a cache must not look good for holding what one trace reads.
        let trace: Vec<Key> = (0..TIMED_READS).map(|_| key_of(drawn.draw())).collect();
        let began = Instant::now();
        for key in &trace {
            match store.try_get(key).unwrap() {
                Lookup::Ready(found) => assert!(black_box(found).is_some()),
                Lookup::NeedsDisk => {
                    from_disk += 1;
                    assert!(black_box(store.get(key).unwrap()).is_some());
                }
            }
        }
        rounds.push(began.elapsed().as_secs_f64() * 1e9 / trace.len() as f64);
    }
    rounds.remove(0);
    rounds.sort_by(f64::total_cmp);
    (rounds[rounds.len() / 2], 100.0 * from_disk as f64 / TIMED_READS as f64)
}

fn print_savings() {
    println!(
        "\nNanoseconds of one read of a store, and how often it needed the disk, by where the values are:\n"
    );
    println!("| keys | values in | uniform | | Zipf 0.99 | |\n|---|---|---|---|---|---|");
    let line = |store: &StateMachine, keys: u64, place: &str| {
        let cells: Vec<_> = [None, Some(0.99)]
            .iter()
            .map(|theta| {
                let (ns, disk) = store_ns(store, keys, *theta);
                format!("{ns:.0} | {disk:.0} %")
            })
            .collect();
        println!("| {keys} | {place} | {} |", cells.join(" | "));
    };
    let open = |dir: &Path, cache_bytes, block_cache_bytes| {
        let options = StoreOptions { cache_bytes, block_cache_bytes, ..StoreOptions::default() };
        StateMachine::open(dir, options).unwrap()
    };
    for keys in [KEYS, KEYS_MANY] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = open(dir.path(), 0, AMPLE);
        fill(&store, keys);
        if keys == KEYS {
            line(&store, keys, "RocksDB's memtable and the stage before it");
        }
        store.flush().unwrap();
        drop(store);
        for (place, cache_bytes, block_cache_bytes) in [
            ("the node's cache, which holds all", AMPLE, AMPLE),
            ("RocksDB's block cache, which holds all", 0, AMPLE),
            ("the defaults: 64 MiB of each", 64 << 20, 64 << 20),
            ("32 MiB of the node's, 96 of RocksDB's", 32 << 20, 96 << 20),
            ("16 MiB of the node's, 112 of RocksDB's", 16 << 20, 112 << 20),
            ("128 MiB of RocksDB's alone", 0, 128 << 20),
            ("64 MiB of RocksDB's alone", 0, 64 << 20),
            ("neither: files that the kernel keeps in memory", 0, 1 << 20),
        ] {
            let store = open(dir.path(), cache_bytes, block_cache_bytes);
            for key in 0..keys {
                store.get(&key_of(key)).unwrap();
            }
            line(&store, keys, place);
        }
    }
}

fn main() {
    print_hit_rates();
    print_shares();
    print_costs();
    print_savings();
}
