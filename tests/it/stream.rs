//! Bodies of any size: unchanged, in bounded memory, at the pace of the slower side, and no longer
//! or slower than the config allows.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::raw::{Ended, Listener, Raw};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Process, Proxy, Setup, eventually, heavy};

/// How much goes through in one direction.
const SIZE: u64 = 2 << 30;
/// What the proxy may ever hold, without the pages of its program: a debug build has hundreds of MiB of those.
const MEMORY_MAX: u64 = 64 << 20;

fn setup(backend: std::net::SocketAddr) -> Setup {
    let lines = "min_idle = 0";
    Setup::new(backend, backend).workers(1).legacy(lines).async_(lines)
}

/// The bytes of every body: its length is prime, so a lost or doubled piece shifts all that follows.
fn pattern() -> Vec<u8> {
    const PRIME: u32 = 1_048_573;
    (0..PRIME).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Writes `size` bytes, counted as they go, or as many as the other side takes.
fn pour(mut to: &TcpStream, size: u64, count: &AtomicU64) {
    let pattern = pattern();
    let mut left = size;
    while left > 0 {
        let piece = &pattern[..pattern.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        for piece in piece.chunks(128 << 10) {
            if to.write_all(piece).is_err() {
                return;
            }
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        left -= piece.len() as u64;
    }
}

/// Reads `size` bytes and compares each.
fn verify(from: &mut Raw, size: u64) {
    let pattern = pattern();
    let mut at = 0_u64;
    let mut compare = |mut bytes: &[u8]| {
        while !bytes.is_empty() {
            let place = usize::try_from(at % pattern.len() as u64).unwrap();
            let length = bytes.len().min(pattern.len() - place);
            assert!(bytes[..length] == pattern[place..place + length], "differs near {at}");
            at += length as u64;
            bytes = &bytes[length..];
        }
        at
    };
    let mut read = compare(&from.early());
    let mut buffer = vec![0; 256 << 10];
    while read < size {
        let most = usize::try_from(size - read).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let length = from.stream.read(&mut buffer[..most]).unwrap();
        assert!(length > 0, "ends after {read} of {size} bytes");
        read = compare(&buffer[..length]);
    }
    assert_eq!(read, size);
}

/// The most memory that a process ever had, without the pages of its program.
fn memory_peak(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let of = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    // What is loaded of a program stays loaded.
    of("VmHWM:") - of("RssFile:")
}

fn is_lean(process: &Process) {
    let peak = memory_peak(process);
    assert!(peak < MEMORY_MAX, "the proxy needed {} MiB", peak >> 20);
}

/// What may wait on its way: 32 MiB, or what the kernel's own limits come to, where they are higher. The
/// proxy reads fast until its client stalls, so that the kernel may give all it has to the one socket from
/// which it reads; the two that are written to have their send buffers.
fn may_wait() -> u64 {
    let most = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    (32 << 20).max(most("tcp_rmem") + 2 * most("tcp_wmem") + (2 << 20))
}

/// Waits until a count stands still, and returns it.
fn stalled(count: &AtomicU64) -> u64 {
    let mut last = (0, Instant::now());
    eventually!(
        {
            let now = count.load(Ordering::SeqCst);
            if now != last.0 {
                last = (now, Instant::now());
            }
            now > 0 && last.1.elapsed() > Duration::from_millis(500)
        },
        "it goes on and on: {} bytes",
        last.0
    );
    last.0
}

#[test]
fn a_large_upload_arrives_unchanged_in_bounded_memory() {
    let _alone = heavy();
    let backend = Listener::bind();
    let process = setup(backend.address).spawn();
    for framing in [format!("Content-Length: {SIZE}"), "Expect: 100-continue".to_owned()] {
        let size = if framing.starts_with("Expect") { 5 } else { SIZE };
        let length = format!("Content-Length: {size}");
        let client = Raw::connect(process.address);
        let mut asking = Raw::over(client.stream.try_clone().unwrap());
        let fields = if size == SIZE { framing } else { format!("{framing}\r\n{length}") };
        asking.send(format!("POST /up HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        let mut upstream = backend.accept();
        thread::scope(|scope| {
            scope.spawn(|| pour(&client.stream, size, &AtomicU64::new(0)));
            let head = upstream.head();
            assert!(head.fields.contains(&length), "{head:?}");
            verify(&mut upstream, size);
        });
        upstream.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut reply = asking.reply();
        if reply.status() == 100 {
            reply = asking.reply();
        }
        assert_eq!(reply.status(), 201);
        is_lean(&process);
    }
    let bytes = process.scrape().sum("cutover_request_bytes_total", &[]);
    assert_eq!(bytes, (SIZE + 5) as f64);
}

#[test]
fn a_large_download_arrives_unchanged_in_bounded_memory() {
    let _alone = heavy();
    let backend = Listener::bind();
    let process = setup(backend.address).spawn();
    let mut client = Raw::connect(process.address);
    client.send("GET /down HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = backend.accept();
    upstream.request();
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
    thread::scope(|scope| {
        scope.spawn(|| pour(&upstream.stream, SIZE, &AtomicU64::new(0)));
        let head = client.head();
        assert_eq!(head.field("content-length"), Some(&*SIZE.to_string()));
        verify(&mut client, SIZE);
    });
    is_lean(&process);
    let bytes = || process.scrape().sum("cutover_response_bytes_total", &[]);
    eventually!(bytes() == SIZE as f64, "{} bytes are counted", bytes());
}

#[test]
fn slow_readers_hold_the_backend_back_and_cost_no_memory() {
    let _alone = heavy();
    let backend = Listener::bind();
    let process = setup(backend.address).spawn();
    let counts: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for count in &counts {
            let mut client = Raw::connect(process.address);
            client.send("GET /down HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut upstream = backend.accept();
            upstream.request();
            upstream.stream.set_write_timeout(None).unwrap();
            upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            scope.spawn(move || pour(&upstream.stream, SIZE, count));
            clients.push(client);
        }
        for count in &counts {
            let taken = stalled(count);
            assert!(taken < may_wait(), "{} MiB were taken", taken >> 20);
        }
        let taken = counts[0].load(Ordering::SeqCst);
        let head = clients[0].head();
        assert_eq!(head.status(), 200);
        verify(&mut clients[0], taken + 1);
        eventually!(counts[0].load(Ordering::SeqCst) > taken, "it does not go on");
        is_lean(&process);
        // Closing them ends the backend's side, and with it the threads.
        drop(clients);
    });
}

#[test]
fn a_slow_backend_holds_the_client_back() {
    let _alone = heavy();
    let backend = Listener::bind();
    let process = setup(backend.address).spawn();
    let client = Raw::connect(process.address);
    let mut asking = Raw::over(client.stream.try_clone().unwrap());
    asking.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let upstream = backend.accept();
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        client.stream.set_write_timeout(None).unwrap();
        scope.spawn(|| pour(&client.stream, SIZE, &count));
        let taken = stalled(&count);
        assert!(taken < may_wait(), "{} MiB were taken", taken >> 20);
        is_lean(&process);
        drop(upstream);
        // The backend is gone, so is the client's upload.
        assert_eq!(asking.reply().status(), 502);
        drop(asking);
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
    });
}

// === Limits ===

fn client_errors(proxy: &Proxy, kind: &str) -> f64 {
    proxy.scrape().sum("cutover_client_errors_total", &[("kind", kind)])
}

#[test]
fn a_body_over_the_limit_is_413_whether_its_length_is_told_or_not() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).listen("body_bytes = \"1KiB\"").start();
    let post = |framing: &str, body: &str| {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
        (client.reply(), client)
    };
    let chunks = |size: usize| format!("{size:x}\r\n{}\r\n0\r\n\r\n", "a".repeat(size));
    let (fits, over) = (chunks(1024), chunks(1025));
    let pieces = format!("200\r\n{}\r\n", "a".repeat(512)).repeat(3) + "0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked";
    for (framing, body) in [("Content-Length: 1024", &*"a".repeat(1024)), (chunked, &fits)] {
        assert_eq!(post(framing, body).0.status(), 200, "{framing}");
        assert_eq!(backend.one().body.len(), 1024);
    }
    for (framing, body) in [("Content-Length: 1025", ""), (chunked, &over), (chunked, &pieces)] {
        let (reply, mut client) = post(framing, body);
        assert_eq!(reply.status(), 413, "{framing}: {reply:?}");
        assert_eq!(reply.field("connection"), Some("close"));
        assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    }
    assert_eq!(client_errors(&proxy, "body_too_large"), 3.0);
    drop(proxy);
    let got = backend.take_got();
    assert!(got.iter().all(|got| !got.complete), "{got:?}");
}

/// Sends `start` and then nothing more; what comes and when.
fn stops(proxy: &Proxy, start: &str) -> (String, Ended, Duration) {
    let began = Instant::now();
    let mut client = Raw::connect(proxy.address);
    client.send(start);
    let (bytes, ended) = client.rest();
    (String::from_utf8(bytes).unwrap(), ended, began.elapsed())
}

fn in_time(took: Duration) -> bool {
    // The limit is 400 ms in these tests, a tick is 100 ms, and both cores may be busy.
    (Duration::from_millis(400)..Duration::from_secs(3)).contains(&took)
}

#[test]
fn a_head_that_does_not_end_is_408() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).listen("header_timeout = \"400ms\"").start();
    let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for start in ["G", "GET /x HTTP/1.1\r\n", "GET /x HTTP/1.1\r\nHost: a\r\n"] {
        let (text, ended, took) = stops(&proxy, start);
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{start:?}: {text:?}");
        assert!(text.contains("\r\nConnection: close\r\n") && text.contains("\r\nProxy-Status: "));
        assert!(ended == Ended::Closed && in_time(took), "{ended:?} {took:?}");
    }
    let (text, ended, took) = stops(&proxy, &format!("{request}GET /second"));
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("HTTP/1.1 408 "), "{text:?}");
    assert!(ended == Ended::Closed && in_time(took), "{ended:?} {took:?}");
    assert_eq!(client_errors(&proxy, "head_timeout"), 4.0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).listen("idle_timeout = \"400ms\"").start();
    let (text, ended, took) = stops(&proxy, "");
    assert_eq!((text.as_str(), ended), ("", Ended::Closed));
    assert!(in_time(took), "{took:?}");
    let (text, ended, took) = stops(&proxy, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok"), "{text:?}");
    assert!(ended == Ended::Closed && in_time(took), "{ended:?} {took:?}");
    assert_eq!(proxy.scrape().sum("cutover_client_errors_total", &[]), 0.0);
}

#[test]
fn a_body_that_stops_coming_is_408_and_no_fault_of_the_path() {
    let backend = Scripted::start();
    let proxy = setup(backend.address).listen("body_idle_timeout = \"400ms\"").start();
    let head = "POST /up HTTP/1.1\r\nHost: a\r\n";
    for rest in [
        "Content-Length: 9\r\n\r\n",
        "Content-Length: 9\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (text, ended, took) = stops(&proxy, &format!("{head}{rest}"));
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{rest:?}: {text:?}");
        assert!(ended == Ended::Closed && in_time(took), "{ended:?} {took:?}");
    }
    assert_eq!(client_errors(&proxy, "body_timeout"), 3.0);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
    drop(proxy);
    assert!(backend.take_got().iter().all(|got| !got.complete));
}
