//! What is too large or too much is refused, before it costs anything.

use std::io::Write;
use std::time::Duration;

use crate::server::TestServer;

const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// The limit of values is inclusive, with and without an announced length.
#[test]
fn value_size() {
    let server = TestServer::start();
    let value = vec![b'v'; VALUE_BYTES_MAX];
    server.put("/v1/kv/fits", &value).ok();
    assert_eq!(server.get("/v1/kv/fits").body, value);

    let problem = server.put("/v1/kv/over", vec![b'v'; VALUE_BYTES_MAX + 1]).problem(413, "value_too_large");
    assert_eq!((&problem["limit"], &problem["applied"]), (&VALUE_BYTES_MAX.into(), &"no".into()));

    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/over", "Transfer-Encoding: chunked\r\n", None);
    conn.0.write_all(format!("{:x}\r\n", VALUE_BYTES_MAX + 1).as_bytes()).unwrap();
    conn.0.write_all(&vec![b'v'; VALUE_BYTES_MAX + 1]).unwrap();
    conn.0.write_all(b"\r\n0\r\n\r\n").unwrap();
    assert_eq!(conn.read(false).problem(413, "value_too_large")["limit"], VALUE_BYTES_MAX);
    assert_eq!(server.fake.value(b"over"), None);

    let json = format!("{{\"k\":\"{}\"}}", "v".repeat(VALUE_BYTES_MAX + 1));
    assert_eq!(server.post("/key", json).problem(413, "value_too_large")["limit"], VALUE_BYTES_MAX);
}

/// An announced length over the limit is refused before the body is sent, also to a client that waits
/// for leave to send it.
#[test]
fn announced_length_is_refused_at_once() {
    let server = TestServer::start();
    for head in ["Content-Length: 99999999999\r\n", "Content-Length: 1048577\r\nExpect: 100-continue\r\n"] {
        let mut conn = server.conn();
        conn.send("PUT", "/v1/kv/k", head, None);
        conn.read(false).problem(413, "value_too_large");
    }
}

