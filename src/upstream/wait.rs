//! Waiting for a path under all deadlines that run, and whose fault it is when one passes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::error::{ClientFault, PathFault, ProxyError};
use crate::tick::Deadline;
use crate::wire::exchange::Exchange;

/// What failed at the backend's connection may have been broken by the client's body.
pub(super) fn blame(exchange: &Exchange, fault: PathFault) -> ProxyError {
    match exchange.fault() {
        Some(fault) => client_error(fault),
        None => ProxyError::Path(fault),
    }
}

fn client_error(fault: ClientFault) -> ProxyError {
    let sentence = match fault {
        ClientFault::BodyTimeout => "The request body stopped coming.",
        ClientFault::BodyTooLarge => "The request body is too large.",
        ClientFault::BadRequest
        | ClientFault::Version
        | ClientFault::HeadTooLarge
        | ClientFault::TargetTooLong
        | ClientFault::HeadTimeout
        | ClientFault::BodyCut
        | ClientFault::MethodRefused
        | ClientFault::Loop
        | ClientFault::Abort
        | ClientFault::ProxyHeader
        | ClientFault::TlsHandshake
        | ClientFault::Http2Protocol
        | ClientFault::Http2Flood => "The request body is broken or incomplete.",
    };
    ProxyError::Client(fault, sentence)
}

/// Waits for `work` under all deadlines that run: the path's (whose passing is `late`), the
/// exchange's, and the client's for its upload.
pub(super) async fn within<T>(
    exchange: &Exchange,
    late: PathFault,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ProxyError> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let timer = &exchange.timer;
        if timer.expired(Deadline::Upload) {
            exchange.blame(ClientFault::BodyTimeout);
        }
        if let Some(fault) = exchange.fault() {
            return Poll::Ready(Err(client_error(fault)));
        }
        if timer.expired(Deadline::Upstream) {
            return Poll::Ready(Err(ProxyError::Path(late)));
        }
        if timer.expired(Deadline::Exchange) {
            if timer.is_armed(Deadline::Upload) {
                // It is the client that is waited for.
                exchange.blame(ClientFault::BodyTimeout);
                return Poll::Ready(Err(client_error(ClientFault::BodyTimeout)));
            }
            return Poll::Ready(Err(ProxyError::Path(PathFault::ResponseTimeout)));
        }
        Poll::Pending
    })
    .await
}
