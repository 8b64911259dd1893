//! Listings: pages and streams of one revision, their parameters, and what ends them.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use vaultdb_kv::{Consistency, ReadError};
use vaultdb_web::model::{LISTING_LEASE, PAGED_LISTINGS_MAX, STREAMED_LISTINGS_MAX};

use crate::client::{Answer, Conn};
use crate::server::TestServer;

const NDJSON: &str = "Accept: application/x-ndjson\r\n";
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A server with the keys `k00` to `k99`, each with its name as the value.
fn hundred() -> TestServer {
    let server = TestServer::start();
    let pairs: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("k{i:02}"), json!(format!("k{i:02}")))).collect();
    server.post("/key", Value::Object(pairs).to_string()).ok();
    server
}

fn keys(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect()
}

fn next(page: &Value) -> &str {
    page["next"].as_str().unwrap_or_else(|| panic!("no cursor in {page}"))
}

fn wait_views(server: &TestServer, count: usize) {
    let begun = Instant::now();
    while server.fake.0.views.load(Ordering::SeqCst) != count {
        let living = server.fake.0.views.load(Ordering::SeqCst);
        assert!(begun.elapsed() < WAIT_MAX, "{living} views live, not {count}");
        std::thread::yield_now();
    }
}

/// A chunked answer, read piece by piece.
struct Chunks {
    conn: Conn,
    head: Answer,
}

impl Chunks {
    fn begin(server: &TestServer, target: &str) -> Self {
        let mut conn = server.conn();
        conn.send("GET", target, NDJSON, None);
        // A stream has no length; the head alone ends where any head does.
        let mut head = conn.read(true);
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
        head.check_common_headers();
        head.body.clear();
        Self { conn, head }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.conn.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line).unwrap())
    }

    /// The next chunk, `None` at the end of the answer.
    fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut chunk = vec![0; size];
        self.conn.0.read_exact(&mut chunk)?;
        assert_eq!(self.line()?, "");
        Ok((size > 0).then_some(chunk))
    }

    /// All items to the end; an error when the answer is cut off.
    fn rest(&mut self) -> std::io::Result<Vec<Value>> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk()? {
            text.extend(chunk);
        }
        assert!(text.is_empty() || text.ends_with(b"\n"));
        Ok(text
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect())
    }
}

/// Pages follow each other through the whole range and show the state of the first; a cursor gives the same
/// page as often as it is used. One page alone leaves nothing behind.
#[test]
fn pages_of_one_revision() {
    let server = hundred();
    let first = server.get("/v1/kv?limit=40&prefix=k");
    assert_eq!(first.header("vault-revision"), Some("1"));
    assert_eq!(first.header("vault-consistency"), Some("linearizable"));
    let first = first.ok();
    assert_eq!((keys(&first).len(), &first["revision"]), (40, &json!(1)));
    assert_eq!(first["items"][3], json!({"key": "k03", "value": "k03", "revision": 1}));
    server.put("/v1/kv/k55", "changed").ok();
    server.delete("/v1/kv/k56").ok();
    server.put("/v1/kv/k575", "new").ok();

    let target = format!("/v1/kv?cursor={}&limit=30", next(&first));
    let second = server.get(&target);
    assert_eq!(second.header("vault-revision"), Some("1"));
    assert_eq!(second.header("vault-consistency"), Some("linearizable"));
    assert_eq!(second.body, server.get(&target).body);
    let second = second.ok();
    assert_eq!((keys(&second)[0], keys(&second)[29]), ("k40", "k69"));
    assert_eq!(second["items"][15], json!({"key": "k55", "value": "k55", "revision": 1}));
    let last = format!("/v1/kv?cursor={}&prefix=k&start=&reverse=false", next(&second));
    let third = server.get(&last).ok();
    assert_eq!((keys(&third).len(), &third["next"]), (30, &Value::Null));
    assert_eq!(server.get(&last).ok(), third, "also the last page, for a moment");
    wait_views(&server, 1);
    server.fake.0.listings.sweep(Instant::now() + LISTING_LEASE);
    wait_views(&server, 0);

    let all = server.get("/v1/kv").ok();
    assert_eq!((keys(&all).len(), &all["next"], &all["revision"]), (100, &Value::Null, &json!(4)));
    wait_views(&server, 0);
}

