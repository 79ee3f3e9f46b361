//! TLS to endpoints: whom the proxy believes, what it shows of itself, and what clients see when it can't.

use std::path::Path;

use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;

use crate::harness::certificates::{Authority, Issued};
use crate::harness::h2_server::Terms;
use crate::harness::raw::{Listener, Raw};
use crate::harness::tls::{Close, Then, TlsBackend};
use crate::harness::{Backend, Ended, H2Backend, Play, Proxy, Setup, eventually};

const LEGACY: (&str, &str) = ("path", "legacy");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A CA, its file, and what it has issued for the address of backends.
struct Trust {
    authority: Authority,
    issued: Issued,
    dir: TempDir,
}

impl Trust {
    fn new() -> Self {
        let authority = Authority::new();
        let issued = authority.issue(&["127.0.0.1"]);
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.certificate()).unwrap();
        Self { authority, issued, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The keys of a path's TLS; `more` are further ones.
    fn keys(&self, more: &str) -> String {
        let ca = self.path().join("ca.pem");
        format!("min_idle = 0\ntls = {{ ca = {ca:?}{more} }}")
    }
}

fn to(address: std::net::SocketAddr, lines: &str) -> Proxy {
    let url = format!("https://{address}");
    let setup = Setup::new(address, Backend::refused()).workers(1).legacy_urls(&[&url]);
    setup.legacy(lines).start()
}

fn tls_errors(proxy: &Proxy) -> f64 {
    proxy.scrape().sum("cutover_errors_total", &[LEGACY, ("kind", "tls")])
}

/// A GET is a 502, and TLS is to blame.
fn is_not_secure(proxy: &Proxy) {
    let before = tls_errors(proxy);
    let response = proxy.client().get("/");
    assert_eq!(response.status, 502, "{}", response.text());
    assert_eq!(response.header("proxy-status"), Some("cutover; error=tls_protocol_error"));
    eventually!(tls_errors(proxy) == before + 1.0);
}

#[test]
fn a_certificate_of_the_ca_for_the_endpoint_is_believed_and_sessions_are_resumed() {
    let trust = Trust::new();
    let backend = TlsBackend::start(trust.issued.server(&["http/1.1"]), OK, Then::Keep);
    let lines = format!("{}\npool_idle = 0", trust.keys(""));
    let proxy = to(backend.address, &lines);
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").text(), "ok");
    }
    let seen = backend.seen();
    assert!(seen.iter().all(|seen| seen.sni.is_none()), "an address is no SNI: {seen:?}");
    let resumed: Vec<_> = seen.iter().map(|seen| seen.is_resumed).collect();
    assert_eq!(resumed, [false, true, true]);
    assert!(seen[0].head.contains("\r\nHost: test\r\n"), "{seen:?}");
    // Each connection is ended in order.
    eventually!(backend.ends().len() == 3);
    assert_eq!(backend.ends(), [Close::Notified; 3]);
}

#[test]
fn connections_are_pooled_and_ended_in_order() {
    let trust = Trust::new();
    let backend = TlsBackend::start(trust.issued.server(&[]), OK, Then::Keep);
    let lines = format!("{}\npool_idle_timeout = \"500ms\"", trust.keys(""));
    let proxy = to(backend.address, &lines);
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
    }
    eventually!(backend.ends() == [Close::Notified], "{:?}", backend.ends());
    // Closed by the backend, it is made anew and costs nothing.
    let backend = TlsBackend::start(trust.issued.server(&[]), OK, Then::Close);
    let proxy = to(backend.address, &lines);
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
    }
    proxy.settle();
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn what_is_not_to_be_believed_is_a_502_of_its_own_kind() {
    let (trust, stranger) = (Trust::new(), Authority::new());
    let tls = |issued: &Issued| {
        let terms = Terms { tls: Some(issued.server(&["h2", "http/1.1"])), ..Terms::default() };
        H2Backend::with(terms, |_| Play::ok("ok"))
    };
    // Another CA, another name, out of date, and no TLS at all.
    let wrong_ca = tls(&stranger.issue(&["127.0.0.1"]));
    is_not_secure(&to(wrong_ca.address, &trust.keys("")));
    let wrong_name = tls(&trust.authority.issue(&["127.0.0.2", "b.test"]));
    is_not_secure(&to(wrong_name.address, &trust.keys("")));
    let expired = tls(&trust.authority.issue_for(&["127.0.0.1"], 2020, 2021));
    is_not_secure(&to(expired.address, &trust.keys("")));
    let plain = Listener::bind();
    let proxy = to(plain.address, &trust.keys(""));
    let says = std::thread::spawn(move || {
        let mut plain = plain.accept();
        plain.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        plain.rest()
    });
    is_not_secure(&proxy);
    says.join().unwrap();
    assert_eq!(wrong_ca.hits() + wrong_name.hits() + expired.hits(), 0);
    // By the public roots nobody here is known.
    is_not_secure(&to(wrong_ca.address, "min_idle = 0"));
    let named = to(wrong_name.address, &trust.keys(", server_name = \"b.test\""));
    assert_eq!(named.client().get("/").text(), "ok");
    assert_eq!(wrong_name.last().asked.authority, "test", "it is not what requests are for");
    is_not_secure(&to(wrong_name.address, &trust.keys(", server_name = \"c.test\"")));
}

