//! The `vaultdb` process: command line, composition, signals, exit codes.
//!
//! Owns the order in which parts start and stop. Decides nothing about data.

mod backup;
mod bench;
mod cli;
mod download;
mod lock;
mod node;
mod probe;
mod recover;
mod restore;

use std::io::Write;
use std::process::ExitCode;

// Allocation is a tenth of a leader's work under load, and mimalloc halves it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let action = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(action) => action,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match action {
        cli::Action::PrintAndExit(text) => {
            // A reader that has closed its end, such as `head`, has seen enough.
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            ExitCode::SUCCESS
        }
        cli::Action::Probe { target, timeout } => match probe::run(&target, timeout) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        },
        cli::Action::Bench(bench) => match bench.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => {
                eprintln!("vaultdb: no request succeeded");
                ExitCode::FAILURE
            }
            Err(e) => {
                eprintln!("vaultdb: {e}");
                ExitCode::FAILURE
            }
        },
        cli::Action::Backup(command) => match command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("vaultdb: {e}");
                ExitCode::FAILURE
            }
        },
        cli::Action::Restore(restore) => exit_of(restore.run()),
        cli::Action::Recover(recover) => exit_of(recover.run()),
        cli::Action::Run(config) => end(node::run(*config)),
    }
}

/// Ends a process that ran a node, without the exit handlers of libraries: threads that read a disk that hangs, or that
/// belong to an actor that hangs, outlive the node, and RocksDB aborts the process when it is taken apart under one.
fn end(result: Result<(), node::NodeError>) -> ! {
    let code = match result {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("vaultdb: {e}");
            e.exit_code()
        }
    };
    signal_hook::low_level::exit(code.into())
}

fn exit_of(result: Result<(), node::NodeError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vaultdb: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
