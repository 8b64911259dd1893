//! The words of the rooms behind this one that routes speak: plain data, re-exported by the actors.

pub use vaultdb_actors::{
    CacheStats, CheckResult, ClusterStatus, ComponentHealth, EntryFate, HealthReport, JoinReply, JoinRequest,
    Leader, Leadership, LogId, Member, MemberStatus, NodeInfo, NodeStatus, RaftState, ReadAnswer,
    ReplicationStatus, Stage, Stages, StoreStats, WriteTimes,
};
