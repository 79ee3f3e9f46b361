//! Who a client connection is from, what it may begin with, and what its first bytes add to that.

use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use http::HeaderValue;

use crate::config::{Config, Listen};
use crate::serve::opening::{Opened, Terms};
use crate::tls::ServerTls;
use crate::wire::forwarded::Peer;
use crate::wire::transport::Transport;

/// Who a connection is from, and the address that it reached.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer.
    pub peer: Peer,
    /// The address that it reached, as a header value.
    pub local: HeaderValue,
}

impl Caller {
    /// The caller at `address`; `None` never happens, as an address is a sound header value.
    #[must_use]
    pub fn new(address: SocketAddr, local: HeaderValue, listen: &Listen) -> Option<Self> {
        let peer = peer(address, listen)?;
        Some(Self { peer, local })
    }

    /// What its connection may begin with.
    #[must_use]
    pub fn terms(&self, config: &Config) -> Terms {
        let listen = &config.listen;
        Terms {
            // From anyone else it would be a free choice of address.
            has_proxy_header: listen.proxy_protocol && self.peer.trusted,
            tls: listen.tls.as_ref().map(ServerTls::settings).cloned(),
            http2: listen.http2,
        }
    }

    /// The caller as its first bytes show it: behind the proxy that sent a PROXY header, and with the
    /// certificate that it presented.
    #[must_use]
    pub fn introduced(mut self, opened: &Opened, listen: &Listen) -> Self {
        if let Some(proxied) = opened.proxied {
            if let Some(peer) = peer(proxied.client, listen) {
                self.peer = peer;
            }
            if let Ok(local) = HeaderValue::try_from(proxied.local.to_string()) {
                self.local = local;
            }
        }
        if let Transport::Tls(stream) = &opened.transport {
            self.peer.is_secure = true;
            let chain = stream.get_ref().1.peer_certificates();
            self.peer.certificate = chain.and_then(|chain| client_cert(chain.first()?));
        }
        self
    }
}

fn peer(address: SocketAddr, listen: &Listen) -> Option<Peer> {
    let address = address.ip().to_canonical();
    let trusted = listen.trusted_proxies.iter().any(|net| net.contains(&address));
    let address_value = HeaderValue::try_from(address.to_string()).ok()?;
    Some(Peer { address, address_value, trusted, is_secure: false, certificate: None })
}

/// RFC 9440 section 2.1: the certificate as a byte sequence of structured fields (RFC 8941 section
/// 3.3.5).
fn client_cert(certificate: &[u8]) -> Option<HeaderValue> {
    HeaderValue::try_from(format!(":{}:", STANDARD.encode(certificate))).ok()
}
