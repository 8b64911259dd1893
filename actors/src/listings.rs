//! The listings of this node that go on: each is leased to its client from page to page.
//!
//! Shared by all web workers. Invariant: a view of the store that nobody asks for ends with its lease, and
//! there are never more of them than the limits say.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vaultdb_kv::{Consistency, ListQuery, Page, PageRequest, ReadError, Revision};

use crate::port::{LogId, View};

/// How long a listing waits for its next page.
pub const LISTING_LEASE: Duration = Duration::from_secs(60);
/// How long a listing that gave its last page stays, for a client that lost it.
const LAST_PAGE_LEASE: Duration = Duration::from_secs(5);
/// Most listings that wait for a next page; the one that would end first makes room for one more.
pub const PAGED_LISTINGS_MAX: usize = 64;
/// Most listings that are streamed as a whole at once.
pub const STREAMED_LISTINGS_MAX: usize = 64;

/// One listing: the store as it was, and what of it is listed. Clones share it.
#[derive(Clone)]
pub struct Listing(Arc<Inner>);

struct Inner {
    view: Box<dyn View>,
    query: ListQuery,
    consistency: Consistency,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { view, query, consistency } = &*self.0;
        write!(f, "Listing({query:?}, {consistency}, at {})", view.revision())
    }
}

impl Listing {
    pub fn new(view: Box<dyn View>, query: ListQuery, consistency: Consistency) -> Self {
        Self(Arc::new(Inner { view, query, consistency }))
    }

    /// Revision of the state that all its pages are of.
    pub fn revision(&self) -> Revision {
        self.0.view.revision()
    }

    /// The last log entry that this state holds; `None` before the first.
    pub fn log_id(&self) -> Option<LogId> {
        self.0.view.log_id()
    }

    pub fn query(&self) -> &ListQuery {
        &self.0.query
    }

    /// The level that held when it began.
    pub fn consistency(&self) -> Consistency {
        self.0.consistency
    }

    /// May read the disk: only on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub fn page(&self, request: &PageRequest) -> Result<Page, ReadError> {
        self.0.view.page(request)
    }
}

/// Names a listing. Of another process, also an earlier one of this node, it names nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListingId {
    /// Drawn when the process began.
    pub incarnation: u64,
    pub number: u64,
}

/// The listings that wait to go on.
#[derive(Debug)]
pub struct Listings {
    incarnation: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    leases: HashMap<u64, Lease>,
}

#[derive(Debug)]
struct Lease {
    listing: Listing,
    kind: Kind,
    ends: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Paged,
    Streamed,
}

impl Default for Listings {
    fn default() -> Self {
        // The keys of a fresh hasher are the standard library's random numbers.
        Self { incarnation: RandomState::new().hash_one(std::process::id()), state: Mutex::default() }
    }
}

impl Listings {
    /// Leases a listing to the client that is to ask for its next page.
    pub fn keep(&self, listing: Listing, now: Instant) -> ListingId {
        let mut state = self.state.lock();
        let evicted = match state.count(Kind::Paged) < PAGED_LISTINGS_MAX {
            true => None,
            false => state.first_to_end(Kind::Paged).and_then(|number| state.leases.remove(&number)),
        };
        let number = state.add(listing, Kind::Paged, now);
        drop(state);
        // Outside of the lock.
        drop(evicted);
        ListingId { incarnation: self.incarnation, number }
    }

    /// Leases a listing to the client that it is streamed to; `None` when there are too many.
    pub fn stream(&self, listing: Listing, now: Instant) -> Option<ListingId> {
        let mut state = self.state.lock();
        if state.count(Kind::Streamed) >= STREAMED_LISTINGS_MAX {
            return None;
        }
        let number = state.add(listing, Kind::Streamed, now);
        Some(ListingId { incarnation: self.incarnation, number })
    }

    /// The listing, leased anew; `None` when its lease has ended.
    pub fn resume(&self, id: ListingId, now: Instant) -> Option<Listing> {
        if id.incarnation != self.incarnation {
            return None;
        }
        let mut state = self.state.lock();
        let lease = state.leases.get_mut(&id.number).filter(|lease| lease.ends > now)?;
        lease.ends = now + LISTING_LEASE;
        Some(lease.listing.clone())
    }

    /// Its last page was given: it stays for a moment only, so that the client may repeat its request.
    pub fn finish(&self, id: ListingId, now: Instant) {
        if let Some(lease) = self.state.lock().leases.get_mut(&id.number) {
            lease.ends = now + LAST_PAGE_LEASE;
        }
    }

    /// Ends it at once.
    pub fn forget(&self, id: ListingId) {
        let forgotten = self.state.lock().leases.remove(&id.number);
        drop(forgotten);
    }

