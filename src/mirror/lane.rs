//! The mirror's own connections: it takes none from the workers, and has no more than it may.
//!
//! A connection that carries one request at a time is kept a while for the next; one of HTTP/2 is shared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{PathFault, ProxyError};
use crate::metrics::mirror::MirrorMetrics;
use crate::upstream::conn::{self, Connection, Opened};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::reach::Dialect;
use crate::upstream::unsent::{STALE_WITHIN, SendError};
use crate::upstream::{http1, http2};
use crate::vocab::Side;
use crate::wire::joined::Scratch;

/// Where a connection leads, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The path.
    pub side: Side,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// How long a connection may be idle.
    pub idle_for: Duration,
}

/// The connections.
#[derive(Debug)]
pub struct Lanes {
    metrics: Arc<MirrorMetrics>,
    scratch: Scratch,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Leased {
    /// The connection.
    pub connection: Connection,
    /// Whether another request was there before.
    pub is_used: bool,
    lane: Lane,
    open: Rc<Open>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NoLane {
    /// There are as many as there may be, all busy.
    Full,
    /// None comes up.
    Failed(ProxyError),
}

#[derive(Debug)]
struct Idle {
    connection: http1::Connection,
    lane: Lane,
    since: Instant,
    open: Rc<Open>,
}

#[derive(Debug)]
struct Shared {
    connection: http2::Connection,
    lane: Lane,
    since: Instant,
    open: Rc<Open>,
}

/// Counts a connection for as long as it is there.
#[derive(Debug)]
struct Open {
    metrics: Arc<MirrorMetrics>,
    side: Side,
}

impl Open {
    fn new(metrics: Arc<MirrorMetrics>, side: Side) -> Rc<Self> {
        metrics.side(side).connections.add(1);
        Rc::new(Self { metrics, side })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.side(self.side).connections.sub(1);
    }
}

impl Leased {
    /// Whether a request that failed here may go on elsewhere, which says nothing of the path: it was not
    /// processed, or its connection was closed while it was idle.
    #[must_use]
    pub fn may_move(&self, error: SendError, sent_at: Instant, is_safe: bool) -> bool {
        match error {
            SendError::Unprocessed => true,
            SendError::Failed(PathFault::Reset) => {
                let is_stale = self.is_used && !self.connection.is_shared();
                is_stale && is_safe && sent_at.elapsed() < STALE_WITHIN
            }
            SendError::Failed(_) => false,
        }
    }
}

impl Lane {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && self.side == other.side
            && self.dialect == other.dialect
    }
}

impl Lanes {
    /// None yet.
    #[must_use]
    pub fn new(metrics: Arc<MirrorMetrics>, scratch: Scratch) -> Self {
        Self { metrics, scratch, idle: RefCell::default(), shared: RefCell::default() }
    }

    /// A connection among at most `max`: one that is there, unless a `fresh` one is needed, or a new one.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn lease(&self, lane: Lane, max: usize, fresh: bool) -> Result<Leased, NoLane> {
        if let Some(leased) = self.shared_one(&lane) {
            return Ok(leased);
        }
        if !fresh && let Some(leased) = self.idle_one(&lane) {
            return Ok(leased);
        }
        while self.number() >= max {
            let mut idle = self.idle.borrow_mut();
            if idle.is_empty() {
                return Err(NoLane::Full);
            }
            // The one that was not needed for longest.
            idle.remove(0);
        }
        let open = Open::new(self.metrics.clone(), lane.side);
        let opened = conn::open(&lane.endpoint, &lane.dialect, self.scratch.clone()).await;
        let connection = match opened.map_err(NoLane::Failed)? {
            Opened::Http1(connection) => Connection::Http1(connection),
            Opened::Http2(connection) => {
                let stream = connection.stream();
                let (lane, open, since) = (lane.clone(), open.clone(), Instant::now());
                self.shared.borrow_mut().push(Shared { connection, lane, since, open });
                Connection::Http2(stream)
            }
        };
        Ok(Leased { connection, is_used: false, lane, open })
    }

    /// Takes back a connection whose answer is whole; the backend keeps it for so long, if it said so.
    pub fn give_back(&self, leased: Leased, backend_keeps_for: Option<Duration>) {
        let Leased { connection, mut lane, open, .. } = leased;
        if let Some(keeps_for) = backend_keeps_for {
            // Our request must be there before it closes.
            let keeps_for = keeps_for.saturating_sub(Duration::from_secs(1));
            lane.idle_for = lane.idle_for.min(keeps_for);
        }
        match connection {
            Connection::Http1(connection) if connection.is_reusable() => {
                let since = Instant::now();
                self.idle.borrow_mut().push(Idle { connection, lane, since, open });
            }
            Connection::Http1(connection) => connection.abandon(),
            Connection::Http2(stream) => {
                let mut shared = self.shared.borrow_mut();
                let of_stream =
                    shared.iter_mut().find(|s| s.connection.is_same(stream.connection()));
                if let Some(shared) = of_stream {
                    shared.since = Instant::now();
                }
            }
        }
    }

    /// Closes what was idle for too long, and what leads where nothing is to be sent any more.
    pub fn sweep(&self, is_wanted: impl Fn(Side, &Arc<Endpoint>) -> bool) {
        let keeps = |lane: &Lane, since: Instant| {
            since.elapsed() < lane.idle_for && is_wanted(lane.side, &lane.endpoint)
        };
        self.idle
            .borrow_mut()
            .retain(|idle| keeps(&idle.lane, idle.since) && !idle.connection.is_closed());
        self.shared.borrow_mut().retain(|shared| {
            let is_busy = shared.connection.open_streams() > 0;
            !shared.connection.is_closed() && (is_busy || keeps(&shared.lane, shared.since))
        });
    }

    fn number(&self) -> usize {
        let numbers = Side::ALL.map(|side| self.metrics.side(side).connections.get());
        usize::try_from(numbers.iter().sum::<u64>()).unwrap_or(usize::MAX)
    }

    fn shared_one(&self, lane: &Lane) -> Option<Leased> {
        let shared = self.shared.borrow();
        let has_room = |shared: &&Shared| shared.lane.is_same(lane) && shared.connection.has_room();
        let Shared { connection, open, .. } = shared.iter().find(has_room)?;
        let connection = Connection::Http2(connection.stream());
        Some(Leased { connection, is_used: true, lane: lane.clone(), open: open.clone() })
    }

    fn idle_one(&self, lane: &Lane) -> Option<Leased> {
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(|idle| idle.lane.is_same(lane)) {
            let Idle { connection, since, open, lane: kept } = idle.remove(at);
            if !connection.is_closed() && since.elapsed() < kept.idle_for {
                let connection = Connection::Http1(connection);
                return Some(Leased { connection, is_used: true, lane: lane.clone(), open });
            }
        }
        None
    }
}
