//! What the routes promise when all is well: any byte string comes back as it went in, on every node, with
//! the headers that say what the answer reflects; leadership moves when it is told to.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::contract::{check_headers, run};
use support::{eventually, http, Client, Cluster, Request};

const MOVE_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn routes() {
    let mut cluster = Cluster::start(3);
    run(
        &mut cluster,
        &[
            ("values of any bytes", any_bytes),
            ("keys of any bytes", any_keys),
            ("routes of the seed", seed_routes),
            ("revisions and their headers", revisions),
            ("read your writes on any node", any_node),
            ("redirect", redirect),
            ("status", status),
            ("probes", probes),
            ("stages of a write", stages_of_a_write),
            ("leadership moves", leadership_moves),
        ],
    );
}

fn any_bytes(cluster: &mut Cluster) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(1_000).collect();
    for (i, value) in [Vec::new(), vec![0], every_byte, b"\r\n\r\n".to_vec()].into_iter().enumerate() {
        let target = format!("/v1/kv/bytes{i}");
        let put = cluster.ask(i % 3, &Request::put(&target, value.clone()));
        assert_eq!(put.status, 200, "{}", put.text());
        let got = cluster.ask((i + 1) % 3, &Request::get(&target));
        assert_eq!((got.status, &got.body), (200, &value), "an empty value is not an absent one");
        assert_eq!(got.header("content-type"), Some("application/octet-stream"));
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        let head = cluster.ask((i + 2) % 3, &Request::new("HEAD", &target));
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()));
        assert_eq!(head.header("etag"), got.header("etag"));
    }
}

fn any_keys(cluster: &mut Cluster) {
    // Each is a key of its own.
    let keys = [
        "a/b", "a//b", "a%00b", "%FF", "a+b", "a%20b", "%25", "%2525", "%C3%A4", "..", "../x", "a/", "%0D%0A",
    ];
    for (i, key) in keys.iter().enumerate() {
        cluster.must_put(i % 3, key, &format!("value of {key}"));
    }
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(cluster.must_get((i + 1) % 3, key), Some(format!("value of {key}")), "{key}");
    }
    // Two ways to write one key.
    assert_eq!(cluster.must_get(0, "a%2Fb"), Some("value of a/b".into()));
    assert_eq!(cluster.must_get(0, "%61/b"), Some("value of a/b".into()));
    // The seed's route names the key in JSON, decoded.
    let json = cluster.ask(1, &Request::get("/key/%C3%A4"));
    assert_eq!(json.json(), serde_json::json!({ "ä": "value of %C3%A4" }));
    let json = cluster.ask(1, &Request::get("/key/a/b"));
    assert_eq!(json.json(), serde_json::json!({ "a/b": "value of a/b" }));
}

