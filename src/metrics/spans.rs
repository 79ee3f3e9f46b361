//! The spans that have come to the exporter, by what became of them. What never got to it a worker counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl SpanCounts {
    /// Counts spans of which the collector took so many, and not the others.
    pub fn sent(&self, taken: u64, spans: u64) {
        self.exported.fetch_add(taken, Ordering::Relaxed);
        self.failed.fetch_add(spans.saturating_sub(taken), Ordering::Relaxed);
    }

    /// Counts spans whose collector the config names no longer.
    pub fn let_go(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
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

    /// Those that it was not asked to take.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
