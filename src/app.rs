//! The composition root: a config becomes sockets, workers and a control plane, and ends in a drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::access_log;
use crate::admin;
use crate::admin::office::{Office, Upgrading};
use crate::compare::Comparison;
use crate::config::values::AdminAddress;
use crate::config::{Config, ConfigError};
use crate::drain::{Phase, Signal};
use crate::guard::desk::Guard;
use crate::handover::Bequest;
use crate::inherit::{Inheritance, Predecessor};
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::relief::{Failure, Relief, Successor};
use crate::sockets::{self, Bound, Labelled, Stock};
use crate::threads::{Beside, ControlRuntime, spawn_control, spawn_mirror, spawn_workers};
use crate::trace::run::{self as trace, Exporter};
use crate::upgrade::{Program, Upgrades};
use crate::vocab::{PerSide, Side};

/// How long workers may take to notice that they are cut off.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// How long connections are told to close, once a successor has taken over, before those that are idle are
/// closed: a client that asks that often meets no connection which closes under its request.
const TOLD: Duration = Duration::from_secs(2);

/// How long a drain waits for an upgrade that it calls off. That may wait for a disk.
const CALL_OFF_MAX: Duration = Duration::from_secs(5);

/// A running proxy.
#[derive(Debug)]
pub struct App {
    /// Where clients reach it, with ports that the system chose.
    pub addresses: Vec<SocketAddr>,
    /// What the admin listener is bound to.
    pub admin: AdminAddress,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    signal: Arc<Signal>,
    workers: Vec<JoinHandle<()>>,
    workers_done: oneshot::Receiver<()>,
    mirror: Beside,
    control: Beside,
    upgrades: Arc<Upgrades>,
    log: Option<access_log::Writer>,
    exporter: Exporter,
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
        Self::start_with(config, file, Inheritance::default(), None)
    }

    /// As [`Self::start`], with what this process was given, and the program for upgrades of it.
    ///
    /// # Errors
    /// As there, or when a socket was given that no address of the config names.
    pub fn start_with(
        config: Config,
        file: PathBuf,
        inheritance: Inheritance,
        program: Option<Program>,
    ) -> anyhow::Result<Self> {
        let Inheritance { mut stock, predecessor } = inheritance;
        let workers = match config.listen.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let metrics = Arc::new(Metrics::new(workers)?);
        let log = access_log::start(&config.access_log, metrics.log_lines_lost())
            .context("can't open the access log")?;
        let (log_sender, log) = log.unzip();
        let (admin_listener, bound) = bind(&config, &mut stock, (workers, predecessor.is_some()))?;
        // Addresses that the config has no more stay with the process before, and end with its drain.
        drop(stock);
        let bequest = predecessor.as_ref().map(|before| prepare(before, &metrics)).transpose()?;
        let Bequest { returns, unresolved, .. } = bequest.unwrap_or_default();
        let copies = match program {
            Some(_) => copies(&bound, &admin_listener)?,
            None => Vec::new(),
        };
        let addresses = bound.iter().map(|bound| bound.address).collect();
        let given = bound.iter().filter(|bound| bound.is_given);
        let given = given.map(|bound| bound.address).collect();
        let runtime = ControlRuntime::new();
        let handle = runtime.handle()?;
        let publisher = Arc::new(Publisher::new(config, file, metrics.clone(), workers, handle)?);
        publisher.go_on(&returns);
        let signal = Arc::new(Signal::default());
        let admin = admin_listener.address.clone();
        let (office, upgrades) = furnish(&publisher, &signal, &admin, (program, copies))?;
        let is_ours = watch::Sender::new(predecessor.is_none());
        if predecessor.is_none() {
            publisher.begin()?;
        }
        // First the names, then the requests: until then these wait in the accept queue.
        let control = spawn_control(runtime, admin_listener, office.clone(), is_ours.subscribe())?;
        if predecessor.is_some() {
            are_known(&publisher, &unresolved)?;
        }
        let (mirror, hub) = spawn_mirror(&publisher, office.comparison.clone(), workers)?;
        let (exporter, spans) = trace::start(publisher.clone()).context("can't export spans")?;
        let senders = (log_sender.as_ref(), &spans);
        let (threads, workers_done) = spawn_workers(bound, &hub, &office, &signal, senders)?;
        if let Some(predecessor) = predecessor {
            predecessor.take_over(given)?;
            // Who waits to be accepted does not wait for a disk.
            signal.advance(Phase::Serving);
            // There is no way back: what a full disk refuses now is written by the guard's next beats.
            if let Err(error) = publisher.begin() {
                tracing::error!(%error, "the state directory");
            }
            is_ours.send_replace(true);
        }
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
            upgrades,
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

    /// Waits until a successor has taken over: then this process has only to drain.
    pub async fn relieved(&self) -> Successor {
        self.upgrades.relief().wait().await
    }

    /// Hands everything over to a new process of the program that lies where this one did, which has to be ready
    /// within `patience`.
    ///
    /// # Errors
    /// Why there is none; this process goes on as before.
    pub async fn upgrade(&self, patience: Duration) -> Result<Successor, Failure> {
        let upgrades = self.upgrades.clone();
        let upgraded = spawn_blocking(move || upgrades.run(patience)).await;
        upgraded.unwrap_or(Err(Failure::Refused("the upgrade panicked")))
    }

    /// Drains: the steps are those of ARCHITECTURE.md, in that order.
    pub async fn drain(mut self) -> Outcome {
        let began = Instant::now();
        let drain = self.publisher.current().config.drain;
        let upgrades = self.upgrades.clone();
        // Sockets must not be both deafened and handed on.
        let called_off = spawn_blocking(move || upgrades.call_off());
        if timeout(CALL_OFF_MAX, called_off).await.is_err() {
            // It comes to nothing all the same, as soon as it looks.
            tracing::error!("an upgrade does not end: does the disk hang?");
        }
        let is_relieved = self.upgrades.relief().successor().is_some();
        let in_flight: u64 = Side::ALL.iter().map(|side| self.metrics.in_flight(*side)).sum();
        self.enter(Phase::Leaving);
        // A load balancer finds the successor ready; only connections have to be told.
        sleep(if is_relieved { TOLD.min(drain.timeout / 2) } else { drain.delay }).await;
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

/// Takes the sockets that were given for the addresses of a config, and binds the others. Those listen at once,
/// but not in a successor: one for a more special address would take connections from the process before.
fn bind(
    config: &Config,
    stock: &mut Stock,
    (workers, succeeds): (usize, bool),
) -> anyhow::Result<(admin::Listener, Vec<Bound>)> {
    let named = config.listen.addresses.iter().map(SocketAddr::to_string);
    let named: Vec<_> = named.chain([config.admin.address.to_string()]).collect();
    if let Some(address) = stock.stranger(&named) {
        bail!("a socket was given for {address}, which no address of the config names");
    }
    let admin = admin::bind(&config.admin, stock)?;
    let mut bound = Vec::new();
    for address in &config.listen.addresses {
        let given = stock.listeners(*address, workers).transpose();
        let one = given.unwrap_or_else(|| Ok(sockets::bind(*address, workers, !succeeds)?));
        bound.push(one.with_context(|| format!("can't listen on {address}"))?);
    }
    Ok((admin, bound))
}

/// Tells the process before that all could be bound; what it leaves.
fn prepare(predecessor: &Predecessor, metrics: &Metrics) -> anyhow::Result<Bequest> {
    let bequest = predecessor.prepared()?;
    metrics.upgraded(true, bequest.succeeded);
    metrics.upgraded(false, bequest.failed);
    Ok(bequest)
}

/// Whether each name has an address, but for those that are `unresolved` by the process before as well: that has
/// kept its last answers for as long as it runs, so nothing would be gained by taking over without any.
fn are_known(publisher: &Publisher, unresolved: &[String]) -> anyhow::Result<()> {
    for (name, is_answered) in publisher.names() {
        let name = name.to_string();
        if !is_answered && !unresolved.contains(&name) {
            bail!("DNS gives no address for {name}");
        }
    }
    Ok(())
}

/// The guard, what upgrades this process to a program by these sockets, and what the admin API shows of both.
fn furnish(
    publisher: &Arc<Publisher>,
    signal: &Signal,
    admin: &AdminAddress,
    (program, copies): (Option<Program>, Vec<Labelled>),
) -> anyhow::Result<(Office, Arc<Upgrades>)> {
    let comparison = Arc::new(Comparison::new(&random_key()?));
    let guard = Guard::new(publisher.clone(), comparison.clone())?;
    let relief = Relief::default();
    let upgrades = Arc::new(Upgrades::new(program, copies, guard.clone(), relief.clone()));
    let upgrading = {
        let upgrades = upgrades.clone();
        Upgrading::new(move |patience| upgrades.run(patience))
    };
    let office = Office {
        publisher: publisher.clone(),
        guard,
        comparison,
        metrics: publisher.metrics().clone(),
        phase: signal.follow(),
        started: std::time::SystemTime::now(),
        is_private: admin.is_private(),
        relief,
        upgrading,
    };
    Ok((office, upgrades))
}

/// All sockets once more, for a successor.
fn copies(bound: &[Bound], admin: &admin::Listener) -> anyhow::Result<Vec<Labelled>> {
    let mut copies = vec![admin.copy()?];
    for bound in bound {
        copies.extend(bound.copies()?);
    }
    Ok(copies)
}

/// By which values are hashed that may not be shown.
fn random_key() -> anyhow::Result<[u8; 16]> {
    let mut key = [0; 16];
    let filled = SystemRandom::new().fill(&mut key);
    filled.ok().context("the system has no random numbers")?;
    Ok(key)
}
