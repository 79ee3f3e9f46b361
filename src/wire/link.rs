//! One HTTP/1.1 connection to a backend, as it is read: heads of responses, and their content.
//!
//! There is no task behind it: whoever waits for a response reads it, and an idle connection costs a
//! socket and no buffer.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;

use crate::wire::chunks::Piece;
use crate::wire::decode::{self, Framing, HEAD_MAX, Head, INTERIM_MAX};
use crate::wire::input::{Input, LinkError};
use crate::wire::joined::{JoinedStream, READ_BUFFER, Scratch};
use crate::wire::transport::Transport;
use crate::wire::upgrade::TunnelEnd;

/// What is read at once of content that is known to be as long.
const READ_AHEAD_FIRST: usize = 64 * 1024;
/// More interim responses to one request are no hints but a flood.
const INTERIMS_MAX: usize = 32;

/// One connection. Shared by the one who sends on it and the body of the response.
pub struct Link(RefCell<State>);

struct State {
    input: Input,
    stage: Stage,
    persists: bool,
    // Whether heads are kept as they came, and the last one.
    keeps_heads: bool,
    head: Bytes,
}

enum Stage {
    /// No request is on its way.
    Idle,
    /// So many interim responses came.
    Head(usize),
    Body(Framing),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A connection that has just come up; `keeps_heads`: [`Link::head`] is asked for.
    #[must_use]
    pub fn new(transport: Transport, scratch: Scratch, keeps_heads: bool) -> Rc<Self> {
        let input = Input::new(transport, scratch);
        let (stage, head) = (Stage::Idle, Bytes::new());
        Rc::new(Self(RefCell::new(State { input, stage, persists: true, keeps_heads, head })))
    }

    /// Whether the last response has come whole, and another may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.0.borrow().is_reusable()
    }

    /// Whether it is of no more use: what an idle connection has to say is that it closes.
    pub fn is_closed(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let is_closed = !state.is_reusable() || state.input.says_something();
        state.persists &= !is_closed;
        is_closed
    }

    /// No request follows.
    pub fn wears_out(&self) {
        self.0.borrow_mut().persists = false;
    }

    /// Closes it now.
    pub fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.persists = false;
        state.input.close();
    }

    /// Whether the whole of the last response has come.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.0.borrow().stage, Stage::Idle)
    }

    /// The next bytes are a response's.
    pub fn expect_head(&self) {
        self.0.borrow_mut().stage = Stage::Head(0);
    }

    /// The head of the response to a request of `method`; interim ones go to `interim`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn poll_head(
        &self,
        cx: &mut Context<'_>,
        method: &Method,
        interim: impl FnMut(Response<()>),
    ) -> Poll<Result<Response<()>, LinkError>> {
        self.0.borrow_mut().poll_head(cx, method, interim)
    }

    /// The head of the last response as it came, where they are kept.
    #[must_use]
    pub fn head(&self) -> Bytes {
        std::mem::take(&mut self.0.borrow_mut().head)
    }

    /// The content of the present response, after its head.
    #[must_use]
    pub fn body(self: &Rc<Self>) -> LinkBody {
        LinkBody(self.clone())
    }

    /// Writes some of `pieces`.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        Pin::new(state.input.io()?).poll_write_vectored(cx, pieces)
    }

    /// Sees to it that what was written goes out.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        Pin::new(state.input.io()?).poll_flush(cx)
    }

    /// The connection for a tunnel, after a 101.
    #[must_use]
    pub fn tunnel(&self) -> Option<TunnelEnd<JoinedStream>> {
        self.0.borrow_mut().input.take()
    }
}

