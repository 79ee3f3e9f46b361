//! The migration's story, as the admin API answers it, and how its values are written for people.
//!
//! Owns the shape of `GET /api/v1/report`: field names are stable, durations and sizes have their unit
//! in the name or are bytes, times are RFC 3339. It gathers nothing and judges nothing. The command
//! line reads the same JSON back and renders it, so that a report can be made again from a saved one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::findings::Audit;
use crate::compare::view::Diffs;
use crate::vocab::{PerSide, Side};

/// The version of this format.
pub const VERSION: u32 = 1;

/// All that a report tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// The version of this format.
    pub version: u32,
    /// When the report was made.
    pub generated_at: String,
    /// The proxy's version.
    pub product_version: String,
    /// The hash of the config file in force.
    pub config_hash: String,
    /// When the migration began, as far as is known: the first change of the log.
    pub started_at: String,
    /// What was normal before it; absent if nobody recorded that.
    pub baseline: Option<BaselineSummary>,
    /// What happened, oldest first.
    pub series: Vec<Point>,
    /// What the guard and its operators decided, oldest first.
    pub decisions: Vec<DecisionLine>,
    /// What changed, oldest first.
    pub changes: Vec<ChangeLine>,
    /// Routes that were seen to freeze a backend, the worst first.
    pub stalls: Vec<StallLine>,
    /// What is known of the differences of their answers, without samples; absent where nothing is
    /// mirrored.
    #[serde(default)]
    pub mirror: Option<Diffs>,
    /// Memory of the backends.
    pub memory: PerSide<Memory>,
    /// Requests since the start.
    pub totals: PerSide<Totals>,
    /// Requests that the proxy cut off, in a drain.
    pub lost: u64,
    /// The proof that a path is out of use; absent if none was drained.
    pub certificate: Option<CertificateSummary>,
    /// The migration guide's last page.
    pub checklist: Vec<ChecklistLine>,
}

/// What was normal before the migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselineSummary {
    /// When the recording ended.
    pub recorded_at: String,
    /// How long it took.
    pub took_seconds: f64,
    /// What of the config has changed since, in words; empty while the baseline holds.
    pub stale: Vec<String>,
    /// What each path did.
    pub paths: PerSide<BaselinePath>,
    /// What blocked in the legacy backend; absent if it was not audited.
    #[serde(default)]
    pub audit: Option<Audit>,
}

/// What one path did before the migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselinePath {
    /// Finished attempts.
    pub n: u64,
    /// Those that failed before any deadline.
    pub err: u64,
    /// Those that reached a deadline.
    pub tmo: u64,
    /// Throughput: attempts a second.
    pub per_second: f64,
    /// The median latency.
    pub p50_ms: Option<f64>,
    /// The latency that 95 % stay below.
    pub p95_ms: Option<f64>,
    /// The latency that 99 % stay below.
    pub p99_ms: Option<f64>,
    /// Resident memory of the backend, in bytes.
    pub rss: Option<u64>,
    /// Threads of the backend.
    pub threads: Option<u64>,
}

/// A span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its beginning.
    pub at: String,
    /// Its width.
    pub seconds: u64,
    /// The effective weight, 0 to 1.
    pub share: f64,
    /// The share of requests that async got; absent where none came.
    pub observed: Option<f64>,
    /// What each path did.
    pub paths: PerSide<PathPoint>,
}

/// What one path did in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathPoint {
    /// Finished attempts.
    pub n: u64,
    /// Those that failed before any deadline.
    pub err: u64,
    /// Those that reached a deadline.
    pub tmo: u64,
    /// The median latency; absent where nothing finished.
    pub p50_ms: Option<f64>,
    /// The latency that 95 % stay below.
    pub p95_ms: Option<f64>,
    /// The latency that 99 % stay below.
    pub p99_ms: Option<f64>,
    /// Resident memory of the backend, in bytes; absent where nobody measures it.
    pub rss: Option<u64>,
}

/// A decision, with its reasons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DecisionLine {
    /// When.
    pub time: String,
    /// By which it is released or looked up.
    pub id: Option<String>,
    /// What was decided: `rollback`, `no_safe_path`, `hold`, `advance`, `resume`, ...
    pub kind: String,
    /// The check that failed, if one did.
    pub check: Option<String>,
    /// The ramp's step at that moment, 0 to 1.
    pub step: Option<f64>,
    /// The effective weight before.
    pub from: Option<f64>,
    /// The effective weight after.
    pub to: Option<f64>,
    /// The explanation, in one line or several.
    pub text: String,
}

