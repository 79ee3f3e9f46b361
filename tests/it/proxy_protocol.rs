//! The PROXY protocol from trusted peers: all that goes by the client's address goes by the one that it
//! names, and who breaks its rules is not served.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::raw::{Ended, Raw};
use crate::harness::raw_backend::Scripted;
use crate::harness::tls::{Offer, Secure};
use crate::harness::{Backend, Proxy, Setup, eventually};

const TRUSTED: &str = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 8443\r\n";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2: a command, a family and transport, and what follows.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[0x20 | command, family], &length, block].concat()
}

/// `PROXY` over TCP and IPv6, with a vector that nobody here knows.
fn v2_tcp6(client: &str, local: &str) -> Vec<u8> {
    let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let ports = [4711_u16.to_be_bytes(), 8443_u16.to_be_bytes()].concat();
    let unknown = [0xe0, 0, 3, 1, 2, 3];
    v2(1, 0x21, &[&ip(client)[..], &ip(local), &ports, &unknown].concat())
}

fn setup(backend: &Scripted, lines: &str) -> Setup {
    Setup::new(backend.address, Backend::refused()).workers(1).listen(lines)
}

fn blamed(proxy: &Proxy) -> f64 {
    proxy.scrape().sum("cutover_client_errors_total", &[("kind", "proxy_header")])
}

/// Sends a header and a GET behind it in one piece; what the backend got as the client's address.
fn forwarded_for(proxy: &Proxy, backend: &Scripted, header: &[u8]) -> String {
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.ask([header, GET.as_bytes()].concat()).status(), 200, "{header:?}");
    backend.one().field("x-forwarded-for").expect("an address").to_owned()
}

// === What is believed ===

#[test]
fn the_client_is_whom_the_header_names_in_forwarded_fields_and_for_each_request() {
    let backend = Scripted::start();
    let proxy = setup(&backend, TRUSTED).start();
    let v4 = [192, 0, 2, 9, 198, 51, 100, 1, 0x12, 0x67, 0x20, 0xfb];
    for (header, client) in [
        (V1.into(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 8443\r\n".to_vec(), "2001:db8::7"),
        (v2(1, 0x11, &v4), "192.0.2.9"),
        (v2_tcp6("2001:db8::9", "2001:db8::1"), "2001:db8::9"),
        // Its own connections, and what is not TCP.
        (v2(0, 0x00, &[]), "127.0.0.1"),
        (v2(0, 0x11, &v4), "127.0.0.1"),
        (v2(1, 0x00, &[]), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(), "127.0.0.1"),
        // An IPv4 address in IPv6's clothes.
        (v2_tcp6("::ffff:192.0.2.8", "::ffff:198.51.100.1"), "192.0.2.8"),
    ] {
        assert_eq!(forwarded_for(&proxy, &backend, &header), client, "{header:?}");
    }
    let mut client = Raw::connect(proxy.address);
    client.send(V1);
    for _ in 0..3 {
        assert_eq!(client.ask(GET).status(), 200);
        assert_eq!(backend.one().field("x-forwarded-for"), Some("192.0.2.7"));
    }
    assert_eq!(blamed(&proxy), 0.0);
}

#[test]
fn a_client_behind_the_peer_is_not_trusted_for_the_peers_sake() {
    let backend = Scripted::start();
    let proxy = setup(&backend, TRUSTED).start();
    let spoofed = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n";
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.ask(format!("{V1}{spoofed}")).status(), 200);
    assert_eq!(backend.one().field("x-forwarded-for"), Some("192.0.2.7"));
    let mut client = Raw::connect(proxy.address);
    let from_trusted = V1.replace("192.0.2.7", "127.1.2.3");
    assert_eq!(client.ask(format!("{from_trusted}{spoofed}")).status(), 200);
    assert_eq!(backend.one().all("x-forwarded-for"), ["203.0.113.1", "127.1.2.3"]);
}

#[test]
fn the_access_log_and_the_host_of_http_1_0_go_by_the_header_too() {
    let backend = Scripted::start();
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("access.log");
    let tail = format!("[access_log]\npath = {log:?}");
    let proxy = setup(&backend, TRUSTED).tail(&tail).start();
    let bare = "GET /bare HTTP/1.0\r\n\r\n";
    assert_eq!(Raw::connect(proxy.address).ask(format!("{V1}{bare}")).status(), 200);
    assert_eq!(backend.one().field("host"), Some("198.51.100.1:8443"));
    let header = v2_tcp6("2001:db8::9", "2001:db8::1");
    assert_eq!(Raw::connect(proxy.address).ask([&header, bare.as_bytes()].concat()).status(), 200);
    assert_eq!(backend.one().field("host"), Some("[2001:db8::1]:8443"));
    let own = format!("PROXY UNKNOWN\r\n{bare}");
    assert_eq!(Raw::connect(proxy.address).ask(own).status(), 200);
    assert_eq!(backend.one().field("host"), Some(proxy.address.to_string().as_str()));
    proxy.drain();
    let text = fs::read_to_string(&log).unwrap();
    let mut clients: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["client"].to_string())
        .collect();
    clients.sort();
    assert_eq!(clients, ["\"127.0.0.1\"", "\"192.0.2.7\"", "\"2001:db8::9\""]);
}

