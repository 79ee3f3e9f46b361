//! One question to an endpoint, on a connection of its own, in the HTTP that it speaks: what probes ask.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::upstream::endpoint::Endpoint;
use crate::upstream::reach::{Dialect, Unreached};
use crate::wire::transport::Transport;

/// The largest head of an answer.
const HEAD_MAX: u32 = 16 * 1024;
const NAME: &str = concat!("cutover/", env!("CARGO_PKG_VERSION"));

/// Who is asked, and how it is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// How it is spoken to.
    pub dialect: &'a Dialect,
}

impl Asked<'_> {
    /// Asks for `path`; the status of the answer.
    ///
    /// # Errors
    /// When it can't be reached, or does not answer with HTTP.
    pub async fn ask(self, path: &PathAndQuery) -> io::Result<StatusCode> {
        let transport = self.dialect.reach(self.endpoint).await.map_err(|error| match error {
            // As it is: whose fault it is shows in its number.
            Unreached::Tcp(error) => error,
            Unreached::Tls(_) => io::Error::other(error),
        })?;
        if self.dialect.is_http2_on(&transport) {
            self.ask_http2(transport, path).await
        } else {
            self.ask_http1(transport, path).await
        }
    }

    async fn ask_http1(self, transport: Transport, path: &PathAndQuery) -> io::Result<StatusCode> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_MAX as usize).title_case_headers(true);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(transport)).await.map_err(io::Error::other)?;
        let request = Request::get(path.as_str())
            .header(HOST, &self.endpoint.authority)
            .header(USER_AGENT, NAME)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let responding = pin!(sender.send_request(request));
        let responded = first(responding, Box::pin(connection)).await;
        responded.map(|response| response.status()).map_err(io::Error::other)
    }

    async fn ask_http2(self, transport: Transport, path: &PathAndQuery) -> io::Result<StatusCode> {
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(HEAD_MAX);
        let (mut sender, connection) =
            builder.handshake::<_, Bytes>(transport).await.map_err(io::Error::other)?;
        let scheme = if self.endpoint.is_tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", self.endpoint.authority);
        let request = Request::get(uri).version(Version::HTTP_2).header(USER_AGENT, NAME);
        let request = request.body(()).map_err(io::Error::other)?;
        let (responding, _) = sender.send_request(request, true).map_err(io::Error::other)?;
        let responded = first(pin!(responding), Box::pin(connection)).await;
        responded.map(|response| response.status()).map_err(io::Error::other)
    }
}

/// What `responding` comes to, while `connection` runs. That ends with its one response, which has then
/// come all the same.
async fn first<T>(
    responding: impl Future<Output = T> + Unpin,
    connection: impl Future + Unpin,
) -> T {
    match select(responding, connection).await {
        Either::Left((responded, _)) => responded,
        Either::Right((_ended, responding)) => responding.await,
    }
}
