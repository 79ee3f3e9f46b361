//! What the guard counts of one path and route: attempts by their outcome, in the epoch in which
//! their request was routed.
//!
//! An epoch is the time between two changes of what the guard compares: a step of the ramp, a weight,
//! a new baseline. Evidence starts anew with each, so an attempt that was routed before must not count
//! after. A worker therefore counts into one of a few slots, each of which bears the number of its
//! epoch; a slot is cleared when a newer epoch needs it, and what is older than all slots is left out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::guard::loglinear::{BUCKETS, index};
use crate::metrics::cell::Cell64;
use crate::vocab::{Outcome, Routed};

/// Epochs that are told apart: the present one, and those whose last requests are still in flight.
const SLOTS: usize = 4;

/// What is counted of one path and route.
#[derive(Debug)]
pub struct AttemptCells {
    slots: [Slot; SLOTS],
    /// Request sent to response head, in log-linear buckets; of attempts that the weight routed.
    pub latency: Box<[Cell64; BUCKETS]>,
    /// The sum of the same, in nanoseconds.
    pub latency_ns: Cell64,
}

/// What is counted in one epoch; each number only grows while the epoch lasts.
#[derive(Debug, Default)]
pub struct Slot {
    epoch: AtomicU64,
    /// Requests that the weight sent this way.
    pub routed: Cell64,
    /// Finished attempts.
    pub finished: Cell64,
    /// Those that failed: no connection, a reset, no HTTP, 5xx, or refused here.
    pub errors: Cell64,
    /// Those that reached a deadline.
    pub timeouts: Cell64,
    /// Those answered with 4xx.
    pub client_errors: Cell64,
    /// Those that took longer than the baseline's P95 threshold.
    pub slow95: Cell64,
    /// Those that took longer than the baseline's P99 threshold.
    pub slow99: Cell64,
    /// Of errors and timeouts: those in the first half of the path's buckets.
    pub half_failures: Cell64,
    /// Of 4xx: those in the first half of the path's buckets.
    pub half_client_errors: Cell64,
}

/// Beyond these an attempt counts as slow, or as late; set by the control plane, read by workers.
/// Nanoseconds, [`u64::MAX`] where nothing is known.
#[derive(Debug)]
pub struct Thresholds {
    /// The baseline's P95, with tolerance.
    pub slow95: AtomicU64,
    /// The baseline's P99, with tolerance.
    pub slow99: AtomicU64,
    /// The smaller deadline of the two paths.
    pub deadline: AtomicU64,
    /// Silence of an endpoint that is a gap.
    pub stall_after: AtomicU64,
}

// === impl AttemptCells ===

impl Default for AttemptCells {
    fn default() -> Self {
        Self {
            slots: Default::default(),
            latency: Box::new(std::array::from_fn(|_| Cell64::default())),
            latency_ns: Cell64::default(),
        }
    }
}

impl AttemptCells {
    /// Counts a request that was sent this way.
    pub fn routed(&self, routed: Routed) {
        if let Some(slot) = self.slot(routed) {
            slot.routed.add(1);
        }
    }

    /// Counts a finished attempt, and how many nanoseconds its response head took, or it was waited for;
    /// 0 if it was never sent.
    pub fn finished(&self, routed: Routed, outcome: Outcome, took_ns: u64, limits: &Thresholds) {
        let Some(slot) = self.slot(routed) else {
            return;
        };
        let is_over = |limit: &AtomicU64| took_ns > limit.load(Ordering::Relaxed);
        let is_slow99 = is_over(&limits.slow99);
        if outcome == Outcome::Left && !is_slow99 {
            return;
        }
        slot.finished.add(1);
        slot.slow95.add(u64::from(is_over(&limits.slow95)));
        slot.slow99.add(u64::from(is_slow99));
        let half = u64::from(routed.is_first_half);
        match outcome {
            Outcome::Timeout => {
                slot.timeouts.add(1);
                slot.half_failures.add(half);
            }
            // Of two deadlines the smaller one counts on both paths.
            Outcome::Success | Outcome::ClientError if is_over(&limits.deadline) => {
                slot.timeouts.add(1);
                slot.half_failures.add(half);
            }
            Outcome::Error => {
                slot.errors.add(1);
                slot.half_failures.add(half);
            }
            Outcome::ClientError => {
                slot.client_errors.add(1);
                slot.half_client_errors.add(half);
            }
            Outcome::Success | Outcome::Left => {}
        }
        if took_ns != 0 {
            self.latency[index(took_ns)].add(1);
            self.latency_ns.add(took_ns);
        }
    }

