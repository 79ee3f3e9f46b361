//! Replies that are no HTTP: each is a 502, and its connection serves nothing else.

use crate::wire_responses::{HEAD, Row, invalid};

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    [INVALID.to_vec(), huge()].concat()
}

/// Heads beyond every limit.
fn huge() -> Vec<Row> {
    let head = |fields: String| format!("HTTP/1.1 200 OK|{fields}Content-Length: 2||ok");
    let heads = [
        head(format!("N: {}|", "v".repeat(70_000))),
        head(format!("{}: v|", "n".repeat(70_000))),
        head("N: v|".repeat(101)),
        format!("HTTP/1.1 200 {}|Content-Length: 2||ok", "O".repeat(70_000)),
    ];
    // Few, and as long as the process.
    heads.into_iter().map(|head| invalid("9110 5.4", head.leak())).collect()
}

const INVALID: &[Row] = &[
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: chunked, chunked||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: identity||ok"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: xchunked||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: chunked;q=1||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: \"chunked\"||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: chunked, gzip||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding:||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: ,chunked||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: gzip|Content-Length: 2||ok"),
    invalid(
        "9112 6.1",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Transfer-Encoding: chunked||2|ok|0||",
    ),
    invalid("9112 6.1", "HTTP/1.1 200 OK|Transfer-Encoding: \x0bchunked||2|ok|0||"),
    invalid("9112 6.1", "HTTP/1.0 200 OK|Transfer-Encoding: chunked||2|ok|0||"),
    invalid("9112 5.1", "HTTP/1.1 200 OK|Name : v||"),
    invalid("9112 5.1", "HTTP/1.1 200 OK|Content-Length : 2||ok"),
    invalid("9112 5.1", "HTTP/1.1 200 OK|Transfer-Encoding\t: chunked||2|ok|0||"),
    invalid("9112 5.2", "HTTP/1.1 200 OK|Name: v| folded||"),
    invalid("9112 5.2", "HTTP/1.1 200 OK|Name: v|\tfolded||"),
    invalid("9112 5.2", "HTTP/1.1 200 OK| Name: v||"),
    invalid("9112 5.2", "HTTP/1.1 200 OK|Content-Length:| 2||ok"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: a\0b||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: \0||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: a\rb||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: \ra||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: a\x07b||"),
    invalid("9110 5.5", "HTTP/1.1 200 OK|Name: a\x7fb||"),
    invalid("9112 11.1", "HTTP/1.1 200 OK|Location: /\rSet-Cookie: a=1||"),
    invalid("9112 5", "HTTP/1.1 200 OK|Name||"),
    invalid("9112 5", "HTTP/1.1 200 OK|: v||"),
    invalid("9112 5", "HTTP/1.1 200 OK|na me: v||"),
    invalid("9112 5", "HTTP/1.1 200 OK|na(me: v||"),
    invalid("9112 5", "HTTP/1.1 200 OK|na\0me: v||"),
    invalid("9112 5", "HTTP/1.1 200 OK|na\u{e9}me: v||"),
    invalid("9112 5", "HTTP/1.1 200 OK|HTTP/1.1 200 OK||"),
    invalid("9112 2.3", "HELLO||"),
    invalid("9112 2.3", "HTTP/3.0 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTP/2.0 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTP/1.2 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTP/0.9 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTP/1 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTP/11 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "http/1.1 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "ICY 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "HTTPS/1.1 200 OK|Content-Length: 0||"),
    invalid("9112 2.3", "<!doctype html><p>ok</p>||"),
    invalid("9112 2.3", "\0\0\x04\x08\0\0\0\0\0\0\0\0\0||"),
    invalid("9112 4", "HTTP/1.1200 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 2000 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 200OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 2x0 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 -20 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 099 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 000 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1\t200 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1  200 OK|Content-Length: 0||"),
    invalid("9112 4", " HTTP/1.1 200 OK|Content-Length: 0||"),
    invalid("9112 4", "\0HTTP/1.1 200 OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 200\0OK|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 200 O\0K|Content-Length: 0||"),
    invalid("9112 4", "HTTP/1.1 200 O\rK|Content-Length: 0||"),
    invalid("9112 2.2", "HTTP/1.1 200 OK\rContent-Length: 0\r\r"),
    invalid("9112 2.2", "HTTP/1.1 200 OK|Content-Length: 0\r\r\n|"),
    invalid("9112 2.3", "HTTP/1.1 20 OK|Content-Length: 0||"),
    invalid("9110 7.8", "HTTP/1.1 101 Now|Connection: upgrade|Upgrade: x||"),
    invalid("9110 7.8", "HTTP/1.1 101 Now||HTTP/1.1 200 OK|Content-Length: 2||ok"),
    invalid("9110 15.2", "HTTP/1.1 099 Early||HTTP/1.1 200 OK|Content-Length: 2||ok"),
    Row {
        interims: &[103],
        ..invalid("9110 15.2", "HTTP/1.1 103 Early|Content-Length: 5||helloHTTP/1.1 200 OK||")
    },
    Row {
        interims: &[103],
        ..invalid("9110 15.2", "HTTP/1.1 103 Early||HTTP/1.1 101 Now|Upgrade: x||")
    },
    Row { interims: &[102], ..invalid("9110 15.2", "HTTP/1.1 102 Processing||HELLO||") },
    invalid("9110 15.2", "HTTP/1.1 103 Early|Name: a\0b||HTTP/1.1 200 OK|Content-Length: 2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: x||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: -2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: +2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2, 3||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 3||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 3|X: y|CONTENT-LENGTH: 2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length:||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2 2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 0x2||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2.0||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: \"2\"||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2,||ok"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2;q=1||ok"),
    Row { send: HEAD, body: "", ..invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: x||") },
    Row { send: HEAD, body: "", ..invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 2, 3||") },
    invalid("9112 6.3", "HTTP/1.1 304 Not Modified|Content-Length: -2||"),
    invalid("9112 6.3", "HTTP/1.1 200 OK|Content-Length: 18446744073709551616||ok"),
];
