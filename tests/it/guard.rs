//! The guard at its work: what rolls back by itself and how soon, and what is no evidence at all.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::harness::guard::{counted, decisions, guard, is_share, looked, order, shown, traffic};
use crate::harness::{Backend, Client, Latch, Proxy, Reply, Setup, eventually};

const ENFORCE: &str = "[guard]\nmode = \"enforce\"\n";
const IMPATIENT: &str = "response_timeout = \"150ms\"";
/// Each request may be sent again.
const SAVED: &str = "[retry]\nbudget = 1.0\n";
const ALL: (usize, &[&str]) = (6, &["/"]);
/// Targets below `/new/` go to async whatever the weight is.
const PINNED: &str = "[[route]]\nname = \"new\"\nmatch = \"* /new/{rest*}\"\npin = \"async\"\n";

/// An async path that never does what it should, in one of three ways, and the check that says so.
fn broken(how: &str) -> (Backend, &'static str) {
    match how {
        "500" => (Backend::start(|_| Reply::status(500, "no")), "error_rate"),
        "reset" => (Backend::start(|_| Reply::nothing().then_reset()), "error_rate"),
        _ => (Backend::start(|_| Reply::nothing().then_hang()), "timeout_divergence"),
    }
}

fn weight(proxy: &Proxy) -> f64 {
    proxy.scrape().sum("cutover_weight", &[("route", "default"), ("kind", "effective")])
}

fn latched(admin: SocketAddr) -> Option<Value> {
    Some(guard(admin)["rollback"].take()).filter(|latch| !latch.is_null())
}

fn is_rolled_back_by_itself(how: &str, share: f64) {
    let (legacy, (async_, check)) = (Backend::counting("legacy"), broken(how));
    let setup = Setup::new(legacy.address, async_.address).weight(share);
    let proxy = setup.async_(IMPATIENT).tail(ENFORCE).start();
    let what = format!("{how} at {share}");
    let (_, took) = traffic(proxy.address, ALL, || {
        let began = Instant::now();
        // It is in force a moment before it is told.
        eventually!(!decisions(proxy.admin, "rollback").is_empty(), "{what}: no rollback");
        began.elapsed()
    });
    println!("{what}: rolled back within {took:?}");
    let made = decisions(proxy.admin, "rollback");
    assert_eq!(made.len(), 1, "{what}: {made:#?}");
    let (decision, text) = (&made[0], made[0]["text"].as_str().unwrap());
    assert_eq!(latched(proxy.admin).unwrap()["id"], decision["id"], "{what}");
    assert_eq!(decision["who"], "guard", "{what}");
    assert!(is_share(&decision["from"], share) && decision["to"] == 0.0, "{what}: {text}");
    assert_eq!(decision["finding"]["check"], check, "{what}: {text}");
    let finding = &decision["finding"];
    assert!(finding["evidence"].as_f64() >= Some(16.0), "{what}: {finding}");
    // All of async's requests failed, and none of legacy's.
    let (async_rate, legacy_rate) = (&finding["async"], &finding["legacy"]);
    assert_eq!(async_rate["events"], async_rate["n"], "{what}: {text}");
    assert_eq!(legacy_rate["events"], 0, "{what}: {text}");
    assert!(text.contains(&format!("check={check}")), "{what}: {text}");
    let labels = [("check", check)];
    assert_eq!(proxy.scrape().sum("cutover_rollbacks_total", &labels), 1.0, "{what}");
    // From now on nobody sees it.
    proxy.settle();
    let (hits, mut client) = (async_.hits(), proxy.client());
    (0..50).for_each(|_| assert_eq!(client.get("/").text(), "legacy", "{what}"));
    assert_eq!((weight(&proxy), async_.hits()), (0.0, hits), "{what}");
}

#[test]
fn an_async_path_that_fails_is_rolled_back_by_itself_within_seconds_at_a_tenth() {
    for how in ["500", "reset", "hang"] {
        is_rolled_back_by_itself(how, 0.1);
    }
}

#[test]
fn an_async_path_that_fails_is_rolled_back_by_itself_within_seconds_at_a_half() {
    for how in ["500", "reset", "hang"] {
        is_rolled_back_by_itself(how, 0.5);
    }
}

