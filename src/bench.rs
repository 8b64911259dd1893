//! The flags of `vaultdb bench`, and from them a plan for the load generator.
//!
//! Owns names, defaults and help of the flags. What they mean to a measurement is vaultdb-bench's.

use std::io;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use vaultdb_bench::{Ack, BenchError, KeySpace, Operation, Output, Plan, Protocol};
use vaultdb_kv::units::{parse_duration, parse_size};
use vaultdb_kv::Consistency;

const AFTER_HELP: &str = "\
Closed loop (without --rate): each connection sends its next request once the last one is answered.
Open loop (--rate): requests are due at fixed times, and latency counts from the time at which a
request was due, also while it waits for a free connection: a server that stalls cannot hide it.

Latencies are of the requests that succeeded. A GET of a key that was never written is an error
(key_not_found): write all keys first with --prefill. After 429 or 503 a connection pauses for 10 ms,
longer if it happens again; one that breaks is dialled again, in the same rhythm.

Errors are counted by the code of the problem document, or by kind: connect, closed, timeout,
malformed, wrong_value, http_<status>. The figures of --output json are described in docs/performance.md.

Examples:
  vaultdb bench
  vaultdb bench put --endpoints :11000,:11001 --connections 64 --value-size 1KiB --duration 30s
  vaultdb bench mixed --read-percent 90 --prefill --rate 5000 --connections 256 --output json

Exit codes: 0 measured, 1 no endpoint could be reached or no request of a run succeeded, 2 usage.";

