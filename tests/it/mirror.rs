//! The mirror: which requests the other path gets too, how they are marked, and what is counted.

use std::net::SocketAddr;

use crate::harness::guard::{order, shown};
use crate::harness::h2::Frames;
use crate::harness::h2_server::{Asked, H2Backend};
use crate::harness::raw::Message;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Client, Latch, Proxy, Reply, Scrape, Setup, eventually};

/// All is mirrored, and nothing is asked for twice unless `lines` say so.
pub(crate) fn mirrored(legacy: SocketAddr, async_: SocketAddr, lines: &str) -> Setup {
    let noise = if lines.contains("noise_share") { "" } else { "noise_share = 0.0\n" };
    Setup::new(legacy, async_)
        .tail(&format!("[mirror]\nshare = 1.0\nmax_rps = 10000\n{noise}{lines}"))
}

/// How many requests came to this result, over all routes.
pub(crate) fn results(scrape: &Scrape, result: &str) -> f64 {
    scrape.sum("cutover_mirror_total", &[("result", result)])
}

/// Waits until so many requests came to this result, and nothing is in flight or held any more.
pub(crate) fn settled(proxy: &Proxy, result: &str, number: usize) -> Scrape {
    let number = f64::from(u32::try_from(number).unwrap());
    eventually!(
        results(&proxy.scrape(), result) == number,
        "not {number} of {result}:\n{}",
        proxy
            .scrape()
            .0
            .lines()
            .filter(|line| line.contains("mirror"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    at_rest(proxy);
    proxy.scrape()
}

/// Waits until the mirror has nothing left.
pub(crate) fn at_rest(proxy: &Proxy) {
    let left = || {
        let scrape = proxy.scrape();
        ["cutover_mirror_in_flight", "cutover_mirror_bytes"].map(|gauge| {
            assert!(scrape.0.contains(&format!("\n{gauge}")), "{gauge} is not there");
            scrape.sum(gauge, &[])
        })
    };
    eventually!(left() == [0.0; 2], "still in flight, still held: {:?}", left());
}

fn is_shadow(message: &Message) -> bool {
    message.field("x-cutover-shadow") == Some("1")
}

#[test]
fn the_other_path_gets_the_same_request_marked_as_a_shadow() {
    for (weight, path) in [(0.0, "async"), (1.0, "legacy")] {
        let [legacy, async_] = [Scripted::start(), Scripted::start()];
        let proxy = mirrored(legacy.address, async_.address, "").weight(weight).start();
        let reply = proxy.client().get_with(
            "/orders/7?full=1",
            "X-Request-Id: r-7\r\nAccept: application/json\r\nCookie: sid=1\r\n\
             X-Cutover-Path: async\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
             traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        );
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        let [primary, shadow] = match path {
            "async" => [legacy.one(), async_.one()],
            _ => [async_.one(), legacy.one()],
        };
        assert!(!is_shadow(&primary) && is_shadow(&shadow), "{primary:?} {shadow:?}");
        assert_eq!(primary.line, "GET /orders/7?full=1 HTTP/1.1");
        assert_eq!(shadow.line, primary.line);
        for message in [&primary, &shadow] {
            assert_eq!(message.field("host"), Some("test"));
            assert_eq!(message.field("x-request-id"), Some("r-7"));
            assert_eq!(message.field("cookie"), Some("sid=1"));
            assert!(message.all("x-hop").is_empty() && message.all("x-cutover-path").is_empty());
        }
        for name in ["traceparent", "via", "x-forwarded-for", "accept"] {
            assert_eq!(shadow.all(name), primary.all(name), "{name}");
            assert_eq!(shadow.all(name).len(), 1, "{name}");
        }
        let scrape = settled(&proxy, "match", 1);
        assert_eq!(scrape.sum("cutover_shadow_duration_seconds_count", &[("path", path)]), 1.0);
        assert_eq!(scrape.sum("cutover_shadow_duration_seconds_count", &[]), 1.0);
        // It is no request of a client.
        assert_eq!(scrape.sum("cutover_requests_total", &[]), 1.0);
        assert_eq!(scrape.sum("cutover_requests_total", &[("path", path)]), 0.0);
        assert_eq!(scrape.sum("cutover_endpoint_requests_total", &[("path", path)]), 0.0);
    }
}

#[test]
fn without_a_share_there_is_no_shadow() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let proxy = Setup::new(legacy.address, async_.address).start();
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(async_.connections(), 0);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum("cutover_mirror_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_mirror_skipped_total", &[]), 0.0);
}

#[test]
fn a_share_is_drawn_by_chance_whatever_the_split_says() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let tail = "[mirror]\nshare = 0.5\nmax_rps = 10000\nnoise_share = 0.0\n";
    let setup = Setup::new(legacy.address, async_.address).weight(0.5).tail(tail);
    let proxy = setup.start();
    let mut client = proxy.client();
    (0..100).for_each(|_| assert_eq!(client.get("/").status, 200));
    at_rest(&proxy);
    let [to_legacy, to_async] = [&legacy, &async_].map(|backend| {
        let got = backend.take_got();
        let shadows = got.iter().filter(|message| is_shadow(message)).count();
        // Half of 50 each, more than five standard deviations to either side.
        assert!((5..45).contains(&shadows), "{shadows} shadows of {}", got.len());
        assert!((49..=51).contains(&(got.len() - shadows)), "an even spread");
        shadows
    });
    let scrape = proxy.scrape();
    let skipped = scrape.sum("cutover_mirror_skipped_total", &[("reason", "not_sampled")]);
    let mirrored = f64::from(u32::try_from(to_legacy + to_async).unwrap());
    assert_eq!(results(&scrape, "match"), mirrored);
    assert_eq!((skipped, results(&scrape, "skipped")), (100.0 - mirrored, 100.0 - mirrored));
}

