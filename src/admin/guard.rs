//! Who may use the admin API: the checks before any handler.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use crate::admin::office::{Answer, Office, problem};

/// The shortest token: below it guessing is too easy.
const TOKEN_MIN: usize = 16;

/// Reads the token that changes need.
///
/// # Errors
/// When the file can't be read or its token is too short: never a weaker mode.
pub fn read_token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("can't read token_file {}", file.display()))?;
    let token = text.trim();
    if token.len() < TOKEN_MIN {
        bail!("token_file {}: the token is shorter than {TOKEN_MIN} bytes", file.display());
    }
    Ok(token.to_owned())
}

/// Refuses what a browser was tricked into sending, and changes without the right to make them.
pub(crate) fn check(office: &Office, head: &Parts) -> Result<(), Box<Answer>> {
    if office.is_private && !is_local_host(&head.headers) {
        // DNS rebinding: a foreign name that was made to point here.
        return refuse(StatusCode::MISDIRECTED_REQUEST, "The Host is not a local one.");
    }
    if matches!(head.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    if !is_same_origin(&head.headers) {
        return Err(Box::new(foreign()));
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| {
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if head.method == Method::POST && !is_json {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Changes are application/json.");
    }
    let Some(file) = &office.publisher.current().config.admin.token_file else {
        return Ok(());
    };
    match read_token(file) {
        Ok(token) if bears(&head.headers, &token) => Ok(()),
        Ok(_) => refuse(StatusCode::UNAUTHORIZED, "A change needs the token."),
        Err(error) => {
            tracing::error!(%error, "changes are refused");
            refuse(StatusCode::FORBIDDEN, "The token can't be read, so changes are refused.")
        }
    }
}

/// What a request from a page of another site gets.
pub(crate) fn foreign() -> Answer {
    problem(StatusCode::FORBIDDEN, "The request comes from another site.")
}

fn refuse(status: StatusCode, detail: &str) -> Result<(), Box<Answer>> {
    Err(Box::new(problem(status, detail)))
}

fn is_local_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Browsers say where a request comes from; other clients say nothing.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let host = headers.get(HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
    origin.as_bytes().strip_prefix(b"http://") == Some(host)
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return false;
    };
    value.as_bytes().strip_prefix(b"Bearer ").is_some_and(|given| same(given, token.as_bytes()))
}

/// Compares without telling by its time how far two secrets agree.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |sum, (left, right)| sum | (left ^ right));
    left.len() == right.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field =
            |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        fields.iter().copied().map(field).collect()
    }

    #[test]
    fn only_local_names_are_local() {
        for host in ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "127.9.9.9", "[::1]:9900"] {
            assert!(is_local_host(&map(&[("host", host)])), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil:80", ""]
        {
            assert!(!is_local_host(&map(&[("host", host)])), "{host}");
        }
        assert!(!is_local_host(&map(&[])));
    }

    #[test]
    fn other_sites_are_foreign() {
        let host = ("host", "127.0.0.1:9900");
        assert!(is_same_origin(&map(&[host])));
        assert!(is_same_origin(&map(&[host, ("origin", "http://127.0.0.1:9900")])));
        for foreign in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "https://127.0.0.1:9900"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!is_same_origin(&map(&[host, foreign])), "{foreign:?}");
        }
    }

    #[test]
    fn a_token_must_be_whole() {
        let token = "0123456789abcdef";
        assert!(bears(&map(&[("authorization", "Bearer 0123456789abcdef")]), token));
        for wrong in ["Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "0123456789abcdef", ""]
        {
            assert!(!bears(&map(&[("authorization", wrong)]), token), "{wrong}");
        }
    }
}
