//! What the admin API shows and changes, and the kinds of answer that it gives.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};

use crate::admin::dashboard::viewers::Stream;
use crate::compare::Comparison;
use crate::drain::Follower;
use crate::guard::desk::Guard;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::relief::{Failure, Relief, Successor};

/// What the admin API shows and changes.
#[derive(Clone, Debug)]
pub struct Office {
    /// The config in force.
    pub publisher: Arc<Publisher>,
    /// The guard.
    pub guard: Arc<Guard>,
    /// What is known of the differences of the paths.
    pub comparison: Arc<Comparison>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The process's phase.
    pub phase: Follower,
    /// When the process started.
    pub started: SystemTime,
    /// Whether only this host can reach the listener.
    pub is_private: bool,
    /// Whether a successor has taken over.
    pub relief: Relief,
    /// What upgrades this process.
    pub upgrading: Upgrading,
}

/// Upgrades this process, to a new one that has to be ready in so long; blocks.
#[derive(Clone)]
pub struct Upgrading(Arc<Upgrade>);

type Upgrade = dyn Fn(Duration) -> Result<Successor, Failure> + Send + Sync;

impl Upgrading {
    /// What does it.
    pub fn new(
        upgrade: impl Fn(Duration) -> Result<Successor, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(upgrade))
    }

    pub(super) fn run(&self, patience: Duration) -> Result<Successor, Failure> {
        (self.0)(patience)
    }
}

impl fmt::Debug for Upgrading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrading").finish_non_exhaustive()
    }
}

impl Office {
    /// The phase if requests are welcome, else why they are not.
    pub(crate) fn readiness(&self) -> Result<&'static str, &'static str> {
        let phase = *self.phase.borrow();
        if !phase.is_ready() {
            return Err(phase.name());
        }
        self.publisher.has_any_up().then_some(phase.name()).ok_or("no endpoint is up")
    }
}

/// What a request gets.
pub(crate) type Answer = Response<Body>;

/// Whole, or events without end.
pub(crate) type Body = Either<Full<Bytes>, Stream>;

pub(crate) fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Body::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    reply(StatusCode::OK, "application/json", value.to_string())
}

/// A document of a shape of its own; what can't be written as JSON is nobody's.
pub(crate) fn document(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(document) => reply(StatusCode::OK, "application/json", document),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(crate) fn not_allowed(methods: &'static str) -> Answer {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "The method does not fit.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// An RFC 9457 problem document.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Answer {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    reply(status, "application/problem+json", document.to_string())
}
