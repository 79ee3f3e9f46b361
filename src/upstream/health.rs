//! Probes: whether an endpoint answers as it should, asked again and again.
//!
//! Each probe is a request on a connection of its own, as a new client would send it. All endpoints
//! of both paths are probed at all times, also those of a path that gets no traffic: so it is known
//! whether the way back would carry. While a change of mind is near, probes come twice as fast.

use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::HealthConfig;
use crate::error::is_out_of_resources;
use crate::ids::Ids;
use crate::upstream::ask::Asked;
use crate::upstream::fleet::Fleet;
use crate::upstream::standing::Health;

/// What the probes of one endpoint have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    health: Health,
    // Probes in a row that say otherwise.
    against: u32,
}

impl Streak {
    /// The next probe passed or not. The first decides; then it takes as many in a row as are
    /// configured to change what is thought.
    fn add(&mut self, passed: bool, config: &HealthConfig) {
        let (said, needed) = match passed {
            true => (Health::Up, config.healthy_after),
            false => (Health::Down, config.unhealthy_after),
        };
        if said == self.health {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.health == Health::Unchecked || self.against >= needed {
            *self = Self { health: said, against: 0 };
        }
    }

    /// How soon after one probe the next one is due: sooner while there is doubt. `draw` jitters it
    /// by a tenth either way, so that many endpoints are not asked, by many proxies, in one beat.
    fn pause(&self, interval: Duration, draw: u64) -> Duration {
        let pause = if self.against > 0 { interval / 2 } else { interval };
        #[expect(clippy::cast_precision_loss, reason = "a share of 2^64 needs no last digit")]
        let share = draw as f64 / u64::MAX as f64;
        pause.mul_f64(0.9 + 0.2 * share)
    }
}

/// Probes an endpoint until it is dropped.
pub async fn watch(asked: Asked<'_>, fleet: &Fleet, config: &HealthConfig, draws: Ids) {
    let endpoint = asked.endpoint;
    let mut streak = Streak { health: endpoint.health(), against: 0 };
    loop {
        let began = Instant::now();
        let probed = match timeout(config.timeout, probe(asked, config)).await {
            Ok(probed) => probed,
            Err(_late) => Err(io::Error::other(format!("no answer in {:?}", config.timeout))),
        };
        // That this machine is out of resources says nothing of the endpoint.
        if !probed.as_ref().is_err_and(is_out_of_resources) {
            endpoint.counts.checked(probed.is_ok());
            streak.add(probed.is_ok(), config);
            let why = probed.err().map(|error| error.to_string()).unwrap_or_default();
            fleet.checked(endpoint, streak.health, &why);
        }
        sleep_until(began + streak.pause(config.interval, draws.draw())).await;
    }
}

/// # Errors
/// Why the endpoint is not as it should be.
async fn probe(asked: Asked<'_>, config: &HealthConfig) -> io::Result<()> {
    accepted(asked.ask(&config.path).await?, config)
}

fn accepted(status: StatusCode, config: &HealthConfig) -> io::Result<()> {
    let accepted = config.status.first..=config.status.last;
    let refused = || io::Error::other(format!("status {status}"));
    accepted.contains(&status.as_u16()).then_some(()).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Statuses;

    fn config() -> HealthConfig {
        HealthConfig {
            path: "/healthz".parse().unwrap(),
            status: Statuses { first: 200, last: 399 },
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }

    #[test]
    fn it_takes_some_in_a_row_to_change_what_is_thought() {
        // Probes that pass are `+`; what is thought after each is `U` or `D`.
        for (probes, thought) in [
            ("+", "U"),
            ("-", "D"),
            ("+---", "UUUD"),
            ("+--+---", "UUUUUUD"),
            ("-++", "DDU"),
            ("-+-++", "DDDDU"),
        ] {
            let mut streak = Streak::default();
            let found: String = probes
                .chars()
                .map(|probe| {
                    streak.add(probe == '+', &config());
                    if streak.health == Health::Up { 'U' } else { 'D' }
                })
                .collect();
            assert_eq!(found, thought, "{probes}");
        }
    }

    #[test]
    fn a_dead_endpoint_is_out_within_its_probes_times_the_interval() {
        let config = config();
        let mut streak = Streak { health: Health::Up, against: 0 };
        // It dies right after a probe; the next is as late as it may be, and each takes its timeout.
        let mut now = streak.pause(config.interval, u64::MAX);
        loop {
            streak.add(false, &config);
            if streak.health == Health::Down {
                break;
            }
            now += config.timeout.max(streak.pause(config.interval, u64::MAX));
        }
        now += config.timeout;
        assert!(now <= config.interval * config.unhealthy_after, "{now:?}");
    }

    #[test]
    fn statuses_have_a_range() {
        for (status, passes) in [(200, true), (399, true), (199, false), (400, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(accepted(status, &config()).is_ok(), passes, "{status}");
        }
    }
}
