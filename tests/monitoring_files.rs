//! What operators are given to watch a cluster by fits what its nodes tell: the exposition is well formed, has all
//! metrics of the contract, and every metric that a rule, the board or the documentation names is one of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::exposition::{parse, Family};
use support::{eventually, skip, Cluster, Request};

const LIMIT: Duration = Duration::from_secs(20);

/// Those of the contract, with the labels that it promises.
const CONTRACT: [(&str, &[&str]); 19] = [
    ("vaultdb_server_has_leader", &[]),
    ("vaultdb_server_is_leader", &[]),
    ("vaultdb_server_leader_changes_total", &[]),
    ("vaultdb_raft_term", &[]),
    ("vaultdb_raft_committed_index", &[]),
    ("vaultdb_raft_applied_index", &[]),
    ("vaultdb_raft_proposals_committed", &[]),
    ("vaultdb_raft_proposals_failed", &[]),
    ("vaultdb_raft_proposals_pending", &[]),
    ("vaultdb_wal_fsync_duration_seconds", &[]),
    ("vaultdb_replication_lag_entries", &["peer"]),
    ("vaultdb_store_revision", &[]),
    ("vaultdb_store_disk_bytes", &[]),
    ("vaultdb_cache_hits_total", &[]),
    ("vaultdb_cache_misses_total", &[]),
    ("vaultdb_http_requests_total", &["route", "method", "status"]),
    ("vaultdb_http_request_duration_seconds", &["route"]),
    ("vaultdb_component_restarts_total", &["component"]),
    ("vaultdb_component_healthy", &["component"]),
];
/// Counters whose names in the contract do not end in `_total`.
const COUNTERS_BY_CONTRACT: [&str; 2] = ["vaultdb_raft_proposals_committed", "vaultdb_raft_proposals_failed"];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every name of a metric of this project in a text, without the endings of a histogram's series.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("vaultdb_"));
    let base = |name: &str| {
        let cut = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        cut.unwrap_or(name).to_owned()
    };
    names.map(base).collect()
}

/// The first column of the table of docs/http.md, and the type beside it.
fn documented() -> BTreeMap<String, String> {
    let page = file("docs/http.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `vaultdb_"));
    rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        let name = name.split('{').next().unwrap();
        let kind = rest.split('|').nth(1).unwrap().trim();
        (format!("vaultdb_{name}"), kind.to_owned())
    })
    .collect()
}

fn live(cluster: &Cluster, node: usize) -> BTreeMap<String, Family> {
    parse(&cluster.ask(node, &Request::get("/metrics")).text())
}

#[test]
fn a_live_node_tells_all_that_it_promises() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.must_put(leader, "a", "1");
    cluster.must_get(leader, "a");
    let families = eventually("the leader tells its peers' lag", LIMIT, || {
        let families = live(&cluster, leader);
        match families["vaultdb_replication_lag_entries"].samples.len() {
            2 => Ok(families),
            count => Err(format!("of {count} peers")),
        }
    });
    for (name, labels) in CONTRACT {
        let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
        let sample = family.samples.first().unwrap_or_else(|| panic!("{name} has no series"));
        let has: Vec<&str> =
            sample.labels.iter().map(|(label, _)| label.as_str()).filter(|l| *l != "le").collect();
        assert_eq!(has, labels, "{name}");
    }
    let documented = documented();
    for (name, family) in &families {
        assert!(name.starts_with("vaultdb_"), "{name}");
        let is_counter = name.ends_with("_total") || COUNTERS_BY_CONTRACT.contains(&name.as_str());
        assert_eq!(family.kind == "counter", is_counter, "{name} is a {}", family.kind);
        assert_eq!(documented.get(name), Some(&family.kind), "docs/http.md has another {name}, or none");
    }
    for what in ["started", "leader_changed"] {
        let label = ("what".to_owned(), what.to_owned());
        let samples = &families["vaultdb_events_total"].samples;
        assert!(samples.iter().any(|sample| sample.labels.contains(&label)), "{what}: {samples:?}");
    }
    let value = |name: &str| families[name].samples[0].value;
    assert_eq!((value("vaultdb_raft_voters"), value("vaultdb_server_build_info")), (3.0, 1.0));
    assert!(
        value("vaultdb_process_resident_memory_bytes") > 1e6 && value("vaultdb_process_open_files") > 3.0
    );
    let fsyncs =
        families["vaultdb_wal_fsync_duration_seconds"].samples.iter().find(|s| s.name.ends_with("_count"));
    assert!(fsyncs.unwrap().value > 0.0, "a write was acknowledged");
}

/// The events of a real cluster, as JSON and live.
#[test]
fn the_death_of_a_leader_is_told() {
    let mut cluster = Cluster::start(3);
    let old = cluster.leader();
    let left = (old + 1) % 3;
    let since = cluster.ask(left, &Request::get("/v1/events")).json()["last_seq"].as_u64().unwrap();
    cluster.kill9(old);
    let told = |what: &str, begins: &str, names: &str| {
        eventually(&format!("{what} is told"), LIMIT, || {
            let list = cluster.ask(left, &Request::get(format!("/v1/events?since={since}"))).json();
            let events = list["events"].as_array().unwrap();
            let found = events.iter().find(|event| {
                let detail = event["detail"].as_str().unwrap();
                event["what"] == what && detail.starts_with(begins) && detail.contains(names)
            });
            found.map(|event| assert_eq!(event["component"], "cluster")).ok_or_else(|| list.to_string())
        });
    };
    told("leader_changed", &format!("leadership went from node{old} to node"), " in term ");
    told("peer_unreachable", &format!("node{old} "), "not heard of");
}

#[test]
fn rules_and_board_name_what_there_is() {
    let documented = documented();
    assert!(documented.len() >= CONTRACT.len(), "the table was found");
    let board: Value = serde_json::from_str(&file("config/grafana.json")).unwrap();
    let exprs: Vec<String> = board["panels"].as_array().unwrap().iter().flat_map(targets).collect();
    assert!(exprs.len() > 20);
    for (what, text) in [
        ("alerts.yml", file("config/alerts.yml")),
        ("alerts_test.yml", file("config/alerts_test.yml")),
        ("grafana.json", exprs.join("\n")),
    ] {
        let names = named(&text);
        assert!(names.len() > 5, "{what} names some");
        for name in names {
            assert!(documented.contains_key(&name), "{what} names {name}, which docs/http.md does not");
        }
    }
}

fn targets(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().cloned().unwrap_or_default();
    targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Each alert says what it is, in words, and where it is written what to do.
#[test]
fn alerts_lead_to_their_runbook() {
    let rules = file("config/alerts.yml");
    let tests = file("config/alerts_test.yml");
    let operations = file("docs/operations.md");
    let anchors: BTreeSet<String> = operations
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 12);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["severity: ", "summary: \"", "description: \""] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let runbook = alert.split("runbook: docs/operations.md#").nth(1).unwrap_or_else(|| panic!("{name}"));
        let anchor = runbook.lines().next().unwrap();
        assert!(anchors.contains(anchor), "{name}: docs/operations.md has no {anchor}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
    }
}

#[test]
fn promtool_accepts_the_rules() {
    let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let run = Command::new("promtool").args(arguments).current_dir(&config).output();
        let Ok(output) = run else {
            skip("promtool's checks of config/", "promtool is not installed (Debian's package prometheus)");
            return;
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}
