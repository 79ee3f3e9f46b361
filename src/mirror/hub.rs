//! Where workers hand mirrored requests over. They never wait here, nor for whoever takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::MirrorConfig;
use crate::mirror::breaker::Gate;
use crate::mirror::order::Order;
use crate::mirror::stock::Stock;
use crate::vocab::{PerSide, Side};

/// Requests that may lie there. Each has a place of `in_flight` too: more than the default of that lie
/// there only if the mirror's thread is stuck.
const ORDERS_MAX: usize = 64;

/// What workers and the mirror's thread share.
#[derive(Debug)]
pub struct Hub {
    /// What may be had at once.
    pub stock: Arc<Stock>,
    orders: mpsc::Sender<Order>,
    // A `Gate` each. Relaxed: a request more or less does no harm.
    gates: PerSide<AtomicU8>,
    // Relaxed too.
    is_off: AtomicBool,
    second: Second,
    origin: Instant,
}

/// How many there were in the present second, over all workers: its number in the upper half, the count
/// in the lower.
#[derive(Debug, Default)]
struct Second(AtomicU64);

impl Hub {
    /// The hub, and where what is handed over comes out.
    #[must_use]
    pub fn new(stock: Arc<Stock>) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let origin = Instant::now();
        let (gates, second) = (PerSide::default(), Second::default());
        let is_off = AtomicBool::new(false);
        (Arc::new(Self { stock, orders, gates, is_off, second, origin }), taken)
    }

    /// Hands a request over; `false` if there is no room for it.
    #[must_use]
    pub fn hand_over(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// Sets whether a path gets shadows.
    pub fn set_gate(&self, side: Side, gate: Gate) {
        self.gates.get(side).store(gate as u8, Ordering::Relaxed);
    }

    /// Switches all of it off, or on again.
    pub fn set_off(&self, is_off: bool) {
        self.is_off.store(is_off, Ordering::Relaxed);
    }

    /// Whether it is switched off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Whether a request for which a path is asked too would find room, as far as is known without the
    /// time: where there is none, it makes no difference whether one is drawn.
    #[must_use]
    pub fn has_room(&self, side: Side, limits: &MirrorConfig) -> bool {
        self.is_closed(side)
            && self.stock.in_flight() < limits.in_flight
            && self.second.count() < u64::from(limits.rps_max)
    }

    /// Whether the breaker of a path is closed: it gets shadows.
    #[must_use]
    pub fn is_closed(&self, side: Side) -> bool {
        self.gates.get(side).load(Ordering::Relaxed) == Gate::Closed as u8
    }

    /// Whether a path gets this shadow, and whether as the probe; `None`: it does not.
    #[must_use]
    pub fn pass(&self, side: Side) -> Option<bool> {
        let gate = self.gates.get(side);
        match gate.load(Ordering::Relaxed) {
            closed if closed == Gate::Closed as u8 => Some(false),
            probe if probe == Gate::Probe as u8 => {
                let taken = gate.compare_exchange(
                    probe,
                    Gate::Open as u8,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                taken.is_ok().then_some(true)
            }
            _ => None,
        }
    }

    /// Whether there may be one more in the second of `at`, of at most `max`.
    #[must_use]
    pub fn is_within_rate(&self, at: Instant, max: u32) -> bool {
        self.second.take(at.saturating_duration_since(self.origin).as_secs(), max)
    }
}

impl Second {
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & u64::from(u32::MAX)
    }

    fn take(&self, second: u64, max: u32) -> bool {
        let next = |seen: u64| {
            // A worker that began just before the second did counts in it.
            let (of, count) = (seen >> 32, seen & u64::from(u32::MAX));
            let (of, count) = if second > of { (second, 0) } else { (of, count) };
            (count < u64::from(max)).then_some((of << 32) | (count + 1))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::plan::tests::plan;

    #[test]
    fn no_second_has_more_than_it_may() {
        let seconds = Second::default();
        let taken = |second| (0..10).filter(|_| seconds.take(second, 3)).count();
        assert_eq!([0, 0, 1, 0, 1, 7].map(taken), [3, 0, 3, 0, 0, 3]);
        assert!(!Second::default().take(0, 0));
    }

    #[test]
    fn there_is_room_while_nothing_is_full_and_the_gate_is_closed() {
        let (hub, _orders) = Hub::new(Arc::default());
        let mut limits = plan(|_| {}).config.clone();
        (limits.in_flight, limits.rps_max) = (1, 1);
        let has_room = |hub: &Hub| hub.has_room(Side::Async, &limits);
        assert!(has_room(&hub));
        let place = hub.stock.enter(1);
        assert!(!has_room(&hub));
        drop(place);
        for (gate, expected) in [(Gate::Open, false), (Gate::Probe, false), (Gate::Closed, true)] {
            hub.set_gate(Side::Async, gate);
            assert_eq!(has_room(&hub), expected, "{gate:?}");
        }
        assert!(hub.is_within_rate(Instant::now(), 1));
        assert!(!has_room(&hub));
    }

    #[test]
    fn one_probe_passes_a_gate_that_asks_for_it() {
        let (hub, _orders) = Hub::new(Arc::default());
        assert_eq!(hub.pass(Side::Async), Some(false));
        hub.set_gate(Side::Async, Gate::Open);
        assert_eq!(hub.pass(Side::Async), None);
        hub.set_gate(Side::Async, Gate::Probe);
        assert_eq!([(); 3].map(|()| hub.pass(Side::Async)), [Some(true), None, None]);
        assert_eq!(hub.pass(Side::Legacy), Some(false));
        hub.set_gate(Side::Async, Gate::Closed);
        assert_eq!(hub.pass(Side::Async), Some(false));
    }
}
