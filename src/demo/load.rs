//! The demo's client: a light load that arrives by the clock, whatever becomes of the replies.
//!
//! It owns the schedule, a small pool of connections and the counts by which the demo says that nothing was lost. It is an
//! open loop, because a closed one slows down with the proxy and so hides what users would feel. And it is honest: no
//! request goes out twice. Only one that was not written at all, because its pooled connection turned out to be closed,
//! goes on a fresh connection.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// Requests under way at once; an arrival beyond it is skipped.
const IN_FLIGHT_MAX: usize = 256;
/// A higher rate is cut to this: one thread could not keep to it.
const PER_SECOND_MAX: u32 = 20_000;
/// Longer than the 1 s after which the kernel repeats a handshake that a draining proxy let drop.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the arrival to the last byte of the reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections beyond this age are not used again: their peer may be closing them just now.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `stop` waits for replies.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running load. Dropped, it ends in the background; `stop` waits for that.
#[derive(Debug)]
pub struct Load {
    client: Arc<Client>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What became of the arrivals so far. Once the load is stopped, `sent` is the sum of `ok`, `refused`, `failed` and
/// `after_close`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrivals for which a request was begun.
    pub sent: u64,
    /// Whole replies with a status from 200 to 399.
    pub ok: u64,
    /// Whole replies with another status, by status.
    pub refused: BTreeMap<u16, u64>,
    /// No whole reply: not connected, cut off or timed out.
    pub failed: u64,
    /// Connections refused by a target that had accepted one before: it has closed its listener.
    pub after_close: u64,
    /// Arrivals while too many requests were under way; nothing was sent for them.
    pub skipped: u64,
    /// Replies that name the legacy backend in `X-Backend`.
    pub legacy: u64,
    /// Replies that name the async backend in `X-Backend`.
    pub async_: u64,
}

#[derive(Debug)]
struct Client {
    target: SocketAddr,
    host: HeaderValue,
    reached: AtomicBool,
    /// Last in, first out, so that connections which are not needed grow old and go.
    idle: Mutex<Vec<(Connection, Instant)>>,
    counts: Mutex<Counts>,
}

type Message = Request<Empty<Bytes>>;
type Connection = SendRequest<Empty<Bytes>>;

enum Fault {
    Failed,
    AfterClose,
}

/// Starts to send `GET /orders/{n}` to `target`, `per_second` times a second; 0 sends nothing.
///
/// # Errors
/// When the system refuses the thread or its runtime.
pub fn start(target: SocketAddr, per_second: u32) -> io::Result<Load> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let client = Arc::new(Client::new(target));
    let (stop, stopped) = oneshot::channel();
    let load = run(Arc::clone(&client), per_second, stopped);
    let name = "load".to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || runtime.block_on(load))?;
    Ok(Load { client, stop, thread })
}

// === impl Load ===

impl Load {
    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.client.counts().clone()
    }

    /// Ends the arrivals, waits up to ten seconds for what is in flight, and counts the rest as failed.
    /// Blocks: not for async code.
    pub fn stop(self) -> Counts {
        // The load may be gone already.
        let _ = self.stop.send(());
        // An error is a panic of that thread, which the panic hook has reported.
        let _ = self.thread.join();
        self.client.counts().clone()
    }
}

// === impl Counts ===

impl Counts {
    /// Requests that have no outcome yet.
    pub fn in_flight(&self) -> u64 {
        let refused: u64 = self.refused.values().sum();
        self.sent.saturating_sub(self.ok + refused + self.failed + self.after_close)
    }

    fn record(&mut self, outcome: &Result<Parts, Fault>) {
        match outcome {
            Ok(reply) => self.record_reply(reply),
            Err(Fault::Failed) => self.failed += 1,
            Err(Fault::AfterClose) => self.after_close += 1,
        }
    }

    fn record_reply(&mut self, reply: &Parts) {
        match reply.status.as_u16() {
            200..=399 => self.ok += 1,
            status => *self.refused.entry(status).or_default() += 1,
        }
        match reply.headers.get("x-backend").map(HeaderValue::as_bytes) {
            Some(b"legacy") => self.legacy += 1,
            Some(b"async") => self.async_ += 1,
            Some(_) | None => {}
        }
    }
}

// === impl Client ===

impl Client {
    fn new(target: SocketAddr) -> Self {
        let host = HeaderValue::try_from(target.to_string());
        Self {
            target,
            host: host.expect("an address is made of visible ASCII"),
            reached: AtomicBool::new(false),
            idle: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self, number: u64) -> Result<Parts, Fault> {
        let mut message = self.message(number);
        if let Some(mut pooled) = self.pooled() {
            match pooled.try_send_request(message).await {
                Ok(reply) => return self.receive(pooled, reply).await,
                Err(mut error) => message = error.take_message().ok_or(Fault::Failed)?,
            }
        }
        let mut fresh = self.connect().await?;
        let reply = fresh.send_request(message).await.map_err(|_| Fault::Failed)?;
        self.receive(fresh, reply).await
    }

    fn message(&self, number: u64) -> Message {
        let uri = Uri::try_from(format!("/orders/{number}"));
        let mut message = Request::new(Empty::new());
        *message.uri_mut() = uri.expect("digits make a valid path");
        message.headers_mut().insert(HOST, self.host.clone());
        message
    }

    /// The connection used last that is still open and young enough.
    fn pooled(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|(connection, since)| {
            !connection.is_closed() && since.elapsed() < POOL_IDLE_TIMEOUT
        });
        idle.pop().map(|(connection, _)| connection)
    }

