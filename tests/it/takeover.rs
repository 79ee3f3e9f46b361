//! At the moment of a take-over: what both processes have in their hands, and what only the old one knows.

use std::fs;

use tempfile::TempDir;

use crate::dns::NAME;
use crate::harness::guard::order;
use crate::harness::{
    Backend, Client, DnsServer, Latch, Mood, PATIENCE, Process, Reply, Setup, eventually, within,
};
use crate::upgrade::{is_alive, upgrade, upgraded};

/// A process by this config, whose own program is what it is upgraded to.
fn spawn(setup: &Setup) -> Process {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("cutover.toml");
    fs::write(&file, setup.text()).unwrap();
    Process::start(dir, file)
}

#[test]
fn a_signal_to_end_finds_the_old_process_draining_already_and_cuts_nothing_off() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("late").held_by(&held));
    let mut process = spawn(&Setup::new(backend.address, backend.address).weight(1.0));
    let mut client = process.client();
    client.ask("/", "");
    eventually!(backend.hits() == 1);
    let admin = process.admin;
    let _heir = upgraded(admin);
    process.signal("TERM");
    eventually!(process.logged("phase changed").len() >= 2, "{}", process.said());
    // What it still has is no business of the new one, which therefore certifies nothing.
    let drain = || order(admin, "/api/v1/paths/legacy/drain", "{\"seconds\":10}");
    let (status, problem) = drain();
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("still drains"), "{problem}");
    assert!(is_alive(process.pid()));
    latch.open();
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "late".to_owned()));
    assert_eq!(process.wait(), Some(0));
    let is_accepted = || drain().0 == 202;
    assert!(within(PATIENCE, is_accepted).is_some(), "{:?}", drain());
}

#[test]
fn a_successor_without_the_addresses_that_the_old_process_has_does_not_take_over() {
    let (dns, backend) = (DnsServer::start(), Backend::ok("named"));
    dns.host(NAME, &["127.0.0.1"]);
    let named = |name: &str| format!("http://{name}:{}", backend.address.port());
    let of = |urls: &[&str]| {
        let section = dns.section("ttl_min = \"50ms\"\ntimeout = \"300ms\"");
        Setup::new(backend.address, backend.address).legacy_urls(urls).tail(&section)
    };
    // The second has never had an address.
    let urls = [named(NAME), named("never.test")];
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let process = spawn(&of(&urls).weight(0.0));
    eventually!(process.client().get("/").status == 200, "no address");
    dns.mood(Mood::Silent);
    let ran = upgrade(process.admin, "10s");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("DNS gives no address for {NAME}")), "{ran:?}");
    assert_eq!(process.client().get("/").text(), "named");
    dns.mood(Mood::Sound);
    drop(upgraded(process.admin));
}

#[test]
fn a_question_to_the_admin_api_that_is_under_way_is_answered() {
    let backend = Backend::ok("a");
    let process = spawn(&Setup::new(backend.address, backend.address));
    let mut fresh = Client::connect(process.admin);
    // It has been accepted once another one that came later is answered.
    assert_eq!(process.admin_get("/livez").status, 200);
    let _heir = upgraded(process.admin);
    fresh.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(fresh.response().status, 200);
}
