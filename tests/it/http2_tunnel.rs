//! WebSockets of HTTP/2 clients (RFC 8441): an extended CONNECT there, an upgrade at the backend.

use std::time::Duration;

use crate::harness::h2::{
    CANCEL, ENABLE_CONNECT_PROTOCOL, End, Field, Frames, INITIAL_WINDOW_SIZE, request,
};
use crate::harness::raw::{Ended, Listener, Raw};
use crate::harness::raw_backend::OK;
use crate::harness::{Proxy, Setup, eventually};

const CONNECT: &[Field<'_>] = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/chat?room=1"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "chat"),
    ("origin", "http://a"),
];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\
                        Sec-WebSocket-Protocol: chat\r\n\r\n";

/// A backend and a proxy.
fn pair() -> (Listener, Proxy) {
    let backend = Listener::bind();
    let cold = "min_idle = 0";
    let setup = Setup::new(backend.address, backend.address).workers(1).legacy(cold).async_(cold);
    let proxy = setup.drain("timeout = \"5s\"\ntunnels = \"800ms\"").start();
    (backend, proxy)
}

/// A tunnel: its stream, and the backend's end.
fn open(client: &mut Frames, backend: &Listener) -> (u32, Raw) {
    let stream = client.open(CONNECT);
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(SWITCHED);
    let head = client.head(stream);
    assert_eq!((head.status(), head.end), (200, None), "{head:?}");
    (stream, upstream)
}

fn tunnels(proxy: &Proxy) -> f64 {
    proxy.scrape().sum("cutover_tunnels_open", &[("path", "legacy")])
}

#[test]
fn an_extended_connect_is_an_upgrade_for_the_backend() {
    let (backend, proxy) = pair();
    let mut client = Frames::connect(proxy.address);
    assert_eq!(client.settings[&ENABLE_CONNECT_PROTOCOL], 1);
    let stream = client.open(CONNECT);
    // Behind the request, as behind one of HTTP/1: it waits for the backend's consent.
    client.data(stream, "early ");
    let mut upstream = backend.accept();
    let asked = upstream.request();
    assert_eq!(asked.line, "GET /chat?room=1 HTTP/1.1");
    assert_eq!(
        (asked.field("upgrade"), asked.field("connection")),
        (Some("websocket"), Some("upgrade"))
    );
    assert_eq!(asked.field("host"), Some("a"));
    assert_eq!(asked.field("via"), Some("2.0 cutover"));
    let key = asked.field("sec-websocket-key").expect("a key").to_owned();
    assert!(key.len() == 24 && key.ends_with("=="), "{key}");
    assert_eq!(asked.field("sec-websocket-version"), Some("13"));
    assert_eq!(asked.field("sec-websocket-protocol"), Some("chat"));
    assert_eq!(asked.field("origin"), Some("http://a"));
    for absent in ["content-length", "transfer-encoding"] {
        assert_eq!(asked.field(absent), None, "{asked:?}");
    }
    upstream.send(format!("{SWITCHED}hello "));
    let head = client.head(stream);
    assert_eq!(head.status(), 200);
    assert_eq!(head.field("sec-websocket-protocol"), Some("chat"));
    for absent in ["connection", "upgrade", "sec-websocket-accept", "transfer-encoding"] {
        assert_eq!(head.field(absent), None, "{head:?}");
    }
    client.until(|client| client.so_far(stream).body == b"hello ");
    assert_eq!(upstream.take(6), b"early ");
    eventually!(tunnels(&proxy) == 1.0, "no tunnel is counted");
    // Another has a key of its own.
    let other = client.open(CONNECT);
    let mut second = backend.accept();
    assert_ne!(second.request().field("sec-websocket-key"), Some(key.as_str()));
    client.reset(other, CANCEL);
    assert_ne!(second.rest().1, Ended::Open);
    // The other streams of the connection go on.
    let get = client.ask(&request("GET", "/x"));
    let mut third = backend.accept();
    assert_eq!(third.request().line, "GET /x HTTP/1.1");
    third.send(OK);
    assert_eq!(client.answer(get).whole().1, "ok");
    client.last_data(stream, "");
    drop(upstream);
    assert_eq!(client.answer(stream).whole(), (200, "hello ".to_owned()));
    eventually!(tunnels(&proxy) == 0.0, "the tunnel is still open");
    let labels = [("code", "101"), ("path", "legacy")];
    assert_eq!(proxy.scrape().sum("cutover_requests_total", &labels), 1.0);
}

