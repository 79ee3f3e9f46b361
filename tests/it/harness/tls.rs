//! Clients and backends that speak HTTP/1.1 over TLS, and see how it began and how it ended.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use super::PATIENCE;
use super::certificates::{Issued, provider};
use super::client::{Ended, Response, find, header};

/// What a client offers.
#[derive(Clone)]
pub(crate) struct Offer<'a> {
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) alpn: &'a [&'a str],
    /// Its own certificate.
    pub(crate) issued: Option<&'a Issued>,
}

impl Default for Offer<'_> {
    fn default() -> Self {
        Self { versions: rustls::ALL_VERSIONS, alpn: &["http/1.1"], issued: None }
    }
}

impl Offer<'_> {
    /// A client that takes any certificate, and looks at it later. It keeps its sessions.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
        let mut config = match self.issued {
            Some(issued) => {
                builder.with_client_auth_cert(vec![issued.der()], issued.private_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How a connection's bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// By TLS's own word that nothing more comes.
    Notified,
    /// Without it: what came may be cut.
    Cut,
}

/// A client's connection.
pub(crate) struct Secure {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Secure {
    /// Connects, and shakes hands for `host`.
    pub(crate) fn connect(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> io::Result<Self> {
        Self::over(TcpStream::connect(address)?, config, host)
    }

    /// Shakes hands on a connection on which something was sent already.
    pub(crate) fn over(
        mut stream: TcpStream,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let mut session = ClientConnection::new(config.clone(), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self { stream: StreamOwned::new(session, stream), buffer: Vec::new() })
    }

    /// Sends, and reads the reply.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        self.stream.write_all(request.as_ref())?;
        self.stream.flush()?;
        self.response()
    }

    /// A GET.
    pub(crate) fn get(&mut self, target: &str) -> io::Result<Response> {
        self.ask(super::client::get(target, ""))
    }

    /// The next reply: of known length, or with all that comes.
    fn response(&mut self) -> io::Result<Response> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.drain(..end + 4).collect::<Vec<_>>();
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let (body, ended) = match header(&head, "content-length") {
            Some(length) => self.exactly(length.parse().unwrap())?,
            None => (std::mem::take(&mut self.buffer), Ended::Close),
        };
        Ok(Response { status, head, body, ended })
    }

    fn exactly(&mut self, length: usize) -> io::Result<(Vec<u8>, Ended)> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Ok((std::mem::take(&mut self.buffer), Ended::Cut));
            }
        }
        Ok((self.buffer.drain(..length).collect(), Ended::Whole))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 4096];
        let read = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    }

    /// All that still comes, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Close) {
        let close = end(&mut self.stream, &mut self.buffer);
        (std::mem::take(&mut self.buffer), close)
    }
}

fn end(stream: &mut impl Read, into: &mut Vec<u8>) -> Close {
    match stream.read_to_end(into) {
        Ok(_) => Close::Notified,
        Err(error) => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Close::Cut,
            _ => panic!("the connection did not end: {error}"),
        },
    }
}

/// What a backend does with a connection behind a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    /// Ends TLS, and then TCP.
    Close,
    /// Ends TCP alone.
    Drop,
}

/// How a backend was reached.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) sni: Option<String>,
    pub(crate) is_resumed: bool,
    pub(crate) head: String,
}

/// A backend that speaks HTTP/1.1 over TLS. Its threads end with their connections.
pub(crate) struct TlsBackend {
    pub(crate) address: SocketAddr,
    seen: Arc<std::sync::Mutex<Vec<Reached>>>,
    ends: Arc<std::sync::Mutex<Vec<Close>>>,
}

impl TlsBackend {
    /// Answers each request with these bytes.
    pub(crate) fn start(config: Arc<ServerConfig>, reply: &'static str, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Self { address, seen: Arc::default(), ends: Arc::default() };
        let (seen, ends) = (backend.seen.clone(), backend.ends.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, seen, ends) = (config.clone(), seen.clone(), ends.clone());
                std::thread::spawn(move || {
                    let session = ServerConnection::new(config).unwrap();
                    let mut stream = StreamOwned::new(session, stream);
                    if let Some(close) = converse(&mut stream, (reply, then), &seen) {
                        ends.lock().unwrap().push(close);
                    }
                });
            }
        });
        backend
    }

    /// All requests that came.
    pub(crate) fn seen(&self) -> Vec<Reached> {
        self.seen.lock().unwrap().clone()
    }

    /// How the connections ended that the proxy has ended.
    pub(crate) fn ends(&self) -> Vec<Close> {
        self.ends.lock().unwrap().clone()
    }
}

/// How the proxy has ended the connection, if it has.
fn converse(
    stream: &mut StreamOwned<ServerConnection, TcpStream>,
    (reply, then): (&str, Then),
    seen: &std::sync::Mutex<Vec<Reached>>,
) -> Option<Close> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => return Some(Close::Notified),
                Err(_) => return Some(Close::Cut),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let sni = stream.conn.server_name().map(str::to_owned);
        let is_resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        seen.lock().unwrap().push(Reached { sni, is_resumed, head });
        stream.write_all(reply.as_bytes()).ok()?;
        stream.flush().ok()?;
        match then {
            Then::Keep => {}
            Then::Close => {
                stream.conn.send_close_notify();
                stream.flush().ok()?;
                return None;
            }
            Then::Drop => return None,
        }
    }
}
