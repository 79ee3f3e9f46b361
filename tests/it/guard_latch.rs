//! A rollback is a latch: at once, told with one id everywhere, and only its id releases it, whatever
//! becomes of the process and of the file.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::{fails, run, text};
use crate::harness::guard::{Home, decisions, guard, is_share, order, shown};
use crate::harness::{Backend, Proxy, Setup, eventually};

const ROLLBACK: &str = "/api/v1/rollback";
const RAMP: &str = "[ramp]\nsteps = [0.2, 0.6, 1.0]\n";

fn backends() -> (Backend, Backend) {
    (Backend::counting("legacy"), Backend::counting("async"))
}

fn id(decision: &Value) -> &str {
    decision["id"].as_str().unwrap()
}

/// How many of 100 requests go to async.
fn on_async(proxy: &Proxy) -> usize {
    let mut client = proxy.client();
    (0..100).filter(|_| client.get("/").text() == "async").count()
}

/// A file that releases the rollback `id`.
fn acknowledging(setup: &Setup, id: &str) -> Setup {
    let tail = format!("{}[guard]\nacknowledge_rollback = \"{id}\"\n", setup.tail);
    setup.clone().tail(&tail)
}

#[test]
fn a_rollback_is_in_force_before_it_is_answered_and_told_everywhere_in_the_same_words() {
    let (legacy, async_) = backends();
    let home = Home::new(&Setup::new(legacy.address, async_.address).weight(1.0));
    let process = home.spawn();
    let mut client = process.client();
    assert_eq!(client.get("/").text(), "async");
    let (status, decision) = order(process.admin, ROLLBACK, "{}");
    assert_eq!(status, 200, "{decision}");
    (0..100).for_each(|_| assert_eq!(client.get("/").text(), "legacy"));

    let (id, words) = (id(&decision), decision["text"].as_str().unwrap());
    assert!(words.starts_with(&format!("ROLLBACK {id} step=100%, weight 1 -> 0 in ")), "{words}");
    assert!(words.contains(", by operator\n"), "{words}");
    assert!(words.ends_with(&format!("undo: mend it, then `cutover resume {id}`")), "{words}");
    assert!(decision["took_ms"].as_f64().is_some_and(|took| took < 100.0), "{decision}");

    assert_eq!(home.document("helm.json")["latch"]["id"], id);
    assert_eq!(decisions(process.admin, "rollback"), std::slice::from_ref(&decision));
    let told = guard(process.admin);
    assert_eq!(told["rollback"]["id"], id);
    assert_eq!(told["rollback"]["check"], "operator");
    assert_eq!(told["last_decision"], decision);
    let changes = home.changes();
    let noted: Vec<_> = changes.iter().filter(|change| change["what"] == "rollback").collect();
    assert_eq!(noted.len(), 1, "{changes:#?}");
    assert_eq!(noted[0]["numbers"], decision);
    assert_eq!(noted[0]["who"], "operator");
    let logged = || process.logged("decision");
    eventually!(!logged().is_empty(), "it is not in the log");
    assert_eq!((logged()[0]["fields"]["id"].as_str(), logged().len()), (Some(id), 1));
    assert_eq!(logged()[0]["fields"]["text"], words);

    let rollbacks = [("check", "operator")];
    let scrape = || process.scrape();
    eventually!(scrape().sum("cutover_rollback_active", &[]) == 1.0);
    assert_eq!(scrape().sum("cutover_rollbacks_total", &rollbacks), 1.0);
    let weight = |kind| scrape().sum("cutover_weight", &[("route", "default"), ("kind", kind)]);
    assert_eq!((weight("configured"), weight("effective")), (1.0, 0.0));
    let admin = process.admin.to_string();
    let status = run(&["status", "--admin", &admin]);
    assert!(status.out.contains(&format!("`cutover resume {id}` releases it")), "{status:?}");
}

