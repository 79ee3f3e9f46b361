//! Services, and hosts with addresses of two families: which endpoints they are, and which of them
//! get requests.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use socket2::{Domain, Socket, Type};

use crate::dns::{EAGER, TURNS, await_answer, endpoints, hits, named};
use crate::harness::{Backend, DnsServer, Mood, Proxy, Reply, Scrape, Setup, eventually};

const SERVICE: &str = "_http._tcp.orders.test";
const HOSTS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// Targets of a service: priority and weight of each, at one of the backends, in their order.
fn serve_at(dns: &DnsServer, backends: &[Backend], shares: &[(u16, u16)]) {
    let targets = backends.iter().zip(shares).zip(HOSTS);
    let targets = targets.map(|((backend, (priority, weight)), host)| {
        dns.host(host, &["127.0.0.1"]);
        (*priority, *weight, backend.address.port(), host)
    });
    dns.service(SERVICE, &targets.collect::<Vec<_>>());
}

/// All requests to what DNS has for [`SERVICE`].
fn service(dns: &DnsServer, other: &Backend, lines: &str) -> Setup {
    Setup::new(other.address, other.address)
        .legacy_urls(&[&format!("http+srv://{SERVICE}")])
        .legacy(&format!("{TURNS}\n{lines}"))
        .tail(&dns.section(EAGER))
}

fn labels(backends: &[&Backend]) -> Vec<String> {
    let mut labels: Vec<_> = backends.iter().map(|backend| backend.address.to_string()).collect();
    labels.sort();
    labels
}

fn sorted_endpoints(proxy: &Proxy) -> Vec<String> {
    let mut endpoints = endpoints(&proxy.scrape());
    endpoints.sort();
    endpoints
}

// === Services ===

#[test]
fn a_service_gives_ports_and_weights() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let backends = [Backend::ok("a"), Backend::ok("b"), Backend::ok("c")];
    serve_at(&dns, &backends, &[(0, 30), (0, 10), (0, 0)]);
    let proxy = service(&dns, &other, "").start();
    let [a, b, c] = &backends;
    assert_eq!(sorted_endpoints(&proxy), labels(&[a, b, c]));
    let mut client = proxy.client();
    (0..82).for_each(|_| assert_eq!(client.get("/").status, 200));
    // A weight of zero is hardly any, not none (RFC 2782): two rounds of 30 + 10 + 1.
    assert_eq!(hits(&backends), [60, 20, 2]);
}

#[test]
fn a_service_follows_dns_as_a_name_does() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let backends = [Backend::ok("a"), Backend::ok("b")];
    let [a, b] = &backends;
    serve_at(&dns, &backends, &[(0, 1)]);
    let proxy = service(&dns, &other, "").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "a");
    // Another target; then other weights of the same two; then a target less.
    serve_at(&dns, &backends, &[(0, 1), (0, 1)]);
    eventually!(sorted_endpoints(&proxy) == labels(&[a, b]));
    serve_at(&dns, &backends, &[(0, 1), (0, 4)]);
    await_answer(&proxy);
    let before = hits(&backends);
    (0..50).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!((a.hits() - before[0], b.hits() - before[1]), (10, 40));
    dns.service(SERVICE, &[(0, 1, b.address.port(), HOSTS[1])]);
    eventually!(sorted_endpoints(&proxy) == labels(&[b]));
    (0..10).for_each(|_| assert_eq!(client.get("/").text(), "b"));
}

#[test]
fn the_second_priority_of_a_service_takes_over_when_the_first_is_down() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let backends = [Backend::ok("a"), Backend::ok("b"), Backend::ok("c")];
    // A larger weight does not outdo a priority.
    serve_at(&dns, &backends, &[(1, 1), (2, 100), (3, 100)]);
    let eject = "[legacy.eject]\nconsecutive_failures = 3\nfor = \"60s\"";
    let proxy = service(&dns, &other, eject).start();
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").text(), "a"));
    assert_eq!(hits(&backends), [20, 0, 0]);
    let [a, _b, c] = backends;
    drop(a);
    (0..20).for_each(|_| assert_eq!(client.get("/").text(), "b"));
    assert_eq!(c.hits(), 0);
}

// === Two families ===

