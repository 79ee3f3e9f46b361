//! A shadow backend that hangs, is dead, speaks garbage or never ends: no client waits for it, every
//! reply is right, and nothing is left behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use h2::Reason;

use crate::harness::{Backend, Client, H2Backend, Latch, Play, Reply, Setup, eventually, within};
use crate::mirror::{at_rest, mirrored, results, settled};

const REQUESTS: usize = 300;

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

/// A port at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A backend that answers one request a connection with these bytes, and goes on with `more` for as long
/// as it is read; it ends with its last connection.
fn raw(head: &'static [u8], more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 16 * 1024]);
                let _ = stream.write_all(head);
                while !more.is_empty() && stream.write_all(more).is_ok() {}
            });
        }
    });
    address
}

/// All requests are answered by the primary path, whatever the shadow's does.
fn all_are_answered(setup: &Setup, result: &str, number: usize) {
    let proxy = setup.start();
    let mut client = proxy.client();
    for _ in 0..number {
        let reply = client.get("/a");
        assert_eq!((reply.status, reply.text().as_str()), (200, "legacy"));
    }
    at_rest(&proxy);
    let scrape = proxy.scrape();
    let counted = scrape.sum("cutover_mirror_total", &[]);
    assert_eq!(counted, float(number), "each has one result");
    let all = || scrape.0.lines().filter(|line| line.contains("mirror_total{")).collect::<Vec<_>>();
    assert!(results(&scrape, result) > 0.0, "none of {result}: {:#?}", all());
    assert_eq!(results(&scrape, "match"), 0.0);
    // The path itself is not charged with it: neither in its errors, nor by an ejection.
    assert_eq!(scrape.sum("cutover_errors_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_endpoint_ejections_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_requests_total", &[("code", "200")]), float(number));
}

#[test]
fn a_hung_shadow_backend_holds_nobody_up() {
    let legacy = Backend::counting("legacy");
    let hung = Backend::start(|_| Reply::nothing().then_hang());
    let limits = "deadline = \"60s\"\nin_flight = 8\n";
    let proxy = mirrored(legacy.address, hung.address, limits).start();
    let mut client = proxy.client();
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").text(), "legacy");
    }
    // All of them, while the first shadows still hang.
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum("cutover_mirror_in_flight", &[("path", "async")]), 8.0);
    assert_eq!(results(&scrape, "shadow_timeout"), 0.0);
    let skipped = scrape.sum("cutover_mirror_skipped_total", &[("reason", "in_flight")]);
    assert_eq!(skipped, float(REQUESTS - 8));
    assert!(scrape.sum("cutover_mirror_bytes", &[]) < 1_000_000.0);
    drop(hung);
    let scrape = settled(&proxy, "shadow_error", 8);
    assert_eq!(scrape.sum("cutover_mirror_mismatch_total", &[("kind", "outcome")]), 8.0);
}

#[test]
fn a_shadow_that_takes_too_long_is_a_timeout() {
    let legacy = Backend::ok("legacy");
    let hung = Backend::start(|_| Reply::nothing().then_hang());
    let setup = mirrored(legacy.address, hung.address, "deadline = \"50ms\"\n");
    all_are_answered(&setup, "shadow_timeout", 3);
}

#[test]
fn a_dead_shadow_backend_is_left_alone_after_ten_failures() {
    let legacy = Backend::counting("legacy");
    let proxy = mirrored(legacy.address, nobody(), "").start();
    let mut client = proxy.client();
    let skipped = || {
        let reason = [("reason", "breaker")];
        proxy.scrape().sum("cutover_mirror_skipped_total", &reason)
    };
    let open = || {
        assert_eq!(client.get("/").text(), "legacy");
        skipped() > 0.0
    };
    assert!(within(crate::harness::PATIENCE, open).is_some(), "the breaker does not open");
    at_rest(&proxy);
    let failed = results(&proxy.scrape(), "shadow_error");
    assert!(failed >= 10.0, "{failed}");
    // And stays open.
    (0..50).for_each(|_| assert_eq!(client.get("/").text(), "legacy"));
    at_rest(&proxy);
    assert_eq!(results(&proxy.scrape(), "shadow_error"), failed);
}

#[test]
fn garbage_and_cuts_from_a_shadow_backend_reach_nobody() {
    let legacy = Backend::ok("legacy");
    for head in [
        &b""[..],
        b"\x00\xffgarbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let setup = mirrored(legacy.address, raw(head, b""), "");
        all_are_answered(&setup, "shadow_error", 3);
    }
}