#[test]
fn a_second_rollback_is_refused_with_the_id_of_the_first() {
    let (legacy, async_) = backends();
    let home = Home::new(&Setup::new(legacy.address, async_.address).weight(0.5));
    let proxy = home.start();
    let (_, first) = order(proxy.admin, ROLLBACK, "");
    let id = id(&first);
    for path in [ROLLBACK, "/api/v1/ramp/abort"] {
        let (status, problem) = order(proxy.admin, path, "{}");
        assert_eq!(status, 409, "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(id), "{problem}");
    }
    fails(&["rollback", "--admin", &proxy.admin.to_string()], 1, &["rolled back already", id]);
    assert_eq!(decisions(proxy.admin, "rollback").len(), 1);
    assert_eq!(guard(proxy.admin)["rollback"]["id"], id);
}

#[test]
fn it_holds_through_restarts_and_through_the_same_and_any_other_file() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let home = Home::new(&setup);
    let proxy = home.start();
    let (_, decision) = order(proxy.admin, ROLLBACK, "{}");
    drop(proxy);
    for round in 0..2 {
        let proxy = home.start();
        let holds = |what: &str| {
            assert_eq!(guard(proxy.admin)["rollback"]["id"], id(&decision), "{what}, {round}");
            assert_eq!(on_async(&proxy), 0, "{what}, {round}");
        };
        holds("a restart");
        assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
        holds("the same file");
        let routes = "[[route]]\nname = \"all\"\nmatch = \"* /{rest*}\"\nasync_weight = 1.0\n";
        for other in [setup.clone().weight(0.7), setup.clone().tail(RAMP)] {
            home.write(&other);
            assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
            holds("another file");
        }
        let other = acknowledging(&setup, "rb-20000101-000000").tail(routes);
        home.write(&other);
        assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
        holds("a route of its own");
        // The decision is known after a restart, too.
        assert_eq!(decisions(proxy.admin, "rollback"), std::slice::from_ref(&decision));
    }
    assert_eq!(home.document("helm.json")["latch"]["id"], id(&decision));
    assert_eq!((async_.hits(), legacy.hits()), (0, 1_000));
}

#[test]
fn a_file_that_names_it_releases_it_and_one_that_names_another_does_not() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let home = Home::new(&setup);
    let proxy = home.start();
    let (_, decision) = order(proxy.admin, ROLLBACK, "{}");
    let reload = |setup: &Setup| {
        home.write(setup);
        assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
    };
    for wrong in ["rb-20000101-000000", &format!("{}-2", id(&decision)), ""] {
        reload(&acknowledging(&setup, wrong));
        assert_eq!(guard(proxy.admin)["rollback"]["id"], id(&decision), "{wrong}");
        assert_eq!(on_async(&proxy), 0, "{wrong}");
    }
    reload(&acknowledging(&setup, id(&decision)));
    assert_eq!(guard(proxy.admin)["rollback"], Value::Null);
    assert_eq!(on_async(&proxy), 100);
    let changes = home.changes();
    let released = changes.iter().rfind(|change| change["what"] == "resume").unwrap();
    assert_eq!((&released["who"], &released["seq"]), (&"file".into(), &2.into()), "{released}");
    // The same file does not release the next one.
    let (status, next) = order(proxy.admin, ROLLBACK, "{}");
    assert_eq!(status, 200, "{next}");
    assert_ne!(id(&next), id(&decision));
    assert_eq!(order(proxy.admin, "/api/v1/reload", "{}").0, 200);
    assert_eq!(on_async(&proxy), 0);
}

#[test]
fn what_a_file_released_at_a_start_stays_released_without_it() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let home = Home::new(&setup);
    let proxy = home.start();
    let (_, decision) = order(proxy.admin, ROLLBACK, "{}");
    drop(proxy);
    home.write(&acknowledging(&setup, id(&decision)));
    let proxy = home.start();
    assert_eq!(on_async(&proxy), 100);
    drop(proxy);
    home.write(&setup);
    let proxy = home.start();
    assert_eq!(guard(proxy.admin)["rollback"], Value::Null);
    assert_eq!(on_async(&proxy), 100);
}

