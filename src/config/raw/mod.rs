//! The config as it is typed: every key, its kind and its default, in the order of the reference.
//!
//! A key of a path is in `path`, one of the guard or the ramp in `guard`, one of the mirror in `mirror`,
//! one of TLS in `tls`, one of logs and traces in `telemetry`, all others are here.

pub(crate) mod guard;
mod mirror;
pub(crate) mod path;
pub(crate) mod telemetry;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use crate::config::guard::GuardConfig;
use crate::config::limits::{at_least_one, count, positive, share, size, time};
use crate::config::mirror::{MirrorConfig, RouteMirror};
use crate::config::raw::guard::{Ramp, guard, ramp};
use crate::config::raw::mirror::mirror;
use crate::config::raw::path::{Path, path};
use crate::config::raw::telemetry::{AccessLog, Trace, access_log, log, trace};
use crate::config::raw::tls::{ClientTls, ServerTls};
use crate::config::section::{Fault, Faults, Section};
use crate::config::telemetry::LogConfig;
use crate::config::values::{AdminAddress, ForceFrom, Methods, Share, Size};
use crate::vocab::{Side, Weight};

/// Everything in a file, each value sound by itself; the config checks them together.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) async_weight: Share,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) listen: Listen,
    pub(crate) admin: Admin,
    pub(crate) legacy: Path,
    pub(crate) async_: Path,
    pub(crate) split: Split,
    pub(crate) routes: Vec<Route>,
    pub(crate) retry: Retry,
    pub(crate) failover: Failover,
    pub(crate) dns: Dns,
    pub(crate) mirror: MirrorConfig,
    pub(crate) guard: GuardConfig,
    pub(crate) ramp: Option<Ramp>,
    pub(crate) drain: Drain,
    pub(crate) access_log: AccessLog,
    pub(crate) log: LogConfig,
    pub(crate) trace: Trace,
}

impl Raw {
    /// The same, but that no file of secrets or of TLS is named.
    pub(crate) fn without_files(mut self) -> Self {
        self.listen.tls = None;
        self.legacy.tls = ClientTls::default();
        self.async_.tls = ClientTls::default();
        self.trace.headers_file = None;
        self
    }
}

/// `[listen]`
#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) proxy_protocol: bool,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) body_idle_timeout: Duration,
    pub(crate) tunnel_idle_timeout: Duration,
    pub(crate) header_bytes: u64,
    pub(crate) header_count: usize,
    pub(crate) body_bytes: u64,
    pub(crate) http2: bool,
    pub(crate) tls: Option<ServerTls>,
}

/// `[admin]`
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) address: AdminAddress,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) span: Range<usize>,
}

/// `[retry]`
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) budget: Share,
    pub(crate) per_request: usize,
    pub(crate) methods: Methods,
    pub(crate) buffer: u64,
}

/// `[failover]`
#[derive(Debug)]
pub(crate) struct Failover {
    pub(crate) enabled: bool,
    pub(crate) budget: Share,
}

/// `[dns]`
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) ttl_min: Duration,
    pub(crate) ttl_max: Duration,
}

/// `[split]`
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) key: Option<Spanned<String>>,
    pub(crate) salt: String,
    pub(crate) force_header: Option<Spanned<String>>,
    pub(crate) force_from: ForceFrom,
    pub(crate) expose_path: bool,
    pub(crate) paced_return: Duration,
}

/// `[[route]]`
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Spanned<String>,
    pub(crate) pattern: Spanned<String>,
    pub(crate) async_weight: Option<Share>,
    pub(crate) pin: Option<Spanned<String>>,
    pub(crate) mirror: RouteMirror,
}

/// `[drain]`
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) delay: Duration,
    pub(crate) timeout: Duration,
    pub(crate) tunnels: Duration,
}

/// The longest that a lookup may take: a reload waits for it.
const LOOKUP_MAX: Duration = Duration::from_secs(60);
/// Most retries of one request: more would only multiply a backend's trouble.
const RETRIES_MAX: usize = 5;

/// Reads `source`, and gives it on to `build` together with the record of faults.
pub(crate) fn read<T>(
    source: &str,
    build: impl FnOnce(Raw, &Faults<'_>) -> Option<T>,
) -> Result<T, Vec<Fault>> {
    let faults = Faults::new(source);
    let built = build(document(&faults), &faults);
    let found = faults.into_found();
    match built {
        Some(built) if found.is_empty() => Ok(built),
        Some(_) | None => Err(found),
    }
}

/// What could be read of `source`, whatever is wrong with it.
pub(crate) fn glance(source: &str) -> Raw {
    document(&Faults::new(source))
}

/// A faulty value is recorded and its default taken, so that the rest can still be checked.
fn document<'a>(faults: &'a Faults<'a>) -> Raw {
    let mut file = Section::document(faults);
    let async_weight = file.required::<Share>("async_weight").map(Spanned::into_inner);
    let state_dir = file.optional::<PathBuf>("state_dir").map(Spanned::into_inner);
    let listen = listen(file.section("listen"));
    let admin = admin(file.section("admin"));
    let legacy = path(file.section("legacy"), Side::Legacy);
    let async_ = path(file.section("async"), Side::Async);
    let split = split(file.section("split"));
    let routes: Vec<_> = file.sections("route").into_iter().map(route).collect();
    let retry = retry(file.section("retry"));
    let failover = failover(file.section("failover"));
    let dns = dns(file.section("dns"));
    let mirror = mirror(file.section("mirror"));
    let guard = guard(file.section("guard"));
    let ramp = file.has("ramp").then(|| ramp(file.section("ramp")));
    let drain = drain(file.section("drain"));
    let access_log = access_log(file.section("access_log"));
    let log = log(file.section("log"));
    let trace = trace(file.section("trace"));
    file.finish();
    Raw {
        async_weight: async_weight.unwrap_or(Share(Weight::ZERO)),
        state_dir,
        listen,
        admin,
        legacy,
        async_,
        split,
        routes: routes.into_iter().flatten().collect(),
        retry,
        failover,
        dns,
        mirror,
        guard,
        ramp,
        drain,
        access_log,
        log,
        trace,
    }
}

