//! The split, end to end: the ends are exact, small shares are even, keys move once and one way.

use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

use crate::harness::{Backend, Client, Proxy, Response, Setup, eventually, heavy};

fn backends() -> (Backend, Backend) {
    (Backend::counting("legacy"), Backend::counting("async"))
}

/// The bytes of `requests`, sent at once; their replies, in their order.
fn pipelined(client: &mut Client, requests: &[String]) -> Vec<Response> {
    client.send(requests.concat());
    requests.iter().map(|_| client.response()).collect()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

fn decisions(proxy: &Proxy, path: &str, reason: &str) -> f64 {
    let labels = [("path", path), ("reason", reason)];
    proxy.scrape().sum("cutover_split_decisions_total", &labels)
}

#[test]
fn weights_zero_and_one_are_exact_over_100_000_requests() {
    const CONNECTIONS: usize = 20;
    const BATCH: usize = 100;
    // The first of each connection shows how long a reply is.
    const EACH: usize = 50_000 + CONNECTIONS;
    let _alone = heavy();
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address);
    let proxy = setup.clone().weight(0.0).start();
    let run = || {
        let began = Instant::now();
        let load = || {
            let mut client = proxy.client();
            let first = client.get("/");
            let length = first.head.len() + first.body.len();
            let batch = get("/", "").repeat(BATCH);
            // All are as long as the first: only their status is looked at.
            for _ in 0..50_000 / CONNECTIONS / BATCH {
                client.send(&batch);
                let (replies, _) = client.exactly(length * BATCH).unwrap();
                let mut replies = replies.chunks(length);
                assert!(replies.all(|reply| reply.starts_with(b"HTTP/1.1 200 ")));
            }
        };
        thread::scope(|scope| (0..CONNECTIONS).for_each(|_| drop(scope.spawn(load))));
        println!("{EACH} requests in {:?}", began.elapsed());
    };
    run();
    assert_eq!((legacy.hits(), async_.hits()), (EACH, 0));
    proxy.apply(&setup.weight(1.0));
    run();
    assert_eq!((legacy.hits(), async_.hits()), (EACH, EACH));
    assert_eq!(decisions(&proxy, "legacy", "spread"), EACH as f64);
    assert_eq!(decisions(&proxy, "async", "spread"), EACH as f64);
}

#[test]
fn one_percent_of_any_300_requests_over_two_workers_is_three_plus_or_minus_one() {
    const SEED: u64 = 20_260_728;
    println!("seed {SEED}");
    let (legacy, async_) = backends();
    let proxy = Setup::new(legacy.address, async_.address).weight(0.01).start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    let worker = |index| [("worker", index)];
    let of = |index| proxy.scrape().sum("cutover_worker_connections", &worker(index));
    eventually!((of("0"), of("1")) == (2.0, 2.0), "both workers serve");
    let mut random = SEED;
    let taken: Vec<usize> = (0..6_000)
        .map(|_| {
            // Whichever connection, and so worker, comes next.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let client = &mut clients[random as usize % 4];
            usize::from(client.get("/").text() == "async")
        })
        .collect();
    for (start, window) in taken.windows(300).enumerate() {
        let share: usize = window.iter().sum();
        assert!((2..=4).contains(&share), "{share} of 300 from request {start} on");
    }
    let share: usize = taken.iter().sum();
    println!("{share} of 6000");
    assert_eq!(async_.hits(), share);
    assert_eq!(legacy.hits(), 6_000 - share);
}

/// The keys, of 10,000, that go to the async path.
fn keys_on_async(proxy: &Proxy) -> BTreeSet<usize> {
    let ask = |keys: std::ops::Range<usize>| {
        let mut client = proxy.client();
        let mut found = Vec::new();
        for first in keys.step_by(100) {
            let keys = first..first + 100;
            let fields = |key| format!("X-User-Id: user-{key}\r\n");
            let requests: Vec<_> = keys.clone().map(|key| get("/", &fields(key))).collect();
            let asked = keys.zip(pipelined(&mut client, &requests));
            found.extend(asked.filter(|(_, reply)| reply.text() == "async").map(|(key, _)| key));
        }
        found
    };
    // Each key meets another connection, and so perhaps another worker, at each call.
    let shares = (0..10).map(|share| share * 1_000..(share + 1) * 1_000);
    thread::scope(|scope| {
        let asked: Vec<_> = shares.map(|share| scope.spawn(move || ask(share))).collect();
        asked.into_iter().flat_map(|keys| keys.join().unwrap()).collect()
    })
}

