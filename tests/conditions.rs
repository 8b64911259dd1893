//! Compare and set loses no update, whoever races through whichever node; a named write is applied once,
//! whatever happens to the leader in between.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{eventually, Client, Cluster, Plan, Request, Response};

const WRITERS: usize = 100;
/// Longest time for all writers together.
const RACE_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for one write to be answered, an election included.
const ANSWERED_LIMIT: Duration = Duration::from_secs(30);

fn etag(response: &Response) -> String {
    response.header("etag").expect("a tag").to_owned()
}

fn revision(response: &Response) -> u64 {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["revision"].as_u64().expect("a revision")
}

/// Adds one to a counter by compare and set. Answers how many tries it took.
fn increment(client: &mut Client, end: Instant) -> usize {
    let target = "/v1/kv/counter";
    for tries in 1.. {
        assert!(Instant::now() < end, "not within {RACE_LIMIT:?}, after {tries} tries");
        let read = client.send(&Request::get(target)).expect("an answer");
        let request = match read.status {
            200 => {
                let next = read.text().parse::<u64>().unwrap() + 1;
                Request::put(target, next.to_string()).header("If-Match", &etag(&read))
            }
            404 => Request::put(target, "1").header("If-None-Match", "*"),
            other => panic!("{other} {}", read.text()),
        };
        let put = client.send(&request).expect("an answer");
        match put.status {
            200 => return tries,
            412 => assert_eq!((put.applied().as_str(), put.code().as_str()), ("no", "precondition_failed")),
            429 => assert_eq!(put.applied(), "no"),
            other => panic!("{other} {}", put.text()),
        }
    }
    unreachable!("the loop ends by its time")
}

#[test]
fn compare_and_set_loses_no_update() {
    let cluster = Cluster::start(3);
    let end = Instant::now() + RACE_LIMIT;
    let tries = AtomicUsize::new(0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (port, tries) = (cluster.port(writer % 3), &tries);
            scope.spawn(move || {
                let used = increment(&mut Client::new(port), end);
                tries.fetch_add(used, Ordering::Relaxed);
            });
        }
    });
    let tries = tries.into_inner();
    println!("{WRITERS} increments took {tries} tries");
    assert!(tries > WRITERS, "nobody raced: this proves nothing");
    for node in 0..3 {
        assert_eq!(cluster.must_get(node, "counter"), Some(WRITERS.to_string()), "node{node}");
    }
}

fn named(name: &str, value: &str) -> Request {
    let body = format!(r#"{{"{name}":"{value}"}}"#);
    Request::post("/key", body).header("Idempotency-Key", &format!("name-of-{name}"))
}

/// Repeats a request under its name, through any node, until it is answered for good.
fn insist(clients: &mut [Client], request: &Request) -> Response {
    let mut turn = 0;
    eventually("the write is answered", ANSWERED_LIMIT, || {
        turn += 1;
        let count = clients.len();
        let response = clients[turn % count].send(request).map_err(|failure| failure.to_string())?;
        match response.status {
            429 | 503 | 504 => Err(response.text()),
            _ => Ok(response),
        }
    })
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    cluster.ports().into_iter().map(Client::new).collect()
}

/// Every write raises the revision by one, so the revision tells how many were applied.
#[test]
fn a_name_is_applied_once() {
    // Snapshots all the time: what a node that was away knows of names comes out of one.
    let plan = Plan {
        env: vec![
            ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "100".into()),
            ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "10".into()),
        ],
        ..Plan::nodes(3)
    };
    let mut cluster = Cluster::start_plan(&plan);
    let before = cluster.must_put(0, "before", "v");
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let leader = cluster.leader();
    let answers: Vec<(Request, u64)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (mut clients, over, done) = (clients(&cluster), &over, &done);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let request = named(&format!("w{writer}-{}", answers.len()), "v");
                        let first = revision(&insist(&mut clients, &request));
                        assert_eq!(revision(&insist(&mut clients, &request)), first);
                        answers.push((request, first));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    answers
                })
            })
            .collect();
        let wait = |more: usize| {
            let goal = done.load(Ordering::Relaxed) + more;
            eventually("named writes are answered", ANSWERED_LIMIT, || {
                let now = done.load(Ordering::Relaxed);
                (now >= goal).then_some(()).ok_or_else(|| format!("{now} of {goal}"))
            });
        };
        wait(100);
        cluster.kill9(leader);
        wait(300);
        over.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    cluster.wait_for_leader_other_than(leader);
    let mut seen = clients(&cluster);
    let count = answers.len() as u64;
    assert_eq!(revision(&insist(&mut seen, &Request::put("/v1/kv/after", "v"))), before + count + 1);
    check_names(&cluster, &answers, before + count + 1);

    // The one that was away takes a snapshot, then is the one to lead, then all start again.
    cluster.restart(leader);
    cluster.wait_formed();
    cluster.wait_converged();
    let body = format!(r#"{{"name":"node{leader}"}}"#);
    assert_eq!(cluster.ask(leader, &Request::post("/v1/leader", body)).status, 200);
    check_names(&cluster, &answers, before + count + 1);
    cluster.kill9_all(&[0, 1, 2]);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.wait_formed();
    check_names(&cluster, &answers, before + count + 1);
}

/// A repetition gets the first answer, another request under the name is refused, nothing is applied.
fn check_names(cluster: &Cluster, answers: &[(Request, u64)], revision_now: u64) {
    let mut clients = clients(cluster);
    for (request, first) in answers.iter().step_by(7) {
        assert_eq!(revision(&insist(&mut clients, request)), *first);
        let other = Request { body: br#"{"another":"request"}"#.to_vec(), ..request.clone() };
        let refused = insist(&mut clients, &other);
        let told = (refused.status, refused.code(), refused.applied());
        assert_eq!(told, (422, "idempotency_key_reused".into(), "no".into()));
        assert_eq!(refused.json()["revision"], revision_now);
    }
}
