//! TLS towards the endpoints of a path.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;

use crate::config::values::Protocol;
use crate::tls::crypto::{HAS_BOTH, provider};
use crate::tls::file::{Fingerprint, Stamp};
use crate::tls::pair::{Certificate, Pair};
use crate::tls::roots::Roots;

/// Servers whose sessions are kept: a path has at most 256 endpoints.
const SESSIONS_MAX: usize = 256;

/// A host that no certificate could be for: the operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host name nor an address, so no certificate could be for it")]
pub struct NoServerName(String);

/// TLS towards the `https://` endpoints of a path. A clone shares its sessions.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    identity: Fingerprint,
    certificate: Option<Certificate>,
    files: Vec<Stamp>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.same_as(other)
    }
}

impl Eq for ClientTls {}

/// Reads a host as the name that a certificate must be for.
///
/// # Errors
/// When no certificate could be for it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, NoServerName> {
    ServerName::try_from(host.to_owned()).map_err(|_| NoServerName(host.to_owned()))
}

impl ClientTls {
    /// TLS 1.2 and 1.3 towards servers whose certificate `roots` have signed. `name` is what their
    /// certificates are for, where that is not the endpoint's host; `pair` is what is presented to a
    /// server that asks for a certificate. What is offered as the application's protocol (ALPN) goes
    /// by `protocol`.
    #[must_use]
    pub fn new(
        roots: Roots,
        name: Option<ServerName<'static>>,
        pair: Option<Pair>,
        protocol: Protocol,
    ) -> Self {
        let identity = identity(&roots, name.as_ref(), pair.as_ref(), protocol);
        let of_pair = pair.iter().flat_map(Pair::stamps);
        let files = roots.stamp.iter().chain(of_pair).cloned().collect();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect(HAS_BOTH)
            .with_root_certificates(roots.store);
        let (mut config, certificate) = match pair {
            Some(Pair { certificate, certified, .. }) => {
                let resolver = rustls::sign::SingleCertAndKey::from(certified);
                (builder.with_client_cert_resolver(Arc::new(resolver)), Some(certificate))
            }
            None => (builder.with_no_client_auth(), None),
        };
        config.alpn_protocols = match protocol {
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Self { config: Arc::new(config), server_name: name, identity, certificate, files }
    }

    /// What rustls works with.
    #[must_use]
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// What the certificate of the endpoint at `host`, a name or an address without a port, must be
    /// for: that host, unless the config says otherwise.
    ///
    /// # Errors
    /// When no certificate could be for it. No `https://` endpoint of a config has such a host.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, NoServerName> {
        self.server_name.clone().map_or_else(|| server_name(host), Ok)
    }

    /// The certificate that is presented to servers, if any.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// The files that it was made of.
    #[must_use]
    pub fn files(&self) -> &[Stamp] {
        &self.files
    }

    /// Whether both were made of the same contents in the same way, wherever the files are.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Takes over what rustls works with from `old` if nothing has changed, so that its sessions live
    /// on.
    pub fn keep(&mut self, old: &Self) {
        if self.same_as(old) {
            self.config = old.config.clone();
        }
    }
}

fn identity(
    roots: &Roots,
    name: Option<&ServerName<'_>>,
    pair: Option<&Pair>,
    protocol: Protocol,
) -> Fingerprint {
    let roots = roots.stamp.as_ref().map(|stamp| ("ca", stamp.fingerprint));
    let name = name.map(|name| ("server_name", Fingerprint::of(name.to_str().as_bytes())));
    let pair = pair.into_iter().flat_map(Pair::fingerprints);
    let protocol = ("protocol", Fingerprint::of(protocol.name().as_bytes()));
    Fingerprint::of_all(roots.into_iter().chain(name).chain(pair).chain([protocol]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_certificate_could_be_for_is_no_server_name() {
        for host in ["a.test", "A.test", "127.0.0.1", "::1", "a_b.test", "xn--bcher-kva.test"] {
            assert!(server_name(host).is_ok(), "{host}");
        }
        for host in ["", "a..test", "a b", "[::1]", "a.test:443", "-"] {
            assert!(server_name(host).is_err(), "{host}");
        }
    }
}
