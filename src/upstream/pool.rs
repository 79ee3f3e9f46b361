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

use tokio::time::timeout;

use crate::config::values::HeaderCase;
use crate::error::ProxyError;
use crate::ids::Ids;
use crate::metrics::shard::{EndpointCells, Shard};
use crate::tick::{Span, Ticks};
use crate::upstream::conn::Connection;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::fleet::Fleet;
use crate::upstream::plan::Plan;
use crate::vocab::Side;
use crate::wire::socket::Scratch;

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
    case: HeaderCase,
    ticks: Rc<Ticks>,
    scratch: Scratch,
    limits: Cell<Limits>,
    idle: RefCell<Vec<Idle>>,
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
    connection: Connection,
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
            case: plan.header_case,
            ticks,
            scratch,
            limits: Cell::new(limits(plan)),
            idle: RefCell::default(),
            retired: Cell::new(false),
            warming: Cell::new(0),
        })
    }

    /// Whether this pool can go on serving `endpoint` under `plan`.
    #[must_use]
    pub fn fits(&self, endpoint: &Arc<Endpoint>, plan: &Plan) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint) && self.case == plan.header_case
    }

    /// Takes over the limits of a new plan.
    pub fn adopt(&self, plan: &Plan) {
        self.limits.set(limits(plan));
    }

    /// No request will come any more: idle connections close now, busy ones when they are done.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.show_idle();
    }

    /// An idle connection, the one used last.
    pub fn check_out(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let Idle { connection, until } = self.idle.borrow_mut().pop()?;
            self.show_idle();
            if !connection.is_closed() && until > self.ticks.now() {
                return Some(self.lease(connection));
            }
        }
    }

    /// A new connection. The caller sets its deadline.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn connect(self: &Rc<Self>) -> Result<Lease, ProxyError> {
        // Counted as failed unless it comes up, also when a deadline drops this future.
        let mut connecting = Connecting { cells: &self.cells, up: false };
        let connection =
            Connection::open(&self.endpoint.addresses, self.case, self.scratch.clone()).await?;
        connecting.up = true;
        Ok(self.lease(connection))
    }

    /// Closes what has aged out or was closed by the backend; returns how many connections are
    /// missing for `min_idle`.
    pub fn sweep(&self) -> usize {
        let now = self.ticks.now();
        self.idle.borrow_mut().retain(|idle| idle.until > now && !idle.connection.is_closed());
        self.show_idle();
        if self.retired.get() || !self.endpoint.is_up() {
            return 0;
        }
        let known = self.idle.borrow().len() + self.warming.get();
        self.limits.get().min_idle.saturating_sub(known)
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

    fn lease(self: &Rc<Self>, connection: Connection) -> Lease {
        self.cells.busy.add(1);
        Lease { pool: self.clone(), connection: Some(connection) }
    }

    fn put(&self, connection: Connection, backend_keeps_for: Option<Span>) {
        let Limits { max_idle, idle_for, requests, .. } = self.limits.get();
        let worn = requests != 0 && connection.served >= requests;
        let mut idle = self.idle.borrow_mut();
        if worn || self.retired.get() || connection.is_closed() || idle.len() >= max_idle {
            return;
        }
        let span = backend_keeps_for.map_or(idle_for, |span| span.min(idle_for));
        idle.push(Idle { connection, until: span.end(self.ticks.now()) });
    }

    fn show_idle(&self) {
        let shown = self.cells.idle.get();
        let known = self.idle.borrow().len() as u64;
        self.cells.idle.add(known.wrapping_sub(shown));
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
    cells: &'a EndpointCells,
    up: bool,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if self.up { self.cells.connected.add(1) } else { self.cells.failed.add(1) }
    }
}

/// A connection in use. Dropped, it closes; given back, it waits for the next request.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    connection: Option<Connection>,
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
        let served = self.connection.as_ref().map_or(0, |connection| connection.served);
        max_idle == 0 || (requests != 0 && served + 1 >= requests)
    }

    /// Returns the connection to its pool; the request and its response must both be complete.
    /// `backend_keeps_for` is how long the backend says that it keeps it.
    pub fn give_back(mut self, backend_keeps_for: Option<Span>) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection, backend_keeps_for);
            self.pool.show_idle();
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
        self.pool.cells.busy.sub(1);
    }
}
