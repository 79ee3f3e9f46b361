//! The one place that publishes a snapshot.
//!
//! A new config, a new answer of DNS and a step of a paced return all come here: each is checked and
//! built whole, then one pointer is swapped, then what changed is recorded. Workers look once a
//! request, so no request ever sees two configs.

mod names;
mod steer;
mod way;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::endpoint::Origin;
use crate::config::{Config, ConfigError, Fault};
use crate::dns::lookup::{Answer, Unresolved, lookup_blocking};
use crate::guard::helm::Helm;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::publisher::names::{is_configured, is_name, origins};
pub use crate::publisher::steer::{Order, SteerError};
pub use crate::publisher::way::way;
use crate::publisher::way::{adopt, is_same_comparison, reach};
use crate::record::{Change, now};
use crate::route::Target;
use crate::route::pace::Pace;
use crate::snapshot::{Snapshot, State, compile};
use crate::upstream::fleet::Fleet;
use crate::upstream::gate::Gate;
use crate::upstream::locate::{Host, of_hosts};
use crate::vocab::{DEFAULT_ROUTE, PerSide, Side, Weight};

/// The last attempt to reload, for the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// Why the last one was refused; empty if it was applied.
    pub faults: Vec<String>,
}

/// Publishes snapshots.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    gates: PerSide<Arc<Gate>>,
    metrics: Arc<Metrics>,
    workers: usize,
    file: PathBuf,
    ledger: Ledger,
    reload: Mutex<ReloadState>,
    // Held for a whole reload: the one that reads last must publish last.
    reloading: Mutex<()>,
    // Held while one publishes.
    state: Mutex<State>,
    // A rollback that the first config releases.
    adopted: Mutex<Option<Change>>,
    published: watch::Sender<()>,
    control: Handle,
    origin: Instant,
}

impl Publisher {
    /// Publishes the first config. Its host names have no endpoints until `control`, the control
    /// plane's runtime, runs and has resolved them.
    ///
    /// # Errors
    /// When the config can't be put in force, or the state directory not be written to.
    pub fn new(
        config: Config,
        file: PathBuf,
        metrics: Arc<Metrics>,
        workers: usize,
        control: Handle,
    ) -> anyhow::Result<Self> {
        let (ledger, helm) = Ledger::open(&config.state_dir).map_err(|error| {
            anyhow::anyhow!("can't use state_dir {}: {error}", config.state_dir.display())
        })?;
        let gates = PerSide::from_fn(|side| Gate::new(metrics.waiting(side)));
        let mut state = State { helm, epoch: 1, ..State::default() };
        let kept = state.helm.clone();
        let adopted = adopt(&mut state.helm, &config, Weight::ZERO);
        state.is_unsaved = state.helm != kept;
        let first = compile(Arc::new(config), &state, &metrics, (workers, Duration::ZERO), None)
            .map_err(|faults| ConfigError::Faults { path: file.clone(), faults })?;
        let publisher = Self {
            current: Arc::new(ArcSwap::from_pointee(first)),
            gates,
            metrics,
            workers,
            file,
            ledger,
            reload: Mutex::default(),
            reloading: Mutex::default(),
            state: Mutex::new(state),
            adopted: Mutex::new(adopted),
            published: watch::Sender::new(()),
            control,
            origin: Instant::now(),
        };
        let first = publisher.current();
        publisher.put_in_force(&first, true);
        publisher.show_applied(&first);
        Ok(publisher)
    }

    /// Writes what the first config has made of what lay in the state directory: to be called once, when this
    /// process has that directory to itself.
    ///
    /// # Errors
    /// When it can't be written to.
    pub fn begin(&self) -> anyhow::Result<()> {
        let mut state = self.lock();
        let is_kept = !state.is_unsaved || self.ledger.keep(&state.helm);
        anyhow::ensure!(is_kept, "can't write to state_dir");
        state.is_unsaved = false;
        drop(state);
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).take();
        adopted.iter().for_each(|change| self.ledger.note(change));
        self.note("start", "", &reach(&self.current(), &self.helm()));
        Ok(())
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Where workers look for the snapshot in force.
    #[must_use]
    pub fn source(&self) -> Arc<ArcSwap<Snapshot>> {
        self.current.clone()
    }

    /// Tells of each snapshot that is published from now on.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }

