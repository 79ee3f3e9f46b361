//! The strict check of a request before routing; every refusal with its RFC clause.
//!
//! The parser in front of us is lenient where it may be; two servers that are lenient in different
//! ways are how requests get smuggled. So what is ambiguous, or what a backend might read in
//! another way, ends here: with a 4xx and a closed connection, never forwarded.

use http::header::{CONTENT_LENGTH, HOST, MAX_FORWARDS, TRANSFER_ENCODING, VIA};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::error::ClientFault;
use crate::wire::fields::are_tokens;
use crate::wire::host::is_host;
use crate::wire::length::decimal;
use crate::wire::present::{Field, Present};

/// A refusal: what kind of fault, and the sentence that the client reads.
pub type Refused = (ClientFault, &'static str);

/// The one protocol that an extended CONNECT may ask for.
pub const WEBSOCKET: &str = "websocket";

/// How often a request may have passed a cutover proxy before it counts as going in circles.
pub const VIA_HOPS_MAX: usize = 8;

/// What of the head the parser does not show in its header map.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// A head named two lengths, or a length and a transfer coding.
    pub ambiguous: bool,
    /// The most header fields allowed.
    pub header_count_max: usize,
    /// The largest body allowed, in bytes.
    pub body_bytes_max: u64,
}

/// A request line and its header fields.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method, as received.
    pub method: &'a Method,
    /// Target, as received.
    pub uri: &'a Uri,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The protocol of an extended CONNECT (RFC 8441 section 4).
    pub protocol: Option<&'a str>,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// Which of those that mean something are there.
    pub present: Present,
}

/// What a request that passed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// To be forwarded.
    Forward,
    /// To be answered here: `Max-Forwards: 0` on OPTIONS (RFC 9110 section 7.6.2).
    AnswerOptions,
}

/// Checks one request.
///
/// # Errors
/// The fault and the rule that was broken; always the client's.
pub fn check(request: &Request<'_>, facts: Facts) -> Result<Checked, Refused> {
    fields(request, facts.header_count_max)?;
    framing(request, facts)?;
    target(request)?;
    host(request)?;
    circles(request)?;
    max_forwards(request)
}

fn bad(rule: &'static str) -> Refused {
    (ClientFault::BadRequest, rule)
}

fn fields(request: &Request<'_>, count_max: usize) -> Result<(), Refused> {
    if request.headers.len() > count_max {
        return Err((ClientFault::HeadTooLarge, "The request has too many header fields."));
    }
    if request.present.has(Field::Misspelt) {
        // Servers that turn names into variables read `_` as `-` (CGI, RFC 3875 section 4.1.18).
        return Err(bad("A framing header is spelt with an underscore."));
    }
    if request.version == Version::HTTP_2 {
        let is_padded = |value: &HeaderValue| {
            let ends = [value.as_bytes().first(), value.as_bytes().last()];
            ends.into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'))
        };
        if request.headers.values().any(is_padded) {
            return Err(bad("A field's value begins or ends with a space (RFC 9113 8.2.1)."));
        }
        if !are_tokens(request.headers) {
            return Err(bad("A field's name is not a token (RFC 9110 5.6.2)."));
        }
    }
    Ok(())
}

/// RFC 9112 section 6: one reading of where the body ends, or none.
fn framing(request: &Request<'_>, facts: Facts) -> Result<(), Refused> {
    let Request { headers, present, .. } = request;
    if facts.ambiguous {
        return Err(bad("Two framing headers (Content-Length, Transfer-Encoding; RFC 9112 6.3)."));
    }
    if !present.has(Field::TransferEncoding) && !present.has(Field::ContentLength) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(bad("Content-Length and Transfer-Encoding together (RFC 9112 6.1)."));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(bad("Transfer-Encoding must be `chunked`, once (RFC 9112 6.1)."));
        }
        return Ok(());
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(());
    };
    if lengths.next().is_some() {
        return Err(bad("More than one Content-Length (RFC 9112 6.3)."));
    }
    let length = decimal(length.as_bytes())
        .ok_or_else(|| bad("Content-Length is not a decimal number (RFC 9110 8.6)."))?;
    if length > facts.body_bytes_max {
        return Err((ClientFault::BodyTooLarge, "The request body is too large."));
    }
    Ok(())
}

