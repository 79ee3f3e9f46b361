//! Header rules of a gateway: what is removed, what is added, what stays; the clause above each.
//!
//! Pure: works on header maps, and is given the values that cost something to make. Own fields are
//! added after the client's `Connection` list was obeyed, so that a client can't have them removed.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::wire::present::{Field, Present};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The request id, in requests and in replies that the proxy makes.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Names the path that replied, with `split.expose_path`.
pub const X_CUTOVER_PATH: HeaderName = HeaderName::from_static("x-cutover-path");

const OWN_PREFIX: &str = "x-cutover-";
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 cutover");
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 cutover");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const CONNECTION_TE: HeaderValue = HeaderValue::from_static("TE");
const CONNECTION_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The longest request id of a client that is kept.
const REQUEST_ID_MAX: usize = 128;

/// The peer of a connection, with the header values that are made once for it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The address as a header value.
    pub address_value: HeaderValue,
    /// Whether its Forwarded family is believed.
    pub trusted: bool,
}

/// What a request's cleaning needs to know beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The peer.
    pub peer: &'a Peer,
    /// The version that the client spoke.
    pub version: Version,
    /// The authority of an absolute-form target, which overrides Host (RFC 9112 section 3.2.2).
    pub authority: Option<&'a str>,
    /// Host for a HTTP/1.0 request that has none: the address that the client reached.
    pub local: &'a HeaderValue,
    /// The fields that the head has. That it has a transfer coding means that the body's length is
    /// unknown.
    pub present: Present,
}

/// The protocol that a request asks to switch to, if the proxy would carry it
/// (RFC 9110 section 7.8): HTTP/1.1, nominated by Connection, without a body, one protocol, and not
/// `h2c`, behind which requests would pass unchecked.
#[must_use]
pub fn upgrade(version: Version, headers: &HeaderMap, present: Present) -> Option<HeaderValue> {
    if !present.has(Field::Upgrade) {
        return None;
    }
    let protocol = headers.get(UPGRADE)?;
    let nominated = || tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case(b"upgrade"));
    let carried = version == Version::HTTP_11
        && headers.get_all(UPGRADE).iter().count() == 1
        && !protocol.as_bytes().contains(&b',')
        && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers
            .get(CONTENT_LENGTH)
            .is_none_or(|length| length == "0")
        && nominated();
    carried.then(|| protocol.clone())
}

/// Makes a client's header fields those that a backend gets.
pub fn clean_request(
    method: &Method,
    headers: &mut HeaderMap,
    upgrade: Option<HeaderValue>,
    origin: &Origin<'_>,
) {
    let present = origin.present;
    let trailers = present.has(Field::Te)
        && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers, present);
    strip_spoofs(headers, present);
    set_host(headers, origin);
    if present.has(Field::TransferEncoding) {
        // RFC 9112 section 6.1: a body of unknown length goes on as chunked, with any method.
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, CHUNKED);
    }
    if trailers {
        // RFC 9110 section 10.1.4: TE is nominated wherever it is sent.
        headers.insert(TE, TRAILERS);
        headers.append(CONNECTION, CONNECTION_TE);
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.append(CONNECTION, CONNECTION_UPGRADE);
    }
    lower_max_forwards(method, headers);
    set_forwarded(headers, origin.peer, present);
    // RFC 9110 section 7.6.3: a gateway MUST append its hop.
    let hop = if origin.version == Version::HTTP_10 {
        VIA_10
    } else {
        VIA_11
    };
    headers.append(VIA, hop);
}

/// Makes a backend's header fields those that a client gets. `switching`: a 101 that was asked for.
/// Returns how many seconds the backend says it keeps an idle connection (`Keep-Alive: timeout`).
pub fn clean_response(headers: &mut HeaderMap, switching: bool) -> Option<u64> {
    let present = Present::of(headers);
    let timeout = if present.has(Field::KeepAlive) {
        headers.get(KEEP_ALIVE).and_then(keep_alive_timeout)
    } else {
        None
    };
    let protocol = if switching {
        headers.remove(UPGRADE)
    } else {
        None
    };
    if present.has(Field::TransferEncoding) {
        // RFC 9112 section 6.3: the coding wins; a length beside it must not go on.
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers, present);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, CONNECTION_UPGRADE);
    }
    timeout
}

/// RFC 9110 section 7.6.1: Connection, all that each of its lines names, and what is hop-by-hop by
/// tradition. Framing and Host stay right whatever Connection names (CVE-2026-26365).
fn strip_hop_by_hop(headers: &mut HeaderMap, present: Present) {
    if present.has(Field::Connection) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !token.eq_ignore_ascii_case(b"close"))
            .filter(|token| !token.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for (field, name) in [
        (Field::KeepAlive, KEEP_ALIVE),
        (Field::Proxy, PROXY_CONNECTION),
        (Field::Te, TE),
        (Field::TransferEncoding, TRANSFER_ENCODING),
        (Field::Upgrade, UPGRADE),
    ] {
        if present.has(field) {
            headers.remove(name);
        }
    }
}

