//! The demo's legacy backend: an HTTP/1.1 server that gives each request a thread, and blocks it.
//!
//! It owns a fixed pool of threads, the queue in front of them and the blocking "driver call". It is what a migration
//! starts from, so it blocks for real: sockets, queue and driver stop the thread. In one thing it is better than the plain
//! textbook server, as Puma and gunicorn's `gthread` are: a thread that waits for the *next* request of a keep-alive
//! connection puts the connection back into the queue when others wait, so that idle connections cannot pin the pool.
//!
//! It serves the demo and nothing else: no `Date`, no `100 Continue`, and 411 for a chunked body.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::time::Instant;

/// How long a connection may be silent, between requests and within one. A proxy must give up idle connections earlier.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a blocked thread looks up: at the stop flag, and at the queue while its connection is idle.
const POLL: Duration = Duration::from_millis(5);
/// Connections that wait for a thread; beyond it they wait in the kernel's accept queue.
const QUEUE_DEPTH: usize = 512;
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// A larger request body is refused with 413.
pub(crate) const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// A refused body is still read when it is no larger than this, so that no connection reset overtakes the reply.
pub(crate) const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A running legacy backend. Dropped, it ends in the background; `stop` waits for that.
#[derive(Debug)]
pub struct Legacy {
    address: SocketAddr,
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
}

/// What the accepting thread and the workers share.
#[derive(Debug, Default)]
struct Pool {
    queue: Mutex<Queue>,
    changed: Condvar,
    busy: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    connections: VecDeque<Connection>,
    stopped: bool,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    silent_until: Instant,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    path: String,
    body_bytes: u64,
    keep_alive: bool,
}

/// Starts the backend on `address`, with `threads` threads (at least one).
///
/// # Errors
/// When the system refuses the socket or a thread.
pub fn start(address: SocketAddr, threads: usize) -> io::Result<Legacy> {
    let listener = TcpListener::bind(address)?;
    // On Linux `accept` keeps to this too, so that the accepting thread sees the stop flag.
    SockRef::from(&listener).set_read_timeout(Some(10 * POLL))?;
    let address = listener.local_addr()?;
    let mut legacy = Legacy { address, pool: Arc::default(), threads: Vec::new() };
    let accept = move |pool: &Pool| accept(&listener, pool);
    legacy.spawn("legacy-accept".to_owned(), accept)?;
    for number in 0..threads.max(1) {
        legacy.spawn(format!("legacy-{number}"), work)?;
    }
    Ok(legacy)
}

/// The call into a "database driver" that holds its thread for 5 to 20 ms. The successor makes the same call.
#[expect(clippy::disallowed_methods, reason = "blocking is the point")]
pub(crate) fn fetch_order(id: &str) -> Value {
    let mix = |seed: u64, byte: u8| seed.wrapping_mul(31).wrapping_add(byte.into());
    let seed = id.bytes().fold(17, mix);
    thread::sleep(Duration::from_millis(5 + seed % 16));
    json!({ "order": id, "cents": 100 + seed % 9900, "state": "paid" })
}

/// The id in `/orders/{id}`, which is one segment and not empty.
pub(crate) fn order_id(path: &str) -> Option<&str> {
    path.strip_prefix("/orders/").filter(|id| !id.is_empty() && !id.contains('/'))
}

// === impl Legacy ===

impl Legacy {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Threads that work on a request now.
    pub fn busy(&self) -> usize {
        self.pool.busy.load(Ordering::Relaxed)
    }

    /// Stops accepting, answers the requests that have begun, closes every connection and waits for the threads.
    /// Blocks: not for async code.
    pub fn stop(mut self) {
        self.pool.stop();
        for thread in self.threads.drain(..) {
            // An error is a panic of that thread, which the panic hook has reported.
            let _ = thread.join();
        }
    }

