//! Checks the keys of a file against each other, and makes the config of them.

use http::uri::PathAndQuery;
use toml::Spanned;

use crate::config::endpoint::Origin;
use crate::config::guard::{GuardMode, RampConfig};
use crate::config::model::{
    Admin, Config, Dns, Drain, Eject, Failover, HealthConfig, Listen, LoopProbe, PathConfig, Retry,
    RouteConfig, Split,
};
use crate::config::raw::guard::Ramp;
use crate::config::raw::{self, Raw};
use crate::config::section::Faults;
use crate::config::telemetry::{TraceConfig, read_headers};
use crate::config::tls::Place;
use crate::config::values::{self, AdminAddress, Share};
use crate::route::sticky::Key;
use crate::route::template::Pattern;
use crate::vocab::{DEFAULT_ROUTE, PerSide, ROUTES_MAX, Side, Weight};

/// The most endpoints of one path.
const ENDPOINTS_MAX: usize = 64;

/// The config of `raw`, whose files are at `place`; `None` where a part of it could not be made, which
/// is a fault already.
pub(crate) fn build(raw: Raw, place: Place<'_>, faults: &Faults<'_>) -> Option<Config> {
    check_admin(&raw, faults);
    check_endpoints(&raw, faults);
    let weight = raw.async_weight.0;
    let routes = routes(&raw, weight, faults);
    let legacy = path(raw.legacy, "legacy", place, faults);
    let async_ = path(raw.async_, "async", place, faults);
    let split = split(raw.split, faults);
    let ramp = ramp(raw.ramp, raw.guard.mode, faults);
    let listen = listen(raw.listen, place, faults);
    let trace = trace(raw.trace, place, faults);
    Some(Config {
        weight,
        state_dir: raw.state_dir.unwrap_or_else(|| "cutover-state".into()),
        listen: listen?,
        admin: Admin { address: raw.admin.address, token_file: raw.admin.token_file },
        paths: PerSide { legacy: legacy?, async_: async_? },
        split: split?,
        routes: routes?,
        retry: Retry {
            budget: raw.retry.budget.0.share(),
            per_request: raw.retry.per_request,
            methods: raw.retry.methods,
            buffer: usize::try_from(raw.retry.buffer).ok()?,
        },
        failover: Failover { enabled: raw.failover.enabled, budget: raw.failover.budget.0.share() },
        dns: Dns {
            servers: raw.dns.servers,
            timeout: raw.dns.timeout,
            ttl_min: raw.dns.ttl_min,
            ttl_max: raw.dns.ttl_max,
        },
        mirror: raw.mirror,
        guard: raw.guard,
        ramp,
        drain: Drain {
            delay: raw.drain.delay,
            timeout: raw.drain.timeout,
            tunnels: raw.drain.tunnels,
        },
        access_log: match raw.access_log.format {
            values::LogFormat::Json => raw.access_log.path,
        },
        log: raw.log,
        trace,
        text: String::new(),
        hash: String::new(),
    })
}

fn listen(raw: raw::Listen, place: Place<'_>, faults: &Faults<'_>) -> Option<Listen> {
    let tls = raw.tls.as_ref().map(|tls| place.server(tls, raw.http2, faults)).transpose();
    Some(Listen {
        addresses: raw.addresses,
        workers: raw.workers,
        max_connections: raw.max_connections,
        max_connections_per_address: raw.max_connections_per_address,
        proxy_protocol: raw.proxy_protocol,
        trusted_proxies: raw.trusted_proxies,
        header_timeout: raw.header_timeout,
        idle_timeout: raw.idle_timeout,
        body_idle_timeout: raw.body_idle_timeout,
        tunnel_idle_timeout: raw.tunnel_idle_timeout,
        header_bytes: usize::try_from(raw.header_bytes).ok()?,
        header_count: raw.header_count,
        body_bytes: raw.body_bytes,
        http2: raw.http2,
        tls: tls.ok()?,
    })
}

