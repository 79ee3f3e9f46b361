//! Sees in a request head what the HTTP parser hides: Content-Length twice, or beside
//! Transfer-Encoding; and why the parser refused a request line.
//!
//! RFC 9112 section 6.1 lets a server drop the length and go on, which hyper does before anyone
//! can look. We refuse such a request, since two readings of one message are how requests are
//! smuggled. This scanner reads along as bytes come in and remembers whether a head had two. It
//! never decides framing: where it loses its place (a request pipelined behind a chunked body in
//! one segment), hyper's own safe reading stands: the body is chunked, the length is dropped, the
//! connection closes after the reply.

use memchr::memchr;

/// The names whose meeting in one head is looked for.
const LENGTH: &[u8] = b"content-length";
const CODING: &[u8] = b"transfer-encoding";

/// How much of a line that two reads share is kept: enough for either name and a length.
const CARRY: usize = 48;
/// The length of `HTTP/1.1`, the end of a request line.
const VERSION: usize = 8;

/// Where the bytes of one connection stand.
#[derive(Debug)]
pub struct HeadScan {
    state: State,
    length: Option<u64>,
    coding: bool,
    ambiguous: bool,
    carry: [u8; CARRY],
    carried: usize,
    version: [u8; VERSION],
    // Of the request line that came last.
    line_ended: bool,
    line_bytes: usize,
}

/// Why a request line can't be served, where the parser gives no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// It alone is as long as a whole head may be.
    TooLong,
    /// It ends with `HTTP/` and a version that is neither 1.0 nor 1.1.
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    // Within a head; `started` once a line that is not empty was seen.
    Head { started: bool },
    // Within a body of known length.
    Body { left: u64 },
    // Within a chunked body, until the next head is announced.
    Chunked,
}

impl Default for HeadScan {
    fn default() -> Self {
        Self {
            state: State::Head { started: false },
            length: None,
            coding: false,
            ambiguous: false,
            carry: [0; CARRY],
            carried: 0,
            version: [0; VERSION],
            line_ended: false,
            line_bytes: 0,
        }
    }
}

impl HeadScan {
    /// What is wrong with the request line that came last, as far as it can be seen here.
    #[must_use]
    pub fn line_fault(&self, head_bytes_max: usize) -> Option<LineFault> {
        if self.line_bytes >= head_bytes_max {
            return Some(LineFault::TooLong);
        }
        let version = self.version.strip_prefix(b"HTTP/")?;
        let [major, b'.', minor] = version else {
            return None;
        };
        let is_version = major.is_ascii_digit() && minor.is_ascii_digit();
        (is_version && !matches!(version, b"1.0" | b"1.1")).then_some(LineFault::Version)
    }

    /// Whether the last byte seen stands within a head.
    #[must_use]
    pub fn is_mid_head(&self) -> bool {
        match self.state {
            State::Head { started } => started || self.carried > 0,
            State::Body { .. } | State::Chunked => false,
        }
    }

    /// Whether a head of this connection named two lengths, or a length and a coding.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// The next byte is the first of a head, whatever was thought before.
    pub fn expect_head(&mut self) {
        if self.state == State::Chunked {
            self.state = State::Head { started: false };
        }
    }

