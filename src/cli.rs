//! The command line: from arguments and environment to one action.
//!
//! Owns the names of the flags and the wording of a usage error. Must never start anything: it reads
//! the configuration file and nothing else.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::Parser;
use vaultdb_config::{Config, FileText, FlagValue, Sources};
use vaultdb_kv::units::parse_duration;

use crate::backup::{BackupArgs, BackupCommand};
use crate::bench::{self, Bench};
use crate::probe::Target;
use crate::recover::{Recover, RecoverArgs};
use crate::restore::{Restore, RestoreArgs};

/// How long a probe waits unless told.
const PROBE_TIMEOUT_DEFAULT: &str = "2s";
/// Longest wait of a probe.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What a probe asks unless told.
const PROBE_PATH_DEFAULT: &str = "/livez";

/// What the process was asked to do.
#[derive(Debug)]
pub enum Action {
    /// Run a node.
    Run(Box<Config>),
    /// Ask a running node for its health, see [`crate::probe::run`]. Exit 0 when it is well, else 1.
    Probe { target: Target, timeout: Duration },
    /// Load running nodes and print what was measured. Exit 1 when no request of a run succeeded.
    Bench(Box<Bench>),
    /// Take or verify a backup. Exit 1 when there is no whole one.
    Backup(Box<BackupCommand>),
    /// Make a data directory from a backup.
    Restore(Box<Restore>),
    /// Make a new cluster from one member's data.
    Recover(Box<Recover>),
    /// Print to standard output and exit 0: help and version.
    PrintAndExit(String),
}

/// What is wrong with the command line or the configuration: one line, for standard error. Exit 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vaultdb: {line}")]
pub struct UsageError {
    line: String,
}

