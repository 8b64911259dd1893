//! Whole clusters in one process: real consensus over stores in memory or on disk, joined by pipes that a
//! test can cut between any two nodes.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // Each test file uses a part of it.

pub mod pipes;
pub mod reader;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipes::Pipes;
use tempfile::TempDir;
use vaultdb_consensus::api::{Committed, JoinReply, JoinRequest, ProposeError};
use vaultdb_consensus::identity::Identity;
use vaultdb_consensus::{
    create_log, Autopilot, Consensus, ConsensusConfig, RaftOptions, ScrubOptions, Timing,
};
use vaultdb_kv::{Command, Consistency, Freshness, Key, MemberAddr, ReadError, Role, Room};

/// How long a test waits for any one condition.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const TIMING: Timing =
    Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 250, election_timeout_ms_max: 500 };

pub struct Cluster {
    pub pipes: Arc<Pipes>,
    pub nodes: Vec<Consensus>,
    pub plan: Plan,
    /// Of every node that was ever started, by name.
    identities: HashMap<String, Identity>,
    /// What each node that was ever started believes of its disk, by name.
    pub rooms: HashMap<String, Arc<Room>>,
    disk: Option<TempDir>,
}

/// What each node is started with. A change holds for those that are started later.
#[derive(Clone, Copy)]
pub struct Plan {
    pub timing: Timing,
    pub snapshot_logs_since_last: u64,
    /// Whether the nodes keep their data on disk, so that they can be restarted.
    pub on_disk: bool,
    pub consistency_check_interval_ms: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            timing: TIMING,
            snapshot_logs_since_last: 5_000,
            on_disk: false,
            consistency_check_interval_ms: 0,
        }
    }
}

