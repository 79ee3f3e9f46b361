//! The guard drains a path: begins it when nothing can go there any more, ends it with a certificate, and
//! sees whether that still holds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::durable;
use crate::guard::decision::Kind;
use crate::guard::desk::Guard;
use crate::guard::path_drain::{Reachable, Running};
use crate::guard::retire::{Certificate, Flow, Left, Retirement, Stage};
use crate::metrics::Metrics;
use crate::record::now;
use crate::route::Target;
use crate::snapshot::Snapshot;
use crate::vocab::{Side, Weight};

/// How long workers may take to cut off what is left.
const CUT_GRACE: Duration = Duration::from_secs(5);
/// The version of the certificate's format.
const VERSION: u32 = 1;

impl Guard {
    /// Begins to drain a path; what is left at the timeout is cut off only if that is asked for.
    ///
    /// # Errors
    /// While the config can still route to it.
    pub fn drain(&self, side: Side, timeout: Duration, is_forced: bool) -> Result<(), Reachable> {
        let snapshot = self.publisher.current();
        if let Some(why) = why_reachable(&snapshot, side) {
            return Err(Reachable { path: side, why });
        }
        // Of both paths: a request of the other one that a config of before let fail over may still come.
        let longest = snapshot.config.paths.iter().flat_map(|(_, path)| {
            let attempt = path.queue_timeout + path.connect_timeout + path.response_timeout;
            [attempt, path.request_deadline, path.pool_idle_timeout]
        });
        let longest = longest.max().unwrap_or_default();
        let running = Running {
            retirement: Retirement::new(side, self.now(), timeout, longest),
            began_at: now(),
            cut_before: cut(self.publisher.metrics(), side),
            is_forced,
        };
        set_cut(self.publisher.metrics(), side, false);
        self.publisher.retire(side, true);
        let mut live = self.live();
        let drain = live.drains.0.get_mut(side);
        (drain.running, drain.stage) = (Some(running), None);
        Ok(())
    }

    /// Goes on with the drains of both paths, and sees whether certificates still hold.
    pub(super) fn step_drains(&self, snapshot: &Snapshot) {
        for side in Side::ALL {
            let is_reachable = why_reachable(snapshot, side).is_some();
            if is_reachable && self.publisher.is_retired(side) {
                self.publisher.retire(side, false);
            }
            if !self.live().drains.is_retired(side) {
                continue;
            }
            let metrics = self.publisher.metrics();
            let (left, flow) = (left(metrics, side), flow(metrics, side));
            let done = {
                let mut live = self.live();
                let drain = live.drains.0.get_mut(side);
                if let Some(void) = drain.void(flow) {
                    drop(live);
                    self.void(side, &void);
                    continue;
                }
                drain.step(self.now(), (left, flow), is_reachable)
            };
            if let Some(stage) = done {
                self.end_drain(side, stage);
            }
        }
    }

    fn end_drain(&self, side: Side, stage: Stage) {
        if matches!(stage, Stage::TimedOut { .. }) && self.cut_off(side) {
            return;
        }
        set_cut(self.publisher.metrics(), side, false);
        let Stage::Done { flow } = stage else {
            // It may be used again: it keeps connections again.
            self.publisher.retire(side, false);
            let stage = serde_json::to_string(&stage).unwrap_or_default();
            self.tell(Kind::Drain, None, &[format!("{side} is not drained: {stage}")]);
            self.live().drains.0.get_mut(side).running = None;
            return;
        };
        let Some(running) = self.live().drains.0.get(side).running.clone() else {
            return;
        };
        let certificate = self.certify(&running, flow);
        self.keep(&certificate);
        let line = format!("{side} is safe to switch off: {} requests, all ended", flow.finished);
        self.tell(Kind::Drain, None, &[line]);
        let mut live = self.live();
        let drain = live.drains.0.get_mut(side);
        (drain.certificate, drain.certified) = (Some(certificate), Some(flow));
        drain.running = None;
    }

    /// Cuts off what is left, once, where that was asked for.
    fn cut_off(&self, side: Side) -> bool {
        let now = self.now();
        let mut live = self.live();
        let Some(running) = live.drains.0.get_mut(side).running.as_mut() else {
            return false;
        };
        if !std::mem::take(&mut running.is_forced) {
            return false;
        }
        running.retirement.extend(now, CUT_GRACE);
        set_cut(self.publisher.metrics(), side, true);
        true
    }

