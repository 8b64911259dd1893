//! Our Raft log beside raft-log, in one run and in turns, on the disk that holds the build directory.
//!
//! Informs one decision: which of the two nodes use (docs/adr/0005-write-ahead-log.md). It was taken for ours,
//! and stands as long as ours is faster in every row and its longest stall no longer.
//!
//! `make bench-log`; more rounds with `cargo bench -p vaultdb-storage --bench log -- ROUNDS`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/raft_log_oracle.rs"]
mod raft_log_oracle;

use std::io;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_log_oracle::RaftLogOracle;
use vaultdb_storage::log::{LogStore, Payload};
use vaultdb_storage::{DiskLog, LogId, LogOptions};

/// A 16-byte key and a 100-byte value with what belongs to them.
const PAYLOAD_BYTES: usize = 130;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(800);
/// Appends before the clock starts.
const WARM_UP: u64 = 50;
/// Bytes of entries in the search for stalls, several times the size of any file.
const LONG_RUN_BYTES: u64 = 200 << 20;
/// Entries that stay behind the newest, as a node keeps some after a snapshot.
const KEPT: u64 = 100_000;

#[derive(Debug, Clone)]
struct Value(Bytes);

impl Payload for Value {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    fn weight(&self) -> usize {
        self.0.len() + 64
    }
}

/// One way of appending.
#[derive(Clone, Copy)]
struct Shape {
    entries: u64,
    in_flight: usize,
}

#[derive(Default)]
struct Measured {
    /// Appends a second, one for each round.
    rates: Vec<f64>,
    /// From the call to the callback, in microseconds.
    latencies_us: Vec<f64>,
}

/// Keeps so many appends in flight.
struct Driver<'a> {
    log: &'a dyn LogStore<Value>,
    shape: Shape,
    payload: Value,
    next: u64,
    answers: (Sender<Duration>, Receiver<Duration>),
    waiting: usize,
    /// Longest time that a call of `append` itself took.
    longest_call: Duration,
}

impl<'a> Driver<'a> {
    fn new(log: &'a dyn LogStore<Value>, shape: Shape) -> Self {
        let payload = Value(Bytes::from(vec![0x5a; PAYLOAD_BYTES]));
        Self { log, shape, payload, next: 1, answers: channel(), waiting: 0, longest_call: Duration::ZERO }
    }

    /// One more append; the latency of another one that is done.
    fn append(&mut self) -> Option<Duration> {
        let ids = self.next..self.next + self.shape.entries;
        self.next = ids.end;
        let entries = ids.map(|index| (LogId { term: 1, index }, self.payload.clone())).collect();
        let answer = self.answers.0.clone();
        let begun = Instant::now();
        self.log
            .append(
                entries,
                Box::new(move |result| {
                    result.unwrap();
                    answer.send(begun.elapsed()).unwrap();
                }),
            )
            .unwrap();
        self.longest_call = self.longest_call.max(begun.elapsed());
        self.waiting += 1;
        if self.waiting < self.shape.in_flight {
            return None;
        }
        self.waiting -= 1;
        Some(self.answers.1.recv().unwrap())
    }

    fn drain(&mut self) {
        for _ in 0..std::mem::take(&mut self.waiting) {
            self.answers.1.recv().unwrap();
        }
    }
}

fn ours(dir: &Path) -> Box<dyn LogStore<Value>> {
    Box::new(DiskLog::open(dir, LogOptions::default()).unwrap())
}

fn theirs(dir: &Path) -> Box<dyn LogStore<Value>> {
    Box::new(RaftLogOracle::open_tuned(dir))
}

type Open = fn(&Path) -> Box<dyn LogStore<Value>>;

fn in_new_dir<T>(run: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    run(dir.path())
}

fn measure(open: Open, shape: Shape, into: &mut Measured) {
    in_new_dir(|dir| {
        let log = open(dir);
        let mut driver = Driver::new(&*log, shape);
        for _ in 0..WARM_UP {
            driver.append();
        }
        driver.drain();
        let begun = Instant::now();
        let mut appends = 0;
        while begun.elapsed() < ROUND {
            into.latencies_us.extend(driver.append().map(|latency| latency.as_secs_f64() * 1e6));
            appends += 1;
        }
        driver.drain();
        into.rates.push(f64::from(appends) / begun.elapsed().as_secs_f64());
    });
}

/// The longest call of `append`, the longest wait for an answer, and how long it all took.
fn long_run(open: Open) -> (Duration, Duration, Duration) {
    in_new_dir(|dir| {
        let log = open(dir);
        let mut driver = Driver::new(&*log, Shape { entries: 64, in_flight: 8 });
        let mut longest = Duration::ZERO;
        let begun = Instant::now();
        while driver.next * PAYLOAD_BYTES as u64 <= LONG_RUN_BYTES {
            longest = longest.max(driver.append().unwrap_or_default());
            if driver.next % KEPT < driver.shape.entries && driver.next > 2 * KEPT {
                log.purge(LogId { term: 1, index: driver.next - KEPT }).unwrap();
            }
        }
        driver.drain();
        (driver.longest_call, longest, begun.elapsed())
    })
}

fn at(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * quantile) as usize]
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS);
    println!("appends of {PAYLOAD_BYTES}-byte entries, medians of {rounds} rounds of {ROUND:?} in turns\n");
    println!("entries  in flight |  ours/s  raft-log/s  ratio |  ours p50    p99 | raft-log p50    p99 (us)");
    for entries in [1, 16, 64] {
        for in_flight in [1, 8] {
            let shape = Shape { entries, in_flight };
            let (mut our, mut their) = (Measured::default(), Measured::default());
            for _ in 0..rounds {
                measure(ours, shape, &mut our);
                measure(theirs, shape, &mut their);
            }
            let (our_rate, their_rate) = (at(&mut our.rates, 0.5), at(&mut their.rates, 0.5));
            println!(
                "{entries:>7} {in_flight:>10} | {our_rate:>7.0} {their_rate:>11.0} {:>6.2} | {:>9.0} {:>6.0} | {:>12.0} {:>6.0}",
                our_rate / their_rate,
                at(&mut our.latencies_us, 0.5),
                at(&mut our.latencies_us, 0.99),
                at(&mut their.latencies_us, 0.5),
                at(&mut their.latencies_us, 0.99),
            );
        }
    }
    println!("\n{} MiB in appends of 64 entries, 8 in flight", LONG_RUN_BYTES >> 20);
    for _ in 0..2 {
        for (name, open) in [("ours", ours as Open), ("raft-log", theirs)] {
            let (call, answer, total) = long_run(open);
            println!(
                "{name:>9}: longest call {:>6.1} ms, longest wait for an answer {:>6.1} ms, {:.1} s in all",
                call.as_secs_f64() * 1e3,
                answer.as_secs_f64() * 1e3,
                total.as_secs_f64()
            );
        }
    }
}
