//! The rows of the conformance list whose requests are forwarded: once, and as they should be.

use crate::harness::Setup;
use crate::harness::raw::{Message, Raw, wire};
use crate::harness::raw_backend::Scripted;

/// A request and what the backend must get: its line, its fields beside those that the proxy adds
/// to every request (in any order but that of equal names), and its body.
struct Row {
    number: u8,
    send: Vec<u8>,
    line: String,
    fields: String,
    body: &'static str,
}

/// Method, fields and body; then the framing and the body that the backend must get.
const FRAMED: &[(u8, &str, [&str; 2], [&str; 2])] = &[
    (12, "GET", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    (12, "GET", [FIVE, "hello"], [FIVE, "hello"]),
    (12, "HEAD", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    (12, "HEAD", [FIVE, "hello"], [FIVE, "hello"]),
    (12, "DELETE", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    (12, "DELETE", [FIVE, "hello"], [FIVE, "hello"]),
    (12, "OPTIONS", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    (12, "OPTIONS", [FIVE, "hello"], [FIVE, "hello"]),
    (12, "POST", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    (12, "POST", ["transfer-encoding:CHUNKED", HELLO], [CHUNKED, "hello"]),
    (12, "POST", ["Content-Length: 0", ""], ["Content-Length: 0", ""]),
    (12, "POST", [CHUNKED, "0||"], [CHUNKED, ""]),
    (17, "POST", [CHUNKED, "5;a=b;c=\"d\"|hello|0;e||"], [CHUNKED, "hello"]),
    (14, "POST", [CHUNKED, "0000A|hellohello|000||"], [CHUNKED, "hellohello"]),
    (19, "POST", [CHUNKED, "5|hello|0|X-Sum: 1||"], [CHUNKED, "hello"]),
    (19, "POST", [CHUNKED, "5|hello|0|Content-Length: 9|Host: b||"], [CHUNKED, "hello"]),
    (19, "POST", [CHUNKED, "5|hello|0|Authorization: b||"], [CHUNKED, "hello"]),
    (19, "POST", [CHUNKED, "5|hello|0|Transfer-Encoding: gzip||"], [CHUNKED, "hello"]),
    (44, "POST", ["Content-Length: 5|Connection: content-length", "hello"], [FIVE, "hello"]),
    (
        44,
        "POST",
        ["Transfer-Encoding: chunked|Connection: transfer-encoding", HELLO],
        [CHUNKED, "hello"],
    ),
    (44, "POST", ["Content-Length: 5|Connection: host, close", "hello"], [FIVE, "hello"]),
];

const CHUNKED: &str = "Transfer-Encoding: chunked";
const FIVE: &str = "Content-Length: 5";
const HELLO: &str = "5|hello|0||";

/// Request line; then the line and the Host that the backend must get.
const TARGETS: &[(u8, &str, &str, &str)] = &[
    (31, "GET /x#part HTTP/1.1", "GET /x HTTP/1.1", "a"),
    (32, "GET /a/..//%2e?x=%2F HTTP/1.1", "GET /a/..//%2e?x=%2F HTTP/1.1", "a"),
    (32, "GET /%00/%ff;p=1?a=1&&b=?c HTTP/1.1", "GET /%00/%ff;p=1?a=1&&b=?c HTTP/1.1", "a"),
    (32, "GET //a/b HTTP/1.1", "GET //a/b HTTP/1.1", "a"),
    (32, "GET /? HTTP/1.1", "GET /? HTTP/1.1", "a"),
    (34, "GET http://b.example:81/x?q HTTP/1.1", "GET /x?q HTTP/1.1", "b.example:81"),
    (34, "GET HTTP://b.example HTTP/1.1", "GET / HTTP/1.1", "b.example"),
    (34, "GET http://b.example?q HTTP/1.1", "GET /?q HTTP/1.1", "b.example"),
    (35, "GET http://192.0.2.1:1/ HTTP/1.1", "GET / HTTP/1.1", "192.0.2.1:1"),
    (37, "OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1", "a"),
    (39, "FROB /x HTTP/1.1", "FROB /x HTTP/1.1", "a"),
    (39, "get /x HTTP/1.1", "get /x HTTP/1.1", "a"),
];

/// Fields behind Host, and those that the backend must get behind it.
const FIELDS: &[(u8, &str, &str)] = &[
    (38, "Max-Forwards: 0", "|Max-Forwards: 0"),
    (42, "Connection: a, B|Connection: c|A: 1|B: 2|C: 3|D: 4", "|D: 4"),
    (43, "Keep-Alive: timeout=5|Proxy-Connection: x|TE: gzip|Upgrade: y", ""),
    (43, "Proxy: b|Proxy-Authorization: c|X-Cutover-Path: async|X-Cutover-Any: d", ""),
    (45, "Connection: x-forwarded-for, x-forwarded-proto, x-forwarded-host", ""),
    (45, "Connection: via, x-request-id, traceparent", ""),
    (46, "Via: 1.0 b", "|Via: 1.0 b"),
    (47, "N: 1|O: x|n: 2|N: 3", "|N: 1|N: 2|N: 3|O: x"),
    (47, "Cookie: a=1|Cookie: b=2", "|Cookie: a=1|Cookie: b=2"),
    (47, "Empty:|Spaces: \t a  b \t", "|Empty: |Spaces: a  b"),
    (48, "N: \u{80}\u{ff}\u{c3}\u{a9}", "|N: \u{80}\u{ff}\u{c3}\u{a9}"),
    (50, "Expect: 100-continue", ""),
    (52, "Upgrade: websocket", ""),
    (52, "Connection: upgrade, http2-settings|Upgrade: h2c|HTTP2-Settings: AA", ""),
    (0, "X-Forwarded-For: 9.9.9.9|X-Forwarded-Host: b|X-Forwarded-Proto: https", ""),
    (0, "Forwarded: for=9.9.9.9|X-Real-IP: 9.9.9.9|X-Forwarded-Port: 1", ""),
];

/// Whole requests, and the line and fields that the backend must get.
const WHOLE: &[(u8, &str, &str, &str)] = &[
    (26, "GET /x HTTP/1.1\nHost: a\nn: v\n\n", "GET /x HTTP/1.1", "Host: a|N: v"),
    (27, "|GET /x HTTP/1.1|Host: a||", "GET /x HTTP/1.1", "Host: a"),
    (27, "||GET /x HTTP/1.1|Host: a||", "GET /x HTTP/1.1", "Host: a"),
    (
        38,
        "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: 7||",
        "OPTIONS / HTTP/1.1",
        "Host: a|Max-Forwards: 6",
    ),
    (
        38,
        "TRACE / HTTP/1.1|Host: a|Max-Forwards: 1||",
        "TRACE / HTTP/1.1",
        "Host: a|Max-Forwards: 0",
    ),
];

fn rows() -> Vec<Row> {
    let row = |number: u8, send: &str, line: &str, fields: &str, body| Row {
        number,
        send: wire(send),
        line: line.to_owned(),
        fields: fields.to_owned(),
        body,
    };
    let framed = FRAMED.iter().map(|(number, method, [fields, body], [framing, whole])| {
        let line = format!("{method} /x HTTP/1.1");
        let send = format!("{line}|Host: a|{fields}||{body}");
        row(*number, &send, &line, &format!("Host: a|{framing}"), whole)
    });
    let targets = TARGETS.iter().map(|(number, sent, line, host)| {
        row(*number, &format!("{sent}|Host: a||"), line, &format!("Host: {host}"), "")
    });
    let fields = FIELDS.iter().map(|(number, fields, got)| {
        let send = format!("GET /x HTTP/1.1|Host: a|{fields}||");
        row(*number, &send, "GET /x HTTP/1.1", &format!("Host: a{got}"), "")
    });
    let whole = WHOLE.iter();
    let whole = whole.map(|(number, send, line, fields)| row(*number, send, line, fields, ""));
    framed.chain(targets).chain(fields).chain(whole).collect()
}

/// The fields beside those that the proxy adds to every request; each of which must be there.
fn beside_own(fields: &[String], faults: &mut Vec<String>) -> Vec<String> {
    let mut rest = fields.to_vec();
    let mut take = |own: &str, length: usize| {
        let is_own = |field: &String| field.starts_with(own) && field.len() == own.len() + length;
        match rest.iter().rposition(is_own) {
            Some(place) => drop(rest.remove(place)),
            None => faults.push(format!("lacks {own:?}")),
        }
    };
    let host = fields.iter().find_map(|field| field.strip_prefix("Host: "));
    take(&format!("X-Forwarded-Host: {}", host.unwrap_or_default()), 0);
    for own in ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "Via: 1.1 cutover"] {
        take(own, 0);
    }
    take("X-Request-Id: ", 32);
    take("Traceparent: 00-", 52);
    by_name(rest)
}

fn by_name(mut fields: Vec<String>) -> Vec<String> {
    fields.sort_by_key(|field| field.split(':').next().map(str::to_ascii_lowercase));
    fields
}

fn faults(row: &Row, got: &Message, reply: &Message) -> Vec<String> {
    let mut faults = Vec::new();
    let rest = beside_own(&got.fields, &mut faults);
    let expected = by_name(row.fields.split('|').map(str::to_owned).collect());
    let line_ends = got.raw.iter().filter(|byte| **byte == b'\n').count();
    let crlf = got.raw.windows(2).filter(|pair| pair == b"\r\n").count();
    let checks = [
        ("its line", got.line == row.line),
        ("its fields", rest == expected),
        ("its body", got.body == row.body.as_bytes() && got.complete),
        ("an end without trailers", got.trailers.is_empty()),
        ("CRLF", line_ends == crlf),
        ("a reply", reply.status() == 200),
    ];
    let missing = checks.iter().filter(|(_, holds)| !holds);
    faults.extend(missing.map(|(what, _)| format!("lacks {what}")));
    faults
}

#[test]
fn what_is_sound_goes_on_once_and_as_it_should_be() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut all = Vec::new();
    for row in rows() {
        let mut client = Raw::connect(proxy.address);
        client.send(&row.send);
        let is_head = row.line.starts_with("HEAD");
        let reply = if is_head { client.head_reply() } else { client.reply() };
        let got = backend.take_got();
        let found = match &got[..] {
            [got] => faults(&row, got, &reply),
            _ => vec!["is not one request".to_owned()],
        };
        let sent = String::from_utf8_lossy(&row.send).into_owned();
        let number = row.number;
        all.extend(found.iter().map(|what| format!("row {number} {sent:?} {what}: {got:?}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