/// RFC 9112 section 3.2: the four forms of a target, and which method takes which.
fn target(request: &Request<'_>) -> Result<(), Refused> {
    let Request { method, uri, .. } = *request;
    if method == Method::CONNECT && request.protocol != Some(WEBSOCKET) {
        // A reverse proxy dials nothing that a client names.
        return Err((ClientFault::MethodRefused, "CONNECT is not served here."));
    }
    let Some(scheme) = uri.scheme_str() else {
        if uri.authority().is_some() {
            return Err(bad("The target is in authority form (RFC 9112 3.2.3)."));
        }
        return match uri.path() {
            "*" if method != Method::OPTIONS => {
                Err(bad("The target * is for OPTIONS only (RFC 9112 3.2.4)."))
            }
            path if path == "*" || path.starts_with('/') => Ok(()),
            _ => Err(bad("The target does not begin with / (RFC 9112 3.2.1).")),
        };
    };
    if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
        return Err(bad("The target's scheme is not http or https."));
    }
    if request.version == Version::HTTP_2 {
        // RFC 9113 section 8.3.1; in an absolute form an empty path is one.
        return match uri.path() {
            "*" if method == Method::OPTIONS => Ok(()),
            path if path.starts_with('/') => Ok(()),
            _ => Err(bad("The path does not begin with / (RFC 9113 8.3.1).")),
        };
    }
    Ok(())
}

/// RFC 9112 section 3.2: exactly one valid Host; RFC 9110 section 4.2: no userinfo.
fn host(request: &Request<'_>) -> Result<(), Refused> {
    if let Some(authority) = request.uri.authority()
        && !is_host(authority_bytes(authority))
    {
        return Err(bad("The target's authority is not a host and port (RFC 9110 4.2)."));
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if request.version == Version::HTTP_2 => {
            let authority = request.uri.authority().map(authority_bytes);
            match authority.is_none_or(|authority| authority.eq_ignore_ascii_case(host.as_bytes()))
            {
                true if is_host(host.as_bytes()) => Ok(()),
                true => Err(bad("Host is not a host and port (RFC 9112 3.2).")),
                false => Err(bad("Host is another than the authority (RFC 9113 8.3.1).")),
            }
        }
        (None, _) if request.version == Version::HTTP_2 && request.uri.authority().is_none() => {
            Err(bad("Neither an authority nor Host (RFC 9113 8.3.1)."))
        }
        (Some(_), Some(_)) => Err(bad("More than one Host (RFC 9112 3.2).")),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(bad("Host is not a host and port (RFC 9112 3.2).")),
        (None, _) if request.version == Version::HTTP_11 => Err(bad("No Host (RFC 9112 3.2).")),
        (None, _) => Ok(()),
    }
}

fn authority_bytes(authority: &Authority) -> &[u8] {
    authority.as_str().as_bytes()
}

/// RFC 9110 section 7.6.3: Via is there so that a proxy can see its own loops.
fn circles(request: &Request<'_>) -> Result<(), Refused> {
    if !request.present.has(Field::Via) {
        return Ok(());
    }
    let hops = request
        .headers
        .get_all(VIA)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter(|hop| hop.trim_ascii().ends_with(b" cutover"))
        .count();
    if hops >= VIA_HOPS_MAX {
        return Err((ClientFault::Loop, "The request has come round too often."));
    }
    Ok(())
}

