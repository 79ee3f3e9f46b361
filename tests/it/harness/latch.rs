//! What holds scripted replies back until a test lets them go on.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::backend::lock;

/// Lets through as many as were released.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latch(Arc<(Mutex<usize>, Condvar)>);

impl Latch {
    /// Lets `number` more through.
    pub(crate) fn release(&self, number: usize) {
        *lock(&self.0.0) += number;
        self.0.1.notify_all();
    }

    /// Lets all through, now and later.
    pub(crate) fn open(&self) {
        self.release(usize::MAX / 2);
    }

    /// Passes if it is let, and does not wait.
    pub(super) fn try_pass(&self) -> bool {
        let mut left = lock(&self.0.0);
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    pub(super) fn pass(&self, stopped: impl Fn() -> bool) {
        let mut left = lock(&self.0.0);
        while *left == 0 && !stopped() {
            let wait = self.0.1.wait_timeout(left, Duration::from_millis(20));
            left = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        *left = left.saturating_sub(1);
    }
}
