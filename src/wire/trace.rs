//! Names of one request across services: the request id and W3C Trace Context (Level 1).

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The request id, in requests and in replies that the proxy makes.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors keep beside it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest request id of a client that is kept.
const REQUEST_ID_MAX: usize = 128;
/// Where a `traceparent` has its trace id, as every version does (section 3.2.2).
const TRACE_ID: Range<usize> = 3..35;
/// Its parent id.
const PARENT_ID: Range<usize> = 36..52;
/// Its flags.
const FLAGS: Range<usize> = 53..55;
/// The flag that the caller may have recorded the trace (section 3.2.2.3.1).
const SAMPLED: u8 = 1;

/// What a sound `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace_id: u128,
    /// The caller's span.
    pub span_id: u64,
    /// Whether the caller may have recorded it.
    pub sampled: bool,
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
    let hex = |range: Range<usize>| {
        bytes[range].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |range: Range<usize>| bytes[range].iter().any(|byte| *byte != b'0');
    bytes.len() >= 55
        && (bytes.len() == 55 || (&bytes[..2] != b"00" && bytes[55] == b'-'))
        && bytes[2] == b'-'
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && hex(0..2)
        && &bytes[..2] != b"ff"
        && hex(TRACE_ID)
        && nonzero(TRACE_ID)
        && hex(PARENT_ID)
        && nonzero(PARENT_ID)
        && hex(FLAGS)
}

/// The `traceparent` of a head, if it has one that can be kept, and only one: of two nobody knows which
/// the caller meant, and the trace begins anew.
#[must_use]
pub fn traceparent(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = fields.get_all(TRACEPARENT).iter();
    let first = values.next()?;
    (values.next().is_none() && is_traceparent(first)).then_some(first)
}

/// The trace id that a sound `traceparent` names: 32 hexadecimal digits.
#[must_use]
pub fn trace_id(traceparent: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(traceparent.as_bytes().get(TRACE_ID)?).ok()
}

impl Parent {
    /// What a sound `traceparent` says; `None` of one that is not.
    #[must_use]
    pub fn of(traceparent: &HeaderValue) -> Option<Self> {
        // What a later version has behind it may be anything.
        let text = std::str::from_utf8(traceparent.as_bytes().get(..FLAGS.end)?).ok()?;
        let hex = |range| u64::from_str_radix(text.get(range)?, 16).ok();
        Some(Self {
            trace_id: u128::from_str_radix(text.get(TRACE_ID)?, 16).ok()?,
            span_id: hex(PARENT_ID)?,
            sampled: u8::try_from(hex(FLAGS)?).ok()? & SAMPLED != 0,
        })
    }

    /// The same as a field: of version 00, and without flags that it does not know (section 3.2.2.3.2).
    #[must_use]
    pub fn field(self) -> HeaderValue {
        let Self { trace_id, span_id, sampled } = self;
        let text = format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(sampled));
        HeaderValue::try_from(text).expect("digits and dashes are visible ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_parent_is_kept_only_if_it_is_sound() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (text, is_sound) in [
            (SOUND.to_owned(), true),
            (format!("00-{trace}-00f067aa0ba902b7-00"), true),
            // Flags that this version does not know.
            (format!("00-{trace}-00f067aa0ba902b7-ff"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01-what-the-future-brings"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01."), false),
            (format!("cc-{trace}-00f067aa0ba902b7-01.what-the-future-brings"), false),
            (format!("{SOUND}-more"), false),
            (format!("{SOUND}-"), false),
            (format!("{SOUND},{SOUND}"), false),
            (format!("ff-{trace}-00f067aa0ba902b7-01"), false),
            (format!(".0-{trace}-00f067aa0ba902b7-01"), false),
            (format!("0-{trace}-00f067aa0ba902b7-01"), false),
            (format!("000-{trace}-00f067aa0ba902b7-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()), false),
            (format!("00-{trace}-00F067aa0ba902b7-01"), false),
            (format!("00-{trace}-00f067aa0ba902b7-0A"), false),
            (format!("00-.{}-00f067aa0ba902b7-01", &trace[1..]), false),
            (format!("00-{trace}-.0f067aa0ba902b7-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", &trace[1..]), false),
            (format!("00-{trace}0-00f067aa0ba902b7-01"), false),
            (format!("00-{trace}-00f067aa0ba902b-01"), false),
            (format!("00-{trace}-00f067aa0ba902b7-1"), false),
            (format!("00-{trace}-00f067aa0ba902b7-.0"), false),
            (format!("00-{trace}-00f067aa0ba902b7"), false),
            (format!("00_{trace}_00f067aa0ba902b7_01"), false),
            ("00-".to_owned(), false),
            (String::new(), false),
        ] {
            let value = HeaderValue::from_str(&text).unwrap();
            assert_eq!(is_traceparent(&value), is_sound, "{text}");
            assert_eq!(Parent::of(&value).is_some_and(|_| is_sound), is_sound, "{text}");
        }
        assert!(!is_traceparent(&HeaderValue::from_bytes(&[0xff; 55]).unwrap()));
    }

    #[test]
    fn of_two_trace_parents_none_is_kept() {
        let mut fields = HeaderMap::new();
        assert_eq!(traceparent(&fields), None);
        fields.append(TRACEPARENT, HeaderValue::from_static(SOUND));
        assert_eq!(traceparent(&fields).map(HeaderValue::as_bytes), Some(SOUND.as_bytes()));
        fields.append(TRACEPARENT, HeaderValue::from_static(SOUND));
        assert_eq!(traceparent(&fields), None);
    }

    #[test]
    fn what_a_trace_parent_says_is_read_and_written() {
        let value = HeaderValue::from_static(SOUND);
        assert_eq!(trace_id(&value), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        let parent = Parent::of(&value).unwrap();
        let expected = Parent {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        assert_eq!((parent, parent.field()), (expected, value));
        for (flags, written) in [("00", "00"), ("02", "00"), ("03", "01"), ("ff", "01")] {
            let of = |flags: &str| HeaderValue::from_str(&format!("{}{flags}", &SOUND[..53]));
            assert_eq!(Parent::of(&of(flags).unwrap()).unwrap().field(), of(written).unwrap());
        }
        // A later version is written as the one that is known.
        let later = HeaderValue::from_str(&format!("cc{}-more", &SOUND[2..])).unwrap();
        assert_eq!(Parent::of(&later).unwrap().field(), HeaderValue::from_static(SOUND));
    }

    #[test]
    fn a_request_id_is_kept_only_if_it_is_short_and_visible() {
        let id = |text: &str| is_request_id(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        assert!(id("abc-123") && id(&"x".repeat(128)));
        assert!(!id("a b") && !id("") && !id(&"x".repeat(129)));
    }
}
