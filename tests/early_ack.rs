//! A write that is answered once the leader alone has it is told committed or lost as it truly is, by every
//! node, and the node that cannot know says so.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::{eventually, Client, Cluster, Plan, Request, Response};

const DECIDED_LIMIT: Duration = Duration::from_secs(20);

fn accept(cluster: &Cluster, node: usize, key: &str) -> Option<String> {
    let answer = cluster.put(node, key, "early", "ack=leader&timeout=2s");
    if answer.status != 202 {
        println!("not accepted: {} {}", answer.status, answer.text());
        return None;
    }
    let json = answer.json();
    assert_eq!(json["accepted"], true);
    let id = format!("{}-{}", json["term"], json["log_index"]);
    assert_eq!(answer.header("location"), Some(format!("/v1/writes/{id}").as_str()));
    Some(id)
}

fn ask(cluster: &Cluster, node: usize, id: &str, query: &str) -> Response {
    cluster.ask(node, &Request::get(format!("/v1/writes/{id}?{query}")))
}

/// Waits for a state; `never` must not be told on the way.
fn wait_state(cluster: &Cluster, node: usize, id: &str, wanted: &str, never: &str) {
    eventually(&format!("node{node} tells that {id} is {wanted}"), DECIDED_LIMIT, || {
        let answer = ask(cluster, node, id, "");
        let state = answer.json()["state"].as_str().unwrap_or_default().to_owned();
        assert_ne!(state, never, "node{node}: {id}");
        (state == wanted).then_some(()).ok_or_else(|| format!("{} {}", answer.status, answer.text()))
    });
}

#[test]
fn committed_and_lost_are_told_truthfully() {
    let mut cluster = Cluster::start_plan(&Plan { links: true, ..Plan::nodes(3) });
    let old = cluster.leader();
    let rest: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    let mut kept = Vec::new();
    for node in 0..3 {
        let id = accept(&cluster, node, &format!("kept{node}")).expect("accepted with a majority");
        (0..3).for_each(|asked| wait_state(&cluster, asked, &id, "committed", "lost"));
        kept.push(id);
    }
    assert_eq!(ask(&cluster, old, "1-99999999", "").json()["state"], "pending");
    assert_eq!(ask(&cluster, old, "nonsense", "").status, 400);

    // Cut off, the leader accepts until its lease ends; nobody else ever hears of it.
    cluster.links.as_ref().unwrap().cut(&[old], &rest);
    let lost = accept(&cluster, old, "lost").expect("accepted within the lease");
    assert_eq!(ask(&cluster, old, &lost, "consistency=stale").json()["state"], "pending");
    cluster.wait_for_leader(&rest);
    for node in &rest {
        wait_state(&cluster, *node, &lost, "lost", "committed");
    }
    assert_eq!(ask(&cluster, old, &lost, "consistency=stale").json()["state"], "pending");
    let unconfirmed = ask(&cluster, old, &lost, "timeout=500ms");
    assert_eq!((unconfirmed.status, unconfirmed.code().as_str()), (503, "no_leader"));
    let refused = cluster.put(old, "late", "v", "ack=leader&timeout=500ms");
    assert_eq!((refused.status, refused.applied().as_str()), (503, "no"), "{}", refused.text());

    // Whether it comes back by itself or after a kill, it says what the others say.
    cluster.kill9(old);
    cluster.links.as_ref().unwrap().heal();
    cluster.restart(old);
    cluster.wait_formed();
    for node in 0..3 {
        wait_state(&cluster, node, &lost, "lost", "committed");
        kept.iter().for_each(|id| wait_state(&cluster, node, id, "committed", "lost"));
        assert_eq!(cluster.must_get(node, "lost"), None);
        assert_eq!(cluster.must_get(node, "late"), None);
        assert_eq!(cluster.must_get(node, "kept1").as_deref(), Some("early"));
    }
}

/// Writes early through every node until `over`; answers the ids by key, `None` when it was answered that
/// the write is not applied.
fn write_early(writer: usize, ports: &[u16], over: &AtomicBool, accepted: &AtomicUsize) -> Vec<Early> {
    let mut clients: Vec<Client> = ports.iter().map(|port| Client::new(*port)).collect();
    let mut told = Vec::new();
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("e{writer}-{turn}");
        let put = Request::put(format!("/v1/kv/{key}?ack=leader&timeout=1s"), key.clone());
        let Ok(answer) = clients[turn % ports.len()].send(&put) else { continue };
        let json = answer.json();
        match answer.status {
            202 => {
                accepted.fetch_add(1, Ordering::Relaxed);
                let id = format!("{}-{}", json["term"], json["log_index"]);
                told.push(Early { key, id: Some(id) });
            }
            429 | 503 => told.push(Early { key, id: None }),
            504 => assert_eq!(answer.applied(), "unknown"),
            other => panic!("{other} {}", answer.text()),
        }
    }
    told
}

struct Early {
    key: String,
    id: Option<String>,
}

/// Whatever leaders die meanwhile, a write is there if and only if it is told committed.
#[test]
fn what_is_told_is_what_is_there() {
    let mut cluster = Cluster::start(3);
    let (over, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told: Vec<Early> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (ports, over, accepted) = (cluster.ports(), &over, &accepted);
                scope.spawn(move || write_early(writer, &ports, over, accepted))
            })
            .collect();
        for _ in 0..2 {
            let goal = accepted.load(Ordering::Relaxed) + 300;
            eventually("early writes are accepted", DECIDED_LIMIT, || {
                let now = accepted.load(Ordering::Relaxed);
                (now >= goal).then_some(()).ok_or_else(|| format!("{now} of {goal}"))
            });
            let leader = cluster.leader();
            cluster.kill9(leader);
            cluster.wait_for_leader_other_than(leader);
            cluster.restart(leader);
            cluster.wait_formed();
        }
        over.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    cluster.wait_converged();
    let mut clients: Vec<Client> = cluster.ports().into_iter().map(Client::new).collect();
    let mut lost = 0;
    for (turn, Early { key, id }) in told.iter().enumerate() {
        let client = &mut clients[turn % 3];
        let found = client.send(&Request::get(format!("/v1/kv/{key}"))).unwrap().status == 200;
        let Some(id) = id else {
            assert!(!found, "{key} was answered \"not applied\"");
            continue;
        };
        let state = client.send(&Request::get(format!("/v1/writes/{id}"))).unwrap();
        let state = state.json()["state"].as_str().unwrap_or_default().to_owned();
        assert_eq!(state, if found { "committed" } else { "lost" }, "{key} at {id}");
        lost += usize::from(!found);
    }
    println!("{} early writes, {lost} of them lost", told.len());
}
