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
use crate::wire::upgrade::{TunnelEnd, tunnel};

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
    /// Carries bytes both ways until both are done; for `limit` at the most once a drain began.
    pub async fn run<C>(self, agreed: Agreed, client: TunnelEnd<C>, limit: Span)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { exchange, phase } = self;
        exchange.enter_tunnel();
        let Agreed { connection, record } = agreed;
        let mut ended = pin!(async {
            match connection.into_tunnel().await {
                Some(upstream) => tunnel(client, upstream).await,
                None => (0, 0),
            }
        });
        let timer = &exchange.timer;
        let done = poll_fn(|cx| {
            timer.register(cx.waker());
            if let Poll::Ready(bytes) = ended.as_mut().poll(cx) {
                return Poll::Ready(Some(bytes));
            }
            if phase.get() >= drain::Phase::Draining && !timer.is_armed(Deadline::Exchange) {
                // A span of zero would arm nothing: tunnels then end at the next tick.
                timer.arm(Deadline::Exchange, limit.max(Span::ONE));
            }
            let is_over = timer.expired(Deadline::Exchange) || exchange.is_cut();
            if is_over { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match done {
            Some((sent, received)) => record(End::Complete, sent, received),
            None => record(End::Cut, 0, 0),
        }
    }
}
