//! The rows of the conformance list that are refused: by the status, with a close, and without a
//! whole message at any backend.

use crate::harness::Setup;
use crate::harness::raw::{Ended, Raw, wire};
use crate::harness::raw_backend::Scripted;

/// The section that says so (or the threat), and fields behind a sound request line and Host: 400.
const FIELDS: &[(&str, &str)] = &[
    ("9112 6.1", "Content-Length: 5|Transfer-Encoding: chunked"),
    ("9112 6.1", "Transfer-Encoding: chunked|Content-Length: 5"),
    ("9112 6.1", "transfer-encoding:chunked|X: y|CONTENT-LENGTH:0"),
    ("9112 6.3", "Content-Length: 5|Content-Length: 6"),
    ("9112 6.3", "content-length: 5|X: y|CONTENT-LENGTH: 6"),
    ("9112 6.3", "Content-Length: 0|Content-Length: 5"),
    ("9112 6.3", "Content-Length: 5, 6"),
    ("9112 6.3", "Content-Length: 5|Content-Length: 5"),
    ("9112 6.3", "Content-Length: 5, 5"),
    ("9110 8.6", "Content-Length: +5"),
    ("9110 8.6", "Content-Length: -0"),
    ("9110 8.6", "Content-Length: 0x5"),
    ("9110 8.6", "Content-Length: 5_0"),
    ("9110 8.6", "Content-Length: 5.0"),
    ("9110 8.6", "Content-Length: \"5\""),
    ("9110 8.6", "Content-Length: 5 5"),
    ("9110 8.6", "Content-Length:"),
    ("9110 8.6", "Content-Length: 18446744073709551616"),
    ("9110 8.6", "Content-Length: 5,"),
    ("9110 8.6", "Content-Length: ,5"),
    ("9110 8.6", "Content-Length: -5"),
    ("9110 8.6", "Content-Length: 1e1"),
    ("9110 8.6", "Content-Length: 5;q=1"),
    ("9110 8.6", "Content-Length: \u{b2}"),
    ("9110 8.6", "Content-Length: 00"),
    ("9110 8.6", "Content-Length: 005"),
    ("9112 6.3", "Transfer-Encoding: gzip"),
    ("9112 6.3", "Transfer-Encoding: identity"),
    ("9112 6.3", "Transfer-Encoding: chunked, gzip"),
    ("9112 6.3", "Transfer-Encoding:"),
    ("9112 6.1", "Transfer-Encoding: chunked, chunked"),
    ("9112 6.1", "Transfer-Encoding: chunked|Transfer-Encoding: chunked"),
    ("9112 6.1", "Transfer-Encoding: ,chunked"),
    ("9112 6.1", "Transfer-Encoding: chunked,"),
    ("9112 6.1", "Transfer-Encoding: chunked|X: y|Transfer-Encoding: identity"),
    ("9112 6.1", "Transfer-Encoding: identity|Transfer-Encoding: chunked"),
    ("9112 6.1", "Transfer-Encoding: identity, chunked"),
    ("9112 6.1", "Transfer-Encoding: chunked, cow"),
    ("9112 6.1", "Transfer-Encoding: gzip|Content-Length: 5"),
    ("9112 6.1", "Transfer-Encoding: gzip, chunked"),
    ("9112 6.1", "Transfer-Encoding: cow, chunked"),
    ("9112 6.1", "Transfer-Encoding: gzip|Transfer-Encoding: chunked"),
    ("9112 7", "Transfer-Encoding: chunked;q=1"),
    ("9112 7", "Transfer-Encoding: \"chunked\""),
    ("9112 7", "Transfer-Encoding: \x0bchunked"),
    ("9112 7", "Transfer-Encoding: chunked\x0c"),
    ("9112 7", "Transfer-Encoding: chunked\0"),
    ("9112 7", "Transfer-Encoding: \u{85}chunked"),
    ("9112 7", "Transfer-Encoding: chunked\u{a0}"),
    ("9112 7", "Transfer-Encoding: xchunked"),
    ("9112 7", "Transfer-Encoding: chunkedx"),
    ("9112 7", "Transfer-Encoding: chu nked"),
    ("9112 7", "Transfer-Encoding: chunked;"),
    ("9112 7", "Transfer-Encoding: chunked chunked"),
    ("9112 7", "Transfer-Encoding: 'chunked'"),
    ("9112 7", "Transfer-Encoding: chunked\x7f"),
    ("underscores", "Transfer_Encoding: chunked"),
    ("underscores", "Content_Length: 5"),
    ("underscores", "TRANSFER_ENCODING: chunked"),
    ("underscores", "content_length: 0"),
    ("9112 5.1", "Name : v"),
    ("9112 5.1", "Name\t: v"),
    ("9112 5.1", "Transfer-Encoding : chunked"),
    ("9112 5.1", "Content-Length : 5"),
    ("9112 5.1", "Transfer-Encoding\x0b: chunked"),
    ("9112 5.1", "Transfer-Encoding\0: chunked"),
    ("9112 5.1", "Host : b"),
    ("9112 5.2", "Name: v| folded"),
    ("9112 5.2", "Name: v|\tfolded"),
    ("9112 5.2", "Transfer-Encoding:| chunked"),
    ("9112 5.2", "Content-Length: 5|\t6"),
    ("9112 5.2", " Transfer-Encoding: chunked"),
    ("9110 5.5", "Name: a\0b"),
    ("9110 5.5", "Name: a\rb"),
    ("9110 5.5", "Name: \0"),
    ("9110 5.5", "Name: a\r"),
    ("9110 5.5", "Name: \ra"),
    ("9110 5.5", "Name: a\x07b"),
    ("9110 5.5", "Name: a\x7fb"),
    ("9112 11.1", "Name: a\rX-Injected: b"),
    ("9112 5", "Name"),
    ("9112 5", ": v"),
    ("9112 5", "na me: v"),
    ("9112 5", "na(me: v"),
    ("9112 5", "na@me: v"),
    ("9112 5", "na/me: v"),
    ("9112 5", "na\u{e9}me: v"),
    ("9112 5", "na\0me: v"),
    ("9112 5", "\"name\": v"),
    ("9112 5", "{name}: v"),
    ("9112 5", ":"),
    ("9112 5", "GET /smuggled HTTP/1.1"),
    ("9112 5", "Transfer Encoding: chunked"),
    ("9112 3.2", "Host: a"),
    ("9112 3.2", "Host: b"),
    ("9112 3.2", "HOST: a"),
    ("9112 3.2", "Host:"),
    ("CVE-2026-26365", "Connection: transfer-encoding|Transfer-Encoding: gzip, chunked"),
    ("CVE-2026-26365", "Connection: content-length|Content-Length: 5|Transfer-Encoding: chunked"),
];

