//! `GET /v1/events`: complete, in order, live, and bounded whatever its clients do.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use vaultdb_web::model::{EventKind, EVENTS_MAX};

use crate::server::TestServer;

const STREAMS_MAX: usize = 64;
const ACCEPT: &str = "Accept: text/event-stream\r\n";

fn record(server: &TestServer, detail: &str) {
    server.fake.0.events.record("store", EventKind::Restarted, detail.to_owned());
}

/// A client of the stream, past the head of the answer.
struct Follower(BufReader<TcpStream>);

impl Follower {
    fn open(server: &TestServer, target: &str, head: &str) -> Self {
        let mut conn = server.conn();
        conn.send("GET", target, &format!("{ACCEPT}{head}"), None);
        let answer = conn.read(true);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        answer.check_common_headers();
        Self(BufReader::new(conn.0))
    }

    /// The next piece of the chunked body; empty at its end.
    fn chunk(&mut self) -> String {
        let mut size = String::new();
        self.0.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|e| panic!("{size:?}: {e}"));
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        String::from_utf8(chunk).unwrap()
    }

    /// The next piece that is more than a sign of life.
    fn events(&mut self) -> String {
        loop {
            let chunk = self.chunk();
            if chunk != ": heartbeat\n\n" {
                return chunk;
            }
        }
    }
}

