//! TLS from clients: what they agree on, whose certificate they get, and what their own is good for.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tempfile::TempDir;

use crate::harness::certificates::{Authority, Issued};
use crate::harness::raw::Raw;
use crate::harness::raw_backend::Scripted;
use crate::harness::tls::{Offer, Secure};
use crate::harness::{Backend, Proxy, Reply, Setup, block_on, directory, eventually, heavy};

pub(crate) const TLS: &str = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";

/// A proxy with these files beside its config.
fn start(setup: &Setup, files: &[(&str, &str)]) -> Proxy {
    let dir = TempDir::new().unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    let file = dir.path().join("cutover.toml");
    fs::write(&file, setup.text()).unwrap();
    Proxy::start(dir, file)
}

pub(crate) fn start_with(setup: &Setup, issued: &Issued) -> Proxy {
    start(setup, &[("cert.pem", &issued.certificate), ("key.pem", &issued.key)])
}

pub(crate) fn to(backend: &Backend, lines: &str) -> Setup {
    Setup::new(backend.address, Backend::refused()).workers(1).listen(lines)
}

pub(crate) fn blamed(proxy: &Proxy, kind: &str) -> f64 {
    proxy.scrape().sum("cutover_client_errors_total", &[("kind", kind)])
}

pub(crate) fn connect(proxy: &Proxy, config: &Arc<ClientConfig>) -> Secure {
    Secure::connect(proxy.address, config, "a.test").expect("a handshake")
}

/// Whether a client is not served.
fn is_refused(proxy: &Proxy, config: &Arc<ClientConfig>) -> bool {
    // Of TLS 1.3 a client has done its part before the server has looked at its certificate.
    let shaken = Secure::connect(proxy.address, config, "a.test");
    shaken.and_then(|mut client| client.get("/")).is_err()
}

// === What both sides agree on ===

/// A GET over HTTP/2; status and body.
fn get_http2(proxy: &Proxy, config: &Arc<ClientConfig>) -> (u16, Vec<u8>) {
    block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let name = ServerName::try_from("a.test").unwrap();
        let stream = connector.connect(name, socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::get("https://a.test/").body(()).unwrap();
        let (responding, _) = sender.send_request(request, true).unwrap();
        let (head, mut body) = responding.await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            bytes.extend(piece.unwrap());
        }
        drop((sender, body));
        connection.await.unwrap().expect("an end in order");
        (head.status.as_u16(), bytes)
    })
}

