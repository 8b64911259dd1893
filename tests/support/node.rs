//! One node as a process: start it, signal it, read what it says.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

use super::http::{self, Request};
use super::wait::{eventually, eventually_ok};
use super::Status;

/// Longest wait for a process that was killed to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the end of a process that was asked to end; beyond what the contract grants, so
/// that a slow one is reported with its true duration.
const STOPPED_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for `GET /status`, which is answered from memory.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a log that are shown when a test fails.
const LOG_TAIL_BYTES: usize = 6_000;
/// Bytes of a panic's message that are shown before them.
const LOG_PANIC_BYTES: usize = 800;

/// The binary under test with nothing of the caller's `VAULTDB_*` environment.
pub fn vaultdb() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultdb"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VAULTDB_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub took: Duration,
}

pub struct Node {
    pub name: String,
    pub http: u16,
    /// The port that the node listens on for its peers.
    pub raft: u16,
    /// The port that its peers are told to dial.
    pub advertised_raft: u16,
    pub data: PathBuf,
    pub log: PathBuf,
    /// Flags beyond name and addresses.
    pub flags: Vec<String>,
    /// Settings of the node, as `VAULTDB_*` variables.
    pub env: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Node {
    pub fn new(name: &str, dir: &Path, http: u16, raft: u16) -> Self {
        Self {
            name: name.to_owned(),
            http,
            raft,
            advertised_raft: raft,
            data: dir.join(name),
            log: dir.join(format!("{name}.log")),
            flags: Vec::new(),
            env: Vec::new(),
            child: None,
        }
    }

    /// Starts the process; `join` is what is given to `-join`.
    pub fn start(&mut self, join: Option<&str>) {
        let mut command = vaultdb();
        command.args(["-id", &self.name]);
        command.args(["-haddr", &format!("localhost:{}", self.http)]);
        command.args(["-raddr", &format!("localhost:{}", self.raft)]);
        if self.advertised_raft != self.raft {
            command.args(["--advertise-raddr", &format!("localhost:{}", self.advertised_raft)]);
        }
        if let Some(join) = join {
            command.args(["-join", join]);
        }
        command.args(&self.flags).arg(&self.data);
        self.spawn(&mut command);
    }

    /// Starts the process with a command line of the caller's own.
    pub fn spawn(&mut self, command: &mut Command) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        if let Some(filter) = std::env::var_os("VAULTDB_TEST_LOG") {
            command.env("VAULTDB_LOG", filter);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let (out, err) = (self.log_file(), self.log_file());
        let child = command.stdout(out).stderr(err).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name)));
    }

    fn log_file(&self) -> File {
        let open = OpenOptions::new().create(true).append(true).open(&self.log);
        open.unwrap_or_else(|error| panic!("{}: {error}", self.log.display()))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Panics when the process has ended by itself: whatever it was sent must not hide that.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(code) = self.exited() {
            panic!("{} ended by itself with {code:?}:\n{}", self.name, self.log_tail());
        }
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        // Not reaped since it was seen to run, so its pid is still its own.
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {}: {error}", self.name));
    }

    /// SIGKILL, without waiting for the end.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Waits until the process has ended.
    pub fn reap(&mut self, limit: Duration) -> Stopped {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let began = Instant::now();
        let ended = eventually_ok(limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        match ended {
            Ok(status) => Stopped { code: status.code(), took: began.elapsed() },
            Err(reason) => {
                self.child = Some(child);
                panic!("{} has not ended within {limit:?}: {reason}", self.name);
            }
        }
    }

    pub fn reap_killed(&mut self) {
        self.reap(KILLED_LIMIT);
    }

    /// SIGTERM, and how the process ended.
    pub fn terminate(&mut self) -> Stopped {
        self.signal(Signal::TERM);
        self.reap(STOPPED_LIMIT)
    }

    /// The exit code, when the process has ended by itself.
    pub fn exited(&mut self) -> Option<Option<i32>> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.code())
    }

    /// # Errors
    /// Why there is no status.
    pub fn status(&self) -> Result<Status, String> {
        let response = http::send(self.http, &Request::get("/status").limit(STATUS_LIMIT))
            .map_err(|failure| format!("{}: {failure}", self.name))?;
        if response.status != 200 {
            return Err(format!("{}: status answers {}: {}", self.name, response.status, response.text()));
        }
        Ok(Status(response.json()))
    }

    /// Waits until the node answers `GET /status` at all.
    pub fn wait_answers(&mut self, limit: Duration) -> Status {
        let what = format!("{} answers GET /status", self.name);
        eventually(&what, limit, || {
            if let Some(code) = self.exited() {
                panic!("{} ended with {code:?}:\n{}", self.name, self.log_tail());
            }
            self.status()
        })
    }

    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of the log and, before it, the first panic, which a long backtrace would push out.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let tail = boundary(&text, text.len().saturating_sub(LOG_TAIL_BYTES));
        let panic = text.find("panicked at").filter(|at| *at < tail).map(|at| {
            let end = boundary(&text, (at + LOG_PANIC_BYTES).min(tail));
            format!("{}\n[…]\n", &text[at..end])
        });
        panic.unwrap_or_default() + &text[tail..]
    }
}

/// The character boundary at or before `at`.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either may fail only because the process is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
