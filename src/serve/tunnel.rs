//! A tunnel that a request was agreed to become: it begins once that is said, and ends by itself or
//! at the drain's limit.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::drain;
use crate::tick::{Deadline, Span};
use crate::upstream::conn::Connection;
use crate::wire::body::End;
use crate::wire::exchange::Exchange;
use crate::wire::upgrade::{Flow, TunnelEnd, tunnel};

/// Called with how a tunnel ended, and its bytes from and to the client.
pub type TunnelRecord = Box<dyn FnOnce(End, u64, u64)>;

/// A tunnel that was agreed on and begins once its client has been told.
pub struct Agreed {
    /// The backend's connection.
    pub connection: Connection,
    /// Records its end; holds what must last as long as it.
    pub record: TunnelRecord,
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").finish_non_exhaustive()
    }
}

/// Where the journey leaves a tunnel for the connection to find.
pub type TunnelSeat = Rc<RefCell<Option<Agreed>>>;

/// What a tunnel goes on under.
#[derive(Clone, Copy, Debug)]
pub struct TunnelHold<'a> {
    /// The state of its connection or stream.
    pub exchange: &'a Exchange,
    /// The process's phase.
    pub phase: &'a Cell<drain::Phase>,
}

impl TunnelHold<'_> {
    /// Carries bytes both ways until both are done, or none came for too long; once a drain has begun,
    /// for `limit` at the most, and at least for half of it.
    pub async fn run<C>(self, agreed: Agreed, client: TunnelEnd<C>, limit: Span)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { exchange, phase } = self;
        exchange.enter_tunnel();
        exchange.tunnel_progress();
        let Agreed { connection, record } = agreed;
        let flow = Flow::default();
        let mut ended = pin!(async {
            if let Some(upstream) = connection.into_tunnel() {
                tunnel(client, upstream, &flow).await;
            }
        });
        let limit = limit.spread(exchange.ids.draw());
        let mut known = (0, 0);
        let timer = &exchange.timer;
        let done = poll_fn(|cx| {
            timer.register(cx.waker());
            if ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Complete);
            }
            if std::mem::replace(&mut known, flow.bytes()) != flow.bytes() {
                exchange.tunnel_progress();
            }
            if phase.get() >= drain::Phase::Draining && !timer.is_armed(Deadline::Exchange) {
                // A span of zero would arm nothing: tunnels then end at the next tick.
                timer.arm(Deadline::Exchange, limit.max(Span::ONE));
            }
            if timer.expired(Deadline::Exchange) || exchange.is_cut() {
                return Poll::Ready(End::Cut);
            }
            // One through which nothing passes any more is over, and nobody is to blame.
            if timer.expired(Deadline::Client) { Poll::Ready(End::Complete) } else { Poll::Pending }
        })
        .await;
        let (sent, received) = flow.bytes();
        record(done, sent, received);
    }
}
