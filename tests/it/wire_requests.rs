//! The rows whose requests are forwarded: once, and as they should be.

use crate::harness::Setup;
use crate::harness::raw::{Message, Raw, wire};
use crate::harness::raw_backend::Scripted;
use crate::wire_targets::{PATHS, TARGETS};

/// A request and what the backend must get: its line, its fields beside those that the proxy adds
/// to every request (in any order but that of equal names), and its body.
struct Row {
    section: &'static str,
    send: Vec<u8>,
    line: String,
    fields: String,
    body: &'static str,
}

/// The section that says so (or the threat), method, fields and body; then the framing and the body that the backend must get.
const FRAMED: &[(&str, &str, [&str; 2], [&str; 2])] = &[
    ("9112 6", "GET", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "GET", [FIVE, "hello"], [FIVE, "hello"]),
    ("9112 6", "HEAD", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "HEAD", [FIVE, "hello"], [FIVE, "hello"]),
    ("9112 6", "DELETE", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "DELETE", [FIVE, "hello"], [FIVE, "hello"]),
    ("9112 6", "OPTIONS", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "OPTIONS", [FIVE, "hello"], [FIVE, "hello"]),
    ("9112 6", "POST", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "POST", ["transfer-encoding:CHUNKED", HELLO], [CHUNKED, "hello"]),
    ("9112 6", "PUT", [FIVE, "hello"], [FIVE, "hello"]),
    ("9112 6", "PATCH", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "FROB", [CHUNKED, HELLO], [CHUNKED, "hello"]),
    ("9112 6", "GET", ["Content-Length: 0", ""], ["Content-Length: 0", ""]),
    ("9112 6.1", "POST", ["Transfer-Encoding:\t Chunked \t", HELLO], [CHUNKED, "hello"]),
    ("9112 6.2", "POST", ["CONTENT-LENGTH:\t 5 \t", "hello"], [FIVE, "hello"]),
    ("9112 6.2", "POST", ["content-length:5", "hello"], [FIVE, "hello"]),
    ("9112 6.3", "POST", ["N: v", ""], ["N: v", ""]),
    ("9112 6", "POST", ["Content-Length: 0", ""], ["Content-Length: 0", ""]),
    ("9112 6", "POST", [CHUNKED, "0||"], [CHUNKED, ""]),
    ("9112 7.1.1", "POST", [CHUNKED, "5;a=b;c=\"d\"|hello|0;e||"], [CHUNKED, "hello"]),
    ("9112 7.1.1", "POST", [CHUNKED, "5 ; a = b|hello|0||"], [CHUNKED, "hello"]),
    ("9112 7.1.1", "POST", [CHUNKED, "5;a=\"; 0\"|hello|0||"], [CHUNKED, "hello"]),
    ("9112 7.1", "POST", [CHUNKED, "a|hellohello|0||"], [CHUNKED, "hellohello"]),
    ("9112 7.1", "POST", [CHUNKED, "1|h|1|e|1|l|1|l|1|o|0||"], [CHUNKED, "hello"]),
    ("9112 7.1", "POST", [CHUNKED, "8|0||GET|0||"], [CHUNKED, "0\r\n\r\nGET"]),
    ("9112 7.1", "POST", [CHUNKED, "0000A|hellohello|000||"], [CHUNKED, "hellohello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|X-Sum: 1||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|Connection: close||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|X-Forwarded-For: 9.9.9.9||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|Cookie: a=1|Set-Cookie: b||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|Content-Length: 9|Host: b||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|Authorization: b||"], [CHUNKED, "hello"]),
    ("9110 6.5.1", "POST", [CHUNKED, "5|hello|0|Transfer-Encoding: gzip||"], [CHUNKED, "hello"]),
    (
        "CVE-2026-26365",
        "POST",
        ["Content-Length: 5|Connection: content-length", "hello"],
        [FIVE, "hello"],
    ),
    (
        "CVE-2026-26365",
        "POST",
        ["Transfer-Encoding: chunked|Connection: transfer-encoding", HELLO],
        [CHUNKED, "hello"],
    ),
    (
        "CVE-2026-26365",
        "POST",
        ["Content-Length: 5|Connection: host, close", "hello"],
        [FIVE, "hello"],
    ),
    (
        "CVE-2026-26365",
        "GET",
        ["Connection: CONTENT-LENGTH|Content-Length: 5", "hello"],
        [FIVE, "hello"],
    ),
    ("9110 10.1.1", "POST", ["Expect: 100-continue|Content-Length: 5", "hello"], [FIVE, "hello"]),
    (
        "9110 10.1.1",
        "POST",
        ["Expect: 100-Continue|Transfer-Encoding: chunked", HELLO],
        [CHUNKED, "hello"],
    ),
];

