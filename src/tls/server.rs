//! TLS towards clients.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig};

use crate::tls::crypto::{HAS_BOTH, provider};
use crate::tls::file::{Fingerprint, Stamp};
use crate::tls::pair::{Certificate, Pair};
use crate::tls::roots::Roots;
use crate::tls::sni::ByHost;

/// TLS 1.2 sessions kept for clients without tickets, each well under 1 KiB. A client whose session
/// was dropped makes a whole handshake.
const SESSIONS_MAX: usize = 4096;

const CHACHA20: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// TLS towards clients: certificates, keys, and whose clients are let in. A clone shares its sessions.
#[derive(Clone)]
pub struct ServerTls {
    settings: Arc<Settings>,
    identity: Fingerprint,
    certificates: Vec<Certificate>,
    files: Vec<Stamp>,
}

/// What rustls works with, for either kind of client.
#[derive(Debug)]
pub struct Settings {
    ours: Arc<ServerConfig>,
    theirs: Arc<ServerConfig>,
}

impl Settings {
    fn new(theirs: ServerConfig) -> Self {
        let mut ours = theirs.clone();
        ours.ignore_client_order = true;
        Self { ours: Arc::new(ours), theirs: Arc::new(theirs) }
    }

    /// What fits a client that offers `suites`, what it would rather have first: whoever puts ChaCha20 there
    /// has no AES in its hardware, and chooses; for all others we do.
    #[must_use]
    pub fn for_client(&self, suites: &[CipherSuite]) -> &Arc<ServerConfig> {
        // Some begin with a value that nobody knows, to see whether servers let it pass (RFC 8701).
        let mut known = suites.iter().filter(|suite| !matches!(suite, CipherSuite::Unknown(_)));
        let prefers_chacha = known.next().is_some_and(|suite| CHACHA20.contains(suite));
        if prefers_chacha { &self.theirs } else { &self.ours }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = &self.certificates;
        f.debug_struct("ServerTls").field("certificates", certificates).finish_non_exhaustive()
    }
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.same_as(other)
    }
}

impl Eq for ServerTls {}

