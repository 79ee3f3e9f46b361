//! What the guard and the ramp are told to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::url;
use crate::guard::counts::Rules;
use crate::vocab::Weight;

/// `[guard]`, as needed. Evidence is in nats, shares are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardConfig {
    /// What comes of a verdict.
    pub mode: GuardMode,
    /// By what the judge goes; what it learns from the ramp, the paths and the baseline is filled in later.
    pub rules: Rules,
    /// How long an endpoint with requests in flight may be silent.
    pub stall_after: Duration,
    /// How much more than by chance events come together, from 1; 0: as measured with the baseline.
    pub phi: f64,
    /// The id of the rollback that this file releases; empty: none.
    pub acknowledge_rollback: String,
}

/// What comes of a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardMode {
    /// Nothing is judged.
    Off,
    /// A failed check is told, and nothing is rolled back.
    #[default]
    Observe,
    /// A failed check rolls back.
    Enforce,
}

/// `[ramp]`, as needed.
#[derive(Clone, Debug, PartialEq)]
pub struct RampConfig {
    /// The shares at which it stops for evidence, ascending; at least one.
    pub steps: Vec<Weight>,
    /// How long it stays at each, at the least.
    pub soak: Duration,
    /// Requests on the async path that each step needs.
    pub min_requests: u64,
    /// Requests from which the P99 is judged.
    pub p99_min_requests: u64,
    /// How long it stays at a step until someone is told.
    pub max_hold: Duration,
    /// The steps that wait for a person.
    pub approve: Vec<Weight>,
    /// Who is told of each transition.
    pub webhook: Option<Webhook>,
}

/// An `http://` or `https://` URL that is told of events. Its path and query may be a secret, so it is
/// shown without them.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(String);

impl Webhook {
    /// All of it: for the request alone, not for a log.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl FromStr for Webhook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        url::check(text, &["http", "https"])?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(url::origin(&self.0))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_shown_without_what_may_be_a_secret() {
        for text in ["https://hooks.example:8443/T0/secret", "https://hooks.example:8443?k=secret"]
        {
            let hook: Webhook = text.parse().unwrap();
            assert_eq!(hook.url(), text);
            assert_eq!(hook.to_string(), "https://hooks.example:8443");
            assert_eq!(format!("{hook:?}"), "Webhook(https://hooks.example:8443)");
        }
    }
}
