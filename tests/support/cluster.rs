//! Some nodes on loopback that form one cluster, and everything that a test does to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Failure, Request, Response};
use super::wait::{eventually, eventually_ok};
use super::{ports, Links, Node, Status, Stopped};

/// Longest wait for nodes to form a cluster, elections and joins included.
pub const FORM_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait for an election.
pub const ELECTION_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for live nodes to reach the same state.
pub const CONVERGE_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a listing of everything.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// Attempts with fresh ports when another program takes one before its node does.
const PORT_ATTEMPTS_MAX: usize = 3;

/// Held by the one test of this process that runs a cluster.
static TURN: Mutex<()> = Mutex::new(());

/// What to start.
#[derive(Clone, Default)]
pub struct Plan {
    pub nodes: usize,
    /// Whether the links between nodes can be cut.
    pub links: bool,
    /// Flags of every node.
    pub flags: Vec<String>,
    /// Settings of every node, as `VAULTDB_*` variables.
    pub env: Vec<(&'static str, String)>,
    /// For a second cluster in the same test: the first one holds the turn.
    pub beside: bool,
}

impl Plan {
    pub fn nodes(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub links: Option<Links>,
    dir: Option<TempDir>,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Cluster {
    /// Starts node0, then the others with `-join`, and waits until all are voters of one cluster.
    pub fn start(nodes: usize) -> Self {
        Self::start_plan(&Plan::nodes(nodes))
    }

    pub fn start_plan(plan: &Plan) -> Self {
        for _ in 1..PORT_ATTEMPTS_MAX {
            let mut cluster = Self::prepare(plan);
            cluster.start_nodes();
            if !cluster.lost_a_port() {
                cluster.wait_formed();
                return cluster;
            }
            eprintln!("a port was taken by another program: again, with other ports");
        }
        let mut cluster = Self::prepare(plan);
        cluster.start_nodes();
        cluster.wait_formed();
        cluster
    }

    /// Chooses ports and directories; starts nothing.
    pub fn prepare(plan: &Plan) -> Self {
        let turn = (!plan.beside).then(|| TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let dir = tempfile::Builder::new().prefix("vaultdb-test-").tempdir().expect("a temporary directory");
        let mut nodes: Vec<Node> = (0..plan.nodes)
            .map(|i| Node::new(&format!("node{i}"), dir.path(), ports::free(), ports::free()))
            .collect();
        let links = plan.links.then(|| {
            let links = Links::default();
            let targets: Vec<u16> = nodes.iter().map(|node| node.raft).collect();
            for (node, port) in nodes.iter_mut().zip(links.open(&targets)) {
                node.advertised_raft = port;
            }
            links
        });
        for node in &mut nodes {
            node.flags.clone_from(&plan.flags);
            node.env.clone_from(&plan.env);
        }
        Self { nodes, links, dir: Some(dir), _turn: turn }
    }

    fn start_nodes(&mut self) {
        self.start_node(0, None);
        let join = self.join_flag(0);
        for i in 1..self.nodes.len() {
            self.start_node(i, Some(&join));
        }
    }

    /// Whether a node ended because its port is in use.
    fn lost_a_port(&mut self) -> bool {
        // Long enough for a bind to fail; a node that binds answers long before.
        let settled = eventually_ok(FORM_LIMIT, || {
            for node in &mut self.nodes {
                if node.exited().is_some() {
                    return Ok(node.log_text().to_lowercase().contains("in use"));
                }
                node.status()?;
            }
            Ok(false)
        });
        settled.unwrap_or(false)
    }

    /// A directory that lives as long as the cluster.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().expect("until drop").path().to_owned()
    }

    /// What `-join` is given to join through node `i`, in the short form of the seed.
    pub fn join_flag(&self, i: usize) -> String {
        format!(":{}", self.nodes[i].http)
    }

    pub fn start_node(&mut self, i: usize, join: Option<&str>) {
        self.nodes[i].start(join);
        self.tell_pid(i);
    }

    fn tell_pid(&self, i: usize) {
        if let Some(links) = &self.links {
            links.set_pid(i, self.nodes[i].pid());
        }
    }

    /// Waits until every node that runs says the same: one leader, and all nodes of the plan voters.
    pub fn wait_formed(&mut self) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.wait_members(&names, FORM_LIMIT);
    }

    /// Waits until every node that runs knows one leader and exactly these voters.
    pub fn wait_members(&mut self, names: &[String], limit: Duration) {
        let what = format!("all running nodes know one leader and the voters {names:?}");
        eventually(&what, limit, || {
            let mut leaders = Vec::new();
            for node in &mut self.nodes {
                if let Some(code) = node.exited() {
                    panic!("{} ended with {code:?}:\n{}", node.name, node.log_tail());
                }
                if !node.runs() {
                    continue;
                }
                let status = node.status()?;
                let mut voters: Vec<String> =
                    status.members().into_iter().filter(|m| m.voter).map(|m| m.name).collect();
                voters.sort();
                if voters != names || status.members().len() != names.len() {
                    return Err(format!("{} sees {:?}", node.name, status.members()));
                }
                leaders.push((status.leader(), status.term()));
            }
            match leaders.first() {
                Some((Some(_), _)) if leaders.iter().all(|leader| leader == &leaders[0]) => Ok(()),
                _ => Err(format!("leaders {leaders:?}")),
            }
        });
    }

    /// The node that leads now: the one that says so of itself in the highest term.
    pub fn leader(&self) -> usize {
        self.wait_for_leader(&(0..self.nodes.len()).collect::<Vec<_>>())
    }

    pub fn wait_for_leader_other_than(&self, old: usize) -> usize {
        self.wait_for_leader(&(0..self.nodes.len()).filter(|i| *i != old).collect::<Vec<_>>())
    }

    /// Waits until one of `among` leads and as many of them as make a majority of the voters say so.
    pub fn wait_for_leader(&self, among: &[usize]) -> usize {
        eventually(&format!("one of the nodes {among:?} leads"), ELECTION_LIMIT, || {
            let views: Vec<(usize, Status)> = among
                .iter()
                .filter(|i| self.nodes[**i].runs())
                .filter_map(|i| Some((*i, self.nodes[*i].status().ok()?)))
                .collect();
            let term = views.iter().map(|(_, status)| status.term()).max().unwrap_or(0);
            let leader = views.iter().find(|(_, s)| s.term() == term && s.state() == "leader");
            let (leader, status) = leader.ok_or_else(|| format!("no leader in term {term}"))?;
            let majority = status.members().iter().filter(|member| member.voter).count() / 2 + 1;
            let followers =
                views.iter().filter(|(_, s)| s.term() == term && s.leader() == Some(status.name())).count();
            if followers < majority {
                return Err(format!("node{leader} is known as leader to {followers}, not to {majority}"));
            }
            Ok(*leader)
        })
    }

    pub fn kill9(&mut self, i: usize) {
        self.kill9_all(&[i]);
    }

    /// SIGKILL to all of them before any is waited for.
    pub fn kill9_all(&mut self, which: &[usize]) {
        for i in which {
            self.nodes[*i].kill9();
        }
        for i in which {
            self.nodes[*i].reap_killed();
            self.tell_pid(*i);
        }
    }

    pub fn pause(&mut self, i: usize) {
        self.nodes[i].signal(Signal::STOP);
    }

    pub fn resume(&mut self, i: usize) {
        self.nodes[i].signal(Signal::CONT);
    }

    pub fn terminate(&mut self, i: usize) -> Stopped {
        let stopped = self.nodes[i].terminate();
        self.tell_pid(i);
        stopped
    }

    /// Starts a stopped node again, without `-join`.
    pub fn restart(&mut self, i: usize) {
        self.start_node(i, None);
    }

    /// Removes everything that a stopped node has on disk.
    pub fn wipe(&mut self, i: usize) {
        assert!(!self.nodes[i].runs(), "a running node is not wiped");
        std::fs::remove_dir_all(&self.nodes[i].data).expect("remove the data directory");
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| self.nodes[*i].runs()).collect()
    }