const CHUNKED: &str = "Transfer-Encoding: chunked";
const FIVE: &str = "Content-Length: 5";
const HELLO: &str = "5|hello|0||";

/// Fields behind Host, and those that the backend must get behind it.
const FIELDS: &[(&str, &str, &str)] = &[
    ("9110 7.6.2", "Max-Forwards: 0", "|Max-Forwards: 0"),
    ("9110 7.6.1", "Connection: a, B|Connection: c|A: 1|B: 2|C: 3|D: 4", "|D: 4"),
    ("9110 7.6.1", "CONNECTION: A|a: 1", ""),
    ("9110 7.6.1", "Connection: ,, a ,\t,|A: 1|B: 2", "|B: 2"),
    ("9110 7.6.1", "Connection:|A: 1", "|A: 1"),
    ("9110 7.6.1", "Connection: @, a b, \"c\"|A: 1|B: 2|C: 3", "|A: 1|B: 2|C: 3"),
    ("9110 7.6.1", "Connection: keep-alive, a|A: 1|A: 2", ""),
    ("9110 7.6.1", "Connection: close, a|A: 1|Close: 2", "|Close: 2"),
    ("9110 7.6.1", "Connection: connection|Connection: keep-alive", ""),
    ("9110 7.6.1", "Connection: cookie|Cookie: a=1|Cookie: b=2", ""),
    ("9110 7.6.1", "Keep-Alive: timeout=5, max=9|Connection: Keep-Alive", ""),
    ("9110 10.1.4", "TE: trailers", "|Connection: TE|Te: trailers"),
    ("9110 10.1.4", "TE: Trailers;q=0.5, gzip|Connection: TE", ""),
    ("9110 10.1.4", "Connection: te|TE: trailers, gzip;q=0.5", "|Connection: TE|Te: trailers"),
    ("9110 6.6.2", "Trailer: X-Sum", "|Trailer: X-Sum"),
    ("9110 7.6.1", "Keep-Alive: timeout=5|Proxy-Connection: x|TE: gzip|Upgrade: y", ""),
    ("9110 7.6.1", "Proxy: b|Proxy-Authorization: c|X-Cutover-Path: async|X-Cutover-Any: d", ""),
    ("CVE-2024-45410", "Connection: x-forwarded-for, x-forwarded-proto, x-forwarded-host", ""),
    ("CVE-2024-45410", "Connection: via, x-request-id, traceparent", ""),
    ("CVE-2024-45410", "Connection: X-Forwarded-For|Connection: X-Real-Ip|X-Real-Ip: 9.9.9.9", ""),
    ("CVE-2024-45410", "Connection: close, via, forwarded|Forwarded: for=9.9.9.9", ""),
    ("CVE-2026-26365", "Connection: host", ""),
    ("CVE-2016-5385", "Proxy: http://evil.example/", ""),
    ("CVE-2016-5385", "PROXY: a|proxy: b", ""),
    ("9110 7.6.3", "Via: 1.0 b", "|Via: 1.0 b"),
    (
        "9110 7.6.3",
        "Via: 1.0 b|Via: HTTP/1.1 c (x), 2.0 d",
        "|Via: 1.0 b|Via: HTTP/1.1 c (x), 2.0 d",
    ),
    ("9110 7.6.3", "Via:", "|Via: "),
    ("9110 5.3", "N: 1|O: x|n: 2|N: 3", "|N: 1|N: 2|N: 3|O: x"),
    ("9110 5.3", "Cookie: a=1|Cookie: b=2", "|Cookie: a=1|Cookie: b=2"),
    ("9110 5.3", "Empty:|Spaces: \t a  b \t", "|Empty: |Spaces: a  b"),
    ("9110 5.3", "Accept: a|Accept:|Accept: b, c", "|Accept: a|Accept: |Accept: b, c"),
    ("9110 5.3", "Authorization: Basic a|N: v", "|Authorization: Basic a|N: v"),
    ("9110 5.3", "Set-Cookie: a=1|Set-Cookie: b=2", "|Set-Cookie: a=1|Set-Cookie: b=2"),
    ("9110 5.1", "!#$%&'*+.^_`~0: v", "|!#$%&'*+.^_`~0: v"),
    ("9110 5.1", "N:v", "|N: v"),
    ("9110 5.1", "N::v:", "|N: :v:"),
    ("9110 5.5", "N: a\tb", "|N: a\tb"),
    ("9110 5.5", "N: ,", "|N: ,"),
    ("9110 5.5", "N: \"a, \\\"b\"; c=(d)", "|N: \"a, \\\"b\"; c=(d)"),
    ("9110 5.5", "N: \u{85}a\u{a0}", "|N: \u{85}a\u{a0}"),
    ("9110 5.5", "N: =?utf-8?q?a?=", "|N: =?utf-8?q?a?="),
    ("9110 5.5", "N: %00%0d%0a", "|N: %00%0d%0a"),
    ("9110 5.5", "N: \u{80}\u{ff}\u{c3}\u{a9}", "|N: \u{80}\u{ff}\u{c3}\u{a9}"),
    ("9110 10.1.1", "Expect: 100-continue", ""),
    ("9110 10.1.1", "Expect: 200-ok", ""),
    ("9110 7.8", "Upgrade: websocket", ""),
    ("9110 7.8", "Connection: upgrade", ""),
    ("9110 7.8", "Connection: upgrade|Upgrade: a|Upgrade: b", ""),
    ("9110 7.8", "Connection: upgrade|Upgrade: websocket, h2c", ""),
    ("9110 7.8", "Connection: upgrade|Upgrade: H2C", ""),
    ("9110 7.8", "Connection: keep-alive|Upgrade: websocket", ""),
    (
        "CVE-2026-2833",
        "Connection: Upgrade|Upgrade: websocket",
        "|Connection: upgrade|Upgrade: websocket",
    ),
    (
        "CVE-2025-64763",
        "Connection: upgrade|Upgrade: x|Content-Length: 0",
        "|Connection: upgrade|Content-Length: 0|Upgrade: x",
    ),
    ("9110 7.8", "Connection: upgrade, http2-settings|Upgrade: h2c|HTTP2-Settings: AA", ""),
    ("spoofed origin", "X-Forwarded-For: 9.9.9.9|X-Forwarded-Host: b|X-Forwarded-Proto: https", ""),
    ("spoofed origin", "Forwarded: for=9.9.9.9|X-Real-IP: 9.9.9.9|X-Forwarded-Port: 1", ""),
    ("spoofed origin", "X-Forwarded-For: 9.9.9.9|X-Forwarded-For: 8.8.8.8", ""),
    ("spoofed origin", "Client-Cert: :AAAA:|Client-Cert-Chain: :AAAA:", ""),
    ("underscores", "X_Forwarded_For: 9.9.9.9|X-Forwarded_Proto: https|X_Real_IP: 9.9.9.9", ""),
    ("underscores", "Client_Cert: :AAAA:|X_Cutover_Shadow: 1|X_User_Id: 7", "|X_user_id: 7"),
];

