//! What is kept of a request that is recorded.
//!
//! A query is never kept: it may hold a secret.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode, Version};

use crate::vocab::{Reason, Side};

/// What is kept of a request's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its method.
    pub method: Method,
    /// Its target's path, without a query.
    pub path: String,
    /// The version that the client spoke.
    pub version: Version,
    /// The host, and the port if there is one, that the client asked for.
    pub host: Option<String>,
    /// Whether it came through TLS.
    pub is_secure: bool,
}

/// One attempt to have a request answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its span.
    pub span_id: u64,
    /// The path.
    pub side: Side,
    /// Address and port of the endpoint.
    pub endpoint: String,
    /// Whether the endpoint is spoken to over TLS.
    pub is_tls: bool,
    /// When it began, from the wish for a connection.
    pub began: SystemTime,
    /// When it ended: that which was answered with the end of the reply.
    pub ended: Option<SystemTime>,
    /// What was answered.
    pub status: Option<StatusCode>,
    /// Why it failed.
    pub error: Option<&'static str>,
}

/// How a recorded request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The client's address.
    pub client: IpAddr,
    /// The path that it took at last, and what decided that.
    pub decision: Option<(Side, Reason)>,
    /// The route that matched.
    pub route: Option<String>,
    /// The status code that the client got, if it got one.
    pub code: Option<u16>,
    /// What went wrong.
    pub error: Option<&'static str>,
    /// What went wrong on the first path, if the other one got the request.
    pub failed_over: Option<&'static str>,
}

/// A recorded request that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its trace.
    pub trace_id: u128,
    /// The caller's span.
    pub parent: Option<u64>,
    /// Its own span.
    pub span_id: u64,
    /// When its head came.
    pub began: SystemTime,
    /// When its reply had ended.
    pub ended: SystemTime,
    /// What was asked.
    pub head: Head,
    /// How it ended.
    pub outcome: Ended,
    /// The attempts, in their order.
    pub attempts: Vec<Attempt>,
}

impl Finished {
    /// How many spans it has.
    #[must_use]
    pub fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}
