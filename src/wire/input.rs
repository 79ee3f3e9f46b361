//! The bytes of a backend's connection as they come in, up to where they are used.
//!
//! They are read into a buffer that all connections of a worker share, as most responses fit there, and
//! only what came is copied out of it. Larger content gets buffers of its own, the larger the faster it
//! comes.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::error::PathFault;
use crate::wire::joined::{JoinedStream, READ_BUFFER, Scratch};
use crate::wire::transport::Transport;
use crate::wire::upgrade::TunnelEnd;

/// The most memory that one connection reads ahead.
const READ_AHEAD_MAX: usize = 400 * 1024;

/// Why a response, or its content, broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// What came is not HTTP/1.1.
    #[error("malformed response")]
    Malformed,
    /// The connection broke or was closed.
    #[error("connection closed")]
    Closed,
}

impl LinkError {
    /// The fault of the path.
    #[must_use]
    pub const fn path_fault(self) -> PathFault {
        match self {
            Self::Malformed => PathFault::Protocol,
            Self::Closed => PathFault::Reset,
        }
    }
}

/// A connection, and what was read of it and not used.
pub struct Input {
    /// Read, and not yet used.
    pub bytes: Bytes,
    // None once it is closed, or has become a tunnel.
    io: Option<JoinedStream>,
    scratch: Scratch,
    read_next: usize,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Input {
    /// Of a connection that has just come up.
    #[must_use]
    pub fn new(transport: Transport, scratch: Scratch) -> Self {
        let io = Some(JoinedStream::new(transport, scratch.clone()));
        Self { bytes: Bytes::new(), io, scratch, read_next: READ_BUFFER }
    }

    /// The connection, to be written to.
    ///
    /// # Errors
    /// When it is closed.
    pub fn io(&mut self) -> io::Result<&mut JoinedStream> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether it is open, and all that came was used.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.io.is_some() && self.bytes.is_empty()
    }

    /// Whether anything comes, or its end has: of an idle connection it is of no more use then.
    pub fn says_something(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let mut buf = ReadBuf::new(&mut byte);
        self.io.as_mut().is_none_or(|io| Pin::new(io).poll_read(&mut cx, &mut buf).is_ready())
    }

    /// Closes it; ends TLS in order (RFC 8446 section 6.1), as far as there is room for it.
    pub fn close(&mut self) {
        if let Some(mut io) = self.io.take()
            && io.is_tls()
        {
            let _ = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// The connection for a tunnel.
    pub fn take(&mut self) -> Option<TunnelEnd<JoinedStream>> {
        let early = std::mem::take(&mut self.bytes);
        Some(TunnelEnd { io: self.io.take()?, early })
    }

    /// Up to `limit` bytes off the beginning of what came.
    pub fn some(&mut self, limit: u64) -> Option<Bytes> {
        let here = usize::try_from(limit).unwrap_or(usize::MAX).min(self.bytes.len());
        (here > 0).then(|| self.bytes.split_to(here))
    }

    /// How much is best read at once, by what came before.
    #[must_use]
    pub fn read_next(&self) -> usize {
        self.read_next
    }

    /// Reads more behind what is there, up to about `want` bytes; false at the end of the connection.
    ///
    /// # Errors
    /// When it is closed or broken.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<bool, LinkError>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(LinkError::Closed));
        };
        let (read, room) = if want <= READ_BUFFER {
            let mut scratch = self.scratch.read.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(io).poll_read(cx, &mut buffer)).map_err(|error| broken(&error))?;
            append(&mut self.bytes, buffer.filled());
            (buffer.filled().len(), READ_BUFFER)
        } else {
            let mut buffer = BytesMut::with_capacity(self.bytes.len() + want);
            buffer.extend_from_slice(&self.bytes);
            let read = ready!(pin!(io.read_buf(&mut buffer)).poll(cx));
            self.bytes = buffer.freeze();
            (read.map_err(|error| broken(&error))?, want)
        };
        if read >= room && room >= self.read_next {
            self.read_next = (self.read_next * 2).min(READ_AHEAD_MAX);
        } else if read < self.read_next / 4 {
            self.read_next = (self.read_next / 2).max(READ_BUFFER);
        }
        Poll::Ready(Ok(read > 0))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.close();
    }
}

fn append(bytes: &mut Bytes, more: &[u8]) {
    if bytes.is_empty() {
        *bytes = Bytes::copy_from_slice(more);
    } else {
        let mut joined = BytesMut::from(std::mem::take(bytes));
        joined.extend_from_slice(more);
        *bytes = joined.freeze();
    }
}

/// What rustls finds wrong with its records is no HTTP either.
fn broken(error: &io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::InvalidData => LinkError::Malformed,
        _ => LinkError::Closed,
    }
}
