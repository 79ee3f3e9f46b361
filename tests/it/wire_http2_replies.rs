//! Replies of backends that speak HTTP/1.1, row by row: what a client of HTTP/2 must get of each.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use crate::harness::Setup;
use crate::harness::h2_client::{Http2, Payload, Whole};
use crate::harness::raw::wire;
use crate::harness::raw_backend::Scripted;

/// What a backend answers to a GET, or to a HEAD; what its client must get.
#[derive(Clone, Copy)]
struct Row {
    section: &'static str,
    method: Asked,
    answer: &'static str,
    closes: bool,
    status: u16,
    /// All fields beside Date, by name.
    fields: &'static str,
    body: &'static str,
    trailers: &'static str,
    /// Whether it must end with END_STREAM, or be reset.
    whole: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Get,
    Head,
}

/// Passed on with these fields and this body.
const fn passed(
    section: &'static str,
    answer: &'static str,
    fields: &'static str,
    body: &'static str,
) -> Row {
    let (method, trailers) = (Asked::Get, "");
    Row { section, method, answer, closes: false, status: 200, fields, body, trailers, whole: true }
}

/// Answered without a body.
const fn bare(
    section: &'static str,
    status: u16,
    answer: &'static str,
    fields: &'static str,
) -> Row {
    Row { status, ..passed(section, answer, fields, "") }
}

const fn to_head(row: Row) -> Row {
    Row { method: Asked::Head, ..row }
}

/// The backend closes behind it.
const fn ended(row: Row) -> Row {
    Row { closes: true, ..row }
}

/// It breaks off after this much of its body, so its stream is reset.
const fn cut(
    section: &'static str,
    answer: &'static str,
    fields: &'static str,
    body: &'static str,
) -> Row {
    Row { whole: false, ..ended(passed(section, answer, fields, body)) }
}

/// No HTTP.
const fn invalid(section: &'static str, answer: &'static str) -> Row {
    Row {
        status: 502,
        ..passed(section, answer, INVALID_FIELDS, "The backend's reply is not valid HTTP.\n")
    }
}

const INVALID_FIELDS: &str = "content-type: text/plain; charset=utf-8|\
                              proxy-status: cutover; error=http_protocol_error";