/// Loads running nodes and prints rate, latency and errors. Writes keys 0000000000000000 and up.
#[derive(Debug, Parser)]
#[command(name = "vaultdb bench", version, after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// What each request does: put and get one key, mixed does either, batch writes --pairs keys
    #[arg(value_enum, default_value = "put")]
    operation: OperationName,
    /// HTTP addresses of nodes; connections are spread over them in turn; :11000 means localhost
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT...]", value_delimiter = ',', default_value = ":11000")]
    endpoints: Vec<String>,
    /// Numbers of connections, one run each; in an open loop also the most requests in flight
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// Open loop: requests a second, over all connections
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Length of each measurement
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Load before each measurement that is not counted
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Longest wait for an answer; then the request has failed and its connection is closed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Number of distinct keys, of 16 bytes each
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    /// Draw keys by Zipf's law with this exponent, such as 0.99, and not uniformly
    #[arg(long, value_name = "THETA")]
    zipf: Option<f64>,
    /// The same seed draws the same keys on each connection
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Size of each value
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = parse_size)]
    value_size: u64,
    /// mixed: share of the requests that read
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    read_percent: u8,
    /// batch: pairs of each request, at most 128; their keys are spread evenly from the one drawn
    #[arg(long, value_name = "N", default_value_t = 100)]
    pairs: usize,
    /// When writes are acknowledged
    #[arg(long, value_enum, default_value = "majority")]
    ack: AckName,
    /// Level of reads, such as linearizable or stale [default: the node's]
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Consistency>,
    /// Write every key once before the first run
    #[arg(long)]
    prefill: bool,
    /// get: count an answer that is not what --prefill wrote as the error wrong_value
    #[arg(long)]
    verify: bool,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    output: OutputName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OperationName {
    Put,
    Get,
    Mixed,
    Batch,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AckName {
    Majority,
    Leader,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputName {
    Table,
    Json,
}

/// A plan that was checked.
#[derive(Debug)]
pub struct Bench {
    plan: Plan,
    output: Output,
}

impl BenchArgs {
    /// # Errors
    /// One sentence that names the flag.
    pub fn plan(self) -> Result<Bench, String> {
        let operation = match self.operation {
            OperationName::Put => Operation::Put,
            OperationName::Get => Operation::Get,
            OperationName::Mixed => Operation::Mixed { read_percent: self.read_percent },
            OperationName::Batch => Operation::Batch { pairs: self.pairs },
        };
        let here = |endpoint: String| match endpoint.strip_prefix(':') {
            Some(port) => format!("localhost:{port}"),
            None => endpoint,
        };
        let plan = Plan {
            protocol: Protocol::VaultDb,
            operation,
            endpoints: self.endpoints.into_iter().map(here).collect(),
            connections: self.connections,
            rate_per_s: self.rate,
            keys: KeySpace { count: self.keys, seed: self.seed, zipf_theta: self.zipf },
            value_bytes: usize::try_from(self.value_size).unwrap_or(usize::MAX),
            duration: self.duration,
            warmup: self.warmup,
            request_timeout: self.timeout,
            ack: match self.ack {
                AckName::Majority => Ack::Majority,
                AckName::Leader => Ack::Leader,
            },
            consistency: self.consistency,
            prefill: self.prefill,
            verify: self.verify,
        };
        plan.check().map_err(|error| error.to_string())?;
        let output = match self.output {
            OutputName::Table => Output::Table,
            OutputName::Json => Output::Json,
        };
        Ok(Bench { plan, output })
    }
}

impl Bench {
    /// Measures and prints to standard output. Answers whether each run had a request that succeeded.
    ///
    /// # Errors
    /// When nothing could be measured.
    pub fn run(&self) -> Result<bool, BenchError> {
        vaultdb_bench::run(&self.plan, self.output, &mut io::stdout().lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, String> {
        let args = ["bench"].iter().chain(args);
        let parsed = BenchArgs::try_parse_from(args).map_err(|error| error.to_string())?;
        parsed.plan().map(|bench| bench.plan)
    }

    #[test]
    fn flags_reach_the_plan() {
        let plan = plan(&[
            "mixed",
            "--read-percent=90",
            "--endpoints=:1,h:2",
            "--connections=1,64",
            "--rate=500",
            "--duration=3s",
            "--warmup=0s",
            "--timeout=1s",
            "--keys=7",
            "--zipf=0.99",
            "--seed=9",
            "--value-size=1KiB",
            "--ack=leader",
            "--consistency=stale",
            "--prefill",
        ]);
        let expected = Plan {
            protocol: Protocol::VaultDb,
            operation: Operation::Mixed { read_percent: 90 },
            endpoints: vec!["localhost:1".into(), "h:2".into()],
            connections: vec![1, 64],
            rate_per_s: Some(500),
            keys: KeySpace { count: 7, seed: 9, zipf_theta: Some(0.99) },
            value_bytes: 1024,
            duration: Duration::from_secs(3),
            warmup: Duration::ZERO,
            request_timeout: Duration::from_secs(1),
            ack: Ack::Leader,
            consistency: Some(Consistency::Stale),
            prefill: true,
            verify: false,
        };
        assert_eq!(plan, Ok(expected));
    }

    #[test]
    fn defaults_are_a_closed_loop_of_puts() {
        let plan = plan(&[]).expect("the defaults are valid");
        assert_eq!((plan.operation, plan.rate_per_s), (Operation::Put, None));
        assert_eq!((plan.connections, plan.value_bytes), (vec![1, 64, 256], 100));
        assert_eq!(plan.endpoints, ["localhost:11000"]);
        assert!(matches!(super::tests::plan(&["get", "--verify"]), Ok(Plan { verify: true, .. })));
        assert!(matches!(
            super::tests::plan(&["batch"]),
            Ok(Plan { operation: Operation::Batch { pairs: 100 }, .. })
        ));
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (args, named) in [
            (&["--pairs=0", "batch"][..], "--pairs"),
            (&["--consistency=strong"], "--consistency"),
            (&["--connections="], "--connections"),
            (&["--endpoints=h"], "--endpoints"),
            (&["--verify", "mixed"], "--verify"),
            (&["erase"], "erase"),
            (&["--value-size=1MB"], "--value-size"),
            (&["--value-size=9999GiB"], "--value-size"),
        ] {
            let refused = plan(args).expect_err("must be refused");
            assert!(refused.contains(named), "{named}: {refused}");
        }
    }
}
