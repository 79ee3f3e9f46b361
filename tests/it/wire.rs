//! What passes through unchanged, what is added on the way, and who waits for whom.

use std::io::Write;

use crate::harness::raw::{Ended, Listener, Message, Raw};
use crate::harness::raw_backend::{OK, Scripted};
use crate::harness::{Proxy, Setup, eventually};

fn setup(backend: std::net::SocketAddr) -> Setup {
    let lines = "min_idle = 0";
    Setup::new(backend, backend).workers(1).legacy(lines).async_(lines)
}

fn request(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// One request with `fields`, and what the backend got of it.
fn forwarded(proxy: &Proxy, backend: &Scripted, fields: &str) -> Message {
    let reply = Raw::connect(proxy.address).ask(request(fields));
    assert_eq!(reply.status(), 200, "{reply:?}");
    backend.one()
}

// === Bytes ===

const IDS: &str = "X-Request-Id: id\r\n\
                   Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

#[test]
fn names_are_in_title_case_by_default_both_ways() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    backend.will_answer(
        "HTTP/1.1 200 OK\r\nx-odd-NAME: v\r\ndate: d\r\ncontent-length: 0\r\n\r\n",
        false,
    );
    let lines = "x-odd-NAME: v\r\nACCEPT: */*\r\n".to_owned() + IDS;
    let reply = Raw::connect(proxy.address).ask(request(&lines));
    let expected = "HTTP/1.1 200 OK\r\nX-Odd-Name: v\r\nDate: d\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&reply.raw), expected);
    let got = backend.one();
    let expected = format!(
        "GET /x HTTP/1.1\r\nHost: a\r\nX-Odd-Name: v\r\nAccept: */*\r\n{IDS}\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\
         Via: 1.1 cutover\r\n\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&got.raw), expected);
}

#[test]
fn preserved_names_are_the_same_byte_for_byte_both_ways() {
    let backend = Scripted::start();
    let lines = "min_idle = 0\nheader_case = \"preserve\"";
    let proxy = setup(backend.address).legacy(lines).start();
    let answer = "HTTP/1.1 200 OK\r\nx-odd-NAME: v\r\ndATE: d\r\nSET-cookie: a\r\n\
                  Set-Cookie: b\r\nconTENT-length: 2\r\n\r\nok";
    backend.will_answer(answer, false);
    let ids = IDS.to_ascii_uppercase().replace(
        ": 00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331",
        ": 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    );
    let sent = format!(
        "POST /x HTTP/1.1\r\nhOST: a\r\nx-odd-NAME: v\r\nX_y.z: 1\r\nCONTENT-length: 2\r\n{ids}"
    );
    let reply = Raw::connect(proxy.address).ask(format!("{sent}\r\nhi"));
    assert_eq!(String::from_utf8_lossy(&reply.raw), answer);
    let got = backend.one();
    let text = String::from_utf8_lossy(&got.raw).into_owned();
    let added = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n\
                 via: 1.1 cutover\r\n\r\nhi";
    assert!(text.starts_with(&sent), "{text:?}");
    assert_eq!(text[sent.len()..].to_ascii_lowercase(), added);
}

#[test]
fn a_request_line_of_8000_octets_passes() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    let line = format!("GET /{}?{} HTTP/1.1", "a".repeat(5_000), "b".repeat(2_980));
    let reply = Raw::connect(proxy.address).ask(format!("{line}\r\nHost: a\r\n\r\n"));
    assert_eq!(reply.status(), 200);
    assert_eq!(backend.one().line, line);
}

#[test]
fn http_1_0_goes_on_as_1_1_with_a_host_and_is_closed_after() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    for (head, host) in [
        ("GET /x HTTP/1.0\r\n\r\n", proxy.address.to_string()),
        ("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", "a".to_owned()),
        ("GET /x HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n", "a".to_owned()),
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(head);
        let (bytes, ended) = client.rest();
        assert!(bytes.ends_with(b"\r\n\r\nok"), "{bytes:?}");
        assert_eq!(ended, Ended::Closed);
        let got = backend.one();
        assert_eq!(got.line, "GET /x HTTP/1.1");
        assert_eq!(got.field("host"), Some(&*host));
        assert_eq!(got.field("via"), Some("1.0 cutover"));
        assert_eq!((got.field("upgrade"), got.field("connection")), (None, None));
    }
}

