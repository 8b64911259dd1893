//! Compare and set, create only, and requests that may be repeated.

use vaultdb_kv::WriteError;

use crate::client::Answer;
use crate::server::TestServer;

impl TestServer {
    fn with_head(&self, method: &str, target: &str, head: &str, body: &str) -> Answer {
        self.call(method, target, &format!("{head}\r\n"), Some(body.as_bytes()))
    }
}

/// A successful PUT tells the tag that the next compare and set needs; one that is out of date changes
/// nothing and is told the tag that it should have had.
#[test]
fn compare_and_set() {
    let server = TestServer::start();
    let put = server.put("/v1/kv/a", "1");
    assert_eq!(put.header("etag"), Some("\"1\""));
    let tag = put.header("etag").unwrap();
    let put = server.with_head("PUT", "/v1/kv/a", &format!("If-Match: {tag}"), "2");
    assert_eq!((put.ok()["revision"].as_u64(), put.header("etag")), (Some(2), Some("\"2\"")));

    let late = server.with_head("PUT", "/v1/kv/a", &format!("If-Match: {tag}"), "3");
    let problem = late.problem(412, "precondition_failed");
    assert_eq!((problem["applied"].as_str(), problem["revision"].as_u64()), (Some("no"), Some(2)));
    assert_eq!((late.header("etag"), late.header("vault-revision")), (Some("\"2\""), Some("2")));
    assert_eq!(server.fake.value(b"a").unwrap(), b"2");

    server.with_head("PUT", "/v1/kv/a", "If-Match: \"7\", \"2\"", "3").ok();
    for target in ["/v1/kv/a", "/key/a"] {
        let late = server.with_head("DELETE", target, "If-Match: \"2\"", "");
        assert_eq!(late.problem(412, "precondition_failed")["applied"], "no");
        server.with_head("DELETE", target, "If-None-Match: \"3\"", "").problem(412, "precondition_failed");
    }
    server.with_head("DELETE", "/key/a", "If-Match: *", "").ok();
    let gone = server.with_head("DELETE", "/v1/kv/a", "If-Match: *", "");
    gone.problem(412, "precondition_failed");
    assert_eq!(gone.header("etag"), None, "an absent key has no tag");
}

/// `If-None-Match: *` creates and never replaces.
#[test]
fn create_only() {
    let server = TestServer::start();
    server.with_head("PUT", "/v1/kv/a", "If-None-Match: *", "1").ok();
    let taken = server.with_head("PUT", "/v1/kv/a", "If-None-Match: *", "2");
    taken.problem(412, "precondition_failed");
    assert_eq!(taken.header("etag"), Some("\"1\""));
    assert_eq!(server.fake.value(b"a").unwrap(), b"1");
}

/// The same request under the same name is answered once more and not done again; another one is refused.
/// Together with a condition, too.
#[test]
fn repetition() {
    let server = TestServer::start();
    let name = "Idempotency-Key: order-1";
    for _ in 0..2 {
        assert_eq!(server.with_head("PUT", "/v1/kv/a", name, "1").ok()["revision"], 1);
    }
    let reused = server.with_head("PUT", "/v1/kv/a", name, "2").problem(422, "idempotency_key_reused");
    assert_eq!((reused["applied"].as_str(), reused["revision"].as_u64()), (Some("no"), Some(1)));
    let reused = server.with_head("POST", "/key", name, r#"{"b":"1"}"#);
    reused.problem(422, "idempotency_key_reused");
    server.with_head("DELETE", "/key/a", name, "").problem(422, "idempotency_key_reused");

    let name = "Idempotency-Key: pairs";
    assert_eq!(server.with_head("POST", "/key", name, r#"{"x":"1","y":"2"}"#).ok()["revision"], 2);
    let again = server.with_head("POST", "/key", name, "{\"y\":\"2\",\n\"x\":\"1\"}");
    assert_eq!(again.ok()["revision"], 2, "another order of the same pairs is the same request");

    let both = "If-Match: \"1\"\r\nIdempotency-Key: both";
    for _ in 0..2 {
        assert_eq!(server.with_head("PUT", "/v1/kv/a", both, "3").ok()["revision"], 3);
    }
    let stale = "If-Match: \"1\"\r\nIdempotency-Key: stale";
    for _ in 0..2 {
        let refused = server.with_head("PUT", "/v1/kv/a", stale, "4");
        assert_eq!(refused.problem(412, "precondition_failed")["revision"], 3);
    }
    for _ in 0..2 {
        let deleted = server.with_head("DELETE", "/v1/kv/a", "Idempotency-Key: gone", "");
        assert_eq!(deleted.ok(), serde_json::json!({"deleted": true, "revision": 4}));
    }
}

/// What cannot be honoured is refused on every write, with the header named and nothing written.
#[test]
fn malformed_guards() {
    let server = TestServer::start();
    let long = "k".repeat(129);
    for (name, value) in [
        ("if-match", "W/\"1\""),
        ("if-match", "1"),
        ("if-none-match", "\"x\""),
        ("if-none-match", "*, \"1\""),
        ("idempotency-key", ""),
        ("idempotency-key", "a b"),
        ("idempotency-key", &long),
    ] {
        for (method, target) in
            [("PUT", "/v1/kv/a"), ("DELETE", "/v1/kv/a"), ("DELETE", "/key/a"), ("POST", "/key")]
        {
            let answer = server.with_head(method, target, &format!("{name}: {value}"), r#"{"a":"1"}"#);
            let problem = answer.problem(400, "invalid_parameter");
            assert_eq!(problem["applied"], "no");
            assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
        }
    }
    for condition in ["If-Match: \"1\"", "If-Match: *", "If-None-Match: *", "If-None-Match: \"1\""] {
        let problem =
            server.with_head("POST", "/key", condition, r#"{"a":"1"}"#).problem(400, "invalid_parameter");
        assert!(problem["detail"].as_str().unwrap().contains("no single key"), "{problem}");
    }
    assert!(server.fake.0.map.lock().unwrap().is_empty());
}

/// An unknown outcome says how to come to know it.
#[test]
fn unknown_outcomes_name_the_way_out() {
    let server = TestServer::start();
    for (head, named) in [("X: y", "a write that carries"), ("Idempotency-Key: k", "at most once")] {
        server.fake.0.write_errors.lock().unwrap().push_back(WriteError::unknown("lost"));
        let problem = server.with_head("PUT", "/v1/kv/a", head, "1").problem(504, "outcome_unknown");
        assert_eq!(problem["applied"], "unknown");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("Idempotency-Key") && detail.contains(named), "{detail}");
    }
}
