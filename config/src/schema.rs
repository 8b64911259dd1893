//! Every setting of a node with its meaning and default.

use std::path::PathBuf;

use vaultdb_kv::limits::{REQUEST_TIMEOUT_MS_DEFAULT, VALUE_BYTES_MAX_DEFAULT};
use vaultdb_kv::Consistency;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A checked configuration. [`crate::load`] makes it; its ranges are in `settings.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    // --- the node ---
    /// Directory of everything that the node keeps. Empty only with `inmem` and none given.
    pub data_dir: PathBuf,
    /// The node's name, unique in the cluster: 1 to 64 letters, digits, `-`, `_`, `.`. Required.
    pub id: String,
    /// `host:port` that the HTTP server binds.
    pub haddr: String,
    /// `host:port` that the Raft server binds.
    pub raddr: String,
    /// `host:port` that clients and other nodes are told to dial for HTTP. Default: `haddr`.
    pub advertise_haddr: String,
    /// `host:port` that other nodes are told to dial for Raft. Default: `raddr`.
    pub advertise_raddr: String,
    /// HTTP addresses of members to ask for admission, in order; empty: found a cluster of one.
    /// `:11000` was written for `localhost:11000` and stands here in full. A node that already belongs
    /// to a cluster asks nobody for admission; it looks there for members that moved.
    pub join: Vec<String>,
    /// A node that joins stays a learner until an operator promotes it: it holds the data and answers
    /// reads, and no quorum waits for it. Matters only while the node joins.
    pub learner: bool,
    /// How many new nodes form a cluster together, this one included; 0: none, see `join`. Ignored by a node
    /// that already belongs to a cluster.
    pub bootstrap_expect: u64,
    /// HTTP addresses of the nodes that form it: all of them, or all but this one. In the form of `join`.
    pub peers: Vec<String>,
    /// Keep everything in memory: no RocksDB, no log on disk. A restart loses all. For tests.
    pub inmem: bool,
    /// Level of a read that asks for none.
    pub read_consistency: Consistency,
    /// Whether the reads that wait for the leader at the same time share one question to it. Off, each pays
    /// a quorum round of its own, one after another: for measuring what sharing gains.
    pub read_sharing: bool,
    /// Opens `/v1/faults`. For tests and demonstrations only.
    pub enable_fault_injection: bool,
    /// What is logged: `level` or `module=level`, separated by commas.
    pub log: String,

    // --- consensus ---
    /// Shortest wait for leader contact before a follower campaigns, in milliseconds.
    ///
    /// Drawn uniformly from `min..max` at each reset (Ongaro and Ousterhout 2014, §5.2). At least
    /// 5 × `heartbeat_interval_ms`, so that a few lost heartbeats do not start an election. Also how long a
    /// node that heard a leader votes for no other. How to choose it: docs/operations.md.
    pub election_timeout_ms_min: u64,
    /// Longest wait for leader contact before a follower campaigns, in milliseconds. Greater than
    /// `election_timeout_ms_min`. A failover takes one draw from the range, the shortest of all nodes, and the
    /// time of the votes.
    pub election_timeout_ms_max: u64,
    /// Time between two heartbeats of a leader, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Whether a node that hears no leader first asks whether it would be elected, and raises the term only
    /// then. Off only for measuring what that gains.
    pub pre_vote: bool,
    /// Most log entries in one message to a peer.
    pub append_entries_max: u64,
    /// A snapshot is built once this many log entries were applied since the last.
    pub snapshot_logs_since_last: u64,
    /// Or once the log has grown by this many bytes since the last, if that is sooner.
    pub snapshot_bytes_since_last: u64,
    /// Entries before a snapshot that are kept in the log, so that a node that was away for a
    /// moment catches up by entries instead of by a whole snapshot.
    pub snapshot_logs_to_keep: u64,
    /// Bytes of the log before a snapshot that are kept, if that is less.
    pub snapshot_bytes_to_keep: u64,
    /// Bytes of snapshots that a node sends in a second, to all peers together; 0: no limit. Leaves the disk
    /// and the network to the writes beside it.
    pub snapshot_bytes_per_second_max: u64,

    // --- membership ---
    /// A learner that was heard of within this time may be made a voter, in milliseconds.
    pub promotion_contact_ms_max: u64,
    /// A learner at most this many log entries behind the leader may be made a voter. The default is what
    /// may be on its way to a follower that keeps up.
    pub promotion_trailing_entries_max: u64,
    /// How long a learner must have kept both rules without a break, in milliseconds.
    pub promotion_stable_ms_min: u64,
    /// Members that the leader has not heard of for this long are removed, in milliseconds; 0: never. Only
    /// while a quorum, and at least three voters, stay.
    pub dead_member_timeout_ms: u64,

    // --- damage ---
    /// Data found corrupt are set aside, and the node is rebuilt from its peers under a new id; off, it refuses to
    /// start.
    pub rebuild_after_corruption: bool,
    /// Time between the ends and beginnings of two verifications of everything at rest, in milliseconds; 0 verifies
    /// nothing that nobody reads. The first one begins soon after the start.
    pub scrub_interval_ms: u64,
    /// Bytes that a verification reads in a second.
    pub scrub_bytes_per_second_max: u64,

    // --- the Raft log ---
    /// Size of one file of the log, in bytes. Files are filled with zeros ahead of time and deleted whole.
    pub wal_segment_bytes: u64,
    /// Memory for recent log entries, in bytes.
    pub wal_cache_bytes: u64,

    // --- the store ---
    /// Memory for the cache of values, in bytes.
    pub cache_bytes: u64,
    /// Memory for RocksDB's block cache, in bytes.
    pub block_cache_bytes: u64,
    /// Memory for one of RocksDB's write buffers, in bytes.
    pub write_buffer_bytes: u64,

    // --- HTTP ---
    /// Threads that serve HTTP; 0 chooses by the number of processors, see [`Config::http_workers_for`].
    pub http_workers: u64,
    /// Requests in flight beyond which new ones are answered 429.
    pub requests_in_flight_max: u64,
    /// Timeout of a request that asks for none, in milliseconds.
    pub request_timeout_ms: u64,
    /// Largest value, in bytes.
    pub value_bytes_max: u64,
    /// How long a stopping node waits for requests in flight, in milliseconds. Leaves time, of the
    /// 10 s in which a node stops, to hand leadership over and to flush.
    pub shutdown_drain_ms_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            id: String::new(),
            haddr: "localhost:11000".into(),
            raddr: "localhost:12000".into(),
            advertise_haddr: "localhost:11000".into(),
            advertise_raddr: "localhost:12000".into(),
            join: Vec::new(),
            learner: false,
            bootstrap_expect: 0,
            peers: Vec::new(),
            inmem: false,
            read_consistency: Consistency::Linearizable,
            read_sharing: true,
            enable_fault_injection: false,
            log: "info".into(),
            election_timeout_ms_min: 250,
            election_timeout_ms_max: 400,
            heartbeat_interval_ms: 50,
            pre_vote: true,
            append_entries_max: 512,
            snapshot_logs_since_last: 100_000,
            snapshot_bytes_since_last: 256 * MIB,
            snapshot_logs_to_keep: 100_000,
            snapshot_bytes_to_keep: 128 * MIB,
            snapshot_bytes_per_second_max: 32 * MIB,
            promotion_contact_ms_max: 2_000,
            promotion_trailing_entries_max: 4_096,
            promotion_stable_ms_min: 500,
            dead_member_timeout_ms: 0,
            rebuild_after_corruption: true,
            scrub_interval_ms: 24 * 60 * 60 * 1000,
            scrub_bytes_per_second_max: 16 * MIB,
            wal_segment_bytes: 16 * MIB,
            wal_cache_bytes: 8 * MIB,
            cache_bytes: 64 * MIB,
            block_cache_bytes: 64 * MIB,
            write_buffer_bytes: 32 * MIB,
            http_workers: 0,
            requests_in_flight_max: 4_096,
            request_timeout_ms: REQUEST_TIMEOUT_MS_DEFAULT,
            value_bytes_max: VALUE_BYTES_MAX_DEFAULT as u64,
            shutdown_drain_ms_max: 4_000,
        }
    }
}

impl Config {
    /// Threads that serve HTTP on a machine with that many processors: what was set, otherwise one
    /// for each two, at least one. Consensus and the log need the rest.
    pub fn http_workers_for(&self, processors: usize) -> usize {
        match usize::try_from(self.http_workers) {
            Ok(0) | Err(_) => (processors / 2).max(1),
            Ok(workers) => workers,
        }
    }

    /// What is legal and yet probably not meant; each a line for the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (key, address) in
            [("advertise_haddr", &self.advertise_haddr), ("advertise_raddr", &self.advertise_raddr)]
        {
            if address.starts_with("0.0.0.0:") || address.starts_with("[::]:") {
                warnings.push(format!(
                    "{key} is \"{address}\", which other machines cannot dial: set --{} to an address that \
                     they can",
                    key.replace('_', "-")
                ));
            }
        }
        let own = |address: &String| *address == self.haddr || *address == self.advertise_haddr;
        if !self.join.is_empty() && self.join.iter().all(own) {
            warnings.push(format!(
                "join names only this node itself ({}): it will wait for a cluster that nobody founds",
                self.join.join(",")
            ));
        }
        if self.inmem {
            warnings.push("inmem is on: a restart of this node loses its data".into());
        }
        warnings
    }
}
