//! Names of fields as the other side wrote them, byte for byte (`header_case = "preserve"`).
//!
//! Only hyper knows how a client wrote them, and only hyper's own notes tell its server how a backend
//! did. So where they are to be preserved a head goes through hyper's client, over memory. It costs
//! more, and only those pay who ask for it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::encode::Coding;

type Responding = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>>>>;

/// A request that hyper has written, and whose response it is to read.
pub struct Cased {
    memory: Memory,
    connection: Pin<Box<Connection<TokioIo<Memory>, Content>>>,
    responding: Responding,
}

impl fmt::Debug for Cased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cased").finish_non_exhaustive()
    }
}

impl Cased {
    /// Appends the head of `request` to `out`; `None` if hyper does not take it.
    pub fn write<B>(request: &Request<B>, coding: Coding, out: &mut Vec<u8>) -> Option<Self> {
        let mut head = Request::new(Content { is_empty: coding == Coding::Empty });
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        let memory = Memory::default();
        let mut builder = http1::Builder::new();
        let shaking = builder.preserve_header_case(true).handshake(TokioIo::new(memory.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok((mut sender, connection))) = pin!(shaking).poll(&mut cx) else {
            return None;
        };
        let mut connection = Box::pin(connection);
        // Before it reads, it has to be ready for a request.
        let _ = connection.as_mut().poll(&mut cx);
        let mut responding: Responding = Box::pin(async move { sender.send_request(head).await });
        let _ = responding.as_mut().poll(&mut cx);
        let _ = connection.as_mut().poll(&mut cx);
        let written = std::mem::take(&mut memory.0.borrow_mut().written);
        if !written.ends_with(b"\r\n\r\n") {
            return None;
        }
        out.extend_from_slice(&written);
        Some(Self { memory, connection, responding })
    }

    /// Adds to `response`, whose head came as `raw`, what hyper notes of how its fields were written.
    pub fn note(mut self, response: &mut Response<()>, raw: Bytes) {
        self.memory.0.borrow_mut().read = raw;
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.connection.as_mut().poll(&mut cx);
        if let Poll::Ready(Ok(noted)) = self.responding.as_mut().poll(&mut cx) {
            response.extensions_mut().extend(noted.into_parts().0.extensions);
        }
    }
}

/// A connection's two directions.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<Directions>>);

#[derive(Default)]
struct Directions {
    written: Vec<u8>,
    read: Bytes,
}

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = &mut self.0.borrow_mut().read;
        if read.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(&read.split_to(read.len().min(buf.remaining())));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Content that never comes: no more than the head is written.
struct Content {
    is_empty: bool,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_empty { Poll::Ready(None) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_goes_through_and_its_content_does_not() {
        for (coding, line) in [
            (Coding::Empty, ""),
            (Coding::Length(2), "content-length: 2\r\n"),
            (Coding::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut request = Request::post("/x").body(()).unwrap();
            for field in line.lines() {
                let (name, value) = field.split_once(": ").unwrap();
                let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            let mut out = Vec::new();
            assert!(Cased::write(&request, coding, &mut out).is_some());
            assert_eq!(String::from_utf8(out).unwrap(), format!("POST /x HTTP/1.1\r\n{line}\r\n"));
        }
    }
}
