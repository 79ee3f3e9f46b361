//! `cutover ramp`: where the ramp stands, and what an operator tells it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::cli::judged;

/// `cutover ramp …`
#[derive(Debug, Args)]
pub(crate) struct Ramp {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Show the step, the verdict and what it waits for.
    Status {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Stay at this step.
    Pause,
    /// Go on after a pause.
    Continue,
    /// Let the next step be taken, which waits for that.
    Approve,
    /// Send nothing to the async path any more, until `cutover resume`.
    Abort,
}

impl Ramp {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let order = match self.order {
            Order::Status { json } => {
                let status = admin_client::get_json(&global.admin()?, "/api/v1/status")?;
                let guard = &status["guard"];
                print(&if json { format!("{guard}\n") } else { judged::prose(guard) })?;
                return Ok(ExitCode::SUCCESS);
            }
            Order::Pause => "pause",
            Order::Continue => "continue",
            Order::Approve => "approve",
            Order::Abort => "abort",
        };
        let decision = global.order(&format!("/api/v1/ramp/{order}"), &json!({}))?;
        print(&text(&decision))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A decision's own words.
pub(crate) fn text(decision: &Value) -> String {
    format!("{}\n", decision["text"].as_str().unwrap_or("?"))
}
