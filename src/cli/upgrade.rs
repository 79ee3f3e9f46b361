//! `cutover upgrade`: the program at the place of the running one takes over, and no request is lost.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::global::{Global, print};
use crate::config::values::Time;

/// For what comes beside the new process's start: the old one ends what it does.
const MARGIN: Duration = Duration::from_secs(10);

/// `cutover upgrade`
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// How long the new process may take until it is ready.
    #[arg(long, default_value = "30s")]
    timeout: Time,
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
}

impl Upgrade {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let Time(timeout) = self.timeout;
        let order = json!({ "seconds": timeout.as_secs_f64() });
        let done = global.order_within("/api/v1/upgrade", &order, timeout + MARGIN)?;
        print(&if self.json {
            format!("{done}\n")
        } else {
            let seconds = done["seconds"].as_f64().unwrap_or_default();
            format!("upgraded: process {} has taken over after {seconds:.2} s\n", done["pid"])
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
