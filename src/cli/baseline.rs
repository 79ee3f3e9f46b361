//! `cutover baseline`: records what is normal, and shows it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::audit::findings::Audit;
use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::config::values::Time;

/// How often a recording is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// `cutover baseline …`
#[derive(Debug, Args)]
pub(crate) struct Baseline {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Record the legacy path as it is now: rates, quantiles, memory. Best at weight 0.
    Record {
        /// How long: 10m, 1h.
        #[arg(long = "for", default_value = "10m")]
        span: Time,
        /// Print one JSON document at the end.
        #[arg(long)]
        json: bool,
    },
    /// Show the baseline that is in use.
    Show {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

impl Baseline {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let json = match self.order {
            Order::Record { span: Time(span), json } => {
                let seconds = span.as_secs_f64();
                global.order("/api/v1/baseline", &json!({ "seconds": seconds }))?;
                follow(global)?;
                json
            }
            Order::Show { json } => json,
        };
        let answer = admin_client::get_json(&global.admin()?, "/api/v1/baseline")?;
        let baseline = &answer["baseline"];
        if baseline.is_null() {
            bail!("no baseline is recorded; see `cutover baseline record`");
        }
        print(&if json { format!("{baseline}\n") } else { prose(baseline) })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits until the recording has ended, and shows how far it is.
fn follow(global: &Global) -> anyhow::Result<()> {
    let address = global.admin()?;
    let is_watched = std::io::stderr().is_terminal();
    loop {
        let answer = admin_client::get_json(&address, "/api/v1/baseline")?;
        let recording = &answer["recording"];
        if recording.is_null() {
            if is_watched {
                eprintln!();
            }
            return match answer["failed"].as_str() {
                Some(why) => bail!("no baseline was recorded: {why}"),
                None => Ok(()),
            };
        }
        if is_watched {
            let [elapsed, span] = ["elapsed_seconds", "seconds"]
                .map(|field| recording[field].as_f64().unwrap_or(0.0));
            eprint!(
                "\r{elapsed:.0} of {span:.0} s, {} requests, {} failed ",
                recording["attempts"], recording["failures"]
            );
        }
        #[expect(clippy::disallowed_methods, reason = "a command that only waits")]
        std::thread::sleep(INTERVAL);
    }
}

fn prose(baseline: &Value) -> String {
    let mut text = format!(
        "baseline of {}, recorded for {:.0} s, phi {}\n",
        baseline["recorded_at"].as_str().unwrap_or("?"),
        baseline["took_seconds"].as_f64().unwrap_or(0.0),
        baseline["phi"]["fail"],
    );
    for why in baseline["stale"].as_array().into_iter().flatten() {
        text.push_str(&format!("stale: {}\n", why.as_str().unwrap_or("?")));
    }
    text.push_str(&format!(
        "{:<7} {:>9} {:>9} {:>7} {:>9} {:>22} {:>22} {:>9} {:>8}\n",
        "path", "requests", "req/s", "errors", "timeouts", "p95 ms", "p99 ms", "memory", "threads"
    ));
    for name in ["legacy", "async"] {
        let path = &baseline["paths"][name];
        let count = |field: &str| path["counts"][field].as_u64().unwrap_or(0);
        let memory = path["rss_bytes"].as_u64().map(|bytes| format!("{} MiB", bytes >> 20));
        text.push_str(&format!(
            "{name:<7} {:>9} {:>9.1} {:>7} {:>9} {:>22} {:>22} {:>9} {:>8}\n",
            count("n"),
            path["per_second"].as_f64().unwrap_or(0.0),
            count("err"),
            count("tmo"),
            quantile(&path["p95"]),
            quantile(&path["p99"]),
            memory.unwrap_or_else(|| "-".to_owned()),
            path["threads"].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string()),
        ));
    }
    // One that another version wrote is in the JSON.
    if let Ok(audit) = serde_json::from_value::<Audit>(baseline["audit"].clone()) {
        text.push_str(&blocking(&audit));
    }
    text
}

fn blocking(audit: &Audit) -> String {
    let mut text = format!("\n{}\n", audit.summary());
    for finding in &audit.findings {
        text.push_str(&format!("{}: {}\n", finding.words(), finding.meaning()));
    }
    text
}

/// A quantile with its 95 % interval.
fn quantile(quantile: &Value) -> String {
    let Some(value) = quantile["value_ms"].as_f64() else {
        return "-".to_owned();
    };
    let interval = &quantile["interval_ms"];
    match (interval[0].as_f64(), interval[1].as_f64()) {
        (Some(low), Some(high)) => format!("{value:.1} ({low:.1} to {high:.1})"),
        (_, _) => format!("{value:.1}"),
    }
}