/// Prefix, start and end intersect, in either direction; keys may go without their values.
#[test]
fn ranges() {
    let server = hundred();
    for (query, want) in [
        ("prefix=k1&end=k13", vec!["k10", "k11", "k12"]),
        ("start=k97", vec!["k97", "k98", "k99"]),
        ("start=k97&end=k99&reverse=true", vec!["k98", "k97"]),
        ("prefix=k4&reverse=true&limit=2", vec!["k49", "k48"]),
        ("prefix=x", vec![]),
        ("start=k5&end=k4", vec![]),
        ("prefix=%6B00", vec!["k00"]),
    ] {
        let page = server.get(&format!("/v1/kv?{query}")).ok();
        assert_eq!(keys(&page), want, "{query}");
    }
    let page = server.get("/v1/kv?prefix=k00&keys_only=true");
    assert_eq!(page.text(), r#"{"items":[{"key":"k00","revision":1}],"next":null,"revision":1}"#);
    let backwards = server.get("/v1/kv?reverse=true&limit=60&keys_only=true").ok();
    let rest = server.get(&format!("/v1/kv?cursor={}", next(&backwards))).ok();
    assert_eq!((keys(&rest)[0], keys(&rest)[39], keys(&rest).len()), ("k39", "k00", 40));
    assert!(rest["items"][0].get("value").is_none());
}

/// Bytes that are no text are told in base64, and a cursor after such a key works.
#[test]
fn bytes_in_json() {
    let server = TestServer::start();
    server.put("/v1/kv/a%FF", [0xff, 0xfe]).ok();
    server.put("/v1/kv/b", "").ok();
    let page = server.get("/v1/kv?limit=1").ok();
    assert_eq!(page["items"], json!([{"key_base64": "Yf8=", "value_base64": "//4=", "revision": 1}]));
    let page = server.get(&format!("/v1/kv?cursor={}", next(&page))).ok();
    assert_eq!(page["items"], json!([{"key": "b", "value": "", "revision": 2}]));
}

/// A page ends at 4 MiB, and an item always fits.
#[test]
fn pages_end_at_their_bytes() {
    let server = TestServer::with(|options| options.limits.value_bytes_max = 5 << 20);
    for key in ["a", "b", "c", "d", "e"] {
        server.put(&format!("/v1/kv/{key}"), vec![b'v'; if key == "e" { 5 << 20 } else { 1_200_000 }]).ok();
    }
    let mut pages = Vec::new();
    let mut page = server.get("/v1/kv").ok();
    while let Some(cursor) = page["next"].as_str().map(str::to_owned) {
        pages.push(keys(&page).join(""));
        page = server.get(&format!("/v1/kv?cursor={cursor}")).ok();
    }
    pages.push(keys(&page).join(""));
    assert_eq!(pages, ["abc", "d", "e"]);
    let names = server.get("/v1/kv?keys_only=true").ok();
    assert_eq!(keys(&names).len(), 5);
}

/// What is malformed or contradicts the cursor is refused by name.
#[test]
fn parameters_are_checked() {
    let server = hundred();
    let first = server.get("/v1/kv?limit=10&prefix=k&consistency=stale").ok();
    let cursor = next(&first).to_owned();
    for (query, named) in [
        ("limit=0".to_owned(), "limit"),
        ("limit=10001".into(), "limit"),
        ("limit=ten".into(), "limit"),
        ("reverse=1".into(), "reverse"),
        ("prefix=%f".into(), "prefix"),
        ("consistency=strong".into(), "consistency"),
        ("cursor=x".into(), "cursor"),
        (format!("cursor={}", &cursor[..cursor.len() - 1]), "cursor"),
        (format!("cursor={cursor}&prefix=j"), "prefix"),
        (format!("cursor={cursor}&reverse=true"), "reverse"),
        (format!("cursor={cursor}&limit=0"), "limit"),
        (format!("cursor={cursor}&consistency=linearizable"), "consistency"),
        (format!("cursor={cursor}&min_revision=2"), "min_revision"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = server.call(method, &format!("/v1/kv?{query}"), "", None);
            assert_eq!(answer.status, 400, "{method} {query}");
            if method == "GET" {
                let problem = answer.problem(400, "invalid_parameter");
                assert!(problem["detail"].as_str().unwrap().contains(named), "{query}: {problem}");
                assert_eq!(problem.get("limit").is_some(), named == "limit", "{problem}");
            }
        }
    }
    let ok = format!("/v1/kv?cursor={cursor}&prefix=k&consistency=stale&max_staleness=1s&min_revision=1");
    assert_eq!(server.get(&ok).header("vault-consistency"), Some("stale"));
    server.call("GET", &format!("/v1/kv?cursor={cursor}"), NDJSON, None).problem(400, "invalid_parameter");
    let refused = server.put("/v1/kv", "x");
    refused.problem(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
}

/// A cursor whose lease has ended, of another node or of an earlier process says to begin again.
#[test]
fn cursors_expire() {
    let (server, other) = (hundred(), hundred());
    let cursor = |server: &TestServer| {
        let page = server.get("/v1/kv?limit=1").ok();
        format!("/v1/kv?cursor={}", next(&page))
    };
    let (old, foreign) = (cursor(&server), cursor(&other));
    server.fake.0.listings.sweep(Instant::now() + LISTING_LEASE);
    wait_views(&server, 0);
    for target in [&old, &foreign] {
        let problem = server.get(target).problem(410, "cursor_expired");
        assert!(problem["detail"].as_str().unwrap().contains("begin again"), "{problem}");
        assert!(problem.get("applied").is_none());
    }
    other.get(&foreign).ok();

    let first = cursor(&server);
    let later: Vec<String> = (0..PAGED_LISTINGS_MAX).map(|_| cursor(&server)).collect();
    server.get(&first).problem(410, "cursor_expired");
    server.get(&later[0]).ok();
    wait_views(&server, PAGED_LISTINGS_MAX);
}

/// HEAD tells what GET would but for the length, takes no lease, and leaves the connection usable.
#[test]
fn head_of_a_listing() {
    let server = hundred();
    let mut conn = server.conn();
    for (target, accept) in [("/v1/kv?limit=5", ""), ("/v1/kv?prefix=none", ""), ("/v1/kv", NDJSON)] {
        conn.send("HEAD", target, accept, None);
        let head = conn.read(true);
        head.check_common_headers();
        assert_eq!((head.status, head.header("content-length")), (200, None), "{target}");
        assert_eq!(head.header("vault-revision"), Some("1"));
        assert_eq!(head.header("vault-consistency"), Some("linearizable"));
        let media = if accept.is_empty() { "application/json" } else { "application/x-ndjson" };
        assert_eq!(head.header("content-type"), Some(media));
    }
    assert_eq!(conn.call("GET", "/v1/kv/k00", "", None).body, b"k00");
    wait_views(&server, 0);
}

/// The level and the timeout of a listing are the request's; errors of the node are a read's.
#[test]
fn listings_are_reads() {
    let server = hundred();
    server.get("/v1/kv?consistency=stale&timeout=60s").ok();
    let (freshness, left) = server.fake.0.last_read.lock().unwrap().unwrap();
    assert_eq!(freshness.consistency, Consistency::Stale);
    assert!(left > Duration::from_secs(50), "{left:?}");
    for (error, status, code) in [
        (ReadError::NoLeader, 503, "no_leader"),
        (ReadError::Overloaded, 429, "overloaded"),
        (ReadError::Store { reason: "bad block".into() }, 500, "internal"),
    ] {
        for head in ["", NDJSON] {
            server.fake.0.read_errors.lock().unwrap().push_back(error.clone());
            let answer = server.call("GET", "/v1/kv", head, None);
            let problem = answer.problem(status, code);
            assert!(problem.get("applied").is_none(), "{problem}");
            assert_eq!(answer.header("vault-consistency"), Some("linearizable"));
        }
    }
    server.fake.hang(true);
    server.get("/v1/kv?timeout=50ms").problem(503, "no_leader");
    server.fake.hang(false);
}

/// A stream holds the whole range, one object a line, of one revision, and its connection goes on.
#[test]
fn streams() {
    let server = hundred();
    let mut stream = Chunks::begin(&server, "/v1/kv?prefix=k&reverse=true");
    assert_eq!(stream.head.header("vault-revision"), Some("1"));
    assert_eq!(stream.head.header("vault-consistency"), Some("linearizable"));
    let items = stream.rest().unwrap();
    assert_eq!(items.len(), 100);
    assert_eq!(items[0], json!({"key": "k99", "value": "k99", "revision": 1}));
    assert_eq!(stream.conn.call("GET", "/v1/kv/k00", "", None).body, b"k00");
    assert_eq!(Chunks::begin(&server, "/v1/kv?limit=7").rest().unwrap().len(), 7);
    assert_eq!(Chunks::begin(&server, "/v1/kv?prefix=none").rest().unwrap().len(), 0);
    let page = server.call("GET", "/v1/kv?limit=1", "Accept: text/html, */*;q=0.1\r\n", None).ok();
    assert_eq!(keys(&page), ["k00"]);
    let mixed = "Accept: text/html\r\nAccept: application/json, Application/X-NDJSON;q=0.9\r\n";
    let mut conn = server.conn();
    conn.send("GET", "/v1/kv?limit=1", mixed, None);
    assert_eq!(conn.read(true).header("content-type"), Some("application/x-ndjson"));
    wait_views(&server, 1);
    let rest = page["next"].as_str().unwrap();
    assert_eq!(keys(&server.get(&format!("/v1/kv?cursor={rest}")).ok()).len(), 99);
    let mut old = server.conn();
    old.0.write_all(format!("GET /v1/kv HTTP/1.0\r\n{NDJSON}\r\n").as_bytes()).unwrap();
    old.read(false).problem(400, "malformed_request");
}

/// More than what a client and the network between take in: a stream that nobody reads stands still.
fn large() -> TestServer {
    let server = TestServer::start();
    let mut conn = server.conn();
    for i in 0..64 {
        let value = vec![b'v'; 1 << 20];
        assert_eq!(conn.call("PUT", &format!("/v1/kv/{i:02}"), "", Some(&value)).status, 200);
    }
    server
}

/// What goes wrong in the middle cuts the connection, so that the part is not taken for the whole.
#[test]
fn broken_streams_are_cut_off() {
    let server = large();
    let mut stream = Chunks::begin(&server, "/v1/kv");
    assert!(stream.chunk().unwrap().is_some());
    server.fake.0.read_errors.lock().unwrap().push_back(ReadError::Store { reason: "bad block".into() });
    assert!(stream.rest().is_err());
    wait_views(&server, 0);

    // Nobody reads until the lease has ended.
    let mut stream = Chunks::begin(&server, "/v1/kv");
    wait_views(&server, 1);
    server.fake.0.listings.sweep(Instant::now() + LISTING_LEASE);
    wait_views(&server, 0);
    assert!(stream.rest().is_err());

    // A client that goes away ends it at once.
    let mut stream = Chunks::begin(&server, "/v1/kv");
    assert!(stream.chunk().unwrap().is_some());
    wait_views(&server, 1);
    drop(stream);
    wait_views(&server, 0);
    let whole = Chunks::begin(&server, "/v1/kv").rest().unwrap();
    assert_eq!(whole.len(), 64);
}

/// One stream too many is refused, and its place is free when another ends.
#[test]
fn streams_are_bounded() {
    let server = large();
    let mut streams: Vec<_> = (0..STREAMED_LISTINGS_MAX).map(|_| Chunks::begin(&server, "/v1/kv")).collect();
    let problem = server.call("GET", "/v1/kv", NDJSON, None).problem(429, "overloaded");
    assert_eq!(problem["limit"], 64);
    server.get("/v1/kv?limit=1").ok();
    streams.pop();
    wait_views(&server, STREAMED_LISTINGS_MAX);
    drop(Chunks::begin(&server, "/v1/kv"));
    drop(streams);
    wait_views(&server, 1);
}
