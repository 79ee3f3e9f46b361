//! Loop probes: how late an endpoint's event loop is, asked many times a second.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::config::LoopProbe;
use crate::upstream::ask::Asked;
use crate::upstream::fleet::Fleet;

/// A loop that is blocked for longer than this is no longer merely late.
const LATEST: Duration = Duration::from_secs(10);

/// Probes an endpoint until it is dropped; a probe that lags by `late_after` marks a stall.
pub async fn watch(asked: Asked<'_>, fleet: &Fleet, config: &LoopProbe, late_after: Duration) {
    let endpoint = asked.endpoint;
    let mut beat = interval(config.interval);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let began = Instant::now();
        endpoint.lag.begin(fleet.nanos(began), late_after);
        // One that fails says nothing of the loop: health probes and requests see to that.
        if let Ok(Ok(_)) = timeout(LATEST, asked.ask(&config.path)).await {
            let (start, end) = (fleet.nanos(began), fleet.nanos(Instant::now()));
            endpoint.lag.record(start, end, late_after);
        }
    }
}
