//! The rows of the conformance list that are refused: by the status, with a close, and without a
//! whole message at any backend.

use crate::harness::Setup;
use crate::harness::raw::{Ended, Raw, wire};
use crate::harness::raw_backend::Scripted;

/// The number of its row, and fields behind a sound request line and Host: 400.
const FIELDS: &[(u8, &str)] = &[
    (1, "Content-Length: 5|Transfer-Encoding: chunked"),
    (1, "Transfer-Encoding: chunked|Content-Length: 5"),
    (1, "transfer-encoding:chunked|X: y|CONTENT-LENGTH:0"),
    (2, "Content-Length: 5|Content-Length: 6"),
    (2, "Content-Length: 5, 6"),
    (3, "Content-Length: 5|Content-Length: 5"),
    (3, "Content-Length: 5, 5"),
    (4, "Content-Length: +5"),
    (4, "Content-Length: -0"),
    (4, "Content-Length: 0x5"),
    (4, "Content-Length: 5_0"),
    (4, "Content-Length: 5.0"),
    (4, "Content-Length: \"5\""),
    (4, "Content-Length: 5 5"),
    (4, "Content-Length:"),
    (4, "Content-Length: 18446744073709551616"),
    (5, "Content-Length: 005"),
    (6, "Transfer-Encoding: gzip"),
    (6, "Transfer-Encoding: identity"),
    (6, "Transfer-Encoding: chunked, gzip"),
    (6, "Transfer-Encoding:"),
    (7, "Transfer-Encoding: chunked, chunked"),
    (7, "Transfer-Encoding: chunked|Transfer-Encoding: chunked"),
    (7, "Transfer-Encoding: ,chunked"),
    (8, "Transfer-Encoding: gzip, chunked"),
    (8, "Transfer-Encoding: cow, chunked"),
    (8, "Transfer-Encoding: gzip|Transfer-Encoding: chunked"),
    (9, "Transfer-Encoding: chunked;q=1"),
    (9, "Transfer-Encoding: \"chunked\""),
    (9, "Transfer-Encoding: \x0bchunked"),
    (9, "Transfer-Encoding: chunked\x0c"),
    (9, "Transfer-Encoding: chunked\0"),
    (9, "Transfer-Encoding: \u{85}chunked"),
    (9, "Transfer-Encoding: chunked\u{a0}"),
    (11, "Transfer_Encoding: chunked"),
    (11, "Content_Length: 5"),
    (20, "Name : v"),
    (20, "Name\t: v"),
    (20, "Transfer-Encoding : chunked"),
    (22, "Name: v| folded"),
    (22, "Name: v|\tfolded"),
    (23, "Name: a\0b"),
    (23, "Name: a\rb"),
    (25, "Name"),
    (25, ": v"),
    (25, "na me: v"),
    (25, "na(me: v"),
    (40, "Host: a"),
    (40, "Host: b"),
    (44, "Connection: transfer-encoding|Transfer-Encoding: gzip, chunked"),
    (44, "Connection: content-length|Content-Length: 5|Transfer-Encoding: chunked"),
];

/// Request lines in front of a sound Host.
const LINES: &[(u16, u8, &str)] = &[
    (400, 28, "GET /"),
    (400, 28, "GET / HTTP/1"),
    (400, 28, "GET / http/1.1"),
    (400, 28, "GET / HTTP/1.1 "),
    (400, 30, "GET /a b HTTP/1.1"),
    (400, 30, "GET /a\0b HTTP/1.1"),
    (400, 30, "GET /a\x07b HTTP/1.1"),
    (400, 30, "GET * HTTP/1.1"),
    (400, 30, "GET a/b HTTP/1.1"),
    (400, 30, "GET @x HTTP/1.1"),
    (400, 30, "GET a:80 HTTP/1.1"),
    (400, 30, "GE(T / HTTP/1.1"),
    (400, 35, "GET http://user@a/ HTTP/1.1"),
    (400, 35, "GET http:///x HTTP/1.1"),
    (400, 35, "GET ftp://a/x HTTP/1.1"),
    (405, 36, "CONNECT a:80 HTTP/1.1"),
    (505, 28, "GET / HTTP/2.0"),
    (505, 29, "GET / HTTP/1.2"),
];

/// Whole requests.
const WHOLE: &[(u16, u8, &str)] = &[
    (400, 10, "POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked||0||"),
    (400, 24, "GET / HTTP/1.1| Host: a||"),
    (405, 38, "TRACE / HTTP/1.1|Host: a|Max-Forwards: 0||"),
    (400, 38, "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: x||"),
    (400, 40, "GET / HTTP/1.1||"),
    (400, 40, "GET / HTTP/1.0|Host: a|Host: a||"),
    (400, 40, "GET / HTTP/1.1|Host:||"),
    (400, 40, "GET / HTTP/1.1|Host: a/b||"),
    (400, 40, "GET / HTTP/1.1|Host: a@b||"),
    (400, 40, "GET / HTTP/1.1|Host: t example||"),
    (400, 40, "GET / HTTP/1.1|Host: :80abc||"),
    (400, 40, "GET / HTTP/1.1|Host: a:99999||"),
    (400, 40, "GET / HTTP/1.1|Host: [::1||"),
    (400, 40, "GET http://a/ HTTP/1.1||"),
];