#[test]
fn no_key_moves_back_as_the_weight_grows_and_a_restart_moves_none() {
    let _alone = heavy();
    let (legacy, async_) = backends();
    let setup =
        Setup::new(legacy.address, async_.address).tail("[split]\nkey = \"header:x-user-id\"\n");
    let proxy = setup.clone().weight(0.1).start();
    let tenth = keys_on_async(&proxy);
    proxy.apply(&setup.clone().weight(0.5));
    let half = keys_on_async(&proxy);
    proxy.apply(&setup.clone().weight(1.0));
    let all = keys_on_async(&proxy);
    assert!(tenth.is_subset(&half), "{} moved back", tenth.difference(&half).count());
    assert_eq!(all.len(), 10_000);
    println!("of 10000 keys: {} at 0.1, {} at 0.5", tenth.len(), half.len());
    // Four standard deviations of a fair draw: 30 and 50.
    assert!(tenth.len().abs_diff(1_000) <= 120, "{}", tenth.len());
    assert!(half.len().abs_diff(5_000) <= 200, "{}", half.len());
    assert_eq!(decisions(&proxy, "legacy", "spread"), 0.0);
    let by_key = decisions(&proxy, "legacy", "key") + decisions(&proxy, "async", "key");
    assert_eq!(by_key, 30_000.0);
    // The way back is the same way.
    proxy.apply(&setup.clone().weight(0.1));
    assert_eq!(keys_on_async(&proxy), tenth);
    drop(proxy);
    let restarted = setup.clone().weight(0.5).start();
    assert_eq!(keys_on_async(&restarted), half, "moved by a restart");
    // Another salt draws anew: about half of them agree by chance.
    let other = "[split]\nkey = \"header:x-user-id\"\nsalt = \"another\"\n";
    restarted.apply(&setup.weight(0.5).tail(other));
    let same = keys_on_async(&restarted).intersection(&half).count();
    assert!(same.abs_diff(2_500) <= 200, "{same}");
}

const FORCE: &str = "[split]\nkey = \"header:x-user-id\"\nforce_header = \"x-cutover-force\"\n\
                     expose_path = true\n";
const PINNED: &str = "[[route]]\nname = \"old\"\nmatch = \"* /old/{rest*}\"\npin = \"legacy\"\n\
                      [[route]]\nname = \"new\"\nmatch = \"* /new/{rest*}\"\npin = \"async\"\n";

#[test]
fn a_pin_beats_the_force_header_which_beats_the_key_which_beats_the_spread() {
    let (legacy, async_) = backends();
    let proxy = Setup::new(legacy.address, async_.address)
        .weight(0.5)
        .listen("trusted_proxies = [\"127.0.0.0/8\"]")
        .tail(&format!("{FORCE}{PINNED}"))
        .start();
    let mut client = proxy.client();
    let mut key_on = |path: &str| {
        let key = |number| format!("X-User-Id: user-{number}\r\n");
        let mut keys = (0..1_000).map(key);
        keys.find(|key| client.get_with("/", key).text() == path)
            .expect("at a weight of 0.5 keys are on both paths")
    };
    let (legacy_key, async_key) = (key_on("legacy"), key_on("async"));
    let force = |path: &str| format!("X-Cutover-Force: {path}\r\n");
    let (to_legacy, to_async) = (force("legacy"), force("async"));
    let cases = [
        ("/old/x", format!("{to_async}{async_key}"), "legacy", "pin"),
        ("/new/x", format!("{to_legacy}{legacy_key}"), "async", "pin"),
        ("/", format!("{to_async}{legacy_key}"), "async", "forced"),
        ("/", format!("{to_legacy}{async_key}"), "legacy", "forced"),
        ("/", legacy_key.clone(), "legacy", "key"),
        ("/", async_key.clone(), "async", "key"),
        // A path that does not exist forces nothing.
        ("/", format!("{}{async_key}", force("new")), "async", "key"),
    ];
    for (target, fields, path, reason) in cases {
        let before = decisions(&proxy, path, reason);
        let response = client.get_with(target, &fields);
        let what = format!("{target} {fields:?} must go to {path} by {reason}");
        assert_eq!(response.text(), path, "{what}");
        assert_eq!(response.header("x-cutover-path"), Some(path), "{what}");
        assert_eq!(decisions(&proxy, path, reason), before + 1.0, "{what}");
    }
    // Without a key, the spread.
    let spread = || decisions(&proxy, "legacy", "spread") + decisions(&proxy, "async", "spread");
    let before = spread();
    (0..100).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(spread(), before + 100.0);
}

