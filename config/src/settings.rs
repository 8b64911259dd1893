//! The table of settings: name, place in [`Config`], and range. A new setting is one field and one row.

use std::ops::RangeInclusive;

use vaultdb_kv::limits::REQUEST_TIMEOUT_MS_MAX;
use vaultdb_kv::member::{check_address, check_node_name};
use vaultdb_kv::Consistency;

use crate::raw::{quote, Raw};
use crate::schema::Config;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Most voters of a new cluster: more make writes slower and hardly safer.
const BOOTSTRAP_EXPECT_MAX: u64 = 15;
/// Longest of the timeouts that have no reason for a limit of their own.
const MINUTE_MS: u64 = 60_000;
/// Values travel whole in a message between nodes, and a large one holds up the heartbeats behind it.
const VALUE_BYTES_MAX_LARGEST: u64 = 16 * MIB;
/// A node stops within 10 s; handing leadership over and flushing need their share.
const SHUTDOWN_DRAIN_MS_LARGEST: u64 = 6_000;

/// A month: longer is never.
const DEAD_MEMBER_TIMEOUT_MS_LARGEST: u64 = 30 * 24 * 60 * MINUTE_MS;

/// A day: what differs is served for as long.
const CONSISTENCY_CHECK_INTERVAL_MS_LARGEST: u64 = 24 * 60 * MINUTE_MS;
/// A year: longer is never.
const SCRUB_INTERVAL_MS_LARGEST: u64 = 366 * 24 * 60 * MINUTE_MS;

pub(crate) struct Setting {
    pub(crate) key: &'static str,
    /// Reads the value into its field, or gives a reason that quotes the value.
    pub(crate) set: fn(&mut Config, &Raw) -> Result<(), String>,
}

/// A row whose value is a number or a size within a range.
macro_rules! within {
    ($read:ident, $field:ident, $range:expr) => {
        Setting {
            key: stringify!($field),
            set: |config, raw| {
                const RANGE: RangeInclusive<u64> = $range;
                config.$field = raw.$read(RANGE)?;
                Ok(())
            },
        }
    };
}

/// A row whose value is read by an expression of the raw value.
macro_rules! row {
    ($field:ident, $raw:ident => $value:expr) => {
        Setting {
            key: stringify!($field),
            set: |config, $raw| {
                config.$field = $value;
                Ok(())
            },
        }
    };
}

