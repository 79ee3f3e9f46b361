//! Recordings judged again, the report, and who may give the guard orders.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{command, fails, ran, run, text};
use crate::harness::guard::{Home, decisions, guard, looked, order, shown, traffic};
use crate::harness::{Backend, Client, Reply, Setup, eventually};

const ENFORCE: &str = "[guard]\nmode = \"enforce\"\n";
const ALL: (usize, &[&str]) = (4, &["/"]);
const TOKEN: &str = "0123456789abcdef-token";

fn paths() -> (Backend, Backend) {
    (Backend::counting("legacy"), Backend::counting("async"))
}

// === judge ===

#[test]
fn a_recording_is_judged_again_as_it_was_judged_then() {
    let (legacy, async_) =
        (Backend::counting("legacy"), Backend::start(|_| Reply::status(500, "")));
    let setup = Setup::new(legacy.address, async_.address).weight(0.5);
    let proxy = setup.start();
    let (dir, admin) = (tempfile::tempdir().unwrap(), proxy.admin.to_string());
    let file = dir.path().join("ticks.jsonl");
    let began = last_tick(&shown(proxy.admin, "/api/v1/ticks"));
    let mut record = command(&["judge", "--record", text(&file), "--for", "8s", "--admin", &admin]);
    let recorder = std::thread::spawn(move || ran(&record.output().unwrap()));
    traffic(proxy.address, ALL, || {
        let verdict = || guard(proxy.admin)["verdict"]["verdict"].take();
        eventually!(verdict() == "rollback", "{}", verdict());
    });
    let recorded = recorder.join().unwrap();
    assert_eq!((recorded.code, recorded.err.as_str()), (0, ""), "{recorded:?}");
    // Each tick of that time is in it, and once.
    let lines = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["rules"].is_object(), "{}", lines[0]);
    let ticks: Vec<&Value> = lines.iter().filter(|line| line.get("at_ms").is_some()).collect();
    let kept = shown(proxy.admin, "/api/v1/ticks")["ticks"].take();
    let (from, to) = (&ticks[0]["at_ms"], &ticks[ticks.len() - 1]["at_ms"]);
    assert!(from.as_u64() > Some(began) && ticks.len() >= 12, "{} ticks", ticks.len());
    let span = |tick: &&Value| (from.as_u64()..=to.as_u64()).contains(&tick["at_ms"].as_u64());
    let kept: Vec<&Value> = kept.as_array().unwrap().iter().filter(span).collect();
    assert_eq!(ticks, kept);
    // The finding of the replay is that of the decision. Only since when no evidence had been there it
    // can't know from before its first tick.
    let replayed = run(&["judge", "--replay", text(&file), "--json"]);
    assert_eq!((replayed.code, replayed.err.as_str()), (0, ""), "{replayed:?}");
    let verdicts: Vec<Value> =
        replayed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), ticks.len());
    let first = verdicts.iter().find(|line| line["verdict"]["verdict"] == "rollback").unwrap();
    let would = decisions(proxy.admin, "would_roll_back").remove(0);
    for field in ["check", "test", "at_ms", "async", "legacy", "evidence"] {
        assert_eq!(first["verdict"][field], would["finding"][field], "{field}");
    }
    assert_eq!(first["at_ms"], would["finding"]["at_ms"]);
    let prose = run(&["judge", "--replay", text(&file)]);
    assert!(prose.code == 0 && prose.out.contains(" s  rollback"), "{prose:?}");
}

fn last_tick(answer: &Value) -> u64 {
    answer["ticks"].as_array().and_then(|ticks| ticks.last()?["at_ms"].as_u64()).unwrap_or(0)
}

