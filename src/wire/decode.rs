//! Reads what a backend sends over HTTP/1.1: the heads of responses, and where one ends (RFC 9112
//! sections 4 and 6.3).
//!
//! Pure: bytes in, what they mean out.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::wire::chunks::Chunks;
use crate::wire::fields::{self, FIELDS_MAX, Malformed};
use crate::wire::length::{Lengths, decimal, settle};

/// The largest head of a final response, in bytes.
pub const HEAD_MAX: usize = 64 * 1024;
/// The largest interim head.
pub const INTERIM_MAX: usize = 16 * 1024;

/// How the end of a response's content is found.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// It ends with its connection.
    UntilClose,
}

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub enum Head {
    /// A head that has not come whole.
    Partial,
    /// An interim response (RFC 9110 section 15.2), but for 101.
    Interim(Response<()>),
    /// A final response.
    Final {
        /// Its head.
        response: Response<()>,
        /// Where it ends.
        framing: Framing,
        /// Whether another may follow on its connection (RFC 9112 section 9.3).
        persists: bool,
    },
}

/// Takes a head off the beginning of `input`, where it has come whole. `method` is that of the request.
///
/// # Errors
/// [`Malformed`].
pub fn head(input: &mut Bytes, method: &Method) -> Result<Head, Malformed> {
    let bytes = input.clone();
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut room);
    let length = match status.map_err(|_| Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(Head::Partial),
    };
    input.advance(length);
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    if parsed.version != Some(1) {
        *response.version_mut() = Version::HTTP_10;
    }
    fields::append(response.headers_mut(), &bytes, parsed.headers)?;
    let reason = parsed.reason.unwrap_or_default();
    if status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        // What hyper writes in place of its own words.
        response.extensions_mut().insert(reason);
    }
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Head::Interim(response));
    }
    let framing = framing(&response, method)?;
    let persists = persists(&response);
    Ok(Head::Final { response, framing, persists })
}

/// RFC 9112 section 6.3.
fn framing(response: &Response<()>, method: &Method) -> Result<Framing, Malformed> {
    let (status, headers) = (response.status(), response.headers());
    let has_none = matches!(
        status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_none || method == Method::HEAD || (method == Method::CONNECT && status.is_success()) {
        return Ok(Framing::Length(0));
    }
    if let Some(coding) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        // RFC 9112 section 6.1: HTTP/1.0 has none.
        if response.version() == Version::HTTP_10 {
            return Err(Malformed);
        }
        let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        return Ok(match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => Framing::Chunked(Chunks::default()),
            false => Framing::UntilClose,
        });
    }
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return Ok(Framing::UntilClose);
    };
    match settle(headers) {
        Lengths::One => decimal(length.as_bytes()).map(Framing::Length).ok_or(Malformed),
        Lengths::Agree(length) => Ok(Framing::Length(length)),
        Lengths::Odd => Err(Malformed),
    }
}

