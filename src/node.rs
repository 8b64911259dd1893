//! A node from its configuration to its end.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{signal, SignalKind};
use vaultdb_actors::boot::{
    boot, Autopilot, BootError, BootOptions, FormOptions, LogOptions, RaftOptions, ScrubOptions,
    StoreOptions, Timing,
};
use vaultdb_actors::{HealthOptions, NodeInfo, Options, SpaceOptions, System};
use vaultdb_config::Config;
use vaultdb_kv::{Faults, Limits, MemberAddr, Room};
use vaultdb_web::WebOptions;

use crate::lock::{DataDirLock, LockError};

/// The whole of a shutdown; what takes longer is cut off.
const SHUTDOWN_MS_MAX: u64 = 9_500;
/// Exit code of a node that found itself unfit: what runs it must start it again.
const EXIT_UNFIT: u8 = 70;

/// Logs of libraries that repeat with each missed beat of a peer that is down, or each bad request.
const QUIET_LOGS: &str = "openraft=warn,openraft::replication=error,openraft::core::heartbeat=error,tracing::span=warn,actix_http=off,actix_server=warn";

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot listen on {what} address {addr}: {source}")]
    Bind { what: &'static str, addr: String, source: io::Error },
    #[error("{0}")]
    Failed(String),
    #[error("unfit to run: {0}")]
    Unfit(String),
}

impl NodeError {
    pub fn exit_code(&self) -> u8 {
        match self {
            NodeError::Unfit(_) => EXIT_UNFIT,
            NodeError::Lock(_) | NodeError::Bind { .. } | NodeError::Failed(_) => 1,
        }
    }
}

impl From<BootError> for NodeError {
    fn from(e: BootError) -> Self {
        match e {
            BootError::Unfit(reason) | BootError::Corrupt(reason) => NodeError::Unfit(reason),
            BootError::Failed(reason) => NodeError::Failed(reason),
        }
    }
}

/// Runs until a signal asks it to stop, or until it fails. The process must end then: the data directory stays locked.
///
/// # Errors
/// See [`NodeError`]; each has its exit code.
pub fn run(config: Config) -> Result<(), NodeError> {
    start_logging(&config.log);
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    let lock = match config.inmem {
        true => None,
        false => Some(DataDirLock::acquire(&config.data_dir)?),
    };
    // Addresses in use are reported before anything is touched.
    let http = bind("HTTP", &config.haddr)?;
    let raft = bind("Raft", &config.raddr)?;
    let runtime = actix_web::rt::System::new();
    let result = runtime.block_on(serve(config, http, raft));
    // Taken apart, the runtime would wait for its blocking threads, and one may read from a disk that hangs. They end with
    // the process, which holds the data directory until then.
    std::mem::forget((runtime, lock));
    result
}

fn start_logging(filter: &str) {
    let filter = format!("{filter},{QUIET_LOGS}");
    env_logger::Builder::new().parse_filters(&filter).format_timestamp_millis().init();
}

/// Binds the first address that the name stands for, IPv4 before IPv6.
fn bind(what: &'static str, addr: &str) -> Result<TcpListener, NodeError> {
    let fail = |source| NodeError::Bind { what, addr: addr.to_owned(), source };
    let mut resolved: Vec<SocketAddr> = addr.to_socket_addrs().map_err(fail)?.collect();
    resolved.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&resolved[..]).map_err(fail)
}

