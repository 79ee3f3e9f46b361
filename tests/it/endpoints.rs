//! Several endpoints of one path: how requests spread, who is left out, and how endpoints change
//! while they serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{Backend, Ended, Latch, Proxy, Reply, Setup, eventually, under_load};

const LEGACY: (&str, &str) = ("path", "legacy");

fn of(backend: &str) -> [(&str, &str); 2] {
    [LEGACY, ("endpoint", backend)]
}

fn is_up(proxy: &Proxy, backend: &Backend) -> bool {
    let address = backend.address.to_string();
    proxy.scrape().sum("cutover_endpoint_up", &of(&address)) == 1.0
}

/// Sends so many requests one after the other, which all must be served.
fn serve(proxy: &Proxy, requests: usize) {
    let mut client = proxy.client();
    for number in 0..requests {
        let response = client.get("/");
        assert_eq!((response.status, response.ended), (200, Ended::Whole), "request {number}");
    }
}

fn hits<const N: usize>(backends: [&Backend; N]) -> [usize; N] {
    backends.map(Backend::hits)
}

/// A setup with all of `backends` under the legacy path.
fn across(backends: &[&Backend]) -> Setup {
    Setup::new(backends[0].address, Backend::refused()).legacy_at(backends).workers(1)
}

// === Balance ===

#[test]
fn round_robin_goes_by_weight_to_the_request() {
    let (a, b) = (Backend::ok("a"), Backend::ok("b"));
    let list =
        format!("{{ url = \"http://{}\", weight = 3 }}, \"http://{}\"", a.address, b.address);
    let setup = Setup::new(a.address, Backend::refused()).workers(1).legacy_endpoints(&list);
    let proxy = setup.legacy("balance = \"round_robin\"").start();
    serve(&proxy, 80);
    assert_eq!(hits([&a, &b]), [60, 20]);
}

#[test]
fn an_endpoint_that_holds_its_requests_gets_few_more() {
    const REQUESTS: usize = 300;
    let latch = Latch::default();
    let held = latch.clone();
    let slow = Backend::start(move |_| Reply::ok("slow").held_by(&held));
    let (b, c) = (Backend::ok("b"), Backend::ok("c"));
    let proxy = across(&[&slow, &b, &c]).workers(2).start();
    let mut held = Vec::new();
    for number in 1..=REQUESTS {
        let mut client = proxy.client();
        client.ask("/", "");
        eventually!(hits([&slow, &b, &c]).iter().sum::<usize>() == number);
        if slow.hits() > held.len() {
            held.push(client);
        } else {
            assert_eq!(client.response().status, 200);
        }
    }
    // Once it holds one, and the others have answered, it loses each comparison.
    println!("{:?}", hits([&slow, &b, &c]));
    assert!((1..=3).contains(&held.len()), "{} requests are held", held.len());
    assert!(b.hits() > 100 && c.hits() > 100, "{:?}", hits([&slow, &b, &c]));
    latch.open();
    for client in &mut held {
        assert_eq!(client.response().status, 200);
    }
}

// === Ejection ===

#[test]
fn an_endpoint_to_which_requests_fail_is_left_out_for_longer_each_time() {
    let (sound, broken) = (Backend::ok("ok"), Backend::start(|_| Reply::nothing().then_close()));
    let eject = "balance = \"round_robin\"\nslow_start = \"0s\"\n\
                 eject = { consecutive_failures = 3, for = \"300ms\" }";
    let proxy = across(&[&sound, &broken]).legacy(eject).start();
    serve(&proxy, 20);
    // Each of its failures was retried; after three it got no more.
    assert_eq!(broken.hits(), 3);
    assert!(!is_up(&proxy, &broken) && is_up(&proxy, &sound));
    let ejections = || {
        let address = broken.address.to_string();
        proxy.scrape().sum("cutover_endpoint_ejections_total", &of(&address))
    };
    assert_eq!(ejections(), 1.0);
    let first = within_ms(|| is_up(&proxy, &broken));
    serve(&proxy, 20);
    assert_eq!((broken.hits(), ejections()), (6, 2.0));
    let second = within_ms(|| is_up(&proxy, &broken));
    println!("out for {first} ms, then for {second} ms");
    assert!(first < 450 && second > 450, "out for {first} ms, then for {second} ms");
}

fn within_ms(holds: impl FnMut() -> bool) -> u128 {
    let took = crate::harness::within(crate::harness::PATIENCE, holds);
    took.expect("it comes to hold").as_millis()
}

#[test]
fn the_only_endpoint_is_never_left_out_and_of_three_two_are_not() {
    let broken = || Backend::start(|_| Reply::nothing().then_close());
    let eject = "eject = { consecutive_failures = 2, for = \"60s\", max_share = 0.5 }";
    let only = broken();
    let proxy = across(&[&only]).legacy(eject).start();
    for _ in 0..10 {
        assert_eq!(proxy.client().get("/").status, 502);
    }
    assert!(is_up(&proxy, &only));
    assert_eq!(only.hits(), 10, "a path with one endpoint has nowhere to retry");
    let three = [broken(), broken(), broken()];
    let proxy = across(&three.each_ref()).legacy(eject).start();
    for _ in 0..30 {
        assert_eq!(proxy.client().get("/").status, 502);
    }
    let up = three.iter().filter(|backend| is_up(&proxy, backend)).count();
    assert_eq!(up, 2, "half of three is one");
}

