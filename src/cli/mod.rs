//! The command line: one file a command, all of the same shape.

mod admin_client;
mod check;
mod demo;
mod explain;
mod run;
mod status;
mod weight;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::config::values::AdminAddress;

/// Moves live traffic from a legacy backend to its successor without losing a request.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// The config file.
    #[arg(
        long,
        global = true,
        env = "CUTOVER_CONFIG",
        default_value = "cutover.toml"
    )]
    config: PathBuf,
    /// The running proxy's admin address, such as 127.0.0.1:9900 or unix:/run/cutover.sock; the
    /// config's by default.
    #[arg(long, global = true, env = "CUTOVER_ADMIN")]
    admin: Option<AdminAddress>,
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
    /// Say which path a key takes, and at what weight it moves.
    Explain(explain::Explain),
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
            Command::Explain(command) => command.run(&global),
        }
    }
}

impl Global {
    /// Where the running proxy's admin listener is.
    fn admin(&self) -> anyhow::Result<AdminAddress> {
        match &self.admin {
            Some(address) => Ok(address.clone()),
            None => {
                let config = Config::load(&self.config)
                    .context("no --admin is given, and the config does not tell the address")?;
                Ok(config.admin.address)
            }
        }
    }
}

/// A result goes to standard output; a closed pipe there ends the program quietly.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}