#[test]
fn only_a_trusted_proxy_may_force_a_path_unless_anyone_may() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address);
    let proxy = setup.clone().tail(FORCE).start();
    let mut client = proxy.client();
    let force = "X-Cutover-Force: async\r\n";
    assert_eq!(client.get_with("/", force).text(), "legacy");
    assert_eq!(decisions(&proxy, "async", "forced"), 0.0);
    let anyone = format!("{FORCE}force_from = \"anyone\"\n");
    proxy.apply(&setup.clone().tail(&anyone));
    assert_eq!(client.get_with("/", force).text(), "async");
    // Another peer than those that are trusted.
    let elsewhere = "trusted_proxies = [\"10.0.0.0/8\"]";
    proxy.apply(&setup.clone().listen(elsewhere).tail(FORCE));
    assert_eq!(proxy.client().get_with("/", force).text(), "legacy");
    let here = "trusted_proxies = [\"127.0.0.1/32\"]";
    proxy.apply(&setup.listen(here).tail(FORCE));
    assert_eq!(proxy.client().get_with("/", force).text(), "async");
    assert_eq!(decisions(&proxy, "async", "forced"), 2.0);
}

#[test]
fn the_path_shows_in_replies_only_where_it_is_asked_for() {
    let (legacy, async_) = backends();
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let proxy = setup.start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").header("x-cutover-path"), None);
    proxy.apply(&setup.clone().tail("[split]\nexpose_path = true\n"));
    assert_eq!(client.get("/").header("x-cutover-path"), Some("async"));
    proxy.apply(&setup.weight(0.0).tail("[split]\nexpose_path = true\n"));
    assert_eq!(client.get("/").header("x-cutover-path"), Some("legacy"));
}

#[test]
fn each_route_has_its_own_weight_and_its_own_even_spread() {
    let (legacy, async_) = backends();
    let route = |name: &str, rest: &str| format!("[[route]]\nname = \"{name}\"\n{rest}\n");
    let routes = [
        route("never", "match = \"GET /never/{id}\"\nasync_weight = 0.0"),
        route("always", "match = \"GET /always/{id}\"\nasync_weight = 1.0"),
        route("half", "match = \"GET /half/{id}\"\nasync_weight = 0.5"),
        route("posts", "match = \"POST /default/{id}\"\nasync_weight = 1.0"),
    ];
    let proxy =
        Setup::new(legacy.address, async_.address).weight(0.1).tail(&routes.concat()).start();
    let mut client = proxy.client();
    let mut on_async = [0; 4];
    // In turns, so that a spread that routes share would be uneven for each of them.
    for turn in 0..1_000 {
        for (count, name) in on_async.iter_mut().zip(["never", "always", "half", "default"]) {
            let path = client.get(&format!("/{name}/{turn}")).text();
            *count += usize::from(path == "async");
        }
    }
    println!("of 1000: {on_async:?} at 0, 1, 0.5, 0.1");
    assert_eq!(on_async[..2], [0, 1_000]);
    assert!(on_async[2].abs_diff(500) <= 4 && on_async[3].abs_diff(100) <= 4, "{on_async:?}");
    let scrape = proxy.scrape();
    let requests = |route, path| {
        let labels = [("route", route), ("path", path), ("code", "200")];
        scrape.sum("cutover_requests_total", &labels) as usize
    };
    for (count, route) in on_async.into_iter().zip(["never", "always", "half", "default"]) {
        assert_eq!(requests(route, "async"), count, "{route}");
        assert_eq!(requests(route, "legacy"), 1_000 - count, "{route}");
    }
    for (route, weight) in [("never", 0.0), ("always", 1.0), ("half", 0.5), ("default", 0.1)] {
        let labels = [("route", route), ("kind", "effective")];
        assert!((scrape.sum("cutover_weight", &labels) - weight).abs() < 1e-6, "{route}");
    }
    assert_eq!(async_.hits(), on_async.iter().sum::<usize>());
}
