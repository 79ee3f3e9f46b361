//! What can go wrong with one request, whose fault it is, and the one map from that to a reply.
//!
//! Only this file decides which status a client sees. Blame is kept strictly: a client's fault is
//! a 4xx or a close and never counts against a path, since the error rate of a path may roll a
//! migration back and must not be in a hostile client's hands.

use std::io;

use http::{HeaderValue, StatusCode};

/// A fault of the client or of its connection. Counted apart from the paths' errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// The request breaks a rule of RFC 9110 or 9112 or an own strict check.
    BadRequest,
    /// The HTTP version is neither 1.0 nor 1.1.
    Version,
    /// The head is too large or has too many fields.
    HeadTooLarge,
    /// The request target is too long.
    TargetTooLong,
    /// The head did not come in time.
    HeadTimeout,
    /// The body stopped coming.
    BodyTimeout,
    /// The body is over `body_bytes`.
    BodyTooLarge,
    /// The body's framing is broken, or it ended early.
    BodyCut,
    /// CONNECT, or TRACE asked of the proxy itself.
    MethodRefused,
    /// `Via` says that the request has come round too often.
    Loop,
    /// The client went away, or stopped reading, before its reply was complete.
    Abort,
    /// The PROXY protocol header is missing or malformed.
    ProxyHeader,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The HTTP/2 connection broke a rule of RFC 9113.
    Http2Protocol,
    /// The HTTP/2 connection made more work than it asked for: resets or frames without end.
    Http2Flood,
}

impl ClientFault {
    /// All faults, for tables of metrics.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Version,
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::BodyCut,
        Self::MethodRefused,
        Self::Loop,
        Self::Abort,
        Self::ProxyHeader,
        Self::TlsHandshake,
        Self::Http2Protocol,
        Self::Http2Flood,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Version => "version",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyCut => "body_cut",
            Self::MethodRefused => "method_refused",
            Self::Loop => "loop",
            Self::Abort => "abort",
            Self::ProxyHeader => "proxy_header",
            Self::TlsHandshake => "tls_handshake",
            Self::Http2Protocol => "http2_protocol",
            Self::Http2Flood => "http2_flood",
        }
    }
}

/// A fault of a path: its backend, the way to it, or its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// The connection was refused or unreachable.
    Connect,
    /// The connection did not come up in `connect_timeout`.
    ConnectTimeout,
    /// The endpoint's TLS failed: its certificate, or the handshake.
    Tls,
    /// No response head in `response_timeout`, or `request_deadline` passed.
    ResponseTimeout,
    /// The backend closed or reset the connection before its reply was complete.
    Reset,
    /// The backend's reply is not HTTP/1.1.
    Protocol,
    /// The reply's body stopped coming for `idle_timeout`.
    BodyTimeout,
    /// The queue in front of the path is full.
    Shed,
    /// No slot came free in `queue_timeout`.
    QueueTimeout,
    /// The path has no endpoint.
    NoEndpoint,
}

impl PathFault {
    /// All faults, for tables of metrics.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::ResponseTimeout,
        Self::Reset,
        Self::Protocol,
        Self::BodyTimeout,
        Self::Shed,
        Self::QueueTimeout,
        Self::NoEndpoint,
    ];

    /// Whether a deadline passed, other than that of a connect.
    #[must_use]
    pub const fn is_timeout(self) -> bool {
        matches!(self, Self::ResponseTimeout | Self::BodyTimeout)
    }

    /// Whether the request never got as far as an endpoint.
    #[must_use]
    pub const fn is_unattempted(self) -> bool {
        matches!(self, Self::Shed | Self::QueueTimeout | Self::NoEndpoint)
    }

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::ResponseTimeout => "response_timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::BodyTimeout => "body_timeout",
            Self::Shed => "shed",
            Self::QueueTimeout => "queue_timeout",
            Self::NoEndpoint => "no_endpoint",
        }
    }
}

/// Why a request got no reply from a backend, by whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The client's fault; the text names the broken rule.
    #[error("client fault {fault}: {rule}", fault = .0.name(), rule = .1)]
    Client(ClientFault, &'static str),
    /// The path's fault.
    #[error("path fault {}", .0.name())]
    Path(PathFault),
    /// Nobody's but ours: this process or machine has no more descriptors, ports or memory.
    #[error("out of resources")]
    Resources,
}

impl ProxyError {
    /// The word for it in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client(fault, _) => fault.name(),
            Self::Path(fault) => fault.name(),
            Self::Resources => "resources",
        }
    }
}

/// Whether an error says that this process or machine has run out of something, and nothing of the
/// peer or the file that was asked for.
#[must_use]
pub fn is_out_of_resources(error: &io::Error) -> bool {
    // Of these, EADDRNOTAVAIL and EAGAIN mean that no local port is left.
    let ours = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
        libc::EAGAIN,
    ];
    error.raw_os_error().is_some_and(|code| ours.contains(&code))
}

/// A reply that the proxy makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub status: StatusCode,
    /// RFC 9209 section 2.3 error type for `Proxy-Status`.
    pub error: &'static str,
    /// One plain sentence for the body. Never a backend's address.
    pub sentence: &'static str,
    /// Seconds for `Retry-After`, where trying again makes sense.
    pub retry_after: Option<&'static str>,
    /// Whether the client's connection must close because its framing can't be trusted.
    pub close: bool,
}

