//! What was normal: recorded while requests come, kept over a restart, stale once the config is
//! another, and never made of nothing.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::cli::{command, fails, ran, run};
use crate::harness::guard::{Home, decisions, looked, order, shown, traffic};
use crate::harness::{Backend, Setup, eventually};

const BASELINE: &str = "/api/v1/baseline";
const ALL: (usize, &[&str]) = (4, &["/"]);

struct World {
    _paths: [Backend; 2],
    setup: Setup,
    home: Home,
}

impl World {
    fn new(weight: f64) -> Self {
        let paths = [Backend::counting("legacy"), Backend::counting("async")];
        let setup = Setup::new(paths[0].address, paths[1].address).weight(weight);
        let home = Home::new(&setup);
        Self { _paths: paths, setup, home }
    }
}

fn record(admin: SocketAddr, seconds: f64) -> u16 {
    order(admin, BASELINE, &json!({ "seconds": seconds }).to_string()).0
}

/// What is shown once nothing is recorded any more.
fn ended(admin: SocketAddr) -> Value {
    let answer = || shown(admin, BASELINE);
    eventually!(answer()["recording"].is_null(), "{}", answer());
    answer()
}

#[test]
fn a_recording_shows_its_progress_and_ends_in_a_baseline_that_a_restart_keeps() {
    let world = World::new(0.0);
    let proxy = world.home.start();
    let admin = proxy.admin.to_string();
    fails(&["baseline", "show", "--admin", &admin], 1, &["no baseline is recorded"]);
    let labels = [("path", "legacy"), ("q", "0.95")];
    let threshold = || proxy.scrape().sum("cutover_baseline_seconds", &labels);
    assert_eq!(threshold(), 0.0);
    let (_, recorded) = traffic(proxy.address, ALL, || {
        let mut command =
            command(&["baseline", "record", "--for", "3s", "--json", "--admin", &admin]);
        let recorder = std::thread::spawn(move || ran(&command.output().unwrap()));
        let recording = || shown(proxy.admin, BASELINE)["recording"].take();
        eventually!(recording()["attempts"].as_u64() > Some(20), "{}", recording());
        let early = recording();
        assert_eq!((&early["seconds"], &early["failures"]), (&3.0.into(), &0.into()), "{early}");
        let elapsed = |recording: &Value| recording["elapsed_seconds"].as_f64();
        eventually!(elapsed(&recording()) > elapsed(&early));
        // One at a time.
        let (status, problem) = order(proxy.admin, BASELINE, "{\"seconds\":1}");
        let why = "a baseline is being recorded already";
        assert_eq!((status, &problem["detail"]), (409, &why.into()));
        recorder.join().unwrap()
    });
    assert_eq!((recorded.code, recorded.err.as_str()), (0, ""), "{recorded:?}");
    let shown_then = ended(proxy.admin);
    let baseline = &shown_then["baseline"];
    assert_eq!(serde_json::from_str::<Value>(&recorded.out).unwrap(), *baseline);
    let legacy = &baseline["paths"]["legacy"];
    let number = legacy["counts"]["n"].as_u64().unwrap();
    assert!(number > 100, "{baseline}");
    let took = baseline["took_seconds"].as_f64().unwrap();
    assert!(took >= 3.0, "{baseline}");
    let rate = legacy["per_second"].as_f64().unwrap();
    assert!((rate * took / number as f64 - 1.0).abs() < 0.01, "{baseline}");
    let p95 = legacy["p95"]["value_ms"].as_f64().unwrap();
    assert!(p95 > 0.0 && p95 <= legacy["p99"]["value_ms"].as_f64().unwrap(), "{baseline}");
    assert_eq!(baseline["paths"]["async"]["counts"].get("n"), None, "{baseline}");
    assert_eq!(baseline["stale"], json!([]));
    eventually!((threshold() - p95 / 1e3).abs() < 1e-6);
    let told = decisions(proxy.admin, "baseline");
    assert_eq!(told.len(), 1);
    let words = told[0]["text"].as_str().unwrap();
    assert!(words.contains(&format!("legacy: {number} requests")), "{words}");
    drop(proxy);
    let proxy = world.home.start();
    assert_eq!(shown(proxy.admin, BASELINE), shown_then);
    let prose = run(&["baseline", "show", "--admin", &proxy.admin.to_string()]);
    assert_eq!(prose.code, 0, "{prose:?}");
    assert!(prose.out.contains(&number.to_string()), "{prose:?}");
}

