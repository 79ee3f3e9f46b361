//! A connection in the hands of an HTTP codec, whose small writes go out as one.
//!
//! A head and its body are written as two pieces by `writev`; up to 4 KiB are cheaper copied into one
//! `send`, and through TLS into one record.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::transport::Transport;

/// Up to this size the pieces of a write are joined.
pub const JOIN_MAX: usize = 4096;

/// The size of the buffer that reads share.
pub const READ_BUFFER: usize = 16 * 1024;

/// Buffers that all connections of a worker share, each for as long as one call takes.
pub type Scratch = Rc<Buffers>;

/// The buffers of a worker.
#[derive(Debug)]
pub struct Buffers {
    /// Heads that are being written.
    pub head: RefCell<Vec<u8>>,
    /// What is read of a backend.
    pub read: RefCell<Box<[u8]>>,
    joined: RefCell<Vec<u8>>,
}

/// The buffers of a worker.
#[must_use]
pub fn scratch() -> Scratch {
    Rc::new(Buffers {
        head: RefCell::new(Vec::with_capacity(JOIN_MAX)),
        read: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
        joined: RefCell::new(Vec::with_capacity(JOIN_MAX)),
    })
}

/// A connection whose small vectored writes go out as one.
pub struct JoinedStream {
    pub(super) stream: Transport,
    scratch: Scratch,
}

impl fmt::Debug for JoinedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinedStream").field(&self.stream).finish()
    }
}

impl JoinedStream {
    /// Wraps `stream`.
    #[must_use]
    pub fn new(stream: Transport, scratch: Scratch) -> Self {
        Self { stream, scratch }
    }

    /// Whether its bytes go through TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Transport::Tls(_))
    }
}

impl AsyncRead for JoinedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for JoinedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match bufs {
            [one] => Pin::new(&mut this.stream).poll_write(cx, one),
            many if many.iter().map(|piece| piece.len()).sum::<usize>() <= JOIN_MAX => {
                let mut joined = this.scratch.joined.borrow_mut();
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
