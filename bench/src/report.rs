//! What a run measured, as a line of a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::plan::{Operation, Plan};
use crate::tally::Tally;

/// One run. The names of the fields are those of the JSON.
///
/// Requests are those that started within the measured time, in an open loop those that should have;
/// `requests` = `successes` + `errors`. Latencies are of successes, and in an open loop counted from
/// when the request should have started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `put`, `get`, `mixed` or `batch`.
    pub operation: &'static str,
    pub endpoints: Vec<String>,
    pub connections: usize,
    /// `null` in a closed loop.
    pub target_requests_per_s: Option<u64>,
    pub duration_s: f64,
    pub keys: u64,
    pub seed: u64,
    /// `null` when all keys are as likely.
    pub zipf_theta: Option<f64>,
    pub value_bytes: usize,
    /// 1 unless the operation is `batch`.
    pub pairs_per_request: usize,
    pub requests: u64,
    pub successes: u64,
    pub errors: u64,
    /// By the `code` of the problem document or, where there is none, by kind: `connect` (a dial that
    /// failed), `closed`, `timeout`, `malformed`, `http_<status>`.
    pub errors_by_code: BTreeMap<String, u64>,
    /// Requests of an open loop that were due but found no free connection until the end.
    pub unsent: u64,
    /// Successes that were answered within the measured time, by its length.
    pub requests_per_s: f64,
    /// `requests_per_s` × `pairs_per_request`.
    pub pairs_per_s: f64,
    pub latency_us_mean: f64,
    pub latency_us_p50: u64,
    pub latency_us_p90: u64,
    pub latency_us_p99: u64,
    pub latency_us_p99_9: u64,
    pub latency_us_max: u64,
    /// CPU that the load generator itself used, for each request that ended.
    pub client_cpu_us_per_request: f64,
}

impl Report {
    /// `cpu`: what this process used within the window.
    pub fn new(plan: &Plan, connections: usize, tally: &Tally, unsent: u64, cpu: Duration) -> Self {
        let latency = tally.latency_us();
        let duration_s = plan.duration.as_secs_f64();
        let requests_per_s = tally.answered as f64 / duration_s;
        let pairs = plan.operation.pairs();
        Self {
            operation: plan.operation.as_str(),
            endpoints: plan.endpoints.clone(),
            connections,
            target_requests_per_s: plan.rate_per_s,
            duration_s,
            keys: plan.keys.count,
            seed: plan.keys.seed,
            zipf_theta: plan.keys.zipf_theta,
            value_bytes: plan.value_bytes,
            pairs_per_request: pairs,
            requests: tally.successes + tally.errors(),
            successes: tally.successes,
            errors: tally.errors(),
            errors_by_code: tally.failures.clone(),
            unsent,
            requests_per_s,
            pairs_per_s: requests_per_s * pairs as f64,
            latency_us_mean: latency.mean(),
            latency_us_p50: latency.value_at_quantile(0.5),
            latency_us_p90: latency.value_at_quantile(0.9),
            latency_us_p99: latency.value_at_quantile(0.99),
            latency_us_p99_9: latency.value_at_quantile(0.999),
            latency_us_max: latency.max(),
            client_cpu_us_per_request: cpu.as_secs_f64() * 1e6 / tally.ended.max(1) as f64,
        }
    }
}

/// The document of all runs.
pub fn json(reports: &[Report]) -> String {
    let document = serde_json::json!({ "runs": reports });
    serde_json::to_string_pretty(&document).expect("numbers and text are always valid JSON")
}

/// A Markdown table with one line for each run.
pub struct Table {
    batch: bool,
    open: bool,
}

impl Table {
    pub fn new(plan: &Plan) -> Self {
        Self { batch: matches!(plan.operation, Operation::Batch { .. }), open: plan.rate_per_s.is_some() }
    }

