//! Registers with one writer and many readers, checked while they run: a linearizable read never returns
//! less than what was acknowledged, or returned to anyone, before it began.
//!
//! Each write raises its register's number. After a write of unknown outcome the writer leaves the register
//! and takes a fresh one, because that write may take effect at any later time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::http::{Client, Failure, Request};
use super::load::judge_answer;
use super::Outcome;

/// `?timeout=` of each request.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for an answer: a paused node gives none.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Rest after each request.
const REST: Duration = Duration::from_millis(2);
/// Rest after a failure.
const FAILED_REST: Duration = Duration::from_millis(20);
/// Requests to one node before the next.
const STAY: u64 = 5;

#[derive(Default)]
struct Register {
    key: String,
    acked: AtomicU64,
    /// Highest number that a finished read returned.
    read: AtomicU64,
    /// Every number that was ever returned.
    returned: Mutex<BTreeSet<u64>>,
    /// Numbers whose write was certainly not applied.
    refused: Mutex<BTreeSet<u64>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    violations: Mutex<Vec<String>>,
}

pub struct Registers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// All registers of each writer; the last is the current one.
    registers: Vec<Arc<Mutex<Vec<Arc<Register>>>>>,
}

impl Registers {
    /// Starts `writers` registers with two readers each.
    pub fn start(ports: &[u16], writers: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        let mut registers = Vec::new();
        for writer in 0..writers {
            let mine = Arc::new(Mutex::new(vec![register(writer, 0)]));
            for reader in 0..2 {
                let (shared, mine, ports) = (shared.clone(), mine.clone(), ports.to_vec());
                threads.push(thread::spawn(move || read(&shared, &mine, &ports, writer + reader)));
            }
            let (shared, its, ports) = (shared.clone(), mine.clone(), ports.to_vec());
            threads.push(thread::spawn(move || write(&shared, &its, &ports, writer)));
            registers.push(mine);
        }
        Self { shared, threads, registers }
    }

    pub fn reads(&self) -> u64 {
        self.shared.reads.load(SeqCst)
    }

    pub fn writes(&self) -> u64 {
        self.shared.writes.load(SeqCst)
    }

    /// Ends the load; panics with every violation. Answers one line on what was done.
    pub fn stop(mut self) -> String {
        let violations = self.end();
        assert!(violations.is_empty(), "not linearizable: {violations:#?}");
        let count: usize = self.registers.iter().map(|all| lock(all).len()).sum();
        format!("{} reads and {} writes of {count} registers", self.reads(), self.writes())
    }

    /// Violations seen so far; the load goes on.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    /// Ends the load; answers every violation.
    pub fn end(&mut self) -> Vec<String> {
        self.shared.over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("neither a reader nor a writer panics");
        }
        let mut violations = self.violations();
        for register in self.registers.iter().flat_map(|all| lock(all).clone()) {
            let returned = lock(&register.returned).clone();
            for number in lock(&register.refused).intersection(&returned) {
                violations.push(format!("{}: {number} was refused and was read", register.key));
            }
        }
        violations
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
    }
}

fn register(writer: usize, generation: usize) -> Arc<Register> {
    Arc::new(Register { key: format!("register-{writer}-{generation}"), ..Register::default() })
}

fn current(registers: &Mutex<Vec<Arc<Register>>>) -> Arc<Register> {
    lock(registers).last().expect("there is one from the start").clone()
}

fn write(shared: &Shared, mine: &Mutex<Vec<Arc<Register>>>, ports: &[u16], first: usize) {
    let mut clients: Vec<Client> = ports.iter().map(|port| Client::new(*port)).collect();
    let (mut number, mut turn) = (0, first as u64 * STAY);
    while !shared.over.load(SeqCst) {
        number += 1;
        turn += 1;
        let register = current(mine);
        let target = format!("/v1/kv/{}?timeout={}ms", register.key, TIMEOUT.as_millis());
        let request = Request::put(target, number.to_string()).limit(ANSWER_LIMIT);
        let at = (turn / STAY) as usize % ports.len();
        let mut surprises = Vec::new();
        let outcome = judge_answer(clients[at].send(&request), &mut surprises);
        lock(&shared.violations).append(&mut surprises);
        let rest = match outcome {
            Outcome::Acked { .. } => {
                register.acked.fetch_max(number, SeqCst);
                shared.writes.fetch_add(1, SeqCst);
                REST
            }
            Outcome::Definite { .. } | Outcome::NotSent => {
                lock(&register.refused).insert(number);
                turn += STAY;
                FAILED_REST
            }
            Outcome::Unknown { .. } => {
                let mut all = lock(mine);
                let next = register_after(&all, first);
                all.push(next);
                number = 0;
                turn += STAY;
                FAILED_REST
            }
        };
        thread::sleep(rest);
    }
}

fn register_after(all: &[Arc<Register>], writer: usize) -> Arc<Register> {
    register(writer, all.len())
}

fn read(shared: &Shared, registers: &Mutex<Vec<Arc<Register>>>, ports: &[u16], first: usize) {
    let mut clients: Vec<Client> = ports.iter().map(|port| Client::new(*port)).collect();
    let mut turn = first as u64 * STAY;
    while !shared.over.load(SeqCst) {
        turn += 1;
        let at = (turn / STAY) as usize % ports.len();
        let register = current(registers);
        let least = register.acked.load(SeqCst).max(register.read.load(SeqCst));
        let target = format!("/v1/kv/{}?timeout={}ms", register.key, TIMEOUT.as_millis());
        match number(clients[at].send(&Request::get(target).limit(ANSWER_LIMIT))) {
            Ok(Some(number)) => {
                shared.reads.fetch_add(1, SeqCst);
                if number < least {
                    let port = ports[at];
                    let key = &register.key;
                    lock(&shared.violations)
                        .push(format!("{key}: {number} was read on port {port}, {least} was known before"));
                }
                register.read.fetch_max(number, SeqCst);
                lock(&register.returned).insert(number);
                thread::sleep(REST);
            }
            Ok(None) => {
                turn += STAY;
                thread::sleep(FAILED_REST);
            }
            Err(surprise) => lock(&shared.violations).push(surprise),
        }
    }
}

/// The number that was read: 0 for an absent register, `None` when the read was refused.
fn number(answer: Result<super::Response, Failure>) -> Result<Option<u64>, String> {
    let Ok(response) = answer else { return Ok(None) };
    match (response.status, response.code().as_str()) {
        (200, _) => response.text().parse().map(Some).map_err(|_| format!("read {:?}", response.text())),
        (404, "key_not_found") => Ok(Some(0)),
        (503, "no_leader" | "starting" | "behind") | (429, "overloaded") => Ok(None),
        (other, _) => Err(format!("a read was answered {other}: {}", response.text())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
