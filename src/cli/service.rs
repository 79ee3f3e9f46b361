//! What systemd hears of the proxy (sd_notify(3)): that it serves, reloads, ends or is succeeded, and
//! where it keeps a watchdog, that no worker is stuck. Started by anyone else, it tells nobody.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::time::{MissedTickBehavior, interval};

/// Workers' clocks go on ten times a second.
const BEAT_MIN: Duration = Duration::from_millis(250);

/// It serves, by a new config or still by the old one.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its config again; [`ready`] says when that is done.
pub(crate) fn reloading() {
    let told =
        NotifyState::monotonic_usec_now().and_then(|now| notify(&[NotifyState::Reloading, now]));
    warn(told);
}

/// It drains.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Process `pid` has taken over, and is the one to watch from now on. Not that this one ends: the service does not.
pub(crate) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Keeps the watchdog quiet for as long as `is_well` holds, which is asked four times in its time: one that is
/// stuck for a moment must not be ended after it.
pub(crate) async fn watch(mut is_well: impl FnMut() -> bool) -> Infallible {
    let Some(patience) = watchdog_enabled() else {
        return pending().await;
    };
    let mut beat = interval((patience / 4).max(BEAT_MIN));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nothing has happened before the first.
    beat.tick().await;
    loop {
        beat.tick().await;
        if is_well() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("a worker is stuck: the watchdog is not told that all is well");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    warn(notify(states));
}

fn warn(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!(%error, "can't tell the service manager");
    }
}

/// Whether each worker's clock goes on.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Vec<u64>);

impl Pulse {
    /// Whether all clocks stand elsewhere than they did when this was asked last.
    pub(crate) fn goes_on(&mut self, clocks: impl Iterator<Item = u64>) -> bool {
        let clocks: Vec<u64> = clocks.collect();
        let is_stuck = self.0.iter().zip(&clocks).any(|(before, now)| before == now);
        self.0 = clocks;
        !is_stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_is_stuck_is_noticed_until_it_goes_on() {
        let mut pulse = Pulse::default();
        let asked = [[0, 0], [1, 5], [2, 5], [2, 6], [3, 7]];
        let told = asked.map(|clocks| pulse.goes_on(clocks.into_iter()));
        assert_eq!(told, [true, true, false, false, true]);
    }
}
