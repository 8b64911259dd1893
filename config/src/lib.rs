//! The configuration of a node: its schema, defaults, layers and rules.
//!
//! Owns what every setting is called, means and may be. One name serves everywhere: the setting
//! `cache_bytes` is the TOML key `cache_bytes` and the environment variable `VAULTDB_CACHE_BYTES`.
//! Must never read a file, the environment or a clock: the caller passes texts in.

mod error;
mod layers;
mod raw;
mod schema;
mod settings;
mod validate;

pub use error::{ConfigError, Place};
pub use layers::{load, FileText, FlagValue, Sources, ENV_PREFIX};
pub use schema::Config;
pub use validate::HEARTBEATS_PER_ELECTION_MIN;

/// The name of every setting, in the order of the sample file.
pub fn keys() -> impl Iterator<Item = &'static str> {
    settings::SETTINGS.iter().map(|setting| setting.key)
}

#[cfg(test)]
mod tests;
