//! `vaultdb restore`: a new data directory from a backup.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use vaultdb_actors::boot::BootError;
use vaultdb_actors::offline::{restore, RestorePlan};
use vaultdb_config::Config;
use vaultdb_kv::MemberAddr;

use crate::backup::{describe, print};
use crate::cli::{config_of, RunArgs, UsageError};
use crate::lock::DataDirLock;
use crate::node::{log_options, store_options, NodeError};

/// How far revisions of a new cluster go on past those of the old one, unless told: more writes than the old one
/// can have made since, so that no revision is given to two of them.
pub const BUMP_REVISION_DEFAULT: u64 = 1_000_000_000;

/// Largest `--bump-revision`: JSON in a browser tells whole numbers apart up to here.
const BUMP_REVISION_MAX: u64 = 1 << 53;

/// What `--bump-revision` takes.
pub fn bump_range() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=BUMP_REVISION_MAX)
}

const USAGE: &str = "vaultdb restore <FILE> -id NAME [FLAGS] <data-dir>";
const ABOUT: &str = "Makes the data directory of the first node of a new cluster from a backup";
const AFTER_HELP: &str = "\
Give it the name and the addresses with which the node will be started, by flags, variables or the file
as for a node. Then start that node, and others with -join: they get the data from it.

The data directory must be empty. The keys keep their revisions; the cluster has a new id and goes on
from the backup's revision plus --bump-revision.

Exit codes: 0 restored, 2 usage or configuration, 70 what was written cannot be read back, 1 anything
else.";

#[derive(Debug, Parser)]
#[command(name = "vaultdb restore", version, about = ABOUT, override_usage = USAGE, after_help = AFTER_HELP)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How far past the backup's revision the new cluster begins
    #[arg(long, value_name = "N", default_value_t = BUMP_REVISION_DEFAULT, value_parser = bump_range())]
    bump_revision: u64,
    #[command(flatten)]
    run: RunArgs,
}

/// What is to be restored, checked.
#[derive(Debug)]
pub struct Restore {
    file: PathBuf,
    bump_revision: u64,
    config: Config,
}

impl RestoreArgs {
    /// # Errors
    /// [`UsageError`].
    pub fn plan(self, env: Vec<(OsString, OsString)>) -> Result<Restore, UsageError> {
        let config = config_of(self.run, env)?;
        if config.inmem {
            return Err(UsageError::new("a node with -inmem keeps nothing that could be restored"));
        }
        Ok(Restore { file: self.file, bump_revision: self.bump_revision, config })
    }
}

impl Restore {
    /// Does it and prints what was restored.
    ///
    /// # Errors
    /// [`NodeError`]; each has its exit code.
    pub fn run(self) -> Result<(), NodeError> {
        let Self { file, bump_revision, config } = self;
        let _lock = DataDirLock::acquire(&config.data_dir)?;
        let plan = RestorePlan {
            backup: file,
            name: config.id.clone(),
            addr: MemberAddr { raft: config.advertise_raddr.clone(), http: config.advertise_haddr.clone() },
            bump_revision,
            store: store_options(&config),
            log: log_options(&config),
            data_dir: config.data_dir,
        };
        let restored = restore(&plan).map_err(BootError::from)?;
        print(&format!(
            "{} is restored from {}\n{}new cluster_id: {}\nrevisions go on from: {}\n",
            plan.data_dir.display(),
            plan.backup.display(),
            describe(&restored.header, &restored.summary),
            restored.cluster_id,
            restored.revision
        ));
        Ok(())
    }
}
