//! What to measure, and the limits that a plan must keep.

use std::time::Duration;

use vaultdb_kv::Consistency;

use crate::keys::{KeySpace, KEYS_MAX, KEY_BYTES};

/// Most connections of one run.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Most pairs of one batch, as the server allows.
pub const PAIRS_MAX: usize = 128;
/// Highest rate of an open loop, in requests a second.
const RATE_PER_S_MAX: u64 = 1_000_000;
/// Longest measurement, warm-up or request.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most memory that the requests of all connections may take together, in bytes.
const REQUEST_BYTES_TOTAL_MAX: u64 = 1 << 30;
/// Largest exponent of Zipf's law: beyond it nearly all requests go to one key.
const ZIPF_THETA_MAX: f64 = 10.0;

/// What each request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `PUT /v1/kv/{key}`.
    Put,
    /// `GET /v1/kv/{key}`.
    Get,
    /// Reads in `read_percent` of all requests, at most 100, else writes.
    Mixed { read_percent: u8 },
    /// `POST /key` with as many pairs.
    Batch { pairs: usize },
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Mixed { .. } => "mixed",
            Operation::Batch { .. } => "batch",
        }
    }

    /// Pairs that one request writes; 1 for a single key.
    pub fn pairs(self) -> usize {
        match self {
            Operation::Put | Operation::Get | Operation::Mixed { .. } => 1,
            Operation::Batch { pairs } => pairs,
        }
    }
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// Once it is on disk on a majority.
    #[default]
    Majority,
    /// Once the leader has it in its log; it can be lost.
    Leader,
}

/// What the servers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    VaultDb,
    /// The JSON gateway of etcd 3, for comparison; every request is a put of one key.
    EtcdJson,
}

/// One measurement for each number of connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub protocol: Protocol,
    pub operation: Operation,
    /// `host:port`; connections are spread over them in turn.
    pub endpoints: Vec<String>,
    /// Numbers of connections, one run each.
    pub connections: Vec<usize>,
    /// Requests a second of an open loop. `None`: a closed loop, in which each connection sends its
    /// next request once the last one is answered.
    pub rate_per_s: Option<u64>,
    pub keys: KeySpace,
    pub value_bytes: usize,
    pub duration: Duration,
    /// Load before the measurement that is not counted.
    pub warmup: Duration,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    pub ack: Ack,
    /// Of reads. `None`: the server's default.
    pub consistency: Option<Consistency>,
    /// Write every key once before the first run.
    pub prefill: bool,
    /// Count a read as failed unless it answers what a prefill with the same keys and values wrote.
    pub verify: bool,
}

/// A plan that cannot be carried out: one sentence that names the flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flag --{flag}: {reason}")]
pub struct PlanError {
    flag: &'static str,
    reason: String,
}

impl Plan {
    /// # Errors
    /// [`PlanError`] for the first rule that is broken.
    pub fn check(&self) -> Result<(), PlanError> {
        let refuse = |flag, reason: String| Err(PlanError { flag, reason });
        for endpoint in &self.endpoints {
            if vaultdb_kv::member::check_address(endpoint).is_err() {
                return refuse("endpoints", format!("\"{}\" is not host:port", endpoint.escape_debug()));
            }
        }
        if self.endpoints.is_empty() {
            return refuse("endpoints", "at least one is needed".into());
        }
        if self.connections.is_empty() || self.connections.iter().any(|c| !(1..=CONNECTIONS_MAX).contains(c))
        {
            return refuse("connections", format!("each number must be 1 to {CONNECTIONS_MAX}"));
        }
        if self.rate_per_s.is_some_and(|rate| !(1..=RATE_PER_S_MAX).contains(&rate)) {
            return refuse("rate", format!("it must be 1 to {RATE_PER_S_MAX} requests a second"));
        }
        if !(1..=KEYS_MAX).contains(&self.keys.count) {
            return refuse("keys", format!("it must be 1 to {KEYS_MAX}"));
        }
        if self.keys.zipf_theta.is_some_and(|theta| !(theta > 0.0 && theta <= ZIPF_THETA_MAX)) {
            return refuse("zipf", format!("it must be above 0 and at most {ZIPF_THETA_MAX}"));
        }
        if let Operation::Mixed { read_percent: 101.. } = self.operation {
            return refuse("read-percent", "it must be 0 to 100".into());
        }
        if !(1..=PAIRS_MAX).contains(&self.operation.pairs()) {
            return refuse("pairs", format!("it must be 1 to {PAIRS_MAX}"));
        }
        if self.keys.count < self.operation.pairs() as u64 {
            return refuse("keys", "there must be one for each pair of a request".into());
        }
        if self.verify && (self.operation != Operation::Get || self.protocol != Protocol::VaultDb) {
            return refuse("verify", "only get reads what nothing else writes".into());
        }
        for (flag, time) in [("duration", self.duration), ("timeout", self.request_timeout)] {
            if time.is_zero() {
                return refuse(flag, "it must not be zero".into());
            }
        }
        for (flag, time) in
            [("duration", self.duration), ("warmup", self.warmup), ("timeout", self.request_timeout)]
        {
            if time > TIME_MAX {
                return refuse(flag, "it must be at most 24h".into());
            }
        }
        self.check_memory()
    }

