//! Requests that break a rule of RFC 9113 or have two readings: refused on their stream, or with
//! their connection where the framing itself is broken, and never seen by a backend.

use crate::harness::h2::{
    Answer, END_HEADERS, END_STREAM, End, Field, Frames, HEADERS, PROTOCOL_ERROR, block,
    request_with,
};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Setup, eventually};

/// What comes behind the pseudo fields of a sound POST without a body. These end the whole connection,
/// as they may (RFC 9113 section 5.4.1): h2 finds them while it decodes.
const OCTETS: &[(&str, Field<'_>)] = &[
    ("a name in upper case", ("X-Upper", "v")),
    ("a name with one upper case letter", ("x-uppeR", "v")),
    ("CR in a name", ("x\ra", "v")),
    ("LF in a name", ("x\na", "v")),
    ("CRLF in a name", ("x: y\r\nz", "v")),
    ("NUL in a name", ("x\0a", "v")),
    ("a space in a name", ("x a", "v")),
    ("a space behind a name", ("x ", "v")),
    ("a colon in a name", ("x:a", "v")),
    ("a colon behind a name", ("x:", "v")),
    ("no name", ("", "v")),
    ("DEL in a name", ("x\u{7f}", "v")),
    ("a byte over 127 in a name", ("x\u{e9}", "v")),
    ("CR in a value", ("x", "a\rb")),
    ("LF in a value", ("x", "a\nb")),
    ("CRLF in a value", ("x", "a\r\nTransfer-Encoding: chunked")),
    ("NUL in a value", ("x", "a\0b")),
    ("an unknown pseudo field", (":unknown", "v")),
    ("an empty method", (":method", "")),
    ("a space in a method", (":method", "GET /x")),
    ("CRLF in a method", (":method", "GET / HTTP/1.1\r\nx")),
];

/// These end their stream alone.
const FIELDS: &[(&str, Field<'_>)] = &[
    ("a quote in a name", ("x\"a", "v")),
    ("a space in front of a value", ("x", " a")),
    ("a space behind a value", ("x", "a ")),
    ("a tab in front of a value", ("x", "\ta")),
    ("a tab behind a value", ("x", "a\t")),
    ("connection", ("connection", "close")),
    ("connection that names a field", ("connection", "x-forwarded-for")),
    ("keep-alive", ("keep-alive", "timeout=5")),
    ("proxy-connection", ("proxy-connection", "close")),
    ("transfer-encoding", ("transfer-encoding", "chunked")),
    ("transfer-encoding identity", ("transfer-encoding", "identity")),
    ("upgrade", ("upgrade", "websocket")),
    ("te: gzip", ("te", "gzip")),
    ("te: trailers, gzip", ("te", "trailers, gzip")),
    ("transfer_encoding", ("transfer_encoding", "chunked")),
    ("content_length", ("content_length", "5")),
    ("a second host", ("host", "b")),
    ("a host with userinfo", ("host", "u@a")),
    ("an empty host", ("host", "")),
    ("a length without a body", ("content-length", "5")),
    ("a length with a plus", ("content-length", "+5")),
    ("a length with a minus", ("content-length", "-0")),
    ("a hexadecimal length", ("content-length", "0x0")),
    ("a length with a leading zero", ("content-length", "00")),
    ("an empty length", ("content-length", "")),
    ("a list of lengths", ("content-length", "0, 0")),
    ("a length too large to count", ("content-length", "18446744073709551616")),
    ("a pseudo field behind the others", (":path", "/late")),
    ("a pseudo field of replies", (":status", "200")),
    ("a pseudo field of RFC 8441", (":protocol", "websocket")),
];

const METHOD: Field<'_> = (":method", "GET");
const SCHEME: Field<'_> = (":scheme", "http");
const AUTHORITY: Field<'_> = (":authority", "a");
const PATH: Field<'_> = (":path", "/");

/// Whole heads.
const HEADS: &[(&str, &[Field<'_>])] = &[
    ("no method", &[SCHEME, AUTHORITY, PATH]),
    ("no scheme", &[METHOD, AUTHORITY, PATH]),
    ("no path", &[METHOD, SCHEME, AUTHORITY]),
    ("no authority", &[METHOD, SCHEME, PATH]),
    ("nothing", &[]),
    ("two methods", &[METHOD, METHOD, SCHEME, AUTHORITY, PATH]),
    ("two paths", &[METHOD, SCHEME, AUTHORITY, PATH, PATH]),
    ("two authorities", &[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH]),
    ("two schemes", &[METHOD, SCHEME, SCHEME, AUTHORITY, PATH]),
    ("a late method", &[SCHEME, AUTHORITY, PATH, ("x", "y"), METHOD]),
    ("a late authority", &[METHOD, SCHEME, PATH, ("x", "y"), AUTHORITY]),
    ("an empty path", &[METHOD, SCHEME, AUTHORITY, (":path", "")]),
    ("a path without a slash", &[METHOD, SCHEME, AUTHORITY, (":path", "a/b")]),
    ("an asterisk with GET", &[METHOD, SCHEME, AUTHORITY, (":path", "*")]),
    ("an absolute path", &[METHOD, SCHEME, AUTHORITY, (":path", "http://b/")]),
    ("a space in the path", &[METHOD, SCHEME, AUTHORITY, (":path", "/a b")]),
    ("CRLF in the path", &[METHOD, SCHEME, AUTHORITY, (":path", "/ HTTP/1.1\r\nx: y")]),
    ("NUL in the path", &[METHOD, SCHEME, AUTHORITY, (":path", "/a\0b")]),
    ("a tab in the path", &[METHOD, SCHEME, AUTHORITY, (":path", "/a\tb")]),
    ("an empty scheme", &[METHOD, (":scheme", ""), AUTHORITY, PATH]),
    ("another scheme", &[METHOD, (":scheme", "ftp"), AUTHORITY, PATH]),
    ("CRLF in the scheme", &[METHOD, (":scheme", "http\r\nx"), AUTHORITY, PATH]),
    ("an authority with userinfo", &[METHOD, SCHEME, (":authority", "u@a"), PATH]),
    ("an empty authority", &[METHOD, SCHEME, (":authority", ""), PATH]),
    ("an authority with a path", &[METHOD, SCHEME, (":authority", "a/b"), PATH]),
    ("an authority with a space", &[METHOD, SCHEME, (":authority", "a b"), PATH]),
    ("an authority with CRLF", &[METHOD, SCHEME, (":authority", "a\r\nx: y"), PATH]),
    ("an authority with a bad port", &[METHOD, SCHEME, (":authority", "a:99999"), PATH]),
    ("a port alone", &[METHOD, SCHEME, (":authority", ":80"), PATH]),
    ("a host unlike the authority", &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "b")]),
    ("two hosts", &[METHOD, SCHEME, PATH, ("host", "a"), ("host", "a")]),
    ("CONNECT", &[(":method", "CONNECT"), (":authority", "a:80")]),
    ("CONNECT with a path", &[(":method", "CONNECT"), SCHEME, AUTHORITY, PATH]),
    (
        "CONNECT for another protocol",
        &[(":method", "CONNECT"), (":protocol", "connect-udp"), SCHEME, AUTHORITY, PATH],
    ),
    (
        "TRACE that ends here",
        &[(":method", "TRACE"), SCHEME, AUTHORITY, PATH, ("max-forwards", "0")],
    ),
    (
        "two lengths",
        &[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "0"), ("content-length", "0")],
    ),
];

/// What is sent behind the head of a POST.
enum Part {
    Data(&'static str),
    Last(&'static str),
    Trailers(Field<'static>),
}

/// An announced length, and a body that breaks a rule.
const BODIES: &[(&str, Option<&str>, &[Part])] = &[
    ("less than announced", Some("5"), &[Part::Last("123")]),
    ("nothing of what was announced", Some("5"), &[Part::Last("")]),
    ("less than announced, in pieces", Some("5"), &[Part::Data("12"), Part::Last("34")]),
    ("more than announced", Some("5"), &[Part::Last("1234567")]),
    ("more than nothing", Some("0"), &[Part::Last("1")]),
    ("more, behind what was announced", Some("2"), &[Part::Data("12"), Part::Last("345")]),
    (
        "less than announced, then trailers",
        Some("5"),
        &[Part::Data("12"), Part::Trailers(("x", "y"))],
    ),
    ("connection in trailers", None, &[Part::Data("12"), Part::Trailers(("connection", "x"))]),
    (
        "transfer-encoding in trailers",
        None,
        &[Part::Data("12"), Part::Trailers(("transfer-encoding", "chunked"))],
    ),
];

/// A sound POST with one more field.
fn post<'a>(field: Field<'a>) -> Vec<Field<'a>> {
    request_with("POST", "/", &[field])
}

/// Why a stream was not refused as it has to be.
fn fault(answer: &Answer) -> Option<String> {
    let refused = match answer.end {
        Some(End::Whole) => matches!(answer.status(), 400 | 405),
        Some(End::Reset(code)) => answer.fields.is_empty() && code == PROTOCOL_ERROR,
        None => false,
    };
    (!refused).then(|| format!("{answer:?}"))
}

#[test]
fn what_breaks_a_rule_ends_its_stream_and_reaches_no_backend() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let behind = FIELDS.iter().map(|(what, field)| (*what, post(*field)));
    let heads = HEADS.iter().map(|(what, fields)| (*what, fields.to_vec()));
    let mut client = Frames::connect(proxy.address);
    let mut faults = Vec::new();
    for (what, fields) in behind.chain(heads) {
        let stream = client.ask(&fields);
        let answer = client.answer(stream);
        faults.extend(fault(&answer).map(|fault| format!("{what}: {fault}")));
        if !client.goaways.is_empty() {
            faults.push(format!("{what}: {:?}", client.goaways));
            client = Frames::connect(proxy.address);
        }
        let next = client.get("/next");
        let got = backend.take_got();
        let lines: Vec<&str> = got.iter().map(|got| got.line.as_str()).collect();
        if next.status() != 200 || lines != ["GET /next HTTP/1.1"] {
            faults.push(format!("{what}: the backend got {got:?}, the next {next:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn octets_that_no_field_may_have_end_the_connection_and_reach_no_backend() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut faults = Vec::new();
    for (what, field) in OCTETS {
        let mut client = Frames::connect(proxy.address);
        let stream = client.ask(&post(*field));
        let answer = client.answer(stream);
        let codes: Vec<u32> = client.goaways.iter().map(|(_, code)| *code).collect();
        if answer.end.is_some() || codes != [PROTOCOL_ERROR] {
            faults.push(format!("{what}: {answer:?} {codes:?}"));
        }
        let got = backend.take_got();
        if !got.is_empty() {
            faults.push(format!("{what}: the backend got {got:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let blamed = [("kind", "http2_protocol")];
    let blamed = || proxy.scrape().sum("cutover_client_errors_total", &blamed);
    eventually!(blamed() == OCTETS.len() as f64, "{} are blamed on their client", blamed());
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn a_body_that_breaks_a_rule_is_never_complete_at_the_backend() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Frames::connect(proxy.address);
    let mut faults = Vec::new();
    for (what, length, parts) in BODIES {
        let length: Vec<_> = length.iter().map(|length| ("content-length", *length)).collect();
        let stream = client.open(&request_with("POST", "/", &length));
        for part in *parts {
            match part {
                Part::Data(bytes) => client.data(stream, bytes),
                Part::Last(bytes) => client.last_data(stream, bytes),
                Part::Trailers(field) => {
                    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[*field]))
                }
            };
        }
        let answer = client.answer(stream);
        faults.extend(fault(&answer).map(|fault| format!("{what}: {fault}")));
        let next = client.get("/next");
        let got = backend.take_got();
        let whole: Vec<&str> =
            got.iter().filter(|got| got.complete).map(|got| got.line.as_str()).collect();
        if next.status() != 200 || whole != ["GET /next HTTP/1.1"] {
            faults.push(format!("{what}: the backend got {got:?}, the next {next:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}
