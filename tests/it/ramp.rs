//! The ramp: up step by step and on evidence, down at once, and where a person wants to be asked.

use std::net::SocketAddr;

use serde_json::Value;

use crate::cli::{fails, run};
use crate::harness::guard::{Home, decisions, guard, is_share, looked, order, shown, traffic};
use crate::harness::{Backend, Proxy, Setup, eventually};

/// Steps that are over soon; what is slow on a busy machine is no failure.
const FAST: &str = "soak = \"1s\"\nmin_requests = 20\n";
const ENFORCE: &str = "[guard]\nmode = \"enforce\"\nrate_min = 0.9\nadvance_ratio = 10.0\n[ramp]\n";
const OBSERVE: &str = "[guard]\nmode = \"observe\"\nrate_min = 0.9\nadvance_ratio = 10.0\n[ramp]\n";
/// Steps that are never over.
const SLOW: &str = "[guard]\nmode = \"enforce\"\n[ramp]\nsteps = [0.1, 0.5, 1.0]\n";
const ALL: (usize, &[&str]) = (6, &["/"]);

struct World {
    _paths: [Backend; 2],
    setup: Setup,
    home: Home,
}

impl World {
    /// A config at this weight, with these sections.
    fn new(weight: f64, tail: &str) -> Self {
        let paths = [Backend::counting("legacy"), Backend::counting("async")];
        let setup = Setup::new(paths[0].address, paths[1].address)
            .weight(weight)
            .legacy("response_timeout = \"300ms\"")
            .async_("response_timeout = \"300ms\"")
            .tail(tail);
        let home = Home::new(&setup);
        Self { _paths: paths, setup, home }
    }

    fn apply(&self, proxy: &Proxy, setup: &Setup) {
        self.home.write(setup);
        let (status, answer) = order(proxy.admin, "/api/v1/reload", "{}");
        assert_eq!(status, 200, "{answer}");
    }
}

fn effective(proxy: &Proxy, route: &str) -> f64 {
    proxy.scrape().sum("cutover_weight", &[("route", route), ("kind", "effective")])
}

fn is_at(proxy: &Proxy, share: f64) -> bool {
    (effective(proxy, "default") - share).abs() < 1e-6
}

fn ramp(admin: SocketAddr) -> Value {
    guard(admin)["ramp"].take()
}

fn tell(admin: SocketAddr, what: &str) -> (u16, Value) {
    order(admin, &format!("/api/v1/ramp/{what}"), "{}")
}

/// The steps that the guard has taken, as shares.
fn taken(admin: SocketAddr) -> Vec<(f64, f64)> {
    let share = |value: &Value| (value.as_f64().unwrap() * 1e6).round() / 1e6;
    let steps = decisions(admin, "advance").into_iter();
    steps.map(|step| (share(&step["from"]), share(&step["to"]))).collect()
}

#[test]
fn it_walks_up_by_itself_step_by_step_and_no_further_than_the_configured_weight() {
    let steps = format!("{ENFORCE}{FAST}steps = [0.2, 0.5, 1.0]\n");
    let world = World::new(0.8, &steps);
    let proxy = world.home.start();
    assert!(is_at(&proxy, 0.2));
    assert!(is_share(&ramp(proxy.admin)["next"], 0.5));
    let (tally, ()) = traffic(proxy.address, ALL, || {
        eventually!(is_at(&proxy, 0.8), "it stays at {}", effective(&proxy, "default"));
        looked(proxy.admin);
    });
    assert!(tally.0.keys().eq([&200]), "{tally:?}");
    assert_eq!(taken(proxy.admin), [(0.2, 0.5), (0.5, 0.8)]);
    assert_eq!(ramp(proxy.admin)["next"], Value::Null);
    // Each step of at least a second is in the change log, by the guard and with its numbers.
    let changes = world.home.changes();
    let noted: Vec<_> = changes.iter().filter(|change| change["what"] == "ramp").collect();
    let words = |change: &Value| [&change["from"], &change["to"], &change["who"]].map(Value::clone);
    assert_eq!(words(noted[0]), ["0.2", "0.5", "guard"]);
    assert_eq!(words(noted[1]), ["0.5", "0.8", "guard"]);
    let made = decisions(proxy.admin, "advance");
    assert_eq!((&noted[0]["numbers"], &noted[1]["numbers"]), (&made[0], &made[1]));
    let time = |decision: &Value| decision["time"].as_str().unwrap().parse().unwrap();
    let [first, second]: [jiff::Timestamp; 2] = [time(&made[0]), time(&made[1])];
    assert!(second.duration_since(first).as_millis() >= 950, "{made:#?}");
    // More is walked to, not jumped to.
    world.apply(&proxy, &world.setup.clone().weight(1.0));
    assert!(is_at(&proxy, 0.8));
    assert!(is_share(&ramp(proxy.admin)["next"], 1.0));
}

