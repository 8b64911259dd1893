//! A closed-loop load generator: each connection sends its next write when the last one is answered.
//!
//! Informs one decision: whether a change makes durable writes faster or slower at few and at many
//! connections. One thread and hand-written requests keep its own cost small beside the servers'.

mod client;
mod report;

use std::time::{Duration, Instant};

use clap::Parser;

use crate::client::Client;
use crate::report::{Report, Sample};

/// Measures PUT throughput and latency at several numbers of connections.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// HTTP addresses; connections are spread over them in turn
    #[arg(long, value_delimiter = ',', default_value = "localhost:11000")]
    endpoints: Vec<String>,
    /// Numbers of connections, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// Length of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Load before each measurement that is not counted
    #[arg(long, default_value_t = 2)]
    warmup_seconds: u64,
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Distinct keys, of 16 bytes each
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
}

/// When the measured part of a run begins and ends.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    println!("{}", Report::header());
    for connections in &args.connections {
        println!("{}", runtime.block_on(measure(&args, *connections))?);
    }
    Ok(())
}

async fn measure(args: &Args, connections: usize) -> Result<Report, String> {
    let begin = Instant::now() + Duration::from_secs(args.warmup_seconds);
    let window = Window { begin, end: begin + Duration::from_secs(args.seconds) };
    let mut workers = Vec::with_capacity(connections);
    for worker in 0..connections {
        let endpoint = &args.endpoints[worker % args.endpoints.len()];
        let client = Client::connect(endpoint).await.map_err(|e| format!("{endpoint}: {e}"))?;
        workers.push(tokio::spawn(drive(client, args.clone(), worker as u64, window)));
    }
    let mut all = Sample::default();
    for worker in workers {
        all.merge(worker.await.map_err(|e| e.to_string())?);
    }
    Ok(Report::new(connections, args.seconds, all))
}

async fn drive(mut client: Client, args: Args, worker: u64, window: Window) -> Sample {
    let value = vec![b'v'; args.value_bytes];
    let mut sample = Sample::default();
    // Steps of a large prime visit the keys in an order that no two workers share.
    let mut key = worker.wrapping_mul(7_919);
    while Instant::now() < window.end {
        key = key.wrapping_add(15_485_863) % args.keys.max(1);
        let started = Instant::now();
        let status = client.put(&format!("{key:016}"), &value).await;
        let ended = Instant::now();
        if started < window.begin || ended > window.end {
            continue;
        }
        match status {
            Ok(200) => sample.record(ended - started),
            Ok(status) => sample.fail(status.to_string()),
            Err(e) => {
                sample.fail(e.to_string());
                return sample;
            }
        }
    }
    sample
}
