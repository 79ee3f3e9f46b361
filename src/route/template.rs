//! Path templates: `GET /orders/{id}`, `* /static/{rest*}`.
//!
//! Matched on the path's bytes as they came: nothing is decoded or normalised, as the backend does
//! not see a decoded path either.

use std::fmt;

use http::Method;

/// A method and a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    method: Option<Method>,
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Parses a method (or `*`), one space and a template. `{name}` matches one segment, which is
    /// not empty; `{name*}`, at the end only, matches the rest, which may be empty.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (method, path) =
            text.split_once(' ').ok_or("must be a method (or *), a space and a path")?;
        let method = match method {
            "*" => None,
            name => Some(Method::from_bytes(name.as_bytes()).map_err(|_| "not a method")?),
        };
        let path = path.strip_prefix('/').ok_or("the path must begin with /")?;
        let mut segments = Vec::new();
        let mut open = false;
        for part in path.split('/') {
            if open {
                return Err("{name*} must be the last segment");
            }
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) if name.ends_with('*') => open = true,
                Some("") => return Err("a segment in braces needs a name"),
                Some(_) => segments.push(Segment::Any),
                None if part.contains(['{', '}', '?', '#', ' ']) => {
                    return Err("braces must take a whole segment; no ?, # or space");
                }
                None => segments.push(Segment::Literal(part.to_owned())),
            }
        }
        Ok(Self { text: text.to_owned(), method, segments, open })
    }

    /// Whether a request with this method and path matches.
    #[must_use]
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        if self.method.as_ref().is_some_and(|wanted| wanted != method) {
            return false;
        }
        let Some(mut rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut ended = false;
        for segment in &self.segments {
            if ended {
                return false;
            }
            let part = if let Some((part, tail)) = rest.split_once('/') {
                rest = tail;
                part
            } else {
                ended = true;
                rest
            };
            let fits = match segment {
                Segment::Literal(literal) => literal == part,
                Segment::Any => !part.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        // `/a/{rest*}` takes `/a/` and `/a/b`, but not `/a`, as its slash is missing.
        if self.open { !ended } else { ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, request: &str) -> bool {
        let (method, path) = request.split_once(' ').unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Pattern::parse(pattern).unwrap().matches(&method, path)
    }

    #[test]
    fn templates_match_segment_by_segment() {
        for (pattern, request, expected) in [
            ("GET /", "GET /", true),
            ("GET /", "GET /a", false),
            ("GET /orders/{id}", "GET /orders/7", true),
            ("GET /orders/{id}", "GET /orders/", false),
            ("GET /orders/{id}", "GET /orders", false),
            ("GET /orders/{id}", "GET /orders/7/", false),
            ("GET /orders/{id}", "GET /orders/7/items", false),
            ("GET /orders/{id}", "POST /orders/7", false),
            ("GET /orders/{id}", "GET /Orders/7", false),
            ("GET /orders/{id}/items", "GET /orders/7/items", true),
            ("* /static/{rest*}", "PUT /static/a/b/c", true),
            ("* /static/{rest*}", "GET /static/", true),
            ("* /static/{rest*}", "GET /static", false),
            ("* /{rest*}", "GET /", true),
            ("* /{rest*}", "OPTIONS *", false),
            ("GET /a/", "GET /a/", true),
            ("GET /a/", "GET /a", false),
            ("GET /a%2Fb", "GET /a/b", false),
        ] {
            assert_eq!(check(pattern, request), expected, "{pattern} against {request}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for text in ["/a", "GET a", "GET /{a*}/b", "GET /{}", "GET /a{b}", "G@T /", "GET /a?b"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
