//! Writers that note what they were told, and the judge that holds the cluster to it.
//!
//! Each thread writes keys of its own, so the order of the writes of a key is known. An acknowledged write
//! must be there; a definite failure must never appear; an unknown one may do either, at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::http::{Client, Failure, Request};
use super::wait::{eventually, eventually_ok};

/// Writes to one node before a writer moves on to the next.
const STAY_WRITES: u64 = 16;
/// Rest after a failure: a refused connection costs no time of its own.
const FAILED_REST: Duration = Duration::from_millis(10);
/// How much longer than its own timeout a request may take before the writer gives up on it.
const ANSWER_GRACE: Duration = Duration::from_secs(4);
/// Longest wait for one verifying read to be answered by a healthy cluster.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// Readers that verify at the same time.
const VERIFY_THREADS: usize = 4;
/// Keys that are compared on every node.
const SAMPLE_KEYS_MAX: usize = 200;

/// What a writer may conclude from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Acked {
        revision: u64,
    },
    /// The answer says `applied: "no"`.
    Definite {
        status: u16,
        code: String,
    },
    /// It never left the client.
    NotSent,
    Unknown {
        why: String,
    },
}

#[derive(Debug, Clone)]
pub struct Write {
    pub key: String,
    pub value: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// First part of every key.
    pub prefix: String,
    pub threads: usize,
    /// Rest after each write, so that a round stays small enough to be verified.
    pub rest: Duration,
    /// `?timeout=` of each write.
    pub timeout: Duration,
}

impl LoadPlan {
    pub fn new(prefix: &str, threads: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            threads,
            rest: Duration::from_millis(2),
            timeout: Duration::from_secs(5),
        }
    }
}

/// A running load.
pub struct Load {
    over: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    writers: Vec<JoinHandle<History>>,
}

impl Load {
    pub fn start(ports: &[u16], plan: &LoadPlan) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let writers = (0..plan.threads)
            .map(|thread| {
                let (over, acked) = (over.clone(), acked.clone());
                let (ports, plan) = (ports.to_vec(), plan.clone());
                thread::spawn(move || write(thread, &ports, &plan, &over, &acked))
            })
            .collect();
        Self { over, acked, writers }
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits for `more` further acknowledgements.
    pub fn wait_acked(&self, more: u64, limit: Duration) {
        let goal = self.acked() + more;
        eventually(&format!("{more} more writes are acknowledged"), limit, || match self.acked() {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        });
    }

