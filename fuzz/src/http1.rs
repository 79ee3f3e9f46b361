//! A small reader of HTTP/1, written apart from hyper's and httparse's, to judge what they let through.
//!
//! Two manners: [`Manner::Strict`] is what a backend and a client may insist on (RFC 9112 with every
//! SHOULD), [`Manner::Lenient`] reads as far as the proxy may, where RFC 9112 section 2.2 allows it and
//! hyper does: empty lines in front of a message, and a line feed alone in its head.

use std::fmt;

/// How much is let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One reading, or none.
    Strict,
    /// What the proxy takes from clients and backends.
    Lenient,
}

/// How far a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To its end, by its own framing.
    Whole,
    /// It is sound, but not all of it is there.
    Open,
    /// It breaks a rule, which is named.
    Broken(&'static str),
}

/// A message: a request or a reply.
#[derive(Clone)]
pub struct Message {
    /// Its first line; empty where not even that is whole.
    pub line: Vec<u8>,
    /// Its fields, with their names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Its body without the framing, as far as it came.
    pub body: Vec<u8>,
    /// The bytes that it takes, up to its end or its fault.
    pub length: usize,
    /// How far it came.
    pub end: End,
    /// Whether its head is whole and sound.
    pub has_head: bool,
    /// Whether it ends with its connection only.
    pub until_close: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        write!(f, "{:?} {:?}", self.end, text(&self.line))?;
        for (name, value) in &self.fields {
            write!(f, " {name}: {:?}", text(value))?;
        }
        write!(f, " body {:?}", text(&self.body))
    }
}

impl Message {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| &value[..]).collect()
    }

    /// Whether a list field has `token`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let values = self.all(name);
        let mut tokens = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|known| known.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// A request's method.
    pub fn method(&self) -> &[u8] {
        self.line.split(|byte| *byte == b' ').next().unwrap_or_default()
    }

    /// A request's target.
    pub fn target(&self) -> &[u8] {
        let start = self.method().len() + 1;
        let end = self.line.iter().rposition(|byte| *byte == b' ').unwrap_or_default();
        self.line.get(start..end).unwrap_or_default()
    }

    /// A reply's status; 0 where there is none.
    pub fn status(&self) -> u16 {
        let digits = self.line.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    fn broken(mut self, rule: &'static str) -> Self {
        self.end = End::Broken(rule);
        self
    }
}

/// Reads one request at the beginning of `bytes`.
pub fn request(bytes: &[u8], manner: Manner) -> Message {
    let mut reader = Reader { bytes, at: 0, manner };
    reader.skip_empty_lines();
    let mut message = match reader.head() {
        Ok(message) => message,
        Err(message) => return message,
    };
    if let Some(rule) = request_line_fault(&message.line) {
        return message.broken(rule);
    }
    message.has_head = true;
    match framing(&message, manner) {
        Ok(Framing::None) => message,
        Ok(framing) => reader.body(message, framing),
        Err(rule) => message.broken(rule),
    }
}

/// Reads one reply at the beginning of `bytes`, interim or final; `closed` says that no more will
/// come.
pub fn reply(bytes: &[u8], method: &[u8], manner: Manner, closed: bool) -> Message {
    let mut reader = Reader { bytes, at: 0, manner };
    reader.skip_empty_lines();
    let mut message = match reader.head() {
        Ok(message) => message,
        Err(message) => return message,
    };
    if let Some(rule) = status_line_fault(&message.line) {
        return message.broken(rule);
    }
    message.has_head = true;
    let status = message.status();
    if method == b"HEAD" || status < 200 || status == 204 || status == 304 {
        return message;
    }
    match framing(&message, manner) {
        Ok(Framing::None) => {
            message.body = bytes[reader.at..].to_vec();
            message.length = bytes.len();
            message.until_close = true;
            message.end = if closed { End::Whole } else { End::Open };
            message
        }
        Ok(framing) => reader.body(message, framing),
        Err(rule) => message.broken(rule),
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_mark = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

fn request_line_fault(line: &[u8]) -> Option<&'static str> {
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Some("a request line is three words");
    };
    if !is_token(method) {
        return Some("a method is a token");
    }
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Some("a target is visible characters");
    }
    (!matches!(version, b"HTTP/1.0" | b"HTTP/1.1")).then_some("the version is 1.0 or 1.1")
}

fn status_line_fault(line: &[u8]) -> Option<&'static str> {
    let is_version = line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"HTTP/1.0 ");
    let digits = line.get(9..12).unwrap_or_default();
    let is_code = digits.len() == 3 && digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0';
    let is_ended = matches!(line.get(12), None | Some(b' '));
    (!(is_version && is_code && is_ended)).then_some("a status line is a version and three digits")
}

#[derive(Clone, Copy)]
enum Framing {
    /// No field says anything.
    None,
    Length(usize),
    Chunked,
}

