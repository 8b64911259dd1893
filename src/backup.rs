//! `vaultdb backup save` and `vaultdb backup verify`.
//!
//! Owns the file: under its name there is never anything but a whole backup.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use vaultdb_actors::offline::verify_backup;
use vaultdb_kv::units::parse_duration;
use vaultdb_kv::{BackupHeader, BackupSummary, Consistency};

use crate::download::download;
use crate::probe::Target;

/// What the node's own timeout of a piece is exceeded by before the connection counts as dead.
const GRACE: Duration = Duration::from_secs(5);
/// Longest `--timeout`: what a node accepts.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Takes and verifies backups.
#[derive(Debug, Parser)]
#[command(name = "vaultdb backup", bin_name = "vaultdb backup", version)]
pub struct BackupArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Save the state of a running cluster as FILE, verified; an older FILE is replaced only by a whole new one
    Save {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// HTTP address of any node, such as http://host:11000; :11000 means localhost
        #[arg(long, value_name = "ADDRESS", default_value = ":11000")]
        from: String,
        /// Level of the read [default: the node's]
        #[arg(long, value_name = "LEVEL")]
        consistency: Option<Consistency>,
        /// How long the node may take to begin, and for each piece; at most 60s
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Read FILE to its end and tell whether it is whole; needs no node
    Verify {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// What is to be done, checked.
#[derive(Debug)]
pub enum BackupCommand {
    Save { file: PathBuf, from: Target, silence_max: Duration },
    Verify { file: PathBuf },
}

impl BackupArgs {
    /// # Errors
    /// One sentence that names the flag.
    pub fn command(self) -> Result<BackupCommand, String> {
        match self.what {
            What::Verify { file } => Ok(BackupCommand::Verify { file }),
            What::Save { file, from, consistency, timeout } => {
                if timeout.is_zero() || timeout > TIMEOUT_MAX {
                    return Err("flag --timeout: it must be more than 0 and at most 60s".into());
                }
                let level = consistency.map_or(String::new(), |level| format!("&consistency={level}"));
                let path = format!("/v1/snapshot?timeout={}ms{level}", timeout.as_millis());
                let from =
                    Target::from_url(&url(&from, &path)).map_err(|why| format!("flag --from: {why}"))?;
                Ok(BackupCommand::Save { file, from, silence_max: timeout + GRACE })
            }
        }
    }
}

fn url(from: &str, path: &str) -> String {
    let from = from.trim_end_matches('/');
    match from.strip_prefix(':') {
        Some(port) => format!("http://localhost:{port}{path}"),
        None if from.contains("://") => format!("{from}{path}"),
        None => format!("http://{from}{path}"),
    }
}

impl BackupCommand {
    /// Does it and prints what the backup holds.
    ///
    /// # Errors
    /// One line; a file that is damaged is named with the place of the damage.
    pub fn run(&self) -> Result<(), String> {
        match self {
            BackupCommand::Verify { file } => {
                let (header, summary) = verify_backup(file).map_err(|error| error.to_string())?;
                print(&format!("{} is whole\n{}", file.display(), describe(&header, &summary)));
            }
            BackupCommand::Save { file, from, silence_max } => {
                let (header, summary) = save(file, from, *silence_max)?;
                print(&format!("{} is saved\n{}", file.display(), describe(&header, &summary)));
            }
        }
        Ok(())
    }
}

fn save(file: &Path, from: &Target, silence_max: Duration) -> Result<(BackupHeader, BackupSummary), String> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let saved = fetch(&partial, from, silence_max).and_then(|()| {
        let verified = verify_backup(&partial).map_err(|error| error.to_string())?;
        put_in_place(&partial, file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(verified)
    });
    if saved.is_err() {
        // It may not be there; the reason that is told is the first one.
        let _ = fs::remove_file(&partial);
    }
    saved
}

/// Writes the backup, durably.
fn fetch(partial: &Path, from: &Target, silence_max: Duration) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", partial.display());
    let file = OpenOptions::new().write(true).create_new(true).open(partial).map_err(failed)?;
    let mut out = BufWriter::new(file);
    download(from, silence_max, &mut out).map_err(|reason| format!("{from}: {reason}"))?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)
}

fn put_in_place(partial: &Path, file: &Path) -> io::Result<()> {
    fs::rename(partial, file)?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Lines of `name: value`.
pub fn describe(header: &BackupHeader, summary: &BackupSummary) -> String {
    let BackupHeader { cluster_id, node, version, revision, created_ms, .. } = header;
    let BackupSummary { keys, bytes, sha256 } = summary;
    let mut lines = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name}: {value}");
    };
    line("revision", revision);
    line("keys", keys);
    line("bytes", bytes);
    line("sha256", sha256);
    line("cluster_id", cluster_id);
    line("node", node);
    line("version", version);
    line("created_ms", created_ms);
    lines
}

/// A reader that has closed its end has seen enough.
pub fn print(text: &str) {
    let _ = write!(io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(args: &[&str]) -> Result<BackupCommand, String> {
        let args = ["backup"].iter().chain(args);
        BackupArgs::try_parse_from(args).map_err(|error| error.to_string())?.command()
    }

    #[test]
    fn where_a_backup_comes_from() {
        for (from, url) in [
            (":11001", "http://localhost:11001"),
            ("h:1", "http://h:1"),
            ("http://h:1/", "http://h:1"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            let Ok(BackupCommand::Save { from: target, silence_max, .. }) =
                command(&["save", "f", "--from", from, "--timeout", "2s", "--consistency", "stale"])
            else {
                panic!("{from} is refused")
            };
            let expected = format!("{url}/v1/snapshot?timeout=2000ms&consistency=stale");
            assert_eq!((target.to_string(), silence_max.as_secs()), (expected, 7));
        }
        assert!(matches!(command(&["verify", "f"]), Ok(BackupCommand::Verify { .. })));
        for (args, named) in [
            (&["save", "f", "--from", "https://h:1"][..], "--from"),
            (&["save", "f", "--from", "h:x"], "--from"),
            (&["save", "f", "--timeout", "61s"], "--timeout"),
            (&["save", "f", "--consistency", "x"], "--consistency"),
            (&["save"], "FILE"),
            (&["erase", "f"], "erase"),
        ] {
            let refused = command(args).expect_err("must be refused");
            assert!(refused.contains(named), "{refused}");
        }
    }
}
