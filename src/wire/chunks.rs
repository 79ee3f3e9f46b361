//! Reads chunked content (RFC 9112 section 7.1), and the trailers behind it.
//!
//! Pure: takes off the beginning of what came what it can read.

use bytes::{Buf, Bytes};
use http::HeaderMap;
use memchr::memchr;

use crate::wire::fields::{self, FIELDS_MAX, Malformed};

/// The longest line before a chunk, with its extensions.
const LINE_MAX: usize = 4 * 1024;
/// The most bytes of extensions in one message: they carry nothing.
const EXTENSIONS_MAX: usize = 16 * 1024;
/// The most bytes of trailers.
const TRAILERS_MAX: usize = 16 * 1024;

/// How far chunked content has been read.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    extensions: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some content.
    Data(Bytes),
    /// The end, and what stood behind it.
    Trailers(HeaderMap),
    /// The end.
    End,
}

impl Chunks {
    /// Whether all of it was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// The next piece; `None` if more must come first.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.at {
                At::Size => {
                    let Some(line) = take_line(input)? else {
                        return Ok(None);
                    };
                    let (size, extension) = size(&line).ok_or(Malformed)?;
                    self.extensions += extension;
                    if self.extensions > EXTENSIONS_MAX {
                        return Err(Malformed);
                    }
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(_) if input.is_empty() => return Ok(None),
                At::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - here as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                    return Ok(Some(Piece::Data(input.split_to(here))));
                }
                At::DataEnd => match input.as_ref() {
                    [] | [b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.at = At::Size;
                    }
                    _ => return Err(Malformed),
                },
                At::Trailers => {
                    let Some(trailers) = trailers(input)? else {
                        return Ok(None);
                    };
                    self.at = At::End;
                    let has_none = trailers.is_empty();
                    return Ok(Some(if has_none { Piece::End } else { Piece::Trailers(trailers) }));
                }
                At::End => return Ok(Some(Piece::End)),
            }
        }
    }
}

fn take_line(input: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = memchr(b'\n', &input[..input.len().min(LINE_MAX)]) else {
        return if input.len() < LINE_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = input.split_to(end);
    input.advance(1);
    Ok(Some(line))
}

/// The size that a line says, and how many bytes of extension it has.
fn size(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (number, extension) = line.split_at(digits);
    let is_extension = extension.trim_ascii_start().first().is_none_or(|first| *first == b';');
    if !is_extension || extension.contains(&b'\r') {
        return None;
    }
    let number = std::str::from_utf8(number).ok()?;
    // More digits than a u64 has could be read as less by someone.
    let size = if digits <= 16 { u64::from_str_radix(number, 16).ok()? } else { return None };
    Some((size, extension.len()))
}

/// The trailers, where they have come whole.
fn trailers(input: &mut Bytes) -> Result<Option<HeaderMap>, Malformed> {
    let mut trailers = HeaderMap::new();
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Some(trailers));
    }
    let bytes = input.clone();
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(&bytes, &mut room).map_err(|_| Malformed)? {
        httparse::Status::Partial if input.len() < TRAILERS_MAX => Ok(None),
        httparse::Status::Complete((length, found)) if length <= TRAILERS_MAX => {
            // A lone line feed ends a line for some and not for others.
            let mut lines = bytes[..length].split_inclusive(|byte| *byte == b'\n');
            if !lines.all(|line| line.ends_with(b"\r\n")) {
                return Err(Malformed);
            }
            fields::append(&mut trailers, &bytes, found)?;
            input.advance(length);
            Ok(Some(trailers))
        }
        httparse::Status::Partial | httparse::Status::Complete(_) => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// The content and the trailers, or `None` if it is malformed; fed in pieces of each size.
    fn check(text: &str, expected: Option<(&str, &[&str], &str)>) {
        let text = text.replace('|', "\r\n");
        for size in 1..=text.len() {
            let found = read(text.as_bytes(), size);
            let found = found.as_ref().map(|(data, trailers, rest)| {
                (data.as_str(), trailers.iter().map(String::as_str).collect(), rest.as_str())
            });
            let expected = expected.map(|(data, trailers, rest)| (data, trailers.to_vec(), rest));
            assert_eq!(found, expected, "{text:?} in pieces of {size}");
        }
    }

    fn read(bytes: &[u8], size: usize) -> Option<(String, Vec<String>, String)> {
        let (mut chunks, mut input) = (Chunks::default(), Bytes::new());
        let (mut data, mut trailers) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            input = [&input[..], piece].concat().into();
            while !chunks.is_done() {
                match chunks.next(&mut input).ok()? {
                    None => break,
                    Some(Piece::Data(piece)) => data.extend_from_slice(&piece),
                    Some(Piece::Trailers(fields)) => {
                        let line = |(name, value): (&HeaderName, &HeaderValue)| {
                            format!("{name}={}", value.to_str().unwrap())
                        };
                        trailers = fields.iter().map(line).collect();
                    }
                    Some(Piece::End) => {}
                }
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        chunks.is_done().then(|| (text(&data), trailers, text(&input)))
    }

    #[test]
    fn content_in_chunks_is_read_to_its_end_and_no_further() {
        check("0||", Some(("", &[], "")));
        check("5|hello|0||", Some(("hello", &[], "")));
        check("5|hello|0||HTTP", Some(("hello", &[], "HTTP")));
        check("1|a|A;x=y|0123456789|000||", Some(("a0123456789", &[], "")));
        check("2 ;x|ab|0||", Some(("ab", &[], "")));
        check("1|a|0|X-Sum: 1|B: c||rest", Some(("a", &["x-sum=1", "b=c"], "rest")));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_malformed() {
        for text in [
            "5|hello0||",
            "x|a|0||",
            "-1|a|0||",
            "0x1|a|0||",
            "|a|0||",
            "1\na\r\n0||",
            "1;a\rb|a|0||",
            "1 2|a|0||",
            "00000000000000001|a|0||",
            "FFFFFFFFFFFFFFFFF|a|0||",
            "1|a|0|A : b||",
            "1|a|0| A: b||",
            "1|a|0|A: b\n|",
            "1|a|0|\n",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn what_carries_nothing_has_an_end() {
        let line = |length: usize| format!("1;{}|a|", "x".repeat(length));
        assert!(read(line(LINE_MAX).replace('|', "\r\n").as_bytes(), LINE_MAX * 2).is_none());
        let many = |times| format!("{}0||", line(LINE_MAX - 10).repeat(times)).replace('|', "\r\n");
        assert!(read(many(4).as_bytes(), 1 << 20).is_some());
        assert!(read(many(5).as_bytes(), 1 << 20).is_none());
        let trailers = |length| format!("0\r\nA: {}\r\n\r\n", "x".repeat(length));
        assert!(read(trailers(TRAILERS_MAX / 2).as_bytes(), 1 << 20).is_some());
        assert!(read(trailers(TRAILERS_MAX).as_bytes(), 1 << 20).is_none());
    }
}
