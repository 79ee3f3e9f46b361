//! The drain of one path: refused while anything can go there, over when nothing is left of it, and
//! certified until something comes after all.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Ran, command, ran, run};
use crate::harness::guard::{Home, decisions, order, shown};
use crate::harness::{
    Backend, Client, Ended, Latch, Process, Proxy, Reply, Setup, eventually, within,
};

const LEGACY: &str = "/api/v1/paths/legacy/drain";
/// Longer than the quiet time, which is five seconds and the longest of these.
const QUIET: Duration = Duration::from_secs(15);
const SHORT: &str = "response_timeout = \"20s\"\npool_idle_timeout = \"200ms\"";
const SHORTEST: &str = "response_timeout = \"300ms\"\npool_idle_timeout = \"200ms\"";

/// A legacy path that holds each request for `/held` until it is let go.
fn legacy(held: &Latch) -> Backend {
    let held = held.clone();
    Backend::start(move |seen| match seen.target.as_str() {
        "/held" => Reply::ok("legacy").held_by(&held),
        _ => Reply::ok("legacy"),
    })
}

fn setup(legacy: &Backend, async_: &Backend, limits: &str) -> Setup {
    Setup::new(legacy.address, async_.address).legacy(limits).async_(SHORTEST)
}

/// A proxy with `number` requests in flight on legacy, of which none can go there any more.
fn with_held(setup: &Setup, legacy: &Backend, number: usize) -> (Proxy, Vec<Client>) {
    let proxy = setup.clone().weight(0.0).start();
    let mut clients: Vec<Client> = (0..number).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/held", ""));
    eventually!(legacy.hits() == number);
    proxy.apply(&setup.clone().weight(1.0));
    (proxy, clients)
}

fn drain(proxy: &Proxy, seconds: f64, force: bool) -> (u16, Value) {
    order(proxy.admin, LEGACY, &json!({ "seconds": seconds, "force": force }).to_string())
}

/// How the drain that runs has ended.
fn ended(admin: std::net::SocketAddr) -> Value {
    let status = || shown(admin, LEGACY);
    let took = within(QUIET, || status()["running"] == false);
    assert!(took.is_some(), "it does not end: {}", status());
    status()
}

fn is_certified(status: &Value) -> bool {
    let certificate = &status["certificate"];
    certificate.is_object() && certificate.get("void").is_none()
}

fn certificate_is(proxy: &Proxy, state: &str) -> bool {
    let gauge = |state| {
        let labels = [("path", "legacy"), ("state", state)];
        proxy.scrape().sum("cutover_drain_certificate", &labels)
    };
    ["none", "valid", "void"].iter().all(|known| (gauge(known) == 1.0) == (*known == state))
}

#[test]
fn it_is_refused_while_the_config_can_still_send_requests_there() {
    let (legacy, async_) = (Backend::counting("legacy"), Backend::counting("async"));
    let setup = setup(&legacy, &async_, SHORT);
    let route = |rest: &str| format!("[[route]]\nname = \"old\"\nmatch = \"* /old\"\n{rest}\n");
    let proxy = setup.start();
    for (weight, tail, why) in [
        (0.0, String::new(), "route default has weight 0"),
        (1.0, "[ramp]\nsteps = [0.1, 1.0]\n".to_owned(), "route default has weight 0.1"),
        (0.99, String::new(), "route default has weight 0.99"),
        (1.0, route("async_weight = 0.5"), "route old has weight 0.5"),
        (1.0, route("pin = \"legacy\""), "route old is pinned to it"),
        (1.0, "[failover]\nenabled = true\n".to_owned(), "[failover] is enabled"),
        (
            1.0,
            "[split]\nforce_header = \"x-force\"\n".to_owned(),
            "split.force_header is set (x-force)",
        ),
    ] {
        proxy.apply(&setup.clone().weight(weight).tail(&tail));
        let (status, problem) = drain(&proxy, 1.0, false);
        let detail = problem["detail"].as_str().unwrap_or_default();
        let whole = format!("requests can still go to legacy: {why}");
        assert!(status == 409 && detail.starts_with(&whole), "{status} {detail}, not {whole}");
        assert_eq!(shown(proxy.admin, LEGACY)["running"], false);
    }
    let admin = proxy.admin.to_string();
    let args = ["drain", "legacy", "--admin", &admin];
    crate::cli::fails(&args, 1, &["requests can still go to legacy"]);
    // The other path has nothing either once all is sent back, and as little before.
    let path = "/api/v1/paths/async/drain";
    proxy.apply(&setup.clone().weight(0.01));
    assert_eq!(order(proxy.admin, path, "{}").0, 409);
    proxy.apply(&setup.clone().weight(0.0));
    assert_eq!(order(proxy.admin, path, "{}").0, 202);
    for body in ["{\"seconds\":0}", "{\"seconds\":-1}", "{\"seconds\":1e9}"] {
        let (status, problem) = order(proxy.admin, path, body);
        assert!(matches!(status, 400 | 409), "{body}: {status} {problem}");
    }
}

