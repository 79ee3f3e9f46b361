//! An HTTP/2 stream as a pair of byte streams, for a tunnel in it (RFC 8441, RFC 9113 section 8.5).

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is taken of one write: what h2 holds until its windows open.
const WRITE_MAX: usize = 16 * 1024;

/// A stream both of whose directions carry bytes.
pub struct StreamIo {
    receive: RecvStream,
    send: SendStream<Bytes>,
    // What was received and not read yet.
    piece: Bytes,
    _lasting: Option<Box<dyn Any>>,
}

impl std::fmt::Debug for StreamIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamIo").finish_non_exhaustive()
    }
}

impl StreamIo {
    /// Both directions of one stream; `lasting` is dropped with it.
    #[must_use]
    pub fn new(
        receive: RecvStream,
        send: SendStream<Bytes>,
        lasting: Option<Box<dyn Any>>,
    ) -> Self {
        Self { receive, send, piece: Bytes::new(), _lasting: lasting }
    }
}

fn broken(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.piece.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                Some(Ok(piece)) => this.piece = piece,
            }
        }
        let length = this.piece.len().min(buf.remaining());
        buf.put_slice(&this.piece[..length]);
        this.piece.advance(length);
        this.receive.flow_control().release_capacity(length).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let send = &mut self.send;
        send.reserve_capacity(buf.len().min(WRITE_MAX));
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = send.capacity().min(buf.len()).min(WRITE_MAX);
        send.send_data(Bytes::copy_from_slice(&buf[..length]), false).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The half-close of one direction (RFC 8441 section 5: END_STREAM is the end of TCP's stream).
    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.send.send_data(Bytes::new(), true).is_err() {
            self.send.send_reset(Reason::CANCEL);
        }
        Poll::Ready(Ok(()))
    }
}
