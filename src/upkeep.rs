//! What the control plane does for the endpoints of both paths: it has them probed, takes those back
//! whose ejection has ended, and walks paced returns on.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::HealthConfig;
use crate::ids::Ids;
use crate::publisher::Publisher;
use crate::upstream::endpoint::{Endpoint, Member};
use crate::upstream::health;
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

/// One task for each endpoint that is probed.
#[derive(Default)]
struct Probes {
    tasks: JoinSet<()>,
    running: HashMap<(Side, String), Running>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    config: HealthConfig,
    task: tokio::task::AbortHandle,
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
        let mut kept = HashMap::new();
        for (side, plan) in snapshot.plans.iter() {
            let Some(config) = &snapshot.config.paths.get(side).health else {
                continue;
            };
            for Member { endpoint, .. } in plan.members.iter() {
                let key = (side, endpoint.label.clone());
                let known = self.running.remove(&key).filter(|known| {
                    Arc::ptr_eq(&known.endpoint, endpoint) && known.config == *config
                });
                let running =
                    known.unwrap_or_else(|| self.start(publisher, side, endpoint, config));
                kept.insert(key, running);
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
        config: &HealthConfig,
    ) -> Running {
        let fleet = publisher.metrics().fleet(side).clone();
        let probed = (endpoint.clone(), config.clone());
        let draws = Ids::new(RandomState::new().hash_one(&endpoint.label));
        let task = self.tasks.spawn(async move {
            let (endpoint, config) = probed;
            health::watch(&endpoint, &fleet, &config, draws).await;
        });
        Running { endpoint: endpoint.clone(), config: config.clone(), task }
    }
}
