//! Asks the admin API of the running proxy.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::values::AdminAddress;

/// For one question and its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer.
const ANSWER_MAX: usize = 16 << 20;

/// Gets `path` from the admin API. Blocks.
///
/// # Errors
/// When nobody answers there, or not with HTTP.
pub(crate) fn get(address: &AdminAddress, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    send(address, Request::get(path).body(Bytes::new())?, TIMEOUT)
}

/// Gives an order that takes up to `work`, with the token if there is one; the document that answers it. Blocks.
///
/// # Errors
/// As [`get`], or why it was refused.
pub(crate) fn post(
    address: &AdminAddress,
    path: &str,
    token: Option<&str>,
    document: &serde_json::Value,
    work: Duration,
) -> anyhow::Result<serde_json::Value> {
    let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let (status, body) = send(address, request.body(document.to_string().into())?, TIMEOUT + work)?;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        bail!("{}", answer["detail"].as_str().unwrap_or(status.as_str()));
    }
    Ok(answer)
}

fn send(
    address: &AdminAddress,
    request: Request<Bytes>,
    limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = connect_and_ask(address, request);
    let asked = runtime.block_on(async { timeout(limit, asked).await });
    match asked {
        Ok(answer) => answer.with_context(|| format!("can't ask the admin listener at {address}")),
        Err(_) => bail!("the admin listener at {address} did not answer in {limit:?}"),
    }
}

/// Gets the JSON document at `path`. Blocks.
///
/// # Errors
/// As [`get`], or when the answer is not a document.
pub(crate) fn get_json(address: &AdminAddress, path: &str) -> anyhow::Result<serde_json::Value> {
    let (status, body) = get(address, path)?;
    if status != StatusCode::OK {
        bail!("{address}{path} answers {status}");
    }
    Ok(serde_json::from_slice(&body)?)
}

async fn connect_and_ask(
    address: &AdminAddress,
    request: Request<Bytes>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    match address {
        AdminAddress::Tcp(address) => {
            let mut address = *address;
            if address.ip().is_unspecified() {
                // Bound to all addresses: this host reaches it by loopback.
                address.set_ip(match address {
                    std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                });
            }
            ask(TcpStream::connect(address).await?, &address.to_string(), request).await
        }
        AdminAddress::Unix(file) => {
            ask(UnixStream::connect(file).await?, "localhost", request).await
        }
    }
}

async fn ask<S>(
    stream: S,
    host: &str,
    mut request: Request<Bytes>,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    request.headers_mut().insert(HOST, host.parse()?);
    let request = request.map(Full::new);
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The answer may be whole before the connection says that it has ended.
        ended = connection => { ended?; exchange.await }
    }
}
