//! Deadlines as ticks in a table that one clock scans, ten times a second.
//!
//! Owns the table of one worker. It must not know a clock: its worker calls [`Ticks::advance`].
//! A timer of the runtime costs an `eventfd` write and some 1,500 instructions a request, because
//! arming one that is earlier than all others wakes the driver. Here arming is one store into a
//! cell; the price is a precision of one tick, which no timeout of a proxy misses.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// Length of a tick.
pub const TICK: Duration = Duration::from_millis(100);

/// A time span in ticks, rounded up; 0 means "no limit".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u32);

impl Span {
    /// The shortest: the next tick but one, since the present one may be nearly over.
    pub const ONE: Self = Self(1);

    /// The span for `duration`; zero stays zero, which arms nothing.
    #[must_use]
    pub fn from_duration(duration: Duration) -> Self {
        let ticks = duration.as_millis().div_ceil(TICK.as_millis());
        Self(u32::try_from(ticks).unwrap_or(u32::MAX / 2))
    }

    /// The span as a duration, zero for no limit.
    #[must_use]
    pub fn duration(self) -> Duration {
        TICK * self.0
    }

    /// A span from half of this one to all of it, by `draw`: what is to end is ended one by one.
    #[must_use]
    pub fn spread(self, draw: u64) -> Self {
        let half = self.0 / 2;
        let spread = u64::from(self.0 - half) + 1;
        Self(half + u32::try_from(draw % spread).unwrap_or_default())
    }

    /// The tick at which this span ends if it begins at `now`, never early.
    #[must_use]
    pub fn end(self, now: u32) -> u32 {
        now + self.0 + 1
    }
}

/// What a connection may wait for. At most one deadline of each runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The client: a head, the next request, or room to write to it.
    Client,
    /// The client's request body.
    Upload,
    /// The path: a free slot, a connection, a head, the next piece of the body.
    Upstream,
    /// The exchange as a whole.
    Exchange,
    /// The next look at whether a half-closed client is still there.
    Watch,
}

impl Deadline {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Client, Self::Upload, Self::Upstream, Self::Exchange, Self::Watch];
}

const DEADLINES: usize = Deadline::ALL.len();

#[derive(Debug, Default)]
struct Slot {
    // The tick at which each deadline ends; 0 is "not armed".
    ends: [Cell<u32>; DEADLINES],
    waker: RefCell<Option<Waker>>,
}

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub struct Ticks {
    now: Cell<u32>,
    slots: RefCell<Vec<Option<Rc<Slot>>>>,
    free: RefCell<Vec<usize>>,
}

impl Ticks {
    /// An empty table at tick 1.
    #[must_use]
    pub fn new() -> Rc<Self> {
        let ticks = Self::default();
        ticks.now.set(1);
        Rc::new(ticks)
    }

    /// A timer with nothing armed. It leaves the table when it is dropped.
    #[must_use]
    pub fn timer(self: &Rc<Self>) -> Timer {
        let slot = Rc::new(Slot::default());
        let index = if let Some(index) = self.free.borrow_mut().pop() {
            self.slots.borrow_mut()[index] = Some(slot.clone());
            index
        } else {
            let mut slots = self.slots.borrow_mut();
            slots.push(Some(slot.clone()));
            slots.len() - 1
        };
        Timer { ticks: self.clone(), slot, index }
    }

    /// The present tick.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now.get()
    }

    /// Goes on to the next tick and wakes each task that has a deadline behind it.
    pub fn advance(&self) {
        self.now.set(self.now.get() + 1);
        let now = self.now.get();
        self.wake(|slot| slot.ends.iter().any(|end| end.get() != 0 && end.get() <= now));
    }

    /// Wakes each task that has a timer, as a drain does.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, due: impl Fn(&Slot) -> bool) {
        for slot in self.slots.borrow().iter().flatten() {
            if due(slot)
                && let Some(waker) = slot.waker.borrow().as_ref()
            {
                waker.wake_by_ref();
            }
        }
    }
}

/// The deadlines of one connection.
#[derive(Debug)]
pub struct Timer {
    ticks: Rc<Ticks>,
    slot: Rc<Slot>,
    index: usize,
}

