//! The text of a config as it may be shown: without what may be a secret in it.

use toml_edit::{Document, Item, TableLike};

use crate::config::url;

/// Keys whose value is a URL. Its path is a password, more often than not: it is shown without it.
const URLS: [(&str, &str); 2] = [("ramp", "webhook"), ("trace", "otlp_endpoint")];

/// `text` without secrets, however they are written in it: with escapes, in several lines, or once more
/// in a comment. One that is not TOML, which no config is, is not shown at all.
#[must_use]
pub fn shown(text: &str) -> String {
    let Ok(document) = Document::parse(text) else {
        return String::new();
    };
    let table: &dyn TableLike = document.as_table();
    let mut urls: Vec<_> = URLS
        .iter()
        .filter_map(|(section, key)| {
            let value = table.get(section).and_then(Item::as_table_like)?.get(key)?;
            Some((value.span()?, value.as_str()?))
        })
        .collect();
    // From the last one on, so that the places of the others stay.
    urls.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut shown = text.to_owned();
    for (place, whole) in &urls {
        shown.replace_range(place.clone(), &format!("\"{}\"", url::origin(whole)));
    }
    urls.iter().fold(shown, |shown, (_, whole)| shown.replace(whole, url::origin(whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_url_is_shown_with_its_secret_however_it_is_written() {
        for (text, expected) in [
            (
                "[ramp]\nwebhook = \"http://a/secret\" # so\n",
                "[ramp]\nwebhook = \"http://a\" # so\n",
            ),
            ("trace.otlp_endpoint = 'http://a/secret'", "trace.otlp_endpoint = \"http://a\""),
            (
                "trace = { otlp_endpoint = \"http://a/\\u0073ecret\" }",
                "trace = { otlp_endpoint = \"http://a\" }",
            ),
            ("\u{feff}[ramp]\r\nwebhook = \"http:\\/\\/a\"", ""),
            (
                "\u{feff}[trace]\r\notlp_endpoint = \"\"\"\\\r\n  http://a/secret\"\"\"\r\n",
                "\u{feff}[trace]\r\notlp_endpoint = \"http://a\"\r\n",
            ),
            (
                "# http://a/secret\n[trace]\notlp_endpoint = \"http://b:1/secret/v1\"\n[ramp]\n\
                 \"webhook\" = \"http\\u003a//a/secret\"\nsoak = \"1m\"",
                "# http://a\n[trace]\notlp_endpoint = \"http://b:1\"\n[ramp]\n\
                 \"webhook\" = \"http://a\"\nsoak = \"1m\"",
            ),
            ("async_weight = 0.5 # as it is\n", "async_weight = 0.5 # as it is\n"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
