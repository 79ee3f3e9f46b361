//! A connection in the hands of an HTTP codec, whose small writes go out as one.
//!
//! hyper writes a head and its body as two pieces by `writev`; up to 4 KiB are cheaper copied into one
//! `send`, and through TLS into one record. Towards a backend it also reads along.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::interim::Interims;
use crate::wire::sent::SentHead;
use crate::wire::transport::Transport;

/// Up to this size the pieces of a write are joined.
pub const JOIN_MAX: usize = 4096;

/// The buffer in which a worker's sockets join small writes.
pub type Scratch = Rc<RefCell<Vec<u8>>>;

/// A buffer for [`JoinedStream`].
#[must_use]
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(Vec::with_capacity(JOIN_MAX)))
}

/// A connection whose small vectored writes go out as one.
pub struct JoinedStream {
    pub(super) stream: Transport,
    scratch: Scratch,
    // Towards a backend.
    tap: Option<Tap>,
}

/// Reads along on a connection to a backend.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    /// Keeps the head of each request that goes out.
    pub sent: Rc<SentHead>,
    /// Sees the interim responses that come in.
    pub interims: Rc<Interims>,
}

impl fmt::Debug for JoinedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinedStream").field(&self.stream).finish()
    }
}

impl JoinedStream {
    /// Wraps `stream`; `tap` reads along, if there is one.
    #[must_use]
    pub fn new(stream: Transport, scratch: Scratch, tap: Option<Tap>) -> Self {
        Self { stream, scratch, tap }
    }

    fn offer(&self, bytes: &[u8]) {
        if let Some(tap) = &self.tap {
            tap.sent.offer(bytes);
        }
    }
}

impl AsyncRead for JoinedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(tap) = &self.tap {
            tap.interims.feed(&buf.filled()[before..])?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for JoinedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.offer(buf);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(first) = bufs.first() {
            this.offer(first);
        }
        match bufs {
            [one] => Pin::new(&mut this.stream).poll_write(cx, one),
            many if many.iter().map(|piece| piece.len()).sum::<usize>() <= JOIN_MAX => {
                let mut joined = this.scratch.borrow_mut();
                joined.clear();
                many.iter().for_each(|piece| joined.extend_from_slice(piece));
                Pin::new(&mut this.stream).poll_write(cx, &joined)
            }
            many => Pin::new(&mut this.stream).poll_write_vectored(cx, many),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
