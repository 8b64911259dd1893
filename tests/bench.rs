//! `vaultdb bench` against a real node.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Output;

use serde_json::Value;
use support::{vaultdb, Cluster};

fn bench(cluster: &Cluster, args: &[&str]) -> Output {
    let endpoint = format!(":{}", cluster.port(0));
    let mut command = vaultdb();
    command.args(["bench", args[0], "--endpoints", &endpoint, "--warmup", "100ms"]).args(&args[1..]);
    command.output().expect("the binary runs")
}

fn runs(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no progress without a terminal");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    document["runs"].as_array().expect("runs").clone()
}

fn count(run: &Value, field: &str) -> u64 {
    run[field].as_u64().unwrap_or_else(|| panic!("{field} in {run}"))
}

/// What the generator counts as written was written: the figures add up with each other and with the
/// node's own revision, for single keys, batches and mixed loads.
#[test]
fn figures_add_up_with_the_node() {
    let cluster = Cluster::start(1);
    let json = ["--output", "json", "--duration", "1s"];

    let before = cluster.status(0).revision();
    let puts = runs(&bench(&cluster, &[&["put", "--connections", "1,8"], &json[..]].concat()));
    let grown = cluster.status(0).revision() - before;
    assert_eq!(puts.len(), 2);
    let successes: u64 = puts.iter().map(|run| count(run, "successes")).sum();
    assert!(successes > 0 && grown >= successes, "{grown} revisions for {successes} puts");
    for run in &puts {
        assert_eq!(count(run, "requests"), count(run, "successes") + count(run, "errors"), "{run}");
        assert_eq!(count(run, "errors"), 0, "{run}");
        let order = ["p50", "p90", "p99", "p99_9", "max"].map(|q| count(run, &format!("latency_us_{q}")));
        assert!(order[0] > 0 && order.is_sorted(), "{run}");
        assert!(run["client_cpu_us_per_request"].as_f64().unwrap() > 0.0, "{run}");
    }

    let batch =
        runs(&bench(&cluster, &[&["batch", "--pairs", "10", "--connections", "4"], &json[..]].concat()));
    assert_eq!(count(&batch[0], "errors"), 0, "{batch:?}");
    let (pairs, requests) = (&batch[0]["pairs_per_s"], &batch[0]["requests_per_s"]);
    assert!((pairs.as_f64().unwrap() - 10.0 * requests.as_f64().unwrap()).abs() < 0.01, "{batch:?}");

    let mixed = [
        "mixed",
        "--prefill",
        "--keys",
        "500",
        "--connections",
        "4",
        "--rate",
        "200",
        "--consistency",
        "stale",
    ];
    let mixed = runs(&bench(&cluster, &[&mixed, &json[..]].concat()));
    assert_eq!(count(&mixed[0], "requests") + count(&mixed[0], "unsent"), 200, "{mixed:?}");
    assert_eq!(count(&mixed[0], "errors"), 0, "{mixed:?}");
}

/// Reads of keys that nobody wrote are errors with the server's own code, and the exit code tells that
/// nothing succeeded.
#[test]
fn nothing_succeeded() {
    let cluster = Cluster::start(1);
    let output = bench(&cluster, &["get", "--connections", "1", "--duration", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.lines().count() == 3 && table.contains("× key_not_found |"), "{table}");
}