// === What the proxy says ===

#[test]
fn an_untrusted_peer_s_forwarded_fields_are_replaced_and_a_trusted_one_s_extended() {
    let backend = Scripted::start();
    let fields = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: b\r\nForwarded: for=9.9.9.9\r\n";
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
    let all = |got: &Message| names.map(|name| got.all(name).join(", "));
    let untrusted = setup(backend.address).listen("trusted_proxies = [\"9.0.0.0/8\"]");
    let got = forwarded(&untrusted.start(), &backend, fields);
    assert_eq!(all(&got), ["127.0.0.1", "http", "a", ""]);
    let trusted = setup(backend.address).listen("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let got = forwarded(&trusted, &backend, fields);
    let extended = "for=9.9.9.9, for=127.0.0.1;proto=http";
    assert_eq!(all(&got), ["9.9.9.9, 127.0.0.1", "https", "b", extended]);
    let got = forwarded(&trusted, &backend, "");
    assert_eq!(all(&got), ["127.0.0.1", "http", "a", ""]);
}

#[test]
fn a_sound_request_id_and_trace_are_kept_and_others_made_anew() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    let got = forwarded(&proxy, &backend, IDS);
    assert_eq!(got.field("x-request-id"), Some("id"));
    let kept = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(got.field("traceparent"), Some(kept));
    let unsound = format!("X-Request-Id: {}\r\nTraceparent: 00-0-0-01\r\n", "i".repeat(129));
    for fields in ["", &unsound, "X-Request-Id: a b\r\nTraceparent: \r\n", "X-Request-Id:\r\n"] {
        let first = forwarded(&proxy, &backend, fields);
        let second = forwarded(&proxy, &backend, fields);
        for got in [&first, &second] {
            let id = got.field("x-request-id").unwrap();
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            assert_eq!(got.field("traceparent").map(str::len), Some(55), "{got:?}");
        }
        assert_ne!(first.field("x-request-id"), second.field("x-request-id"));
        assert_ne!(first.field("traceparent"), second.field("traceparent"));
    }
}

#[test]
fn the_last_hop_answers_options_itself_and_circles_end() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    let reply = client.ask("OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!(reply.status(), 204, "{reply:?}");
    assert!(reply.field("allow").is_some_and(|allow| allow.contains("GET")));
    let reply = client.ask(request(&"Via: 1.1 cutover, 1.1 other\r\n".repeat(8)));
    assert_eq!(reply.status(), 508, "{reply:?}");
    assert_eq!(reply.field("proxy-status"), Some("cutover; error=proxy_loop_detected"));
    assert!(backend.take_got().is_empty());
    assert_eq!(client.ask(request(&"Via: 1.1 cutover\r\n".repeat(7))).status(), 200);
    assert_eq!(backend.one().all("via").len(), 8);
}

#[test]
fn the_path_is_shown_only_where_asked_and_never_taken_from_a_client() {
    let backend = Scripted::start();
    for (tail, shown) in [("", None), ("[split]\nexpose_path = true", Some("legacy"))] {
        let proxy = setup(backend.address).tail(tail).start();
        let reply = Raw::connect(proxy.address).ask(request("X-Cutover-Path: async\r\n"));
        assert_eq!(reply.field("x-cutover-path"), shown);
        assert_eq!(backend.one().field("x-cutover-path"), None);
    }
}

// === Who waits for whom ===

#[test]
fn pipelined_requests_are_answered_in_order_and_none_after_a_close() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    for body in ["1", "2", "3"] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}");
        backend.will_answer(answer, false);
    }
    let post =
        "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n";
    client.send(format!(
        "{}{post}{}{}",
        request(""),
        request("Connection: close\r\n"),
        request("")
    ));
    for body in ["1", "2", "3"] {
        assert_eq!(client.reply().text(), body);
    }
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    let lines: Vec<_> = backend.take_got().into_iter().map(|got| got.line).collect();
    assert_eq!(lines, ["GET /x HTTP/1.1", "POST /2 HTTP/1.1", "GET /x HTTP/1.1"]);
}