#[test]
fn it_waits_for_what_is_in_flight_and_then_certifies_that_nothing_is_left() {
    let held = Latch::default();
    let (legacy, async_) = (legacy(&held), Backend::counting("async"));
    // What is held is answered late, so its own limit is long until the drain begins.
    let home = Home::new(&setup(&legacy, &async_, SHORT).weight(0.0));
    let process = home.spawn();
    let mut client = process.client();
    client.ask("/held", "");
    eventually!(legacy.hits() == 1);
    let all = setup(&legacy, &async_, SHORTEST).weight(1.0);
    home.write(&all);
    assert_eq!(order(process.admin, "/api/v1/reload", "{}").0, 200);
    let admin = process.admin.to_string();
    let command = draining(&admin, &["--timeout", "20s", "--json"]);
    let waiting = || shown(process.admin, LEGACY);
    eventually!(waiting()["stage"]["left"]["requests"] == 1, "{}", waiting());
    assert_eq!(waiting()["stage"]["phase"], "waiting");
    held.open();
    assert_eq!(client.response().text(), "legacy");
    let ran = command.join().unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let certificate: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(certificate["path"], "legacy");
    assert_eq!(certificate["flow"], json!({ "started": 1, "finished": 1 }));
    assert_eq!((&certificate["cut_requests"], &certificate["cut_tunnels"]), (&0.into(), &0.into()));
    assert_eq!(certificate["config"], cutover::config::hash(all.text().as_bytes()));
    assert!(certificate["quiet_seconds"].as_f64() >= Some(5.3), "{certificate}");
    assert_eq!(home.document("certificate-legacy.json"), certificate);
    assert_eq!(waiting()["certificate"], certificate);
    assert_eq!(legacy.open(), 0, "no connection is kept");
    let decision = decisions(process.admin, "drain").pop().unwrap();
    let text = decision["text"].as_str().unwrap();
    assert!(text.contains("legacy is safe to switch off: 1 requests, all ended"), "{text}");
    // It is still there after a restart, and nothing may be rolled back to what is switched off.
    drop(process);
    let process = home.spawn();
    assert_eq!(shown(process.admin, LEGACY)["certificate"], certificate);
}

/// `cutover drain legacy`, beside what the test does meanwhile.
fn draining(admin: &str, more: &[&str]) -> thread::JoinHandle<Ran> {
    let mut command: Command = command(&[&["drain", "legacy", "--admin", admin], more].concat());
    thread::spawn(move || ran(&command.stderr(Stdio::piped()).output().unwrap()))
}

#[test]
fn what_is_left_at_its_timeout_is_told_and_not_cut_off() {
    let held = Latch::default();
    let (legacy, async_) = (legacy(&held), Backend::counting("async"));
    let (proxy, clients) = with_held(&setup(&legacy, &async_, SHORT), &legacy, 2);
    let admin = proxy.admin.to_string();
    let ran = run(&["drain", "legacy", "--timeout", "500ms", "--admin", &admin]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.starts_with("legacy is not drained: "), "{ran:?}");
    let status = shown(proxy.admin, LEGACY);
    assert_eq!(status["certificate"], Value::Null);
    assert_eq!(status["stage"]["phase"], "timed_out");
    assert_eq!(status["stage"]["left"]["requests"], 2);
    assert!(certificate_is(&proxy, "none"));
    let decision = decisions(proxy.admin, "drain").pop().unwrap();
    let text = decision["text"].as_str().unwrap();
    assert!(text.contains("legacy is not drained") && text.contains("\"requests\":2"), "{text}");
    assert_eq!(proxy.scrape().sum("cutover_drain_cut_total", &[]), 0.0);
    held.open();
    for mut client in clients {
        let response = client.response();
        assert_eq!((response.status, response.ended), (200, Ended::Whole));
    }
}

