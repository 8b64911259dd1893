//! The commands that the project's first page and its README print do what they say, as they are printed.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::walk::{fits, has, rewrite_ports, shell, steps, Step};
use support::{eventually, eventually_ok, skip, vaultdb, Cluster, Plan, Request};

/// The first page, in its order.
const FIRST_NODE: &str = "./vaultdb -id node0 ~/node0";
const FIRST_CURLS: &str = r#"
curl -XPOST localhost:11000/key -d '{"user1": "batman"}'
curl -XGET localhost:11000/key/user1
"#;
const MORE_NODES: &str = "
./vaultdb -id node1 -haddr localhost:11001 -raddr localhost:12001 -join :11000 ~/node1
./vaultdb -id node2 -haddr localhost:11002 -raddr localhost:12002 -join :11000 ~/node2
./vaultdb -id node3 -haddr localhost:11003 -raddr localhost:12003 -join :11000 ~/node3
./vaultdb -id node4 -haddr localhost:11004 -raddr localhost:12004 -join :11000 ~/node4
";
const FIVE_CURLS: &str = "
curl -XGET localhost:11000/key/user1
curl -XGET localhost:11001/key/user1
curl -XGET localhost:11002/key/user1
curl -XGET localhost:11003/key/user1
curl -XGET localhost:11004/key/user1
";

/// Longest wait for a node to serve.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Longest run of the whole walk in a network of its own.
const WALK_LIMIT: Duration = Duration::from_secs(90);

