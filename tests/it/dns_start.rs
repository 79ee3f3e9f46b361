//! Names at a start and at a reload: what can't be resolved keeps nothing else from serving.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use cutover::config::ConfigError;
use hickory_resolver::proto::rr::RecordType;

use crate::dns::{NAME, await_lookups, endpoints, lookups, named, under_load};
use crate::harness::{Backend, DnsServer, Mood, Proxy, Reply, Setup, eventually};

const ONE: &str = "127.0.0.1";
const TWO: &str = "127.0.0.2";

// === At a start ===

#[test]
fn a_start_while_dns_is_silent_serves_the_other_path_and_the_name_once_it_is_answered() {
    let (dns, legacy, other) = (DnsServer::start(), Backend::ok("named"), Backend::ok("other"));
    dns.host(NAME, &[ONE]);
    dns.mood(Mood::Silent);
    let force = "[split]\nforce_header = \"x-path\"\nforce_from = \"anyone\"\n";
    let section = dns.section("ttl_min = \"10ms\"\ntimeout = \"200ms\"");
    let setup = named(legacy.address.port(), &other, &dns).tail(&format!("{force}{section}"));
    let proxy = setup.start();
    let mut client = proxy.client();
    assert_eq!(client.get_with("/", "X-Path: async\r\n").text(), "other");
    assert_eq!(client.get("/").status, 503, "there is no endpoint to ask");
    assert!(lookups(&proxy, "failure") >= 1.0 && lookups(&proxy, "success") == 0.0);
    dns.mood(Mood::Sound);
    await_lookups(&proxy, "success", 2);
    assert_eq!(client.get("/").text(), "named");
    assert_eq!(client.get_with("/", "X-Path: async\r\n").text(), "other");
}

#[test]
fn a_start_waits_five_seconds_for_names_at_most() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    dns.mood(Mood::Silent);
    let setup = named(80, &other, &dns).weight(1.0).tail(&dns.section("timeout = \"60s\""));
    let began = Instant::now();
    let proxy = setup.start();
    let took = began.elapsed();
    assert!((5.0..6.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(proxy.client().get("/").text(), "other");
}

#[test]
fn a_name_waits_for_no_other() {
    let (dns, named) = (DnsServer::start(), Backend::ok("named"));
    let port = named.address.port();
    dns.host(NAME, &[ONE]);
    let url = format!("http://{NAME}:{port}");
    let setup = Setup::new(named.address, named.address).legacy_urls(&[&url]);
    // A service is asked for by another type, to which there is never an answer.
    dns.mood_for(RecordType::SRV, Mood::Silent);
    let text = setup.tail(&dns.section("ttl_min = \"10ms\"\ntimeout = \"60s\"")).text();
    let async_ = format!("[async]\nendpoints = [\"http://{}\"]", named.address);
    let text =
        text.replace(&async_, "[async]\nendpoints = [\"http+srv://_http._tcp.silent.test\"]");
    assert!(text.contains("silent.test"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, text).unwrap();
    let proxy = Proxy::start(dir, file);
    assert_eq!(proxy.client().get("/").text(), "named");
    let asked = || dns.asked(NAME, RecordType::A).len();
    let before = asked();
    eventually!(asked() > before + 3, "its answer is not kept fresh");
}

#[test]
fn the_name_localhost_is_known_without_dns() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let backend = Backend::ok("localhost");
    let url = format!("http://localhost:{}", backend.address.port());
    let setup = Setup::new(other.address, other.address).legacy_urls(&[&url]);
    dns.mood(Mood::Silent);
    // By the system's servers, and by one that says nothing.
    for section in ["", &dns.section("")] {
        let proxy = setup.clone().tail(section).start();
        for _ in 0..10 {
            assert_eq!(proxy.client().get("/").text(), "localhost");
        }
        assert_eq!((lookups(&proxy, "success"), lookups(&proxy, "failure")), (1.0, 0.0));
        assert_eq!(endpoints(&proxy.scrape()).len(), 1);
    }
    assert!(dns.asked("localhost", RecordType::A).is_empty());
}

/// A name other than localhost that `/etc/hosts` has for a loopback address.
fn local_name() -> Option<(IpAddr, String)> {
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    let mut names = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address: Ipv4Addr = words.next()?.parse().ok()?;
        let name = words.find(|name| !name.starts_with("localhost"))?;
        address.is_loopback().then(|| (address.into(), name.to_owned()))
    });
    names.next()
}

