//! When a path gets no more shadows for a while: it fails, or is slow, and copies would only add to that.
//!
//! Pure: time is an argument. What the answers say is not its concern.

use std::collections::VecDeque;
use std::time::Duration;

/// Shadows that fail in a row before it opens.
const FAILURES_MAX: u32 = 10;
/// How many times the primary's P95 that of the shadows may be.
const RATIO_MAX: u32 = 2;
/// And by how much it must be longer: twice of next to nothing is no harm.
const GAIN_MIN: Duration = Duration::from_millis(2);
/// Answers in whose P95 it is measured, the last ones.
const WINDOW: usize = 100;
/// Without so many a P95 is but a few requests.
const WINDOW_MIN: usize = 50;
/// How long it stays open, and how long it waits for its probe.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Whether a path gets shadows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// It does.
    #[default]
    Closed,
    /// It does not.
    Open,
    /// It gets one, which decides.
    Probe,
}

/// Why it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Shadows failed in a row, or the probe did.
    Failures,
    /// Shadows took this much longer than the primary path, at their P95s.
    Slow {
        /// Of the shadows.
        shadow: Duration,
        /// Of the primary path.
        primary: Duration,
    },
}

/// The breaker of one path.
#[derive(Debug, Default)]
pub struct Breaker {
    gate: Gate,
    // Until when it stays as it is, if it is not closed.
    until: Duration,
    failures: u32,
    // How long shadows took to their heads, and the primary path for the same requests.
    took: VecDeque<(Duration, Duration)>,
}

impl Breaker {
    /// Whether the path gets shadows.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// A shadow failed; why that opens it, if it does.
    pub fn failed(&mut self, now: Duration, is_probe: bool) -> Option<Cause> {
        self.failures += 1;
        let opens = match self.gate {
            Gate::Closed => self.failures >= FAILURES_MAX,
            Gate::Open | Gate::Probe => is_probe,
        };
        opens.then(|| self.open(now, Cause::Failures))
    }

    /// A shadow was answered after `took`; why that opens it, if it does.
    pub fn answered(
        &mut self,
        now: Duration,
        is_probe: bool,
        took: (Duration, Option<Duration>),
    ) -> Option<Cause> {
        if self.gate != Gate::Closed {
            if is_probe {
                *self = Self::default();
            }
            return None;
        }
        self.failures = 0;
        let (shadow, Some(primary)) = took else {
            return None;
        };
        if self.took.len() == WINDOW {
            self.took.pop_front();
        }
        self.took.push_back((shadow, primary));
        let shadow = p95(self.took.iter().map(|took| took.0))?;
        let primary = p95(self.took.iter().map(|took| took.1))?;
        let is_slow = shadow > primary * RATIO_MAX && shadow - primary >= GAIN_MIN;
        is_slow.then(|| self.open(now, Cause::Slow { shadow, primary }))
    }

    /// To be called now and then: once it was open for long enough it asks for a probe, and for another
    /// if nothing was heard of that. Whether it does so now.
    pub fn step(&mut self, now: Duration) -> bool {
        let is_due = self.gate != Gate::Closed && now >= self.until;
        if is_due {
            self.gate = Gate::Probe;
            self.until = now + OPEN_FOR;
        }
        is_due
    }

    fn open(&mut self, now: Duration, cause: Cause) -> Cause {
        *self = Self { gate: Gate::Open, until: now + OPEN_FOR, ..Self::default() };
        cause
    }
}

/// `None` where there are too few.
fn p95(took: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut took: Vec<_> = took.collect();
    if took.len() < WINDOW_MIN {
        return None;
    }
    took.sort_unstable();
    took.get(took.len() * 95 / 100).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn millis(shadow: u64, primary: u64) -> (Duration, Option<Duration>) {
        (Duration::from_millis(shadow), Some(Duration::from_millis(primary)))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert!((0..9).all(|_| breaker.failed(seconds(0), false).is_none()));
        assert_eq!(breaker.failed(seconds(0), false), Some(Cause::Failures));
        assert_eq!(breaker.gate(), Gate::Open);
        breaker
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_an_answer_between_starts_anew() {
        opened();
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            (0..9).for_each(|_| assert_eq!(breaker.failed(seconds(0), false), None));
            assert_eq!(breaker.answered(seconds(0), false, (seconds(1), None)), None);
        }
        assert_eq!(breaker.gate(), Gate::Closed);
    }

    #[test]
    fn twice_the_primary_at_the_p95_opens_it() {
        for (shadow, primary, opens) in [
            (21, 10, true),
            (20, 10, false),
            // A millisecond more is nothing.
            (2, 1, false),
            (3, 1, true),
        ] {
            let mut breaker = Breaker::default();
            let mut answer = || breaker.answered(seconds(0), false, millis(shadow, primary));
            assert!((0..49).all(|_| answer().is_none()), "too few to say");
            assert_eq!(answer().is_some(), opens, "{shadow} {primary}");
        }
        let mut breaker = Breaker::default();
        for round in 0..1_000 {
            // One in 30 is slow: not the P95.
            let shadow = if round % 30 == 0 { 500 } else { 10 };
            assert_eq!(breaker.answered(seconds(0), false, millis(shadow, 10)), None);
        }
    }

    #[test]
    fn after_thirty_seconds_one_probe_decides() {
        let mut breaker = opened();
        assert!(!breaker.step(seconds(29)));
        assert!(breaker.step(seconds(30)) && breaker.gate() == Gate::Probe);
        // What was sent before it says nothing of the path now.
        assert_eq!(breaker.answered(seconds(31), false, millis(1, 1)), None);
        assert_eq!(breaker.failed(seconds(31), false), None);
        assert_eq!(breaker.gate(), Gate::Probe);
        assert_eq!(breaker.failed(seconds(32), true), Some(Cause::Failures));
        assert!(!breaker.step(seconds(61)) && breaker.gate() == Gate::Open);
        assert!(breaker.step(seconds(62)));
        // A probe that was lost is followed by another.
        assert!(!breaker.step(seconds(91)));
        assert!(breaker.step(seconds(92)) && breaker.gate() == Gate::Probe);
        assert_eq!(breaker.answered(seconds(93), true, millis(900, 1)), None);
        assert_eq!(breaker.gate(), Gate::Closed);
    }
}
