//! What is kept of a request that is recorded.
//!
//! A query is never kept, nor is a user in a target: they may hold a secret. What a client chooses the
//! length of is cut.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode, Version};

use crate::config::Collector;
use crate::error::{ClientFault, PathFault};
use crate::vocab::{Reason, Side};
use crate::wire::host::is_host;

/// How much of a target's path is kept, in bytes: a head may have a MiB of it.
pub const PATH_MAX: usize = 1_024;
/// The longest host that is kept, in bytes: a name of 255 (RFC 1123 section 2.1) and a port.
pub const HOST_MAX: usize = 261;
/// How much of a method that nobody knows is kept, in bytes.
pub const METHOD_MAX: usize = 64;

/// What is kept of a request's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its method.
    pub method: Verb,
    /// Its target's path, without a query.
    pub path: String,
    /// The version that the client spoke.
    pub version: Version,
    /// The host, and the port if there is one, that the client asked for.
    pub host: Option<String>,
    /// Whether it came through TLS.
    pub is_secure: bool,
}

/// What is kept of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One that the conventions know.
    Known(&'static str),
    /// The beginning of any other, which is the client's invention.
    Other(String),
}

impl Verb {
    /// That of a request.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        Self::Known(match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::CONNECT => "CONNECT",
            Method::OPTIONS => "OPTIONS",
            Method::TRACE => "TRACE",
            Method::PATCH => "PATCH",
            _ => return Self::Other(shortened(method.as_str(), METHOD_MAX)),
        })
    }
}

/// The beginning of `text`, of at most `max` bytes.
#[must_use]
pub fn shortened(text: &str, max: usize) -> String {
    let mut ends = (0..=text.len().min(max)).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// What a client gave as host and port, if it is one, and none that is too long to keep.
#[must_use]
pub fn sound_host(text: &str) -> Option<String> {
    (text.len() <= HOST_MAX && is_host(text.as_bytes())).then(|| text.to_owned())
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

/// What went wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its path failed.
    Path(PathFault),
    /// Its client did.
    Client(ClientFault),
    /// A drain cut it off.
    Cut,
}

impl Cause {
    /// As metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Path(fault) => fault.name(),
            Self::Client(fault) => fault.name(),
            Self::Cut => "cut",
        }
    }
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
    pub cause: Option<Cause>,
    /// What went wrong on the first path, if the other one got the request.
    pub failed_over: Option<&'static str>,
}

/// A recorded request that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Whom it was recorded for.
    pub collector: Collector,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(shortened(&"é".repeat(600), 1_024).len(), 1_024);
        assert_eq!(shortened(&format!("/{}", "é".repeat(600)), 1_024).len(), 1_023);
    }
}
