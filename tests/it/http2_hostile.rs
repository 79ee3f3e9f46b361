//! Clients that use the rules of HTTP/2 against the proxy: their connection ends, or what it costs is
//! bounded, and a client on another connection is served meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::h2::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, End,
    FLOW_CONTROL_ERROR, Frames, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, integer, literal, request, request_with,
};
use crate::harness::raw::{Ended, Listener, Raw};
use crate::harness::{Backend, Process, Reply, Setup, eventually, heavy};

const MIB: usize = 1 << 20;
/// By how much the program may grow in any attack.
const GROWTH_MAX: usize = 64 * MIB;
const GET: &str = "GET /neighbour HTTP/1.1\r\nHost: a\r\n\r\n";
/// The most that a neighbour may wait, where the attack and the backend keep the machine busy too.
const NEIGHBOUR_MAX: Duration = Duration::from_secs(5);

/// Resident bytes of a process.
fn memory(process: &Process) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", process.pid())).unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4096
}

/// What an attack did.
#[derive(Debug)]
struct Toll {
    grown: usize,
    slowest: Duration,
    served: usize,
}

/// Ends the neighbour's part also where the attack's fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs an attack on a proxy with one worker, beside a neighbour that asks again and again.
fn attack(process: &Process, run: impl FnOnce()) {
    // Whatever a first connection makes is there before.
    assert_eq!(Frames::connect(process.address).get("/warm").status(), 200);
    let before = memory(process);
    let (is_over, peak) = (AtomicBool::new(false), AtomicUsize::new(before));
    let (slowest, served) = std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut neighbour = Raw::connect(process.address);
            let (mut slowest, mut served) = (Duration::ZERO, 0);
            while !is_over.load(Ordering::SeqCst) || served < 10 {
                let since = Instant::now();
                assert_eq!(neighbour.ask(GET).status(), 200);
                slowest = slowest.max(since.elapsed());
                served += 1;
                peak.fetch_max(memory(process), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
            (slowest, served)
        });
        let over = Over(&is_over);
        run();
        drop(over);
        neighbour.join().unwrap()
    });
    let toll = Toll { grown: peak.into_inner() - before, slowest, served };
    assert!(toll.served >= 10 && toll.grown < GROWTH_MAX, "{toll:?}");
    assert!(toll.slowest < NEIGHBOUR_MAX, "{toll:?}");
}

fn start(backend: &Backend) -> Process {
    let lines = "body_idle_timeout = \"1s\"";
    Setup::new(backend.address, backend.address).workers(1).listen(lines).spawn()
}

fn floods(process: &Process) -> f64 {
    process.scrape().sum("cutover_client_errors_total", &[("kind", "http2_flood")])
}

/// The connection ends, with the reason if that reached the client before a reset did.
fn expect_end(client: &mut Frames, code: u32) {
    assert_ne!(client.rest(Duration::from_secs(5)), Ended::Open, "{:?}", client.goaways);
    let codes: Vec<u32> = client.goaways.iter().map(|(_, code)| *code).collect();
    assert!(codes.is_empty() || codes == [code], "{codes:?}");
}

fn head(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&request("GET", "/victim")))
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

#[test]
fn a_rapid_reset_ends_the_connection() {
    let _alone = heavy();
    let backend = Backend::ok("ok").expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        let pairs = (0..1000).map(|n| [head(n * 2 + 1), cancel(n * 2 + 1)].concat());
        client.write(pairs.collect::<Vec<_>>().concat());
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    eventually!(floods(&process) == 1.0, "{}", floods(&process));
}

#[test]
fn resets_that_wait_until_the_backend_is_at_work_end_the_connection() {
    let _alone = heavy();
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/victim" => Reply::nothing().then_hang(),
        _ => Reply::ok("ok"),
    })
    .expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        for number in 0..1000 {
            let known = backend.hits();
            if !client.write(head(number * 2 + 1)) {
                break;
            }
            crate::harness::within(Duration::from_millis(100), || backend.hits() > known);
            client.write(cancel(number * 2 + 1));
        }
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    assert_eq!(floods(&process), 1.0);
    eventually!(backend.open() < 10, "{} connections are left", backend.open());
}

