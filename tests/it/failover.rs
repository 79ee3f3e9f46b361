//! Failover: the other path answers what the first could not, and the first is still charged.

use std::time::Duration;

use crate::harness::{Backend, Client, Proxy, Reply, Setup};

const ON: &str = "[failover]\nenabled = true\n[split]\nexpose_path = true\n";
const ASYNC: (&str, &str) = ("path", "async");
const LEGACY: (&str, &str) = ("path", "legacy");

/// Everything goes to `async_` first.
fn over(async_: std::net::SocketAddr, legacy: &Backend, tail: &str) -> Proxy {
    Setup::new(legacy.address, async_).weight(1.0).tail(tail).start()
}

fn sum(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.scrape().sum(name, labels)
}

#[test]
fn a_path_that_can_not_answer_is_charged_and_the_other_one_answers() {
    let legacy = Backend::ok("legacy");
    let proxy = over(Backend::refused(), &legacy, ON);
    let mut client = proxy.client();
    // Nothing was sent, so any method may go.
    for request in [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
    ] {
        client.send(request);
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "legacy"));
        assert_eq!(response.header("x-cutover-path"), Some("legacy"));
    }
    assert_eq!(legacy.hits(), 2);
    proxy.settle();
    // Each path has what became of the requests there.
    for (path, code) in [(ASYNC, "502"), (LEGACY, "200")] {
        assert_eq!(sum(&proxy, "cutover_requests_total", &[path, ("code", code)]), 2.0);
    }
    assert_eq!(sum(&proxy, "cutover_errors_total", &[ASYNC, ("kind", "connect")]), 2.0);
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY]), 0.0);
    assert_eq!(sum(&proxy, "cutover_failovers_total", &[ASYNC, ("result", "success")]), 2.0);
    let decisions = "cutover_split_decisions_total";
    assert_eq!(sum(&proxy, decisions, &[LEGACY, ("reason", "failover")]), 2.0);
    assert_eq!(sum(&proxy, decisions, &[ASYNC, ("reason", "spread")]), 2.0);
}

#[test]
fn it_is_off_unless_asked_for() {
    let legacy = Backend::ok("legacy");
    let proxy = over(Backend::refused(), &legacy, "");
    assert_eq!(proxy.client().get("/").status, 502);
    assert_eq!(legacy.hits(), 0);
}

#[test]
fn what_may_have_been_processed_goes_over_only_if_it_is_safe() {
    let legacy = Backend::ok("legacy");
    let broken = Backend::start(|_| Reply::nothing().then_close());
    let proxy = over(broken.address, &legacy, ON);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "legacy");
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().status, 502);
    assert_eq!((broken.hits(), legacy.hits()), (2, 1));
    // A reply that says of an error is a reply.
    let failing = Backend::start(|_| Reply::status(500, "no"));
    let proxy = over(failing.address, &legacy, ON);
    assert_eq!(proxy.client().get("/").status, 500);
    assert_eq!(legacy.hits(), 1);
}

#[test]
fn a_reply_that_began_is_never_replaced() {
    let legacy = Backend::ok("legacy");
    let cut = Backend::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").then_close()
    });
    let proxy = over(cut.address, &legacy, ON);
    let response = proxy.client().get("/");
    assert_eq!(response.status, 200);
    assert_ne!(response.ended, crate::harness::Ended::Whole);
    assert_eq!(legacy.hits(), 0);
}

#[test]
fn a_path_that_times_out_or_sheds_is_stepped_in_for() {
    let legacy = Backend::ok("legacy");
    let silent = Backend::start(|_| Reply::nothing().then_hang()).expects_cuts();
    let proxy = Setup::new(legacy.address, silent.address)
        .weight(1.0)
        .async_("response_timeout = \"200ms\"\nmax_in_flight = 1\nqueue_depth = 0")
        .tail(ON)
        .start();
    let mut first = proxy.client();
    first.ask("/", "");
    crate::harness::eventually!(silent.hits() == 1);
    // The one slot is taken: shed, and answered by the other path, also what is not safe.
    let mut second = proxy.client();
    second.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(second.response().text(), "legacy");
    assert_eq!(first.response().text(), "legacy");
    proxy.settle();
    for kind in ["shed", "response_timeout"] {
        assert_eq!(sum(&proxy, "cutover_errors_total", &[ASYNC, ("kind", kind)]), 1.0);
    }
}

#[test]
fn when_both_fail_the_client_sees_the_second_and_both_are_charged() {
    let legacy = Backend::start(|_| Reply::nothing().then_close());
    let proxy = over(Backend::refused(), &legacy, ON);
    let response = proxy.client().get("/");
    assert_eq!(response.status, 502);
    proxy.settle();
    assert_eq!(sum(&proxy, "cutover_errors_total", &[ASYNC, ("kind", "connect")]), 1.0);
    assert_eq!(sum(&proxy, "cutover_errors_total", &[LEGACY, ("kind", "reset")]), 1.0);
    assert_eq!(sum(&proxy, "cutover_failovers_total", &[ASYNC, ("result", "failure")]), 1.0);
    assert_eq!(legacy.hits(), 1, "and not back again");
}

#[test]
fn a_dead_path_does_not_send_all_of_its_load_to_the_other() {
    const REQUESTS: usize = 300;
    let legacy = Backend::ok("legacy");
    let tail = "[failover]\nenabled = true\nbudget = 0.1\n";
    let setup = Setup::new(legacy.address, Backend::refused()).weight(1.0).tail(tail).workers(1);
    let proxy = setup.start();
    let began = std::time::Instant::now();
    let mut client = proxy.client();
    let served = (0..REQUESTS).filter(|_| client.get("/").status == 200).count();
    // The floor of 3 a second over ten seconds, and a tenth of what came; a request that comes
    // after more than ten seconds would find what was spent forgotten.
    assert!(began.elapsed() < Duration::from_secs(10), "too slow a machine to tell");
    assert!((30..=30 + REQUESTS / 10 + 1).contains(&served), "{served} of {REQUESTS}");
    let over = sum(&proxy, "cutover_failovers_total", &[ASYNC, ("result", "over_budget")]);
    assert_eq!(over as usize, REQUESTS - served);
}

#[test]
fn the_access_log_tells_of_it() {
    let legacy = Backend::ok("legacy");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let tail = format!("{ON}[access_log]\npath = \"{}\"\n", file.display());
    let proxy = over(Backend::refused(), &legacy, &tail);
    assert_eq!(Client::connect(proxy.address).get("/x").status, 200);
    let line = || std::fs::read_to_string(&file).unwrap_or_default();
    crate::harness::eventually!(line().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(line().trim()).unwrap();
    assert_eq!(line["path"], "legacy");
    assert_eq!(line["reason"], "failover");
    assert_eq!(line["failed_over"], "connect");
    assert_eq!(line["code"], 200);
}
