//! The command line of the real binary: exit codes, one line on standard error for each mistake, and
//! one process for one data directory.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a node may take to lock its directory.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The binary with an empty environment, so that the machine's own variables cannot matter.
fn vaultdb(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultdb"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    vaultdb(args).output().expect("start vaultdb")
}

/// Exit code 2, nothing on standard output, one line on standard error that holds each of `named`.
fn assert_usage_error(output: &Output, named: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{named:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for name in named {
        assert!(stderr.contains(name), "{name} is not in: {stderr}");
    }
}

/// Each bad flag is named together with its value, before anything is created on disk.
#[test]
fn bad_flags() {
    let root = tempfile::tempdir().expect("temporary directory");
    let dir = root.path().join("data");
    let dir = dir.to_str().expect("UTF-8 path");
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["-id"]),
        (&["-id", "a/b"], &["--id", "a/b"]),
        (&["-id", ""], &["--id", "\"\""]),
        (&["-id", "n", "-haddr", "localhost"], &["--haddr", "localhost"]),
        (&["-id", "n", "-haddr", "localhost:0"], &["--haddr", "localhost:0"]),
        (&["-id", "n", "-haddr", ":11000"], &["--haddr", ":11000"]),
        (&["-id", "n", "-raddr", "localhost:65536"], &["--raddr", "localhost:65536"]),
        (&["-id", "n", "-raddr", "localhost:11000"], &["--raddr", "localhost:11000"]),
        (&["-id", "n", "-join", "http://h:1"], &["--join", "http://h:1"]),
        (&["-id", "n", "-join", ":1,,:2"], &["--join"]),
        (&["-id", "n", "--advertise-haddr", "x"], &["--advertise-haddr", "x"]),
        (&["-id", "n", "--advertise-raddr", "x"], &["--advertise-raddr", "x"]),
        (&["-id", "n", "--read-consistency", "strong"], &["--read-consistency", "strong"]),
        (&["-id", "n", "-inmem=perhaps"], &["--inmem", "perhaps"]),
        (&["-id", "n", "--enable-fault-injection=2"], &["--enable-fault-injection", "2"]),
        (&["-id", "n", "--config", "/no/such/file"], &["--config", "/no/such/file"]),
        (&["-id", "n", "-no-such-flag"], &["no-such-flag", "vaultdb --help"]),
        (&["-id", "n", "--no-such-flag=1"], &["no-such-flag", "vaultdb --help"]),
        (&["-id", "n", "second-directory"], &["vaultdb --help"]),
        (&["-id", "n", "-haddr"], &["--haddr", "vaultdb --help"]),
        (&["-id", "n", "-id", "m"], &["--id", "vaultdb --help"]),
    ];
    for (args, named) in cases {
        assert_usage_error(&run(&[&[dir], *args].concat()), named);
    }
    assert_usage_error(&run(&["-id", "n"]), &["<data-dir>"]);
    assert!(!Path::new(dir).exists());
}

#[test]
fn bad_variables() {
    let cases = [
        ("VAULTDB_HADDR", "x"),
        ("VAULTDB_HEARTBEAT_INTERVAL_MS", "fast"),
        ("VAULTDB_HTTP_WORKERS", "-1"),
        ("VAULTDB_CACHE_BYTES", "1MB"),
        ("VAULTDB_LOG", "loud"),
        ("VAULTDB_ELECTION_TIMEOUT_MS_MIN", "100"),
        ("VAULTDB_CONFIG", "/no/such/file"),
    ];
    for (name, value) in cases {
        let output = vaultdb(&["-id", "n", "/nowhere"]).env(name, value).output().expect("start vaultdb");
        assert_usage_error(&output, &[name, value]);
    }
    let output = vaultdb(&["-id", "n", "/nowhere"]).env("VAULTDB_NO_SUCH", "1").output();
    assert_usage_error(&output.expect("start vaultdb"), &["VAULTDB_NO_SUCH"]);
}

