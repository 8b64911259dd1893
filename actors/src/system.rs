//! The actor system of one node: started before consensus, given it once it is up, stopped before it.

use std::time::Duration;

use actix::{Actor, Arbiter};
use std::sync::Arc;
use tokio::time::{sleep, timeout};
use vaultdb_consensus::Consensus;

use crate::adapter::ConsensusNode;
use crate::handles::Handles;
use crate::messages::{Attach, GetReplicationStatus, Stop};
use crate::options::Options;
use crate::port::Node;
use crate::shared::Shared;
use crate::space::SpaceWatch;
use crate::status::NodeInfo;
use crate::supervisor::Supervisor;

/// Longest wait at shutdown for writes that are on their way.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// Longest wait at shutdown for an actor's answer.
const STOP_MAX: Duration = Duration::from_millis(500);

/// Owns the actors and their threads.
pub struct System {
    shared: Arc<Shared>,
    arbiter: Arbiter,
    _space: Option<SpaceWatch>,
}

impl System {
    /// Looks at the disk once, then starts the supervisor and the health monitor. To be called inside a running actix system.
    pub fn start(info: NodeInfo, options: Options) -> Self {
        let shared = Shared::new(info, options);
        let space = SpaceWatch::start(&shared);
        let arbiter = Arbiter::new();
        let root = shared.clone();
        let address = Supervisor::start_in_arbiter(&arbiter.handle(), move |_| Supervisor::new(root));
        shared.supervisor.put(address);
        Self { shared, arbiter, _space: space }
    }

    pub fn handles(&self) -> Handles {
        Handles::new(self.shared.clone())
    }

    /// Consensus is up: from here on requests are served.
    pub fn attach(&self, consensus: Consensus) {
        self.attach_node(Arc::new(ConsensusNode::new(consensus)));
    }

    /// As [`System::attach`], with anything that behaves like consensus and its store.
    pub fn attach_node(&self, node: Arc<dyn Node>) {
        if self.shared.attach(node.clone()) {
            self.shared.supervisor.tell(Attach(node));
        }
    }

    /// Resolves with the reason when the node must be given up: the process is to exit with 70.
    pub async fn escalated(&self) -> String {
        let mut escalations = self.shared.escalations();
        let reason = escalations.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the actor system ended".into())
    }

    /// Refuses new writes, waits for those on their way, and stops the actors. Consensus goes on; its
    /// owner stops it afterwards. Idempotent and bounded.
    pub async fn shutdown(&self) {
        if !self.shared.begin_stop() {
            return;
        }
        // Those that did not make it get their answer from their own deadlines.
        let _ = timeout(DRAIN_MAX, self.drained()).await;
        if let Ok(stopped) = self.shared.supervisor.send(Stop) {
            // One that hangs is left behind: the process ends next.
            let _ = timeout(STOP_MAX, stopped).await;
        }
        self.shared.supervisor.clear();
        self.shared.listings.clear();
        self.arbiter.stop();
    }

    async fn drained(&self) {
        loop {
            let Ok(request) = self.shared.dispatcher.send(GetReplicationStatus) else { return };
            match request.await {
                Ok(status) if status.pending > 0 => sleep(DRAIN_POLL).await,
                Ok(_) | Err(_) => return,
            }
        }
    }
}
