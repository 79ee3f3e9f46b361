//! Names: their addresses are the endpoints, and follow DNS without a request lost; what DNS does
//! wrong changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::harness::{
    self, Backend, DnsServer, Ended, Latch, Mood, Proxy, Reply, Scrape, Setup, eventually, heavy,
};

pub(crate) const NAME: &str = "orders.test";
const ONE: &str = "127.0.0.1";
const TWO: &str = "127.0.0.2";
const THREE: &str = "127.0.0.3";

/// Takes what DNS says as it comes.
pub(crate) const EAGER: &str = "ttl_min = \"10ms\"\ntimeout = \"100ms\"";
/// Turns that can be counted.
pub(crate) const TURNS: &str = "balance = \"round_robin\"\nslow_start = \"0s\"";

/// Backends at [`ONE`], [`TWO`] and [`THREE`] with one port; each says where it is. A port that the
/// system gives at the first address is free at the others, where nobody else listens.
fn hosts() -> (u16, [Backend; 3]) {
    let one = Backend::ok(ONE);
    let port = one.address.port();
    let at = |address: &'static str| {
        let address_and_port = SocketAddr::new(address.parse().unwrap(), port);
        Backend::start_at(address_and_port, move |_| Reply::ok(address))
    };
    (port, [one, at(TWO), at(THREE)])
}

/// All requests to what DNS has for [`NAME`]; `async_` is the other path.
pub(crate) fn named(port: u16, async_: &Backend, dns: &DnsServer) -> Setup {
    let url = format!("http://{NAME}:{port}");
    Setup::new(async_.address, async_.address)
        .legacy_urls(&[&url])
        .legacy(TURNS)
        .tail(&dns.section(EAGER))
}

pub(crate) fn hits(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::hits).collect()
}

pub(crate) fn lookups(proxy: &Proxy, result: &str) -> f64 {
    proxy.scrape().sum("cutover_dns_lookups_total", &[("result", result)])
}

/// Waits until `number` more lookups ended so.
pub(crate) fn await_lookups(proxy: &Proxy, result: &str, number: u32) {
    let enough = lookups(proxy, result) + f64::from(number);
    eventually!(lookups(proxy, result) >= enough, "no lookup ends with {result} any more");
}

/// Waits until what DNS says now is in force: the lookup that runs may have the answer before, and
/// one is counted before it is in force.
pub(crate) fn await_answer(proxy: &Proxy) {
    await_lookups(proxy, "success", 3);
}

/// The endpoints of the legacy path.
pub(crate) fn endpoints(scrape: &Scrape) -> Vec<String> {
    let up = scrape.0.lines().filter(|line| line.starts_with("cutover_endpoint_up{"));
    let legacy = up.filter(|line| line.contains("path=\"legacy\""));
    legacy.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

/// Requests of `clients` clients without a pause while `work` goes on; how many were served. None
/// may fail, and none may have needed a second attempt.
pub(crate) fn under_load(proxy: &Proxy, clients: usize, work: impl FnOnce()) -> usize {
    let (served, ()) = harness::under_load(&vec![proxy.address; clients], work);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum("cutover_errors_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_retries_total", &[]), 0.0);
    served.iter().sum()
}

// === What a name stands for ===

#[test]
fn a_name_with_three_addresses_spreads_requests_over_all() {
    let (dns, other, (port, backends)) = (DnsServer::start(), Backend::ok("other"), hosts());
    dns.host(NAME, &[THREE, ONE, TWO]);
    let proxy = named(port, &other, &dns).start();
    let expected = [ONE, TWO, THREE].map(|address| format!("{address}:{port}"));
    assert_eq!(endpoints(&proxy.scrape()), expected);
    let mut client = proxy.client();
    (0..30).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(hits(&backends), [10, 10, 10]);
}

