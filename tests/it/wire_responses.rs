//! The rows of the conformance list that concern replies: framed anew, cut where they are cut, or
//! replaced where they are no HTTP.

use crate::harness::raw::{Ended, Message, Raw, wire};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Proxy, Setup};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_10: &str = "GET /x HTTP/1.0\r\nHost: a\r\n\r\n";

/// What a backend answers, and what the client must see.
#[derive(Clone, Copy)]
struct Row {
    /// Of the conformance list.
    number: u8,
    send: &'static str,
    /// What the backend writes, in two parts; then it closes, if `closes`.
    prefix: &'static str,
    answer: &'static str,
    closes: bool,
    status: u16,
    /// Fields of the reply that must be there, each exactly once or as often as listed.
    fields: &'static [&'static str],
    /// Names that must not be there.
    absent: &'static [&'static str],
    body: &'static str,
    /// Whether the reply must end as its framing says.
    whole: bool,
    /// Whether the backend's connection must serve the next request.
    reused: bool,
}

const PLAIN: Row = Row {
    number: 0,
    send: GET,
    prefix: "",
    answer: "",
    closes: false,
    status: 200,
    fields: &[],
    absent: &["Transfer-Encoding"],
    body: "",
    whole: true,
    reused: true,
};

/// A reply that is passed on, and its body.
const fn passed(number: u8, answer: &'static str, body: &'static str) -> Row {
    Row { number, answer, body, ..PLAIN }
}

/// A reply that is no valid HTTP.
const fn invalid(number: u8, answer: &'static str) -> Row {
    Row {
        number,
        answer,
        status: 502,
        fields: &["Proxy-Status: cutover; error=http_protocol_error"],
        body: "The backend's reply is not valid HTTP.\n",
        reused: false,
        ..PLAIN
    }
}

/// A reply of unknown length; `fields` and body follow its status line.
const fn chunked(number: u8, rest: &'static str, body: &'static str) -> Row {
    Row {
        prefix: "HTTP/1.1 200 OK|",
        fields: &["Transfer-Encoding: chunked"],
        absent: &["Content-Length"],
        ..passed(number, rest, body)
    }
}

/// The connection behind it can't serve another request.
const fn spent(row: Row) -> Row {
    Row { reused: false, ..row }
}

/// The backend ends it by closing.
const fn ended(row: Row) -> Row {
    Row { closes: true, ..spent(row) }
}

/// It ends before its framing says.
const fn cut(row: Row) -> Row {
    Row { whole: false, ..ended(row) }
}

/// The backend closes before a whole head has come.
const fn unanswered(answer: &'static str) -> Row {
    Row {
        status: 502,
        fields: &["Proxy-Status: cutover; error=connection_terminated"],
        ..ended(passed(63, answer, "The backend closed the connection before it replied.\n"))
    }
}

