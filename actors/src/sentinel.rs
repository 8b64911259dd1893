//! Death notices: a value inside each actor whose drop tells the supervisor.
//!
//! An actor is dropped however it ends: while a panic of its handler unwinds, after a clean stop, and
//! when its arbiter ends, even before it started. Must not panic: during an unwind that would abort.

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
