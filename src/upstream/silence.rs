//! Silences of an endpoint: no progress at all while requests are there.
//!
//! One blocking call on an event loop freezes every request of it at once, and from outside that
//! looks like this: nothing comes for a while, from an endpoint that several requests wait for. Each
//! worker sees only its own requests. One that has seen nothing for long enough looks at the others'
//! cells too, under a lock which is taken for no other reason; the first to come by after a silence
//! tells of it, and the next one finds that it has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::guard::stall::Gap;
use crate::metrics::cell::Cell64;
use crate::metrics::visits::EndpointCells;
use crate::vocab::RouteId;

/// Fewer requests than these may all be slow by themselves.
const PRESENT_MIN: u64 = 3;
/// Silences that are kept until the control plane takes them, which it does four times a second.
const GAPS_MAX: usize = 64;

/// What is known of one endpoint's silences.
#[derive(Debug, Default)]
pub struct Silence(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cells: Vec<Weak<EndpointCells>>,
    broken_ns: u64,
    gaps: Vec<Gap>,
}

impl Silence {
    /// One more worker has requests there.
    pub fn watch(&self, cells: &Arc<EndpointCells>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.cells.retain(|cells| cells.strong_count() > 0);
        state.cells.push(Arc::downgrade(cells));
    }

    /// A request of route `first` got something at `now_ns`, after its worker had seen nothing for
    /// `after_ns`.
    pub fn broken(&self, now_ns: u64, first: RouteId, after_ns: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cells: Vec<_> = state.cells.iter().filter_map(Weak::upgrade).collect();
        let last = cells.iter().map(|cells| cells.progressed.get()).max().unwrap_or(0);
        let last = last.max(std::mem::replace(&mut state.broken_ns, now_ns));
        let busy = cells.iter().filter(|cells| cells.waiting.get() > 0);
        let busy_since = busy.map(|cells| cells.busy_since.get()).min().unwrap_or(now_ns);
        let start_ns = last.max(busy_since);
        if now_ns.saturating_sub(start_ns) < after_ns || state.gaps.len() >= GAPS_MAX {
            return;
        }
        let frozen = frozen(&cells);
        if frozen.iter().map(|(_, number)| u64::from(*number)).sum::<u64>() >= PRESENT_MIN {
            state.gaps.push(Gap { start_ns, end_ns: now_ns, first, frozen });
        }
    }

    /// The silences since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Gap> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).gaps)
    }
}

/// The requests that are there, by route, over all workers.
fn frozen(cells: &[Arc<EndpointCells>]) -> Vec<(RouteId, u32)> {
    let mut sums: BTreeMap<RouteId, u64> = BTreeMap::new();
    for cells in cells {
        for (route, number) in (0..).zip(cells.present.iter().map(Cell64::get)) {
            if number > 0 {
                *sums.entry(RouteId(route)).or_default() += number;
            }
        }
    }
    sums.into_iter()
        .map(|(route, number)| (route, u32::try_from(number).unwrap_or(u32::MAX)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Side;

    const MS: u64 = 1_000_000;
    const AFTER: u64 = 100 * MS;

    /// A worker with so many requests, busy since, that saw progress last.
    fn worker(silence: &Silence, present: u64, since_ms: u64, last_ms: u64) -> Arc<EndpointCells> {
        let cells = Arc::new(EndpointCells::new(Side::Async, "a"));
        cells.waiting.set(present);
        cells.present(RouteId(1)).set(present);
        cells.busy_since.set(since_ms * MS);
        cells.progressed.set(last_ms * MS);
        silence.watch(&cells);
        cells
    }

    fn spans(silence: &Silence) -> Vec<(u64, u64)> {
        silence.take().iter().map(|gap| (gap.start_ns / MS, gap.end_ns / MS)).collect()
    }

    #[test]
    fn a_silence_lasts_from_the_last_progress_of_any_worker_to_the_first_and_is_told_once() {
        let silence = Silence::default();
        let one = worker(&silence, 2, 10, 1_000);
        let _other = worker(&silence, 1, 20, 1_050);
        silence.broken(1_300 * MS, RouteId(1), AFTER);
        silence.broken(1_301 * MS, RouteId(1), AFTER);
        one.progressed.set(1_300 * MS);
        assert_eq!(spans(&silence), [(1_050, 1_300)]);
        assert!(spans(&silence).is_empty());
    }

    #[test]
    fn idle_time_and_few_requests_are_no_silence() {
        for (present, since, last, end, expected) in [
            (3, 0, 1_000, 1_100, vec![(1_000, 1_100)]),
            (3, 0, 1_000, 1_099, vec![]),
            (2, 0, 1_000, 2_000, vec![]),
            // Nobody asked before 1,950 ms.
            (3, 1_950, 1_000, 2_000, vec![]),
            (3, 1_900, 1_000, 2_000, vec![(1_900, 2_000)]),
        ] {
            let silence = Silence::default();
            let _cells = worker(&silence, present, since, last);
            silence.broken(end * MS, RouteId(1), AFTER);
            assert_eq!(spans(&silence), expected, "{present} {since} {last} {end}");
        }
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let silence = Silence::default();
        let _cells = worker(&silence, 3, 0, 0);
        (1..1_000).for_each(|second| silence.broken(second * 1_000 * MS, RouteId(1), AFTER));
        assert_eq!(silence.take().len(), GAPS_MAX);
    }
}