const INVALID: &[Row] = &[
    invalid(8, "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||2|ok|0||"),
    invalid(8, "HTTP/1.1 200 OK|Transfer-Encoding: chunked, chunked||2|ok|0||"),
    invalid(21, "HTTP/1.1 200 OK|Name : v||"),
    invalid(22, "HTTP/1.1 200 OK|Name: v| folded||"),
    invalid(23, "HTTP/1.1 200 OK|Name: a\0b||"),
    invalid(25, "HTTP/1.1 200 OK|Name||"),
    invalid(28, "HELLO||"),
    invalid(28, "HTTP/3.0 200 OK|Content-Length: 0||"),
    invalid(28, "HTTP/1.1 20 OK|Content-Length: 0||"),
    invalid(55, "HTTP/1.1 101 Now|Connection: upgrade|Upgrade: x||"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: x||ok"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: -2||ok"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: +2||ok"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: 2, 3||ok"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 3||ok"),
    invalid(58, "HTTP/1.1 200 OK|Content-Length: 18446744073709551616||ok"),
];

const FRAMED: &[Row] = &[
    passed(62, "HTTP/1.1 200 OK|Content-Length: 2||ok", "ok"),
    passed(62, "HTTP/1.1 200 OK|Content-Length: 0||", ""),
    chunked(62, "Transfer-Encoding: chunked||2;a|ok|1|!|0||", "ok!"),
    chunked(59, "Content-Length: 9|Transfer-Encoding: chunked||2|ok|0||", "ok"),
    chunked(59, "Transfer-Encoding: chunked|Content-Length: 9||2|ok|0||", "ok"),
    spent(passed(59, "HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK||", "ok")),
    spent(chunked(59, "Transfer-Encoding: chunked||2|ok|0||extra", "ok")),
    Row {
        send: HEAD,
        fields: &["Content-Length: 5"],
        ..passed(59, "HTTP/1.1 200 OK|Content-Length: 5||", "")
    },
    Row {
        send: HEAD,
        fields: &["Content-Length: 5"],
        ..spent(passed(59, "HTTP/1.1 200 OK|Content-Length: 5||hello", ""))
    },
    Row {
        status: 204,
        absent: &["Content-Length", "Transfer-Encoding"],
        ..passed(59, "HTTP/1.1 204 No Content||", "")
    },
    Row {
        status: 204,
        ..spent(passed(59, "HTTP/1.1 204 No Content|Content-Length: 5||hello", ""))
    },
    Row {
        status: 304,
        fields: &["Etag: \"e\""],
        ..passed(59, "HTTP/1.1 304 Not Modified|ETag: \"e\"||", "")
    },
    Row {
        status: 304,
        ..spent(passed(59, "HTTP/1.1 304 Not Modified|Content-Length: 5||hello", ""))
    },
    Row {
        send: GET_10,
        fields: &[],
        absent: &["Content-Length", "Transfer-Encoding"],
        ..chunked(61, "Transfer-Encoding: chunked||2|ok|1|!|0||", "ok!")
    },
    ended(chunked(62, "|until the end", "until the end")),
    ended(Row { prefix: "HTTP/1.0 200 OK|", ..chunked(62, "|until the end", "until the end") }),
    cut(passed(62, "HTTP/1.1 200 OK|Content-Length: 9||hal", "hal")),
    cut(chunked(62, "Transfer-Encoding: chunked||3|hal|", "hal")),
    cut(chunked(62, "Transfer-Encoding: chunked||3|hal|x|", "hal")),
    unanswered(""),
    unanswered("HTTP/1.1 200 OK|Content-Le"),
];

const FIELDS: &[Row] = &[
    Row {
        fields: &["Date: Thu, 01 Jan 1970 00:00:00 GMT"],
        ..passed(64, "HTTP/1.1 200 OK|Date: Thu, 01 Jan 1970 00:00:00 GMT|Content-Length: 0||", "")
    },
    Row {
        fields: &["Set-Cookie: a=1", "Set-Cookie: b=2"],
        ..passed(64, "HTTP/1.1 200 OK|set-cookie: a=1|X: y|set-cookie: b=2|Content-Length: 0||", "")
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
            42,
            "HTTP/1.1 200 OK|Connection: a, keep-alive|A: 1|B: 2|Keep-Alive: timeout=5|Proxy-Connection: x|Upgrade: y|Content-Length: 0||",
            "",
        )
    },
    Row {
        reused: false,
        absent: &["Connection", "Transfer-Encoding"],
        closes: true,
        ..passed(42, "HTTP/1.1 200 OK|Connection: close|Content-Length: 2||ok", "ok")
    },
    Row {
        status: 299,
        fields: &["N: \u{80}"],
        ..passed(48, "HTTP/1.1 299 Odd|N: \u{80}|Content-Length: 0||", "")
    },
];

