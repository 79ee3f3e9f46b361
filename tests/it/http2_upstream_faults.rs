//! HTTP/2 to endpoints that refuse, reset, leave or say nothing: what clients see, and what is sent again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use h2::Reason;

use crate::harness::h2_frames::{Came, FrameBackend};
use crate::harness::raw::{Listener, Raw};
use crate::harness::{Backend, Client, Ended, Fate, H2Backend, Latch, Play, Proxy, eventually};
use crate::http2_upstream::{LEGACY, setup, sum};

const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const OPEN: usize = 20;

/// As many clients as [`OPEN`], each with a request on its way, every other one a POST.
fn ask(proxy: &Proxy) -> Vec<Client> {
    let ask = |number: usize| {
        let mut client = proxy.client();
        if number.is_multiple_of(2) {
            client.ask("/", "")
        } else {
            client.send(POST)
        }
        client
    };
    (0..OPEN).map(ask).collect()
}

fn came(backend: &FrameBackend, number: usize) -> Vec<Came> {
    (0..number).map(|_| backend.request()).collect()
}

fn reset_errors(proxy: &Proxy) -> f64 {
    sum(proxy, "cutover_errors_total", &[LEGACY, ("kind", "reset")])
}

// === Not processed ===

/// A GOAWAY with `code` that names the first half of what is open: nobody sees an error of it.
fn goes_away(code: u32) {
    let listener = Listener::bind();
    let proxy = setup(listener.address, "").start();
    let mut clients = ask(&proxy);
    let mut first = FrameBackend::accept(&listener, &[]);
    let open = came(&first, OPEN);
    let (named, left_out) = open.split_at(OPEN / 2);
    first.go_away(named[OPEN / 2 - 1].stream, code);
    let mut second = FrameBackend::accept(&listener, &[]);
    let again = came(&second, OPEN / 2);
    let posts = |came: &[Came]| came.iter().filter(|came| came.is_post).count();
    assert_eq!(posts(&again), posts(left_out));
    assert!(first.is_untouched() && posts(&again) > 0);
    // What comes now goes to the new one too.
    let mut late = proxy.client();
    late.ask("/", "");
    let latest = second.request();
    again.iter().chain([&latest]).for_each(|came| second.answer(came.stream, "second"));
    named.iter().for_each(|came| first.answer(came.stream, "first"));
    first.close();
    let mut by = BTreeMap::new();
    for client in clients.iter_mut().chain([&mut late]) {
        let response = client.response();
        assert_eq!((response.status, response.ended), (200, Ended::Whole));
        *by.entry(response.text()).or_insert(0) += 1;
    }
    let expected = [("first", OPEN / 2), ("second", OPEN / 2 + 1)];
    assert_eq!(by, expected.map(|(text, number)| (text.to_owned(), number)).into());
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
    assert_eq!(sum(&proxy, "cutover_retries_total", &[]), 0.0, "it costs no budget");
    assert!(listener.is_untouched(), "a connection too many");
}

#[test]
fn what_a_goaway_names_finishes_and_what_it_leaves_out_moves_on() {
    goes_away(NO_ERROR);
}

#[test]
fn what_a_goaway_leaves_out_was_not_processed_whatever_its_reason_is() {
    goes_away(INTERNAL_ERROR);
}

#[test]
fn what_a_goaway_names_may_have_been_processed_although_its_connection_ends() {
    let listener = Listener::bind();
    let proxy = setup(listener.address, "").start();
    let mut client = proxy.client();
    client.send(POST);
    let mut first = FrameBackend::accept(&listener, &[]);
    let stream = first.request().stream;
    first.go_away(stream, NO_ERROR);
    // Read by the time another request has found a new connection.
    let mut other = proxy.client();
    other.ask("/", "");
    let mut second = FrameBackend::accept(&listener, &[]);
    let late = second.request();
    first.close();
    assert_eq!(client.response().status, 502);
    second.answer(late.stream, "second");
    assert_eq!(other.response().text(), "second");
    assert!(second.is_untouched() && listener.is_untouched(), "the POST was sent again");
}

#[test]
fn a_graceful_end_of_the_backend_costs_no_request() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |_| Play::ok("ok").held_by(&held));
    let proxy = setup(backend.address, "").start();
    let mut clients = ask(&proxy);
    eventually!(backend.hits() == OPEN);
    backend.go_away();
    // Those that come before it is heard of are served where they are.
    eventually!({
        let mut late = proxy.client();
        late.send(POST);
        clients.push(late);
        backend.accepted() == 2
    });
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(backend.hits(), clients.len());
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
}

#[test]
fn streams_that_are_refused_move_on() {
    let listener = Listener::bind();
    let proxy = setup(listener.address, "").start();
    let mut clients = ask(&proxy);
    let mut first = FrameBackend::accept(&listener, &[]);
    let open = came(&first, OPEN);
    open.iter().for_each(|came| first.reset(came.stream, REFUSED_STREAM));
    let mut second = FrameBackend::accept(&listener, &[]);
    for came in came(&second, OPEN) {
        second.answer(came.stream, "second");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "second");
    }
    assert!(listener.is_untouched(), "a connection too many");
    assert_eq!(sum(&proxy, "cutover_errors_total", &[]), 0.0);
}