#[test]
fn what_has_no_comparable_answer_is_skipped_and_its_reason_counted() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let routes = "request_bytes = \"10\"\n\
                  [[route]]\nname = \"off\"\nmatch = \"GET /off\"\nmirror = false\n\
                  [[route]]\nname = \"pinned\"\nmatch = \"GET /pinned\"\npin = \"legacy\"\n\
                  [[route]]\nname = \"writes\"\nmatch = \"* /writes\"\nunsafe_methods_ok = true\n";
    let proxy = mirrored(legacy.address, async_.address, routes).start();
    for (head, reason) in [
        ("GET /off HTTP/1.1\r\n", "route"),
        ("GET /pinned HTTP/1.1\r\n", "route"),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n", "method"),
        ("OPTIONS / HTTP/1.1\r\n", "method"),
        ("GET / HTTP/1.1\r\nX-Cutover-Shadow: 1\r\n", "shadow"),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", "upgrade"),
        ("GET / HTTP/1.1\r\nAccept: text/event-stream\r\n", "events"),
        ("GET / HTTP/1.1\r\nExpect: 100-continue\r\n", "expect"),
        ("GET / HTTP/1.1\r\nRange: bytes=0-1\r\n", "range"),
        ("GET / HTTP/1.1\r\nIf-None-Match: \"a\"\r\n", "conditional"),
        ("PUT /writes HTTP/1.1\r\nContent-Length: 11\r\n", "body"),
        ("PUT /writes HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "body"),
    ] {
        let before = proxy.scrape();
        let body = match (head.contains("chunked"), head.contains("Length: 11")) {
            (true, _) => "b\r\nhello world\r\n0\r\n\r\n",
            (false, true) => "hello world",
            (false, false) => "",
        };
        let mut client = proxy.client();
        client.send(format!("{head}Host: test\r\n\r\n{body}"));
        assert_eq!(client.response().status, 200, "{head}");
        assert!(!is_shadow(&legacy.one()));
        let after = proxy.scrape();
        let of = |scrape: &Scrape| {
            let labels = [("reason", reason)];
            [scrape.sum("cutover_mirror_skipped_total", &labels), results(scrape, "skipped")]
        };
        let [before, after] = [of(&before), of(&after)];
        assert_eq!(after.map(|n| n - 1.0), before, "{head}");
    }
    assert_eq!(async_.connections(), 0);
    at_rest(&proxy);
}

