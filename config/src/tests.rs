#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::PathBuf;

use vaultdb_kv::Consistency;

use super::*;

const SAMPLE: &str = include_str!("../vaultdb.toml");

fn flag(key: &'static str, value: &str) -> FlagValue {
    FlagValue { key, shown: key, value: value.into() }
}

fn required() -> Vec<FlagValue> {
    vec![flag("id", "n"), flag("data_dir", "/d")]
}

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    load(Sources { file: Some(FileText { path: "v.toml", text }), flags: required(), ..Sources::default() })
}

fn from_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(Sources { env: env(pairs), flags: required(), ..Sources::default() })
}

/// The sample file says what the defaults are, and lists every setting.
#[test]
fn sample_equals_defaults() {
    let expected = Config { id: "n".into(), data_dir: "/d".into(), ..Config::default() };
    assert_eq!(from_file(SAMPLE).unwrap(), expected);
    for key in keys() {
        let listed = SAMPLE
            .lines()
            .any(|line| line.trim_start_matches('#').split_once(" = ").is_some_and(|(name, _)| name == key));
        assert!(listed, "{key} is not in the sample");
    }
}

/// The lines that the sample leaves for the user to switch on are valid too.
#[test]
fn sample_examples_are_valid() {
    let text: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config =
        load(Sources { file: Some(FileText { path: "v.toml", text: &text }), ..Sources::default() }).unwrap();
    assert_eq!(config.id, "node0");
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/vaultdb"));
    assert_eq!(config.advertise_raddr, "node0.example.org:12000");
    assert_eq!(config.join, ["node0.example.org:11000", "localhost:11000"]);
}

/// Flags win over the environment, that over the file, that over the default.
#[test]
fn precedence() {
    let file = FileText { path: "v.toml", text: "haddr = \"f:1\"\nraddr = \"f:2\"\nhttp_workers = 3" };
    let mut flags = required();
    flags.push(flag("haddr", "flag:1"));
    let env = env(&[("VAULTDB_HADDR", "e:1"), ("VAULTDB_RADDR", "e:2"), ("PATH", "/bin")]);
    let config = load(Sources { file: Some(file), env, flags }).unwrap();
    assert_eq!(config.haddr, "flag:1");
    assert_eq!(config.raddr, "e:2");
    assert_eq!(config.http_workers, 3);
    assert_eq!(config.heartbeat_interval_ms, 50);
}

/// What is advertised follows what is bound, unless it is said.
#[test]
fn advertised_addresses_default_to_the_bound_ones() {
    let config = from_env(&[("VAULTDB_HADDR", "h:1"), ("VAULTDB_ADVERTISE_RADDR", "r:2")]).unwrap();
    assert_eq!((config.advertise_haddr.as_str(), config.advertise_raddr.as_str()), ("h:1", "r:2"));
}

