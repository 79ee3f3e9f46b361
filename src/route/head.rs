//! What a decision looks at.

use std::net::IpAddr;

use http::{HeaderMap, Method};

/// What a decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method, as received.
    pub method: &'a Method,
    /// Path, as received, without the query.
    pub path: &'a str,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The client's address, as far as trusted proxies vouch for it.
    pub client: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
}
