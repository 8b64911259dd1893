//! Clients that read one key without a pause, and remember when each read began and what it said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::JoinHandle;
use vaultdb_consensus::Consensus;
use vaultdb_kv::{Freshness, ReadError};

use super::{eventually, read_at};

/// How long one read waits for a leader, in milliseconds: short, so that reads begin often.
const READ_MS_MAX: u64 = 20;

#[derive(Debug, Clone)]
pub struct Seen {
    pub began: Instant,
    pub answer: Result<Option<String>, ReadError>,
}

/// One client of one node. Ends when it is dropped.
pub struct Reader {
    what: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Reader {
    pub fn start(node: &Consensus, wanted: Freshness, key: &str) -> Reader {
        let what = format!("{} at {}", wanted.consistency, node.status().node.name);
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (node, key) = (node.clone(), key.to_owned());
        let (told, stopped) = (seen.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = read_at(&node, wanted, &key, READ_MS_MAX).await;
                told.lock().unwrap().push(Seen { began, answer });
                // A lease answers without ever waiting.
                tokio::task::yield_now().await;
            }
        });
        Reader { what, seen, stop, task }
    }

    pub fn since(&self, moment: Instant) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.began >= moment).cloned().collect()
    }

    /// Waits until so many reads that began after that moment have ended.
    pub async fn wait_count(&self, count: usize, moment: Instant) {
        let what = format!("{count} more reads, {}", self.what);
        eventually(&what, || (self.since(moment).len() >= count).then_some(())).await;
    }

    /// Waits until a read that began after that moment has answered with the value.
    pub async fn wait_value(&self, value: &str, moment: Instant) {
        let is_it = |seen: &Seen| seen.answer.as_ref().is_ok_and(|found| found.as_deref() == Some(value));
        eventually(&format!("{value}, {}", self.what), || {
            self.since(moment).iter().find_map(|s| is_it(s).then_some(()))
        })
        .await;
    }

    /// Ends the client. Every read that began after `acked` must have answered with `value` or with an
    /// error. Tells how many did either.
    pub async fn verify(self, value: &str, acked: Instant) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let (mut fresh, mut refused) = (0, 0);
        for Seen { began, answer } in self.seen.lock().unwrap().iter().filter(|seen| seen.began >= acked) {
            match answer {
                Ok(found) if found.as_deref() == Some(value) => fresh += 1,
                Ok(old) => {
                    let late = began.duration_since(acked);
                    panic!("{}: {old:?} was read {late:?} after {value:?} was acknowledged", self.what);
                }
                Err(ReadError::NoLeader | ReadError::Behind { .. }) => refused += 1,
                Err(other) => panic!("{}: {other}", self.what),
            }
        }
        println!("{}: {fresh} fresh reads, {refused} refused, none stale", self.what);
        (fresh, refused)
    }
}