fn framing(message: &Message, manner: Manner) -> Result<Framing, &'static str> {
    let (codings, lengths) = (message.all("transfer-encoding"), message.all("content-length"));
    if let Some(coding) = codings.first() {
        if manner == Manner::Strict && !lengths.is_empty() {
            return Err("a length beside a transfer coding");
        }
        if codings.len() > 1 || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err("the transfer coding is chunked, once");
        }
        return Ok(Framing::Chunked);
    }
    let Some(length) = lengths.first() else {
        return Ok(Framing::None);
    };
    if lengths.iter().any(|other| other != length)
        || (lengths.len() > 1 && manner == Manner::Strict)
    {
        return Err("two lengths");
    }
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err("a length is digits");
    }
    let text = std::str::from_utf8(length).unwrap_or_default();
    text.parse().map(Framing::Length).map_err(|_| "the length is beyond all memory")
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    manner: Manner,
}

impl<'a> Reader<'a> {
    /// In front of a message, where that is let pass.
    fn skip_empty_lines(&mut self) {
        while self.manner == Manner::Lenient {
            match self.bytes[self.at..] {
                [b'\r', b'\n', ..] => self.at += 2,
                [b'\n', ..] => self.at += 1,
                _ => break,
            }
        }
    }

    /// The next line of a head without its end; `None` where it is not whole.
    fn line(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        self.at += end + 1;
        let line = match rest[..end].strip_suffix(b"\r") {
            Some(line) => line,
            None if self.manner == Manner::Lenient => &rest[..end],
            None => return Err("a line feed without its carriage return"),
        };
        if line.contains(&b'\r') { Err("a carriage return within a line") } else { Ok(Some(line)) }
    }

    /// The first line and the fields; what is not whole or not sound comes back as the error.
    fn head(&mut self) -> Result<Message, Message> {
        let mut message = Message {
            line: Vec::new(),
            fields: Vec::new(),
            body: Vec::new(),
            length: 0,
            end: End::Open,
            has_head: false,
            until_close: false,
        };
        match self.line() {
            Ok(Some(line)) => message.line = line.to_vec(),
            Ok(None) => return Err(message),
            Err(rule) => return Err(message.broken(rule)),
        }
        match self.fields(&mut message.fields) {
            Ok(true) => {}
            Ok(false) => return Err(message),
            Err(rule) => return Err(message.broken(rule)),
        }
        message.length = self.at;
        message.end = End::Whole;
        Ok(message)
    }

    /// Fields up to the empty line; whether that is there.
    fn fields(&mut self, fields: &mut Vec<(String, Vec<u8>)>) -> Result<bool, &'static str> {
        loop {
            let Some(line) = self.line()? else {
                return Ok(false);
            };
            if line.is_empty() {
                return Ok(true);
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or("a field has a colon")?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name) {
                return Err("a field's name is a token");
            }
            if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
                return Err("a field's value has no control characters");
            }
            fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
        }
    }

    /// Trailers as hyper 1.12 has them: it looks for an empty line that ends with CRLF, and only then
    /// reads what is before it, up to a line feed that stands alone. What is between the two is lost.
    fn odd_trailers(&mut self) -> Result<bool, &'static str> {
        let start = self.at;
        while !self.bytes[self.at..].starts_with(b"\r\n") {
            let rest = &self.bytes[self.at..];
            let Some(end) = rest.iter().position(|byte| *byte == b'\r') else {
                return Ok(false);
            };
            match rest.get(end + 1) {
                Some(b'\n') => self.at += end + 2,
                Some(_) => return Err("a carriage return within a trailer"),
                None => return Ok(false),
            }
        }
        self.at += 2;
        let mut read = Reader { bytes: &self.bytes[..self.at], at: start, manner: Manner::Lenient };
        read.fields(&mut Vec::new())
    }

    fn body(mut self, mut message: Message, framing: Framing) -> Message {
        message.end = match framing {
            Framing::None => End::Whole,
            Framing::Length(length) => {
                let rest = &self.bytes[self.at..];
                message.body = rest[..rest.len().min(length)].to_vec();
                self.at += message.body.len();
                if message.body.len() == length { End::Whole } else { End::Open }
            }
            Framing::Chunked => match self.chunks(&mut message.body) {
                Ok(true) => End::Whole,
                Ok(false) => End::Open,
                Err(rule) => End::Broken(rule),
            },
        };
        message.length = self.at;
        message
    }

    /// RFC 9112 section 7.1; whether its end came. Here a line feed alone is never let pass.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<bool, &'static str> {
        let manner = std::mem::replace(&mut self.manner, Manner::Strict);
        loop {
            let Some(line) = self.line()? else {
                return Ok(false);
            };
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let (size, extension) = line.split_at(digits);
            let size = std::str::from_utf8(size).unwrap_or_default();
            let size =
                usize::from_str_radix(size, 16).map_err(|_| "a chunk's size is hexadecimal")?;
            let extension = extension.trim_ascii_start();
            if !matches!(extension.first(), None | Some(b';')) {
                return Err("a chunk's size is followed by an extension or nothing");
            }
            if size == 0 {
                return match manner {
                    Manner::Strict => self.fields(&mut Vec::new()),
                    Manner::Lenient => self.odd_trailers(),
                };
            }
            let rest = &self.bytes[self.at..];
            body.extend_from_slice(&rest[..rest.len().min(size)]);
            match rest.get(size..size.saturating_add(2)) {
                Some(b"\r\n") => self.at += size + 2,
                Some(_) => return Err("a chunk ends with CRLF"),
                None => return Ok(false),
            }
        }
    }
}
