//! Changes that the admin API makes: orders to the guard, the ramp and the paths.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admin::office::{Answer, Office, json, problem, reply};
use crate::audit::findings::Audit;
use crate::guard::chores::KeepError;
use crate::guard::decision::Decision;
use crate::guard::desk::Guard;
use crate::inherit::has_predecessor;
use crate::publisher::SteerError;
use crate::relief::{Failure, PATIENCE};
use crate::vocab::Side;

/// The longest recording of a baseline, and the longest wait for a path to drain.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a path's drain waits for what is in flight, unless told otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a baseline is recorded, unless told otherwise.
const BASELINE_SPAN: Duration = Duration::from_secs(600);

/// An order, from its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Read the config again.
    Reload,
    /// Send nothing to async any more.
    RollBack,
    /// Release the rollback with this id.
    Resume(String),
    /// Let the ramp stand still.
    Pause,
    /// Let it go on.
    Continue,
    /// Let it take the step that waits for that.
    Approve,
    /// Record a baseline.
    Baseline,
    /// Add an audit to the baseline.
    Audit,
    /// Let a path finish.
    Drain(Side),
    /// Hand everything over to a new process of the program.
    Upgrade,
}

impl Order {
    /// The order at `path`, matched exactly.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let order = path.strip_prefix("/api/v1/")?;
        let parts: Vec<&str> = order.split('/').collect();
        Some(match parts[..] {
            ["reload"] => Self::Reload,
            ["rollback"] | ["ramp", "abort"] => Self::RollBack,
            ["resume", id] if !id.is_empty() => Self::Resume(id.to_owned()),
            ["ramp", "pause"] => Self::Pause,
            ["ramp", "continue"] => Self::Continue,
            ["ramp", "approve"] => Self::Approve,
            ["baseline"] => Self::Baseline,
            ["baseline", "audit"] => Self::Audit,
            ["upgrade"] => Self::Upgrade,
            ["paths", path, "drain"] => Self::Drain(Side::from_name(path.as_bytes())?),
            _ => return None,
        })
    }
}

/// What an order may say of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Details {
    /// How long to record, or to wait.
    seconds: Option<f64>,
    /// Whether to cut off what is left then.
    force: bool,
    /// What to add to the baseline.
    audit: Option<Audit>,
}

/// Carries an order out.
pub(crate) async fn carry_out(office: &Office, order: Order, body: &Bytes) -> Answer {
    let details = match details(body) {
        Ok(details) => details,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    let office = office.clone();
    // It may wait for the disk.
    let done = tokio::task::spawn_blocking(move || obey(&office, &order, &details)).await;
    done.unwrap_or_else(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "The order panicked."))
}

fn details(body: &Bytes) -> Result<Details, String> {
    if body.is_empty() {
        return Ok(Details::default());
    }
    // An object: an array of the fields in their order would do too.
    serde_json::from_slice::<Map<String, Value>>(body)
        .and_then(|object| serde_json::from_value(Value::Object(object)))
        .map_err(|error| format!("The body is not what it should be: {error}."))
}