async fn serve(config: Config, http: TcpListener, raft: TcpListener) -> Result<(), NodeError> {
    let mut terminate = signals()?;
    let info = NodeInfo {
        name: config.id.clone(),
        haddr: config.advertise_haddr.clone(),
        raddr: config.advertise_raddr.clone(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let faults = Arc::new(Faults::default());
    let room = Arc::new(Room::new(&config.id, faults.clone()));
    let system = System::start(info, actor_options(&config, faults.clone(), room.clone()));
    let handles = system.handles();
    let workers = config.http_workers_for(std::thread::available_parallelism().map_or(1, usize::from));
    let server = vaultdb_web::serve(http, workers, web_options(&config), move || handles.worker())
        .map_err(|source| NodeError::Bind { what: "HTTP", addr: config.haddr.clone(), source })?;
    let http = server.handle();
    let mut server = actix_web::rt::spawn(server);
    log::info!("node \"{}\" serves HTTP on {}, Raft on {}", config.id, config.haddr, config.raddr);

    let mut booting = Box::pin(boot(boot_options(&config, raft, faults, room)));
    let mut consensus = None;
    let outcome = loop {
        tokio::select! {
            name = terminate.recv() => {
                log::info!("{}: stopping", name.unwrap_or("signal"));
                break Ok(());
            }
            booted = &mut booting, if consensus.is_none() => match booted {
                Ok(running) => {
                    system.attach(running.clone());
                    consensus = Some(running);
                }
                Err(e) => break Err(e.into()),
            },
            reason = failed(consensus.as_ref()) => break Err(NodeError::Unfit(reason)),
            reason = dismissed(consensus.as_ref()) => break Err(NodeError::Failed(reason)),
            reason = system.escalated() => break Err(NodeError::Unfit(reason)),
            ended = &mut server => {
                let reason = match ended {
                    Ok(Ok(())) => "it stopped".to_owned(),
                    Ok(Err(e)) => e.to_string(),
                    Err(e) => e.to_string(),
                };
                break Err(NodeError::Failed(format!("HTTP server: {reason}")));
            }
        }
    };
    if let Err(NodeError::Unfit(reason)) = outcome {
        // Whoever gives the node up may be faster than what marks its data as corrupt.
        if let Some(consensus) = &consensus {
            consensus.mark_corruption().await;
        }
        // Nothing of this process can be trusted to stop in order.
        http.stop(false).await;
        return Err(NodeError::Unfit(reason));
    }
    let stop = async {
        // Stop accepting and drain first: requests in flight still need consensus.
        http.stop(true).await;
        system.shutdown().await;
        if let Some(consensus) = &consensus {
            consensus.mark_corruption().await;
            consensus.shutdown().await;
        }
    };
    match tokio::time::timeout(Duration::from_millis(SHUTDOWN_MS_MAX), stop).await {
        Ok(()) => outcome,
        Err(_) => Err(NodeError::Failed(format!("not stopped within {SHUTDOWN_MS_MAX} ms"))),
    }
}

/// Resolves when running consensus has stopped for good.
async fn failed(consensus: Option<&vaultdb_actors::boot::Consensus>) -> String {
    match consensus {
        Some(consensus) => consensus.failed().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the node has been told that it belongs to the cluster no longer.
async fn dismissed(consensus: Option<&vaultdb_actors::boot::Consensus>) -> String {
    match consensus {
        Some(consensus) => consensus.dismissed().await,
        None => std::future::pending().await,
    }
}

/// Names of the signals that end the node, as they arrive.
fn signals() -> Result<tokio::sync::mpsc::Receiver<&'static str>, NodeError> {
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let mut stream = signal(kind).map_err(|e| NodeError::Failed(format!("{name}: {e}")))?;
        let tx = tx.clone();
        actix_web::rt::spawn(async move {
            while stream.recv().await.is_some() {
                // A second signal while stopping adds nothing.
                let _ = tx.try_send(name);
            }
        });
    }
    Ok(rx)
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn actor_options(config: &Config, faults: Arc<Faults>, room: Arc<Room>) -> Options {
    let space =
        || SpaceOptions::new(config.data_dir.clone(), config.disk_free_bytes_min, config.ballast_bytes);
    Options {
        fault_injection: config.enable_fault_injection,
        faults,
        data_dir: data_dir(config),
        share_reads: config.read_sharing,
        space: (!config.inmem).then(space),
        room,
        health: health_options(config),
        restarts_max: usize_of(config.restarts_max),
        restart_window: Duration::from_millis(config.restart_window_ms),
        ..Options::default()
    }
}

fn health_options(config: &Config) -> HealthOptions {
    HealthOptions {
        probe_interval: Duration::from_millis(config.health_probe_interval_ms),
        probe_degraded: Duration::from_millis(config.health_probe_degraded_ms),
        probe_failed: Duration::from_millis(config.health_probe_failed_ms),
        good_looks_min: u32::try_from(config.health_good_looks_min).unwrap_or(u32::MAX),
        store_read_degraded: Duration::from_millis(config.health_store_read_degraded_ms),
        store_write_degraded: Duration::from_millis(config.health_store_write_degraded_ms),
        store_failed: Duration::from_millis(config.health_store_failed_ms),
        fsync_degraded: Duration::from_millis(config.health_fsync_degraded_ms),
        fsync_failed: Duration::from_millis(config.health_fsync_failed_ms),
        leaderless_degraded: Duration::from_millis(config.health_leaderless_degraded_ms),
        peer_silent_degraded: Duration::from_millis(config.health_peer_silent_degraded_ms),
        peer_lag_entries_degraded: config.health_peer_lag_degraded_entries,
        apply_lag_entries_degraded: config.health_apply_lag_degraded_entries,
        lag_degraded: Duration::from_millis(config.health_lag_degraded_ms),
        open_files_percent_degraded: config.health_open_files_degraded_percent,
        memory_bytes_max: config.health_memory_max_bytes,
        memory_percent_degraded: config.health_memory_degraded_percent,
        clock_jump_degraded: Duration::from_millis(config.health_clock_jump_degraded_ms),
        pause_degraded: Duration::from_millis(config.health_pause_degraded_ms),
        ..HealthOptions::default()
    }
}

fn web_options(config: &Config) -> WebOptions {
    WebOptions {
        limits: Limits { value_bytes_max: usize_of(config.value_bytes_max) },
        read_consistency: config.read_consistency,
        request_timeout: Duration::from_millis(config.request_timeout_ms),
        requests_in_flight_max: usize_of(config.requests_in_flight_max),
        shutdown_timeout: Duration::from_millis(config.shutdown_drain_ms_max),
        ..WebOptions::new(&config.id)
    }
}

fn autopilot(config: &Config) -> Autopilot {
    Autopilot {
        contact_ms_max: config.promotion_contact_ms_max,
        trailing_entries_max: config.promotion_trailing_entries_max,
        stable_ms_min: config.promotion_stable_ms_min,
        dead_member_timeout_ms: Some(config.dead_member_timeout_ms).filter(|ms| *ms > 0),
    }
}

fn data_dir(config: &Config) -> Option<PathBuf> {
    (!config.inmem).then(|| config.data_dir.clone())
}

fn boot_options(
    config: &Config,
    raft_listener: TcpListener,
    faults: Arc<Faults>,
    room: Arc<Room>,
) -> BootOptions {
    BootOptions {
        data_dir: data_dir(config),
        name: config.id.clone(),
        addr: MemberAddr { raft: config.advertise_raddr.clone(), http: config.advertise_haddr.clone() },
        join: config.join.clone(),
        learner: config.learner,
        form: (config.bootstrap_expect > 1)
            .then(|| FormOptions { expect: usize_of(config.bootstrap_expect), peers: config.peers.clone() }),
        raft_listener,
        raft: RaftOptions {
            timing: Timing {
                heartbeat_interval_ms: config.heartbeat_interval_ms,
                election_timeout_ms_min: config.election_timeout_ms_min,
                election_timeout_ms_max: config.election_timeout_ms_max,
            },
            pre_vote: config.pre_vote,
            snapshot_logs_since_last: config.snapshot_logs_since_last,
            snapshot_bytes_since_last: config.snapshot_bytes_since_last,
            snapshot_logs_to_keep: config.snapshot_logs_to_keep,
            snapshot_bytes_to_keep: config.snapshot_bytes_to_keep,
            snapshot_bytes_per_second_max: config.snapshot_bytes_per_second_max,
            append_entries_max: config.append_entries_max,
            autopilot: autopilot(config),
            consistency_check_interval_ms: config.consistency_check_interval_ms,
            scrub: ScrubOptions {
                interval_ms: config.scrub_interval_ms,
                bytes_per_second_max: config.scrub_bytes_per_second_max,
            },
        },
        store: store_options(config),
        log: LogOptions { faults: faults.clone(), ..log_options(config) },
        share_reads: config.read_sharing,
        room,
        faults,
        rebuild_after_corruption: config.rebuild_after_corruption,
    }
}

/// How the node of this configuration opens its store.
pub fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        cache_bytes: usize_of(config.cache_bytes),
        block_cache_bytes: usize_of(config.block_cache_bytes),
        write_buffer_bytes: usize_of(config.write_buffer_bytes),
        ..StoreOptions::default()
    }
}

/// How the node of this configuration opens its Raft log.
pub fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        segment_bytes: usize_of(config.wal_segment_bytes),
        cache_bytes: usize_of(config.wal_cache_bytes),
        ..LogOptions::default()
    }
}
