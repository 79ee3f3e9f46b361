//! The composition root: a config becomes sockets, workers and a control plane, and ends in a drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::access_log;
use crate::admin;
use crate::admin::office::Office;
use crate::compare::Comparison;
use crate::config::{Config, ConfigError};
use crate::drain::{Phase, Signal};
use crate::guard::desk::Guard;
use crate::listen::{self, Bound, Crew};
use crate::metrics::Metrics;
use crate::mirror::hub::Hub;
use crate::mirror::run as mirror;
use crate::publisher::Publisher;
use crate::snapshot::Turns;
use crate::trace::run::{self as trace, Exporter};
use crate::trace::span::Finished;
use crate::vocab::{PerSide, Side};
use crate::worker;

/// How long workers may take to notice that they are cut off.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// How long a start waits for the names of its config: one that DNS does not know must not keep the
/// other path from serving.
const FIRST_LOOKUPS: Duration = Duration::from_secs(5);

/// A running proxy.
#[derive(Debug)]
pub struct App {
    /// Where clients reach it, with ports that the system chose.
    pub addresses: Vec<SocketAddr>,
    /// What the admin listener is bound to.
    pub admin: crate::config::values::AdminAddress,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    signal: Arc<Signal>,
    workers: Vec<JoinHandle<()>>,
    workers_done: oneshot::Receiver<()>,
    mirror: Control,
    control: Control,
    log: Option<access_log::Writer>,
    exporter: Exporter,
}

/// A thread beside the workers.
#[derive(Debug)]
struct Control {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// How a drain ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were cut off, by path.
    pub cut: PerSide<u64>,
    /// Tunnels that were cut off, by path.
    pub cut_tunnels: PerSide<u64>,
    /// Requests that were in flight when the drain began.
    pub in_flight: u64,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether nothing was cut off.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let none = |cut: &PerSide<u64>| cut.legacy == 0 && cut.async_ == 0;
        none(&self.cut) && none(&self.cut_tunnels)
    }
}

