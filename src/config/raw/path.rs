//! The keys of a path as they are typed: `[legacy]` and `[async]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use crate::config::endpoint::EndpointConfig;
use crate::config::limits::{at_least_one, count, positive, share, time, time_within};
use crate::config::raw::tls::{self, ClientTls};
use crate::config::section::Section;
use crate::config::values::{Balance, HeaderCase, Protocol, Share, Statuses};
use crate::vocab::Side;

/// `[legacy]` and `[async]`
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) endpoints: Vec<Spanned<EndpointConfig>>,
    pub(crate) protocol: Protocol,
    pub(crate) tls: ClientTls,
    pub(crate) balance: Balance,
    pub(crate) health: Option<Health>,
    pub(crate) loop_probe: Option<LoopProbe>,
    pub(crate) eject: Eject,
    pub(crate) slow_start: Duration,
    pub(crate) panic_below: Share,
    pub(crate) header_case: HeaderCase,
    pub(crate) min_idle: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) queue_depth: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) request_deadline: Duration,
    pub(crate) pool_idle: usize,
    pub(crate) pool_idle_timeout: Duration,
    pub(crate) requests_per_connection: u64,
}

/// `health` of a path
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) path: Option<Spanned<String>>,
    pub(crate) status: Statuses,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) healthy_after: usize,
    pub(crate) unhealthy_after: usize,
}

/// `loop_probe` of a path
#[derive(Debug)]
pub(crate) struct LoopProbe {
    pub(crate) path: Option<Spanned<String>>,
    pub(crate) interval: Duration,
}

/// `eject` of a path
#[derive(Debug)]
pub(crate) struct Eject {
    pub(crate) consecutive_failures: usize,
    pub(crate) for_: Duration,
    pub(crate) max_for: Duration,
    pub(crate) max_share: Share,
}

/// A server on a thread pool gives a thread to each connection that has sent nothing yet, and waits:
/// connections kept warm would take its threads while nothing happens.
const LEGACY_MIN_IDLE: usize = 0;
/// A path with little traffic would be seen paying for connects.
const ASYNC_MIN_IDLE: usize = 1;

/// More often would load the loop, less often would miss what blocks it.
const INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(10);

/// The keys of the path `side`.
pub(crate) fn path(mut table: Section<'_>, side: Side) -> Path {
    let min_idle = match side {
        Side::Legacy => LEGACY_MIN_IDLE,
        Side::Async => ASYNC_MIN_IDLE,
    };
    let endpoints = table.required::<Vec<Spanned<EndpointConfig>>>("endpoints");
    let path = Path {
        endpoints: endpoints.map(Spanned::into_inner).unwrap_or_default(),
        protocol: table.or("protocol", Protocol::default()),
        tls: tls::client(table.section("tls")),
        balance: table.or("balance", Balance::default()),
        health: table.has("health").then(|| health(table.section("health"))),
        loop_probe: table.has("loop_probe").then(|| loop_probe(table.section("loop_probe"))),
        eject: eject(table.section("eject")),
        slow_start: time(&mut table, "slow_start", 10),
        panic_below: table.or("panic_below", share(0.25)),
        header_case: table.or("header_case", HeaderCase::default()),
        min_idle: count(&mut table, "min_idle", min_idle),
        max_in_flight: count(&mut table, "max_in_flight", 0),
        queue_depth: count(&mut table, "queue_depth", 100),
        queue_timeout: positive(&mut table, "queue_timeout", 1),
        connect_timeout: positive(&mut table, "connect_timeout", 1),
        response_timeout: positive(&mut table, "response_timeout", 30),
        idle_timeout: positive(&mut table, "idle_timeout", 60),
        request_deadline: time(&mut table, "request_deadline", 0),
        pool_idle: count(&mut table, "pool_idle", 64),
        pool_idle_timeout: positive(&mut table, "pool_idle_timeout", 4),
        requests_per_connection: table.or("requests_per_connection", 0),
    };
    table.finish();
    path
}

fn health(mut table: Section<'_>) -> Health {
    let health = Health {
        path: table.required("path"),
        status: table.or("status", Statuses { first: 200, last: 399 }),
        interval: positive(&mut table, "interval", 2),
        timeout: positive(&mut table, "timeout", 1),
        healthy_after: at_least_one(&mut table, "healthy_after", 2),
        unhealthy_after: at_least_one(&mut table, "unhealthy_after", 3),
    };
    table.finish();
    health
}

fn loop_probe(mut table: Section<'_>) -> LoopProbe {
    let interval = Duration::from_millis(100);
    let loop_probe = LoopProbe {
        path: table.required("path"),
        interval: time_within(&mut table, "interval", interval, INTERVAL_RANGE),
    };
    table.finish();
    loop_probe
}

fn eject(mut table: Section<'_>) -> Eject {
    let eject = Eject {
        consecutive_failures: count(&mut table, "consecutive_failures", 5),
        for_: positive(&mut table, "for", 10),
        max_for: positive(&mut table, "max_for", 300),
        max_share: table.or("max_share", share(0.5)),
    };
    table.finish();
    eject
}
