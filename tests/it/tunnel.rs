//! Upgraded connections: bytes pass both ways, whatever happens around them, until either side or
//! a drain ends them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::raw::{Ended, Listener, Message, Raw};
use crate::harness::raw_backend::OK;
use crate::harness::{Proxy, Setup, eventually};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\r\n";
const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

fn setup(backend: SocketAddr) -> Setup {
    let lines = "min_idle = 0";
    Setup::new(backend, backend).workers(1).legacy(lines).async_(lines)
}

/// A tunnel: the client's end and the backend's.
fn open(proxy: &Proxy, backend: &Listener) -> (Raw, Raw) {
    let mut client = Raw::connect(proxy.address);
    client.send(UPGRADE);
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(SWITCHED);
    assert_eq!(client.reply().status(), 101);
    (client, upstream)
}

/// Both ways once.
fn echo(client: &mut Raw, upstream: &mut Raw) {
    client.send("ping");
    assert_eq!(upstream.take(4), b"ping");
    upstream.send("pong");
    assert_eq!(client.take(4), b"pong");
}

fn tunnels(proxy: &Proxy, path: &str) -> f64 {
    proxy.scrape().sum("cutover_tunnels_open", &[("path", path)])
}

#[test]
fn bytes_right_behind_either_head_come_first_and_each_side_half_closes_alone() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    client.send(format!("{UPGRADE}early "));
    let mut upstream = backend.accept();
    let asked: Message = upstream.request();
    assert_eq!(asked.field("upgrade"), Some("websocket"));
    assert_eq!(asked.field("connection"), Some("upgrade"));
    assert_eq!(asked.field("sec-websocket-key"), Some("k"));
    upstream.send(format!("{SWITCHED}hello "));
    let switched = client.reply();
    assert_eq!(switched.line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(switched.field("upgrade"), Some("websocket"));
    assert_eq!(switched.field("connection"), Some("upgrade"));
    assert_eq!(switched.field("sec-websocket-accept"), Some("s"));
    assert_eq!(client.take(6), b"hello ");
    assert_eq!(upstream.take(6), b"early ");
    echo(&mut client, &mut upstream);
    eventually!(tunnels(&proxy, "legacy") == 1.0, "no tunnel is counted");

    client.send("last");
    client.finish();
    assert_eq!(upstream.rest(), (b"last".to_vec(), Ended::Closed));
    upstream.send("still here");
    assert_eq!(client.take(10), b"still here");
    drop(upstream);
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    eventually!(tunnels(&proxy, "legacy") == 0.0, "the tunnel is still open");
    let labels = [("code", "101"), ("path", "legacy")];
    assert_eq!(proxy.scrape().sum("cutover_requests_total", &labels), 1.0);
}

#[test]
fn the_backend_may_half_close_first() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let (mut client, mut upstream) = open(&proxy, &backend);
    upstream.send("bye");
    upstream.finish();
    assert_eq!(client.rest(), (b"bye".to_vec(), Ended::Closed));
    client.send("so long");
    assert_eq!(upstream.take(7), b"so long");
    client.finish();
    assert_eq!(upstream.rest(), (Vec::new(), Ended::Closed));
}

#[test]
fn a_deadline_for_requests_does_not_end_a_tunnel() {
    let backend = Listener::bind();
    let lines = "min_idle = 0\nrequest_deadline = \"300ms\"";
    let proxy = Setup::new(backend.address, backend.address).workers(1).legacy(lines).start();
    let (mut client, mut upstream) = open(&proxy, &backend);
    // Two requests that run into the deadline take twice as long as the tunnel would have lived.
    for _ in 0..2 {
        let mut late = Raw::connect(proxy.address);
        late.send(GET);
        let _silent = backend.accept();
        assert_eq!(late.reply().status(), 504);
    }
    echo(&mut client, &mut upstream);
}

#[test]
fn a_path_whose_connections_serve_once_tunnels_too() {
    for lines in ["pool_idle = 0", "min_idle = 0\nrequests_per_connection = 1"] {
        let backend = Listener::bind();
        let proxy = Setup::new(backend.address, backend.address).workers(1).legacy(lines).start();
        let mut client = Raw::connect(proxy.address);
        client.send(UPGRADE);
        let mut upstream = backend.accept();
        assert_eq!(upstream.request().field("connection"), Some("upgrade"), "{lines}");
        upstream.send(SWITCHED);
        assert_eq!(client.reply().status(), 101);
        echo(&mut client, &mut upstream);
    }
}