#[test]
fn what_is_refused_for_ever_is_a_502_after_few_attempts_over_few_connections() {
    let backend = H2Backend::start(|_| Play::reset(Reason::REFUSED_STREAM));
    let proxy = setup(backend.address, "").start();
    let mut client = proxy.client();
    for number in 1..=20 {
        if number % 2 == 0 {
            client.ask("/", "")
        } else {
            client.send(POST)
        }
        assert_eq!(client.response().status, 502);
        assert_eq!(backend.hits(), 2 * number);
    }
    assert!(backend.accepted() <= 2, "{} connections for 20 requests", backend.accepted());
    proxy.settle();
    assert_eq!(reset_errors(&proxy), 20.0);
}

// === Resets ===

#[test]
fn a_reset_is_a_502_before_the_head_and_cuts_the_reply_after_it() {
    for reason in [Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        resets(reason);
    }
}

/// NO_ERROR too says that no more of the reply will come, not that it is whole.
fn resets(reason: Reason) {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/before" => Play::reset(Reason::INTERNAL_ERROR),
        "/amid" => {
            let begun = Play::head(200).then("begun").then_until(&held);
            begun.then_reset(reason)
        }
        _ => Play::ok("ok"),
    });
    let proxy = setup(backend.address, "").start();
    let mut client = proxy.client();
    client.send(POST.replace("POST /", "POST /before"));
    assert_eq!((client.response().status, backend.hits()), (502, 1));
    // One that is safe is tried once more, as it may have met a connection on its way out.
    assert_eq!((client.get("/before").status, backend.hits()), (502, 3));
    assert_eq!(client.get("/ok").text(), "ok");
    proxy.settle();
    assert_eq!(reset_errors(&proxy), 2.0);
    let mut amid = proxy.client();
    amid.ask("/amid", "");
    assert_eq!(amid.head().unwrap().0, 200);
    assert_eq!(amid.exactly(10).unwrap().0, b"5\r\nbegun\r\n");
    latch.open();
    assert_eq!(amid.rest().unwrap(), b"", "it has no end");
    assert_eq!(client.get("/ok").text(), "ok");
    eventually!(reset_errors(&proxy) == 3.0);
}

#[test]
fn a_backend_that_dies_gets_what_is_safe_once_more_and_nothing_else() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.connection {
        0 => Play::ok("first").held_by(&held),
        _ => Play::ok("second"),
    });
    let proxy = setup(backend.address, "").start();
    let mut clients = ask(&proxy);
    eventually!(backend.hits() == OPEN);
    backend.kill_connections();
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response();
        let expected = if number.is_multiple_of(2) { 200 } else { 502 };
        assert_eq!(response.status, expected, "client {number}: {}", response.text());
    }
    assert_eq!((backend.hits(), backend.accepted()), (OPEN + OPEN / 2, 2));
    proxy.settle();
    assert_eq!(reset_errors(&proxy), (OPEN / 2) as f64);
    latch.open();
}

// === Silence ===

#[test]
fn a_late_reply_costs_its_own_stream_only() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/late" => Play::ok("late").held_by(&held),
        "/slow" => Play::head(200).then("slow ").then_until(&held).then("reply").and_end(),
        _ => Play::ok("ok"),
    });
    let lines = "response_timeout = \"300ms\"\n";
    let proxy = setup(backend.address, lines).start();
    let [mut late, mut slow] = [(); 2].map(|()| proxy.client());
    slow.ask("/slow", "");
    slow.head().unwrap();
    late.ask("/late", "");
    eventually!(backend.hits() == 2);
    let mut brisk = proxy.client();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        assert_eq!(brisk.get("/").text(), "ok");
    }
    assert_eq!(late.response().status, 504);
    eventually!(backend.fates(Fate::Reset(Reason::CANCEL)) == 1);
    latch.open();
    let (body, _) = slow.exactly(b"5\r\nslow \r\n5\r\nreply\r\n0\r\n\r\n".len()).unwrap();
    assert!(body.ends_with(b"5\r\nreply\r\n0\r\n\r\n"), "{body:?}");
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn a_connection_that_has_gone_silent_gets_no_more_requests() {
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, "response_timeout = \"300ms\"").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    // As behind a cable that was pulled: nothing says that it is gone.
    backend.freeze();
    assert_eq!(client.get("/").status, 504);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn a_backend_that_speaks_http_1_is_a_502() {
    let replies = Backend::ok("one").expects_cuts();
    let proxy = setup(replies.address, "").start();
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").status, 502);
    }
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY, ("kind", "protocol")]), 3.0);
    let connects = sum(&proxy, "cutover_upstream_connects_total", &[LEGACY, ("result", "failure")]);
    assert!(connects >= 3.0, "{connects}");
    // One that hangs up is no different.
    let listener = Listener::bind();
    let proxy = setup(listener.address, "").start();
    let mut client = proxy.client();
    client.ask("/", "");
    drop(listener.accept());
    assert_eq!(client.response().status, 502);
}

#[test]
fn a_backend_that_never_shakes_hands_is_a_504_after_connect_timeout() {
    let listener = Listener::bind();
    let proxy = setup(listener.address, "connect_timeout = \"300ms\"").start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    let mut silent: Raw = listener.accept();
    for client in &mut clients {
        assert_eq!(client.response().status, 504);
    }
    assert!(silent.rest().0.starts_with(b"PRI * HTTP/2.0"), "it is closed");
}
