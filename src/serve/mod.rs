//! One client connection: its first bytes, then the HTTP that it speaks.

pub mod caller;
pub mod http1;
pub mod http2;
pub mod opening;
mod stream;
pub mod streams;
pub mod tunnel;

use std::cell::Cell;
use std::rc::Rc;

use crate::drain;
use crate::serve::tunnel::TunnelSeat;
use crate::tick::Span;
use crate::wire::exchange::Exchange;
use crate::wire::socket::ClientSocket;

/// One connection, ready to be served.
#[derive(Debug)]
pub struct ClientConnection {
    /// Its socket.
    pub socket: Rc<ClientSocket>,
    /// Its state.
    pub exchange: Rc<Exchange>,
    /// Its tunnel, once there is one.
    pub tunnel: TunnelSeat,
    /// The process's phase, as its worker knows it.
    pub phase: Rc<Cell<drain::Phase>>,
    /// For how long tunnels may go on in a drain.
    pub tunnels: Span,
}
