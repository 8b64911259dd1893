//! A leader that was asleep and wakes up as somebody's past never answers a linearizable read from it:
//! not to requests that waited in its sockets, not to new ones.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{eventually, Client, Cluster, Request};

const ROUNDS: usize = 4;
/// Requests that wait in the sleeping leader's sockets.
const WAITING: usize = 16;
/// How long the woken leader is asked.
const HAMMER: Duration = Duration::from_millis(800);
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
const WAKE_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn woken_leader_never_answers_from_its_past() {
    let mut cluster = Cluster::start(5);
    let (mut fresh, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let (old_value, new_value) = (format!("old{round}"), format!("new{round}"));
        let old = cluster.leader();
        cluster.must_put(old, "contested", &old_value);
        assert_eq!(cluster.must_get(old, "contested"), Some(old_value));
        let mut clients: Vec<Client> = (0..WAITING).map(|_| Client::new(cluster.port(old))).collect();
        for client in &mut clients {
            // Accepted while the leader is awake, so that the first thing it reads is a request.
            client.send(&Request::get("/livez")).unwrap();
        }

        cluster.pause(old);
        let new = cluster.wait_for_leader_other_than(old);
        cluster.must_put(new, "contested", &new_value);

        // From here on every read begins after the new value was acknowledged.
        let get = |i: usize| {
            let route = if i & 1 == 0 { "/v1/kv/contested" } else { "/key/contested" };
            Request::get(format!("{route}?consistency=linearizable"))
        };
        for (i, client) in clients.iter_mut().enumerate() {
            client.send_only(&get(i)).unwrap();
        }
        cluster.resume(old);
        let end = Instant::now() + HAMMER;
        let answers = std::thread::scope(|scope| {
            let hammers: Vec<_> = clients
                .iter_mut()
                .enumerate()
                .map(|(i, client)| {
                    scope.spawn(move || {
                        let mut answers = vec![client.receive(ANSWER_LIMIT)];
                        while Instant::now() < end {
                            answers.push(client.send(&get(i)));
                        }
                        answers
                    })
                })
                .collect();
            hammers.into_iter().flat_map(|h| h.join().unwrap()).collect::<Vec<_>>()
        });
        for answer in answers {
            let answer = answer.expect("the woken leader answers");
            match answer.status {
                200 => {
                    assert!(answer.text().contains(&new_value), "stale in round {round}: {}", answer.text());
                    fresh += 1;
                }
                503 => refused += 1,
                other => panic!("{other}: {}", answer.text()),
            }
        }
        eventually("the old leader follows and reads the new value", WAKE_LIMIT, || {
            let answer = cluster.get(old, "contested", "");
            if answer.status == 200 && answer.text() == new_value {
                Ok(())
            } else {
                Err(format!("{} {}", answer.status, answer.text()))
            }
        });
    }
    println!("{fresh} fresh reads, {refused} refused, none stale");
    assert!(fresh > 0);
}