#[test]
fn versions_and_protocols_are_agreed_on() {
    let backend = Backend::ok("ok");
    let issued = Authority::new().issue(&["a.test"]);
    let proxy = start_with(&to(&backend, TLS), &issued);
    for versions in [[&TLS12], [&TLS13]] {
        for (alpn, agreed) in [
            (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (&["http/1.1", "h2"], Some(b"h2")),
            (&["http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let client = Offer { versions: &versions, alpn, issued: None }.client();
            let mut shaken = connect(&proxy, &client);
            assert_eq!(shaken.stream.conn.alpn_protocol(), agreed, "{alpn:?}");
            let version = shaken.stream.conn.protocol_version().unwrap();
            assert_eq!(version, versions[0].version);
            if agreed == Some(b"h2") {
                assert_eq!(get_http2(&proxy, &client), (200, b"ok".to_vec()));
            } else {
                assert_eq!(shaken.get("/").unwrap().text(), "ok");
                assert_eq!(shaken.get("/").unwrap().text(), "ok");
            }
        }
        let client = Offer { versions: &versions, alpn: &["spdy/1"], issued: None }.client();
        assert!(is_refused(&proxy, &client));
    }
    // Without HTTP/2 it is not offered.
    let proxy = start_with(&to(&backend, &format!("http2 = false\n{TLS}")), &issued);
    let client = Offer { alpn: &["h2", "http/1.1"], ..Offer::default() }.client();
    assert_eq!(connect(&proxy, &client).stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn large_bodies_pass_both_ways() {
    let large = vec![b'z'; 3_000_000];
    let reply = large.clone();
    let backend = Backend::start(move |_| Reply::ok(&reply));
    let proxy = start_with(&to(&backend, TLS), &Authority::new().issue(&["a.test"]));
    let mut client = connect(&proxy, &Offer::default().client());
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len());
    for _ in 0..2 {
        let response = client.ask([head.as_bytes(), &large].concat()).unwrap();
        assert!(response.status == 200 && response.body == large);
    }
}

#[test]
fn the_name_that_is_asked_for_chooses_among_certificates() {
    let backend = Backend::ok("ok");
    let authority = Authority::new();
    let [one, two, three] =
        ["one.test", "two.test", "*.three.test"].map(|host| authority.issue(&[host]));
    let lines = "[listen.tls]\ncertificate = \"1.pem\"\nkey = \"1-key.pem\"\n\
                 [[listen.tls.certificates]]\ncertificate = \"2.pem\"\nkey = \"2-key.pem\"\n\
                 [[listen.tls.certificates]]\ncertificate = \"3.pem\"\nkey = \"3-key.pem\"";
    let files = [
        ("1.pem", one.certificate.as_str()),
        ("1-key.pem", &one.key),
        ("2.pem", &two.certificate),
        ("2-key.pem", &two.key),
        ("3.pem", &three.certificate),
        ("3-key.pem", &three.key),
    ];
    let proxy = start(&to(&backend, lines), &files);
    for (host, expected) in [
        ("one.test", &one),
        ("two.test", &two),
        ("TWO.test", &two),
        ("a.three.test", &three),
        ("unknown.test", &one),
        ("a.b.three.test", &one),
        ("127.0.0.1", &one),
    ] {
        let client = Offer::default().client();
        let mut shaken = Secure::connect(proxy.address, &client, host).unwrap();
        assert!(shaken.stream.conn.peer_certificates().unwrap()[0] == expected.der(), "{host}");
        assert_eq!(shaken.get("/").unwrap().text(), "ok");
    }
}

#[test]
fn a_second_handshake_is_abbreviated_also_across_a_reload_that_changes_nothing_of_tls() {
    let backend = Backend::ok("ok");
    let authority = Authority::new();
    let issued = authority.issue(&["a.test"]);
    let setup = to(&backend, TLS).workers(2);
    for versions in [[&TLS12], [&TLS13]] {
        let proxy = start_with(&setup, &issued);
        let client = Offer { versions: &versions, ..Offer::default() }.client();
        let kind = || {
            let mut shaken = connect(&proxy, &client);
            // Tickets come behind the handshake.
            assert_eq!(shaken.get("/").unwrap().status, 200);
            shaken.stream.conn.handshake_kind().unwrap()
        };
        assert_eq!(kind(), HandshakeKind::Full);
        // At either worker.
        (0..6).for_each(|_| assert_eq!(kind(), HandshakeKind::Resumed));
        proxy.apply(&setup.clone().tail("[split]\nexpose_path = true"));
        assert_eq!(kind(), HandshakeKind::Resumed);
        authority.issue(&["a.test"]).write(directory(&proxy.file));
        proxy.app().reload().unwrap();
        assert_eq!(kind(), HandshakeKind::Full);
    }
}

// === Client certificates ===

fn client_cert(issued: &Issued) -> String {
    format!(":{}:", base64::prelude::BASE64_STANDARD.encode(issued.der()))
}

#[test]
fn clients_without_a_certificate_of_the_ca_are_refused_and_others_are_introduced() {
    let backend = Scripted::start();
    let (authority, clients) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["a.test"]);
    let lines = "tls = { certificate = \"cert.pem\", key = \"key.pem\", client_ca = \"ca.pem\" }";
    let setup = Setup::new(backend.address, Backend::refused()).workers(1).listen(lines);
    let ca = clients.certificate();
    let files =
        [("cert.pem", issued.certificate.as_str()), ("key.pem", &issued.key), ("ca.pem", &ca)];
    let proxy = start(&setup, &files);
    let (right, wrong) = (clients.issue(&["me"]), authority.issue(&["me"]));
    for versions in [[&TLS12], [&TLS13]] {
        let offer = |issued| Offer { versions: &versions, issued, ..Offer::default() }.client();
        let before = blamed(&proxy, "tls_handshake");
        assert!(is_refused(&proxy, &offer(None)) && is_refused(&proxy, &offer(Some(&wrong))));
        eventually!(blamed(&proxy, "tls_handshake") == before + 2.0);
        let client = offer(Some(&right));
        // A resumed session has the certificate of its first handshake.
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut shaken = connect(&proxy, &client);
            let spoofed = "GET / HTTP/1.1\r\nHost: a\r\nClient-Cert: :c3Bvb2Y=:\r\n\
                           Client-Cert-Chain: :c3Bvb2Y=:\r\n\r\n";
            assert_eq!(shaken.ask(spoofed).unwrap().status, 200);
            assert_eq!(shaken.stream.conn.handshake_kind(), Some(kind));
            let got = backend.one();
            assert_eq!(got.field("client-cert"), Some(client_cert(&right).as_str()));
            assert_eq!(got.field("client-cert-chain"), None);
            assert_eq!(got.field("x-forwarded-proto"), Some("https"));
        }
    }
}

#[test]
fn a_certificate_that_is_only_claimed_is_stripped_with_and_without_tls() {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, Backend::refused()).workers(1);
    let setup = setup.listen("trusted_proxies = [\"127.0.0.0/8\"]");
    let claimed = "GET / HTTP/1.1\r\nHost: a\r\nclient-cert: :eA==:\r\nClient-Cert-Chain: :eA==:\r\n\
                   Connection: x\r\n\r\n";
    let stripped = |proto: &str| {
        let got = backend.one();
        assert_eq!((got.field("client-cert"), got.field("client-cert-chain")), (None, None));
        assert_eq!(got.field("x-forwarded-proto"), Some(proto));
    };
    let proxy = setup.start();
    assert_eq!(Raw::connect(proxy.address).ask(claimed).status(), 200);
    stripped("http");
    let proxy = start_with(&setup.listen(TLS), &Authority::new().issue(&["a.test"]));
    let mut client = connect(&proxy, &Offer::default().client());
    assert_eq!(client.ask(claimed).unwrap().status, 200);
    stripped("https");
}

// === Change under load ===

#[test]
fn certificates_change_a_hundred_times_under_load_and_no_request_fails() {
    let _alone = heavy();
    let backend = Backend::counting("ok");
    let authority = Authority::new();
    let proxy = start_with(&to(&backend, TLS).workers(2), &authority.issue(&["a.test"]));
    let (done, served) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let client = Offer::default().client();
    let load = |keeps: bool| {
        let mut kept = connect(&proxy, &client);
        while !done.load(Ordering::Relaxed) {
            if !keeps {
                kept = connect(&proxy, &client);
            }
            assert_eq!(kept.get("/").expect("a reply").text(), "ok");
            served[usize::from(keeps)].fetch_add(1, Ordering::Relaxed);
        }
    };
    let last = std::thread::scope(|scope| {
        let load = &load;
        let clients: Vec<_> =
            [true, false, false].map(|keeps| scope.spawn(move || load(keeps))).into();
        let mut last = None;
        for _ in 0..100 {
            let issued = authority.issue(&["a.test"]);
            issued.write(directory(&proxy.file));
            proxy.app().reload().expect("a sound pair");
            last = Some(issued);
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("no request fails"));
        last.unwrap()
    });
    println!("kept and new connections served {served:?}");
    assert!(served.iter().all(|served| served.load(Ordering::Relaxed) > 50), "{served:?}");
    let shaken = connect(&proxy, &client);
    assert!(shaken.stream.conn.peer_certificates().unwrap()[0] == last.der());
    drop(shaken);
    proxy.settle();
    assert_eq!(blamed(&proxy, "tls_handshake"), 0.0);
}