/// What a client may not say to a backend: own markers, `Proxy` (CGI turns it into HTTP_PROXY:
/// CVE-2016-5385), credentials meant for a proxy, and Expect, which the proxy answers itself.
fn strip_spoofs(headers: &mut HeaderMap, present: Present) {
    if present.has(Field::Own) {
        let own = |name: &&HeaderName| name.as_str().starts_with(OWN_PREFIX);
        let own: Vec<HeaderName> = headers.keys().filter(own).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
    if present.has(Field::Proxy) {
        headers.remove(PROXY);
        headers.remove(PROXY_AUTHORIZATION);
    }
    if present.has(Field::Expect) {
        headers.remove(EXPECT);
    }
}

fn set_host(headers: &mut HeaderMap, origin: &Origin<'_>) {
    if let Some(authority) = origin.authority {
        // RFC 9112 section 3.2.2: the target's authority replaces what Host says.
        if let Ok(host) = HeaderValue::from_str(authority) {
            headers.insert(HOST, host);
        }
    } else if !origin.present.has(Field::Host) {
        headers.insert(HOST, origin.local.clone());
    }
}

/// RFC 9110 section 7.6.2: lowered by one at each hop, for the two methods that it speaks of.
fn lower_max_forwards(method: &Method, headers: &mut HeaderMap) {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return;
    }
    let left = headers
        .get(MAX_FORWARDS)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(left) = left {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// The Forwarded family: from a trusted proxy it is extended (RFC 7239 section 5.2 and the custom
/// of X-Forwarded-For), from anyone else replaced, as it is the client's free invention.
fn set_forwarded(headers: &mut HeaderMap, peer: &Peer, present: Present) {
    if present.has(Field::Forwarded) && !peer.trusted {
        for name in [
            FORWARDED,
            X_FORWARDED_FOR,
            X_FORWARDED_HOST,
            X_FORWARDED_PROTO,
        ] {
            headers.remove(name);
        }
        headers.remove(X_FORWARDED_PORT);
        headers.remove(X_REAL_IP);
    }
    let kept = present.has(Field::Forwarded) && peer.trusted;
    if kept
        && headers.contains_key(FORWARDED)
        && let Ok(element) = HeaderValue::from_str(&forwarded_element(peer.address))
    {
        headers.append(FORWARDED, element);
    }
    headers.append(X_FORWARDED_FOR, peer.address_value.clone());
    if !(kept && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HTTP);
    }
    if !(kept && headers.contains_key(X_FORWARDED_HOST))
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// RFC 7239 section 6: an IPv6 address is quoted and bracketed.
fn forwarded_element(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address};proto=http"),
        IpAddr::V6(address) => format!("for=\"[{address}]\";proto=http"),
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

/// Whether a client's request id can be kept: short and visible ASCII.
#[must_use]
pub fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Whether a client's `traceparent` can be kept (W3C Trace Context, section 3.2.2).
#[must_use]
pub fn is_traceparent(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let hex = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |range: std::ops::Range<usize>| bytes[range].iter().any(|byte| *byte != b'0');
    bytes.len() >= 55
        && (bytes.len() == 55 || (&bytes[..2] != b"00" && bytes[55] == b'-'))
        && bytes[2] == b'-'
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && hex(0..2)
        && &bytes[..2] != b"ff"
        && hex(3..35)
        && nonzero(3..35)
        && hex(36..52)
        && nonzero(36..52)
        && hex(53..55)
}

/// The elements of a list field, over all of its lines (RFC 9110 section 5.6.1).
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn keep_alive_timeout(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.split(',')
        .find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn map(fields: &[&str]) -> HeaderMap {
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

    fn peer(trusted: bool) -> Peer {
        Peer {
            address: Ipv4Addr::new(192, 0, 2, 1).into(),
            address_value: HeaderValue::from_static("192.0.2.1"),
            trusted,
        }
    }

    fn cleaned(fields: &[&str], trusted: bool, chunked: bool) -> Vec<String> {
        let mut headers = map(fields);
        let version = Version::HTTP_11;
        if chunked {
            headers.insert(TRANSFER_ENCODING, CHUNKED);
        }
        let present = Present::of(&headers);
        let upgrade = upgrade(version, &headers, present);
        let origin = Origin {
            peer: &peer(trusted),
            version,
            authority: None,
            local: &HeaderValue::from_static("local:80"),
            present,
        };
        clean_request(&Method::OPTIONS, &mut headers, upgrade, &origin);
        let own = [
            "via",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "host",
        ];
        headers
            .iter()
            .filter(|(name, value)| !(own.contains(&name.as_str()) && is_default(name, value)))
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect()
    }

    fn is_default(name: &HeaderName, value: &HeaderValue) -> bool {
        let default = match name.as_str() {
            "via" => "1.1 cutover",
            "x-forwarded-for" => "192.0.2.1",
            "x-forwarded-proto" => "http",
            _ => "a",
        };
        value == default
    }

    fn check(fields: &[&str], expected: &[&str]) {
        let mut with_host = vec!["host: a"];
        with_host.extend(fields);
        assert_eq!(cleaned(&with_host, false, false), expected, "{fields:?}");
    }

    #[test]
    fn hop_by_hop_fields_and_all_that_connection_names_are_removed() {
        check(
            &[
                "connection: a, B",
                "connection: c",
                "a: 1",
                "b: 1",
                "c: 1",
                "d: 1",
            ],
            &["d: 1"],
        );
        check(
            &[
                "keep-alive: timeout=5",
                "proxy-connection: x",
                "te: gzip",
                "upgrade: x",
            ],
            &[],
        );
        check(&["connection: close", "close: 1"], &["close: 1"]);
    }

    #[test]
    fn connection_cannot_remove_framing_host_or_own_fields() {
        check(
            &["connection: content-length, host", "content-length: 3"],
            &["content-length: 3"],
        );
        check(
            &["connection: via, x-forwarded-for, x-forwarded-proto"],
            &[],
        );
        let chunked = cleaned(&["host: a", "connection: transfer-encoding"], false, true);
        assert_eq!(chunked, ["transfer-encoding: chunked"]);
    }

    #[test]
    fn te_trailers_stays_and_is_nominated() {
        check(&["te: gzip, trailers"], &["te: trailers", "connection: TE"]);
    }

    #[test]
    fn unknown_and_repeated_fields_pass_in_order() {
        check(
            &["x-a: 1", "x-b: \u{e9}", "x-a: 2"],
            &["x-a: 1", "x-a: 2", "x-b: \u{e9}"],
        );
    }

    #[test]
    fn spoofs_are_removed() {
        check(
            &[
                "proxy: x",
                "x-cutover-shadow: 1",
                "proxy-authorization: x",
                "x-real-ip: 1",
            ],
            &[],
        );
        check(
            &[
                "forwarded: for=1",
                "x-forwarded-for: 6.6.6.6",
                "x-forwarded-host: evil",
            ],
            &[],
        );
    }

    #[test]
    fn a_trusted_proxy_is_extended() {
        let fields = [
            "host: a",
            "x-forwarded-for: 6.6.6.6",
            "forwarded: for=6.6.6.6",
        ];
        let got = cleaned(&fields, true, false);
        let extended = [
            "x-forwarded-for: 6.6.6.6",
            "forwarded: for=6.6.6.6",
            "forwarded: for=192.0.2.1;proto=http",
        ];
        assert_eq!(got, extended);
    }

    #[test]
    fn max_forwards_goes_down_by_one() {
        check(&["max-forwards: 3"], &["max-forwards: 2"]);
    }

    #[test]
    fn only_a_real_upgrade_is_carried() {
        let asked = |fields: &[&str], version| {
            let headers = map(fields);
            upgrade(version, &headers, Present::of(&headers)).is_some()
        };
        let v11 = Version::HTTP_11;
        assert!(asked(
            &["connection: keep-alive, Upgrade", "upgrade: websocket"],
            v11
        ));
        assert!(!asked(&["upgrade: websocket"], v11));
        assert!(!asked(
            &["connection: upgrade", "upgrade: websocket"],
            Version::HTTP_10
        ));
        assert!(!asked(&["connection: upgrade", "upgrade: h2c"], v11));
        assert!(!asked(
            &["connection: upgrade", "upgrade: websocket, h2c"],
            v11
        ));
        let with_body = [
            "connection: upgrade",
            "upgrade: websocket",
            "content-length: 4",
        ];
        assert!(!asked(&with_body, v11));
    }

    #[test]
    fn responses_lose_hop_by_hop_fields_and_a_length_beside_a_coding() {
        let mut headers = map(&[
            "connection: x",
            "x: 1",
            "keep-alive: timeout=5, max=9",
            "content-length: 3",
            "transfer-encoding: chunked",
            "set-cookie: a",
            "set-cookie: b",
        ]);
        assert_eq!(clean_response(&mut headers, false), Some(5));
        assert_eq!(headers, map(&["set-cookie: a", "set-cookie: b"]));
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let of = |fields: &[&str], is| client_address(&map(fields), &peer(is), trusted).to_string();
        assert_eq!(
            of(&["x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.1"], true),
            "2.2.2.2"
        );
        assert_eq!(
            of(
                &["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 10.0.0.1"],
                true
            ),
            "1.1.1.1"
        );
        assert_eq!(of(&["x-forwarded-for: 1.1.1.1"], false), "192.0.2.1");
        assert_eq!(of(&["x-forwarded-for: junk, 10.0.0.1"], true), "10.0.0.1");
        assert_eq!(of(&[], true), "192.0.2.1");
    }

    #[test]
    fn trace_parents_and_request_ids_are_kept_only_when_sound() {
        let parent = |text: &str| is_traceparent(&HeaderValue::from_str(text).unwrap());
        assert!(parent(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ));
        assert!(parent(
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"
        ));
        assert!(!parent(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"
        ));
        assert!(!parent(
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01"
        ));
        assert!(!parent(
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ));
        assert!(!parent(
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"
        ));
        assert!(!parent("short"));
        let id = |text: &str| is_request_id(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        assert!(id("abc-123"));
        assert!(!id("a b") && !id("") && !id(&"x".repeat(129)));
    }
}
