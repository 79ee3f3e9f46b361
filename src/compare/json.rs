//! Reads JSON (RFC 8259) for a comparison: numbers as they are written, members in order of their names.
//!
//! What other readers lose is kept: a name that comes twice, digits beyond a double, an escaped half of
//! a surrogate pair. Depth and the number of values are limited, so no document recurses without end or
//! grows to many times its size.

use std::borrow::Cow;

/// The deepest nesting. Services nest ten levels; each level is one call of this reader.
pub const DEPTH_MAX: usize = 128;

/// The most values of one document: 64 Ki of them are at most 4 MiB of tree.
pub const VALUES_MAX: usize = 65_536;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'a> {
    /// `null`, which is not the same as nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Self>),
    /// An object's members by name; those of one name in the order in which they came.
    Object(Vec<(Cow<'a, str>, Self)>),
}

/// A document that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Document<'a> {
    /// Its value.
    pub root: Node<'a>,
    /// Whether an object has a name twice: which one counts depends on the reader.
    pub has_duplicates: bool,
}

/// Why a document was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not JSON.
    Syntax,
    /// It is beyond a limit.
    Limit,
}

/// Reads a document.
///
/// # Errors
/// When it is not JSON in UTF-8, or beyond a limit.
pub fn parse(bytes: &[u8]) -> Result<Document<'_>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::Syntax)?;
    let mut reader = Reader { text, at: 0, values: 0, has_duplicates: false };
    let root = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(Fault::Syntax);
    }
    Ok(Document { root, has_duplicates: reader.has_duplicates })
}

// === impl Node ===