#[test]
fn its_id_alone_releases_it_and_the_ramp_begins_at_its_first_step() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0).tail(RAMP);
    let home = Home::new(&setup);
    home.leave("helm.json", r#"{"seq":7,"position":0.6,"is_paused":false}"#);
    let proxy = home.start();
    assert!(on_async(&proxy).abs_diff(60) <= 2);
    let admin = proxy.admin.to_string();
    for way in ["the API", "the command"] {
        let (_, decision) = order(proxy.admin, ROLLBACK, "{}");
        assert_eq!(on_async(&proxy), 0);
        let (status, problem) = order(proxy.admin, "/api/v1/resume/rb-20000101-000000", "{}");
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(id(&decision)), "{problem}");
        fails(&["resume", "rb-1", "--admin", &admin], 1, &[id(&decision)]);
        fails(&["resume", "../rollback", "--admin", &admin], 1, &["not the id"]);
        assert_eq!(on_async(&proxy), 0);
        if way == "the API" {
            let (status, resumed) = order(proxy.admin, &resume(&decision), "{}");
            assert_eq!((status, is_share(&resumed["to"], 0.2)), (200, true), "{resumed}");
        } else {
            let ran = run(&["resume", id(&decision), "--admin", &admin]);
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
            assert!(ran.out.contains(&format!("released: {}", id(&decision))), "{ran:?}");
        }
        assert!(on_async(&proxy).abs_diff(20) <= 2, "{way}");
        assert!(is_share(&guard(proxy.admin)["ramp"]["position"], 0.2), "{way}");
        let (status, problem) = order(proxy.admin, &resume(&decision), "{}");
        assert_eq!(status, 409, "{problem}");
    }
    fails(&["resume", "rb-1", "--admin", &admin], 1, &["no rollback is in force"]);
    assert_eq!(home.document("helm.json")["latch"], Value::Null);
    assert_eq!(home.document("helm.json")["seq"], 11);
}

/// Gives 200 orders, eight at a time.
fn many_at_once(proxy: &Proxy) {
    let admin = proxy.admin;
    let ask = |turn: usize| {
        let what = ["pause", "continue"][turn % 2];
        assert_eq!(order(admin, &format!("/api/v1/ramp/{what}"), "{}").0, 200);
    };
    std::thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| (0..25).for_each(ask))));
    });
}

#[test]
fn the_change_log_has_orders_of_many_at_once_in_their_order() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0).tail(RAMP);
    let home = Home::new(&setup);
    let proxy = home.start();
    many_at_once(&proxy);
    let numbers = home.changes().into_iter().filter_map(|change| change["seq"].as_u64());
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
}

#[test]
fn each_of_many_decisions_at_once_has_an_id_of_its_own() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0).tail(RAMP);
    let home = Home::new(&setup);
    let proxy = home.start();
    many_at_once(&proxy);
    let numbers = home.changes().into_iter().filter(|change| change["seq"].is_u64());
    let ids = numbers.map(|change| id(&change["numbers"]).to_owned());
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 200);
}

#[test]
fn a_decision_shows_weights_as_they_were_written() {
    let (legacy, async_) = backends();
    let home = Home::new(&Setup::new(legacy.address, async_.address).weight(0.1));
    let proxy = home.start();
    let (_, decision) = order(proxy.admin, ROLLBACK, "{}");
    let text = decision["text"].as_str().unwrap();
    assert!(text.contains("step=10%, weight 0.1 -> 0 in "), "{text}");
    let (_, decision) = order(proxy.admin, &resume(&decision), "{}");
    let text = decision["text"].as_str().unwrap();
    assert!(text.contains("step=0%, weight 0 -> 0.1, by operator\n"), "{text}");
}

fn resume(decision: &Value) -> String {
    format!("/api/v1/resume/{}", id(decision))
}

#[test]
fn a_helm_that_is_broken_is_no_reason_to_forget_a_rollback() {
    let (legacy, async_) = backends();
    let home = Home::new(&Setup::new(legacy.address, async_.address).weight(1.0));
    let proxy = home.start();
    order(proxy.admin, ROLLBACK, "{}");
    drop(proxy);
    let whole = std::fs::read_to_string(home.state("helm.json")).unwrap();
    let file = home.file();
    for broken in [&whole[..whole.len() / 2], "", "{}", "[]", "\0\0\0\0"] {
        home.leave("helm.json", broken);
        let args = ["run", "--config", text(&file)];
        fails(&args, 1, &["state_dir", "cutover-state", "helm.json is broken"]);
        assert_eq!(std::fs::read_to_string(home.state("helm.json")).unwrap(), broken);
    }
    home.leave("helm.json", &whole);
    assert_eq!(on_async(&home.start()), 0);
    assert_eq!(shown(home.start().admin, "/api/v1/status")["ready"], true);
}
