//! Clients that contend for a few keys through all nodes and note every operation and its answer, for the
//! checker: reads, writes, deletes and both kinds of conditional writes, by every route that has them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::http::{Client, Failure, Request, Response};
use super::load::{judge_answer, Outcome};
use super::operations::{Action, Answer, Histories, Operation};
use super::violation::{violations, Violation};
use super::wait::eventually;

/// How much longer than its own timeout a request may take: a paused node gives no answer.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// Rest after a failure: a refused connection costs no time of its own.
const FAILED_REST: Duration = Duration::from_millis(20);
/// Most operations at one node before a client moves on.
const STAY_MAX: u64 = 8;

#[derive(Debug, Clone)]
pub struct ContentionPlan {
    /// First part of every key.
    pub prefix: String,
    pub clients: usize,
    pub keys: usize,
    /// `?consistency=` of the reads.
    pub level: String,
    /// Rest after each operation, so that a history stays small enough to be checked.
    pub rest: Duration,
    /// `?timeout=` of each request.
    pub timeout: Duration,
    pub seed: u64,
}

impl ContentionPlan {
    pub fn new(level: &str, seed: u64) -> Self {
        Self {
            prefix: "contended".to_owned(),
            clients: 8,
            keys: 4,
            level: level.to_owned(),
            rest: Duration::from_millis(5),
            timeout: Duration::from_secs(1),
            seed,
        }
    }
}

/// A running load.
pub struct Contention {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Recorder>>,
}

impl Contention {
    pub fn start(ports: &[u16], plan: &ContentionPlan) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let zero = Instant::now();
        let clients = (0..plan.clients)
            .map(|client| {
                let mut recorder = Recorder {
                    client,
                    plan: plan.clone(),
                    zero,
                    clients: ports.iter().map(|port| Client::new(*port)).collect(),
                    dice: Dice::new(plan.seed.wrapping_add(client as u64)),
                    tags: BTreeMap::new(),
                    written: 0,
                    histories: Histories::new(),
                    surprises: Vec::new(),
                };
                let (over, answered) = (over.clone(), answered.clone());
                thread::spawn(move || {
                    recorder.run(&over, &answered);
                    recorder
                })
            })
            .collect();
        Self { over, answered, clients }
    }

    /// Waits for `more` operations that take effect or find something.
    pub fn wait_answered(&self, more: u64, limit: Duration) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        let what = format!("{more} more operations on contended keys are answered");
        eventually(&what, limit, || match self.answered.load(Ordering::Relaxed) {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        });
    }

    /// Ends the load and collects what was noted.
    pub fn end(mut self) -> Record {
        self.over.store(true, Ordering::Relaxed);
        let mut record = Record::default();
        for client in self.clients.drain(..) {
            let recorder = client.join().expect("a client does not panic");
            for (key, mut history) in recorder.histories {
                record.histories.entry(key).or_default().append(&mut history);
            }
            record.surprises.extend(recorder.surprises);
        }
        record
    }

    /// Ends the load; panics unless all of it is linearizable. Answers one line on what was done.
    pub fn stop(self) -> String {
        self.end().verify()
    }
}

impl Drop for Contention {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What all clients noted.
#[derive(Default)]
pub struct Record {
    pub histories: Histories,
    /// Answers that the contract does not allow.
    pub surprises: Vec<String>,
}

impl Record {
    pub fn violations(&self) -> Vec<Violation> {
        violations(&self.histories)
    }

    /// One line: how many operations ended how.
    pub fn summary(&self) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for operation in self.histories.values().flatten() {
            let kind = match (&operation.action, &operation.answer) {
                (_, Answer::Found(_)) => "reads",
                (_, Answer::Done) => "writes",
                (_, Answer::Deleted(_)) => "deletes",
                (_, Answer::Refused) => "conditions refused",
                (Action::Read, Answer::Failed(_) | Answer::Unknown(_)) => "reads without an answer",
                (_, Answer::Failed(_)) => "not applied",
                (_, Answer::Unknown(_)) => "unknown",
            };
            *kinds.entry(kind).or_default() += 1;
        }
        format!("{} contended keys: {kinds:?}", self.histories.len())
    }

    /// Panics unless all of it is linearizable; answers the summary.
    pub fn verify(&self) -> String {
        let began = Instant::now();
        let found: Vec<String> = self.violations().iter().map(Violation::to_string).collect();
        assert!(
            found.is_empty(),
            "{}; {} keys are wrong:\n{}",
            self.summary(),
            found.len(),
            found.join("\n")
        );
        assert!(self.surprises.is_empty(), "against the contract: {:#?}", self.surprises);
        format!("{}, linearizable (checked in {:?})", self.summary(), began.elapsed())
    }
}

/// One client and its notes.
struct Recorder {
    client: usize,
    plan: ContentionPlan,
    /// What all clients count their time from.
    zero: Instant,
    clients: Vec<Client>,
    dice: Dice,
    /// The last value that this client knows of each key, with its tag.
    tags: BTreeMap<String, (String, String)>,
    written: u64,
    histories: Histories,
    surprises: Vec<String>,
}

impl Recorder {
    fn run(&mut self, over: &AtomicBool, answered: &AtomicU64) {
        let nodes = self.clients.len() as u64;
        let (mut node, mut stay) = (0, 0);
        while !over.load(Ordering::Relaxed) {
            if stay == 0 {
                node = self.dice.below(nodes) as usize;
                stay = 1 + self.dice.below(STAY_MAX);
            }
            stay -= 1;
            if self.operate(node) {
                answered.fetch_add(1, Ordering::Relaxed);
                thread::sleep(self.plan.rest);
            } else {
                stay = 0;
                thread::sleep(FAILED_REST);
            }
        }
    }