/// Connections that came up to, and failed at, the one endpoint of the legacy path.
fn connects(scrape: &Scrape) -> [f64; 2] {
    ["success", "failure"].map(|result| {
        let labels = [("path", "legacy"), ("result", result)];
        scrape.sum("cutover_upstream_connects_total", &labels)
    })
}

/// Nobody listens at the same port of `::1`, as the system gives ports to all addresses in turn.
#[test]
fn a_name_with_two_families_of_which_one_refuses_is_one_endpoint_that_fails_nothing() {
    let (dns, other, backend) = (DnsServer::start(), Backend::ok("other"), Backend::ok("v4"));
    let port = backend.address.port();
    dns.host("orders.test", &["127.0.0.1", "::1"]);
    let proxy = named(port, &other, &dns).start();
    assert_eq!(endpoints(&proxy.scrape()), [format!("[::1]:{port}")]);
    for _ in 0..20 {
        // A connection each, as the client's end makes no difference to the pool.
        let response = proxy.client().get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "v4"));
    }
    let scrape = proxy.scrape();
    assert!(connects(&scrape)[0] >= 1.0 && connects(&scrape)[1] == 0.0, "{:?}", connects(&scrape));
    assert_eq!(scrape.sum("cutover_errors_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_endpoint_ejections_total", &[]), 0.0);
}

#[test]
fn a_failure_for_one_family_keeps_what_is_known_of_it() {
    let (dns, other, backend) = (DnsServer::start(), Backend::ok("other"), Backend::ok("v4"));
    dns.host("orders.test", &["127.0.0.1", "::1"]);
    let proxy = named(backend.address.port(), &other, &dns).start();
    for mood in [Mood::Servfail, Mood::Silent] {
        dns.mood_for(RecordType::A, mood);
        let before = dns.asked("orders.test", RecordType::A).len();
        eventually!(dns.asked("orders.test", RecordType::A).len() > before + 2);
        for _ in 0..5 {
            assert_eq!(proxy.client().get("/").text(), "v4", "{mood:?}");
        }
        dns.mood_for(RecordType::A, Mood::Sound);
    }
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn of_two_families_ipv6_is_preferred() {
    let (dns, other, v4) = (DnsServer::start(), Backend::ok("other"), Backend::ok("v4"));
    let port = v4.address.port();
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    if TcpListener::bind(v6).is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let v6 = Backend::start_at(v6, |_| Reply::ok("v6"));
    dns.host("orders.test", &["127.0.0.1", "::1"]);
    let proxy = named(port, &other, &dns).start();
    (0..20).for_each(|_| assert_eq!(proxy.client().get("/").text(), "v6"));
    assert_eq!((v6.hits(), v4.hits()), (20, 0));
}

/// A listener that accepts nothing and whose queue is full: the kernel drops each SYN that comes.
struct BlackHole {
    _listener: Socket,
    _fill: Vec<TcpStream>,
}

impl BlackHole {
    /// `None` where the kernel answers all the same.
    fn at(address: SocketAddr) -> Option<Self> {
        let listener = Socket::new(Domain::IPV6, Type::STREAM, None).ok()?;
        listener.bind(&address.into()).ok()?;
        listener.listen(0).ok()?;
        let mut fill = Vec::new();
        for _ in 0..16 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(stream) => fill.push(stream),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Some(Self { _listener: listener, _fill: fill });
                }
                Err(_) => return None,
            }
        }
        None
    }
}

#[test]
fn an_ipv6_address_that_swallows_all_costs_a_quarter_of_a_second_and_fails_nothing() {
    let (dns, other, backend) = (DnsServer::start(), Backend::ok("other"), Backend::ok("v4"));
    let port = backend.address.port();
    let Some(_hole) = BlackHole::at(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)) else {
        println!("this kernel answers at a full listener");
        return;
    };
    dns.host("orders.test", &["127.0.0.1", "::1"]);
    let proxy = named(port, &other, &dns).start();
    let began = Instant::now();
    assert_eq!(proxy.client().get("/").text(), "v4");
    let took = began.elapsed();
    println!("the first request took {took:?}");
    // The head start of RFC 8305; `connect_timeout`, of one second, would be an error.
    let (least, most) = (Duration::from_millis(250), Duration::from_millis(900));
    assert!((least..most).contains(&took), "{took:?}");
    assert_eq!(connects(&proxy.scrape()), [1.0, 0.0]);
}
