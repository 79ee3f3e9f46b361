//! What goes wrong with one stream ends that stream, with the status or the error code that says
//! whose fault it was, and leaves the others alone.

use std::time::{Duration, Instant};

use crate::harness::h2::{
    CANCEL, End, Frames, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, REFUSED_STREAM, request, request_with,
};
use crate::harness::raw::{Ended, Listener};
use crate::harness::raw_backend::{OK, Scripted};
use crate::harness::{Backend, Latch, Proxy, Reply, Setup, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A backend, a proxy with these lines in `[listen]`, and a client.
fn trio(listen: &str) -> (Scripted, Proxy, Frames) {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).listen(listen).start();
    let client = Frames::connect(proxy.address);
    (backend, proxy, client)
}

fn client_errors(proxy: &Proxy, kind: &str) -> f64 {
    proxy.scrape().sum("cutover_client_errors_total", &[("kind", kind)])
}

fn path_errors(proxy: &Proxy, kind: &str) -> f64 {
    proxy.scrape().sum("cutover_errors_total", &[("kind", kind)])
}

#[test]
fn a_backend_that_is_not_there_is_a_502() {
    let nobody = Backend::refused();
    let proxy = Setup::new(nobody, nobody).workers(1).start();
    let mut client = Frames::connect(proxy.address);
    let answer = client.get("/");
    assert_eq!(answer.whole(), (502, "The backend can't be reached.\n".to_owned()));
    assert_eq!(answer.field("proxy-status"), Some("cutover; error=connection_refused"));
    assert_eq!(answer.field("connection"), None);
    assert!(answer.field("x-request-id").is_some() && answer.field("date").is_some());
}

#[test]
fn a_backend_that_closes_before_its_head_is_a_502() {
    let (backend, proxy, mut client) = trio("");
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Le", "no HTTP at all\r\n\r\n"] {
        backend.will_answer(begun, true);
        let stream = client.ask(&request("POST", "/"));
        assert_eq!(client.answer(stream).whole().0, 502, "{begun:?}");
    }
    assert_eq!(path_errors(&proxy, "reset") + path_errors(&proxy, "protocol"), 3.0);
    assert_eq!(client.get("/").status(), 200);
}

#[test]
fn a_reply_whose_body_is_cut_is_reset_and_never_looks_complete() {
    let (backend, proxy, mut client) = trio("");
    let cuts = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y",
    ];
    for cut in cuts {
        backend.will_answer(cut, true);
        let answer = client.get("/");
        // A head that is not written yet when the reset comes is not written any more.
        assert!([0, 200].contains(&answer.status()), "{answer:?}");
        assert_eq!(answer.end, Some(End::Reset(INTERNAL_ERROR)), "{cut:?}");
    }
    let counted = path_errors(&proxy, "reset") + path_errors(&proxy, "protocol");
    assert_eq!(counted, cuts.len() as f64);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[]), 0.0);
}

#[test]
fn a_backend_that_is_late_is_a_504_and_one_that_stops_is_a_reset() {
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/late" => Reply::nothing().then_hang(),
        "/stops" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").then_hang(),
        _ => Reply::ok("ok"),
    });
    let lines = "response_timeout = \"300ms\"\nidle_timeout = \"300ms\"";
    let proxy = Setup::new(backend.address, backend.address).workers(1).legacy(lines).start();
    let mut client = Frames::connect(proxy.address);
    let late = client.ask(&request("POST", "/late"));
    let stops = client.ask(&request("POST", "/stops"));
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.answer(late).whole().0, 504);
    let answer = client.answer(stops);
    assert_eq!((answer.text().as_str(), answer.end), ("hello", Some(End::Reset(INTERNAL_ERROR))));
    assert_eq!(
        (path_errors(&proxy, "response_timeout"), path_errors(&proxy, "body_timeout")),
        (1.0, 1.0)
    );
}

// === Limits ===

