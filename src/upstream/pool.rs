//! The idle connections of one worker to one endpoint: keep, warm, check out, sweep.
//!
//! Last in, first out, so that a few connections stay busy and the rest can age out. Nothing is
//! shared between workers; their number times `min_idle` is what a path with little traffic keeps
//! warm, so that a canary's requests don't each pay a connect.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::{PathFault, ProxyError};
use crate::ids::Ids;
use crate::metrics::shard::{EndpointCells, Shard};
use crate::tick::{Span, Ticks};
use crate::upstream::conn::{self, Connection, Left, Opened};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::fleet::Fleet;
use crate::upstream::plan::Plan;
use crate::upstream::reach::Dialect;
use crate::upstream::{http1, http2};
use crate::vocab::Side;
use crate::wire::joined::Scratch;

/// The connections to one endpoint.
pub struct Pool {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// This worker's counters of it.
    pub cells: Arc<EndpointCells>,
    /// Its path.
    pub side: Side,
    /// The endpoints of its path.
    pub fleet: Arc<Fleet>,
    /// This worker's counters.
    pub shard: Arc<Shard>,
    dialect: Dialect,
    ticks: Rc<Ticks>,
    scratch: Scratch,
    limits: Cell<Limits>,
    idle: RefCell<Vec<Kept<http1::Connection>>>,
    // Connections that have a request to themselves.
    leased: Cell<usize>,
    // Those that serve many requests at once.
    shared: RefCell<Vec<Kept<http2::Connection>>>,
    // Whether the endpoint speaks HTTP/2, once that is known. Unless it does not, one connection is opened
    // at a time.
    multiplexes: Cell<Option<bool>>,
    opening: Cell<bool>,
    opened: Notify,
    retired: Cell<bool>,
    warming: Cell<usize>,
}

/// What a worker gives to the pools that it makes.
#[derive(Clone, Debug)]
pub struct Supplies {
    /// Its counters.
    pub shard: Arc<Shard>,
    /// Its clock.
    pub ticks: Rc<Ticks>,
    /// Its buffer for joined writes.
    pub scratch: Scratch,
    /// Its ids.
    pub ids: Rc<Ids>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    min_idle: usize,
    max_idle: usize,
    idle_for: Span,
    requests: u64,
    connect_timeout: Duration,
}

/// A connection, and the tick at which it closes if no request comes.
#[derive(Debug)]
struct Kept<C> {
    connection: C,
    until: u32,
}