#[test]
fn a_guard_that_observes_says_what_it_would_do_once_and_moves_nothing() {
    let (legacy, (async_, _)) = (Backend::counting("legacy"), broken("500"));
    let proxy = Setup::new(legacy.address, async_.address).weight(0.5).start();
    traffic(proxy.address, ALL, || {
        let would = || decisions(proxy.admin, "would_roll_back");
        eventually!(!would().is_empty(), "it says nothing");
        let verdict = || guard(proxy.admin)["verdict"]["verdict"].take();
        eventually!(verdict() == "rollback", "{}", verdict());
        looked(proxy.admin);
        let would = would();
        assert_eq!(would.len(), 1, "{would:#?}");
        assert_eq!(would[0]["finding"]["check"], "error_rate");
        assert_eq!(would[0]["from"], would[0]["to"]);
        let text = would[0]["text"].as_str().unwrap();
        assert!(text.starts_with("WOULD ROLL BACK wr-"), "{text}");
        assert!(!text.contains("undo"), "{text}");
    });
    assert_eq!(latched(proxy.admin), None);
    assert_eq!(weight(&proxy), 0.5);
    assert_eq!(decisions(proxy.admin, "rollback"), [] as [Value; 0]);
    assert_eq!(proxy.scrape().sum("cutover_rollbacks_total", &[]), 0.0);
}

#[test]
fn a_guard_that_is_off_judges_nothing_and_still_obeys_an_operator() {
    let (legacy, (async_, _)) = (Backend::counting("legacy"), broken("500"));
    let setup = Setup::new(legacy.address, async_.address).weight(0.5);
    let proxy = setup.tail("[guard]\nmode = \"off\"\n").start();
    traffic(proxy.address, ALL, || {
        // Ten times what is evidence enough where the guard is not off.
        eventually!(counted(proxy.admin, "async", "err") > 300, "nothing is counted");
    });
    assert_eq!(shown(proxy.admin, "/api/v1/decisions")["decisions"], Value::Array(Vec::new()));
    assert_eq!(guard(proxy.admin)["verdict"], Value::Null);
    assert_eq!(weight(&proxy), 0.5);
    assert_eq!(order(proxy.admin, "/api/v1/rollback", "{}").0, 200);
    assert_eq!(weight(&proxy), 0.0);
}

#[test]
fn a_guard_that_a_reload_switches_off_shows_no_verdict_any_more() {
    let (legacy, async_) = (Backend::counting("legacy"), Backend::counting("async"));
    let setup = Setup::new(legacy.address, async_.address).weight(0.5);
    let proxy = setup.start();
    let shows = |number| {
        let is_null = guard(proxy.admin)["verdict"].is_null();
        is_null == (number == 0.0) && proxy.scrape().sum("cutover_gate_state", &[]) == number
    };
    eventually!(shows(1.0), "no verdict");
    std::fs::write(&proxy.file, setup.tail("[guard]\nmode = \"off\"\n").text()).unwrap();
    eventually!(shows(0.0), "still a verdict");
}

#[test]
fn failover_that_saves_every_request_does_not_hide_a_path_that_fails() {
    let (legacy, (async_, _)) = (Backend::counting("legacy"), broken("reset"));
    let setup = Setup::new(legacy.address, async_.address).weight(0.3);
    let proxy = setup.tail(&format!("{ENFORCE}[failover]\nenabled = true\nbudget = 1.0\n")).start();
    let (tally, ()) = traffic(proxy.address, ALL, || {
        eventually!(latched(proxy.admin).is_some(), "no rollback");
    });
    assert!(tally.0.keys().eq([&200]), "{tally:?}");
    assert_eq!(latched(proxy.admin).unwrap()["check"], "error_rate");
    assert!(async_.hits() > 10, "{}", async_.hits());
}

#[test]
fn retries_that_save_every_request_do_not_hide_an_endpoint_that_fails() {
    let (sound, (failing, _)) = (Backend::counting("async"), broken("reset"));
    let legacy = Backend::counting("legacy");
    let setup = Setup::new(legacy.address, sound.address).weight(0.5);
    let setup = setup.async_("eject = { consecutive_failures = 100000 }");
    let setup = setup.tail(&format!("{ENFORCE}{SAVED}"));
    let one = format!("\"http://{}\"", sound.address);
    let both = format!("{one}, \"http://{}\"", failing.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, setup.text().replace(&one, &both)).unwrap();
    let proxy = Proxy::start(dir, file);
    let (tally, ()) = traffic(proxy.address, ALL, || {
        eventually!(latched(proxy.admin).is_some(), "no rollback");
    });
    assert!(tally.0.keys().eq([&200]), "{tally:?}");
    assert!(failing.hits() > 10 && sound.hits() > 10);
}

