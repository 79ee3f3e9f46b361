//! The drain of one path, and the certificate that it may be switched off.
//!
//! Pure: what is left comes in as numbers, time as an argument. A path is done when nothing of it is
//! in flight, queued, tunnelled or pooled, and when that has stayed so for as long as anything that
//! nobody sees could still take: the longest deadline, the idle time of connections, and a margin.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vocab::Side;

/// On top of what is configured: clocks and reloads are not exact.
const QUIET_MARGIN: Duration = Duration::from_secs(5);

/// What a path still has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Requests between decision and end of their reply.
    pub requests: u64,
    /// Requests that wait for a slot.
    pub queued: u64,
    /// Upgraded connections.
    pub tunnels: u64,
    /// Requests of the mirror.
    pub shadows: u64,
    /// Connections to its endpoints, busy and idle.
    pub connections: u64,
}

/// How many requests a path has had since the start, those of the mirror among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Begun.
    pub started: u64,
    /// Ended.
    pub finished: u64,
}

/// A drain of one path.
#[derive(Clone, Debug)]
pub struct Retirement {
    /// Which one.
    pub side: Side,
    began: Duration,
    timeout: Duration,
    quiet_for: Duration,
    quiet_since: Option<(Duration, Flow)>,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Stage {
    /// Something is left.
    Waiting {
        /// What.
        left: Left,
    },
    /// Nothing is left, and that has to stay so.
    Quiet {
        /// For how many seconds more.
        seconds_left: f64,
    },
    /// Done.
    Done {
        /// What it has had.
        flow: Flow,
    },
    /// Requests may go there again: the drain is called off.
    CalledOff,
    /// Something was left at the timeout. Nothing was cut off.
    TimedOut {
        /// What.
        left: Left,
    },
}

/// That a path may be switched off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The version of this format.
    pub version: u32,
    /// The path.
    pub path: Side,
    /// When it was issued, RFC 3339.
    pub issued_at: String,
    /// When the drain began, RFC 3339.
    pub began_at: String,
    /// For how long nothing came.
    pub quiet_seconds: f64,
    /// What it has had since the process started; both numbers are the same.
    pub flow: Flow,
    /// Requests that were cut off in the drain.
    pub cut_requests: u64,
    /// Tunnels that were cut off in the drain.
    pub cut_tunnels: u64,
    /// The hash of the config file in force.
    pub config: String,
    /// What came after all: the certificate is void then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<Void>,
}

/// Why a certificate is void.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Void {
    /// When it was noticed, RFC 3339.
    pub at: String,
    /// Requests that came to the path.
    pub requests: u64,
}

impl Left {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Retirement {
    /// A drain of `side` that begins at `now`. What is configured for its requests and connections
    /// says how long it must be quiet.
    #[must_use]
    pub fn new(side: Side, now: Duration, timeout: Duration, longest: Duration) -> Self {
        let quiet_for = longest + QUIET_MARGIN;
        Self { side, began: now, timeout, quiet_for, quiet_since: None }
    }

    /// For how long the path must be quiet.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        self.quiet_for
    }

    /// Waits for so long more from `now` on.
    pub fn extend(&mut self, now: Duration, by: Duration) {
        (self.began, self.timeout) = (now, by);
    }

    /// Where it stands at `now`. A request that comes and goes between two looks shows in `flow`.
    pub fn step(&mut self, now: Duration, left: Left, flow: Flow) -> Stage {
        if !left.is_nothing() || flow.started != flow.finished {
            self.quiet_since = None;
            let is_late = now.saturating_sub(self.began) >= self.timeout;
            return if is_late { Stage::TimedOut { left } } else { Stage::Waiting { left } };
        }
        let (since, before) = *self.quiet_since.get_or_insert((now, flow));
        if before != flow {
            self.quiet_since = Some((now, flow));
            return Stage::Quiet { seconds_left: self.quiet_for.as_secs_f64() };
        }
        let quiet = now.saturating_sub(since);
        if quiet >= self.quiet_for {
            return Stage::Done { flow };
        }
        Stage::Quiet { seconds_left: (self.quiet_for - quiet).as_secs_f64() }
    }
}

impl Certificate {
    /// Its file in `state_dir`.
    #[must_use]
    pub fn file(side: Side) -> String {
        format!("certificate-{side}.json")
    }

    /// Whether it still says that the path may be switched off.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.void.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn flow(requests: u64) -> Flow {
        Flow { started: requests, finished: requests }
    }

    fn retirement() -> Retirement {
        Retirement::new(Side::Legacy, seconds(100), seconds(45), seconds(30))
    }

    #[test]
    fn a_path_is_done_once_it_was_empty_for_its_longest_deadline_and_five_seconds() {
        let mut drain = retirement();
        let none = Left::default();
        for (at, left, requests, expected) in [
            (100, Left { requests: 1, ..none }, 7, "waiting"),
            (101, Left { tunnels: 1, ..none }, 7, "waiting"),
            (102, Left { shadows: 1, ..none }, 7, "waiting"),
            (102, Left { connections: 1, ..none }, 7, "waiting"),
            (103, none, 7, "quiet"),
            (137, none, 7, "quiet"),
            (138, none, 7, "done"),
        ] {
            let stage = serde_json::to_value(drain.step(seconds(at), left, flow(requests)));
            assert_eq!(stage.unwrap()["phase"], expected, "at {at}");
        }
    }

    #[test]
    fn a_request_that_comes_meanwhile_starts_the_quiet_time_anew() {
        let mut drain = retirement();
        let none = Left::default();
        drain.step(seconds(100), none, flow(7));
        let stage = drain.step(seconds(134), none, flow(8));
        assert_eq!(stage, Stage::Quiet { seconds_left: 35.0 });
        let stage = drain.step(seconds(168), none, flow(8));
        assert_eq!(stage, Stage::Quiet { seconds_left: 1.0 });
        assert_eq!(drain.step(seconds(169), none, flow(8)), Stage::Done { flow: flow(8) });
    }

    #[test]
    fn what_is_left_at_the_timeout_is_told() {
        let left = Left { queued: 2, ..Left::default() };
        let mut drain = retirement();
        assert_eq!(drain.step(seconds(144), left, flow(7)), Stage::Waiting { left });
        assert_eq!(drain.step(seconds(145), left, flow(7)), Stage::TimedOut { left });
        // The timeout is for what is in flight, not for the quiet time.
        let mut drain = retirement();
        drain.step(seconds(110), Left::default(), flow(7));
        let stage = drain.step(seconds(144), Left::default(), flow(7));
        assert_eq!(stage, Stage::Quiet { seconds_left: 1.0 });
    }
}