/// The configured limit of values counts, not the default.
#[test]
fn configured_value_size() {
    let server = TestServer::with(|options| options.limits.value_bytes_max = 4);
    server.put("/v1/kv/k", "1234").ok();
    assert_eq!(server.put("/v1/kv/k", "12345").problem(413, "value_too_large")["limit"], 4);
    assert_eq!(server.post("/key", r#"{"k":"12345"}"#).problem(413, "value_too_large")["limit"], 4);
}

/// A batch is bounded by its pairs, by its bytes and by its text, each with its limit named.
#[test]
fn batch_size() {
    let server = TestServer::start();
    let batch = |pairs: usize, value: &str| {
        let pairs: Vec<String> = (0..pairs).map(|i| format!("\"k{i}\":\"{value}\"")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    server.post("/key", batch(128, "v")).ok();
    assert_eq!(server.post("/key", batch(129, "v")).problem(413, "batch_too_large")["limit"], 128);
    let problem = server.post("/key", batch(5, &"v".repeat(1_000_000))).problem(413, "batch_too_large");
    assert_eq!((&problem["limit"], &problem["applied"]), (&(4 * 1024 * 1024).into(), &"no".into()));
    // Escapes that clients commonly write fit, although the text is larger than the batch may be.
    server.post("/key", batch(4, &"\\u00e9".repeat(500_000))).ok();
    let problem = server.post("/key", batch(14, &"v".repeat(1_000_000))).problem(413, "batch_too_large");
    assert!(problem["limit"].as_u64().unwrap() > 12 * 1024 * 1024);
    assert_eq!(server.post("/join", vec![b' '; 70_000]).problem(413, "body_too_large")["limit"], 65_536);
}

/// A refused body leaves the server able to serve, and other connections untouched.
#[test]
fn refusal_leaves_the_server_well() {
    let server = TestServer::start();
    let mut other = server.conn();
    other.call("PUT", "/v1/kv/a", "", Some(b"1")).ok();
    for _ in 0..20 {
        server.put("/v1/kv/b", vec![0; 3 * VALUE_BYTES_MAX]).problem(413, "value_too_large");
    }
    assert_eq!(other.call("GET", "/v1/kv/a", "", None).body, b"1");
}

/// A body in a content encoding would be stored as it came: refused.
#[test]
fn content_encoding() {
    let server = TestServer::start();
    let answer = server.call("PUT", "/v1/kv/a", "Content-Encoding: gzip\r\n", Some(b"x"));
    assert_eq!(answer.problem(415, "unsupported_media_type")["applied"], "no");
    server.call("PUT", "/v1/kv/a", "Content-Encoding: identity\r\n", Some(b"x")).ok();
}

/// Past the limit of requests in flight a request is refused at once; what operators look at is not.
/// Every end of a request frees its place, also a client that went away.
#[test]
fn admission() {
    let server = TestServer::with(|options| options.requests_in_flight_max = 2);
    server.fake.hang(true);
    let mut waiting: Vec<_> = (0..2).map(|_| server.conn()).collect();
    for conn in &mut waiting {
        conn.send("GET", "/v1/kv/a?timeout=60s", "", None);
    }
    server.fake.wait_hanging(2);

    let refused = server.put("/v1/kv/a", "1");
    let problem = refused.problem(429, "overloaded");
    assert_eq!((&problem["applied"], &problem["limit"]), (&"no".into(), &2.into()));
    assert!(server.get("/v1/kv/a").problem(429, "overloaded").get("applied").is_none());
    server.post("/join", "{}").problem(429, "overloaded");
    for target in ["/status", "/metrics", "/"] {
        assert_eq!(server.get(target).status, 200);
    }
    assert!(server.get("/metrics").text().contains("\nvaultdb_http_requests_in_flight 2\n"));

    server.fake.hang(false);
    for conn in &mut waiting {
        conn.read(false).problem(404, "key_not_found");
    }
    server.put("/v1/kv/a", "1").ok();

    // Clients that reset their connection while their request waits.
    server.fake.hang(true);
    for _ in 0..2 {
        server.conn().send("GET", "/v1/kv/a?timeout=200ms", "", None);
    }
    server.fake.wait_hanging(2);
    server.fake.wait_hanging(0);
    server.fake.hang(false);
    server.put("/v1/kv/a", "2").ok();
}

/// Bodies together are bounded, too.
#[test]
fn body_bytes_in_flight() {
    let server = TestServer::with(|options| options.body_bytes_in_flight_max = 1_000);
    let begin = || {
        let mut conn = server.conn();
        conn.send("PUT", "/v1/kv/a", "Content-Length: 901\r\n", None);
        conn.0.write_all(&[b'a'; 900]).unwrap();
        conn
    };
    let mut slow = begin();
    let refused = loop {
        let answer = server.put("/v1/kv/b", [b'b'; 500]);
        if answer.status != 200 {
            break answer;
        }
        // The other body may have been in flight first, and then this one was refused.
        if slow.is_answered() {
            slow.read(false).problem(429, "overloaded");
            slow = begin();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(refused.problem(429, "overloaded")["limit"], 1_000);
    slow.0.write_all(b"a").unwrap();
    slow.read(false).ok();
    server.put("/v1/kv/b", [b'b'; 500]).ok();
}

/// A client that goes away in the middle of its body leaves nothing behind.
#[test]
fn abandoned_bodies() {
    let server = TestServer::with(|options| options.requests_in_flight_max = 1);
    for _ in 0..5 {
        let mut conn = server.conn();
        conn.send("PUT", "/v1/kv/a", "Content-Length: 10\r\n", None);
        conn.0.write_all(b"123").unwrap();
        drop(conn);
        while server.put("/v1/kv/b", "1").status == 429 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(server.fake.value(b"a"), None);
}