    /// Ends those whose leases have ended.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.state.lock();
        let leases = std::mem::take(&mut state.leases);
        let (rest, ended): (HashMap<_, _>, HashMap<_, _>) =
            leases.into_iter().partition(|(_, lease)| lease.ends > now);
        state.leases = rest;
        drop(state);
        drop(ended);
    }

    /// Ends all.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut self.state.lock().leases);
        drop(all);
    }
}

impl State {
    fn count(&self, kind: Kind) -> usize {
        self.leases.values().filter(|lease| lease.kind == kind).count()
    }

    fn first_to_end(&self, kind: Kind) -> Option<u64> {
        let leases = self.leases.iter().filter(|(_, lease)| lease.kind == kind);
        leases.min_by_key(|(_, lease)| lease.ends).map(|(number, _)| *number)
    }

    fn add(&mut self, listing: Listing, kind: Kind, now: Instant) -> u64 {
        self.last_number += 1;
        self.leases.insert(self.last_number, Lease { listing, kind, ends: now + LISTING_LEASE });
        self.last_number
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Counts the views that live: each holds a clone.
    struct Counted {
        _alive: Arc<()>,
    }

    impl View for Counted {
        fn revision(&self) -> Revision {
            7
        }

        fn log_id(&self) -> Option<LogId> {
            None
        }

        fn page(&self, _: &PageRequest) -> Result<Page, ReadError> {
            Ok(Page::empty())
        }
    }

    fn listing(alive: &Arc<()>) -> Listing {
        Listing::new(Box::new(Counted { _alive: alive.clone() }), ListQuery::default(), Consistency::Stale)
    }

    fn living(alive: &Arc<()>) -> usize {
        Arc::strong_count(alive) - 1
    }

    /// A lease ends a minute after the last page was asked for, also when nobody asks again, and its view
    /// with it.
    #[test]
    fn leases_end() {
        let (alive, listings, begun) = (Arc::new(()), Listings::default(), Instant::now());
        let (kept, streamed) = (
            listings.keep(listing(&alive), begun),
            listings.stream(listing(&alive), begun).expect("one of many"),
        );
        let later = begun + LISTING_LEASE - Duration::from_millis(1);
        assert_eq!(listings.resume(kept, later).unwrap().revision(), 7);
        listings.sweep(begun + LISTING_LEASE);
        assert_eq!(living(&alive), 1);
        assert!(listings.resume(streamed, later).is_none());
        assert!(listings.resume(kept, later + LISTING_LEASE).is_none(), "ended, though not swept yet");
        listings.sweep(later + LISTING_LEASE);
        assert_eq!(living(&alive), 0);
    }

    /// After its last page a listing may be asked for that page again, for a moment.
    #[test]
    fn finished_listings_end_soon() {
        let (alive, listings, now) = (Arc::new(()), Listings::default(), Instant::now());
        let id = listings.keep(listing(&alive), now);
        listings.finish(id, now);
        assert!(listings.resume(id, now + LAST_PAGE_LEASE / 2).is_some());
        listings.finish(id, now);
        listings.sweep(now + LAST_PAGE_LEASE);
        assert_eq!(living(&alive), 0);
        let id = listings.keep(listing(&alive), now);
        listings.forget(id);
        assert_eq!(living(&alive), 0);
        assert!(listings.resume(id, now).is_none());
    }

    /// One listing too many takes the place of the one that was unused the longest, or was done; one stream
    /// too many is refused. Neither costs the other a place.
    #[test]
    fn listings_are_bounded() {
        let (alive, listings, begun) = (Arc::new(()), Listings::default(), Instant::now());
        let at = |index: usize| begun + Duration::from_millis(index as u64);
        let ids: Vec<_> =
            (0..PAGED_LISTINGS_MAX).map(|index| listings.keep(listing(&alive), at(index))).collect();
        assert!(listings.resume(ids[0], at(100)).is_some());
        listings.finish(ids[9], at(100));
        for evicted in [9, 1, 2] {
            listings.keep(listing(&alive), at(200));
            assert_eq!(living(&alive), PAGED_LISTINGS_MAX);
            assert!(listings.resume(ids[evicted], at(200)).is_none(), "{evicted}");
        }
        assert!(listings.resume(ids[0], at(200)).is_some());
        let streams: Vec<_> =
            (0..STREAMED_LISTINGS_MAX).map(|_| listings.stream(listing(&alive), begun).unwrap()).collect();
        assert!(listings.stream(listing(&alive), begun).is_none());
        listings.forget(streams[0]);
        assert!(listings.stream(listing(&alive), begun).is_some());
        listings.clear();
        assert_eq!(living(&alive), 0);
    }

    /// A name given by another process names nothing.
    #[test]
    fn names_of_others_are_not_known() {
        let (alive, now) = (Arc::new(()), Instant::now());
        let (one, other) = (Listings::default(), Listings::default());
        let id = one.keep(listing(&alive), now);
        other.keep(listing(&alive), now);
        assert!(other.resume(id, now).is_none());
    }
}