    fn check_memory(&self) -> Result<(), PlanError> {
        let pair_bytes = (self.value_bytes as u64).saturating_add(KEY_BYTES as u64);
        let request_bytes = pair_bytes.saturating_mul(self.operation.pairs() as u64);
        let connections = self.connections.iter().copied().max().unwrap_or(0) as u64;
        if request_bytes.saturating_mul(connections) > REQUEST_BYTES_TOTAL_MAX {
            let limit_mib = REQUEST_BYTES_TOTAL_MAX >> 20;
            let reason = format!("the requests of {connections} connections take more than {limit_mib} MiB");
            return Err(PlanError { flag: "value-size", reason });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A short closed loop of puts over one connection.
    pub(crate) fn small(endpoint: &str) -> Plan {
        Plan {
            protocol: Protocol::VaultDb,
            operation: Operation::Put,
            endpoints: vec![endpoint.to_owned()],
            connections: vec![1],
            rate_per_s: None,
            keys: KeySpace { count: 1_000, seed: 1, zipf_theta: None },
            value_bytes: 10,
            duration: Duration::from_millis(500),
            warmup: Duration::ZERO,
            request_timeout: Duration::from_secs(5),
            ack: Ack::Majority,
            consistency: None,
            prefill: false,
            verify: false,
        }
    }

    /// Each broken rule is refused under the name of its flag.
    #[test]
    fn rules() {
        let good = small("h:1");
        assert_eq!(good.check(), Ok(()));
        let keys = |count, zipf_theta| KeySpace { count, seed: 1, zipf_theta };
        let batch = |pairs| Operation::Batch { pairs };
        let bad = [
            ("endpoints", Plan { endpoints: vec!["h".into()], ..good.clone() }),
            ("endpoints", Plan { endpoints: vec![], ..good.clone() }),
            ("connections", Plan { connections: vec![], ..good.clone() }),
            ("connections", Plan { connections: vec![1, 0], ..good.clone() }),
            ("rate", Plan { rate_per_s: Some(0), ..good.clone() }),
            ("keys", Plan { keys: keys(0, None), ..good.clone() }),
            ("zipf", Plan { keys: keys(1, Some(0.0)), ..good.clone() }),
            ("zipf", Plan { keys: keys(1, Some(f64::NAN)), ..good.clone() }),
            ("read-percent", Plan { operation: Operation::Mixed { read_percent: 101 }, ..good.clone() }),
            ("pairs", Plan { operation: batch(0), ..good.clone() }),
            ("pairs", Plan { operation: batch(PAIRS_MAX + 1), ..good.clone() }),
            ("keys", Plan { operation: batch(100), keys: keys(99, None), ..good.clone() }),
            ("verify", Plan { verify: true, ..good.clone() }),
            ("duration", Plan { duration: Duration::ZERO, ..good.clone() }),
            ("timeout", Plan { request_timeout: Duration::ZERO, ..good.clone() }),
            ("warmup", Plan { warmup: TIME_MAX * 2, ..good.clone() }),
            ("value-size", Plan { value_bytes: 1 << 20, connections: vec![1_025], ..good.clone() }),
        ];
        for (flag, plan) in bad {
            let refused = plan.check().expect_err(flag).to_string();
            assert!(refused.starts_with(&format!("flag --{flag}: ")), "{refused}");
        }
    }
}