fn refused() -> Vec<(u16, u8, Vec<u8>)> {
    let request = |line: &str, fields: &str| wire(&format!("{line}|Host: a|{fields}||"));
    let fields = FIELDS.iter();
    let fields = fields.map(|(row, fields)| (400, *row, request("POST /x HTTP/1.1", fields)));
    let lines = LINES.iter();
    let lines = lines.map(|(status, row, line)| (*status, *row, request(line, "N: v")));
    let whole = WHOLE.iter();
    let whole = whole.map(|(status, row, text)| (*status, *row, wire(text)));
    let get = "GET / HTTP/1.1";
    let large = [
        (414, 33, request(&format!("GET /{} HTTP/1.1", "a".repeat(100_000)), "N: v")),
        (431, 49, request(get, &"n: v|".repeat(100))),
        (431, 49, request(get, &format!("n: {}", "v".repeat(70_000)))),
    ];
    fields.chain(lines).chain(whole).chain(large).collect()
}

fn start(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(120)]).into_owned()
}

fn faults_of_refusal(status: u16, client: &mut Raw) -> Vec<String> {
    let reply = client.reply();
    let (rest, ended) = client.rest();
    let text = reply.text();
    let proxy_status = "cutover; error=http_request_error";
    let checks = [
        ("its status", reply.status() == status),
        ("a whole body", reply.complete),
        ("the close announced", reply.field("connection") == Some("close")),
        ("a close behind it", rest.is_empty() && ended == Ended::Closed),
        ("Proxy-Status", reply.field("proxy-status") == Some(proxy_status)),
        ("an id", reply.field("x-request-id").is_some_and(|id| id.len() == 32)),
        ("a sentence", text.ends_with(".\n") && text.lines().count() == 1),
    ];
    let missing = checks.iter().filter(|(_, holds)| !holds);
    missing.map(|(what, _)| format!("lacks {what}: {reply:?} {ended:?}")).collect()
}

#[test]
fn what_has_two_readings_is_refused_and_no_backend_sees_it() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut faults = Vec::new();
    let rows = refused();
    for (status, row, send) in &rows {
        let mut client = Raw::connect(proxy.address);
        client.send(send);
        // Whoever waits for what never comes would make a row take its whole patience.
        client.finish();
        let mut found = faults_of_refusal(*status, &mut client);
        let got = backend.take_got();
        if !got.is_empty() {
            found.push(format!("reached the backend as {got:?}"));
        }
        faults.extend(found.iter().map(|what| format!("row {row} {:?} {what}", start(send))));
    }
    let labels = [("path", "none")];
    let counted = proxy.scrape().sum("cutover_requests_total", &labels);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(counted, rows.len() as f64);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

// === Bodies that break ===

/// Chunked bodies.
const BROKEN: &[(u8, &str)] = &[
    (14, "0x5|hello|0||"),
    (14, "+5|hello|0||"),
    (14, "-5|hello|0||"),
    (14, "0_5|hello|0||"),
    (14, " 5|hello|0||"),
    (14, "|hello|0||"),
    (14, "G|hello|0||"),
    (14, "10000000000000000|hello|0||"),
    (15, "5\nhello|0||"),
    (15, "5\rhello|0||"),
    (15, "5;a\nb|hello|0||"),
    (15, "5;a\rb|hello|0||"),
    (15, "5|hello\n0||"),
    (16, "5|helloX0||"),
    (16, "5|hello!|0||"),
    (18, ""),
    (18, "5"),
    (18, "5|hel"),
    (18, "5|hello|"),
    (18, "5|hello|0|"),
    (18, "5|hello|0|X: y|"),
];

fn broken() -> Vec<(u8, Vec<u8>)> {
    let head = "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked||";
    let chunked = |body: &str| wire(&format!("{head}{body}"));
    let rows = BROKEN.iter().map(|(row, body)| (*row, chunked(body)));
    let more = [
        (13, wire("POST /x HTTP/1.1|Host: a|Content-Length: 10||hello")),
        (17, chunked(&format!("5;{}|hello|0||", "a".repeat(65_536)))),
    ];
    rows.chain(more).collect()
}

#[test]
fn a_broken_body_is_a_fault_of_its_client_and_never_complete_at_the_backend() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut faults = Vec::new();
    let rows = broken();
    for (row, send) in &rows {
        let mut client = Raw::connect(proxy.address);
        client.send(send);
        client.finish();
        let mut found = faults_of_refusal(400, &mut client);
        let next = Raw::connect(proxy.address).ask(wire("GET /next HTTP/1.1|Host: a||"));
        let got = backend.take_got();
        let mut whole = got.iter().filter(|got| got.complete);
        let first = whole.next().map(|got| got.line.as_str());
        if first != Some("GET /next HTTP/1.1") || whole.next().is_some() || next.status() != 200 {
            found.push(format!("became {got:?}, then {next:?}"));
        }
        faults.extend(found.iter().map(|what| format!("row {row} {:?} {what}", start(send))));
    }
    let labels = [("kind", "body_cut")];
    let blamed = proxy.scrape().sum("cutover_client_errors_total", &labels);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(blamed, rows.len() as f64);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn two_framings_behind_a_chunked_body_in_one_segment_are_no_way_in() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let head = "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked|";
    let both = format!("{head}|0||{head}Content-Length: 4||0||GET /smuggled HTTP/1.1|Host: a||");
    let mut client = Raw::connect(proxy.address);
    client.send(wire(&both));
    assert_eq!(client.reply().status(), 200);
    // Refused, or read in the one safe way; closed in any case, so that nothing behind it counts.
    assert!([200, 400].contains(&client.reply().status()));
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    for got in backend.take_got() {
        assert_eq!((got.line.as_str(), got.field("content-length")), ("POST /x HTTP/1.1", None));
    }
}
