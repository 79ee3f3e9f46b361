//! The queue in front of a path: so many at once, the next wait in order, the rest are told at once.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, Ended, Latch, Proxy, Reply, Response, Setup, eventually, heavy,
};

/// A backend that keeps every request until it is let go, and the latch for that.
fn holding() -> (Backend, Latch) {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("served").held_by(&held));
    (backend, latch)
}

fn start(backend: &Backend, limits: &str) -> Proxy {
    setup(backend, limits).start()
}

fn setup(backend: &Backend, limits: &str) -> Setup {
    Setup::new(backend.address, backend.address).legacy(limits)
}

fn waiting(proxy: &Proxy) -> f64 {
    let legacy = [("path", "legacy")];
    proxy.scrape().sum("cutover_queue_depth", &legacy)
}

fn await_waiting(proxy: &Proxy, number: usize) {
    let number = number as f64;
    eventually!(waiting(proxy) == number, "{} wait, not {number}", waiting(proxy));
}

/// Sends a request on a connection of its own.
fn ask(proxy: &Proxy, target: &str) -> Client {
    let mut client = proxy.client();
    client.ask(target, "");
    client
}

fn errors(proxy: &Proxy, kind: &str) -> f64 {
    let labels = [("path", "legacy"), ("kind", kind)];
    proxy.scrape().sum("cutover_errors_total", &labels)
}

#[test]
fn ten_go_through_and_a_hundred_wait_in_the_order_of_their_coming() {
    let (legacy, latch) = holding();
    let limits = "max_in_flight = 10\nqueue_depth = 100\nqueue_timeout = \"60s\"";
    let proxy = start(&legacy, limits);
    let mut clients = Vec::new();
    for turn in 0..110_usize {
        clients.push(ask(&proxy, &format!("/{turn}")));
        // The next one comes when this one has its place: that is the order that must hold.
        if turn < 10 {
            eventually!(legacy.hits() == turn + 1);
        } else {
            await_waiting(&proxy, turn - 9);
        }
    }
    assert_eq!(legacy.hits(), 10);
    assert_eq!(proxy.client().get("/one-more").status, 503);
    for turn in 10..110 {
        latch.release(1);
        eventually!(legacy.hits() == turn + 1);
        assert_eq!(legacy.last().target, format!("/{turn}"));
    }
    assert_eq!(waiting(&proxy), 0.0);
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "served");
    }
    let waited = proxy.scrape().sum("cutover_queue_wait_seconds_count", &[("path", "legacy")]);
    assert_eq!(waited, 100.0);
}

fn assert_unavailable(response: &Response) {
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    let proxy_status = "cutover; error=connection_limit_reached";
    assert_eq!(response.header("proxy-status"), Some(proxy_status));
}

#[test]
fn a_full_queue_says_so_at_once_and_a_long_wait_ends() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let (legacy, latch) = holding();
    let limits = "max_in_flight = 1\nqueue_depth = 2\nqueue_timeout = \"500ms\"";
    let proxy = start(&legacy, limits);
    let mut served = ask(&proxy, "/served");
    eventually!(legacy.hits() == 1);
    let began = Instant::now();
    let mut queued = [ask(&proxy, "/a"), ask(&proxy, "/b")];
    await_waiting(&proxy, 2);
    let shed = Instant::now();
    assert_unavailable(&proxy.client().get("/full"));
    let at_once = shed.elapsed();
    assert!(at_once < TIMEOUT / 2, "{at_once:?}");
    assert_eq!(errors(&proxy, "shed"), 1.0);
    for client in &mut queued {
        assert_unavailable(&client.response());
    }
    let waited = began.elapsed();
    assert!((TIMEOUT..3 * TIMEOUT).contains(&waited), "{waited:?}");
    eventually!(errors(&proxy, "queue_timeout") == 2.0);
    assert_eq!(waiting(&proxy), 0.0);
    println!("full queue: told after {at_once:?}; queue timeout: after {waited:?}");
    // Nobody lost a slot by waiting in vain, and the connections go on.
    latch.open();
    assert_eq!(served.response().status, 200);
    for client in &mut queued {
        assert_eq!(client.get("/again").status, 200);
    }
    assert_eq!(legacy.hits(), 3);
}

