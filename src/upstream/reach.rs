//! How an endpoint is reached and spoken to: TCP, TLS where it speaks that, and which HTTP.

use std::io;

use tokio_rustls::TlsConnector;

use crate::config::PathConfig;
use crate::config::values::{HeaderCase, Protocol};
use crate::tls::ClientTls;
use crate::upstream::dial::dial;
use crate::upstream::endpoint::Endpoint;
use crate::wire::transport::Transport;

/// How the endpoints of a path are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// How header names are written in HTTP/1.
    pub case: HeaderCase,
    protocol: Protocol,
    tls: ClientTls,
}

/// Why an endpoint can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// No connection comes up.
    #[error(transparent)]
    Tcp(io::Error),
    /// No TLS session does: the certificate is not what it must be, or there is no TLS.
    #[error("tls: {0}")]
    Tls(io::Error),
}

impl Dialect {
    /// How the endpoints of this path are spoken to.
    #[must_use]
    pub fn of(path: &PathConfig) -> Self {
        Self { case: path.header_case, protocol: path.protocol, tls: path.tls.clone() }
    }

    /// Whether an endpoint speaks HTTP/2, where that is known without asking (RFC 9113 section 3.3) and
    /// not by TLS's word.
    #[must_use]
    pub fn is_http2(&self, endpoint: &Endpoint) -> Option<bool> {
        match self.protocol {
            Protocol::Auto => (!endpoint.is_tls).then_some(false),
            Protocol::Http1 => Some(false),
            Protocol::Http2 => Some(true),
        }
    }

    /// Whether HTTP/2 is spoken on this connection.
    #[must_use]
    pub fn is_http2_on(&self, transport: &Transport) -> bool {
        match self.protocol {
            Protocol::Auto => transport.has_agreed_on_http2(),
            Protocol::Http1 => false,
            Protocol::Http2 => true,
        }
    }

    /// Connects to an endpoint, and shakes hands where it speaks TLS. Cancel safe: a connection that
    /// is not wanted any more is closed.
    ///
    /// # Errors
    /// Which of the two did not come up.
    pub async fn reach(&self, endpoint: &Endpoint) -> Result<Transport, Unreached> {
        let socket = dial(&endpoint.addresses).await.map_err(Unreached::Tcp)?;
        // Small requests go out at once; a socket that refuses the option works without it.
        let _ = socket.set_nodelay(true);
        if !endpoint.is_tls {
            return Ok(Transport::Plain(socket));
        }
        let name = self.tls.server_name(endpoint.host());
        let name = name.map_err(|error| Unreached::Tls(io::Error::other(error)))?;
        let connector = TlsConnector::from(self.tls.config().clone());
        // Boxed: a handshake is kilobytes that idle connections need not hold room for.
        let stream = Box::pin(connector.connect(name, socket)).await.map_err(Unreached::Tls)?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }
}