#[test]
fn the_split_by_address_goes_by_the_header() {
    let (legacy, async_) = (Backend::ok("legacy"), Backend::ok("async"));
    let proxy = Setup::new(legacy.address, async_.address)
        .weight(0.5)
        .listen(TRUSTED)
        .tail("[split]\nkey = \"client_address\"")
        .start();
    let side = |host: u8| {
        let mut client = Raw::connect(proxy.address);
        client.send(V1.replace("192.0.2.7", &format!("192.0.2.{host}")));
        client.ask(GET).text()
    };
    let sides: Vec<_> = (0..40).map(side).collect();
    let to_async = sides.iter().filter(|side| *side == "async").count();
    assert!((8..=32).contains(&to_async), "{to_async} of 40");
    assert_eq!((0..40).map(side).collect::<Vec<_>>(), sides, "it is sticky");
}

// === How it comes ===

#[test]
fn a_header_may_come_in_pieces_and_with_anything_behind_it() {
    let backend = Scripted::start();
    let proxy = setup(&backend, TRUSTED).start();
    let header = v2_tcp6("2001:db8::9", "2001:db8::1");
    let large = v2(
        1,
        0x11,
        &[&[192, 0, 2, 9, 198, 51, 100, 1, 0, 1, 0, 2][..], &[0xe0, 0x0e, 0xb0], &[7; 0xeb0]]
            .concat(),
    );
    for header in [V1.as_bytes(), &header, &large] {
        let all = [header, GET.as_bytes()].concat();
        for cut in [1, 5, 13, header.len() - 1, header.len(), header.len() + 1] {
            let mut client = Raw::connect(proxy.address);
            client.send(&all[..cut]);
            // So that they are read apart.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(client.ask(&all[cut..]).status(), 200, "cut at {cut}");
            assert_ne!(backend.one().field("x-forwarded-for"), Some("127.0.0.1"));
        }
    }
    let mut client = Raw::connect(proxy.address);
    for byte in [V1, GET].concat().bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply().status(), 200);
    assert_eq!(backend.one().field("x-forwarded-for"), Some("192.0.2.7"));
}

