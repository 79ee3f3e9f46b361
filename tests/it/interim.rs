//! Interim responses of a backend: they reach the client in front of the final one, whole, clean, and
//! only where its version of HTTP has them.

use crate::harness::raw::{Listener, Raw};
use crate::harness::raw_backend::OK;
use crate::harness::{Proxy, Setup};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Two: a\r\n\
                     X-Two: b\r\nConnection: x-gone\r\nX-Gone: 1\r\n\r\n";
const RELAYED: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Two: a\r\nX-Two: b\r\n\r\n";

fn start() -> (Listener, Proxy) {
    let backend = Listener::bind();
    let setup = Setup::new(backend.address, backend.address).workers(1);
    let proxy = setup.legacy("min_idle = 0").async_("min_idle = 0").start();
    (backend, proxy)
}

#[test]
fn early_hints_reach_the_client_before_the_backend_has_its_reply() {
    let (backend, proxy) = start();
    let mut client = Raw::connect(proxy.address);
    client.send(GET);
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(HINTS);
    assert_eq!(String::from_utf8(client.reply().raw).unwrap(), RELAYED);
    upstream.send(OK);
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn several_come_in_order_also_in_pieces_and_together_with_the_reply() {
    let (backend, proxy) = start();
    let mut client = Raw::connect(proxy.address);
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let all = format!("{processing}{HINTS}{HINTS}{OK}");
    let mut upstream = None;
    for cut in [1, 12, processing.len() + 20, processing.len() + HINTS.len(), all.len()] {
        client.send(GET);
        let upstream = upstream.get_or_insert_with(|| backend.accept());
        upstream.request();
        upstream.send(&all[..cut]);
        let mut statuses = Vec::new();
        if cut > processing.len() {
            // What is whole is not held up by what is not.
            statuses.push(client.reply().status());
        }
        upstream.send(&all[cut..]);
        statuses.extend((statuses.len()..4).map(|_| client.reply().status()));
        assert_eq!(statuses, [102, 103, 103, 200], "cut at {cut}");
    }
}

#[test]
fn http_1_0_gets_the_reply_alone_and_100_is_the_proxys_own() {
    let (backend, proxy) = start();
    let mut client = Raw::connect(proxy.address);
    client.send("GET /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(format!("{HINTS}{OK}"));
    assert_eq!(client.reply().status(), 200);
    let mut client = Raw::connect(proxy.address);
    client.send(GET);
    upstream.request();
    upstream.send(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"));
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn hints_of_one_request_never_reach_the_next() {
    let (backend, proxy) = start();
    let mut client = Raw::connect(proxy.address);
    client.send(GET);
    let mut upstream = backend.accept();
    upstream.request();
    // Behind the reply: it belongs to no request.
    upstream.send(format!("{OK}{HINTS}"));
    assert_eq!(client.reply().status(), 200);
    client.send(GET);
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(OK);
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn a_backend_that_never_comes_to_the_point_is_cut_off() {
    let (backend, proxy) = start();
    let mut client = Raw::connect(proxy.address);
    client.send(GET);
    let mut upstream = backend.accept();
    upstream.request();
    // In reads of 400 KiB they would keep the worker busy for as long as they come.
    let sending = std::thread::spawn(move || while upstream.send(HINTS) {});
    let last = loop {
        let reply = client.reply();
        if reply.status() != 103 {
            break reply;
        }
    };
    assert_eq!(last.status(), 502, "{last:?}");
    sending.join().unwrap();
}