    #[expect(clippy::disallowed_methods, reason = "ends with its connection, or with the runtime")]
    async fn connect(&self) -> Result<Connection, Fault> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.target)).await;
        let stream = connected.map_err(|_| Fault::Failed)?.map_err(|error| self.fault(&error))?;
        self.reached.store(true, Ordering::Relaxed);
        // Without it requests are late, not wrong.
        let _ = stream.set_nodelay(true);
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (connection, driver) = handshake.map_err(|_| Fault::Failed)?;
        // Its errors reach the request too, where they count.
        tokio::spawn(driver);
        Ok(connection)
    }

    fn fault(&self, error: &io::Error) -> Fault {
        let refused = error.kind() == ErrorKind::ConnectionRefused;
        if refused && self.reached.load(Ordering::Relaxed) {
            Fault::AfterClose
        } else {
            Fault::Failed
        }
    }

    /// Reads the reply to its end, and keeps the connection when it may be used again.
    async fn receive(
        &self,
        mut connection: Connection,
        reply: Response<Incoming>,
    ) -> Result<Parts, Fault> {
        let (head, mut body) = reply.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| Fault::Failed)?;
        }
        if connection.ready().await.is_ok() {
            self.idle().push((connection, Instant::now()));
        }
        Ok(head)
    }
}

async fn run(client: Arc<Client>, per_second: u32, mut stop: oneshot::Receiver<()>) {
    let mut requests = JoinSet::new();
    if let Some(mut arrivals) = schedule(per_second) {
        let mut number = 0_u64;
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                _ = arrivals.tick() => number += 1,
            }
            while requests.try_join_next().is_some() {}
            if requests.len() < IN_FLIGHT_MAX {
                client.counts().sent += 1;
                requests.spawn(request(Arc::clone(&client), number));
            } else {
                client.counts().skipped += 1;
            }
        }
    } else {
        // An error is the handle's drop, and ends the load too.
        let _ = stop.await;
    }
    let finished = async { while requests.join_next().await.is_some() {} };
    let _ = timeout(STOP_TIMEOUT, finished).await;
    requests.shutdown().await;
    let mut counts = client.counts();
    counts.failed += counts.in_flight();
}

/// Arrivals that the loop was late for come in a burst: the schedule stands.
fn schedule(per_second: u32) -> Option<Interval> {
    let period = Duration::from_secs(1).checked_div(per_second.min(PER_SECOND_MAX))?;
    let mut arrivals = interval(period);
    arrivals.set_missed_tick_behavior(MissedTickBehavior::Burst);
    Some(arrivals)
}

async fn request(client: Arc<Client>, number: u64) {
    let outcome = timeout(REPLY_TIMEOUT, client.exchange(number)).await;
    let outcome = outcome.unwrap_or(Err(Fault::Failed));
    client.counts().record(&outcome);
}

#[cfg(test)]
mod tests {
    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::demo::{async_, legacy};

    /// Follows the counts until `done`, for ten seconds at most.
    fn wait_until(load: &Load, done: impl Fn(&Counts) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&load.counts()) {
            assert!(Instant::now() < deadline, "{:?}", load.counts());
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn each_request_has_one_outcome_and_names_its_backend() {
        let backend = legacy::start(ANY, 4).unwrap();
        let load = start(backend.address(), 200).unwrap();
        wait_until(&load, |counts| counts.ok >= 20);
        let counts = load.stop();
        assert_eq!((counts.ok, counts.legacy), (counts.sent, counts.sent));
        assert_eq!((counts.in_flight(), counts.async_), (0, 0));
        backend.stop();
    }

    #[test]
    fn what_a_closed_listener_refuses_is_counted_apart() {
        let backend = async_::start(ANY).unwrap();
        let load = start(backend.address(), 200).unwrap();
        wait_until(&load, |counts| counts.async_ >= 5);
        backend.stop();
        wait_until(&load, |counts| counts.after_close >= 5);
        let counts = load.stop();
        assert_eq!(counts.in_flight(), 0);
        assert!(counts.refused.is_empty(), "{counts:?}");
    }

    #[test]
    fn a_target_that_was_never_there_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = listener.local_addr().unwrap();
        drop(listener);
        let load = start(gone, 500).unwrap();
        wait_until(&load, |counts| counts.failed >= 3);
        let counts = load.stop();
        assert_eq!((counts.failed, counts.after_close), (counts.sent, 0));
    }

    #[test]
    fn slow_replies_do_not_delay_arrivals_and_the_excess_is_skipped() {
        // Its accept queue takes connections, and nobody answers them.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let load = start(silent.local_addr().unwrap(), 5_000).unwrap();
        wait_until(&load, |counts| counts.skipped >= 10);
        assert_eq!(load.counts().sent, IN_FLIGHT_MAX as u64);
        drop(silent);
        let counts = load.stop();
        assert_eq!(counts.failed + counts.after_close, counts.sent);
    }

    /// Takes the next connection, answers one request with `reply` and closes.
    fn answer_one(listener: &TcpListener, reply: &str) {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(reply.as_bytes()).unwrap();
    }

    #[test]
    fn a_closed_pooled_connection_is_replaced_and_a_refusal_counted_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let load = start(listener.local_addr().unwrap(), 10).unwrap();
        answer_one(&listener, "HTTP/1.1 204 No Content\r\n\r\n");
        answer_one(&listener, "HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n");
        wait_until(&load, |counts| !counts.refused.is_empty());
        let counts = load.counts();
        assert_eq!((counts.ok, counts.failed), (1, 0));
        assert_eq!(counts.refused, BTreeMap::from([(503, 1)]));
        drop(listener);
        load.stop();
    }

    #[test]
    fn a_rate_of_zero_sends_nothing() {
        let load = start("127.0.0.1:9".parse().unwrap(), 0).unwrap();
        assert_eq!(load.stop(), Counts::default());
    }
}
