//! The end of HTTP/2 connections, by a drain or by their idle limit: announced by GOAWAY, without
//! a stream lost.

use std::time::{Duration, Instant};

use crate::harness::h2::{
    END_HEADERS, END_STREAM, Frames, HEADERS, NO_ERROR, PREFACE, block, frame, request,
};
use crate::harness::raw::Ended;
use crate::harness::{Backend, Latch, Process, Reply, Setup, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// The last stream of a GOAWAY that names none yet (RFC 9113 section 6.8).
const ANY: u32 = i32::MAX as u32;

fn await_phase(process: &Process, phase: &str) {
    let logged = || process.logged("phase changed");
    eventually!(logged().iter().any(|line| line["fields"]["phase"] == phase), "no {phase}");
}

#[test]
fn sigterm_announces_the_end_and_loses_no_stream() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("kept").held_by(&held));
    let mut process = Setup::new(backend.address, backend.address).spawn();
    let mut clients: Vec<_> = (0..4).map(|_| Frames::connect(process.address)).collect();
    for client in &mut clients {
        (0..10).for_each(|_| {
            client.ask(&request("GET", "/"));
        });
    }
    eventually!(backend.hits() == 40, "{}", backend.hits());
    process.signal("TERM");
    for client in &mut clients {
        client.until(|client| !client.goaways.is_empty());
        assert_eq!(client.goaways[0], (ANY, NO_ERROR));
    }
    latch.open();
    for client in &mut clients {
        for stream in (0..10).map(|number| number * 2 + 1) {
            assert_eq!(client.answer(stream).whole(), (200, "kept".to_owned()));
        }
        assert_eq!(client.rest(3 * SECOND), Ended::Closed);
        assert_eq!(client.goaways.last(), Some(&(19, NO_ERROR)));
    }
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_stream_that_crosses_the_goaway_is_served() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("kept").held_by(&held));
    let mut process = Setup::new(backend.address, backend.address).spawn();
    let mut client = Frames::connect(process.address);
    let before = client.ask(&request("GET", "/"));
    eventually!(backend.hits() == 1);
    process.signal("TERM");
    await_phase(&process, "draining");
    // The client has not read the GOAWAY, nor answered the ping behind it.
    let crossing = client.ask(&request("GET", "/crossing"));
    eventually!(backend.hits() == 2, "the stream was lost");
    latch.open();
    assert_eq!(client.answer(before).whole().0, 200);
    assert_eq!(client.answer(crossing).whole().0, 200);
    assert_eq!(client.rest(3 * SECOND), Ended::Closed);
    assert_eq!(client.goaways, [(ANY, NO_ERROR), (crossing, NO_ERROR)]);
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn idle_connections_are_closed_in_a_drain_though_their_client_reads_nothing() {
    let backend = Backend::ok("ok");
    let mut process = Setup::new(backend.address, backend.address).spawn();
    let mut reads = Frames::connect(process.address);
    let mut used = Frames::connect(process.address);
    assert_eq!(used.get("/").status(), 200);
    let _silent: Vec<_> = (0..3).map(|_| Frames::connect(process.address)).collect();
    process.signal("TERM");
    let since = Instant::now();
    for client in [&mut reads, &mut used] {
        assert_eq!(client.rest(3 * SECOND), Ended::Closed);
        assert_eq!(client.goaways[0], (ANY, NO_ERROR));
    }
    assert!(since.elapsed() < SECOND, "{:?}", since.elapsed());
    assert_eq!(process.wait(), Some(0));
    assert!(since.elapsed() < 3 * SECOND, "{:?}", since.elapsed());
}

#[test]
fn a_stream_slower_than_the_drain_is_cut_and_never_looks_complete() {
    let backend = Backend::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").then_hang()
    })
    .expects_cuts();
    let setup = Setup::new(backend.address, backend.address).drain("timeout = \"500ms\"");
    let mut process = setup.spawn();
    let mut client = Frames::connect(process.address);
    let stream = client.ask(&request("GET", "/"));
    client.until(|client| client.so_far(stream).body == b"hello");
    process.signal("TERM");
    assert_ne!(client.rest(3 * SECOND), Ended::Open);
    let end = client.so_far(stream).end;
    assert_ne!(end, Some(crate::harness::h2::End::Whole));
    assert_eq!(process.wait(), Some(3));
}

#[test]
fn while_the_drain_is_delayed_streams_go_on() {
    let backend = Backend::ok("ok");
    let setup = Setup::new(backend.address, backend.address).drain("delay = \"700ms\"");
    let mut process = setup.spawn();
    let mut client = Frames::connect(process.address);
    process.signal("TERM");
    await_phase(&process, "leaving");
    let answer = client.get("/");
    assert_eq!((answer.whole().0, answer.field("connection")), (200, None));
    assert_eq!(Frames::connect(process.address).get("/").whole().0, 200);
    assert_eq!(client.rest(3 * SECOND), Ended::Closed);
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_connection_without_streams_ends_at_the_idle_limit() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("ok").held_by(&held));
    let proxy = Setup::new(backend.address, backend.address)
        .workers(1)
        .listen("idle_timeout = \"500ms\"")
        .start();
    let mut idle = Frames::connect(proxy.address);
    let mut busy = Frames::connect(proxy.address);
    let mut deaf = Frames::connect(proxy.address);
    let stream = busy.ask(&request("GET", "/"));
    let since = Instant::now();
    assert_eq!(idle.rest(3 * SECOND), Ended::Closed);
    let took = since.elapsed();
    assert!(took >= SECOND / 3 && took < 2 * SECOND, "{took:?}");
    assert_eq!(idle.goaways.first(), Some(&(ANY, NO_ERROR)));
    let open = || proxy.scrape().sum("cutover_connections_open", &[]);
    // One that does not answer the ping has a second more.
    eventually!(open() == 1.0, "{} open", open());
    assert_ne!(deaf.rest(SECOND), Ended::Open);
    // A stream that waits for its reply is no idleness.
    latch.open();
    assert_eq!(busy.answer(stream).whole().0, 200);
    assert_eq!(busy.rest(3 * SECOND), Ended::Closed);
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[]), 0.0);
}

#[test]
fn neither_a_bare_preface_nor_half_a_head_lasts_beyond_the_idle_limit() {
    let backend = Backend::ok("ok");
    let proxy = Setup::new(backend.address, backend.address)
        .workers(1)
        .listen("idle_timeout = \"500ms\"")
        .start();
    let mut bare = Frames::silent(proxy.address);
    bare.write(PREFACE);
    let mut half = Frames::connect(proxy.address);
    half.write(&frame(HEADERS, END_HEADERS, 1, &block(&request("GET", "/")))[..20]);
    let mut goes_on = Frames::connect(proxy.address);
    goes_on.start(&request("GET", "/"), END_STREAM);
    let since = Instant::now();
    for client in [&mut bare, &mut half, &mut goes_on] {
        assert_ne!(client.rest(3 * SECOND), Ended::Open);
    }
    let took = since.elapsed();
    assert!(took >= SECOND / 3 && took < 3 * SECOND, "{took:?}");
    assert_eq!(backend.hits(), 0);
}