impl ServerTls {
    /// TLS 1.2 and 1.3 by these certificates, chosen by SNI: `first` where nothing else fits. With
    /// `clients` each client must present a certificate that one of these has signed. With `http2` h2
    /// is offered before http/1.1; a client that wants neither of what is offered is refused.
    ///
    /// # Errors
    /// When the system has no random numbers for the keys of tickets, or `clients` is empty.
    pub fn new(
        first: Pair,
        more: Vec<Pair>,
        clients: Option<Roots>,
        http2: bool,
    ) -> Result<Self, rustls::Error> {
        let ticketer = Ticketer::new()?;
        let resolver = Arc::new(ByHost::new(&first, &more));
        let files = files(&first, &more, clients.as_ref());
        let identity = identity(&first, &more, clients.as_ref(), http2);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect(HAS_BOTH);
        let builder = match clients {
            Some(roots) => builder.with_client_cert_verifier(verifier(roots)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = match http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        config.ticketer = ticketer;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        // A request in early data can be replayed by whoever has seen it (RFC 8446 section 8).
        config.max_early_data_size = 0;
        let pairs = std::iter::once(first).chain(more);
        let certificates = pairs.map(|pair| pair.certificate).collect();
        Ok(Self { settings: Arc::new(Settings::new(config)), identity, certificates, files })
    }

    /// What rustls works with.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The certificates, the default first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
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

    /// Takes over what rustls works with from `old` if nothing has changed, so that its sessions and
    /// the keys of its tickets live on.
    pub fn keep(&mut self, old: &Self) {
        if self.same_as(old) {
            self.settings = old.settings.clone();
        }
    }
}

fn verifier(clients: Roots) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(clients.store), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn files(first: &Pair, more: &[Pair], clients: Option<&Roots>) -> Vec<Stamp> {
    let pairs = std::iter::once(first).chain(more).flat_map(Pair::stamps);
    pairs.chain(clients.and_then(|roots| roots.stamp.as_ref())).cloned().collect()
}

fn identity(first: &Pair, more: &[Pair], clients: Option<&Roots>, http2: bool) -> Fingerprint {
    let pairs = std::iter::once(first).chain(more).flat_map(Pair::fingerprints);
    let clients = clients.and_then(|roots| roots.stamp.as_ref());
    let clients = clients.map(|stamp| ("client_ca", stamp.fingerprint));
    let http2 = ("http2", Fingerprint::of(&[u8::from(http2)]));
    Fingerprint::of_all(pairs.chain(clients).chain([http2]))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::CryptoProvider;
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection,
        SupportedCipherSuite,
    };

    use super::*;
    use crate::config::values::Protocol;
    use crate::tls::ClientTls;
    use crate::tls::client::server_name;
    use crate::tls::crypto::AES_128_GCM;
    use crate::tls::tests::{Authority, Files, Issued};

    #[test]
    fn what_is_the_same_is_kept_and_what_is_not_is_not() {
        let (files, authority) = (Files::new(), Authority::new());
        let (one, other) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
        let make = |issued: &[&Issued], clients: bool, http2: bool| {
            let mut pairs = issued.iter().map(|issued| files.pair(issued));
            let clients = clients.then(|| files.roots(&authority));
            ServerTls::new(pairs.next().unwrap(), pairs.collect(), clients, http2).unwrap()
        };
        let old = make(&[&one, &other], false, true);
        let mut same = make(&[&one, &other], false, true);
        assert!(same.same_as(&old) && !Arc::ptr_eq(same.settings(), old.settings()));
        same.keep(&old);
        assert!(Arc::ptr_eq(same.settings(), old.settings()));
        for mut changed in [
            make(&[&other, &one], false, true),
            make(&[&one], false, true),
            make(&[&one, &other], true, true),
            make(&[&one, &other], false, false),
            make(&[&one, &authority.issue(&["b.test"])], false, true),
        ] {
            changed.keep(&old);
            assert!(changed != old && !Arc::ptr_eq(changed.settings(), old.settings()));
        }
        let shown = format!("{old:?} {:?} {:?}", old.files(), files.pair(&one));
        assert!(shown.contains("a.test") && shown.len() < 1_000, "{shown}");
    }

    /// How a handshake ended.
    #[derive(Debug, PartialEq, Eq)]
    struct Shaken {
        version: ProtocolVersion,
        alpn: String,
        is_resumed: bool,
        certificate: Vec<u8>,
    }

    /// A handshake in memory.
    fn shake(client: &ClientTls, server: &ServerTls, host: &str) -> Result<Shaken, rustls::Error> {
        let name = client.server_name(host).unwrap();
        let mut client = ClientConnection::new(client.config().clone(), name)?;
        let mut server = ServerConnection::new(server.settings().for_client(&[]).clone())?;
        // Until both are done, and the client has its tickets.
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut sent = &*wire;
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut sent = &*wire;
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(Shaken {
            version: server.protocol_version().unwrap(),
            alpn: String::from_utf8(server.alpn_protocol().unwrap_or_default().to_vec()).unwrap(),
            is_resumed: server.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: client.peer_certificates().unwrap()[0].to_vec(),
        })
    }

    #[test]
    fn both_sides_agree_on_certificate_protocol_and_version_and_resume() {
        let (files, authority) = (Files::new(), Authority::new());
        let (one, other) =
            (authority.issue(&["a.test", "127.0.0.1"]), authority.issue(&["b.test"]));
        let server = |http2: bool| {
            ServerTls::new(files.pair(&one), vec![files.pair(&other)], None, http2).unwrap()
        };
        let client = |protocol| ClientTls::new(files.roots(&authority), None, None, protocol);
        let both = server(true);
        for (protocol, alpn) in
            [(Protocol::Auto, "h2"), (Protocol::Http1, "http/1.1"), (Protocol::Http2, "h2")]
        {
            let client = client(protocol);
            let whole = shake(&client, &both, "a.test").unwrap();
            assert_eq!((whole.version, whole.alpn.as_str()), (ProtocolVersion::TLSv1_3, alpn));
            assert!(whole.certificate == one.der && !whole.is_resumed);
            assert!(shake(&client, &both, "a.test").unwrap().is_resumed);
            assert!(shake(&client, &both, "b.test").unwrap().certificate == other.der);
            assert!(shake(&client, &both, "127.0.0.1").unwrap().certificate == one.der);
            assert!(shake(&client, &both, "c.test").is_err(), "the default is not for it");
        }
        let http1 = server(false);
        assert_eq!(shake(&client(Protocol::Auto), &http1, "a.test").unwrap().alpn, "http/1.1");
        assert!(shake(&client(Protocol::Http2), &http1, "a.test").is_err());
        let public = ClientTls::new(Roots::public(), None, None, Protocol::Auto);
        assert!(shake(&public, &both, "a.test").is_err(), "nobody has signed it");
        // The endpoint's host is no matter where the config says what its certificate is for.
        let name = server_name("b.test").ok();
        let named = ClientTls::new(files.roots(&authority), name, None, Protocol::Auto);
        assert!(shake(&named, &both, "10.0.0.1").unwrap().certificate == other.der);
    }

    #[test]
    fn who_must_present_a_certificate_is_let_in_with_one_of_the_right_ca_only() {
        let (files, authority) = (Files::new(), Authority::new());
        let server = files.pair(&authority.issue(&["a.test"]));
        let server =
            ServerTls::new(server, Vec::new(), Some(files.roots(&authority)), true).unwrap();
        let client = |pair| ClientTls::new(files.roots(&authority), None, pair, Protocol::Auto);
        let right = client(Some(files.pair(&authority.issue(&["me"]))));
        assert!(shake(&right, &server, "a.test").is_ok());
        let wrong = client(Some(files.pair(&Authority::new().issue(&["me"]))));
        assert!(shake(&wrong, &server, "a.test").is_err());
        assert!(shake(&client(None), &server, "a.test").is_err());
        assert!(right != wrong && right != client(None));
        let mut other = wrong.clone();
        other.keep(&right);
        assert!(!Arc::ptr_eq(other.config(), right.config()), "another identity");
    }

    #[test]
    fn the_suite_is_ours_to_choose_but_for_clients_without_aes() {
        let (files, authority) = (Files::new(), Authority::new());
        let pair = files.pair(&authority.issue(&["a.test"]));
        let server = ServerTls::new(pair, Vec::new(), None, true).unwrap();
        let [aes_128, chacha] = [AES_128_GCM[0], CHACHA20[0]];
        let aes_256 = CipherSuite::TLS13_AES_256_GCM_SHA384;
        for (offered, chosen) in [
            (&[aes_256, aes_128, chacha][..], aes_128),
            (&[aes_256, chacha], aes_256),
            (&[chacha, aes_128, aes_256], chacha),
            (&[chacha], chacha),
        ] {
            let mut suites = vec![CipherSuite::Unknown(0x1a1a)];
            suites.extend(offered);
            let settings = server.settings().for_client(&suites);
            let mut provider = CryptoProvider::clone(&provider());
            provider.cipher_suites.retain(|suite| offered.contains(&suite.suite()));
            let place = |suite: &SupportedCipherSuite| {
                offered.iter().position(|offered| *offered == suite.suite())
            };
            provider.cipher_suites.sort_by_key(place);
            let client = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(files.roots(&authority).store)
                .with_no_client_auth();
            let client = ClientConnection::new(client.into(), "a.test".try_into().unwrap());
            let mut client = client.unwrap();
            let mut server = ServerConnection::new(settings.clone()).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            server.read_tls(&mut &*hello).unwrap();
            server.process_new_packets().unwrap();
            let agreed = server.negotiated_cipher_suite().map(|suite| suite.suite());
            assert_eq!(agreed, Some(chosen), "{offered:?}");
        }
    }
}
