//! Asks the admin API of the running proxy.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { timeout(TIMEOUT, connect_and_ask(address, path)).await });
    match asked {
        Ok(answer) => answer.with_context(|| format!("can't ask the admin listener at {address}")),
        Err(_) => bail!("the admin listener at {address} did not answer in {TIMEOUT:?}"),
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
    path: &str,
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
            ask(TcpStream::connect(address).await?, &address.to_string(), path).await
        }
        AdminAddress::Unix(file) => ask(UnixStream::connect(file).await?, "localhost", path).await,
    }
}

async fn ask<S>(stream: S, host: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new())?;
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