impl UsageError {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { line: text.as_ref().split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

const USAGE: &str =
    "vaultdb [FLAGS] <data-dir>\n       vaultdb probe [--url URL] [--timeout DURATION]\n       \
                     vaultdb bench [put|get|mixed|batch] [FLAGS]\n       \
                     vaultdb backup save|verify <FILE> [FLAGS]\n       \
                     vaultdb restore <FILE> [FLAGS] <data-dir>\n       \
                     vaultdb recover --force-new-cluster [FLAGS] <data-dir>";

const AFTER_HELP: &str = "\
Flags may be written with one dash or two, with a space or '=' before the value.

Each of these settings is also a variable (--haddr: VAULTDB_HADDR) and, but for --config, a key of
the file (haddr); config/vaultdb.toml lists all settings, also those without a flag. Precedence:
flags, VAULTDB_* variables, file, default.

Examples:
  vaultdb -id node0 ~/node0
  vaultdb -id node1 -haddr localhost:11001 -raddr localhost:12001 -join :11000 ~/node1
  vaultdb -id a -haddr a:11000 -raddr a:12000 --bootstrap-expect 3 --peers a:11000,b:11000,c:11000 /data

Exit codes: 0 clean stop, 2 usage or configuration, 70 the node found itself unfit and must be
restarted by what runs it, 1 anything else.";

/// Runs a VaultDB node: a strongly consistent, replicated key-value store over HTTP.
#[derive(Debug, Parser)]
#[command(name = "vaultdb", version, override_usage = USAGE, after_help = AFTER_HELP)]
pub struct RunArgs {
    /// Directory of everything that the node keeps
    #[arg(value_name = "data-dir")]
    data_dir: Option<OsString>,
    /// Node name, unique in the cluster (required)
    #[arg(long, value_name = "NAME")]
    id: Option<OsString>,
    /// HTTP bind address [default: localhost:11000]
    #[arg(long, value_name = "HOST:PORT")]
    haddr: Option<OsString>,
    /// Raft bind address [default: localhost:12000]
    #[arg(long, value_name = "HOST:PORT")]
    raddr: Option<OsString>,
    /// HTTP address of any member of the cluster to join, or to look for members that moved; :11000 means localhost:11000
    #[arg(long, value_name = "ADDR[,ADDR...]")]
    join: Vec<OsString>,
    /// Join as a learner that stays one until it is promoted
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    learner: Option<OsString>,
    /// Remove members that were silent for this long, such as 10m; 0 never does [default: 0]
    #[arg(long, value_name = "DURATION")]
    dead_member_timeout: Option<OsString>,
    /// How many new nodes, this one included, form a cluster together; each is given --peers
    #[arg(long, value_name = "N")]
    bootstrap_expect: Option<OsString>,
    /// HTTP addresses of the nodes that form it, this one included or not
    #[arg(long, value_name = "ADDR[,ADDR...]")]
    peers: Vec<OsString>,
    /// Keep everything in memory (testing)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    inmem: Option<OsString>,
    /// HTTP address that others are told to dial [default: that of --haddr]
    #[arg(long, value_name = "HOST:PORT")]
    advertise_haddr: Option<OsString>,
    /// Raft address that others are told to dial [default: that of --raddr]
    #[arg(long, value_name = "HOST:PORT")]
    advertise_raddr: Option<OsString>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<OsString>,
    /// Default level of reads: linearizable, lease or stale [default: linearizable]
    #[arg(long, value_name = "LEVEL")]
    read_consistency: Option<OsString>,
    /// Open /v1/faults (testing and demonstrations)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    enable_fault_injection: Option<OsString>,
}

/// Asks a node for its health: exit code 0 when it answers 200, otherwise 1.
#[derive(Debug, Parser)]
#[command(name = "vaultdb probe", version)]
struct ProbeArgs {
    /// What to ask [default: /livez at the address of VAULTDB_HADDR, or at localhost:11000]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How long to wait for the answer, at most 60s
    #[arg(long, value_name = "DURATION", default_value = PROBE_TIMEOUT_DEFAULT)]
    timeout: String,
}

/// Reads the whole command line, `args[0]` being the program, over the environment.
///
/// # Errors
/// [`UsageError`] for anything that a node cannot be started with.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Action, UsageError> {
    let args = with_two_dashes(args);
    let env: Vec<_> = env.into_iter().collect();
    // A data directory of one of these names is written ./probe, ./bench and so on.
    let first = args.get(1).and_then(|first| first.to_str()).unwrap_or_default();
    match first {
        "probe" => match ProbeArgs::try_parse_from(args.into_iter().skip(1)) {
            Ok(probe) => probe_action(&probe, &env),
            Err(error) => from_clap(&error, "vaultdb probe --help"),
        },
        "bench" => match bench::BenchArgs::try_parse_from(args.into_iter().skip(1)) {
            Ok(args) => args.plan().map(|bench| Action::Bench(Box::new(bench))).map_err(UsageError::new),
            Err(error) => from_clap(&error, "vaultdb bench --help"),
        },
        "backup" => match BackupArgs::try_parse_from(args.into_iter().skip(1)) {
            Ok(args) => {
                args.command().map(|command| Action::Backup(Box::new(command))).map_err(UsageError::new)
            }
            Err(error) => from_clap(&error, "vaultdb backup --help"),
        },
        "restore" => match RestoreArgs::try_parse_from(args.into_iter().skip(1)) {
            Ok(args) => args.plan(env).map(|restore| Action::Restore(Box::new(restore))),
            Err(error) => from_clap(&error, "vaultdb restore --help"),
        },
        "recover" => match RecoverArgs::try_parse_from(args.into_iter().skip(1)) {
            Ok(args) => args.plan(env).map(|recover| Action::Recover(Box::new(recover))),
            Err(error) => from_clap(&error, "vaultdb recover --help"),
        },
        _ => match RunArgs::try_parse_from(args) {
            Ok(run) => config_of(run, env).map(|config| Action::Run(Box::new(config))),
            Err(error) => from_clap(&error, "vaultdb --help"),
        },
    }
}

/// The configuration of the node that these flags start.
///
/// # Errors
/// [`UsageError`], which names the place of the mistake.
pub fn config_of(run: RunArgs, env: Vec<(OsString, OsString)>) -> Result<Config, UsageError> {
    let file = match (run.config, variable(&env, "VAULTDB_CONFIG")) {
        (Some(path), _) => Some(read_file("flag --config", &path)?),
        (None, Some(path)) => Some(read_file("variable VAULTDB_CONFIG", path)?),
        (None, None) => None,
    };
    let list = |given: &[OsString]| (!given.is_empty()).then(|| given.join(OsStr::new(",")));
    let given = [
        ("data_dir", "argument <data-dir>", run.data_dir),
        ("id", "flag --id", run.id),
        ("haddr", "flag --haddr", run.haddr),
        ("raddr", "flag --raddr", run.raddr),
        ("join", "flag --join", list(&run.join)),
        ("learner", "flag --learner", run.learner),
        ("dead_member_timeout_ms", "flag --dead-member-timeout", run.dead_member_timeout),
        ("bootstrap_expect", "flag --bootstrap-expect", run.bootstrap_expect),
        ("peers", "flag --peers", list(&run.peers)),
        ("inmem", "flag --inmem", run.inmem),
        ("advertise_haddr", "flag --advertise-haddr", run.advertise_haddr),
        ("advertise_raddr", "flag --advertise-raddr", run.advertise_raddr),
        ("read_consistency", "flag --read-consistency", run.read_consistency),
        ("enable_fault_injection", "flag --enable-fault-injection", run.enable_fault_injection),
    ];
    let flags = given
        .into_iter()
        .filter_map(|(key, shown, value)| value.map(|value| FlagValue { key, shown, value }))
        .collect();
    let file = file.as_ref().map(|(path, text)| FileText { path, text });
    vaultdb_config::load(Sources { file, env, flags }).map_err(|error| UsageError::new(error.to_string()))
}

fn probe_action(probe: &ProbeArgs, env: &[(OsString, OsString)]) -> Result<Action, UsageError> {
    let timeout = parse_duration(&probe.timeout)
        .and_then(|timeout| match timeout {
            Duration::ZERO => Err(format!("\"{}\" is no time at all", probe.timeout)),
            timeout if timeout > PROBE_TIMEOUT_MAX => Err(format!("\"{}\" is over 60s", probe.timeout)),
            timeout => Ok(timeout),
        })
        .map_err(|reason| UsageError::new(format!("flag --timeout: {reason}")))?;
    let target = match (&probe.url, variable(env, "VAULTDB_HADDR")) {
        (Some(url), _) => {
            Target::from_url(url).map_err(|reason| UsageError::new(format!("flag --url: {reason}")))?
        }
        (None, Some(haddr)) => Target::from_bind_address(&haddr.to_string_lossy(), PROBE_PATH_DEFAULT)
            .map_err(|reason| UsageError::new(format!("variable VAULTDB_HADDR: {reason}")))?,
        (None, None) => Target::from_bind_address(&Config::default().haddr, PROBE_PATH_DEFAULT)
            .map_err(|reason| UsageError::new(format!("default address: {reason}")))?,
    };
    Ok(Action::Probe { target, timeout })
}

fn variable<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsString> {
    env.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The file's name, as errors show it, and its text.
fn read_file(place: &str, path: &OsStr) -> Result<(String, String), UsageError> {
    let shown = path.to_string_lossy().into_owned();
    match fs::read_to_string(path) {
        Ok(text) => Ok((shown, text)),
        Err(error) => {
            Err(UsageError::new(format!("{place}: cannot read \"{}\": {error}", shown.escape_debug())))
        }
    }
}

/// Rewrites `-name` and `-name=value` with two dashes, as the flags of the seed are written with one.
/// `-h`, `-V` and everything after `--` stay.
fn with_two_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_ended = false;
    let mut rewritten = Vec::new();
    for arg in args {
        let bytes = arg.as_bytes();
        flags_ended |= bytes == b"--";
        let one_dash = bytes.len() > 2 && bytes.starts_with(b"-") && !bytes.starts_with(b"--");
        if one_dash && !flags_ended {
            rewritten.push(OsString::from_vec([b"-", bytes].concat()));
        } else {
            rewritten.push(arg);
        }
    }
    rewritten
}

/// Help and version are answers; everything else becomes one line.
fn from_clap(error: &clap::Error, help: &str) -> Result<Action, UsageError> {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Ok(Action::PrintAndExit(text));
    }
    // clap puts its tips, the usage and a pointer to the help in paragraphs of their own.
    let what = text.split("\n\n").next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    Err(UsageError::new(format!("{} (see {help})", printable(what))))
}

