//! The first entries of a cluster: the names of those who founded it, in the order of their ids.
//!
//! Invariant: no id is allotted before each founder is registered under its own.

use std::sync::Arc;

use vaultdb_kv::AdminError;

use crate::api::JoinRequest;
use crate::core::Core;
use crate::formation::Founder;
use crate::membership::Attempt;
use crate::wire::Proof;

impl Core {
    /// Whoever made the cluster: several that formed it together, or this node. A node that joined was
    /// registered after them, and to register it again changes nothing.
    fn founders(&self) -> Vec<Founder> {
        if !self.founders.is_empty() {
            return self.founders.clone();
        }
        vec![Founder {
            id: self.me.id,
            name: self.me.name.clone(),
            instance: self.me.instance.clone(),
            addr: self.me.addr.clone(),
        }]
    }

    /// Registers the founders where they are not. Only on the leader, under the lock of the membership.
    ///
    /// # Errors
    /// [`AdminError::Conflict`] when a founder gets another id than its own; the others as they say.
    pub async fn register_founders(&self) -> Result<Attempt<()>, AdminError> {
        // What earlier leaders registered must be seen, or a founder that was replaced gets yet another id.
        let Ok(index) = self.read_index_local(Proof::Quorum).await else { return Ok(Attempt::Retry) };
        if self.applied.clone().wait_for(|applied| *applied >= index).await.is_err() {
            return Err(AdminError::Unavailable);
        }
        for founder in self.founders() {
            // Registered, or replaced by a later node of its name.
            let registered = self.store.registered(&founder.name);
            if registered.is_some_and(|(id, _, _)| id > founder.id || !self.founders.is_empty()) {
                continue;
            }
            let request = JoinRequest {
                name: founder.name,
                addr: founder.addr,
                instance: Some(founder.instance),
                stays_learner: false,
            };
            match self.register(&request).await? {
                Attempt::Retry => return Ok(Attempt::Retry),
                Attempt::Done((id, _)) if id == founder.id => {}
                Attempt::Done((id, _)) => {
                    let reason = format!(
                        "\"{}\" is node {}, but its name is registered as {id}",
                        request.name, founder.id
                    );
                    return Err(AdminError::Conflict { reason });
                }
            }
        }
        Ok(Attempt::Done(()))
    }

    fn founders_are_registered(&self) -> bool {
        self.founders.iter().all(|founder| self.store.registered(&founder.name).is_some())
    }
}

/// Sees to it that a cluster that several founded knows their names, for as long as they are missing.
pub async fn register_early(core: Arc<Core>) {
    let mut leadership = core.leadership.subscribe();
    while !core.founders_are_registered() {
        if leadership.borrow_and_update().is_local {
            let _one_at_a_time = core.membership_change.lock().await;
            match core.register_founders().await {
                Ok(Attempt::Done(())) => return,
                Ok(Attempt::Retry) => {}
                Err(e) => return log::warn!("registering the founders: {e}"),
            }
        }
        // On the others the registrations arrive by themselves; they look again when leadership moves.
        if leadership.changed().await.is_err() {
            return;
        }
    }
}