    pub fn port(&self, i: usize) -> u16 {
        self.nodes[i].http
    }

    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    pub fn running_ports(&self) -> Vec<u16> {
        self.running().into_iter().map(|i| self.port(i)).collect()
    }

    pub fn status(&self, i: usize) -> Status {
        self.nodes[i].status().unwrap_or_else(|reason| panic!("no status: {reason}"))
    }

    /// # Errors
    /// As [`http::send`].
    pub fn send(&self, i: usize, request: &Request) -> Result<Response, Failure> {
        http::send(self.port(i), request)
    }

    /// Sends, and panics when there is no answer at all.
    pub fn ask(&self, i: usize, request: &Request) -> Response {
        self.send(i, request).unwrap_or_else(|failure| panic!("node{i}: {failure}"))
    }

    /// `GET /v1/kv/{key}`; `query` as in `consistency=stale&timeout=2s`.
    pub fn get(&self, i: usize, key: &str, query: &str) -> Response {
        self.ask(i, &Request::get(format!("/v1/kv/{key}?{query}")))
    }

    pub fn put(&self, i: usize, key: &str, value: &str, query: &str) -> Response {
        self.ask(i, &Request::put(format!("/v1/kv/{key}?{query}"), value))
    }

    pub fn delete(&self, i: usize, key: &str, query: &str) -> Response {
        self.ask(i, &Request::delete(format!("/v1/kv/{key}?{query}")))
    }

