//! The exporter's thread: it takes the spans of requests that have ended, and sends them to the collector
//! in batches.
//!
//! It looks for spans itself, so that no worker ever wakes it, and only while there is a collector. A
//! collector that is slow, hung or gone costs spans and nothing else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::config::TraceConfig;
use crate::metrics::spans::SpanCounts;
use crate::publisher::Publisher;
use crate::trace::otlp::Collector;
use crate::trace::span::Finished;

/// Recorded requests that may wait for the exporter, over all workers: some 3 MiB, and at most 20. One that
/// a hostile client made as large as it can be keeps [`PATH_MAX`], [`HOST_MAX`], [`METHOD_MAX`] and the name
/// of a route, and sixteen attempts of some 200 bytes: under 5 KiB.
///
/// [`PATH_MAX`]: crate::trace::span::PATH_MAX
/// [`HOST_MAX`]: crate::trace::span::HOST_MAX
/// [`METHOD_MAX`]: crate::trace::span::METHOD_MAX
const QUEUE_MAX: usize = 4_096;
/// How long a drain waits for the last spans.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// The most requests of one batch: some hundred KiB of protobuf, and at most 8 MiB, as each attempt names the
/// path again.
const BATCH_MAX: usize = 256;
/// How often the exporter looks for spans.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The running exporter.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Starts the exporter. It ends when it is told to, or when it is dropped.
///
/// # Errors
/// When it can't have a thread.
pub fn start(publisher: Arc<Publisher>) -> io::Result<(Exporter, SyncSender<Finished>)> {
    let (sender, queue) = sync_channel(QUEUE_MAX);
    let (stop, stopped) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("spans".to_owned()).spawn(move || {
        if let Err(error) = run(queue, &publisher, stopped) {
            tracing::error!(%error, "spans can't be exported");
        }
        // Nobody listens when the process ends without a drain.
        let _ = end.send(());
    })?;
    Ok((Exporter { stop, ended }, sender))
}

impl Exporter {
    /// Ends it once it has sent what is left. A collector that does not take that in time is left behind.
    pub async fn end(self) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        if timeout(FLUSH_MAX, self.ended).await.is_err() {
            tracing::warn!("the last spans are lost: the collector is slow");
        }
    }
}

fn run(
    queue: Receiver<Finished>,
    publisher: &Publisher,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut published = publisher.follow();
        let mut desk = Desk::new(queue, publisher);
        desk.adopt();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Either stopped, or the app is gone.
                _ = &mut stopped => break,
                Ok(()) = published.changed() => desk.adopt(),
                _ = look.tick(), if desk.collector.is_some() => {
                    if desk.export() == BATCH_MAX {
                        look.reset_immediately();
                    }
                }
            }
        }
        let until = Instant::now() + FLUSH_MAX;
        while Instant::now() < until && desk.export() > 0 {}
    });
    Ok(())
}

struct Desk<'a> {
    queue: Receiver<Finished>,
    publisher: &'a Publisher,
    counts: Arc<SpanCounts>,
    config: Option<TraceConfig>,
    collector: Option<Collector>,
}

impl<'a> Desk<'a> {
    fn new(queue: Receiver<Finished>, publisher: &'a Publisher) -> Self {
        let counts = publisher.metrics().spans.clone();
        Self { queue, publisher, counts, config: None, collector: None }
    }

    /// Exports as the config in force says from now on.
    fn adopt(&mut self) {
        let snapshot = self.publisher.current();
        let config = &snapshot.config.trace;
        if self.config.as_ref() == Some(config) {
            return;
        }
        self.collector = Collector::of(config, self.collector.take());
        self.config = Some(config.clone());
        if self.collector.is_none() {
            let left = self.queue.try_iter().take(QUEUE_MAX);
            self.counts.let_go(left.map(|finished| finished.spans()).sum());
        }
    }

    /// Exports a batch; how many requests were in it.
    fn export(&mut self) -> usize {
        let batch: Vec<_> = self.queue.try_iter().take(BATCH_MAX).collect();
        let requests = batch.len();
        if requests == 0 {
            return 0;
        }
        // What was recorded by a newer config than the one that is known here is not taken for what an
        // older one has left: that is for nobody any more, whoever comes next.
        self.adopt();
        let is_due = |finished: &Finished| {
            self.collector.as_ref().is_some_and(|collector| collector.is_for(finished))
        };
        let (due, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_due);
        self.counts.let_go(left.iter().map(Finished::spans).sum());
        if let Some(collector) = self.collector.as_mut().filter(|_| !due.is_empty()) {
            let taken = caught(|| collector.export(&due));
            self.counts.sent(taken, due.iter().map(Finished::spans).sum());
        }
        requests
    }
}

/// How many spans were taken; none if that panics: it costs a batch, and not all that come after it.
fn caught(export: impl FnOnce() -> u64) -> u64 {
    catch_unwind(AssertUnwindSafe(export)).unwrap_or_else(|_| {
        tracing::error!("an export of spans panicked");
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_takes_no_spans_and_ends_nothing() {
        assert_eq!(caught(|| 7), 7);
        assert_eq!(caught(|| panic!("of a test")), 0);
    }
}