/// Its file is read with each batch of spans; here it only must be sound.
fn trace(raw: raw::telemetry::Trace, place: Place<'_>, faults: &Faults<'_>) -> TraceConfig {
    let headers_file = raw.headers_file.map(|file| {
        let path = place.dir.join(file.get_ref());
        if let Err(message) = read_headers(&path) {
            faults.add(file.span(), "trace.headers_file".to_owned(), message);
        }
        path
    });
    TraceConfig {
        otlp_endpoint: raw.otlp_endpoint,
        sample_ratio: raw.sample_ratio,
        headers_file,
        service_name: raw.service_name,
    }
}

/// A wider admin address hands changes to the network: it is refused without a token.
fn check_admin(raw: &Raw, faults: &Faults<'_>) {
    if !raw.admin.address.is_private() && raw.admin.token_file.is_none() {
        let message = format!(
            "{} is neither loopback nor a unix socket: set `token_file`",
            raw.admin.address
        );
        faults.add(raw.admin.span.clone(), "admin.address".to_owned(), message);
    }
}

/// An endpoint that is our own listener would serve itself for ever.
fn check_endpoints(raw: &Raw, faults: &Faults<'_>) {
    let mut own = raw.listen.addresses.clone();
    if let AdminAddress::Tcp(address) = raw.admin.address {
        own.push(address);
    }
    for (name, path) in [("legacy", &raw.legacy), ("async", &raw.async_)] {
        if path.endpoints.len() > ENDPOINTS_MAX {
            let span = path.endpoints[ENDPOINTS_MAX].span();
            let message = format!("more than {ENDPOINTS_MAX} endpoints");
            faults.add(span, format!("{name}.endpoints"), message);
        }
        for endpoint in &path.endpoints {
            let Origin::Address(address) = endpoint.get_ref().origin else {
                continue;
            };
            let is_own = own.iter().any(|own| {
                own.port() == address.port()
                    && (own.ip() == address.ip()
                        || (own.ip().is_unspecified() && address.ip().is_loopback()))
            });
            if is_own && address.port() != 0 {
                let message = format!("{address} is an address of this proxy itself");
                faults.add(endpoint.span(), format!("{name}.endpoints"), message);
            }
        }
    }
}

fn path(
    raw: raw::path::Path,
    name: &str,
    place: Place<'_>,
    faults: &Faults<'_>,
) -> Option<PathConfig> {
    let tls = place.client(&raw.tls, (name, raw.protocol), &raw.endpoints, faults);
    let health = match raw.health {
        None => None,
        Some(raw) => Some(health(raw, name, faults)?),
    };
    let loop_probe = match raw.loop_probe {
        None => None,
        Some(raw) => Some(loop_probe(raw, name, faults)?),
    };
    let eject = Eject {
        consecutive_failures: u32::try_from(raw.eject.consecutive_failures).ok()?,
        first: raw.eject.for_,
        longest: raw.eject.max_for,
        share_max: raw.eject.max_share.0.share(),
    };
    Some(PathConfig {
        endpoints: raw.endpoints.into_iter().map(Spanned::into_inner).collect(),
        protocol: raw.protocol,
        tls: tls.ok()?,
        balance: raw.balance,
        health,
        loop_probe,
        eject,
        slow_start: raw.slow_start,
        panic_below: raw.panic_below.0.share(),
        header_case: raw.header_case,
        min_idle: raw.min_idle,
        max_in_flight: raw.max_in_flight,
        queue_depth: raw.queue_depth,
        queue_timeout: raw.queue_timeout,
        connect_timeout: raw.connect_timeout,
        response_timeout: raw.response_timeout,
        idle_timeout: raw.idle_timeout,
        request_deadline: raw.request_deadline,
        pool_idle: raw.pool_idle,
        pool_idle_timeout: raw.pool_idle_timeout,
        requests_per_connection: raw.requests_per_connection,
    })
}

fn health(raw: raw::path::Health, name: &str, faults: &Faults<'_>) -> Option<HealthConfig> {
    let path = raw.path?;
    let target = target(&path, &format!("{name}.health.path"), faults)?;
    if raw.timeout > raw.interval {
        let message = "the timeout must not be over the interval";
        faults.add(path.span(), format!("{name}.health.timeout"), message);
    }
    Some(HealthConfig {
        path: target,
        status: raw.status,
        interval: raw.interval,
        timeout: raw.timeout,
        healthy_after: u32::try_from(raw.healthy_after).ok()?,
        unhealthy_after: u32::try_from(raw.unhealthy_after).ok()?,
    })
}