impl Limits {
    /// Whether a connection has carried as many requests as it may.
    fn wears_out(&self, served: u64) -> bool {
        self.requests != 0 && served >= self.requests
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("endpoint", &self.endpoint.label).finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(
        endpoint: Arc<Endpoint>,
        plan: &Plan,
        (side, fleet): (Side, Arc<Fleet>),
        supplies: &Supplies,
    ) -> Rc<Self> {
        let Supplies { shard, ticks, scratch, .. } = supplies.clone();
        let cells = shard.endpoint(side, &endpoint.label);
        endpoint.silence.watch(&cells);
        let multiplexes = Cell::new(plan.dialect.is_http2(&endpoint));
        Rc::new(Self {
            endpoint,
            cells,
            side,
            fleet,
            shard,
            dialect: plan.dialect.clone(),
            ticks,
            scratch,
            limits: Cell::new(limits(plan)),
            idle: RefCell::default(),
            leased: Cell::new(0),
            shared: RefCell::default(),
            multiplexes,
            opening: Cell::new(false),
            opened: Notify::new(),
            retired: Cell::new(false),
            warming: Cell::new(0),
        })
    }

    /// Whether this pool can go on serving `endpoint` under `plan`.
    #[must_use]
    pub fn fits(&self, endpoint: &Arc<Endpoint>, plan: &Plan) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint) && self.dialect == plan.dialect
    }

    /// Takes over the limits of a new plan.
    pub fn adopt(&self, plan: &Plan) {
        self.limits.set(limits(plan));
    }

    /// No request will come any more: idle connections close now, busy ones when they are done.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.show();
    }

    /// An idle connection, the one used last, or room on a shared one; for a request that has `left`
    /// another one, room on a shared one beside that.
    pub fn check_out(self: &Rc<Self>, left: Option<&Left>) -> Option<Lease> {
        if self.multiplexes.get() == Some(true)
            && let Some(lease) = self.share(left)
        {
            return Some(lease);
        }
        while left.is_none() {
            let Kept { connection, until } = self.idle.borrow_mut().pop()?;
            self.show();
            if !connection.is_closed() && until > self.ticks.now() {
                return Some(self.lease(connection));
            }
        }
        None
    }

    /// Room on the first shared connection that has any, but not on the one that was `left`.
    fn share(self: &Rc<Self>, left: Option<&Left>) -> Option<Lease> {
        let limits = self.limits.get();
        let mut shared = self.shared.borrow_mut();
        let is_left = |connection: &http2::Connection| match left {
            Some(Left::Shared(left)) => left.is_same(connection),
            Some(Left::Own) | None => false,
        };
        shared.retain(|kept| kept.connection.open_streams() > 0 || !kept.connection.is_closed());
        let room = shared.iter_mut().find(|Kept { connection, .. }| {
            let is_worn = limits.wears_out(connection.served());
            connection.has_room() && !is_worn && !is_left(connection)
        })?;
        room.until = limits.idle_for.end(self.ticks.now());
        let stream = room.connection.stream();
        drop(shared);
        Some(self.lease_stream(stream))
    }

    fn lease_stream(self: &Rc<Self>, stream: http2::Stream) -> Lease {
        self.show();
        let connection = Some(Connection::Http2(stream));
        Lease { pool: self.clone(), connection, is_shared: true }
    }

    /// A new connection, or room on one that another request has just opened. The caller sets its
    /// deadline.
    ///
    /// # Errors
    /// As [`conn::open`].
    pub async fn connect(self: &Rc<Self>, left: Option<&Left>) -> Result<Lease, ProxyError> {
        while self.multiplexes.get() != Some(false) && self.opening.get() {
            self.opened.notified().await;
            if let Some(lease) = self.share(left) {
                return Ok(lease);
            }
        }
        // Counted as failed unless it comes up, also when a deadline drops this future.
        let mut connecting = Connecting { pool: self, up: false };
        self.opening.set(true);
        let opened = conn::open(&self.endpoint, &self.dialect, self.scratch.clone()).await?;
        connecting.up = true;
        match opened {
            Opened::Http1(connection) => {
                self.multiplexes.set(Some(false));
                Ok(self.lease(connection))
            }
            Opened::Http2(connection) => {
                self.multiplexes.set(Some(true));
                if !connection.has_room() {
                    return Err(ProxyError::Path(PathFault::Reset));
                }
                let stream = connection.stream();
                let until = self.limits.get().idle_for.end(self.ticks.now());
                self.shared.borrow_mut().push(Kept { connection, until });
                Ok(self.lease_stream(stream))
            }
        }
    }

    /// Closes what has aged out or was closed by the backend; returns how many connections are
    /// missing for `min_idle`.
    pub fn sweep(&self) -> usize {
        let now = self.ticks.now();
        self.idle.borrow_mut().retain(|idle| idle.until > now && !idle.connection.is_closed());
        self.sweep_shared(now);
        self.show();
        if self.retired.get() || !self.endpoint.is_up() {
            return 0;
        }
        let known = self.idle.borrow().len() + self.warming.get();
        let missing = self.limits.get().min_idle.saturating_sub(known);
        match self.multiplexes.get() {
            Some(false) => missing,
            // One that is shared is as good as many.
            Some(true) | None if self.shared.borrow().is_empty() => missing.min(1),
            Some(true) | None => 0,
        }
    }

    /// One shared connection that nobody uses is kept for `min_idle`.
    fn sweep_shared(&self, now: u32) {
        let limits = self.limits.get();
        let mut shared = self.shared.borrow_mut();
        let mut kept = 0;
        shared.retain_mut(|Kept { connection, until }| {
            if connection.open_streams() > 0 {
                // What it still carries, it carries to its end.
                *until = limits.idle_for.end(now);
                return true;
            }
            if connection.is_closed() || limits.wears_out(connection.served()) {
                return false;
            }
            let is_kept = limits.max_idle > 0 && (*until > now || kept < limits.min_idle.min(1));
            kept += usize::from(is_kept);
            is_kept
        });
    }

    /// Opens one idle connection, for [`Pool::sweep`]. A failure is counted, and tried again at
    /// the next sweep.
    pub async fn warm(self: Rc<Self>) {
        self.warming.set(self.warming.get() + 1);
        // A timer of the runtime is dear on a request's way; here nobody waits.
        let connected = timeout(self.limits.get().connect_timeout, self.connect(None)).await;
        self.warming.set(self.warming.get() - 1);
        if let Ok(Ok(lease)) = connected {
            lease.give_back(None);
        }
    }

    fn lease(self: &Rc<Self>, connection: http1::Connection) -> Lease {
        self.leased.set(self.leased.get() + 1);
        self.show();
        let connection = Some(Connection::Http1(connection));
        Lease { pool: self.clone(), connection, is_shared: false }
    }

    fn put(&self, connection: http1::Connection, backend_keeps_for: Option<Span>) {
        let limits = self.limits.get();
        let Limits { max_idle, idle_for, .. } = limits;
        let mut idle = self.idle.borrow_mut();
        if limits.wears_out(connection.served())
            || self.retired.get()
            || !connection.is_reusable()
            || idle.len() >= max_idle
        {
            return;
        }
        let span = backend_keeps_for.map_or(idle_for, |span| span.min(idle_for));
        idle.push(Kept { connection, until: span.end(self.ticks.now()) });
    }

    fn show(&self) {
        let shared = self.shared.borrow();
        let unused = shared.iter().filter(|shared| shared.connection.open_streams() == 0).count();
        let idle = (self.idle.borrow().len() + unused) as u64;
        let busy = (self.leased.get() + shared.len() - unused) as u64;
        self.cells.idle.add(idle.wrapping_sub(self.cells.idle.get()));
        self.cells.busy.add(busy.wrapping_sub(self.cells.busy.get()));
    }
}