#[test]
fn without_requests_it_stays_where_it_is() {
    let world = World::new(1.0, &format!("{ENFORCE}soak = \"100ms\"\nmin_requests = 1\n"));
    let proxy = world.home.start();
    let verdict = || guard(proxy.admin)["verdict"].take();
    let lacks = |what: &str| {
        let missing = verdict()["missing"].as_array().cloned().unwrap_or_default();
        missing.iter().any(|missing| missing["missing"] == what)
    };
    // Its time is over, and requests alone are missing.
    eventually!(lacks("requests") && !lacks("soak"), "{}", verdict());
    looked(proxy.admin);
    assert_eq!(verdict()["verdict"], "wait");
    assert!(is_at(&proxy, 0.1));
    assert_eq!(taken(proxy.admin), []);
}

#[test]
fn a_pause_holds_it_until_it_is_told_to_go_on() {
    let world = World::new(1.0, &format!("{ENFORCE}{FAST}steps = [0.2, 1.0]\n"));
    let proxy = world.home.start();
    assert_eq!(tell(proxy.admin, "pause").0, 200);
    assert_eq!(ramp(proxy.admin)["paused"], true);
    traffic(proxy.address, ALL, || {
        let verdict = || guard(proxy.admin)["verdict"].take();
        let is_paused = || verdict()["reasons"] == serde_json::json!([{ "reason": "paused" }]);
        eventually!(is_paused(), "{}", verdict());
        // Three of the shortest stays.
        let first = last_tick(proxy.admin);
        eventually!(last_tick(proxy.admin) > first + 3_000);
        assert!(is_at(&proxy, 0.2) && is_paused(), "{}", verdict());
    });
    drop(proxy);
    // A restart does not forget it.
    let proxy = world.home.start();
    assert_eq!(ramp(proxy.admin)["paused"], true);
    let ran = run(&["ramp", "continue", "--admin", &proxy.admin.to_string()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    traffic(proxy.address, ALL, || eventually!(is_at(&proxy, 1.0)));
}

fn last_tick(admin: SocketAddr) -> u64 {
    let answer = shown(admin, "/api/v1/ticks");
    answer["ticks"].as_array().and_then(|ticks| ticks.last()?["at_ms"].as_u64()).unwrap_or(0)
}

#[test]
fn a_step_that_needs_an_approval_waits_for_it() {
    let steps = "steps = [0.2, 0.5, 1.0]\napprove = [0.5]\n";
    let world = World::new(1.0, &format!("{ENFORCE}{FAST}{steps}"));
    let proxy = world.home.start();
    traffic(proxy.address, ALL, || {
        let verdict = || guard(proxy.admin)["verdict"].take();
        let waits = || verdict()["reasons"] == serde_json::json!([{ "reason": "approval" }]);
        eventually!(waits(), "{}", verdict());
        let first = last_tick(proxy.admin);
        eventually!(last_tick(proxy.admin) > first + 2_000);
        assert!(is_at(&proxy, 0.2) && waits(), "{}", verdict());
        assert!(is_share(&ramp(proxy.admin)["awaits_approval"], 0.5));
        assert_eq!(tell(proxy.admin, "approve").0, 200);
        assert_eq!(ramp(proxy.admin)["awaits_approval"], Value::Null);
        let (status, problem) = tell(proxy.admin, "approve");
        assert_eq!(status, 409, "{problem}");
        // The step beyond it needs none.
        eventually!(is_at(&proxy, 1.0), "{}", verdict());
    });
    assert_eq!(taken(proxy.admin), [(0.2, 0.5), (0.5, 1.0)]);
    let admin = proxy.admin.to_string();
    fails(&["ramp", "approve", "--admin", &admin], 1, &["the ramp is at its end"]);
}

#[test]
fn a_guard_that_observes_has_each_step_approved() {
    let world = World::new(1.0, &format!("{OBSERVE}{FAST}steps = [0.2, 0.5, 1.0]\n"));
    let proxy = world.home.start();
    traffic(proxy.address, ALL, || {
        for (at, next) in [(0.2, 0.5), (0.5, 1.0)] {
            let awaited = || ramp(proxy.admin)["awaits_approval"].take();
            eventually!(is_at(&proxy, at) && is_share(&awaited(), next), "{}", awaited());
            let first = last_tick(proxy.admin);
            eventually!(last_tick(proxy.admin) > first + 1_500);
            assert!(is_at(&proxy, at));
            let ran = run(&["ramp", "approve", "--admin", &proxy.admin.to_string()]);
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
            eventually!(is_at(&proxy, next), "it stays at {at}");
        }
    });
    assert_eq!(taken(proxy.admin), [(0.2, 0.5), (0.5, 1.0)]);
}

#[test]
fn the_weight_goes_down_at_once_and_up_again_by_the_ramp() {
    let world = World::new(1.0, SLOW);
    world.home.leave("helm.json", r#"{"seq":2,"position":1.0,"is_paused":false}"#);
    let proxy = world.home.start();
    // Where it was before the restart.
    assert!(is_at(&proxy, 1.0));
    for (configured, in_force) in
        [(0.7, 0.7), (0.3, 0.3), (1.0, 0.3), (0.05, 0.05), (0.0, 0.0), (1.0, 0.1)]
    {
        world.apply(&proxy, &world.setup.clone().weight(configured));
        assert!(is_at(&proxy, in_force), "{configured}: {}", effective(&proxy, "default"));
    }
    drop(proxy);
    let proxy = world.home.start();
    assert!(is_at(&proxy, 0.1), "a restart must not jump");
}

#[test]
fn no_route_goes_beyond_the_ramp_but_a_pinned_one() {
    let route = |name: &str, rest: &str| format!("[[route]]\nname = \"{name}\"\n{rest}\n");
    let routes = [
        route("low", "match = \"* /low\"\nasync_weight = 0.05"),
        route("high", "match = \"* /high\"\nasync_weight = 1.0"),
        route("pinned", "match = \"* /pinned\"\npin = \"async\""),
    ];
    let world = World::new(0.5, &format!("{SLOW}{}", routes.concat()));
    let proxy = world.home.start();
    let weights = |proxy: &Proxy| {
        ["low", "high", "default"].map(|route| (effective(proxy, route) * 1e4).round() / 1e4)
    };
    assert_eq!(weights(&proxy), [0.05, 0.1, 0.1]);
    let shown = |name, label| proxy.scrape().sum(name, &[("route", "pinned"), label]);
    // What the file asks for is in force: a difference would look like a ramp that is stuck.
    assert_eq!(shown("cutover_weight", ("kind", "configured")), 1.0);
    assert_eq!(shown("cutover_weight", ("kind", "effective")), 1.0);
    assert_eq!(shown("cutover_route_pinned", ("path", "async")), 1.0);
    let mut client = proxy.client();
    let mut on_async = |path: &str| {
        let is_async = |_: &i32| client.get(path).text() == "async";
        (0..200).filter(is_async).count()
    };
    assert_eq!(on_async("/pinned"), 200);
    assert!(on_async("/high").abs_diff(20) <= 2 && on_async("/low").abs_diff(10) <= 2);
    // The ramp goes as far as the route that goes furthest.
    assert!(is_share(&ramp(proxy.admin)["goal"], 1.0));
    drop((client, proxy));
    world.home.leave("helm.json", r#"{"seq":2,"position":1.0,"is_paused":false}"#);
    let proxy = world.home.start();
    assert_eq!(weights(&proxy), [0.05, 1.0, 0.5]);
    assert_eq!(tell(proxy.admin, "abort").0, 200);
    assert_eq!(weights(&proxy), [0.0, 0.0, 0.0]);
    assert_eq!(proxy.client().get("/high").text(), "legacy");
}

#[test]
fn an_abort_is_a_rollback_and_orders_that_make_no_sense_are_refused() {
    let world = World::new(1.0, SLOW);
    let proxy = world.home.start();
    let admin = proxy.admin.to_string();
    let (status, problem) = tell(proxy.admin, "approve");
    assert_eq!((status, &problem["detail"]), (409, &"the next step needs no approval".into()));
    let ran = run(&["ramp", "abort", "--admin", &admin]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.starts_with("ROLLBACK rb-"), "{ran:?}");
    assert!(is_at(&proxy, 0.0));
    let id = guard(proxy.admin)["rollback"]["id"].as_str().unwrap().to_owned();
    let (status, problem) = tell(proxy.admin, "approve");
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains(&id), "{problem}");
    let shown = run(&["ramp", "status", "--admin", &admin]);
    assert!(shown.out.contains("ROLLED BACK by operator"), "{shown:?}");
    // Without a ramp there is nothing to tell it.
    world.apply(&proxy, &world.setup.clone().tail("[guard]\nmode = \"enforce\"\n"));
    for what in ["pause", "continue"] {
        let (status, problem) = tell(proxy.admin, what);
        assert_eq!((status, &problem["detail"]), (409, &"there is no [ramp] in the config".into()));
    }
    assert!(is_at(&proxy, 0.0), "a file without a ramp releases no rollback");
}

#[test]
fn a_drain_that_is_ordered_as_the_last_step_is_taken_is_not_called_off() {
    let world = World::new(1.0, &format!("{ENFORCE}{FAST}steps = [0.5, 1.0]\n"));
    let proxy = world.home.start();
    let drain = "/api/v1/paths/legacy/drain";
    traffic(proxy.address, ALL, || {
        // Refused until nothing can go there any more, which is so from one moment to the next.
        eventually!(order(proxy.admin, drain, "{\"seconds\":10}").0 == 202);
        looked(proxy.admin);
        looked(proxy.admin);
        let status = shown(proxy.admin, drain);
        assert_eq!(status["running"], true, "{status}");
    });
}
