//! Both versions on one port, told apart by their first bytes; and the streams of one connection,
//! none of which delays another.

use std::time::{Duration, Instant};

use crate::harness::h2::{
    END_HEADERS, END_STREAM, Frames, HEADERS, INITIAL_WINDOW_SIZE, PREFACE, SETTINGS, block, frame,
    request, request_with,
};
use crate::harness::raw::{Ended, Listener, Raw};
use crate::harness::raw_backend::{OK, Scripted};
use crate::harness::{Backend, Latch, Reply, Setup};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
/// What has no reason to take longer is done in this.
const PROMPTLY: Duration = Duration::from_secs(2);

#[test]
fn one_port_serves_both_versions() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let (mut older, mut newer) = (Raw::connect(proxy.address), Frames::connect(proxy.address));
    for _ in 0..3 {
        assert_eq!(older.ask(GET).text(), "ok");
        assert_eq!(newer.get("/x").whole(), (200, "ok".to_owned()));
    }
    let via = backend.take_got().into_iter().map(|got| got.field("via").unwrap().to_owned());
    let both = ["1.1 cutover", "2.0 cutover"];
    assert_eq!(via.collect::<Vec<_>>(), [both; 3].concat());
}

#[test]
fn a_preface_and_a_request_may_come_byte_by_byte() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::silent(proxy.address);
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&request("GET", "/x")));
    for byte in [&PREFACE[..], &frame(SETTINGS, 0, 0, &[]), &get].concat() {
        client.write([byte]);
        // A segment of its own, mostly.
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.answer(1).whole(), (200, "ok".to_owned()));
}

#[test]
fn all_of_it_may_come_in_one_piece() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::silent(proxy.address);
    let large = "v".repeat(6000);
    let fields = request_with("GET", "/x", &[("x-large", &large)]);
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
    client.write([&PREFACE[..], &frame(SETTINGS, 0, 0, &[]), &get].concat());
    assert_eq!(client.answer(1).whole(), (200, "ok".to_owned()));
    assert_eq!(backend.one().field("x-large").map(str::len), Some(6000));
}

#[test]
fn methods_that_begin_like_the_preface_are_http1() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    for method in ["POST", "PUT", "P", "PR", "PRI", "PRIX"] {
        let mut client = Raw::connect(proxy.address);
        let (first, rest) = method.split_at(1);
        client.send(first);
        std::thread::sleep(Duration::from_millis(20));
        client.send(format!("{rest} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
        assert_eq!(client.reply().text(), "ok", "{method}");
        let got = backend.one();
        assert_eq!((got.line, got.body), (format!("{method} /x HTTP/1.1"), b"hi".to_vec()));
    }
}

#[test]
fn a_preface_that_goes_wrong_is_answered_in_http1() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Raw::connect(proxy.address);
    client.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(client.reply().status(), 400);
    assert_eq!(client.rest().1, Ended::Closed);
    let mut client = Raw::connect(proxy.address);
    client.send("PRI * HTTP/2.1\r\n\r\n");
    assert_eq!(client.reply().status(), 505);
    assert!(backend.take_got().is_empty());
}

#[test]
fn a_preface_that_stops_gets_what_a_slow_head_gets() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address)
        .workers(1)
        .listen("header_timeout = \"400ms\"\nidle_timeout = \"20s\"")
        .start();
    let almost = std::str::from_utf8(&PREFACE[..23]).unwrap();
    // The last is a whole head already, though not one of HTTP/1.1.
    for (begun, status) in [("G", 408), ("P", 408), ("PRI", 408), (almost, 400)] {
        let mut client = Raw::connect(proxy.address);
        client.send(begun);
        let since = Instant::now();
        let reply = client.reply();
        assert_eq!(reply.status(), status, "{begun:?} {reply:?}");
        assert_eq!(client.rest().1, Ended::Closed);
        let took = since.elapsed().as_millis();
        assert!((400..1500).contains(&took), "{begun:?}: {took} ms");
    }
    let late = proxy.scrape().sum("cutover_client_errors_total", &[("kind", "head_timeout")]);
    assert_eq!(late, 3.0);
}

// === Streams ===

