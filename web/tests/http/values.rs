//! Values in and out: the routes of the seed and `/v1/kv`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vaultdb_kv::{Consistency, Freshness};

use crate::server::{TestServer, WORKERS};

/// The walk of the seed: curl's form content type and all.
#[test]
fn seed_walk() {
    let server = TestServer::start();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let set = server.call("POST", "/key", form, Some(br#"{"user1": "batman"}"#));
    assert_eq!(set.ok(), serde_json::json!({"revision": 1}));
    assert_eq!(set.header("vault-revision"), Some("1"));
    assert_eq!(set.header("vault-leader"), Some("node0"));
    assert_eq!(set.header("vault-term"), Some("3"));
    assert_eq!(set.header("vault-consistency"), None);

    let got = server.get("/key/user1");
    assert_eq!(got.text(), r#"{"user1":"batman"}"#);
    assert_eq!(got.header("etag"), Some("\"1\""));
    assert_eq!(got.header("vault-consistency"), Some("linearizable"));

    assert_eq!(server.delete("/key/user1").ok(), serde_json::json!({"deleted": true, "revision": 2}));
    assert_eq!(server.delete("/key/user1").ok(), serde_json::json!({"deleted": false, "revision": 3}));
    let gone = server.get("/key/user1");
    assert!(gone.problem(404, "key_not_found").get("applied").is_none());
    assert_eq!(gone.header("vault-revision"), Some("3"));
    assert_eq!(gone.header("vault-consistency"), Some("linearizable"));
}

/// All pairs of one POST are one write; of two pairs with one key the later wins.
#[test]
fn post_sets_all_pairs() {
    let server = TestServer::start();
    assert_eq!(server.post("/key", r#"{"a":"1","b":"2","a":"3"}"#).ok()["revision"], 1);
    assert_eq!(server.fake.value(b"a").unwrap(), b"3");
    assert_eq!(server.fake.value(b"b").unwrap(), b"2");
    assert_eq!(server.post("/key", r#"{"z":""}"#).ok()["revision"], 2);
    assert_eq!(server.get("/key/z").text(), r#"{"z":""}"#);
}

/// Raw values come back byte for byte, and no browser may guess what they are.
#[test]
fn raw_values_round_trip() {
    let server = TestServer::start();
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(server.put("/v1/kv/bin", &all).ok()["revision"], 1);
    server.put("/v1/kv/empty", "").ok();

    let got = server.get("/v1/kv/bin");
    assert_eq!((got.status, got.body.as_slice()), (200, all.as_slice()));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(got.header("etag"), Some("\"1\""));
    assert_eq!(got.header("vault-revision"), Some("2"));

    let empty = server.get("/v1/kv/empty");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    server.get("/v1/kv/absent").problem(404, "key_not_found");

    let text = server.get("/key/bin");
    assert!(text.problem(406, "not_text")["detail"].as_str().unwrap().contains("/v1/kv/"));
    assert_eq!(server.delete("/v1/kv/bin").ok(), serde_json::json!({"deleted": true, "revision": 3}));
}

/// A client that names the revision it has is not sent the value again; any other tag names none.
#[test]
fn not_modified() {
    let server = TestServer::start();
    server.put("/v1/kv/k", "v").ok();
    server.put("/v1/kv/k", "w").ok();
    let mut conn = server.conn();
    for target in ["/v1/kv/k", "/key/k"] {
        for tags in ["\"2\"", "W/\"2\"", "*", "\"1\", \"2\"", "\"x\",,W/\"2\""] {
            for verb in ["GET", "HEAD"] {
                let answer = conn.call(verb, target, &format!("If-None-Match: {tags}\r\n"), None);
                assert_eq!(
                    (answer.status, answer.body.len()),
                    (304, 0),
                    "{verb} {target} {tags}: {answer:?}"
                );
                assert_eq!(answer.header("etag"), Some("\"2\""));
                assert_eq!(answer.header("vault-consistency"), Some("linearizable"));
                assert_ne!(answer.header("content-length"), Some("0"), "the value is not empty: {answer:?}");
                answer.check_common_headers();
            }
        }
        for tags in ["\"1\"", "\"02\"", "2", "\"2", "nonsense", ""] {
            let answer = conn.call("GET", target, &format!("If-None-Match: {tags}\r\n"), None);
            assert_eq!(answer.status, 200, "{target} {tags}: {answer:?}");
        }
    }
    conn.call("GET", "/v1/kv/absent", "If-None-Match: *\r\n", None).problem(404, "key_not_found");
    let two_lines = "If-None-Match: \"1\"\r\nIf-None-Match: \"2\"\r\n";
    assert_eq!(conn.call("GET", "/v1/kv/k", two_lines, None).status, 304);
}

/// HEAD tells what GET would, without the body, and leaves the connection usable.
#[test]
fn head_is_get_without_body() {
    let server = TestServer::start();
    server.put("/v1/kv/k", "12345").ok();
    let mut conn = server.conn();
    for target in ["/v1/kv/k", "/v1/kv/absent", "/key/k", "/status", "/nowhere"] {
        let head = conn.call("HEAD", target, "", None);
        let get = conn.call("GET", target, "", None);
        assert!(head.body.is_empty());
        let without_date = |headers: &[(String, String)]| {
            let mut headers = headers.to_vec();
            headers.retain(|(name, _)| name != "date");
            headers.sort();
            headers
        };
        assert_eq!(head.status, get.status);
        assert_eq!(without_date(&head.headers), without_date(&get.headers), "{target}");
        assert_eq!(head.header("content-length").unwrap(), get.body.len().to_string());
    }
}

/// JSON answers are JSON, whatever text keys and values hold.
#[test]
fn json_is_escaped() {
    let server = TestServer::start();
    let body = serde_json::json!({"q\"\\\n\u{0}é😀": "v\"\\\u{1f}\u{7f}</script>"});
    server.post("/key", body.to_string()).ok();
    let got = server.get("/key/q%22%5C%0A%00%C3%A9%F0%9F%98%80");
    assert_eq!(got.ok(), body);
}

/// A chunked body is a body.
#[test]
fn chunked_bodies() {
    let server = TestServer::start();
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/c", "Transfer-Encoding: chunked\r\n", None);
    use std::io::Write;
    conn.0.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
    assert_eq!(conn.read(false).ok()["revision"], 1);
    assert_eq!(conn.call("GET", "/v1/kv/c", "", None).body, b"abcde");
}

/// The level and the timeout of a read are the request's, else the configured ones.
#[test]
fn consistency_and_timeout_reach_the_node() {
    let server = TestServer::with(|options| {
        options.read_consistency = Consistency::Stale;
        options.request_timeout = Duration::from_secs(7);
    });
    server.put("/v1/kv/k", "v").ok();
    let last = || server.fake.0.last_read.lock().unwrap().unwrap();

    let got = server.get("/v1/kv/k");
    assert_eq!(got.header("vault-consistency"), Some("stale"));
    let (wanted, left) = last();
    assert_eq!(wanted, Consistency::Stale.into());
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(7), "{left:?}");

    let got = server.get("/key/k?consistency=linearizable&timeout=60s&unknown=1");
    assert_eq!(got.header("vault-consistency"), Some("linearizable"));
    let (wanted, left) = last();
    assert_eq!(wanted, Consistency::Linearizable.into());
    assert!(left > Duration::from_secs(50), "{left:?}");

    let got = server.get("/v1/kv/k?max_staleness=500ms&min_revision=3");
    assert_eq!(got.header("vault-consistency"), Some("stale"));
    let bounded = Freshness { max_staleness: Some(Duration::from_millis(500)), ..Consistency::Stale.into() };
    assert_eq!(last().0, Freshness { min_revision: Some(3), ..bounded });
    let got = server.get("/v1/kv/k?consistency=lease");
    assert_eq!(got.header("vault-consistency"), Some("lease"));
    server.get("/v1/kv/k?consistency=lease&max_staleness=1s").problem(400, "invalid_parameter");
}

/// Requests on many connections at once each get their own answer; a backend is made for each worker.
#[test]
fn concurrent_requests() {
    let server = TestServer::start();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let mut conn = server.conn();
                for round in 0..50 {
                    let (target, value) = (format!("/v1/kv/{thread}-{round}"), format!("{thread}:{round}"));
                    let put = conn.call("PUT", &target, "", Some(value.as_bytes()));
                    assert_eq!(put.status, 200);
                    assert_eq!(conn.call("GET", &target, "", None).text(), value);
                }
            });
        }
    });
    assert_eq!(server.fake.0.revision.load(Ordering::SeqCst), 16 * 50);
    assert_eq!(server.fake.0.backends.load(Ordering::SeqCst), WORKERS);
}

/// Pipelined requests are answered in their order.
#[test]
fn pipelined_requests() {
    let server = TestServer::start();
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/p", "", Some(b"1"));
    conn.send("GET", "/v1/kv/p", "", None);
    conn.send("GET", "/v1/kv/none", "", None);
    assert_eq!(conn.read(false).ok()["revision"], 1);
    assert_eq!(conn.read(false).body, b"1");
    conn.read(false).problem(404, "key_not_found");
}
