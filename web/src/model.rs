//! The words of the rooms behind this one that routes speak: plain data, re-exported by the actors.

pub use vaultdb_actors::port::View;
pub use vaultdb_actors::{
    CacheStats, CheckResult, ClusterStatus, ComponentHealth, EntryFate, Event, EventKind, HealthReport,
    JoinReply, JoinRequest, Leader, Leadership, Listing, ListingId, Listings, LogId, Member, MemberOrder,
    MemberReply, MemberStatus, NodeInfo, NodeStatus, PeerAnswer, RaftState, ReadAnswer, ReplicationStatus,
    ScanFrom, Stage, Stages, StoreStats, TransferDirection, TransferStatus, TransferTotals, WriteTimes,
    LISTING_LEASE, PAGED_LISTINGS_MAX, STREAMED_LISTINGS_MAX,
};
