//! HTTP/2 to endpoints, as clients of HTTP/1.1 see it: messages both ways, what the backend sees of them,
//! flow control, probes and tunnels.

use std::net::SocketAddr;

use h2::Reason;

use crate::harness::certificates::{Authority, Issued};
use crate::harness::h2_server::Terms;
use crate::harness::raw::{Ended, Raw};
use crate::harness::{Backend, Fate, H2Backend, Latch, Play, Proxy, Setup, eventually};

pub(crate) const LEGACY: (&str, &str) = ("path", "legacy");

/// HTTP/2 without TLS to one backend, over one worker that opens no connection before it is needed.
pub(crate) fn setup(backend: SocketAddr, lines: &str) -> Setup {
    let lines = format!(
        "protocol = \"http2\"\nmin_idle = 0\neject = {{ consecutive_failures = 0 }}\n{lines}"
    );
    Setup::new(backend, Backend::refused()).workers(1).legacy(&lines)
}

pub(crate) fn sum(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.scrape().sum(name, labels)
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let backend = H2Backend::start(|asked| match asked.target.as_str() {
        "/none" => Play::only(204),
        "/streamed" => Play::head(200).then("one ").then("two").and_end(),
        "/trailers" => Play::head(200).then("body").and_trailers(&[("x-sum", "7")]),
        _ => Play::ok("whole"),
    });
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
    let whole = client.ask(get("/whole"));
    assert_eq!((whole.status(), whole.text().as_str()), (200, "whole"));
    assert_eq!((whole.field("content-length"), whole.complete), (Some("5"), true));
    let none = client.ask(get("/none"));
    assert_eq!((none.status(), none.field("transfer-encoding")), (204, None));
    let streamed = client.ask(get("/streamed"));
    assert_eq!((streamed.text().as_str(), streamed.complete), ("one two", true));
    assert_eq!(streamed.field("transfer-encoding"), Some("chunked"));
    client.send(get("/whole").replace("GET", "HEAD"));
    let head = client.head_reply();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("5")));
    let sized = "POST /sized HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345";
    assert_eq!(client.ask(sized).status(), 200);
    let last = backend.last();
    assert_eq!((last.asked.method.as_str(), last.body.as_slice()), ("POST", &b"12345"[..]));
    assert_eq!(last.asked.field("content-length"), Some("5"));
    let chunked = "PUT /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: X-Sum\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 9\r\n\r\n";
    assert_eq!(client.ask(chunked).status(), 200);
    let last = backend.last();
    assert_eq!(last.body, b"abcdefg");
    assert_eq!(last.trailers, [("x-sum".to_owned(), "9".to_owned())]);
    assert_eq!(last.asked.field("content-length"), None);
    let trailers = client.ask(get("/trailers"));
    assert_eq!((trailers.text().as_str(), trailers.complete), ("body", true));
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn early_hints_come_before_the_reply_and_names_that_are_no_tokens_never() {
    const QUOTED: &str = "x\"y";
    let (latch, open) = (Latch::default(), Latch::default());
    open.open();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/hint" => Play::head(200).hinted(&held, ("link", "</a.css>")).then("body").and_end(),
        "/odd-hint" => Play::head(200).hinted(&open, (QUOTED, "1")).and_end(),
        "/odd-head" => Play::head(200).with(QUOTED, "1").and_end(),
        _ => Play::head(200).with("trailer", QUOTED).then("body").and_trailers(&[(QUOTED, "7")]),
    });
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
    client.send(get("/hint"));
    let hint = client.reply();
    assert_eq!((hint.status(), hint.field("link")), (103, Some("</a.css>")));
    latch.release(1);
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text().as_str()), (200, "body"));
    assert_eq!(client.ask(get("/odd-hint")).status(), 200);
    assert_eq!(client.ask(get("/odd-head")).status(), 502);
    let odd = client.ask(get("/odd-trailers"));
    assert_eq!((odd.status(), odd.text().as_str(), odd.complete), (200, "body", true));
    assert!(!odd.raw.ends_with(b"7\r\n\r\n"), "{odd:?}");
}

