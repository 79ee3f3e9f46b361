//! `cutover audit`: where a running process waits, which an event loop could not.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::audit::findings::{Audit, Finding, ProcessUse};
use crate::audit::wait::Group;
use crate::audit::{self, Plan, RATE_MAX, SPAN_MAX, SPAN_MIN};
use crate::cli::global::{Global, print};
use crate::config::values::Time;

/// Findings that are listed for people; the JSON has all.
const ROWS_MAX: usize = 20;
/// The smallest share that is listed: below it is the noise of threads that just wake up.
const SHARE_MIN: f64 = 0.005;
/// How often progress is shown: often enough to see that it goes on.
const INTERVAL: Duration = Duration::from_millis(200);
/// The most that a column of the table takes, in characters, before it is left ragged.
const WIDTH_MAX: usize = 60;

/// `cutover audit --pid PID`
#[derive(Debug, Args)]
pub(crate) struct Audited {
    /// The process; all that descend from it are watched too, as a server's workers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    pid: u32,
    /// How long: 1s to 10m.
    #[arg(long = "for", default_value = "10s", value_parser = span)]
    span: Duration,
    /// Looks a second at each thread, 1 to 200. Fewer if they would take over a tenth of a core.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
    /// Add what was found to the running proxy's baseline.
    #[arg(long)]
    baseline: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let Time(span) = Time::from_str(text)?;
    let is_within = (SPAN_MIN..=SPAN_MAX).contains(&span);
    is_within.then_some(span).ok_or_else(|| format!("`{text}` is not within 1s to 10m"))
}

impl Audited {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let audit = self.watch()?;
        print(&if self.json { format!("{}\n", json!(audit)) } else { prose(&audit) })?;
        if self.baseline {
            global
                .order("/api/v1/baseline/audit", &json!({ "audit": audit.kept() }))
                .context("the baseline was not changed")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn watch(&self) -> anyhow::Result<Audit> {
        let plan = Plan { pid: self.pid, span: self.span, rate: self.rate };
        let is_watched = std::io::stderr().is_terminal();
        let mut shown = Duration::ZERO;
        let audit = audit::run(plan, |so_far, busy| {
            if is_watched && so_far.saturating_sub(shown) >= INTERVAL {
                shown = so_far;
                let (now, end) = (so_far.as_secs(), plan.span.as_secs());
                eprint!("\r{now} of {end} s, {busy} busy samples ");
            }
        });
        if is_watched && !shown.is_zero() {
            eprintln!();
        }
        Ok(audit?)
    }
}

fn prose(audit: &Audit) -> String {
    let Audit { seconds, rounds, idle, busy, torn, .. } = audit;
    let mut text = format!(
        "process {}, watched for {seconds:.1} s, {:.0} times a second: {busy} samples of busy threads, \
         {idle} of idle ones, {torn} of threads that moved on\n\n",
        audit.pid,
        *rounds as f64 / seconds.max(f64::MIN_POSITIVE),
    );
    text.push_str(&findings(audit));
    let groups = Group::ALL.iter().filter_map(|group| Some((group, audit.groups.get(group)?)));
    let shares =
        groups.map(|(group, count)| format!("{} {}", group.words(), percent(*count, *busy)));
    let shares: Vec<_> = shares.collect();
    if !shares.is_empty() {
        text.push_str(&format!("\nbusy threads: {}\n", shares.join(", ")));
    }
    if !audit.processes.is_empty() {
        text.push('\n');
        text.push_str(&processes(&audit.processes));
    }
    for missing in &audit.missing {
        text.push_str(&format!("not seen: {missing}\n"));
    }
    text
}

fn percent(part: u64, all: u64) -> String {
    format!("{:.0} %", part as f64 * 100.0 / all as f64)
}

fn findings(audit: &Audit) -> String {
    if audit.findings.is_empty() {
        return "no thread was busy: all of them waited for work\n".to_owned();
    }
    // They are in order, the most frequent first.
    let known = audit.findings.iter().take_while(|finding| finding.share >= SHARE_MIN).count();
    let shown = &audit.findings[..known.min(ROWS_MAX)];
    let width = |of: fn(&Finding) -> String, title: &str| {
        let widths = shown.iter().map(|finding| of(finding).chars().count());
        widths.filter(|width| *width <= WIDTH_MAX).max().unwrap_or(0).max(title.len())
    };
    let (place, cause) = (width(Finding::place, "call site"), width(Finding::cause, "primitive"));
    let mut text = format!(
        "{:<place$}  {:<cause$}  share  threads  what it means\n",
        "call site", "primitive"
    );
    for finding in shown {
        text.push_str(&format!(
            "{:<place$}  {:<cause$}  {:>3.0} %  {:>7}  {}\n",
            finding.place(),
            finding.cause(),
            finding.share * 100.0,
            finding.threads,
            finding.meaning(),
        ));
    }
    if audit.findings.len() > shown.len() {
        let more = audit.findings.len() - shown.len();
        text.push_str(&format!("and {more} more: they are in --json\n"));
    }
    text
}

fn processes(processes: &[ProcessUse]) -> String {
    let mut text = format!(
        "{:>7} {:<15} {:<8} {:>7} {:>6} {:>10} {:>15} {:>8}\n",
        "process", "name", "python", "threads", "files", "memory", "thread stacks", "CPU"
    );
    for process in processes {
        let or_nothing = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        text.push_str(&format!(
            "{:>7} {:<15} {:<8} {:>7} {:>6} {:>10} {:>15} {:>8}\n",
            process.pid,
            process.name,
            or_nothing(process.python.clone()),
            process.threads,
            or_nothing(process.descriptors.map(|number| number.to_string())),
            format!("{} MiB", process.rss_bytes >> 20),
            or_nothing(process.stack_bytes.map(|bytes| format!("{} KiB", bytes >> 10))),
            format!("{:.2} s", process.cpu_seconds),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_from_one_second_to_ten_minutes() {
        for (text, is_one) in [
            ("1s", true),
            ("999ms", false),
            ("10m", true),
            ("601s", false),
            ("0s", false),
            ("10", false),
        ] {
            assert_eq!(span(text).is_ok(), is_one, "{text}");
        }
    }
}
