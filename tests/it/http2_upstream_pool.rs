//! The HTTP/2 connections to an endpoint: how many there are, what they share, and when they close.

use std::time::{Duration, Instant};

use crate::harness::certificates::Authority;
use crate::harness::h2_frames::FrameBackend;
use crate::harness::h2_server::Terms;
use crate::harness::raw::Listener;
use crate::harness::{
    Backend, Client, Fate, H2Backend, Latch, Play, Proxy, Setup, eventually, heavy,
};
use crate::http2_upstream::{LEGACY, setup, sum};

/// Bound on streams of one connection, in SETTINGS (RFC 9113 section 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Idle and busy connections to the legacy path's endpoints.
fn connections(proxy: &Proxy) -> [f64; 2] {
    let scrape = proxy.scrape();
    let of = |state| scrape.sum("cutover_endpoint_connections", &[LEGACY, ("state", state)]);
    ["idle", "busy"].map(of)
}

/// So many requests at once, each on a connection of its own.
fn ask(proxy: &Proxy, requests: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..requests).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    clients
}

/// Asks so many at once of a backend that holds all of them; how many connections it took.
fn at_once(requests: usize, terms: Terms) -> usize {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::with(terms, move |_| Play::ok("ok").held_by(&held));
    let proxy = setup(backend.address, "").start();
    let mut clients = ask(&proxy, requests);
    eventually!(backend.hits() == requests, "{} of {requests} came", backend.hits());
    assert_eq!(connections(&proxy), [0.0, backend.accepted() as f64]);
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    eventually!(connections(&proxy)[1] == 0.0);
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
    assert_eq!(sum(&proxy, "cutover_stale_connections_total", &[]), 0.0);
    backend.accepted()
}

#[test]
fn requests_at_once_on_a_cold_pool_share_as_few_connections_as_their_limits_allow() {
    let _alone = heavy();
    assert_eq!(at_once(150, Terms::default()), 2);
    assert_eq!(at_once(150, Terms { streams: Some(10), ..Terms::default() }), 15);
    assert_eq!(at_once(5, Terms { streams: Some(1), ..Terms::default() }), 5);
}

#[test]
fn requests_at_once_share_connections_also_where_tls_says_which_http_it_is() {
    let _alone = heavy();
    let authority = Authority::new();
    let (dir, ca) = authority.file();
    let latch = Latch::default();
    for (alpn, connections) in [(&["h2", "http/1.1"][..], 1), (&["h2"], 1)] {
        let held = latch.clone();
        let tls = Some(authority.issue(&["127.0.0.1"]).server(alpn));
        let backend = H2Backend::with(Terms { tls, ..Terms::default() }, move |_| {
            Play::ok("ok").held_by(&held)
        });
        let url = format!("https://{}", backend.address);
        let lines = format!("min_idle = 0\ntls = {{ ca = {ca:?} }}\nconnect_timeout = \"10s\"");
        let setup = Setup::new(backend.address, Backend::refused()).workers(1);
        let proxy = setup.legacy_urls(&[&url]).legacy(&lines).start();
        let mut clients = ask(&proxy, 50);
        eventually!(backend.hits() == 50);
        latch.open();
        for client in &mut clients {
            assert_eq!(client.response().text(), "ok");
        }
        assert_eq!(backend.accepted(), connections, "{alpn:?}");
    }
    drop(dir);
}

#[test]
fn connections_without_a_stream_close_after_pool_idle_timeout() {
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, "pool_idle_timeout = \"2s\"").start();
    let began = Instant::now();
    let mut client = proxy.client();
    // In use all along, though never when the pool is swept.
    while began.elapsed() < Duration::from_millis(3_500) {
        assert_eq!(client.get("/").text(), "ok");
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_eq!((backend.accepted(), connections(&proxy)), (1, [1.0, 0.0]));
    eventually!(backend.open() == 0 && connections(&proxy) == [0.0, 0.0]);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn a_connection_is_kept_warm_and_made_anew() {
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, "").legacy("protocol = \"http2\"\nmin_idle = 3").start();
    eventually!(connections(&proxy) == [1.0, 0.0]);
    backend.kill_connections();
    eventually!(backend.accepted() == 2 && backend.open() == 1);
    eventually!(connections(&proxy) == [1.0, 0.0]);
    assert_eq!((proxy.client().get("/").status, backend.accepted()), (200, 2));
}