#[test]
fn resets_behind_a_reply_that_has_begun_end_the_connection() {
    let _alone = heavy();
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/victim" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").then_hang(),
        _ => Reply::ok("ok"),
    })
    .expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        for _ in 0..1000 {
            let stream = client.ask(&request("GET", "/victim"));
            if client.head(stream).fields.is_empty() {
                break;
            }
            client.reset(stream, CANCEL);
        }
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    assert_eq!(floods(&process), 1.0);
}

#[test]
fn resets_that_the_client_makes_the_proxy_send_end_the_connection() {
    let _alone = heavy();
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/victim" => Reply::nothing().then_hang(),
        _ => Reply::ok("ok"),
    })
    .expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        for number in 0..3000 {
            let stream = number * 2 + 1;
            // A window beyond 2^31 - 1 is an error of the stream (RFC 9113 section 6.9.1).
            let overflow = frame(WINDOW_UPDATE, 0, stream, &i32::MAX.to_be_bytes());
            if !client.write([head(stream), overflow].concat()) {
                break;
            }
            if number % 50 == 0 {
                client.until(|client| {
                    client.so_far(stream).end.is_some() || !client.goaways.is_empty()
                });
            }
            if !client.goaways.is_empty() {
                break;
            }
        }
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    assert_eq!(floods(&process), 1.0);
}

#[test]
fn a_head_without_end_ends_the_connection() {
    let _alone = heavy();
    let backend = Backend::ok("ok");
    let process = start(&backend);
    for piece in [0, 1, 1000, 16_000] {
        attack(&process, || {
            let mut client = Frames::connect(process.address);
            client.start(&request("GET", "/victim"), END_STREAM);
            // One field whose value is said to go on for 2^28 bytes.
            let begun = [vec![0], literal("x"), integer(1 << 28, 7)].concat();
            client.send(CONTINUATION, 0, 1, &begun);
            for _ in 0..20_000 {
                if !client.send(CONTINUATION, 0, 1, &vec![b'v'; piece]) {
                    break;
                }
            }
            assert_ne!(client.rest(Duration::from_secs(5)), Ended::Open);
        });
    }
}

#[test]
fn a_small_block_that_stands_for_many_megabytes_ends_the_connection() {
    let _alone = heavy();
    let backend = Backend::ok("ok");
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        // Put into the table once, then named again and again with one byte.
        let entry = [vec![0x40], literal("x"), literal(&"v".repeat(4000))].concat();
        let bomb = [block(&request("GET", "/victim")), entry, vec![0x80 | 62; 12_000]].concat();
        for stream in 0..50 {
            let stream = stream * 2 + 1;
            if !client.send(HEADERS, END_HEADERS | END_STREAM, stream, &bomb) {
                break;
            }
        }
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    assert_eq!(floods(&process), 1.0);
}

/// Sends `flood` over and over without reading, until the proxy ends the connection or `times` are
/// through; how many were taken.
fn pour(process: &Process, flood: &[u8], times: usize) -> (Frames, usize) {
    let mut client = Frames::connect_with(process.address, &[]);
    let taken = (0..times).take_while(|_| client.write(flood)).count();
    (client, taken)
}

#[test]
fn floods_that_want_answers_end_where_those_are_not_read() {
    let _alone = heavy();
    let backend = Backend::ok("ok");
    let process = start(&backend);
    for (what, one) in
        [("PING", frame(PING, 0, 0, &[7; 8])), ("SETTINGS", frame(SETTINGS, 0, 0, &[]))]
    {
        attack(&process, || {
            let (_client, taken) = pour(&process, &one.repeat(1000), 20_000);
            assert!(taken < 20_000, "{what}: all of it was taken");
            // Only the neighbour's is left, though this client has not closed its own.
            let open = || process.scrape().sum("cutover_connections_open", &[]);
            eventually!(open() == 1.0, "{what}: {} are open", open());
        });
    }
}