#[test]
fn a_reset_of_either_side_ends_the_other() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let (client, mut upstream) = open(&proxy, &backend);
    client.reset();
    assert_ne!(upstream.rest().1, Ended::Open);
    let (mut client, upstream) = open(&proxy, &backend);
    upstream.reset();
    assert_ne!(client.rest().1, Ended::Open);
    eventually!(tunnels(&proxy, "legacy") == 0.0, "a tunnel is left");
}

#[test]
fn large_data_passes_unchanged_in_both_directions_at_once() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let (mut client, mut upstream) = open(&proxy, &backend);
    let data: Vec<u8> = (0..4_000_000_u32).map(|n| (n / 251 + n) as u8).collect();
    let back: Vec<u8> = data.iter().rev().copied().collect();
    let talk = |mut end: Raw, says: &[u8], hears: &[u8]| {
        let mut writer = Raw::over(end.stream.try_clone().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(writer.send(says));
                writer.finish();
            });
            assert!(end.rest() == (hears.to_vec(), Ended::Closed), "bytes differ");
        });
    };
    echo(&mut client, &mut upstream);
    std::thread::scope(|scope| {
        scope.spawn(|| talk(client, &data, &back));
        scope.spawn(|| talk(upstream, &back, &data));
    });
}

#[test]
fn a_declined_upgrade_leaves_an_ordinary_connection() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    for status in ["200 OK", "403 Forbidden", "426 Upgrade Required"] {
        let mut client = Raw::connect(proxy.address);
        // Whoever expects a tunnel may talk at once: it is a request, and checked as one.
        client.send(format!("{UPGRADE}GET /next HTTP/1.1\r\nHost: a\r\nKeep-Alive: x\r\n\r\n"));
        let mut upstream = backend.accept();
        upstream.request();
        upstream.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        assert_eq!(client.reply().text(), "no");
        let next = upstream.request();
        assert_eq!(next.line, "GET /next HTTP/1.1");
        assert_eq!(next.field("keep-alive"), None);
        upstream.send(OK);
        assert_eq!(client.reply().text(), "ok");
        client.send(GET);
        upstream.request();
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.reply().text(), "ok");
        assert_eq!(tunnels(&proxy, "legacy"), 0.0);
    }
}

#[test]
fn what_is_no_upgrade_for_us_is_not_one_for_the_backend() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    for (version, fields) in [
        ("1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA"),
        ("1.1", "Connection: upgrade\r\nUpgrade: H2C"),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"),
        ("1.1", "Upgrade: websocket"),
        ("1.1", "Connection: upgrade"),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket"),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi"),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket, h2c"),
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("GET /x HTTP/{version}\r\nHost: a\r\n{fields}"));
        client.send(if fields.ends_with("hi") { "" } else { "\r\n\r\n" });
        let mut upstream = backend.accept();
        let got = upstream.request();
        let carried = (got.field("upgrade"), got.field("connection"), got.field("http2-settings"));
        assert_eq!(carried, (None, None, None), "{fields:?} became {got:?}");
        // A backend that switches all the same is refused.
        upstream.send(SWITCHED);
        assert_eq!(client.reply().status(), 502, "{fields:?}");
        assert_ne!(upstream.rest().1, Ended::Open);
    }
}

#[test]
fn a_tunnel_survives_twenty_reloads_with_weight_flips() {
    let (backend, other) = (Listener::bind(), Listener::bind());
    let setup = setup(backend.address);
    let setup = Setup { async_endpoint: other.address, ..setup };
    let proxy = setup.start();
    let (mut client, mut upstream) = open(&proxy, &backend);
    for turn in 0..20 {
        let weight = f64::from((turn + 1) % 2);
        // The legacy path's endpoint goes and comes too: its pool is retired with the tunnel open.
        let legacy_endpoint = [backend.address, other.address][turn as usize % 2];
        let changed = Setup { legacy_endpoint, ..setup.clone().weight(weight) };
        proxy.apply(&changed);
        assert_eq!(proxy.weight(), weight);
        echo(&mut client, &mut upstream);
    }
    assert_eq!(tunnels(&proxy, "legacy"), 1.0);
    assert_eq!(tunnels(&proxy, "async"), 0.0);
    drop((client, upstream));
}