#[test]
fn pinned_and_forced_requests_are_no_evidence() {
    let legacy = Backend::counting("legacy");
    let async_ = Backend::start(|seen| match seen.target.as_str() {
        "/" => Reply::ok("async"),
        _ => Reply::status(500, "no"),
    });
    let force = "[split]\nforce_header = \"x-cutover-force\"\nforce_from = \"anyone\"\n";
    let proxy = Setup::new(legacy.address, async_.address)
        .weight(0.5)
        .tail(&format!("{ENFORCE}{force}{PINNED}"))
        .start();
    let targets = ["/", "/new/x", "/forced"];
    let (tally, ()) = traffic(proxy.address, (6, &targets), || {
        let failed = || proxy.scrape().sum("cutover_requests_total", &[("code", "500")]);
        // At a half of the weight ten would be enough.
        eventually!(failed() > 400.0, "{}", failed());
    });
    looked(proxy.admin);
    assert_eq!(counted(proxy.admin, "async", "err"), 0);
    assert_eq!(latched(proxy.admin), None);
    let weighed = counted(proxy.admin, "async", "n") + counted(proxy.admin, "legacy", "n");
    assert_eq!(weighed, tally.0[&200] as u64, "{tally:?}");
}

#[test]
fn clients_that_leave_are_no_evidence() {
    let held = Latch::default();
    let holds = held.clone();
    let legacy = Backend::counting("legacy");
    let async_ = Backend::start(move |_| Reply::ok("async").held_by(&holds)).expects_cuts();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let proxy = setup.tail(ENFORCE).start();
    for number in 1..=60 {
        let mut client = proxy.client();
        client.ask("/", "");
        eventually!(async_.hits() == number);
        client.reset();
    }
    proxy.settle();
    looked(proxy.admin);
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[("kind", "abort")]), 60.0);
    for count in ["n", "err", "tmo"] {
        assert_eq!(counted(proxy.admin, "async", count), 0, "{count}");
    }
    assert_eq!(latched(proxy.admin), None);
    held.open();
}

#[test]
fn each_request_that_the_weight_routed_is_in_one_tick() {
    let (legacy, async_) = (Backend::counting("legacy"), Backend::counting("async"));
    let tail = "[[route]]\nname = \"half\"\nmatch = \"* /half\"\nasync_weight = 0.5\n";
    let proxy = Setup::new(legacy.address, async_.address).weight(0.3).tail(tail).start();
    let ask = |mut client: Client| {
        for turn in 0..250 {
            assert_eq!(client.get(if turn % 2 == 0 { "/" } else { "/half" }).status, 200);
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| ask(proxy.client())))));
    proxy.settle();
    looked(proxy.admin);
    let seen = ["legacy", "async"].map(|path| counted(proxy.admin, path, "n") as usize);
    assert_eq!(seen, [legacy.hits(), async_.hits()]);
    assert_eq!(seen.iter().sum::<usize>(), 1_000);
    for count in ["err", "tmo", "c4"] {
        assert_eq!(counted(proxy.admin, "async", count), 0, "{count}");
    }
}

#[test]
fn what_is_in_flight_as_the_weight_changes_is_evidence_for_neither_weight() {
    let held = Latch::default();
    let [legacy, async_] = ["legacy", "async"].map(|path| {
        let held = held.clone();
        Backend::start(move |seen| match seen.target.as_str() {
            "/held" => Reply::ok(path).held_by(&held),
            _ => Reply::ok(path),
        })
    });
    let setup = Setup::new(legacy.address, async_.address).weight(0.5).tail(ENFORCE);
    let proxy = setup.start();
    let clients: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = proxy.client();
            client.ask("/held", "");
            client
        })
        .collect();
    eventually!(legacy.hits() + async_.hits() == 20);
    looked(proxy.admin);
    let epoch = || guard(proxy.admin)["epoch"].as_u64();
    let before = epoch();
    proxy.apply(&setup.weight(0.6));
    assert!(epoch() > before);
    // Those that come now are evidence for the new one.
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").status, 200));
    held.open();
    clients.into_iter().for_each(|mut client| assert_eq!(client.response().status, 200));
    proxy.settle();
    looked(proxy.admin);
    let seen = ["legacy", "async"].map(|path| counted(proxy.admin, path, "n"));
    assert_eq!(seen.iter().sum::<u64>(), 20, "{seen:?}");
    assert_eq!(proxy.scrape().sum("cutover_requests_total", &[]), 40.0);
}
