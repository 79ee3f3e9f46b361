//! What `/api/v1/status` and `/api/v1/config` say.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::admin::diffs;
use crate::admin::judgement;
use crate::admin::office::Office;
use crate::config::{Config, shown};
use crate::error::{ClientFault, PathFault};
use crate::metrics::shard::{Observed, SideCells};
use crate::tls::Certificate;
use crate::upstream::endpoint::Member;
use crate::vocab::{RouteId, Side};

/// The state of the proxy as JSON.
pub(crate) fn status(office: &Office) -> Value {
    let snapshot = office.publisher.current();
    let phase = *office.phase.borrow();
    let reload = office.publisher.reload_state();
    let paths: BTreeMap<_, _> =
        Side::ALL.iter().map(|side| (side.name(), path(office, *side))).collect();
    let routes: Vec<_> = snapshot
        .rules
        .targets()
        .map(|target| {
            let share = |side| requests(office, side, target.route);
            json!({
                "route": target.name,
                "configured": target.weight.share(),
                "effective": target.effective().share(),
                "requests": { "legacy": share(Side::Legacy), "async": share(Side::Async) },
            })
        })
        .collect();
    let faults: BTreeMap<_, _> = ClientFault::ALL
        .iter()
        .map(|fault| {
            let number = office.metrics.sum(|shard| shard.client_faults[*fault as usize].get());
            (fault.name(), number)
        })
        .filter(|(_, number)| *number > 0)
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": phase.name(),
        "ready": office.readiness().is_ok(),
        "uptime_seconds": office.started.elapsed().map_or(0, |span| span.as_secs()),
        "config": {
            "file": office.publisher.file(),
            "hash": snapshot.config.hash,
            "last_reload_successful": reload.faults.is_empty(),
            "faults": reload.faults,
        },
        "certificates": certificates(&snapshot.config),
        "weights": routes,
        "guard": judgement::guard(office),
        "mirror": diffs::status(office),
        "paths": paths,
        "connections": office.metrics.sum(|shard| shard.connections.get()),
        "client_errors": faults,
    })
}

fn path(office: &Office, side: Side) -> Value {
    let sum = |of: fn(&SideCells) -> u64| office.metrics.sum(|shard| of(shard.sides.get(side)));
    let mut requests = 0;
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    let mut duration = Observed::default();
    for shard in office.metrics.shards() {
        for (_, cells) in shard.sides.get(side).routes() {
            requests += cells.codes.iter().map(|(_, number)| number).sum::<u64>();
            duration.add(&cells.duration);
            for fault in PathFault::ALL {
                let number = cells.errors[fault as usize].get();
                if number > 0 {
                    *errors.entry(fault.name()).or_default() += number;
                }
            }
        }
    }
    // Quantiles are upper bounds of buckets; the last bucket has none.
    let quantile = |q| duration.quantile(q).filter(|bound| bound.is_finite());
    json!({
        "requests": requests,
        "errors": errors,
        "in_flight": office.metrics.in_flight(side),
        "queue_depth": office.metrics.queue_depth(side),
        "endpoints": endpoints(office, side),
        "panic": office.metrics.fleet(side).is_panic(),
        "tunnels": sum(|cells| cells.tunnels.get()),
        "cut": sum(|cells| cells.cut.get() + cells.cut_tunnels.get()),
        "duration_seconds": { "p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99) },
    })
}

fn endpoints(office: &Office, side: Side) -> Vec<Value> {
    let show = |Member { endpoint, weight, priority }: &Member| {
        json!({
            "endpoint": endpoint.label,
            "name": endpoint.authority,
            "up": endpoint.is_up(),
            "health": endpoint.health().name(),
            "ejected": endpoint.is_ejected(),
            "weight": weight,
            "priority": priority,
        })
    };
    office.metrics.fleet(side).members().iter().map(show).collect()
}

/// The certificates in force, each with the section that names it.
fn certificates(config: &Config) -> Vec<Value> {
    let show = |(section, certificate): (&str, &Certificate)| {
        let Certificate { file, names, not_after } = certificate;
        let not_after = not_after.to_string();
        json!({ "section": section, "file": file, "names": names, "not_after": not_after })
    };
    config.certificates().map(show).collect()
}

fn requests(office: &Office, side: Side, route: RouteId) -> u64 {
    office.metrics.sum(|shard| {
        let mut routes = shard.sides.get(side).routes();
        routes
            .find(|(id, _)| *id == route)
            .map_or(0, |(_, cells)| cells.codes.iter().map(|(_, number)| number).sum())
    })
}

/// The config in force. Secrets are in files of their own, never in the config.
pub(crate) fn config(office: &Office) -> Value {
    let snapshot = office.publisher.current();
    let config = &snapshot.config;
    let text = shown(&config.text);
    json!({ "file": office.publisher.file(), "hash": config.hash, "text": text })
}
