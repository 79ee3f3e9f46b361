//! A backend that keeps all rules and insists on them, and remembers whose request it got.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};

use crate::http1::{End, Manner, Message, request};
use crate::peers::Peer;

/// The field by which a reply says what it answers.
pub const ECHO: &str = "x-target";

/// Requests of which nobody asked any more are forgotten beyond this number.
const KEPT_MAX: usize = 1000;

/// The backend; its threads end with the process.
#[derive(Debug)]
pub struct SoundBackend {
    /// Where it listens.
    pub address: SocketAddr,
    got: &'static Mutex<Vec<(IpAddr, Message)>>,
}

impl SoundBackend {
    /// Starts it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let got: &'static Mutex<_> = Box::leak(Box::default());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, got));
            }
        });
        Self { address, got }
    }

    /// The whole requests of the client at `address` in the order of their coming. Those of clients
    /// before it that came late, as they were taken back, are dropped.
    pub fn take_got(&self, address: Ipv4Addr) -> Vec<Message> {
        let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let own = got.drain(..).filter(|(from, _)| *from == IpAddr::V4(address));
        own.map(|(_, message)| message).collect()
    }
}

fn serve(stream: TcpStream, got: &Mutex<Vec<(IpAddr, Message)>>) {
    let mut proxy = Peer::over(stream);
    // An idle connection of a pool may wait for long: its end is the proxy's.
    proxy.wait_at_most(None);
    loop {
        let message = request(&proxy.got, Manner::Strict);
        match message.end {
            End::Open if proxy.fill().is_ok() => continue,
            End::Open => return,
            End::Broken(rule) => panic!("the backend got what breaks a rule: {rule}: {proxy:?}"),
            End::Whole => {}
        }
        assert_eq!(proxy.got.len(), message.length, "bytes behind a request: {proxy:?}");
        assert_eq!(message.all("host").len(), 1, "not one Host: {message:?}");
        let from = client(&message);
        let (bytes, goes_on) = reply(&message);
        proxy.got.clear();
        {
            let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
            if got.len() < KEPT_MAX {
                got.push((from, message));
            }
        }
        if !proxy.send(&bytes) {
            return;
        }
        match goes_on {
            After::Next => {}
            After::Close => return,
            After::Tunnel => return echo(proxy),
        }
    }
}

/// Whom the proxy names as its client.
fn client(message: &Message) -> IpAddr {
    let all = message.all("x-forwarded-for");
    let [one] = all[..] else {
        panic!("not one client is named: {message:?}");
    };
    let text = std::str::from_utf8(one).unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address: {message:?}"))
}

enum After {
    Next,
    Close,
    Tunnel,
}

/// The target chooses the reply's framing, so that each of them is met.
fn reply(request: &Message) -> (Vec<u8>, After) {
    let target = request.target();
    let has = |word: &[u8]| target.windows(word.len()).any(|window| window == word);
    let mut bytes = Vec::new();
    if has(b"hint") {
        bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }
    if let Some(protocol) = request.all("upgrade").first() {
        bytes.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n");
        bytes.extend_from_slice(&[b"Upgrade: ", *protocol, b"\r\n\r\nearly"].concat());
        return (bytes, After::Tunnel);
    }
    bytes.extend_from_slice(&[b"HTTP/1.1 200 OK\r\nX-Target: ", target, b"\r\n"].concat());
    let is_head = request.method() == b"HEAD";
    let (rest, after): (&[u8], _) = match () {
        () if is_head => (b"Content-Length: 2\r\n\r\n", After::Next),
        () if has(b"chunked") => (
            b"Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n1;e\r\no\r\n01\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n",
            After::Next,
        ),
        () if has(b"until") => (b"\r\nok", After::Close),
        () => (b"Content-Length: 2\r\n\r\nok", After::Next),
    };
    bytes.extend_from_slice(rest);
    (bytes, after)
}

/// Sends back what comes.
fn echo(mut proxy: Peer) {
    while proxy.fill().is_ok() {
        let bytes = std::mem::take(&mut proxy.got);
        if !proxy.send(&bytes) {
            return;
        }
    }
    proxy.finish();
}