#[test]
fn ten_thousand_clients_that_leave_the_queue_leave_it_empty() {
    const AT_ONCE: usize = 200;
    let _alone = heavy();
    let (legacy, latch) = holding();
    let limits = "max_in_flight = 1\nqueue_depth = 1000\nqueue_timeout = \"60s\"";
    let proxy = start(&legacy, limits);
    let mut served = ask(&proxy, "/served");
    eventually!(legacy.hits() == 1);
    let began = Instant::now();
    for _ in 0..10_000 / AT_ONCE {
        let clients: Vec<_> = (0..AT_ONCE).map(|_| ask(&proxy, "/left")).collect();
        await_waiting(&proxy, AT_ONCE);
        clients.into_iter().for_each(Client::reset);
        await_waiting(&proxy, 0);
    }
    println!("10000 left the queue in {:?}", began.elapsed());
    let in_flight = || proxy.scrape().sum("cutover_requests_in_flight", &[]);
    eventually!(in_flight() == 1.0, "{} in flight", in_flight());
    let aborts = [("kind", "abort")];
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &aborts), 10_000.0);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
    latch.open();
    assert_eq!(served.response().status, 200);
    assert_eq!(proxy.client().get("/next").status, 200);
    assert_eq!(legacy.hits(), 2, "none of those that left reached the backend");
}

#[test]
fn a_slot_is_free_again_however_its_request_ends() {
    let legacy = Backend::start(move |request| {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
        match request.target.as_str() {
            "/half" => Reply::raw(half).then_hang(),
            "/hang" => Reply::nothing().then_hang(),
            "/reset" => Reply::nothing().then_reset(),
            "/cut" => Reply::raw(half).then_close(),
            _ => Reply::ok("whole"),
        }
    });
    let limits = "max_in_flight = 1\nqueue_timeout = \"10s\"\nresponse_timeout = \"200ms\"";
    let proxy = start(&legacy, limits);
    for round in 0..5 {
        // A slot that was lost would make the next request wait for ten seconds, and fail.
        assert_eq!(proxy.client().get("/whole").status, 200, "round {round}");
        assert_eq!(proxy.client().get("/hang").status, 504);
        assert_eq!(proxy.client().get("/reset").status, 502);
        let cut = proxy.client().get("/cut");
        assert_eq!((cut.status, cut.ended), (200, Ended::Cut));
        let mut leaves = ask(&proxy, "/half");
        assert_eq!(leaves.head().unwrap().0, 200);
        leaves.reset();
        let mut leaves = ask(&proxy, "/hang");
        let hits = 6 * (round + 1);
        eventually!(legacy.hits() == hits, "{} came", legacy.hits());
        leaves.send("more");
        leaves.reset();
    }
    assert_eq!(proxy.client().get("/whole").status, 200);
    assert_eq!(errors(&proxy, "queue_timeout"), 0.0);
}

#[test]
fn limits_change_by_a_reload_while_requests_wait() {
    let (legacy, latch) = holding();
    let limits = |number: usize| format!("max_in_flight = {number}\nqueue_timeout = \"60s\"");
    let proxy = start(&legacy, &limits(1));
    let mut clients: Vec<_> = (0..10).map(|turn| ask(&proxy, &format!("/{turn}"))).collect();
    await_waiting(&proxy, 9);
    assert_eq!(legacy.hits(), 1);
    proxy.apply(&setup(&legacy, &limits(4)));
    eventually!(legacy.hits() == 4);
    await_waiting(&proxy, 6);
    // Less than there are in flight: nothing is cut off, and none goes through until they fit.
    proxy.apply(&setup(&legacy, &limits(2)));
    latch.release(2);
    let in_flight = || proxy.scrape().sum("cutover_requests_in_flight", &[]) - waiting(&proxy);
    eventually!(in_flight() == 2.0, "{} in flight", in_flight());
    assert_eq!((legacy.hits(), waiting(&proxy)), (4, 6.0));
    latch.release(1);
    eventually!(legacy.hits() == 5);
    await_waiting(&proxy, 5);
    // No limit.
    proxy.apply(&setup(&legacy, &limits(0)));
    eventually!(legacy.hits() == 10);
    await_waiting(&proxy, 0);
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn one_paths_queue_does_not_hold_up_the_other() {
    let (legacy, latch) = holding();
    let sound = Backend::ok("sound");
    let pinned = "[[route]]\nname = \"other\"\nmatch = \"* /other\"\npin = \"async\"\n";
    let proxy = Setup::new(legacy.address, sound.address)
        .legacy("max_in_flight = 1\nqueue_timeout = \"60s\"")
        .tail(pinned)
        .start();
    let mut clients: Vec<_> = (0..20).map(|_| ask(&proxy, "/")).collect();
    await_waiting(&proxy, 19);
    assert_eq!(proxy.client().get("/other").text(), "sound");
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}
