//! What of a config and a snapshot concerns the ramp and the guard.

use crate::config::{Config, GuardMode};
use crate::guard::helm::{Helm, Way};
use crate::record::{Change, now};
use crate::snapshot::Snapshot;
use crate::vocab::{PerSide, Weight};

/// The ramp that a config describes.
#[must_use]
pub fn way(config: &Config) -> Way {
    let unpinned = config.routes.iter().filter(|route| route.pin.is_none());
    let goal = unpinned.map(|route| route.weight).fold(config.weight, Weight::max);
    let (steps, approve) = match &config.ramp {
        None => (None, Vec::new()),
        // A guard that only observes moves nothing: a person approves each step.
        Some(ramp) if config.guard.mode == GuardMode::Observe => {
            (Some(ramp.steps.clone()), ramp.steps.clone())
        }
        Some(ramp) => (Some(ramp.steps.clone()), ramp.approve.clone()),
    };
    Way { steps, approve, goal, is_gated: config.mirror.share > 0.0 }
}

/// Fits the helm to a config; the change, if that releases a rollback. A position that the file moves
/// is told of by the lines of its weights.
pub(super) fn adopt(helm: &mut Helm, config: &Config, present: Weight) -> Option<Change> {
    let (was_latched, way) = (helm.latch.is_some(), way(config));
    helm.adopt(&way, present, &config.guard.acknowledge_rollback);
    if !was_latched || helm.latch.is_some() {
        return None;
    }
    helm.seq += 1;
    let change = Change {
        time: now(),
        what: "resume".to_owned(),
        from: Weight::ZERO.to_string(),
        to: way.goal.min(helm.ceiling()).to_string(),
        config: config.hash.clone(),
        who: Some("file".to_owned()),
        seq: Some(helm.seq),
        ..Change::default()
    };
    helm.change = Some(change.clone());
    Some(change)
}

/// How far the helm lets the weight go, in words.
pub(super) fn reach(snapshot: &Snapshot, helm: &Helm) -> String {
    snapshot.rules.largest(|target| target.weight).min(helm.ceiling()).to_string()
}

/// Whether what the guard compares is the same under both configs.
pub(super) fn is_same_comparison(old: &Config, new: &Config) -> bool {
    let routes = |config: &Config| -> Vec<_> {
        config.routes.iter().map(|r| (r.name.clone(), r.pattern.clone(), r.weight, r.pin)).collect()
    };
    let split = |config: &Config| (config.split.key.clone(), config.split.salt.clone());
    let paths = |config: &Config| {
        PerSide::from_fn(|side| {
            let path = config.paths.get(side);
            (path.endpoints.clone(), path.response_timeout, path.request_deadline)
        })
    };
    old.weight == new.weight
        && paths(old) == paths(new)
        && old.guard == new.guard
        && old.ramp == new.ramp
        && routes(old) == routes(new)
        && split(old) == split(new)
}
