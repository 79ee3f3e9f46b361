//! What the control plane does for the endpoints of both paths: it has them probed, takes those back
//! whose ejection has ended, and walks paced returns on.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Config, HealthConfig, LoopProbe};
use crate::ids::Ids;
use crate::publisher::Publisher;
use crate::upstream::ask::Asked;
use crate::upstream::endpoint::{Endpoint, Member};
use crate::upstream::reach::Dialect;
use crate::upstream::{health, loop_probe};
use crate::vocab::Side;

/// How often ejections and paced returns are looked at.
const BEAT: Duration = Duration::from_millis(100);

/// Keeps house. Never ends.
pub async fn run(publisher: Arc<Publisher>) {
    let mut published = publisher.follow();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probes = Probes::default();
    probes.adjust(&publisher);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                for side in Side::ALL {
                    publisher.metrics().fleet(side).take_back();
                }
                publisher.step();
            }
            // A publisher that is gone ends the control plane anyway.
            _ = published.changed() => probes.adjust(&publisher),
        }
    }
}

/// What an endpoint is asked, again and again.
#[derive(Clone, PartialEq)]
enum Probe {
    /// Whether it is well.
    Health(HealthConfig, Dialect),
    /// How late its event loop is; late by so much is a stall.
    Loop(LoopProbe, Dialect, Duration),
}

/// One task for each probe of an endpoint.
#[derive(Default)]
struct Probes {
    tasks: JoinSet<()>,
    running: Vec<Running>,
}

struct Running {
    side: Side,
    endpoint: Arc<Endpoint>,
    probe: Probe,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// Starts and ends probes, so that they are those of the endpoints in force.
    fn adjust(&mut self, publisher: &Publisher) {
        let snapshot = publisher.current();
        let mut kept = Vec::new();
        for (side, plan) in snapshot.plans.iter() {
            for Member { endpoint, .. } in plan.members.iter() {
                for probe in probes(&snapshot.config, side) {
                    let known = self.running.iter().position(|known| {
                        known.side == side
                            && Arc::ptr_eq(&known.endpoint, endpoint)
                            && known.probe == probe
                    });
                    kept.push(match known {
                        Some(known) => self.running.swap_remove(known),
                        None => self.start(publisher, side, endpoint, probe),
                    });
                }
            }
        }
        // The others end as they are dropped.
        self.running = kept;
        while self.tasks.try_join_next().is_some() {}
    }

    fn start(
        &mut self,
        publisher: &Publisher,
        side: Side,
        endpoint: &Arc<Endpoint>,
        probe: Probe,
    ) -> Running {
        let fleet = publisher.metrics().fleet(side).clone();
        let (asked, asks) = (endpoint.clone(), probe.clone());
        let draws = Ids::new(RandomState::new().hash_one(&endpoint.label));
        let task = self.tasks.spawn(async move {
            match asks {
                Probe::Health(config, dialect) => {
                    let asked = Asked { endpoint: &asked, dialect: &dialect };
                    health::watch(asked, &fleet, &config, draws).await;
                }
                Probe::Loop(config, dialect, late) => {
                    let asked = Asked { endpoint: &asked, dialect: &dialect };
                    loop_probe::watch(asked, &fleet, &config, late).await;
                }
            }
        });
        Running { side, endpoint: endpoint.clone(), probe, task }
    }
}

/// The probes of each endpoint of a path.
fn probes(config: &Config, side: Side) -> impl Iterator<Item = Probe> {
    let path = config.paths.get(side);
    let dialect = Dialect::of(path);
    let asked = dialect.clone();
    let health = path.health.clone().map(|health| Probe::Health(health, asked));
    let late = config.guard.stall_after;
    health
        .into_iter()
        .chain(path.loop_probe.clone().map(move |probe| Probe::Loop(probe, dialect, late)))
}
