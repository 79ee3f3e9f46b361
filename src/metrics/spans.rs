//! The spans that the exporter has sent, or has failed to. What never got to it a worker counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    failed: AtomicU64,
}

impl SpanCounts {
    /// Counts spans that the collector took, or did not.
    pub fn add(&self, is_taken: bool, spans: u64) {
        let count = if is_taken { &self.exported } else { &self.failed };
        count.fetch_add(spans, Ordering::Relaxed);
    }

    /// Those that the collector took.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Those that it did not take.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