fn limits(plan: &Plan) -> Limits {
    Limits {
        min_idle: plan.min_idle,
        max_idle: plan.pool_idle,
        idle_for: plan.pool_idle_for,
        requests: plan.requests_per_connection,
        connect_timeout: plan.connect_timeout,
    }
}

struct Connecting<'a> {
    pool: &'a Pool,
    up: bool,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        let Pool { cells, opening, opened, .. } = self.pool;
        if self.up {
            cells.connected.add(1)
        } else {
            cells.failed.add(1)
        }
        opening.set(false);
        // Whoever waits for it looks again: there is room, or it opens one itself.
        opened.notify_waiters();
    }
}

/// A connection in use. Dropped, it closes; given back, it waits for the next request.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    connection: Option<Connection>,
    is_shared: bool,
}

impl Lease {
    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("held until given back, which takes the lease")
    }

    /// Whether the next request is this connection's last.
    #[must_use]
    pub fn is_last(&self) -> bool {
        let limits = self.pool.limits.get();
        let served = self.connection.as_ref().map_or(0, Connection::served);
        // One that is shared is not closed by a field of a request.
        !self.is_shared && (limits.max_idle == 0 || limits.wears_out(served + 1))
    }

    /// Returns the connection to its pool; the request and its response must both be complete.
    /// `backend_keeps_for` is how long the backend says that it keeps it.
    pub fn give_back(mut self, backend_keeps_for: Option<Span>) {
        match self.connection.take() {
            Some(Connection::Http1(connection)) => self.pool.put(connection, backend_keeps_for),
            // Its place among the shared ones it never left.
            Some(Connection::Http2(_)) | None => {}
        }
    }

    /// The connection, for a tunnel.
    #[must_use]
    pub fn into_connection(mut self) -> Option<Connection> {
        self.connection.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_shared {
            self.pool.leased.set(self.pool.leased.get() - 1);
        }
        let limits = self.pool.limits.get();
        let is_over = |at: &Connection| limits.wears_out(at.served()) || at.is_closed();
        let is_over = limits.max_idle == 0 || self.connection.as_ref().is_some_and(is_over);
        // A stream closes before it is counted.
        self.connection = None;
        if self.is_shared && is_over {
            self.pool.sweep_shared(self.pool.ticks.now());
        }
        self.pool.show();
    }
}
