//! The same exchanges without the proxy and through it, on both paths and in both versions of HTTP:
//! what a peer gets may differ in the fields that docs/http.md lists, and in nothing else.

use std::collections::BTreeSet;

use crate::harness::both::{Framing, Origin, Received, Sent, over_http1, over_http2};
use crate::harness::h2_backend::Http2Backend;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Proxy, Setup};

/// Fields in which a request at its backend may differ from what its client sent; `*` ends a prefix.
const OF_REQUESTS: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "connection",
    "expect",
    "forwarded",
    "keep-alive",
    "max-forwards",
    "proxy",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-cutover-*",
    "x-forwarded-*",
    "x-real-ip",
    "x-request-id",
];

/// The same for a reply at its client.
const OF_REPLIES: &[&str] = &[
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A request and its reply.
struct Exchange {
    request: Sent,
    reply: Sent,
}

// === Exchanges ===

fn sent(line: &'static str, fields: &'static str) -> Sent {
    Sent { line, fields, framing: Framing::Bodiless, body: Vec::new(), trailers: "" }
}

fn with(mut message: Sent, framing: Framing, body: &[u8], trailers: &'static str) -> Sent {
    message.framing = framing;
    message.body = body.to_vec();
    message.trailers = trailers;
    message
}

fn ok() -> Sent {
    with(sent("200", "Date: d"), Framing::Length, b"ok", "")
}

/// Fields that pass, and fields that differ; each of the lists has an example here.
const MANY: &str = "Accept: a, b|Cookie: a=1; b=2|Authorization: Basic a|Range: bytes=0-1|Empty:|\
                    N: 1|O: \u{80}\u{ff}|N: 2|If-None-Match: \"e\"|User-Agent: u (v) w/1|Origin: null|\
                    Referer: http://b/?c=%0d|Te_: x|X-Tab: a\tb|Content-Type: a/b; c=\"d\"|Date: d";
const DIFFERING: &str = "Client-Cert: :AA:|Client-Cert-Chain: :AA:|Connection: keep-alive|Expect: 100-continue|\
                         Forwarded: for=b|Keep-Alive: timeout=9|Max-Forwards: 9|Proxy: b|\
                         Proxy-Authorization: b|Proxy-Connection: b|TE: gzip|Upgrade: b|Via: 1.0 b|\
                         X-Cutover-Path: async|X-Forwarded-For: 9.9.9.9|X-Forwarded-Port: 1|\
                         X-Real-Ip: 9.9.9.9|X-Request-Id: a b|Traceparent: b|Stays: c";
const DIFFERING_BACK: &str = "Connection: keep-alive|Keep-Alive: timeout=9|Proxy-Connection: b|TE: b|\
                              Upgrade: b|Stays: c|Via: 1.1 b|Proxy-Status: b|X-Forwarded-For: c";

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

fn exchanges() -> Vec<Exchange> {
    let pair = |request, reply| Exchange { request, reply };
    let get = |reply| pair(sent("GET /x", ""), reply);
    let mut all = vec![
        pair(sent("GET /", ""), ok()),
        pair(sent("GET /a/..//%2e%2F;p?x=%2f&&y=?", MANY), ok()),
        pair(sent("OPTIONS /x", DIFFERING), ok()),
        pair(sent("FROB /x", "N: v"), ok()),
        pair(sent("HEAD /x", ""), sent("200", "Content-Length: 5|Date: d")),
        pair(sent("HEAD /x", ""), sent("404", "Date: d|ETag: e")),
        get(sent("204", "ETag: \"e\"")),
        get(sent("304", "ETag: \"e\"|Content-Length: 5")),
        get(with(sent("206", "Content-Range: bytes 0-1/9"), Framing::Length, b"ok", "")),
        get(with(sent("404", MANY), Framing::Length, b"no", "")),
        get(with(sent("500", "Set-Cookie: a|Set-Cookie: b"), Framing::Length, b"", "")),
        get(with(sent("200", DIFFERING_BACK), Framing::Length, b"ok", "")),
        get(with(sent("599", "Date: d"), Framing::Chunked, b"ok", "")),
        pair(
            sent("GET /x", "TE: trailers|Connection: TE"),
            with(sent("200", "Trailer: X-Sum|Date: d"), Framing::Chunked, b"ok", "X-Sum: 1"),
        ),
        get(with(sent("200", "Date: d"), Framing::Close, b"until the end", "")),
    ];
    for size in [0, 1, 1000, 65_536, 1 << 20] {
        let body = &pattern(size);
        for framing in [Framing::Length, Framing::Chunked] {
            let request = with(sent("POST /x", "Content-Type: a/b"), framing, body, "");
            all.push(pair(request, with(sent("200", "Date: d"), framing, body, "")));
        }
    }
    let summed = with(sent("POST /x", "Trailer: X-Sum"), Framing::Chunked, b"hello", "X-Sum: 5");
    all.push(pair(summed, ok()));
    all.push(pair(with(sent("GET /x", ""), Framing::Chunked, b"hello", ""), ok()));
    all.push(pair(with(sent("DELETE /x", ""), Framing::Length, b"hello", ""), ok()));
    all
}

// === Ways ===

/// From a client in one version to a backend in one version.
struct Way {
    name: &'static str,
    is_http2: bool,
    origin: Origin,
    proxy: Proxy,
}

fn ways() -> Vec<Way> {
    let http1 = |name, is_http2, weight| {
        let (backend, unused) = (Scripted::start(), Scripted::start());
        let (legacy, async_) =
            if weight == 0.0 { (&backend, &unused) } else { (&unused, &backend) };
        let setup = Setup::new(legacy.address, async_.address).workers(1).weight(weight);
        Way { name, is_http2, origin: Origin::Http1(backend), proxy: setup.start() }
    };
    let http2 = |name, is_http2| {
        let backend = Http2Backend::start();
        let lines = "protocol = \"http2\"";
        let setup = Setup::new(backend.address, backend.address).workers(1);
        let proxy = setup.legacy(lines).async_(lines).start();
        Way { name, is_http2, origin: Origin::Http2(backend), proxy }
    };
    vec![
        http1("legacy", false, 0.0),
        http1("async", false, 1.0),
        http1("HTTP/2 in front", true, 0.0),
        http2("HTTP/2 behind", false),
        http2("HTTP/2 on both sides", true),
    ]
}

// === What differs ===

/// Names of fields that are not the same in both.
fn differing(a: &Received, b: &Received) -> BTreeSet<String> {
    let names = a.fields.iter().chain(&b.fields).map(|(name, _)| name.clone());
    let values = |of: &Received, name: &String| {
        let named = of.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    names.filter(|name| values(a, name) != values(b, name)).collect()
}

/// The entry of a list that stands for a name.
fn entry(list: &[&'static str], name: &str) -> Option<&'static str> {
    let stands = |entry: &&&str| match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == **entry,
    };
    list.iter().find(stands).copied()
}

/// What differs beside the fields of `list`; those that do are noted.
fn compare(
    (direct, proxied): (&Received, &Received),
    list: &[&'static str],
    noted: &mut BTreeSet<&'static str>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for name in differing(direct, proxied) {
        // A length is lost or another nowhere but in a 304, where hyper's server has none.
        let had_length = direct.fields.iter().any(|(known, _)| known == "content-length");
        let is_kept = name == "content-length" && had_length && direct.line != "304";
        match entry(list, &name).filter(|_| !is_kept) {
            Some(entry) => drop(noted.insert(entry)),
            None => faults.push(format!("the field {name}")),
        }
    }
    let same = [
        ("the line", direct.line == proxied.line),
        ("the body", direct.body == proxied.body),
        ("the trailers", direct.trailers == proxied.trailers),
        ("the end", direct.is_whole && proxied.is_whole),
    ];
    faults.extend(same.iter().filter(|(_, same)| !same).map(|(what, _)| (*what).to_owned()));
    faults
}

#[test]
fn nothing_differs_from_a_direct_exchange_but_the_fields_that_are_listed() {
    let ways = ways();
    let backend = Scripted::start();
    let (address, direct) = (backend.address, Origin::Http1(backend));
    let (mut requests, mut replies, mut all) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for exchange in exchanges() {
        let Exchange { request, reply } = &exchange;
        direct.expect(reply);
        let back = over_http1(address, request);
        let there = direct.got();
        for way in &ways {
            way.origin.expect(reply);
            let over = if way.is_http2 { over_http2 } else { over_http1 };
            let reached = over(way.proxy.address, request);
            let got = way.origin.got();
            let mut found = compare((&there, &got), OF_REQUESTS, &mut requests);
            found.extend(compare((&back, &reached), OF_REPLIES, &mut replies));
            let Way { name, .. } = way;
            let what = found.iter().map(|what| {
                format!("{name}: {} {:?} differs in {what}", request.line, request.fields)
            });
            all.extend(what);
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    // A name that never differs has no place in a list.
    assert_eq!(requests.into_iter().collect::<Vec<_>>(), OF_REQUESTS);
    assert_eq!(replies.into_iter().collect::<Vec<_>>(), OF_REPLIES);
}

#[test]
fn the_documents_list_the_fields_that_may_differ() {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http.md")).unwrap();
    let words = document.split_whitespace().collect::<Vec<_>>().join(" ");
    let listed = |begin: &str| {
        let (_, rest) = words.split_once(begin).expect("the sentence is there");
        let (list, _) = rest.split_once(". ").unwrap();
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(listed("Of a request these fields may differ:"), OF_REQUESTS);
    assert_eq!(listed("Of a reply these:"), OF_REPLIES);
}