fn obey(office: &Office, order: &Order, details: &Details) -> Answer {
    let guard = &office.guard;
    let Some(at_work) = guard.work() else {
        return problem(StatusCode::CONFLICT, "An upgrade is under way.");
    };
    match order {
        Order::Reload => match guard.publisher().reload() {
            Ok(()) => {
                let config = &guard.publisher().current().config;
                json(&json!({ "file": guard.publisher().file(), "hash": config.hash }))
            }
            Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        },
        Order::RollBack => decided(guard.roll_back(None, "operator")),
        Order::Resume(id) => decided(guard.resume(id)),
        Order::Pause => decided(guard.pause(true)),
        Order::Continue => decided(guard.pause(false)),
        Order::Approve => decided(guard.approve()),
        Order::Baseline => {
            let recorded = span(details, BASELINE_SPAN).and_then(|span| {
                guard.record_baseline(span).map_err(str::to_owned)?;
                Ok(json!({ "seconds": span.as_secs_f64() }))
            });
            accepted(recorded)
        }
        Order::Audit => keep(guard, details.audit.as_ref()),
        // What that still has is not counted here, so nothing could be certified.
        Order::Drain(_) if has_predecessor() => {
            problem(StatusCode::CONFLICT, "The process before the upgrade still drains.")
        }
        Order::Drain(side) => {
            let begun = span(details, DRAIN_TIMEOUT).and_then(|timeout| {
                guard.drain(*side, timeout, details.force).map_err(|error| error.to_string())?;
                Ok(json!({ "path": side, "seconds": timeout.as_secs_f64() }))
            });
            accepted(begun)
        }
        Order::Upgrade => {
            // It lets the guard rest, which waits for those who work.
            drop(at_work);
            upgrade(office, details)
        }
    }
}

fn upgrade(office: &Office, details: &Details) -> Answer {
    let patience = match span(details, PATIENCE) {
        Ok(patience) => patience,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    match office.upgrading.run(patience) {
        Ok(successor) => json(&serde_json::to_value(successor).unwrap_or_default()),
        Err(error @ Failure::Refused(_)) => problem(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ Failure::Failed(_)) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string())
        }
    }
}

fn keep(guard: &Guard, audit: Option<&Audit>) -> Answer {
    let Some(audit) = audit else {
        return problem(StatusCode::BAD_REQUEST, "There is no audit in the body.");
    };
    if let Err(why) = audit.check() {
        return problem(
            StatusCode::BAD_REQUEST,
            &format!("The audit is not what it should be: {why}."),
        );
    }
    match guard.keep_audit(audit) {
        Ok(()) => json(&json!({ "recorded_at": audit.at })),
        Err(KeepError::Order(why)) => problem(StatusCode::CONFLICT, why),
        Err(error @ KeepError::Disk(_)) => {
            problem(StatusCode::INSUFFICIENT_STORAGE, &error.to_string())
        }
    }
}

fn span(details: &Details, default: Duration) -> Result<Duration, String> {
    let Some(seconds) = details.seconds else {
        return Ok(default);
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|span| !span.is_zero() && *span <= LONGEST)
        .ok_or_else(|| format!("{seconds} s is not over zero and up to 24 h"))
}

fn decided(decided: Result<Decision, SteerError>) -> Answer {
    match decided {
        Ok(decision) => json(&serde_json::to_value(decision).unwrap_or_default()),
        Err(error @ SteerError::Order(_)) => problem(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ SteerError::Disk) => {
            problem(StatusCode::INSUFFICIENT_STORAGE, &error.to_string())
        }
    }
}

fn accepted(begun: Result<Value, String>) -> Answer {
    match begun {
        Ok(value) => reply(StatusCode::ACCEPTED, "application/json", value.to_string()),
        Err(why) => problem(StatusCode::CONFLICT, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_told_by_its_whole_path() {
        for (path, order) in [
            ("/api/v1/reload", Some(Order::Reload)),
            ("/api/v1/rollback", Some(Order::RollBack)),
            ("/api/v1/ramp/abort", Some(Order::RollBack)),
            ("/api/v1/resume/rb-1", Some(Order::Resume("rb-1".to_owned()))),
            ("/api/v1/paths/legacy/drain", Some(Order::Drain(Side::Legacy))),
            ("/api/v1/baseline/audit", Some(Order::Audit)),
            ("/api/v1/baseline/audit/", None),
            ("/api/v1/upgrade", Some(Order::Upgrade)),
            ("/api/v1/resume/", None),
            ("/api/v1/resume/a/b", None),
            ("/api/v1/paths/new/drain", None),
            ("/api/v1/ramp", None),
            ("/api/v1/rollback/", None),
            ("/rollback", None),
        ] {
            assert_eq!(Order::at(path), order, "{path}");
        }
    }
}