    /// Reads along.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Head { started } => {
                    let Some(end) = memchr(b'\n', bytes) else {
                        if !started {
                            self.keep_version(bytes, false);
                        }
                        self.keep(bytes);
                        return;
                    };
                    if !started {
                        self.keep_version(&bytes[..end], true);
                    }
                    self.line(&bytes[..end], started);
                    bytes = &bytes[end + 1..];
                }
                State::Body { left } => {
                    let taken = left.min(bytes.len() as u64);
                    let left = left - taken;
                    self.state = if left == 0 {
                        State::Head { started: false }
                    } else {
                        State::Body { left }
                    };
                    bytes =
                        bytes.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or(&[]);
                }
                State::Chunked => return,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = CARRY - self.carried;
        let kept = &bytes[..bytes.len().min(room)];
        self.carry[self.carried..self.carried + kept.len()].copy_from_slice(kept);
        self.carried += kept.len();
    }

    /// Keeps the last bytes of a request line, which may come in pieces, but for its CR.
    fn keep_version(&mut self, bytes: &[u8], ended: bool) {
        if bytes == b"\r" || (bytes.is_empty() && self.carried == 0) {
            // An empty line before the request line, or the CR that ends it.
            self.line_ended |= ended && self.carried > 0;
            return;
        }
        if std::mem::replace(&mut self.line_ended, ended) {
            self.line_bytes = 0;
        }
        self.line_bytes = self.line_bytes.saturating_add(bytes.len());
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let fresh = &bytes[bytes.len().saturating_sub(VERSION)..];
        self.version.rotate_left(fresh.len());
        self.version[VERSION - fresh.len()..].copy_from_slice(fresh);
    }

    fn line(&mut self, bytes: &[u8], started: bool) {
        if self.carried == 0 {
            self.field(bytes, started);
            return;
        }
        self.keep(bytes);
        let (line, length) = (self.carry, self.carried);
        self.carried = 0;
        self.field(&line[..length], started);
    }

    fn field(&mut self, line: &[u8], started: bool) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if started {
                self.end_of_head();
            }
            return;
        }
        self.state = State::Head { started: true };
        match line[0] | 0x20 {
            b'c' => {
                if let Some(value) = value_of(line, LENGTH) {
                    self.ambiguous |= self.length.is_some();
                    self.length = Some(decimal(value));
                }
            }
            b't' if value_of(line, CODING).is_some() => self.coding = true,
            _ => {}
        }
    }

    fn end_of_head(&mut self) {
        let (length, coding) = (self.length.take(), std::mem::take(&mut self.coding));
        self.ambiguous |= coding && length.is_some();
        self.state = match length {
            _ if coding => State::Chunked,
            Some(left) if left > 0 => State::Body { left },
            Some(_) | None => State::Head { started: false },
        };
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (front, rest) = line.split_at_checked(name.len())?;
    if !front.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// A length; one that is no number is refused by the parser, so its value here is of no matter.
fn decimal(value: &[u8]) -> u64 {
    value
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` whole and in pieces of each size; the answer must not depend on the cuts.
    fn check(text: &str, expected: bool) {
        for size in 1..=text.len() {
            let mut scan = HeadScan::default();
            for piece in text.as_bytes().chunks(size) {
                scan.feed(piece);
            }
            assert_eq!(scan.is_ambiguous(), expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn both_headers_in_one_head_are_seen_in_any_order_and_case() {
        check("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", true);
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nHost: a\r\ncontent-length:4\r\n\r\n",
            true,
        );
        check("\r\nPOST / HTTP/1.1\nTRANSFER-ENCODING: chunked\nCONTENT-LENGTH: 4\n\n", true);
    }

    #[test]
    fn two_lengths_are_seen() {
        check("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", true);
    }

    #[test]
    fn the_fault_of_a_request_line_is_told() {
        for (line, expected) in [
            ("GET / HTTP/1.1\r\n", None),
            ("GET / HTTP/1.0\n", None),
            ("GET / HTTP/1.2\r\n", Some(LineFault::Version)),
            ("GET / HTTP/2.0\r\nHost: a\r\n", Some(LineFault::Version)),
            ("GET / http/1.1\r\n", None),
            ("GET /\r\n", None),
            ("GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Some(LineFault::TooLong)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Some(LineFault::Version)),
            ("\r\nGET / HTTP/1.1\r\n", None),
        ] {
            for size in 1..=line.len() {
                let mut scan = HeadScan::default();
                line.as_bytes().chunks(size).for_each(|piece| scan.feed(piece));
                assert_eq!(scan.line_fault(40), expected, "{line:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn one_of_them_alone_is_fine() {
        check("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", false);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nX-Content-Length: 4\r\nTransfer-Encodings: x\r\n\r\n", false);
    }

    #[test]
    fn a_body_that_looks_like_a_head_is_not_read_as_one() {
        let body = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n";
        check(&format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()), false);
        check(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n33\r\n{body}"), false);
    }

    #[test]
    fn a_pipelined_head_is_its_own_message() {
        check(
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
        );
        check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        );
    }

    #[test]
    fn after_a_chunked_body_the_next_head_is_announced() {
        let mut scan = HeadScan::default();
        scan.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        scan.expect_head();
        scan.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n");
        assert!(scan.is_ambiguous());
    }
}
