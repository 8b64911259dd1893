//! Membership, leadership, redirects.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use vaultdb_kv::AdminError;
use vaultdb_web::model::JoinRequest;

use crate::fake::leader;
use crate::server::TestServer;

/// A join is handed on as it was asked for and answered with what the cluster allotted.
#[test]
fn join() {
    let server = TestServer::start();
    let full = r#"{"id":"node1","addr":"h:12001","http_addr":"h:11001","instance":"i-1","new_field":1}"#;
    let answer = server.post("/join", full);
    assert_eq!(answer.ok(), json!({"cluster_id":"c-1","id":2,"name":"node1","revision":9}));
    assert_eq!(answer.header("vault-revision"), Some("9"));
    server.post("/join", r#"{"id":"node1","addr":"h:12001"}"#).ok();
    let joined = server.fake.0.joined.lock().unwrap();
    let JoinRequest { name, addr, instance, stays_learner } = &joined[0];
    assert!(!stays_learner);
    assert_eq!((name.as_str(), addr.raft.as_str(), addr.http.as_str()), ("node1", "h:12001", "h:11001"));
    assert_eq!(instance.as_deref(), Some("i-1"));
    assert_eq!((joined[1].addr.http.as_str(), joined[1].instance.as_deref()), ("", None));
}

/// A malformed join is refused and names what is wrong.
#[test]
fn malformed_joins() {
    let server = TestServer::start();
    for (body, code, named) in [
        ("", "invalid_json", "line 1"),
        ("[\"node1\",\"h:1\"]", "invalid_json", "array"),
        (r#"{"addr":"h:1"}"#, "invalid_json", "`id`"),
        (r#"{"id":"n"}"#, "invalid_json", "`addr`"),
        (r#"{"id":1,"addr":"h:1"}"#, "invalid_json", "string"),
        (r#"{"id":"a b","addr":"h:1"}"#, "invalid_parameter", "a b"),
        (r#"{"id":"n","addr":"h"}"#, "invalid_parameter", "host:port"),
        (r#"{"id":"n","addr":"h:1","http_addr":"x"}"#, "invalid_parameter", "host:port"),
    ] {
        let problem = server.post("/join", body).problem(400, code);
        assert_eq!(problem["applied"], "no");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
    }
    assert!(server.fake.0.joined.lock().unwrap().is_empty());
}

/// Leadership goes where it was asked to, or where the node chooses.
#[test]
fn transfer_leader() {
    let server = TestServer::start();
    assert_eq!(server.post("/v1/leader", r#"{"name":"node2"}"#).ok(), json!({"leader":"node2"}));
    assert_eq!(server.post("/v1/leader", "{}").ok(), json!({"leader":"chosen"}));
    assert_eq!(server.call("POST", "/v1/leader", "", None).ok(), json!({"leader":"chosen"}));
    server.post("/v1/leader", r#"{"name":"a b"}"#).problem(400, "invalid_parameter");
    server.post("/v1/leader", r#"{"nmae":"node2"}"#).problem(400, "invalid_json");
    server.post("/v1/leader", r#"{"name":2}"#).problem(400, "invalid_json");
}

/// Members are named in the path, and refusals say that nothing was done.
#[test]
fn members() {
    let server = TestServer::start();
    assert_eq!(server.delete("/v1/members/n.1").ok(), json!({"removed":true,"name":"n.1","id":7}));
    let promote = |name: &str| server.call("POST", &format!("/v1/members/{name}/promote"), "", None);
    assert_eq!(promote("n.1").ok(), json!({"name":"n.1","id":7,"role":"voter","changed":true}));
    assert_eq!(promote("voter").ok()["changed"], false);
    server.delete("/v1/members/a%2Fb").problem(400, "invalid_parameter");
    server.delete("/v1/members/").problem(400, "invalid_parameter");
    promote("a/b").problem(400, "invalid_parameter");
    assert_eq!(server.get("/v1/members/n.1").status, 405);
    assert_eq!(server.get("/v1/members/n.1/promote").status, 405);
    let refusal = AdminError::WouldLoseQuorum { reason: "two are needed".into() };
    server.fake.0.admin_errors.lock().unwrap().push_back(refusal);
    let problem = server.delete("/v1/members/n").problem(409, "would_lose_quorum");
    assert_eq!((&problem["applied"], &problem["detail"]), (&json!("no"), &json!("two are needed")));
    let learner = r#"{"id":"node1","addr":"h:12001","learner":true}"#;
    server.post("/join", learner).ok();
    assert!(server.fake.0.joined.lock().unwrap()[0].stays_learner);
}

/// The status has exactly the fields of the contract.
#[test]
fn status() {
    let server = TestServer::start();
    server.put("/v1/kv/a", "1").ok();
    let answer = server.get("/status");
    let want = json!({
        "node": {"name":"node0","id":1,"haddr":"h:1","raddr":"r:1","state":"leader","version":"0.1.0","uptime_ms":1500},
        "cluster": {"id":"c-1","leader":"node0","term":3,"members":[
            {"name":"node0","id":1,"haddr":"h:1","raddr":"r:1","role":"voter","reachable":true,"lag_entries":null,"last_contact_ms":null},
            {"name":"node\"1","id":2,"haddr":"h:1","raddr":"r:1","role":"learner","reachable":false,"lag_entries":7,"last_contact_ms":12}]},
        "raft": {"last_log":120,"committed":119,"applied":118,"snapshot":100,"purged":90,
            "snapshot_transfers":[{"peer":"node\"1","direction":"send","bytes_done":10,"bytes_total":30}],
            "agreement":{"compared_index":117,"diverged":[{"peer":"node\"1","index":96,"is_minority":true}]}},
        "store": {"revision":1,"keys_estimate":3,"disk_bytes":4096,"cache":{"entries":1,"bytes":2,"hits":3,"misses":4}},
        "health": {"state":"degraded","components":[{"name":"store","state":"degraded","restarts":2,"since_ms":1_700_000_000_000u64,"reason":"slow"}]}
    });
    assert_eq!(answer.ok(), want);
    assert_eq!(answer.header("vault-revision"), Some("1"));
    let members = server.get("/v1/members").ok();
    assert_eq!(members, json!({"members": want["cluster"]["members"]}));
}

/// A node that belongs to no cluster yet shows the same fields, and has no members to list.
#[test]
fn status_before_joining() {
    let server = TestServer::start();
    server.fake.0.starting.store(true, Ordering::SeqCst);
    server.fake.no_leader();
    let status = server.get("/status").ok();
    assert_eq!((&status["node"]["state"], &status["node"]["id"]), (&"starting".into(), &json!(null)));
    assert_eq!(status["cluster"], json!({"id":"","leader":null,"term":0,"members":[]}));
    assert_eq!(status["raft"]["last_log"], 0);
    server.get("/v1/members").problem(503, "starting");
    assert!(!server.get("/metrics").text().contains("vaultdb_raft_term"));
}

/// With `redirect=true` a follower points to the leader, path and query kept; the leader does the work.
#[test]
fn redirect() {
    let server = TestServer::start();
    server.put("/v1/kv/a?redirect=true", "1").ok();
    server.fake.lead(leader("node2", "h2:11002", false));
    let target = "/v1/kv/a%2Fb?redirect=true&timeout=1s";
    let moved = server.put(target, "1");
    assert_eq!(moved.status, 307);
    assert_eq!(moved.header("location"), Some(format!("http://h2:11002{target}").as_str()));
    assert_eq!(moved.json()["leader"], "node2");
    assert_eq!(server.post("/key?redirect=true", r#"{"a":"1"}"#).status, 307);
    assert_eq!(server.delete("/key/a?redirect=true").status, 307);
    assert_eq!(server.fake.value(b"a").unwrap(), b"1");
    // Reads are answered here, and so is a write whose leader told no address.
    assert_eq!(server.get("/v1/kv/a?redirect=true").status, 200);
    server.put("/v1/kv/a?redirect=false", "2").ok();
    server.fake.lead(leader("node2", "", false));
    server.put("/v1/kv/a?redirect=true", "3").ok();
}

/// A redirected write waits for the election, and ends as not applied when it does not finish.
#[test]
fn redirect_waits_for_a_leader() {
    let server = TestServer::start();
    server.fake.no_leader();
    let begun = Instant::now();
    let problem = server.put("/v1/kv/a?redirect=true&timeout=100ms", "1").problem(503, "no_leader");
    assert_eq!(problem["applied"], "no");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.put("/v1/kv/a?redirect=true", "1"));
        server.fake.lead(leader("node2", "h2:1", false));
        assert_eq!(waiting.join().unwrap().status, 307);
    });
}
