//! The state of one client connection and of the exchange that it carries.
//!
//! Shared, on one thread, by the socket in hyper's hands, the future that drives the connection,
//! the request's journey and the bodies in both directions. It says how far a message has come,
//! whose deadline runs, and whether the client is to blame for what went wrong.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Response, Version};

use crate::error::ClientFault;
use crate::ids::Ids;
use crate::metrics::shard::Shard;
use crate::tick::{Deadline, Span, Timer};
use crate::vocab::Routed;

/// Interim responses that may wait for their client at once.
const INTERIMS_MAX: usize = 16;

/// How far the present message of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No byte has ever come.
    Fresh,
    /// Some bytes of a head have come.
    Head,
    /// A request is being handled, or its reply is being sent.
    Busy,
    /// The last reply is complete; the next head may come.
    Replied,
    /// HTTP is over: bytes pass as they are.
    Tunnel,
    /// HTTP/2, whose streams have exchanges of their own.
    Multiplexed,
}

impl Stage {
    /// Whether the bytes of the connection are none of HTTP/1.
    #[must_use]
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tunnel | Self::Multiplexed)
    }
}

/// How far a request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// There is none, or all of it has come.
    Complete,
    /// More is to come.
    Running,
}

/// The time limits of a connection that do not depend on the path.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// For a whole request head.
    pub head: Span,
    /// The largest request head, in bytes.
    pub head_bytes: usize,
    /// Between requests, and before the first byte.
    pub idle: Span,
    /// For the next piece of a request body, or for the client to take more of a reply.
    pub body_idle: Span,
    /// For the next byte of a tunnel, in either direction.
    pub tunnel_idle: Span,
}

/// One client connection's state.
#[derive(Debug)]
pub struct Exchange {
    /// Its deadlines.
    pub timer: Timer,
    /// Its worker's counters.
    pub shard: Arc<Shard>,
    /// Its worker's ids.
    pub ids: Rc<Ids>,
    limits: ClientLimits,
    stage: Cell<Stage>,
    upload: Cell<Upload>,
    fault: Cell<Option<ClientFault>>,
    response_limit: Cell<Span>,
    request_bytes: Cell<u64>,
    routed: Cell<Routed>,
    takes_interims: Cell<bool>,
    // Whether the client sends its body only once it is told to.
    expects_continue: Cell<bool>,
    interims: RefCell<Vec<Response<()>>>,
    // It carries one message: no other follows it.
    is_stream: bool,
}

impl Exchange {
    /// The state of a connection that was accepted just now.
    #[must_use]
    pub fn new(timer: Timer, shard: Arc<Shard>, ids: Rc<Ids>, limits: ClientLimits) -> Self {
        timer.arm(Deadline::Client, limits.idle);
        Self {
            timer,
            shard,
            ids,
            limits,
            stage: Cell::new(Stage::Fresh),
            upload: Cell::new(Upload::Complete),
            fault: Cell::new(None),
            response_limit: Cell::new(Span::default()),
            request_bytes: Cell::new(0),
            routed: Cell::default(),
            takes_interims: Cell::new(false),
            expects_continue: Cell::new(false),
            interims: RefCell::default(),
            is_stream: false,
        }
    }

    /// The largest request head, in bytes.
    #[must_use]
    pub fn head_bytes_max(&self) -> usize {
        self.limits.head_bytes
    }

    /// How far the present message has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// What comes before a connection's HTTP has as long as a head.
    pub fn handshake_begins(&self) {
        self.timer.arm(Deadline::Client, self.limits.head);
    }

    /// The next byte may be a request's first.
    pub fn handshake_ends(&self) {
        self.timer.arm(Deadline::Client, self.limits.idle);
    }

    /// The state of one of its HTTP/2 streams.
    #[must_use]
    pub fn stream(&self) -> Self {
        let timer = self.timer.sibling();
        let new = Self::new(timer, self.shard.clone(), self.ids.clone(), self.limits);
        new.begin(Upload::Complete);
        Self { is_stream: true, ..new }
    }

    /// Bytes came in while no message was under way: a head has begun. Returns whether it had not.
    pub fn head_begins(&self) -> bool {
        let begins = match self.stage.get() {
            Stage::Fresh => true,
            Stage::Replied => self.upload.get() == Upload::Complete,
            Stage::Head | Stage::Busy | Stage::Tunnel | Stage::Multiplexed => false,
        };
        if begins {
            self.stage.set(Stage::Head);
            self.timer.arm(Deadline::Client, self.limits.head);
        }
        begins
    }

    /// A whole head was read; its body, if it has one, is to come.
    pub fn begin(&self, upload: Upload) {
        self.stage.set(Stage::Busy);
        self.upload.set(upload);
        self.fault.set(None);
        self.request_bytes.set(0);
        self.routed.set(Routed::default());
        self.interims.borrow_mut().clear();
        self.timer.disarm(Deadline::Client);
        self.timer.disarm(Deadline::Watch);
    }

    /// The reply was handed over whole.
    pub fn end(&self) {
        self.timer.disarm(Deadline::Upstream);
        self.timer.disarm(Deadline::Exchange);
        if self.is_stream {
            // What is not written yet is still waited for.
            return;
        }
        self.stage.set(Stage::Replied);
        self.timer.disarm(Deadline::Watch);
        self.timer.arm(Deadline::Client, self.limits.idle);
    }

    /// Something passed through the tunnel that the connection has become.
    pub fn tunnel_progress(&self) {
        self.timer.arm(Deadline::Client, self.limits.tunnel_idle);
    }

    /// HTTP is over on this connection: no deadline of a request runs any more.
    pub fn enter_tunnel(&self) {
        self.stage.set(Stage::Tunnel);
        for deadline in Deadline::ALL {
            self.timer.disarm(deadline);
        }
    }

