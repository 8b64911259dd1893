//! Fault injection: what may be ordered, what is shown, and that there is nothing of it where it is off.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{json, Value};
use vaultdb_kv::faults::FAULTS_MAX;
use vaultdb_web::model::{DataFile, Fault, FaultOrder, FaultRefusal};

use crate::server::TestServer;

/// Injects, and checks that what is left of its time is no more than it was to last.
fn inject(server: &TestServer, body: Value, lasts_ms: u64) -> Value {
    let mut shown = server.post("/v1/faults", body.to_string()).ok();
    let left_ms = shown["remaining_ms"].as_u64().unwrap();
    assert!(left_ms <= lasts_ms && left_ms + 5_000 > lasts_ms, "{shown}");
    shown.as_object_mut().unwrap().remove("remaining_ms");
    shown
}

/// A fault that lasts is shown as it was ordered, with a number by which it is ended.
#[test]
fn lasting_faults_are_listed_and_cleared() {
    let server = TestServer::start();
    assert_eq!(server.get("/v1/faults").ok(), json!({"faults": []}));
    for (id, body, lasts_ms) in [
        (1, json!({"kind":"fsync_delay","delay":"5s","duration":"60s"}), 60_000),
        (2, json!({"kind":"fsync_fail","duration":"10m"}), 600_000),
        (3, json!({"kind":"peer_drop","peer":"node1","duration":"60s"}), 60_000),
        (4, json!({"kind":"peer_drop"}), 10_000),
        (5, json!({"kind":"peer_delay","peer":"node1","delay":"1500us","duration":"60s"}), 60_000),
        (6, json!({"kind":"disk_full","duration":"60s"}), 60_000),
    ] {
        let mut want = body.clone();
        want["id"] = id.into();
        want.as_object_mut().unwrap().remove("duration");
        if want["delay"] == "5s" {
            want["delay"] = "5000ms".into();
        }
        assert_eq!(inject(&server, body, lasts_ms), want);
    }
    let listed = server.get("/v1/faults").ok();
    let ids: Vec<_> =
        listed["faults"].as_array().unwrap().iter().map(|f| f["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(server.delete("/v1/faults/3").ok(), json!({"cleared": 1}));
    assert_eq!(server.delete("/v1/faults/3").ok(), json!({"cleared": 0}));
    assert_eq!(server.delete("/v1/faults").ok(), json!({"cleared": 5}));
    assert_eq!(server.get("/v1/faults").ok(), json!({"faults": []}));
}

/// What happens at once has no number and is in no list.
#[test]
fn sudden_faults_are_handed_on() {
    let server = TestServer::start();
    let hang = json!({"kind":"actor_hang","component":"dispatcher","duration":"3s"});
    let want = json!({"id":null,"kind":"actor_hang","component":"dispatcher"});
    assert_eq!(inject(&server, hang, 3_000), want);
    for body in [
        json!({"kind":"actor_panic","component":"store"}),
        json!({"kind":"flip_bits","file":"wal"}),
        json!({"kind":"state_flip"}),
    ] {
        let mut want = body.clone();
        want["id"] = Value::Null;
        assert_eq!(inject(&server, body, 0), want);
    }
    let actor = |component: &str, fault| FaultOrder::Actor { component: component.into(), fault };
    let want = [
        actor("dispatcher", Fault::Hang(Duration::from_secs(3))),
        actor("store", Fault::Panic),
        FaultOrder::FlipBits(DataFile::Wal),
        FaultOrder::FlipState,
    ];
    assert_eq!(*server.fake.0.struck.lock().unwrap(), want);
    assert_eq!(server.get("/v1/faults").ok(), json!({"faults": []}));
}

/// What makes no sense is refused, the field is named, and nothing goes wrong.
#[test]
fn senseless_orders_name_the_field() {
    let server = TestServer::start();
    for (body, code, named) in [
        ("", "invalid_json", "line 1"),
        ("[]", "invalid_json", "array"),
        ("{}", "invalid_json", "kind"),
        (r#"{"kind":"peer_drop","peers":"x"}"#, "invalid_json", "peers"),
        (r#"{"kind":"fsync_delay","delay":5}"#, "invalid_json", "string"),
        (r#"{"kind":"fire"}"#, "invalid_parameter", "kind: \"fire\" is not one of actor_panic"),
        (r#"{"kind":"fsync_delay"}"#, "invalid_parameter", "delay: must be given with fsync_delay"),
        (r#"{"kind":"fsync_delay","delay":"5"}"#, "invalid_parameter", "delay"),
        (r#"{"kind":"fsync_delay","delay":"0s"}"#, "invalid_parameter", "delay"),
        (
            r#"{"kind":"peer_drop","duration":"11m"}"#,
            "invalid_parameter",
            "duration: must be from 1us to 10m",
        ),
        (r#"{"kind":"peer_drop","peer":"a/b"}"#, "invalid_parameter", "peer"),
        (
            r#"{"kind":"peer_drop","component":"raft"}"#,
            "invalid_parameter",
            "component: does not go with peer_drop",
        ),
        (r#"{"kind":"actor_panic"}"#, "invalid_parameter", "component: must be given"),
        (r#"{"kind":"flip_bits"}"#, "invalid_parameter", "file: must be given"),
        (r#"{"kind":"flip_bits","file":"LOCK"}"#, "invalid_parameter", "file: \"LOCK\" is not one of wal"),
        (r#"{"kind":"state_flip","duration":"1s"}"#, "invalid_parameter", "duration: does not go with"),
    ] {
        let problem = server.post("/v1/faults", body).problem(400, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(named), "{body}: {detail}");
    }
    for id in ["x", "-1", "1/2", "", "99999999999999999999"] {
        let problem = server.delete(&format!("/v1/faults/{id}")).problem(400, "invalid_parameter");
        assert!(problem["detail"].as_str().unwrap().contains("id"), "{problem}");
    }
    assert_eq!(server.get("/v1/faults").ok(), json!({"faults": []}));
    assert!(server.fake.0.struck.lock().unwrap().is_empty());
}

/// Refusals of the node behind keep their meaning; there are never more faults than so many.
#[test]
fn refusals_of_the_node() {
    let server = TestServer::start();
    for (refusal, status, code, named) in [
        (FaultRefusal::NoSuchComponent { name: "x".into() }, 400, "invalid_parameter", "component"),
        (FaultRefusal::NoSuchPeer { name: "x".into() }, 400, "invalid_parameter", "peer"),
        (FaultRefusal::Impossible { reason: "no such file".into() }, 409, "conflict", "no such file"),
        (FaultRefusal::Unavailable, 503, "starting", "starting"),
        (FaultRefusal::Failed { reason: "bad block".into() }, 500, "internal", "bad block"),
    ] {
        server.fake.0.fault_refusals.lock().unwrap().push_back(refusal);
        let problem = server.post("/v1/faults", r#"{"kind":"state_flip"}"#).problem(status, code);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    for _ in 0..FAULTS_MAX {
        server.post("/v1/faults", r#"{"kind":"peer_drop","duration":"10m"}"#).ok();
    }
    let problem = server.post("/v1/faults", r#"{"kind":"disk_full"}"#).problem(409, "conflict");
    assert_eq!(problem["limit"], FAULTS_MAX);
    assert_eq!(server.delete("/v1/faults").ok(), json!({"cleared": FAULTS_MAX}));
    server.post("/v1/faults", r#"{"kind":"disk_full"}"#).ok();
}

/// Without fault injection no method finds anything there; with it, only those of the contract.
#[test]
fn there_is_no_such_route_where_it_is_off() {
    let server = TestServer::start();
    let answer = server.put("/v1/faults", "");
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, DELETE"));
    let answer = server.get("/v1/faults/1");
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("DELETE"));
    server.fake.0.faultless.store(true, Ordering::SeqCst);
    for (method, path) in [
        ("GET", "/v1/faults"),
        ("POST", "/v1/faults"),
        ("DELETE", "/v1/faults"),
        ("PUT", "/v1/faults"),
        ("DELETE", "/v1/faults/1"),
        ("DELETE", "/v1/faults/x"),
        ("GET", "/v1/faults/1"),
    ] {
        let answer = server.call(method, path, "", Some(br#"{"kind":"disk_full"}"#));
        answer.problem(404, "no_such_route");
    }
}
