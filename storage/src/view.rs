//! The store as it was at one moment, for listings of more than one page.
//!
//! RocksDB's snapshot borrows its database, so a view on disk is a thread that owns the engine and has the
//! snapshot on its stack; pages are ordered from it over a bounded channel. The thread, the snapshot and, if
//! a newer generation took its place, the engine end with the view. A view in memory is a copy of the map,
//! whose values are shared.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::{Arc, Weak};

use vaultdb_kv::{Page, PageFiller, PageRequest, Revision, Versioned};

use crate::engine::rocks::RocksView;
use crate::engine::staged::StagedEngine;
use crate::error::StorageError;
use crate::state_machine::Core;
use crate::types::{AppliedState, LogId};

/// Pages of one view that may be ordered before the next caller waits.
const ORDERS_MAX: usize = 1;

/// The store at one revision, whatever is written meanwhile.
pub struct View {
    revision: Revision,
    log_id: Option<LogId>,
    source: Source,
    core: Weak<Core>,
}

enum Source {
    Disk(SyncSender<Order>),
    Memory(BTreeMap<Box<[u8]>, Versioned>),
}

struct Order {
    request: PageRequest,
    answer: SyncSender<Result<Page, StorageError>>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl View {
    /// Over all that is in RocksDB; the caller has written the stage out.
    pub(crate) fn on_disk(engine: Arc<StagedEngine>, core: Weak<Core>) -> Result<Self, StorageError> {
        let (orders, ordered) = sync_channel::<Order>(ORDERS_MAX);
        let (opened, is_open) = sync_channel(1);
        let run = move || {
            let view = match engine.rocks().view() {
                Ok(view) => view,
                Err(error) => {
                    // Whoever opens it waits for this.
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            if opened.send(Ok((view.revision(), view.log_id()))).is_err() {
                return;
            }
            while let Ok(Order { request, answer }) = ordered.recv() {
                // A caller that went away needs no page.
                let _ = answer.send(page_of(&view, &request));
            }
        };
        let spawned = std::thread::Builder::new().name("store-view".into()).spawn(run);
        spawned.map_err(StorageError::io("cannot start a thread"))?;
        let (revision, log_id) = is_open.recv().map_err(|_| ended())??;
        Ok(Self { revision, log_id, source: Source::Disk(orders), core })
    }

    pub(crate) fn in_memory(
        data: BTreeMap<Box<[u8]>, Versioned>,
        applied: &AppliedState,
        core: Weak<Core>,
    ) -> Self {
        Self { revision: applied.revision, log_id: applied.log_id, source: Source::Memory(data), core }
    }

    /// Revision of the state that every page is of.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The last log entry that this state holds; `None` before the first.
    pub fn log_id(&self) -> Option<LogId> {
        self.log_id
    }

    /// One page. May read the disk, and waits for the pages that others ordered before.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`], [`StorageError::Rocks`]: nothing is left out of a page, so there is none.
    /// [`StorageError::Poisoned`] once the store has failed.
    pub fn page(&self, request: &PageRequest) -> Result<Page, StorageError> {
        let core = self.core.upgrade();
        if let Some(core) = &core {
            core.check()?;
        }
        match &self.source {
            Source::Disk(orders) => {
                let (answer, answered) = sync_channel(1);
                orders.send(Order { request: request.clone(), answer }).map_err(|_| ended())?;
                let page = answered.recv().map_err(|_| ended())?;
                page.map_err(|error| match &core {
                    Some(core) => core.fail_read(error),
                    None => error,
                })
            }
            Source::Memory(data) => Ok(page_of_map(data, request)),
        }
    }
}

/// The thread ends only with the view, unless it panics.
fn ended() -> StorageError {
    StorageError::Poisoned { reason: "the thread of a view ended".into() }
}

fn page_of(view: &RocksView<'_>, request: &PageRequest) -> Result<Page, StorageError> {
    let Some(bounds) = request.query.bounds(request.after.as_ref()) else { return Ok(Page::empty()) };
    let mut filler = PageFiller::new(request);
    view.each(&bounds, request.query.reverse, |key, value, revision| filler.push(key, value, revision))?;
    Ok(filler.finish())
}

fn page_of_map(data: &BTreeMap<Box<[u8]>, Versioned>, request: &PageRequest) -> Page {
    let Some(bounds) = request.query.bounds(request.after.as_ref()) else { return Page::empty() };
    let upper = bounds.upper.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut found = data.range::<[u8], _>((Bound::Included(&bounds.lower[..]), upper));
    let mut filler = PageFiller::new(request);
    let mut push = |key: &[u8], stored: &Versioned| filler.push(key, &stored.value, stored.revision);
    // `all` ends at the first item that does not fit.
    match request.query.reverse {
        false => found.all(|(key, stored)| push(key, stored)),
        true => found.rev().all(|(key, stored)| push(key, stored)),
    };
    filler.finish()
}
