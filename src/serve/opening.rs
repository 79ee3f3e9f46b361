//! A connection's first bytes: whom it is from (PROXY protocol), TLS, and which HTTP it speaks.
//!
//! All of it is waited for under the client's deadlines, and a client that has shown nothing of a
//! request yet is let go early in a drain.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::drain;
use crate::error::ClientFault;
use crate::proxy_protocol::{self, Parsed, Source};
use crate::tick::{Deadline, Span};
use crate::tls::Settings;
use crate::wire::exchange::{Exchange, Stage};
use crate::wire::transport::Transport;

/// How long a connection that has sent no byte yet may still send its first request in a drain.
pub(super) const FRESH_GRACE: Duration = Duration::from_secs(1);
/// With what a client that speaks HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read at once to learn what a client speaks: most request heads.
const EARLY_MAX: usize = 2048;

/// What a connection may begin with.
#[derive(Clone, Debug)]
pub struct Terms {
    /// A PROXY protocol header comes first.
    pub has_proxy_header: bool,
    /// TLS comes next, with this.
    pub tls: Option<Arc<Settings>>,
    /// HTTP/2 is served beside HTTP/1.1.
    pub http2: bool,
}

/// A connection that is ready for its HTTP.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes.
    pub transport: Transport,
    /// Those that were read already.
    pub early: Bytes,
    /// Whether it speaks HTTP/2.
    pub is_http2: bool,
    /// Who is behind the proxy that it is from, and what they reached.
    pub proxied: Option<Proxied>,
}

/// What a PROXY header says.
#[derive(Clone, Copy, Debug)]
pub struct Proxied {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client reached.
    pub local: SocketAddr,
}

/// The wait for a connection's first bytes.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The connection's state.
    pub exchange: &'a Exchange,
    /// The process's phase.
    pub phase: &'a Cell<drain::Phase>,
}

impl Opening<'_> {
    /// Opens a connection; `None` if its client left, was late, or broke a rule, which is counted.
    pub async fn open(&self, mut socket: TcpStream, terms: &Terms) -> Option<Opened> {
        let mut proxied = None;
        if terms.has_proxy_header {
            self.exchange.handshake_begins();
            // Boxed, as is the handshake: idle connections need not hold the room for it.
            let header = Box::pin(proxy_header(&mut socket));
            match self.in_time(header).await?.ok()? {
                Ok(Source::Own) => {}
                Ok(Source::Proxied { client, local }) => proxied = Some(Proxied { client, local }),
                Err(_malformed) => {
                    self.exchange.blame(ClientFault::ProxyHeader);
                    return None;
                }
            }
            self.exchange.handshake_ends();
        }
        let Some(tls) = &terms.tls else {
            let mut early = BytesMut::new();
            let mut is_http2 = false;
            if terms.http2 {
                let told = self.within(first_bytes(&mut socket, &mut early, self.exchange)).await;
                is_http2 = match told {
                    Some(is_http2) => is_http2.ok()?,
                    // As late as any that stops amid a head, and refused like it.
                    None if !early.is_empty() => false,
                    None => return None,
                };
            }
            let (transport, early) = (Transport::Plain(socket), early.freeze());
            return Some(Opened { transport, early, is_http2, proxied });
        };
        self.exchange.handshake_begins();
        let accepting = async {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
            let settings = tls.for_client(hello.client_hello().cipher_suites()).clone();
            hello.into_stream(settings).await
        };
        let stream = match self.in_time(Box::pin(accepting)).await? {
            Ok(stream) => stream,
            Err(error) => {
                // Who leaves amid it, as one that only looks whether the port is open, breaks no rule.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.exchange.blame(ClientFault::TlsHandshake);
                }
                return None;
            }
        };
        self.exchange.handshake_ends();
        let transport = Transport::Tls(Box::new(stream.into()));
        let is_http2 = transport.has_agreed_on_http2();
        Some(Opened { transport, early: Bytes::new(), is_http2, proxied })
    }

    /// Waits for `work`, which a client owes within the time of a head: to be late is its fault, unless it is
    /// a drain that ran out of patience.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let done = self.within(work).await;
        if done.is_none() && self.phase.get() < drain::Phase::Draining {
            self.exchange.blame(ClientFault::HeadTimeout);
        }
        done
    }

    /// Waits for `work`, unless the client's deadline passes or the drain wants it gone.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let timer = &self.exchange.timer;
            timer.register(cx.waker());
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let is_fresh = self.exchange.stage() == Stage::Fresh;
            if is_fresh && self.phase.get() >= drain::Phase::Draining {
                timer.arm_sooner(Deadline::Client, Span::from_duration(FRESH_GRACE));
            }
            if timer.expired(Deadline::Client) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

/// Reads a PROXY header and not a byte more: what follows may be TLS.
async fn proxy_header(
    socket: &mut TcpStream,
) -> io::Result<Result<Source, proxy_protocol::Malformed>> {
    let mut header = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let seen = socket.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = header.len();
        header.extend_from_slice(&buffer[..seen]);
        let (taken, source) = match proxy_protocol::parse(&header) {
            Ok(Parsed::Partial) => (seen, None),
            Ok(Parsed::Complete { length, source }) => (length - known, Some(source)),
            Err(malformed) => return Ok(Err(malformed)),
        };
        socket.read_exact(&mut buffer[..taken]).await?;
        if let Some(source) = source {
            return Ok(Ok(source));
        }
    }
}

/// Reads the first bytes of a connection without TLS; whether they are HTTP/2's preface.
async fn first_bytes(
    socket: &mut TcpStream,
    early: &mut BytesMut,
    exchange: &Exchange,
) -> io::Result<bool> {
    poll_fn(|cx| {
        loop {
            if std::task::ready!(poll_early(socket, early, cx))? == 0 {
                // A client that left amid them gets the same as one that left amid a head.
                return Poll::Ready(Ok(false));
            }
            let shared = early.len().min(PREFACE.len());
            if early[..shared] != PREFACE[..shared] {
                return Poll::Ready(Ok(false));
            }
            if shared == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            // So far they may be a request's as well, and have as long as its head.
            exchange.head_begins();
        }
    })
    .await
}

fn poll_early(
    socket: &mut TcpStream,
    early: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); EARLY_MAX];
    let mut read = ReadBuf::uninit(&mut buffer);
    std::task::ready!(Pin::new(socket).poll_read(cx, &mut read))?;
    early.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