#[test]
fn the_backend_sees_authority_scheme_and_no_hop_by_hop_field() {
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, "").start();
    let request = "GET /a%20b?c=d HTTP/1.1\r\nHost: shop.test:81\r\nConnection: keep-alive, X-Hop\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Hop: 1\r\nUpgrade: foo\r\n\
                   TE: trailers\r\nX-End: 2\r\nCookie: a=1\r\n\r\n";
    assert_eq!(Raw::connect(proxy.address).ask(request).status(), 200);
    let asked = backend.last().asked;
    assert_eq!((asked.scheme.as_str(), asked.authority.as_str()), ("http", "shop.test:81"));
    assert_eq!(asked.target, "/a%20b?c=d");
    let gone = ["connection", "keep-alive", "proxy-connection", "x-hop", "upgrade", "host"];
    for name in gone.into_iter().chain(["transfer-encoding"]) {
        assert_eq!(asked.field(name), None, "{name}");
    }
    for (name, value) in [
        ("te", "trailers"),
        ("x-end", "2"),
        ("cookie", "a=1"),
        ("via", "1.1 cutover"),
        ("x-forwarded-host", "shop.test:81"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(asked.field(name), Some(value), "{name}");
    }
    let options = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(Raw::connect(proxy.address).ask(options).status(), 200);
    let asked = backend.last().asked;
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("OPTIONS", "*"));
}

#[test]
fn bodies_larger_than_the_windows_flow() {
    let large: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let reply = large.clone();
    let terms = Terms { window: Some(1_000), ..Terms::default() };
    let backend = H2Backend::with(terms, move |_| Play::ok(&reply));
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len());
    client.send([head.as_bytes(), &large].concat());
    let reply = client.reply();
    assert!(reply.complete && reply.body == large);
    assert!(backend.last().body == large);
}

#[test]
fn a_reply_that_its_client_does_not_read_does_not_delay_the_others() {
    let large = vec![b'x'; 8_000_000];
    let body = large.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/large" => Play::ok(&body),
        _ => Play::ok("small"),
    });
    let proxy = setup(backend.address, "").start();
    let mut lazy: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    lazy.iter_mut().for_each(|client| client.ask("/large", ""));
    eventually!(backend.hits() == 10);
    let mut brisk = proxy.client();
    for _ in 0..50 {
        assert_eq!(brisk.get("/small").text(), "small");
    }
    assert_eq!((backend.accepted(), backend.fates(Fate::Open)), (1, 10));
    for client in &mut lazy {
        assert!(client.response().body == large);
    }
}

#[test]
fn a_client_that_leaves_resets_its_stream_and_nothing_else() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = H2Backend::start(move |asked| match asked.target.as_str() {
        "/amid" => Play::head(200).then("begun").then_until(&held).and_end(),
        _ => Play::ok("ok").held_by(&held),
    });
    let proxy = setup(backend.address, "").start();
    let [mut stays, mut leaves, mut amid, mut uploads] =
        [(); 4].map(|()| Raw::connect(proxy.address));
    stays.send("GET /stays HTTP/1.1\r\nHost: a\r\n\r\n");
    leaves.send("GET /leaves HTTP/1.1\r\nHost: a\r\n\r\n");
    amid.send("GET /amid HTTP/1.1\r\nHost: a\r\n\r\n");
    amid.head();
    assert_eq!(amid.take(10), b"5\r\nbegun\r\n");
    uploads.send("POST /uploads HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    eventually!(backend.hits() == 4);
    [leaves, amid, uploads].into_iter().for_each(Raw::reset);
    eventually!(backend.fates(Fate::Reset(Reason::CANCEL)) == 3, "{:?}", backend.streams());
    assert_eq!(backend.fates(Fate::Open), 1);
    latch.open();
    assert_eq!(stays.reply().text(), "ok");
    assert_eq!(backend.accepted(), 1);
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY, ("kind", "reset")]), 0.0);
}

// === Probes ===

fn tls_terms(issued: &Issued) -> Terms {
    Terms { tls: Some(issued.server(&["h2"])), ..Terms::default() }
}

