//! Accepting: connections spread evenly over the workers, and no more are taken than allowed.

use crate::harness::raw::Raw;
use crate::harness::{Backend, Client, Latch, Proxy, Reply, Setup, eventually};

/// Open connections of each of two workers.
fn spread(proxy: &Proxy) -> [f64; 2] {
    let scrape = proxy.scrape();
    ["0", "1"].map(|worker| scrape.sum("cutover_worker_connections", &[("worker", worker)]))
}

#[test]
fn three_eight_and_sixty_four_connections_spread_to_within_one() {
    let legacy = Backend::ok("legacy");
    let proxy = Setup::new(legacy.address, legacy.address).start();
    for connections in [3, 8, 64] {
        // Several times: how the kernel spreads them is a matter of chance.
        for round in 0..5 {
            let mut clients: Vec<Client> = (0..connections).map(|_| proxy.client()).collect();
            let total = f64::from(connections);
            eventually!(spread(&proxy).iter().sum::<f64>() == total, "{:?}", spread(&proxy));
            let [one, other] = spread(&proxy);
            assert!((one - other).abs() <= 1.0, "{connections}, round {round}: {one} and {other}");
            // Those that were handed over are served like the others.
            for client in &mut clients {
                assert_eq!(client.get("/").status, 200);
            }
            drop(clients);
            eventually!(spread(&proxy) == [0.0; 2], "{:?}", spread(&proxy));
        }
    }
}

#[test]
fn connections_over_the_limit_wait_and_are_served_when_others_have_gone() {
    const LIMIT: usize = 4;
    let latch = Latch::default();
    let held = latch.clone();
    let legacy = Backend::start(move |_| Reply::ok("legacy").held_by(&held));
    let proxy = Setup::new(legacy.address, legacy.address)
        .listen(&format!("max_connections = {LIMIT}"))
        .start();
    let open = || proxy.scrape().sum("cutover_connections_open", &[]) as usize;
    let reason = [("reason", "max_connections")];
    let held_back = || proxy.scrape().sum("cutover_connections_rejected_total", &reason);
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    // Which of those that wait comes next is the kernel's choice, so each makes room by itself.
    let close = "Connection: close\r\n";
    clients.iter_mut().for_each(|client| client.ask("/", close));
    eventually!(legacy.hits() >= LIMIT && held_back() > 0.0);
    // Several more looks of each worker at its socket.
    let before = held_back();
    eventually!(held_back() > before + 10.0);
    assert_eq!((open(), legacy.hits()), (LIMIT, LIMIT));
    latch.open();
    for mut client in clients {
        assert_eq!(client.response().status, 200);
        assert!(open() <= LIMIT, "{} open", open());
    }
    assert_eq!(legacy.hits(), 20);
    eventually!(open() == 0);
}

#[test]
fn a_limit_raised_by_a_reload_lets_those_in_that_wait() {
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, legacy.address).workers(1);
    let proxy = setup.clone().listen("max_connections = 1").start();
    let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/", ""));
    assert_eq!(clients[0].response().status, 200);
    let open = || proxy.scrape().sum("cutover_connections_open", &[]);
    assert_eq!((open(), legacy.hits()), (1.0, 1));
    proxy.apply(&setup.listen("max_connections = 5"));
    for client in &mut clients[1..] {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(open(), 5.0);
}

#[test]
fn one_address_has_no_more_connections_than_it_may_and_others_are_not_disturbed() {
    let legacy = Backend::ok("legacy");
    let lines = "max_connections_per_address = 2\nproxy_protocol = true\n\
                 trusted_proxies = [\"127.0.0.0/8\"]";
    let proxy = Setup::new(legacy.address, legacy.address).listen(lines).start();
    let ask = |address: &str| {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("PROXY TCP4 {address} 192.0.2.9 1 80\r\n"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = client.reply().status();
        (client, status)
    };
    let held: Vec<_> = (0..2).map(|_| ask("192.0.2.1")).collect();
    assert!(held.iter().all(|(_, status)| *status == 200), "{held:?}");
    assert_eq!(ask("192.0.2.1").1, 0, "closed without a word");
    assert_eq!(ask("192.0.2.2").1, 200);
    let reason = [("reason", "max_connections_per_address")];
    assert_eq!(proxy.scrape().sum("cutover_connections_rejected_total", &reason), 1.0);
    drop(held);
    eventually!(ask("192.0.2.1").1 == 200);
}
