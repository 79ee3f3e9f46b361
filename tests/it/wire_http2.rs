//! Requests of HTTP/2 clients row by row: what a backend that speaks HTTP/1.1 must get of each.
//!
//! What is refused because it breaks RFC 9113 is no matter of translation, and not here.

use http::uri::{Parts, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::harness::Setup;
use crate::harness::h2_client::{Http2, Payload};
use crate::harness::raw::{Message, wire};
use crate::harness::raw_backend::Scripted;
use crate::wire_refused::start;
use crate::wire_requests::{beside_own, by_name};
use crate::wire_targets::PATHS;

/// A request, and what the backend must get of it.
struct Row {
    section: &'static str,
    /// Method and absolute URI, `*` for the path of an asterisk.
    send: String,
    /// Fields, `|` between them.
    fields: String,
    body: &'static str,
    trailers: &'static str,
    line: String,
    /// Its fields beside those that the proxy adds to every request.
    got: String,
    got_trailers: &'static str,
}

/// The section that says so (or the threat), method and URI; then the line and the Host that the
/// backend must get.
const TARGETS: &[(&str, &str, &str, &str)] = &[
    ("9113 8.3.1", "GET http://a/x?q", "GET /x?q HTTP/1.1", "a"),
    ("9113 8.3.1", "GET http://b.example:81/", "GET / HTTP/1.1", "b.example:81"),
    ("9113 8.3.1", "GET http://B.Example/", "GET / HTTP/1.1", "B.Example"),
    ("9113 8.3.1", "GET http://[2001:db8::1]:81/", "GET / HTTP/1.1", "[2001:db8::1]:81"),
    ("9113 8.3.1", "GET http://127.0.0.1:9900/", "GET / HTTP/1.1", "127.0.0.1:9900"),
    ("9113 8.3.1", "GET https://a/x", "GET /x HTTP/1.1", "a"),
    ("9113 8.3.1", "GET http://a", "GET / HTTP/1.1", "a"),
    ("9113 8.3.1", "GET http://a?q", "GET /?q HTTP/1.1", "a"),
    ("9112 3.2.4", "OPTIONS http://a*", "OPTIONS * HTTP/1.1", "a"),
    ("9110 9.1", "FROB http://a/x", "FROB /x HTTP/1.1", "a"),
    ("9110 9.1", "get http://a/x", "get /x HTTP/1.1", "a"),
    ("9110 9.1", "M-SEARCH http://a/x", "M-SEARCH /x HTTP/1.1", "a"),
    ("9110 9.1", "!#$%&'*+-.^_`~ http://a/x", "!#$%&'*+-.^_`~ /x HTTP/1.1", "a"),
    ("9110 9.1", "PRI http://a/x", "PRI /x HTTP/1.1", "a"),
    ("9110 9.1", "TRACE http://a/x", "TRACE /x HTTP/1.1", "a"),
];

/// Fields, and those that the backend must get behind Host.
const FIELDS: &[(&str, &str, &str)] = &[
    ("9113 8.2.3", "cookie: a=1", "|Cookie: a=1"),
    ("9113 8.2.3", "cookie: a=1|cookie: b=2", "|Cookie: a=1; b=2"),
    ("9113 8.2.3", "cookie: a=1|n: v|cookie: b=2|cookie: c; d", "|Cookie: a=1; b=2; c; d|N: v"),
    ("9113 8.2.3", "cookie: \u{e9}|cookie: \u{80}", "|Cookie: \u{e9}; \u{80}"),
    ("9113 8.2.2", "te: trailers", "|Connection: TE|Te: trailers"),
    ("9113 8.3.1", "host: a", ""),
    ("9110 5.3", "n: 1|o: x|n: 2|n: 3", "|N: 1|N: 2|N: 3|O: x"),
    ("9110 5.3", "accept: a, b|accept:|accept: c", "|Accept: a, b|Accept: |Accept: c"),
    ("9110 5.3", "set-cookie: a|set-cookie: b", "|Set-Cookie: a|Set-Cookie: b"),
    ("9110 5.5", "n:", "|N: "),
    ("9110 5.5", "n: \u{80}\u{ff}\u{c3}\u{a9}", "|N: \u{80}\u{ff}\u{c3}\u{a9}"),
    ("9110 5.5", "n: a\tb  c", "|N: a\tb  c"),
    ("9110 5.5", "n: \"a, \\\"b\\\"; c=(d)", "|N: \"a, \\\"b\\\"; c=(d)"),
    ("9110 5.5", "n: %0d%0a: HTTP/1.1", "|N: %0d%0a: HTTP/1.1"),
    ("9110 5.1", "!#$%&'*+.^_`~0: v", "|!#$%&'*+.^_`~0: v"),
    ("9110 5.1", "authorization: a|proxy-authorization: b", "|Authorization: a"),
    ("9110 6.6.2", "trailer: x-sum", "|Trailer: x-sum"),
    ("9110 7.6.3", "via: 1.0 b", "|Via: 1.0 b"),
    ("9110 7.6.3", "via: 2.0 b, 1.1 c|via: 1.0 d", "|Via: 2.0 b, 1.1 c|Via: 1.0 d"),
    ("9110 7.6.2", "max-forwards: 0", "|Max-Forwards: 0"),
    ("9110 10.1.1", "expect: 100-continue", ""),
    ("9218 4", "priority: u=1, i", "|Priority: u=1, i"),
    ("CVE-2016-5385", "proxy: http://evil.example/", ""),
    ("spoofed origin", "x-forwarded-for: 9.9.9.9|x-forwarded-proto: https", ""),
    ("spoofed origin", "forwarded: for=9.9.9.9|x-real-ip: 9.9.9.9|x-forwarded-host: b", ""),
    ("spoofed origin", "client-cert: :AAAA:|x-cutover-path: async", ""),
];

/// Method, fields, body and trailers; then the fields behind Host and the trailers that the backend
/// must get. Of an empty body the head is the end of its stream, unless there are trailers.
const BODIES: &[(&str, &str, [&str; 3], [&str; 2])] = &[
    ("9112 6.1", "POST", ["n: v", "hello", ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9112 6.1", "GET", ["n: v", "hello", ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9112 6.1", "HEAD", ["n: v", "hello", ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9112 6.1", "DELETE", ["n: v", "hello", ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9112 6.1", "FROB", ["n: v", "hello", ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9113 8.1.1", "POST", ["content-length: 5", "hello", ""], ["Content-Length: 5", ""]),
    ("9113 8.1.1", "GET", ["content-length: 5", "hello", ""], ["Content-Length: 5", ""]),
    ("9113 8.1.1", "PUT", ["content-length: 0", "", ""], ["Content-Length: 0", ""]),
    ("9112 6.3", "POST", ["n: v", "", ""], ["N: v", ""]),
    (
        "9110 10.1.1",
        "POST",
        ["expect: 100-continue", "hello", ""],
        ["Transfer-Encoding: chunked", ""],
    ),
    ("9113 8.1", "POST", [SUM, "hello", "x-sum: 5"], [CHUNKED_SUM, "X-Sum: 5"]),
    ("9113 8.1", "POST", [SUM, "", "x-sum: 5"], [CHUNKED_SUM, "X-Sum: 5"]),
    ("9110 6.5.1", "POST", ["n: v", "hello", "x-sum: 5"], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9110 6.5.1", "POST", [SUM, "hello", "host: b|x-sum: 5"], [CHUNKED_SUM, "X-Sum: 5"]),
    ("9110 6.5.1", "POST", [SUM, "hello", "content-length: 9|x-sum: 5"], [CHUNKED_SUM, "X-Sum: 5"]),
    (
        "9110 6.5.1",
        "POST",
        [LIES, "hello", LYING],
        [
            "Trailer: host, content-length, authorization, transfer-encoding, x-sum|Transfer-Encoding: chunked",
            "X-Sum: 5",
        ],
    ),
    ("9112 11.2", "POST", ["n: v", SMUGGLED, ""], ["N: v|Transfer-Encoding: chunked", ""]),
    ("9112 11.2", "GET", ["content-length: 32", SMUGGLED, ""], ["Content-Length: 32", ""]),
];

const LIES: &str = "trailer: host, content-length, authorization, transfer-encoding, x-sum";
const LYING: &str = "host: b|content-length: 9|authorization: b|x-sum: 5";
const SUM: &str = "trailer: x-sum";
const CHUNKED_SUM: &str = "Trailer: x-sum|Transfer-Encoding: chunked";
const SMUGGLED: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\n";

/// Method, URI and fields; then the line, and the fields behind Host, that the backend must get.
const WHOLE: &[(&str, &str, &str, &str, &str)] = &[
    (
        "9110 7.6.2",
        "OPTIONS http://a/",
        "max-forwards: 7",
        "OPTIONS / HTTP/1.1",
        "|Max-Forwards: 6",
    ),
    (
        "9110 7.6.2",
        "OPTIONS http://a*",
        "max-forwards: 7",
        "OPTIONS * HTTP/1.1",
        "|Max-Forwards: 6",
    ),
    ("9110 7.6.2", "TRACE http://a/", "max-forwards: 1", "TRACE / HTTP/1.1", "|Max-Forwards: 0"),
    ("9113 8.3.1", "GET /x", "host: a", "GET /x HTTP/1.1", ""),
    ("9113 8.3.1", "OPTIONS *", "host: a", "OPTIONS * HTTP/1.1", ""),
];

/// Status, section, method and URI, and fields of what is refused after the frames were sound.
const REFUSED: &[(u16, &str, &str, &str)] = &[
    (400, "9113 8.3.1", "GET http://user@a/", "n: v"),
    (400, "9113 8.3.1", "GET http://user:pw@a/", "n: v"),
    (400, "9113 8.3.1", "GET http://a:99999/", "n: v"),
    (400, "9113 8.3.1", "GET http://a:b/", "n: v"),
    (400, "9113 8.3.1", "GET http://a/", "host: b"),
    (400, "9113 8.3.1", "GET http://a/", "host: a|host: a"),
    (400, "9113 8.3.1", "GET /", "host: a@b"),
    (400, "9113 8.3.1", "GET /", "n: v"),
    (400, "9113 8.3.1", "GET ftp://a/", "n: v"),
    (400, "9113 8.3.1", "GET http://a*", "n: v"),
    (405, "9113 8.5", "CONNECT a:80", "n: v"),
    (405, "9110 7.6.2", "TRACE http://a/", "max-forwards: 0"),
    (400, "9110 7.6.2", "OPTIONS http://a/", "max-forwards: x"),
    (400, "9110 8.6", "GET http://a/", "content-length: 00"),
    (400, "underscores", "GET http://a/", "content_length: 5"),
    (400, "underscores", "GET http://a/", "transfer_encoding: chunked"),
];

fn rows() -> Vec<Row> {
    let row = |section, send: &str, fields: &str, line: &str, got: &str| Row {
        section,
        send: send.to_owned(),
        fields: fields.to_owned(),
        body: "",
        trailers: "",
        line: line.to_owned(),
        got: got.to_owned(),
        got_trailers: "",
    };
    let get = |section, fields: &str, got: &str| {
        row(section, "GET http://a/", fields, "GET / HTTP/1.1", &format!("Host: a{got}"))
    };
    let targets = TARGETS.iter().map(|(section, send, line, host)| {
        row(section, send, "n: v", line, &format!("Host: {host}|N: v"))
    });
    let paths = PATHS.iter().map(|path| {
        let (send, line) = (format!("GET http://a{path}"), format!("GET {path} HTTP/1.1"));
        row("9110 7.7", &send, "n: v", &line, "Host: a|N: v")
    });
    let fields = FIELDS.iter().map(|(section, fields, got)| get(section, fields, got));
    let bodies =
        BODIES.iter().map(|(section, method, [fields, body, trailers], [got, after])| Row {
            body,
            trailers,
            got_trailers: after,
            ..row(
                section,
                &format!("{method} http://a/"),
                fields,
                &format!("{method} / HTTP/1.1"),
                &format!("Host: a|{got}"),
            )
        });
    let whole = WHOLE.iter().map(|(section, send, fields, line, got)| {
        row(section, send, fields, line, &format!("Host: a{got}"))
    });
    let long = "v".repeat(30_000);
    let many = |name: &str| format!("|{name}: v").repeat(90);
    let large = [
        get("6585 5", &format!("n: {long}"), &format!("|N: {long}")),
        get("6585 5", &many("n")[1..], &many("N")),
    ];
    targets.chain(paths).chain(fields).chain(bodies).chain(whole).chain(large).collect()
}

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    let rows = rows().into_iter().map(|row| row.section);
    rows.chain(REFUSED.iter().map(|(_, section, ..)| *section)).collect()
}

fn map(fields: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields.split('|') {
        let (name, value) = field.split_once(':').unwrap();
        let value = HeaderValue::from_bytes(&wire(value.strip_prefix(' ').unwrap_or(value)));
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.unwrap());
    }
    map
}

fn head(send: &str, fields: &str) -> Request<()> {
    let (method, target) = send.split_once(' ').unwrap();
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = match target.strip_suffix('*').filter(|front| front.ends_with("//a")) {
        Some(front) => {
            let mut parts = Parts::from(front.parse::<Uri>().unwrap());
            parts.path_and_query = Some(PathAndQuery::from_static("*"));
            Uri::from_parts(parts).unwrap()
        }
        None => Uri::try_from(wire(target)).unwrap(),
    };
    let has_authority = request.uri().authority().is_some();
    // h2 sends the pseudo-fields that such a request has, and no :authority with the other.
    *request.version_mut() = if has_authority { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = map(fields);
    request
}

fn faults(row: &Row, got: &Message) -> Vec<String> {
    let mut faults = Vec::new();
    let rest = beside_own(&got.fields, "2.0", &mut faults);
    let expected = by_name(row.got.split('|').map(str::to_owned).collect());
    let trailers: Vec<&str> = row.got_trailers.split('|').filter(|line| !line.is_empty()).collect();
    let checks = [
        ("its line", got.line == row.line),
        ("its fields", rest == expected),
        ("its body", got.body == row.body.as_bytes() && got.complete),
        ("its trailers", got.trailers == trailers),
    ];
    let missing = checks.iter().filter(|(_, holds)| !holds);
    faults.extend(missing.map(|(what, _)| format!("lacks {what}")));
    faults
}

#[test]
fn what_http2_says_goes_on_as_http1_has_it() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Http2::connect(proxy.address);
    let mut all = Vec::new();
    for row in rows() {
        let trailers = (!row.trailers.is_empty()).then(|| map(row.trailers));
        let payload = Payload { body: row.body.into(), trailers };
        let reply = client.exchange(head(&row.send, &row.fields), payload);
        let reply = reply.map(|reply| reply.status().as_u16());
        let got = backend.take_got();
        let mut found = match &got[..] {
            [got] => faults(&row, got),
            _ => vec!["is not one request".to_owned()],
        };
        if !matches!(reply, Ok(200)) {
            found.push(format!("was answered by {reply:?}"));
        }
        let (section, sent) =
            (row.section, start(format!("{} {}", row.send, row.fields).as_bytes()));
        all.extend(found.iter().map(|what| format!("row {section} {sent:?} {what}: {got:?}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn what_http1_could_not_say_is_refused_and_its_neighbours_are_served() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Http2::connect(proxy.address);
    let mut all = Vec::new();
    for (status, section, send, fields) in REFUSED {
        let reply = client.exchange(head(send, fields), Payload::default());
        let reply = reply.map(|reply| reply.status().as_u16());
        let got = backend.take_got();
        if !matches!(reply, Ok(code) if code == *status) || !got.is_empty() {
            all.push(format!("row {section} {send:?} {fields:?} became {reply:?} {got:?}"));
        }
    }
    let next = client.exchange(head("GET http://a/", "n: v"), Payload::default());
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert_eq!(next.unwrap().status(), 200);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}