impl ProxyError {
    /// The one map from a fault to what the client sees.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Client(fault, rule) => client_refusal(fault, rule),
            Self::Path(fault) => path_refusal(fault),
            Self::Resources => {
                unavailable("proxy_internal_error", "The proxy is out of resources.")
            }
        }
    }
}

impl Refusal {
    /// `Proxy-Status` (RFC 9209).
    #[must_use]
    pub fn proxy_status(&self) -> HeaderValue {
        HeaderValue::from_str(&format!("cutover; error={}", self.error))
            .unwrap_or(HeaderValue::from_static("cutover"))
    }

    /// The whole reply as bytes, for a request that never became one. The connection closes.
    #[must_use]
    pub fn to_bytes(&self, request_id: &HeaderValue) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\nProxy-Status: cutover; error={}\r\nX-Request-Id: ",
            self.status,
            self.sentence.len() + 1,
            self.error,
        );
        let sentence = self.sentence.as_bytes();
        [head.as_bytes(), request_id.as_bytes(), b"\r\n\r\n", sentence, b"\n"].concat()
    }
}

fn client_refusal(fault: ClientFault, rule: &'static str) -> Refusal {
    let (status, close) = match fault {
        ClientFault::BadRequest
        | ClientFault::BodyCut
        | ClientFault::Abort
        | ClientFault::ProxyHeader
        | ClientFault::TlsHandshake
        | ClientFault::Http2Protocol
        | ClientFault::Http2Flood => (StatusCode::BAD_REQUEST, true),
        ClientFault::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, true),
        ClientFault::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, true),
        ClientFault::TargetTooLong => (StatusCode::URI_TOO_LONG, true),
        ClientFault::HeadTimeout | ClientFault::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, true),
        ClientFault::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, true),
        ClientFault::MethodRefused => (StatusCode::METHOD_NOT_ALLOWED, true),
        ClientFault::Loop => (StatusCode::LOOP_DETECTED, false),
    };
    let error = match fault {
        ClientFault::Loop => "proxy_loop_detected",
        ClientFault::BadRequest
        | ClientFault::Version
        | ClientFault::HeadTooLarge
        | ClientFault::TargetTooLong
        | ClientFault::HeadTimeout
        | ClientFault::BodyTimeout
        | ClientFault::BodyTooLarge
        | ClientFault::BodyCut
        | ClientFault::MethodRefused
        | ClientFault::Abort
        | ClientFault::ProxyHeader
        | ClientFault::TlsHandshake
        | ClientFault::Http2Protocol
        | ClientFault::Http2Flood => "http_request_error",
    };
    Refusal { status, error, sentence: rule, retry_after: None, close }
}

fn path_refusal(fault: PathFault) -> Refusal {
    match fault {
        PathFault::Connect => gateway("connection_refused", "The backend can't be reached."),
        PathFault::Tls => {
            gateway("tls_protocol_error", "The connection to the backend is not secure.")
        }
        PathFault::Reset => {
            gateway("connection_terminated", "The backend closed the connection before it replied.")
        }
        PathFault::Protocol => {
            gateway("http_protocol_error", "The backend's reply is not valid HTTP.")
        }
        PathFault::ConnectTimeout => {
            timeout("connection_timeout", "The connection to the backend took too long.")
        }
        PathFault::ResponseTimeout | PathFault::BodyTimeout => {
            timeout("http_response_timeout", "The backend took too long to reply.")
        }
        PathFault::Shed => {
            unavailable("connection_limit_reached", "Too many requests are waiting already.")
        }
        PathFault::QueueTimeout => {
            unavailable("connection_limit_reached", "The request waited too long for a free slot.")
        }
        PathFault::NoEndpoint => {
            unavailable("destination_unavailable", "No backend of this path is known.")
        }
    }
}

const fn gateway(error: &'static str, sentence: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_GATEWAY, error, sentence, retry_after: None, close: false }
}

const fn timeout(error: &'static str, sentence: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::GATEWAY_TIMEOUT,
        error,
        sentence,
        retry_after: None,
        close: false,
    }
}

const fn unavailable(error: &'static str, sentence: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error,
        sentence,
        // A queue drains within its timeout, one second by default.
        retry_after: Some("1"),
        close: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_fault_is_a_4xx_but_where_the_rfc_has_a_5xx_for_it() {
        for fault in ClientFault::ALL {
            let status = ProxyError::Client(fault, "x").refusal().status;
            assert!(
                status.is_client_error()
                    || matches!(fault, ClientFault::Loop | ClientFault::Version),
                "{fault:?} {status}"
            );
        }
    }

    #[test]
    fn a_path_fault_is_a_502_503_or_504() {
        for fault in PathFault::ALL {
            let refusal = ProxyError::Path(fault).refusal();
            assert!((502..=504).contains(&refusal.status.as_u16()), "{fault:?}");
            assert_eq!(refusal.retry_after.is_some(), refusal.status == 503, "{fault:?}");
        }
    }
}
