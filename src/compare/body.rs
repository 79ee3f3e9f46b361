//! What of a captured body is compared: its JSON, or its length and hash.
//!
//! A gzip body is unpacked, to a limit of size and of ratio: what is packed denser is a bomb or not worth
//! it, and is compared as it came.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::compare::json::{self, Document, Fault};
use crate::compare::pair::Answer;

/// The largest body after unpacking, in bytes: four times what is captured of one.
const UNPACKED_MAX: usize = 1 << 20;
/// How many times its size a body may have unpacked. JSON packs 5 to 15 times.
const RATIO_MAX: usize = 20;

/// A body as it is compared.
#[derive(Debug)]
pub enum Content<'a> {
    /// By meaning.
    Json(Document<'a>),
    /// It says that it is JSON, and is not.
    Broken,
    /// By length and hash.
    Opaque,
}

/// A body's bytes without their coding, where they were kept and the coding is known.
#[must_use]
pub fn plain(answer: &Answer) -> Option<Cow<'_, [u8]>> {
    let kept = answer.body.kept.as_ref()?;
    let mut codings = answer.headers.get_all(CONTENT_ENCODING).iter();
    match (codings.next().map(|coding| coding.as_bytes()), codings.next()) {
        (None, _) => Some(Cow::Borrowed(kept)),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => {
            Some(Cow::Borrowed(kept))
        }
        (Some(coding), None)
            if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") =>
        {
            unpacked(kept).map(Cow::Owned)
        }
        (Some(_), _) => None,
    }
}

fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    let limit = UNPACKED_MAX.min(packed.len().saturating_mul(RATIO_MAX));
    let mut bytes = Vec::new();
    // One byte more tells a body that is at the limit from one beyond it.
    let mut reader = MultiGzDecoder::new(packed).take(limit as u64 + 1);
    reader.read_to_end(&mut bytes).ok()?;
    (bytes.len() <= limit).then_some(bytes)
}

/// Whether the body is said to be JSON: `application/json`, or any type with `+json` (RFC 6839).
#[must_use]
pub fn is_json(answer: &Answer) -> bool {
    let value = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next()).unwrap_or("").trim().to_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

/// Reads a body whose bytes are `plain`.
#[must_use]
pub fn read<'a>(answer: &Answer, plain: Option<&'a [u8]>) -> Content<'a> {
    let Some(bytes) = plain.filter(|_| is_json(answer)) else {
        return Content::Opaque;
    };
    match json::parse(bytes) {
        Ok(document) => Content::Json(document),
        Err(Fault::Syntax) => Content::Broken,
        Err(Fault::Limit) => Content::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::compare::pair::Captured;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn answer(kind: &str, coding: Option<&str>, body: Option<Vec<u8>>) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        if let Some(coding) = coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap());
        }
        let (length, hash) = (body.as_ref().map_or(0, Vec::len) as u64, 0);
        let kept = body.map(Bytes::from);
        Answer { status: StatusCode::OK, headers, body: Captured { kept, length, hash } }
    }

    /// `json`, `broken` or `opaque`.
    fn check(kind: &str, coding: Option<&str>, body: Option<Vec<u8>>) -> &'static str {
        let answer = answer(kind, coding, body);
        match read(&answer, plain(&answer).as_deref()) {
            Content::Json(_) => "json",
            Content::Broken => "broken",
            Content::Opaque => "opaque",
        }
    }

    #[test]
    fn json_is_what_says_so_and_can_be_read() {
        let body = || Some(b"{\"a\":1}".to_vec());
        for (kind, coding, body, expected) in [
            ("application/json", None, body(), "json"),
            ("Application/Problem+JSON; charset=utf-8", None, body(), "json"),
            ("application/json", Some("identity"), body(), "json"),
            ("application/json", Some("GZIP"), Some(gzip(b"[1]")), "json"),
            ("application/json", Some("gzip"), body(), "opaque"),
            ("application/json", Some("br"), body(), "opaque"),
            ("application/json", Some("gzip, gzip"), Some(gzip(&gzip(b"[1]"))), "opaque"),
            ("application/json", None, None, "opaque"),
            ("application/json", None, Some(b"{".to_vec()), "broken"),
            ("application/json", None, Some(Vec::new()), "broken"),
            ("application/json", None, Some("[".repeat(200).into()), "opaque"),
            ("text/json-ish", None, body(), "opaque"),
        ] {
            assert_eq!(check(kind, coding, body), expected, "{kind} {coding:?}");
        }
    }

    #[test]
    fn a_gzip_bomb_is_not_unpacked() {
        // Two bytes of tens make one million: far beyond the ratio.
        assert_eq!(unpacked(&gzip(&vec![b' '; 1_000_000])), None);
        // Dense, yet too large in all: noise that hardly packs.
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(UNPACKED_MAX + 1).collect();
        assert_eq!(unpacked(&gzip(&noise)), None);
        let fits = &noise[..UNPACKED_MAX];
        assert_eq!(unpacked(&gzip(fits)).as_deref(), Some(fits));
    }

    #[test]
    fn a_cut_gzip_body_is_compared_as_it_came() {
        let whole = gzip(b"{\"a\":1}");
        for length in 0..whole.len() {
            assert_eq!(unpacked(&whole[..length]).filter(|bytes| !bytes.is_empty()), None);
        }
    }
}