    /// One operation; whether it was answered with more than a failure.
    fn operate(&mut self, node: usize) -> bool {
        let key = format!("{}-{}", self.plan.prefix, self.dice.below(self.plan.keys as u64));
        let action = self.choose(&key);
        let request = self.request(&key, &action);
        let now = |zero: Instant| u64::try_from(zero.elapsed().as_nanos()).expect("a test is short");
        let began_ns = now(self.zero);
        let answer = self.clients[node].send(&request);
        let ended_ns = now(self.zero);
        let answer = match action {
            Action::Read => self.judge_read(&key, answer),
            _ => self.judge_write(&key, &action, answer),
        };
        let is_answered = !matches!(answer, Answer::Failed(_) | Answer::Unknown(_));
        let operation = Operation { client: self.client, node, action, answer, began_ns, ended_ns };
        self.histories.entry(key).or_default().push(operation);
        is_answered
    }

    fn choose(&mut self, key: &str) -> Action {
        self.written += 1;
        let value = format!("c{}-{}", self.client, self.written);
        match (self.dice.below(20), self.tags.get(key)) {
            (0..=9, _) => Action::Read,
            (10..=11, _) => Action::Delete,
            (12..=13, _) => Action::Create { value },
            (14..=15, Some((from, _))) => Action::Swap { from: from.clone(), value },
            _ => Action::Write { value },
        }
    }

    fn request(&mut self, key: &str, action: &Action) -> Request {
        let timeout = self.plan.timeout;
        let query = format!("timeout={}ms", timeout.as_millis());
        let (raw, seed) = (format!("/v1/kv/{key}"), format!("/key/{key}"));
        let either = if self.dice.chance(50) { &raw } else { &seed };
        let request = match action {
            Action::Read => Request::get(format!("{either}?consistency={}&{query}", self.plan.level)),
            Action::Delete => Request::delete(format!("{either}?{query}")),
            Action::Write { value } if *either == seed => {
                let body = serde_json::json!({ key: value }).to_string();
                Request::post(format!("/key?{query}"), body)
            }
            Action::Write { value } => Request::put(format!("{raw}?{query}"), value.as_str()),
            Action::Create { value } => {
                Request::put(format!("{raw}?{query}"), value.as_str()).header("If-None-Match", "*")
            }
            Action::Swap { value, .. } => {
                let (_, tag) = &self.tags[key];
                Request::put(format!("{raw}?{query}"), value.as_str()).header("If-Match", tag)
            }
        };
        request.limit(timeout + ANSWER_GRACE)
    }

    fn judge_read(&mut self, key: &str, answer: Result<Response, Failure>) -> Answer {
        let response = match answer {
            Ok(response) => response,
            Err(failure) => return Answer::Failed(failure.to_string()),
        };
        let level = response.header("vault-consistency");
        match (response.status, response.code().as_str()) {
            (200 | 404, _) if level != Some(self.plan.level.as_str()) => {
                self.surprises.push(format!("asked for {}, was answered {level:?}", self.plan.level));
                Answer::Failed("of another level".to_owned())
            }
            (200, _) => {
                let is_raw = response.header("content-type") == Some("application/octet-stream");
                let value = match is_raw {
                    true => Some(response.text()),
                    false => response.json()[key].as_str().map(str::to_owned),
                };
                if let (Some(value), Some(tag)) = (&value, response.header("etag")) {
                    self.tags.insert(key.to_owned(), (value.clone(), tag.to_owned()));
                } else {
                    self.surprises.push(format!("neither value nor tag: {response:?}"));
                }
                Answer::Found(value)
            }
            (404, "key_not_found") => Answer::Found(None),
            (503, "no_leader" | "starting" | "behind") | (429, "overloaded") => {
                Answer::Failed(response.code())
            }
            (other, _) => {
                self.surprises.push(format!("a read was answered {other}: {}", response.text()));
                Answer::Failed(response.code())
            }
        }
    }

    fn judge_write(&mut self, key: &str, action: &Action, answer: Result<Response, Failure>) -> Answer {
        let is_conditional = matches!(action, Action::Create { .. } | Action::Swap { .. });
        let mut tag = None;
        if let Ok(response) = &answer {
            if response.status == 412 && response.code() == "precondition_failed" && is_conditional {
                if response.applied() != "no" {
                    self.surprises.push(format!("refused, but not for certain: {}", response.text()));
                }
                return Answer::Refused;
            }
            if response.status == 200 && *action == Action::Delete {
                if let Some(deleted) = response.json()["deleted"].as_bool() {
                    return Answer::Deleted(deleted);
                }
            }
            tag = response.header("etag").map(str::to_owned);
        }
        match judge_answer(answer, &mut self.surprises) {
            Outcome::Acked { .. } => {
                if let (Some(value), Some(tag)) = (action.value(), tag) {
                    self.tags.insert(key.to_owned(), (value.to_owned(), tag));
                }
                Answer::Done
            }
            Outcome::Definite { status, code } => Answer::Failed(format!("{status} {code}")),
            Outcome::NotSent => Answer::Failed("not sent".to_owned()),
            Outcome::Unknown { why } => Answer::Unknown(why),
        }
    }
}
