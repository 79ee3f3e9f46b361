//! Faults: whoever breaks something is blamed for it, the client sees that it broke, and nothing
//! is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::raw::{Listener, Raw};
use crate::harness::raw_backend::OK;
use crate::harness::{
    Backend, Client, Ended, Latch, Proxy, Reply, Response, Scrape, Seen, Setup, eventually, heavy,
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
const LIMITS: &str = "response_timeout = \"300ms\"\nidle_timeout = \"300ms\"\nmin_idle = 0";

/// A backend's fault by its name in the target. `seen` lets those go on that break in the middle,
/// once the client has what came before.
fn broken(target: &str, seen: &Latch) -> Reply {
    match target {
        "/hang" => Reply::nothing().then_hang(),
        "/reset" => Reply::nothing().then_reset(),
        "/close" => Reply::nothing().then_close(),
        "/garbage" => Reply::raw("\0\x01\x02 not HTTP\r\n\r\n").then_close(),
        "/half-head" => Reply::raw("HTTP/1.1 200 OK\r\nContent-").then_close(),
        "/bad-chunk" => Reply::raw(CHUNKED).then_until(seen).then("zz\r\n").then_hang(),
        "/reset-chunked" => Reply::raw(CHUNKED).then_until(seen).then_reset(),
        "/close-chunked" => Reply::raw(CHUNKED).then_close(),
        "/reset-length" => Reply::raw(LENGTH).then_until(seen).then_reset(),
        "/close-length" => Reply::raw(LENGTH).then_close(),
        "/stop-chunked" => Reply::raw(CHUNKED).then_hang(),
        "/stop-length" => Reply::raw(LENGTH).then_hang(),
        _ => Reply::ok("fine"),
    }
}

/// How many errors of a path, of any or of one kind.
fn errors(scrape: &Scrape, path: &str, kind: Option<&str>) -> f64 {
    let path = ("path", path);
    match kind {
        Some(kind) => scrape.sum("cutover_errors_total", &[path, ("kind", kind)]),
        None => scrape.sum("cutover_errors_total", &[path]),
    }
}

fn assert_charged(proxy: &Proxy, kind: &str, number: f64) {
    let charged = || errors(&proxy.scrape(), "legacy", Some(kind));
    eventually!(charged() == number, "{kind}: {} and not {number}", charged());
}

/// A proxy whose legacy path breaks; what lies below `/other` goes to a sound async path.
fn beside_a_sound_path(legacy: std::net::SocketAddr, sound: &Backend) -> Proxy {
    let pinned = "[[route]]\nname = \"other\"\nmatch = \"* /other/{rest*}\"\npin = \"async\"\n";
    Setup::new(legacy, sound.address).legacy(LIMITS).tail(pinned).start()
}

fn assert_untouched(proxy: &Proxy, sound: &Backend, requests: usize) {
    let mut client = proxy.client();
    assert_eq!(client.get("/other/x").text(), "sound");
    assert_eq!(sound.hits(), requests);
    assert_eq!(errors(&proxy.scrape(), "async", None), 0.0);
}

/// A reply of the proxy itself, which says what broke and not where.
fn assert_refusal(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status);
    let proxy_status = format!("cutover; error={error}");
    assert_eq!(response.header("proxy-status"), Some(proxy_status.as_str()));
    assert!(response.header("x-request-id").is_some());
    assert!(!response.text().contains("127.0.0.1"), "{}", response.text());
}

