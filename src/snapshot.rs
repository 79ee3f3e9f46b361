//! What one request sees of the config, compiled.
//!
//! Immutable once it is made, and made whole before anything is swapped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Config, Fault};
use crate::guard::helm::Helm;
use crate::metrics::Metrics;
use crate::mirror::plan::MirrorPlan;
use crate::route::pace::Pace;
use crate::route::sticky::Salt;
use crate::route::{Force, Route, Rules, Target};
use crate::tick::Span;
use crate::trace::tracer::Sampling;
use crate::upstream::endpoint::Member;
use crate::upstream::fleet::Fleet;
use crate::upstream::locate::{Answers, Location, MEMBERS_MAX, locate};
use crate::upstream::plan::Plan;
use crate::vocab::{DEFAULT_ROUTE, PerSide, ROUTES_MAX, RouteId, Side, Weight};
use crate::wire::exchange::ClientLimits;

/// One config, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// The config that it was made of.
    pub config: Arc<Config>,
    /// How a request's path is decided.
    pub rules: Rules,
    /// Both paths.
    pub plans: PerSide<Arc<Plan>>,
    /// Limits of client connections.
    pub client: ClientLimits,
    /// The number of the time since what the guard compares last changed.
    pub epoch: u64,
    /// What is mirrored, if anything is.
    pub mirror: Option<Arc<MirrorPlan>>,
    /// Which requests are recorded, if any may be.
    pub sampling: Option<Sampling>,
    /// What bounds the weight.
    pub helm: Helm,
    /// Paths that are drained: they keep no connections.
    pub retired: PerSide<bool>,
    /// Whether any share is on its way back.
    pub is_moving: bool,
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

/// What a snapshot is made of beside its config.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What bounds the weight.
    pub helm: Helm,
    /// The number of the time since what the guard compares last changed.
    pub epoch: u64,
    /// Whether `helm` is not on disk although it is in force.
    pub is_unsaved: bool,
    /// Whether a baseline is recorded.
    pub is_measuring: bool,
    /// Paths that are drained: they keep no connections.
    pub retired: PerSide<bool>,
    /// What DNS last answered.
    pub answers: Answers,
    /// The ways back, by the names of their routes.
    pub paces: HashMap<String, Pace>,
}

/// A fault of what the config says as a whole.
pub(crate) fn fault(key: &str, message: String) -> Vec<Fault> {
    vec![Fault { line: 1, column: 1, key: key.to_owned(), message, is_passing: false }]
}

/// Builds all that a config needs, before anything is swapped, for so many workers, now. A plan that
/// is the same as in `old` is the old one: its paths go on as they are.
pub(crate) fn compile(
    config: Arc<Config>,
    state: &State,
    metrics: &Metrics,
    (workers, now): (usize, Duration),
    old: Option<&Snapshot>,
) -> Result<Snapshot, Vec<Fault>> {
    let plans = PerSide::from_fn(|side| {
        let members = members(side, &config, &state.answers, metrics.fleet(side));
        let mut plan = Plan::new(side, &config, members, workers);
        if *state.retired.get(side) {
            plan.keep_nothing();
        }
        let same = old.map(|old| old.plans.get(side)).filter(|old| ***old == plan);
        same.cloned().unwrap_or_else(|| Arc::new(plan))
    });
    let applied =
        |name: &str, weight| state.paces.get(name).and_then(|pace| pace.at(now)).unwrap_or(weight);
    let mut rules = rules(&config, metrics, state.helm.ceiling(), applied).ok_or_else(|| {
        fault("route.name", format!("over {ROUTES_MAX} route names since the start: restart"))
    })?;
    rules.is_measuring = state.is_measuring;
    let client = ClientLimits {
        head: Span::from_duration(config.listen.header_timeout),
        head_bytes: config.listen.header_bytes,
        idle: Span::from_duration(config.listen.idle_timeout),
        body_idle: Span::from_duration(config.listen.body_idle_timeout),
        tunnel_idle: Span::from_duration(config.listen.tunnel_idle_timeout),
    };
    let (helm, retired) = (state.helm.clone(), state.retired);
    let old = old.and_then(|old| old.mirror.as_deref());
    let mirror = MirrorPlan::new(&config, rules.targets(), old);
    let (epoch, is_moving) = (state.epoch, !state.paces.is_empty());
    let trace = &config.trace;
    let collector = trace.otlp_endpoint.clone();
    let sampling = collector.map(|collector| Sampling::of(collector, trace.sample_ratio));
    Ok(Snapshot { config, rules, plans, client, epoch, mirror, sampling, helm, retired, is_moving })
}

/// The endpoints of a path. One that is named twice is one endpoint, as it was named first.
fn members(side: Side, config: &Config, answers: &Answers, fleet: &Fleet) -> Arc<[Member]> {
    let endpoints = config.paths.get(side).endpoints.iter();
    let mut members: Vec<Member> = Vec::new();
    for location in endpoints.flat_map(|endpoint| locate(endpoint, answers)).take(MEMBERS_MAX) {
        let Location { addresses, authority, is_tls, weight, priority } = location;
        let Some(label) = addresses.first().map(ToString::to_string) else {
            continue;
        };
        if members.iter().any(|member| member.endpoint.label == label) {
            continue;
        }
        let endpoint = fleet.endpoint(&label, &addresses, &authority, is_tls);
        members.push(Member { endpoint, weight, priority });
    }
    members.into()
}

fn rules(
    config: &Config,
    metrics: &Metrics,
    ceiling: Weight,
    applied: impl Fn(&str, Weight) -> Weight,
) -> Option<Rules> {
    let target = |name: &str, weight, pin| {
        let (route, name, allowed) = (metrics.route(name)?, name.to_owned(), ceiling.min(weight));
        let applied = applied(&name, allowed);
        Some(Target { route, name, weight, allowed, applied, pin })
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
        is_measuring: false,
    })
}