#[test]
fn a_body_goes_to_both_paths_where_that_is_said_to_be_safe() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let route = "[[route]]\nname = \"w\"\nmatch = \"POST /{rest*}\"\nunsafe_methods_ok = true\n";
    let proxy = mirrored(legacy.address, async_.address, route).start();
    let body = "x".repeat(60_000);
    for (framing, bytes) in [
        ("Content-Length: 5", "hello".to_owned()),
        ("Content-Length: 60000", body.clone()),
        ("Transfer-Encoding: chunked", format!("ea60\r\n{body}\r\n0\r\n\r\n")),
        ("Content-Length: 0", String::new()),
    ] {
        let mut client = proxy.client();
        client.send(format!("POST /a HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{bytes}"));
        assert_eq!(client.response().status, 200);
        let (primary, shadow) = (legacy.one(), async_.one());
        assert!(primary.body == shadow.body, "{} bytes, {}", primary.body.len(), shadow.body.len());
        let length = primary.body.len().to_string();
        assert_eq!(shadow.field("content-length"), Some(length.as_str()), "{framing}");
        assert!(is_shadow(&shadow) && shadow.all("transfer-encoding").is_empty());
    }
    settled(&proxy, "match", 4);
}

#[test]
fn a_body_that_breaks_off_is_not_sent_to_the_other_path() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let route = "[[route]]\nname = \"w\"\nmatch = \"POST /{rest*}\"\nunsafe_methods_ok = true\n";
    let proxy = mirrored(legacy.address, async_.address, route).start();
    let mut client = proxy.client();
    client.send("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    eventually!(legacy.connections() == 1);
    drop(client);
    settled(&proxy, "dropped", 1);
    assert_eq!(async_.connections(), 0);
}

