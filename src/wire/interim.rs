//! Interim responses (RFC 9110 section 15.2): a proxy MUST forward them, but for 100, which it answers
//! itself.
//!
//! hyper's HTTP/1 server can't write them, so they are written around it.

use http::header::CONNECTION;
use http::{Response, StatusCode};

use crate::wire::fields::are_tokens;
use crate::wire::headers;

/// An interim response as a client gets it; `None` for one that the proxy answers itself, or that is none.
#[must_use]
pub fn relayed(mut response: Response<()>) -> Option<Response<()>> {
    // RFC 9113 section 8.6: HTTP/2 has no 101, whatever a backend says; to HTTP/1.1 it would end HTTP.
    if matches!(response.status(), StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
        return None;
    }
    if !are_tokens(response.headers()) {
        return None;
    }
    headers::clean_response(response.headers_mut(), false).ok()?;
    response.headers_mut().remove(CONNECTION);
    Some(response)
}

/// An interim response as HTTP/1.1 has it.
#[must_use]
pub fn to_bytes(response: &Response<()>) -> Vec<u8> {
    let status = response.status();
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    if status.canonical_reason().is_none() {
        // http's Display would put its own words there.
        bytes = format!("HTTP/1.1 {} \r\n", status.as_u16()).into_bytes();
    }
    for (name, value) in response.headers() {
        bytes.extend_from_slice(title_case(name.as_str()).as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn title_case(name: &str) -> String {
    let mut begins = true;
    let letter = |letter: char| {
        let cased = if begins { letter.to_ascii_uppercase() } else { letter };
        begins = letter == '-';
        cased
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_relayed_is_clean_and_100_is_not() {
        let hints = Response::builder().status(103).header("link", "</a.css>");
        let hints = hints.header("connection", "x").header("x", "1").body(()).unwrap();
        let relayed = relayed(hints).unwrap();
        let text = String::from_utf8(to_bytes(&relayed)).unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        for status in [100, 101] {
            let own = Response::builder().status(status).body(()).unwrap();
            assert!(super::relayed(own).is_none(), "{status}");
        }
        let odd = Response::builder().status(199).body(()).unwrap();
        assert_eq!(to_bytes(&odd), b"HTTP/1.1 199 \r\n\r\n");
    }
}
