//! What a measurement means, against a server whose every answer the test decides.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vaultdb_bench::{Ack, BenchError, KeySpace, Operation, Output, Plan, Protocol};

/// One request as the server got it.
struct Request {
    /// Counts all requests of all connections, from 1.
    number: u64,
    line: String,
    body: Vec<u8>,
}

/// Answers with the bytes to send; `None` closes the connection.
type Handler = dyn Fn(&Request) -> Option<Vec<u8>> + Send + Sync;

/// Serves until the process ends.
fn serve(handler: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handler: Arc<Handler> = Arc::new(handler);
    let numbers = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (handler, numbers) = (Arc::clone(&handler), Arc::clone(&numbers));
            thread::spawn(move || converse(stream.unwrap(), &*handler, &numbers));
        }
    });
    address
}

fn converse(mut stream: TcpStream, handler: &Handler, numbers: &AtomicU64) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut header, mut length) = (String::new(), String::new(), 0);
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        while header != "\r\n" {
            header.clear();
            reader.read_line(&mut header).unwrap();
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(answer) = handler(&Request { number, line, body }) else { return };
        // In two pieces, as a network may cut it.
        let (first, second) = answer.split_at(answer.len() / 2);
        if stream.write_all(first).and_then(|()| stream.write_all(second)).is_err() {
            return;
        }
    }
}