impl App {
    /// Starts everything that `config`, read from `file`, asks for.
    ///
    /// # Errors
    /// When an address is taken, the state directory can't be written to, or a worker not started.
    pub fn start(config: Config, file: PathBuf) -> anyhow::Result<Self> {
        let workers = match config.listen.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let metrics = Arc::new(Metrics::new(workers)?);
        let log = access_log::start(&config.access_log, metrics.log_lines_lost())
            .context("can't open the access log")?;
        let (log_sender, log) = log.unzip();
        let admin_listener = admin::bind(&config.admin)?;
        let mut bound = config
            .listen
            .addresses
            .iter()
            .map(|address| {
                let bound = listen::bind(*address, workers);
                bound.with_context(|| format!("can't listen on {address}"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let addresses = bound.iter().map(|bound| bound.address).collect();
        let runtime = ControlRuntime(Builder::new_current_thread().enable_all().build().ok());
        let handle = runtime.handle()?;
        let publisher = Arc::new(Publisher::new(config, file, metrics.clone(), workers, handle)?);
        let signal = Arc::new(Signal::default());
        let admin = admin_listener.address.clone();
        let comparison = Arc::new(Comparison::new(&random_key()?));
        let guard = Guard::new(publisher.clone(), comparison.clone())?;
        let office = Office {
            publisher: publisher.clone(),
            guard: guard.clone(),
            comparison: comparison.clone(),
            metrics: metrics.clone(),
            phase: signal.follow(),
            started: std::time::SystemTime::now(),
            is_private: admin.is_private(),
        };
        // First the names, then the requests: until then these wait in the accept queue.
        let control = control(runtime.take()?, admin_listener, office.clone())?;
        let (mirror, hub) = spawn_mirror(&publisher, comparison, workers)?;
        let (exporter, spans) = trace::start(publisher.clone()).context("can't export spans")?;
        let senders = (log_sender.as_ref(), &spans);
        let (threads, workers_done) = spawn_workers(&mut bound, &hub, &office, &signal, senders)?;
        signal.advance(Phase::Serving);
        metrics.set_phase(&Phase::NAMES, Phase::Serving.name());
        Ok(Self {
            addresses,
            admin,
            publisher,
            metrics,
            signal,
            workers: threads,
            workers_done,
            mirror,
            control,
            log,
            exporter,
        })
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The config in force.
    #[must_use]
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Reads the config file again.
    ///
    /// # Errors
    /// Why it was refused; it is logged already.
    pub fn reload(&self) -> Result<(), ConfigError> {
        self.publisher.reload()
    }

    /// Drains: the steps are those of ARCHITECTURE.md, in that order.
    pub async fn drain(mut self) -> Outcome {
        let began = Instant::now();
        let drain = self.publisher.current().config.drain;
        let in_flight: u64 = Side::ALL.iter().map(|side| self.metrics.in_flight(*side)).sum();
        self.enter(Phase::Leaving);
        sleep(drain.delay).await;
        self.enter(Phase::Draining);
        if timeout(drain.timeout, &mut self.workers_done).await.is_err() {
            self.enter(Phase::Cut);
            // Workers that don't notice even now are stuck: the process ends without them.
            if timeout(CUT_GRACE, &mut self.workers_done).await.is_err() {
                tracing::error!("a worker is stuck and is left behind");
                // The access log's writer would wait for it for ever.
                self.log = None;
            }
        }
        for worker in self.workers.drain(..) {
            if worker.is_finished() && worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        let cut = |of: fn(&crate::metrics::shard::SideCells) -> u64| {
            PerSide::from_fn(|side| self.metrics.sum(|shard| of(shard.sides.get(side))))
        };
        let outcome = Outcome {
            cut: cut(|cells| cells.cut.get()),
            cut_tunnels: cut(|cells| cells.cut_tunnels.get()),
            in_flight,
            took: began.elapsed(),
        };
        self.enter(Phase::Closed);
        if let Some(log) = self.log.take() {
            log.finish();
        }
        // What it still has nobody waits for.
        self.mirror.end("the mirror");
        self.exporter.end().await;
        // The admin listener serves to the end: the last scrape may see the result.
        self.control.end("the control plane");
        outcome
    }

    fn enter(&self, phase: Phase) {
        let before = *self.signal.follow().borrow();
        self.signal.advance(phase);
        tracing::info!(phase = phase.name(), "phase changed");
        self.metrics.set_phase(&Phase::NAMES, phase.name());
        self.publisher.note("phase", before.name(), phase.name());
    }
}

/// The control plane's runtime before its thread runs. A start that fails drops it within another
/// runtime, where none may wait for its end.
struct ControlRuntime(Option<Runtime>);

impl ControlRuntime {
    fn handle(&self) -> anyhow::Result<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone()).context("can't make a runtime")
    }

    fn take(mut self) -> anyhow::Result<Runtime> {
        self.0.take().context("can't make a runtime")
    }
}

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Control {
    fn end(self, name: &str) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("{name} panicked");
        }
    }
}

/// Starts the mirror's thread; its seed is unlike the workers'.
fn spawn_mirror(
    publisher: &Arc<Publisher>,
    comparison: Arc<Comparison>,
    workers: usize,
) -> anyhow::Result<(Control, Arc<Hub>)> {
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
    Ok((Control { stop, thread: thread.context("can't start the mirror")? }, hub))
}

fn spawn_workers(
    bound: &mut [Bound],
    hub: &Arc<Hub>,
    office: &Office,
    signal: &Signal,
    (log, spans): (Option<&SyncSender<Vec<u8>>>, &SyncSender<Finished>),
) -> anyhow::Result<(Vec<JoinHandle<()>>, oneshot::Receiver<()>)> {
    let workers = office.metrics.shards().len();
    let (crew, mailboxes) = Crew::new(workers);
    let turns = Arc::new(Turns::default());
    // Dropped by the last worker that ends.
    let (done, all_done) = oneshot::channel();
    let done = Arc::new(Done(Some(done)));
    let (started, all_started) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let setup = worker::Setup {
            index,
            listeners: bound.iter_mut().filter_map(|bound| bound.sockets.pop()).collect(),
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

/// By which values are hashed that may not be shown.
fn random_key() -> anyhow::Result<[u8; 16]> {
    let mut key = [0; 16];
    let filled = SystemRandom::new().fill(&mut key);
    filled.ok().context("the system has no random numbers")?;
    Ok(key)
}

/// Starts the control plane, and waits until the names of the config have been looked up once.
fn control(runtime: Runtime, listener: admin::Listener, office: Office) -> anyhow::Result<Control> {
    let (stop, stopped) = oneshot::channel();
    let (asked, all_asked) = std::sync::mpsc::channel();
    let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let (publisher, guard) = (office.publisher.clone(), office.guard.clone());
            let first = move || {
                // Nobody waits any more if it took too long.
                let _ = asked.send(());
            };
            tokio::select! {
                () = admin::serve(listener, office) => {}
                () = crate::config::watch::run(publisher.clone()) => {}
                () = crate::dns::run(publisher.clone(), first) => {}
                () = crate::upkeep::run(publisher) => {}
                () = crate::guard::run::run(guard) => {}
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
    Ok(Control { stop, thread })
}
