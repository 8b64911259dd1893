//! `GET /metrics`: the Prometheus text format, version 0.0.4, written by hand.
//!
//! Shows only what is known: a figure that nobody measured is absent, not zero.

use std::fmt::{Display, Write};

use vaultdb_kv::{Health, HistogramSnapshot, Measured, Role};

use crate::app::Worker;
use crate::backend::Backend;
use crate::metrics::{Metrics, LATENCY_BOUNDS_US};
use crate::model::{
    ClusterStatus, ComponentHealth, EventCount, IntegrityStatus, NodeStatus, ReplicationStatus,
    ReplicationTotals, WriteTimes,
};
use crate::process::Process;
use crate::reply::{Media, Reply};

impl<B: Backend> Worker<B> {
    /// `GET /metrics`.
    pub(crate) async fn metrics(&self) -> Reply {
        let status = self.backend.status().await;
        let mut page = Page::default();
        if let Some(cluster) = &status.cluster {
            write_cluster(&mut page, cluster);
        }
        write_totals(&mut page, &status.replication_totals);
        if let Some(replication) = &status.replication {
            write_replication(&mut page, replication);
        }
        write_node(&mut page, &status);
        if let Some(disk) = &status.disk {
            write_disk(&mut page, disk);
        }
        if let Some(times) = &status.write_times {
            write_times(&mut page, times);
        }
        if let Some(integrity) = &status.integrity {
            write_integrity(&mut page, integrity);
        }
        write_components(&mut page, &status.health.components);
        write_events(&mut page, &self.backend.events().counts(), self.shared.admission.event_streams());
        write_process(&mut page, &Process::look());
        write_http(&mut page, &self.shared.metrics, self.shared.admission.requests_in_flight());
        Reply::new(Media::Metrics, page.text).at(status.store.revision)
    }
}

fn write_cluster(page: &mut Page, cluster: &ClusterStatus) {
    let leadership = &cluster.leadership;
    let led = leadership.leader.is_some() && !cluster.leads_alone;
    page.gauge("vaultdb_server_has_leader", "Whether this node knows a leader.").value(u8::from(led));
    page.gauge("vaultdb_server_is_leader", "Whether this node leads, and a quorum follows it.")
        .value(u8::from(led && leadership.is_local));
    page.gauge("vaultdb_raft_term", "Raft term.").value(leadership.term);
    page.gauge("vaultdb_raft_last_log_index", "Index of the last log entry.").value(cluster.last_log);
    page.gauge("vaultdb_raft_committed_index", "Index of the last committed log entry.")
        .value(cluster.committed);
    page.gauge("vaultdb_raft_applied_index", "Index of the last applied log entry.").value(cluster.applied);
    page.gauge("vaultdb_raft_snapshot_index", "Index of the last entry in the current snapshot.")
        .value(cluster.snapshot);
    page.gauge("vaultdb_raft_purged_index", "Index of the last purged log entry.").value(cluster.purged);
    let totals = &cluster.transfer_totals;
    page.counter("vaultdb_snapshot_sent_bytes_total", "Bytes of snapshots that peers took from this node.")
        .value(totals.sent_bytes);
    page.counter(
        "vaultdb_snapshot_received_bytes_total",
        "Bytes of snapshots that this node took from peers.",
    )
    .value(totals.received_bytes);
    page.counter("vaultdb_snapshot_installed_total", "Snapshots of peers that this node installed.")
        .value(totals.installed);
    let agreement = &cluster.agreement;
    page.gauge("vaultdb_integrity_compared_index", "Last log index at which a majority has the same state.")
        .value(agreement.compared_index);
    page.gauge("vaultdb_integrity_diverged", "Members whose state was found to differ from this node's.")
        .value(agreement.diverged.len());
    let voters = cluster.members.iter().filter(|m| m.role == Role::Voter).count();
    page.gauge("vaultdb_raft_voters", "Voters of the cluster, as this node knows them.").value(voters);
    let lags = cluster.members.iter().filter_map(|m| Some((&m.member.name, m.lag_entries?)));
    let mut family =
        page.gauge("vaultdb_replication_lag_entries", "Log entries that a peer lacks. Leader only.");
    for (peer, lag) in lags.filter(|(peer, _)| **peer != cluster.node.name) {
        family.labelled(&[("peer", peer)], lag);
    }
    let mut family = page.gauge("vaultdb_replication_peer_reachable", "Whether a peer was heard of lately.");
    for member in cluster.members.iter().filter(|m| m.member.name != cluster.node.name) {
        family.labelled(&[("peer", &member.member.name)], u8::from(member.reachable));
    }
}

fn write_totals(page: &mut Page, totals: &ReplicationTotals) {
    page.counter("vaultdb_server_leader_changes_total", "Changes of leadership that this node saw.")
        .value(totals.leader_changes);
    // These two count up; the contract's names for them carry no `_total`.
    page.counter("vaultdb_raft_proposals_committed", "Writes through this node that were committed.")
        .value(totals.committed);
    page.counter("vaultdb_raft_proposals_failed", "Writes through this node that were not acknowledged.")
        .value(totals.failed);
}