    fn spawn(&mut self, name: String, run: impl FnOnce(&Pool) + Send + 'static) -> io::Result<()> {
        let pool = Arc::clone(&self.pool);
        let thread = thread::Builder::new().name(name);
        self.threads.push(thread.spawn(move || run(&pool))?);
        Ok(())
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

// === impl Pool ===

impl Pool {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.queue().stopped = true;
        self.changed.notify_all();
    }

    fn put(&self, connection: Connection) {
        self.queue().connections.push_back(connection);
        self.changed.notify_one();
    }

    /// Waits for a connection; `None` once the backend is stopped and the queue empty.
    fn take(&self) -> Option<Connection> {
        let idle = |queue: &mut Queue| queue.connections.is_empty() && !queue.stopped;
        let queue = self.changed.wait_while(self.queue(), idle);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.connections.pop_front()
    }

    fn answer(&self, head: &Head) -> (u16, Value) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let found = match (head.method.as_str(), head.path.as_str()) {
            ("GET" | "HEAD", "/") => Some(json!({ "backend": "legacy", "runs_on": "threads" })),
            ("GET" | "HEAD", "/healthz") => Some(json!({ "status": "ok" })),
            ("GET" | "HEAD", path) => order_id(path).map(fetch_order),
            _ => None,
        };
        self.busy.fetch_sub(1, Ordering::Relaxed);
        let missing = || (404, json!({ "error": "not found" }));
        found.map_or_else(missing, |body| (200, body))
    }
}

fn accept(listener: &TcpListener, pool: &Pool) {
    while !pool.queue().stopped {
        if pool.queue().connections.len() >= QUEUE_DEPTH {
            thread::park_timeout(POLL);
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => Connection::new(stream).map_or((), |it| pool.put(it)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Out of descriptors, or a connection that died in the queue: it passes.
            Err(_) => thread::park_timeout(POLL),
        }
    }
}

fn work(pool: &Pool) {
    while let Some(connection) = pool.take() {
        if let Some(open) = turn(connection, pool) {
            pool.put(open);
        }
    }
}

/// Answers one request. Gives the connection back when it stays open, or is silent while others wait.
fn turn(mut connection: Connection, pool: &Pool) -> Option<Connection> {
    while connection.buffer.is_empty() && !connection.read().ok()? {
        let queue = pool.queue();
        if queue.stopped {
            return None;
        }
        if !queue.connections.is_empty() {
            return Some(connection);
        }
    }
    let received = connection.receive();
    let (status, body) = match &received {
        Ok(head) => pool.answer(head),
        Err(status) => (*status, json!({ "error": "refused" })),
    };
    let body = body.to_string();
    // A refused request may have left bytes unread, so its connection ends.
    let keep_alive = received.as_ref().is_ok_and(|head| head.keep_alive) && !pool.queue().stopped;
    let mut reply = reply_head(status, body.len(), keep_alive);
    if !received.is_ok_and(|head| head.method == "HEAD") {
        reply.push_str(&body);
    }
    connection.stream.write_all(reply.as_bytes()).ok()?;
    connection.silent_until = Instant::now() + IDLE_TIMEOUT;
    keep_alive.then_some(connection)
}

// === impl Connection ===

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(IDLE_TIMEOUT))?;
        Ok(Self { stream, buffer: Vec::new(), silent_until: Instant::now() + IDLE_TIMEOUT })
    }

    /// Reads a head, and its body to discard it. An error is the status of the refusal.
    fn receive(&mut self) -> Result<Head, u16> {
        let end = loop {
            let mut windows = self.buffer.windows(4);
            match windows.position(|bytes| bytes == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.buffer.len() > HEAD_BYTES_MAX => return Err(431),
                // If the client is gone instead, the 408 fails to reach it and does no harm.
                None => self.fill().map_err(|_| 408_u16)?,
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = parse(&String::from_utf8_lossy(&head))?;
        if head.body_bytes <= LINGER_BYTES_MAX {
            self.skip(head.body_bytes).map_err(|_| 408_u16)?;
        }
        let fits = head.body_bytes <= BODY_BYTES_MAX;
        fits.then_some(head).ok_or(413)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            if self.buffer.is_empty() {
                self.fill()?;
            }
            let count = bytes.min(self.buffer.len() as u64);
            self.buffer.drain(..count as usize);
            bytes -= count;
        }
        Ok(())
    }

    /// Reads at least a byte, or gives up after the idle timeout.
    fn fill(&mut self) -> io::Result<()> {
        self.silent_until = Instant::now() + IDLE_TIMEOUT;
        while !self.read()? {}
        Ok(())
    }

    /// Blocks for up to [`POLL`]. Returns whether anything came; an error when the connection is over.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        if Instant::now() >= self.silent_until {
            return Err(ErrorKind::TimedOut.into());
        }
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// An error is the status of the refusal.
fn parse(text: &str) -> Result<Head, u16> {
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let request_line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let &[method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = request_line.as_slice() else {
        return Err(400);
    };
    let mut head = Head {
        method: method.to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        body_bytes: 0,
        keep_alive: version == "HTTP/1.1",
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            // A sign is not a digit (RFC 9112 6.2), though `parse` takes it.
            "content-length" if value.starts_with('+') => return Err(400),
            "content-length" => head.body_bytes = value.parse().map_err(|_| 400_u16)?,
            "transfer-encoding" => return Err(411),
            "connection" if value.eq_ignore_ascii_case("close") => head.keep_alive = false,
            _ => {}
        }
    }
    Ok(head)
}