    fn certify(&self, running: &Running, flow: Flow) -> Certificate {
        let side = running.retirement.side;
        let cut_now = cut(self.publisher.metrics(), side);
        Certificate {
            version: VERSION,
            path: side,
            issued_at: now(),
            began_at: running.began_at.clone(),
            quiet_seconds: running.retirement.quiet_for().as_secs_f64(),
            flow,
            cut_requests: cut_now.0 - running.cut_before.0,
            cut_tunnels: cut_now.1 - running.cut_before.1,
            config: self.publisher.current().config.hash.clone(),
            void: None,
        }
    }

    fn void(&self, side: Side, certificate: &Certificate) {
        let requests = certificate.void.as_ref().map_or(0, |void| void.requests);
        tracing::error!(path = %side, requests, "the drain certificate is void");
        self.keep(certificate);
        let line = format!("the certificate of {side} is void: {requests} requests came after it");
        self.tell(Kind::Drain, None, &[line]);
    }

    fn keep(&self, certificate: &Certificate) {
        let dir = self.publisher.ledger().dir();
        let content = serde_json::to_vec_pretty(certificate).unwrap_or_default();
        let name = Certificate::file(certificate.path);
        if let Err(error) = durable::replace(dir, &name, &content) {
            tracing::error!(%error, "can't write {name}");
        }
    }
}

/// How requests can still go to a path, if they can.
fn why_reachable(snapshot: &Snapshot, side: Side) -> Option<String> {
    let all = match side {
        Side::Legacy => Weight::ONE,
        Side::Async => Weight::ZERO,
    };
    let target = snapshot.rules.targets().find(|target| {
        // Both what it has and what it may have: a way back is not over before its end.
        [target.effective(), target.desired()] != [all; 2]
    });
    if let Some(Target { name, pin, .. }) = target {
        let weight = target.map(Target::effective).unwrap_or_default();
        return Some(match pin {
            Some(_) => format!("route {name} is pinned to it"),
            None => format!("route {name} has weight {weight}"),
        });
    }
    if snapshot.config.failover.enabled {
        return Some("[failover] is enabled".to_owned());
    }
    if snapshot.mirror.as_ref().is_some_and(|mirror| mirror.mirrors_any()) {
        let share = snapshot.config.mirror.share;
        return Some(format!("[mirror] sends it a share of {share}"));
    }
    let header = snapshot.config.split.force_header.as_ref()?;
    Some(format!("split.force_header is set ({header})"))
}

fn left(metrics: &Metrics, side: Side) -> Left {
    let endpoints = metrics.shards().iter().flat_map(|shard| shard.endpoints());
    let of_side = endpoints.filter(|cells| cells.side == side);
    let mirror = metrics.mirror.side(side);
    let connections: u64 = of_side.map(|cells| cells.idle.get() + cells.busy.get()).sum();
    Left {
        requests: metrics.in_flight(side),
        shadows: mirror.in_flight(),
        queued: metrics.queue_depth(side) as u64,
        tunnels: metrics.sum(|shard| shard.sides.get(side).tunnels.get()),
        connections: connections + mirror.connections.get(),
    }
}

fn flow(metrics: &Metrics, side: Side) -> Flow {
    let finished: u64 = metrics.sum(|shard| {
        let routes = shard.sides.get(side).routes();
        routes.map(|(_, cells)| cells.codes.iter().map(|(_, n)| n).sum::<u64>()).sum()
    });
    let started: u64 = metrics.sum(|shard| {
        let decisions = shard.sides.get(side).decisions.iter();
        decisions.map(crate::metrics::cell::Cell64::get).sum()
    });
    let mirror = metrics.mirror.side(side);
    Flow { started: started + mirror.started.get(), finished: finished + mirror.ended.get() }
}

fn set_cut(metrics: &Metrics, side: Side, is_cut: bool) {
    for shard in metrics.shards() {
        shard.cut.get(side).store(is_cut, Ordering::Relaxed);
    }
}

/// Requests and tunnels of a path that were cut off since the start.
#[must_use]
pub fn cut(metrics: &Metrics, side: Side) -> (u64, u64) {
    let sum = |tunnels: bool| {
        metrics.sum(|shard| {
            let cells = shard.sides.get(side);
            if tunnels { cells.cut_tunnels.get() } else { cells.cut.get() }
        })
    };
    (sum(false), sum(true))
}
