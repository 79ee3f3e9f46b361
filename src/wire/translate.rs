//! Between the versions: a WebSocket of HTTP/2 becomes one of HTTP/1.1, a request as HTTP/1.1 has it
//! becomes one of HTTP/2, and a tunnel's agreement comes back.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, response};

const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE_NAME: HeaderValue = HeaderValue::from_static("upgrade");
/// RFC 6455 section 1.3: what a server appends to the key that it accepts.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A WebSocket that was asked for, with the key of who asked.
#[derive(Clone, Debug)]
pub struct Upgrading(Option<HeaderValue>);

/// Makes the request of an extended CONNECT (RFC 8441 section 5) what it is in HTTP/1.1, a GET that
/// asks for an upgrade, and tells which. `key` is the nonce that only HTTP/1.1 has.
pub fn accept_connect<B>(
    request: &mut Request<B>,
    key: impl FnOnce() -> HeaderValue,
) -> Option<HeaderValue> {
    let protocol = request.extensions_mut().remove::<Protocol>()?;
    *request.method_mut() = Method::GET;
    let fields = request.headers_mut();
    fields.remove(CONTENT_LENGTH);
    fields.insert(SEC_WEBSOCKET_KEY, key());
    HeaderValue::from_str(protocol.as_str()).ok()
}

/// The head that goes out on a stream (RFC 9113 section 8.3.1). A WebSocket is asked for by an
/// extended CONNECT (RFC 8441), where the backend takes it; else the request is one like any other
/// (RFC 9110 section 7.8: a server may ignore Upgrade).
#[must_use]
pub fn request(
    mut request: Request<()>,
    scheme: &Scheme,
    can_upgrade: bool,
) -> (Request<()>, Option<Upgrading>) {
    let fields = request.headers_mut();
    fields.remove(CONNECTION);
    fields.remove(TRANSFER_ENCODING);
    let host = fields.remove(HOST);
    let asked =
        fields.remove(UPGRADE).filter(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let upgrading =
        asked.filter(|_| can_upgrade).map(|_| Upgrading(fields.remove(SEC_WEBSOCKET_KEY)));
    if upgrading.is_some() {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    *request.version_mut() = Version::HTTP_2;
    match authority {
        Some(authority) => *request.uri_mut() = absolute(request.uri(), scheme, authority),
        // Checked on arrival, so it never comes to this; h2 then sends Host as it is.
        None => {
            *request.version_mut() = Version::HTTP_11;
            if let Some(host) = host {
                request.headers_mut().insert(HOST, host);
            }
        }
    }
    (request, upgrading)
}

fn absolute(uri: &Uri, scheme: &Scheme, authority: Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    let slash = || PathAndQuery::from_static("/");
    parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or_else(slash));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

impl Upgrading {
    /// The 101 that a 200 is.
    #[must_use]
    pub fn switched(self, mut head: response::Parts) -> response::Parts {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.version = Version::HTTP_11;
        head.headers.insert(UPGRADE, WEBSOCKET);
        head.headers.insert(CONNECTION, UPGRADE_NAME);
        if let Some(accept) = self.0.as_ref().and_then(accept) {
            head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        head
    }
}

/// RFC 6455 section 4.2.2: what proves that the key was read.
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let text = [key.as_bytes().trim_ascii(), ACCEPT_SUFFIX].concat();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_rfc_6455_shows_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_loses_what_http2_forbids_and_names_its_authority() {
        let head = Request::get("/a?b=c")
            .header("host", "shop_a:8080")
            .header("connection", "TE")
            .header("te", "trailers")
            .header("transfer-encoding", "chunked");
        let (head, upgrading) = request(head.body(()).unwrap(), &Scheme::HTTP, true);
        assert_eq!(head.uri(), "http://shop_a:8080/a?b=c");
        assert_eq!((head.version(), upgrading.is_some()), (Version::HTTP_2, false));
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["te"]);
    }

    #[test]
    fn a_websocket_is_asked_for_only_where_the_backend_takes_it() {
        let asking = || {
            let head = Request::get("/chat").header("host", "a").header("upgrade", "websocket");
            head.header("connection", "upgrade").header("sec-websocket-key", "k").body(()).unwrap()
        };
        let (head, upgrading) = request(asking(), &Scheme::HTTP, true);
        assert!(upgrading.is_some() && head.method() == Method::CONNECT);
        assert_eq!(head.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        assert!(head.headers().is_empty(), "{:?}", head.headers());
        let (head, upgrading) = request(asking(), &Scheme::HTTP, false);
        assert!(upgrading.is_none() && head.method() == Method::GET);
    }
}
