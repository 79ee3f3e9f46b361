//! What of an answer may be shown: where something differs, and a value's type, length and keyed hash.
//!
//! The hash is an HMAC with a key of this process that nobody is told, so that equal values show as
//! equal and no list of likely values tells which one it was. Where something is, is told by names of
//! members. A member can also be named by data (a map from user ids to users), so what does not look like
//! a name that a programmer chose is shown as `*`; that also keeps such maps from having a place for
//! each of their members.

use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use crate::compare::json::Node;
use crate::compare::rules::Step;

/// The longest place, in bytes; what is deeper is shown as its beginning.
const PLACE_BYTES_MAX: usize = 256;
/// The most characters of a value that may be shown.
const REVEALED_MAX: usize = 128;
/// The most characters of a name. Longer ones are data.
const NAME_MAX: usize = 40;
/// The most digits in a name: `sha256` is one, an id is not.
const NAME_DIGITS_MAX: usize = 3;
/// How often a name may go from small letters to capitals: `aQ3xZ` is no camel.
const NAME_HUMPS_MAX: usize = 6;

/// Where two answers differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the answer, or its body, as a whole.
    #[serde(rename = "whole")]
    Whole,
    /// In the value of a header.
    #[serde(rename = "header")]
    Header(String),
    /// One has the header, the other has not.
    #[serde(rename = "presence_of_header")]
    Presence(String),
    /// In a JSON body: a pointer in which `*` stands for any element, and for names that are data.
    #[serde(rename = "pointer")]
    Json(String),
}

/// What is shown of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its type: one of JSON's, or `text`, `status`, `reply`, `timeout`, `reset`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Characters of a string or number, bytes of a body, entries of an array or object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The keyed hash, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The value itself: a status, or what a `reveal` rule lets be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Makes values harmless.
pub struct Redactor {
    key: hmac::Key,
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Header(name) => f.write_str(name),
            Self::Presence(name) => write!(f, "{name} (presence)"),
            Self::Json(pointer) => f.write_str(pointer),
        }
    }
}

impl Place {
    /// The place of `path`.
    #[must_use]
    pub fn json(path: &[Step<'_>]) -> Self {
        let mut pointer = String::new();
        for step in path {
            let name = match step {
                Step::Member(name) if is_name(name) => name,
                Step::Member(_) | Step::Element(_) => "*",
            };
            if pointer.len() + name.len() >= PLACE_BYTES_MAX {
                pointer.push_str("/..");
                break;
            }
            pointer.push('/');
            pointer.push_str(name);
        }
        Self::Json(pointer)
    }
}

/// Whether a programmer chose this name, as far as can be seen.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '$');
    let starts = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '@' | '$');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let bytes = text.as_bytes().windows(2);
    let humps = bytes.filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
    text.starts_with(starts)
        && text.len() <= NAME_MAX
        && text.chars().all(is_part)
        && digits <= NAME_DIGITS_MAX
        && humps.count() <= NAME_HUMPS_MAX
}

// === impl Shown ===

impl Shown {
    /// What is no secret: a status, or how a request ended.
    #[must_use]
    pub fn plain(kind: &str, value: Option<String>) -> Self {
        Self { kind: kind.to_owned(), value, ..Self::default() }
    }

    /// A body that is not read, by its hash.
    #[must_use]
    pub fn body(length: u64) -> Self {
        Self { kind: "body".to_owned(), length: Some(length), ..Self::default() }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(value) = &self.value {
            return write!(f, "{} {value}", self.kind);
        }
        f.write_str(&self.kind)?;
        if let Some(length) = self.length {
            write!(f, "[{length}]")?;
        }
        self.hash.as_ref().map_or(Ok(()), |hash| write!(f, " #{hash}"))
    }
}

// === impl Redactor ===

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// One that hashes with `key`, which is to be random and of this process alone.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// What is shown of a text.
    #[must_use]
    pub fn text(&self, text: &str) -> Shown {
        self.value("text", text)
    }

    /// What is shown of a body of so many bytes with this hash.
    #[must_use]
    pub fn body(&self, length: u64, hash: u64) -> Shown {
        Shown { hash: Some(self.hash("body", &hash.to_be_bytes())), ..Shown::body(length) }
    }

    /// What is shown of a JSON value; the value itself if it `is_revealed`.
    #[must_use]
    pub fn node(&self, node: &Node<'_>, is_revealed: bool) -> Shown {
        let kind = node.type_name();
        let entries =
            |number: usize| Shown { length: Some(number as u64), ..Shown::plain(kind, None) };
        let (text, value) = match node {
            Node::Null => return Shown::plain(kind, None),
            Node::Array(elements) => return entries(elements.len()),
            Node::Object(members) => return entries(members.len()),
            Node::Bool(value) => {
                let text = if *value { "true" } else { "false" };
                (
                    text,
                    Shown {
                        hash: Some(self.hash(kind, text.as_bytes())),
                        ..Shown::plain(kind, None)
                    },
                )
            }
            Node::Number(text) => (*text, self.value(kind, text)),
            Node::Text(text) => (text.as_ref(), self.value(kind, text)),
        };
        let shown = is_revealed.then(|| text.chars().take(REVEALED_MAX).collect());
        Shown { value: shown, ..value }
    }

    fn value(&self, kind: &str, text: &str) -> Shown {
        Shown {
            kind: kind.to_owned(),
            length: Some(text.chars().count() as u64),
            hash: Some(self.hash(kind, text.as_bytes())),
            value: None,
        }
    }

    // Half of the bits that an id would take: two of 10,000 values are alike by chance once in 10^11.
    fn hash(&self, kind: &str, bytes: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(bytes);
        context.sign().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_data() {
        for name in ["id", "createdAt", "line_1", "sha256", "@type", "$ref", "x-y", "a.b", "_links"]
        {
            assert!(is_name(name), "{name}");
        }
        for data in [
            "",
            "1234",
            "a@b c",
            "7f0c1a2b",
            "user:1",
            "a/b",
            "ключ",
            "aQwErTyUiOpAsDfG",
            "7",
            &"n".repeat(41),
        ] {
            assert!(!is_name(data), "{data}");
        }
    }

    #[test]
    fn a_place_folds_elements_and_data() {
        use Step::{Element, Member};
        let path =
            [Member("users"), Member("4711-0815"), Member("items"), Element(3), Member("id")];
        assert_eq!(Place::json(&path).to_string(), "/users/*/items/*/id");
        assert_eq!(Place::json(&[]).to_string(), "");
        let deep = vec![Member("abcdefgh"); 128];
        let place = Place::json(&deep).to_string();
        assert!(place.len() < 264 && place.ends_with("/.."), "{place}");
    }

    #[test]
    fn equal_values_show_as_equal_under_one_key_and_tell_nothing_else() {
        let [one, other] = [[1; 16], [2; 16]].map(|key| Redactor::new(&key));
        let secret = Node::Text("hunter2".into());
        let shown = one.node(&secret, false);
        assert_eq!(shown, one.node(&secret, false));
        assert_ne!(shown.hash, other.node(&secret, false).hash);
        assert_ne!(shown.hash, one.text("hunter2").hash);
        assert_eq!(shown.to_string(), format!("string[7] #{}", shown.hash.as_deref().unwrap()));
        assert_eq!(one.node(&secret, true).value.as_deref(), Some("hunter2"));
        let long = Node::Text("é".repeat(500).into());
        assert_eq!(one.node(&long, true).value.map(|text| text.chars().count()), Some(128));
        assert_eq!(one.node(&Node::Array(vec![Node::Null]), true).value, None);
    }
}