fn seed_routes(cluster: &mut Cluster) {
    let body = serde_json::json!({ "s1": "one", "s2": "tw\u{0}o \"ä\"\n", "s3": "" });
    let post = cluster.ask(0, &Request::post("/key", body.to_string()));
    assert_eq!((post.status, post.header("content-type")), (200, Some("application/json")));
    for (name, value) in body.as_object().unwrap() {
        for i in 0..3 {
            let got = cluster.ask(i, &Request::get(format!("/key/{name}")));
            assert_eq!(got.status, 200);
            assert_eq!(got.header("content-type"), Some("application/json"));
            assert_eq!(got.json()[name], *value);
        }
    }
    // Of two pairs with one key the later wins; any content type will do, as with curl's.
    let twice = Request::post("/key", r#"{"s1":"first","s1":"second"}"#);
    assert_eq!(cluster.ask(1, &twice).status, 200);
    assert_eq!(cluster.must_get(2, "s1").as_deref(), Some("second"));
    let json =
        Request::new("POST", "/key").body(r#"{"s1":"third"}"#).header("Content-Type", "application/json");
    assert_eq!(cluster.ask(1, &json).status, 200);
    for (i, existed) in [(0, true), (1, false), (2, false)] {
        let gone = cluster.ask(i, &Request::delete("/key/s1"));
        assert_eq!((gone.status, gone.json()["deleted"].as_bool()), (200, Some(existed)), "{}", gone.text());
        assert!(gone.json()["revision"].is_u64());
        assert_eq!(cluster.must_get((i + 1) % 3, "s1"), None);
    }
    let v1 = cluster.delete(1, "s2", "");
    assert_eq!((v1.status, v1.json()["deleted"].as_bool()), (200, Some(true)));
}

fn revisions(cluster: &mut Cluster) {
    let first = cluster.must_put(0, "rev", "1");
    assert_eq!(cluster.must_put(1, "other", "1"), first + 1, "each write adds one, on whichever node");
    let pairs = cluster.ask(2, &Request::post("/key", r#"{"p1":"a","p2":"b"}"#));
    assert_eq!(pairs.json()["revision"].as_u64(), Some(first + 2), "an atomic write is one");
    let gone = cluster.delete(0, "never-there", "");
    assert_eq!(gone.json()["revision"].as_u64(), Some(first + 3));
    cluster.wait_converged();
    for i in 0..3 {
        for level in ["linearizable", "stale"] {
            let got = cluster.get(i, "rev", &format!("consistency={level}"));
            check_headers(cluster, i, &got, "GET");
            assert_eq!(got.header("etag"), Some(format!("\"{first}\"").as_str()), "the key's own revision");
            assert_eq!(got.header("vault-revision"), Some((first + 3).to_string().as_str()));
            assert_eq!(got.header("vault-consistency"), Some(level));
        }
        let default = cluster.get(i, "rev", "");
        assert_eq!(default.header("vault-consistency"), Some("linearizable"));
        for target in ["/status", "/livez", "/readyz", "/nope"] {
            let answer = cluster.ask(i, &Request::get(target));
            check_headers(cluster, i, &answer, target);
        }
    }
    for i in 0..3 {
        let put = cluster.put(i, "headers", "x", "");
        check_headers(cluster, i, &put, "PUT");
        let revision = put.json()["revision"].to_string();
        assert_eq!(put.header("etag"), Some(format!("\"{revision}\"").as_str()), "for compare and set");
        let early = cluster.put(i, "headers", "y", "ack=leader");
        check_headers(cluster, i, &early, "PUT with ack=leader");
        assert_eq!(early.status, 202, "{}", early.text());
        assert_eq!(put.header("vault-revision"), Some(revision.as_str()), "what the answer reflects");
    }
}

/// A linearizable read on any node sees the write that any other node has just acknowledged.
fn any_node(cluster: &mut Cluster) {
    let mut clients: Vec<Client> = cluster.ports().into_iter().map(Client::new).collect();
    for round in 0..150 {
        let value = round.to_string();
        let put = clients[round % 3].send(&Request::put("/v1/kv/mine", value.clone())).unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
        for i in 0..3 {
            let got = clients[(round + i) % 3].send(&Request::get("/v1/kv/mine")).unwrap();
            assert_eq!(got.text(), value, "round {round}");
        }
    }
}

fn redirect(cluster: &mut Cluster) {
    let leader = cluster.leader();
    for i in (0..3).filter(|i| *i != leader) {
        for request in [
            Request::put("/v1/kv/re%2Fdir?redirect=true&timeout=4s", "x"),
            Request::post("/key?redirect=true", r#"{"re/dir":"x"}"#),
            Request::delete("/key/re%2Fdir?redirect=true"),
        ] {
            let answer = cluster.ask(i, &request);
            assert_eq!(answer.status, 307, "{}", answer.text());
            check_headers(cluster, i, &answer, "307");
            let location = answer.header("location").expect("Location").to_owned();
            let rest = location.strip_prefix("http://localhost:").unwrap_or_else(|| panic!("{location}"));
            let (port, target) = rest.split_at(rest.find('/').unwrap());
            assert_eq!(port.parse(), Ok(cluster.port(leader)), "{location}");
            assert!(target.starts_with(request.target.split('?').next().unwrap()), "{location}");
            let followed = Request { target: target.to_owned(), ..request };
            let answer = http::send(cluster.port(leader), &followed).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert_eq!(cluster.put(leader, "re", "x", "redirect=true").status, 200, "the leader takes it");
    let follower = (leader + 1) % 3;
    assert_eq!(cluster.put(follower, "re", "x", "redirect=false").status, 200, "forwarded unless asked");
}

fn status(cluster: &mut Cluster) {
    cluster.wait_converged();
    let leader = cluster.leader();
    for i in 0..3 {
        let answer = cluster.ask(i, &Request::get("/status"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let status = cluster.status(i);
        status.check_order();
        assert_eq!(status.name(), format!("node{i}"));
        assert_eq!(status.state(), if i == leader { "leader" } else { "follower" });
        assert_eq!(status.leader(), Some(format!("node{leader}")));
        assert_eq!(status.0["node"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(status.0["node"]["haddr"], format!("localhost:{}", cluster.port(i)));
        assert_eq!(status.0["node"]["raddr"], format!("localhost:{}", cluster.nodes[i].raft));
        for path in [
            "/node/uptime_ms",
            "/store/keys_estimate",
            "/store/disk_bytes",
            "/store/cache/entries",
            "/store/cache/bytes",
            "/store/cache/hits",
            "/store/cache/misses",
        ] {
            status.number(path);
        }
        assert_eq!(status.members().len(), 3);
        for member in status.members() {
            assert!(member.voter && member.reachable && member.id > 0, "node{i} sees {member:?}");
            let other = cluster.nodes.iter().find(|node| node.name == member.name).unwrap();
            assert_eq!(member.haddr, format!("localhost:{}", other.http));
            assert_eq!(member.raddr, format!("localhost:{}", other.raft));
        }
        assert_eq!(status.0["health"]["state"], "healthy", "{}", status.0["health"]);
        let components = status.0["health"]["components"].as_array().unwrap();
        assert!(!components.is_empty());
        for component in components {
            assert!(component["name"].is_string() && component["since_ms"].is_u64(), "{component}");
            assert_eq!((&component["state"], component["restarts"].as_u64()), (&"healthy".into(), Some(0)));
        }
    }
}

fn probes(cluster: &mut Cluster) {
    for i in 0..3 {
        for target in ["/livez", "/readyz"] {
            assert_eq!(cluster.ask(i, &Request::get(target)).status, 200, "{target} on node{i}");
            let verbose = cluster.ask(i, &Request::get(format!("{target}?verbose")));
            assert_eq!(verbose.status, 200);
            let checks: Vec<String> =
                verbose.text().lines().filter(|l| l.starts_with('[')).map(str::to_owned).collect();
            assert!(!checks.is_empty(), "{}", verbose.text());
            assert!(checks.iter().all(|l| l.starts_with("[+]") && l.ends_with(" ok")), "{checks:?}");
        }
    }
}

/// Each write that the leader took passes each stage, and a sync of the log was timed on every node.
fn stages_of_a_write(cluster: &mut Cluster) {
    const WRITES: u64 = 5;
    let leader = cluster.leader();
    let count = |cluster: &Cluster, node: usize, series: &str| {
        let page = cluster.ask(node, &Request::get("/metrics")).text();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse::<u64>().unwrap()
    };
    let stages = ["queue", "propose", "fsync", "quorum", "apply", "answer"];
    let series = |stage| format!("vaultdb_write_stage_duration_seconds_count{{stage=\"{stage}\"}}");
    let before = stages.map(|stage| count(cluster, leader, &series(stage)));
    for i in 0..WRITES {
        cluster.must_put(leader, &format!("stage{i}"), "v");
    }
    for (stage, before) in stages.iter().zip(before) {
        eventually(stage, MOVE_LIMIT, || {
            let passed = count(cluster, leader, &series(stage)) - before;
            if passed >= WRITES {
                Ok(())
            } else {
                Err(format!("{passed} of {WRITES}"))
            }
        });
    }
    for node in 0..3 {
        assert!(count(cluster, node, "vaultdb_wal_fsync_duration_seconds_count") > 0, "node {node}");
    }
}

fn leadership_moves(cluster: &mut Cluster) {
    for round in 0..4 {
        let old = cluster.leader();
        let via = (old + round) % 3;
        let target = (old + 1) % 3;
        let body = if round == 3 { "{}".to_owned() } else { format!(r#"{{"name":"node{target}"}}"#) };
        let answer = cluster.ask(via, &Request::post("/v1/leader", body));
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        let new = cluster.wait_for_leader_other_than(old);
        if round < 3 {
            assert_eq!(new, target, "leadership went where it was sent");
        }
        eventually("writes go on at once", MOVE_LIMIT, || match cluster.put(old, "moved", "x", "") {
            done if done.status == 200 => Ok(()),
            other => Err(other.text()),
        });
    }
    // To the one that leads already: nothing to do.
    let leader = cluster.leader();
    let same = cluster.ask(leader, &Request::post("/v1/leader", format!(r#"{{"name":"node{leader}"}}"#)));
    assert_eq!(same.status, 200, "{}", same.text());
    assert_eq!(cluster.leader(), leader);
}
