//! The words of the rooms behind this one that routes speak: plain data, re-exported by the actors.

pub use vaultdb_actors::port::View;
pub use vaultdb_actors::{
    AgreementStatus, CacheStats, CheckResult, ClusterStatus, ComponentHealth, Divergence, EntryFate, Event,
    EventCount, EventKind, EventPage, EventRing, HealthReport, IntegrityStatus, JoinReply, JoinRequest,
    Leader, Leadership, Listing, ListingId, Listings, LogId, Member, MemberOrder, MemberReply, MemberStatus,
    NodeInfo, NodeStatus, PeerAnswer, RaftState, ReadAnswer, ReplicationStatus, ReplicationTotals, ScanFrom,
    Stage, Stages, StoreStats, TransferDirection, TransferStatus, TransferTotals, WriteTimes, EVENTS_MAX,
    LINEARIZABLE_READ, LISTING_LEASE, PAGED_LISTINGS_MAX, STREAMED_LISTINGS_MAX,
};
pub use vaultdb_actors::{DataFile, Fault, FaultOrder, FaultRefusal};
pub use vaultdb_kv::{ActiveFault, FaultKind};