    /// The connection speaks HTTP/2. Its deadline is armed as if no stream were open.
    pub fn enter_http2(&self) {
        self.stage.set(Stage::Multiplexed);
        self.timer.arm(Deadline::Client, self.limits.idle);
    }

    /// A head has begun, or is whole: until then its limit runs.
    pub fn is_amid_head(&self, amid: bool) {
        if amid != self.timer.is_armed(Deadline::Exchange) {
            let limit = if amid { self.limits.head } else { Span::default() };
            self.timer.arm(Deadline::Exchange, limit);
        }
    }

    /// Whether any stream is open has changed: between streams the idle limit runs.
    pub fn has_streams(&self, open: bool) {
        self.timer.arm(Deadline::Client, if open { Span::default() } else { self.limits.idle });
    }

    /// Records the client's fault, once an exchange, and counts it.
    pub fn blame(&self, fault: ClientFault) {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
            self.shard.client_fault(fault);
        }
    }

    /// The client's fault in this exchange, if there was one.
    #[must_use]
    pub fn fault(&self) -> Option<ClientFault> {
        self.fault.get()
    }

    /// The client sends its body only once it is told to (RFC 9110 section 10.1.1).
    pub fn expect_continue(&self) {
        self.expects_continue.set(true);
    }

    /// Whether the client is to be told that its body is waited for: once.
    pub fn takes_continue(&self) -> bool {
        self.timer.is_armed(Deadline::Upload) && self.expects_continue.replace(false)
    }

    /// Whether the request's body is still to come.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        self.upload.get() == Upload::Running
    }

    /// Notes how the request was routed.
    pub fn set_routed(&self, routed: Routed) {
        self.routed.set(routed);
    }

    /// How the request was routed.
    #[must_use]
    pub fn routed(&self) -> Routed {
        self.routed.get()
    }

    /// Whether its path's drain cuts it off.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let side = self.routed.get().side;
        side.is_some_and(|side| self.shard.cut.get(side).load(Ordering::Relaxed))
    }

    /// Body bytes received in this exchange.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes.get()
    }

    // === Interim responses ===

    /// Whether the client's version of HTTP has interim responses, and its request waits for a reply.
    #[must_use]
    pub fn takes_interims(&self) -> bool {
        self.takes_interims.get()
    }

    /// The client's version of HTTP has interim responses.
    pub fn take_interims_of(&self, version: Version) {
        self.takes_interims.set(version >= Version::HTTP_11);
    }

    /// The path sent an interim response. Of more than a client can want, the rest is dropped.
    pub fn interim(&self, response: Response<()>) {
        let mut interims = self.interims.borrow_mut();
        if interims.len() < INTERIMS_MAX {
            interims.push(response);
            self.timer.wake();
        }
    }

    /// The interim responses that have come.
    pub fn interims(&self) -> Vec<Response<()>> {
        self.interims.take()
    }

    // === Who is waited for: the client's upload or the path, never both ===

    /// The request is on its way; from now on the path has `limit` to reply, or to take more.
    pub fn await_path(&self, limit: Span) {
        self.response_limit.set(limit);
        self.timer.arm(Deadline::Upstream, limit);
    }

    /// How long the path has to reply, or to take more.
    #[must_use]
    pub fn path_limit(&self) -> Span {
        self.response_limit.get()
    }

    /// The path wants more of the body than the client has sent.
    pub fn await_upload(&self) {
        if self.awaits_head() {
            self.timer.disarm(Deadline::Upstream);
        }
        if !self.timer.is_armed(Deadline::Upload) {
            self.timer.arm(Deadline::Upload, self.limits.body_idle);
        }
        if self.expects_continue.get() {
            // Whoever is to tell it is another task.
            self.timer.wake();
        }
    }

    /// A piece of the body came; the path is waited for again.
    pub fn upload_progress(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.request_bytes.set(self.request_bytes.get() + bytes);
        self.timer.disarm(Deadline::Upload);
        if self.awaits_head() {
            self.timer.arm(Deadline::Upstream, self.response_limit.get());
        }
    }

    /// The head of the reply came: what the path takes from now on is the reply's own matter.
    pub fn reply_begins(&self) {
        self.response_limit.set(Span::default());
        self.timer.disarm(Deadline::Upstream);
    }

    /// The body has come whole, or will not be read any further.
    pub fn upload_ends(&self) {
        self.upload.set(Upload::Complete);
        self.timer.disarm(Deadline::Upload);
        if self.awaits_head() {
            self.timer.arm(Deadline::Upstream, self.response_limit.get());
        }
    }

    /// Whether the path has a limit for the head of its reply, which has not come yet.
    fn awaits_head(&self) -> bool {
        self.stage.get() == Stage::Busy && self.response_limit.get() != Span::default()
    }

    // === The reply's way out ===

    /// The client does not take more of the reply for now.
    pub fn write_stalls(&self) {
        if let Some(deadline) = self.write_deadline()
            && !self.timer.is_armed(deadline)
        {
            self.timer.arm(deadline, self.limits.body_idle);
        }
    }

    /// The client took some of the reply.
    pub fn write_progress(&self) {
        if let Some(deadline) = self.write_deadline()
            && self.timer.is_armed(deadline)
        {
            self.timer.disarm(deadline);
        }
    }

    /// Between the streams of an HTTP/2 connection another limit of the client runs.
    fn write_deadline(&self) -> Option<Deadline> {
        match self.stage.get() {
            Stage::Busy => Some(Deadline::Client),
            Stage::Multiplexed => Some(Deadline::Watch),
            Stage::Fresh | Stage::Head | Stage::Replied | Stage::Tunnel => None,
        }
    }
}
