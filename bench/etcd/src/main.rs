//! Loads etcd as `vaultdb bench` loads VaultDB, so that both can be compared: a closed loop of puts, of
//! transactions of many puts, or of reads, over gRPC or over etcd's JSON gateway (puts only), reported as the
//! same JSON.
//!
//! Owns nothing of the measurement: window, histogram and report are vaultdb-bench's. One thread, as
//! there, and the same allocator.

mod grpc;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use vaultdb_bench::{Ack, KeySpace, Operation, Output, Plan, Protocol};
use vaultdb_kv::units::{parse_duration, parse_size};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Interface {
    Grpc,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OperationName {
    Put,
    /// A transaction of --pairs puts (gRPC only)
    Batch,
    /// A read of what --prefill wrote; any other answer is the error wrong_value (gRPC only)
    Get,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Linearizable,
    Serializable,
}

/// Loads one etcd node and prints what was measured as JSON.
#[derive(Debug, Parser)]
struct Args {
    #[arg(value_enum, default_value = "put")]
    operation: OperationName,
    /// Client address of the node
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:2379")]
    endpoint: String,
    #[arg(long, value_enum, default_value = "grpc")]
    interface: Interface,
    /// Clients, each of which sends its next request once the last one is answered
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// gRPC: HTTP/2 connections over which the clients are spread
    #[arg(long, value_name = "N", default_value_t = 8)]
    channels: usize,
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = parse_size)]
    value_size: u64,
    #[arg(long, value_name = "N", default_value_t = 100)]
    pairs: usize,
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Of reads
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: Level,
    /// Write every key once first, as `vaultdb bench` does (gRPC only)
    #[arg(long)]
    prefill: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("etcd-load: no request succeeded");
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("etcd-load: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let plan = Plan {
        protocol: Protocol::EtcdJson,
        operation: match args.operation {
            OperationName::Put => Operation::Put,
            OperationName::Batch => Operation::Batch { pairs: args.pairs },
            OperationName::Get => Operation::Get,
        },
        endpoints: vec![args.endpoint.clone()],
        connections: vec![args.connections],
        rate_per_s: None,
        keys: KeySpace { count: args.keys, seed: args.seed, zipf_theta: None },
        value_bytes: usize::try_from(args.value_size).unwrap_or(usize::MAX),
        duration: args.duration,
        warmup: args.warmup,
        request_timeout: Duration::from_secs(10),
        ack: Ack::Majority,
        consistency: None,
        prefill: args.prefill,
        verify: false,
    };
    plan.check().map_err(|error| error.to_string())?;
    match args.interface {
        Interface::Json if args.operation != OperationName::Put || args.prefill => {
            Err("only puts are supported over the JSON gateway".to_owned())
        }
        Interface::Json => vaultdb_bench::run(&plan, Output::Json, &mut std::io::stdout().lock())
            .map_err(|error| error.to_string()),
        Interface::Grpc => {
            let report = grpc::measure(
                &plan,
                args.connections,
                args.channels,
                args.consistency == Level::Serializable,
            )?;
            let succeeded = report.successes > 0;
            println!("{}", vaultdb_bench::json(&[report]));
            Ok(succeeded)
        }
    }
}