impl Node<'_> {
    /// The name of its type.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    has_duplicates: bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether `wanted` comes next, behind space; it is passed then.
    fn takes(&mut self, wanted: u8) -> bool {
        self.skip_space();
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        self.values += 1;
        if self.values > VALUES_MAX || depth > DEPTH_MAX {
            return Err(Fault::Limit);
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Node::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Node::Bool(true)),
            Some(b'f') => self.word("false", Node::Bool(false)),
            Some(b'n') => self.word("null", Node::Null),
            Some(_) | None => Err(Fault::Syntax),
        }
    }

    fn word(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, Fault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        Ok(node)
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        self.at += 1;
        let mut elements = Vec::new();
        if self.takes(b']') {
            return Ok(Node::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Ok(Node::Array(elements));
            }
            if !self.takes(b',') {
                return Err(Fault::Syntax);
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        self.at += 1;
        let mut members = Vec::new();
        if self.takes(b'}') {
            return Ok(Node::Object(members));
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            if !self.takes(b':') {
                return Err(Fault::Syntax);
            }
            members.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                break;
            }
            if !self.takes(b',') {
                return Err(Fault::Syntax);
            }
        }
        // Stable: members of one name keep their order.
        members.sort_by(|(left, _), (right, _)| left.cmp(right));
        self.has_duplicates |= members.windows(2).any(|pair| pair[0].0 == pair[1].0);
        Ok(Node::Object(members))
    }

    fn number(&mut self) -> Result<Node<'a>, Fault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(_) | None => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Node::Number(&self.text[start..self.at]))
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Fault::Syntax) }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        let start = self.at;
        let mut unescaped: Option<String> = None;
        let mut from = start;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let last = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(match unescaped {
                        None => Cow::Borrowed(last),
                        Some(text) => Cow::Owned(text + last),
                    });
                }
                Some(b'\\') => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(&self.text[from..self.at]);
                    self.at += 1;
                    let escaped = self.escape()?;
                    text.push_str(&escaped);
                    from = self.at;
                }
                Some(0..=0x1f) | None => return Err(Fault::Syntax),
                Some(_) => self.at += 1,
            }
        }
    }

    /// What stands for an escape, behind its backslash.
    fn escape(&mut self) -> Result<String, Fault> {
        let escape = self.peek().ok_or(Fault::Syntax)?;
        let plain = match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.code(),
            _ => return Err(Fault::Syntax),
        };
        self.at += 1;
        Ok(plain.into())
    }

    fn code(&mut self) -> Result<String, Fault> {
        let first = self.unit()?;
        let is_pair = self.text[self.at..].starts_with("\\u");
        if (0xd800..0xdc00).contains(&first) && is_pair {
            let before = self.at;
            self.at += 1;
            let second = self.unit()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(code).map(String::from).ok_or(Fault::Syntax);
            }
            self.at = before;
        }
        // Half a pair is no character; its escape stands for it, so that different halves differ.
        Ok(char::from_u32(first).map_or_else(|| format!("\\u{first:04x}"), String::from))
    }

    /// Four hex digits behind a `u`.
    fn unit(&mut self) -> Result<u32, Fault> {
        let digits = self.text.get(self.at + 1..self.at + 5).ok_or(Fault::Syntax)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Fault::Syntax);
        }
        self.at += 5;
        u32::from_str_radix(digits, 16).map_err(|_| Fault::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_is_read_and_what_is_not_is_refused() {
        for text in [
            "null",
            " true ",
            "-0.5e+10",
            "0",
            "\"a\\u00e9\\ud83d\\ude00\"",
            "[]",
            "{}",
            "[1, [2]]",
            "{\"a\": {\"b\": []}}",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "1E400",
        ] {
            assert!(parse(text.as_bytes()).is_ok(), "{text}");
        }
        for text in [
            "",
            " ",
            "nul",
            "NaN",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "[1,]",
            "[,]",
            "[1 2]",
            "{a:1}",
            "{\"a\"}",
            "{\"a\":1,}",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u+123\"",
            "\"\t\"",
            "1 2",
            "[",
            "{",
            "\"\\u00é\"",
            "{\"a\":1]",
            "'a'",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Fault::Syntax), "{text}");
        }
        assert_eq!(parse(b"\"\xff\""), Err(Fault::Syntax));
    }

    #[test]
    fn it_reads_as_another_reader_does() {
        let text = r#"{"b":[1,2.5,-3e2,"x\n\"\\\/\u00e9\ud83d\ude00"],"a":{"n":null,"t":true}}"#;
        fn check(node: &Node<'_>, other: &serde_json::Value) {
            match (node, other) {
                (Node::Null, serde_json::Value::Null) => {}
                (Node::Bool(left), serde_json::Value::Bool(right)) => assert_eq!(left, right),
                (Node::Number(text), serde_json::Value::Number(number)) => {
                    assert_eq!(text.parse::<f64>().ok(), number.as_f64());
                }
                (Node::Text(left), serde_json::Value::String(right)) => assert_eq!(left, right),
                (Node::Array(left), serde_json::Value::Array(right)) => {
                    assert_eq!(left.len(), right.len());
                    left.iter().zip(right).for_each(|(left, right)| check(left, right));
                }
                (Node::Object(left), serde_json::Value::Object(right)) => {
                    assert_eq!(left.len(), right.len());
                    left.iter().for_each(|(name, node)| check(node, &right[name.as_ref()]));
                }
                (node, other) => panic!("{node:?} is not {other}"),
            }
        }
        check(&parse(text.as_bytes()).unwrap().root, &serde_json::from_str(text).unwrap());
    }

    #[test]
    fn a_name_that_comes_twice_is_seen_at_any_depth() {
        for (text, expected) in [
            ("{\"a\":1,\"b\":2}", false),
            ("{\"a\":1,\"b\":2,\"a\":3}", true),
            ("[{\"x\":{\"a\":1,\"\\u0061\":1}}]", true),
            ("[{\"a\":1},{\"a\":1}]", false),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().has_duplicates, expected, "{text}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limits() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).is_ok());
        assert_eq!(parse(nested(DEPTH_MAX + 2).as_bytes()), Err(Fault::Limit));
        assert_eq!(parse("[".repeat(1 << 20).as_bytes()), Err(Fault::Limit));
        assert_eq!(parse("{\"a\":".repeat(1 << 17).as_bytes()), Err(Fault::Limit));
        let wide = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
        assert!(parse(wide(VALUES_MAX).as_bytes()).is_ok());
        assert_eq!(parse(wide(VALUES_MAX + 1).as_bytes()), Err(Fault::Limit));
    }

    #[test]
    fn halves_of_pairs_differ() {
        let [left, right] =
            ["\"\\ud800\"", "\"\\udbff\""].map(|text| parse(text.as_bytes()).unwrap());
        assert_ne!(left, right);
    }
}