    /// Ends the writers and collects what they were told.
    pub fn stop(mut self) -> History {
        self.over.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for writer in self.writers.drain(..) {
            history.absorb(writer.join().expect("a writer does not panic"));
        }
        history
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn write(thread: usize, ports: &[u16], plan: &LoadPlan, over: &AtomicBool, acked: &AtomicU64) -> History {
    let mut history = History::default();
    let mut clients: Vec<Client> = ports.iter().map(|port| Client::new(*port)).collect();
    let mut at = thread % ports.len();
    let mut sequence = 0;
    while !over.load(Ordering::Relaxed) {
        // Every fourth write gives the key before it a second value.
        let key = format!("{}-{thread}-{}", plan.prefix, sequence - u64::from(sequence % 4 == 3));
        let value = format!("{key}={sequence}");
        let request = request(&key, &value, sequence, plan.timeout);
        let outcome = judge_answer(clients[at].send(&request), &mut history.surprises);
        let mut rest = plan.rest;
        match outcome {
            Outcome::Acked { .. } => {
                acked.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Definite { .. } | Outcome::NotSent | Outcome::Unknown { .. } => {
                at = (at + 1) % ports.len();
                rest = rest.max(FAILED_REST);
            }
        }
        history.writes.push(Write { key, value, outcome });
        sequence += 1;
        if sequence % STAY_WRITES == 0 {
            at = (at + 1) % ports.len();
        }
        thread::sleep(rest);
    }
    history.check_own_revisions();
    history
}

/// Both routes that write one key, in turn.
fn request(key: &str, value: &str, sequence: u64, timeout: Duration) -> Request {
    let query = format!("timeout={}ms", timeout.as_millis());
    let request = if sequence & 1 == 0 {
        Request::put(format!("/v1/kv/{key}?{query}"), value)
    } else {
        Request::post(format!("/key?{query}"), serde_json::json!({ key: value }).to_string())
    };
    request.limit(timeout + ANSWER_GRACE)
}

/// Sorts an answer, and notes what the contract does not allow.
pub fn judge_answer(answer: Result<super::Response, Failure>, surprises: &mut Vec<String>) -> Outcome {
    let response = match answer {
        Ok(response) => response,
        Err(Failure::NotSent(_)) => return Outcome::NotSent,
        Err(Failure::Lost(why)) => return Outcome::Unknown { why },
    };
    if response.status == 200 {
        if let Some(revision) = response.json()["revision"].as_u64() {
            return Outcome::Acked { revision };
        }
    }
    let (status, code, applied) = (response.status, response.code(), response.applied());
    let allowed = match (status, code.as_str()) {
        (503, "no_leader" | "starting") | (429, "overloaded") => applied == "no",
        (504, "outcome_unknown") => applied == "unknown",
        _ => false,
    };
    if !allowed {
        surprises.push(format!("a write was answered {status}: {}", response.text()));
    }
    if applied == "no" {
        Outcome::Definite { status, code }
    } else {
        Outcome::Unknown { why: format!("{status} {code}") }
    }
}

/// What the writers were told.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The writes of one key stand in the order in which they were made.
    pub writes: Vec<Write>,
    /// Answers that the contract does not allow.
    pub surprises: Vec<String>,
}

impl History {
    pub fn absorb(&mut self, other: History) {
        self.writes.extend(other.writes);
        self.surprises.extend(other.surprises);
    }

    pub fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.writes.iter().filter(|write| wanted(&write.outcome)).count()
    }

    pub fn acked(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Acked { .. }))
    }

    /// One line: how many writes ended how.
    pub fn summary(&self) -> String {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for write in &self.writes {
            let kind = match &write.outcome {
                Outcome::Acked { .. } => "acknowledged".to_owned(),
                Outcome::Definite { status, code } => format!("not applied ({status} {code})"),
                Outcome::NotSent => "not sent".to_owned(),
                Outcome::Unknown { why } if why.starts_with("504") => "unknown (504)".to_owned(),
                Outcome::Unknown { .. } => "unknown (answer lost)".to_owned(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        format!("{} writes: {kinds:?}", self.writes.len())
    }

    /// One thread's acknowledged writes follow each other, so their revisions must grow.
    fn check_own_revisions(&mut self) {
        let mut last = 0;
        for write in &self.writes {
            if let Outcome::Acked { revision } = write.outcome {
                if revision <= last {
                    self.surprises.push(format!(
                        "{} was acknowledged with revision {revision} after {last}",
                        write.value
                    ));
                }
                last = revision;
            }
        }
    }

    /// Panics unless every key holds what its writers were told, read linearizably through `ports`.
    pub fn verify(&self, ports: &[u16]) {
        assert!(self.surprises.is_empty(), "against the contract: {:#?}", self.surprises);
        self.check_revisions_unique();
        let keys = self.by_key();
        let names: Vec<&str> = keys.keys().copied().collect();
        let share = names.len().div_ceil(VERIFY_THREADS).max(1);
        let complaints: Vec<String> = thread::scope(|scope| {
            let readers: Vec<_> = names
                .chunks(share)
                .enumerate()
                .map(|(i, names)| {
                    let (keys, port) = (&keys, ports[i % ports.len()]);
                    scope.spawn(move || {
                        let mut client = Client::new(port);
                        names
                            .iter()
                            .filter_map(|key| judge(&keys[key], read(&mut client, key).as_deref()).err())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            readers.into_iter().flat_map(|r| r.join().expect("a reader does not panic")).collect()
        });
        assert!(
            complaints.is_empty(),
            "{} of {} keys are wrong ({}):\n{}",
            complaints.len(),
            names.len(),
            self.summary(),
            complaints.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
        );
    }

    /// Panics unless a sample of the keys reads the same, stale, on each of `ports`.
    pub fn verify_same(&self, ports: &[u16]) {
        let keys = self.by_key();
        let step = keys.len().div_ceil(SAMPLE_KEYS_MAX).max(1);
        let mut clients: Vec<Client> = ports.iter().map(|port| Client::new(*port)).collect();
        for key in keys.keys().step_by(step) {
            let seen: Vec<_> =
                clients.iter_mut().map(|c| read_at(c, key, "stale").expect("a stale read")).collect();
            assert!(seen.windows(2).all(|two| two[0] == two[1]), "{key} differs between nodes: {seen:?}");
        }
    }

    fn by_key(&self) -> BTreeMap<&str, Vec<&Write>> {
        let mut keys: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
        for write in &self.writes {
            keys.entry(&write.key).or_default().push(write);
        }
        // What never left its writer needs no reading.
        keys.retain(|_, writes| writes.iter().any(|write| write.outcome != Outcome::NotSent));
        keys
    }

    /// Each write has a revision to itself.
    fn check_revisions_unique(&self) {
        let mut seen = BTreeSet::new();
        for write in &self.writes {
            if let Outcome::Acked { revision } = write.outcome {
                assert!(
                    seen.insert(revision),
                    "revision {revision} was given twice, also to {}",
                    write.value
                );
            }
        }
    }
}

/// Whether `found` is a state that the answers to these writes of one key allow.
///
/// # Errors
/// What they do not allow.
pub fn judge(writes: &[&Write], found: Option<&str>) -> Result<(), String> {
    let key = &writes[0].key;
    let last_acked = writes.iter().rev().find(|w| matches!(w.outcome, Outcome::Acked { .. }));
    let Some(found) = found else {
        return match last_acked {
            Some(write) => Err(format!("{key}: {:?} was acknowledged and is lost", write.value)),
            None => Ok(()),
        };
    };
    let Some(origin) = writes.iter().find(|write| write.value == found) else {
        return Err(format!("{key} holds {found:?}, which nobody wrote"));
    };
    match &origin.outcome {
        // Whatever is unknown may take effect at any time, also after later writes.
        Outcome::Unknown { .. } => Ok(()),
        Outcome::Acked { .. } if last_acked.is_some_and(|last| last.value == found) => Ok(()),
        Outcome::Acked { .. } => Err(format!(
            "{key} holds {found:?}, but {:?} was acknowledged after it",
            last_acked.map(|write| &write.value)
        )),
        outcome @ (Outcome::Definite { .. } | Outcome::NotSent) => {
            Err(format!("{key} holds {found:?}, which was answered {outcome:?}"))
        }
    }
}

/// Reads one key linearizably; repeats what a healthy cluster may refuse for a moment.
fn read(client: &mut Client, key: &str) -> Option<String> {
    let answer = eventually_ok(READ_LIMIT, || read_at(client, key, "linearizable"));
    answer.unwrap_or_else(|reason| panic!("{key} cannot be read: {reason}"))
}

fn read_at(client: &mut Client, key: &str, consistency: &str) -> Result<Option<String>, String> {
    let request = Request::get(format!("/v1/kv/{key}?consistency={consistency}"));
    let response = client.send(&request).map_err(|failure| failure.to_string())?;
    match response.status {
        200 => Ok(Some(response.text())),
        404 if response.code() == "key_not_found" => Ok(None),
        other => Err(format!("{other} {}", response.text())),
    }
}