/// Request lines in front of a sound Host.
const LINES: &[(u16, &str, &str)] = &[
    (400, "9112 2.3", "GET /"),
    (400, "9112 2.3", "GET / HTTP/1"),
    (400, "9112 2.3", "GET / http/1.1"),
    (400, "9112 2.3", "GET / HTTP/1.1 "),
    (400, "9112 2.3", "GET / HTTP/"),
    (400, "9112 2.3", "GET / HTTP/1."),
    (400, "9112 2.3", "GET / HTTP/1,1"),
    (400, "9112 2.3", "GET / HTTP/01.1"),
    (400, "9112 2.3", "GET / HTTP/1.10"),
    (400, "9112 2.3", "GET / HTTP /1.1"),
    (400, "9112 2.3", "GET / HTTPS/1.1"),
    (400, "9112 2.3", "GET / HTTP/1.1\0"),
    (400, "9112 3", "GET"),
    (400, "9112 3", "/ HTTP/1.1"),
    (400, "9112 3", " GET / HTTP/1.1"),
    (400, "9112 3", "\tGET / HTTP/1.1"),
    (400, "9112 3", "GET\t/ HTTP/1.1"),
    (400, "9112 3", "GET  / HTTP/1.1"),
    (400, "9112 3", "GET /  HTTP/1.1"),
    (400, "9112 3", "GET /\tHTTP/1.1"),
    (400, "9112 3", "GET / HTTP/1.1 x"),
    (400, "9112 3", "GET / HTTP/1.1 HTTP/1.1"),
    (400, "9112 3.1", "G\u{c9}T / HTTP/1.1"),
    (400, "9112 3.1", "\0GET / HTTP/1.1"),
    (400, "9112 3.1", "GE:T / HTTP/1.1"),
    (400, "9112 3.1", "\"GET\" / HTTP/1.1"),
    (400, "9112 3.2", "GET /a b HTTP/1.1"),
    (400, "9112 3.2", "GET /a\0b HTTP/1.1"),
    (400, "9112 3.2", "GET /a\x07b HTTP/1.1"),
    (400, "9112 3.2", "GET * HTTP/1.1"),
    (400, "9112 3.2", "GET a/b HTTP/1.1"),
    (400, "9112 3.2", "GET @x HTTP/1.1"),
    (400, "9112 3.2", "GET a:80 HTTP/1.1"),
    (400, "9112 3.2", "GET ?q HTTP/1.1"),
    (400, "9112 3.2", "GET #f HTTP/1.1"),
    (400, "9112 3.2", "GET a.example HTTP/1.1"),
    (400, "9112 3.2", "GET /a\x7fb HTTP/1.1"),
    (400, "9112 3.2", "GET /a\tb HTTP/1.1"),
    (400, "9112 3.2", "GET /a\rb HTTP/1.1"),
    (400, "9112 3.2", "GET /?a\0b HTTP/1.1"),
    (400, "9112 3.2", "GET /?a\x1fb HTTP/1.1"),
    (400, "9112 3.2", "GET /?a\x7fb HTTP/1.1"),
    (400, "9112 3.2", "GET /a\u{ff}b HTTP/1.1"),
    (400, "9112 3.2", "GET /<a> HTTP/1.1"),
    (400, "9112 3.2.3", "GET [::1]:80 HTTP/1.1"),
    (400, "9112 3.2.4", "DELETE * HTTP/1.1"),
    (400, "9112 3.2.4", "POST * HTTP/1.1"),
    (400, "9112 3.2.4", "OPTIONS *x HTTP/1.1"),
    (400, "9112 3.2.4", "OPTIONS x HTTP/1.1"),
    (400, "9112 3.2", "GE(T / HTTP/1.1"),
    (400, "9110 4.2", "GET http://user@a/ HTTP/1.1"),
    (400, "9110 4.2", "GET http:///x HTTP/1.1"),
    (400, "9110 4.2", "GET ftp://a/x HTTP/1.1"),
    (400, "9110 4.2", "GET https://user:pw@a/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://@a/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://a@b@c/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://:80/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://a:99999/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://a:b/ HTTP/1.1"),
    (400, "9110 4.2", "GET http://[::1/ HTTP/1.1"),
    (400, "9110 4.2", "GET http:/x HTTP/1.1"),
    (400, "9110 4.2", "GET http:x HTTP/1.1"),
    (400, "9110 4.2", "GET http://a\\b/ HTTP/1.1"),
    (400, "9110 4.2", "GET file:///etc/passwd HTTP/1.1"),
    (400, "9110 4.2", "GET javascript:alert(1) HTTP/1.1"),
    (405, "9110 9.3.6", "CONNECT a:80 HTTP/1.1"),
    (405, "9110 9.3.6", "CONNECT [::1]:9900 HTTP/1.1"),
    (505, "9112 2.3", "GET / HTTP/2.0"),
    (505, "9112 2.3", "GET / HTTP/3.0"),
    (505, "9112 2.3", "GET / HTTP/0.9"),
    (505, "9112 2.3", "GET / HTTP/0.0"),
    (505, "9112 2.3", "PRI * HTTP/2.0"),
    (505, "9110 2.5", "GET / HTTP/1.2"),
    (505, "9110 2.5", "GET / HTTP/1.9"),
];