/// RFC 9110 section 7.6.2, for the two methods that it speaks of.
fn max_forwards(request: &Request<'_>) -> Result<Checked, Refused> {
    if !matches!(*request.method, Method::OPTIONS | Method::TRACE) {
        return Ok(Checked::Forward);
    }
    let Some(value) = request.headers.get(MAX_FORWARDS) else {
        return Ok(Checked::Forward);
    };
    match decimal(value.as_bytes()) {
        None => Err(bad("Max-Forwards is not a decimal number (RFC 9110 7.6.2).")),
        Some(0) if request.method == Method::TRACE => {
            // Echoing a head back would hand cookies to scripts.
            Err((ClientFault::MethodRefused, "TRACE is not answered here."))
        }
        Some(0) => Ok(Checked::AnswerOptions),
        Some(_) => Ok(Checked::Forward),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn run(line: &str, fields: &[&str], facts: Facts) -> Result<Checked, Refused> {
        let mut words = line.split(' ');
        let method = Method::from_bytes(words.next().unwrap().as_bytes()).unwrap();
        let uri: Uri = words.next().unwrap().parse().unwrap();
        let version = if words.next() == Some("1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut headers = HeaderMap::new();
        for field in fields {
            let (name, value) = field.split_once(':').unwrap();
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.trim().as_bytes()).unwrap(),
            );
        }
        check(
            &Request {
                method: &method,
                uri: &uri,
                version,
                protocol: None,
                headers: &headers,
                present: Present::of(&headers),
            },
            facts,
        )
    }

    const FACTS: Facts = Facts { ambiguous: false, header_count_max: 5, body_bytes_max: 100 };

    fn passes(line: &str, fields: &[&str]) {
        assert_eq!(run(line, fields, FACTS), Ok(Checked::Forward), "{line} {fields:?}");
    }

    fn refused(line: &str, fields: &[&str], fault: ClientFault) {
        let got = run(line, fields, FACTS).map_err(|(fault, _)| fault);
        assert_eq!(got, Err(fault), "{line} {fields:?}");
    }

    #[test]
    fn framing_has_one_reading_or_is_refused() {
        let bad = ClientFault::BadRequest;
        for length in
            ["", "+5", "-0", "0x5", "5_0", "5.0", "\"5\"", "5, 5", "005", "99999999999999999999"]
        {
            refused("POST /", &["host: a", &format!("content-length: {length}")], bad);
        }
        passes("POST /", &["host: a", "content-length: 5"]);
        passes("POST /", &["host: a", "content-length: 0"]);
        refused("POST /", &["host: a", "content-length: 5", "content-length: 5"], bad);
        refused("POST /", &["host: a", "content-length: 101"], ClientFault::BodyTooLarge);
        for coding in [
            "gzip, chunked",
            "chunked, chunked",
            "cow, chunked",
            ",chunked",
            "chunked;q=1",
            "\"chunked\"",
            "identity",
        ] {
            refused("POST /", &["host: a", &format!("transfer-encoding: {coding}")], bad);
        }
        passes("POST /", &["host: a", "transfer-encoding: Chunked"]);
        refused(
            "POST /",
            &["host: a", "transfer-encoding: chunked", "transfer-encoding: chunked"],
            bad,
        );
        refused("POST /", &["host: a", "transfer-encoding: chunked", "content-length: 5"], bad);
        refused("POST /", &["host: a", "transfer_encoding: chunked"], bad);
        refused("POST /", &["host: a", "content_length: 5"], bad);
        let ambiguous = Facts { ambiguous: true, ..FACTS };
        let fields = ["host: a", "transfer-encoding: chunked"];
        assert!(run("POST /", &fields, ambiguous).is_err());
    }

    #[test]
    fn there_is_exactly_one_valid_host() {
        let bad = ClientFault::BadRequest;
        refused("GET /", &[], bad);
        passes("GET / 1.0", &[]);
        refused("GET /", &["host: a", "host: a"], bad);
        refused("GET / 1.0", &["host: a", "host: b"], bad);
        for host in [
            "",
            "a/b",
            "a@b",
            "t example",
            ":80abc",
            "a:99999",
            "a:1:2",
            "[::1",
            "[zz]:80",
            "a:80:",
            "::1",
            ":80",
        ] {
            refused("GET /", &[&format!("host: {host}")], bad);
        }
        for host in ["a", "a.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b", "a:"] {
            passes("GET /", &[&format!("host: {host}")]);
        }
    }

    #[test]
    fn the_target_fits_the_method() {
        let bad = ClientFault::BadRequest;
        refused("GET *", &["host: a"], bad);
        passes("OPTIONS *", &["host: a"]);
        refused("GET a:80", &["host: a"], bad);
        refused("CONNECT a:80", &["host: a"], ClientFault::MethodRefused);
        passes("GET http://other:81/x", &["host: a"]);
        refused("GET http://user@other/x", &["host: a"], bad);
        refused("GET ftp://other/x", &["host: a"], bad);
        passes("FROB /", &["host: a"]);
        passes("get /", &["host: a"]);
    }

    #[test]
    fn max_forwards_is_for_options_and_trace() {
        let options = run("OPTIONS /", &["host: a", "max-forwards: 0"], FACTS);
        assert_eq!(options, Ok(Checked::AnswerOptions));
        refused("TRACE /", &["host: a", "max-forwards: 0"], ClientFault::MethodRefused);
        refused("OPTIONS /", &["host: a", "max-forwards: x"], ClientFault::BadRequest);
        passes("OPTIONS /", &["host: a", "max-forwards: 1"]);
        passes("GET /", &["host: a", "max-forwards: 0"]);
    }

    #[test]
    fn too_many_fields_and_loops_are_refused() {
        let many = ["host: a", "b: 1", "c: 1", "d: 1", "e: 1", "f: 1"];
        refused("GET /", &many, ClientFault::HeadTooLarge);
        passes("GET /", &many[..5]);
        let via = format!("via: {}", ["1.1 cutover"; VIA_HOPS_MAX].join(", "));
        refused("GET /", &["host: a", &via], ClientFault::Loop);
        passes("GET /", &["host: a", "via: 1.1 cutover, 1.0 other"]);
    }
}