impl State {
    fn is_reusable(&self) -> bool {
        let is_idle = matches!(self.stage, Stage::Idle);
        // What comes unasked must not pass for the next response.
        is_idle && self.persists && self.input.is_clean()
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        mut interim: impl FnMut(Response<()>),
    ) -> Poll<Result<Response<()>, LinkError>> {
        loop {
            // What is there already is no whole head.
            if !ready!(self.input.poll_more(cx, READ_BUFFER))? {
                return Poll::Ready(Err(LinkError::Closed));
            }
            while !self.input.bytes.is_empty() {
                let before = self.input.bytes.len();
                let raw = self.keeps_heads.then(|| self.input.bytes.clone());
                let head = decode::head(&mut self.input.bytes, method)
                    .map_err(|_| LinkError::Malformed)?;
                let length = before - self.input.bytes.len();
                match head {
                    Head::Partial if before <= HEAD_MAX => break,
                    Head::Interim(response) if length <= INTERIM_MAX && self.may_interim() => {
                        interim(response);
                    }
                    Head::Final { response, framing, persists } if length <= HEAD_MAX => {
                        self.persists &= persists && response.status() != 101;
                        self.head = raw.map_or_else(Bytes::new, |raw| raw.slice(..length));
                        self.stage = Stage::Body(framing);
                        self.end_if_done();
                        return Poll::Ready(Ok(response));
                    }
                    Head::Partial | Head::Interim(_) | Head::Final { .. } => {
                        return Poll::Ready(Err(LinkError::Malformed));
                    }
                }
            }
        }
    }

    /// Whether one more may come: reading on without end would keep a worker from everything else.
    fn may_interim(&mut self) -> bool {
        let Stage::Head(number) = &mut self.stage else {
            return false;
        };
        *number += 1;
        *number <= INTERIMS_MAX
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        loop {
            let Stage::Body(framing) = &mut self.stage else {
                return Poll::Ready(None);
            };
            let next = match framing {
                Framing::Length(left) => self
                    .input
                    .some(*left)
                    .inspect(|data| *left -= data.len() as u64)
                    .map(Piece::Data),
                Framing::Chunked(chunks) => {
                    chunks.next(&mut self.input.bytes).map_err(|_| LinkError::Malformed)?
                }
                Framing::UntilClose => self.input.some(u64::MAX).map(Piece::Data),
            };
            self.end_if_done();
            match next {
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Piece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Piece::End) => return Poll::Ready(None),
                None => {}
            }
            let want = match &self.stage {
                Stage::Body(Framing::Length(left)) => {
                    let left = usize::try_from(*left).unwrap_or(usize::MAX);
                    left.min(self.input.read_next().max(READ_AHEAD_FIRST))
                }
                Stage::Body(_) | Stage::Head(_) | Stage::Idle => self.input.read_next(),
            };
            if !ready!(self.input.poll_more(cx, want))? {
                if !matches!(self.stage, Stage::Body(Framing::UntilClose)) {
                    return Poll::Ready(Some(Err(LinkError::Closed)));
                }
                (self.stage, self.persists) = (Stage::Idle, false);
                return Poll::Ready(None);
            }
        }
    }

    fn end_if_done(&mut self) {
        let is_done = match &self.stage {
            Stage::Body(Framing::Length(left)) => *left == 0,
            Stage::Body(Framing::Chunked(chunks)) => chunks.is_done(),
            Stage::Body(Framing::UntilClose) | Stage::Head(_) | Stage::Idle => false,
        };
        if is_done {
            self.stage = Stage::Idle;
        }
    }
}

/// The content of a response. Dropped before its end, its connection carries nothing more.
#[derive(Debug)]
pub struct LinkBody(Rc<Link>);

impl LinkBody {
    /// The next piece.
    pub fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        self.0.0.borrow_mut().poll_frame(cx)
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.0.is_answered()
    }

    /// How much is still to come, where that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match &self.0.0.borrow().stage {
            Stage::Body(Framing::Length(left)) => SizeHint::with_exact(*left),
            Stage::Idle => SizeHint::with_exact(0),
            Stage::Body(_) | Stage::Head(_) => SizeHint::new(),
        }
    }
}
