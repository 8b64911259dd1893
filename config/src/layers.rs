//! Lays flags over the environment over the file over the defaults.
//!
//! Every layer is checked in full, also where a higher one overrides it: a mistake in a file does not
//! wait for the day on which its flag is dropped.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::{ConfigError, Place};
use crate::raw::{one_line, Raw};
use crate::schema::Config;
use crate::settings;
use crate::validate::validate;

/// How every environment variable of a node begins.
pub const ENV_PREFIX: &str = "VAULTDB_";

/// Names the file itself; read by the command line, which reads the file.
const ENV_CONFIG: &str = "VAULTDB_CONFIG";

/// What container platforms inject for a service called "vaultdb". Not meant for the node.
const ENV_SERVICE_LINKS: [&str; 2] = ["VAULTDB_SERVICE_", "VAULTDB_PORT"];

/// A configuration file that the caller has read.
#[derive(Debug, Clone, Copy)]
pub struct FileText<'a> {
    /// How errors name it.
    pub path: &'a str,
    pub text: &'a str,
}

/// One value from the command line.
#[derive(Debug, Clone)]
pub struct FlagValue {
    pub key: &'static str,
    /// How errors name it, for instance `flag --haddr`.
    pub shown: &'static str,
    pub value: OsString,
}

/// Everything that a configuration is made of.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    pub file: Option<FileText<'a>>,
    /// The whole environment; other names than `VAULTDB_*` are passed over.
    pub env: Vec<(OsString, OsString)>,
    pub flags: Vec<FlagValue>,
}

/// Where each setting that is not at its default was last set.
pub(crate) type Places = BTreeMap<&'static str, Place>;

/// Makes the configuration and checks it.
///
/// # Errors
/// [`ConfigError`], the first one found.
pub fn load(sources: Sources<'_>) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut places = Places::new();
    if let Some(file) = sources.file {
        apply_file(&mut config, &mut places, file)?;
    }
    apply_env(&mut config, &mut places, sources.env)?;
    for flag in sources.flags {
        let place = Place::Flag { name: flag.shown.into() };
        apply(&mut config, &mut places, flag.key, &Raw::Os(flag.value), place)?;
    }
    if !places.contains_key("advertise_haddr") {
        config.advertise_haddr.clone_from(&config.haddr);
    }
    if !places.contains_key("advertise_raddr") {
        config.advertise_raddr.clone_from(&config.raddr);
    }
    validate(&config, &places)?;
    Ok(config)
}

fn apply(
    config: &mut Config,
    places: &mut Places,
    key: &str,
    raw: &Raw,
    place: Place,
) -> Result<(), ConfigError> {
    let setting = settings::find(key).ok_or_else(|| match &place {
        Place::File { path, .. } => ConfigError::UnknownKey { path: path.clone(), key: one_line(key) },
        Place::Variable { name } => ConfigError::UnknownVariable { name: one_line(name) },
        Place::Flag { .. } | Place::Default { .. } => {
            ConfigError::Value { place: place.clone(), reason: "there is no such setting".into() }
        }
    })?;
    (setting.set)(config, raw)
        .map_err(|reason| ConfigError::Value { place: place.clone(), reason: one_line(&reason) })?;
    places.insert(setting.key, place);
    Ok(())
}

fn apply_file(config: &mut Config, places: &mut Places, file: FileText<'_>) -> Result<(), ConfigError> {
    let table: toml::Table = file.text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: one_line(file.path),
        line: line_of(file.text, error.span().map_or(0, |span| span.start)),
        reason: one_line(error.message()),
    })?;
    for (key, value) in table {
        let place = Place::File { path: one_line(file.path), key: one_line(&key) };
        apply(config, places, &key, &Raw::Toml(value), place)?;
    }
    Ok(())
}

fn apply_env(
    config: &mut Config,
    places: &mut Places,
    env: Vec<(OsString, OsString)>,
) -> Result<(), ConfigError> {
    let mut ours: Vec<(String, OsString)> = env
        .into_iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX) && name != ENV_CONFIG)
        .filter(|(name, _)| !ENV_SERVICE_LINKS.iter().any(|link| name.starts_with(link)))
        .collect();
    // The environment has no order; of two mistakes the same one is always reported.
    ours.sort();
    for (name, value) in ours {
        let suffix = name.strip_prefix(ENV_PREFIX).unwrap_or_default();
        // Names are upper case throughout: VAULTDB_haddr is not a setting.
        let key = if suffix.bytes().any(|b| b.is_ascii_lowercase()) {
            String::new()
        } else {
            suffix.to_ascii_lowercase()
        };
        let place = Place::Variable { name: one_line(&name) };
        apply(config, places, &key, &Raw::Os(value), place)?;
    }
    Ok(())
}

/// Line of a byte offset, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}