pub fn deadline(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn addr(name: &str) -> MemberAddr {
    MemberAddr { raft: format!("{name}:1"), http: format!("{name}:2") }
}

pub fn set(key: &str, value: &str) -> Arc<Command> {
    let key = Key::new(key.to_owned()).unwrap();
    Arc::new(Command::Set { pairs: vec![(key, value.to_owned().into())] })
}

/// Waits until `check` gives a value, at most [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads as a node's own clients do: waits until its store is fresh, then asks the store.
pub async fn read_at(
    node: &Consensus,
    wanted: Freshness,
    key: &str,
    ms: u64,
) -> Result<Option<String>, ReadError> {
    node.freshen(&wanted, deadline(ms)).await?;
    Ok(stored(node, key))
}

fn stored(node: &Consensus, key: &str) -> Option<String> {
    let found = node.store().get(&Key::new(key.to_owned()).unwrap()).unwrap()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

impl Cluster {
    pub async fn start(count: usize) -> Cluster {
        Self::start_with(count, Plan::default()).await
    }

    pub async fn start_with(count: usize, plan: Plan) -> Cluster {
        // Off unless asked for: RUST_LOG=debug shows what every node does.
        let _ = env_logger::builder().is_test(true).try_init();
        let disk = plan.on_disk.then(|| tempfile::tempdir().unwrap());
        let (pipes, identities, rooms) = (Pipes::new(), HashMap::new(), HashMap::new());
        let mut cluster = Cluster { pipes, nodes: Vec::new(), plan, identities, rooms, disk };
        let mut first = Identity::new("node0");
        first.bootstrap();
        cluster.launch(&first);
        for i in 1..count {
            cluster.join(&format!("node{i}")).await;
        }
        cluster.wait_voters(count).await;
        cluster
    }

    /// Starts a node with a complete identity.
    pub fn launch(&mut self, identity: &Identity) -> usize {
        self.rooms
            .entry(identity.name.clone())
            .or_insert_with_key(|name| Arc::new(Room::new(name.clone(), Arc::default())));
        self.nodes.push(self.start_node(identity));
        self.identities.insert(identity.name.clone(), identity.clone());
        self.nodes.len() - 1
    }

    fn start_node(&self, identity: &Identity) -> Consensus {
        let me = identity.member(addr(&identity.name)).unwrap();
        let data_dir = self.disk.as_ref().map(|disk| disk.path().join(&identity.name));
        if let Some(dir) = &data_dir {
            create_log(dir, Default::default()).unwrap();
        }
        let config = ConsensusConfig {
            data_dir,
            bootstrap: identity.bootstrap,
            founders: identity.founders.clone(),
            founding: false,
            listener: self.pipes.listen(&me.addr.raft),
            dialler: self.pipes.dialler(&me.addr.raft),
            me,
            raft: RaftOptions {
                timing: self.plan.timing,
                pre_vote: true,
                snapshot_logs_since_last: self.plan.snapshot_logs_since_last,
                snapshot_bytes_since_last: u64::MAX,
                snapshot_logs_to_keep: self.plan.snapshot_logs_since_last / 2,
                snapshot_bytes_to_keep: u64::MAX,
                snapshot_bytes_per_second_max: 0,
                append_entries_max: 512,
                autopilot: Autopilot { stable_ms_min: 100, ..Autopilot::default() },
                consistency_check_interval_ms: self.plan.consistency_check_interval_ms,
                scrub: ScrubOptions { interval_ms: 0, bytes_per_second_max: 1 << 30 },
            },
            store: Default::default(),
            faults: Default::default(),
            log: Default::default(),
            stores: None,
            share_reads: true,
            room: self.rooms[&identity.name].clone(),
        };
        Consensus::start(config).unwrap()
    }

    /// Ends a node on disk and starts it again, with the plan as it is now.
    pub async fn restart(&mut self, node: usize) {
        let old = self.nodes.remove(node);
        let identity = &self.identities[&old.status().node.name];
        old.shutdown().await;
        // It would hold the store's lock.
        drop(old);
        let new = self.start_node(identity);
        self.nodes.insert(node, new);
    }

    /// Asks until the node that had the name before is no longer thought to be alive.
    pub async fn ask_in(&self, name: &str, instance: &str) -> JoinReply {
        let request = JoinRequest {
            name: name.to_owned(),
            addr: addr(name),
            instance: Some(instance.to_owned()),
            stays_learner: false,
        };
        loop {
            let asked = self.nodes.last().unwrap();
            match asked.join(request.clone(), deadline(5_000)).await {
                Ok(reply) => return reply,
                Err(vaultdb_kv::AdminError::Conflict { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                Err(e) => panic!("join of {name}: {e}"),
            }
        }
    }

    /// A new data directory asks the cluster in, and its node starts.
    pub async fn join(&mut self, name: &str) -> usize {
        let mut identity = Identity::new(name);
        let reply = self.ask_in(name, &identity.instance).await;
        identity.cluster_id = Some(reply.cluster_id);
        identity.node_id = Some(reply.id);
        self.launch(&identity)
    }

    pub async fn wait_voters(&self, count: usize) {
        eventually(&format!("{count} voters everywhere"), || {
            let all = self.nodes.iter().all(|node| {
                let members = node.status().members;
                members.len() == count && members.iter().all(|m| m.role == Role::Voter)
            });
            all.then_some(())
        })
        .await;
    }

    /// The one among `of` that leads and that all of them know to lead.
    pub async fn leader_among(&self, of: &[usize]) -> usize {
        eventually("a leader that all know", || {
            let leader = of.iter().copied().find(|i| self.nodes[*i].leadership().is_local)?;
            let id = self.nodes[leader].status().node.id;
            let known = of
                .iter()
                .all(|i| self.nodes[*i].leadership().leader.as_ref().is_some_and(|leader| leader.id == id));
            known.then_some(leader)
        })
        .await
    }

    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.nodes.len()).collect::<Vec<_>>()).await
    }

    pub async fn put(&self, node: usize, key: &str, value: &str, ms: u64) -> Result<Committed, ProposeError> {
        self.nodes[node].propose(vec![set(key, value)], Instant::now(), deadline(ms)).await.pop().unwrap()
    }

    /// Writes through whoever leads among `of` until it is acknowledged.
    pub async fn put_among(&self, of: &[usize], key: &str, value: &str) -> Committed {
        let end = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader_among(of).await;
            match self.put(leader, key, value, 2_000).await {
                Ok(committed) => return committed,
                Err(e) => assert!(Instant::now() < end, "never acknowledged: {e}"),
            }
        }
    }

    pub async fn read(&self, node: usize, key: &str, ms: u64) -> Result<Option<String>, ReadError> {
        read_at(&self.nodes[node], Consistency::Linearizable.into(), key, ms).await
    }

    pub fn read_stale(&self, node: usize, key: &str) -> Option<String> {
        stored(&self.nodes[node], key)
    }

    /// Cuts every link between the two groups, in both directions.
    pub fn cut(&self, left: &[usize], right: &[usize]) {
        for l in left {
            for r in right {
                self.pipes.cut(&self.addr(*l), &self.addr(*r));
            }
        }
    }

    /// Lets nothing more through from one node to another; what goes the other way still arrives.
    pub fn mute(&self, from: usize, to: usize) {
        self.pipes.mute(&self.addr(from), &self.addr(to));
    }

    pub fn heal(&self) {
        self.pipes.heal();
    }

    fn addr(&self, node: usize) -> String {
        self.nodes[node].status().node.addr.raft
    }

    pub fn others(&self, than: &[usize]) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| !than.contains(i)).collect()
    }

    pub async fn stop(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}
