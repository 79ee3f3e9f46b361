//! The command line: one file a command, all of the same shape.

mod admin_client;
mod audit;
mod baseline;
mod check;
mod completions;
mod demo;
mod diffs;
mod drain;
mod explain;
mod global;
mod judge;
mod judged;
mod log;
mod man;
mod ramp;
mod report;
mod resume;
mod rollback;
mod run;
mod service;
mod status;
mod upgrade;
mod watch;
mod weight;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::global::Global;

/// Moves live traffic from a legacy backend to its successor without losing a request.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then drain.
    Run(run::Run),
    /// Check a config file and report all that is wrong with it.
    Check(check::Check),
    /// Show two embedded backends, the proxy and a light load at work.
    Demo(demo::Demo),
    /// Show the state of the running proxy.
    Status(status::Status),
    /// Set the share of the async path in the config file, and wait until it is in force.
    Weight(weight::Weight),
    /// Watch a running process, and name the calls that would block an event loop.
    Audit(audit::Audited),
    /// Record what is normal, or show it.
    Baseline(baseline::Baseline),
    /// Show where the ramp stands, or tell it what to do.
    Ramp(ramp::Ramp),
    /// Send nothing to the async path any more, at once.
    Rollback(rollback::Rollback),
    /// Release a rollback by its id.
    Resume(resume::Resume),
    /// Let one path finish, and certify that it may be switched off.
    Drain(drain::Drain),
    /// Let the program that lies where the running one did take over, without losing a request.
    Upgrade(upgrade::Upgrade),
    /// Show where the answers of both paths differ.
    Diffs(diffs::Diffs),
    /// Tell the migration's story.
    Report(report::Report),
    /// Record what the guard is told, or judge a recording again.
    Judge(judge::Judge),
    /// Say which path a key takes, and at what weight it moves.
    Explain(explain::Explain),
    /// Print the script by which a shell completes commands and flags.
    Completions(completions::Completions),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(man::Man),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever stopped it, with its context.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { global, command } = self;
        match command {
            Command::Run(command) => command.run(&global),
            Command::Check(command) => command.run(&global),
            Command::Demo(command) => command.run(),
            Command::Status(command) => command.run(&global),
            Command::Weight(command) => command.run(&global),
            Command::Audit(command) => command.run(&global),
            Command::Baseline(command) => command.run(&global),
            Command::Ramp(command) => command.run(&global),
            Command::Rollback(command) => command.run(&global),
            Command::Resume(command) => command.run(&global),
            Command::Drain(command) => command.run(&global),
            Command::Upgrade(command) => command.run(&global),
            Command::Diffs(command) => command.run(&global),
            Command::Report(command) => command.run(&global),
            Command::Judge(command) => command.run(&global),
            Command::Explain(command) => command.run(&global),
            Command::Completions(command) => command.run(Self::command()),
            Command::Man(command) => command.run(Self::command()),
        }
    }
}
