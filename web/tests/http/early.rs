//! Writes that are answered once the leader has them, and what became of them.

use vaultdb_kv::{Consistency, WriteError};

use crate::server::TestServer;

/// 202 says where in the log the write is, on every route of a write, and where to ask for its outcome.
#[test]
fn accepted() {
    let server = TestServer::start();
    let answers = [
        server.put("/v1/kv/a?ack=leader", "1"),
        server.post("/key?ack=leader", r#"{"b":"2"}"#),
        server.delete("/v1/kv/a?ack=leader"),
        server.delete("/key/b?ack=leader"),
    ];
    for (answer, index) in answers.iter().zip(101..) {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json(), serde_json::json!({"accepted": true, "log_index": index, "term": 3}));
        assert_eq!(answer.header("location"), Some(format!("/v1/writes/3-{index}").as_str()));
        assert_eq!(answer.header("etag"), None, "it has no revision yet");
    }
    server.put("/v1/kv/c?ack=majority", "1").ok();
    server.fake.0.write_errors.lock().unwrap().extend([WriteError::Overloaded, WriteError::unknown("x")]);
    assert_eq!(server.put("/v1/kv/a?ack=leader", "1").problem(429, "overloaded")["applied"], "no");
    let unknown = server.put("/v1/kv/a?ack=leader", "1");
    assert_eq!(unknown.problem(504, "outcome_unknown")["applied"], "unknown");
}

/// The outcome is known only later, so nothing that depends on it is promised; nor on other routes.
#[test]
fn early_and_guarded_exclude_each_other() {
    let server = TestServer::start();
    for guard in ["If-Match: \"1\"", "If-None-Match: *", "Idempotency-Key: k"] {
        let answer = server.call("PUT", "/v1/kv/a?ack=leader", &format!("{guard}\r\n"), Some(b"1"));
        let problem = answer.problem(400, "invalid_parameter");
        assert_eq!(problem["applied"], "no");
        assert!(problem["detail"].as_str().unwrap().starts_with("ack:"), "{problem}");
    }
    server.post("/v1/leader?ack=leader", "{}").problem(400, "invalid_parameter");
    assert!(server.fake.0.map.lock().unwrap().is_empty());
}

/// Each state by its name, at the level that was asked for.
#[test]
fn states() {
    let server = TestServer::start();
    server.put("/v1/kv/a", "1").ok();
    for (id, state) in [("3-101", "committed"), ("3-102", "pending"), ("2-101", "lost")] {
        let answer = server.get(&format!("/v1/writes/{id}"));
        let (term, log_index) = id.split_once('-').unwrap();
        let (term, log_index): (u64, u64) = (term.parse().unwrap(), log_index.parse().unwrap());
        let expected =
            serde_json::json!({"state": state, "term": term, "log_index": log_index, "revision": 1});
        assert_eq!(answer.ok(), expected);
        assert_eq!(answer.header("vault-consistency"), Some("linearizable"));
    }
    assert_eq!(server.get("/v1/writes/3-101?consistency=stale").header("vault-consistency"), Some("stale"));
    assert_eq!(server.fake.0.last_read.lock().unwrap().unwrap().0.consistency, Consistency::Stale);
    let forgotten = server.get("/v1/writes/3-0");
    assert!(forgotten.problem(404, "write_not_known").get("applied").is_none());
    server.fake.hang(true);
    server.get("/v1/writes/3-1?timeout=50ms").problem(503, "no_leader");
}

/// What is no id is refused, not looked up.
#[test]
fn malformed_ids() {
    let server = TestServer::start();
    for id in ["", "3", "-", "3-", "-3", "3-+1", "a-1", "3-1-2", "3-18446744073709551616", "3%2D1", "3-1/"] {
        server.get(&format!("/v1/writes/{id}")).problem(400, "invalid_parameter");
    }
}
