//! Requests of HTTP/2 clients to backends that speak HTTP/1.1: what goes there, and what comes back.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Request};

use crate::harness::h2::{
    END_HEADERS, END_STREAM, End, Frames, HEADERS, block, request, request_with,
};
use crate::harness::h2_client::{Http2, Payload, Whole};
use crate::harness::raw::Message;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Proxy, Setup};

fn start(backend: SocketAddr) -> Proxy {
    Setup::new(backend, backend).workers(1).start()
}

/// A backend, a proxy and a client.
fn trio() -> (Scripted, Proxy, Frames) {
    let backend = Scripted::start();
    let proxy = start(backend.address);
    let client = Frames::connect(proxy.address);
    (backend, proxy, client)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

/// Of a whole reply: chunked, with these trailers behind it.
fn chunked(body: &[u8], trailers: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = match body.len() {
        0 => Vec::new(),
        length => [format!("{length:x}\r\n").as_bytes(), body, b"\r\n"].concat(),
    };
    [head.as_bytes(), &chunk, b"0\r\n", trailers.as_bytes(), b"\r\n"].concat()
}

#[test]
fn a_get_reaches_the_backend_as_http1_and_its_reply_comes_back() {
    let (backend, _proxy, mut client) = trio();
    let fields = [("x-a", "1"), ("user-agent", "u"), ("x-a", "\u{e9}")];
    let stream = client.ask(&request_with("GET", "/a/b?c=d&e", &fields));
    assert_eq!(client.answer(stream).whole(), (200, "ok".to_owned()));
    let got = backend.one();
    assert_eq!(got.line, "GET /a/b?c=d&e HTTP/1.1");
    assert_eq!(got.field("host"), Some("a"));
    assert_eq!(got.field("via"), Some("2.0 cutover"));
    assert_eq!(got.all("x-a"), ["1", "\u{e9}"]);
    assert_eq!(got.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert_eq!(got.field("x-forwarded-host"), Some("a"));
    for absent in ["connection", "transfer-encoding", "content-length", "te"] {
        assert_eq!(got.field(absent), None, "{got:?}");
    }
    assert!(!got.fields.iter().any(|field| field.starts_with(':')), "{got:?}");
}

#[test]
fn an_asterisk_of_options_and_a_host_without_an_authority_pass() {
    let (backend, _proxy, mut client) = trio();
    let stream = client.ask(&request("OPTIONS", "*"));
    assert_eq!(client.answer(stream).status(), 200);
    assert_eq!(backend.one().line, "OPTIONS * HTTP/1.1");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b:81")];
    let stream = client.ask(&fields);
    assert_eq!(client.answer(stream).status(), 200);
    assert_eq!(backend.one().field("host"), Some("b:81"));
    let stream = client.ask(&request_with("GET", "/", &[("host", "A")]));
    assert_eq!(client.answer(stream).status(), 200);
    assert_eq!(backend.one().field("host").map(str::to_lowercase), Some("a".to_owned()));
}

#[test]
fn crumbs_of_a_cookie_are_one_field_for_the_backend() {
    let (backend, _proxy, mut client) = trio();
    let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
    let stream = client.ask(&request_with("GET", "/", &crumbs));
    client.answer(stream).whole();
    assert_eq!(backend.one().field("cookie"), Some("a=1; b=2; c=3; d=4"));
}

#[test]
fn what_a_backend_says_of_its_own_connection_stays_there_and_all_else_passes() {
    let (backend, _proxy, mut client) = trio();
    backend.will_answer(
        "HTTP/1.1 404 Gone Fishing\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\
         X-Odd: v\r\n\r\nok",
        false,
    );
    let answer = client.get("/");
    assert_eq!(answer.whole(), (404, "ok".to_owned()));
    for hop in ["connection", "x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.field(hop), None, "{answer:?}");
    }
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.field("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(answer.field("content-length"), Some("2"));
    assert_eq!(answer.field("x-odd"), Some("v"));

    backend.will_answer(chunked(b"ok", ""), false);
    let answer = client.get("/");
    assert_eq!(answer.whole(), (200, "ok".to_owned()));
    assert_eq!(answer.field("transfer-encoding"), None);
    let date = answer.field("date").expect("one is added");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
}

#[test]
fn replies_without_a_body_end_with_their_head() {
    let (backend, _proxy, mut client) = trio();
    for (method, status, length) in [
        ("HEAD", "200 OK", Some("5")),
        ("HEAD", "200 OK", None),
        ("HEAD", "404 Not Found", Some("5")),
        ("GET", "204 No Content", None),
        ("GET", "304 Not Modified", Some("5")),
        ("GET", "304 Not Modified", None),
        ("GET", "200 OK", Some("0")),
    ] {
        let field = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        let chunks = "Transfer-Encoding: chunked\r\n";
        let framing = if method == "HEAD" && length.is_none() { chunks } else { &field };
        backend.will_answer(format!("HTTP/1.1 {status}\r\n{framing}ETag: \"e\"\r\n\r\n"), false);
        let stream = client.ask(&request(method, "/"));
        let answer = client.answer(stream);
        assert_eq!(answer.whole(), (status[..3].parse().unwrap(), String::new()));
        assert_eq!(answer.field("content-length"), length, "{method} {status}");
        assert_eq!(answer.field("etag"), Some("\"e\""));
        assert_eq!(backend.one().line, format!("{method} / HTTP/1.1"));
    }
    assert_eq!(backend.connections(), 1);
}

const SIZES: [usize; 7] = [0, 1, 1000, 16 * 1024, 65_535, 65_536, 1 << 20];

#[test]
fn bodies_of_any_size_arrive_unchanged_in_both_directions() {
    let backend = Scripted::start();
    let proxy = start(backend.address);
    let mut client = Http2::connect(proxy.address);
    for (size, announced) in SIZES.into_iter().flat_map(|size| [(size, true), (size, false)]) {
        let (there, back) = (pattern(size), pattern(size).into_iter().rev().collect::<Vec<_>>());
        let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        let plain = [length.as_bytes(), &back].concat();
        backend.will_answer(if announced { plain } else { chunked(&back, "") }, false);
        let head = Request::post("http://a/x");
        let head = if announced { head.header("content-length", size) } else { head };
        let payload = Payload { body: there.clone(), trailers: None };
        let reply = client.exchange(head.body(()).unwrap(), payload).unwrap();
        assert_eq!(reply.status(), 200);
        assert!(reply.body().0 == back, "{size} bytes back, announced: {announced}");
        let told = reply.headers().get("content-length");
        assert_eq!(told.is_some(), announced, "{size}");
        let got = backend.one();
        assert!(got.complete && got.body == there, "{size} bytes there, announced: {announced}");
        let (length, coding) = (got.field("content-length"), got.field("transfer-encoding"));
        match (announced, size) {
            (true, _) => {
                assert_eq!((length, coding), (Some(size.to_string().as_str()), None), "{got:?}");
            }
            (false, 0) => assert_eq!(coding, None, "{got:?}"),
            (false, _) => assert_eq!((length, coding), (None, Some("chunked")), "{got:?}"),
        }
    }
}

/// A POST with trailers, whose reply has some too; the reply, and what the backend got.
fn exchange_trailers(body: &[u8], announced: Option<&str>) -> (Whole, Message) {
    let backend = Scripted::start();
    let proxy = start(backend.address);
    backend.will_answer(chunked(body, "X-Sum: 8\r\nGrpc-Status: 1\r\n"), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut head = Request::post("http://a/x").header("te", "trailers");
    if let Some(names) = announced {
        head = head.header("trailer", names);
    }
    let payload = Payload { body: body.to_vec(), trailers: Some(trailers) };
    let reply = Http2::connect(proxy.address).exchange(head.body(()).unwrap(), payload).unwrap();
    (reply, backend.one())
}

#[test]
fn trailers_pass_in_both_directions() {
    for body in [&b""[..], b"hello"] {
        let (reply, got) = exchange_trailers(body, Some("x-sum, grpc-status"));
        let back = reply.body().1.as_ref().expect("trailers");
        assert_eq!(
            (back["x-sum"].as_bytes(), back["grpc-status"].as_bytes()),
            (&b"8"[..], &b"1"[..])
        );
        assert_eq!(reply.body().0, body);
        assert!(got.complete && got.body == body, "{got:?}");
        assert_eq!((got.field("te"), got.field("connection")), (Some("trailers"), Some("TE")));
        let mut there: Vec<String> = got.trailers.iter().map(|t| t.to_lowercase()).collect();
        there.sort();
        assert_eq!(there, ["grpc-status: 0", "x-sum: 7"]);
    }
}

/// RFC 9110 section 6.5.1 lets a proxy discard trailers; hyper does with those that no `Trailer`
/// announced.
#[test]
fn trailers_of_a_request_that_were_not_announced_do_not_harm_its_body() {
    for body in [&b""[..], b"hello"] {
        let (reply, got) = exchange_trailers(body, None);
        assert_eq!((reply.status().as_u16(), reply.body().1.is_some()), (200, true));
        assert!(got.complete && got.body == body, "{got:?}");
    }
}

#[test]
fn a_reply_that_ends_with_its_connection_ends_its_stream() {
    let (backend, _proxy, mut client) = trio();
    backend.will_answer("HTTP/1.1 200 OK\r\n\r\nuntil the end", true);
    assert_eq!(client.get("/").whole(), (200, "until the end".to_owned()));
    backend.will_answer("HTTP/1.0 200 OK\r\n\r\nolder", true);
    assert_eq!(client.get("/").whole(), (200, "older".to_owned()));
}

#[test]
fn interim_replies_come_before_the_final_one() {
    let (backend, _proxy, mut client) = trio();
    backend.will_answer(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        false,
    );
    let answer = client.get("/");
    assert_eq!(answer.whole(), (200, "ok".to_owned()));
    let hints = [(":status", "103"), ("link", "</a>")];
    let hints: Vec<_> = hints.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    assert_eq!(answer.interims, [hints]);
}

#[test]
fn a_client_that_waits_for_a_continue_gets_one() {
    let (backend, _proxy, mut client) = trio();
    let fields = [("expect", "100-continue"), ("content-length", "5")];
    let stream = client.open(&request_with("POST", "/", &fields));
    client.until(|client| !client.so_far(stream).interims.is_empty());
    client.last_data(stream, "hello");
    let answer = client.answer(stream);
    assert_eq!(answer.interims, [[(":status".to_owned(), "100".to_owned())]]);
    assert_eq!((answer.whole().0, backend.one().text().as_str()), (200, "hello"));
}

#[test]
fn an_expectation_of_a_continue_does_not_hold_the_body_back_forever() {
    let (backend, _proxy, mut client) = trio();
    let fields = [("expect", "100-continue"), ("content-length", "5")];
    let stream = client.open(&request_with("POST", "/", &fields));
    // RFC 9110 section 10.1.1: a client may send without having got a 100.
    client.last_data(stream, "hello");
    let answer = client.answer(stream);
    assert_eq!(answer.end, Some(End::Whole), "{answer:?}");
    let got = backend.one();
    assert_eq!((got.text().as_str(), got.field("expect")), ("hello", None));
}

#[test]
fn trailers_of_a_connection_or_of_framing_do_not_pass() {
    let (backend, _proxy, mut client) = trio();
    let forbidden = "Connection: close\r\nKeep-Alive: x\r\nTransfer-Encoding: gzip\r\nUpgrade: h2c\r\n\
                     Proxy-Connection: x\r\nTE: gzip\r\nContent-Length: 9\r\nHost: b\r\n";
    backend.will_answer(chunked(b"ok", &format!("X-A: 1\r\n{forbidden}X-B: 2\r\n")), false);
    let answer = client.get("/");
    assert_eq!(answer.whole(), (200, "ok".to_owned()));
    let mut names: Vec<&str> = answer.trailers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-a", "x-b"]);
    backend.will_answer(chunked(b"ok", forbidden), false);
    let answer = client.get("/");
    assert_eq!((answer.whole().0, answer.trailers), (200, Vec::new()));
}

#[test]
fn trailers_of_framing_do_not_reach_the_backend() {
    let (backend, _proxy, mut client) = trio();
    let announced = [("te", "trailers"), ("trailer", "x, content-length, host, x-sum")];
    let stream = client.open(&request_with("POST", "/", &announced));
    client.data(stream, "hello");
    let trailers = block(&[("content-length", "9"), ("host", "b"), ("x-sum", "7")]);
    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
    assert_eq!(client.answer(stream).whole().0, 200);
    let got = backend.one();
    let names: Vec<String> = got.trailers.iter().map(|field| field.to_lowercase()).collect();
    assert_eq!((got.text().as_str(), names), ("hello", vec!["x-sum: 7".to_owned()]));
}

#[test]
fn a_fragment_and_pseudo_fields_in_trailers_go_no_further() {
    let (backend, _proxy, mut client) = trio();
    let stream = client.open(&request("POST", "/a?b#c"));
    client.data(stream, "hello");
    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[(":path", "/x")]));
    assert_eq!(client.answer(stream).whole().0, 200);
    let got = backend.one();
    assert_eq!((got.line.as_str(), got.trailers.len()), ("POST /a?b HTTP/1.1", 0));
}