fn write_replication(page: &mut Page, replication: &ReplicationStatus) {
    page.gauge("vaultdb_raft_proposals_pending", "Writes through this node that wait for their outcome.")
        .value(replication.pending);
    page.gauge("vaultdb_raft_proposals_pending_bytes", "Keys and values of the writes that wait.")
        .value(replication.pending_bytes);
}

fn write_node(page: &mut Page, status: &NodeStatus) {
    let (store, cache) = (&status.store, &status.store.cache);
    page.gauge("vaultdb_store_revision", "Revision of the local store.").value(store.revision);
    page.gauge("vaultdb_store_keys_estimate", "Keys in the local store, estimated.")
        .value(store.keys_estimate);
    page.gauge("vaultdb_store_disk_bytes", "Bytes that the local store takes on disk.")
        .value(store.disk_bytes);
    page.counter("vaultdb_cache_hits_total", "Reads that the cache answered.").value(cache.hits);
    page.counter("vaultdb_cache_misses_total", "Reads that the cache did not answer.").value(cache.misses);
    page.gauge("vaultdb_cache_entries", "Entries in the cache.").value(cache.entries);
    page.gauge("vaultdb_cache_bytes", "Bytes in the cache.").value(cache.bytes);
    page.gauge("vaultdb_server_build_info", "Always 1; what runs is in the labels.")
        .labelled(&[("version", status.node.version)], 1);
    page.gauge("vaultdb_server_uptime_seconds", "Time since the process started.")
        .value(Seconds(status.uptime_ms.saturating_mul(1_000)));
}

fn write_disk(page: &mut Page, disk: &Measured) {
    page.gauge("vaultdb_disk_free_bytes", "Bytes that the node may still take of its data's filesystem.")
        .value(disk.free_bytes);
    page.gauge("vaultdb_disk_total_bytes", "Bytes of the filesystem of the node's data.")
        .value(disk.total_bytes);
    page.gauge("vaultdb_disk_read_only", "Whether writes that set a value are refused for want of room.")
        .value(u8::from(disk.read_only));
}

fn write_times(page: &mut Page, times: &WriteTimes) {
    if let Some(fsync) = &times.wal_fsync {
        page.histogram("vaultdb_wal_fsync_duration_seconds", "Time of each sync of the Raft log.")
            .timed(&[], fsync);
    }
    page.histogram(
        "vaultdb_raft_round_trip_duration_seconds",
        "Time of each heartbeat of a leader, the follower's own fsync included.",
    )
    .timed(&[], &times.round_trips);
    let help =
        "Time in each stage of a write: one record for each write in stage queue, one for each batch or \
                append in the others.";
    let mut family = page.histogram("vaultdb_write_stage_duration_seconds", help);
    for (stage, times) in &times.stages {
        family.timed(&[("stage", stage.as_str())], times);
    }
}

fn write_integrity(page: &mut Page, integrity: &IntegrityStatus) {
    page.counter("vaultdb_integrity_scrubbed_bytes_total", "Bytes at rest that were verified.")
        .value(integrity.scrubbed_bytes);
    page.counter(
        "vaultdb_integrity_errors_total",
        "Things found corrupt, the cause of a rebuild included, and verifications that failed.",
    )
    .value(integrity.errors);
    if let Some(at_ms) = integrity.last_scrub_ms {
        page.gauge(
            "vaultdb_integrity_last_scrub_timestamp_seconds",
            "Unix time at which all at rest was last verified.",
        )
        .value(Seconds(at_ms.saturating_mul(1_000)));
    }
}

fn write_components(page: &mut Page, components: &[ComponentHealth]) {
    let mut family = page.counter("vaultdb_component_restarts_total", "How often a component was rebuilt.");
    for component in components {
        family.labelled(&[("component", component.name)], component.restarts);
    }
    let mut family = page.gauge("vaultdb_component_healthy", "Whether a component is healthy.");
    for component in components {
        let healthy = u8::from(component.state == Health::Healthy);
        family.labelled(&[("component", component.name)], healthy);
    }
    let help = "Time that an actor's mailbox took for the last probe, or has been taking.";
    let mut family = page.gauge("vaultdb_component_mailbox_delay_seconds", help);
    for (name, delay) in components.iter().filter_map(|c| Some((c.name, c.mailbox_delay?))) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        family.labelled(&[("component", name)], Seconds(us));
    }
}

fn write_events(page: &mut Page, counts: &[EventCount], streams: usize) {
    let mut family = page.counter("vaultdb_events_total", "Events in the node's own time line.");
    for EventCount { component, what, count } in counts {
        family.labelled(&[("component", component), ("what", what)], count);
    }
    page.gauge("vaultdb_events_streams", "Clients that follow the events live.").value(streams);
}

