//! Every error of the contract is answered with its own code and status, in one shape, with the truth about
//! whether the write was applied; limits admit their own value and refuse one more.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::contract::{check_headers, check_problem, run, Refused};
use support::{Cluster, Request};

const KEY_BYTES_MAX: usize = 4 * 1024;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
const BATCH_PAIRS_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much later than its own timeout a request may be answered on a busy machine.
const LATE_MAX: Duration = Duration::from_millis(1_500);

#[test]
fn errors_and_limits() {
    let mut cluster = Cluster::start(3);
    run(
        &mut cluster,
        &[
            ("malformed input", malformed),
            ("nothing of a refused write is applied", nothing_applied),
            ("absent keys, routes and methods", absent),
            ("conditions and names", guards),
            ("limits", limits),
            ("a body that never arrives", body_never_arrives),
            ("without a majority", without_majority),
        ],
    );
}

/// Sends each case to a follower and to the leader: both answer the same.
fn check_all(cluster: &Cluster, cases: &[Refused]) {
    let leader = cluster.leader();
    for case in cases {
        for i in [leader, (leader + 1) % 3] {
            let response = cluster.ask(i, &case.request);
            case.check(&response);
            check_headers(cluster, i, &response, case.what);
        }
    }
}

fn malformed(cluster: &mut Cluster) {
    let mut cases = Vec::new();
    for (what, body) in [
        ("broken JSON", r#"{"a":"#),
        ("no body", ""),
        ("an array", r#"["a"]"#),
        ("a string", r#""a""#),
        ("an empty object", "{}"),
        ("a number as value", r#"{"a":1}"#),
        ("null as value", r#"{"a":null}"#),
        ("an object as value", r#"{"a":{"b":"c"}}"#),
        ("something behind the object", r#"{"a":"b"} x"#),
    ] {
        cases.push(Refused::write(what, Request::post("/key", body), 400, "invalid_json"));
    }
    cases.push(Refused::write("not UTF-8", Request::post("/key", b"{\"a\":\"\xff\"}"), 400, "invalid_json"));
    for (what, request) in [
        ("an empty key in JSON", Request::post("/key", r#"{"":"v"}"#)),
        ("an empty key in the path", Request::put("/v1/kv/", "v")),
        ("a broken escape", Request::put("/v1/kv/a%zz", "v")),
        ("a broken escape in DELETE", Request::delete("/key/a%2")),
    ] {
        cases.push(Refused::write(what, request, 400, "invalid_key"));
    }
    cases.push(Refused::read("an empty key", Request::get("/key/"), 400, "invalid_key"));
    cases.push(Refused::read("a broken escape", Request::get("/v1/kv/%"), 400, "invalid_key"));
    for (what, query) in [
        ("no unit", "timeout=5"),
        ("no time at all", "timeout=0s"),
        ("too long a time", "timeout=61s"),
        ("no number", "timeout=soon"),
        ("an empty timeout", "timeout="),
    ] {
        let put = Request::put(format!("/v1/kv/k?{query}"), "v");
        cases.push(Refused::write(what, put, 400, "invalid_parameter"));
        let post = Request::post(format!("/key?{query}"), r#"{"k":"v"}"#);
        cases.push(Refused::write(what, post, 400, "invalid_parameter"));
        cases.push(Refused::read(what, Request::get(format!("/key/k?{query}")), 400, "invalid_parameter"));
    }
    for level in ["strong", "", "LINEARIZABLE"] {
        let get = Request::get(format!("/v1/kv/k?consistency={level}"));
        cases.push(Refused::read("an unknown level", get, 400, "invalid_parameter"));
    }
    for (what, request, code) in [
        ("a join without anything", Request::post("/join", "{}"), "invalid_json"),
        (
            "a join of a bad address",
            Request::post("/join", r#"{"id":"x","addr":"nowhere"}"#),
            "invalid_parameter",
        ),
        ("a join of a bad name", Request::post("/join", r#"{"id":"a b","addr":"h:1"}"#), "invalid_parameter"),
        ("a broken move of leadership", Request::post("/v1/leader", "["), "invalid_json"),
    ] {
        cases.push(Refused::write(what, request, 400, code));
    }
    check_all(cluster, &cases);
    let unknown = cluster.ask(0, &Request::post("/v1/leader", r#"{"name":"nobody"}"#));
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    check_problem(&unknown, "leadership to a node that does not exist");
    // The detail names what is wrong and where.
    let detail =
        cluster.ask(0, &Request::post("/key", r#"{"fine":"v","guilty":1}"#)).json()["detail"].clone();
    assert!(detail.as_str().unwrap().contains("guilty"), "{detail}");
}

fn nothing_applied(cluster: &mut Cluster) {
    let revision = cluster.must_put(0, "before", "v");
    let bodies = [r#"{"half":"v","bad":1}"#, r#"{"bad":1,"half":"v"}"#, r#"{"half":"v","":"v"}"#];
    for body in bodies {
        assert_eq!(cluster.ask(1, &Request::post("/key", body)).status, 400);
        assert_eq!(cluster.must_get(2, "half"), None);
    }
    assert_eq!(cluster.must_put(0, "after", "v"), revision + 1, "a refused write takes no revision");
}

fn absent(cluster: &mut Cluster) {
    cluster.ask(0, &Request::put("/v1/kv/binary", b"\xff\x00".as_slice()));
    let gzip = Request::put("/v1/kv/k", "v").header("Content-Encoding", "gzip");
    check_all(
        cluster,
        &[
            Refused::read("an absent key", Request::get("/key/nothing"), 404, "key_not_found"),
            Refused::read("an absent key", Request::get("/v1/kv/nothing"), 404, "key_not_found"),
            Refused::read(
                "an absent key, stale",
                Request::get("/v1/kv/nothing?consistency=stale"),
                404,
                "key_not_found",
            ),
            Refused::read("no text", Request::get("/key/binary"), 406, "not_text"),
            Refused::write("a compressed body", gzip, 415, "unsupported_media_type"),
        ],
    );
    for target in ["/nope", "/v1/nope", "/keys", "/status/"] {
        let answer = cluster.ask(0, &Request::get(target));
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_such_route"), "{target}");
        check_problem(&answer, target);
    }
    let faults = cluster.ask(0, &Request::post("/v1/faults", "{}"));
    assert_eq!(faults.status, 404, "faults are closed unless they are asked for");
    for (method, target, allowed) in [
        ("GET", "/key", "POST"),
        ("PUT", "/key/k", "GET"),
        ("PATCH", "/v1/kv/k", "PUT"),
        ("POST", "/status", "GET"),
        ("GET", "/join", "POST"),
        ("DELETE", "/v1/leader", "POST"),
        ("POST", "/livez", "GET"),
    ] {
        let answer = cluster.ask(1, &Request::new(method, target));
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {target}");
        check_problem(&answer, target);
        let allow = answer.header("allow").unwrap_or_default().to_owned();
        assert!(allow.split(", ").any(|m| m == allowed), "{method} {target}: Allow: {allow}");
    }
    let head = cluster.ask(1, &Request::new("HEAD", "/v1/kv/nothing"));
    assert_eq!((head.status, head.body.len()), (404, 0));
}

fn guards(cluster: &mut Cluster) {
    let put = |name, value: &str| Request::put("/v1/kv/guarded", "v").header(name, value);
    let mut cases = Vec::new();
    for name in ["If-Match", "If-None-Match"] {
        for tag in ["W/\"1\"", "1", "\"x\"", "", "*, \"1\""] {
            cases.push(Refused::write("a malformed tag", put(name, tag), 400, "invalid_parameter"));
            let delete = Request::delete("/key/guarded").header(name, tag);
            cases.push(Refused::write("a malformed tag", delete, 400, "invalid_parameter"));
        }
        let post = Request::post("/key", r#"{"guarded":"v"}"#).header(name, "*");
        cases.push(Refused::write("a condition on pairs", post, 400, "invalid_parameter"));
    }
    for name in ["", "a b", &"k".repeat(129)] {
        let request = put("Idempotency-Key", name);
        cases.push(Refused::write("a malformed name", request, 400, "invalid_parameter"));
    }
    let early = |name, value| Request { target: "/v1/kv/guarded?ack=leader".into(), ..put(name, value) };
    cases.push(Refused::write("early with a condition", early("If-Match", "*"), 400, "invalid_parameter"));
    cases.push(Refused::write("early with a name", early("Idempotency-Key", "n"), 400, "invalid_parameter"));
    let unknown_ack = Request::put("/v1/kv/guarded?ack=all", "v");
    cases.push(Refused::write("an unknown ack", unknown_ack, 400, "invalid_parameter"));
    for id in ["", "1", "1-", "a-b", "1-2-3"] {
        let get = Request::get(format!("/v1/writes/{id}"));
        cases.push(Refused::read("a malformed id of a write", get, 400, "invalid_parameter"));
    }
    cases.push(Refused::write("absent", put("If-Match", "*"), 412, "precondition_failed"));
    check_all(cluster, &cases);
    assert_eq!(cluster.must_get(0, "guarded"), None);

    let first = cluster.must_put(0, "guarded", "v");
    let stale = format!("\"{}\"", first - 1);
    check_all(
        cluster,
        &[
            Refused::write("changed", put("If-Match", &stale), 412, "precondition_failed"),
            Refused::write("present", put("If-None-Match", "*"), 412, "precondition_failed"),
        ],
    );
    for i in 0..3 {
        let failed = cluster.ask(i, &put("If-Match", &stale));
        assert_eq!(failed.header("etag"), Some(format!("\"{first}\"").as_str()));
        assert_eq!(failed.json()["revision"], first, "a failed condition takes no revision");
    }
    let named = cluster.ask(1, &put("Idempotency-Key", "contract"));
    assert_eq!(named.json()["revision"], first + 1, "{}", named.text());
    let other = Request::delete("/v1/kv/guarded").header("Idempotency-Key", "contract");
    check_all(cluster, &[Refused::write("another request", other, 422, "idempotency_key_reused")]);
    for i in 0..3 {
        assert_eq!(cluster.ask(i, &put("Idempotency-Key", "contract")).json()["revision"], first + 1);
    }
}

fn limits(cluster: &mut Cluster) {
    let key = "k".repeat(KEY_BYTES_MAX);
    let value = "v".repeat(VALUE_BYTES_MAX);
    let pairs = |count: usize, value: &str| {
        let pairs: Vec<String> = (0..count).map(|i| format!("\"{i:03}\":\"{value}\"")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    check_all(
        cluster,
        &[
            Refused::write("a long key", Request::put(format!("/v1/kv/{key}k"), "v"), 413, "key_too_large")
                .limit(KEY_BYTES_MAX as u64),
            Refused::read("a long key", Request::get(format!("/v1/kv/{key}k")), 413, "key_too_large")
                .limit(KEY_BYTES_MAX as u64),
            Refused::write(
                "a long key in JSON",
                Request::post("/key", format!(r#"{{"{key}k":"v"}}"#)),
                413,
                "key_too_large",
            )
            .limit(KEY_BYTES_MAX as u64),
            Refused::write(
                "a large value",
                Request::put("/v1/kv/k", format!("{value}v")),
                413,
                "value_too_large",
            )
            .limit(VALUE_BYTES_MAX as u64),
            Refused::write(
                "a large value in JSON",
                Request::post("/key", format!(r#"{{"k":"{value}v"}}"#)),
                413,
                "value_too_large",
            )
            .limit(VALUE_BYTES_MAX as u64),
            Refused::write(
                "too many pairs",
                Request::post("/key", pairs(BATCH_PAIRS_MAX + 1, "v")),
                413,
                "batch_too_large",
            )
            .limit(BATCH_PAIRS_MAX as u64),
            Refused::write("too many bytes", Request::post("/key", pairs(4, &value)), 413, "batch_too_large")
                .limit(BATCH_BYTES_MAX as u64),
        ],
    );
    assert_eq!(cluster.must_get(0, "000"), None, "nothing of a write that is refused is applied");
    let i = (cluster.leader() + 1) % 3;
    for (what, request) in [
        ("the longest key", Request::put(format!("/v1/kv/{key}"), "v")),
        ("the longest key, escaped", Request::put(format!("/v1/kv/{}", "%00".repeat(KEY_BYTES_MAX)), "v")),
        ("the largest value", Request::put("/v1/kv/large", value.clone())),
        ("the most pairs", Request::post("/key", pairs(BATCH_PAIRS_MAX, "v"))),
        ("the most bytes", Request::post("/key", pairs(4, &value[..VALUE_BYTES_MAX - 3]))),
    ] {
        let answer = cluster.ask(i, &request);
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        if what == "the most pairs" {
            let tag = format!("\"{}\"", answer.json()["revision"]);
            for pair in 0..BATCH_PAIRS_MAX {
                let got = cluster.get((i + 1) % 3, &format!("{pair:03}"), "");
                assert_eq!(got.header("etag"), Some(tag.as_str()), "all pairs are one write");
            }
        }
    }
    assert_eq!(cluster.get((i + 1) % 3, "large", "").body, value.as_bytes());
    let expect = Request::put("/v1/kv/expected", value.clone()).header("Expect", "100-continue");
    assert_eq!(cluster.ask(i, &expect).status, 200);
}

/// A slow sender is answered at its timeout; it holds nothing for longer.
fn body_never_arrives(cluster: &mut Cluster) {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.port(0))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let began = Instant::now();
    let head = "PUT /v1/kv/slow?timeout=500ms HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 1024];
    let count = stream.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(began.elapsed() < Duration::from_millis(500) + LATE_MAX, "{:?}", began.elapsed());
    assert_eq!(cluster.must_get(1, "slow"), None);
}

/// One of three is left: what it answers, and when. Restores the cluster.
fn without_majority(cluster: &mut Cluster) {
    cluster.must_put(0, "kept", "yes");
    cluster.wait_converged();
    let leader = cluster.leader();
    // Once the last one is a follower of a dead leader, once the leader of dead followers.
    for last in [(leader + 1) % 3, leader] {
        let others: Vec<usize> = (0..3).filter(|i| *i != last).collect();
        cluster.kill9_all(&others);
        for (what, timeout) in [("short", 300), ("longer", 1_500)] {
            let began = Instant::now();
            let write = cluster.put(last, "lost", what, &format!("timeout={timeout}ms"));
            let took = began.elapsed();
            match (write.status, write.code().as_str(), write.applied().as_str()) {
                (503, "no_leader", "no") | (504, "outcome_unknown", "unknown") => {}
                _ => panic!("{} {}", write.status, write.text()),
            }
            check_problem(&write, what);
            assert!(took < Duration::from_millis(timeout) + LATE_MAX, "{what}: a write took {took:?}");
            let began = Instant::now();
            let read = cluster.get(last, "kept", &format!("timeout={timeout}ms"));
            let took = began.elapsed();
            Refused::read(what, Request::get(""), 503, "no_leader").check(&read);
            assert!(took < Duration::from_millis(timeout) + LATE_MAX, "{what}: a read took {took:?}");
        }
        let stale = cluster.get(last, "kept", "consistency=stale");
        assert_eq!((stale.status, stale.text().as_str()), (200, "yes"));
        assert_eq!(stale.header("vault-consistency"), Some("stale"));
        assert_eq!(cluster.ask(last, &Request::get("/status")).status, 200);
        assert_eq!(cluster.ask(last, &Request::get("/livez")).status, 200);
        let ready = cluster.ask(last, &Request::get("/readyz?verbose"));
        assert_eq!(ready.status, 503, "{}", ready.text());
        for i in others {
            cluster.restart(i);
        }
        cluster.wait_formed();
        cluster.wait_converged();
        let now = cluster.leader();
        if now != leader {
            // For the second round the old leader must lead again.
            let name = cluster.nodes[leader].name.clone();
            let moved = cluster.ask(now, &Request::post("/v1/leader", format!(r#"{{"name":"{name}"}}"#)));
            assert_eq!(moved.status, 200, "{}", moved.text());
            cluster.wait_formed();
        }
    }
}
