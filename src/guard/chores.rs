//! What the guard does beside judging: it records baselines, adds audits to them, and keeps the history.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use thiserror::Error;

use crate::audit::findings::Audit;
use crate::durable;
use crate::guard::baseline::Baseline;
use crate::guard::decision::Kind;
use crate::guard::desk::Guard;
use crate::guard::history::{HISTORY, latencies};
use crate::guard::recording::Recording;
use crate::snapshot::Snapshot;

/// Why an audit was not added to the baseline.
#[derive(Debug, Error)]
pub enum KeepError {
    /// It does not fit what is there: whoever gave the order can mend that.
    #[error("{0}")]
    Order(&'static str),
    /// The state directory can't be written.
    #[error("the baseline can't be written: {0}")]
    Disk(io::Error),
}

impl Guard {
    /// Begins to record a baseline.
    ///
    /// # Errors
    /// When one is being recorded already.
    pub fn record_baseline(&self, span: Duration) -> Result<(), &'static str> {
        // Held throughout: a beat in between would end the measuring of a recording that is not there.
        let mut live = self.live();
        if live.recording.is_some() {
            return Err("a baseline is being recorded already");
        }
        self.publisher.measure(true);
        let snapshot = self.publisher.current();
        let recording = Recording::new(self.now(), span, &snapshot, self.publisher.metrics());
        (live.recording, live.recording_failed) = (Some(recording), None);
        Ok(())
    }

    /// Adds an audit to the baseline, in place of the one before. A baseline that is recorded anew has
    /// none: it is of another time.
    ///
    /// # Errors
    /// When there is no baseline, one is being recorded, or the disk refuses it.
    pub fn keep_audit(&self, audit: &Audit) -> Result<(), KeepError> {
        let _file = self.baseline_file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut baseline = {
            let live = self.live();
            // It would be lost as the recording ends.
            if live.recording.is_some() {
                return Err(KeepError::Order("a baseline is being recorded: wait for its end"));
            }
            let none = KeepError::Order("no baseline is recorded; see `cutover baseline record`");
            live.baseline.clone().ok_or(none)?
        };
        baseline.audit = Some(audit.clone());
        baseline.store(self.publisher.ledger().dir()).map_err(KeepError::Disk)?;
        self.live().baseline = Some(baseline);
        self.tell(Kind::Baseline, None, &[audit.summary()]);
        Ok(())
    }

    /// Ends a recording whose time is over, or that came to nothing.
    pub(super) fn finish_recording(&self, snapshot: &Snapshot) {
        let now = self.now();
        let (recording, usage) = {
            let live = self.live();
            let is_running = live.recording.as_ref().is_some_and(|running| !running.is_over(now));
            if !is_running && self.publisher.current().rules.is_measuring {
                self.publisher.measure(false);
            }
            // It stays in its place until what came of it can be seen.
            let over = live.recording.as_ref().filter(|_| !is_running);
            (over.cloned(), live.usage)
        };
        let Some(recording) = recording else {
            return;
        };
        let _file = self.baseline_file.lock().unwrap_or_else(PoisonError::into_inner);
        let finished = recording.finish(now, (snapshot, self.publisher.metrics()), &usage);
        let stored = finished.and_then(|baseline| {
            let dir = self.publisher.ledger().dir();
            baseline.store(dir).map(|()| baseline).map_err(|error| error.to_string())
        });
        match stored {
            Ok(baseline) => {
                let line = baseline_words(&baseline);
                self.live().take_baseline(baseline);
                self.tell(Kind::Baseline, None, &[line]);
            }
            Err(why) => {
                tracing::error!(why, "no baseline was recorded");
                self.live().recording_failed = Some(why);
            }
        }
        self.live().recording = None;
    }

    /// Ends the open point of the history when it is time, and writes the history now and then.
    pub(super) fn keep_history(&self) {
        let now = self.now();
        if !self.live().history.is_due(now) {
            return;
        }
        let latencies = latencies(self.publisher.metrics());
        let content = {
            let mut live = self.live();
            let usage = live.usage;
            live.history.close(latencies, &usage);
            live.history.to_keep(now)
        };
        if let Some(content) = content {
            self.keep_file(&content);
        }
    }

    /// Writes the history as it is.
    pub(super) fn write_history(&self) {
        let content = self.live().history.to_keep_now();
        if let Some(content) = content {
            self.keep_file(&content);
        }
    }

    fn keep_file(&self, content: &[u8]) {
        if let Err(error) = durable::replace(self.publisher.ledger().dir(), HISTORY, content) {
            tracing::warn!(%error, "can't write {HISTORY}");
        }
    }
}

fn baseline_words(baseline: &Baseline) -> String {
    let legacy = &baseline.paths.legacy;
    let quantile = |quantile: Option<f64>| {
        quantile.map_or_else(|| "-".to_owned(), |value_ms| format!("{value_ms:.1} ms"))
    };
    format!(
        "legacy: {} requests, {:.1}/s, {} failed, {} timed out, P95 {}, P99 {}, phi {:.2}",
        legacy.counts.n,
        legacy.per_second,
        legacy.counts.err,
        legacy.counts.tmo,
        quantile(legacy.p95.map(|quantile| quantile.value_ms)),
        quantile(legacy.p99.map(|quantile| quantile.value_ms)),
        baseline.phi.fail,
    )
}