/// Spells out control characters other than the line breaks of clap's own layout.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && c != '\n';
            let escaped: Vec<char> = if escape { c.escape_debug().collect() } else { vec![c] };
            escaped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(args: &[&str], env: &[(&str, &str)]) -> Result<Action, UsageError> {
        let args = ["vaultdb"].iter().chain(args).map(OsString::from);
        parse(args, env.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn config(args: &[&str]) -> Config {
        match parse_line(args, &[]).expect("valid arguments") {
            Action::Run(config) => *config,
            other => panic!("not a run: {other:?}"),
        }
    }

    fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
        let line = parse_line(args, env).expect_err("must be refused").to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    /// The seed's own commands work as it prints them, and as well with two dashes or `=`.
    #[test]
    fn one_dash_and_two_are_one() {
        let one =
            ["-id", "node1", "-haddr", "localhost:11001", "-raddr", "localhost:12001", "-join", ":11000"];
        let first = config(&[&one[..], &["-inmem", "/d"]].concat());
        assert_eq!(first.join, ["localhost:11000"]);
        assert!(first.inmem);
        let two: Vec<String> = one
            .chunks(2)
            .flat_map(|pair| [format!("-{}={}", pair[0], pair[1])])
            .chain(["--inmem=true".into(), "/d".into()])
            .collect();
        assert_eq!(config(&two.iter().map(String::as_str).collect::<Vec<_>>()), first);
        assert_eq!(config(&["-id=node1", "/d"]), config(&["--id", "node1", "/d"]));
    }

    #[test]
    fn defaults_and_positions() {
        let config = config(&["/d", "-id", "n"]);
        assert_eq!((config.haddr.as_str(), config.raddr.as_str()), ("localhost:11000", "localhost:12000"));
        assert!(config.join.is_empty() && !config.inmem && !config.enable_fault_injection);
    }

    /// Off unless asked for, and written as people write times.
    #[test]
    fn membership_flags() {
        let plain = config(&["-id", "n", "/d"]);
        assert_eq!((plain.learner, plain.dead_member_timeout_ms), (false, 0));
        let set = config(&["-id", "n", "-learner", "-dead-member-timeout", "10m", "/d"]);
        assert_eq!((set.learner, set.dead_member_timeout_ms), (true, 600_000));
        let off = config(&["-id", "n", "--learner=false", "--dead-member-timeout=0", "/d"]);
        assert_eq!((off.learner, off.dead_member_timeout_ms), (false, 0));
    }

    #[test]
    fn join_may_be_repeated() {
        assert_eq!(
            config(&["-id", "n", "-join", "a:1,b:2", "--join", ":3", "/d"]).join,
            ["a:1", "b:2", "localhost:3"]
        );
    }

    #[test]
    fn help_and_version_are_answers() {
        for args in [["-h"], ["--help"], ["-help"], ["-V"], ["--version"], ["-version"]] {
            assert!(matches!(parse_line(&args, &[]), Ok(Action::PrintAndExit(_))), "{args:?}");
        }
        let Ok(Action::PrintAndExit(help)) = parse_line(&["--help"], &[]) else { panic!("no help") };
        for flag in ["--id", "--haddr", "--raddr", "--join", "--inmem", "--advertise-haddr", "--config"] {
            assert!(help.contains(flag), "{flag}");
        }
    }

    /// Every mistake is one line that names the place and the value.
    #[test]
    fn mistakes_are_one_line() {
        let cases: &[(&[&str], &str)] = &[
            (&["/d"], "vaultdb: the node's name is missing"),
            (&["-id", "n"], "vaultdb: the data directory is missing"),
            (&["-id", "a b", "/d"], "vaultdb: flag --id: \"a b\" is not a node name"),
            (&["-id", "", "/d"], "vaultdb: flag --id: \"\" is not a node name"),
            (&["-id", "n", "-haddr", "x", "/d"], "vaultdb: flag --haddr: \"x\" is not an address"),
            (&["-id", "n", "-raddr", "h:0", "/d"], "vaultdb: flag --raddr: \"h:0\" is not an address"),
            (&["-id", "n", "-join", "h", "/d"], "vaultdb: flag --join: \"h\" is not an address"),
            (&["-id", "n", "-inmem=maybe", "/d"], "vaultdb: flag --inmem: \"maybe\" is not true or false"),
            (
                &["-id", "n", "--read-consistency", "x", "/d"],
                "vaultdb: flag --read-consistency: \"x\" is not",
            ),
            (
                &["-id", "n", "--dead-member-timeout", "soon", "/d"],
                "vaultdb: flag --dead-member-timeout: \"soon\" is not a time from 0 to",
            ),
            (
                &["-id", "n", "--dead-member-timeout", "1s", "/d"],
                "vaultdb: flag --dead-member-timeout: 1000 is less than 5 times election_timeout_ms_max",
            ),
            (&["-id", "n", ""], "vaultdb: argument <data-dir>: \"\" is not a path"),
            (&["-id", "n", "--config", "/no/such", "/d"], "vaultdb: flag --config: cannot read \"/no/such\""),
            (&["-id", "n", "-wrong", "/d"], "vaultdb: unexpected argument '--wrong' found (see"),
            (&["-id", "n", "/d", "/e"], "vaultdb: unexpected argument '/e' found (see"),
            (&["-id"], "vaultdb: a value is required for '--id <NAME>' but none was supplied (see"),
            (&["-id", "a", "-id", "b", "/d"], "vaultdb: the argument '--id <NAME>' cannot be used multiple"),
            (&["-id", "n", "-x\ny", "/d"], "vaultdb: unexpected argument '--x y' found (see"),
            (&["probe", "--timeout", "2"], "vaultdb: flag --timeout: \"2\" has no unit"),
            (&["probe", "--timeout", "0s"], "vaultdb: flag --timeout: \"0s\" is no time"),
            (&["bench", "--rate", "0"], "vaultdb: flag --rate: it must be 1 to"),
            (
                &["bench", "--duration", "5"],
                "vaultdb: invalid value '5' for '--duration <DURATION>': \"5\" has",
            ),
            (
                &["bench", "--url", "x"],
                "vaultdb: unexpected argument '--url' found (see vaultdb bench --help)",
            ),
            (
                &["probe", "--url", "https://h"],
                "vaultdb: flag --url: \"https://h\" does not begin with http://",
            ),
        ];
        for (args, expected) in cases {
            let line = refused(args, &[]);
            assert!(line.starts_with(expected), "{args:?}: {line}");
        }
        let line = refused(&["-id", "n", "/d"], &[("VAULTDB_HADDR", "x")]);
        assert!(line.starts_with("vaultdb: variable VAULTDB_HADDR: \"x\" is not an address"), "{line}");
        let line = refused(&["-id", "n", "/d"], &[("VAULTDB_CONFIG", "/no/such")]);
        assert!(line.starts_with("vaultdb: variable VAULTDB_CONFIG: cannot read"), "{line}");
    }

    #[test]
    fn a_data_directory_may_be_any_bytes() {
        let raw = OsString::from_vec(vec![b'/', 0xff]);
        let args = ["vaultdb", "-id", "n"].iter().map(OsString::from).chain([raw.clone()]);
        let Ok(Action::Run(config)) = parse(args, []) else { panic!("refused") };
        assert_eq!(config.data_dir.as_os_str(), raw);
    }

    #[test]
    fn probe_targets() {
        let target = |args: &[&str], env: &[(&str, &str)]| match parse_line(args, env) {
            Ok(Action::Probe { target, timeout }) => (target.to_string(), timeout.as_millis()),
            other => panic!("not a probe: {other:?}"),
        };
        assert_eq!(target(&["probe"], &[]), ("http://localhost:11000/livez".into(), 2_000));
        // Other variables of a node do not matter to a probe.
        let env = [("VAULTDB_HADDR", "0.0.0.0:8080"), ("VAULTDB_X", "y")];
        assert_eq!(target(&["probe"], &env).0, "http://127.0.0.1:8080/livez");
        assert_eq!(
            target(&["probe", "-url", "http://h:1/readyz", "-timeout=1s"], &env),
            ("http://h:1/readyz".into(), 1_000)
        );
        assert!(matches!(parse_line(&["probe", "--help"], &[]), Ok(Action::PrintAndExit(_))));
        assert!(matches!(parse_line(&["-id", "n", "./probe"], &[]), Ok(Action::Run(_))));
    }
}
