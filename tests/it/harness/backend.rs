//! Scripted backends: a closure says what each request gets, byte by byte if need be.
//!
//! Each connection has a thread. What no test expects (a request that is not HTTP, or ends in its
//! middle) fails the test when the backend is dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::client::{find, header};
use super::latch::Latch;

/// A port that the system chooses.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
}

/// What a backend does once it has read a request.
#[derive(Clone, Debug)]
pub(crate) struct Reply(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    Until(Latch),
    Hang,
    Close,
    Reset,
}

impl Reply {
    /// 200 with a body of known length.
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::raw([head.as_bytes(), body].concat())
    }

    /// Any bytes.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    /// Nothing yet.
    pub(crate) fn nothing() -> Self {
        Self(Vec::new())
    }

    /// The same, but `delay` later.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.0.insert(0, Step::Wait(delay));
        self
    }

    /// The same, but not before `latch` lets it.
    pub(crate) fn held_by(mut self, latch: &Latch) -> Self {
        self.0.insert(0, Step::Until(latch.clone()));
        self
    }

    /// Then these bytes.
    pub(crate) fn then(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.and(Step::Send(bytes.into()))
    }

    /// Then a pause.
    pub(crate) fn then_wait(self, delay: Duration) -> Self {
        self.and(Step::Wait(delay))
    }

    /// Then a pause until `latch` lets it go on.
    pub(crate) fn then_until(self, latch: &Latch) -> Self {
        self.and(Step::Until(latch.clone()))
    }

    /// Then nothing more, with the connection kept open until the other end closes it.
    pub(crate) fn then_hang(self) -> Self {
        self.and(Step::Hang)
    }

    pub(crate) fn then_close(self) -> Self {
        self.and(Step::Close)
    }

    pub(crate) fn then_reset(self) -> Self {
        self.and(Step::Reset)
    }

    fn and(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

/// A backend that listens until it is dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tolerant: AtomicBool,
    hits: AtomicUsize,
    accepted: AtomicUsize,
    last: Mutex<Option<Seen>>,
    sockets: Mutex<HashMap<usize, TcpStream>>,
    faults: Mutex<Vec<String>>,
}

impl Backend {
    /// Answers each request as `script` says; the last request is kept.
    pub(crate) fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(ANY_PORT, script)
    }

    /// The same at an address that the test chooses.
    pub(crate) fn start_at(
        address: SocketAddr,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(address, move |stream, n, shared| converse(stream, n, shared, &script))
    }

    /// Answers each with 200 and `body`.
    pub(crate) fn ok(body: &'static str) -> Self {
        Self::start(move |_| Reply::ok(body))
    }

    /// Answers each with 200 and `body`, and only counts them: for many requests without a body.
    pub(crate) fn counting(body: &'static str) -> Self {
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        Self::serve(ANY_PORT, move |stream, _, shared| {
            let _ = stream.set_nodelay(true);
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if line == b"\r\n" {
                    shared.hits.fetch_add(1, Ordering::SeqCst);
                    if lines.get_mut().write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
                line.clear();
            }
        })
    }

    /// An address where nobody listens.
    pub(crate) fn refused() -> SocketAddr {
        TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap()
    }

    fn serve(
        address: SocketAddr,
        handle: impl Fn(TcpStream, usize, &Arc<Shared>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (accepting, handle) = (shared.clone(), Arc::new(handle));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                let number = accepting.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(socket) = stream.try_clone() else {
                    continue;
                };
                lock(&accepting.sockets).insert(number, socket);
                let (shared, handle) = (accepting.clone(), handle.clone());
                thread::spawn(move || {
                    let served = std::panic::AssertUnwindSafe(|| handle(stream, number, &shared));
                    if std::panic::catch_unwind(served).is_err() {
                        shared.fault("its script panicked".to_owned());
                    }
                    lock(&shared.sockets).remove(&number);
                });
            }
        });
        Self { address, shared }
    }

    /// Requests that end in their middle are expected: clients break off here.
    pub(crate) fn expects_cuts(self) -> Self {
        self.shared.tolerant.store(true, Ordering::SeqCst);
        self
    }

    /// How many requests came.
    pub(crate) fn hits(&self) -> usize {
        self.shared.hits.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.sockets).len()
    }

    /// The request that came last.
    pub(crate) fn last(&self) -> Seen {
        lock(&self.shared.last).clone().expect("a request")
    }

    /// Ends all its connections with a reset, as a killed process with unread data does.
    pub(crate) fn kill_connections(&self) {
        for (_, socket) in lock(&self.shared.sockets).drain() {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        for (_, socket) in lock(&self.shared.sockets).drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let faults = std::mem::take(&mut *lock(&self.shared.faults));
        if !thread::panicking() {
            assert!(faults.is_empty(), "at the backend: {faults:#?}");
        }
    }
}

