//! The Forwarded family: what trusted proxies say of a client is extended, what others say replaced.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::present::{Field, Present};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// The peer of a connection, with the header values that are made once for it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The address as a header value.
    pub address_value: HeaderValue,
    /// Whether its Forwarded family is believed.
    pub trusted: bool,
    /// Whether it came through TLS.
    pub is_secure: bool,
    /// The certificate that it presented, as a header value (RFC 9440 section 2.1).
    pub certificate: Option<HeaderValue>,
}

/// The Forwarded family: from a trusted proxy it is extended (RFC 7239 section 5.2 and the custom
/// of X-Forwarded-For), from anyone else replaced, as it is the client's free invention.
pub fn set_forwarded(headers: &mut HeaderMap, peer: &Peer, present: Present) {
    if present.has(Field::Forwarded) && !peer.trusted {
        for name in [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO] {
            headers.remove(name);
        }
        headers.remove(X_FORWARDED_PORT);
        headers.remove(X_REAL_IP);
    }
    let kept = present.has(Field::Forwarded) && peer.trusted;
    if kept
        && headers.contains_key(FORWARDED)
        && let Ok(element) = HeaderValue::from_str(&forwarded_element(peer))
    {
        headers.append(FORWARDED, element);
    }
    headers.append(X_FORWARDED_FOR, peer.address_value.clone());
    if !(kept && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, if peer.is_secure { HTTPS } else { HTTP });
    }
    if !(kept && headers.contains_key(X_FORWARDED_HOST))
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// RFC 7239 section 6: an IPv6 address is quoted and bracketed.
fn forwarded_element(peer: &Peer) -> String {
    let scheme = if peer.is_secure { "https" } else { "http" };
    match peer.address {
        IpAddr::V4(address) => format!("for={address};proto={scheme}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\";proto={scheme}"),
    }
}

/// The client's address: the peer's, or, behind trusted proxies, the last in X-Forwarded-For that
/// is not itself trusted.
pub fn client_address(
    headers: &HeaderMap,
    peer: &Peer,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    if !peer.trusted {
        return peer.address;
    }
    let mut client = peer.address;
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for entry in line.as_bytes().rsplit(|byte| *byte == b',') {
            let text = std::str::from_utf8(entry.trim_ascii()).ok();
            let Some(address) = text.and_then(|text| text.parse().ok()) else {
                return client;
            };
            client = address;
            if !is_trusted(client) {
                return client;
            }
        }
    }
    client
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Header fields from their lines.
    pub(crate) fn map(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            let (name, value) = field.split_once(": ").unwrap_or((field, ""));
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    /// The peer 192.0.2.1.
    pub(crate) fn peer(trusted: bool) -> Peer {
        Peer {
            address: Ipv4Addr::new(192, 0, 2, 1).into(),
            address_value: HeaderValue::from_static("192.0.2.1"),
            trusted,
            is_secure: false,
            certificate: None,
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let of = |fields: &[&str], is| client_address(&map(fields), &peer(is), trusted).to_string();
        assert_eq!(of(&["x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.1"], true), "2.2.2.2");
        assert_eq!(of(&["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 10.0.0.1"], true), "1.1.1.1");
        assert_eq!(of(&["x-forwarded-for: 1.1.1.1"], false), "192.0.2.1");
        assert_eq!(of(&["x-forwarded-for: junk, 10.0.0.1"], true), "10.0.0.1");
        assert_eq!(of(&[], true), "192.0.2.1");
    }
}