/// RFC 9112 section 9.3: any `close` wins.
fn persists(response: &Response<()>) -> bool {
    let says = |option: &str| {
        let lines = response.headers().get_all(CONNECTION).iter();
        let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    match response.version() {
        _ if !response.headers().contains_key(CONNECTION) => response.version() == Version::HTTP_11,
        Version::HTTP_11 => !says("close"),
        _ => says("keep-alive") && !says("close"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a head comes to: its status, its framing and whether its connection persists.
    fn seen(text: &str, method: &Method) -> String {
        let whole = text.replace('|', "\r\n");
        let mut input = Bytes::from(format!("{whole}rest"));
        let head = head(&mut input, method);
        match head {
            Err(Malformed) => "malformed".into(),
            Ok(Head::Partial) => "partial".into(),
            Ok(Head::Interim(response)) => {
                assert_eq!(&input[..], b"rest");
                format!("{} interim", response.status().as_u16())
            }
            Ok(Head::Final { response, framing, persists }) => {
                assert_eq!(&input[..], b"rest");
                let framing = match framing {
                    Framing::Length(length) => length.to_string(),
                    Framing::Chunked(_) => "chunked".into(),
                    Framing::UntilClose => "close".into(),
                };
                format!("{} {framing} {persists}", response.status().as_u16())
            }
        }
    }

    #[test]
    fn where_a_response_ends() {
        const OK: &str = "HTTP/1.1 200 OK|";
        for (fields, expected) in [
            ("Content-Length: 7||", "200 7 true"),
            ("content-length: 7|Connection: close||", "200 7 false"),
            ("Connection: keep-alive, Close|Content-Length: 0||", "200 0 false"),
            ("Content-Length: 7, 7||", "200 7 true"),
            ("Content-Length: 7|Content-Length: 8||", "malformed"),
            ("Content-Length: -7||", "malformed"),
            ("Content-Length: 18446744073709551616||", "malformed"),
            ("Transfer-Encoding: chunked||", "200 chunked true"),
            ("Transfer-Encoding: gzip, Chunked |Content-Length: 7||", "200 chunked true"),
            ("Transfer-Encoding: chunked, gzip||", "200 close true"),
            ("|", "200 close true"),
            ("A : b||", "malformed"),
            (" A: b||", "malformed"),
            ("A: b\0||", "malformed"),
        ] {
            assert_eq!(seen(&format!("{OK}{fields}"), &Method::GET), expected, "{fields}");
        }
    }

    #[test]
    fn methods_statuses_and_versions_matter() {
        for (text, method, expected) in [
            ("HTTP/1.1 200 OK|Content-Length: 7||", Method::HEAD, "200 0 true"),
            ("HTTP/1.1 304 Not Modified|Content-Length: 7||", Method::GET, "304 0 true"),
            ("HTTP/1.1 204 No Content||", Method::GET, "204 0 true"),
            ("HTTP/1.1 101 Switching Protocols||", Method::GET, "101 0 true"),
            ("HTTP/1.1 103 Early Hints|Link: x||", Method::GET, "103 interim"),
            ("HTTP/1.0 200 OK||", Method::GET, "200 close false"),
            ("HTTP/1.0 200 OK|Connection: Keep-Alive||", Method::GET, "200 close true"),
            ("HTTP/1.0 200 OK|Transfer-Encoding: chunked||", Method::GET, "malformed"),
            ("HTTP/2.0 200 OK||", Method::GET, "malformed"),
            ("HTTP/1.1 20 OK||", Method::GET, "malformed"),
            ("HTTP/1.1 099 OK||", Method::GET, "malformed"),
            ("HTTP/1.1 200 OK|Content-Le", Method::GET, "partial"),
            ("hello", Method::GET, "malformed"),
        ] {
            assert_eq!(seen(text, &method), expected, "{text}");
        }
    }

    #[test]
    fn a_reason_goes_on_and_fields_keep_their_bytes() {
        let mut input = Bytes::from("HTTP/1.1 200 Fine\r\nX-A: \u{e9} b \r\nx-a: c\r\n\r\n");
        let Ok(Head::Final { response, .. }) = head(&mut input, &Method::GET) else {
            panic!("no head")
        };
        let reason = response.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Fine");
        let values: Vec<_> = response.headers().get_all("x-a").iter().collect();
        assert_eq!(values[0].as_bytes(), "\u{e9} b".as_bytes());
        assert_eq!(values[1], "c");
    }

    #[test]
    fn more_fields_than_the_most_are_malformed() {
        let fields = |number| format!("HTTP/1.1 200 OK|{}|", "A: b|".repeat(number));
        assert_eq!(seen(&fields(FIELDS_MAX), &Method::HEAD), "200 0 true");
        assert_eq!(seen(&fields(FIELDS_MAX + 1), &Method::HEAD), "malformed");
    }
}
