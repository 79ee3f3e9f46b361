//! One HTTP/1.1 connection to a backend: a request goes out, and the head of its response comes in.
//!
//! No task stands between: the request's own task writes and reads, so that nothing is handed over and
//! nobody is woken. Only where the response begins before the request has ended does the rest of that go
//! out in a task of its own, as nobody can say which of the two the backend waits for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::config::values::HeaderCase;
use crate::upstream::cased::Cased;
use crate::upstream::outgoing::{Broken, Outgoing};
use crate::upstream::unsent::SendError;
use crate::wire::encode;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;
use crate::wire::input::LinkError;
use crate::wire::joined::{JoinedStream, Scratch};
use crate::wire::link::Link;
use crate::wire::transport::Transport;
use crate::wire::upgrade::TunnelEnd;
use crate::wire::upload::RequestBody;

/// One open connection. Dropped before a response has come whole, it closes, as HTTP/1 knows no other
/// way to cancel a request.
#[derive(Debug)]
pub struct Connection {
    link: Rc<Link>,
    scratch: Scratch,
    case: HeaderCase,
    // Sends what is left of a request whose response has begun.
    pump: Option<AbortHandle>,
    served: u64,
}

impl Connection {
    /// The connection over `transport`.
    #[must_use]
    pub fn new(transport: Transport, case: HeaderCase, scratch: Scratch) -> Self {
        let link = Link::new(transport, scratch.clone(), case == HeaderCase::Preserve);
        Self { link, scratch, case, pump: None, served: 0 }
    }

    /// Requests that it has carried.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Whether its last request and response are complete, and another may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.link.is_reusable() && self.pump.as_ref().is_none_or(AbortHandle::is_finished)
    }

    /// Whether it takes no more requests; the backend may have closed it while it was idle.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.is_reusable() || self.link.is_closed()
    }

    /// Sends a request, whose interim responses `exchange` gets, and waits for the head of its response.
    /// The content is taken out of `request`; what else it has stays, to be sent again.
    ///
    /// # Errors
    /// What went wrong. The request may have been processed.
    pub async fn send(
        &mut self,
        request: &mut Request<RequestBody>,
        exchange: &Exchange,
    ) -> Result<Response<Inflow>, SendError> {
        self.served += 1;
        self.link.expect_head();
        let mut outgoing = Outgoing::of(request, self.case);
        let (mut cased, mut is_cut) = (None, false);
        let response = poll_fn(|cx| {
            let sent = match outgoing.has_begun() {
                // What follows on a lost piece would be read in its place.
                _ if is_cut => Poll::Pending,
                true => outgoing.poll(cx, &self.link),
                false => self.begin(cx, request, &mut outgoing, &mut cased),
            };
            match sent {
                Poll::Ready(Err(Broken::Body)) => return Poll::Ready(Err(LinkError::Closed)),
                // It may have said why.
                Poll::Ready(Err(Broken::Connection)) => is_cut = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            self.link.poll_head(cx, request.method(), |interim| {
                if exchange.takes_interims() {
                    exchange.interim(interim);
                }
            })
        });
        let mut response = response.await.map_err(|error| SendError::Failed(error.path_fault()))?;
        if let Some(cased) = cased {
            cased.note(&mut response, self.link.head());
        }
        if is_cut {
            self.link.wears_out();
        } else if !outgoing.is_done() {
            self.pump = Some(pump(outgoing, self.link.clone(), exchange.path_limit().duration()));
        }
        Ok(response.map(|()| Inflow::Link(self.link.body())))
    }

    /// Writes the head, and what there is of the content.
    fn begin(
        &self,
        cx: &mut Context<'_>,
        request: &Request<RequestBody>,
        outgoing: &mut Outgoing,
        cased: &mut Option<Cased>,
    ) -> Poll<Result<(), Broken>> {
        let mut head = self.scratch.head.borrow_mut();
        head.clear();
        *cased = match self.case {
            HeaderCase::Preserve => Cased::write(request, outgoing.coding(), &mut head),
            HeaderCase::Title | HeaderCase::Lower => None,
        };
        if cased.is_none() {
            encode::request_head(request, self.case, outgoing.coding(), &mut head);
        }
        outgoing.begin(cx, &self.link, &head)
    }

    /// Closes it, also where the rest of a request is still on its way.
    pub fn abandon(self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
        self.link.close();
    }

    /// The socket, after a 101: `None` if the backend closed it already.
    #[must_use]
    pub fn into_tunnel(self) -> Option<TunnelEnd<JoinedStream>> {
        self.link.tunnel()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A response that has come whole does not end its request: the backend may still read that.
        if !self.link.is_answered() {
            if let Some(pump) = &self.pump {
                pump.abort();
            }
            self.link.close();
        }
    }
}

/// Sends the rest of a request. Once its response has come whole, nobody waits for that any more: a backend
/// that then takes nothing of it for `patience` loses the connection.
fn pump(mut outgoing: Outgoing, link: Rc<Link>, patience: Duration) -> AbortHandle {
    #[expect(clippy::disallowed_methods, reason = "ends with its request or its connection")]
    let task = tokio::task::spawn_local(async move {
        let (mut stall, mut written) = (pin!(sleep(patience)), None);
        let sent = poll_fn(|cx| {
            let polled = outgoing.poll(cx, &link);
            // Who waits for the client arms no timer.
            if polled.is_ready() || patience.is_zero() || !outgoing.is_blocked() {
                return polled;
            }
            if written != Some(outgoing.written()) {
                written = Some(outgoing.written());
                stall.as_mut().reset(Instant::now() + patience);
            }
            while stall.as_mut().poll(cx).is_ready() {
                if link.is_answered() {
                    return Poll::Ready(Err(Broken::Connection));
                }
                stall.as_mut().reset(Instant::now() + patience);
            }
            Poll::Pending
        });
        if sent.await.is_err() {
            link.wears_out();
        }
    });
    task.abort_handle()
}
