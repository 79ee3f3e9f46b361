//! Header rules of a gateway: what is removed, what is added, what stays; the clause above each.
//!
//! Pure: works on header maps, and is given the values that cost something to make. Own fields are
//! added after the client's `Connection` list was obeyed, so that a client can't have them removed.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::wire::forwarded::{Peer, set_forwarded};
use crate::wire::length::{Lengths, settle};
use crate::wire::present::{Field, Present, is_disguised};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Names the path that replied, with `split.expose_path`.
pub const X_CUTOVER_PATH: HeaderName = HeaderName::from_static("x-cutover-path");

const OWN_PREFIX: &str = "x-cutover-";
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 cutover");
const VIA_20: HeaderValue = HeaderValue::from_static("2.0 cutover");
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 cutover");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const CONNECTION_TE: HeaderValue = HeaderValue::from_static("TE");
const CONNECTION_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

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
    /// The fields that the head has.
    pub present: Present,
    /// Whether there is a body whose length is unknown.
    pub is_chunked: bool,
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
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
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
    if origin.is_chunked {
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
    if origin.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    lower_max_forwards(method, headers);
    if let Some(certificate) = &origin.peer.certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
    set_forwarded(headers, origin.peer, present);
    // RFC 9110 section 7.6.3: a gateway MUST append its hop.
    headers.append(
        VIA,
        match origin.version {
            Version::HTTP_10 => VIA_10,
            Version::HTTP_2 => VIA_20,
            _ => VIA_11,
        },
    );
}

/// A response whose framing can't be passed on: a transfer coding other than one `chunked`, which would
/// be lost with the framing that is taken off here, and its bytes passed for the content (RFC 9112
/// section 6.1); or a length that is none (section 6.3), which nobody looks at before where there is no
/// content: in the response to a HEAD, and in a 304.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OddFraming;

/// Makes a backend's header fields those that a client gets. `switching`: a 101 that was asked for.
/// Returns how many seconds the backend says it keeps an idle connection (`Keep-Alive: timeout`).
///
/// # Errors
/// When its framing has no one reading.
pub fn clean_response(headers: &mut HeaderMap, switching: bool) -> Result<Option<u64>, OddFraming> {
    let present = Present::of(headers);
    if present.has(Field::TransferEncoding) {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let first = codings.next().map(HeaderValue::as_bytes).unwrap_or_default();
        if !first.eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(OddFraming);
        }
        // RFC 9112 section 6.3: the coding wins; a length beside it must not go on.
        headers.remove(CONTENT_LENGTH);
    } else if present.has(Field::ContentLength) {
        match settle(headers) {
            Lengths::One => {}
            Lengths::Agree(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Lengths::Odd => return Err(OddFraming),
        }
    }
    let timeout = if present.has(Field::KeepAlive) {
        headers.get(KEEP_ALIVE).and_then(keep_alive_timeout)
    } else {
        None
    };
    let protocol = if switching { headers.remove(UPGRADE) } else { None };
    strip_hop_by_hop(headers, present);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, CONNECTION_UPGRADE);
    }
    Ok(timeout)
}