#[test]
fn frames_that_say_nothing_end_the_connection_from_a_number_on() {
    let _alone = heavy();
    let backend = Backend::ok("ok");
    let process = start(&backend);
    let on_stream_1 = [&1_u32.to_be_bytes()[..], &[16]].concat();
    let kinds = [
        ("PRIORITY", frame(PRIORITY, 0, 3, &on_stream_1)),
        ("an unknown type", frame(0xbe, 0, 0, &[0; 16])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("PING that was not asked for", frame(PING, ACK, 0, &[0; 8])),
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
    ];
    for (number, (what, one)) in (1..).zip(kinds) {
        attack(&process, || {
            let mut client = Frames::connect_with(process.address, &[]);
            // What a busy client may send is no flood.
            client.write(one.repeat(1_000));
            assert_eq!(client.get("/next").status(), 200, "{what}: {:?}", client.goaways);
            // Those that want answers are told so as these are read.
            for _ in 0..100 {
                client.write(one.repeat(100));
                if client.get("/next").status() != 200 {
                    break;
                }
            }
            expect_end(&mut client, ENHANCE_YOUR_CALM);
        });
        assert_eq!(floods(&process), f64::from(number), "{what}");
    }
}

#[test]
fn data_frames_without_data_end_the_connection() {
    let _alone = heavy();
    let backend = Backend::start(|_| Reply::ok("ok")).expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        let stream = client.open(&request("POST", "/victim"));
        for _ in 0..10_000 {
            if !client.send(DATA, 0, stream, &[]) {
                break;
            }
        }
        expect_end(&mut client, ENHANCE_YOUR_CALM);
    });
    assert_eq!(floods(&process), 1.0);
}

#[test]
fn a_body_in_single_bytes_is_served() {
    let _alone = heavy();
    let backend = Backend::ok("ok");
    let process = start(&backend);
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        let stream = client.open(&request("POST", "/victim"));
        for _ in 0..10 {
            client.write(frame(DATA, 0, stream, b"x").repeat(1000));
        }
        client.last_data(stream, "x");
        assert_eq!(client.answer(stream).whole().0, 200);
    });
}

#[test]
fn replies_that_nobody_takes_are_not_held() {
    let _alone = heavy();
    let backend = Backend::start(|seen| match seen.target.as_str() {
        "/victim" => Reply::ok(vec![b'x'; MIB]),
        _ => Reply::ok("ok"),
    })
    .expects_cuts();
    let process = start(&backend);
    attack(&process, || {
        let connect = || Frames::connect_with(process.address, &[(INITIAL_WINDOW_SIZE, 0)]);
        let mut clients: Vec<Frames> = (0..2).map(|_| connect()).collect();
        for client in &mut clients {
            (0..100).for_each(|_| {
                client.ask(&request("GET", "/victim"));
            });
        }
        eventually!(backend.hits() >= 200, "{}", backend.hits());
        for client in &mut clients {
            for stream in (0..100).map(|number| number * 2 + 1) {
                assert_eq!(client.answer(stream).end, Some(End::Reset(CANCEL)));
            }
        }
    });
}

#[test]
fn uploads_beyond_their_windows_are_reset_and_not_held() {
    let _alone = heavy();
    // What nobody accepts is taken by the system's buffers, which are some megabytes at the most.
    let (silent, backend) = (Listener::bind(), Backend::ok("ok"));
    let process = Setup::new(silent.address, backend.address)
        .workers(1)
        .tail("[[route]]\nname = \"others\"\nmatch = \"GET /{rest*}\"\npin = \"async\"")
        .spawn();
    attack(&process, || {
        let mut client = Frames::connect(process.address);
        let head = request_with("POST", "/victim", &[("content-length", "20000000")]);
        let streams: Vec<u32> = (0..20).map(|_| client.open(&head)).collect();
        let piece = vec![0; 16_000];
        for _ in 0..1000 {
            if !streams.iter().all(|stream| client.data(*stream, &piece)) {
                break;
            }
        }
        for stream in streams {
            // What still comes of a stream that is forgotten ends the connection.
            let end = client.answer(stream).end;
            let is_over = end.is_none() && !client.goaways.is_empty();
            assert!(is_over || end == Some(End::Reset(FLOW_CONTROL_ERROR)), "{end:?}");
        }
    });
}