/// Whole requests, and the line and fields that the backend must get.
const WHOLE: &[(&str, &str, &str, &str)] = &[
    ("9112 2.2", "GET /x HTTP/1.1\nHost: a\nn: v\n\n", "GET /x HTTP/1.1", "Host: a|N: v"),
    ("9112 2.2", "|GET /x HTTP/1.1|Host: a||", "GET /x HTTP/1.1", "Host: a"),
    ("9112 2.2", "||GET /x HTTP/1.1|Host: a||", "GET /x HTTP/1.1", "Host: a"),
    ("9112 2.2", "\n\r\n\nGET /x HTTP/1.1\r\nHost: a\n\r\n", "GET /x HTTP/1.1", "Host: a"),
    ("9112 3.2", "GET /x HTTP/1.1|Host:a||", "GET /x HTTP/1.1", "Host: a"),
    (
        "9112 3.2",
        "GET /x HTTP/1.1|host: \tA.Example:80 ||",
        "GET /x HTTP/1.1",
        "Host: A.Example:80",
    ),
    (
        "9112 3.2",
        "GET /x HTTP/1.1|Host: [2001:db8::1]:80||",
        "GET /x HTTP/1.1",
        "Host: [2001:db8::1]:80",
    ),
    ("9112 3.2", "GET /x HTTP/1.1|Host: a.b.||", "GET /x HTTP/1.1", "Host: a.b."),
    ("9112 3.2", "GET /x HTTP/1.1|N: v|Host: a||", "GET /x HTTP/1.1", "Host: a|N: v"),
    (
        "9112 3.2.4",
        "OPTIONS * HTTP/1.1|Host: a|Max-Forwards: 3||",
        "OPTIONS * HTTP/1.1",
        "Host: a|Max-Forwards: 2",
    ),
    (
        "9110 7.6.2",
        "DELETE / HTTP/1.1|Host: a|Max-Forwards: x||",
        "DELETE / HTTP/1.1",
        "Host: a|Max-Forwards: x",
    ),
    (
        "9110 7.6.2",
        "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: 7||",
        "OPTIONS / HTTP/1.1",
        "Host: a|Max-Forwards: 6",
    ),
    (
        "9110 7.6.2",
        "TRACE / HTTP/1.1|Host: a|Max-Forwards: 1||",
        "TRACE / HTTP/1.1",
        "Host: a|Max-Forwards: 0",
    ),
];

