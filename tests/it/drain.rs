//! The drain: what is in flight finishes, what waits is served, and what is cut off is counted.

use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{
    Backend, Client, Ended, Latch, Process, Reply, Setup, eventually, heavy, within,
};

const SECOND: Duration = Duration::from_secs(1);

/// Waits until the drain has reached `phase`.
fn await_phase(process: &Process, phase: &str) {
    let phases = || process.logged("phase changed");
    eventually!(
        phases().iter().any(|line| line["fields"]["phase"] == phase),
        "phase {phase} was never reached: {:?}",
        phases()
    );
}

#[test]
fn sigterm_at_full_load_loses_no_request_in_flight() {
    let _alone = heavy();
    let slow = || Backend::start(|_| Reply::ok("slow").after(SECOND));
    let (legacy, async_) = (slow(), slow());
    let setup = Setup::new(legacy.address, async_.address).weight(0.5);
    let mut process = setup.spawn();
    let mut clients: Vec<Client> = (0..200).map(|_| process.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    eventually!(legacy.hits() + async_.hits() == 200);
    process.signal("TERM");
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 200);
        assert_eq!(response.ended, Ended::Whole);
        assert_eq!(response.header("connection"), Some("close"));
        assert!(client.is_closed_silently());
    }
    assert_eq!(process.wait(), Some(0));
    let clean = process.logged("drained, nothing was cut off");
    assert_eq!(clean[0]["fields"]["in_flight"], 200);
}

#[test]
fn clients_that_never_pause_are_all_told_to_close_and_none_fails() {
    let _alone = heavy();
    let (legacy, async_) = (Backend::counting("a"), Backend::counting("b"));
    let setup = Setup::new(legacy.address, async_.address)
        .weight(0.5)
        .drain("delay = \"500ms\"\ntimeout = \"5s\"");
    let mut process = setup.spawn();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut client = process.client();
            thread::spawn(move || {
                let mut served = 0;
                loop {
                    let response = client.get("/");
                    assert_eq!((response.status, response.ended), (200, Ended::Whole));
                    served += 1;
                    if response.header("connection") == Some("close") {
                        return served;
                    }
                }
            })
        })
        .collect();
    eventually!(legacy.hits() + async_.hits() > 500);
    process.signal("TERM");
    let served: usize = clients.into_iter().map(|c| c.join().unwrap()).sum();
    assert_eq!(served, legacy.hits() + async_.hits());
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_reply_slower_than_the_deadline_is_cut_counted_by_path_and_makes_exit_code_3() {
    let hangs = Backend::start(|_| Reply::nothing().then_hang());
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, hangs.address).weight(1.0).drain("timeout = \"500ms\"");
    let mut process = setup.spawn();
    let mut client = process.client();
    client.ask("/", "");
    eventually!(hangs.hits() == 1);
    process.signal("TERM");
    assert!(client.try_response().is_err(), "a reply that never was");
    assert_eq!(process.wait(), Some(3));
    eventually!(!process.logged("drained, some were cut off at the deadline").is_empty());
    let cut = process.logged("drained, some were cut off at the deadline");
    assert_eq!(cut[0]["fields"]["async_requests"], 1);
    assert_eq!(cut[0]["fields"]["legacy_requests"], 0);
}

#[test]
fn what_a_drain_cuts_off_shows_in_its_outcome_and_in_the_metrics() {
    let hangs = Backend::start(|_| Reply::nothing().then_hang());
    let setup = Setup::new(hangs.address, hangs.address).drain("timeout = \"300ms\"");
    let proxy = setup.start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    eventually!(hangs.hits() == 3);
    let metrics = proxy.app().metrics().clone();
    let outcome = proxy.drain();
    assert_eq!((outcome.cut.legacy, outcome.cut.async_), (3, 0));
    assert_eq!(outcome.in_flight, 3);
    assert!(!outcome.is_clean());
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let line = "cutover_drain_cut_total{kind=\"request\",path=\"legacy\"} 3";
    assert!(text.contains(line), "{line} is not in\n{text}");
    assert!(text.contains("cutover_requests_in_flight{path=\"legacy\"} 0"));
}