    /// What all workers share of a path: its gate and its endpoints.
    #[must_use]
    pub fn shared(&self, side: Side) -> (Arc<Gate>, Arc<Fleet>) {
        (self.gates.get(side).clone(), self.metrics.fleet(side).clone())
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The config file.
    #[must_use]
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// How the last reload ended.
    #[must_use]
    pub fn reload_state(&self) -> ReloadState {
        self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file and puts it in force, or leaves everything as it is. May block on disk and
    /// name resolution, and waits for a reload that runs already.
    ///
    /// # Errors
    /// For all that is wrong with the file, or what of it can't change while running.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = Config::load_after(&self.current().config, &self.file);
        let reloaded = loaded.and_then(|config| self.publish(config));
        let faults = match &reloaded {
            Ok(()) => Vec::new(),
            Err(error) => {
                tracing::error!(%error, "config refused, the old one stays in force");
                self.metrics.config_refused();
                error.to_string().lines().map(str::to_owned).collect()
            }
        };
        *self.reload.lock().unwrap_or_else(PoisonError::into_inner) = ReloadState { faults };
        reloaded
    }

    fn publish(&self, mut config: Config) -> Result<(), ConfigError> {
        let old = self.current();
        let keys = old.config.fixed_changes(&config);
        if !keys.is_empty() {
            return Err(ConfigError::Fixed { keys });
        }
        let refused = |faults| ConfigError::Faults { path: self.file.clone(), faults };
        let answers = self.resolve_new(&config)?;
        config.keep_tls(&old.config);
        let config = Arc::new(config);
        let mut state = self.lock();
        let mut next = state.clone();
        // What DNS has said meanwhile is newer.
        answers.into_iter().for_each(|(name, answer)| {
            next.answers.entry(name).or_insert(answer.hosts);
        });
        next.answers.retain(|name, _| is_configured(&config, name));
        // From where each target is at this moment, which another answer of DNS may have moved.
        let old = self.current();
        let adopted = adopt(&mut next.helm, &config, old.rules.largest(Target::effective));
        next.paces = self.paces(&old, &config, &next);
        let is_steered = next.helm != state.helm;
        if !is_same_comparison(&old.config, &config) || is_steered {
            next.epoch += 1;
        }
        let new = self.compile(config, &next).map_err(refused)?;
        *state = next;
        self.swap(&new, false);
        if is_steered {
            state.is_unsaved = !self.ledger.keep(&state.helm);
        }
        adopted.iter().for_each(|change| self.ledger.note(change));
        drop(state);
        self.show_applied(&new);
        self.note_changes(&old, &new);
        Ok(())
    }

    /// The answers for names that the config in force does not have.
    fn resolve_new(&self, config: &Config) -> Result<Vec<(Origin, Answer)>, ConfigError> {
        let old = self.current();
        let is_new = |name: &&Origin| is_name(name) && !is_configured(&old.config, name);
        let names: HashSet<Origin> = origins(config).filter(is_new).cloned().collect();
        lookup_blocking(&self.control, names.into_iter().collect(), &config.dns)
            .map_err(|Unresolved { name, why }| ConfigError::Unresolved { name, why })
    }

    /// The names in force, and whether each has an answer.
    #[must_use]
    pub fn names(&self) -> HashMap<Origin, bool> {
        let state = self.lock();
        let snapshot = self.current();
        origins(&snapshot.config)
            .filter(|name| is_name(name))
            .map(|name| (name.clone(), state.answers.contains_key(name)))
            .collect()
    }

    /// Takes over what DNS answers for a name, for the first time or again, and publishes it if it is
    /// news. What it could not tell is as it was.
    pub fn resolved(&self, name: Origin, mut hosts: Vec<Host>, is_first: bool) {
        let mut state = self.lock();
        let snapshot = self.current();
        if !is_configured(&snapshot.config, &name) {
            // A reload has removed it meanwhile.
            return;
        }
        let known = state.answers.get(&name).map_or(&[][..], Vec::as_slice);
        hosts.iter_mut().for_each(|host| host.keep(known));
        let is_news = of_hosts(&hosts) != of_hosts(known);
        state.answers.insert(name, hosts);
        if is_news {
            self.republish(&state, &snapshot, is_first);
        }
    }

    /// Walks the paced returns on. To be called a few times a second.
    pub fn step(&self) {
        // Whoever holds it publishes, and may wait for a disk: the control plane does not.
        let Ok(mut state) = self.state.try_lock() else {
            return;
        };
        if !state.paces.is_empty() {
            let now = self.origin.elapsed();
            state.paces.retain(|_, pace| pace.at(now).is_some());
            self.republish(&state, &self.current(), false);
        }
    }

    /// Whether any path has an endpoint that may take requests.
    #[must_use]
    pub fn has_any_up(&self) -> bool {
        Side::ALL.iter().any(|side| self.metrics.fleet(*side).has_any_up())
    }

    /// The same config with what has changed around it.
    fn republish(&self, state: &State, snapshot: &Snapshot, is_start: bool) {
        match self.compile(snapshot.config.clone(), state) {
            Ok(new) => self.swap(&new, is_start),
            // It was compiled before, and the names of its routes are known.
            Err(faults) => tracing::error!(?faults, "can't publish the config in force again"),
        }
    }

    fn compile(&self, config: Arc<Config>, state: &State) -> Result<Arc<Snapshot>, Vec<Fault>> {
        let at = (self.workers, self.origin.elapsed());
        compile(config, state, &self.metrics, at, Some(&self.current())).map(Arc::new)
    }

    fn swap(&self, new: &Arc<Snapshot>, is_start: bool) {
        self.current.store(new.clone());
        self.put_in_force(new, is_start);
        // Nobody follows before the control plane runs.
        self.published.send_replace(());
    }

    fn put_in_force(&self, snapshot: &Snapshot, is_start: bool) {
        for (side, plan) in snapshot.plans.iter() {
            self.gates.get(side).set(plan.max_in_flight, plan.queue_depth);
            self.metrics.fleet(side).set(plan.members.clone(), plan.fleet, is_start);
        }
        let of = |target| (Target::configured(target), Target::effective(target));
        let targets = snapshot.rules.targets();
        self.metrics.set_weights(targets.map(|target| (&*target.name, of(target), target.pin)));
    }

    fn show_applied(&self, snapshot: &Snapshot) {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_1970.map_or(0.0, |span| span.as_secs_f64());
        self.metrics.config_applied(&snapshot.config.hash, seconds);
        let certificates = snapshot.config.certificates();
        self.metrics.set_certificates(certificates.map(|(section, certificate)| {
            (section, certificate.file.as_str(), certificate.not_after.as_second())
        }));
    }

    /// The way back of each route whose weight falls.
    fn paces(&self, old: &Snapshot, config: &Config, state: &State) -> HashMap<String, Pace> {
        let ceiling = state.helm.ceiling();
        let (now, span) = (self.origin.elapsed(), config.split.paced_return);
        let weights = config.routes.iter().map(|route| (route.name.as_str(), route.weight));
        weights
            .chain([(DEFAULT_ROUTE, config.weight)])
            .filter_map(|(name, desired)| {
                let present = old.rules.targets().find(|target| target.name == name)?.applied;
                let (known, desired) = (state.paces.get(name).copied(), desired.min(ceiling));
                let pace = Pace::plan(known, present, desired, now, span)?;
                Some((name.to_owned(), pace))
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_changes(&self, old: &Snapshot, new: &Snapshot) {
        let (from, to) = (&old.config.hash, &new.config.hash);
        tracing::info!(from, to, weight = %new.config.weight, "config applied");
        if from != to {
            self.note("config", from, to);
        }
        self.note_weights(old, new);
    }

    fn note_weights(&self, old: &Snapshot, new: &Snapshot) {
        for target in new.rules.targets() {
            let before = old.rules.targets().find(|old| old.name == target.name);
            let before = before.map_or(Weight::ZERO, Target::desired);
            let after = target.desired();
            if before != after {
                let route = target.name.as_str();
                tracing::info!(route, from = %before, to = %after, "weight changed");
                let change = self.change("weight", &before.to_string(), &after.to_string());
                self.ledger.note(&Change { route: Some(route.to_owned()), ..change });
            }
        }
    }

    /// Appends to the change log what changed, from what, to what.
    pub fn note(&self, what: &str, from: &str, to: &str) {
        self.ledger.note(&self.change(what, from, to));
    }

    /// A change of this moment.
    #[must_use]
    pub fn change(&self, what: &str, from: &str, to: &str) -> Change {
        let [what, from, to] = [what, from, to].map(str::to_owned);
        let config = self.current().config.hash.clone();
        Change { time: now(), what, from, to, config, ..Change::default() }
    }

    /// The state directory.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What bounds the weight.
    #[must_use]
    pub fn helm(&self) -> Helm {
        self.current().helm.clone()
    }
}