#[test]
fn a_server_name_is_asked_for() {
    let trust = Trust::new();
    let issued = trust.authority.issue(&["b.test"]);
    let backend = TlsBackend::start(issued.server(&[]), OK, Then::Keep);
    let proxy = to(backend.address, &trust.keys(", server_name = \"b.test\""));
    assert_eq!(proxy.client().get("/").text(), "ok");
    assert_eq!(backend.seen()[0].sni.as_deref(), Some("b.test"));
}

#[test]
fn a_backend_that_demands_a_certificate_gets_it() {
    let trust = Trust::new();
    trust.authority.issue(&["me"]).write(trust.path());
    let file = |name: &str| trust.path().join(name).display().to_string();
    let more = format!(", certificate = \"{}\", key = \"{}\"", file("cert.pem"), file("key.pem"));
    for version in [&TLS12, &TLS13] {
        let tls = Some(trust.issued.server_for(&trust.authority, version));
        let backend = H2Backend::with(Terms { tls, ..Terms::default() }, |_| Play::ok("ok"));
        let proxy = to(backend.address, &trust.keys(&more));
        assert_eq!(proxy.client().get("/").text(), "ok");
        // Without one. Of TLS 1.3 this side has done its part before the other says no, and may hear
        // of the connection's end before it hears why.
        let proxy = to(backend.address, &trust.keys(""));
        eventually!({
            assert_eq!(proxy.client().get("/").status, 502);
            tls_errors(&proxy) > 0.0
        });
        assert_eq!(backend.hits(), 1);
    }
}

#[test]
fn a_reply_that_ends_with_its_connection_is_whole_only_if_tls_says_so() {
    let trust = Trust::new();
    let reply = "HTTP/1.1 200 OK\r\n\r\nto the end";
    for (then, ended) in [(Then::Close, Ended::Whole), (Then::Drop, Ended::Cut)] {
        let backend = TlsBackend::start(trust.issued.server(&[]), reply, then);
        let proxy = to(backend.address, &trust.keys(""));
        let response = proxy.client().get("/");
        assert_eq!((response.status, response.ended), (200, ended), "{then:?}");
        assert_eq!(response.text(), "to the end");
    }
}

#[test]
fn a_handshake_that_is_never_answered_is_a_504_after_connect_timeout() {
    let trust = Trust::new();
    let listener = Listener::bind();
    let proxy = to(listener.address, &format!("{}\nconnect_timeout = \"300ms\"", trust.keys("")));
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut silent = listener.accept();
    assert_eq!(client.reply().status(), 504);
    assert!(!silent.rest().0.is_empty(), "closed behind its hello");
}

#[test]
fn http_2_is_spoken_where_tls_says_so_and_else_http_1() {
    let trust = Trust::new();
    let terms = |alpn: &[&str]| Terms { tls: Some(trust.issued.server(alpn)), ..Terms::default() };
    let backend = H2Backend::with(terms(&["h2", "http/1.1"]), |_| Play::ok("two"));
    let proxy = to(backend.address, &trust.keys(""));
    assert_eq!(proxy.client().get("/").text(), "two");
    assert_eq!(backend.last().asked.scheme, "https");
    drop(proxy);
    for (alpn, protocol) in
        [(&["http/1.1"][..], "auto"), (&[], "auto"), (&["h2", "http/1.1"], "http1")]
    {
        let backend = TlsBackend::start(trust.issued.server(alpn), OK, Then::Keep);
        let lines = format!("{}\nprotocol = \"{protocol}\"", trust.keys(""));
        assert_eq!(to(backend.address, &lines).client().get("/").text(), "ok", "{alpn:?}");
    }
    // One that only speaks the other is not to be talked to.
    let backend = TlsBackend::start(trust.issued.server(&["http/1.1"]), OK, Then::Keep);
    is_not_secure(&to(backend.address, &format!("{}\nprotocol = \"http2\"", trust.keys(""))));
}
