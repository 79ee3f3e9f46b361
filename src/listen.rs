//! Accepting: from the listening sockets, spread over the workers, and stopped without losing a
//! handshake.
//!
//! Each worker has sockets of its own, so accepting takes no lock. The kernel spreads connections by
//! hash, which is lopsided while they are few: a worker that has more than the least loaded one
//! hands a fresh connection over. Closing such a socket would reset what waits in its queue, so it is
//! first made deaf to new handshakes and emptied; one that a successor or systemd has, too, is just let go of.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::metrics::shard::Shard;
use crate::quota::Quota;
use crate::relief::Relief;
use crate::sockets::{BACKLOG, BoundSocket};

/// Connections that may be on their way from one worker to another.
const MAILBOX: usize = 1024;
/// How long a deaf socket waits for handshakes under way: twice a long round trip.
const DEAF: Duration = Duration::from_millis(250);
/// How long accepting pauses when it can't go on.
const BACK_OFF: Duration = Duration::from_millis(50);

// === Crew ===

/// A connection on its way to the worker that will serve it.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: std::net::TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// What the client reached.
    pub local: HeaderValue,
    seat: Seat,
}

/// All workers: how many connections each has, and how to hand one over.
#[derive(Debug)]
pub struct Crew {
    loads: Box<[Load]>,
    open: AtomicUsize,
    accepting: AtomicUsize,
    quota: Arc<Quota>,
    relief: Relief,
    mailboxes: Vec<mpsc::Sender<Arrival>>,
}

// A cache line each: every accept writes one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Load(AtomicUsize);

/// One connection's place at a worker; given up when dropped.
#[derive(Debug)]
pub struct Seat {
    crew: Arc<Crew>,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crew.open.fetch_sub(1, Ordering::Relaxed);
        self.crew.loads[self.worker].0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    /// A crew of `workers` that `relief` ends, with each worker's mailbox.
    #[must_use]
    pub fn new(workers: usize, relief: Relief) -> (Arc<Self>, Vec<mpsc::Receiver<Arrival>>) {
        let (mailboxes, receivers) = (0..workers).map(|_| mpsc::channel(MAILBOX)).unzip();
        let loads = (0..workers).map(|_| Load::default()).collect();
        (
            Arc::new(Self {
                loads,
                open: AtomicUsize::new(0),
                accepting: AtomicUsize::new(0),
                quota: Arc::default(),
                relief,
                mailboxes,
            }),
            receivers,
        )
    }

    /// The connections of each client address.
    #[must_use]
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Whether a successor has taken over.
    #[must_use]
    pub fn relief(&self) -> &Relief {
        &self.relief
    }

    /// Open connections of all workers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether any worker may still accept, and so hand over, a connection.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) > 0
    }

    /// A seat for a fresh connection that `own` accepted, if fewer than `max` are taken: with the
    /// least loaded worker if `own` has more than it.
    fn seat(self: &Arc<Self>, own: usize, max: usize) -> Option<Seat> {
        let taken = |open: usize| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let load = |worker: usize| self.loads[worker].0.load(Ordering::Relaxed);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(own);
        let worker = if load(own) > load(least) { least } else { own };
        self.loads[worker].0.fetch_add(1, Ordering::Relaxed);
        Some(Seat { crew: self.clone(), worker })
    }
}

// === Accepting ===

/// One worker's end of one address.
#[derive(Debug)]
pub struct Acceptor {
    // Until it runs.
    listener: Option<std::net::TcpListener>,
    address: SocketAddr,
    is_kept: bool,
    _lock: Option<Arc<UnixListener>>,
    local: HeaderValue,
    worker: usize,
    crew: Arc<Crew>,
    shard: Arc<Shard>,
}

impl Acceptor {
    /// Accepts from `socket` for worker `worker`.
    ///
    /// # Errors
    /// When the socket is none.
    pub fn new(
        socket: BoundSocket,
        worker: usize,
        crew: Arc<Crew>,
        shard: Arc<Shard>,
    ) -> io::Result<Self> {
        let BoundSocket { listener, is_kept, lock } = socket;
        let address = listener.local_addr()?;
        let local = HeaderValue::try_from(address.to_string()).map_err(io::Error::other)?;
        crew.accepting.fetch_add(1, Ordering::Relaxed);
        let listener = Some(listener);
        Ok(Self { listener, address, is_kept, _lock: lock, local, worker, crew, shard })
    }

