//! When the guard rests: while a successor reads the state directory, and for good once that has taken over.
//!
//! Two processes must not both decide, nor both write down what they decided. A beat and an order are work;
//! reloads and the writing of the history are held with it.

use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::guard::desk::Guard;

/// The guard rests for as long as this is held.
#[derive(Debug)]
pub struct Rest<'a> {
    guard: &'a Guard,
    is_relieved: RwLockWriteGuard<'a, bool>,
    _reloads: MutexGuard<'a, ()>,
}

impl Guard {
    /// The right to decide something and to write it down, while it is held; `None` while the guard rests.
    #[must_use]
    pub fn work(&self) -> Option<RwLockReadGuard<'_, bool>> {
        let at_work = match self.is_relieved.try_read() {
            Ok(at_work) => at_work,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        (!*at_work).then_some(at_work)
    }

    /// Lets the guard rest, once what it does is done and the history is written. Blocks until then.
    #[must_use]
    pub fn rest(&self) -> Rest<'_> {
        // One that runs may wait for DNS, for which the guard need not rest.
        drop(self.publisher.hold_reloads());
        // In this order: an order to reload is work.
        let is_relieved = self.is_relieved.write().unwrap_or_else(PoisonError::into_inner);
        let reloads = self.publisher.hold_reloads();
        self.write_history();
        Rest { guard: self, is_relieved, _reloads: reloads }
    }
}

impl Rest<'_> {
    /// The guard never works again: the state directory is another process's.
    pub fn for_good(&mut self) {
        *self.is_relieved = true;
        self.guard.publisher.ledger().hand_on();
    }
}
