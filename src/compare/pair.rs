//! One request that both paths answered.
//!
//! What is printed of it for debugging has no header, no body and no target: it may end up in a log.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::compare::rules::CompareRules;
use crate::vocab::Side;

/// How one side of a pair ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It answered.
    Reply(Box<Answer>),
    /// Not within its deadline.
    Timeout,
    /// Any other failure of the path.
    Reset,
}

/// A whole reply, as far as it is compared.
#[derive(Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Captured,
}

/// A body as it was captured.
#[derive(Clone)]
pub struct Captured {
    /// The whole body, if it fitted the cap.
    pub kept: Option<Bytes>,
    /// Its length in bytes.
    pub length: u64,
    /// `xxh3_64` of all of it.
    pub hash: u64,
}

/// One request, and what came of it.
#[derive(Clone)]
pub struct Pair {
    /// The route's name, as in metrics.
    pub route: Arc<str>,
    /// Whether a regression on this route closes the gate.
    pub is_critical: bool,
    /// The route's rules.
    pub rules: Arc<CompareRules>,
    /// The request's method.
    pub method: Method,
    /// Its path and query; of these only the names of the query's parameters are ever shown.
    pub target: String,
    /// The primary request's id.
    pub request_id: String,
    /// The path that the client's reply came from.
    pub primary_side: Side,
    /// What that path said.
    pub primary: Outcome,
    /// What the other path said.
    pub shadow: Outcome,
    /// What the primary path said when it was asked a second time, where it was.
    pub again: Option<Outcome>,
}

// === impl Outcome ===

impl Outcome {
    /// The reply, if there is one.
    #[must_use]
    pub fn reply(&self) -> Option<&Answer> {
        match self {
            Self::Reply(answer) => Some(answer),
            Self::Timeout | Self::Reset => None,
        }
    }

    /// What is shown of it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reply(_) => "reply",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
        }
    }
}

// === impl Answer ===

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.body)
    }
}

// === impl Captured ===

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.kept.is_some() { "kept" } else { "not kept" };
        write!(f, "{} bytes, {kept}", self.length)
    }
}

// === impl Pair ===

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, route, request_id, primary_side, primary, shadow, .. } = self;
        write!(f, "{method} {route} {request_id}: {primary_side} {primary:?}, shadow {shadow:?}")
    }
}

impl Pair {
    /// Two outcomes of this pair, the primary path's first, as legacy's and async's.
    #[must_use]
    pub fn by_side<T>(&self, primary: T, shadow: T) -> (T, T) {
        match self.primary_side {
            Side::Legacy => (primary, shadow),
            Side::Async => (shadow, primary),
        }
    }

    /// Whether asking again does no harm (RFC 9110 section 9.2.1).
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.method.is_safe()
    }
}