    /// Accepts until `stop` is done, then empties the socket and closes it, unless a successor has it. `max`
    /// is asked for the most connections; `serve` gets those that stay with this worker.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        max: impl Fn() -> usize,
        serve: impl Fn(TcpStream, SocketAddr, HeaderValue, Seat),
    ) {
        let mut stop = std::pin::pin!(stop);
        let listener = match self.listen() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, address = %self.address, "can't listen");
                return;
            }
        };
        loop {
            let (stream, peer) = tokio::select! {
                () = &mut stop => break,
                accepted = self.accept(&listener, &max) => accepted,
            };
            // What was accepted is served, also when a drain begins while it waits for a seat.
            let (seat, stopped) = tokio::select! {
                () = &mut stop => (self.wait_for_seat(&|| usize::MAX).await, true),
                seat = self.wait_for_seat(&max) => (seat, false),
            };
            self.place(stream, peer, seat, &serve);
            if stopped {
                break;
            }
        }
        // What waits in it is served by whoever has it then.
        if self.is_kept || self.crew.relief.has_taken(self.address) {
            return;
        }
        if let Err(error) = deafen(&listener) {
            tracing::warn!(%error, "can't hold back handshakes; some may be reset");
        }
        let end = Instant::now() + DEAF;
        while let Ok((stream, peer)) = timeout_at(end, self.accept(&listener, &|| usize::MAX)).await
        {
            let seat = self.wait_for_seat(&|| usize::MAX).await;
            self.place(stream, peer, seat, &serve);
        }
    }

    /// The socket, in the runtime's hands. One that was only reserved listens from now on, and not before: a
    /// socket that does not is one that was hung up, to the runtime.
    fn listen(&mut self) -> io::Result<TcpListener> {
        let listener = self.listener.take().ok_or(io::ErrorKind::NotConnected)?;
        SockRef::from(&listener).listen(BACKLOG)?;
        TcpListener::from_std(listener)
    }

    /// The next connection. Cancel safe.
    async fn accept(
        &self,
        listener: &TcpListener,
        max: &impl Fn() -> usize,
    ) -> (TcpStream, SocketAddr) {
        loop {
            if self.crew.connections() >= max() {
                self.shard.connections_held_back.add(1);
                sleep(BACK_OFF).await;
                continue;
            }
            match listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    self.shard.accept_failures.add(1);
                    tracing::error!(%error, "can't accept connections");
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Another worker may have taken the last seat meanwhile: the connection then waits here, as
    /// it would in the accept queue.
    async fn wait_for_seat(&self, max: &impl Fn() -> usize) -> Seat {
        loop {
            if let Some(seat) = self.crew.seat(self.worker, max()) {
                return seat;
            }
            self.shard.connections_held_back.add(1);
            sleep(BACK_OFF).await;
        }
    }

    fn place(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: Seat,
        serve: &impl Fn(TcpStream, SocketAddr, HeaderValue, Seat),
    ) {
        let target = seat.worker;
        if target == self.worker {
            serve(stream, peer, self.local.clone(), seat);
            return;
        }
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let arrival = Arrival { stream, peer, local: self.local.clone(), seat };
        // A full or closed mailbox belongs to a worker that is stuck or gone: we serve it.
        if let Err(refused) = self.crew.mailboxes[target].try_send(arrival) {
            let (mpsc::error::TrySendError::Full(arrival)
            | mpsc::error::TrySendError::Closed(arrival)) = refused;
            arrival.serve(serve);
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Release: whoever sees the count at zero sees all that was handed over before.
        self.crew.accepting.fetch_sub(1, Ordering::Release);
    }
}

impl Arrival {
    /// Registers the connection with this thread's runtime, and gives it to `serve`.
    pub fn serve(self, serve: &impl Fn(TcpStream, SocketAddr, HeaderValue, Seat)) {
        if let Ok(stream) = TcpStream::from_std(self.stream) {
            serve(stream, self.peer, self.local, self.seat);
        }
    }
}

/// Errors of one connection, which says nothing of the next; all others are of our resources.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(libc::EPROTO)
}

/// Drops new handshakes (SYN without ACK) before the socket sees them, so that no client gets a
/// reset and each tries again; handshakes under way still complete.
fn deafen(listener: &TcpListener) -> io::Result<()> {
    // The flags of a TCP header are its 14th byte: SYN is 0x02, ACK is 0x10.
    let filter = [
        SockFilter::new(0x30, 0, 0, 13),          // load byte 13
        SockFilter::new(0x54, 0, 0, 0x12),        // and SYN | ACK
        SockFilter::new(0x15, 0, 1, 0x02),        // if SYN alone
        SockFilter::new(0x06, 0, 0, 0),           // drop
        SockFilter::new(0x06, 0, 0, 0xffff_ffff), // else keep all
    ];
    SockRef::from(listener).attach_filter(&filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_eight_and_sixty_four_connections_spread_to_within_one() {
        for connections in [3, 8, 64] {
            let (crew, _mailboxes) = Crew::new(2, Relief::default());
            // The worst case of the kernel's hash: all at one worker.
            let seats: Vec<Seat> =
                (0..connections).filter_map(|_| crew.seat(0, connections)).collect();
            assert!(crew.seat(0, connections).is_none(), "one too many");
            let loads: Vec<_> = crew.loads.iter().map(|l| l.0.load(Ordering::Relaxed)).collect();
            assert!(loads[0].abs_diff(loads[1]) <= 1, "{connections}: {loads:?}");
            drop(seats);
            assert_eq!(crew.connections(), 0);
        }
    }
}