/// A line of the change log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeLine {
    /// When.
    pub time: String,
    /// What changed: `config`, `weight`, `phase`, `ramp`, ...
    pub what: String,
    /// The route whose weight changed, if one did.
    pub route: Option<String>,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
    /// Who made it, where that does not go without saying.
    pub who: Option<String>,
    /// The hash of the config file in force.
    pub config: String,
}

/// A route that was seen to freeze its backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StallLine {
    /// The path whose backend froze.
    pub path: Side,
    /// The route; absent where the loop probe saw stalls that no route explains.
    pub route: Option<String>,
    /// How many stalls are its.
    pub stalls: u64,
    /// Of how many on this path.
    pub of: u64,
    /// How long half of them took at most.
    pub median_ms: f64,
    /// How long the longest took.
    pub longest_ms: f64,
    /// When the last one was.
    pub last_at: Option<String>,
}

/// Resident memory of one path's backend, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In the baseline.
    pub before: Option<u64>,
    /// Now.
    pub after: Option<u64>,
}

/// Requests of one path since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All that it was given.
    pub requests: u64,
    /// Those that failed before any deadline.
    pub errors: u64,
    /// Those that reached a deadline.
    pub timeouts: u64,
    /// Those that a drain cut off.
    pub cut: u64,
}

/// The proof that a path is out of use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateSummary {
    /// The drained path.
    pub path: Side,
    /// When its last request had ended and the quiet time was over.
    pub issued_at: String,
    /// Requests that it was ever given.
    pub started: u64,
    /// Those that ended; all of them, or there is no certificate.
    pub finished: u64,
    /// Of these, those that were cut off because the operator insisted.
    pub cut: u64,
    /// The hash of the config file in force.
    pub config_hash: String,
    /// When a later request went to the path after all, which voids the certificate.
    pub voided_at: Option<String>,
}

/// A line of the checklist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecklistLine {
    /// What has to hold.
    pub text: String,
    /// Whether it does; absent while the migration is not that far.
    pub passed: Option<bool>,
    /// The numbers behind that.
    pub detail: String,
}

impl CertificateSummary {
    /// Why it proves nothing; absent while it does.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match &self.voided_at {
            Some(at) => Some(format!("void since {}", when(at))),
            None if self.finished != self.started => {
                Some("requests started and never ended".to_owned())
            }
            None => None,
        }
    }
}

// === Words ===

/// A time to the second, in UTC; what is no time is shown as it is.
pub(crate) fn when(time: &str) -> String {
    instant(time).map_or_else(|| time.to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// The moment that an RFC 3339 time names.
pub(super) fn instant(time: &str) -> Option<Timestamp> {
    time.parse().ok()
}

/// A share of requests, exact enough that a step of 12.5 % or of 99.99 % is shown as that.
pub(crate) fn share(share: f64) -> String {
    format!("{} %", trimmed(share * 100.0, 4))
}

/// A rate, to three significant digits.
pub(crate) fn rate(events: u64, n: u64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    (n > 0).then(|| percent(events as f64 / n as f64))
}

/// A part of one as a percentage, to three significant digits.
pub(crate) fn percent(part: f64) -> String {
    format!("{} %", significant(part * 100.0))
}

/// A duration, in the unit that suits it.
pub(crate) fn millis(ms: f64) -> String {
    if ms < 999.5 {
        format!("{} ms", significant(ms))
    } else {
        format!("{} s", significant(ms / 1e3))
    }
}

/// A size, in the unit that suits it.
pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    let mib = bytes as f64 / 1_048_576.0;
    if mib < 1000.0 {
        format!("{} MiB", significant(mib))
    } else {
        format!("{} GiB", significant(mib / 1024.0))
    }
}

/// A count with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    trimmed(value, decimals)
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_for_people() {
        assert_eq!([0.1, 0.125, 0.9999, 1.0].map(share), ["10 %", "12.5 %", "99.99 %", "100 %"]);
        assert_eq!(
            [0.0, 0.000_012, 0.0035, 0.32].map(percent),
            ["0 %", "0.001 %", "0.35 %", "32 %"]
        );
        assert_eq!(
            [0.25, 9.5, 480.0, 1250.0].map(millis),
            ["0.25 ms", "9.5 ms", "480 ms", "1.25 s"]
        );
        assert_eq!([1 << 20, 310 << 20, 2 << 30].map(bytes), ["1 MiB", "310 MiB", "2 GiB"]);
        assert_eq!([0, 999, 1000, 214_900].map(count), ["0", "999", "1,000", "214,900"]);
        assert_eq!([rate(1, 0), rate(1, 288)], [None, Some("0.347 %".to_owned())]);
        assert_eq!(when("2026-11-24T03:17:33.5+01:00"), "2026-11-24 02:17:33");
        assert_eq!(when("today"), "today");
    }
}