/// The walk on other ports: the flags as printed, the requests as curl sends them.
#[test]
fn first_page_with_ports_rewritten() {
    let mut cluster = Cluster::prepare(&Plan::nodes(5));
    // The printed first command leaves its addresses to the defaults, which are taken here.
    let first = format!("{FIRST_NODE} -haddr localhost:11000 -raddr localhost:12000");
    start_printed(&mut cluster, 0, &first);
    wait_ready(&cluster, 0);
    let post = Request::post("/key", r#"{"user1": "batman"}"#);
    let answer = cluster.ask(0, &post);
    assert_eq!((answer.status, answer.json()["revision"].is_u64()), (200, true), "{}", answer.text());
    expect_user1(&cluster, 0, "batman");

    for (i, line) in MORE_NODES.trim().lines().enumerate() {
        start_printed(&mut cluster, i + 1, line);
    }
    cluster.wait_formed();
    (0..5).for_each(|i| expect_user1(&cluster, i, "batman"));

    // Right after each POST, on every node, whichever took it.
    for round in 0..20 {
        let value = format!("batman{round}");
        let post = Request::post("/key", format!(r#"{{"user1": "{value}"}}"#));
        assert_eq!(cluster.ask(round % 5, &post).status, 200);
        (0..5).for_each(|i| expect_user1(&cluster, i, &value));
    }

    let delete = cluster.ask(3, &Request::delete("/key/user1"));
    assert_eq!((delete.status, delete.json()["deleted"].as_bool()), (200, Some(true)));
    (0..5).for_each(|i| assert_eq!(cluster.ask(i, &Request::get("/key/user1")).status, 404));
}

fn start_printed(cluster: &mut Cluster, i: usize, line: &str) {
    let line = rewrite_ports(line, cluster).replace("~/", &format!("{}/", cluster.dir().display()));
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("./vaultdb"));
    cluster.nodes[i].spawn(vaultdb().args(words));
}

fn wait_ready(cluster: &Cluster, i: usize) {
    eventually("the node is ready", READY_LIMIT, || {
        match cluster.send(i, &Request::get("/readyz")).map_err(|f| f.to_string())? {
            ready if ready.status == 200 => Ok(()),
            other => Err(other.text()),
        }
    });
}

fn expect_user1(cluster: &Cluster, i: usize, value: &str) {
    let answer = cluster.ask(i, &Request::get("/key/user1"));
    assert_eq!(answer.status, 200, "node{i}: {}", answer.text());
    assert_eq!(answer.json(), serde_json::json!({ "user1": value }), "node{i}");
}

/// The walk to the letter: real curl, the printed ports, the defaults of the flags; in a network
/// namespace of its own, where all ports are free.
#[test]
fn first_page_to_the_letter() {
    let isolated = ["--map-root-user", "--net", "--pid", "--fork", "--kill-child=KILL"];
    let probe = Command::new("unshare").args(isolated).args(["ip", "link", "set", "lo", "up"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("the walk to the letter", "unshare and ip cannot make a network namespace here");
    }
    if !has("curl") {
        return skip("the walk to the letter", "curl is not installed");
    }
    // Holds the turn, so that no other cluster runs meanwhile.
    let cluster = Cluster::prepare(&Plan::nodes(0));
    let dir = cluster.dir();
    symlink(env!("CARGO_BIN_EXE_vaultdb"), dir.join("vaultdb")).unwrap();
    fs::write(dir.join("walk.sh"), script()).unwrap();
    let out = fs::File::create(dir.join("out")).unwrap();
    let mut child = Command::new("unshare")
        .args(isolated)
        .args(["bash", "walk.sh"])
        .current_dir(&dir)
        .env("HOME", &dir)
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let ended = eventually_ok(WALK_LIMIT, || child.try_wait().unwrap().ok_or("still running".to_owned()));
    if ended.is_err() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = fs::read_to_string(dir.join("out")).unwrap();
    assert!(ended.is_ok_and(|status| status.success()), "{output}\n{}", logs(&dir));
    let answers: Vec<&str> = output.lines().filter(|line| line.starts_with("{\"user1\"")).collect();
    assert_eq!(answers, [r#"{"user1":"batman"}"#; 6], "{output}");
}

/// The printed lines, with a wait where a person would see that the node is up.
fn script() -> String {
    let background = |line: &str, log: usize| format!("{line} >node{log}.log 2>&1 &\n");
    let wait_for = |port: usize| {
        format!(
            "for _ in $(seq 400); do curl -sf localhost:{port}/readyz >/dev/null && break; sleep 0.05; done\n"
        )
    };
    let with_line_ends =
        |curls: &str| curls.trim().lines().map(|line| format!("{line}; echo\n")).collect::<String>();
    let mut script = "set -u; ip link set lo up\n".to_owned();
    script += &background(FIRST_NODE, 0);
    script += &wait_for(11_000);
    script += &with_line_ends(FIRST_CURLS);
    for (i, line) in MORE_NODES.trim().lines().enumerate() {
        script += &background(line, i + 1);
    }
    (11_001..=11_004).for_each(|port| script += &wait_for(port));
    script + &with_line_ends(FIVE_CURLS)
}

fn logs(dir: &Path) -> String {
    (0..5)
        .map(|i| {
            let text = fs::read_to_string(dir.join(format!("node{i}.log"))).unwrap_or_default();
            let from = text.len().saturating_sub(1_500);
            format!("---- node{i}\n{}\n", text.get(from..).unwrap_or(&text))
        })
        .collect()
}

/// Every curl line behind a `<!-- walk -->` mark in the README prints what stands behind it.
#[test]
fn readme_walk() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let Ok(text) = fs::read_to_string(&readme) else {
        return skip("the README's walk", "there is no README.md");
    };
    let steps = steps(&text);
    assert!(!steps.is_empty(), "README.md has no bash block behind a <!-- walk --> line");
    if !has("curl") {
        return skip("the README's walk", "curl is not installed");
    }
    let cluster = Cluster::start(5);
    for Step { command, expected } in steps {
        // The nodes run already.
        if !command.starts_with("curl ") {
            assert!(expected.is_empty(), "only curl lines print what is compared: {command}");
            continue;
        }
        let output = shell(&rewrite_ports(&command, &cluster));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = printed.lines().map(str::trim).collect();
        if expected.is_empty() {
            continue;
        }
        assert!(
            lines.len() == expected.len() && expected.iter().zip(&lines).all(|(e, line)| fits(e, line)),
            "{command}\nprinted  {lines:#?}\nexpected {expected:#?}"
        );
    }
}

/// The reader of the README takes what is marked, and compares with care.
#[test]
fn reader_of_walks() {
    let document = "
<!-- walk -->
```bash
# a remark
curl a
# => {\"revision\":…}
curl b
```
```bash
curl unmarked
```
<!-- walk -->
text between
```bash
curl too-far
```
";
    let found = steps(document);
    assert_eq!(
        found,
        [
            Step { command: "curl a".into(), expected: vec!["{\"revision\":…}".into()] },
            Step { command: "curl b".into(), expected: vec![] },
        ]
    );
    assert!(fits("{\"revision\":…}", "{\"revision\":12}"));
    assert!(!fits("{\"revision\":…}", "{\"revision\":12"));
    assert!(!fits("{}", "{} "));
    assert!(fits("a…b…c", "a12b34c") && !fits("a…b…c", "a12c"));
}
