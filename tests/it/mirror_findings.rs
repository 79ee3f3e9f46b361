//! What comes of answers that differ, as it is told: findings, rules, the gate, and nothing secret.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::run;
use crate::harness::guard::{Home, is_share, shown, traffic};
use crate::harness::{Backend, Client, Proxy, Reply, Scrape, Seen, eventually};
use crate::mirror::{at_rest, mirrored, results, settled};

/// Comparisons without a difference that open the gate.
const ENOUGH: usize = 1_077;

fn json(body: &str) -> Reply {
    let length = body.len();
    Reply::raw(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

/// A backend that answers its n-th request with this JSON.
fn numbered(body: impl Fn(&Seen, usize) -> String + Send + Sync + 'static) -> Backend {
    let next = AtomicUsize::new(0);
    Backend::start(move |seen| {
        json(&body(seen, next.fetch_add(1, Ordering::SeqCst))).after(UNHURRIED)
    })
}

/// Before legacy answers, where many are asked for: or a busy machine makes shadows twice as slow, and the
/// breaker opens.
const UNHURRIED: Duration = Duration::from_millis(5);

/// Asks over four connections.
fn ask_many(proxy: &Proxy, number: usize) {
    std::thread::scope(|scope| {
        (0..4).for_each(|_| _ = scope.spawn(|| ask(&mut proxy.client(), number / 4, "/")));
    });
}

fn ask(client: &mut Client, number: usize, target: &str) {
    (0..number).for_each(|_| assert_eq!(client.get(target).status, 200));
}

fn findings(proxy: &Proxy) -> Vec<[String; 3]> {
    let diffs = shown(proxy.admin, "/api/v1/diffs");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = diffs["differences"].as_array().unwrap().iter();
    lines.map(|line| ["finding", "kind", "place"].map(|key| text(&line[key]))).collect()
}

#[test]
fn a_change_of_type_is_a_regression_although_the_same_field_is_noisy() {
    // Each answer has an id of its own; async forgets one time in two that it is a string.
    let uuid = |n| format!("00000000-0000-4000-8000-{n:012}");
    let legacy = numbered(move |_, n| format!(r#"{{"id":"{}","a":1}}"#, uuid(n)));
    let async_ = numbered(move |_, n| match n % 2 {
        0 => format!(r#"{{"a":1,"id":"{}"}}"#, uuid(1_000_000 + n)),
        _ => format!(r#"{{"a":1,"id":{n}}}"#),
    });
    let critical = "noise_share = 1.0\n\
        [[route]]\nname = \"ids\"\nmatch = \"GET /ids\"\ncritical = true\n";
    let proxy = mirrored(legacy.address, async_.address, critical).start();
    // So many, as one path is to be asked twice a hundred times before anything is called that.
    let mut client = proxy.client();
    for _ in 0..15 {
        // In parts: each needs two connections of the mirror's 32.
        ask(&mut client, 10, "/ids");
        at_rest(&proxy);
    }
    let found = findings(&proxy);
    let line = |finding: &str, kind: &str| [finding, kind, "/id"].map(str::to_owned);
    assert_eq!(found, [line("regression", "type"), line("noise", "value")]);
    let gate = shown(proxy.admin, "/api/v1/status")["mirror"].take();
    assert_eq!(gate["regressions"], json!(["ids: type /id"]), "{gate}");
    assert_eq!(gate["gate"]["open"], false, "{gate}");
    let scrape = proxy.scrape();
    assert!(results(&scrape, "noise") > 30.0, "{}", results(&scrape, "noise"));
    let of_type = scrape.sum("cutover_mirror_mismatch_total", &[("kind", "type")]);
    let mismatches = results(&scrape, "mismatch");
    assert!(of_type >= 70.0 && mismatches >= of_type, "{of_type} of {mismatches}");
}

#[test]
fn rules_silence_what_they_name_and_nothing_else() {
    let legacy = Backend::start(|_| json(r#"{"ts":1,"list":[1,2,3],"n":100,"a":[{"ts":7}]}"#));
    let async_ = Backend::start(|_| json(r#"{"ts":2,"list":[3,1,2],"n":101,"a":[{"ts":8}]}"#));
    let route = |name: &str, rules: &str| {
        format!("[[route]]\nname = \"{name}\"\nmatch = \"GET /{name}\"\n{rules}\n")
    };
    let all = "ignore = [\"/ts\", \"/a/*/ts\"]\nunordered = [\"/list\"]\ntolerance = 0.02\n";
    let routes = [
        route("all", all),
        route("ordered", "ignore = [\"/ts\", \"/a/*/ts\"]\ntolerance = 0.02\n"),
        route("strict", "ignore = [\"/a\", \"/unused\"]\nunordered = [\"/list\"]\n"),
    ];
    let proxy = mirrored(legacy.address, async_.address, &routes.concat()).start();
    let mut client = proxy.client();
    ask(&mut client, 3, "/all");
    ask(&mut client, 1, "/ordered");
    ask(&mut client, 1, "/strict");
    at_rest(&proxy);
    let diffs = shown(proxy.admin, "/api/v1/diffs");
    let of = |route: &str| -> HashSet<String> {
        let lines = diffs["differences"].as_array().unwrap().iter();
        let lines = lines.filter(|line| line["route"] == route);
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        lines.map(|line| format!("{} {}", text(line, "kind"), text(line, "place"))).collect()
    };
    let set = |spots: &[&str]| spots.iter().map(|&spot| spot.to_owned()).collect::<HashSet<_>>();
    assert_eq!(of("all"), set(&[]));
    assert_eq!(of("ordered"), set(&["order /list"]));
    assert_eq!(of("strict"), set(&["value /ts", "value /n"]));
    let scrape = proxy.scrape();
    let matched = [("result", "match"), ("route", "all")];
    assert_eq!(scrape.sum("cutover_mirror_total", &matched), 3.0);
    // A rule that never applied is seen.
    let rules = diffs["rules"].as_array().unwrap();
    let hits = |route: &str, text: &str| {
        let found = rules.iter().find(|rule| rule["route"] == route && rule["text"] == text);
        found.unwrap_or_else(|| panic!("no {text} in {diffs}"))["hits"].as_u64().unwrap()
    };
    assert_eq!((hits("strict", "/unused"), hits("all", "/ts")), (0, 3));
}

/// All that the admin listener says, and what the metrics do.
fn told(admin: std::net::SocketAddr) -> String {
    let documents = ["status", "diffs", "report", "config", "decisions", "audit-log"];
    let documents = documents.map(|name| shown(admin, &format!("/api/v1/{name}")).to_string());
    let page = crate::harness::process::admin_get(admin, "/metrics").text();
    documents.concat() + &page
}

#[test]
fn secrets_of_requests_and_answers_are_told_nowhere() {
    const SECRETS: [&str; 7] = [
        "s3cr3t-bearer",
        "s3cr3t-cookie",
        "s3cr3t-query",
        "s3cr3t-legacy",
        "s3cr3t-async",
        "s3cr3t-set-cookie",
        "s3cr3t-etag",
    ];
    let answer = |own: &str, more: &str| {
        let body = format!(r#"{{"token":"{own}","list":["{own}",{more}],"83920175-{own}":1}}"#);
        Reply::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: \
             id-83920175-{own}=s3cr3t-set-cookie; Path=/{more}\r\nETag: \"s3cr3t-etag-{own}\"\r\nLocation: \
             /{own}?s3cr3t-query\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let legacy = Backend::start(move |_| answer("s3cr3t-legacy", "1"));
    let async_ = Backend::start(move |_| answer("s3cr3t-async", "\"1\""));
    let dir = tempfile::TempDir::new().unwrap();
    let log = dir.path().join("access.log");
    let lines = format!(
        "[access_log]\npath = \"{}\"\n\
         [[route]]\nname = \"r\"\nmatch = \"GET /r\"\nshape_only = [\"/list\"]\n",
        log.display()
    );
    let process = mirrored(legacy.address, async_.address, &lines).spawn();
    let fields = "Authorization: Bearer s3cr3t-bearer\r\nCookie: sid=s3cr3t-cookie\r\n";
    let mut client = process.client();
    for target in ["/?token=s3cr3t-query", "/r?83920175-s3cr3t-query", "/?token=s3cr3t-query"] {
        assert_eq!(client.get_with(target, fields).status, 200);
    }
    eventually!(results(&process.scrape(), "mismatch") == 3.0);
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually!(logged().lines().count() == 3, "{}", logged());
    let admin = process.admin.to_string();
    let said = [
        told(process.admin),
        run(&["diffs", "--admin", &admin]).out,
        run(&["diffs", "--json", "--admin", &admin]).out,
        run(&["status", "--admin", &admin]).out,
        run(&["report", "--format", "html", "--admin", &admin]).out,
        process.said(),
        logged(),
    ];
    // That something is said of them at all. Of members, cookies and parameters the names are told, unless
    // they look like data.
    assert!(said[0].contains("/token") && said[1].contains("value /token"), "{}", said[1]);
    assert!(said[6].contains("\"path\":\"legacy\""), "{}", said[6]);
    for (at, said) in said.iter().enumerate() {
        for secret in SECRETS {
            assert!(!said.contains(secret), "{secret} in {at}:\n{said}");
        }
    }
}

#[test]
fn the_gate_lets_the_ramp_begin_once_enough_was_compared() {
    let legacy = Backend::start(|_| Reply::ok("ok").after(UNHURRIED));
    let async_ = Backend::counting("ok");
    let lines = "[guard]\nmode = \"enforce\"\n\
                 [ramp]\nsteps = [0.1, 0.5, 1.0]\nsoak = \"600s\"\nmin_requests = 100000\n";
    let setup = mirrored(legacy.address, async_.address, lines).weight(1.0);
    let home = Home::new(&setup);
    let proxy = home.start();
    let status = || shown(proxy.admin, "/api/v1/status");
    ask_many(&proxy, ENOUGH - 77);
    at_rest(&proxy);
    let before = status();
    assert_eq!(before["mirror"]["gate"]["open"], false, "{before}");
    let why = before["mirror"]["reasons"][0].as_str().unwrap();
    assert!(why.contains(&ENOUGH.to_string()), "{why}");
    assert!(is_share(&before["guard"]["ramp"]["position"], 0.0), "{before}");
    let effective =
        || proxy.scrape().sum("cutover_weight", &[("kind", "effective"), ("route", "default")]);
    assert!(effective() == 0.0);
    let told = run(&["status", "--admin", &proxy.admin.to_string()]).out;
    assert!(told.contains("mirror 100 % · gate closed"), "{told}");
    let is_open = || {
        // Some may have found no room.
        ask_many(&proxy, 80);
        at_rest(&proxy);
        status()["mirror"]["gate"]["open"] == true
    };
    eventually!(is_open(), "{}", status()["mirror"]);
    eventually!(is_share(&status()["guard"]["ramp"]["position"], 0.1), "{}", status()["guard"]);
    assert!(is_share(&json!(effective()), 0.1));
    let told = run(&["diffs", "--admin", &proxy.admin.to_string()]).out;
    assert!(told.starts_with("mirror 100 % · gate open"), "{told}");
}

#[test]
fn the_command_shows_both_answers_side_by_side() {
    let legacy = Backend::start(|_| json(r#"{"total":1.5,"id":7}"#));
    let async_ = Backend::start(|_| json(r#"{"total":"1.5","id":8}"#));
    let route =
        "[[route]]\nname = \"orders\"\nmatch = \"GET /orders/{id}\"\nreveal = [\"/total\"]\n";
    let proxy = mirrored(legacy.address, async_.address, route).start();
    let fields = "X-Request-Id: r-1\r\n";
    assert_eq!(proxy.client().get_with("/orders/7?page=2", fields).status, 200);
    settled(&proxy, "mismatch", 1);
    let told = run(&["diffs", "--admin", &proxy.admin.to_string()]);
    assert_eq!(told.code, 0, "{told:?}");
    for part in [
        "difference orders type /total: 1 of 1, one path from itself 0 of 0",
        "difference orders value /id: 1 of 1",
        "number 1.5",
        "string 1.5",
        "GET r-1 ?page, confirmed",
    ] {
        assert!(told.out.contains(part), "no `{part}` in\n{}", told.out);
    }
    // What is not revealed is known by its kind and a hash only.
    let ids = told.out.lines().skip_while(|line| !line.contains("value /id")).nth(2).unwrap();
    assert!(ids.matches(" #").count() == 2, "{ids}");
}

/// A legacy backend to which being mirrored does harm: it answers late if async was asked the same.
fn harmed_by_copies() -> [Backend; 2] {
    static COPIED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let is_copied = |target: &str| {
        COPIED.lock().unwrap().as_ref().is_some_and(|copied| copied.contains(target))
    };
    let async_ = Backend::start(|seen| {
        COPIED.lock().unwrap().get_or_insert_default().insert(seen.target.clone());
        Reply::ok("ok")
    });
    let legacy = Backend::start(move |seen| {
        // As long as a copy takes to come, if there is one.
        let until = Instant::now() + Duration::from_millis(3);
        while Instant::now() < until && !is_copied(&seen.target) {
            std::thread::yield_now();
        }
        let reply = Reply::ok("ok");
        if is_copied(&seen.target) { reply.after(Duration::from_millis(30)) } else { reply }
    });
    [legacy, async_]
}

fn off(scrape: &Scrape) -> f64 {
    scrape.sum("cutover_mirror_skipped_total", &[("reason", "harm")])
}

#[test]
fn a_mirror_that_makes_clients_wait_is_switched_off_and_says_so() {
    let _heavy = crate::harness::heavy();
    let [legacy, async_] = harmed_by_copies();
    let share = |share: &str, lines: &str| {
        let setup = mirrored(legacy.address, async_.address, lines);
        let tail = setup.tail.replace("share = 1.0", share);
        setup.tail(&tail)
    };
    let home = Home::new(&share("share = 0.2", "deadline = \"500ms\"\n"));
    let proxy = home.start();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let asks = || {
        let mut client = proxy.client();
        while off(&proxy.scrape()) == 0.0 && began.elapsed() < Duration::from_secs(60) {
            for _ in 0..50 {
                let n = next.fetch_add(1, Ordering::SeqCst);
                assert_eq!(client.get(&format!("/{n}")).status, 200);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(asks);
        }
    });
    assert!(off(&proxy.scrape()) > 0.0, "it is never switched off");
    let mirror = shown(proxy.admin, "/api/v1/status")["mirror"].take();
    let why = &mirror["switched_off"];
    assert!(why["evidence"].as_f64().is_some_and(|nats| nats >= 8.0), "{mirror}");
    assert!(why["slow_drawn"].as_u64().unwrap() > why["slow_plain"].as_u64().unwrap(), "{mirror}");
    let changes = || home.changes().into_iter().filter(|c| c["what"] == "mirror");
    eventually!(changes().any(|c| c["to"] == "off" && c["who"] == "mirror"), "no entry");
    assert!(run(&["status", "--admin", &proxy.admin.to_string()]).out.contains("SWITCHED OFF"));
    // And stays off, until its config is another one.
    at_rest(&proxy);
    let shadows = async_.hits();
    ask(&mut proxy.client(), 50, "/later");
    at_rest(&proxy);
    assert_eq!(async_.hits(), shadows);
    home.write(&share("share = 1.0", ""));
    eventually!(shown(proxy.admin, "/api/v1/status")["mirror"]["switched_off"].is_null());
    let (_, ()) = traffic(proxy.address, (1, &["/again"]), || {
        eventually!(async_.hits() > shadows, "it is not on again");
    });
    eventually!(changes().any(|c| c["to"] == "on"), "no entry");
}