fn write_process(page: &mut Page, process: &Process) {
    if let Some(bytes) = process.resident_bytes {
        page.gauge("vaultdb_process_resident_memory_bytes", "Memory of the process that is in RAM.")
            .value(bytes);
    }
    if let Some(count) = process.open_files {
        page.gauge("vaultdb_process_open_files", "Files and sockets that the process has open.").value(count);
    }
}

fn write_http(page: &mut Page, metrics: &Metrics, in_flight: usize) {
    page.gauge("vaultdb_http_requests_in_flight", "Requests that passed admission and are not answered.")
        .value(in_flight);
    let mut family = page.counter("vaultdb_http_requests_total", "Requests answered.");
    for series in metrics.requests() {
        let status = series.status.to_string();
        let labels = [("route", series.route), ("method", series.method), ("status", status.as_str())];
        family.labelled(&labels, series.count);
    }
    let help = "Time from a request's head to its answer.";
    let mut family = page.histogram("vaultdb_http_request_duration_seconds", help);
    for series in metrics.latencies() {
        let labels = [("route", series.route)];
        family.buckets(&labels, &LATENCY_BOUNDS_US, &series.buckets, series.sum_us);
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

/// A metric's series under one name.
struct Family<'p> {
    text: &'p mut String,
    name: &'static str,
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        put(&mut self.text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.text, name }
    }
}

impl Family<'_> {
    fn value(&mut self, value: impl Display) {
        put(self.text, format_args!("{} {value}\n", self.name));
    }

    fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.series("", labels, value);
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        put(self.text, format_args!("{}{suffix}", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            put(self.text, format_args!("{before}{label}=\"{}\"", LabelText(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        put(self.text, format_args!("{end} {value}\n"));
    }

    fn timed(&mut self, labels: &[(&str, &str)], times: &HistogramSnapshot) {
        let sum_us = u64::try_from(times.sum.as_micros()).unwrap_or(u64::MAX);
        self.buckets(labels, times.bounds_us, &times.counts, sum_us);
    }

    /// One histogram. `counts` are those of each bucket alone: one for each bound, and one for the rest.
    fn buckets(&mut self, labels: &[(&str, &str)], bounds_us: &[u64], counts: &[u64], sum_us: u64) {
        let mut cumulative = 0;
        let bounds = bounds_us.iter().map(|us| Seconds(*us).to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            cumulative += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.series("_bucket", &labels, cumulative);
        }
        self.series("_sum", labels, Seconds(sum_us));
        self.series("_count", labels, cumulative);
    }
}

fn put(text: &mut String, piece: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(piece);
}

/// Microseconds shown as seconds, exactly.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if micros == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{micros:06}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// A label's value with what the format asks to be escaped.
struct LabelText<'a>(&'a str);

impl Display for LabelText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vaultdb_kv::Histogram;

    use super::*;

    /// Numbers and labels are written as the format wants them.
    #[test]
    fn numbers_and_labels() {
        assert_eq!(Seconds(50).to_string(), "0.00005");
        assert_eq!(Seconds(2_500_000).to_string(), "2.5");
        assert_eq!(Seconds(60_000_000).to_string(), "60");
        let mut page = Page::default();
        page.gauge("x", "Help.").labelled(&[("a", "q\"\\\n"), ("b", "2")], 7);
        assert_eq!(page.text, "# HELP x Help.\n# TYPE x gauge\nx{a=\"q\\\"\\\\\\n\",b=\"2\"} 7\n");
    }

    /// Buckets count what is in the ones before, too; the last one and the count are everything; the sum is
    /// in seconds; and a histogram needs no labels of its own.
    #[test]
    fn histograms() {
        let times = Histogram::new(&[100, 2_500]);
        for us in [100, 101, 2_500, 3_000_000] {
            times.record(Duration::from_micros(us));
        }
        let mut page = Page::default();
        page.histogram("x_seconds", "Help.").timed(&[("stage", "s")], &times.snapshot());
        let expected = "# HELP x_seconds Help.\n# TYPE x_seconds histogram\n\
                        x_seconds_bucket{stage=\"s\",le=\"0.0001\"} 1\n\
                        x_seconds_bucket{stage=\"s\",le=\"0.0025\"} 3\n\
                        x_seconds_bucket{stage=\"s\",le=\"+Inf\"} 4\n\
                        x_seconds_sum{stage=\"s\"} 3.002701\n\
                        x_seconds_count{stage=\"s\"} 4\n";
        assert_eq!(page.text, expected);
        let mut page = Page::default();
        page.histogram("x", "Help.").buckets(&[], &[], &[2], 5);
        let expected = "x_bucket{le=\"+Inf\"} 2\nx_sum 0.000005\nx_count 2\n";
        assert!(page.text.ends_with(expected), "{}", page.text);
    }
}
