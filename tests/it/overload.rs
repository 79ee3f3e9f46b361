//! A path at its limit: it sheds fast, the other path does not feel it, and what comes back to it
//! comes at a pace.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, Latch, PROGRAM, Process, Proxy, Reply, Setup, eventually, heavy, within,
};

/// A backend whose replies wait until the latch opens.
fn held(latch: &Latch) -> Backend {
    let held = latch.clone();
    Backend::start(move |_| Reply::ok("ok").held_by(&held))
}

/// The legacy path with its one slot taken and its one place in the queue as well.
fn full(proxy: &Proxy, backend: &Backend) -> [Client; 2] {
    let mut holders = [proxy.client(), proxy.client()];
    holders[0].ask("/", "");
    eventually!(backend.hits() == 1);
    holders[1].ask("/", "");
    let depth = [("path", "legacy")];
    eventually!(proxy.scrape().sum("cutover_queue_depth", &depth) == 1.0);
    holders
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

#[test]
fn a_full_queue_sheds_at_once_and_the_other_path_is_not_slowed() {
    let _alone = heavy();
    let latch = Latch::default();
    let (legacy, async_) = (held(&latch), Backend::counting("async"));
    let proxy = Setup::new(legacy.address, async_.address)
        .legacy("max_in_flight = 1\nqueue_depth = 1\nqueue_timeout = \"30s\"")
        .tail("[split]\nforce_header = \"x-path\"\nforce_from = \"anyone\"\n")
        .start();
    let mut client = proxy.client();
    let mut ask = |path: &str, status| {
        let began = Instant::now();
        let response = client.get_with("/", &format!("X-Path: {path}\r\n"));
        assert_eq!(response.status, status, "{path}");
        (began.elapsed(), response)
    };
    let times = |ask: &mut dyn FnMut(&str, u16) -> Duration, path: &str, status| {
        median((0..200).map(|_| ask(path, status)).collect())
    };
    let mut took = |path: &str, status| ask(path, status).0;
    let idle = times(&mut took, "async", 200);
    let mut holders = full(&proxy, &legacy);
    let shed = times(&mut took, "legacy", 503);
    let beside = times(&mut took, "async", 200);
    println!("shed in {shed:?} (median); the other path {idle:?}, beside it {beside:?}");
    // A whole exchange of a debug build over loopback lies below that too.
    assert!(shed < Duration::from_millis(1), "{shed:?}");
    assert!(beside < idle * 2 + Duration::from_micros(200), "{idle:?}, then {beside:?}");
    let response = ask("legacy", 503).1;
    assert_eq!(response.header("retry-after"), Some("1"));
    latch.open();
    for holder in &mut holders {
        assert_eq!(holder.response().status, 200);
    }
}

#[test]
fn running_out_of_descriptors_is_charged_to_no_endpoint() {
    let backend = Backend::ok("ok");
    let setup = Setup::new(backend.address, backend.address)
        .workers(1)
        .legacy("pool_idle = 0\neject = { consecutive_failures = 1, max_share = 1.0 }");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, setup.text()).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 48 && exec \"$0\" run --config \"$1\""]);
    command.args([Path::new(PROGRAM), &file]);
    let process = Process::start_by(command, dir, file);
    // Clients take all descriptors that are left; those that find none wait in the accept queue.
    let mut clients: Vec<_> = (0..60).map(|_| process.client()).collect();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count();
    eventually!(descriptors() >= 48, "{} descriptors", descriptors());
    let refused = clients[0].get("/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("proxy-status"), Some("cutover; error=proxy_internal_error"));
    drop(clients.split_off(1));
    eventually!(clients[0].get("/").status == 200);
    let scrape = process.scrape();
    assert_eq!(scrape.sum("cutover_errors_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_endpoint_ejections_total", &[]), 0.0);
    assert!(scrape.sum("cutover_out_of_resources_total", &[]) >= 1.0);
    // Nor is a config file that can't be looked at for a moment a changed one.
    assert_eq!(scrape.sum("cutover_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn a_deadline_that_passes_in_the_queue_sends_nothing() {
    let latch = Latch::default();
    let legacy = held(&latch);
    let limits = "max_in_flight = 1\nqueue_depth = 1\nqueue_timeout = \"30s\"";
    let proxy = Setup::new(legacy.address, legacy.address).legacy(limits).start();
    let mut holders = full(&proxy, &legacy);
    // From now on with a deadline, for who comes next; the first two have none.
    let limits = "max_in_flight = 1\nqueue_depth = 2\nrequest_deadline = \"200ms\"";
    let setup = Setup::new(legacy.address, legacy.address);
    proxy.apply(&setup.legacy(&format!("{limits}\nqueue_timeout = \"30s\"")));
    assert_eq!(proxy.client().get("/").status, 503);
    latch.open();
    for holder in &mut holders {
        assert_eq!(holder.response().status, 200);
    }
    assert_eq!(legacy.hits(), 2);
    let errors = |kind| proxy.scrape().sum("cutover_errors_total", &[("kind", kind)]);
    assert_eq!((errors("queue_timeout"), errors("response_timeout")), (1.0, 0.0));
}

#[test]
fn a_deadline_that_a_client_lets_pass_is_its_own_fault() {
    let legacy = Backend::ok("ok").expects_cuts();
    let proxy =
        Setup::new(legacy.address, legacy.address).legacy("request_deadline = \"300ms\"").start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.response().status, 408);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum("cutover_errors_total", &[]), 0.0);
    assert_eq!(scrape.sum("cutover_client_errors_total", &[("kind", "body_timeout")]), 1.0);
    let failures = [("result", "failure")];
    assert_eq!(scrape.sum("cutover_endpoint_requests_total", &failures), 0.0);
}