const ROWS: &[Row] = &[
    passed("9113 8.1.1", "HTTP/1.1 200 OK|Content-Length: 2||ok", "content-length: 2", "ok"),
    passed("9113 8.1.1", "HTTP/1.1 200 OK|Content-Length: 0||", "content-length: 0", ""),
    passed("9112 2.2", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "content-length: 2", "ok"),
    passed("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2, 2||ok", "content-length: 2", "ok"),
    passed("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 02||ok", "content-length: 2", "ok"),
    passed("9113 8.2.2", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0||", "", "ok"),
    passed("9113 8.2.2", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2;a|ok|1|!|0||", "", "ok!"),
    passed("9113 8.2.2", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", "", ""),
    passed(
        "9112 6.3",
        "HTTP/1.1 200 OK|Content-Length: 9|Transfer-Encoding: chunked||2|ok|0||",
        "",
        "ok",
    ),
    ended(passed("9112 6.3", "HTTP/1.1 200 OK||until the end", "", "until the end")),
    ended(passed("9112 6.3", "HTTP/1.0 200 OK||", "", "")),
    passed(
        "9113 8.2.2",
        "HTTP/1.1 200 OK|Connection: keep-alive, a|A: 1|Keep-Alive: timeout=5|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    passed(
        "9113 8.2.2",
        "HTTP/1.1 200 OK|Upgrade: h2c|Proxy-Connection: x|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    passed(
        "9113 8.2.2",
        "HTTP/1.1 200 OK|Connection: close|TE: x|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    passed(
        "9113 8.2.1",
        "HTTP/1.1 200 OK|X-ODD-Name: V|Content-Length: 2||ok",
        "content-length: 2|x-odd-name: V",
        "ok",
    ),
    passed(
        "9113 8.2.1",
        "HTTP/1.1 200 OK|N: \u{80}\u{ff} a|Content-Length: 2||ok",
        "content-length: 2|n: \u{80}\u{ff} a",
        "ok",
    ),
    passed(
        "9113 8.2.1",
        "HTTP/1.1 200 OK|N:|O: \t v \t|Content-Length: 2||ok",
        "content-length: 2|n: |o: v",
        "ok",
    ),
    passed(
        "9110 5.3",
        "HTTP/1.1 200 OK|Set-Cookie: a|X: y|Set-Cookie: b|Content-Length: 2||ok",
        "content-length: 2|set-cookie: a|set-cookie: b|x: y",
        "ok",
    ),
    passed(
        "9113 8.3.2",
        "HTTP/1.1 200 Quite Fine|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    bare("9113 8.3.2", 404, "HTTP/1.1 404|Content-Length: 0||", "content-length: 0"),
    bare("9113 8.3.2", 299, "HTTP/1.1 299 Odd|Content-Length: 0||", "content-length: 0"),
    bare("9113 8.3.2", 999, "HTTP/1.1 999 Odd|Content-Length: 0||", "content-length: 0"),
    bare("9110 15.3.5", 204, "HTTP/1.1 204 No Content|ETag: e||", "etag: e"),
    bare("9110 15.3.5", 204, "HTTP/1.1 204 No Content|Transfer-Encoding: chunked||2|ok|0||", ""),
    bare(
        "9110 15.4.5",
        304,
        "HTTP/1.1 304 Not Modified|ETag: e|Content-Length: 5||",
        "content-length: 5|etag: e",
    ),
    to_head(bare("9110 9.3.2", 200, "HTTP/1.1 200 OK|Content-Length: 5||", "content-length: 5")),
    to_head(bare("9110 9.3.2", 200, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||", "")),
    to_head(bare("9110 9.3.2", 200, "HTTP/1.1 200 OK||", "")),
    passed(
        "9110 15.2",
        "HTTP/1.1 103 Early|Link: a||HTTP/1.1 200 OK|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    passed(
        "9110 15.2",
        "HTTP/1.1 103 Early|Connection: a|Transfer-Encoding: chunked||HTTP/1.1 200 OK|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    passed(
        "9110 15.2.1",
        "HTTP/1.1 100 Continue||HTTP/1.1 200 OK|Content-Length: 2||ok",
        "content-length: 2",
        "ok",
    ),
    Row {
        trailers: "x-sum: 7",
        ..passed(
            "9113 8.2.2",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|Connection: a|Keep-Alive: 5|X-Sum: 7||",
            "",
            "ok",
        )
    },
    Row {
        trailers: "x-sum: 7",
        ..passed(
            "9113 8.1",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|X-Sum: 7||",
            "",
            "ok",
        )
    },
    Row {
        trailers: "grpc-status: 0",
        ..passed(
            "9113 8.1",
            "HTTP/1.1 200 OK|Trailer: Grpc-Status|Transfer-Encoding: chunked||0|Grpc-Status: 0||",
            "trailer: Grpc-Status",
            "",
        )
    },
    bare("9110 8.6", 204, "HTTP/1.1 204 No Content|Content-Length: 0||", ""),
    bare("9110 8.6", 204, "HTTP/1.1 204 No Content|Content-Length: 5||", ""),
    cut("9113 8.1.1", "HTTP/1.1 200 OK|Content-Length: 9||hal", "content-length: 9", "hal"),
    cut("9112 8", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|hal|", "", "hal"),
    cut("9112 8", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|hal|0|", "", "hal"),
    cut("9112 7.1", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|hal|x|", "", "hal"),
    cut("CVE-2025-43859", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|halXX0||", "", "hal"),
    invalid("9112 2.3", "HELLO||"),
    invalid("9112 5.1", "HTTP/1.1 200 OK|Name : v||"),
    invalid("9112 5.2", "HTTP/1.1 200 OK|Name: v| folded||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: a\0b||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||2|ok|0||"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 3||ok"),
    invalid("9110 7.8", "HTTP/1.1 101 Now|Connection: upgrade|Upgrade: x||"),
];

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.section).collect()
}

fn lines(fields: &HeaderMap) -> Vec<String> {
    let made = |name: &HeaderName| name == "date" || name == "x-request-id";
    let text = |value: &HeaderValue| -> String {
        value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
    };
    let shown = fields.iter().filter(|(name, _)| !made(name));
    let mut lines: Vec<_> = shown.map(|(name, value)| format!("{name}: {}", text(value))).collect();
    // Stable: the order of equal names is part of what must be kept.
    lines.sort_by_key(|line| line.split(':').next().map(str::to_owned));
    lines
}

fn expected(fields: &str) -> Vec<String> {
    fields.split('|').filter(|field| !field.is_empty()).map(str::to_owned).collect()
}

fn faults(row: &Row, reply: &Result<Whole, h2::Error>) -> Vec<&'static str> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if !row.whole && error.is_reset() => return Vec::new(),
        Err(_) => return vec!["a reply"],
    };
    let (body, trailers) = reply.body();
    let trailers = trailers.as_ref().map(lines).unwrap_or_default();
    let checks = [
        ("its end", row.whole),
        ("its status", reply.status() == row.status),
        ("its fields", lines(reply.headers()) == expected(row.fields)),
        ("one Date", reply.headers().get_all("date").iter().count() == 1),
        ("its body", body == row.body.as_bytes()),
        ("its trailers", trailers == expected(row.trailers)),
    ];
    checks.iter().filter(|(_, holds)| !holds).map(|(what, _)| *what).collect()
}

#[test]
fn what_http1_backends_reply_goes_back_as_http2_has_it() {
    let backend = Scripted::start();
    let lines = "min_idle = 0\neject = { consecutive_failures = 1000 }";
    let setup = Setup::new(backend.address, backend.address).workers(1);
    let proxy = setup.legacy(lines).async_(lines).start();
    let mut client = Http2::connect(proxy.address);
    let mut all = Vec::new();
    for row in ROWS {
        backend.will_answer(wire(row.answer), row.closes);
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = "http://a/x".parse().unwrap();
        if row.method == Asked::Head {
            *request.method_mut() = Method::HEAD;
        }
        let reply = client.exchange(request, Payload::default());
        let found = faults(row, &reply);
        let Row { section, answer, .. } = row;
        all.extend(
            found.iter().map(|what| format!("row {section} {answer:?} lacks {what}: {reply:?}")),
        );
        if backend.take_got().len() != 1 {
            all.push(format!("row {section} {answer:?} is not one request"));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
