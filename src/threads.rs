//! The threads of a process: the workers, the mirror, and the control plane.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{oneshot, watch};

use crate::admin;
use crate::admin::office::Office;
use crate::compare::Comparison;
use crate::drain::Signal;
use crate::listen::Crew;
use crate::mirror::hub::Hub;
use crate::mirror::run as mirror;
use crate::publisher::Publisher;
use crate::snapshot::Turns;
use crate::sockets::Bound;
use crate::trace::span::Finished;
use crate::worker;

/// How long a start waits for the names of its config: one that DNS does not know must not keep the
/// other path from serving.
const FIRST_LOOKUPS: Duration = Duration::from_secs(5);

/// A thread beside the workers.
#[derive(Debug)]
pub struct Beside {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Beside {
    /// Ends it, and waits until it has.
    pub fn end(self, name: &str) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("{name} panicked");
        }
    }
}

/// The control plane's runtime before its thread runs. A start that fails drops it within another
/// runtime, where none may wait for its end.
#[derive(Debug)]
pub struct ControlRuntime(Option<Runtime>);

impl ControlRuntime {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        Self(Builder::new_current_thread().enable_all().build().ok())
    }

    /// Its handle.
    ///
    /// # Errors
    /// When it could not be made.
    pub fn handle(&self) -> anyhow::Result<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone()).context("can't make a runtime")
    }

    fn take(mut self) -> anyhow::Result<Runtime> {
        self.0.take().context("can't make a runtime")
    }
}

impl Default for ControlRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the control plane, and waits until the names of the config have been looked up once. What decides
/// or is asked to waits until `is_ours` holds: until then the state directory may be another process's.
///
/// # Errors
/// When there are too many threads.
pub fn spawn_control(
    runtime: ControlRuntime,
    listener: admin::Listener,
    office: Office,
    mut is_ours: watch::Receiver<bool>,
) -> anyhow::Result<Beside> {
    let (stop, stopped) = oneshot::channel();
    let (asked, all_asked) = std::sync::mpsc::channel();
    let runtime = runtime.take()?;
    let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let (publisher, guard) = (office.publisher.clone(), office.guard.clone());
            let first = move || {
                // Nobody waits any more if it took too long.
                let _ = asked.send(());
            };
            let (watched, relief) = (publisher.clone(), office.relief.clone());
            let reload = async {
                tokio::select! {
                    () = crate::config::watch::run(watched) => {}
                    // The file is the successor's.
                    _ = relief.wait() => std::future::pending().await,
                }
            };
            let rule = async {
                if is_ours.wait_for(|is_ours| *is_ours).await.is_err() {
                    // The start failed; this is stopped at once.
                    return std::future::pending().await;
                }
                tokio::select! {
                    () = admin::serve(listener, office) => {}
                    () = reload => {}
                    () = crate::guard::run::run(guard) => {}
                }
            };
            tokio::select! {
                () = rule => {}
                () = crate::dns::run(publisher.clone(), first) => {}
                () = crate::upkeep::run(publisher) => {}
                // Either stopped, or the app is gone.
                _ = stopped => {}
            }
        });
        // Without waiting for a reload that hangs in name resolution: a stop is bounded.
        runtime.shutdown_background();
    })?;
    if all_asked.recv_timeout(FIRST_LOOKUPS).is_err() {
        tracing::warn!("names are not resolved yet; their endpoints are missing until they are");
    }
    Ok(Beside { stop, thread })
}

/// Starts the mirror's thread; its seed is unlike the workers'.
///
/// # Errors
/// When there are too many threads.
pub fn spawn_mirror(
    publisher: &Arc<Publisher>,
    comparison: Arc<Comparison>,
    workers: usize,
) -> anyhow::Result<(Beside, Arc<Hub>)> {
    let (hub, orders) = Hub::new(publisher.metrics().mirror.stock.clone());
    let (stop, stopped) = oneshot::channel();
    let setup = mirror::Setup {
        hub: hub.clone(),
        orders,
        publisher: publisher.clone(),
        comparison,
        seed: seed(workers),
    };
    let thread = thread::Builder::new().name("mirror".to_owned()).spawn(move || {
        if let Err(error) = mirror::run(setup, stopped) {
            tracing::error!(%error, "the mirror can't run");
        }
    });
    Ok((Beside { stop, thread: thread.context("can't start the mirror")? }, hub))
}

/// The workers' threads, and what tells that the last of them has ended.
pub type Workers = (Vec<JoinHandle<()>>, oneshot::Receiver<()>);

/// Starts the workers. They accept once the phase is that of serving.
///
/// # Errors
/// When one can't be started.
pub fn spawn_workers(
    bound: Vec<Bound>,
    hub: &Arc<Hub>,
    office: &Office,
    signal: &Signal,
    (log, spans): (Option<&SyncSender<Vec<u8>>>, &SyncSender<Finished>),
) -> anyhow::Result<Workers> {
    let workers = office.metrics.shards().len();
    let (crew, mailboxes) = Crew::new(workers, office.relief.clone());
    let turns = Arc::new(Turns::default());
    let mut shares: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
    for bound in bound {
        let of_workers = bound.share_out(workers).into_iter();
        shares.iter_mut().zip(of_workers).for_each(|(share, sockets)| share.extend(sockets));
    }
    // Dropped by the last worker that ends.
    let (done, all_done) = oneshot::channel();
    let done = Arc::new(Done(Some(done)));
    let (started, all_started) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for (index, (mailbox, listeners)) in mailboxes.into_iter().zip(shares).enumerate() {
        let setup = worker::Setup {
            index,
            listeners,
            crew: crew.clone(),
            mailbox,
            publisher: office.publisher.clone(),
            hub: hub.clone(),
            turns: turns.clone(),
            shard: office.metrics.shard(index),
            log: log.cloned(),
            spans: spans.clone(),
            phase: signal.follow(),
            seed: seed(index),
        };
        let (done, started) = (done.clone(), started.clone());
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = worker::run(setup, move || {
                // Nobody listens any more if another worker could not start.
                let _ = started.send(());
            }) {
                tracing::error!(%error, worker = index, "worker ended");
            }
            drop(done);
        });
        threads.push(thread.context("can't start a worker")?);
    }
    drop(started);
    anyhow::ensure!(all_started.iter().count() == workers, "a worker can't start; see the log");
    Ok((threads, all_done))
}

/// Tells the drain that the last worker has ended.
struct Done(Option<oneshot::Sender<()>>);

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            // Nobody listens when the process ends without a drain.
            let _ = done.send(());
        }
    }
}

/// Unlike for each worker and each start; std's hasher keys are random.
fn seed(worker: usize) -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(worker)
}
