//! A backend that answers one request with any bytes, and each other one soundly.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::http1::{End, Manner, request};
use crate::http2::{FRAMES, PREFACE, Said, composed, pong};
use crate::peers::Peer;

/// What each request gets for which there is no script.
pub const NEXT: &[u8] = b"HTTP/1.1 200 OK\r\nX-Fuzz: next\r\nContent-Length: 4\r\n\r\nnext";
/// The same as frames.
const NEXT_FRAMES: &[u8] = b"H\x04\x01:status: 200\nx-fuzz: next\xf7\x00\x01\x01next";

/// How long the proxy may take to see that an HTTP/2 connection has ended.
const GOODBYE: Duration = Duration::from_secs(2);

/// The reply to the next request.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its bytes, with their cuts.
    pub bytes: Vec<u8>,
    /// What comes behind them.
    pub after: After,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays open for the next request.
    Next,
    /// It is closed in order.
    Close,
    /// It is reset.
    Reset,
}

/// Connections that speak HTTP/2.
static HTTP2_OPEN: AtomicUsize = AtomicUsize::new(0);

type Slot = Mutex<Option<Script>>;

/// The backend, on a port for each HTTP; its threads end with the process.
#[derive(Debug)]
pub struct ScriptedBackend {
    /// Where it speaks HTTP/1.1.
    pub http1: SocketAddr,
    /// Where it speaks HTTP/2.
    pub http2: SocketAddr,
    slot: &'static Slot,
}

impl ScriptedBackend {
    /// Starts it.
    pub fn start() -> Self {
        let slot: &'static Slot = Box::leak(Box::default());
        Self { http1: listen(slot, serve_http1), http2: listen(slot, serve_http2), slot }
    }

    /// The next request gets `script`.
    pub fn will_answer(&self, script: Script) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(script);
    }

    /// Waits until no connection of HTTP/2 is left.
    pub fn await_rest(&self) {
        while HTTP2_OPEN.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
    }

    /// Takes back a script that no request came for; whether there was one.
    pub fn take_back(&self) -> bool {
        take(self.slot).is_some()
    }
}

fn take(slot: &Slot) -> Option<Script> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn listen(slot: &'static Slot, serve: fn(Peer, &Slot)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(peer(stream), slot));
        }
    });
    address
}

fn peer(stream: TcpStream) -> Peer {
    let peer = Peer::over(stream);
    // An idle connection of a pool may wait for long: its end is the proxy's.
    peer.wait_at_most(None);
    peer
}

fn serve_http1(mut proxy: Peer, slot: &Slot) {
    loop {
        let message = request(&proxy.got, Manner::Strict);
        match message.end {
            End::Open if proxy.fill().is_ok() => continue,
            End::Open => return,
            End::Broken(rule) => panic!("the backend got what breaks a rule: {rule}: {proxy:?}"),
            End::Whole => {}
        }
        assert_eq!(proxy.got.len(), message.length, "bytes behind a request: {proxy:?}");
        proxy.got.clear();
        let Some(script) = take(slot) else {
            if proxy.send(NEXT) {
                continue;
            }
            return;
        };
        proxy.send_pieces(&script.bytes);
        match script.after {
            After::Next => {}
            After::Close => return,
            After::Reset => return proxy.reset(),
        }
    }
}

/// One request, its reply, and the end.
fn serve_http2(mut proxy: Peer, slot: &Slot) {
    // The proxy believes in HTTP/2 only behind the answer to its first ping.
    proxy.send(&composed(b"", b""));
    let mut answered = 0;
    loop {
        let said = Said::of(proxy.got.get(PREFACE.len()..).unwrap_or_default());
        for ping in said.pings.iter().skip(answered) {
            proxy.send(&pong(ping));
        }
        answered = said.pings.len();
        if !said.ended.is_empty() {
            break;
        }
        if proxy.fill().is_err() {
            return;
        }
    }
    HTTP2_OPEN.fetch_add(1, Ordering::AcqRel);
    answer_http2(proxy, slot);
    HTTP2_OPEN.fetch_sub(1, Ordering::AcqRel);
}

fn answer_http2(mut proxy: Peer, slot: &Slot) {
    let script = take(slot);
    let frames = script.as_ref().map_or(NEXT_FRAMES, |script| &script.bytes);
    let frames = frames.strip_prefix(&[FRAMES]).unwrap_or(frames);
    proxy.send_pieces(&composed(frames, b""));
    proxy.finish();
    proxy.wait_at_most(Some(GOODBYE));
    proxy.fill_up();
}
