//! A client's connection in the hands of an HTTP codec, watched.
//!
//! It sees when a head begins (its deadline), reads along for ambiguous framing and for frames without
//! end, writes interim responses, and puts our reply in the place of hyper's bare one when hyper refuses
//! a head by itself.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{ClientFault, ProxyError, Refusal};
use crate::wire::exchange::{Exchange, Stage};
use crate::wire::frames::FrameMeter;
use crate::wire::interim::{relayed, to_bytes};
use crate::wire::joined::{JOIN_MAX, JoinedStream, Scratch};
use crate::wire::scan::{HeadScan, LineFault};
use crate::wire::transport::Transport;

/// A client's connection, seen by hyper (through [`ClientStream`]) and by the future that drives it.
#[derive(Debug)]
pub struct ClientSocket {
    stream: RefCell<JoinedStream>,
    // What was read to learn what the client speaks, for whoever speaks it with him.
    early: RefCell<Bytes>,
    scan: RefCell<HeadScan>,
    meter: RefCell<FrameMeter>,
    exchange: Rc<Exchange>,
    refused: Cell<bool>,
    // Whether hyper has bytes of a reply that it has not written yet.
    is_amid_reply: Cell<bool>,
    // Interim responses that the kernel had no room for yet.
    interims: RefCell<BytesMut>,
}

/// What a look at a client that waits for its reply has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing new.
    Waiting,
    /// It sent more, or closed its side of the connection: no more is to be learnt by reading.
    Silent,
    /// Its connection is gone.
    Gone,
}

impl ClientSocket {
    /// The socket of a connection whose state is `exchange`, of which `early` was read already.
    #[must_use]
    pub fn new(
        stream: Transport,
        early: Bytes,
        scratch: Scratch,
        exchange: Rc<Exchange>,
    ) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(JoinedStream::new(stream, scratch)),
            early: RefCell::new(early),
            scan: RefCell::default(),
            meter: RefCell::default(),
            exchange,
            refused: Cell::new(false),
            is_amid_reply: Cell::new(false),
            interims: RefCell::default(),
        })
    }

    /// Whether the head of a request named both a length and a transfer coding.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.scan.borrow().is_ambiguous()
    }

    /// Whether a part of a head has come, and no more.
    #[must_use]
    pub fn is_mid_head(&self) -> bool {
        self.scan.borrow().is_mid_head()
    }

    /// Reads along the frames of HTTP/2. A flood is not read any further: its connection is about to end.
    fn meter_frames(&self, came: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut meter = self.meter.borrow_mut();
        meter.feed(came, self.exchange.timer.now());
        self.exchange.is_amid_head(meter.is_amid_head());
        if meter.is_flood() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether its client sends frames that carry nothing, without end.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.meter.borrow().is_flood()
    }

    /// Whether a refusal was written by the socket itself: the connection must end.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.refused.get()
    }

    /// Looks, without taking anything, at whether the client is still there. Costs a system call
    /// only when something has come in.
    pub fn presence(&self, cx: &mut Context<'_>) -> Presence {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        match self.stream.borrow().stream.socket().poll_peek(cx, &mut buf) {
            Poll::Pending => Presence::Waiting,
            Poll::Ready(Ok(_)) => Presence::Silent,
            Poll::Ready(Err(_)) => Presence::Gone,
        }
    }

    /// Whether the kernel has seen the connection break, for a client that reads nothing new.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !matches!(self.stream.borrow().stream.socket().take_error(), Ok(None))
    }

    /// Whether bytes wait to be read: a request that came just before its connection would close.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let stream = self.stream.borrow();
        SockRef::from(stream.stream.socket()).peek(&mut byte).is_ok_and(|read| read > 0)
    }

    /// Says that nothing more will be written.
    pub fn close_write(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        // A socket that is gone already has nothing to say it to.
        let _ = Pin::new(&mut self.stream.borrow_mut().stream).poll_shutdown(&mut cx);
    }

    /// Writes the interim responses that have come, in front of the reply; but if the reply before is still
    /// on its way out, or many of them are, they are dropped, as they are only hints.
    pub fn relay_interims(&self, cx: &mut Context<'_>) {
        for response in self.exchange.interims().into_iter().filter_map(relayed) {
            if !self.is_amid_reply.get() && self.interims.borrow().len() <= JOIN_MAX {
                self.interims.borrow_mut().extend_from_slice(&to_bytes(&response));
                // What goes wrong, hyper will hear when it writes.
                let _ = self.poll_interims(cx);
            }
        }
    }

    fn poll_interims(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interims = self.interims.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        while !interims.is_empty() {
            let written = ready!(Pin::new(&mut stream.stream).poll_write(cx, &interims))?;
            interims.advance(written);
        }
        Pin::new(&mut stream.stream).poll_flush(cx)
    }

    /// hyper is about to write.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // They may have come together with the reply.
        self.relay_interims(cx);
        self.is_amid_reply.set(true);
        if self.interims.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_interims(cx)
    }

    /// Fills `buf` with what was read before anyone knew what the client speaks.
    fn take_early(&self, buf: &mut ReadBuf<'_>) -> bool {
        let mut early = self.early.borrow_mut();
        let length = early.len().min(buf.remaining());
        buf.put_slice(&early[..length]);
        early.advance(length);
        length > 0
    }

    /// Writes a refusal as far as the socket takes it at once. The connection ends after it.
    pub fn refuse(&self, refusal: &Refusal) {
        let bytes = refusal.to_bytes(&self.exchange.ids.request_id());
        self.refused.set(true);
        self.exchange.shard.refused.count(refusal.status.as_u16());
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = self.stream.borrow_mut();
        // A fresh socket's buffer takes some hundred bytes; where it does not, the client is not
        // reading, and no refusal would reach it.
        let _ = Pin::new(&mut stream.stream).poll_write(&mut cx, &bytes);
        let _ = Pin::new(&mut stream.stream).poll_flush(&mut cx);
    }

    /// Replaces the bare reply that hyper makes when it refuses a head by itself.
    fn replace_bare_refusal(&self, written: &[u8]) -> bool {
        if !matches!(self.exchange.stage(), Stage::Fresh | Stage::Head) {
            return false;
        }
        if !self.refused.get() {
            let line_fault = self.scan.borrow().line_fault(self.exchange.head_bytes_max());
            let (fault, rule) = match written.get(9..12) {
                Some(b"400") if line_fault == Some(LineFault::Version) => {
                    (ClientFault::Version, "This HTTP version is not served here.")
                }
                Some(b"431") if line_fault == Some(LineFault::TooLong) => {
                    (ClientFault::TargetTooLong, "The request target is too long.")
                }
                Some(b"431") => (ClientFault::HeadTooLarge, "The request head is too large."),
                Some(b"414") => (ClientFault::TargetTooLong, "The request target is too long."),
                Some(_) | None => (ClientFault::BadRequest, "The request is not valid HTTP/1.1."),
            };
            self.exchange.blame(fault);
            self.refuse(&ProxyError::Client(fault, rule).refusal());
        }
        true
    }
}

