//! Watching the cluster: the page, what one node tells, what it gathers of the others, and faults by proxy.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use vaultdb_web::model::{EventKind, PeerAnswer};
use vaultdb_web::WATCHERS_MAX;

use crate::client::{Answer, Conn};
use crate::server::TestServer;

const STREAM: &str = "Accept: text/event-stream\r\n";
/// A test that waits longer has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// A stream of events, read event by event.
struct Events {
    head: Answer,
    reader: BufReader<TcpStream>,
}

impl Events {
    fn open(server: &TestServer) -> Self {
        let mut conn = server.conn();
        conn.send("GET", "/v1/cluster", STREAM, None);
        let head = read_head(&mut conn);
        Self { head, reader: BufReader::new(conn.0) }
    }

    /// The next event's name and data; `None` at the end of the stream.
    fn next(&mut self) -> Option<(String, Value)> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut size = String::new();
            self.reader.read_line(&mut size).ok()?;
            let length = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            std::io::Read::read_exact(&mut self.reader, &mut chunk).ok()?;
            if length == 0 {
                return None;
            }
            for line in std::str::from_utf8(&chunk[..length]).unwrap().lines() {
                if let Some(text) = line.strip_prefix("event: ") {
                    name = text.to_owned();
                } else if let Some(text) = line.strip_prefix("data: ") {
                    data = text.to_owned();
                } else {
                    assert_eq!(line, "", "neither name nor data");
                    return Some((name, serde_json::from_str(&data).unwrap()));
                }
            }
        }
    }
}

/// As [`Conn::read`], of an answer whose length is not told.
fn read_head(conn: &mut Conn) -> Answer {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut conn.0, &mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = text.trim_end().lines().skip(1).map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    Answer { status, headers, body: Vec::new() }
}

fn tell_events(server: &TestServer, details: &[&str]) {
    for detail in details {
        server.fake.0.events.record("store", EventKind::Restarted, (*detail).to_owned());
    }
}

/// What the second member answers when it is asked.
fn peer_answers(server: &TestServer, answer: Result<(u16, Value), &str>) {
    let answer = answer
        .map(|(status, body)| PeerAnswer { status, body: body.to_string().into_bytes() })
        .map_err(str::to_owned);
    *server.fake.0.peer_answer.lock().unwrap() = Some(answer);
}

fn told(started_ms: u64, seqs: &[u64]) -> Value {
    let events: Vec<Value> = seqs.iter().map(|seq| json!({"seq": seq, "what": "failed"})).collect();
    json!({"node": "node\"1", "started_ms": started_ms, "fault_injection": false,
        "status": {"node": {"state": "follower"}}, "figures": [], "events": events})
}

fn asked(server: &TestServer) -> Vec<(String, String)> {
    server.fake.0.asked.lock().unwrap().clone()
}

/// The page is one document that loads nothing, runs only its own script, and keeps its node's name text.
#[test]
fn page() {
    let server = TestServer::with(|options| options.node_name = "node0".into());
    let answer = server.get("/");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(answer.text().contains("data-node=\"node0\""));
    let head = server.call("HEAD", "/", "", None);
    assert_eq!((head.status, head.body.len()), (200, 0));
}

/// A node tells of itself: its status, events past those that are known, figures, and whether it may be broken.
#[test]
fn observation() {
    let server = TestServer::start();
    tell_events(&server, &["a", "<b>&\"\n"]);
    let all = server.get("/v1/observation").ok();
    assert_eq!(all["node"], "node0");
    assert_eq!(all["status"]["cluster"]["members"][1]["name"], "node\"1");
    assert_eq!(all["fault_injection"], true);
    let last = &all["events"][1];
    assert!(last["time_ms"].is_u64(), "{last}");
    let told = json!({"seq": 2, "time_ms": last["time_ms"], "component": "store", "what": "restarted", "detail": "<b>&\"\n"});
    assert_eq!(last, &told);
    let later = server.get("/v1/observation?since=1").ok();
    assert_eq!(later["events"].as_array().unwrap().len(), 1);
    assert_eq!(later["started_ms"], all["started_ms"], "one life of the node");
    server.get("/v1/observation?since=x").problem(400, "invalid_parameter");
    server.get("/v1/observation?since=1&since=1").problem(400, "invalid_parameter");
    server.post("/v1/observation", "").problem(405, "method_not_allowed");
}