/// Whole requests.
const WHOLE: &[(u16, &str, &str)] = &[
    (400, "9112 6.1", "POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked||0||"),
    (
        400,
        "9112 6.1",
        "POST / HTTP/1.0|Host: a|Connection: keep-alive|Transfer-Encoding: chunked||0||",
    ),
    (400, "9112 6.1", "GET / HTTP/1.0|Host: a|Content-Length: 5|Transfer-Encoding: chunked||0||"),
    (400, "9112 6.1", "GET / HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: chunked||0||"),
    (400, "9112 6.1", "GET / HTTP/1.1|Transfer-Encoding: chunked|Host: a|Content-Length: 0||0||"),
    (
        400,
        "9112 11.2",
        "POST / HTTP/1.1|Host: a|Content-Length: 44|Transfer-Encoding: chunked||0||GET /smuggled HTTP/1.1|Host: a||",
    ),
    (
        400,
        "9112 11.2",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0||",
    ),
    (400, "9112 11.2", "POST / HTTP/1.1|Host: a|Content-Length: 5\nContent-Length: 6||hello"),
    (
        400,
        "9112 11.2",
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-encoding: x||0||",
    ),
    (400, "9112 2.2", "GET / HTTP/1.1\rHost: a\r\r"),
    (400, "9112 2.2", "GET / HTTP/1.1\r|Host: a||"),
    (400, "9112 2.2", "GET / HTTP/1.1|Host: a|\r\r\n|"),
    (400, "9112 2.2", "GET / HTTP/1.1|\tHost: a||"),
    (400, "9112 2.2", "GET / HTTP/1.1| X: y|Host: a||"),
    (400, "9112 2.2", " |GET / HTTP/1.1|Host: a||"),
    (400, "9112 2.2", "\r\rGET / HTTP/1.1|Host: a||"),
    (400, "9112 2.2", "\u{ef}\u{bb}\u{bf}GET / HTTP/1.1|Host: a||"),
    (400, "9112 2.2", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03||"),
    (400, "9112 2.2", "GET / HTTP/1.1| Host: a||"),
    (405, "9110 7.6.2", "TRACE / HTTP/1.1|Host: a|Max-Forwards: 0||"),
    (400, "9110 7.6.2", "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: x||"),
    (400, "9110 7.6.2", "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: -1||"),
    (400, "9110 7.6.2", "OPTIONS / HTTP/1.1|Host: a|Max-Forwards:||"),
    (400, "9110 7.6.2", "TRACE / HTTP/1.1|Host: a|Max-Forwards: 1, 2||"),
    (405, "9110 9.3.6", "CONNECT / HTTP/1.1|Host: a||"),
    (405, "9110 9.3.6", "CONNECT http://a/ HTTP/1.1|Host: a||"),
    (400, "9112 3.2", "GET / HTTP/1.1||"),
    (400, "9112 3.2", "GET / HTTP/1.0|Host: a|Host: a||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host:||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a/b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a@b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: t example||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: :80abc||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a:99999||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: [::1||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: [::1]x||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: ::1||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a:b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a:-1||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a:80:80||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a, b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a?b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a#b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a\\b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: \u{e9}||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: a\0||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: http://a||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Host: <script>||"),
    (400, "9112 3.2", "GET http://b/ HTTP/1.1|Host: a@b||"),
    (400, "9112 3.2", "GET http://b/ HTTP/1.1|Host: b|Host: b||"),
    (400, "9112 3.2", "GET / HTTP/1.1|Hos: a||"),
    (400, "9112 3.2", "GET http://a/ HTTP/1.1||"),
];

fn refused() -> Vec<(u16, &'static str, Vec<u8>)> {
    let request = |line: &str, fields: &str| wire(&format!("{line}|Host: a|{fields}||"));
    let fields = FIELDS.iter();
    let fields = fields.map(|(row, fields)| (400, *row, request("POST /x HTTP/1.1", fields)));
    let lines = LINES.iter();
    let lines = lines.map(|(status, row, line)| (*status, *row, request(line, "N: v")));
    let whole = WHOLE.iter();
    let whole = whole.map(|(status, row, text)| (*status, *row, wire(text)));
    let get = "GET / HTTP/1.1";
    let large = [
        (414, "9112 3", request(&format!("GET /{} HTTP/1.1", "a".repeat(100_000)), "N: v")),
        (431, "9110 5.4", request(get, &"n: v|".repeat(100))),
        (431, "9110 5.4", request(get, &format!("n: {}", "v".repeat(70_000)))),
    ];
    fields.chain(lines).chain(whole).chain(large).collect()
}

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    refused().into_iter().map(|(_, section, _)| section).collect()
}

pub(crate) fn start(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(120)]).into_owned()
}

pub(crate) fn faults_of_refusal(status: u16, client: &mut Raw) -> Vec<String> {
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
