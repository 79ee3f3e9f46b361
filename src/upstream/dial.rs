//! Connects to an endpoint: to whichever of its addresses is up first.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// RFC 8305 section 5: the Connection Attempt Delay.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to one of up to two addresses, the first of which has a head start (RFC 8305, happy
/// eyeballs): of a host with an IPv6 and an IPv4 address one may be unreachable.
///
/// # Errors
/// What the last one says when none can be reached.
pub async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let (first, second) = match addresses {
        [] => return Err(io::ErrorKind::AddrNotAvailable.into()),
        [only] => return TcpStream::connect(only).await,
        [first, second, ..] => (first, second),
    };
    let mut first = pin!(TcpStream::connect(first));
    if let Ok(connected) = timeout(HEAD_START, first.as_mut()).await {
        return match connected {
            Ok(stream) => Ok(stream),
            Err(_) => TcpStream::connect(second).await,
        };
    }
    match select(first, pin!(TcpStream::connect(second))).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
    }
}