#[test]
fn a_connection_silent_until_half_a_second_into_the_drain_is_served() {
    let legacy = Backend::ok("legacy");
    let mut process = Setup::new(legacy.address, legacy.address).spawn();
    let mut silent: Vec<Client> = (0..4).map(|_| process.client()).collect();
    let open = || process.scrape().sum("cutover_connections_open", &[]);
    eventually!(open() == 4.0, "{} connections open", open());
    process.signal("TERM");
    await_phase(&process, "draining");
    let drains_since = Instant::now();
    eventually!(drains_since.elapsed() >= SECOND / 2);
    for client in &mut silent {
        let response = client.get("/");
        assert_eq!(response.status, 200);
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_connection_that_never_speaks_is_closed_a_second_into_the_drain() {
    let legacy = Backend::ok("legacy");
    let proxy = Setup::new(legacy.address, legacy.address).start();
    let mut silent = proxy.client();
    eventually!(proxy.scrape().sum("cutover_connections_open", &[]) == 1.0);
    let outcome = proxy.drain();
    assert!(silent.is_closed_silently());
    assert!(outcome.is_clean());
    assert!(outcome.took >= SECOND, "{:?}", outcome.took);
    assert!(outcome.took < 2 * SECOND, "{:?}", outcome.took);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_drain() {
    let legacy = Backend::ok("legacy");
    let proxy = Setup::new(legacy.address, legacy.address).start();
    let mut idle: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
    }
    let outcome = proxy.drain();
    assert!(idle.iter_mut().all(Client::is_closed_silently));
    assert!(outcome.took < SECOND, "{:?}", outcome.took);
}

#[test]
fn connections_in_the_accept_queue_are_served_and_not_reset() {
    let legacy = Backend::ok("legacy");
    let mut process = Setup::new(legacy.address, legacy.address).spawn();
    // A stopped process accepts nothing: the kernel completes the handshakes, and they wait.
    process.signal("STOP");
    let mut clients: Vec<Client> = (0..40).map(|_| process.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    process.signal("TERM");
    process.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(process.wait(), Some(0));
    assert_eq!(legacy.hits(), 40);
}

#[test]
fn connections_held_back_by_the_limit_are_served_in_the_drain() {
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::ok("legacy").held_by(&held));
    let setup = Setup::new(legacy.address, legacy.address).listen("max_connections = 1");
    let mut process = setup.spawn();
    let mut clients: Vec<Client> = (0..10).map(|_| process.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    eventually!(legacy.hits() == 1);
    process.signal("TERM");
    eventually!(legacy.hits() == 10, "{} of 10 came", legacy.hits());
    latch.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_handshake_during_the_drain_is_not_refused_and_reaches_the_successor() {
    let _alone = heavy();
    let latch = Latch::default();
    let held = latch.clone();
    let old = Backend::start(move |_| Reply::ok("old").held_by(&held));
    let new = Backend::ok("new");
    let address = Backend::refused();
    let mut leaving = Setup::new(old.address, old.address).address(address).spawn();
    let mut client = leaving.client();
    client.ask("/", "");
    eventually!(old.hits() == 1);
    leaving.signal("TERM");
    await_phase(&leaving, "draining");
    // The workers hear of it a moment later; until then a handshake still finds the old one.
    let knock = || std::net::TcpStream::connect_timeout(&address, SECOND / 50);
    eventually!(knock().is_err(), "handshakes are not held back");
    // The socket drops this handshake; the client's kernel tries again a second later.
    let late = thread::spawn(move || Client::connect(address).get("/").text());
    // Its listening sockets close within 250 ms, though it still drains.
    let is_free = || is_free(address);
    let took = within(SECOND, is_free).expect("the address is free before the drain's end");
    let mut successor = Setup::new(new.address, new.address).address(address).spawn();
    assert_eq!(late.join().unwrap(), "new", "the address was free after {took:?}");
    latch.open();
    assert_eq!(client.response().text(), "old");
    assert_eq!(leaving.wait(), Some(0));
    successor.signal("TERM");
    assert_eq!(successor.wait(), Some(0));
}

#[test]
fn requests_in_the_queue_are_served_before_the_end() {
    let legacy = Backend::start(|_| Reply::ok("legacy").after(SECOND / 20));
    let setup = Setup::new(legacy.address, legacy.address)
        .legacy("max_in_flight = 1\nqueue_timeout = \"5s\"");
    let mut process = setup.spawn();
    let mut clients: Vec<Client> = (0..10).map(|_| process.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    eventually!(legacy.hits() >= 1);
    process.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let hangs = Backend::start(|_| Reply::nothing().then_hang());
    let setup = Setup::new(hangs.address, hangs.address).drain("timeout = \"60s\"");
    let mut process = setup.spawn();
    let mut client = process.client();
    client.ask("/", "");
    eventually!(hangs.hits() == 1);
    process.signal("TERM");
    await_phase(&process, "draining");
    let second = Instant::now();
    process.signal("TERM");
    assert_eq!(process.wait(), Some(3));
    assert!(second.elapsed() < SECOND, "{:?}", second.elapsed());
}

#[test]
fn during_the_delay_the_proxy_is_not_ready_but_lives_and_serves() {
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, legacy.address).drain("delay = \"1s\"");
    let mut process = setup.spawn();
    assert_eq!(process.admin_get("/readyz").status, 200);
    assert_eq!(process.admin_get("/livez").status, 200);
    let mut before = process.client();
    assert_eq!(before.get("/").header("connection"), None);
    process.signal("TERM");
    eventually!(process.admin_get("/readyz").status == 503);
    assert_eq!(process.admin_get("/livez").status, 200);
    for mut client in [before, process.client()] {
        let response = client.get("/");
        assert_eq!(response.status, 200);
        assert_eq!(response.header("connection"), Some("close"));
    }
    let leaving = [("phase", "leaving")];
    assert_eq!(process.scrape().sum("cutover_drain_state", &leaving), 1.0);
    assert_eq!(process.wait(), Some(0));
}

/// Whether nobody listens there. Does not listen itself: the handshake would find that socket.
fn is_free(address: std::net::SocketAddr) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).is_ok()
}