#[test]
fn by_force_what_is_left_is_cut_off_and_counted() {
    let held = Latch::default();
    let (legacy, async_) = (legacy(&held), Backend::counting("async"));
    let legacy = legacy.expects_cuts();
    // The quiet time is long only as long as what is held may be.
    let limits = "response_timeout = \"3s\"\npool_idle_timeout = \"200ms\"";
    let (proxy, clients) = with_held(&setup(&legacy, &async_, limits), &legacy, 2);
    assert_eq!(drain(&proxy, 0.5, true).0, 202);
    for mut client in clients {
        let is_answered = client.try_response().is_ok_and(|response| response.status == 200);
        assert!(!is_answered, "it was not cut off");
    }
    let status = ended(proxy.admin);
    assert!(is_certified(&status), "{status}");
    let certificate = &status["certificate"];
    assert_eq!((&certificate["cut_requests"], &certificate["cut_tunnels"]), (&2.into(), &0.into()));
    assert_eq!(certificate["flow"], json!({ "started": 2, "finished": 2 }));
    let labels = [("path", "legacy"), ("kind", "request")];
    assert_eq!(proxy.scrape().sum("cutover_drain_cut_total", &labels), 2.0);
    assert_eq!(proxy.scrape().sum("cutover_drain_cut_total", &[]), 2.0);
    // Only that path is cut, and only until the drain is over.
    assert_eq!(proxy.client().get("/").text(), "async");
    held.open();
}

#[test]
fn a_rollback_ends_a_drain_that_runs_and_goes_to_legacy_all_the_same() {
    let held = Latch::default();
    let (legacy, async_) = (legacy(&held), Backend::counting("async"));
    let (proxy, mut clients) = with_held(&setup(&legacy, &async_, SHORT), &legacy, 1);
    assert_eq!(drain(&proxy, 60.0, true).0, 202);
    let (status, decision) = order(proxy.admin, "/api/v1/rollback", "{}");
    assert_eq!(status, 200, "{decision}");
    let mut client = proxy.client();
    (0..50).for_each(|_| assert_eq!(client.get("/").text(), "legacy"));
    let status = ended(proxy.admin);
    assert_eq!(status["certificate"], Value::Null);
    // Not even by force is anything cut off that goes there by right.
    held.open();
    let response = clients.remove(0).response();
    assert_eq!((response.status, response.ended), (200, Ended::Whole));
    assert_eq!(proxy.scrape().sum("cutover_drain_cut_total", &[]), 0.0);
    // It keeps connections again.
    assert_eq!(client.get("/").text(), "legacy");
    proxy.settle();
    assert!(legacy.open() > 0);
}

#[test]
fn a_request_after_the_certificate_voids_it_and_another_drain_gives_a_new_one() {
    let (legacy, async_) = (Backend::counting("legacy"), Backend::counting("async"));
    let all = setup(&legacy, &async_, SHORTEST).weight(1.0);
    let home = Home::new(&all);
    let process: Process = home.spawn();
    let write = |setup: &Setup| {
        home.write(setup);
        assert_eq!(order(process.admin, "/api/v1/reload", "{}").0, 200);
    };
    let drain = || order(process.admin, LEGACY, "{\"seconds\":10}").0;
    let gauge = |state| {
        let labels = [("path", "legacy"), ("state", state)];
        process.scrape().sum("cutover_drain_certificate", &labels)
    };
    assert_eq!(drain(), 202);
    let first = ended(process.admin);
    assert!(is_certified(&first), "{first}");
    eventually!((gauge("valid"), gauge("void")) == (1.0, 0.0));
    // A config that can send requests there does not void it, a request does.
    write(&all.clone().weight(0.0));
    assert_eq!(shown(process.admin, LEGACY)["certificate"].get("void"), None);
    assert_eq!(process.client().get("/").text(), "legacy");
    let certificate = || shown(process.admin, LEGACY)["certificate"].take();
    eventually!(certificate()["void"]["requests"] == 1, "{}", certificate());
    eventually!((gauge("valid"), gauge("void")) == (0.0, 1.0));
    eventually!(home.document("certificate-legacy.json")["void"]["requests"] == 1);
    let logged = || process.logged("the drain certificate is void");
    eventually!(logged().len() == 1);
    let told = || decisions(process.admin, "drain").pop().unwrap()["text"].take();
    let is_told = |text: Value| {
        let line = "the certificate of legacy is void: 1 requests came after it";
        text.as_str().unwrap().contains(line)
    };
    eventually!(is_told(told()), "{}", told());

    write(&all);
    assert_eq!(drain(), 202);
    let second = ended(process.admin);
    assert!(is_certified(&second), "{second}");
    assert_eq!(second["certificate"]["flow"], json!({ "started": 1, "finished": 1 }));
    eventually!((gauge("valid"), gauge("void")) == (1.0, 0.0));
}
