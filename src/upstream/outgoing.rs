//! A request on its way out over HTTP/1.1: its head, and its content as it comes.
//!
//! No more than one piece of content is held.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, Request};
use http_body::Body;

use crate::config::values::HeaderCase;
use crate::wire::encode::{Coding, announced, chunk_size, last_chunk};
use crate::wire::link::Link;
use crate::wire::upload::RequestBody;

/// Why a request could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its content broke off.
    Body,
    /// The backend does not take it.
    Connection,
}

/// What is left of a request.
#[derive(Debug)]
pub struct Outgoing {
    // None once all of it was read.
    body: Option<RequestBody>,
    coding: Coding,
    case: HeaderCase,
    announced: Vec<HeaderName>,
    piece: Piece,
    // The last of a content of known length, until that has ended there: what breaks its rules is
    // never complete at the backend.
    held: Bytes,
    has_begun: bool,
    is_flushed: bool,
    written: u64,
}

/// What is being written: some content, and what frames it.
#[derive(Debug, Default)]
struct Piece {
    front: Bytes,
    data: Bytes,
    end: &'static [u8],
}

impl Outgoing {
    /// The content of `request`, which is taken out of it.
    #[must_use]
    pub fn of(request: &mut Request<RequestBody>, case: HeaderCase) -> Self {
        let body = request.body_mut().take();
        let coding = Coding::of(request.headers(), body.is_empty());
        let announced = match coding {
            Coding::Chunked => announced(request.headers()),
            Coding::Length(_) | Coding::Empty => Vec::new(),
        };
        let body = Some(body).filter(|_| coding != Coding::Empty);
        let (piece, held) = (Piece::default(), Bytes::new());
        Self {
            body,
            coding,
            case,
            announced,
            piece,
            held,
            has_begun: false,
            is_flushed: false,
            written: 0,
        }
    }

    /// How its content is framed.
    #[must_use]
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// Whether its head was written, or is kept to be written.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether all of it was written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.body.is_none() && self.piece.is_empty() && self.is_flushed
    }

    /// Whether what is read of it waits for the backend to take it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.piece.is_empty() || !self.is_flushed
    }

    /// Bytes of content and of its framing that the backend has taken.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes `head` with the first piece of content that is there, and goes on.
    ///
    /// # Errors
    /// Why it can't be sent.
    pub fn begin(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
        head: &[u8],
    ) -> Poll<Result<(), Broken>> {
        let next = self.poll_next(cx)?;
        if self.coding == Coding::Length(0) {
            // It is complete with its head, which goes out once it is known to be sound.
            ready!(next);
        }
        self.has_begun = true;
        let written = match self.piece.poll_write(cx, link, head) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if written < head.len() {
            self.piece.front = [&head[written..], &self.piece.front].concat().into();
        } else {
            self.piece.advance(written - head.len());
        }
        self.poll(cx, link)
    }

    /// Goes on writing.
    ///
    /// # Errors
    /// Why it can't be sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Result<(), Broken>> {
        loop {
            while !self.piece.is_empty() {
                let written = ready!(self.piece.poll_write(cx, link, &[]))?;
                self.piece.advance(written);
                self.written += written as u64;
            }
            let next = self.poll_next(cx)?;
            if self.piece.is_empty() {
                // Nothing more for now: what TLS holds back goes out.
                if !self.is_flushed {
                    ready!(link.poll_flush(cx)).map_err(|_| Broken::Connection)?;
                    self.is_flushed = true;
                }
                return next.map(Ok);
            }
        }
    }

    /// Reads the next piece of content, if there is one to come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while let Some(body) = &mut self.body {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                return Poll::Ready(self.end(&HeaderMap::new()));
            };
            let frame = frame.map_err(|_| Broken::Body)?;
            match frame.into_data() {
                // An empty chunk would be the last one.
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.take(data)?;
                    if is_last {
                        self.end(&HeaderMap::new())?;
                    } else if self.coding == Coding::Length(0) {
                        self.held = std::mem::take(&mut self.piece.data);
                        continue;
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.end(&trailers));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, data: Bytes) -> Result<(), Broken> {
        self.is_flushed = false;
        match &mut self.coding {
            // More than was announced would be read as the next request.
            Coding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Broken::Body)?;
                self.piece = Piece { front: Bytes::new(), data, end: b"" };
            }
            Coding::Chunked => {
                let front = chunk_size(data.len()).into();
                self.piece = Piece { front, data, end: b"\r\n" };
            }
            Coding::Empty => return Err(Broken::Body),
        }
        Ok(())
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Broken> {
        self.body = None;
        match self.coding {
            Coding::Length(1..) => return Err(Broken::Body),
            Coding::Chunked if trailers.is_empty() => {
                self.is_flushed = false;
                // Behind the last chunk's data, or alone.
                let has_data = !self.piece.is_empty();
                self.piece.end = if has_data { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
            }
            Coding::Chunked => {
                self.is_flushed = false;
                self.piece.front = last_chunk(trailers, &self.announced, self.case).into();
            }
            Coding::Length(0) if !self.held.is_empty() => {
                self.piece.data = std::mem::take(&mut self.held);
            }
            Coding::Length(0) | Coding::Empty => {}
        }
        Ok(())
    }
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.front.is_empty() && self.data.is_empty() && self.end.is_empty()
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        link: &Link,
        head: &[u8],
    ) -> Poll<Result<usize, Broken>> {
        let all = [head, &self.front, &self.data, self.end].map(IoSlice::new);
        // Most requests have a head and nothing else.
        let pieces = if self.is_empty() { &all[..1] } else { &all[..] };
        let written = ready!(link.poll_write(cx, pieces)).unwrap_or(0);
        Poll::Ready(if written > 0 { Ok(written) } else { Err(Broken::Connection) })
    }

    fn advance(&mut self, written: usize) {
        let front = written.min(self.front.len());
        self.front.advance(front);
        let data = (written - front).min(self.data.len());
        self.data.advance(data);
        self.end = &self.end[written - front - data..];
    }
}
