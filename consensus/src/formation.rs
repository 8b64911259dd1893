//! How equal nodes that are started together agree to form one cluster, before any of them belongs to one.
//!
//! One of them, the first by name, proposes a plan once it has seen all: the cluster's id and its voters.
//! It begins only after every other has answered that it holds this plan. A node holds one plan at a time,
//! and only a plan of exactly the nodes that it sees itself; it may let go of it at any time.
//!
//! Invariant: of all nodes at most one plan is ever begun. Two proposers that both begin would each have had
//! the other hold its plan: P's proposer holds P from before it asked and for ever after it began, so it held
//! Q only before that; the same the other way round, and both cannot have been first. Nothing of it need
//! survive a crash, but that a plan is begun: that is the node's identity.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use vaultdb_kv::{MemberAddr, NodeId};

use crate::transport::{halves, Connection};
use crate::wire::{self, Request, Response};

/// Connections at once while a node waits to belong to a cluster.
const CONNECTIONS_MAX: usize = 64;
/// How long a call may take, in milliseconds: an answer comes from memory.
const CALL_MS_MAX: u64 = 1_000;

/// A node without a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Newcomer {
    pub name: String,
    /// Drawn when its data directory was made.
    pub instance: String,
    pub raft: String,
    pub http: String,
}

/// One of the first voters of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    pub id: NodeId,
    pub name: String,
    pub instance: String,
    pub addr: MemberAddr,
}

/// A cluster that may come to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Drawn for each proposal.
    pub cluster_id: String,
    /// In the order of their names, which is that of their ids: 1 and on.
    pub founders: Vec<Founder>,
}

impl Plan {
    /// `nodes` in the order of their names.
    pub fn new(nodes: &[Newcomer]) -> Self {
        let founder = |(id, node): (NodeId, &Newcomer)| Founder {
            id,
            name: node.name.clone(),
            instance: node.instance.clone(),
            addr: MemberAddr { raft: node.raft.clone(), http: node.http.clone() },
        };
        Plan {
            cluster_id: uuid::Uuid::new_v4().to_string(),
            founders: (1..).zip(nodes).map(founder).collect(),
        }
    }

    /// Whether it is of these nodes and no others.
    fn is_of(&self, nodes: &[Newcomer]) -> bool {
        let same = |(founder, node): (&Founder, &Newcomer)| {
            founder.instance == node.instance && founder.name == node.name && founder.addr.raft == node.raft
        };
        self.founders.len() == nodes.len() && self.founders.iter().zip(nodes).all(same)
    }

    pub fn id_of(&self, instance: &str) -> Option<NodeId> {
        self.founders.iter().find(|founder| founder.instance == instance).map(|founder| founder.id)
    }
}

/// What a node without a cluster asks on the Raft port of another, instead of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormCall {
    /// Who are you? From the node with this instance.
    Look {
        instance: String,
    },
    Hold(Plan),
    /// The plan is begun. Only its proposer says so, and only once its own identity is durable.
    Begun(Plan),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormAnswer {
    /// Belongs to no cluster.
    Newcomer(Newcomer),
    /// Holds the plan that it was asked to.
    Held,
    /// Belongs to a cluster; who founded it together, if so many did.
    Member { cluster: Plan, has_leader: bool },
}

/// What a node that waits to belong to a cluster tells the others. Shared with the task that serves them.
pub struct Formation {
    me: Newcomer,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// All nodes that are to form the cluster, in the order of their names; empty while some are not seen.
    seen: Vec<Newcomer>,
    held: Option<Plan>,
    /// Nothing else is held from here on.
    begun: Option<Plan>,
}

impl Formation {
    pub fn new(me: Newcomer) -> Arc<Self> {
        Arc::new(Self { me, state: Mutex::default(), changed: Notify::new() })
    }

    pub fn me(&self) -> &Newcomer {
        &self.me
    }

    /// Resolves when another node has called since the last time: it is worth a look.
    pub async fn called(&self) {
        self.changed.notified().await;
    }

    /// What this node sees itself, in the order of the names.
    pub fn see(&self, all: Vec<Newcomer>) {
        self.state.lock().seen = all;
    }

    /// A plan of the nodes that are seen, held by this node; `None` when a plan is begun already.
    pub fn propose(&self) -> Option<Plan> {
        let mut state = self.state.lock();
        if state.begun.is_some() {
            return None;
        }
        let plan = Plan::new(&state.seen);
        state.held = Some(plan.clone());
        Some(plan)
    }

    /// After every other has answered that it holds `plan`: whether this node has held it all the time, and
    /// so begins it.
    pub fn begin(&self, plan: &Plan) -> bool {
        let mut state = self.state.lock();
        let begins = state.begun.is_none() && state.held.as_ref() == Some(plan);
        if begins {
            state.begun = Some(plan.clone());
        }
        begins
    }

    /// The plan that another node has begun with this one.
    pub fn begun(&self) -> Option<Plan> {
        self.state.lock().begun.clone()
    }

