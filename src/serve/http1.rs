//! One client connection that speaks HTTP/1: until its end, with its idle and head timeouts, its
//! tunnel, its drain.
//!
//! hyper parses and frames; what it does not do is here. It has no idle timeout between requests
//! (hyper#3685) and its graceful shutdown resets a connection that has sent nothing yet
//! (hyper#3792), so it is asked for that only once a connection has had a reply. It closes with
//! unread bytes in the socket, which would reset a refusal on its way: after one, we linger.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::config::Config;
use crate::config::values::HeaderCase;
use crate::drain;
use crate::error::{ClientFault, ProxyError};
use crate::serve::ClientConnection;
use crate::serve::opening::FRESH_GRACE;
use crate::serve::tunnel::TunnelHold;
use crate::tick::{Deadline, Span};
use crate::wire::body::BodyError;
use crate::wire::exchange::Stage;
use crate::wire::inflow::Inflow;
use crate::wire::socket::{ClientStream, Presence};
use crate::wire::upgrade::TunnelEnd;

/// How long, and for how many bytes, what a refused client still sends is read and thrown away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// hyper's settings for a config.
#[must_use]
pub fn builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Its own timers are off: they cost a write to an eventfd each (see `tick`).
    builder.header_read_timeout(None).half_close(true).max_header_size(config.listen.header_bytes);
    if config.listen.header_count > 100 {
        // Beyond hyper's array on the stack the count costs an allocation a request.
        builder.max_headers(config.listen.header_count);
    }
    let cases = [config.paths.legacy.header_case, config.paths.async_.header_case];
    builder.preserve_header_case(cases.contains(&HeaderCase::Preserve));
    builder.title_case_headers(cases != [HeaderCase::Lower; 2]);
    builder
}

/// Why a connection's HTTP ended.
enum Ended {
    /// By itself: closed, broken, or switched to a tunnel.
    Http,
    /// A deadline passed, the client vanished, or the drain wants it gone.
    Dropped,
    /// Refused; what the client still sends is to be read away.
    Refused,
}

impl ClientConnection {
    /// Serves HTTP/1 until the connection has ended.
    pub async fn run_http1<F, B>(
        self,
        builder: &http1::Builder,
        handle: impl Fn(Request<Inflow>) -> F,
    ) where
        F: Future<Output = Response<B>>,
        B: Body<Error = BodyError> + 'static,
    {
        let io = TokioIo::new(ClientStream(self.socket.clone()));
        let service = service_fn(|request: Request<Incoming>| {
            handle(request.map(Inflow::Http1)).map(Ok::<_, Infallible>)
        });
        let mut http = builder.serve_connection(io, service);
        let mut asked_to_end = false;
        let ended = poll_fn(|cx| {
            self.exchange.timer.register(cx.waker());
            loop {
                self.socket.relay_interims(cx);
                if Pin::new(&mut http).poll(cx).is_ready() {
                    let refused = self.exchange.fault().is_some() || self.socket.has_refused();
                    return Poll::Ready(if refused { Ended::Refused } else { Ended::Http });
                }
                if !asked_to_end && self.may_end() {
                    asked_to_end = true;
                    Pin::new(&mut http).graceful_shutdown();
                    continue;
                }
                return self.watch(cx).map_or(Poll::Pending, Poll::Ready);
            }
        })
        .await;
        let agreed = self.tunnel.borrow_mut().take();
        match (ended, agreed) {
            (Ended::Http, Some(agreed)) => {
                let early = http.into_parts().read_buf;
                let client = TunnelEnd { io: ClientStream(self.socket.clone()), early };
                let hold = TunnelHold { exchange: &self.exchange, phase: &self.phase };
                // Boxed: few connections become tunnels.
                Box::pin(hold.run(agreed, client, self.tunnels)).await;
            }
            (Ended::Refused, _) => {
                drop(http);
                self.linger().await;
            }
            (Ended::Http | Ended::Dropped, _) => {}
        }
    }

    /// In a drain a connection ends once it is idle and nothing of another request has come.
    fn may_end(&self) -> bool {
        self.phase.get() >= drain::Phase::Draining
            && self.exchange.stage() == Stage::Replied
            && !self.exchange.is_uploading()
            && !self.socket.has_bytes()
    }

    /// What hyper does not watch while it waits.
    fn watch(&self, cx: &mut Context<'_>) -> Option<Ended> {
        let timer = &self.exchange.timer;
        if timer.expired(Deadline::Upload) && self.exchange.stage() != Stage::Busy {
            self.exchange.blame(ClientFault::BodyTimeout);
            return Some(Ended::Dropped);
        }
        if self.exchange.stage() == Stage::Replied && self.socket.is_mid_head() {
            // It came in one piece with the request before it: nothing more may come to show it.
            self.exchange.head_begins();
        }
        match self.exchange.stage() {
            Stage::Fresh => {
                if self.phase.get() >= drain::Phase::Draining {
                    timer.arm_sooner(Deadline::Client, Span::from_duration(FRESH_GRACE));
                }
                timer.expired(Deadline::Client).then_some(Ended::Dropped)
            }
            Stage::Head => timer.expired(Deadline::Client).then(|| {
                let fault = ClientFault::HeadTimeout;
                self.exchange.blame(fault);
                let error = ProxyError::Client(fault, "The request head took too long.");
                self.socket.refuse(&error.refusal());
                Ended::Refused
            }),
            Stage::Busy if self.exchange.is_cut() => Some(Ended::Dropped),
            Stage::Busy => self.watch_busy(cx),
            Stage::Replied | Stage::Tunnel | Stage::Multiplexed => {
                timer.expired(Deadline::Client).then_some(Ended::Dropped)
            }
        }
    }

    /// A client that waits for its reply may vanish, or stop taking it.
    fn watch_busy(&self, cx: &mut Context<'_>) -> Option<Ended> {
        let timer = &self.exchange.timer;
        let gone = if timer.expired(Deadline::Client) {
            true
        } else if self.exchange.is_uploading() {
            // hyper reads, and will see it.
            false
        } else if !timer.is_armed(Deadline::Watch) {
            // Most replies come sooner than the first look, and pay nothing for it.
            timer.arm(Deadline::Watch, Span::ONE);
            false
        } else if timer.expired(Deadline::Watch) {
            timer.arm(Deadline::Watch, Span::ONE);
            match self.socket.presence(cx) {
                Presence::Waiting => false,
                Presence::Silent => self.socket.is_broken(),
                Presence::Gone => true,
            }
        } else {
            false
        };
        if gone {
            self.exchange.blame(ClientFault::Abort);
        }
        gone.then_some(Ended::Dropped)
    }

    /// Reads and throws away what a refused client still sends, so that closing the socket does
    /// not reset the connection before the client has read why (RFC 9112 section 9.6).
    async fn linger(&self) {
        let timer = &self.exchange.timer;
        self.exchange.enter_tunnel();
        timer.arm(Deadline::Client, Span::from_duration(LINGER));
        let mut left = LINGER_BYTES_MAX;
        let mut stream = ClientStream(self.socket.clone());
        self.socket.close_write();
        poll_fn(|cx| {
            timer.register(cx.waker());
            let mut buffer = [0; 4096];
            loop {
                let mut read = ReadBuf::new(&mut buffer);
                match Pin::new(&mut stream).poll_read(cx, &mut read) {
                    Poll::Ready(Ok(())) if !read.filled().is_empty() && left > 0 => {
                        left = left.saturating_sub(read.filled().len());
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if timer.expired(Deadline::Client) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}
