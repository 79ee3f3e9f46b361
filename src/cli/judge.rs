//! `cutover judge`: records what the guard is told, and judges a recording again.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::cli::judged;
use crate::config::values::Time;
use crate::guard::counts::{Rules, Tick};
use crate::guard::judge::State;
use crate::guard::verdict::Verdict;

/// How often the proxy is asked for its ticks; it keeps five minutes of them.
const INTERVAL: Duration = Duration::from_secs(1);

/// `cutover judge --replay FILE` or `--record FILE`
#[derive(Debug, Args)]
pub(crate) struct Judge {
    /// Judge this recording, and print each verdict that differs from the one before.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "record",
        required_unless_present = "record"
    )]
    replay: Option<PathBuf>,
    /// Record what the running proxy's guard is told.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// How long to record.
    #[arg(long = "for", default_value = "60s")]
    span: Time,
    /// Print each verdict as a JSON line.
    #[arg(long)]
    json: bool,
}

impl Judge {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match (&self.replay, &self.record) {
            (Some(file), _) => replay(file, self.json),
            (None, Some(file)) => record(global, file, self.span.0),
            (None, None) => Ok(ExitCode::from(2)),
        }
    }
}

/// The lines of a recording: rules where they change, and ticks.
fn record(global: &Global, file: &Path, span: Duration) -> anyhow::Result<ExitCode> {
    let address = global.admin()?;
    let cannot = || format!("can't write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(cannot)?);
    let (began, mut rules, mut number) = (Instant::now(), Value::Null, 0);
    let mut since = last_tick(&admin_client::get_json(&address, "/api/v1/ticks")?);
    while began.elapsed() < span {
        #[expect(clippy::disallowed_methods, reason = "a command that only waits")]
        std::thread::sleep(INTERVAL.min(span));
        let path = format!("/api/v1/ticks?since={since}");
        let answer = admin_client::get_json(&address, &path)?;
        if answer["rules"] != rules {
            rules = answer["rules"].clone();
            writeln!(out, "{}", json!({ "rules": rules })).with_context(cannot)?;
        }
        for tick in answer["ticks"].as_array().into_iter().flatten() {
            writeln!(out, "{tick}").with_context(cannot)?;
            number += 1;
        }
        since = since.max(last_tick(&answer));
    }
    out.flush().with_context(cannot)?;
    print(&format!("{}: {number} ticks\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn last_tick(answer: &Value) -> u64 {
    let ticks = answer["ticks"].as_array();
    ticks.and_then(|ticks| ticks.last()?["at_ms"].as_u64()).unwrap_or(0)
}

fn replay(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let opened = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    let (mut state, mut rules, mut last) = (State::new(), Rules::default(), "");
    let mut number = 0_u64;
    for (index, line) in BufReader::new(opened).lines().enumerate() {
        let line = line.with_context(|| format!("can't read {}", file.display()))?;
        let faulty = || format!("{}:{}: not a tick", file.display(), index + 1);
        let mut value: Value = serde_json::from_str(&line).with_context(faulty)?;
        if value.get("rules").is_some() {
            rules = serde_json::from_value(value["rules"].take()).with_context(faulty)?;
            continue;
        }
        let tick: Tick = serde_json::from_value(value).with_context(faulty)?;
        let verdict = state.step(&tick, &rules);
        number += 1;
        if as_json {
            print(&format!("{}\n", json!({ "at_ms": tick.at_ms, "verdict": verdict })))?;
        } else if verdict.name() != last {
            let seconds = Duration::from_millis(tick.at_ms).as_secs_f64();
            let words = judged::verdict(&serde_json::to_value(&verdict)?);
            print(&format!("{seconds:>10.2} s  {words}\n"))?;
            if let Verdict::Rollback(finding) | Verdict::NoSafePath(finding) = &verdict {
                print(&format!("{finding}\n"))?;
            }
        }
        last = verdict.name();
    }
    anyhow::ensure!(number > 0, "{}: no tick", file.display());
    Ok(ExitCode::SUCCESS)
}
