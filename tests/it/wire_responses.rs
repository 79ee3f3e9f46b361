//! Replies of backends row by row: framed anew, cut where they are cut, or replaced where they are no
//! HTTP. The rows are in `wire_invalid` and `wire_framed`.

use crate::harness::raw::{Ended, Message, Raw, wire};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Proxy, Setup};
use crate::wire_refused::start;
use crate::{wire_framed, wire_invalid};

pub(crate) const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const HEAD: &str = "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const GET_10: &str = "GET /x HTTP/1.0\r\nHost: a\r\n\r\n";

/// What a backend answers, and what the client must see.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The section that says so, or the threat.
    pub(crate) section: &'static str,
    pub(crate) send: &'static str,
    /// What the backend writes, in two parts; then it closes, if `closes`.
    pub(crate) prefix: &'static str,
    pub(crate) answer: &'static str,
    pub(crate) closes: bool,
    /// Of the interim responses in front of the reply.
    pub(crate) interims: &'static [u16],
    pub(crate) status: u16,
    /// Fields of the reply that must be there, each exactly once or as often as listed.
    pub(crate) fields: &'static [&'static str],
    /// Names that must not be there.
    pub(crate) absent: &'static [&'static str],
    pub(crate) body: &'static str,
    /// Whether the reply must end as its framing says.
    pub(crate) whole: bool,
    /// Whether the backend's connection must serve the next request.
    pub(crate) reused: bool,
}

pub(crate) const PLAIN: Row = Row {
    section: "",
    send: GET,
    prefix: "",
    answer: "",
    closes: false,
    interims: &[],
    status: 200,
    fields: &[],
    absent: &["Transfer-Encoding"],
    body: "",
    whole: true,
    reused: true,
};

/// A reply that is passed on, and its body.
pub(crate) const fn passed(section: &'static str, answer: &'static str, body: &'static str) -> Row {
    Row { section, answer, body, ..PLAIN }
}

/// A reply that is no valid HTTP.
pub(crate) const fn invalid(section: &'static str, answer: &'static str) -> Row {
    Row {
        section,
        answer,
        status: 502,
        fields: &["Proxy-Status: cutover; error=http_protocol_error"],
        body: "The backend's reply is not valid HTTP.\n",
        reused: false,
        ..PLAIN
    }
}

/// A reply of unknown length; `fields` and body follow its status line.
pub(crate) const fn chunked(section: &'static str, rest: &'static str, body: &'static str) -> Row {
    Row {
        prefix: "HTTP/1.1 200 OK|",
        fields: &["Transfer-Encoding: chunked"],
        absent: &["Content-Length"],
        ..passed(section, rest, body)
    }
}

/// The connection behind it can't serve another request.
pub(crate) const fn spent(row: Row) -> Row {
    Row { reused: false, ..row }
}

/// The backend ends it by closing.
pub(crate) const fn ended(row: Row) -> Row {
    Row { closes: true, ..spent(row) }
}

/// It ends before its framing says.
pub(crate) const fn cut(row: Row) -> Row {
    Row { whole: false, ..ended(row) }
}

/// The backend closes before a whole head has come.
pub(crate) const fn unanswered(section: &'static str, answer: &'static str) -> Row {
    Row {
        status: 502,
        fields: &["Proxy-Status: cutover; error=connection_terminated"],
        ..ended(passed(section, answer, "The backend closed the connection before it replied.\n"))
    }
}

fn has_faults(row: &Row, reply: &Message, address: &str) -> Vec<String> {
    if !row.whole && row.body.is_empty() && reply.raw.is_empty() {
        // It broke off before its head was written: no reply at all looks cut too.
        return Vec::new();
    }
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
    let mut interims = Vec::new();
    let reply = loop {
        let reply = if row.send == HEAD { client.head_reply() } else { client.reply() };
        match reply.status() {
            100..200 if row.interims.len() > interims.len() => interims.push(reply.status()),
            _ => break reply,
        }
    };
    let mut faults = has_faults(row, &reply, &backend.address.port().to_string());
    if interims != row.interims {
        faults.push(format!("the interims {interims:?}"));
    }
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
    let Row { section, answer, .. } = row;
    faults
        .into_iter()
        .map(|what| format!("row {section} {:?} has {what}: {reply:?}", start(answer.as_bytes())))
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

fn rows() -> Vec<Row> {
    [wire_invalid::rows(), wire_framed::rows()].concat()
}

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    rows().iter().map(|row| row.section).collect()
}

#[test]
fn replies_are_framed_anew_and_never_trusted() {
    let rows = rows();
    // A proxy for each row: which connections its pool holds must not depend on the one before.
    let some = |rows: &[Row]| rows.iter().flat_map(alone).collect::<Vec<_>>();
    let faults = std::thread::scope(|scope| {
        let threads: Vec<_> = rows.chunks(24).map(|rows| scope.spawn(move || some(rows))).collect();
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