#[test]
fn a_body_over_the_limit_is_a_413_whether_announced_or_not() {
    let (backend, proxy, mut client) = trio("body_bytes = \"10\"");
    let announced = client.open(&request_with("POST", "/", &[("content-length", "11")]));
    assert_eq!(client.answer(announced).whole().0, 413);
    assert!(backend.take_got().is_empty());
    let silent = client.open(&request("POST", "/"));
    client.data(silent, "12345678");
    client.data(silent, "901");
    assert_eq!(client.answer(silent).whole().0, 413);
    assert!(backend.take_got().iter().all(|got| !got.complete));
    let fits = client.open(&request("POST", "/"));
    client.last_data(fits, "1234567890");
    assert_eq!(client.answer(fits).whole().0, 200);
    assert_eq!(client_errors(&proxy, "body_too_large"), 2.0);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn a_head_over_either_limit_is_a_431() {
    let (backend, _proxy, mut client) = trio("header_bytes = \"8KiB\"\nheader_count = 20");
    let value = "v".repeat(8192);
    let large = client.ask(&request_with("GET", "/", &[("x-large", &value)]));
    assert_eq!(client.answer(large).status(), 431);
    let names: Vec<String> = (0..21).map(|number| format!("x-{number}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let many = client.ask(&request_with("GET", "/", &fields));
    assert_eq!(client.answer(many).status(), 431);
    let repeated = client.ask(&request_with("GET", "/", &[("x", "v"); 21]));
    assert_eq!(client.answer(repeated).status(), 431);
    assert!(backend.take_got().is_empty());
    let fits = client.ask(&request_with("GET", "/", &fields[..20]));
    assert_eq!(client.answer(fits).status(), 200);
}

#[test]
fn a_stream_beyond_the_limit_is_refused_and_can_be_tried_again() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("ok").held_by(&held));
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::connect(proxy.address);
    let most = client.settings[&3];
    assert_eq!(most, 100);
    let streams: Vec<u32> = (0..most).map(|_| client.ask(&request("GET", "/"))).collect();
    let beyond = client.ask(&request("GET", "/beyond"));
    assert_eq!(client.answer(beyond).end, Some(End::Reset(REFUSED_STREAM)));
    latch.open();
    for stream in streams {
        assert_eq!(client.answer(stream).whole().0, 200);
    }
    assert_eq!(client.get("/again").whole().0, 200);
    assert_eq!(backend.hits(), 101);
}

// === Clients that stop, or leave ===

#[test]
fn a_body_that_stops_coming_is_a_408() {
    let (backend, proxy, mut client) = trio("body_idle_timeout = \"300ms\"");
    for fields in [&[][..], &[("content-length", "10")]] {
        let stream = client.open(&request_with("POST", "/", fields));
        client.data(stream, "hello");
        let since = Instant::now();
        let answer = client.answer(stream);
        assert_eq!(answer.whole().0, 408, "{answer:?}");
        assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
    }
    assert_eq!(client_errors(&proxy, "body_timeout"), 2.0);
    assert!(backend.take_got().iter().all(|got| !got.complete));
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn a_reply_that_is_not_taken_is_cut_off_after_a_while() {
    let backend = Backend::start(|_| Reply::ok(vec![b'x'; 1 << 20]));
    let proxy = Setup::new(backend.address, backend.address)
        .workers(1)
        .listen("body_idle_timeout = \"400ms\"")
        .start();
    let mut client = Frames::connect_with(proxy.address, &[(INITIAL_WINDOW_SIZE, 100)]);
    let stream = client.ask(&request("GET", "/"));
    client.until(|client| client.so_far(stream).body.len() == 100);
    let since = Instant::now();
    let answer = client.answer(stream);
    assert_eq!((answer.body.len(), answer.end), (100, Some(End::Reset(CANCEL))));
    assert!(since.elapsed() >= SECOND / 4 && since.elapsed() < 3 * SECOND, "{:?}", since.elapsed());
    assert_eq!(client_errors(&proxy, "abort"), 1.0);
}

#[test]
fn a_stream_that_its_client_resets_is_cancelled_at_the_backend_within_a_second() {
    let backend = Listener::bind();
    let cold = "min_idle = 0";
    let setup = Setup::new(backend.address, backend.address).legacy(cold).async_(cold);
    let proxy = setup.workers(1).start();
    let mut client = Frames::connect(proxy.address);
    let in_flight = || proxy.scrape().sum("cutover_requests_in_flight", &[]);
    for stage in 0..3 {
        // Before the reply, within the upload, within the reply.
        let upload = stage == 1;
        let stream = match upload {
            true => client.open(&request("POST", "/")),
            false => client.ask(&request("GET", "/")),
        };
        let mut upstream = backend.accept();
        upstream.head();
        if stage == 2 {
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            client.until(|client| client.so_far(stream).body.len() == 5);
        }
        assert_eq!(in_flight(), 1.0);
        client.reset(stream, CANCEL);
        let since = Instant::now();
        assert_ne!(upstream.rest().1, Ended::Open);
        assert!(since.elapsed() < SECOND, "stage {stage}: {:?}", since.elapsed());
        eventually!(in_flight() == 0.0, "stage {stage}: {} in flight", in_flight());
        assert_eq!(client_errors(&proxy, "abort"), f64::from(stage) + 1.0, "stage {stage}");
    }
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
    let stream = client.ask(&request("GET", "/"));
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(OK);
    assert_eq!(client.answer(stream).whole().1, "ok");
}

#[test]
fn a_client_that_leaves_takes_all_of_its_streams_along() {
    let backend = Backend::start(|_| Reply::nothing().then_hang()).expects_cuts();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::connect(proxy.address);
    for _ in 0..10 {
        client.ask(&request("GET", "/"));
    }
    eventually!(backend.hits() == 10);
    drop(client);
    let since = Instant::now();
    eventually!(backend.open() == 0, "{} open", backend.open());
    assert!(since.elapsed() < SECOND, "{:?}", since.elapsed());
    proxy.settle();
    assert_eq!(client_errors(&proxy, "abort"), 10.0);
    assert_eq!(proxy.scrape().sum("cutover_connections_open", &[]), 0.0);
}