#[test]
fn an_answer_without_an_end_is_given_up_and_never_held() {
    static MEBIBYTE: [u8; 1 << 20] = [b'x'; 1 << 20];
    let legacy = Backend::ok("legacy");
    let gibibyte = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", &MEBIBYTE);
    all_are_answered(&mirrored(legacy.address, gibibyte, ""), "uncompared", 3);
    let endless = raw(b"HTTP/1.1 200 OK\r\n\r\n", &MEBIBYTE);
    all_are_answered(&mirrored(legacy.address, endless, ""), "uncompared", 3);
}

/// Zeros of so many bytes as a gzip member, a thousandth of that.
fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![b'0'; bytes]).unwrap();
    packed.finish().unwrap()
}

#[test]
fn bombs_in_answers_are_compared_as_bytes_and_harm_nothing() {
    const DEEP: usize = 200_000;
    for (coding, bombs) in [
        ("identity", [DEEP, DEEP + 1].map(|depth| vec![b'['; depth])),
        ("identity", [DEEP, DEEP + 1].map(|depth| b"{\"a\":".repeat(depth - 160_000))),
        ("gzip", [64 << 20, 65 << 20].map(gzip_bomb)),
    ] {
        let [legacy, async_] = bombs.map(|bomb| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\n\
                 Content-Length: {}\r\n\r\n",
                bomb.len()
            );
            let reply = Reply::raw([head.into_bytes(), bomb].concat());
            Backend::start(move |_| reply.clone())
        });
        let proxy = mirrored(legacy.address, async_.address, "").start();
        assert_eq!(proxy.client().get("/").status, 200);
        let scrape = settled(&proxy, "mismatch", 1);
        assert_eq!(scrape.sum("cutover_mirror_mismatch_total", &[("kind", "length")]), 1.0);
        let same = mirrored(legacy.address, legacy.address, "").start();
        assert_eq!(same.client().get("/").status, 200);
        settled(&same, "match", 1);
    }
}

#[test]
fn what_was_given_up_is_not_held_until_the_primary_path_answers() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::ok("legacy").held_by(&held));
    static MEBIBYTE: [u8; 1 << 20] = [b'x'; 1 << 20];
    let endless = raw(b"HTTP/1.1 200 OK\r\n\r\n", &MEBIBYTE);
    let proxy = mirrored(legacy.address, endless, "deadline = \"60s\"\n").start();
    let mut client = proxy.client();
    client.ask("/", "");
    settled(&proxy, "uncompared", 1);
    latch.open();
    assert_eq!(client.response().text(), "legacy");
    at_rest(&proxy);
}

#[test]
fn copies_for_which_there_is_no_memory_are_not_made() {
    let legacy = Backend::counting("legacy");
    let hung = Backend::start(|_| Reply::nothing().then_hang());
    let limits = "memory = \"1MiB\"\ndeadline = \"60s\"\n";
    let proxy = mirrored(legacy.address, hung.address, limits).start();
    let mut client = proxy.client();
    let fields = format!("X-Long: {}\r\n", "x".repeat(40_000));
    for _ in 0..40 {
        assert_eq!(client.get_with("/", &fields).text(), "legacy");
    }
    let scrape = proxy.scrape();
    assert!(scrape.sum("cutover_mirror_bytes", &[]) <= 1_048_576.0);
    // 26 of them fit at most.
    let skipped = scrape.sum("cutover_mirror_skipped_total", &[("reason", "memory")]);
    assert!((14.0..40.0).contains(&skipped), "{skipped}");
    drop(hung);
    at_rest(&proxy);
}

#[test]
fn a_large_answer_is_compared_by_length_and_hash_and_not_kept() {
    let body: &'static str = Box::leak("x".repeat(5 << 20).into_boxed_str());
    let [legacy, async_] = [Backend::ok(body), Backend::ok(body)];
    let proxy = mirrored(legacy.address, async_.address, "").start();
    let reply = proxy.client().get("/");
    assert!(reply.text() == body);
    settled(&proxy, "match", 1);
}