fn answer(status: u16, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn problem(status: u16, code: &str) -> Option<Vec<u8>> {
    answer(status, &format!("{{\"code\":\"{code}\",\"status\":{status}}}"))
}

fn plan(endpoint: &str) -> Plan {
    Plan {
        protocol: Protocol::VaultDb,
        operation: Operation::Put,
        endpoints: vec![endpoint.to_owned()],
        connections: vec![4],
        rate_per_s: None,
        keys: KeySpace { count: 1_000, seed: 1, zipf_theta: None },
        value_bytes: 10,
        duration: Duration::from_millis(500),
        warmup: Duration::ZERO,
        request_timeout: Duration::from_secs(5),
        ack: Ack::Majority,
        consistency: None,
        prefill: false,
        verify: false,
    }
}

/// The only run of the plan, and whether something succeeded.
fn measure(plan: &Plan) -> (Value, bool) {
    let mut out = Vec::new();
    let succeeded = vaultdb_bench::run(plan, Output::Json, &mut out).unwrap();
    let document: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(document["runs"].as_array().unwrap().len(), 1);
    let run = document["runs"][0].clone();
    assert_eq!(number(&run, "requests"), number(&run, "successes") + number(&run, "errors"), "{run}");
    let by_code: u64 = run["errors_by_code"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(number(&run, "errors"), by_code, "{run}");
    (run, succeeded)
}

fn number(run: &Value, field: &str) -> u64 {
    run[field].as_u64().unwrap_or_else(|| panic!("{field} in {run}"))
}

/// A server that stands still for 200 ms once, in the middle of the run.
fn stalling_server() -> String {
    const STALL: Duration = Duration::from_millis(200);
    let gate = Mutex::new(());
    serve(move |request| {
        // Whoever comes during the stall waits for its end, as behind a full disk.
        let _turn = gate.lock().unwrap();
        if request.number == 300 {
            // The stall itself, not a wait for something.
            thread::sleep(STALL);
        }
        answer(200, "{\"revision\":1}")
    })
}

/// In an open loop a stall shows in full: all requests that were due meanwhile count from then.
#[test]
fn an_open_loop_does_not_omit_a_stall() {
    let open = Plan { rate_per_s: Some(1_000), duration: Duration::from_secs(1), ..plan(&stalling_server()) };
    let (run, _) = measure(&open);
    // A fifth of the requests was due within the stall, and waited for half of it on average.
    assert!(number(&run, "latency_us_p99") >= 150_000, "{run}");
    assert!(number(&run, "latency_us_p90") >= 50_000, "{run}");
    assert!(number(&run, "latency_us_p50") < 100_000, "{run}");
    assert!(number(&run, "requests") + number(&run, "unsent") == 1_000, "{run}");
}

/// In a closed loop the same stall is one slow request for each connection: the contrast that makes
/// the test above meaningful.
#[test]
fn a_closed_loop_omits_it() {
    let (run, _) = measure(&Plan { duration: Duration::from_secs(1), ..plan(&stalling_server()) });
    assert!(number(&run, "latency_us_max") >= 190_000, "{run}");
    assert!(number(&run, "latency_us_p99") < 150_000, "{run}");
}

/// An open loop keeps its rate, and counts what it could not send.
#[test]
fn an_open_loop_keeps_its_rate() {
    let open = Plan { rate_per_s: Some(400), ..plan(&serve(|_| answer(200, "{}"))) };
    let (run, succeeded) = measure(&open);
    assert!(succeeded);
    assert_eq!(number(&run, "requests") + number(&run, "unsent"), 200, "{run}");
    // The last ones may find the window closed when this thread gets no processor.
    assert!(number(&run, "unsent") <= 40, "{run}");

    // A server that never answers holds the only connection.
    let silent = serve(|_| {
        thread::park();
        None
    });
    let stuck = Plan {
        connections: vec![1],
        request_timeout: Duration::from_secs(1),
        ..Plan { endpoints: vec![silent], ..open }
    };
    let (run, succeeded) = measure(&stuck);
    assert!(!succeeded);
    assert_eq!((number(&run, "requests"), number(&run, "unsent")), (1, 199), "{run}");
    assert_eq!(run["errors_by_code"]["timeout"], 1, "{run}");
}

/// Each failure is counted under its code or kind, the connection goes on or is dialled again, and
/// requests that fail are not in the latencies.
#[test]
fn failures_are_counted_by_code() {
    let closed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&closed);
    let endpoint = serve(move |request| match request.number % 8 {
        0 => problem(429, "overloaded"),
        1 => problem(503, "no_leader"),
        2 => problem(504, "outcome_unknown"),
        3 => answer(404, ""),
        4 => {
            counter.fetch_add(1, Ordering::Relaxed);
            None
        }
        5 => Some(b"SSH-2.0-x\r\n\r\n".to_vec()),
        _ => answer(200, "{\"revision\":1}"),
    });
    let (run, succeeded) = measure(&plan(&endpoint));
    assert!(succeeded);
    let codes = &run["errors_by_code"];
    for code in ["overloaded", "no_leader", "outcome_unknown", "http_404", "malformed", "closed"] {
        assert!(codes[code].as_u64().unwrap_or(0) > 0, "{code} in {run}");
    }
    assert!(number(&run, "successes") > 0);
    assert_eq!(codes["closed"].as_u64().unwrap(), closed.load(Ordering::Relaxed), "{run}");
}

/// A server that refuses is not hammered: the pauses grow.
#[test]
fn refused_connections_back_off() {
    let (run, succeeded) = measure(&plan(&serve(|_| problem(503, "starting"))));
    assert!(!succeeded);
    // Pauses of 10, 20, 40, 80, 160, 320 ms: six requests a connection within half a second.
    let requests = number(&run, "requests");
    assert!((4..=4 * 8).contains(&requests), "{run}");
}

/// An orderly end of a connection after an answer is no failure.
#[test]
fn connection_close_is_no_failure() {
    let endpoint =
        serve(|_| Some(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}".to_vec()));
    let (run, _) = measure(&plan(&endpoint));
    assert!(number(&run, "successes") > 4, "{run}");
    assert_eq!(number(&run, "errors"), 0, "{run}");
}

/// Requests larger than any socket buffer arrive whole.
#[test]
fn large_requests_arrive_whole() {
    const VALUE_BYTES: usize = 8 << 20;
    let endpoint = serve(|request| match request.body.len() {
        VALUE_BYTES => answer(200, "{}"),
        other => problem(400, &format!("of_{other}_bytes")),
    });
    let (run, succeeded) = measure(&Plan { value_bytes: VALUE_BYTES, ..plan(&endpoint) });
    assert!(succeeded, "{run}");
    assert_eq!(number(&run, "errors"), 0, "{run}");
}

/// One seed sends the same requests in the same order, over one connection.
#[test]
fn requests_are_reproducible() {
    let lines = |seed| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let endpoint = serve(move |request| {
            log.lock().unwrap().push(request.line.clone());
            answer(200, "{}")
        });
        let plan = Plan {
            operation: Operation::Mixed { read_percent: 50 },
            connections: vec![1],
            rate_per_s: Some(1_000),
            keys: KeySpace { count: 1_000, seed, zipf_theta: Some(0.99) },
            ..plan(&endpoint)
        };
        measure(&plan);
        let seen = seen.lock().unwrap();
        assert!(seen.len() >= 100, "{}", seen.len());
        seen[..100].to_vec()
    };
    let first = lines(1);
    assert_eq!(first, lines(1));
    assert_ne!(first, lines(2));
    let reads = first.iter().filter(|line| line.starts_with("GET /v1/kv/")).count();
    assert!((25..=75).contains(&reads), "{reads}");
}

/// Prefill writes every key of the space exactly once, also when an attempt fails.
#[test]
fn prefill_writes_every_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&keys);
    let endpoint = serve(move |request| {
        if request.line.starts_with("GET") {
            return answer(200, "v");
        }
        if request.number == 2 {
            return problem(503, "no_leader");
        }
        let pairs: Value = serde_json::from_slice(&request.body).unwrap();
        log.lock().unwrap().extend(pairs.as_object().unwrap().keys().cloned());
        answer(200, "{\"revision\":1}")
    });
    let space = KeySpace { count: 250, seed: 1, zipf_theta: None };
    let (run, _) =
        measure(&Plan { operation: Operation::Get, keys: space, prefill: true, ..plan(&endpoint) });
    assert_eq!(number(&run, "errors"), 0, "{run}");
    let mut keys = keys.lock().unwrap().clone();
    keys.sort();
    assert_eq!(keys, (0..250).map(|key| format!("{key:016}")).collect::<Vec<_>>());
}

