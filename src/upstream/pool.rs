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
use crate::upstream::conn::{self, Connection, Opened};
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
    idle: RefCell<Vec<Idle>>,
    // Connections that have a request to themselves.
    leased: Cell<usize>,
    shared: RefCell<Vec<Shared>>,
    // Whether the endpoint is known to speak HTTP/2: then one connection is opened at a time.
    multiplexes: Cell<bool>,
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

#[derive(Debug)]
struct Idle {
    connection: http1::Connection,
    until: u32,
}

/// A connection that serves many requests at once, and when it closes if none comes.
#[derive(Debug)]
struct Shared {
    connection: http2::Connection,
    until: u32,
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
            multiplexes: Cell::new(plan.dialect.is_always_http2()),
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

    /// An idle connection, the one used last, or room on a shared one.
    pub fn check_out(self: &Rc<Self>) -> Option<Lease> {
        if self.multiplexes.get()
            && let Some(lease) = self.share()
        {
            return Some(lease);
        }
        loop {
            let Idle { connection, until } = self.idle.borrow_mut().pop()?;
            self.show();
            if !connection.is_closed() && until > self.ticks.now() {
                return Some(self.lease(connection));
            }
        }
    }

    /// Room on the first shared connection that has any.
    fn share(self: &Rc<Self>) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| !shared.connection.is_closed());
        let connection = &shared.iter().find(|shared| shared.connection.has_room())?.connection;
        let stream = connection.stream();
        drop(shared);
        self.show();
        let connection = Some(Connection::Http2(stream));
        Some(Lease { pool: self.clone(), connection, is_shared: true })
    }

    /// A new connection, or room on one that another request has just opened. The caller sets its
    /// deadline.
    ///
    /// # Errors
    /// As [`conn::open`].
    pub async fn connect(self: &Rc<Self>) -> Result<Lease, ProxyError> {
        while self.multiplexes.get() && self.opening.get() {
            self.opened.notified().await;
            if let Some(lease) = self.share() {
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
                self.multiplexes.set(false);
                Ok(self.lease(connection))
            }
            Opened::Http2(connection) => {
                self.multiplexes.set(true);
                let until = self.limits.get().idle_for.end(self.ticks.now());
                self.shared.borrow_mut().push(Shared { connection, until });
                drop(connecting);
                self.share().ok_or(ProxyError::Path(PathFault::Reset))
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
            // One that is shared is as good as many.
            true if self.shared.borrow().is_empty() => missing.min(1),
            true => 0,
            false => missing,
        }
    }

    /// One shared connection that nobody uses is kept for `min_idle`.
    fn sweep_shared(&self, now: u32) {
        let Limits { min_idle, max_idle, requests, idle_for, .. } = self.limits.get();
        let mut shared = self.shared.borrow_mut();
        let mut kept = 0;
        shared.retain_mut(|Shared { connection, until }| {
            let is_worn = requests != 0 && connection.served() >= requests;
            if connection.is_closed() || is_worn {
                // What it still carries, it carries to its end.
                return false;
            }
            if connection.open_streams() > 0 {
                *until = idle_for.end(now);
                return true;
            }
            let is_kept = max_idle > 0 && (*until > now || kept < min_idle.min(1));
            kept += usize::from(is_kept);
            is_kept
        });
    }

    /// Opens one idle connection, for [`Pool::sweep`]. A failure is counted, and tried again at
    /// the next sweep.
    pub async fn warm(self: Rc<Self>) {
        self.warming.set(self.warming.get() + 1);
        // A timer of the runtime is dear on a request's way; here nobody waits.
        let connected = timeout(self.limits.get().connect_timeout, self.connect()).await;
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
        let Limits { max_idle, idle_for, requests, .. } = self.limits.get();
        let worn = requests != 0 && connection.served >= requests;
        let mut idle = self.idle.borrow_mut();
        if worn || self.retired.get() || connection.is_closed() || idle.len() >= max_idle {
            return;
        }
        let span = backend_keeps_for.map_or(idle_for, |span| span.min(idle_for));
        idle.push(Idle { connection, until: span.end(self.ticks.now()) });
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
        let Limits { max_idle, requests, .. } = self.pool.limits.get();
        let served = self.connection.as_ref().map_or(0, Connection::served);
        // One that is shared is not closed by a field of a request.
        !self.is_shared && (max_idle == 0 || (requests != 0 && served + 1 >= requests))
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
        // A stream closes before it is counted.
        self.connection = None;
        if self.is_shared && self.pool.limits.get().max_idle == 0 {
            self.pool.sweep_shared(self.pool.ticks.now());
        }
        self.pool.show();
    }
}
