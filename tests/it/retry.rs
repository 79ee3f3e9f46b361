//! Retries at another endpoint of the path, and pooled connections that the backend has closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::raw::{Listener, Raw};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Proxy, Reply, Setup};

const LEGACY: (&str, &str) = ("path", "legacy");

fn sum(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.scrape().sum(name, labels)
}

/// First turn to `first`, then to the others in turn; nobody is ever ejected.
fn in_turn(backends: &[&Backend], tail: &str) -> Proxy {
    Setup::new(backends[0].address, Backend::refused())
        .legacy_at(backends)
        .legacy("balance = \"round_robin\"\neject = { consecutive_failures = 0 }")
        .workers(1)
        .tail(tail)
        .start()
}

fn broken() -> Backend {
    Backend::start(|_| Reply::nothing().then_close())
}

#[test]
fn what_is_safe_is_answered_by_another_endpoint_and_nobody_sees_the_first() {
    let (dead, sound) = (broken(), Backend::ok("ok"));
    let proxy = in_turn(&[&dead, &sound], "");
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(sound.hits(), 10);
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY]), 0.0);
    assert_eq!(sum(&proxy, "cutover_requests_total", &[LEGACY, ("code", "200")]), 10.0);
    let retries = sum(&proxy, "cutover_retries_total", &[LEGACY, ("result", "success")]);
    assert_eq!(retries as usize, dead.hits());
    let address = dead.address.to_string();
    let failures = [LEGACY, ("endpoint", address.as_str()), ("result", "failure")];
    assert_eq!(sum(&proxy, "cutover_endpoint_requests_total", &failures) as usize, dead.hits());
}

#[test]
fn what_is_not_safe_is_sent_again_only_if_nothing_was_sent() {
    let sound = Backend::ok("ok");
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    // Refused: nothing was sent.
    let refused = format!("\"http://{}\", \"http://{}\"", Backend::refused(), sound.address);
    let proxy = Setup::new(sound.address, sound.address)
        .legacy_endpoints(&refused)
        .legacy("balance = \"round_robin\"")
        .workers(1)
        .start();
    for _ in 0..4 {
        let mut client = proxy.client();
        client.send(post);
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(sound.hits(), 4);
    // Closed after it was read: it may have been processed.
    let dead = broken();
    let proxy = in_turn(&[&dead, &sound], "");
    let mut client = proxy.client();
    let statuses: Vec<_> = (0..4)
        .map(|_| {
            client.send(post);
            client.response().status
        })
        .collect();
    assert_eq!(statuses, [502, 200, 502, 200]);
    assert_eq!(dead.hits(), 2);
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY, ("kind", "reset")]), 2.0);
    assert_eq!(sum(&proxy, "cutover_retries_total", &[LEGACY]), 0.0);
}

#[test]
fn methods_that_the_operator_trusts_are_sent_again_with_their_bodies() {
    let dead = broken();
    let keeping = Scripted::start();
    let list = format!("\"http://{}\", \"http://{}\"", dead.address, keeping.address);
    let proxy = Setup::new(dead.address, dead.address)
        .legacy_endpoints(&list)
        .legacy("balance = \"round_robin\"\neject = { consecutive_failures = 0 }")
        .workers(1)
        .tail("[retry]\nmethods = [\"GET\", \"PUT\"]\nbuffer = \"1KiB\"\n")
        .start();
    let body = "b".repeat(1_024);
    let mut client = Raw::connect(proxy.address);
    let put =
        format!("PUT /a?b HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 1024\r\n\r\n{body}");
    let reply = client.ask(&put);
    assert_eq!((reply.status(), dead.hits()), (200, 1));
    let got = keeping.one();
    assert!(got.line.starts_with("PUT /a?b HTTP/1.1"), "{}", got.line);
    assert_eq!((got.field("x-one"), got.field("host")), (Some("1"), Some("h")));
    assert_eq!(got.text(), body);
    // The same in chunks, with trailers.
    let turn = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(turn.status(), 200);
    keeping.take_got();
    let chunked = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n\
                   3\r\nabc\r\n4\r\ndefg\r\n0\r\nT: 1\r\n\r\n";
    let before = dead.hits();
    while dead.hits() == before {
        assert_eq!(client.ask(chunked).status(), 200);
    }
    let got = keeping.take_got();
    let is_whole = |text: &str, trailers: usize| (text, trailers) == ("abcdefg", 1);
    assert!(got.iter().all(|got| is_whole(&got.text(), got.trailers.len())), "{got:?}");
    // One byte over the buffer: sent once, and the client sees what became of it; never a 413.
    let long = format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n{body}b");
    let statuses: Vec<_> =
        (0..2).map(|_| Raw::connect(proxy.address).ask(&long).status()).collect();
    assert!(statuses == [200, 502] || statuses == [502, 200], "{statuses:?}");
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_retries_total", &[LEGACY, ("result", "too_large")]), 1.0);
}

#[test]
fn a_body_that_is_still_coming_goes_on_at_the_other_endpoint() {
    let dead = Listener::bind();
    let keeping = Scripted::start();
    let list = format!("\"http://{}\", \"http://{}\"", dead.address, keeping.address);
    let proxy = Setup::new(keeping.address, keeping.address)
        .legacy_endpoints(&list)
        .legacy("balance = \"round_robin\"")
        .workers(1)
        .tail("[retry]\nmethods = [\"PUT\"]\n")
        .start();
    let mut client = Raw::connect(proxy.address);
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    let mut first = dead.accept();
    first.head();
    assert_eq!(first.take(3), b"abc");
    client.send("def");
    assert_eq!(first.take(3), b"def");
    first.reset();
    client.send("ghi");
    assert_eq!(client.reply().status(), 200);
    assert_eq!(keeping.one().text(), "abcdefghi");
}