    /// The slot of `epoch`, if anything was counted in it.
    #[must_use]
    pub fn of(&self, epoch: u64) -> Option<&Slot> {
        let slot = &self.slots[place(epoch)];
        (slot.epoch.load(Ordering::Acquire) == epoch).then_some(slot)
    }

    /// The slot to count in; `None` for what the comparison leaves out.
    fn slot(&self, routed: Routed) -> Option<&Slot> {
        if !routed.is_weighed {
            return None;
        }
        let slot = &self.slots[place(routed.epoch)];
        let epoch = slot.epoch.load(Ordering::Relaxed);
        if epoch < routed.epoch {
            slot.clear();
            slot.epoch.store(routed.epoch, Ordering::Release);
        }
        (epoch <= routed.epoch).then_some(slot)
    }
}

// === impl Slot ===

impl Slot {
    fn clear(&self) {
        // Nobody may take the old numbers for those of the new epoch.
        self.epoch.store(0, Ordering::Release);
        let Self { epoch: _, routed, finished, errors, timeouts, client_errors, .. } = self;
        let Self { slow95, slow99, half_failures, half_client_errors, .. } = self;
        for cell in [routed, finished, errors, timeouts, client_errors] {
            cell.set(0);
        }
        for cell in [slow95, slow99, half_failures, half_client_errors] {
            cell.set(0);
        }
    }
}

// === impl Thresholds ===

impl Default for Thresholds {
    fn default() -> Self {
        let unknown = || AtomicU64::new(u64::MAX);
        Self { slow95: unknown(), slow99: unknown(), deadline: unknown(), stall_after: unknown() }
    }
}

fn place(epoch: u64) -> usize {
    usize::try_from(epoch % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(epoch: u64) -> Routed {
        Routed { epoch, is_weighed: true, is_first_half: true, ..Routed::default() }
    }

    fn seen(cells: &AttemptCells, epoch: u64) -> [u64; 7] {
        cells.of(epoch).map_or([0; 7], |slot| {
            let Slot { routed, finished, errors, timeouts, client_errors, slow95, slow99, .. } =
                slot;
            [routed, finished, errors, timeouts, client_errors, slow95, slow99].map(Cell64::get)
        })
    }

    #[test]
    fn an_attempt_counts_in_the_epoch_in_which_it_was_routed() {
        let (cells, limits) = (AttemptCells::default(), Thresholds::default());
        cells.routed(routed(1));
        cells.routed(routed(2));
        cells.finished(routed(1), Outcome::Error, 0, &limits);
        cells.finished(routed(2), Outcome::Success, 0, &limits);
        assert_eq!(seen(&cells, 1), [1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(seen(&cells, 2), [1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(seen(&cells, 3), [0; 7]);
    }

    #[test]
    fn a_newer_epoch_takes_the_place_of_an_old_one_and_the_old_one_is_left_out() {
        let (cells, limits) = (AttemptCells::default(), Thresholds::default());
        cells.finished(routed(1), Outcome::Error, 0, &limits);
        cells.finished(routed(5), Outcome::Success, 0, &limits);
        cells.finished(routed(1), Outcome::Error, 0, &limits);
        assert_eq!(seen(&cells, 5), [0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(seen(&cells, 1), [0; 7]);
    }

    #[test]
    fn what_the_weight_did_not_route_is_left_out() {
        let (cells, limits) = (AttemptCells::default(), Thresholds::default());
        let forced = Routed { is_weighed: false, ..routed(1) };
        cells.routed(forced);
        cells.finished(forced, Outcome::Error, 0, &limits);
        assert!(cells.of(1).is_none());
    }

    #[test]
    fn slow_and_late_are_told_by_thresholds_and_one_who_left_early_is_not_counted() {
        let limits = Thresholds::default();
        limits.slow95.store(10_000_000, Ordering::Relaxed);
        limits.slow99.store(20_000_000, Ordering::Relaxed);
        limits.deadline.store(500_000_000, Ordering::Relaxed);
        for (outcome, millis, expected) in [
            (Outcome::Success, 10, [0, 1, 0, 0, 0, 0, 0]),
            (Outcome::Success, 11, [0, 1, 0, 0, 0, 1, 0]),
            (Outcome::ClientError, 21, [0, 1, 0, 0, 1, 1, 1]),
            (Outcome::Success, 501, [0, 1, 0, 1, 0, 1, 1]),
            (Outcome::Timeout, 500, [0, 1, 0, 1, 0, 1, 1]),
            (Outcome::Left, 20, [0; 7]),
            (Outcome::Left, 21, [0, 1, 0, 0, 0, 1, 1]),
        ] {
            let cells = AttemptCells::default();
            cells.finished(routed(1), outcome, millis * 1_000_000, &limits);
            assert_eq!(seen(&cells, 1), expected, "{outcome:?} {millis}");
        }
    }
}