#[test]
fn replies_of_a_gateway_with_nobody_behind_it_eject_and_other_errors_do_not() {
    let sound = Backend::ok("ok");
    for (status, is_ejected) in [(502, true), (503, true), (504, true), (500, false), (404, false)]
    {
        let other = Backend::start(move |_| Reply::status(status, "x"));
        let proxy = across(&[&sound, &other])
            .legacy("balance = \"round_robin\"\neject = { consecutive_failures = 2 }")
            .start();
        let mut client = proxy.client();
        for _ in 0..10 {
            // What a backend says is passed on as it is: it was processed.
            assert!([200, status].contains(&client.get("/").status));
        }
        assert_eq!(!is_up(&proxy, &other), is_ejected, "{status}");
        assert_eq!(other.hits(), if is_ejected { 2 } else { 5 }, "{status}");
    }
}

#[test]
fn an_endpoint_that_cuts_its_replies_short_or_garbles_them_is_left_out() {
    judged_by_its_replies("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun");
    judged_by_its_replies("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n");
    judged_by_its_replies("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
}

fn judged_by_its_replies(reply: &'static str) {
    let sound = Backend::ok("ok");
    let cutting = Backend::start(move |_| Reply::raw(reply).then_close());
    let eject = "balance = \"round_robin\"\neject = { consecutive_failures = 3 }";
    let proxy = across(&[&sound, &cutting]).legacy(eject).start();
    let is_good = || {
        let response = proxy.client().get("/");
        (response.status, response.ended) == (200, Ended::Whole)
    };
    let whole = (0..20).filter(|_| is_good()).count();
    assert_eq!((whole, cutting.hits()), (17, 3));
    assert!(!is_up(&proxy, &cutting));
    let address = cutting.address.to_string();
    let results = ["success", "failure"].map(|result| {
        let labels = [LEGACY, ("endpoint", address.as_str()), ("result", result)];
        proxy.scrape().sum("cutover_endpoint_requests_total", &labels)
    });
    assert_eq!(results, [0.0, 3.0]);
}

// === Probes ===

const PROBED: &str = "balance = \"round_robin\"\nslow_start = \"0s\"\n\
                      health = { path = \"/up\", interval = \"100ms\", timeout = \"50ms\" }";

/// A backend whose probes pass while the switch is on; it counts what else it gets.
fn probed(on: &Arc<AtomicBool>) -> (Backend, Arc<AtomicUsize>) {
    let (on, served) = (on.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = served.clone();
    let backend = Backend::start(move |seen| match seen.target.as_str() {
        "/up" if on.load(Ordering::SeqCst) => Reply::ok("up"),
        "/up" => Reply::status(500, "down"),
        _ => {
            counted.fetch_add(1, Ordering::SeqCst);
            Reply::ok("ok")
        }
    });
    (backend, served)
}

#[test]
fn an_endpoint_that_fails_its_probes_gets_nothing_until_it_passes_them_again() {
    let (on, always) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (a, served) = probed(&on);
    let (b, _) = probed(&always);
    let proxy = across(&[&a, &b]).legacy(PROBED).start();
    serve(&proxy, 20);
    assert!(served.load(Ordering::SeqCst) > 0);
    on.store(false, Ordering::SeqCst);
    eventually!(!is_up(&proxy, &a));
    let before = served.load(Ordering::SeqCst);
    serve(&proxy, 20);
    assert_eq!(served.load(Ordering::SeqCst), before);
    on.store(true, Ordering::SeqCst);
    eventually!(is_up(&proxy, &a));
    serve(&proxy, 20);
    assert!(served.load(Ordering::SeqCst) >= before + 9);
    let checks = |result| {
        let address = a.address.to_string();
        let labels = [LEGACY, ("endpoint", address.as_str()), ("result", result)];
        proxy.scrape().sum("cutover_health_checks_total", &labels)
    };
    assert!(checks("failure") >= 3.0 && checks("success") >= 3.0);
}

#[test]
fn both_paths_are_probed_whatever_the_weight() {
    let on = Arc::new(AtomicBool::new(true));
    let ((a, _), (b, served)) = (probed(&on), probed(&on));
    let proxy = Setup::new(a.address, b.address).legacy(PROBED).async_(PROBED).start();
    eventually!(a.hits() > 3 && b.hits() > 3);
    assert_eq!(served.load(Ordering::SeqCst), 0, "the weight is 0");
    drop(proxy);
}

#[test]
fn with_no_endpoint_left_all_are_used_and_readiness_says_so() {
    let on = Arc::new(AtomicBool::new(false));
    let ((a, _), (b, _)) = (probed(&on), probed(&on));
    let setup = across(&[&a, &b]).legacy(PROBED);
    let setup = Setup { async_endpoint: a.address, ..setup }.async_(PROBED);
    let proxy = setup.start();
    let panic = || proxy.scrape().sum("cutover_path_panic", &[LEGACY]);
    eventually!(panic() == 1.0 && !is_up(&proxy, &a) && !is_up(&proxy, &b));
    serve(&proxy, 10);
    let ready = || {
        let mut client = crate::harness::Client::connect(proxy.admin);
        client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.response()
    };
    eventually!(ready().status == 503);
    assert_eq!(ready().text(), "no endpoint is up\n");
    on.store(true, Ordering::SeqCst);
    eventually!(panic() == 0.0 && ready().status == 200);
}

#[test]
fn an_endpoint_that_appears_starts_slowly_and_one_that_is_probed_waits_for_it() {
    let (a, b) = (Backend::counting("a"), Backend::counting("b"));
    let slow = "balance = \"round_robin\"\nslow_start = \"60s\"";
    let setup = across(&[&a]).legacy(slow);
    let proxy = setup.start();
    proxy.apply(&setup.clone().legacy_at(&[&a, &b]));
    serve(&proxy, 110);
    // A tenth of the weight: one in eleven.
    assert!((8..=13).contains(&b.hits()), "{:?}", hits([&a, &b]));
    let on = Arc::new(AtomicBool::new(true));
    let off = Arc::new(AtomicBool::new(false));
    let ((sound, _), (unready, served)) = (probed(&on), probed(&off));
    let setup = across(&[&sound]).legacy(PROBED);
    let proxy = setup.start();
    eventually!(proxy.scrape().sum("cutover_health_checks_total", &[LEGACY]) > 0.0);
    proxy.apply(&setup.clone().legacy_at(&[&sound, &unready]));
    serve(&proxy, 30);
    assert_eq!(served.load(Ordering::SeqCst), 0, "it has passed no probe yet");
    off.store(true, Ordering::SeqCst);
    eventually!({
        serve(&proxy, 2);
        served.load(Ordering::SeqCst) > 0
    });
}

// === Changes ===

#[test]
fn a_hundred_changes_of_endpoints_under_load_fail_no_request() {
    let _alone = crate::harness::heavy();
    let backends: Vec<Backend> = (0..4).map(|_| Backend::counting("ok")).collect();
    let all: Vec<&Backend> = backends.iter().collect();
    let setup = across(&all[..1]).workers(2);
    let proxy = setup.start();
    let (served, ()) = under_load(&[proxy.address; 4], || {
        for change in 0..100_usize {
            // Never the same set or weights twice in a row; at least one stays.
            let list: Vec<_> = (0..4)
                .filter(|index| (change + index) % 3 != 0)
                .map(|index| {
                    let weight = (change + index) % 5 + 1;
                    let address = backends[index].address;
                    format!("{{ url = \"http://{address}\", weight = {weight} }}")
                })
                .collect();
            proxy.apply(&setup.clone().legacy_endpoints(&list.join(", ")));
        }
    });
    let served: usize = served.iter().sum();
    println!(
        "100 changes, {served} requests served, {:?}",
        all.iter().map(|b| b.hits()).collect::<Vec<_>>()
    );
    assert_eq!(served, all.iter().map(|backend| backend.hits()).sum::<usize>());
    assert!(all.iter().all(|backend| backend.hits() > 0));
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn a_removed_endpoint_finishes_what_it_has_and_its_metrics_disappear() {
    let latch = Latch::default();
    let held = latch.clone();
    let old = Backend::start(move |_| Reply::ok("old").held_by(&held));
    let new = Backend::ok("new");
    let setup = across(&[&old]);
    let proxy = setup.start();
    let mut client = proxy.client();
    client.ask("/", "");
    eventually!(old.hits() == 1);
    proxy.apply(&setup.clone().legacy_at(&[&new]));
    assert_eq!(proxy.client().get("/").text(), "new");
    let address = old.address.to_string();
    let name = "cutover_endpoint_requests_in_flight";
    assert_eq!(proxy.scrape().sum(name, &of(&address)), 1.0, "it still drains");
    latch.open();
    assert_eq!(client.response().text(), "old");
    // The connection of the client has seen the new config by its next request.
    assert_eq!(client.get("/").text(), "new");
    eventually!(!proxy.scrape().0.contains(&address), "metrics of an endpoint that is gone");
    eventually!(old.open() == 0);
}

#[test]
fn what_an_endpoint_went_through_outlives_a_reload() {
    let (sound, broken) = (Backend::ok("ok"), Backend::start(|_| Reply::nothing().then_close()));
    let eject = "balance = \"round_robin\"\neject = { consecutive_failures = 2, for = \"60s\" }";
    let setup = across(&[&sound, &broken]).legacy(eject);
    let proxy = setup.start();
    serve(&proxy, 10);
    assert!(!is_up(&proxy, &broken));
    proxy.apply(&setup.clone().weight(0.0).legacy(&format!("{eject}\nqueue_depth = 7")));
    assert!(!is_up(&proxy, &broken));
    serve(&proxy, 10);
    assert_eq!(broken.hits(), 2);
}