/// RFC 9110 section 7.6.1: Connection, all that each of its lines names, and what is hop-by-hop by
/// tradition. Framing and Host stay right whatever Connection names (CVE-2026-26365).
fn strip_hop_by_hop(headers: &mut HeaderMap, present: Present) {
    if present.has(Field::Connection) {
        // Nearly always it says only whether the connection stays, and names nothing.
        let names_fields = tokens(headers, &CONNECTION).any(|token| !is_persistence(token));
        if names_fields {
            let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
                .filter(|token| !is_persistence(token))
                .filter_map(|token| HeaderName::from_bytes(token).ok())
                .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
                .collect();
            for name in named {
                headers.remove(name);
            }
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

fn is_persistence(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive")
}

/// What a client may not say to a backend: own markers, a certificate (RFC 9440 section 2.4), `Proxy` (CGI turns it into HTTP_PROXY:
/// CVE-2016-5385), credentials meant for a proxy, and Expect, which the proxy answers itself.
fn strip_spoofs(headers: &mut HeaderMap, present: Present) {
    if present.has(Field::Own) || present.has(Field::Disguised) {
        let is_spoof = |name: &str| name.starts_with(OWN_PREFIX) || is_disguised(name);
        let spoofs = headers.keys().filter(|name| is_spoof(name.as_str())).cloned();
        let spoofs: Vec<HeaderName> = spoofs.collect();
        for name in spoofs {
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
    if present.has(Field::ClientCert) {
        headers.remove(CLIENT_CERT);
        headers.remove(CLIENT_CERT_CHAIN);
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may split a cookie into crumbs, HTTP/1.1 knows one line.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
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
    let left = headers.get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(left) = left {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
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
    text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::forwarded::tests::{map, peer};

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
            is_chunked: chunked,
        };
        clean_request(&Method::OPTIONS, &mut headers, upgrade, &origin);
        let own = ["via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "host"];
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
        check(&["connection: a, B", "connection: c", "a: 1", "b: 1", "c: 1", "d: 1"], &["d: 1"]);
        check(&["keep-alive: timeout=5", "proxy-connection: x", "te: gzip", "upgrade: x"], &[]);
        check(&["connection: close", "close: 1"], &["close: 1"]);
    }

    #[test]
    fn connection_cannot_remove_framing_host_or_own_fields() {
        check(&["connection: content-length, host", "content-length: 3"], &["content-length: 3"]);
        check(&["connection: via, x-forwarded-for, x-forwarded-proto"], &[]);
        let chunked = cleaned(&["host: a", "connection: transfer-encoding"], false, true);
        assert_eq!(chunked, ["transfer-encoding: chunked"]);
    }

    #[test]
    fn te_trailers_stays_and_is_nominated() {
        check(&["te: gzip, trailers"], &["te: trailers", "connection: TE"]);
    }

    #[test]
    fn unknown_and_repeated_fields_pass_in_order() {
        check(&["x-a: 1", "x-b: \u{e9}", "x-a: 2"], &["x-a: 1", "x-a: 2", "x-b: \u{e9}"]);
    }

    #[test]
    fn spoofs_are_removed() {
        check(&["proxy: x", "x-cutover-shadow: 1", "proxy-authorization: x", "x-real-ip: 1"], &[]);
        check(&["forwarded: for=1", "x-forwarded-for: 6.6.6.6", "x-forwarded-host: evil"], &[]);
    }

    #[test]
    fn a_trusted_proxy_is_extended() {
        let fields = ["host: a", "x-forwarded-for: 6.6.6.6", "forwarded: for=6.6.6.6"];
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
        assert!(asked(&["connection: keep-alive, Upgrade", "upgrade: websocket"], v11));
        assert!(!asked(&["upgrade: websocket"], v11));
        assert!(!asked(&["connection: upgrade", "upgrade: websocket"], Version::HTTP_10));
        assert!(!asked(&["connection: upgrade", "upgrade: h2c"], v11));
        assert!(!asked(&["connection: upgrade", "upgrade: websocket, h2c"], v11));
        let with_body = ["connection: upgrade", "upgrade: websocket", "content-length: 4"];
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
        assert_eq!(clean_response(&mut headers, false), Ok(Some(5)));
        assert_eq!(headers, map(&["set-cookie: a", "set-cookie: b"]));
    }

    #[test]
    fn a_coding_that_would_be_lost_is_refused() {
        for coding in ["gzip", "gzip, chunked", "chunked, chunked"] {
            let mut headers = map(&[&format!("transfer-encoding: {coding}")]);
            assert_eq!(clean_response(&mut headers, false), Err(OddFraming), "{coding}");
        }
    }
}