/// With `verify` an answer that is not what prefill wrote is an error, also when it is another key's value.
#[test]
fn wrong_values_are_errors() {
    let stored = Arc::new(Mutex::new(HashMap::new()));
    let endpoint = serve(move |request| {
        let mut stored = stored.lock().unwrap();
        let Some(key) = request.line.strip_prefix("GET /v1/kv/") else {
            let pairs: HashMap<String, String> = serde_json::from_slice(&request.body).unwrap();
            stored.extend(pairs);
            return answer(200, "{\"revision\":1}");
        };
        let key = if request.number % 4 == 0 { "0000000000000007" } else { &key[..16] };
        answer(200, &stored[key])
    });
    let space = KeySpace { count: 1_000, seed: 3, zipf_theta: None };
    let reads =
        Plan { operation: Operation::Get, keys: space, value_bytes: 100, prefill: true, ..plan(&endpoint) };
    let (run, succeeded) = measure(&Plan { verify: true, ..reads.clone() });
    assert!(succeeded && number(&run, "successes") > 0, "{run}");
    let wrong = run["errors_by_code"]["wrong_value"].as_u64().unwrap();
    assert_eq!(wrong, number(&run, "errors"), "{run}");
    // A quarter; one connection of four may meet it more often than another.
    let requests = number(&run, "requests");
    assert!((requests / 8..=requests / 2).contains(&wrong), "{run}");
    let (run, _) = measure(&reads);
    assert_eq!(number(&run, "errors"), 0, "{run}");
}

/// Where nobody listens there is an error at once and no measurement.
#[test]
fn nobody_listens() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().to_string();
    let began = Instant::now();
    let plan = Plan { duration: Duration::from_secs(3_600), ..plan(&address) };
    let error = vaultdb_bench::run(&plan, Output::Table, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, BenchError::Unreachable(_)) && error.to_string().contains(&address), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
}
