//! The headers that belong to the contract between a backend and its clients, compared by meaning.
//!
//! An allow-list: what is not on it (Date, Server, Connection, request ids) is the backend's own affair.
//! Of some only what a client acts on is compared: of cookies their names and attributes, of a challenge
//! its scheme, of an entity tag that there is one.

use std::collections::{BTreeMap, BTreeSet};

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW,
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, SET_COOKIE, VARY,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::compare::kind::Kind;
use crate::compare::redact::{Place, Redactor, is_name};
use crate::compare::tree::Difference;

/// Lists whose order says nothing.
const SETS: [HeaderName; 4] = [CACHE_CONTROL, VARY, ALLOW, CONTENT_ENCODING];
/// Those of which it only matters that they are there.
const PRESENT: [HeaderName; 2] = [ETAG, RETRY_AFTER];
/// Those of CORS (Fetch standard, section 3.3): named, as a backend could make up others.
const CORS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// What differs.
#[must_use]
pub fn differences(legacy: &HeaderMap, async_: &HeaderMap, redactor: &Redactor) -> Vec<Difference> {
    let (legacy, async_) = (contract(legacy), contract(async_));
    let names: BTreeSet<&String> = legacy.keys().chain(async_.keys()).collect();
    let found = names.into_iter().filter_map(|name| {
        let values = (legacy.get(name), async_.get(name));
        let place = match values {
            (Some(left), Some(right)) if left == right => return None,
            (Some(_), Some(_)) => Place::Header(name.clone()),
            _ => Place::Presence(name.clone()),
        };
        let (legacy, async_) =
            (values.0.map(|v| redactor.text(v)), values.1.map(|v| redactor.text(v)));
        Some(Difference { kind: Kind::Header, place, legacy, async_ })
    });
    found.collect()
}

/// What of the headers is compared, each by its name; cookies each by its own.
fn contract(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    for name in headers.keys() {
        if name == SET_COOKIE {
            continue;
        }
        if let Some(value) = meaning(name, headers) {
            parts.insert(name.as_str().to_owned(), value);
        }
    }
    for cookie in headers.get_all(SET_COOKIE) {
        let (name, attributes) = cookie_parts(cookie);
        let of_one_name: &mut String = parts.entry(format!("set-cookie {name}")).or_default();
        // Several cookies of one name, or of names that are data, are one after another.
        of_one_name.push_str(&attributes);
    }
    parts
}

/// What a header says, so that two that mean the same are equal; `None` if it is not compared.
fn meaning(name: &HeaderName, headers: &HeaderMap) -> Option<String> {
    let values = || headers.get_all(name).iter();
    if PRESENT.contains(name) {
        return Some(String::new());
    }
    if SETS.contains(name) || CORS.contains(name) {
        let items: BTreeSet<String> = values()
            .flat_map(|value| text(value).split(',').map(normal).collect::<Vec<_>>())
            .collect();
        return Some(Vec::from_iter(items).join(","));
    }
    if name == CONTENT_TYPE {
        let value = text(values().next()?);
        return Some(value.split(';').map(normal).collect::<Vec<_>>().join(";"));
    }
    if name == WWW_AUTHENTICATE {
        let scheme = |value| text(value).split_whitespace().next().unwrap_or("").to_lowercase();
        return Some(values().map(scheme).collect::<Vec<_>>().join(","));
    }
    (name == LOCATION).then(|| values().map(text).collect::<Vec<_>>().join(","))
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn normal(item: &str) -> String {
    item.trim().to_lowercase()
}

/// A cookie's name, and its attributes (RFC 6265 section 4.1.1); of its date only that it has one.
fn cookie_parts(cookie: &HeaderValue) -> (String, String) {
    let cookie = text(cookie);
    let mut parts = cookie.split(';').map(str::trim);
    let name = parts.next().and_then(|pair| pair.split('=').next()).unwrap_or("").trim();
    let name = if is_name(name) { name } else { "*" };
    let attribute = |part: &str| match part.split_once('=') {
        Some((key, _)) if key.trim().eq_ignore_ascii_case("expires") => "expires".to_owned(),
        Some((key, value)) => format!("{}={}", normal(key), value.trim()),
        None => normal(part),
    };
    let attributes: BTreeSet<String> = parts.map(attribute).collect();
    (name.to_owned(), Vec::from_iter(attributes).join(";") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let parsed = lines.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let mut map = HeaderMap::new();
        for (name, value) in parsed {
            map.append(name, value);
        }
        map
    }

    fn check(legacy: &[(&'static str, &str)], async_: &[(&'static str, &str)]) -> Vec<String> {
        let found = differences(&headers(legacy), &headers(async_), &Redactor::new(&[1; 16]));
        found.iter().map(|found| found.place.to_string()).collect()
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for (name, legacy, async_) in [
            ("content-type", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"),
            ("cache-control", "no-cache, max-age=0", "max-age=0,No-Cache"),
            ("vary", "Accept, Cookie", "cookie,accept"),
            ("allow", "GET, HEAD", "HEAD, GET"),
            ("etag", "\"1\"", "\"2\""),
            ("retry-after", "1", "120"),
            ("www-authenticate", "Bearer realm=\"a\"", "bearer realm=\"b\""),
            ("set-cookie", "sid=1; Path=/; HttpOnly", "sid=2; httponly; path=/"),
            ("set-cookie", "sid=1; Expires=Wed, 09 Jun 2021 10:18:14 GMT", "sid=1; expires=x"),
            ("date", "a", "b"),
            ("content-length", "1", "2"),
            ("x-request-id", "a", "b"),
            ("server", "gunicorn", "uvicorn"),
            ("access-control-made-up", "a", "b"),
        ] {
            assert_eq!(check(&[(name, legacy)], &[(name, async_)]), [""; 0], "{name}");
        }
        assert_eq!(check(&[("date", "a")], &[]), [""; 0]);
    }

    #[test]
    fn what_a_client_acts_on_is_told() {
        for (legacy, async_, expected) in [
            (("content-type", "text/html"), ("content-type", "text/plain"), "content-type"),
            (("cache-control", "private"), ("cache-control", "public"), "cache-control"),
            (("location", "/A"), ("location", "/a"), "location"),
            (
                ("access-control-allow-origin", "*"),
                ("access-control-allow-origin", "null"),
                "access-control-allow-origin",
            ),
            (("www-authenticate", "Bearer"), ("www-authenticate", "Basic"), "www-authenticate"),
            (("set-cookie", "sid=1; Secure"), ("set-cookie", "sid=1"), "set-cookie sid"),
            (("set-cookie", "sid=1; Path=/A"), ("set-cookie", "sid=1; Path=/a"), "set-cookie sid"),
        ] {
            assert_eq!(check(&[legacy], &[async_]), [expected]);
        }
        assert_eq!(check(&[("etag", "1")], &[]), ["etag (presence)"]);
        assert_eq!(check(&[], &[("vary", "a")]), ["vary (presence)"]);
        let renamed = check(&[("set-cookie", "sid=1")], &[("set-cookie", "session=1")]);
        assert_eq!(renamed, ["set-cookie session (presence)", "set-cookie sid (presence)"]);
    }

    #[test]
    fn names_that_are_data_have_no_place_of_their_own() {
        let cookies = [("set-cookie", "u12345678=1"), ("set-cookie", "u87654321=1")];
        assert_eq!(check(&cookies, &[]), ["set-cookie * (presence)"]);
        assert_eq!(check(&cookies, &cookies), [""; 0]);
    }
}
