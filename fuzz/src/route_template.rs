//! Any route template against any request: compared with a matcher that was written apart.
//!
//! The first line is the route's `match`, each other line a request: its method, a space, its path.

use cutover::route::template::Pattern;
use http::Method;

/// What a `{name}` of the template is filled with.
const WORDS: [&str; 4] = ["7", "a%2Fb", "{id}", "*"];

/// Parses the first line, and matches the others against it.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let template = lines.next().unwrap_or_default();
    let Ok(pattern) = Pattern::parse(template) else {
        return;
    };
    assert_eq!(pattern.to_string(), template);
    let (wanted, path) = template.split_once(' ').expect("it was parsed");
    let method = Method::from_bytes(wanted.as_bytes()).unwrap_or(Method::GET);
    let method = if wanted == "*" { Method::PUT } else { method };
    for word in WORDS {
        let filled = filled(path, word);
        assert!(pattern.matches(&method, &filled), "{template:?} against {filled:?}");
    }
    for line in lines {
        let (name, target) = line.split_once(' ').unwrap_or(("GET", line));
        let Ok(method) = Method::from_bytes(name.as_bytes()) else {
            continue;
        };
        let expected = (wanted == "*" || wanted == name) && fits(path, target);
        assert_eq!(pattern.matches(&method, target), expected, "{template:?} against {line:?}");
    }
}

/// A path that the template is to match.
fn filled(template: &str, word: &str) -> String {
    let segments = template.split('/').map(|segment| match kind(segment) {
        Kind::Literal => segment.to_owned(),
        Kind::Any => word.to_owned(),
        Kind::Rest => format!("{word}/{word}/"),
    });
    segments.collect::<Vec<_>>().join("/")
}

enum Kind {
    Literal,
    Any,
    Rest,
}

fn kind(segment: &str) -> Kind {
    match (segment.starts_with('{'), segment.ends_with("*}"), segment.ends_with('}')) {
        (true, true, _) => Kind::Rest,
        (true, false, true) => Kind::Any,
        (true | false, _, _) => Kind::Literal,
    }
}

/// Whether a path fits a template, as config/reference.toml says it: segment by segment.
fn fits(template: &str, path: &str) -> bool {
    let Some((first, others)) = template.split_once('/') else {
        // Both are at their end, or the path has more.
        let Some((part, _)) = path.split_once('/') else {
            return segment_fits(template, path);
        };
        return matches!(kind(template), Kind::Rest) && !part.contains('/');
    };
    let Some((part, rest)) = path.split_once('/') else {
        return false;
    };
    segment_fits(first, part) && fits(others, rest)
}

fn segment_fits(segment: &str, part: &str) -> bool {
    match kind(segment) {
        Kind::Literal => segment == part,
        Kind::Any => !part.is_empty(),
        Kind::Rest => true,
    }
}