#[test]
fn a_connection_carries_no_more_requests_than_it_may() {
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, "requests_per_connection = 5").start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(backend.accepted(), 4);
    eventually!(backend.open() <= 1, "{} are open", backend.open());
    let streams = backend.streams();
    let of = |number| streams.iter().filter(|s| s.asked.connection == number).count();
    assert_eq!([0, 1, 2, 3].map(of), [5; 4]);
    // One that has carried all it may finishes what it carries.
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |_| Play::ok("ok").held_by(&held));
    let proxy = setup(backend.address, "requests_per_connection = 3").start();
    let mut clients = ask(&proxy, 9);
    eventually!(backend.hits() == 9);
    assert_eq!((backend.accepted(), connections(&proxy)), (3, [0.0, 3.0]));
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    eventually!(backend.open() == 0 && connections(&proxy) == [0.0, 0.0]);
}

#[test]
fn with_pool_idle_0_a_connection_lives_as_long_as_its_streams() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/held" => Play::ok("held").held_by(&held),
        _ => Play::ok("ok"),
    });
    let lines = "pool_idle = 0\npool_idle_timeout = \"60s\"";
    let proxy = setup(backend.address, lines).start();
    let mut client = proxy.client();
    for number in 1..=3 {
        assert_eq!(client.get("/").text(), "ok");
        eventually!(backend.open() == 0 && connections(&proxy) == [0.0, 0.0]);
        assert_eq!(backend.accepted(), number);
    }
    let mut holds = proxy.client();
    holds.ask("/held", "");
    eventually!(backend.hits() == 4);
    // It shares what is open anyway.
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!((backend.accepted(), connections(&proxy)), (4, [0.0, 1.0]));
    latch.open();
    assert_eq!(holds.response().text(), "held");
    eventually!(backend.open() == 0 && connections(&proxy) == [0.0, 0.0]);
}

#[test]
fn a_limit_that_is_lowered_while_streams_are_open_holds_from_then_on() {
    let listener = Listener::bind();
    let proxy = setup(listener.address, "").start();
    let mut clients = ask(&proxy, 3);
    let mut first = FrameBackend::accept(&listener, &[]);
    let came: Vec<_> = (0..3).map(|_| first.request()).collect();
    first.settings(MAX_CONCURRENT_STREAMS, 1);
    first.answer(came[0].stream, "one");
    assert_eq!(clients[0].response().text(), "one");
    // Two are open, and one may be.
    clients[0].ask("/", "");
    let mut second = FrameBackend::accept(&listener, &[]);
    let moved = second.request();
    second.answer(moved.stream, "two");
    assert_eq!(clients[0].response().text(), "two");
    for (client, came) in clients[1..].iter_mut().zip(&came[1..]) {
        first.answer(came.stream, "three");
        assert_eq!(client.response().text(), "three");
    }
}

#[test]
fn a_backend_that_takes_no_stream_at_all_is_a_502_and_leaves_no_connection_behind() {
    let terms = Terms { streams: Some(0), ..Terms::default() };
    let backend = H2Backend::with(terms, |_| Play::ok("never"));
    let proxy = setup(backend.address, "").start();
    for _ in 0..10 {
        assert_eq!(proxy.client().get("/").status, 502);
    }
    assert_eq!(connections(&proxy), [0.0, 0.0]);
    eventually!(backend.open() == 0, "{} are open", backend.open());
}

#[test]
fn a_reload_that_takes_the_endpoint_away_finishes_what_is_open() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |_| Play::ok("old").held_by(&held));
    let next = H2Backend::ok("new");
    let proxy = setup(backend.address, "").start();
    let mut clients = ask(&proxy, 5);
    eventually!(backend.hits() == 5);
    proxy.apply(&setup(next.address, ""));
    assert_eq!(proxy.client().get("/").text(), "new");
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "old");
    }
    eventually!(backend.open() == 0 && backend.fates(Fate::Played) == 5);
}