impl Drop for ClientSocket {
    /// A connection that ends between two messages, as when it was idle for too long, ends in order too
    /// (RFC 8446 section 6.1). Amid one it must not: a reply would pass for complete.
    fn drop(&mut self) {
        let is_between = match self.exchange.stage() {
            // HTTP/2 says of each message by itself where it ends.
            Stage::Fresh | Stage::Replied | Stage::Multiplexed => true,
            Stage::Head | Stage::Busy | Stage::Tunnel => false,
        };
        if is_between && matches!(self.stream.get_mut().stream, Transport::Tls(_)) {
            self.close_write();
        }
    }
}

/// hyper's end of a [`ClientSocket`].
#[derive(Clone, Debug)]
pub struct ClientStream(pub Rc<ClientSocket>);

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &*self.0;
        let before = buf.filled().len();
        if !socket.take_early(buf) {
            ready!(Pin::new(&mut socket.stream.borrow_mut().stream).poll_read(cx, buf))?;
        }
        let came = &buf.filled()[before..];
        if !came.is_empty() && !socket.exchange.stage().is_opaque() {
            let mut scan = socket.scan.borrow_mut();
            if socket.exchange.head_begins() {
                scan.expect_head();
            }
            scan.feed(came);
        }
        if socket.exchange.stage() == Stage::Multiplexed {
            return socket.meter_frames(came, cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientStream {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => self.0.exchange.write_stalls(),
            Poll::Ready(_) => self.0.exchange.write_progress(),
        }
        if let Poll::Ready(Ok(octets)) = result
            && self.0.exchange.stage() == Stage::Multiplexed
        {
            self.0.meter.borrow_mut().sent(octets);
        }
        result
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.replace_bare_refusal(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.0.poll_turn(cx))?;
        let result = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.0.replace_bare_refusal(bufs.first().map_or(&[], |piece| &**piece)) {
            return Poll::Ready(Ok(bufs.iter().map(|piece| piece.len()).sum()));
        }
        ready!(self.0.poll_turn(cx))?;
        let result = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has written all that it had.
        self.0.is_amid_reply.set(false);
        Pin::new(&mut self.0.stream.borrow_mut().stream).poll_flush(cx)
    }

    /// hyper shuts down what is about to be closed anyway: a system call for nothing. The
    /// half-close of a tunnel is meant, and so is the end of TLS: without its alert a reply that ends
    /// with its connection could not be told from one that was cut (RFC 8446 section 6.1).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_meant = self.0.exchange.stage().is_opaque();
        if !is_meant && matches!(self.0.stream.borrow().stream, Transport::Plain(_)) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}
