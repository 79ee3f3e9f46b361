//! One request against one path: admit, pick, send, and take the reply back.
//!
//! Knows nothing of routes or weights. What a reply holds on to (its connection, its slot) is given
//! back here, once the reply's end is known.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::TryFutureExt;
use http::response::Parts;
use http_body::Body;
use tower::ServiceExt;

use crate::error::PathFault;
use crate::tick::Span;
use crate::upstream::admit::{Admitted, Failed};
use crate::upstream::attempt::{Inbound, Outbound};
use crate::upstream::conn::Connection;
use crate::upstream::gate::Slot;
use crate::upstream::path::Path;
use crate::upstream::pool::Lease;
use crate::upstream::service;
use crate::upstream::visit::Visit;
use crate::wire::body::Source;
use crate::wire::inflow::Inflow;

/// A reply's head, the source of its body, and what it holds.
#[derive(Debug)]
pub struct Reply {
    /// The head, not yet cleaned.
    pub head: Parts,
    /// The body.
    pub source: Source,
    /// The connection and the slot.
    pub hold: Hold,
}

/// What a reply holds until it has ended. Dropped, the connection closes and the slot is free.
#[derive(Debug)]
pub struct Hold {
    lease: Lease,
    visit: Visit,
    slot: Slot,
}

/// What a tunnel holds: its place in the path's and its endpoint's limits.
#[derive(Debug)]
pub struct Place {
    _slot: Slot,
    _visit: Visit,
}

impl Hold {
    /// The request and its reply are complete: the connection may serve again.
    /// `backend_keeps_for` is what the backend's `Keep-Alive` said.
    pub fn give_back(self, backend_keeps_for: Option<Span>) {
        self.visit.succeeded();
        self.lease.give_back(backend_keeps_for);
    }

    /// The reply is complete, but not the request: the connection can't serve again.
    pub fn succeeded(self) {
        self.visit.succeeded();
    }

    /// The reply broke off, by the backend's fault.
    pub fn failed(self, fault: PathFault) {
        self.visit.failed(fault);
    }

    /// Some of the reply's body came.
    pub fn progressed(&self) {
        self.visit.progressed();
    }

    /// The connection for a tunnel, and what the tunnel holds.
    #[must_use]
    pub fn into_tunnel(self) -> Option<(Connection, Place)> {
        let Self { lease, visit, slot } = self;
        visit.succeeded();
        Some((lease.into_connection()?, Place { _slot: slot, _visit: visit }))
    }
}

/// Forwards a request to a path.
///
/// # Errors
/// Whose fault it is that there is no reply.
pub fn forward(
    path: &Rc<Path>,
    outbound: Outbound,
) -> impl Future<Output = Result<Reply, Failed<Outbound>>> + use<> {
    let idle = path.plan.idle;
    service(path).oneshot(outbound).map_ok(move |Admitted { reply, slot }| {
        let Inbound { response, lease, visit } = reply;
        let (head, body) = response.into_parts();
        let source = whole_or_stream(body, idle);
        Reply { head, source, hold: Hold { lease, visit, slot } }
    })
}

/// A body that came whole with its head is taken out of the connection at once, which can then
/// serve another request while this reply is still being written.
fn whole_or_stream(mut body: Inflow, idle: Span) -> Source {
    if body.is_end_stream() {
        return Source::Empty;
    }
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(bytes) if body.is_end_stream() => Source::One(bytes),
            Ok(bytes) => Source::Stream { first: Some(bytes), body, idle },
            // Trailers are the last frame; there is no other kind.
            Err(frame) => frame
                .into_trailers()
                .map_or(Source::Empty, |trailers| Source::Trailers(Box::new(trailers))),
        },
        // hyper tells an error once only: it has to be kept.
        Poll::Ready(Some(Err(error))) => Source::Failed(error.path_fault()),
        Poll::Ready(None) => Source::Empty,
        Poll::Pending => Source::Stream { first: None, body, idle },
    }
}
