//! URLs that the proxy itself asks: a backend's metrics page, the operator's webhook.
//!
//! No message repeats a URL or a part of it: a user, a password or a query may be a secret.

use http::Uri;

/// Whether `text` is a URL of one of `schemes`, with a host and without a user.
///
/// # Errors
/// What it must be instead.
pub(crate) fn check(text: &str, schemes: &[&str]) -> Result<(), String> {
    let wrong = || {
        let schemes: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        format!("must be an {} URL with a host", schemes.join(" or "))
    };
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let is_known = url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    let authority = url.authority().filter(|_| is_known).ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err("must not contain a user or password".to_owned());
    }
    if authority.host().is_empty() {
        return Err(wrong());
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has no port from 1 to 65535".to_owned());
    }
    Ok(())
}

/// Scheme, host and port of a URL.
pub(crate) fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_known_scheme_and_a_host_and_nothing_else_is_asked_of_it() {
        for text in ["http://a", "http://a:1/x?y=z#f", "http://[::1]:9100/metrics", "https://a/"] {
            assert_eq!(check(text, &["http", "https"]), Ok(()), "{text}");
        }
        for text in ["", "a", "/x", "a:1", "http://", "http:///x", "ftp://a", "http://a b/"] {
            let message = check(text, &["http", "https"]).unwrap_err();
            assert_eq!(message, "must be an http:// or https:// URL with a host", "{text}");
        }
        assert_eq!(check("https://a", &["http"]), Err("must be an http:// URL with a host".into()));
        for text in ["http://a:0", "http://a:", "http://a:99999"] {
            assert!(check(text, &["http"]).is_err(), "{text}");
        }
    }

    #[test]
    fn no_part_of_a_wrong_url_is_repeated() {
        for text in [
            "http://user:secret@host/",
            "http://secret@host/",
            "http://user:sec ret@host/",
            "ftp://user:secret@host/",
            "hooks.example/?key=secret",
            "http://host:secret/?key=secret",
        ] {
            let message = check(text, &["http"]).unwrap_err();
            assert!(!message.contains("sec") && !message.contains("host/"), "{text}: {message}");
        }
    }

    #[test]
    fn an_origin_ends_with_its_host_and_port() {
        for text in ["http://a:1", "http://a:1/x", "http://a:1?x=/", "http://a:1#x"] {
            assert_eq!(origin(text), "http://a:1");
        }
    }
}
