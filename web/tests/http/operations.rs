//! What operators look at: probes, metrics, the landing page, connections, shutdown.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vaultdb_web::model::{CheckResult, EventKind, LINEARIZABLE_READ};

use crate::server::TestServer;

fn check(name: &'static str, reason: Option<&str>) -> CheckResult {
    CheckResult { name, ok: reason.is_none(), reason: reason.map(str::to_owned) }
}

/// A probe lists its checks, fails with 503 and a reason, and `livez` asks of the process and its own store only.
#[test]
fn probes() {
    let server = TestServer::start();
    let set = |live: Option<&str>, read: Option<&str>| {
        let alive = vec![check("store", live)];
        let ready = [alive.clone(), vec![check(LINEARIZABLE_READ, read)]].concat();
        *server.fake.0.liveness.lock().unwrap() = alive;
        *server.fake.0.readiness.lock().unwrap() = ready;
    };
    set(None, None);
    for target in ["/livez", "/readyz"] {
        let answer = server.get(target);
        assert_eq!((answer.status, answer.text()), (200, "ok\n"));
    }
    assert_eq!(server.get("/livez?verbose").text(), "[+]store ok\n");
    assert_eq!(server.get("/readyz?verbose").text(), "[+]store ok\n[+]linearizable_read ok\n");

    set(None, Some("no\nleader"));
    assert_eq!(server.get("/livez").status, 200);
    let problem = server.get("/readyz").problem(503, "no_leader");
    assert!(problem["detail"].as_str().unwrap().contains("linearizable_read"));
    let listed = server.get("/readyz?verbose");
    assert_eq!((listed.status, listed.text()), (503, "[+]store ok\n[-]linearizable_read no leader\n"));

    set(Some("rot"), None);
    assert_eq!(server.get("/livez?verbose").status, 503);
    for target in ["/livez", "/readyz"] {
        server.get(target).problem(503, "starting");
    }
    set(None, None);
    server.fake.hang(true);
    assert_eq!(server.get("/livez?timeout=50ms&verbose").status, 503);
}

/// Every line of the exposition is well formed, each family is typed once, and the requests show up.
#[test]
fn metrics() {
    let server = TestServer::start();
    server.put("/v1/kv/secret", "1").ok();
    server.get("/v1/kv/secret");
    server.get("/v1/kv/absent");
    server.get("/nowhere");
    server.fake.0.events.record("store", EventKind::Restarted, "panicked".into());
    let answer = server.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    let mut typed = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name.starts_with("vaultdb_") && ["gauge", "counter", "histogram"].contains(&kind));
            assert!(!typed.contains(&name), "{name} twice");
            typed.push(name);
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let family = typed.last().unwrap();
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} under {family}"));
            assert!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
        }
    }
    for line in [
        "vaultdb_server_has_leader 1",
        "vaultdb_server_is_leader 1",
        "vaultdb_raft_term 3",
        "vaultdb_raft_committed_index 119",
        "vaultdb_raft_applied_index 118",
        "vaultdb_raft_proposals_committed 5",
        "vaultdb_raft_proposals_failed 6",
        "vaultdb_raft_proposals_pending 7",
        "vaultdb_replication_lag_entries{peer=\"node\\\"1\"} 7",
        "vaultdb_store_revision 1",
        "vaultdb_store_disk_bytes 4096",
        "vaultdb_integrity_scrubbed_bytes_total 5",
        "vaultdb_integrity_errors_total 1",
        "vaultdb_integrity_last_scrub_timestamp_seconds 1.5",
        "vaultdb_cache_hits_total 3",
        "vaultdb_cache_misses_total 4",
        "vaultdb_component_restarts_total{component=\"store\"} 2",
        "vaultdb_component_healthy{component=\"store\"} 0",
        "vaultdb_component_mailbox_delay_seconds{component=\"store\"} 0.00007",
        "vaultdb_server_uptime_seconds 1.5",
        "vaultdb_server_build_info{version=\"0.1.0\"} 1",
        "vaultdb_events_total{component=\"store\",what=\"restarted\"} 1",
        "vaultdb_events_streams 0",
        "vaultdb_http_requests_total{route=\"/v1/kv/{key}\",method=\"PUT\",status=\"200\"} 1",
        "vaultdb_http_requests_total{route=\"/v1/kv/{key}\",method=\"GET\",status=\"200\"} 1",
        "vaultdb_http_requests_total{route=\"/v1/kv/{key}\",method=\"GET\",status=\"404\"} 1",
        "vaultdb_http_requests_total{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
        "vaultdb_http_request_duration_seconds_count{route=\"/v1/kv/{key}\"} 3",
        "vaultdb_http_request_duration_seconds_bucket{route=\"/v1/kv/{key}\",le=\"+Inf\"} 3",
        "vaultdb_wal_fsync_duration_seconds_count 0",
        "vaultdb_write_stage_duration_seconds_bucket{stage=\"queue\",le=\"0.00005\"} 1",
        "vaultdb_write_stage_duration_seconds_sum{stage=\"queue\"} 0.00004",
        "vaultdb_write_stage_duration_seconds_count{stage=\"answer\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("secret"), "a key must never be a label");
}

/// By the metrics, a leader that no quorum follows is none.
#[test]
fn leader_without_a_quorum() {
    let server = TestServer::start();
    server.fake.0.leads_alone.store(true, Ordering::SeqCst);
    let answer = server.get("/metrics");
    let text = answer.text();
    for line in ["vaultdb_server_has_leader 0", "vaultdb_server_is_leader 0"] {
        assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
    }
}

/// While the dispatcher hangs it is not known what waits in it; counters are there, and what they were.
#[test]
fn metrics_while_the_dispatcher_hangs() {
    let server = TestServer::start();
    server.fake.0.dispatcher_hangs.store(true, Ordering::SeqCst);
    let answer = server.get("/metrics");
    let text = answer.text();
    for line in [
        "vaultdb_server_leader_changes_total 3",
        "vaultdb_raft_proposals_committed 5",
        "vaultdb_raft_proposals_failed 6",
    ] {
        assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("vaultdb_raft_proposals_pending"), "{text}");
}

/// A client that closes its half of the connection after its request still gets the answer.
#[test]
fn half_closed_clients_are_answered() {
    let server = TestServer::start();
    server.fake.hang(true);
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/a", "Connection: close\r\n", Some(b"1"));
    conn.0.shutdown(std::net::Shutdown::Write).unwrap();
    server.fake.wait_hanging(1);
    server.fake.hang(false);
    conn.read(false).ok();
    assert!(conn.is_closed());
}

/// A graceful stop answers what is in flight and accepts nothing more.
#[test]
fn graceful_stop_drains() {
    let server = TestServer::with(|options| options.shutdown_timeout = Duration::from_secs(5));
    server.fake.hang(true);
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/a", "", Some(b"1"));
    server.fake.wait_hanging(1);
    drop(server.handle.stop(true));
    while std::net::TcpStream::connect(server.addr).is_ok_and(|mut late| {
        late.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        !matches!(late.read(&mut [0]), Ok(0))
    }) {}
    server.fake.hang(false);
    conn.read(false).ok();
    assert_eq!(server.fake.value(b"a").unwrap(), b"1");
}

/// An idle connection does not hold a graceful stop up.
#[test]
fn idle_connections_do_not_delay_a_stop() {
    let server = TestServer::with(|options| options.shutdown_timeout = Duration::from_secs(30));
    let mut idle = server.conn();
    idle.call("PUT", "/v1/kv/a", "", Some(b"1")).ok();
    let begun = Instant::now();
    drop(server.handle.stop(true));
    assert!(idle.is_closed());
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