#[test]
fn a_rollback_to_a_path_that_was_scaled_down_meets_its_queue() {
    let latch = Latch::default();
    let (legacy, async_) = (held(&latch), Backend::ok("async"));
    let setup = Setup::new(legacy.address, async_.address)
        .weight(1.0)
        .legacy("max_in_flight = 2\nqueue_depth = 3\nqueue_timeout = \"30s\"");
    let proxy = setup.start();
    assert_eq!(proxy.client().get("/").text(), "async");
    proxy.apply(&setup.clone().weight(0.0));
    let mut clients: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    let errors = [("path", "legacy"), ("kind", "shed")];
    eventually!(proxy.scrape().sum("cutover_errors_total", &errors) == 5.0);
    assert_eq!(legacy.hits(), 2, "its two slots");
    latch.open();
    let served =
        clients.iter_mut().filter_map(|client| (client.response().status == 200).then_some(()));
    assert_eq!(served.count(), 5);
}

#[test]
fn a_paced_return_takes_its_time_and_the_way_up_does_not() {
    let backend = Backend::ok("ok");
    let paced = Setup::new(backend.address, backend.address)
        .weight(0.0)
        .tail("[split]\npaced_return = \"2s\"\n");
    let proxy = paced.start();
    let effective = || {
        let labels = [("kind", "effective"), ("route", "default")];
        proxy.scrape().sum("cutover_weight", &labels)
    };
    let change = |weight: f64| proxy.apply(&paced.clone().weight(weight));
    change(1.0);
    assert_eq!(effective(), 1.0, "up at once");
    let began = Instant::now();
    change(0.0);
    assert_eq!(proxy.weight(), 0.0, "what is wanted is known at once");
    let mut last = 1.0;
    let mut seen = 0;
    let down = within(Duration::from_secs(10), || {
        let now = effective();
        assert!(now <= last, "{now} after {last}");
        // Never ahead of the line, but for what passes between the step and this look.
        let line = 1.0 - began.elapsed().as_secs_f64() / 2.0;
        assert!(now >= line - 0.05, "{now}, the line is at {line}");
        seen += usize::from(now < last);
        last = now;
        now == 0.0
    });
    let took = down.expect("it comes to 0");
    println!("down in {took:?}, in {seen} steps");
    assert!(took >= Duration::from_millis(1_900) && seen >= 8, "{took:?}, {seen} steps");
    // A change of mind on the way: up again at once.
    change(1.0);
    change(0.0);
    eventually!(effective() < 0.9);
    change(1.0);
    assert_eq!(effective(), 1.0);
}
