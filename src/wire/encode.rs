//! Writes the head of an HTTP/1.1 request, and what frames its content (RFC 9112 sections 3, 5 to 7).
//!
//! Pure: bytes in, bytes out.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, FORWARDED, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, Request};

use crate::config::values::HeaderCase;
use crate::wire::length::decimal;

const NO_TRAILERS: [HeaderName; 18] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    FORWARDED,
    HOST,
    MAX_FORWARDS,
    PROXY_AUTHORIZATION,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
];

/// How the end of a request's content is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// There is no content.
    Empty,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked,
}

impl Coding {
    /// How a request's fields frame its content; `is_empty`: there is none.
    #[must_use]
    pub fn of(headers: &HeaderMap, is_empty: bool) -> Self {
        if is_empty {
            return Self::Empty;
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = headers.get(CONTENT_LENGTH);
        // What has no length is written as chunked, whose end can't be mistaken.
        length.and_then(|length| decimal(length.as_bytes())).map_or(Self::Chunked, Self::Length)
    }
}

/// Appends the head of `request` to `out`.
pub fn request_head<B>(request: &Request<B>, case: HeaderCase, coding: Coding, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if !target.starts_with(['/', '*']) {
        // A query without a path.
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let headers = request.headers();
    for (name, value) in headers {
        if name == TRANSFER_ENCODING && coding == Coding::Empty {
            continue;
        }
        field(name.as_str(), value.as_bytes(), case, out);
    }
    let is_chunked = coding == Coding::Chunked;
    if is_chunked && !headers.contains_key(TRANSFER_ENCODING) {
        field(TRANSFER_ENCODING.as_str(), b"chunked", case, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn field(name: &str, value: &[u8], case: HeaderCase, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    if case != HeaderCase::Lower {
        let mut begins = true;
        for byte in &mut out[start..] {
            if begins {
                byte.make_ascii_uppercase();
            }
            begins = *byte == b'-';
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The line before a chunk of so many bytes. None has zero: that would be the last one.
#[must_use]
pub fn chunk_size(length: usize) -> String {
    format!("{length:x}\r\n")
}

/// The trailers that a request announces and may have (RFC 9110 sections 6.5.1 and 6.6.2): none that
/// frames, routes, authenticates or controls it, as some recipients add them to its fields.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let is_free = |name: &HeaderName| {
        let is_of_proxies =
            ["x-forwarded-", "x-cutover-"].iter().any(|own| name.as_str().starts_with(own));
        !is_of_proxies && !NO_TRAILERS.contains(name)
    };
    names.filter(is_free).collect()
}

/// What ends chunked content (RFC 9112 section 7.1.2), with those trailers that were `announced`.
#[must_use]
pub fn last_chunk(trailers: &HeaderMap, announced: &[HeaderName], case: HeaderCase) -> Vec<u8> {
    let mut out = b"0\r\n".to_vec();
    for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
        field(name.as_str(), value.as_bytes(), case, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&str, &str)], is_empty: bool, case: HeaderCase, expected: &str) {
        let mut request = Request::post("/a?b=c");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let coding = Coding::of(request.headers(), is_empty);
        let mut out = Vec::new();
        request_head(&request, case, coding, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{coding:?}");
    }

    #[test]
    fn a_head_is_written_with_what_frames_its_content() {
        use HeaderCase::{Lower, Title};
        let line = "POST /a?b=c HTTP/1.1\r\n";
        check(&[], true, Title, &format!("{line}\r\n"));
        check(&[("x-a-bc", "d")], true, Title, &format!("{line}X-A-Bc: d\r\n\r\n"));
        check(&[("x-a-bc", "d")], true, Lower, &format!("{line}x-a-bc: d\r\n\r\n"));
        let length = [("content-length", "7")];
        check(&length, false, Title, &format!("{line}Content-Length: 7\r\n\r\n"));
        let coding = [("transfer-encoding", "chunked")];
        let chunked = format!("{line}Transfer-Encoding: chunked\r\n\r\n");
        check(&coding, false, Title, &chunked);
        check(&[], false, Title, &chunked);
        check(&coding, true, Title, &format!("{line}\r\n"));
    }

    #[test]
    fn the_target_is_in_origin_form() {
        for (uri, expected) in
            [("/", "/"), ("*", "*"), ("/a//b?", "/a//b?"), ("http://h?q", "/?q"), ("http://h", "/")]
        {
            let request = Request::options(uri).body(()).unwrap();
            let mut out = Vec::new();
            request_head(&request, HeaderCase::Title, Coding::Empty, &mut out);
            let expected = format!("OPTIONS {expected} HTTP/1.1\r\n\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "x-other", "host", "x-forwarded-for"] {
            trailers.insert(name, "1".parse().unwrap());
        }
        let mut headers = HeaderMap::new();
        assert_eq!(last_chunk(&trailers, &announced(&headers), HeaderCase::Title), b"0\r\n\r\n");
        headers.append(TRAILER, "X-SUM , host,, x-forwarded-for".parse().unwrap());
        let announced = announced(&headers);
        let expected = b"0\r\nX-Sum: 1\r\n\r\n";
        assert_eq!(last_chunk(&trailers, &announced, HeaderCase::Title), expected);
        assert_eq!(chunk_size(255), "ff\r\n");
    }
}
