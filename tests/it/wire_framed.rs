//! Replies that are passed on: in a framing of the proxy's own, visibly cut where they were cut, with
//! the fields that are the client's.

use crate::wire_responses::{GET_10, HEAD, Row, chunked, cut, ended, passed, spent, unanswered};

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    [FRAMED, FIELDS, &large()].concat()
}

/// Heads just within every limit.
fn large() -> Vec<Row> {
    let heads = [
        format!("HTTP/1.1 200 OK|N: {}|Content-Length: 2||ok", "v".repeat(60_000)),
        format!("HTTP/1.1 200 OK|{}Content-Length: 2||ok", "N: v|".repeat(99)),
    ];
    // Few, and as long as the process.
    heads.into_iter().map(|head| passed("9110 5.4", head.leak(), "ok")).collect()
}

/// Several lengths that agree, or one in an odd spelling, are one (RFC 9112 section 6.3).
const fn one_length(answer: &'static str) -> Row {
    Row { fields: &["Content-Length: 2"], ..passed("9112 6.3", answer, "ok") }
}

/// Of a reply that is known to be empty before its head goes on, the length is.
const fn no_content(answer: &'static str) -> Row {
    Row { fields: &["Content-Length: 0"], ..passed("9112 6.3", answer, "") }
}

/// Trailers that nobody asked for.
const fn trailed(answer: &'static str) -> Row {
    chunked("9112 7.1.2", answer, "ok")
}

/// A reply with these fields and the body `ok`, of which Connection names some.
const fn named(
    answer: &'static str,
    fields: &'static [&'static str],
    absent: &'static [&'static str],
) -> Row {
    Row { prefix: "HTTP/1.1 200 OK|", fields, absent, ..passed("9110 7.6.1", answer, "ok") }
}

/// What a backend says of how long its connection lasts, where nothing sensible can be read.
const fn kept_alive(answer: &'static str) -> Row {
    Row {
        prefix: "HTTP/1.1 200 OK|Content-Length: 2|Keep-Alive: ",
        absent: &["Keep-Alive"],
        ..passed("9112 9.3", answer, "ok")
    }
}

