//! What the mirror may have at once: requests in flight, and bytes of copies and answers.
//!
//! Atomics only, and nobody waits: what there is no room for is left out. Who holds something gives it
//! back by being dropped, on whichever thread that is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The smallest step in which a buffer grows, in bytes: fewer would be copied too often.
const STEP_MIN: usize = 4 << 10;

/// What is in use, over all threads. Counts only: they order nothing else.
#[derive(Debug, Default)]
pub struct Stock {
    in_flight: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place of one mirrored request, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Stock>);

/// Bytes that are accounted for, until it is dropped.
#[derive(Debug)]
pub struct Holding {
    stock: Arc<Stock>,
    bytes: usize,
    max: usize,
}

/// A buffer that never holds more than it may, nor more than the stock has.
pub struct Buffer {
    holding: Holding,
    bytes: Vec<u8>,
    cap: usize,
}

/// Why a buffer takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It has its own limit.
    Cap,
    /// All of them together have theirs.
    Memory,
}

// === impl Stock ===

impl Stock {
    /// A place among at most `max`.
    #[must_use]
    pub fn enter(self: &Arc<Self>, max: usize) -> Option<Place> {
        let place = Place(self.clone());
        // The place is given back by its drop where there was none.
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// Nothing yet, of at most `max` bytes over all holdings.
    #[must_use]
    pub fn hold(self: &Arc<Self>, max: usize) -> Holding {
        Holding { stock: self.clone(), bytes: 0, max }
    }

    /// Places that are taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Bytes that are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Holding ===

impl Holding {
    /// Holds `more` bytes; `false` if there is no room for them.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let before = self.stock.bytes.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.max {
            self.stock.bytes.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    /// Takes over what `other` holds.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.stock.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

// === impl Buffer ===

// What is printed of it may end up in a log.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holding, bytes, cap } = self;
        let mut shown = f.debug_struct("Buffer");
        shown.field("holding", holding).field("length", &bytes.len()).field("cap", cap).finish()
    }
}

impl Buffer {
    /// An empty one, for at most `cap` bytes.
    #[must_use]
    pub fn new(holding: Holding, cap: usize) -> Self {
        Self { holding, bytes: Vec::new(), cap }
    }

    /// Takes a copy: a share of a reader's buffer would keep all of that from being used again, and
    /// nobody knows how large it is.
    ///
    /// # Errors
    /// Which limit would be passed; nothing is taken then.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Full> {
        let length = self.bytes.len() + data.len();
        if length > self.cap {
            return Err(Full::Cap);
        }
        let room = self.bytes.capacity();
        if length > room {
            let wanted = length.max(room * 2).max(STEP_MIN).min(self.cap);
            if !self.holding.grow(wanted - room) {
                return Err(Full::Memory);
            }
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it holds, and the account of that.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Holding) {
        (self.bytes, self.holding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_never_more_than_there_may_be() {
        let stock = Arc::<Stock>::default();
        let places = [stock.enter(2), stock.enter(2)];
        assert!(places.iter().all(Option::is_some));
        assert!(stock.enter(2).is_none());
        assert_eq!(stock.in_flight(), 2);
        drop(places);
        assert!(stock.enter(1).is_some() && stock.enter(0).is_none());
        assert_eq!(stock.in_flight(), 0);
    }

    #[test]
    fn bytes_are_accounted_for_before_they_are_taken_and_given_back_once() {
        let stock = Arc::<Stock>::default();
        let mut first = Buffer::new(stock.hold(10_000), 6_000);
        let mut second = Buffer::new(stock.hold(10_000), 6_000);
        assert_eq!(first.push(&[1; 10]), Ok(()));
        assert_eq!(stock.bytes(), STEP_MIN);
        assert_eq!(first.push(&[2; 5_990]), Ok(()));
        assert_eq!((stock.bytes(), first.bytes().len()), (6_000, 6_000));
        assert_eq!(first.push(&[3]), Err(Full::Cap));
        assert_eq!(second.push(&[4; 4_001]), Err(Full::Memory));
        assert_eq!(stock.bytes(), 6_000);
        let (bytes, holding) = first.into_parts();
        assert_eq!((bytes.len(), bytes.capacity()), (6_000, 6_000));
        drop(bytes);
        assert_eq!(stock.bytes(), 6_000);
        drop((holding, second));
        assert_eq!(stock.bytes(), 0);
    }

    #[test]
    fn what_it_holds_is_not_printed() {
        let stock = Arc::<Stock>::default();
        let mut buffer = Buffer::new(stock.hold(10_000), 10);
        buffer.push(b"secret").unwrap();
        let shown = format!("{buffer:?}");
        let bytes = format!("{:?}", b"secret");
        assert!(shown.contains("length: 6") && !shown.contains(bytes.trim_matches(['[', ']'])));
    }

    #[test]
    fn an_empty_buffer_holds_nothing() {
        let stock = Arc::<Stock>::default();
        let mut buffer = Buffer::new(stock.hold(0), 0);
        assert_eq!(buffer.push(&[]), Ok(()));
        assert_eq!(buffer.push(&[1]), Err(Full::Cap));
        assert_eq!(stock.bytes(), 0);
    }
}
