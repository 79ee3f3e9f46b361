//! One HTTP/2 stream: an exchange of its own, from its request to the last byte of its reply.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, DATE, EXPECT, UPGRADE};
use http::{HeaderName, Request, Response, StatusCode, Version, response};
use http_body::Body;

use crate::error::ClientFault;
use crate::serve::streams::{Open, StreamSeat};
use crate::serve::tunnel::{Agreed, TunnelHold, TunnelSeat};
use crate::tick::Deadline;
use crate::wire::body::BodyError;
use crate::wire::duplex::StreamIo;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;
use crate::wire::interim::relayed;
use crate::wire::outflow::{Outflow, Sent, Waits};
use crate::wire::upgrade::TunnelEnd;

const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// One stream.
pub(super) struct Stream {
    open: Open,
    exchange: Rc<Exchange>,
    tunnel: TunnelSeat,
    respond: SendResponse<Bytes>,
    // What comes in a stream that asks to become a tunnel is not the body of a request.
    tunnelled: Option<RecvStream>,
}

impl Stream {
    /// The stream of a request, and that request.
    pub(super) fn new(
        open: Open,
        respond: SendResponse<Bytes>,
        request: Request<RecvStream>,
    ) -> (Self, Request<Inflow>) {
        let exchange = Rc::new(open.0.exchange.stream());
        let (head, body) = request.into_parts();
        let (tunnelled, body) = match head.extensions.get::<Protocol>() {
            Some(_) => (Some(body), Inflow::None),
            None => (None, Inflow::Http2(body)),
        };
        let tunnel = TunnelSeat::default();
        if head.headers.contains_key(EXPECT) {
            exchange.expect_continue();
        }
        let stream = Self { open, exchange, tunnel, respond, tunnelled };
        (stream, Request::from_parts(head, body))
    }

    /// Its end of the journey.
    pub(super) fn seat(&self) -> StreamSeat {
        StreamSeat { exchange: self.exchange.clone(), tunnel: self.tunnel.clone() }
    }

    /// Waits for the reply, and sends it.
    pub(super) async fn serve<B>(mut self, replying: impl Future<Output = Response<B>> + Unpin)
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        let Some(reply) = self.await_reply(replying).await else {
            return;
        };
        let (mut head, body) = reply.into_parts();
        head.version = Version::HTTP_2;
        if let Some(agreed) = self.tunnel.take() {
            drop(body);
            self.run_tunnel(head, agreed).await;
            return;
        }
        if !head.headers.contains_key(DATE) {
            // RFC 9110 section 6.6.1. hyper does it for HTTP/1.
            head.headers.insert(DATE, crate::wire::date::now());
        }
        let is_whole = body.is_end_stream();
        let Ok(stream) = self.respond.send_response(Response::from_parts(head, ()), is_whole)
        else {
            return;
        };
        if !is_whole {
            self.send(Outflow::new(body, stream, Reason::INTERNAL_ERROR)).await;
        }
    }

    /// `None` if the client took the stream back, or a drain cuts it off.
    async fn await_reply<B>(
        &mut self,
        mut replying: impl Future<Output = Response<B>> + Unpin,
    ) -> Option<Response<B>> {
        poll_fn(|cx| {
            self.exchange.timer.register(cx.waker());
            let polled = Pin::new(&mut replying).poll(cx);
            self.send_interims();
            if let Poll::Ready(reply) = polled {
                return Poll::Ready(Some(reply));
            }
            if self.respond.poll_reset(cx).is_ready() {
                self.exchange.blame(ClientFault::Abort);
                self.open.0.taken_back();
                return Poll::Ready(None);
            }
            if self.exchange.is_cut() {
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// What comes before the reply: interim responses, and the word that an upload is waited for
    /// (RFC 9110 section 10.1.1).
    fn send_interims(&mut self) {
        let interims = self.exchange.interims();
        for interim in interims.into_iter().filter_map(relayed) {
            // A stream that is gone is noticed where it is read or written.
            let _ = self.respond.send_informational(interim);
        }
        if self.exchange.takes_continue() {
            let go_on = Response::builder().status(StatusCode::CONTINUE).body(());
            if let Ok(go_on) = go_on {
                let _ = self.respond.send_informational(go_on);
            }
        }
    }

    async fn send<B>(&self, mut outflow: Outflow<B>)
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        let exchange = &self.exchange;
        let mut known = 0;
        poll_fn(|cx| {
            exchange.timer.register(cx.waker());
            let polled = outflow.poll(cx);
            if std::mem::replace(&mut known, outflow.sent()) != known {
                exchange.write_progress();
            }
            match polled {
                Ok(Sent::Refused) => {
                    exchange.blame(ClientFault::Abort);
                    // As dear to the backend as one that is taken back before its reply began.
                    self.open.0.taken_back();
                    return Poll::Ready(());
                }
                Ok(Sent::Whole | Sent::Broken(_)) => return Poll::Ready(()),
                Err(Waits::Peer) => exchange.write_stalls(),
                Err(Waits::Body) => {}
            }
            if exchange.timer.expired(Deadline::Client) {
                exchange.blame(ClientFault::Abort);
            } else if !exchange.is_cut() {
                return Poll::Pending;
            }
            outflow.reset(Reason::CANCEL);
            Poll::Ready(())
        })
        .await;
    }

    /// RFC 8441 section 5: a 2xx agrees to what a 101 agrees to in HTTP/1.1.
    async fn run_tunnel(mut self, mut head: response::Parts, agreed: Agreed) {
        head.status = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            head.headers.remove(name);
        }
        let sent = self.respond.send_response(Response::from_parts(head, ()), false);
        let (Ok(send), Some(receive)) = (sent, self.tunnelled.take()) else {
            return;
        };
        let client = TunnelEnd { io: StreamIo::new(receive, send, None), early: Bytes::new() };
        let streams = &self.open.0;
        let hold = TunnelHold { exchange: &self.exchange, phase: &streams.phase };
        // Boxed: few streams become tunnels.
        Box::pin(hold.run(agreed, client, streams.tunnels)).await;
    }
}