    /// Name and width of each column but the last, which takes what it needs.
    fn columns(&self) -> Vec<(&'static str, usize)> {
        let mut columns = vec![("connections", 11)];
        if self.open {
            columns.push(("target/s", 9));
        }
        columns.push(("requests/s", 10));
        if self.batch {
            columns.push(("pairs/s", 10));
        }
        columns.extend(
            ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"].map(|name| (name, name.len().max(8))),
        );
        columns.push(("client µs/request", 17));
        if self.open {
            columns.push(("unsent", 8));
        }
        columns
    }

    pub fn head(&self) -> String {
        let mut names = String::from("|");
        let mut rule = String::from("|");
        for (name, width) in self.columns() {
            let _infallible = write!(names, " {name:>width$} |");
            let _infallible = write!(rule, "{}:|", "-".repeat(width + 1));
        }
        format!("{names} errors |\n{rule}--------|\n")
    }

    pub fn line(&self, report: &Report) -> String {
        let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
        let mut cells = vec![report.connections.to_string()];
        if self.open {
            cells.push(report.target_requests_per_s.map_or(String::new(), |rate| rate.to_string()));
        }
        cells.push(format!("{:.0}", report.requests_per_s));
        if self.batch {
            cells.push(format!("{:.0}", report.pairs_per_s));
        }
        cells.extend(
            [
                report.latency_us_p50,
                report.latency_us_p90,
                report.latency_us_p99,
                report.latency_us_p99_9,
                report.latency_us_max,
            ]
            .map(ms),
        );
        cells.push(format!("{:.1}", report.client_cpu_us_per_request));
        if self.open {
            cells.push(report.unsent.to_string());
        }
        let mut line = String::from("|");
        for (cell, (_, width)) in cells.iter().zip(self.columns()) {
            let _infallible = write!(line, " {cell:>width$} |");
        }
        let errors: Vec<_> =
            report.errors_by_code.iter().map(|(code, count)| format!("{count} × {code}")).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
        format!("{line} {errors} |")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::plan::tests::small;
    use crate::tally::Window;

    fn report(plan: &Plan) -> Report {
        let begin = Instant::now();
        let mut tally = Tally::new(Window { begin, end: begin + plan.duration });
        for ms in 1..=100 {
            tally.succeed(begin, begin + Duration::from_millis(ms));
        }
        tally.fail(begin, begin, "overloaded");
        Report::new(plan, 4, &tally, 3, Duration::from_micros(505))
    }

    /// The figures add up, and percentiles are of all successes together.
    #[test]
    fn figures() {
        let report = report(&small("h:1"));
        assert_eq!((report.requests, report.successes, report.errors), (101, 100, 1));
        assert_eq!(report.errors_by_code["overloaded"], 1);
        assert!((report.requests_per_s - 200.0).abs() < 1e-6);
        assert!((report.client_cpu_us_per_request - 5.0).abs() < 1e-6);
        let near = |us: u64, ms: u64| us.abs_diff(ms * 1_000) <= ms * 2;
        assert!(near(report.latency_us_p50, 50) && near(report.latency_us_p99, 99));
        assert!(near(report.latency_us_max, 100));
    }

    /// Every line has as many cells as the head, whatever the plan.
    #[test]
    fn tables_are_rectangular() {
        let put = small("h:1");
        let open = Plan { rate_per_s: Some(100), ..put.clone() };
        let batch = Plan { operation: Operation::Batch { pairs: 10 }, ..put.clone() };
        for plan in [put, open, batch] {
            let table = Table::new(&plan);
            let text = table.head() + &table.line(&report(&plan));
            let cells: Vec<_> = text.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.len() == 3 && cells.iter().all(|count| *count == cells[0]), "{text}");
            assert!(text.ends_with("| 1 × overloaded |"), "{text}");
        }
    }

    #[test]
    fn json_names_units() {
        let text = json(&[report(&small("h:1"))]);
        let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let run = &document["runs"][0];
        for field in ["requests_per_s", "latency_us_p50", "latency_us_p99_9", "client_cpu_us_per_request"] {
            assert!(run[field].is_number(), "{field}");
        }
        assert!(run["target_requests_per_s"].is_null());
    }
}