    /// Writes and insists on 200; answers the revision.
    pub fn must_put(&self, i: usize, key: &str, value: &str) -> u64 {
        let response = self.put(i, key, value, "");
        assert_eq!(response.status, 200, "PUT {key} on node{i}: {}", response.text());
        response.json()["revision"].as_u64().expect("a revision")
    }

    /// Reads linearizably and insists on an answer: the value, or `None` when the key is absent.
    pub fn must_get(&self, i: usize, key: &str) -> Option<String> {
        let response = self.get(i, key, "");
        match response.status {
            200 => Some(response.text()),
            404 if response.code() == "key_not_found" => None,
            other => panic!("GET {key} on node{i}: {other} {}", response.text()),
        }
    }

    /// Everything that node `i` lists at a read level, and of which revision: values and their revisions by key.
    pub fn list(&self, i: usize, level: &str) -> (u64, BTreeMap<String, (String, u64)>) {
        let request = Request::get(format!("/v1/kv?consistency={level}"));
        let answer = self.ask(i, &request.header("Accept", "application/x-ndjson").limit(LIST_LIMIT));
        assert_eq!(answer.status, 200, "listing node{i}: {}", answer.text());
        let item = |line: &str| {
            let item: Value = serde_json::from_str(line).expect("a line of JSON");
            let text = |name: &str| item[name].as_str().expect("text").to_owned();
            (text("key"), (text("value"), item["revision"].as_u64().expect("a revision")))
        };
        let revision = answer.header("vault-revision").and_then(|text| text.parse().ok());
        (revision.expect("a revision"), answer.text().lines().map(item).collect())
    }

    /// Injects a fault into node `i`, which must have been started for that.
    pub fn inject(&self, i: usize, fault: &Value) -> Option<u64> {
        let answer = self.ask(i, &Request::post("/v1/faults", fault.to_string()));
        assert_eq!(answer.status, 200, "{fault} on node{i}: {}", answer.text());
        answer.json()["id"].as_u64()
    }

    /// Waits until all running nodes have applied the same, and checks the order of their indexes.
    pub fn wait_converged(&self) {
        eventually("all running nodes have applied the same", CONVERGE_LIMIT, || {
            let mut seen = Vec::new();
            for i in self.running() {
                let status = self.nodes[i].status()?;
                seen.push((status.revision(), status.number("/raft/applied")));
            }
            if seen.windows(2).all(|two| two[0] == two[1]) {
                Ok(())
            } else {
                Err(format!("(revision, applied) {seen:?}"))
            }
        });
        for i in self.running() {
            self.status(i).check_order();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("---- {} (tail of its log)\n{}", node.name, node.log_tail());
            }
        }
        // The processes end before their directories go.
        self.nodes.clear();
        if let Some(links) = &self.links {
            links.close();
        }
        if std::env::var_os("VAULTDB_TEST_KEEP").is_some() {
            if let Some(dir) = self.dir.take() {
                eprintln!("kept: {}", dir.keep().display());
            }
        }
    }
}
