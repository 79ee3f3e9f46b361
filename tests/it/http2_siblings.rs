//! What one stream of an HTTP/2 connection costs the others: nothing.

use std::time::{Duration, Instant};

use crate::harness::h2::{Frames, INITIAL_WINDOW_SIZE, request};
use crate::harness::{Backend, Reply, Setup, heavy};

const ROUNDS: usize = 20;
const ASKED: usize = 150;

/// How long each of some requests on `client` took.
fn ask(client: &mut Frames, took: &mut Vec<Duration>) {
    for _ in 0..ASKED {
        let begun = Instant::now();
        assert_eq!(client.get("/small").whole(), (200, "small".to_owned()));
        took.push(begun.elapsed());
    }
}

fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[test]
fn a_slow_reader_and_a_slow_upload_do_not_delay_their_siblings() {
    let _alone = heavy();
    let large = vec![b'x'; 4 << 20];
    let backend = Backend::start(move |seen| match seen.target.as_str() {
        "/large" => Reply::ok(&large),
        "/upload" => Reply::nothing().then_hang(),
        _ => Reply::ok("small"),
    })
    .expects_cuts();
    let setup = Setup::new(backend.address, backend.address).workers(1);
    let proxy = setup.listen("http2 = true\n").start();
    let connect = || {
        let mut client = Frames::connect_with(proxy.address, &[(INITIAL_WINDOW_SIZE, 65_535)]);
        client.open_window(0, 1 << 30);
        client
    };
    let (mut alone, mut beside) = (connect(), connect());
    // It takes its first window and no more.
    let slow = beside.ask(&request("GET", "/large"));
    beside.until(|client| client.so_far(slow).body.len() == 65_535);
    let upload = beside.open(&request("POST", "/upload"));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ask(&mut alone, &mut without);
        beside.data(upload, "a little ");
        ask(&mut beside, &mut with);
    }
    let (without, with) = (p99(&mut without), p99(&mut with));
    println!("P99 {with:?} beside slow streams, {without:?} without them");
    // A machine that does other things has such ratios of its own; what waits for a slow one, waits for ever.
    assert!(with < without * 4, "{with:?} beside them, {without:?} without");
    assert_eq!(beside.so_far(slow).end, None);
}
