//! What the judge is told: the counts of one tick, the recorded baseline, and the rules.
//!
//! Pure data. One [`Tick`] is one line of `ticks.jsonl`, so it holds all that a verdict depends on but
//! for the rules: with those of that time, the file gives the same verdicts again. Empty and zero
//! fields are left out, since four lines are written each second. What the numbers mean is decided in
//! `judge.rs`.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compare::kind::Standing;
use crate::vocab::PerSide;

/// How often the judge looks. Four ticks at the cap make a rollback, so this is a quarter of the
/// shortest time in which one can come.
pub const TICK: Duration = Duration::from_millis(250);

/// Finished attempts, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// All of them.
    #[serde(skip_serializing_if = "is_zero")]
    pub n: u64,
    /// No connection, a reset, a protocol error, 5xx, or refused by the proxy on the path's behalf.
    #[serde(skip_serializing_if = "is_zero")]
    pub err: u64,
    /// A deadline was reached; none of these is in `err`.
    #[serde(skip_serializing_if = "is_zero")]
    pub tmo: u64,
    /// Answered with 4xx.
    #[serde(skip_serializing_if = "is_zero")]
    pub c4: u64,
    /// Took longer than the baseline's P95 threshold.
    #[serde(skip_serializing_if = "is_zero")]
    pub slow95: u64,
    /// Took longer than the baseline's P99 threshold.
    #[serde(skip_serializing_if = "is_zero")]
    pub slow99: u64,
}

/// A kind of outcome that is tested on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// [`Counts::err`].
    Error,
    /// [`Counts::tmo`].
    Timeout,
    /// Either of the two: an outage that is half one and half the other is seen sooner.
    Failure,
    /// [`Counts::c4`].
    ClientError,
    /// [`Counts::slow95`].
    Slow95,
    /// [`Counts::slow99`].
    Slow99,
}

/// What happened in the routes that share one weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The share of their requests that is routed to async: the exact weight of an even spread, or
    /// what a keyed split was seen to do.
    pub share: f64,
    /// Attempts that the weight routed.
    pub paths: PerSide<Counts>,
}

/// How busy a path is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Requests in flight at the tick's end.
    pub in_flight: u64,
    /// Requests that came to the path in the tick.
    pub arrivals: u64,
}

/// What a ramp waits for that no number can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    /// A person's approval of the next step.
    Approval,
    /// The webhook's.
    Webhook,
    /// The end of a pause.
    Paused,
}

/// All that the judge learns of one tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// When it ended, in milliseconds on any clock that does not go back.
    pub at_ms: u64,
    /// The epoch that it belongs to; evidence starts anew with each.
    pub epoch: u64,
    /// The largest effective share of any route.
    pub step: f64,
    /// The comparison, one group for each weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// The same attempts by route, of those routes in which something happened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, PerSide<Counts>>,
    /// How busy each path is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub load: PerSide<Load>,
    /// Resident memory of each path's backend in bytes, in ticks in which it was read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rss: PerSide<Option<u64>>,
    /// Whether requests may go back to legacy: its probes pass, and it is neither drained nor retired.
    pub legacy_safe: bool,
    /// What the ramp waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
    /// What the comparison of answers says of async; absent where nothing is mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Standing>,
}

/// What the legacy path did while the baseline was recorded, as far as the judge needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Finished attempts.
    pub n: u64,
    /// Errors among them.
    pub err: u64,
    /// Timeouts among them.
    pub tmo: u64,
    /// The mean time to a reply's head, in milliseconds.
    pub mean_ms: f64,
    /// Resident memory, where it was read.
    pub rss: Option<u64>,
    /// When, as it is shown.
    pub recorded_at: String,
    /// Whether there are thresholds, so that slow requests are counted at all.
    pub slow: bool,
}

/// How `tolerance` is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DivergenceMode {
    /// As a part of the legacy path's rate: 0.10 allows 1.10 times as much.
    #[default]
    Relative,
    /// As points: 0.10 allows ten in a hundred more.
    Absolute,
}

/// How much more than by chance events come together, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phi {
    /// Of errors and timeouts, and of what is slow.
    pub fail: f64,
    /// Of 4xx.
    pub c4: f64,
}