fn rows() -> Vec<Row> {
    let row = |section, send: &str, line: &str, fields: &str, body| Row {
        section,
        send: wire(send),
        line: line.to_owned(),
        fields: fields.to_owned(),
        body,
    };
    let framed = FRAMED.iter().map(|(section, method, [fields, body], [framing, whole])| {
        let line = format!("{method} /x HTTP/1.1");
        let send = format!("{line}|Host: a|{fields}||{body}");
        row(section, &send, &line, &format!("Host: a|{framing}"), whole)
    });
    let targets = TARGETS.iter().map(|(section, sent, line, host)| {
        row(section, &format!("{sent}|Host: a||"), line, &format!("Host: {host}"), "")
    });
    let paths = PATHS.iter().map(|path| {
        let line = format!("GET {path} HTTP/1.1");
        row("9110 7.7", &format!("{line}|Host: a||"), &line, "Host: a", "")
    });
    let fields = FIELDS.iter().map(|(section, fields, got)| {
        let send = format!("GET /x HTTP/1.1|Host: a|{fields}||");
        row(section, &send, "GET /x HTTP/1.1", &format!("Host: a{got}"), "")
    });
    let get = |fields: &str, got: &str| {
        row(
            "9110 5.4",
            &format!("GET / HTTP/1.1|Host: a{fields}||"),
            "GET / HTTP/1.1",
            &format!("Host: a{got}"),
            "",
        )
    };
    let long = format!("|N: {}", "v".repeat(60_000));
    let many = "|N: v".repeat(99);
    let large = [get(&long, &long), get(&many, &many)];
    let whole = WHOLE.iter();
    let whole = whole.map(|(section, send, line, fields)| row(section, send, line, fields, ""));
    framed.chain(targets).chain(paths).chain(fields).chain(large).chain(whole).collect()
}

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    rows().iter().map(|row| row.section).collect()
}

/// The fields beside those that the proxy adds to every request; each of which must be there.
pub(crate) fn beside_own(
    fields: &[String],
    version: &str,
    faults: &mut Vec<String>,
) -> Vec<String> {
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
    take("X-Forwarded-For: 127.0.0.1", 0);
    take("X-Forwarded-Proto: http", 0);
    take(&format!("Via: {version} cutover"), 0);
    take("X-Request-Id: ", 32);
    take("Traceparent: 00-", 52);
    by_name(rest)
}

pub(crate) fn by_name(mut fields: Vec<String>) -> Vec<String> {
    fields.sort_by_key(|field| field.split(':').next().map(str::to_ascii_lowercase));
    fields
}

fn faults(row: &Row, got: &Message, reply: &Message) -> Vec<String> {
    let mut faults = Vec::new();
    let rest = beside_own(&got.fields, "1.1", &mut faults);
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
        let mut reply = if is_head { client.head_reply() } else { client.reply() };
        if reply.status() == 100 {
            reply = client.reply();
        }
        let got = backend.take_got();
        let found = match &got[..] {
            [got] => faults(&row, got, &reply),
            _ => vec!["is not one request".to_owned()],
        };
        let sent = String::from_utf8_lossy(&row.send).into_owned();
        let section = row.section;
        all.extend(found.iter().map(|what| format!("row {section} {sent:?} {what}: {got:?}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
