//! Which requests may be mirrored, by their head.
//!
//! Pure. What has no end, is no whole answer, or depends on what its client has already says nothing
//! about whether two paths agree.

use http::header::{ACCEPT, CONTENT_LENGTH, EXPECT, RANGE, UPGRADE};
use http::{HeaderMap, HeaderName, Method};

use crate::mirror::skip::Skip;
use crate::wire::length::decimal;

/// Marks a shadow, for backends and for proxies behind this one.
pub const X_CUTOVER_SHADOW: HeaderName = HeaderName::from_static("x-cutover-shadow");

/// The beginning of the names of preconditions (RFC 9110 section 13.1).
const IF: &str = "if-";
/// The media type of server-sent events.
pub const EVENTS: &str = "text/event-stream";

/// What a route allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Whether the route is mirrored at all.
    pub is_mirrored: bool,
    /// Whether methods other than GET and HEAD are.
    pub unsafe_methods_ok: bool,
}

/// Whether a route and a method rule a request out, which is asked before the draw as it costs next to
/// nothing.
#[must_use]
pub fn by_method(method: &Method, allowed: Allowed) -> Option<Skip> {
    if !allowed.is_mirrored {
        return Some(Skip::Route);
    }
    if method == Method::CONNECT {
        return Some(Skip::Connect);
    }
    let is_read = method == Method::GET || method == Method::HEAD;
    (!is_read && !allowed.unsafe_methods_ok).then_some(Skip::Method)
}

/// Whether the head, as the client sent it, rules a request out; of its content at most `body_max`
/// bytes are copied.
#[must_use]
pub fn by_head(headers: &HeaderMap, body_max: usize) -> Option<Skip> {
    let has = |name: HeaderName| headers.contains_key(name);
    if has(X_CUTOVER_SHADOW) {
        return Some(Skip::Shadow);
    }
    if has(UPGRADE) {
        return Some(Skip::Upgrade);
    }
    if has(EXPECT) {
        return Some(Skip::Expect);
    }
    if has(RANGE) {
        return Some(Skip::Range);
    }
    if headers.keys().any(|name| name.as_str().starts_with(IF)) {
        return Some(Skip::Conditional);
    }
    if headers.get_all(ACCEPT).iter().any(|value| names_events(value.as_bytes())) {
        return Some(Skip::Events);
    }
    // Of an unknown length it shows as it comes.
    let length = headers.get(CONTENT_LENGTH).and_then(|length| decimal(length.as_bytes()));
    length.is_some_and(|length| length > body_max as u64).then_some(Skip::Body)
}

fn names_events(accept: &[u8]) -> bool {
    accept.windows(EVENTS.len()).any(|part| part.eq_ignore_ascii_case(EVENTS.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const READS: Allowed = Allowed { is_mirrored: true, unsafe_methods_ok: false };
    const ALL: Allowed = Allowed { is_mirrored: true, unsafe_methods_ok: true };

    #[test]
    fn reads_are_mirrored_and_other_methods_only_where_that_is_said() {
        let denied = Allowed::default();
        for (method, allowed, expected) in [
            ("GET", READS, None),
            ("HEAD", READS, None),
            ("POST", READS, Some(Skip::Method)),
            ("PUT", READS, Some(Skip::Method)),
            ("OPTIONS", READS, Some(Skip::Method)),
            ("TRACE", READS, Some(Skip::Method)),
            ("get", READS, Some(Skip::Method)),
            ("POST", ALL, None),
            ("PURGE", ALL, None),
            ("CONNECT", READS, Some(Skip::Connect)),
            ("CONNECT", ALL, Some(Skip::Connect)),
            ("GET", denied, Some(Skip::Route)),
            ("CONNECT", denied, Some(Skip::Route)),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(by_method(&method, allowed), expected, "{method} {allowed:?}");
        }
    }

    #[test]
    fn heads_that_have_no_whole_answer_or_one_for_their_client_alone_are_left_out() {
        for (field, expected) in [
            ("accept: */*", None),
            ("accept: application/json", None),
            ("content-length: 10", None),
            ("content-length: 0", None),
            ("transfer-encoding: chunked", None),
            ("x-cutover-force: async", None),
            ("x-cutover-shadow: 1", Some(Skip::Shadow)),
            ("upgrade: websocket", Some(Skip::Upgrade)),
            ("expect: 100-continue", Some(Skip::Expect)),
            ("range: bytes=0-1", Some(Skip::Range)),
            ("if-range: \"a\"", Some(Skip::Conditional)),
            ("if-none-match: *", Some(Skip::Conditional)),
            ("if-modified-since: x", Some(Skip::Conditional)),
            ("accept: text/html, Text/Event-Stream;q=0.1", Some(Skip::Events)),
            ("content-length: 11", Some(Skip::Body)),
            ("content-length: 18446744073709551615", Some(Skip::Body)),
        ] {
            let (name, value) = field.split_once(": ").unwrap();
            let name = name.parse::<HeaderName>().unwrap();
            let headers = [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect();
            assert_eq!(by_head(&headers, 10), expected, "{field}");
        }
        assert_eq!(by_head(&HeaderMap::new(), 0), None);
    }
}
