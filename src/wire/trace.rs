//! Names of one request across services: the request id and W3C Trace Context.

use http::{HeaderName, HeaderValue};

/// The request id, in requests and in replies that the proxy makes.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest request id of a client that is kept.
const REQUEST_ID_MAX: usize = 128;

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
        bytes[range].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents_and_request_ids_are_kept_only_when_sound() {
        let parent = |text: &str| is_traceparent(&HeaderValue::from_str(text).unwrap());
        assert!(parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(parent("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
        assert!(!parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
        assert!(!parent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
        assert!(!parent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(!parent("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"));
        assert!(!parent("short"));
        let id = |text: &str| is_request_id(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        assert!(id("abc-123"));
        assert!(!id("a b") && !id("") && !id(&"x".repeat(129)));
    }
}