    fn answer(&self, call: FormCall) -> FormAnswer {
        let mut state = self.state.lock();
        match call {
            // Whoever is not seen yet has just started.
            FormCall::Look { instance } => {
                if state.seen.iter().all(|node| node.instance != instance) {
                    self.changed.notify_one();
                }
            }
            FormCall::Hold(plan) => {
                if state.begun.is_none() && plan.is_of(&state.seen) {
                    state.held = Some(plan);
                    return FormAnswer::Held;
                }
                self.changed.notify_one();
            }
            FormCall::Begun(plan) => {
                if state.begun.is_none() && plan.id_of(&self.me.instance).is_some() {
                    state.begun = Some(plan);
                    self.changed.notify_one();
                }
            }
        }
        FormAnswer::Newcomer(self.me.clone())
    }

    /// Answers calls on the Raft port until the future is dropped. Whoever dials later waits for consensus.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub async fn serve(self: Arc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let formation = self.clone();
                    tokio::spawn(async move {
                        let limit = Duration::from_millis(CALL_MS_MAX);
                        if let Ok(Err(e)) = timeout(limit, formation.connection(stream)).await {
                            log::debug!("a call on the Raft port before there is a cluster: {e}");
                        }
                        drop(place);
                    });
                }
                Err(e) => {
                    log::warn!("accept on the Raft port: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        let Connection { read, mut write } = halves(stream)?;
        let mut reader = FramedRead::new(read, wire::frame_codec());
        let frame = reader.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        let (id, request) = wire::parse(frame)?;
        let response = match request {
            Request::Form(call) => Response::Form(self.answer(call)),
            _ => Response::Refused("this node belongs to no cluster yet".into()),
        };
        wire::send(&mut write, id, &response).await
    }
}

/// Asks the node behind a Raft address.
///
/// # Errors
/// In words, when it is not there or gives no answer in time.
pub async fn ask(raft_addr: &str, call: FormCall) -> Result<FormAnswer, String> {
    let exchange = async {
        let Connection { read, mut write } = halves(TcpStream::connect(raft_addr).await?)?;
        let mut reader = FramedRead::new(read, wire::frame_codec());
        wire::send(&mut write, 0, &Request::Form(call)).await?;
        let frame = reader.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        wire::parse::<Response>(frame).map(|(_, response)| response)
    };
    match timeout(Duration::from_millis(CALL_MS_MAX), exchange).await {
        Ok(Ok(Response::Form(answer))) => Ok(answer),
        Ok(Ok(other)) => Err(format!("unexpected answer {other:?}")),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {CALL_MS_MAX} ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, instance: &str) -> Newcomer {
        let at = |port| format!("{name}:{port}");
        Newcomer { name: name.into(), instance: instance.into(), raft: at(1), http: at(2) }
    }

    fn three() -> (Vec<Newcomer>, Vec<Arc<Formation>>) {
        let nodes = vec![node("a", "1"), node("b", "2"), node("c", "3")];
        let formations: Vec<_> = nodes.iter().cloned().map(Formation::new).collect();
        formations.iter().for_each(|formation| formation.see(nodes.clone()));
        (nodes, formations)
    }

    /// Of two proposers at most one begins, in every order of their questions to each other and a third.
    #[test]
    fn two_plans_are_never_both_begun() {
        // Who asks whom: the two proposers are 0 and 1, each asks the other and node 2, then begins.
        type Step = (usize, Option<usize>);
        const STEPS: [[Step; 4]; 2] = [
            [(0, None), (0, Some(1)), (0, Some(2)), (0, None)],
            [(1, None), (1, Some(0)), (1, Some(2)), (1, None)],
        ];
        let mut begun_in = 0;
        // Each bit says whose step is next.
        for order in 0_u32..256 {
            if order.count_ones() != 4 {
                continue;
            }
            let (_, formations) = three();
            let mut at = [0, 0];
            let mut plans: [Option<Plan>; 2] = [None, None];
            let mut all_held = [true, true];
            let mut begun = 0;
            for bit in 0..8 {
                let who = usize::from(order & (1 << bit) != 0);
                let (proposer, asked) = STEPS[who][at[who]];
                match (at[who], asked, &plans[who]) {
                    (0, _, _) => plans[who] = formations[proposer].propose(),
                    (_, Some(asked), Some(plan)) => {
                        let answer = formations[asked].answer(FormCall::Hold(plan.clone()));
                        all_held[who] &= answer == FormAnswer::Held;
                    }
                    (_, None, Some(plan)) => {
                        begun += usize::from(all_held[who] && formations[proposer].begin(plan));
                    }
                    (_, _, None) => {}
                }
                at[who] += 1;
            }
            assert!(begun <= 1, "order {order:08b}");
            begun_in += begun;
        }
        assert!(begun_in > 0, "some order lets one of them begin");
    }

    /// A node holds no plan of other nodes than it sees, among them one whose disk was wiped meanwhile.
    #[test]
    fn a_plan_of_other_nodes_is_not_held() {
        let (nodes, formations) = three();
        let plan = Plan::new(&nodes);
        assert_eq!(formations[1].answer(FormCall::Hold(plan.clone())), FormAnswer::Held);
        let mut wiped = nodes.clone();
        wiped[0].instance = "4".into();
        for other in [&wiped[..], &nodes[..2]] {
            let refused = formations[2].answer(FormCall::Hold(Plan::new(other)));
            assert_eq!(refused, FormAnswer::Newcomer(nodes[2].clone()));
        }
        assert!(formations[1].begin(&plan));
        let late = formations[1].answer(FormCall::Hold(Plan::new(&nodes)));
        assert_eq!(late, FormAnswer::Newcomer(nodes[1].clone()), "it has begun another");
    }
}