fn has_faults(row: &Row, reply: &Message, address: &str) -> Vec<String> {
    let missing = row.fields.iter().filter(|field| {
        let wanted = row.fields.iter().filter(|other| other == field).count();
        reply.fields.iter().filter(|field_| field_ == field).count() != wanted
    });
    let mut faults: Vec<String> = missing.map(|field| format!("no {field:?}")).collect();
    let present = row.absent.iter().filter(|name| !reply.all(name).is_empty());
    faults.extend(present.map(|name| format!("a {name}")));
    let own = reply.status() == 502;
    let checks = [
        ("another status", reply.status() == row.status),
        ("another body", reply.body == row.body.as_bytes()),
        ("another end", reply.complete == row.whole),
        ("no one Date", reply.all("date").len() == 1),
        ("the backend's address", !String::from_utf8_lossy(&reply.raw).contains(address)),
        ("no request id", !own || reply.field("x-request-id").is_some_and(|id| id.len() == 32)),
        ("no kind", !own || reply.field("content-type") == Some("text/plain; charset=utf-8")),
    ];
    let failed = checks.iter().filter(|(_, holds)| !holds);
    faults.extend(failed.map(|(what, _)| (*what).to_owned()));
    faults
}

/// Asks, and asks once more over the same connection, where it is still open.
fn check(row: &Row, backend: &Scripted, proxy: &Proxy) -> Vec<String> {
    let connections = backend.connections();
    backend.will_answer(wire(&format!("{}{}", row.prefix, row.answer)), row.closes);
    let mut client = Raw::connect(proxy.address);
    client.send(row.send);
    let reply = if row.send == HEAD { client.head_reply() } else { client.reply() };
    let mut faults = has_faults(row, &reply, &backend.address.port().to_string());
    let mut again = if !row.whole || row.send == GET_10 {
        let (rest, ended) = client.rest();
        if !rest.is_empty() || ended == Ended::Open {
            faults.push(format!("not closed but {ended:?} {rest:?}"));
        }
        Raw::connect(proxy.address)
    } else {
        client
    };
    let next = again.ask(GET);
    if next.body != b"ok" {
        faults.push(format!("a spoilt next reply {next:?}"));
    }
    let reused = backend.connections() - connections < 2 && !row.closes;
    if reused != row.reused {
        faults.push(format!("the backend's connection reused: {reused}"));
    }
    let got: Vec<_> = backend.take_got().iter().map(|got| got.line.clone()).collect();
    if got.len() != 2 {
        faults.push(format!("sent {got:?}"));
    }
    let Row { number, answer, .. } = row;
    faults
        .into_iter()
        .map(|what| format!("row {number} {answer:?} has {what}: {reply:?}"))
        .collect()
}

fn alone(row: &Row) -> Vec<String> {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address)
        .workers(1)
        .legacy("min_idle = 0")
        .async_("min_idle = 0")
        .start();
    check(row, &backend, &proxy)
}

#[test]
fn replies_are_framed_anew_and_never_trusted() {
    let rows: Vec<&Row> = INVALID.iter().chain(FRAMED).chain(FIELDS).collect();
    // A proxy for each row: which connections its pool holds must not depend on the one before.
    let some = |rows: &[&Row]| rows.iter().flat_map(|row| alone(row)).collect::<Vec<_>>();
    let faults = std::thread::scope(|scope| {
        let threads: Vec<_> = rows.chunks(4).map(|rows| scope.spawn(move || some(rows))).collect();
        let ended = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        ended.collect::<Vec<String>>()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_backend_that_is_not_there_is_a_502_that_does_not_name_it() {
    let nowhere = Backend::refused();
    let proxy = Setup::new(nowhere, nowhere).workers(1).start();
    let reply = proxy_reply(&proxy, "X-Request-Id: my-id\r\n");
    assert_eq!(reply.status(), 502);
    assert_eq!(reply.field("proxy-status"), Some("cutover; error=connection_refused"));
    assert_eq!(reply.field("x-request-id"), Some("my-id"));
    assert_eq!(reply.text(), "The backend can't be reached.\n");
    let text = String::from_utf8_lossy(&reply.raw).into_owned();
    assert!(!text.contains(&nowhere.port().to_string()), "{text}");
}

fn proxy_reply(proxy: &Proxy, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}