/// Every second of the last minutes is told once, with what clients did in it and how long it took.
#[test]
fn figures() {
    let server = TestServer::start();
    server.put("/v1/kv/a", "1").ok();
    server.get("/v1/kv/a");
    server.get("/status");
    let begun = Instant::now();
    let figure = loop {
        let figures = server.get("/v1/observation").ok()["figures"].clone();
        let busy = figures.as_array().unwrap().iter().find(|figure| figure["requests"] != 0).cloned();
        match busy {
            Some(figure) => break figure,
            None => assert!(begun.elapsed() < LIMIT, "never a figure: {figures}"),
        }
    };
    assert_eq!((&figure["writes"], &figure["errors"]), (&json!(1), &json!(0)), "{figure}");
    assert!(figure["p50_ms"].as_f64() <= figure["p99_ms"].as_f64(), "{figure}");
    let since = figure["time_ms"].as_u64().unwrap();
    let later = server.get(&format!("/v1/observation?figures_since_ms={since}")).ok();
    assert!(later["figures"].as_array().unwrap().iter().all(|f| f["time_ms"].as_u64().unwrap() > since));
}

/// One answer or a stream: everything first, then only news; names and details come as they are.
#[test]
fn cluster_is_gathered() {
    let server = TestServer::start();
    tell_events(&server, &["</script><b>"]);
    peer_answers(&server, Ok((200, told(7, &[1, 2]))));
    let once = server.get("/v1/cluster").ok();
    assert_eq!(once["gathered_by"], "node0");
    assert_eq!(once["nodes"][0]["name"], "node\"1");
    assert_eq!(once["nodes"][0]["events"].as_array().unwrap().len(), 2);
    assert_eq!(once["nodes"][1]["events"][0]["detail"], "</script><b>");

    let mut stream = Events::open(&server);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    stream.head.check_common_headers();
    let (name, first) = stream.next().unwrap();
    assert_eq!(name, "snapshot");
    assert_eq!(first["nodes"][0]["events"].as_array().unwrap().len(), 2);
    peer_answers(&server, Ok((200, told(7, &[3]))));
    let begun = Instant::now();
    loop {
        let (name, update) = stream.next().unwrap();
        assert_eq!(name, "update");
        assert_eq!(update["nodes"][1]["events"], json!([]), "nothing is told twice");
        if update["nodes"][0]["events"][0]["seq"] == 3 {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "never the third event");
    }
    let (address, what) = asked(&server).pop().unwrap();
    assert_eq!(address, "h:1");
    assert!(what.starts_with("GET /v1/observation?since=2&figures_since_ms="), "{what}");
}

/// A member that does not answer is shown as such, with the reason and since when, until it answers again.
#[test]
fn silent_members_are_shown() {
    let server = TestServer::start();
    peer_answers(&server, Err("refused"));
    let mut stream = Events::open(&server);
    let (_, first) = stream.next().unwrap();
    let silent = &first["nodes"][0];
    assert_eq!((&silent["reachable"], &silent["reason"]), (&json!(false), &json!("refused")));
    let since = silent["unreachable_since_ms"].as_u64().unwrap();
    peer_answers(&server, Ok((503, json!({}))));
    let begun = Instant::now();
    loop {
        let (_, update) = stream.next().unwrap();
        assert_eq!(update["nodes"][0]["unreachable_since_ms"], since, "since the first time");
        if update["nodes"][0]["reason"] == "it answers 503" {
            break;
        }
        assert!(begun.elapsed() < LIMIT);
    }
    peer_answers(&server, Ok((200, told(1, &[]))));
    while stream.next().unwrap().1["nodes"][0]["reachable"] != true {
        assert!(begun.elapsed() < LIMIT);
    }
}

