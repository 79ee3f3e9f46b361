//! TLS from clients: handshakes that come to nothing, and how connections end.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::certificates::Authority;
use crate::harness::raw::{Ended, Raw};
use crate::harness::tls::{Close, Offer};
use crate::harness::{Backend, Reply, eventually};
use crate::tls::{TLS, blamed, connect, start_with, to};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

// === What is no handshake ===

#[test]
fn a_handshake_that_is_never_finished_ends_after_header_timeout() {
    let backend = Backend::ok("ok");
    let lines = format!("header_timeout = \"300ms\"\n{TLS}");
    let proxy = start_with(&to(&backend, &lines), &Authority::new().issue(&["a.test"]));
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = Raw::connect(proxy.address);
        client.send(sent);
        let began = Instant::now();
        assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(280) && took < Duration::from_secs(3), "{took:?}");
    }
    // Byte by byte it takes no longer.
    let mut client = Raw::connect(proxy.address);
    let began = Instant::now();
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), vec![7; 100]].concat();
    for byte in hello {
        if !client.send([byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(client.rest().1, Ended::Open);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    eventually!(proxy.scrape().sum("cutover_connections_open", &[]) == 0.0);
    let late = [("kind", "head_timeout")];
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &late), 4.0);
    let mut client = connect(&proxy, &Offer::default().client());
    assert_eq!(client.get("/").unwrap().text(), "ok");
}

#[test]
fn a_plain_request_is_dropped_and_counted() {
    let backend = Backend::ok("ok");
    let proxy = start_with(&to(&backend, TLS), &Authority::new().issue(&["a.test"]));
    for (number, request) in [GET, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].iter().enumerate() {
        let mut client = Raw::connect(proxy.address);
        client.send(request);
        let (bytes, ended) = client.rest();
        assert!(!bytes.starts_with(b"HTTP") && ended != Ended::Open, "{bytes:?} {ended:?}");
        eventually!(blamed(&proxy, "tls_handshake") == number as f64 + 1.0);
    }
    assert_eq!(backend.hits(), 0);
    // One that leaves without a word has broken no rule.
    drop(Raw::connect(proxy.address));
    eventually!(proxy.scrape().sum("cutover_connections_open", &[]) == 0.0);
    assert_eq!(blamed(&proxy, "tls_handshake"), 2.0);
}

// === How it ends ===

#[test]
fn an_end_in_order_says_so_and_a_cut_does_not() {
    let cut = "HTTP/1.1 200 OK\r\n\r\nhalf";
    let backend = Backend::start(move |seen| match seen.target.as_str() {
        "/whole" => Reply::raw(cut).then_close(),
        "/cut" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .then_close(),
        _ => Reply::ok("ok"),
    });
    let lines = format!("idle_timeout = \"500ms\"\n{TLS}");
    let proxy = start_with(&to(&backend, &lines), &Authority::new().issue(&["a.test"]));
    let client = Offer::default().client();
    let end = |request: &str| {
        let mut shaken = connect(&proxy, &client);
        shaken.stream.write_all(request.as_bytes()).unwrap();
        let (bytes, close) = shaken.rest();
        (String::from_utf8(bytes).unwrap(), close)
    };
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (request, last, how) in [
        (close, "ok", Close::Notified),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "ok", Close::Notified),
        ("GET /whole HTTP/1.0\r\nHost: a\r\n\r\n", "half", Close::Notified),
        // All that tells this one from the one above.
        ("GET /cut HTTP/1.0\r\nHost: a\r\n\r\n", "half", Close::Cut),
        // The idle timeout, behind a reply and without one.
        (GET, "ok", Close::Notified),
        ("", "", Close::Notified),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "\n", Close::Notified),
        ("nonsense\r\n\r\n", "\n", Close::Notified),
    ] {
        let (bytes, ended) = end(request);
        assert!(bytes.ends_with(last), "{request:?}: {bytes:?}");
        assert_eq!(ended, how, "{request:?}: {bytes:?}");
    }
}

#[test]
fn a_client_that_ends_its_side_in_order_still_gets_its_reply() {
    let backend = Backend::start(|_| Reply::ok("late").after(Duration::from_millis(200)));
    let proxy = start_with(&to(&backend, TLS), &Authority::new().issue(&["a.test"]));
    let mut client = connect(&proxy, &Offer::default().client());
    client.stream.write_all(GET.as_bytes()).unwrap();
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    let (bytes, close) = client.rest();
    assert!(bytes.ends_with(b"late"), "{:?}", String::from_utf8_lossy(&bytes));
    assert_eq!(close, Close::Notified);
}

#[test]
fn a_drain_ends_idle_connections_in_order() {
    let backend = Backend::ok("ok");
    let proxy = start_with(&to(&backend, TLS), &Authority::new().issue(&["a.test"]));
    let mut client = connect(&proxy, &Offer::default().client());
    assert_eq!(client.get("/").unwrap().text(), "ok");
    let draining = std::thread::spawn(move || proxy.drain());
    assert_eq!(client.rest(), (Vec::new(), Close::Notified));
    drop(client);
    draining.join().unwrap();
}