pub(crate) const SETTINGS: &[Setting] = &[
    row!(data_dir, raw => raw.path()?),
    row!(id, raw => {
        let name = raw.text()?;
        check_node_name(name).map_err(|error| error.to_string())?;
        name.to_owned()
    }),
    row!(haddr, raw => address(raw.text()?)?),
    row!(raddr, raw => address(raw.text()?)?),
    row!(advertise_haddr, raw => address(raw.text()?)?),
    row!(advertise_raddr, raw => address(raw.text()?)?),
    row!(join, raw => raw.list()?.iter().map(|text| join_address(text)).collect::<Result<_, _>>()?),
    row!(learner, raw => raw.boolean()?),
    within!(number, bootstrap_expect, 0..=BOOTSTRAP_EXPECT_MAX),
    row!(peers, raw => raw.list()?.iter().map(|text| join_address(text)).collect::<Result<_, _>>()?),
    row!(inmem, raw => raw.boolean()?),
    row!(read_consistency, raw => consistency(raw.text()?)?),
    row!(read_sharing, raw => raw.boolean()?),
    row!(enable_fault_injection, raw => raw.boolean()?),
    row!(log, raw => log_filter(raw.text()?)?),
    within!(number, election_timeout_ms_min, 10..=MINUTE_MS),
    within!(number, election_timeout_ms_max, 20..=2 * MINUTE_MS),
    within!(number, heartbeat_interval_ms, 1..=MINUTE_MS),
    row!(pre_vote, raw => raw.boolean()?),
    within!(number, append_entries_max, 1..=65_536),
    within!(number, snapshot_logs_since_last, 1..=1_000_000_000),
    within!(bytes, snapshot_bytes_since_last, 64 * KIB..=1024 * GIB),
    within!(number, snapshot_logs_to_keep, 0..=1_000_000_000),
    within!(bytes, snapshot_bytes_to_keep, 0..=1024 * GIB),
    within!(bytes, snapshot_bytes_per_second_max, 0..=1024 * GIB),
    within!(millis, consistency_check_interval_ms, 0..=CONSISTENCY_CHECK_INTERVAL_MS_LARGEST),
    within!(millis, promotion_contact_ms_max, 1..=MINUTE_MS),
    within!(number, promotion_trailing_entries_max, 0..=1_000_000_000),
    within!(millis, promotion_stable_ms_min, 0..=10 * MINUTE_MS),
    within!(millis, dead_member_timeout_ms, 0..=DEAD_MEMBER_TIMEOUT_MS_LARGEST),
    row!(rebuild_after_corruption, raw => raw.boolean()?),
    within!(millis, scrub_interval_ms, 0..=SCRUB_INTERVAL_MS_LARGEST),
    within!(bytes, scrub_bytes_per_second_max, 64 * KIB..=1024 * GIB),
    within!(bytes, wal_segment_bytes, 64 * KIB..=GIB),
    within!(bytes, wal_cache_bytes, 64 * KIB..=64 * GIB),
    within!(bytes, cache_bytes, 0..=1024 * GIB),
    within!(bytes, block_cache_bytes, MIB..=1024 * GIB),
    within!(bytes, write_buffer_bytes, 64 * KIB..=4 * GIB),
    within!(bytes, disk_free_bytes_min, 0..=1024 * GIB),
    within!(bytes, ballast_bytes, 0..=1024 * GIB),
    within!(millis, health_probe_interval_ms, 10..=10_000),
    within!(millis, health_probe_degraded_ms, 10..=MINUTE_MS),
    within!(millis, health_probe_failed_ms, 20..=MINUTE_MS),
    within!(number, health_good_looks_min, 1..=1_000),
    within!(millis, health_store_read_degraded_ms, 10..=10 * MINUTE_MS),
    within!(millis, health_store_write_degraded_ms, 1_000..=10 * MINUTE_MS),
    within!(millis, health_store_failed_ms, 10..=10 * MINUTE_MS),
    within!(millis, health_fsync_degraded_ms, 1..=10 * MINUTE_MS),
    within!(millis, health_fsync_failed_ms, 1..=10 * MINUTE_MS),
    within!(millis, health_leaderless_degraded_ms, 1..=10 * MINUTE_MS),
    within!(millis, health_peer_silent_degraded_ms, 100..=10 * MINUTE_MS),
    within!(number, health_peer_lag_degraded_entries, 1..=1_000_000_000),
    within!(number, health_apply_lag_degraded_entries, 1..=1_000_000_000),
    within!(millis, health_lag_degraded_ms, 1..=10 * MINUTE_MS),
    within!(number, health_open_files_degraded_percent, 1..=98),
    within!(bytes, health_memory_max_bytes, 0..=1024 * GIB),
    within!(number, health_memory_degraded_percent, 0..=100),
    within!(millis, health_clock_jump_degraded_ms, 1..=60 * MINUTE_MS),
    within!(millis, health_pause_degraded_ms, 100..=60 * MINUTE_MS),
    within!(number, restarts_max, 0..=1_000),
    within!(millis, restart_window_ms, 1_000..=60 * MINUTE_MS),
    within!(number, http_workers, 0..=256),
    within!(number, requests_in_flight_max, 1..=1_000_000),
    within!(number, request_timeout_ms, 1..=REQUEST_TIMEOUT_MS_MAX),
    within!(bytes, value_bytes_max, 1..=VALUE_BYTES_MAX_LARGEST),
    within!(number, shutdown_drain_ms_max, 0..=SHUTDOWN_DRAIN_MS_LARGEST),
];

pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn address(text: &str) -> Result<String, String> {
    check_address(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// `:11000` is short for `localhost:11000`, as the seed's commands write it.
fn join_address(text: &str) -> Result<String, String> {
    match text.strip_prefix(':') {
        Some(port) => address(&format!("localhost:{port}"))
            .map_err(|_| format!("{} is not an address of the form host:port or :port", quote(text))),
        None => address(text),
    }
}

fn consistency(text: &str) -> Result<Consistency, String> {
    text.parse().map_err(|_| format!("{} is not one of linearizable, lease, stale", quote(text)))
}

/// Checks `level` and `module=level`, separated by commas. A bare word that is no level is refused:
/// the logger would take a mistyped level for a module's name and log everything of it.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let good = |directive: &str| {
        let (module, level) = directive.rsplit_once('=').unwrap_or(("*", directive));
        !module.is_empty()
            && !module.contains(char::is_whitespace)
            && LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    if text.split(',').map(str::trim).all(good) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{} is not a log filter: a level ({}) or module=level, separated by commas",
            quote(text),
            LEVELS.join(", ")
        ))
    }
}
