//! The rules between settings. Each setting's own range is checked when it is read.

use crate::error::{ConfigError, Place};
use crate::layers::Places;
use crate::schema::Config;

/// Heartbeats that must fit into the shortest election timeout, so that a few lost ones do not start
/// an election.
pub const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;

/// Elections that must fit into the time after which a silent member is removed: a failover or a restart
/// is no death.
pub const ELECTIONS_PER_DEATH_MIN: u64 = 5;

pub(crate) fn validate(config: &Config, places: &Places) -> Result<(), ConfigError> {
    if config.id.is_empty() {
        return Err(ConfigError::Missing {
            what: "the node's name",
            flag: "the flag -id",
            variable: "VAULTDB_ID",
            key: "id",
        });
    }
    if config.data_dir.as_os_str().is_empty() && !config.inmem {
        return Err(ConfigError::Missing {
            what: "the data directory",
            flag: "the argument <data-dir>",
            variable: "VAULTDB_DATA_DIR",
            key: "data_dir",
        });
    }
    if config.haddr == config.raddr {
        return Err(ConfigError::SameAddress {
            place: place_of(places, &["raddr", "haddr"]),
            address: config.raddr.clone(),
        });
    }
    check_formation(config, places)?;
    check_health(config, places)?;
    let (min, max) = (config.election_timeout_ms_min, config.election_timeout_ms_max);
    if min < config.heartbeat_interval_ms.saturating_mul(HEARTBEATS_PER_ELECTION_MIN) {
        return Err(ConfigError::ElectionTimeoutTooShort {
            place: place_of(places, &["election_timeout_ms_min"]),
            election_timeout_ms_min: min,
            heartbeat_interval_ms: config.heartbeat_interval_ms,
            factor: HEARTBEATS_PER_ELECTION_MIN,
        });
    }
    if max <= min {
        return Err(ConfigError::ElectionTimeoutRange {
            place: place_of(places, &["election_timeout_ms_max"]),
            election_timeout_ms_min: min,
            election_timeout_ms_max: max,
        });
    }
    let dead = config.dead_member_timeout_ms;
    if dead > 0 && dead < config.election_timeout_ms_max.saturating_mul(ELECTIONS_PER_DEATH_MIN) {
        return Err(ConfigError::DeadMemberTimeoutTooShort {
            place: place_of(places, &["dead_member_timeout_ms"]),
            dead_member_timeout_ms: dead,
            election_timeout_ms_max: config.election_timeout_ms_max,
            factor: ELECTIONS_PER_DEATH_MIN,
        });
    }
    Ok(())
}

fn check_formation(config: &Config, places: &Places) -> Result<(), ConfigError> {
    let (expect, peers) = (config.bootstrap_expect, config.peers.len());
    if expect > 0 && !config.join.is_empty() {
        return Err(ConfigError::JoinAndForm { place: place_of(places, &["bootstrap_expect"]) });
    }
    let known = peers as u64;
    if known != expect && known != expect.saturating_sub(1) {
        let place = place_of(places, &["peers", "bootstrap_expect"]);
        return Err(ConfigError::Peers { place, expect, peers });
    }
    Ok(())
}

fn check_health(config: &Config, places: &Places) -> Result<(), ConfigError> {
    let probe = ("health_probe_failed_ms", config.health_probe_failed_ms);
    let store = ("health_store_failed_ms", config.health_store_failed_ms);
    let fsync = ("health_fsync_failed_ms", config.health_fsync_failed_ms);
    for ((key, failed_ms), (degraded, degraded_ms)) in [
        (probe, ("health_probe_degraded_ms", config.health_probe_degraded_ms)),
        (probe, ("health_probe_interval_ms", config.health_probe_interval_ms)),
        (store, ("health_store_read_degraded_ms", config.health_store_read_degraded_ms)),
        (store, ("health_store_write_degraded_ms", config.health_store_write_degraded_ms)),
        (fsync, ("health_fsync_degraded_ms", config.health_fsync_degraded_ms)),
    ] {
        if failed_ms <= degraded_ms {
            let place = place_of(places, &[key, degraded]);
            return Err(ConfigError::Thresholds { place, failed_ms, degraded, degraded_ms });
        }
    }
    Ok(())
}

/// Where the first of the settings that was set was set; the first one's default if none was.
fn place_of(places: &Places, keys: &[&'static str]) -> Place {
    keys.iter()
        .find_map(|key| places.get(key).cloned())
        .unwrap_or(Place::Default { key: keys.first().copied().unwrap_or_default() })
}
