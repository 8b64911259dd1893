//! The load generator of `vaultdb bench`: closed or open loop over HTTP/1.1, on one thread.
//!
//! Owns what a measurement means: what is sent when, which time counts as latency, what is an error.
//! Informs one decision: whether a change makes requests faster or slower, at few and at many
//! connections. Must cost little beside the servers that it measures, and must never hold more memory
//! than its plan allows.

mod answer;
mod engine;
mod keys;
mod link;
mod plan;
mod prefill;
mod progress;
mod report;
mod tally;
mod template;
mod values;
mod zipf;

use std::io::{self, Write};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

pub use keys::{digits, KeySpace, Keys, Rng, KEYS_MAX, KEY_BYTES};
pub use plan::{Ack, Operation, Plan, PlanError, Protocol, CONNECTIONS_MAX, PAIRS_MAX};
pub use report::{json, Report};
pub use tally::{cpu_time, Tally, Window};
pub use template::value_text;
pub use values::Values;

/// Files that are open beside the connections: standard streams, epoll, and some room.
const OTHER_FILES: usize = 32;

/// How the results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// One line a run, for people.
    #[default]
    Table,
    /// One document after the last run: `{"runs":[…]}`, each as [`Report`] says.
    Json,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("none of the endpoints can be reached: {0}")]
    Unreachable(String),
    #[error("the keys could not be written first: {0}")]
    Prefill(String),
    #[error(
        "{connections} connections need more open files than the {limit} that are allowed: see ulimit -n"
    )]
    OpenFiles { connections: usize, limit: u64 },
    #[error("the operating system: {0}")]
    Io(#[from] io::Error),
}

/// Measures once for each number of connections of the plan and prints the results to `out`.
///
/// # Errors
/// [`BenchError`] when nothing could be measured. Requests that fail are results, not errors: the
/// answer is whether each run had at least one request that succeeded.
pub fn run(plan: &Plan, output: Output, out: &mut impl Write) -> Result<bool, BenchError> {
    allow_open_files(plan.connections.iter().copied().max().unwrap_or(0))?;
    let addresses = link::resolve(&plan.endpoints).map_err(BenchError::Unreachable)?;
    if plan.prefill {
        prefill::write_all_keys(plan, &addresses)?;
    }
    let mut reports = Vec::with_capacity(plan.connections.len());
    let table = report::Table::new(plan);
    if output == Output::Table {
        write!(out, "{}", table.head())?;
    }
    for connections in &plan.connections {
        let report = engine::measure(plan, &addresses, *connections)?;
        if output == Output::Table {
            writeln!(out, "{}", table.line(&report))?;
        }
        reports.push(report);
    }
    if output == Output::Json {
        writeln!(out, "{}", json(&reports))?;
    }
    Ok(reports.iter().all(|report| report.successes > 0))
}

/// Raises this process's own limit as far as it may, when that many connections need it.
fn allow_open_files(connections: usize) -> Result<(), BenchError> {
    let needed = (connections + OTHER_FILES) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(limit) = limit.maximum.filter(|maximum| *maximum < needed) {
        return Err(BenchError::OpenFiles { connections, limit });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit })
        .map_err(|error| BenchError::Io(error.into()))
}