fn listen(mut table: Section<'_>) -> Listen {
    let span = table.span();
    let given = [table.has("address"), table.has("addresses")];
    let one = table.optional::<SocketAddr>("address");
    let many = table.optional::<Vec<SocketAddr>>("addresses");
    if given[0] == given[1] {
        table.fault(span, "address", "give either `address` or `addresses`");
    }
    let addresses = match (one, many) {
        (Some(one), _) => vec![one.into_inner()],
        (None, Some(many)) => many.into_inner(),
        (None, None) => Vec::new(),
    };
    let (proxy_protocol, trusted_proxies) = proxies(&mut table);
    let listen = Listen {
        addresses,
        workers: count(&mut table, "workers", 0),
        max_connections: at_least_one(&mut table, "max_connections", 10_000),
        max_connections_per_address: count(&mut table, "max_connections_per_address", 0),
        proxy_protocol,
        trusted_proxies,
        header_timeout: positive(&mut table, "header_timeout", 10),
        idle_timeout: positive(&mut table, "idle_timeout", 75),
        body_idle_timeout: positive(&mut table, "body_idle_timeout", 30),
        tunnel_idle_timeout: time(&mut table, "tunnel_idle_timeout", 3600),
        header_bytes: size(&mut table, "header_bytes", 64 << 10, 1 << 10..=1 << 20),
        header_count: at_least_one(&mut table, "header_count", 100),
        body_bytes: table.or("body_bytes", Size(u64::MAX)).0,
        http2: table.or("http2", true),
        tls: table.has("tls").then(|| tls::server(table.section("tls"))),
    };
    table.finish();
    listen
}

/// Who is believed, and whether by the PROXY protocol. It says whose the connection is, so nobody but
/// a trusted proxy may speak it.
fn proxies(table: &mut Section<'_>) -> (bool, Vec<IpNet>) {
    // A list that is faulty may have named some.
    let is_faulty = table.has("trusted_proxies");
    let trusted = table.optional::<Vec<IpNet>>("trusted_proxies").map(Spanned::into_inner);
    let is_nobody = trusted.as_ref().map_or(!is_faulty, Vec::is_empty);
    let Some(proxy_protocol) = table.optional::<bool>("proxy_protocol") else {
        return (false, trusted.unwrap_or_default());
    };
    if *proxy_protocol.get_ref() && is_nobody {
        let message = "is true, but nobody may speak it: `trusted_proxies` is empty";
        table.fault(proxy_protocol.span(), "proxy_protocol", message);
    }
    (proxy_protocol.into_inner(), trusted.unwrap_or_default())
}

fn admin(mut table: Section<'_>) -> Admin {
    let default = AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9900)));
    let admin = Admin {
        address: table.or("address", default),
        token_file: table.or("token_file", Some(PathBuf::new())).filter(|p| *p != PathBuf::new()),
        span: table.span(),
    };
    table.finish();
    admin
}

fn retry(mut table: Section<'_>) -> Retry {
    let retry = Retry {
        budget: table.or("budget", share(0.2)),
        per_request: table.or("per_request", 1),
        methods: table.or("methods", Methods::default()),
        buffer: size(&mut table, "buffer", 64 << 10, 0..=16 << 20),
    };
    if retry.per_request > RETRIES_MAX {
        let message = format!("is over the limit of {RETRIES_MAX}");
        table.fault(table.span(), "per_request", message);
    }
    table.finish();
    retry
}

fn failover(mut table: Section<'_>) -> Failover {
    let failover =
        Failover { enabled: table.or("enabled", false), budget: table.or("budget", share(0.2)) };
    table.finish();
    failover
}

fn dns(mut table: Section<'_>) -> Dns {
    let dns = Dns {
        servers: table.or("servers", Vec::new()),
        timeout: positive(&mut table, "timeout", 2),
        ttl_min: positive(&mut table, "ttl_min", 1),
        ttl_max: positive(&mut table, "ttl_max", 300),
    };
    if dns.timeout > LOOKUP_MAX {
        table.fault(table.span(), "timeout", "is over the limit of 60s");
    }
    if dns.ttl_min > dns.ttl_max {
        table.fault(table.span(), "ttl_min", "must not be over `ttl_max`");
    }
    table.finish();
    dns
}

fn split(mut table: Section<'_>) -> Split {
    let split = Split {
        key: table.optional("key"),
        salt: table.or("salt", "cutover".to_owned()),
        force_header: table.optional("force_header"),
        force_from: table.or("force_from", ForceFrom::default()),
        expose_path: table.or("expose_path", false),
        paced_return: time(&mut table, "paced_return", 0),
    };
    table.finish();
    split
}

fn route(mut table: Section<'_>) -> Option<Route> {
    let name = table.required("name");
    let pattern = table.required("match");
    let async_weight = table.optional("async_weight").map(Spanned::into_inner);
    let pin = table.optional("pin");
    let mirror = mirror::of_route(&mut table);
    table.finish();
    Some(Route { name: name?, pattern: pattern?, async_weight, pin, mirror })
}

fn drain(mut table: Section<'_>) -> Drain {
    let drain = Drain {
        delay: time(&mut table, "delay", 0),
        timeout: positive(&mut table, "timeout", 30),
        tunnels: time(&mut table, "tunnels", 30),
    };
    table.finish();
    drain
}