#[test]
fn an_address_that_appears_in_dns_gets_requests() {
    let (dns, other, (port, backends)) = (DnsServer::start(), Backend::ok("other"), hosts());
    dns.host(NAME, &[ONE]);
    let proxy = named(port, &other, &dns).start();
    let mut client = proxy.client();
    (0..10).for_each(|_| assert_eq!(client.get("/").text(), ONE));
    dns.host(NAME, &[ONE, TWO]);
    eventually!(client.get("/").text() == TWO);
    let before = hits(&backends);
    (0..10).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(hits(&backends), [before[0] + 5, before[1] + 5, 0]);
}

#[test]
fn an_address_that_disappears_gets_no_more_requests_and_finishes_those_that_it_has() {
    let (dns, other, (port, [one, _two, _three])) =
        (DnsServer::start(), Backend::ok("other"), hosts());
    let latch = Latch::default();
    let held = latch.clone();
    let (head, rest) = ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd");
    let leaving = SocketAddr::new("127.0.0.4".parse().unwrap(), port);
    let leaving =
        Backend::start_at(leaving, move |_| Reply::raw(head).then_until(&held).then(rest));
    dns.host(NAME, &["127.0.0.4"]);
    let proxy = named(port, &other, &dns).start();
    let (mut early, mut late) = (proxy.client(), proxy.client());
    early.ask("/", "");
    let head = early.head().unwrap();
    let label = leaving.address.to_string();
    assert_eq!(endpoints(&proxy.scrape()), std::slice::from_ref(&label));
    dns.host(NAME, &[ONE]);
    eventually!(endpoints(&proxy.scrape()) == [format!("{ONE}:{port}")]);
    (0..10).for_each(|_| assert_eq!(late.get("/").text(), ONE));
    assert_eq!((one.hits(), leaving.hits()), (10, 1));
    // What still goes on there is still shown.
    let busy = [("endpoint", label.as_str()), ("state", "busy")];
    assert_eq!(proxy.scrape().sum("cutover_endpoint_connections", &busy), 1.0);
    latch.open();
    let response = early.body_of(head).unwrap();
    assert_eq!((response.text().as_str(), response.ended), ("abcd", Ended::Whole));
    eventually!(leaving.open() == 0, "a connection to an address that is gone");
    eventually!(!proxy.scrape().0.contains(&label), "it is still shown: {}", proxy.scrape().0);
}

// === When it is asked ===

#[test]
fn a_name_is_asked_for_again_as_its_ttl_ends_within_limits() {
    let dns = DnsServer::start();
    let backend = Backend::ok(ONE);
    let second = Duration::from_secs(1);
    let soon = Duration::from_millis(300);
    for (ttl, limits, least, most) in [
        // As the answer says.
        (1, "ttl_min = \"10ms\"", second, 2 * second),
        // Not sooner than the least.
        (0, "ttl_min = \"300ms\"", soon, second),
        // Not later than the most.
        (3_600, "ttl_min = \"10ms\"\nttl_max = \"300ms\"", soon, second),
    ] {
        dns.ttl(ttl);
        dns.host(NAME, &[ONE]);
        let setup = named(backend.address.port(), &backend, &dns);
        let before = dns.asked(NAME, RecordType::A).len();
        let proxy = setup.tail(&dns.section(limits)).start();
        eventually!(dns.asked(NAME, RecordType::A).len() >= before + 3);
        drop(proxy);
        let asked = &dns.asked(NAME, RecordType::A)[before..before + 3];
        for pair in asked.windows(2) {
            let gap = pair[1] - pair[0];
            // The proxy counts from the answer, a little later than the question.
            let gap_fits = gap >= least - Duration::from_millis(20) && gap < most;
            assert!(gap_fits, "{gap:?} between two with {limits} and a TTL of {ttl} s");
        }
    }
}