/// Every setting can be set by its variable, and every bad value of it names variable and value.
#[test]
fn every_setting_by_variable() {
    for key in keys() {
        let name = format!("{ENV_PREFIX}{}", key.to_ascii_uppercase());
        // No setting takes a space, except a path.
        let result = load(Sources { env: env(&[(&name, "b a\nd")]), ..Sources::default() });
        if key == "data_dir" {
            continue;
        }
        let line = result.unwrap_err().to_string();
        assert!(line.starts_with(&format!("variable {name}: ")), "{line}");
        assert!(line.contains(r"b a\nd"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

/// A key or variable that does not exist is refused by its name, not passed over.
#[test]
fn unknown_names_are_refused() {
    assert_eq!(from_file("hadr = 1").unwrap_err().to_string(), "unknown key hadr in v.toml");
    assert_eq!(from_file("[http]\nworkers = 1").unwrap_err().to_string(), "unknown key http in v.toml");
    assert_eq!(from_env(&[("VAULTDB_HADR", "x")]).unwrap_err().to_string(), "unknown variable VAULTDB_HADR");
    assert_eq!(from_env(&[("VAULTDB_", "x")]).unwrap_err().to_string(), "unknown variable VAULTDB_");
    assert!(from_env(&[("VAULTDB_haddr", "h:1")]).is_err());
}

/// A cluster platform's own variables for a service called "vaultdb" do not stop a node.
#[test]
fn service_links_are_passed_over() {
    let links = [("VAULTDB_SERVICE_HOST", "10.0.0.1"), ("VAULTDB_PORT_11000_TCP", "tcp://10.0.0.1:11000")];
    assert!(from_env(&links).is_ok());
    assert!(from_env(&[("VAULTDB_CONFIG", "v.toml"), ("VAULTDB_LOG", "debug")]).is_ok());
}

#[test]
fn file_errors_are_one_line() {
    let error = from_file("haddr = \"h:1\"\nraddr = [").unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error:?}");
    let cases = [
        ("http_workers = \"three\"", "key http_workers in v.toml: \"three\" is not a whole number"),
        ("http_workers = -1", "key http_workers in v.toml: \"-1\" is not a whole number from 0 to 256"),
        ("inmem = 1", "key inmem in v.toml: \"1\" is not true or false"),
        ("join = [1]", "key join in v.toml: \"[1]\" is not a list of strings"),
        ("id = 7", "key id in v.toml: \"7\" is not a string"),
        ("cache_bytes = \"1MB\"", "key cache_bytes in v.toml: \"1MB\" is not a size from"),
        ("\"a\\nb\" = 1", r"unknown key a\nb in v.toml"),
    ];
    for (text, expected) in cases {
        let line = from_file(text).unwrap_err().to_string();
        assert!(line.starts_with(expected), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

/// A mistake in a lower layer is reported although a higher one overrides it.
#[test]
fn overridden_mistakes_are_reported() {
    let mut flags = required();
    flags.push(flag("haddr", "h:1"));
    let error = load(Sources { env: env(&[("VAULTDB_HADDR", "h")]), flags, ..Sources::default() });
    assert_eq!(
        error.unwrap_err().to_string(),
        "variable VAULTDB_HADDR: \"h\" is not an address of the form host:port"
    );
}

#[test]
fn join_lists() {
    let join = |text: &str| from_env(&[("VAULTDB_JOIN", text)]).map(|config| config.join);
    assert_eq!(join(":11000").unwrap(), ["localhost:11000"]);
    assert_eq!(join("a:1, :2").unwrap(), ["a:1", "localhost:2"]);
    assert_eq!(from_file("join = []").unwrap().join, Vec::<String>::new());
    for bad in ["", "a:1,", ":", ":0", ":x", "http://a:1", "a"] {
        assert!(join(bad).is_err(), "{bad}");
    }
}

/// Who forms a cluster names exactly the others, or there could be two.
#[test]
fn forming_a_cluster() {
    let form = |expect: &str, peers: &str| {
        let env = [("VAULTDB_BOOTSTRAP_EXPECT", expect), ("VAULTDB_PEERS", peers)];
        from_env(&env).map(|config| config.peers)
    };
    assert_eq!(form("3", "a:1,:2").unwrap(), ["a:1", "localhost:2"]);
    assert_eq!(form("3", "a:1,b:1,c:1").unwrap().len(), 3);
    assert!(from_env(&[("VAULTDB_BOOTSTRAP_EXPECT", "1")]).is_ok());
    for (expect, peers) in [("3", "a:1"), ("3", "a:1,b:1,c:1,d:1"), ("0", "a:1"), ("16", "a:1"), ("3", "a")] {
        assert!(form(expect, peers).is_err(), "{expect} {peers}");
    }
    let line = form("3", "a:1").unwrap_err().to_string();
    assert!(line.starts_with("variable VAULTDB_PEERS: 3 nodes are to form a cluster"), "{line}");
    let join = ("VAULTDB_JOIN", "a:1");
    let line = from_env(&[join, ("VAULTDB_BOOTSTRAP_EXPECT", "1")]).unwrap_err().to_string();
    assert!(line.contains("exclude each other"), "{line}");
}

/// Binding port 0 would give a node an address that nobody knows.
#[test]
fn port_zero_is_refused() {
    for name in ["VAULTDB_HADDR", "VAULTDB_RADDR", "VAULTDB_ADVERTISE_HADDR", "VAULTDB_ADVERTISE_RADDR"] {
        assert!(from_env(&[(name, "localhost:0")]).is_err(), "{name}");
    }
}

#[test]
fn required_settings() {
    let missing = |flags| load(Sources { flags, ..Sources::default() }).unwrap_err().to_string();
    assert!(missing(vec![flag("data_dir", "/d")]).contains("-id"));
    assert!(missing(vec![flag("id", "n")]).contains("<data-dir>"));
    let inmem = load(Sources { flags: vec![flag("id", "n"), flag("inmem", "true")], ..Sources::default() });
    assert!(inmem.unwrap().inmem);
}

/// The rules between settings name the setting, the value and where it was set.
#[test]
fn rules_between_settings() {
    let line = from_env(&[("VAULTDB_ELECTION_TIMEOUT_MS_MIN", "249")]).unwrap_err().to_string();
    assert_eq!(
        line,
        "variable VAULTDB_ELECTION_TIMEOUT_MS_MIN: 249 is less than 5 times heartbeat_interval_ms, which is 50"
    );
    let line = from_env(&[("VAULTDB_HEARTBEAT_INTERVAL_MS", "51")]).unwrap_err().to_string();
    assert!(line.starts_with("election_timeout_ms_min (default): 250 is less than"), "{line}");
    assert!(from_env(&[("VAULTDB_ELECTION_TIMEOUT_MS_MIN", "250")]).is_ok());
    let line = from_env(&[("VAULTDB_ELECTION_TIMEOUT_MS_MAX", "250")]).unwrap_err().to_string();
    assert!(line.contains("250 is not greater than election_timeout_ms_min"), "{line}");
    let line = from_env(&[("VAULTDB_RADDR", "localhost:11000")]).unwrap_err().to_string();
    assert_eq!(line, "variable VAULTDB_RADDR: \"localhost:11000\" is the address of the HTTP server already");
}

/// What fails is degraded first, of every pair.
#[test]
fn thresholds_are_in_order() {
    let line = from_env(&[("VAULTDB_HEALTH_PROBE_FAILED_MS", "250ms")]).unwrap_err().to_string();
    assert_eq!(
        line,
        "variable VAULTDB_HEALTH_PROBE_FAILED_MS: 250 is not greater than health_probe_degraded_ms, which is 250"
    );
    for (name, value) in [
        ("VAULTDB_HEALTH_PROBE_INTERVAL_MS", "700"),
        ("VAULTDB_HEALTH_STORE_READ_DEGRADED_MS", "10s"),
        ("VAULTDB_HEALTH_STORE_WRITE_DEGRADED_MS", "10s"),
        ("VAULTDB_HEALTH_FSYNC_DEGRADED_MS", "2s"),
    ] {
        let line = from_env(&[(name, value)]).unwrap_err().to_string();
        assert!(line.starts_with(&format!("variable {name}: ")), "{line}");
    }
}

#[test]
fn values_are_read() {
    let config = from_env(&[
        ("VAULTDB_READ_CONSISTENCY", "stale"),
        ("VAULTDB_INMEM", "1"),
        ("VAULTDB_CACHE_BYTES", "2MiB"),
        ("VAULTDB_LOG", "warn,openraft=off"),
        ("VAULTDB_HTTP_WORKERS", "2"),
    ])
    .unwrap();
    assert_eq!(config.read_consistency, Consistency::Stale);
    assert!(config.inmem);
    assert_eq!(config.cache_bytes, 2 << 20);
    assert_eq!(config.log, "warn,openraft=off");
    assert_eq!(config.http_workers_for(16), 2);
    assert_eq!(Config::default().http_workers_for(1), 1);
    assert_eq!(Config::default().http_workers_for(16), 8);
    for bad in ["inof", "", "openraft=", "=info", "info,,warn"] {
        assert!(from_env(&[("VAULTDB_LOG", bad)]).is_err(), "{bad}");
    }
}

/// Legal but probably not meant: told, not refused.
#[test]
fn warnings() {
    assert!(from_env(&[]).unwrap().warnings().is_empty());
    let warned = from_env(&[("VAULTDB_RADDR", "0.0.0.0:12000"), ("VAULTDB_JOIN", ":11000")]).unwrap();
    assert_eq!(warned.warnings().len(), 2, "{:?}", warned.warnings());
}