#[test]
fn retries_have_a_budget_above_a_floor_and_a_number_for_each_request() {
    const REQUESTS: usize = 400;
    let (one, two, three) = (broken(), broken(), broken());
    let proxy = in_turn(&[&one, &two, &three], "[retry]\nbudget = 0.1\n");
    assert_eq!(proxy.client().get("/").status, 502);
    let hits = || one.hits() + two.hits() + three.hits();
    assert_eq!(hits(), 2, "the first and one retry, though there is a third endpoint");
    let began = std::time::Instant::now();
    let mut client = proxy.client();
    for _ in 1..REQUESTS {
        assert_eq!(client.get("/").status, 502);
    }
    assert!(began.elapsed().as_secs() < 9, "too slow a machine to tell");
    let retries = hits() - REQUESTS;
    assert!((70..=71).contains(&retries), "{retries} retries of {REQUESTS} requests");
    assert!(sum(&proxy, "cutover_retries_total", &[LEGACY, ("result", "over_budget")]) > 300.0);
    // None at all.
    let sound = Backend::ok("ok");
    let proxy = in_turn(&[&one, &sound], "[retry]\nbudget = 0\n");
    let mut client = proxy.client();
    let statuses: Vec<_> = (0..4).map(|_| client.get("/").status).collect();
    assert_eq!(statuses, [502, 200, 502, 200]);
}

#[test]
fn a_silent_endpoint_is_given_up_after_the_response_timeout_and_another_answers() {
    let silent = Backend::start(|_| Reply::nothing().then_hang()).expects_cuts();
    let sound = Backend::ok("ok");
    let proxy = Setup::new(silent.address, silent.address)
        .legacy_at(&[&silent, &sound])
        .legacy("balance = \"round_robin\"\nresponse_timeout = \"200ms\"")
        .workers(1)
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert!(silent.hits() >= 1);
    // A deadline for the whole exchange is the end of it.
    let proxy = Setup::new(silent.address, silent.address)
        .legacy_at(&[&silent, &sound])
        .legacy("balance = \"round_robin\"\nrequest_deadline = \"200ms\"")
        .workers(1)
        .start();
    let mut client = proxy.client();
    let before = sound.hits();
    let statuses: Vec<_> = (0..2).map(|_| client.get("/").status).collect();
    assert_eq!((&statuses[..], sound.hits()), (&[504, 200][..], before + 1));
}

// === Pooled connections that the backend has closed ===

/// A backend that closes a connection instead of answering its `nth` request.
fn closes_on(nth: usize) -> Backend {
    let turn = AtomicUsize::new(0);
    Backend::start(move |_| {
        if turn.fetch_add(1, Ordering::SeqCst) % nth == nth - 1 {
            Reply::nothing().then_close()
        } else {
            Reply::ok("ok")
        }
    })
}

#[test]
fn a_close_that_races_a_safe_request_is_nobodys_fault() {
    let backend = closes_on(2);
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = proxy.client();
    for number in 0..50 {
        assert_eq!(client.get("/").text(), "ok", "request {number}");
    }
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
    assert_eq!(sum(&proxy, "cutover_retries_total", &[]), 0.0, "it costs no budget");
    let stale = sum(&proxy, "cutover_stale_connections_total", &[LEGACY]);
    assert_eq!(stale as usize + 50, backend.hits());
    assert!(stale > 10.0);
    // What is not safe may have been processed.
    let backend = closes_on(2);
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = proxy.client();
    let statuses: Vec<_> = (0..4)
        .map(|_| {
            client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nb");
            client.response().status
        })
        .collect();
    assert_eq!(statuses, [200, 502, 200, 502]);
    assert_eq!(backend.hits(), 4);
}

#[test]
fn a_connection_that_breaks_long_after_the_request_was_sent_is_no_race() {
    let turn = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("ok"),
        _ => Reply::nothing().then_wait(Duration::from_millis(1_200)).then_close(),
    });
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/").status, 502);
    proxy.settle();
    assert_eq!(backend.hits(), 2);
    assert_eq!(sum(&proxy, "cutover_stale_connections_total", &[]), 0.0);
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY, ("kind", "reset")]), 1.0);
}

#[test]
fn a_backend_that_closes_what_it_pooled_loses_no_request_of_any_method() {
    let backend = Backend::ok("ok");
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for round in 0..20 {
        thread::scope(|scope| {
            for (number, client) in clients.iter_mut().enumerate() {
                scope.spawn(move || {
                    let method = if number % 2 == 0 { "GET" } else { "POST" };
                    client.send(format!(
                        "{method} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
                    ));
                    assert_eq!(client.response().status, 200, "{method} in round {round}");
                });
            }
        });
        backend.kill_connections();
        let idle = [LEGACY, ("state", "idle")];
        // The proxy has read the ends by the time it is asked again.
        crate::harness::eventually!(
            backend.open() == 0 && sum(&proxy, "cutover_endpoint_connections", &idle) <= 8.0
        );
    }
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
}