#[test]
fn a_name_that_a_reload_removes_is_not_asked_for_any_more() {
    let dns = DnsServer::start();
    let backend = Backend::ok(ONE);
    let port = backend.address.port();
    let (kept, removed) = ("kept.test", "removed.test");
    dns.host(kept, &[ONE]);
    dns.host(removed, &[ONE]);
    let urls = [kept, removed].map(|name| format!("http://{name}:{port}"));
    let setup = named(port, &backend, &dns).legacy_urls(&[&urls[0], &urls[1]]);
    let proxy = setup.start();
    let asked = |name| dns.asked(name, RecordType::A).len();
    eventually!(asked(removed) > 2);
    proxy.apply(&setup.legacy_urls(&[&urls[0]]));
    // Both may be under way now.
    let before = asked(kept);
    eventually!(asked(kept) > before + 1);
    let (before, last) = (asked(kept), asked(removed));
    eventually!(asked(kept) > before + 10);
    assert_eq!(asked(removed), last);
}

// === What DNS does wrong ===

const WRONG: [Mood; 4] = [Mood::Nxdomain, Mood::Servfail, Mood::Empty, Mood::Silent];

#[test]
fn a_resolver_that_fails_in_any_way_keeps_the_last_answer_in_force() {
    let (dns, other, (port, backends)) = (DnsServer::start(), Backend::ok("other"), hosts());
    dns.host(NAME, &[ONE, TWO]);
    let proxy = named(port, &other, &dns).start();
    let in_force = endpoints(&proxy.scrape());
    assert_eq!(in_force.len(), 2);
    under_load(&proxy, 1, || {
        for mood in WRONG {
            dns.mood(mood);
            await_lookups(&proxy, "failure", 3);
            assert_eq!(endpoints(&proxy.scrape()), in_force, "{mood:?}");
            let before = hits(&backends);
            let grown = || backends.iter().zip(&before).filter(|(b, n)| b.hits() > **n).count();
            eventually!(grown() == 2, "{mood:?}: {:?}, then {:?}", before, hits(&backends));
            dns.mood(Mood::Sound);
            await_lookups(&proxy, "success", 1);
        }
        dns.host(NAME, &[THREE]);
        await_answer(&proxy);
    });
    assert_eq!(proxy.client().get("/").text(), THREE);
}

#[test]
fn flapping_dns_under_load_fails_no_request() {
    let _alone = heavy();
    let (dns, other, (port, backends)) = (DnsServer::start(), Backend::ok("other"), hosts());
    let sets = [&[ONE][..], &[TWO, THREE], &[ONE, TWO, THREE], &[THREE], &[TWO, ONE], &[TWO]];
    dns.host(NAME, sets[0]);
    // The lowest that is allowed.
    let section = dns.section("ttl_min = \"1ms\"\ntimeout = \"50ms\"");
    let proxy = named(port, &other, &dns).tail(&section).start();
    let began = Instant::now();
    let served = under_load(&proxy, 4, || {
        for round in 0..48 {
            dns.host(NAME, sets[round % sets.len()]);
            await_answer(&proxy);
            dns.mood(WRONG[round % WRONG.len()]);
            await_lookups(&proxy, "failure", 1);
            // Back with another set than the one before it failed.
            dns.host(NAME, sets[(round + 2) % sets.len()]);
            dns.mood(Mood::Sound);
            await_answer(&proxy);
        }
    });
    println!("{served} requests in {:?}, {:?} by address", began.elapsed(), hits(&backends));
    assert_eq!(served, hits(&backends).iter().sum::<usize>());
    assert!(backends.iter().all(|backend| backend.hits() > served / 20));
    let scrape = proxy.scrape();
    let stale = scrape.sum("cutover_stale_connections_total", &[]);
    assert_eq!(stale, 0.0, "a request was given a connection that was closed");
}

#[test]
fn a_resolver_that_knows_nothing_of_ipv6_keeps_no_name_from_being_resolved() {
    let (dns, other, (port, _backends)) = (DnsServer::start(), Backend::ok("other"), hosts());
    dns.host(NAME, &[ONE]);
    for mood in [Mood::Nxdomain, Mood::Servfail, Mood::Empty] {
        dns.mood_for(RecordType::AAAA, mood);
        let proxy = named(port, &other, &dns).start();
        assert_eq!(proxy.client().get("/").text(), ONE, "{mood:?}");
        assert_eq!(lookups(&proxy, "failure"), 0.0, "{mood:?}");
    }
}