const FRAMED: &[Row] = &[
    passed("9112 8", "HTTP/1.1 200 OK|Content-Length: 2||ok", "ok"),
    passed("9112 8", "HTTP/1.1 200 OK|Content-Length: 0||", ""),
    passed("9112 2.2", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok"),
    passed("9112 2.2", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\nok", "ok"),
    passed("9112 2.2", "||HTTP/1.1 200 OK|Content-Length: 2||ok", "ok"),
    passed("9112 4", "HTTP/1.1 200|Content-Length: 2||ok", "ok"),
    passed("9112 4", "HTTP/1.1 200 |Content-Length: 2||ok", "ok"),
    passed("9112 4", "HTTP/1.1 200 \u{c9}\tt\u{e9}|Content-Length: 2||ok", "ok"),
    passed("9112 4", "HTTP/1.1 200 HTTP/1.1 500 No|Content-Length: 2||ok", "ok"),
    Row { status: 299, ..passed("9110 15", "HTTP/1.1 299 Odd|Content-Length: 2||ok", "ok") },
    Row { status: 418, ..passed("9110 15", "HTTP/1.1 418 Tea|Content-Length: 2||ok", "ok") },
    Row { status: 599, ..passed("9110 15", "HTTP/1.1 599 No|Content-Length: 2||ok", "ok") },
    Row { status: 600, ..passed("9110 15", "HTTP/1.1 600 Odd|Content-Length: 2||ok", "ok") },
    Row { status: 999, ..passed("9110 15", "HTTP/1.1 999 Odd|Content-Length: 2||ok", "ok") },
    one_length("HTTP/1.1 200 OK|Content-Length: 2, 2||ok"),
    one_length("HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 2||ok"),
    one_length("HTTP/1.1 200 OK|Content-Length: 002||ok"),
    chunked("9112 7.1", "Transfer-Encoding:\t CHUNKED ||0002|ok|000||", "ok"),
    no_content("HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||"),
    chunked("9112 7.1", "Transfer-Encoding: chunked||7|0||ok|0||", "0\r\n\r\nok"),
    chunked("9112 7.1.1", "Transfer-Encoding: chunked||2 ;a=\"b\"|ok|0;c||", "ok"),
    trailed("Transfer-Encoding: chunked||2|ok|0|X-Sum: 1||"),
    trailed("Transfer-Encoding: chunked||2|ok|0|Content-Length: 9|Set-Cookie: a||"),
    chunked("9112 8", "Transfer-Encoding: chunked||2;a|ok|1|!|0||", "ok!"),
    spent(passed("9112 9.3", "HTTP/1.0 200 OK|Content-Length: 2||ok", "ok")),
    passed("9112 9.3", "HTTP/1.0 200 OK|Connection: Keep-Alive|Content-Length: 2||ok", "ok"),
    spent(passed(
        "9112 9.3",
        "HTTP/1.1 200 OK|Connection: keep-alive|Connection: Close|Content-Length: 2||ok",
        "ok",
    )),
    Row {
        status: 204,
        absent: &["Content-Length"],
        ..passed("9110 8.6", "HTTP/1.1 204 No Content|Content-Length: 0||", "")
    },
    chunked("9112 6.3", "Content-Length: 9|Transfer-Encoding: chunked||2|ok|0||", "ok"),
    chunked("9112 6.3", "Transfer-Encoding: chunked|Content-Length: 9||2|ok|0||", "ok"),
    chunked(
        "9112 6.3",
        "Transfer-Encoding: chunked|Content-Length: 2|Content-Length: 3||2|ok|0||",
        "ok",
    ),
    chunked("9112 6.3", "Content-Length: x|Transfer-Encoding: chunked||2|ok|0||", "ok"),
    spent(passed("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK||", "ok")),
    spent(chunked("9112 6.3", "Transfer-Encoding: chunked||2|ok|0||extra", "ok")),
    spent(chunked(
        "9112 6.3",
        "Transfer-Encoding: chunked||2|ok|0||HTTP/1.1 200 OK|Content-Length: 6||poison",
        "ok",
    )),
    spent(passed(
        "9112 9.2",
        "HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK|Content-Length: 6||poison",
        "ok",
    )),
    spent(passed(
        "9112 9.2",
        "HTTP/1.1 200 OK|Content-Length: 0||HTTP/1.1 200 OK|Content-Length: 6||poison",
        "",
    )),
    spent(passed("9112 9.2", "HTTP/1.1 200 OK|Content-Length: 2||ok||", "ok")),
    spent(Row {
        status: 204,
        ..passed(
            "9112 9.2",
            "HTTP/1.1 204 No Content||HTTP/1.1 200 OK|Content-Length: 6||poison",
            "",
        )
    }),
    Row {
        send: HEAD,
        fields: &["Content-Length: 5"],
        ..passed("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 5||", "")
    },
    Row {
        send: HEAD,
        fields: &["Content-Length: 5"],
        ..spent(passed("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 5||hello", ""))
    },
    Row {
        status: 204,
        absent: &["Content-Length", "Transfer-Encoding"],
        ..passed("9112 6.3", "HTTP/1.1 204 No Content||", "")
    },
    Row { send: HEAD, ..passed("9110 9.3.2", "HTTP/1.1 200 OK||", "") },
    Row {
        send: HEAD,
        absent: &["Content-Length"],
        ..spent(passed("9110 9.3.2", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|0||", ""))
    },
    Row {
        send: HEAD,
        status: 404,
        fields: &["Content-Length: 18446744073709551613"],
        ..passed("9110 9.3.2", "HTTP/1.1 404 No|Content-Length: 18446744073709551613||", "")
    },
    Row {
        status: 204,
        absent: &["Content-Length", "Transfer-Encoding"],
        ..spent(passed(
            "9112 6.1",
            "HTTP/1.1 204 No Content|Transfer-Encoding: chunked||5|hello|0||",
            "",
        ))
    },
    Row {
        status: 304,
        ..spent(passed(
            "9112 6.1",
            "HTTP/1.1 304 Not Modified|Transfer-Encoding: chunked||5|hello|0||",
            "",
        ))
    },
    Row {
        status: 205,
        fields: &["Content-Length: 0"],
        ..passed("9110 15.3.6", "HTTP/1.1 205 Reset Content|Content-Length: 0||", "")
    },
    Row {
        status: 204,
        ..spent(passed("9112 6.3", "HTTP/1.1 204 No Content|Content-Length: 5||hello", ""))
    },
    Row {
        status: 304,
        fields: &["Etag: \"e\""],
        ..passed("9112 6.3", "HTTP/1.1 304 Not Modified|ETag: \"e\"||", "")
    },
    Row {
        status: 304,
        ..spent(passed("9112 6.3", "HTTP/1.1 304 Not Modified|Content-Length: 5||hello", ""))
    },
    Row {
        send: GET_10,
        fields: &[],
        absent: &["Content-Length", "Transfer-Encoding"],
        ..chunked("9112 6.1", "Transfer-Encoding: chunked||2|ok|1|!|0||", "ok!")
    },
    ended(chunked("9112 8", "|until the end", "until the end")),
    // Whether the end is known before the head goes on is a matter of chance.
    ended(Row { fields: &[], absent: &[], ..passed("9112 6.3", "HTTP/1.0 200||", "") }),
    ended(Row { status: 503, prefix: "HTTP/1.1 503 No|", ..chunked("9112 6.3", "|busy", "busy") }),
    ended(Row {
        prefix: "HTTP/1.0 200 OK|",
        ..chunked("9112 8", "|until the end", "until the end")
    }),
    cut(passed("9112 8", "HTTP/1.1 200 OK|Content-Length: 9||hal", "hal")),
    cut(passed("9112 8", "HTTP/1.1 200 OK|Content-Length: 9||", "")),
    cut(passed("9112 8", "HTTP/1.1 200 OK|Content-Length: 18446744073709551613||hal", "hal")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||", "")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3", "")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3|hal|0", "hal")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3|hal|0|", "hal")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3|hal|0|X: y|", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|+2|ok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|0x2|ok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|-2|ok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal||2|ok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|2\nok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|2;a\nb|ok|0||", "hal")),
    cut(chunked("9112 7.1", "Transfer-Encoding: chunked||3|hal|10000000000000000|ok|0||", "hal")),
    cut(chunked("CVE-2025-43859", "Transfer-Encoding: chunked||3|halXX2|ok|0||", "hal")),
    cut(chunked("CVE-2025-43859", "Transfer-Encoding: chunked||3|hal\n2|ok|0||", "hal")),
    cut(chunked("9112 7.1.2", "Transfer-Encoding: chunked||3|hal|0|X : y||", "hal")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3|hal|", "hal")),
    cut(chunked("9112 8", "Transfer-Encoding: chunked||3|hal|x|", "hal")),
    unanswered("9110 15.6.3", ""),
    unanswered("9110 15.6.3", "H"),
    unanswered("9110 15.6.3", "HTTP/1.1 200 OK|Content-Length: 2|"),
    unanswered("9110 15.6.3", "HTTP/1.1 100 Continue||"),
    Row { interims: &[103], ..unanswered("9110 15.2", "HTTP/1.1 103 Early Hints|Link: a||") },
    unanswered("9110 15.6.3", "HTTP/1.1 200 OK|Content-Le"),
];

const FIELDS: &[Row] = &[
    Row {
        fields: &["Date: Thu, 01 Jan 1970 00:00:00 GMT"],
        ..passed(
            "9110 6.6.1",
            "HTTP/1.1 200 OK|Date: Thu, 01 Jan 1970 00:00:00 GMT|Content-Length: 0||",
            "",
        )
    },
    Row {
        fields: &["Set-Cookie: a=1", "Set-Cookie: b=2"],
        ..passed(
            "9110 6.6.1",
            "HTTP/1.1 200 OK|set-cookie: a=1|X: y|set-cookie: b=2|Content-Length: 0||",
            "",
        )
    },
    Row {
        absent: &[
            "A",
            "Keep-Alive",
            "Proxy-Connection",
            "Upgrade",
            "Connection",
            "Transfer-Encoding",
        ],
        fields: &["B: 2"],
        ..passed(
            "9110 7.6.1",
            "HTTP/1.1 200 OK|Connection: a, keep-alive|A: 1|B: 2|Keep-Alive: timeout=5|Proxy-Connection: x|Upgrade: y|Content-Length: 0||",
            "",
        )
    },
    named(
        "Connection: content-length|Content-Length: 2||ok",
        &["Content-Length: 2"],
        &["Connection"],
    ),
    spent(named(
        "Connection: x, close|X: 1|Content-Length: 2||ok",
        &["Content-Length: 2"],
        &["X", "Connection"],
    )),
    named("Connection: set-cookie|Set-Cookie: a|Content-Length: 2||ok", &[], &["Set-Cookie"]),
    named(
        "Connection: date|Date: Thu, 01 Jan 1970 00:00:00 GMT|Content-Length: 2||ok",
        &[],
        &["Connection"],
    ),
    named("Connection: @, x y|X: 1|Content-Length: 2||ok", &["X: 1"], &["Connection"]),
    named("Connection:|Content-Length: 2||ok", &[], &["Connection"]),
    named("Connection: host, via|Via: 1.1 b|Content-Length: 2||ok", &[], &["Via", "Connection"]),
    kept_alive("timeout=-1||ok"),
    kept_alive("timeout=18446744073709551615||ok"),
    kept_alive("timeout=99999999999999999999999||ok"),
    kept_alive("timeout=x, max||ok"),
    kept_alive(",;=\"\u{ff}||ok"),
    kept_alive("max=0||ok"),
    Row {
        reused: false,
        absent: &["Connection", "Transfer-Encoding"],
        closes: true,
        ..passed("9110 7.6.1", "HTTP/1.1 200 OK|Connection: close|Content-Length: 2||ok", "ok")
    },
    Row {
        status: 299,
        fields: &["N: \u{80}"],
        ..passed("9110 5.5", "HTTP/1.1 299 Odd|N: \u{80}|Content-Length: 0||", "")
    },
    Row {
        fields: &["N: \u{85}a\u{a0}\u{ff}", "Empty: "],
        ..passed(
            "9110 5.5",
            "HTTP/1.1 200 OK|N:\t\u{85}a\u{a0}\u{ff} |Empty:|Content-Length: 0||",
            "",
        )
    },
    Row {
        fields: &["Www-Authenticate: a", "Www-Authenticate: b, c"],
        ..passed(
            "9110 5.3",
            "HTTP/1.1 200 OK|WWW-Authenticate: a|WWW-authenticate: b, c|Content-Length: 0||",
            "",
        )
    },
    Row {
        fields: &["!#$%&'*+.^_`~0: v", "Server: b", "Location: //c/%0d%0aX:%20y"],
        ..passed(
            "9110 5.1",
            "HTTP/1.1 200 OK|!#$%&'*+.^_`~0: v|Server: b|Location: //c/%0d%0aX:%20y|Content-Length: 0||",
            "",
        )
    },
    passed("9110 6.6.1", "HTTP/1.1 200 OK|Content-Length: 0||", ""),
    Row {
        interims: &[103],
        ..passed(
            "9110 15.2",
            "HTTP/1.1 103 Early Hints|Link: a||HTTP/1.1 200 OK|Content-Length: 2||ok",
            "ok",
        )
    },
    Row {
        interims: &[102, 103, 199],
        ..passed(
            "9110 15.2",
            "HTTP/1.1 102 A||HTTP/1.1 103 B||HTTP/1.1 199 C||HTTP/1.1 200 OK|Content-Length: 2||ok",
            "ok",
        )
    },
    passed(
        "9110 15.2.1",
        "HTTP/1.1 100 Continue|X: y||HTTP/1.1 200 OK|Content-Length: 2||ok",
        "ok",
    ),
    Row {
        send: GET_10,
        absent: &["Link"],
        ..passed(
            "9110 15.2",
            "HTTP/1.1 103 Early Hints|Link: a||HTTP/1.1 200 OK|Content-Length: 2||ok",
            "ok",
        )
    },
    Row {
        interims: &[103],
        ..passed(
            "9110 8.6",
            "HTTP/1.1 103 Early Hints|Content-Length: 0|Transfer-Encoding: chunked||HTTP/1.1 200 OK|Content-Length: 2||ok",
            "ok",
        )
    },
    Row {
        send: HEAD,
        interims: &[103],
        fields: &["Content-Length: 2"],
        ..passed("9110 15.2", "HTTP/1.1 103 Early Hints||HTTP/1.1 200 OK|Content-Length: 2||", "")
    },
];
