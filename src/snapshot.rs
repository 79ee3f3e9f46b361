//! What one request sees of the config, compiled; and the one place that publishes it.
//!
//! A snapshot is immutable. Publishing checks and builds everything first, swaps one pointer, and
//! records what changed. Workers look once a request, so no request ever sees two configs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::config::{Config, ConfigError, Fault};
use crate::metrics::Metrics;
use crate::record::{Change, ChangeLog, now};
use crate::route::sticky::Salt;
use crate::route::{Force, Route, Rules, Target};
use crate::tick::Span;
use crate::upstream::endpoint::Plan;
use crate::upstream::gate::Gate;
use crate::vocab::{DEFAULT_ROUTE, PerSide, ROUTES_MAX, RouteId, Weight};
use crate::wire::exchange::ClientLimits;

/// One config, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// The config that it was made of.
    pub config: Config,
    /// How a request's path is decided.
    pub rules: Rules,
    /// Both paths.
    pub plans: PerSide<Arc<Plan>>,
    /// Limits of client connections.
    pub client: ClientLimits,
}

/// The turns of each route's even spread, shared by all workers: one counter for each route, or a
/// route would see only some turns of a common one and its share would be uneven.
#[derive(Debug)]
pub struct Turns(Box<[Turn]>);

// A cache line each, so that routes don't slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Turn(AtomicU64);

impl Default for Turns {
    fn default() -> Self {
        Self((0..ROUTES_MAX).map(|_| Turn::default()).collect())
    }
}

impl Turns {
    /// The next turn of a route.
    #[must_use]
    pub fn next(&self, route: RouteId) -> u64 {
        self.0[usize::from(route.0) % ROUTES_MAX].0.fetch_add(1, Ordering::Relaxed)
    }
}

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
    changes: Mutex<ChangeLog>,
    reload: Mutex<ReloadState>,
    // Held for a whole reload: the one that reads last must publish last.
    reloading: Mutex<()>,
}

impl Publisher {
    /// Publishes the first config.
    ///
    /// # Errors
    /// When the config can't be put in force, or the state directory not be written to.
    pub fn new(
        config: Config,
        file: PathBuf,
        metrics: Arc<Metrics>,
        workers: usize,
    ) -> anyhow::Result<Self> {
        let changes = ChangeLog::open(&config.state_dir).map_err(|error| {
            anyhow::anyhow!("can't write to state_dir {}: {error}", config.state_dir.display())
        })?;
        let gates = PerSide::from_fn(|side| Gate::new(metrics.waiting(side)));
        let first = compile(config, &metrics, workers)
            .map_err(|faults| ConfigError::Faults { path: file.clone(), faults })?;
        let publisher = Self {
            current: Arc::new(ArcSwap::from_pointee(first)),
            gates,
            metrics,
            workers,
            file,
            changes: Mutex::new(changes),
            reload: Mutex::default(),
            reloading: Mutex::default(),
        };
        let first = publisher.current();
        publisher.put_in_force(&first);
        publisher.note("start", None, "", &first.config.weight.to_string());
        Ok(publisher)
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

    /// The gates of both paths.
    #[must_use]
    pub fn gates(&self) -> &PerSide<Arc<Gate>> {
        &self.gates
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
        let reloaded = Config::load(&self.file).and_then(|config| self.publish(config));
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

    fn publish(&self, config: Config) -> Result<(), ConfigError> {
        let old = self.current();
        let keys = old.config.fixed_changes(&config);
        if !keys.is_empty() {
            return Err(ConfigError::Fixed { keys });
        }
        let new = compile(config, &self.metrics, self.workers)
            .map_err(|faults| ConfigError::Faults { path: self.file.clone(), faults })?;
        let new = Arc::new(new);
        self.current.store(new.clone());
        self.put_in_force(&new);
        self.note_changes(&old, &new);
        Ok(())
    }

    fn put_in_force(&self, snapshot: &Snapshot) {
        for (side, plan) in snapshot.plans.iter() {
            self.gates.get(side).set(plan.max_in_flight, plan.queue_depth);
        }
        let configured = snapshot
            .rules
            .targets()
            .map(|target| (&*target.name, target.weight, target.effective()));
        self.metrics.set_weights(configured);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_1970.map_or(0.0, |span| span.as_secs_f64());
        self.metrics.config_applied(&snapshot.config.hash, seconds);
    }

    fn note_changes(&self, old: &Snapshot, new: &Snapshot) {
        let (from, to) = (&old.config.hash, &new.config.hash);
        tracing::info!(from, to, weight = %new.config.weight, "config applied");
        if from != to {
            self.note("config", None, from, to);
        }
        for target in new.rules.targets() {
            let before = old.rules.targets().find(|old| old.name == target.name);
            let before = before.map_or(Weight::ZERO, Target::effective);
            let after = target.effective();
            if before != after {
                let route = target.name.as_str();
                tracing::info!(route, from = %before, to = %after, "weight changed");
                let (before, after) = (before.to_string(), after.to_string());
                self.note("weight", Some(route), &before, &after);
            }
        }
    }

    /// Appends to the change log what changed, from what, to what.
    pub fn note(&self, what: &str, route: Option<&str>, from: &str, to: &str) {
        let config = &self.current().config.hash;
        let change = Change { time: now(), what, route, from, to, config };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).append(&change);
    }
}

/// Builds all that a config needs, before anything is swapped.
fn compile(config: Config, metrics: &Metrics, workers: usize) -> Result<Snapshot, Vec<Fault>> {
    let fault = |key: &str, message: String| {
        vec![Fault { line: 1, column: 1, key: key.to_owned(), message }]
    };
    let plan = |key: &'static str, path| {
        Plan::new(path, workers)
            .map(Arc::new)
            .map_err(|error| fault(&format!("{key}.endpoints"), error.to_string()))
    };
    let legacy = plan("legacy", &config.paths.legacy)?;
    let async_ = plan("async", &config.paths.async_)?;
    let rules = rules(&config, metrics).ok_or_else(|| {
        fault("route.name", format!("over {ROUTES_MAX} route names since the start: restart"))
    })?;
    let client = ClientLimits {
        head: Span::from_duration(config.listen.header_timeout),
        head_bytes: config.listen.header_bytes,
        idle: Span::from_duration(config.listen.idle_timeout),
        body_idle: Span::from_duration(config.listen.body_idle_timeout),
    };
    Ok(Snapshot { config, rules, plans: PerSide { legacy, async_ }, client })
}

fn rules(config: &Config, metrics: &Metrics) -> Option<Rules> {
    let target = |name: &str, weight, pin| {
        Some(Target { route: metrics.route(name)?, name: name.to_owned(), weight, pin })
    };
    let routes = config.routes.iter().map(|route| {
        let target = target(&route.name, route.weight, route.pin)?;
        Some(Route { pattern: route.pattern.clone(), target })
    });
    let split = &config.split;
    let from_anyone = split.force_from == crate::config::values::ForceFrom::Anyone;
    Some(Rules {
        routes: routes.collect::<Option<_>>()?,
        fallback: target(DEFAULT_ROUTE, config.weight, None)?,
        key: split.key.clone(),
        salt: Salt::new(&split.salt),
        force: split.force_header.clone().map(|header| Force { header, from_anyone }),
    })
}
