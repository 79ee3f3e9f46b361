//! A body on its way out on an HTTP/2 stream, as fast as the peer's windows open (RFC 9113
//! section 5.2). Holds no more than one piece: what the peer does not take is not read.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http_body::Body;

/// A body on its way out.
pub struct Outflow<B> {
    body: B,
    stream: SendStream<Bytes>,
    // What the windows have no room for yet.
    piece: Bytes,
    sent: u64,
    on_broken: Reason,
}

/// How a body on its way out ended.
#[derive(Debug)]
pub enum Sent<E> {
    /// All of it is h2's to write.
    Whole,
    /// The peer wants no more of it, or its connection is gone.
    Refused,
    /// The body broke: the stream was reset, so that the peer does not take it for complete.
    Broken(E),
}

/// What a body on its way out waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The peer, which has to open its windows.
    Peer,
    /// More of the body.
    Body,
}

impl<B> fmt::Debug for Outflow<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outflow").field("held", &self.piece.len()).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Outflow<B> {
    /// The body `body` on `stream`, whose head is sent and has not ended the stream. If the body
    /// breaks, the stream is reset with `on_broken`.
    pub fn new(body: B, stream: SendStream<Bytes>, on_broken: Reason) -> Self {
        Self { body, stream, piece: Bytes::new(), sent: 0, on_broken }
    }

    /// Bytes of the body that the peer's windows had room for.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Sends what can be sent now; `Err` says what it waits for.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Result<Sent<B::Error>, Waits> {
        loop {
            if !self.piece.is_empty() {
                match self.send_piece(cx) {
                    Poll::Ready(Some(sent)) => return Ok(sent),
                    Poll::Ready(None) => continue,
                    Poll::Pending => return self.wait(cx, Waits::Peer),
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return self.wait(cx, Waits::Body),
                Poll::Ready(None) => return Ok(self.end(Bytes::new())),
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(self.on_broken);
                    return Ok(Sent::Broken(error));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) if self.body.is_end_stream() && piece.is_empty() => {
                        return Ok(self.end(piece));
                    }
                    Ok(piece) => self.piece = piece,
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        clean_trailers(&mut trailers);
                        if trailers.is_empty() {
                            return Ok(self.end(Bytes::new()));
                        }
                        let sent = self.stream.send_trailers(trailers);
                        return Ok(if sent.is_ok() { Sent::Whole } else { Sent::Refused });
                    }
                },
            }
        }
    }

    /// Sends as much of the piece in hand as there is room for.
    fn send_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Sent<B::Error>>> {
        self.stream.reserve_capacity(self.piece.len());
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Some(Sent::Refused)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let room = self.stream.capacity().min(self.piece.len());
        let part = self.piece.split_to(room);
        self.sent += room as u64;
        if self.piece.is_empty() && self.body.is_end_stream() {
            return Poll::Ready(Some(self.end(part)));
        }
        match self.stream.send_data(part, false) {
            Ok(()) => Poll::Ready(None),
            Err(_) => Poll::Ready(Some(Sent::Refused)),
        }
    }

    fn end(&mut self, last: Bytes) -> Sent<B::Error> {
        let sent = self.stream.send_data(last, true);
        if sent.is_ok() { Sent::Whole } else { Sent::Refused }
    }

    /// A peer that resets the stream is heard also while nothing can be sent.
    fn wait(&mut self, cx: &mut Context<'_>, waits: Waits) -> Result<Sent<B::Error>, Waits> {
        match self.stream.poll_reset(cx) {
            Poll::Ready(_) => Ok(Sent::Refused),
            Poll::Pending => Err(waits),
        }
    }
}

/// Takes off what a trailer section may not have: framing, routing, and what is of one connection
/// (RFC 9110 section 6.5.1, RFC 9113 section 8.2.2). h2 refuses to send most of it.
fn clean_trailers(trailers: &mut HeaderMap) {
    for name in [CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE] {
        trailers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        trailers.remove(name);
    }
}
