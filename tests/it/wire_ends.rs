//! How replies end: that one is cut is seen by its client, and that one is whole by who keeps count.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::harness::Setup;
use crate::harness::raw::{Ended, Raw};
use crate::harness::raw_backend::Scripted;

/// Frames of RFC 9113 section 6, each with the nine bytes of its head.
const PREFACE_BYTES: usize = 24;
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// `:status: 200` on stream 1, which goes on.
const HEAD: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
/// RST_STREAM of stream 1 with INTERNAL_ERROR.
const RESET: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02";
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A backend that speaks HTTP/2, and answers the first request of each connection with `frames` at once.
fn http2_backend(frames: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, frames));
        }
    });
    address
}

/// Until the proxy leaves.
fn serve(mut stream: TcpStream, frames: &[u8]) -> Option<()> {
    stream.write_all(SETTINGS).ok()?;
    stream.read_exact(&mut [0; PREFACE_BYTES]).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [l0, l1, l2, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        stream.read_exact(&mut payload).ok()?;
        match kind {
            HEADERS => stream.write_all(frames).ok()?,
            PING if flags & ACK == 0 => {
                let pong = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0], &payload[..]].concat();
                stream.write_all(&pong).ok()?;
            }
            _ => {}
        }
    }
}

/// Not a connection that closes as if the request had never been read: such a one may be sent again.
#[test]
fn a_reply_that_breaks_at_once_is_seen_to_be_cut() {
    static FRAMES: &[&[u8]] = &[HEAD, RESET];
    let backend = http2_backend(FRAMES.concat().leak());
    let protocol = "protocol = \"http2\"\nmin_idle = 0";
    let proxy = Setup::new(backend, backend).workers(1).legacy(protocol).start();
    let mut client = Raw::connect(proxy.address);
    let reply = client.ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((reply.status(), reply.complete), (200, false), "{reply:?}");
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 1.0);
}

/// hyper would write no reply at all.
#[test]
fn a_reply_over_http2_has_one_length_that_is_a_number_or_is_none() {
    // `:status: 200`, then `content-length` as RFC 7541 names it by its index: empty, or `0` and `1`.
    const EMPTY: &[u8] = b"\0\0\x04\x01\x04\0\0\0\x01\x88\x0f\x0d\0";
    const TWO: &[u8] = b"\0\0\x09\x01\x05\0\0\0\x01\x88\x0f\x0d\x010\x0f\x0d\x011";
    for frames in [EMPTY, TWO] {
        let backend = http2_backend(frames);
        let protocol = "protocol = \"http2\"\nmin_idle = 0";
        let proxy = Setup::new(backend, backend).workers(1).legacy(protocol).start();
        let reply = Raw::connect(proxy.address).ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((reply.status(), reply.complete), (502, true), "{reply:?}");
        assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[]), 0.0);
    }
}

#[test]
fn trailers_are_the_end_of_a_reply_and_no_client_has_left() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    let mut client = Raw::connect(proxy.address);
    for trailers in ["\r\n", "X-Sum: 7\r\n\r\n"] {
        backend.will_answer(format!("{chunked}{trailers}"), false);
        let reply = client.ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((reply.text().as_str(), reply.complete), ("ok", true), "{reply:?}");
    }
    assert_eq!(client.ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[("kind", "abort")]), 0.0);
}