#[test]
fn a_weight_that_changes_meanwhile_ends_a_recording_with_its_reason() {
    let world = World::new(0.0);
    let proxy = world.home.start();
    // As soon as one has ended nothing stands in the way of the next one.
    for weight in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] {
        assert_eq!(record(proxy.admin, 60.0), 202, "{weight}");
        looked(proxy.admin);
        let answer = shown(proxy.admin, BASELINE);
        assert!(answer["recording"].is_object(), "{weight}: {answer}");
        world.home.write(&world.setup.clone().weight(weight));
        assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
        let answer = ended(proxy.admin);
        let why = "the weight, the routes or the rules changed meanwhile";
        assert_eq!((&answer["failed"], &answer["baseline"]), (&why.into(), &Value::Null));
    }
    assert_eq!(record(proxy.admin, 0.6), 202);
    traffic(proxy.address, ALL, || ended(proxy.admin));
    let answer = shown(proxy.admin, BASELINE);
    assert!(answer["baseline"].is_object(), "{answer}");
    assert_eq!(answer["failed"], Value::Null);
}

#[test]
fn an_operators_rollback_ends_a_recording_too() {
    let world = World::new(0.5);
    let proxy = world.home.start();
    assert_eq!(record(proxy.admin, 60.0), 202);
    assert_eq!(order(proxy.admin, "/api/v1/rollback", "{}").0, 200);
    let answer = ended(proxy.admin);
    assert!(answer["failed"].as_str().unwrap().contains("changed meanwhile"), "{answer}");
}

#[test]
fn of_no_requests_there_is_no_baseline() {
    let world = World::new(0.0);
    let proxy = world.home.start();
    let admin = proxy.admin.to_string();
    let args = ["baseline", "record", "--for", "500ms", "--admin", &admin];
    fails(&args, 1, &["no baseline was recorded: the legacy path had no request"]);
    let answer = ended(proxy.admin);
    assert!(answer["failed"].as_str().unwrap().contains("no request"), "{answer}");
    assert_eq!(answer["baseline"], Value::Null);
    for wrong in ["{\"seconds\":0}", "{\"seconds\":-1}", "{\"seconds\":86401}"] {
        assert!(order(proxy.admin, BASELINE, wrong).0 >= 400, "{wrong}");
    }
}

#[test]
fn a_baseline_of_other_routes_or_endpoints_is_said_to_be_stale() {
    let world = World::new(0.0);
    let proxy = world.home.start();
    assert_eq!(record(proxy.admin, 0.6), 202);
    traffic(proxy.address, ALL, || ended(proxy.admin));
    let stale = || shown(proxy.admin, BASELINE)["baseline"]["stale"].take();
    assert_eq!(stale(), json!([]));
    let apply = |setup: &Setup| {
        world.home.write(setup);
        assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
    };
    apply(&world.setup.clone().weight(0.1));
    assert_eq!(stale(), json!([]), "a weight alone is no other config");
    apply(&world.setup.clone().tail("[[route]]\nname = \"cart\"\nmatch = \"GET /cart\"\n"));
    assert!(stale()[0].as_str().unwrap().contains("cart"), "{}", stale());
    let prose = run(&["baseline", "show", "--admin", &proxy.admin.to_string()]);
    assert!(prose.out.contains("stale: ") && prose.out.contains("cart"), "{prose:?}");
    let other = Backend::counting("other");
    let moved = Setup { legacy_endpoint: other.address, ..world.setup.clone() };
    apply(&moved);
    assert!(stale().to_string().contains(&other.address.to_string()), "{}", stale());
    apply(&world.setup);
    assert_eq!(stale(), json!([]));
}

#[test]
fn a_baseline_that_can_not_be_read_is_an_error_and_not_no_baseline() {
    let world = World::new(0.0);
    world.home.leave("baseline.json", "{\"version\":");
    let file = world.home.file();
    fails(&["run", "--config", crate::cli::text(&file)], 1, &["baseline.json"]);
}