#[test]
fn an_address_in_etc_hosts_goes_before_dns() {
    let Some((address, name)) = local_name() else {
        println!("/etc/hosts has no loopback address but that of localhost");
        return;
    };
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let backend = Backend::start_at(SocketAddr::new(address, 0), |_| Reply::ok("local"));
    dns.host(&name, &["127.0.0.77"]);
    let url = format!("http://{name}:{}", backend.address.port());
    let setup = Setup::new(other.address, other.address).legacy_urls(&[&url]);
    let proxy = setup.tail(&dns.section("")).start();
    assert_eq!(proxy.client().get("/").text(), "local");
    assert!(dns.asked(&name, RecordType::A).is_empty());
}

// === At a reload ===

#[test]
fn a_reload_that_brings_an_unknown_name_is_refused_by_name_and_changes_nothing() {
    let (dns, backend) = (DnsServer::start(), Backend::ok(ONE));
    let port = backend.address.port();
    dns.host(NAME, &[ONE]);
    let setup = named(port, &backend, &dns);
    let proxy = setup.start();
    let hash = proxy.app().publisher().current().config.hash.clone();
    let in_force = endpoints(&proxy.scrape());
    let known = format!("http://{NAME}:{port}");
    for unknown in ["http://unknown.test:80", "http+srv://_http._tcp.unknown.test"] {
        let changed = setup.clone().weight(0.5).legacy_urls(&[&known, unknown]);
        proxy.write(&changed);
        let error = proxy.app().reload().unwrap_err();
        let name = unknown.split("://").nth(1).unwrap();
        let is_named = matches!(&error, ConfigError::Unresolved { name: of, .. } if of == name);
        assert!(is_named && error.is_passing(), "{error:?}");
        let state = proxy.app().publisher().reload_state();
        assert!(state.faults.iter().any(|fault| fault.contains(name)), "{state:?}");
        assert_eq!(proxy.app().publisher().current().config.hash, hash);
        assert_eq!(proxy.weight(), 0.0, "the rest of the file was applied");
        assert_eq!(endpoints(&proxy.scrape()), in_force);
        assert_eq!(proxy.client().get("/").text(), ONE);
    }
    // The name of before is still followed.
    await_lookups(&proxy, "success", 3);
    // DNS has it a little later: the file is tried again as it is.
    proxy.apply(&setup);
    eventually!(proxy.app().publisher().reload_state().faults.is_empty());
    let changed = setup.clone().weight(0.5).legacy_urls(&[&known, "http://unknown.test:80"]);
    proxy.write(&changed);
    eventually!(!proxy.app().publisher().reload_state().faults.is_empty());
    dns.host("unknown.test", &[TWO]);
    eventually!(proxy.weight() == 0.5, "the refused file is not tried again");
}

#[test]
fn a_reload_while_dns_is_silent_is_refused_in_the_time_that_a_lookup_has() {
    let (dns, backend) = (DnsServer::start(), Backend::ok(ONE));
    let url = format!("http://{NAME}:{}", backend.address.port());
    let setup =
        Setup::new(backend.address, backend.address).tail(&dns.section("timeout = \"200ms\""));
    let proxy = setup.start();
    dns.mood(Mood::Silent);
    proxy.write(&setup.legacy_urls(&[&url]));
    let began = Instant::now();
    let error = proxy.app().reload().unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("no answer in 200ms"), "{error}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(proxy.client().get("/").text(), ONE);
}

#[test]
fn a_reload_that_brings_a_known_name_under_load_loses_nothing() {
    let (dns, old, new) = (DnsServer::start(), Backend::ok("old"), Backend::ok("new"));
    dns.host(NAME, &[ONE]);
    let to_old = Setup::new(old.address, old.address).tail(&dns.section("ttl_min = \"10ms\""));
    let to_new = to_old.clone().legacy_urls(&[&format!("http://{NAME}:{}", new.address.port())]);
    let proxy = to_old.start();
    let served = under_load(&proxy, 2, || {
        for round in 1..=5 {
            // As the watcher finds it, on the thread that resolves names too.
            let before = (old.hits(), new.hits());
            proxy.write(&to_new);
            eventually!(new.hits() > before.1 + 20, "round {round}");
            proxy.write(&to_old);
            let before = old.hits();
            eventually!(old.hits() > before + 20, "round {round}");
        }
    });
    assert_eq!(served, old.hits() + new.hits());
}

/// The name is no news: whoever moves requests away from it must be able to.
#[test]
fn a_name_in_force_that_was_never_answered_keeps_no_reload_from_being_applied() {
    let (dns, other) = (DnsServer::start(), Backend::ok("other"));
    let setup = named(80, &other, &dns);
    let proxy = setup.start();
    assert_eq!(proxy.client().get("/").status, 503);
    proxy.apply(&setup.weight(1.0));
    assert_eq!(proxy.client().get("/").text(), "other");
}
