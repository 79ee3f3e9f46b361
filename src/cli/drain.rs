//! `cutover drain`: lets one path finish, and certifies that it may be switched off.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::config::values::Time;
use crate::vocab::Side;

/// Exit code of a drain that left something.
const LEFT: u8 = 3;
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// `cutover drain PATH`
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The path.
    path: PathName,
    /// How long to wait for what is in flight.
    #[arg(long, default_value = "45s")]
    timeout: Time,
    /// Cut off what is left then.
    #[arg(long)]
    force: bool,
    /// Print the certificate as one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PathName {
    Legacy,
    Async,
}

impl Drain {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let side = match self.path {
            PathName::Legacy => Side::Legacy,
            PathName::Async => Side::Async,
        };
        let path = format!("/api/v1/paths/{side}/drain");
        let Time(timeout) = self.timeout;
        let seconds = timeout.as_secs_f64();
        global.order(&path, &json!({ "seconds": seconds, "force": self.force }))?;
        let status = follow(global, &path)?;
        let certificate = &status["certificate"];
        if status["stage"]["phase"] != "done" {
            print(&format!("{side} is not drained: {}\n", status["stage"]))?;
            return Ok(ExitCode::from(LEFT));
        }
        print(&if self.json {
            format!("{certificate}\n")
        } else {
            format!(
                "{side} is safe to switch off: {} requests, all ended; quiet for {} s\n",
                certificate["flow"]["finished"], certificate["quiet_seconds"]
            )
        })?;
        let is_cut = ["cut_requests", "cut_tunnels"].iter().any(|cut| certificate[*cut] != 0);
        Ok(if is_cut { ExitCode::from(LEFT) } else { ExitCode::SUCCESS })
    }
}

/// Waits until the drain has ended, and shows where it stands.
fn follow(global: &Global, path: &str) -> anyhow::Result<Value> {
    let address = global.admin()?;
    let is_watched = std::io::stderr().is_terminal();
    loop {
        let status = admin_client::get_json(&address, path)?;
        if status["running"] != true {
            if is_watched {
                eprintln!();
            }
            return Ok(status);
        }
        if is_watched {
            eprint!("\r{:<78}", status["stage"].to_string());
        }
        #[expect(clippy::disallowed_methods, reason = "a command that only waits")]
        std::thread::sleep(INTERVAL);
    }
}
