//! For each bucket of a histogram the last recorded request that fell into it, with its trace.
//!
//! One writer, which waits for nobody: it makes the turn of a slot odd, writes, and makes it even again
//! (a sequence lock). A reader that finds it odd, or another than before, goes without.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::metrics::histogram::{BOUNDS, bucket, nanos};

/// How often a reader looks again: a slot is written in a few nanoseconds.
const LOOKS_MAX: usize = 8;

/// One recorded request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exemplar {
    /// Its trace.
    pub trace_id: u128,
    /// How long it took.
    pub took: Duration,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The exemplars of a histogram with the bounds of [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Exemplars([Slot; BOUNDS.len() + 1]);

#[derive(Debug, Default)]
struct Slot {
    turn: AtomicU64,
    // Both halves of the trace id, nanoseconds, milliseconds since 1970.
    numbers: [AtomicU64; 4],
}

impl Exemplars {
    /// Keeps a request that ended at `at`. To be called by one thread alone.
    #[expect(clippy::cast_possible_truncation, reason = "each half is 64 bits")]
    pub fn keep(&self, trace_id: u128, took: Duration, at: SystemTime) {
        let took_ns = nanos(took);
        let since_1970 = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let numbers = [(trace_id >> 64) as u64, trace_id as u64, took_ns, at_ms];
        self.0[bucket(took_ns)].write(numbers);
    }

    /// The exemplar of the bucket `index`, if it has one.
    #[must_use]
    pub fn read(&self, index: usize) -> Option<Exemplar> {
        let slot = self.0.get(index)?;
        let numbers = (0..LOOKS_MAX).find_map(|_| slot.read())?;
        let [high, low, took_ns, at_ms] = numbers;
        // Never written: no trace has this id.
        let trace_id = (u128::from(high) << 64) | u128::from(low);
        let exemplar = Exemplar { trace_id, took: Duration::from_nanos(took_ns), at_ms };
        (trace_id != 0).then_some(exemplar)
    }
}

impl Slot {
    fn write(&self, numbers: [u64; 4]) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        // Nobody sees a number of this turn and still the turn before.
        fence(Ordering::Release);
        for (place, number) in self.numbers.iter().zip(numbers) {
            place.store(number, Ordering::Relaxed);
        }
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }

    fn read(&self) -> Option<[u64; 4]> {
        let before = self.turn.load(Ordering::Acquire);
        let numbers = std::array::from_fn(|index| self.numbers[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = self.turn.load(Ordering::Relaxed);
        (before == after && before.is_multiple_of(2)).then_some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_keeps_its_last_one() {
        let exemplars = Exemplars::default();
        let at = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(exemplars.read(0), None);
        for (trace_id, micros) in [(1, 100), (2, 400), (1 << 64 | 3, 900)] {
            exemplars.keep(trace_id, Duration::from_micros(micros), at);
        }
        let of = |trace_id, micros| {
            Some(Exemplar { trace_id, took: Duration::from_micros(micros), at_ms: 1_500 })
        };
        assert_eq!(exemplars.read(0), of(2, 400));
        assert_eq!(exemplars.read(1), of(1 << 64 | 3, 900));
        assert_eq!((exemplars.read(2), exemplars.read(99)), (None, None));
    }

    #[test]
    fn no_reader_sees_halves_of_two() {
        let slot = Slot::default();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (1..=300_000_u64).for_each(|number| slot.write([number; 4]));
                is_done.store(true, Ordering::Relaxed);
            });
            while !is_done.load(Ordering::Relaxed) {
                if let Some(numbers) = slot.read() {
                    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
                }
            }
        });
        assert_eq!(slot.read(), Some([300_000; 4]));
    }
}