#[test]
fn a_backend_that_breaks_before_its_reply_is_a_502_or_504_of_its_kind() {
    let sound = Backend::ok("sound");
    let seen = Latch::default();
    let legacy = Backend::start(move |request| broken(&request.target, &seen));
    let proxy = beside_a_sound_path(legacy.address, &sound);
    let mut client = proxy.client();
    let mut charged = std::collections::BTreeMap::new();
    let cases = [
        ("/hang", 504, "http_response_timeout", "response_timeout"),
        ("/reset", 502, "connection_terminated", "reset"),
        ("/close", 502, "connection_terminated", "reset"),
        ("/garbage", 502, "http_protocol_error", "protocol"),
        ("/half-head", 502, "connection_terminated", "reset"),
    ];
    for (turn, (target, status, error, kind)) in cases.into_iter().enumerate() {
        // Also with a body, whose upload must not change who is to blame.
        client
            .send(format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"));
        let posted = client.response();
        for response in [posted, client.get(target)] {
            assert_refusal(&response, status, error);
        }
        *charged.entry(kind).or_insert(0.0) += 2.0;
        assert_charged(&proxy, kind, charged[kind]);
        assert_untouched(&proxy, &sound, turn + 1);
    }
    assert_eq!(client.get("/").text(), "fine", "the client's connection goes on");
    assert_eq!(errors(&proxy.scrape(), "legacy", None), 10.0);
}

#[test]
fn a_refused_connection_is_a_502_of_kind_connect() {
    let sound = Backend::ok("sound");
    let proxy = beside_a_sound_path(Backend::refused(), &sound);
    let response = proxy.client().get("/");
    assert_refusal(&response, 502, "connection_refused");
    assert_charged(&proxy, "connect", 1.0);
    assert_untouched(&proxy, &sound, 1);
}

#[test]
fn a_backend_that_closes_each_connection_at_once_is_asked_once_a_request() {
    const REQUESTS: usize = 50;
    let sound = Backend::ok("sound");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    // Bounded: it would be far exceeded by a proxy that connects again and again.
    let closing = thread::spawn(move || {
        for stream in listener.incoming().take(REQUESTS) {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let proxy = beside_a_sound_path(address, &sound);
    let mut client = proxy.client();
    for turn in 1..=REQUESTS {
        assert_refusal(&client.get("/"), 502, "connection_terminated");
        assert_eq!(accepted.load(Ordering::SeqCst), turn, "connections for {turn} requests");
    }
    closing.join().unwrap();
    assert_charged(&proxy, "reset", 50.0);
    assert_untouched(&proxy, &sound, 1);
}

#[test]
fn a_reply_that_breaks_in_its_middle_is_visibly_cut() {
    let sound = Backend::ok("sound");
    let seen = Latch::default();
    let gate = seen.clone();
    let legacy = Backend::start(move |request| broken(&request.target, &gate));
    let proxy = beside_a_sound_path(legacy.address, &sound);
    let mut charged = std::collections::BTreeMap::new();
    let cases = [
        ("/reset-chunked", "reset"),
        ("/close-chunked", "reset"),
        ("/reset-length", "reset"),
        ("/close-length", "reset"),
        ("/stop-chunked", "body_timeout"),
        ("/stop-length", "body_timeout"),
        ("/bad-chunk", "protocol"),
    ];
    for (turn, (target, kind)) in cases.into_iter().enumerate() {
        let mut client = proxy.client();
        client.ask(target, "");
        let head = client.head().expect("a head, as it came before the fault");
        assert_eq!(head.0, 200, "{target}");
        if target.starts_with("/reset") || target == "/bad-chunk" {
            seen.release(1);
        }
        let response = client.body_of(head).unwrap();
        assert_eq!(response.ended, Ended::Cut, "{target}");
        assert!(b"hello".starts_with(&response.body), "{target}: {:?}", response.body);
        *charged.entry(kind).or_insert(0.0) += 1.0;
        assert_charged(&proxy, kind, charged[kind]);
        assert_untouched(&proxy, &sound, turn + 1);
    }
    assert_eq!(errors(&proxy.scrape(), "legacy", None), 7.0);
}

#[test]
fn a_backend_killed_mid_reply_fails_what_it_had_and_nothing_else() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::raw(LENGTH).then_until(&held).then("world"));
    let proxy = Setup::new(legacy.address, legacy.address).start();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    let heads: Vec<_> = clients.iter_mut().map(|c| c.head().unwrap()).collect();
    legacy.kill_connections();
    for (client, head) in clients.iter_mut().zip(heads) {
        assert_eq!(client.body_of(head).unwrap().ended, Ended::Cut);
    }
    latch.open();
    assert_charged(&proxy, "reset", 20.0);
    assert_eq!(proxy.client().get("/").text(), "helloworld");
    assert_charged(&proxy, "reset", 20.0);
}

#[test]
fn the_request_deadline_ends_what_the_other_limits_let_pass() {
    // Each pause is within the limits; all together are not.
    let trickle = |reply: Reply| {
        (0..50)
            .fold(reply, |reply, _| reply.then_wait(Duration::from_millis(100)).then("1\r\nx\r\n"))
    };
    let legacy = Backend::start(move |request| match request.target.as_str() {
        "/late" => Reply::nothing().then_hang(),
        _ => trickle(Reply::raw(CHUNKED)),
    });
    let limits = "request_deadline = \"500ms\"";
    let proxy = Setup::new(legacy.address, legacy.address).legacy(limits).start();
    let late = proxy.client().get("/late");
    assert_refusal(&late, 504, "http_response_timeout");
    let response = proxy.client().get("/trickle");
    assert_eq!((response.status, response.ended), (200, Ended::Cut));
    assert!(response.body.len() < 20, "{} bytes came", response.body.len());
    assert_charged(&proxy, "response_timeout", 2.0);
}

#[test]
fn ten_thousand_faults_leave_no_descriptor_and_no_request_behind() {
    const CLIENTS: usize = 40;
    const KINDS: [&str; 8] = [
        "/reset",
        "/close",
        "/garbage",
        "/half-head",
        "/close-chunked",
        "/close-length",
        "/hang",
        "/stop-length",
    ];
    let _alone = heavy();
    let hostile = Backend::start(|request: &Seen| broken(&request.target, &Latch::default()));
    let limits = "response_timeout = \"100ms\"\nidle_timeout = \"100ms\"\nmin_idle = 0\n\
                  pool_idle_timeout = \"100ms\"";
    let setup = Setup::new(hostile.address, Backend::refused()).legacy(limits).weight(0.1);
    let process = setup.async_("min_idle = 0").spawn();
    let run = |faults: usize| {
        let turn = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (turn, address) = (turn.clone(), process.address);
                thread::spawn(move || {
                    let mut client = Client::connect(address);
                    loop {
                        let turn = turn.fetch_add(1, Ordering::Relaxed);
                        if turn >= faults {
                            return;
                        }
                        let response = client.get(KINDS[turn % KINDS.len()]);
                        match (response.status, response.ended) {
                            (502 | 504, Ended::Whole) => {}
                            (200, Ended::Cut) => client = Client::connect(address),
                            other => panic!("{}: {other:?}", KINDS[turn % KINDS.len()]),
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        let open = || process.scrape().sum("cutover_connections_open", &[]);
        eventually!(open() == 0.0 && hostile.open() == 0, "{} still open", open());
    };
    run(500);
    let before = process.descriptors();
    run(10_000);
    let after = || process.descriptors();
    eventually!(after() <= before, "{before} descriptors, now {}", after());
    let scrape = process.scrape();
    let charged = errors(&scrape, "legacy", None) + errors(&scrape, "async", None);
    println!("10500 faults, {charged} charged; {before} descriptors before, {} after", after());
    assert_eq!(charged, 10_500.0);
    assert_eq!(scrape.sum("cutover_requests_in_flight", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_panics_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_client_errors_total", &[]), 0.0);
}

// === Faults of clients ===

fn assert_client_blamed(proxy: &Proxy, kind: &str, number: f64) {
    let blamed = || proxy.scrape().sum("cutover_client_errors_total", &[("kind", kind)]);
    eventually!(blamed() == number, "{kind}: {} and not {number}", blamed());
    let scrape = proxy.scrape();
    assert_eq!(errors(&scrape, "legacy", None) + errors(&scrape, "async", None), 0.0);
    for code in ["500", "502", "503", "504"] {
        assert_eq!(scrape.sum("cutover_requests_total", &[("code", code)]), 0.0, "{code}");
    }
}

#[test]
fn a_broken_upload_is_the_clients_fault() {
    let legacy = Backend::ok("legacy").expects_cuts();
    let proxy =
        Setup::new(legacy.address, legacy.address).listen("body_idle_timeout = \"300ms\"").start();
    let chunked = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n";
    // Broken chunks.
    for (turn, body) in ["zz\r\n", "5\r\nhelloXX", "5\r\nhello\r\n-1\r\n"].into_iter().enumerate() {
        let mut client = proxy.client();
        client.send(format!("{chunked}{body}"));
        assert_eq!(client.response().status, 400, "{body:?}");
        assert!(client.is_closed_silently());
        assert_client_blamed(&proxy, "body_cut", (turn + 1) as f64);
    }
    // An upload that ends too early, by a close and by a half-close.
    for head in [chunked, length] {
        let mut client = proxy.client();
        client.send(format!("{head}5\r\nhe"));
        drop(client);
    }
    assert_client_blamed(&proxy, "body_cut", 5.0);
    let mut client = proxy.client();
    client.send(format!("{length}hello"));
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.response().status, 400);
    assert_client_blamed(&proxy, "body_cut", 6.0);
    // One that stops.
    for (turn, head) in [chunked, length].into_iter().enumerate() {
        let mut client = proxy.client();
        client.send(head);
        assert_eq!(client.response().status, 408);
        assert_client_blamed(&proxy, "body_timeout", (turn + 1) as f64);
    }
}

#[test]
fn a_client_that_leaves_is_its_own_fault() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |request| match request.target.as_str() {
        "/middle" => Reply::raw(LENGTH).then_until(&held).then("world"),
        _ => Reply::ok("late").held_by(&held),
    });
    let proxy = Setup::new(legacy.address, legacy.address).start();
    for (turn, target) in ["/before", "/middle"].into_iter().enumerate() {
        let mut client = proxy.client();
        client.ask(target, "");
        eventually!(legacy.hits() == turn + 1);
        if target == "/middle" {
            assert_eq!(client.head().unwrap().0, 200);
        }
        client.reset();
        assert_client_blamed(&proxy, "abort", (turn + 1) as f64);
        proxy.settle();
    }
    latch.open();
}

// === Stale connections ===

#[test]
fn a_backend_that_closes_after_each_reply_without_a_word_costs_no_request() {
    let legacy = Backend::start(|_| Reply::ok("once").then_close());
    let proxy = Setup::new(legacy.address, legacy.address)
        .legacy("min_idle = 0")
        .async_("min_idle = 0")
        .start();
    let mut client = proxy.client();
    for turn in 0..1_000 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "once"), "turn {turn}");
        // The next request comes once the close has reached the proxy, and no later.
        eventually!(legacy.open() == 0, "turn {turn}: {} open", legacy.open());
    }
    assert_eq!(legacy.hits(), 1_000);
    assert_eq!(errors(&proxy.scrape(), "legacy", None), 0.0);
}

#[test]
fn a_backend_that_has_answered_and_takes_no_more_of_the_upload_loses_the_connection() {
    let backend = Listener::bind();
    let proxy = Setup::new(backend.address, Backend::refused()).legacy(LIMITS).start();
    let mut client = Raw::connect(proxy.address);
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut upstream = backend.accept();
    upstream.head();
    upstream.send(OK);
    assert_eq!(client.reply().status(), 200);
    // More than the kernel holds for any of the three: it ends because the proxy does.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let begun = Instant::now();
    while client.send(&chunk) {}
    assert!(begun.elapsed() < Duration::from_secs(8), "after {:?}", begun.elapsed());
}
