//! The lag of an endpoint's event loop, as a probe sees it.
//!
//! A probe that asks for something trivial takes as long as the network and the handler need, its
//! floor, and longer by as much as the loop was busy with something else.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::histogram::{Observed, nanos};

/// The floor is the shortest of so many probes.
const FLOOR_PROBES: usize = 100;
/// Late probes that are kept, to be compared with silences.
const LATE_MAX: usize = 64;

/// What the probes of one endpoint have found.
#[derive(Debug, Default)]
pub struct LoopLag(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Duration>,
    observed: Observed,
    late: VecDeque<(u64, u64)>,
    // When the probe that is under way began, and after how long it is late.
    open: Option<(u64, Duration)>,
}

impl LoopLag {
    /// A probe begins; it is late if it lags by `late_after`.
    pub fn begin(&self, start_ns: u64, late_after: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open = Some((start_ns, late_after));
    }

    /// Records a probe from `start_ns` to `end_ns` on the fleet's clock; it is late if it lagged by
    /// `late_after` or more.
    pub fn record(&self, start_ns: u64, end_ns: u64, late_after: Duration) {
        let took = Duration::from_nanos(end_ns.saturating_sub(start_ns));
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = None;
        state.recent.push_back(took);
        if state.recent.len() > FLOOR_PROBES {
            state.recent.pop_front();
        }
        let floor = state.recent.iter().min().copied().unwrap_or(took);
        let lag = took.saturating_sub(floor);
        state.observed.record(lag);
        if lag >= late_after {
            state.late.push_back((start_ns, end_ns));
            if state.late.len() > LATE_MAX {
                state.late.pop_front();
            }
        }
    }

    /// The lags so far; `None` if the endpoint is not probed.
    #[must_use]
    pub fn observed(&self) -> Option<Observed> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.observed.count() > 0).then(|| state.observed.clone())
    }

    /// Whether a probe was held up in this span.
    #[must_use]
    pub fn shares(&self, start_ns: u64, end_ns: u64) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The answer to the probe may come a moment after that which ended the silence.
        let is_open = state
            .open
            .is_some_and(|(start, late_after)| end_ns.saturating_sub(start) >= nanos(late_after));
        is_open || state.late.iter().any(|(start, end)| *start < end_ns && *end > start_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn lag_is_what_a_probe_takes_above_its_floor() {
        let lag = LoopLag::default();
        let late_after = Duration::from_millis(100);
        assert_eq!(lag.observed(), None);
        for (start, took) in [(0, 5), (100, 6), (200, 104), (400, 105), (600, 300)] {
            lag.record(start * MS, (start + took) * MS, late_after);
        }
        for (start, end, shared) in
            [(210, 300, false), (390, 410, true), (505, 600, false), (650, 660, true)]
        {
            assert_eq!(lag.shares(start * MS, end * MS), shared, "{start} to {end}");
        }
        let observed = lag.observed().unwrap();
        assert_eq!(observed.count(), 5);
        assert!((observed.sum - 0.495).abs() < 1e-9, "{}", observed.sum);
    }

    #[test]
    fn a_probe_that_is_still_waited_for_is_held_up_too() {
        let lag = LoopLag::default();
        lag.begin(1_000 * MS, Duration::from_millis(100));
        for (end, shared) in [(900, false), (1_099, false), (1_100, true)] {
            assert_eq!(lag.shares(800 * MS, end * MS), shared, "{end}");
        }
        lag.record(1_000 * MS, 1_050 * MS, Duration::from_millis(100));
        assert!(!lag.shares(800 * MS, 1_100 * MS));
    }

    #[test]
    fn the_floor_follows_what_has_changed_for_good() {
        let lag = LoopLag::default();
        let late_after = Duration::from_millis(10);
        lag.record(0, MS, late_after);
        for probe in 1..=FLOOR_PROBES as u64 + 1 {
            lag.record(probe * 100 * MS, (probe * 100 + 20) * MS, late_after);
        }
        let last = (FLOOR_PROBES as u64 + 1) * 100;
        assert!(!lag.shares(last * MS, (last + 20) * MS));
        assert!(lag.shares(FLOOR_PROBES as u64 / 2 * 100 * MS, u64::MAX));
    }
}