fn loop_probe(raw: raw::path::LoopProbe, name: &str, faults: &Faults<'_>) -> Option<LoopProbe> {
    let path = target(&raw.path?, &format!("{name}.loop_probe.path"), faults)?;
    Some(LoopProbe { path, interval: raw.interval })
}

/// What a probe asks for.
fn target(path: &Spanned<String>, key: &str, faults: &Faults<'_>) -> Option<PathAndQuery> {
    let is_path = path.get_ref().starts_with('/');
    let target = path.get_ref().parse().ok().filter(|_| is_path);
    if target.is_none() {
        faults.add(path.span(), key.to_owned(), "must be a path such as \"/healthz\"");
    }
    target
}

/// A ramp goes by what the guard says: without one it would stand still for ever.
fn ramp(raw: Option<Ramp>, mode: GuardMode, faults: &Faults<'_>) -> Option<RampConfig> {
    let raw = raw?;
    match mode {
        GuardMode::Off => {
            let message = "goes by what the guard says, and `guard.mode` is \"off\"";
            faults.add(raw.span, "ramp".to_owned(), message);
        }
        GuardMode::Observe | GuardMode::Enforce => {}
    }
    Some(raw.config)
}

fn split(raw: raw::Split, faults: &Faults<'_>) -> Option<Split> {
    let key = match raw.key {
        None => None,
        Some(text) => match Key::parse(text.get_ref()) {
            Ok(key) => key,
            Err(message) => {
                faults.add(text.span(), "split.key".to_owned(), message);
                return None;
            }
        },
    };
    let force_header = match raw.force_header.filter(|name| !name.get_ref().is_empty()) {
        None => None,
        Some(name) => match name.get_ref().parse::<http::HeaderName>() {
            Ok(header) => Some(header),
            Err(_) => {
                faults.add(name.span(), "split.force_header".to_owned(), "is not a header name");
                return None;
            }
        },
    };
    Some(Split {
        key,
        salt: raw.salt,
        force_header,
        force_from: raw.force_from,
        expose_path: raw.expose_path,
        paced_return: raw.paced_return,
    })
}

fn routes(raw: &Raw, weight: Weight, faults: &Faults<'_>) -> Option<Vec<RouteConfig>> {
    let mut routes: Vec<RouteConfig> = Vec::new();
    let mut sound = true;
    for route in &raw.routes {
        let mut fault = |span, key: &str, message: &str| {
            faults.add(span, format!("route.{key}"), message);
            sound = false;
        };
        let name = route.name.get_ref();
        if name.is_empty() || name == DEFAULT_ROUTE || name == "none" {
            fault(route.name.span(), "name", "must be a name other than `default` and `none`");
        }
        if routes.iter().any(|known| known.name == *name) {
            fault(route.name.span(), "name", "is the name of an earlier route too");
        }
        if routes.len() + 1 >= ROUTES_MAX {
            fault(route.name.span(), "name", "is one route too many: the limit is 255");
        }
        let pattern = match Pattern::parse(route.pattern.get_ref()) {
            Ok(pattern) => pattern,
            Err(message) => {
                fault(route.pattern.span(), "match", message);
                continue;
            }
        };
        let pin = match &route.pin {
            Some(pin) if !pin.get_ref().is_empty() => {
                let side = Side::from_name(pin.get_ref().as_bytes());
                if side.is_none() {
                    fault(pin.span(), "pin", "must be \"legacy\", \"async\" or \"\"");
                }
                side
            }
            Some(_) | None => None,
        };
        let weight = route.async_weight.map_or(weight, |Share(weight)| weight);
        let mirror = route.mirror.clone();
        routes.push(RouteConfig { name: name.clone(), pattern, weight, pin, mirror });
    }
    sound.then_some(routes)
}