#[test]
fn probes_speak_the_http_of_their_endpoints() {
    let probes = "health = { path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }\n\
                  loop_probe = { path = \"/ping\", interval = \"50ms\" }";
    let backend = H2Backend::ok("ok");
    let proxy = setup(backend.address, probes).start();
    let asks = |backend: &H2Backend, path: &str| {
        backend.streams().iter().filter(|stream| stream.asked.target == path).count()
    };
    eventually!(asks(&backend, "/healthz") >= 3 && asks(&backend, "/ping") >= 3);
    let asked = backend.last().asked;
    assert_eq!((asked.scheme.as_str(), asked.method.as_str()), ("http", "GET"));
    assert_eq!(asked.authority, backend.address.to_string());
    eventually!(sum(&proxy, "cutover_endpoint_up", &[LEGACY]) == 1.0);
    drop(proxy);
    // Over TLS, by its word.
    let authority = Authority::new();
    let backend = H2Backend::with(tls_terms(&authority.issue(&["127.0.0.1"])), |_| Play::ok("ok"));
    let (dir, ca) = authority.file();
    let url = format!("https://{}", backend.address);
    let lines = format!("{probes}\nmin_idle = 0\ntls = {{ ca = {ca:?} }}");
    let setup = Setup::new(backend.address, Backend::refused()).legacy_urls(&[&url]);
    let proxy = setup.legacy(&lines).start();
    eventually!(asks(&backend, "/healthz") >= 3 && asks(&backend, "/ping") >= 3);
    assert_eq!(backend.last().asked.scheme, "https");
    assert_eq!(proxy.client().get("/").text(), "ok");
    eventually!(sum(&proxy, "cutover_endpoint_up", &[LEGACY]) == 1.0);
    drop(dir);
}

#[test]
fn a_probe_that_fails_takes_the_endpoint_down() {
    let probes = "health = { path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }";
    let backend = H2Backend::start(|_| Play::only(503));
    let proxy = setup(backend.address, probes).start();
    eventually!(sum(&proxy, "cutover_endpoint_up", &[LEGACY]) == 0.0 && backend.hits() > 0);
}

// === Tunnels ===

const WEBSOCKET: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn a_websocket_becomes_an_extended_connect_where_that_is_announced() {
    let terms = Terms { connects: true, ..Terms::default() };
    let backend = H2Backend::with(terms, |asked| match asked.method.as_str() {
        "CONNECT" => Play::echo(),
        _ => Play::ok("ok"),
    });
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    client.send(format!("{WEBSOCKET}early "));
    let switched = client.reply();
    assert_eq!(switched.status(), 101, "{switched:?}");
    assert_eq!(switched.field("upgrade"), Some("websocket"));
    assert_eq!(switched.field("connection"), Some("upgrade"));
    assert_eq!(switched.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.send("ping");
    assert_eq!(client.take(10), b"early ping");
    let asked = backend.last().asked;
    assert_eq!((asked.protocol.as_str(), asked.target.as_str()), ("websocket", "/chat?x=1"));
    assert_eq!(asked.field("sec-websocket-version"), Some("13"));
    assert_eq!(asked.field("sec-websocket-key"), None);
    eventually!(sum(&proxy, "cutover_tunnels_open", &[LEGACY]) == 1.0);
    // Others share its connection, and large messages flow both ways.
    assert_eq!(proxy.client().get("/").text(), "ok");
    let large = vec![b'y'; 2_000_000];
    let mut writer = Raw::over(client.stream.try_clone().unwrap());
    let sent = large.clone();
    let sending = std::thread::spawn(move || writer.send(sent));
    assert!(client.take(large.len()) == large);
    sending.join().unwrap();
    client.finish();
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    eventually!(sum(&proxy, "cutover_tunnels_open", &[LEGACY]) == 0.0);
    assert_eq!((backend.accepted(), backend.fates(Fate::Played)), (1, 2));
}

#[test]
fn a_tunnel_whose_client_vanishes_is_reset_and_one_that_is_refused_is_a_reply() {
    let terms = Terms { connects: true, ..Terms::default() };
    let backend = H2Backend::with(terms, |asked| match asked.target.as_str() {
        "/no?x=1" => Play::head(403).then("no").and_end(),
        _ => Play::echo(),
    });
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    let refused = client.ask(WEBSOCKET.replace("/chat", "/no"));
    assert_eq!((refused.status(), refused.text().as_str()), (403, "no"));
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.ask(WEBSOCKET).status(), 101);
    client.reset();
    eventually!(backend.fates(Fate::Open) == 0, "{:?}", backend.streams());
    assert!(matches!(backend.last().fate, Fate::Reset(_)), "{:?}", backend.last());
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn a_websocket_is_a_plain_get_where_no_extended_connect_is_announced() {
    let backend = H2Backend::ok("plain");
    let proxy = setup(backend.address, "").start();
    let mut client = Raw::connect(proxy.address);
    let reply = client.ask(WEBSOCKET);
    assert_eq!((reply.status(), reply.text().as_str()), (200, "plain"));
    let asked = backend.last().asked;
    assert_eq!((asked.method.as_str(), asked.field("upgrade")), ("GET", None));
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
}