/// Every threshold, with the default that guard.md gives and defends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// How much worse async may be in errors and timeouts.
    pub tolerance: f64,
    /// How much worse it may be in 4xx, always as a part of legacy's rate.
    pub client_error_tolerance: f64,
    /// How `tolerance` is read.
    pub divergence_mode: DivergenceMode,
    /// Evidence that fails a check, in nats; a false alarm is at most exp(-this) likely.
    pub fail_at: f64,
    /// Evidence that holds the ramp.
    pub hold_at: f64,
    /// Evidence below which it is let go again.
    pub release_at: f64,
    /// Evidence by which a cause is held to be async's, or to be legacy's as well.
    pub shared_at: f64,
    /// The most that one tick may add.
    pub cap: f64,
    /// The rate below which nothing matters.
    pub rate_min: f64,
    /// The difference to legacy, in points, below which nothing matters.
    pub gain_min: f64,
    /// The same for 4xx.
    pub client_error_gain_min: f64,
    /// How many times the usual number may be in flight.
    pub goodput_factor: f64,
    /// For how long more may be.
    pub goodput_for: Duration,
    /// The number in flight below which it does not matter.
    pub goodput_min: u64,
    /// The hard cap of the backend's resident memory, in bytes.
    pub memory_max: Option<u64>,
    /// How many times legacy's memory holds the ramp.
    pub memory_ratio: f64,
    /// For how long memory may be over the cap.
    pub memory_for: Duration,
    /// The step below which memory says nothing yet.
    pub memory_step_min: f64,
    /// The time at an epoch's beginning in which what is slow is left out: caches are cold.
    pub latency_settle: Duration,
    /// How long a step lasts at least.
    pub soak: Duration,
    /// The path's response timeout: a step lasts three of them at least.
    pub response_timeout: Duration,
    /// Finished attempts on async that a step needs.
    pub min_requests: u64,
    /// Those from which P99 is asked for.
    pub p99_min_requests: u64,
    /// How far above the allowed rate the upper bound may be to advance.
    pub advance_ratio: f64,
    /// After this a step that is not done is told of.
    pub max_hold: Duration,
    /// No attempt for so long, on a path that should have some, is data missing.
    pub data_gap: Duration,
    /// Overdispersion, as recorded with the baseline.
    pub phi: Phi,
    /// Whether answers that differ roll back, once the ramp has begun; they hold it else.
    pub mismatch_rolls_back: bool,
    /// The recorded baseline; without it only the two paths are compared.
    pub baseline: Option<Norm>,
}

// === impl Counts ===

impl Counts {
    /// What was counted since `earlier`, a reading of the same counters.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            n: self.n.saturating_sub(earlier.n),
            err: self.err.saturating_sub(earlier.err),
            tmo: self.tmo.saturating_sub(earlier.tmo),
            c4: self.c4.saturating_sub(earlier.c4),
            slow95: self.slow95.saturating_sub(earlier.slow95),
            slow99: self.slow99.saturating_sub(earlier.slow99),
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.n += other.n;
        self.err += other.err;
        self.tmo += other.tmo;
        self.c4 += other.c4;
        self.slow95 += other.slow95;
        self.slow99 += other.slow99;
    }
}

// === impl Event ===

impl Event {
    /// All of them; the position of each is [`Self::index`].
    pub const ALL: [Self; 6] =
        [Self::Error, Self::Timeout, Self::Failure, Self::ClientError, Self::Slow95, Self::Slow99];

    /// Position in an array with one element an event.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// How many of `counts` are such.
    #[must_use]
    pub const fn of(self, counts: &Counts) -> u64 {
        match self {
            Self::Error => counts.err,
            Self::Timeout => counts.tmo,
            Self::Failure => counts.err + counts.tmo,
            Self::ClientError => counts.c4,
            Self::Slow95 => counts.slow95,
            Self::Slow99 => counts.slow99,
        }
    }

    /// Whether it needs the thresholds of a baseline.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        match self {
            Self::Slow95 | Self::Slow99 => true,
            Self::Error | Self::Timeout | Self::Failure | Self::ClientError => false,
        }
    }
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        Self {
            tolerance: 0.10,
            client_error_tolerance: 0.5,
            divergence_mode: DivergenceMode::Relative,
            fail_at: 16.0,
            hold_at: 6.0,
            release_at: 3.0,
            shared_at: 8.0,
            cap: 4.0,
            rate_min: 0.001,
            gain_min: 0.001,
            client_error_gain_min: 0.005,
            goodput_factor: 3.0,
            goodput_for: Duration::from_secs(10),
            goodput_min: 20,
            memory_max: None,
            memory_ratio: 1.5,
            memory_for: Duration::from_secs(60),
            memory_step_min: 0.5,
            latency_settle: Duration::from_secs(30),
            soak: Duration::from_secs(5 * 60),
            response_timeout: Duration::from_secs(30),
            min_requests: 500,
            p99_min_requests: 2000,
            advance_ratio: 1.5,
            max_hold: Duration::from_secs(30 * 60),
            data_gap: Duration::from_secs(60),
            phi: Phi { fail: 1.0, c4: 1.0 },
            mismatch_rolls_back: false,
            baseline: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
