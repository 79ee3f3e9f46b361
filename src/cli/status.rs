//! `cutover status`: the state of the running proxy, once or as it changes.

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::cli::judged;
use crate::cli::watch::{Minute, errors, over};
use crate::config::values::AdminAddress;

/// How often `--watch` asks.
const INTERVAL: Duration = Duration::from_secs(1);

/// `cutover status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print one JSON document.
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// Show it again each second, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Only say, by the exit code, whether the proxy is ready: for health checks.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    ready: bool,
}

impl Status {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let address = global.admin()?;
        if self.ready {
            let (status, body) = admin_client::get(&address, "/readyz")?;
            anyhow::ensure!(status.is_success(), "{}", String::from_utf8_lossy(&body).trim());
            return Ok(ExitCode::SUCCESS);
        }
        let status = admin_client::get_json(&address, "/api/v1/status")?;
        if self.watch {
            return watch(&address, status);
        }
        let text = if self.json { format!("{status}\n") } else { prose(&status) };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows `status`, and what comes after it, until interrupted. A proxy that is gone may come back.
fn watch(address: &AdminAddress, status: Value) -> anyhow::Result<ExitCode> {
    let is_screen = std::io::stdout().is_terminal();
    let (mut minute, mut asked, mut answer) = (Minute::default(), Instant::now(), Ok(status));
    loop {
        let text = match answer {
            Ok(status) => {
                minute.add(&status, asked.elapsed());
                asked = Instant::now();
                format!(
                    "{}{}",
                    prose(&status),
                    if is_screen { minute.prose() } else { String::new() }
                )
            }
            Err(error) => format!("{error:#}\n"),
        };
        print(&if is_screen { over(&text) } else { text })?;
        #[expect(clippy::disallowed_methods, reason = "a person watches; nothing else waits")]
        std::thread::sleep(INTERVAL);
        answer = admin_client::get_json(address, "/api/v1/status");
    }
}

fn prose(status: &Value) -> String {
    let mut text = String::new();
    let config = &status["config"];
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "cutover {} · {} · up {} s · {} connections · config {}",
        plain(&status["version"]),
        plain(&status["phase"]),
        status["uptime_seconds"],
        status["connections"],
        plain(&config["hash"]),
    );
    for fault in config["faults"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  config refused: {}", plain(fault));
    }
    let _ = writeln!(
        text,
        "{:<20} {:>11} {:>10} {:>10}",
        "route", "configured", "effective", "observed"
    );
    for weight in status["weights"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:<20} {:>11.4} {:>10.4} {:>10}",
            plain(&weight["route"]),
            number(&weight["configured"]),
            number(&weight["effective"]),
            observed(&weight["requests"]),
        );
    }
    let _ = writeln!(
        text,
        "{:<7} {:>5} {:>10} {:>7} {:>9} {:>7} {:>9} {:>9} {:>9}",
        "path", "up", "requests", "errors", "in flight", "queued", "p50", "p95", "p99"
    );
    for name in ["legacy", "async"] {
        let path = &status["paths"][name];
        let errors = errors(path);
        let quantile = |q: &str| bound(&path["duration_seconds"][q]);
        let _ = writeln!(
            text,
            "{name:<7} {:>5} {:>10} {errors:>7} {:>9} {:>7} {:>9} {:>9} {:>9}",
            up(&path["endpoints"]),
            path["requests"].to_string(),
            path["in_flight"].to_string(),
            path["queue_depth"].to_string(),
            quantile("p50"),
            quantile("p95"),
            quantile("p99"),
        );
    }
    text.push_str(&judged::prose(&status["guard"]));
    text.push_str(&judged::mirror(&status["mirror"]));
    text
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// How many endpoints are up, and of how many.
fn up(endpoints: &Value) -> String {
    let endpoints = endpoints.as_array().map_or(&[][..], Vec::as_slice);
    let up = endpoints.iter().filter(|endpoint| endpoint["up"] == true).count();
    format!("{up}/{}", endpoints.len())
}

/// The share that the async path really got.
fn observed(requests: &Value) -> String {
    let (legacy, async_) = (number(&requests["legacy"]), number(&requests["async"]));
    let all = legacy + async_;
    if all > 0.0 { format!("{:.4}", async_ / all) } else { "-".to_owned() }
}

/// Quantiles are the upper bounds of histogram buckets.
fn bound(seconds: &Value) -> String {
    seconds.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("<={:.1}ms", seconds * 1e3))
}
