//! The exporter's thread: it takes the spans of requests that have ended, and sends them to the collector
//! in batches.
//!
//! It looks for spans itself, so that no worker ever wakes it, and only while there is a collector. A
//! collector that is slow, hung or gone costs spans and nothing else.

use std::io;
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

/// Recorded requests that may wait for the exporter, over all workers: some 4 MiB.
const QUEUE_MAX: usize = 4_096;
/// How long a drain waits for the last spans.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// The most requests of one batch: with their attempts some hundred KiB of protobuf.
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
        let mut desk = Desk::new(queue, publisher.metrics().spans.clone());
        desk.adopt(&publisher.current().config.trace);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Either stopped, or the app is gone.
                _ = &mut stopped => break,
                Ok(()) = published.changed() => desk.adopt(&publisher.current().config.trace),
                _ = look.tick(), if desk.collector.is_some() => {
                    if desk.export().await == BATCH_MAX {
                        look.reset_immediately();
                    }
                }
            }
        }
        let until = Instant::now() + FLUSH_MAX;
        while Instant::now() < until && desk.export().await > 0 {}
    });
    Ok(())
}

struct Desk {
    queue: Receiver<Finished>,
    counts: Arc<SpanCounts>,
    config: Option<TraceConfig>,
    collector: Option<Collector>,
}

impl Desk {
    fn new(queue: Receiver<Finished>, counts: Arc<SpanCounts>) -> Self {
        Self { queue, counts, config: None, collector: None }
    }

    /// Exports as `config` says from now on.
    fn adopt(&mut self, config: &TraceConfig) {
        if self.config.as_ref() == Some(config) {
            return;
        }
        self.collector = Collector::of(config).unwrap_or_else(|error| {
            tracing::error!(%error, "spans can't be exported");
            None
        });
        self.config = Some(config.clone());
    }

    /// Exports a batch; how many requests were in it.
    async fn export(&self) -> usize {
        let batch: Vec<_> = self.queue.try_iter().take(BATCH_MAX).collect();
        let requests = batch.len();
        if requests == 0 {
            return 0;
        }
        let spans = batch.iter().map(Finished::spans).sum();
        let is_taken = match &self.collector {
            Some(collector) => collector.export(&batch).await,
            // They were recorded just before a reload took the collector away.
            None => false,
        };
        self.counts.add(is_taken, spans);
        requests
    }
}