#[test]
fn a_client_that_half_closes_after_its_request_is_still_answered() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    client.send(request(""));
    client.finish();
    let mut upstream = backend.accept();
    upstream.request();
    assert!(client.is_quiet(), "closed although a reply is due");
    upstream.send(OK);
    assert_eq!(client.reply().text(), "ok");
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
}

#[test]
fn a_client_that_resets_cancels_the_work_of_the_backend() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    client.send(request(""));
    let mut upstream = backend.accept();
    upstream.request();
    client.reset();
    let (bytes, ended) = upstream.rest();
    assert!(bytes.is_empty() && ended != Ended::Open, "{ended:?}");
    let blamed = || proxy.scrape().sum("cutover_client_errors_total", &[("kind", "abort")]);
    eventually!(blamed() == 1.0, "nobody is to blame");
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn an_upload_that_is_reset_is_never_complete_at_the_backend() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    for framing in
        ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
    {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\n{framing}"));
        let mut upstream = backend.accept();
        eventually!(upstream.has_got(b"hello"), "the body does not come");
        client.reset();
        let got = upstream.request();
        assert!(!got.complete && got.text().contains("hello"), "{got:?}");
    }
}

#[test]
fn a_100_comes_before_the_body_is_sent_but_never_to_http_1_0() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let mut client = Raw::connect(proxy.address);
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let mut upstream = backend.accept();
    assert_eq!(client.reply().line, "HTTP/1.1 100 Continue");
    client.send("hello");
    let got = upstream.request();
    assert_eq!((got.text().as_str(), got.field("expect")), ("hello", None));
    upstream.send(OK);
    assert_eq!(client.reply().status(), 200);

    let mut client = Raw::connect(proxy.address);
    client.send("POST /x HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.is_quiet(), "a 1xx to HTTP/1.0");
    client.send("hello");
    upstream.request();
    upstream.send(OK);
    assert_eq!(client.reply().line, "HTTP/1.0 200 OK");
}

#[test]
fn a_final_reply_overtakes_the_upload_and_the_rest_is_no_request() {
    let backend = Listener::bind();
    let proxy = setup(backend.address).start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = Raw::connect(proxy.address);
    client.send(format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\nhello",
        5 + smuggled.len()
    ));
    let mut upstream = backend.accept();
    eventually!(upstream.has_got(b"hello"), "the body does not come");
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text().as_str()), (413, "no"));
    // It may take the rest or close; it must not read it as a request.
    let _ = client.stream.write_all(smuggled.as_bytes());
    client.finish();
    let (rest, ended) = client.rest();
    assert!(rest.is_empty() && ended != Ended::Open, "{rest:?} {ended:?}");
    let got = upstream.rest().0;
    assert!(!String::from_utf8_lossy(&got).contains("GET /smuggled HTTP/1.1\r\nHost: a\r\nX-"));
    assert!(backend.is_untouched(), "the rest became a request");
    assert_eq!(proxy.scrape().sum("cutover_requests_total", &[]), 1.0);
}

#[test]
fn trailers_pass_both_ways_and_stay_apart_from_the_head() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).start();
    backend.will_answer(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        false,
    );
    let reply = Raw::connect(proxy.address).ask(
        "POST /x HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate\r\nConnection: te\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 5\r\n\r\n",
    );
    let got = backend.one();
    assert_eq!((got.field("te"), got.field("connection")), (Some("trailers"), Some("TE")));
    assert_eq!((got.text().as_str(), &got.trailers[..]), ("hi", &["X-Sum: 5".to_owned()][..]));
    assert_eq!(got.field("x-sum"), None);
    assert_eq!((reply.text().as_str(), &reply.trailers[..]), ("ok", &["X-Sum: 7".to_owned()][..]));
    assert_eq!((reply.field("trailer"), reply.field("x-sum")), (Some("X-Sum"), None));
}

#[test]
fn a_post_is_not_sent_again_once_a_byte_of_it_went() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut client = Raw::connect(proxy.address);
    // The second goes over a pooled connection, where closing could be taken for its idle end.
    for closes in [false, true] {
        let answer = if closes { "" } else { OK };
        backend.will_answer(answer, closes);
        let reply = client.ask("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(reply.status(), if closes { 502 } else { 200 }, "{reply:?}");
        assert_eq!(backend.one().body, b"hello");
    }
}
