//! Death notices: a value inside each actor whose drop tells the supervisor.
//!
//! `Actor::stopped` is not called when a handler panics, but the actor is dropped during the unwind.
//! That covers a clean stop and the end of the arbiter, too.

use actix::Addr;

use crate::messages::{ComponentFailed, FailureCause};
use crate::slot::ComponentId;
use crate::supervisor::Supervisor;

#[derive(Debug)]
pub(crate) struct Sentinel {
    supervisor: Addr<Supervisor>,
    component: ComponentId,
    generation: u64,
}

impl Sentinel {
    pub fn new(supervisor: Addr<Supervisor>, component: ComponentId, generation: u64) -> Self {
        Self { supervisor, component, generation }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { FailureCause::Panicked } else { FailureCause::Stopped };
        self.supervisor.do_send(ComponentFailed {
            component: self.component,
            generation: self.generation,
            cause,
        });
    }
}
