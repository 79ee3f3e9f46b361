//! The slots of a path and the queue for them, first come first served over all workers.
//!
//! A path without a limit pays one relaxed load. A path with one pays a lock that is held for a few
//! instructions: it is the queue that makes such a request wait, not the lock.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The slots of one path, shared by all workers.
#[derive(Debug)]
pub struct Gate {
    // 0 is unlimited. A copy of `state.limit`, so that a path without a limit takes no lock.
    limit: AtomicUsize,
    waiting: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit: usize,
    depth: usize,
    used: usize,
    next_ticket: u64,
    queue: BTreeMap<u64, Option<Waker>>,
    // Tickets that have a slot but whose task has not run yet.
    granted: Vec<u64>,
}

impl State {
    /// Hands free slots to those who wait longest.
    fn grant(&mut self) {
        while self.limit == 0 || self.used < self.limit {
            let Some((ticket, waker)) = self.queue.pop_first() else {
                return;
            };
            self.used += 1;
            self.granted.push(ticket);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The right to have one request in flight; given back when dropped.
#[derive(Debug)]
pub struct Slot(Option<Arc<Gate>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            let mut state = gate.lock();
            state.used -= 1;
            state.grant();
            gate.show(&state);
        }
    }
}

/// What a request finds at the gate.
#[derive(Debug)]
pub enum Entry {
    /// A free slot.
    Free(Slot),
    /// A place in the queue.
    Queued(Wait),
    /// A full queue.
    Full,
}

impl Gate {
    /// A gate without a limit, which shows its queue's depth in `waiting`.
    #[must_use]
    pub fn new(waiting: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(0), waiting, state: Mutex::default() })
    }

    /// Changes the limits. Slots in use stay in use: after a cut, new ones are given only once the
    /// number in use is below the new limit. Requests let in while there was no limit don't count.
    pub fn set(&self, limit: usize, depth: usize) {
        let mut state = self.lock();
        state.limit = limit;
        state.depth = depth;
        self.limit.store(limit, Ordering::Relaxed);
        state.grant();
        self.show(&state);
    }

    /// Asks for a slot.
    pub fn enter(self: &Arc<Self>) -> Entry {
        if self.limit.load(Ordering::Relaxed) == 0 {
            return Entry::Free(Slot(None));
        }
        let mut state = self.lock();
        if state.limit == 0 {
            return Entry::Free(Slot(None));
        }
        if state.used < state.limit && state.queue.is_empty() {
            state.used += 1;
            return Entry::Free(Slot(Some(self.clone())));
        }
        if state.queue.len() >= state.depth {
            return Entry::Full;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.insert(ticket, None);
        self.show(&state);
        Entry::Queued(Wait { gate: self.clone(), ticket, done: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State) {
        self.waiting.store(state.queue.len(), Ordering::Relaxed);
    }
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub struct Wait {
    gate: Arc<Gate>,
    ticket: u64,
    done: bool,
}

impl Future for Wait {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        let gate = self.gate.clone();
        let mut state = gate.lock();
        if let Some(index) = state.granted.iter().position(|ticket| *ticket == self.ticket) {
            state.granted.swap_remove(index);
            self.done = true;
            return Poll::Ready(Slot(Some(self.gate.clone())));
        }
        state.queue.insert(self.ticket, Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.gate.lock();
        if state.queue.remove(&self.ticket).is_none() {
            // The slot was granted, but nobody is there to use it.
            let granted = state.granted.iter().position(|ticket| *ticket == self.ticket);
            if let Some(index) = granted {
                state.granted.swap_remove(index);
                state.used -= 1;
                state.grant();
            }
        }
        self.gate.show(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limit: usize, depth: usize) -> Arc<Gate> {
        let gate = Gate::new(Arc::default());
        gate.set(limit, depth);
        gate
    }

    fn free(gate: &Arc<Gate>) -> Slot {
        match gate.enter() {
            Entry::Free(slot) => slot,
            other => panic!("no free slot but {other:?}"),
        }
    }

    fn queued(gate: &Arc<Gate>) -> Wait {
        match gate.enter() {
            Entry::Queued(wait) => wait,
            other => panic!("not queued but {other:?}"),
        }
    }

    fn poll(wait: &mut Wait) -> Option<Slot> {
        match Pin::new(wait).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    #[test]
    fn ten_slots_serve_a_hundred_in_the_order_of_their_coming() {
        let gate = gate(10, 90);
        let mut held: Vec<Slot> = (0..10).map(|_| free(&gate)).collect();
        let mut waits: Vec<Wait> = (0..90).map(|_| queued(&gate)).collect();
        assert!(matches!(gate.enter(), Entry::Full));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 90);
        for turn in 0..90 {
            assert!(waits[turn..].iter_mut().all(|wait| poll(wait).is_none()), "turn {turn}");
            held.remove(0);
            held.push(poll(&mut waits[turn]).expect("the one that waits longest is next"));
        }
        drop(held);
        assert_eq!(gate.lock().used, 0);
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ten_thousand_cancelled_waiters_leave_nothing_behind() {
        let gate = gate(1, 100);
        let held = free(&gate);
        for _ in 0..10_000 {
            drop(queued(&gate));
        }
        // Cancelled after the slot was granted, but before the task ran.
        let granted = queued(&gate);
        drop(held);
        drop(granted);
        let state = gate.lock();
        assert_eq!((state.used, state.queue.len(), state.granted.len()), (0, 0, 0));
        drop(state);
        drop(free(&gate));
    }

    #[test]
    fn a_granted_slot_that_nobody_takes_goes_to_the_next() {
        let gate = gate(1, 10);
        let held = free(&gate);
        let (first, mut second) = (queued(&gate), queued(&gate));
        drop(held);
        drop(first);
        assert!(poll(&mut second).is_some());
    }

    #[test]
    fn limits_change_while_slots_are_held() {
        let gate = gate(3, 10);
        let mut held: Vec<Slot> = (0..3).map(|_| free(&gate)).collect();
        gate.set(1, 10);
        held.pop();
        let mut wait = queued(&gate);
        assert!(poll(&mut wait).is_none(), "2 in use, 1 allowed");
        held.clear();
        assert!(poll(&mut wait).is_some());
        gate.set(1, 10);
        let held = free(&gate);
        let mut wait = queued(&gate);
        gate.set(0, 0);
        assert!(poll(&mut wait).is_some(), "no limit lets all waiters in");
        drop(held);
        assert_eq!(gate.lock().used, 0);
    }

    #[test]
    fn a_path_without_a_limit_is_always_free() {
        let gate = Gate::new(Arc::default());
        let held: Vec<Slot> = (0..1_000).map(|_| free(&gate)).collect();
        drop(held);
        assert_eq!(gate.lock().used, 0);
    }
}