impl Timer {
    /// Another timer of the same clock, with nothing armed.
    #[must_use]
    pub fn sibling(&self) -> Self {
        self.ticks.timer()
    }

    /// Names the task to wake at a deadline; cheap when it is the same as before.
    pub fn register(&self, waker: &Waker) {
        let mut held = self.slot.waker.borrow_mut();
        match held.as_ref() {
            Some(known) if known.will_wake(waker) => {}
            Some(_) | None => *held = Some(waker.clone()),
        }
    }

    /// The present tick.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.ticks.now()
    }

    /// Wakes the task that it is registered for.
    pub fn wake(&self) {
        if let Some(waker) = self.slot.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Sets `deadline` to `span` from now, never early; a zero span disarms.
    pub fn arm(&self, deadline: Deadline, span: Span) {
        let end = if span.0 == 0 { 0 } else { span.end(self.ticks.now()) };
        self.slot.ends[deadline as usize].set(end);
    }

    /// Brings `deadline` forward to `span` from now, if it is later.
    pub fn arm_sooner(&self, deadline: Deadline, span: Span) {
        let end = &self.slot.ends[deadline as usize];
        let sooner = span.end(self.ticks.now());
        if end.get() == 0 || end.get() > sooner {
            end.set(sooner);
        }
    }

    /// Takes `deadline` away.
    pub fn disarm(&self, deadline: Deadline) {
        self.slot.ends[deadline as usize].set(0);
    }

    /// Whether `deadline` is set.
    #[must_use]
    pub fn is_armed(&self, deadline: Deadline) -> bool {
        self.slot.ends[deadline as usize].get() != 0
    }

    /// Whether `deadline` has passed.
    #[must_use]
    pub fn expired(&self, deadline: Deadline) -> bool {
        let end = self.slot.ends[deadline as usize].get();
        end != 0 && end <= self.ticks.now()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.ticks.slots.borrow_mut()[self.index] = None;
        self.ticks.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
        let ticks = Ticks::new();
        let timer = ticks.timer();
        timer.arm(Deadline::Client, Span::from_duration(Duration::from_millis(250)));
        let mut waited = 0;
        while !timer.expired(Deadline::Client) {
            ticks.advance();
            waited += 1;
        }
        // 250 ms are 3 ticks; the first of them may already be nearly over when armed.
        assert_eq!(waited, 4);
    }

    #[test]
    fn a_spread_span_is_from_half_to_whole() {
        let spans = |ticks: u32| (0..1_000).map(move |draw| Span(ticks).spread(draw).0);
        for (ticks, least) in [(0, 0), (1, 0), (2, 1), (300, 150), (301, 150)] {
            let found: std::collections::BTreeSet<_> = spans(ticks).collect();
            let expected: std::collections::BTreeSet<_> = (least..=ticks).collect();
            assert_eq!(found, expected, "{ticks}");
        }
    }

    #[test]
    fn zero_means_no_limit() {
        let ticks = Ticks::new();
        let timer = ticks.timer();
        timer.arm(Deadline::Exchange, Span::from_duration(Duration::ZERO));
        (0..100).for_each(|_| ticks.advance());
        assert!(!timer.is_armed(Deadline::Exchange) && !timer.expired(Deadline::Exchange));
    }

    #[test]
    fn deadlines_do_not_disturb_each_other() {
        let ticks = Ticks::new();
        let timer = ticks.timer();
        timer.arm(Deadline::Upload, Span(1));
        timer.arm(Deadline::Upstream, Span(50));
        (0..5).for_each(|_| ticks.advance());
        assert!(timer.expired(Deadline::Upload) && !timer.expired(Deadline::Upstream));
        timer.disarm(Deadline::Upload);
        assert!(!timer.expired(Deadline::Upload));
    }

    #[test]
    fn a_dropped_timer_gives_its_place_back() {
        let ticks = Ticks::new();
        for _ in 0..10_000 {
            let _timers = [ticks.timer(), ticks.timer()];
        }
        assert_eq!(ticks.slots.borrow().len(), 2);
    }
}
