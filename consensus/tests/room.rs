//! Property: a leader whose disk is nearly full refuses what its peers forward to it where that sets a value, says whose
//! disk it is, and goes on with everything else.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use support::{deadline, set, Cluster};
use vaultdb_consensus::api::ProposeError;
use vaultdb_kv::{ApplyResult, Command, Key, Measured, RoomLines};

const LINES: RoomLines = RoomLines { read_only: 80, resume: 100 };

fn measured(read_only: bool) -> Measured {
    Measured { free_bytes: if read_only { 40 } else { 1 << 30 }, total_bytes: 1 << 40, read_only }
}

fn delete(key: &str) -> Arc<Command> {
    Arc::new(Command::Delete { key: Key::new(key.to_owned()).unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_room_takes_no_growth_of_its_peers() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let name = cluster.nodes[leader].status().node.name;
    let to = cluster.nodes[leader].status().node.id;
    cluster.put_among(&[leader], "old", "1").await;
    cluster.rooms[&name].note(measured(true), LINES);

    let batch = vec![set("a", "1"), delete("old"), set("b", "2")];
    let answers = cluster.nodes[follower].forward(to, batch, deadline(5_000)).await;
    let refused = |answer: &Result<_, ProposeError>| match answer {
        Err(ProposeError::OutOfSpace(why)) => {
            assert_eq!((&why.node, why.free_bytes, why.needed_bytes), (&name, 40, LINES.resume));
        }
        other => panic!("{other:?}"),
    };
    refused(&answers[0]);
    refused(&answers[2]);
    let deleted = answers[1].as_ref().unwrap();
    assert_eq!(deleted.applied.result, ApplyResult::Deleted { existed: true });
    let early = cluster.nodes[follower].forward_accept(to, vec![set("c", "3")], deadline(5_000)).await;
    assert!(matches!(early[..], [Err(ProposeError::OutOfSpace(_))]), "{early:?}");

    // A node that does not lead says so, whatever its disk is like: the leader decides.
    let other = (leader + 2) % 3;
    let (other_name, other_id) = {
        let node = cluster.nodes[other].status().node;
        (node.name, node.id)
    };
    cluster.rooms[&other_name].note(measured(true), LINES);
    let answers = cluster.nodes[follower].forward(other_id, vec![set("d", "4")], deadline(5_000)).await;
    assert_eq!(answers, [Err(ProposeError::NotLeader)]);
    cluster.join("node3").await;

    cluster.rooms[&name].note(measured(false), LINES);
    let answers = cluster.nodes[follower].forward(to, vec![set("e", "5")], deadline(5_000)).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    for (key, value) in [("a", None), ("b", None), ("c", None), ("d", None), ("old", None), ("e", Some("5"))]
    {
        assert_eq!(cluster.read(follower, key, 5_000).await.unwrap().as_deref(), value, "{key}");
    }
    cluster.stop().await;
}
