//! Every error: its status, its code, and what it says of a write.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vaultdb_kv::{AdminError, ReadError, Shortage, WriteError};

use crate::fake::leader;
use crate::server::TestServer;

/// Each error of a write has its row, and says truthfully whether the write was applied.
#[test]
fn write_errors() {
    let server = TestServer::start();
    let rows = [
        (WriteError::NoLeader, 503, "no_leader", "no"),
        (WriteError::Overloaded, 429, "overloaded", "no"),
        (WriteError::Unavailable, 503, "starting", "no"),
        (out_of_space(), 507, "out_of_space", "no"),
        (WriteError::unknown("a reason"), 504, "outcome_unknown", "unknown"),
    ];
    for (error, status, code, applied) in rows {
        for (method, target, body) in [
            ("POST", "/key", Some(br#"{"a":"1"}"#.as_slice())),
            ("PUT", "/v1/kv/a", Some(b"1")),
            ("DELETE", "/key/a", None),
            ("DELETE", "/v1/kv/a", None),
        ] {
            server.fake.0.write_errors.lock().unwrap().push_back(error.clone());
            let problem = server.call(method, target, "", body).problem(status, code);
            assert_eq!(problem["applied"], applied, "{problem}");
            assert_eq!(problem["leader"], "node0", "{problem}");
        }
    }
}

fn out_of_space() -> WriteError {
    let node = "node3".into();
    WriteError::OutOfSpace(Shortage { node, free_bytes: 4_096, needed_bytes: 8_192 })
}

/// Who has no room for a write learns whose disk it is, what is free there and what would have to be.
#[test]
fn out_of_space_names_the_figures() {
    let server = TestServer::start();
    server.fake.0.write_errors.lock().unwrap().push_back(out_of_space());
    let problem = server.call("PUT", "/v1/kv/a", "", Some(b"1")).problem(507, "out_of_space");
    assert_eq!((&problem["applied"], &problem["limit"]), (&"no".into(), &8_192.into()), "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    for named in ["node3", "4096 bytes are free", "8192 must be"] {
        assert!(detail.contains(named), "{problem}");
    }
}

/// Each error of a read has its row, the level that was asked for, and nothing about writes.
#[test]
fn read_errors() {
    let server = TestServer::start();
    let rows = [
        (ReadError::NoLeader, 503, "no_leader"),
        (ReadError::Behind { revision: 41 }, 503, "behind"),
        (ReadError::TooStale { allowed: Duration::from_secs(1), staleness: None }, 503, "too_stale"),
        (ReadError::Overloaded, 429, "overloaded"),
        (ReadError::Unavailable, 503, "starting"),
        (ReadError::Store { reason: "rot".into() }, 500, "internal"),
    ];
    for (error, status, code) in rows {
        for target in ["/key/a?consistency=stale", "/v1/kv/a?consistency=stale"] {
            server.fake.0.read_errors.lock().unwrap().push_back(error.clone());
            let answer = server.get(target);
            let problem = answer.problem(status, code);
            assert!(problem.get("applied").is_none(), "{problem}");
            assert_eq!(answer.header("vault-consistency"), Some("stale"));
            if code == "behind" {
                assert_eq!(problem["revision"], 41);
                assert_eq!(answer.header("vault-revision"), Some("41"));
            }
        }
    }
}

/// Each error of administration has its row.
#[test]
fn admin_errors() {
    let server = TestServer::start();
    let rows = [
        (AdminError::NoLeader, 503, "no_leader", "no"),
        (AdminError::Unavailable, 503, "starting", "no"),
        (AdminError::Conflict { reason: "taken".into() }, 409, "conflict", "no"),
        (AdminError::WouldLoseQuorum { reason: "two".into() }, 409, "would_lose_quorum", "no"),
        (AdminError::NoSuchMember { name: "x".into() }, 404, "no_such_member", "no"),
        (AdminError::Unknown { reason: "lost".into() }, 504, "outcome_unknown", "unknown"),
    ];
    for (error, status, code, applied) in rows {
        for (target, body) in [("/join", r#"{"id":"n","addr":"h:1"}"#), ("/v1/leader", "{}")] {
            server.fake.0.admin_errors.lock().unwrap().push_back(error.clone());
            assert_eq!(server.post(target, body).problem(status, code)["applied"], applied);
        }
    }
}

/// Without a leader the answer names none and says when to come back.
#[test]
fn no_leader_is_named_when_there_is_none() {
    let server = TestServer::start();
    server.fake.no_leader();
    server.fake.0.write_errors.lock().unwrap().push_back(WriteError::NoLeader);
    let answer = server.put("/v1/kv/a", "1");
    assert!(answer.problem(503, "no_leader").get("leader").is_none());
    assert!(answer.header("vault-leader").is_none_or(str::is_empty));
    assert_eq!(answer.header("vault-term"), Some("4"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    server.fake.lead(leader("node2", "h2:1", false));
    assert_eq!(server.get("/livez").header("vault-leader"), Some("node2"));
}

/// Paths that are no route are 404, for every method.
#[test]
fn no_such_route() {
    let server = TestServer::start();
    for target in [
        "/nothing",
        "/v1/nothing",
        "/v1",
        "/status/",
        "/join/x",
        "//key",
        "/key%2Fa",
        "/v1/kv%2Fa",
        "/V1/kv/a",
        "/livez/",
        "/%",
        "/a%00",
        "*",
    ] {
        for method in ["GET", "POST", "DELETE", "PATCH", "OPTIONS"] {
            server.call(method, target, "", None).problem(404, "no_such_route");
        }
    }
}

/// A method that a route does not answer is 405 with `Allow`.
#[test]
fn method_not_allowed() {
    let server = TestServer::start();
    for (target, allow) in [
        ("/key", "POST"),
        ("/key/a", "GET, HEAD, DELETE"),
        ("/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("/status", "GET, HEAD"),
        ("/join", "POST"),
        ("/v1/members", "GET, HEAD"),
        ("/v1/leader", "POST"),
        ("/livez", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/v1/writes/3-17", "GET, HEAD"),
        ("/", "GET, HEAD"),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let answer = server.call(method, target, "", None);
            answer.problem(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
        }
    }
}

/// A JSON body that breaks a rule changes nothing and is told what and where.
#[test]
fn invalid_json() {
    let server = TestServer::start();
    for (body, named) in [
        ("", "line 1"),
        ("{}", "no pairs"),
        ("[\"a\"]", "object"),
        ("null", "object"),
        ("{\"good\":\"1\",\"bad\":2}", "\"bad\" is a number"),
        ("{\"a\":{\"b\":\"c\"}}", "\"a\" is an object"),
        ("{\"a\":\"b\"", "EOF"),
        ("{'a':'b'}", "line 1 column 2"),
    ] {
        let problem = server.post("/key", body).problem(400, "invalid_json");
        assert_eq!(problem["applied"], "no");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
    }
    assert!(server.fake.0.map.lock().unwrap().is_empty());
}

/// A promise that is not kept yet is refused, on reads and writes, and nothing is written.
#[test]
fn reserved_parameters_and_headers() {
    let server = TestServer::start();
    for query in [
        "consistency=fresh",
        "consistency=linearizable&max_staleness=1s",
        "max_staleness=1",
        "min_revision=x",
        "timeout=0s",
        "timeout=61s",
    ] {
        server.get(&format!("/key/a?{query}")).problem(400, "invalid_parameter");
        server.get(&format!("/v1/kv/a?{query}")).problem(400, "invalid_parameter");
    }
    for query in ["ack=all", "redirect=maybe", "timeout=x"] {
        for answer in [
            server.put(&format!("/v1/kv/a?{query}"), "1"),
            server.post(&format!("/key?{query}"), r#"{"a":"1"}"#),
            server.delete(&format!("/key/a?{query}")),
        ] {
            assert_eq!(answer.problem(400, "invalid_parameter")["applied"], "no");
        }
    }
    for header in ["If-Match: \"1\"", "If-None-Match: *", "Idempotency-Key: k"] {
        let head = format!("{header}\r\n");
        let name = header.split(':').next().unwrap().to_lowercase();
        for target in ["/join", "/v1/leader"] {
            let problem = server.call("POST", target, &head, Some(b"{}")).problem(400, "invalid_parameter");
            assert!(problem["detail"].as_str().unwrap().contains(&name), "{problem}");
        }
    }
    assert!(server.fake.0.map.lock().unwrap().is_empty());
}

/// A request ends by its timeout even when the node behind it never answers: a write as unknown.
#[test]
fn silence_ends_at_the_timeout() {
    let server = TestServer::start();
    server.fake.hang(true);
    let begun = Instant::now();
    let problem = server.put("/v1/kv/a?timeout=100ms", "1").problem(504, "outcome_unknown");
    assert_eq!(problem["applied"], "unknown");
    server.get("/v1/kv/a?timeout=100ms").problem(503, "no_leader");
    server.get("/v1/kv/a?timeout=100ms&consistency=stale").problem(503, "starting");
    let join = server.post("/join?timeout=100ms", r#"{"id":"n","addr":"h:1"}"#);
    assert_eq!(join.problem(504, "outcome_unknown")["applied"], "unknown");
    server.get("/readyz?timeout=100ms").problem(503, "starting");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A body that does not arrive ends at the timeout, and nothing was applied.
#[test]
fn slow_bodies_end_at_the_timeout() {
    let server = TestServer::start();
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/a?timeout=100ms", "Content-Length: 10\r\n", None);
    conn.0.write_all(b"12345").unwrap();
    assert_eq!(conn.read(false).problem(408, "request_timeout")["applied"], "no");
    assert_eq!(server.fake.value(b"a"), None);
}

/// A bug in a request is told to its client, of a write as unknown, and harms no other request.
#[test]
fn panics_are_answered() {
    let server = TestServer::with(|options| options.requests_in_flight_max = 1);
    let mut conn = server.conn();
    for _ in 0..3 {
        server.fake.0.panic.store(true, Ordering::SeqCst);
        let problem = conn.call("PUT", "/v1/kv/a", "", Some(b"1")).problem(500, "internal");
        assert_eq!(problem["applied"], "unknown");
        server.fake.0.panic.store(true, Ordering::SeqCst);
        let problem = conn.call("GET", "/v1/kv/a", "", None).problem(500, "internal");
        assert!(problem.get("applied").is_none());
    }
    conn.call("PUT", "/v1/kv/a", "", Some(b"1")).ok();
}

/// Whatever is asked, an answer of 400 or more is a problem with a known code, and a write that failed
/// says what became of it.
#[test]
fn errors_are_always_problems() {
    let server = TestServer::start();
    let methods = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];
    let paths = ["/key", "/key/", "/v1/kv/", "/status", "/join", "/v1/leader", "/v1/members", "/livez", "/x"];
    let tails =
        ["", "a", "%", "%FF", "%00", "/", "..", "%2", "a%2Fb", "\u{e9}", "?timeout=1h", "?timeout=1s"];
    let queries = ["", "?consistency=no", "?ack=leader", "?x=%zz", "?redirect=true", "?&&=&a"];
    let bodies = ["", "{}", "{\"a\":\"b\"}", "{\"a\":1}", "[", "\0\u{7f}", "{\"id\":\"n\",\"addr\":\"h:1\"}"];
    let mut seed = 42_u64;
    let mut draw = |from: &[&'static str]| {
        // Knuth's MMIX generator: the same requests in every run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[(seed >> 33) as usize % from.len()]
    };
    let mut failed = 0;
    for _ in 0..1_500 {
        let (method, path) = (draw(&methods), draw(&paths));
        let target = format!("{path}{}{}", draw(&tails), draw(&queries));
        let body = draw(&bodies);
        let answer = server.call(method, &target, "", Some(body.as_bytes()));
        if answer.status < 400 {
            continue;
        }
        failed += 1;
        let json = answer.json();
        let problem = answer.problem(answer.status, json["code"].as_str().unwrap());
        let is_unread = json["code"] == "malformed_request";
        let is_write = is_unread || (!matches!(answer.status, 404 | 405) && method != "GET");
        assert_eq!(problem.get("applied").is_some(), is_write, "{method} {target}: {problem}");
    }
    assert!(failed > 500, "only {failed} failed");
}
