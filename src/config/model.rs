//! What a config that holds together consists of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::config::values::{AdminAddress, Endpoint, ForceFrom, HeaderCase, LogTarget};
use crate::route::sticky::Key;
use crate::route::template::Pattern;
use crate::vocab::{PerSide, Side, Weight};

/// A config that holds together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The share that the operator wants on the async path, where a route names none.
    pub weight: Weight,
    /// Where the process keeps what must survive a restart.
    pub state_dir: PathBuf,
    /// What clients reach.
    pub listen: Listen,
    /// Where the admin API listens.
    pub admin: Admin,
    /// Both paths.
    pub paths: PerSide<PathConfig>,
    /// The split's rules.
    pub split: Split,
    /// Routes, first match wins.
    pub routes: Vec<RouteConfig>,
    /// How a drain goes.
    pub drain: Drain,
    /// Where access log lines go; always JSON.
    pub access_log: LogTarget,
    /// The file's text.
    pub text: String,
    /// A hash of the text: 16 hexadecimal digits.
    pub hash: String,
}

/// `[listen]`, as needed.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses to listen on; at least one.
    pub addresses: Vec<SocketAddr>,
    /// Number of workers; 0 is one a core.
    pub workers: usize,
    /// Open connections beyond which no more are accepted, over all workers.
    pub max_connections: usize,
    /// Peers whose Forwarded family is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// For a whole head.
    pub header_timeout: Duration,
    /// Between requests of a connection.
    pub idle_timeout: Duration,
    /// For the next piece of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// Largest head, in bytes.
    pub header_bytes: usize,
    /// Most fields of a head.
    pub header_count: usize,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
}

/// `[admin]`, as needed.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// The file with the token that changes need, if one is set.
    pub token_file: Option<PathBuf>,
}

/// `[legacy]` or `[async]`, as needed. Zero durations and counts mean "no limit" where allowed.
#[derive(Clone, Debug)]
pub struct PathConfig {
    /// Addresses of the path; at least one.
    pub endpoints: Vec<Endpoint>,
    /// How header names are written.
    pub header_case: HeaderCase,
    /// Connections kept warm for each worker and endpoint.
    pub min_idle: usize,
    /// Requests that the path may have at once; 0 is unlimited.
    pub max_in_flight: usize,
    /// Requests that may wait.
    pub queue_depth: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
    /// For a connection to come up.
    pub connect_timeout: Duration,
    /// Request sent to response head.
    pub response_timeout: Duration,
    /// For the next piece of a response body.
    pub idle_timeout: Duration,
    /// For the whole exchange; zero is no limit.
    pub request_deadline: Duration,
    /// Idle connections kept for each endpoint, over all workers.
    pub pool_idle: usize,
    /// How long one is kept.
    pub pool_idle_timeout: Duration,
    /// Requests on one connection; 0 is unlimited.
    pub requests_per_connection: u64,
}

/// `[split]`, as needed.
#[derive(Clone, Debug)]
pub struct Split {
    /// What makes the split sticky.
    pub key: Option<Key>,
    /// Draws the users anew when it changes.
    pub salt: String,
    /// The header that names the path.
    pub force_header: Option<HeaderName>,
    /// Who may use it.
    pub force_from: ForceFrom,
    /// Whether replies name the path.
    pub expose_path: bool,
}

/// `[[route]]`, as needed.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name, a label of metrics.
    pub name: String,
    /// What matches.
    pub pattern: Pattern,
    /// Its own weight, or the global one.
    pub weight: Weight,
    /// Never split.
    pub pin: Option<Side>,
}

/// `[drain]`, as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long to go on accepting after readiness went off.
    pub delay: Duration,
    /// For requests in flight.
    pub timeout: Duration,
    /// For tunnels.
    pub tunnels: Duration,
}
