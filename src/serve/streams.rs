//! What the streams of one HTTP/2 connection share: how many are open, and how many were taken back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::drain;
use crate::serve::tunnel::TunnelSeat;
use crate::tick::Span;
use crate::wire::exchange::Exchange;

/// Streams that a client may take back in [`RESETS_SPAN`]: each may cost a connection to a backend.
/// Browsers that leave a page take back what it was loading, which is less than this.
const RESETS_MAX: u32 = 200;
const RESETS_SPAN: Duration = Duration::from_secs(10);

/// A stream's end of the journey: its state, and where a tunnel is left for it.
#[derive(Clone, Debug)]
pub struct StreamSeat {
    /// Its state.
    pub exchange: Rc<Exchange>,
    /// Its tunnel, once there is one.
    pub tunnel: TunnelSeat,
}

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) exchange: Rc<Exchange>,
    pub(super) phase: Rc<Cell<drain::Phase>>,
    pub(super) tunnels: Span,
    open: Cell<u32>,
    resets: Cell<u32>,
    // The tick at which they are counted anew.
    resets_until: Cell<u32>,
}

impl Streams {
    /// No stream yet.
    pub(super) fn new(
        exchange: Rc<Exchange>,
        phase: Rc<Cell<drain::Phase>>,
        tunnels: Span,
    ) -> Self {
        let (open, resets, resets_until) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Self { exchange, phase, tunnels, open, resets, resets_until }
    }

    /// Whether any stream is open.
    pub(super) fn has_any(&self) -> bool {
        self.open.get() > 0
    }

    /// Whether more streams were taken back than a client has reason to.
    pub(super) fn is_restless(&self) -> bool {
        self.resets.get() > RESETS_MAX
    }

    /// The client took a stream back before it had all of its reply.
    pub(super) fn taken_back(&self) {
        let now = self.exchange.timer.now();
        if now >= self.resets_until.get() {
            self.resets_until.set(Span::from_duration(RESETS_SPAN).end(now));
            self.resets.set(0);
        }
        self.resets.set(self.resets.get() + 1);
    }
}

/// A stream that counts as open until it is dropped.
#[derive(Debug)]
pub(super) struct Open(pub(super) Rc<Streams>);

impl Open {
    /// One more.
    pub(super) fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.exchange.has_streams(true);
        Self(streams.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0 {
            self.0.exchange.has_streams(false);
        }
    }
}
