//! A write that is answered once the leader alone has it is told committed or lost as it truly is, by every
//! node, and the node that cannot know says so.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, Cluster, Plan, Request, Response};

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