#[test]
fn each_side_closes_alone() {
    let (backend, proxy) = pair();
    let mut client = Frames::connect(proxy.address);
    let (stream, mut upstream) = open(&mut client, &backend);
    client.last_data(stream, "last");
    assert_eq!(upstream.rest(), (b"last".to_vec(), Ended::Closed));
    upstream.send("still here");
    client.until(|client| client.so_far(stream).body == b"still here");
    assert_eq!(client.so_far(stream).end, None);
    drop(upstream);
    assert_eq!(client.answer(stream).end, Some(End::Whole));

    let (stream, mut upstream) = open(&mut client, &backend);
    upstream.send("bye");
    upstream.finish();
    assert_eq!(client.answer(stream).whole().1, "bye");
    client.data(stream, "so long");
    assert_eq!(upstream.take(7), b"so long");
    client.last_data(stream, "");
    assert_eq!(upstream.rest(), (Vec::new(), Ended::Closed));
    eventually!(tunnels(&proxy) == 0.0, "a tunnel is left");
}

#[test]
fn a_reset_of_either_side_ends_the_other() {
    let (backend, proxy) = pair();
    let mut client = Frames::connect(proxy.address);
    let (stream, mut upstream) = open(&mut client, &backend);
    client.reset(stream, CANCEL);
    assert_ne!(upstream.rest().1, Ended::Open);
    let (stream, upstream) = open(&mut client, &backend);
    upstream.reset();
    let end = client.answer(stream).end;
    assert!(matches!(end, Some(End::Reset(_))), "a broken tunnel looks complete: {end:?}");
    eventually!(tunnels(&proxy) == 0.0, "a tunnel is left");
    let (_, mut upstream) = open(&mut client, &backend);
    drop(client);
    assert_ne!(upstream.rest().1, Ended::Open);
    eventually!(tunnels(&proxy) == 0.0, "a tunnel is left");
}

#[test]
fn a_megabyte_passes_unchanged_in_both_directions() {
    let (backend, proxy) = pair();
    let mut client = Frames::connect(proxy.address);
    let window = client.settings[&INITIAL_WINDOW_SIZE] as usize;
    let (stream, mut upstream) = open(&mut client, &backend);
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 251 + n) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    while sent < data.len() {
        let more = client.windows.get(&stream).copied().unwrap_or(0) as usize;
        let piece = (window + more - sent).min(16 * 1024).min(data.len() - sent);
        if piece == 0 {
            client.step().unwrap();
            continue;
        }
        client.data(stream, &data[sent..sent + piece]);
        sent += piece;
        got.extend(upstream.take(piece));
    }
    assert!(got == data, "bytes differ on their way there");
    upstream.send(&data);
    client.until(|client| client.so_far(stream).body.len() == data.len());
    assert!(client.so_far(stream).body == data, "bytes differ on their way back");
    client.last_data(stream, "");
}

#[test]
fn a_declined_websocket_is_a_reply_like_any_other() {
    let (backend, proxy) = pair();
    let mut client = Frames::connect(proxy.address);
    for status in ["403 Forbidden", "200 OK", "426 Upgrade Required"] {
        let stream = client.open(CONNECT);
        let mut upstream = backend.accept();
        upstream.request();
        upstream
            .send(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"));
        let answer = client.answer(stream);
        assert_eq!(answer.end, Some(End::Whole));
        assert_eq!(
            (answer.status().to_string(), answer.text()),
            (status[..3].to_owned(), "no".to_owned())
        );
    }
    assert_eq!(tunnels(&proxy), 0.0);
    assert_eq!(proxy.scrape().sum("cutover_connections_open", &[]), 1.0);
}

#[test]
fn a_drain_gives_a_tunnel_its_time() {
    let (backend, proxy) = pair();
    let metrics = proxy.app().metrics().clone();
    let mut client = Frames::connect(proxy.address);
    let (stream, mut upstream) = open(&mut client, &backend);
    let began = std::time::Instant::now();
    let draining = std::thread::spawn(move || proxy.drain());
    let text = || String::from_utf8(metrics.render().unwrap()).unwrap();
    eventually!(text().contains("cutover_drain_state{phase=\"draining\"} 1"), "no drain begins");
    client.data(stream, "ping");
    assert_eq!(upstream.take(4), b"ping");
    upstream.send("pong");
    client.until(|client| client.so_far(stream).body == b"pong");
    assert_ne!(client.rest(Duration::from_secs(5)), Ended::Open);
    assert_ne!(client.so_far(stream).end, Some(End::Whole), "a tunnel that was cut looks complete");
    let outcome = draining.join().unwrap();
    let took = began.elapsed().as_millis();
    assert!((400..3_000).contains(&took), "{took} ms");
    assert_eq!((outcome.cut_tunnels.legacy, outcome.cut.legacy), (1, 0));
}
