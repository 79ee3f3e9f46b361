//! What a config that holds together consists of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;
use ipnet::IpNet;

use crate::config::endpoint::EndpointConfig;
use crate::config::guard::{GuardConfig, RampConfig};
use crate::config::mirror::{MirrorConfig, RouteMirror};
use crate::config::telemetry::{LogConfig, TraceConfig};
use crate::config::values::{
    AdminAddress, Balance, ForceFrom, HeaderCase, LogTarget, Methods, Protocol, Statuses,
};
use crate::route::sticky::Key;
use crate::route::template::Pattern;
use crate::tls::{ClientTls, ServerTls};
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
    /// What is sent again.
    pub retry: Retry,
    /// Whether the other path steps in.
    pub failover: Failover,
    /// How names are resolved.
    pub dns: Dns,
    /// What is sent to both paths, and what comes of it.
    pub mirror: MirrorConfig,
    /// How the paths are compared, and what comes of it.
    pub guard: GuardConfig,
    /// How the weight goes up; `None` is at once.
    pub ramp: Option<RampConfig>,
    /// How a drain goes.
    pub drain: Drain,
    /// Where access log lines go; always JSON.
    pub access_log: LogTarget,
    /// The program's own log.
    pub log: LogConfig,
    /// Spans of requests.
    pub trace: TraceConfig,
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
    /// Open connections of one client address beyond which more are closed; 0 is unlimited.
    pub max_connections_per_address: usize,
    /// Whether `trusted_proxies` say by the PROXY protocol whose connection it is.
    pub proxy_protocol: bool,
    /// Peers whose Forwarded family is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// For a whole head.
    pub header_timeout: Duration,
    /// Between requests of a connection.
    pub idle_timeout: Duration,
    /// For the next piece of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// For the next byte of a tunnel, in either direction; zero is no limit.
    pub tunnel_idle_timeout: Duration,
    /// Largest head, in bytes.
    pub header_bytes: usize,
    /// Most fields of a head.
    pub header_count: usize,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
    /// Whether HTTP/2 is spoken: by ALPN over TLS, without TLS by prior knowledge.
    pub http2: bool,
    /// TLS, if it is spoken.
    pub tls: Option<ServerTls>,
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
    /// Where its requests go; at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// Which HTTP they are spoken to in.
    pub protocol: Protocol,
    /// For those of them that are spoken to over TLS.
    pub tls: ClientTls,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// Endpoints are probed so, if at all.
    pub health: Option<HealthConfig>,
    /// Its event loop is probed so, if at all.
    pub loop_probe: Option<LoopProbe>,
    /// Endpoints to which requests fail are left out so.
    pub eject: Eject,
    /// How long an endpoint that comes back or appears takes to its full weight.
    pub slow_start: Duration,
    /// The share of endpoints below which all are used, 0 to 1.
    pub panic_below: f64,
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

/// `health`, as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is asked for.
    pub path: PathAndQuery,
    /// What may be answered.
    pub status: Statuses,
    /// From one probe to the next, on average.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Probes in a row that must pass.
    pub healthy_after: u32,
    /// Probes in a row that must fail.
    pub unhealthy_after: u32,
}

/// `loop_probe`, as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopProbe {
    /// What is asked for.
    pub path: PathAndQuery,
    /// From one probe to the next.
    pub interval: Duration,
}

/// `eject`, as needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eject {
    /// Failures in a row; 0 never ejects.
    pub consecutive_failures: u32,
    /// For how long the first time.
    pub first: Duration,
    /// For how long at the most.
    pub longest: Duration,
    /// The share of endpoints that may be out at once, 0 to 1.
    pub share_max: f64,
}

/// `[retry]`, as needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Retries as a share of requests, 0 to 1; 0 is none.
    pub budget: f64,
    /// Retries of one request.
    pub per_request: usize,
    /// What may be sent again although it may have been processed.
    pub methods: Methods,
    /// How much of a body is kept to be sent again, in bytes.
    pub buffer: usize,
}

/// `[failover]`, as needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failover {
    /// Whether the other path may answer.
    pub enabled: bool,
    /// Failovers as a share of requests, 0 to 1.
    pub budget: f64,
}

/// `[dns]`, as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Whom to ask; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// For one lookup.
    pub timeout: Duration,
    /// An answer is good for at least this long.
    pub ttl_min: Duration,
    /// And for at most this long.
    pub ttl_max: Duration,
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
    /// How long a share takes to go back to the legacy path; zero is at once.
    pub paced_return: Duration,
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
    /// Whether both paths answer, and how that is compared.
    pub mirror: RouteMirror,
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