impl Shared {
    fn fault(&self, what: String) {
        lock(&self.faults).push(what);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Requests and replies on one connection until it ends.
fn converse(
    mut stream: TcpStream,
    number: usize,
    shared: &Arc<Shared>,
    script: &impl Fn(&Seen) -> Reply,
) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        match read_request(&mut stream, &mut buffer) {
            Ok(Some(seen)) => {
                let reply = script(&seen);
                *lock(&shared.last) = Some(seen);
                shared.hits.fetch_add(1, Ordering::SeqCst);
                if !play(&mut stream, number, &reply, shared) {
                    return;
                }
            }
            Ok(None) => return,
            Err(what) => {
                if !shared.tolerant.load(Ordering::SeqCst) && !shared.is_stopped() {
                    shared.fault(what);
                }
                return;
            }
        }
    }
}

/// Whether the connection goes on.
fn play(stream: &mut TcpStream, number: usize, reply: &Reply, shared: &Arc<Shared>) -> bool {
    for step in &reply.0 {
        match step {
            Step::Send(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return false;
                }
            }
            Step::Wait(delay) => {
                let never = Latch::default();
                let end = Instant::now() + *delay;
                never.pass(|| Instant::now() + Duration::from_millis(20) > end);
                thread::sleep(end.saturating_duration_since(Instant::now()));
            }
            Step::Until(latch) => latch.pass(|| shared.is_stopped()),
            Step::Hang => {
                let mut sink = [0; 1024];
                while matches!(stream.read(&mut sink), Ok(read) if read > 0) {}
                return false;
            }
            Step::Close | Step::Reset => {
                if matches!(step, Step::Reset) {
                    let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                } else {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                lock(&shared.sockets).remove(&number);
                return false;
            }
        }
    }
    true
}

/// `Ok(None)`: the connection ended between requests.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Seen>, String> {
    let Some(head) = until(stream, buffer, b"\r\n\r\n") else {
        return match &buffer[..] {
            [] => Ok(None),
            cut => Err(format!("a head was cut: {:?}", String::from_utf8_lossy(cut))),
        };
    };
    let Some(target) = head.split(' ').nth(1).map(str::to_owned) else {
        return Err(format!("not a request: {head:?}"));
    };
    let cut = || format!("a body was cut after {head:?}");
    if header(&head, "transfer-encoding").is_some() {
        loop {
            let line = until(stream, buffer, b"\r\n").ok_or_else(cut)?;
            let size = usize::from_str_radix(line.trim(), 16);
            let size = size.map_err(|_| format!("not a chunk size: {line:?}"))?;
            if size == 0 {
                break;
            }
            skip(stream, buffer, size + 2).ok_or_else(cut)?;
        }
        // Trailers, up to an empty line.
        while until(stream, buffer, b"\r\n").ok_or_else(cut)? != "\r\n" {}
    } else if let Some(length) = header(&head, "content-length") {
        let length = length.parse().map_err(|_| format!("no length: {head:?}"))?;
        skip(stream, buffer, length).ok_or_else(cut)?;
    }
    Ok(Some(Seen { target }))
}

/// What comes, up to and with `end`; `None` if the connection ends before.
fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<String> {
    loop {
        if let Some(start) = find(buffer, end) {
            let taken: Vec<u8> = buffer.drain(..start + end.len()).collect();
            return Some(String::from_utf8_lossy(&taken).into_owned());
        }
        fill(stream, buffer)?;
    }
}

/// Takes `length` bytes; `None` if the connection ends before.
fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Option<()> {
    while buffer.len() < length {
        fill(stream, buffer)?;
    }
    buffer.drain(..length);
    Some(())
}

/// Reads once more; `None` at the connection's end, however it came.
fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 16 * 1024];
    let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
    buffer.extend_from_slice(&piece[..read]);
    Some(())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