fn reply_head(status: u16, body_bytes: usize, keep_alive: bool) -> String {
    let kept = "keep-alive\r\nKeep-Alive: timeout=5";
    let connection = if keep_alive { kept } else { "close" };
    format!(
        "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {body_bytes}\r\n\
         X-Backend: legacy\r\nConnection: {connection}\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    use super::*;

    /// Sends `requests` and returns all that comes back until the backend closes.
    fn exchange(legacy: &Legacy, requests: &str) -> String {
        let mut stream = TcpStream::connect(legacy.address()).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        replies
    }

    #[test]
    fn requests_in_one_packet_are_answered_in_turn_on_one_connection() {
        let legacy = start(ANY, 1).unwrap();
        let first = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let second = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let replies = exchange(&legacy, &format!("{first}{second}"));
        assert_eq!(replies.matches("HTTP/1.1 ").count(), 2, "{replies}");
        assert!(replies.starts_with("HTTP/1.1 404 "), "{replies}");
        assert!(replies.contains("HTTP/1.1 200 ") && replies.contains("X-Backend: legacy"));
        legacy.stop();
    }

    #[test]
    fn an_unfit_request_is_refused_and_ends_its_connection() {
        let legacy = start(ANY, 1).unwrap();
        for (header, status) in [
            ("no header", 400),
            ("Content-Length: +1", 400),
            ("Transfer-Encoding: chunked", 411),
            ("Content-Length: 99999999999", 413),
        ] {
            let reply = exchange(&legacy, &format!("GET / HTTP/1.1\r\n{header}\r\n\r\n"));
            let status = format!("HTTP/1.1 {status} ");
            assert!(reply.starts_with(&status), "{header}: {reply}");
        }
        legacy.stop();
    }

    #[test]
    fn idle_connections_cannot_pin_the_threads() {
        let legacy = start(ANY, 1).unwrap();
        let connect = |_| TcpStream::connect(legacy.address()).unwrap();
        let silent: Vec<_> = (0..4).map(connect).collect();
        let began = Instant::now();
        let reply = exchange(&legacy, "GET /orders/1 HTTP/1.0\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(began.elapsed() < IDLE_TIMEOUT);
        assert_eq!((legacy.busy(), silent.len()), (0, 4));
        legacy.stop();
    }
}
