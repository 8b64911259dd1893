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
    /// Time between two comparisons of this node's state with the other voters', in milliseconds; 0: never. A node
    /// that a majority disagrees with ends.
    pub consistency_check_interval_ms: u64,

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

    // --- the disk ---
    /// Under so many free bytes on the filesystem of `data_dir`, or a twentieth of it if that is less, writes that set a
    /// value are refused; they are taken again at 1.25 times that. 0: never.
    pub disk_free_bytes_min: u64,
    /// Size of a file that keeps room for what must still be written on a full disk, in bytes; 0: none. At most half of
    /// the line above.
    pub ballast_bytes: u64,
    // --- healing ---
    /// Time between two looks of the health monitor, in milliseconds.
    pub health_probe_interval_ms: u64,
    /// An actor that has not answered a probe for this long is degraded, in milliseconds.
    pub health_probe_degraded_ms: u64,
    /// Or has failed and is rebuilt, in milliseconds. With three looks more it bounds how long a hang stays undetected.
    pub health_probe_failed_ms: u64,
    /// Better looks in a row after which a component counts as better.
    pub health_good_looks_min: u64,
    /// A read of the store that takes longer degrades it, in milliseconds.
    pub health_store_read_degraded_ms: u64,
    /// So does an applied write that is not in RocksDB for longer, in milliseconds. They are written out each second.
    pub health_store_write_degraded_ms: u64,
    /// Either of them for longer is a failure, in milliseconds.
    pub health_store_failed_ms: u64,
    /// Longest fsync of the log: one that does not end, or one in a hundred of the recent ones, in milliseconds.
    pub health_fsync_degraded_ms: u64,
    /// An fsync that has not ended for this long is a failure, in milliseconds.
    pub health_fsync_failed_ms: u64,
    /// Time without a leader that is told, in milliseconds.
    pub health_leaderless_degraded_ms: u64,
    /// Time for which a peer may not be heard of before it is named, in milliseconds.
    pub health_peer_silent_degraded_ms: u64,
    /// Log entries that a peer may lack before its leader names it.
    pub health_peer_lag_degraded_entries: u64,
    /// Committed entries that may wait to be applied.
    pub health_apply_lag_degraded_entries: u64,
    /// How long such a lag lasts, or applying stands still, before it is told, in milliseconds.
    pub health_lag_degraded_ms: u64,
    /// Open files that are told, in percent of the process's limit; at 98 percent it has failed.
    pub health_open_files_degraded_percent: u64,
    /// Memory that the process may use, in bytes; 0: what its control group or the machine has.
    pub health_memory_max_bytes: u64,
    /// Memory in use that is told, in percent of that; 0: not looked at.
    pub health_memory_degraded_percent: u64,
    /// How far the wall's clock may be set before it is told, in milliseconds.
    pub health_clock_jump_degraded_ms: u64,
    /// How long the process may not be run before it is told, in milliseconds.
    pub health_pause_degraded_ms: u64,
    /// Restarts of one actor within the window that are tried before the node is given up.
    pub restarts_max: u64,
    /// That window, in milliseconds.
    pub restart_window_ms: u64,

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
            consistency_check_interval_ms: 10_000,
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
            disk_free_bytes_min: 256 * MIB,
            ballast_bytes: 32 * MIB,
            health_probe_interval_ms: 100,
            health_probe_degraded_ms: 250,
            health_probe_failed_ms: 700,
            health_good_looks_min: 3,
            health_store_read_degraded_ms: 1_000,
            health_store_write_degraded_ms: 3_000,
            health_store_failed_ms: 10_000,
            health_fsync_degraded_ms: 250,
            health_fsync_failed_ms: 2_000,
            health_leaderless_degraded_ms: 1_000,
            health_peer_silent_degraded_ms: 1_000,
            health_peer_lag_degraded_entries: 10_000,
            health_apply_lag_degraded_entries: 10_000,
            health_lag_degraded_ms: 1_000,
            health_open_files_degraded_percent: 80,
            health_memory_max_bytes: 0,
            health_memory_degraded_percent: 90,
            health_clock_jump_degraded_ms: 500,
            health_pause_degraded_ms: 1_000,
            restarts_max: 3,
            restart_window_ms: 60_000,
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
