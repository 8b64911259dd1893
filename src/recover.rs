//! `vaultdb recover --force-new-cluster`: a new cluster from one survivor's data directory.
//!
//! Owns the words in which the operator is told what may be lost, and the question whether to go on.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};

use clap::Parser;
use vaultdb_actors::boot::BootError;
use vaultdb_actors::offline::{Survivor, SurvivorFacts};
use vaultdb_actors::LogId;
use vaultdb_config::Config;
use vaultdb_kv::MemberAddr;

use crate::backup::print;
use crate::cli::{config_of, RunArgs, UsageError};
use crate::lock::DataDirLock;
use crate::node::{log_options, store_options, NodeError};
use crate::restore::{bump_range, BUMP_REVISION_DEFAULT};

const USAGE: &str = "vaultdb recover --force-new-cluster -id NAME [FLAGS] <data-dir>";
const ABOUT: &str = "Makes a new cluster from the data of one survivor, when a majority is lost for good";
const AFTER_HELP: &str = "\
For the case that more than half of the voters are lost and will never come back. Stop every node of the
old cluster first, choose the survivor with the highest last_log, and make a copy of its data directory.

The survivor becomes the only member of a cluster with a new id, which goes on from everything in its
store and its log. Nodes of the old cluster are refused by it: empty their directories and let them join.
A write that was acknowledged by others only, and is not in the survivor's log, is lost.

Addresses that are given with -haddr and -raddr, or the --advertise flags, replace those by which the
old cluster knew the node. A command that was cut short is given again.

Exit codes: 0 done, 2 usage or configuration, 70 the data is damaged, 1 anything else.";

#[derive(Debug, Parser)]
#[command(name = "vaultdb recover", version, about = ABOUT, override_usage = USAGE, after_help = AFTER_HELP)]
pub struct RecoverArgs {
    /// Required: leave the old cluster for good
    #[arg(long, required = true)]
    force_new_cluster: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// How far past the survivor's revisions the new cluster goes on
    #[arg(long, value_name = "N", default_value_t = BUMP_REVISION_DEFAULT, value_parser = bump_range())]
    bump_revision: u64,
    #[command(flatten)]
    run: RunArgs,
}

/// What is to be recovered, checked.
#[derive(Debug)]
pub struct Recover {
    yes: bool,
    bump_revision: u64,
    config: Config,
}

impl RecoverArgs {
    /// # Errors
    /// [`UsageError`].
    pub fn plan(self, env: Vec<(OsString, OsString)>) -> Result<Recover, UsageError> {
        let config = config_of(self.run, env)?;
        if config.inmem {
            return Err(UsageError::new("a node with -inmem keeps nothing to recover from"));
        }
        Ok(Recover { yes: self.yes, bump_revision: self.bump_revision, config })
    }
}

impl Recover {
    /// Tells, asks and does it.
    ///
    /// # Errors
    /// [`NodeError`]; each has its exit code.
    pub fn run(self) -> Result<(), NodeError> {
        let Self { yes, bump_revision, config } = self;
        if !config.data_dir.is_dir() {
            // Taking the lock would make it.
            return Err(NodeError::Failed(format!("{} is no directory", config.data_dir.display())));
        }
        let _lock = DataDirLock::acquire(&config.data_dir)?;
        let survivor =
            Survivor::open(&config.data_dir, &config.id, store_options(&config), log_options(&config))
                .map_err(BootError::from)?;
        let addr = address(&config, survivor.facts());
        print(&tell(survivor.facts(), &addr));
        if !yes && !confirmed() {
            return Err(NodeError::Failed(
                "nothing was changed: answer yes, or give --yes, to make the new cluster".into(),
            ));
        }
        let cluster_id = survivor.force_new_cluster(&addr, bump_revision).map_err(BootError::from)?;
        print(&format!(
            "new cluster_id: {cluster_id}\nStart the node without -join; then empty the directories of the \
             others and let them join it.\n"
        ));
        Ok(())
    }
}

/// What was left at its default is what the old cluster knew.
fn address(config: &Config, facts: &SurvivorFacts) -> MemberAddr {
    let default = Config::default();
    let Some(known) = facts.addr.clone() else {
        return MemberAddr { raft: config.advertise_raddr.clone(), http: config.advertise_haddr.clone() };
    };
    let given = |given: &String, default: &String, known: String| match given == default {
        true => known,
        false => given.clone(),
    };
    MemberAddr {
        raft: given(&config.advertise_raddr, &default.raddr, known.raft),
        http: given(&config.advertise_haddr, &default.haddr, known.http),
    }
}

fn tell(facts: &SurvivorFacts, addr: &MemberAddr) -> String {
    let place = |id: Option<LogId>| match id {
        Some(LogId { term, index }) => format!("{term}-{index}"),
        None => "none".into(),
    };
    let member = |(name, votes): &(String, bool)| match votes {
        true => name.clone(),
        false => format!("{name} (learner)"),
    };
    let members: Vec<String> = facts.members.iter().map(member).collect();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let unconfirmed = index(facts.last_log).saturating_sub(index(facts.committed));
    let last = place(facts.last_log);
    let begun = facts.begun.as_ref().map_or(String::new(), |id| {
        format!("An earlier command was cut short; it goes on with new cluster_id {id}.\n")
    });
    format!(
        "cluster_id: {}\nnode: {} (id {}), raft {}, http {}\nmembers: {}\ncommitted: {}\n\
         last_log: {last}\n\
         Kept: everything up to entry {last}, also the {unconfirmed} entries of which this node does not know \
         whether they were committed: writes with an unknown outcome may take effect by this.\n\
         May be lost: every write that the others acknowledged after entry {last}. This node cannot know \
         whether there are any.\n{begun}",
        facts.cluster_id,
        facts.name,
        facts.node_id,
        addr.raft,
        addr.http,
        members.join(", "),
        place(facts.committed),
    )
}

fn confirmed() -> bool {
    print("Type yes to leave the old cluster for good: ");
    // Shown or not, the answer decides.
    let _ = io::stdout().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}
