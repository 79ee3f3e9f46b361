//! Benches of the pure parts: what each request pays before and after its bytes move.
//!
//! Run with `cargo bench --bench pure [-- NAME]`. No I/O, so a change of a few per cent shows.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::task::Waker;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use cutover::metrics::shard::Histogram;
use cutover::route::head::Head;
use cutover::route::sticky::{Key, Salt};
use cutover::route::template::Pattern;
use cutover::route::{Route, Rules, Target};
use cutover::tick::{Deadline, Span, Ticks};
use cutover::vocab::{RouteId, Weight};
use cutover::wire::check::{self, Facts};
use cutover::wire::forwarded::Peer;
use cutover::wire::headers::{Origin, clean_request, clean_response};
use cutover::wire::present::Present;
use cutover::wire::scan::HeadScan;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A browser's request, as most are.
const REQUEST: [(&str, &str); 9] = [
    ("host", "shop.example"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("connection", "keep-alive"),
    ("referer", "https://shop.example/orders"),
    ("cookie", "theme=dark; sid=7b1f0c3e9a5d4f62; lang=en"),
    ("x-user-id", "user-4711"),
];

/// A backend's reply.
const RESPONSE: [(&str, &str); 6] = [
    ("server", "gunicorn"),
    ("date", "Tue, 01 Sep 2026 12:00:00 GMT"),
    ("connection", "keep-alive"),
    ("keep-alive", "timeout=75"),
    ("content-type", "application/json"),
    ("content-length", "41"),
];

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.iter().map(field).collect()
}

/// A copy with room to grow, as hyper keeps the map of one request for the next.
fn roomy(headers: &HeaderMap) -> HeaderMap {
    let mut copy = HeaderMap::with_capacity(32);
    copy.extend(headers.clone());
    copy
}

fn target(id: u16) -> Target {
    Target {
        route: RouteId(id),
        name: format!("route-{id}"),
        weight: Weight::from_share(0.25).expect("a share"),
        allowed: Weight::from_share(0.25).expect("a share"),
        applied: Weight::from_share(0.25).expect("a share"),
        pin: None,
    }
}

/// Rules with `routes` routes, none of which matches the benched request but the last.
fn rules(routes: u16, key: &str) -> Rules {
    let route = |id| {
        let template = if id == routes {
            "GET /orders/{id}".to_owned()
        } else {
            format!("GET /area-{id}/{{name}}/items")
        };
        Route { pattern: Pattern::parse(&template).expect("a template"), target: target(id) }
    };
    Rules {
        routes: (1..=routes).map(route).collect(),
        fallback: target(0),
        key: Key::parse(key).expect("a key"),
        salt: Salt::new("cutover"),
        force: None,
        is_measuring: false,
    }
}

fn decision(criterion: &mut Criterion) {
    let headers = map(&REQUEST);
    let head = Head {
        method: &Method::GET,
        path: "/orders/4711",
        headers: &headers,
        client: CLIENT,
        trusted: false,
    };
    let mut group = criterion.benchmark_group("decide");
    for (name, routes, key) in [
        ("no routes", 0, ""),
        ("20 routes, the last matches", 20, ""),
        ("keyed by header", 0, "header:x-user-id"),
        ("keyed by cookie", 0, "cookie:sid"),
    ] {
        let rules = rules(routes, key);
        let mut turn = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                rules.decide(black_box(&head), |_| {
                    turn += 1;
                    turn
                })
            });
        });
    }
    group.finish();
}

fn cleaning(criterion: &mut Criterion) {
    let peer = Peer {
        address: CLIENT,
        address_value: HeaderValue::from_static("192.0.2.7"),
        trusted: false,
        is_secure: false,
        certificate: None,
    };
    let local = HeaderValue::from_static("192.0.2.1:8080");
    let (request, response) = (map(&REQUEST), map(&RESPONSE));
    let origin = Origin {
        peer: &peer,
        version: Version::HTTP_11,
        authority: None,
        local: &local,
        present: Present::of(&request),
        is_chunked: false,
    };
    let mut group = criterion.benchmark_group("clean");
    group.bench_function("a request with nine headers", |bencher| {
        let clean = |headers: &mut HeaderMap| clean_request(&Method::GET, headers, None, &origin);
        // By reference, so that freeing the map is not measured.
        bencher.iter_batched_ref(|| roomy(&request), clean, BatchSize::SmallInput);
    });
    group.bench_function("a response with six headers", |bencher| {
        let clean = |headers: &mut HeaderMap| clean_response(headers, false);
        bencher.iter_batched_ref(|| roomy(&response), clean, BatchSize::SmallInput);
    });
    group.finish();
}

fn reading(criterion: &mut Criterion) {
    let headers = map(&REQUEST);
    let uri = Uri::from_static("/orders/4711");
    let request = check::Request {
        method: &Method::GET,
        uri: &uri,
        version: Version::HTTP_11,
        headers: &headers,
        present: Present::of(&headers),
        protocol: None,
    };
    let facts = Facts { ambiguous: false, header_count_max: 100, body_bytes_max: u64::MAX };
    let fields = REQUEST.map(|(name, value)| format!("{name}: {value}\r\n"));
    let bytes = format!("GET /orders/4711 HTTP/1.1\r\n{}\r\n", fields.concat());

    criterion.bench_function("fields present among nine headers", |bencher| {
        bencher.iter(|| Present::of(black_box(&headers)));
    });
    criterion.bench_function("strict check of nine headers", |bencher| {
        bencher.iter(|| check::check(black_box(&request), facts));
    });
    criterion.bench_function("head scan of nine headers", |bencher| {
        // One scanner reads all heads of a connection.
        let mut scan = HeadScan::default();
        bencher.iter(|| scan.feed(black_box(bytes.as_bytes())));
    });
}

fn ticking(criterion: &mut Criterion) {
    let ticks = Ticks::new();
    let timers: Vec<_> = (0..1_000).map(|_| ticks.timer()).collect();
    for timer in &timers {
        timer.register(Waker::noop());
        // Far enough that none is ever due: waking is the runtime's cost, not the table's.
        timer.arm(Deadline::Client, Span::from_duration(Duration::from_secs(86_400 * 365)));
    }
    let mut group = criterion.benchmark_group("tick table of 1,000 timers");
    group.bench_function("arm and disarm one", |bencher| {
        let span = Span::from_duration(Duration::from_secs(30));
        bencher.iter(|| {
            black_box(&timers[500]).arm(Deadline::Upstream, black_box(span));
            black_box(&timers[500]).disarm(Deadline::Upstream);
        });
    });
    group.bench_function("a tick with none due", |bencher| bencher.iter(|| ticks.advance()));
    group.finish();
}

fn observing(criterion: &mut Criterion) {
    let histogram = Histogram::default();
    criterion.bench_function("histogram observe", |bencher| {
        bencher.iter(|| histogram.observe(black_box(Duration::from_micros(1_700))));
    });
}

criterion_group!(benches, decision, cleaning, reading, ticking, observing);
criterion_main!(benches);