/// The list holds what is above `since`, oldest first, each with all its fields.
#[test]
fn lists_events_since() {
    let server = TestServer::start();
    assert_eq!(server.get("/v1/events").ok(), serde_json::json!({"events": [], "last_seq": 0}));
    record(&server, "one \"of\"\ntwo");
    record(&server, "two");
    let list = server.get("/v1/events?since=0").ok();
    let first = &list["events"][0];
    assert_eq!(
        (&first["seq"], &first["component"], &first["what"]),
        (&1.into(), &"store".into(), &"restarted".into())
    );
    assert_eq!(first["detail"], "one \"of\"\ntwo");
    assert!(first["time_ms"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000));
    let seqs = |list: &Value| -> Vec<u64> {
        list["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!((seqs(&list), &list["last_seq"]), (vec![1, 2], &2.into()));
    assert_eq!(seqs(&server.get("/v1/events?since=1").ok()), [2]);
    for beyond in ["2", "99", "18446744073709551615"] {
        let list = server.get(&format!("/v1/events?since={beyond}")).ok();
        assert_eq!((seqs(&list), &list["last_seq"]), (vec![], &2.into()), "{beyond}");
    }
    for bad in ["since=", "since=-1", "since=x", "since=1&since=2", "since=18446744073709551616"] {
        server.get(&format!("/v1/events?{bad}")).problem(400, "invalid_parameter");
    }
    server.post("/v1/events", "").problem(405, "method_not_allowed");
    // From memory: also while nothing else behind the edge answers.
    server.fake.hang(true);
    assert_eq!(seqs(&server.get("/v1/events").ok()), [1, 2]);
}

/// A stream gives what there was and then what happens, in the format of server-sent events; one that comes
/// back goes on after the last it had.
#[test]
fn streams_events_live() {
    let server = TestServer::start();
    record(&server, "a\nb");
    let mut follower = Follower::open(&server, "/v1/events", "");
    assert_eq!(follower.chunk(), "retry: 1000\n\n");
    let first = follower.events();
    let data = first.strip_prefix("id: 1\nevent: restarted\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!(!data.contains('\n'), "{data}");
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["detail"], "a\nb");
    record(&server, "two");
    assert!(follower.events().starts_with("id: 2\n"), "live");
    for (target, head, begins) in [
        ("/v1/events", "Last-Event-ID: 1\r\n", "id: 2\n"),
        ("/v1/events?since=1", "", "id: 2\n"),
        ("/v1/events?since=0", "Last-Event-ID: 1\r\n", "id: 2\n"),
        // Of a process before this one.
        ("/v1/events", "Last-Event-ID: 700\r\n", "id: 1\n"),
    ] {
        let mut again = Follower::open(&server, target, head);
        again.chunk();
        let piece = again.events();
        assert!(piece.starts_with(begins), "{target} {head}: {piece}");
    }
    let mut only_new = Follower::open(&server, "/v1/events?since=700", "");
    only_new.chunk();
    record(&server, "three");
    assert!(only_new.events().starts_with("id: 3\n"));
    let bad = server.call("GET", "/v1/events", &format!("{ACCEPT}Last-Event-ID: x\r\n"), None);
    bad.problem(400, "invalid_parameter");
}

/// A stream on which nothing happens shows that it lives.
#[test]
fn quiet_streams_show_signs_of_life() {
    let server = TestServer::with(|options| options.event_heartbeat = Duration::from_millis(10));
    let mut follower = Follower::open(&server, "/v1/events", "");
    follower.chunk();
    for _ in 0..3 {
        assert_eq!(follower.chunk(), ": heartbeat\n\n");
    }
}

/// Who falls behind the ring is told how much it missed, and then goes on in order.
#[test]
fn a_client_that_lags_is_told_what_it_missed() {
    let server = TestServer::start();
    for i in 0..EVENTS_MAX + 7 {
        record(&server, &i.to_string());
    }
    let mut follower = Follower::open(&server, "/v1/events", "Last-Event-ID: 2\r\n");
    follower.chunk();
    let piece = follower.events();
    assert!(piece.starts_with("event: missed\ndata: {\"missed\":5}\n\nid: 8\n"), "{piece}");
    let mut last = piece;
    while !last.contains(&format!("id: {}\n", EVENTS_MAX + 7)) {
        last = follower.events();
        assert!(!last.contains("missed"), "{last}");
    }
}

/// Streams are bounded in number, take no permit of a request, and give their place back when they end.
#[test]
fn streams_are_bounded_and_cost_requests_nothing() {
    let server = TestServer::with(|options| options.requests_in_flight_max = 1);
    let mut open: Vec<_> = (0..STREAMS_MAX).map(|_| Follower::open(&server, "/v1/events", "")).collect();
    let refused = server.call("GET", "/v1/events", ACCEPT, None).problem(429, "overloaded");
    assert_eq!(refused["limit"], STREAMS_MAX as u64);
    server.put("/v1/kv/a", "1").ok();
    server.get("/v1/events").ok();
    open.pop();
    let begun = std::time::Instant::now();
    let once_more = || {
        let mut conn = server.conn();
        conn.send("GET", "/v1/events", ACCEPT, None);
        conn.read(true).status
    };
    // The place is free once the server has noticed that the client is gone.
    while once_more() == 429 {
        record(&server, "something to write");
        assert!(begun.elapsed() < Duration::from_secs(10), "never free");
    }
}

/// A client that takes nothing any more loses its place.
#[test]
fn stalled_streams_give_their_place_back() {
    let server = TestServer::with(|options| options.untaken_timeout = Duration::from_millis(300));
    let following = |count: u32| {
        let metrics = server.get("/metrics").text().to_owned();
        metrics.contains(&format!("\nvaultdb_events_streams {count}\n"))
    };
    let _stalled = Follower::open(&server, "/v1/events", "");
    assert!(following(1));
    // More than the buffers of both ends hold, however the kernel grows them.
    let detail = "x".repeat(256 * 1024);
    let begun = std::time::Instant::now();
    while !following(0) {
        record(&server, &detail);
        assert!(begun.elapsed() < Duration::from_secs(30), "never given back");
    }
}

/// A stream ends with the server's stop, in order, and does not hold it up.
#[test]
fn streams_end_with_the_server() {
    let server = TestServer::with(|options| options.shutdown_timeout = Duration::from_secs(30));
    let mut follower = Follower::open(&server, "/v1/events", "");
    follower.chunk();
    let begun = std::time::Instant::now();
    drop(server.handle.stop(true));
    assert_eq!(follower.events(), "", "the end of the body");
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