#[test]
fn answers_that_differ_are_counted_by_kind_once_they_differ_again() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let proxy = mirrored(legacy.address, async_.address, "").start();
    let json = |body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    // Asked again, the paths agree.
    legacy.will_answer(json(r#"{"a":1}"#), false);
    async_.will_answer(json(r#"{"a":2}"#), false);
    assert_eq!(proxy.client().get("/").text(), r#"{"a":1}"#);
    let scrape = settled(&proxy, "transient", 1);
    assert_eq!(scrape.sum("cutover_mirror_mismatch_total", &[]), 0.0);
    assert!([&legacy, &async_].iter().all(|backend| backend.take_got().len() == 2));
    // A status that differs needs no second look, or has one; either way it counts.
    legacy.will_answer(json(r#"{"a":1}"#), false);
    async_.will_answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false);
    legacy.will_answer(json(r#"{"a":1}"#), false);
    async_.will_answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false);
    assert_eq!(proxy.client().get("/").text(), r#"{"a":1}"#);
    let scrape = settled(&proxy, "mismatch", 1);
    assert_eq!(scrape.sum("cutover_mirror_mismatch_total", &[("kind", "status")]), 1.0);
}

#[test]
fn one_difference_a_second_is_asked_for_again_and_the_others_stay_unconfirmed() {
    let [legacy, async_] = [Backend::ok("legacy"), Backend::ok("async")];
    let proxy = mirrored(legacy.address, async_.address, "").start();
    let began = std::time::Instant::now();
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").text(), "legacy"));
    settled(&proxy, "mismatch", 20);
    let most = began.elapsed().as_secs() + 1;
    let found = shown(proxy.admin, "/api/v1/diffs")["routes"][0].take();
    let of = |key: &str| found[key].as_u64().unwrap();
    assert!((1..=most).contains(&of("confirmed")), "{found}");
    assert_eq!((of("confirmed") + of("unasked"), of("transient")), (20, 0), "{found}");
    // Each path got each once, and each confirmation once more.
    assert_eq!([&legacy, &async_].map(|b| b.hits() as u64), [20 + of("confirmed"); 2]);
}

#[test]
fn what_comes_and_goes_by_http2_is_mirrored_too() {
    let (legacy, async_) = (Scripted::start(), H2Backend::ok("ok"));
    let setup = mirrored(legacy.address, async_.address, "").async_("protocol = \"http2\"");
    let proxy = setup.start();
    let mut client = Frames::connect(proxy.address);
    assert_eq!(client.get("/orders?page=1").whole(), (200, "ok".to_owned()));
    let primary = legacy.one();
    settled(&proxy, "match", 1);
    let Asked { target, authority, fields, .. } = async_.last().asked;
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(field("x-cutover-shadow"), Some("1"));
    assert_eq!(field("x-request-id"), primary.field("x-request-id"));
    assert_eq!(
        (Some(authority.as_str()), target.as_str()),
        (primary.field("host"), "/orders?page=1")
    );
}

#[test]
fn the_primary_path_is_asked_twice_to_tell_noise() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let proxy = mirrored(legacy.address, async_.address, "noise_share = 1.0\n").start();
    assert_eq!(proxy.client().get("/").status, 200);
    settled(&proxy, "match", 1);
    let got = legacy.take_got();
    let shadows = got.iter().filter(|message| is_shadow(message)).count();
    assert_eq!((got.len(), shadows), (2, 1), "{got:?}");
    assert!(is_shadow(&async_.one()));
}

#[test]
fn no_more_than_max_rps_are_mirrored_in_a_second() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let setup = mirrored(legacy.address, async_.address, "");
    let setup = setup.clone().tail(&setup.tail.replace("max_rps = 10000", "max_rps = 1"));
    let proxy = setup.start();
    let mut client = proxy.client();
    let began = std::time::Instant::now();
    (0..50).for_each(|_| assert_eq!(client.get("/").status, 200));
    // A second that began before the first of them, and each that began since.
    let seconds = began.elapsed().as_secs() + 2;
    at_rest(&proxy);
    let scrape = proxy.scrape();
    let skipped = scrape.sum("cutover_mirror_skipped_total", &[("reason", "rate")]);
    let mirrored = results(&scrape, "match");
    assert_eq!(skipped + mirrored, 50.0);
    assert!(
        mirrored >= 1.0 && mirrored <= f64::from(u32::try_from(seconds).unwrap()),
        "{mirrored}"
    );
}

#[test]
fn a_path_is_not_drained_while_it_gets_shadows_and_waits_for_those_in_flight() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::ok("ok").held_by(&held));
    let async_ = Backend::ok("ok");
    let on = mirrored(legacy.address, async_.address, "").weight(1.0);
    let proxy = on.start();
    const DRAIN: &str = "/api/v1/paths/legacy/drain";
    let drain = || order(proxy.admin, DRAIN, r#"{"seconds": 60, "force": false}"#);
    assert_eq!(proxy.client().get("/").text(), "ok");
    eventually!(legacy.hits() == 1);
    let (status, why) = drain();
    assert!(status == 409 && why.to_string().contains("[mirror]"), "{status} {why}");
    proxy.apply(&on.clone().tail(""));
    assert_eq!(drain().0, 202);
    let left = || shown(proxy.admin, DRAIN)["stage"]["left"].clone();
    eventually!(left()["shadows"] == 1, "{}", left());
    assert_eq!((&left()["requests"], &left()["connections"]), (&0.into(), &1.into()));
    latch.open();
    // The connection goes too, though nobody asks for it any more.
    eventually!(shown(proxy.admin, DRAIN)["stage"]["phase"] == "quiet");
    settled(&proxy, "match", 1);
}

#[test]
fn a_reload_switches_it_on_and_off_and_loses_nothing() {
    let [legacy, async_] = [Scripted::start(), Scripted::start()];
    let on = mirrored(legacy.address, async_.address, "");
    let off = on.clone().tail("");
    let proxy = off.start();
    let mut client = proxy.client();
    let shadows = |client: &mut Client| {
        (0..5).for_each(|_| assert_eq!(client.get("/").status, 200));
        at_rest(&proxy);
        async_.take_got().len()
    };
    assert_eq!(shadows(&mut client), 0);
    proxy.apply(&on);
    assert_eq!(shadows(&mut client), 5);
    proxy.apply(&off);
    assert_eq!(shadows(&mut client), 0);
    settled(&proxy, "match", 5);
}