#[test]
fn bad_files() {
    let root = tempfile::tempdir().expect("temporary directory");
    let path = root.path().join("v.toml");
    let shown = path.to_str().expect("UTF-8 path");
    let cases: &[(&str, &[&str])] = &[
        ("no_such_key = 1", &["no_such_key"]),
        ("haddr = \"x\"", &["haddr", "\"x\""]),
        ("http_workers = \"many\"", &["http_workers", "many"]),
        ("\n\nhaddr = [", &["line 3"]),
        ("election_timeout_ms_max = 200", &["election_timeout_ms_max", "200"]),
    ];
    for (text, named) in cases {
        fs::write(&path, text).expect("write");
        let output = run(&["-id", "n", "--config", shown, "/nowhere"]);
        assert_usage_error(&output, &[&[shown], *named].concat());
    }
}

/// A flag with one dash is the same flag with two, in answers and in errors.
#[test]
fn one_dash_and_two_are_one() {
    for (one, two) in [("-help", "--help"), ("-version", "--version"), ("-haddr=x", "--haddr=x")] {
        let (one, two) = (run(&[one, "-id", "n", "/nowhere"]), run(&[two, "-id", "n", "/nowhere"]));
        assert_eq!(one, two);
    }
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("vaultdb {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["-h"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--join"));
}

/// A bad flag of the load generator is named like one of a node; nobody to load is a plain failure.
#[test]
fn bench_without_a_node() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["erase"], &["erase", "vaultdb bench --help"]),
        (&["--connections", "0"], &["--connections"]),
        (&["--duration", "5"], &["--duration", "no unit"]),
        (&["--endpoints", "localhost"], &["--endpoints", "localhost"]),
        (&["batch", "--pairs", "129"], &["--pairs", "128"]),
    ];
    for (args, named) in cases {
        assert_usage_error(&run(&[&["bench"], *args].concat()), named);
    }
    let output = run(&["bench", "--endpoints", &format!("127.0.0.1:{}", free_port())]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.lines().count() == 1 && stderr.contains("can be reached"), "{stderr}");
    let help = run(&["bench", "--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--rate"));
}

#[test]
fn probe_without_a_node() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/livez");
    let output = run(&["probe", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&url), "{stderr}");
    assert_usage_error(&run(&["probe", "--url", "ftp://h"]), &["--url", "ftp://h"]);
    assert_usage_error(&run(&["probe", "--timeout", "soon"]), &["--timeout", "soon"]);
}

/// Ends the node with the test, however the test ends.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn node_command(dir: &Path) -> Command {
    let (haddr, raddr) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = vaultdb(&["-id", "n", "-haddr", &haddr, "-raddr", &raddr]);
    command.arg(dir);
    command
}

/// A second process on one data directory is refused with the directory's name; the first lives on.
#[test]
fn one_process_for_one_data_directory() {
    let root = tempfile::tempdir().expect("temporary directory");
    let dir = root.path().join("data");
    let mut command = node_command(&dir);
    let mut first = Node(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start"));
    let pid = first.0.id().to_string();
    let deadline = Instant::now() + START_WAIT_MAX;
    while fs::read_to_string(dir.join("LOCK")).unwrap_or_default().trim() != pid {
        assert!(Instant::now() < deadline, "the first node never locked its directory");
        thread::sleep(POLL_INTERVAL);
    }

    let second = node_command(&dir).output().expect("start");
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("in use by another vaultdb"), "{stderr}");
    assert!(stderr.contains(dir.to_str().expect("UTF-8 path")), "{stderr}");
    assert!(stderr.contains(&pid), "{stderr}");
    assert!(first.0.try_wait().expect("status").is_none(), "the first node ended");
}

/// A data directory that cannot be made is an error with its name, not a panic.
#[test]
fn data_directory_that_is_a_file() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let output = node_command(file.path()).output().expect("start");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(file.path().to_str().expect("UTF-8 path")), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