/// However many watch, members are asked once a second; one watcher too many is refused; no watcher holds a
/// permit of ordinary requests; and when nobody watches any more nobody is asked.
#[test]
fn watchers_are_bounded_and_share() {
    let server = TestServer::with(|options| options.requests_in_flight_max = 1);
    peer_answers(&server, Ok((200, told(1, &[]))));
    let begun = Instant::now();
    let mut streams: Vec<_> = (0..WATCHERS_MAX).map(|_| Events::open(&server)).collect();
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().0, "snapshot");
    }
    let problem = server.call("GET", "/v1/cluster", STREAM, None).problem(429, "overloaded");
    assert_eq!(problem["limit"], WATCHERS_MAX);
    server.get("/v1/cluster").problem(429, "overloaded");
    server.put("/v1/kv/a", "1").ok();
    let rounds = asked(&server).len() as u64;
    assert!(rounds <= begun.elapsed().as_secs() + 1, "{rounds} rounds");

    drop(streams);
    let begun = Instant::now();
    while server.call("HEAD", "/v1/cluster", "", None).status != 200
        || server.get("/v1/cluster").status != 200
    {
        assert!(begun.elapsed() < LIMIT, "no place is free again");
    }
    // The task ends once it finds nobody: the count stands still for longer than a round.
    let (mut count, mut since) = (asked(&server).len(), Instant::now());
    while since.elapsed() < Duration::from_millis(2_500) {
        assert!(begun.elapsed() < LIMIT, "nobody watches and members are asked");
        let now = asked(&server).len();
        if now != count {
            (count, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Those who watch do not hold a graceful stop up: their streams end whole.
#[test]
fn streams_end_with_the_server() {
    let server = TestServer::with(|options| options.shutdown_timeout = Duration::from_secs(30));
    peer_answers(&server, Ok((200, told(1, &[]))));
    let mut stream = Events::open(&server);
    stream.next().unwrap();
    let begun = Instant::now();
    drop(server.handle.stop(true));
    while stream.next().is_some() {}
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Faults reach the member that is named, through this node and only with fault injection on; its answer comes
/// back as it is.
#[test]
fn faults_by_proxy() {
    let server = TestServer::start();
    server.fake.0.faultless.store(true, Ordering::SeqCst);
    server.post("/v1/members/node0/faults", "{}").problem(404, "no_such_route");
    assert!(asked(&server).is_empty());
    server.fake.0.faultless.store(false, Ordering::SeqCst);
    peer_answers(&server, Ok((200, json!({"id": 4}))));
    let body = r#"{"kind":"actor_panic","component":"store"}"#;
    assert_eq!(server.post("/v1/members/node0/faults", body).ok(), json!({"id": 4}));
    assert_eq!(server.fake.0.asked_bodies.lock().unwrap().pop().unwrap(), body.as_bytes());
    server.get("/v1/members/node0/faults").ok();
    server.delete("/v1/members/node0/faults").ok();
    let methods: Vec<String> = asked(&server).into_iter().map(|(_, what)| what).collect();
    assert_eq!(methods, ["POST /v1/faults", "GET /v1/faults", "DELETE /v1/faults"]);

    peer_answers(&server, Ok((400, json!({"code": "invalid_parameter"}))));
    let refused = server.post("/v1/members/node0/faults", "{}");
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_parameter")));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    peer_answers(&server, Err("refused"));
    let problem = server.post("/v1/members/node0/faults", "{}").problem(504, "outcome_unknown");
    assert!(problem["detail"].as_str().unwrap().contains("refused"));
    server.post("/v1/members/nobody/faults", "{}").problem(404, "no_such_member");
    server.post("/v1/members/a%20b/faults", "{}").problem(400, "invalid_parameter");
    server.put("/v1/members/node0/faults", "{}").problem(405, "method_not_allowed");
}