#[test]
fn tls_and_http_2_come_behind_it() {
    let backend = Scripted::start();
    let dir = TempDir::new().unwrap();
    Authority::new().issue(&["a.test"]).write(dir.path());
    let lines = format!("{TRUSTED}\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}");
    let file = dir.path().join("cutover.toml");
    fs::write(&file, setup(&backend, &lines).text()).unwrap();
    let proxy = Proxy::start(dir, file);
    let stream = TcpStream::connect(proxy.address).unwrap();
    std::io::Write::write_all(&mut &stream, V1.as_bytes()).unwrap();
    let mut client = Secure::over(stream, &Offer::default().client(), "a.test").unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    let got = backend.one();
    assert_eq!(got.field("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(got.field("x-forwarded-proto"), Some("https"));
    // A handshake without a header is none.
    let refused = Secure::connect(proxy.address, &Offer::default().client(), "a.test");
    assert!(refused.is_err());
    eventually!(blamed(&proxy) == 1.0);
    // HTTP/2 by prior knowledge, without TLS: the first frame is the proxy's SETTINGS.
    let proxy = setup(&backend, TRUSTED).start();
    let mut client = Raw::connect(proxy.address);
    client.send(format!("{V1}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(client.take(4)[3], 4);
}

// === Who breaks a rule ===

#[test]
fn a_peer_that_is_not_trusted_and_sends_one_gets_a_400() {
    let backend = Scripted::start();
    let lines = "proxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/24\"]";
    for lines in [lines, "trusted_proxies = [\"127.0.0.0/8\"]"] {
        let proxy = setup(&backend, lines).start();
        for header in [V1.as_bytes().to_vec(), v2_tcp6("2001:db8::9", "2001:db8::1")] {
            let mut client = Raw::connect(proxy.address);
            let reply = client.ask([&header, GET.as_bytes()].concat());
            assert_eq!(reply.status(), 400, "{reply:?}");
            assert_ne!(client.rest().1, Ended::Open);
        }
        assert!(backend.take_got().is_empty());
        assert_eq!(Raw::connect(proxy.address).ask(GET).status(), 200);
        assert_eq!(backend.one().field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(blamed(&proxy), 0.0);
    }
}

#[test]
fn a_trusted_peer_that_sends_none_or_a_broken_one_is_dropped_and_counted() {
    let backend = Scripted::start();
    let proxy = setup(&backend, TRUSTED).start();
    let broken = [
        GET.as_bytes().to_vec(),
        b"G".to_vec(),
        b"\x16\x03\x01".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 99999\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 1\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
        format!("PROXY UNKNOWN{}", "x".repeat(200)).into_bytes(),
        v2(2, 0x11, &[0; 12]),
        v2(1, 0x11, &[0; 11]),
        v2(1, 0x51, &[0; 12]),
        [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
    ];
    for (number, header) in broken.iter().enumerate() {
        let mut client = Raw::connect(proxy.address);
        client.send(header);
        let (bytes, ended) = client.rest();
        assert!(bytes.is_empty() && ended != Ended::Open, "{header:?}: {bytes:?} {ended:?}");
        eventually!(blamed(&proxy) == number as f64 + 1.0, "{header:?}");
    }
    assert!(backend.take_got().is_empty());
    // One that only looks whether the port is open has broken no rule.
    drop(Raw::connect(proxy.address));
    eventually!(proxy.scrape().sum("cutover_connections_open", &[]) == 0.0);
    assert_eq!(blamed(&proxy), broken.len() as f64);
}

#[test]
fn a_header_that_comes_slowly_or_not_at_all_ends_after_header_timeout() {
    let backend = Scripted::start();
    let proxy = setup(&backend, &format!("header_timeout = \"300ms\"\n{TRUSTED}")).start();
    for sent in [&b""[..], b"PROXY TCP4 192.", &v2(1, 0x11, &[0; 12])[..20]] {
        let mut client = Raw::connect(proxy.address);
        client.send(sent);
        let began = Instant::now();
        let (bytes, ended) = client.rest();
        assert!(bytes.is_empty() && ended != Ended::Open, "{bytes:?} {ended:?}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(280) && took < Duration::from_secs(3), "{took:?}");
    }
    let mut client = Raw::connect(proxy.address);
    let began = Instant::now();
    for byte in V1.bytes() {
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
    // Behind the header a request has its own time.
    let mut client = Raw::connect(proxy.address);
    client.send(V1);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.ask(GET).status(), 200);
}