#[test]
fn a_recording_that_is_broken_is_refused_with_its_line() {
    let (dir, sound) =
        (tempfile::tempdir().unwrap(), r#"{"at_ms":1,"epoch":1,"step":0.1,"legacy_safe":true}"#);
    let file = dir.path().join("ticks.jsonl");
    let place = |line: u32| format!("{}:{line}: not a tick", file.display());
    for (content, line) in [
        ("nonsense\n".to_owned(), 1),
        (format!("{sound}\n{{\"at_ms\":\n"), 2),
        (format!("{{\"rules\":{{}}}}\n{sound}\n{{\"at_ms\":true}}\n"), 3),
        ("{\"rules\":7}\n".to_owned(), 1),
    ] {
        fs::write(&file, &content).unwrap();
        let ran = run(&["judge", "--replay", text(&file)]);
        assert_eq!(ran.code, 1, "{content:?}: {ran:?}");
        assert!(ran.err.contains(&place(line)), "{content:?}: {ran:?}");
    }
    fs::write(&file, "").unwrap();
    fails(&["judge", "--replay", text(&file)], 1, &["no tick"]);
    fails(&["judge", "--replay", text(&dir.path().join("gone"))], 1, &["can't read", "gone"]);
    fails(&["judge"], 2, &["--replay"]);
    fails(&["judge", "--record", "a", "--replay", "b"], 2, &["cannot be used with"]);
}

// === report ===

#[test]
fn the_report_tells_the_story_in_three_forms() {
    let (legacy, async_) = paths();
    let proxy = Setup::new(legacy.address, async_.address).weight(0.5).start();
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/").status, 200));
    let (_, decision) = order(proxy.admin, "/api/v1/rollback", "{}");
    let id = decision["id"].as_str().unwrap();
    proxy.settle();
    looked(proxy.admin);
    let story = shown(proxy.admin, "/api/v1/report");
    assert_eq!(story["decisions"][0]["id"], id, "{story:#}");
    assert_eq!(story["lost"], 0);
    let requests = ["legacy", "async"].map(|path| story["totals"][path]["requests"].as_u64());
    assert_eq!(requests, [Some(10), Some(10)]);
    assert!(!story["checklist"].as_array().unwrap().is_empty());
    let changes = story["changes"].as_array().unwrap();
    assert!(changes.iter().any(|change| change["what"] == "rollback"), "{changes:#?}");
    let admin = proxy.admin.to_string();
    let report = |format: &str| {
        let ran = run(&["report", "--format", format, "--admin", &admin]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{format}: {ran:?}");
        ran.out
    };
    let document: Value = serde_json::from_str(&report("json")).unwrap();
    assert_eq!(document["decisions"], story["decisions"]);
    let page = report("html");
    assert!(page.starts_with("<!doctype html>") || page.starts_with("<!DOCTYPE html>"));
    for outside in ["<script src", "<link", "@import", "url(http", " src=\"http"] {
        assert!(!page.contains(outside), "the page loads something: {outside}");
    }
    for told in [page, report("text")] {
        assert!(told.contains(id), "{told}");
    }
    assert!(run(&["report", "--admin", &admin]).out.contains(id), "text is what it is by default");
    fails(&["report", "--format", "pdf", "--admin", &admin], 2, &["pdf"]);
}

// === who may give orders ===

const ORDERS: [&str; 8] = [
    "/api/v1/rollback",
    "/api/v1/resume/rb-1",
    "/api/v1/ramp/pause",
    "/api/v1/ramp/continue",
    "/api/v1/ramp/approve",
    "/api/v1/ramp/abort",
    "/api/v1/baseline",
    "/api/v1/paths/async/drain",
];

#[test]
fn an_order_needs_the_token_where_one_is_set() {
    let (legacy, async_) = paths();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let line = format!("token_file = \"{}\"", token.display());
    let setup = Setup::new(legacy.address, async_.address).weight(1.0).admin(&line);
    let proxy = setup.start();
    for path in ORDERS {
        let (status, problem) = order(proxy.admin, path, "{}");
        assert_eq!(status, 401, "{path}: {problem}");
    }
    let admin = proxy.admin.to_string();
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "0123456789abcdef-other").unwrap();
    let nowhere = dir.path().join("gone.toml");
    let base = ["rollback", "--admin", &admin];
    fails(&[&base[..], &["--config", text(&nowhere)]].concat(), 1, &["needs the token"]);
    fails(&[&base[..], &["--token-file", text(&wrong)]].concat(), 1, &["needs the token"]);
    assert_eq!(proxy.client().get("/").text(), "async");
    let ran = run(&[&base[..], &["--token-file", text(&token)]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(proxy.client().get("/").text(), "legacy");
    // The config names the token's file.
    let id = guard(proxy.admin)["rollback"]["id"].as_str().unwrap().to_owned();
    let ran = run(&["resume", &id, "--admin", &admin, "--config", text(&proxy.file)]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(proxy.client().get("/").text(), "async");
}

#[test]
fn an_order_that_is_not_understood_changes_nothing() {
    let (legacy, async_) = paths();
    let proxy = Setup::new(legacy.address, async_.address).weight(1.0).start();
    for body in ["{\"second\":1}", "{\"seconds\":\"1\"}", "{\"force\":1}", "[1]", "{", "nonsense"] {
        for path in ORDERS {
            let (status, problem) = order(proxy.admin, path, body);
            assert_eq!(status, 400, "{path} {body}: {problem}");
            assert!(problem["detail"].is_string(), "{problem}");
        }
    }
    // Baseline and drain can also be read.
    for path in &ORDERS[..6] {
        let mut client = Client::connect(proxy.admin);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin));
        let response = client.response();
        assert_eq!((response.status, response.header("allow")), (405, Some("POST")), "{path}");
    }
    for path in ["/api/v1/resume/", "/api/v1/ramp", "/api/v1/ramp/stop", "/api/v1/paths/new/drain"]
    {
        assert_eq!(order(proxy.admin, path, "{}").0, 404, "{path}");
    }
    assert_eq!(shown(proxy.admin, "/api/v1/decisions"), json!({ "decisions": [] }));
    assert_eq!(proxy.client().get("/").text(), "async");
}

#[test]
fn the_webhook_is_told_of_decisions_and_its_secret_is_shown_nowhere() {
    let (legacy, async_) = paths();
    let hook = Backend::ok("");
    let tail = format!("{ENFORCE}[ramp]\nwebhook = \"http://{}/T0/hush-hush\"\n", hook.address);
    let setup = Setup::new(legacy.address, async_.address).weight(0.5).tail(&tail);
    let home = Home::new(&setup);
    let process = home.spawn();
    let (status, _) = order(process.admin, "/api/v1/rollback", "{}");
    assert_eq!(status, 200);
    eventually!(hook.hits() == 1, "the webhook is not told");
    assert_eq!(hook.last().target, "/T0/hush-hush");
    let delivered = [("result", "success")];
    let scrape = || process.scrape().sum("cutover_webhook_deliveries_total", &delivered);
    eventually!(scrape() == 1.0);
    // Nor when it can't be reached.
    drop(hook);
    let id = guard(process.admin)["rollback"]["id"].as_str().unwrap().to_owned();
    assert_eq!(order(process.admin, &format!("/api/v1/resume/{id}"), "{}").0, 200);
    eventually!(!process.logged("webhook").is_empty());
    let shown = ["config", "status", "decisions", "audit-log", "report", "ticks"];
    for path in shown.map(|name| format!("/api/v1/{name}")) {
        let text = process.admin_get(&path).text();
        assert!(!text.contains("hush-hush"), "{path}: {text}");
    }
    let config = process.admin_get("/api/v1/config").text();
    assert!(config.contains("webhook"), "{config}");
    assert!(!process.admin_get("/metrics").text().contains("hush-hush"));
    for message in ["webhook", "decision", "config applied", "serving"] {
        for line in process.logged(message) {
            assert!(!line.to_string().contains("hush-hush"), "{line}");
        }
    }
    let changes = fs::read_to_string(home.state("changes.jsonl")).unwrap();
    assert!(!changes.contains("hush-hush"), "{changes}");
}