#[test]
fn sixty_four_streams_at_once_are_answered_in_the_order_of_their_replies() {
    let latches: Vec<Latch> = (0..64).map(|_| Latch::default()).collect();
    let held = latches.clone();
    let backend = Backend::start(move |seen| {
        let number: usize = seen.target[1..].parse().unwrap();
        Reply::ok(&seen.target).held_by(&held[number])
    });
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::connect(proxy.address);
    let paths: Vec<String> = (0..64).map(|number| format!("/{number}")).collect();
    let streams: Vec<u32> = paths.iter().map(|path| client.ask(&request("GET", path))).collect();
    let in_flight = || proxy.scrape().sum("cutover_requests_in_flight", &[]);
    crate::harness::eventually!(in_flight() == 64.0, "{} in flight", in_flight());
    // 37 and 64 have no common divisor: each comes once.
    for number in (0..64).map(|turn| turn * 37 % 64) {
        latches[number].open();
        assert_eq!(client.answer(streams[number]).whole(), (200, paths[number].clone()));
    }
    assert_eq!(client.answers.len(), 64);
}

#[test]
fn a_stream_whose_window_stays_shut_delays_no_other() {
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/large" => Reply::ok(vec![b'x'; 1 << 20]),
        _ => Reply::ok("small"),
    });
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::connect_with(proxy.address, &[(INITIAL_WINDOW_SIZE, 100)]);
    client.open_window(0, 1 << 30);
    let stuck: Vec<u32> = (0..8).map(|_| client.ask(&request("GET", "/large"))).collect();
    let since = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.get("/small").whole(), (200, "small".to_owned()));
    }
    assert!(since.elapsed() < PROMPTLY, "{:?}", since.elapsed());
    for stream in stuck {
        client.until(|client| client.so_far(stream).body.len() == 100);
        assert_eq!(client.so_far(stream).end, None);
        client.open_window(stream, 1 << 30);
        assert_eq!(client.answer(stream).whole().1.len(), 1 << 20);
    }
}

/// Sends on a stream until its window stays shut.
fn fill(client: &mut Frames, stream: u32) {
    let window = u64::from(client.settings[&INITIAL_WINDOW_SIZE]);
    let mut sent = 0;
    loop {
        let room = window + client.windows.get(&stream).unwrap_or(&0) - sent;
        if room > 0 {
            let piece = room.min(16 * 1024);
            client.data(stream, vec![0; piece as usize]);
            sent += piece;
        } else {
            let known = client.windows.get(&stream).copied();
            let ended = client.rest(Duration::from_millis(300));
            assert_eq!(ended, Ended::Open);
            if client.windows.get(&stream).copied() == known {
                return;
            }
        }
    }
}

#[test]
fn an_upload_that_is_slow_at_either_end_delays_no_other() {
    let backend = Listener::bind();
    let cold = "min_idle = 0";
    let setup = Setup::new(backend.address, backend.address).legacy(cold).async_(cold);
    let proxy = setup.workers(1).start();
    let mut client = Frames::connect(proxy.address);
    // Of one the client sends no more, of the other the backend reads no more.
    let waits = client.open(&request_with("POST", "/waits", &[("content-length", "10")]));
    client.data(waits, "1");
    let mut waiting = backend.accept();
    waiting.head();
    let stuck = client.open(&request("POST", "/stuck"));
    let mut unread = backend.accept();
    let head = unread.head();
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    fill(&mut client, stuck);
    let since = Instant::now();
    for _ in 0..3 {
        let other = client.open(&request("POST", "/other"));
        for _ in 0..3 {
            client.data(other, vec![1; 16 * 1024]);
        }
        client.last_data(other, "end");
        let mut third = backend.accept();
        let got = third.request();
        assert_eq!(got.body.len(), 3 * 16 * 1024 + 3, "{got:?}");
        third.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.answer(other).whole().1, "ok");
    }
    assert!(since.elapsed() < PROMPTLY, "{:?}", since.elapsed());
    client.last_data(waits, "234567890");
    assert_eq!(waiting.take(10), b"1234567890");
    waiting.send(OK);
    assert_eq!(client.answer(waits).whole().1, "ok");
    client.reset(stuck, crate::harness::h2::CANCEL);
}