#[test]
fn a_primary_answer_that_breaks_off_is_cut_for_its_client_and_compared_with_nothing() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort";
    let async_ = Backend::ok("async");
    let proxy = mirrored(raw(cut, b""), async_.address, "").start();
    let mut client = proxy.client();
    client.ask("/", "");
    assert!(client.try_response().is_ok_and(|reply| reply.body == b"short"));
    // Legacy owed it: that is nothing against async.
    settled(&proxy, "uncompared", 1);
}

#[test]
fn a_client_that_leaves_takes_its_comparison_with_it() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::ok("legacy").held_by(&held));
    let async_ = Backend::ok("async");
    let proxy = mirrored(legacy.address, async_.address, "").start();
    let mut client = proxy.client();
    client.ask("/", "");
    eventually!(async_.hits() == 1);
    // Half closed it might still read.
    client.reset();
    settled(&proxy, "uncompared", 1);
    latch.open();
}

#[test]
fn memory_is_a_hard_limit() {
    let body: &'static str = Box::leak("x".repeat(250_000).into_boxed_str());
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::ok(body);
    let held_back = Backend::start(move |_| Reply::ok(body).held_by(&held));
    let proxy = mirrored(legacy.address, held_back.address, "memory = \"1MiB\"\n").start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert!(client.get("/").text() == body);
        assert!(proxy.scrape().sum("cutover_mirror_bytes", &[]) <= 1_048_576.0);
    }
    eventually!(held_back.hits() == 20);
    assert!(proxy.scrape().sum("cutover_mirror_bytes", &[]) > 500_000.0);
    latch.open();
    at_rest(&proxy);
    // What there was no memory for differs in nothing.
    let scrape = proxy.scrape();
    let [same, left_out] = ["match", "uncompared"].map(|result| results(&scrape, result));
    assert!(left_out > 0.0 && same + left_out == 20.0, "{same} and {left_out}");
}

#[test]
fn a_stop_does_not_wait_for_a_shadow() {
    let legacy = Backend::ok("legacy");
    let hung = Backend::start(|_| Reply::nothing().then_hang());
    let setup = mirrored(legacy.address, hung.address, "deadline = \"60s\"\n");
    let mut process = setup.drain("timeout = \"60s\"").spawn();
    assert_eq!(process.client().get("/").text(), "legacy");
    eventually!(hung.hits() == 1);
    process.signal("TERM");
    // Far below both deadlines.
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_backend_that_refuses_each_stream_is_asked_once_more_and_not_for_ever() {
    const ASKED: usize = 8;
    let legacy = Backend::counting("legacy");
    let refusing = H2Backend::start(|_| Play::reset(Reason::REFUSED_STREAM));
    let setup = mirrored(legacy.address, refusing.address, "noise_share = 0.0\n");
    all_are_answered(&setup.async_("protocol = \"http2\""), "shadow_error", ASKED);
    assert!(refusing.hits() <= 2 * ASKED, "{} streams", refusing.hits());
}

#[test]
fn a_backend_that_fails_requests_is_not_asked_again_until_it_does_not() {
    const ASKED: usize = 8;
    let legacy = Backend::counting("legacy");
    let failing = H2Backend::start(|_| Play::reset(Reason::INTERNAL_ERROR));
    let setup = mirrored(legacy.address, failing.address, "noise_share = 0.0\n");
    all_are_answered(&setup.async_("protocol = \"http2\""), "shadow_error", ASKED);
    assert_eq!(failing.hits(), ASKED);
}

#[test]
fn events_that_nobody_asked_for_are_given_up() {
    let legacy = Backend::counting("legacy");
    let events = Backend::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").then_hang()
    })
    .expects_cuts();
    all_are_answered(&mirrored(legacy.address, events.address, ""), "uncompared", 8);
}

#[test]
fn a_connection_that_has_gone_silent_gets_no_more_shadows() {
    let legacy = Backend::counting("legacy");
    let silent = H2Backend::ok("legacy");
    let setup =
        mirrored(legacy.address, silent.address, "deadline = \"300ms\"\nnoise_share = 0.0\n");
    let proxy = setup.async_("protocol = \"http2\"\nmin_idle = 0").start();
    let mut client = proxy.client();
    let asked = |client: &mut Client| assert_eq!(client.get("/").status, 200);
    asked(&mut client);
    at_rest(&proxy);
    let before = silent.accepted();
    silent.freeze();
    asked(&mut client);
    at_rest(&proxy);
    asked(&mut client);
    eventually!(silent.accepted() == before + 1, "{} connections", silent.accepted());
}