#[test]
fn a_drain_gives_tunnels_their_time_and_counts_those_it_cuts() {
    let backend = Listener::bind();
    let drain = "timeout = \"5s\"\ntunnels = \"800ms\"";
    let proxy = setup(backend.address).drain(drain).start();
    let metrics = proxy.app().metrics().clone();
    let (mut client, mut upstream) = open(&proxy, &backend);
    let (done, mut done_upstream) = open(&proxy, &backend);
    let began = Instant::now();
    let draining = std::thread::spawn(move || proxy.drain());
    let text = || String::from_utf8(metrics.render().unwrap()).unwrap();
    let draining_line = "cutover_drain_state{phase=\"draining\"} 1";
    eventually!(text().contains(draining_line), "no drain begins");
    echo(&mut client, &mut upstream);
    // One that ends by itself is not cut.
    drop(done);
    assert_eq!(done_upstream.rest().1, Ended::Closed);
    drop(done_upstream);
    assert_ne!(client.rest().1, Ended::Open);
    assert_ne!(upstream.rest().1, Ended::Open);
    let outcome = draining.join().unwrap();
    let took = began.elapsed().as_millis();
    assert!((400..3_000).contains(&took), "{took} ms");
    assert_eq!((outcome.cut_tunnels.legacy, outcome.cut.legacy), (1, 0));
    assert!(!outcome.is_clean());
    let cut = "cutover_drain_cut_total{kind=\"tunnel\",path=\"legacy\"} 1\n";
    assert!(text().contains(cut), "{}", text());
}

#[test]
fn a_tunnel_holds_its_slot_for_its_life() {
    let backend = Listener::bind();
    let lines = "min_idle = 0\nmax_in_flight = 1\nqueue_timeout = \"300ms\"";
    let proxy = setup(backend.address).legacy(lines).start();
    let (client, upstream) = open(&proxy, &backend);
    let mut other = Raw::connect(proxy.address);
    let reply = other.ask(GET);
    assert_eq!(reply.status(), 503, "{reply:?}");
    assert!(reply.field("retry-after").is_some());
    assert!(backend.is_untouched());
    drop((client, upstream));
    eventually!(tunnels(&proxy, "legacy") == 0.0, "the tunnel is still open");
    other.send(GET);
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(OK);
    assert_eq!(other.reply().text(), "ok");
}

#[test]
fn a_tunnel_through_which_nothing_passes_ends_and_one_that_is_used_does_not() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).listen("tunnel_idle_timeout = \"600ms\"").start();
    let (mut busy, mut busy_end) = open(&proxy, &backend);
    let (mut idle, mut idle_end) = open(&proxy, &backend);
    idle.send("once");
    assert_eq!(idle_end.take(4), b"once");
    let ended = std::thread::spawn(move || (idle.rest(), idle_end.rest()));
    while !ended.is_finished() {
        echo(&mut busy, &mut busy_end);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ended.join().unwrap(), ((vec![], Ended::Closed), (vec![], Ended::Closed)));
    echo(&mut busy, &mut busy_end);
    let bytes = |name| proxy.scrape().sum(name, &[("path", "legacy")]);
    eventually!(bytes("cutover_request_bytes_total") == 4.0);
    assert_eq!(bytes("cutover_errors_total"), 0.0);
}

#[test]
fn a_drain_ends_tunnels_one_by_one_and_counts_what_passed_through_them() {
    let backend = Listener::bind();
    let drain = "timeout = \"5s\"\ntunnels = \"2s\"";
    let proxy = setup(backend.address).drain(drain).start();
    let ends: Vec<_> = (0..20).map(|_| open(&proxy, &backend)).collect();
    let metrics = proxy.app().metrics().clone();
    let began = Instant::now();
    let waiting = ends.into_iter().map(|(mut client, mut upstream)| {
        echo(&mut client, &mut upstream);
        std::thread::spawn(move || {
            client.rest();
            drop(upstream);
            Instant::now()
        })
    });
    let waiting: Vec<_> = waiting.collect();
    let outcome = proxy.drain();
    assert_eq!(outcome.cut_tunnels.legacy, 20);
    let mut after: Vec<_> =
        waiting.into_iter().map(|thread| thread.join().unwrap().duration_since(began)).collect();
    after.sort();
    // Of twenty, drawn from ten ticks, the chance that all come within half of them is one in 300,000.
    assert!(after[19] - after[0] > Duration::from_millis(500), "{after:?}");
    assert!(after[0] >= Duration::from_millis(900), "{after:?}");
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let bytes = "cutover_request_bytes_total{path=\"legacy\"} 80\n";
    assert!(text.contains(bytes), "what a cut tunnel carried is lost");
}
