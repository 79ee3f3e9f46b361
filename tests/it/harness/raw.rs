//! Raw sockets on both sides of a proxy: bytes in, bytes out, nothing parsed that need not be.
//!
//! Blocking, a thread for each backend connection, so that a test reads from top to bottom. Every
//! read has a deadline, so a test that waits for what never comes fails and does not hang.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::{PATIENCE, eventually};

/// The bytes of a row: `|` stands for CRLF, each character below U+0100 for its byte.
pub(crate) fn wire(text: &str) -> Vec<u8> {
    let text = text.replace('|', "\r\n");
    let byte = |c: char| u8::try_from(u32::from(c)).expect("a Latin-1 character");
    text.chars().map(byte).collect()
}

// === impl Raw ===

/// A connection, to the proxy or from it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// How a connection's bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Closed in order.
    Closed,
    /// Reset.
    Reset,
    /// Still open after the wait.
    Open,
}

/// One reply, or one request: its first line, its fields, and its body.
#[derive(Clone, Default)]
pub(crate) struct Message {
    pub(crate) line: String,
    pub(crate) fields: Vec<String>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// All bytes as they came.
    pub(crate) raw: Vec<u8>,
    /// Whether its end was seen, by its own framing.
    pub(crate) complete: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.raw[..self.raw.len().min(2000)];
        let end = if self.complete { "whole" } else { "cut" };
        write!(f, "{end} {:?}", String::from_utf8_lossy(start))
    }
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.line.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// All values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter_map(|field| field.split_once(": "));
        named
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The value of a field that comes once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} comes {} times in {self:?}", all.len());
        all.first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends as far as the other side takes it: it may have closed already.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        // A connection that is closed already is finished too.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset, as a killed process with unread bytes does.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Sends a request and reads its reply.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.reply()
    }

    /// The next reply.
    pub(crate) fn reply(&mut self) -> Message {
        self.message(Kind::Reply)
    }

    /// The next reply to a HEAD.
    pub(crate) fn head_reply(&mut self) -> Message {
        self.message(Kind::HeadReply)
    }

    /// The next request.
    pub(crate) fn request(&mut self) -> Message {
        self.message(Kind::Request)
    }

    /// Whether these bytes are among what has come and was not taken yet; reads once more.
    pub(crate) fn has_got(&mut self, bytes: &[u8]) -> bool {
        let has = |buffer: &[u8]| buffer.windows(bytes.len()).any(|window| window == bytes);
        has(&self.buffer) || (self.fill() && has(&self.buffer))
    }

    /// The head of the next message; its body is to come.
    pub(crate) fn head(&mut self) -> Message {
        let mut message = Message::default();
        message.line = self.line(&mut message.raw).unwrap_or_default();
        message.fields = self.fields(&mut message.raw).unwrap_or_default();
        message
    }

    /// What was read already and not taken yet.
    pub(crate) fn early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Exactly the next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.fill() {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// All that comes until the end, and which end it was.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Ended) {
        let mut bytes = std::mem::take(&mut self.buffer);
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return (bytes, Ended::Closed),
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
                Err(error) => {
                    let open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    return (bytes, if open { Ended::Open } else { Ended::Reset });
                }
            }
        }
    }

    /// Whether nothing more comes within a moment while the connection stays open.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let (bytes, ended) = self.rest();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        bytes.is_empty() && ended == Ended::Open
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
        }
    }

    /// The next line without its end; `None` if the connection ends before it.
    fn line(&mut self, raw: &mut Vec<u8>) -> Option<String> {
        let end = loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                break end + 1;
            }
            if !self.fill() {
                raw.append(&mut self.buffer);
                return None;
            }
        };
        let line: Vec<u8> = self.buffer.drain(..end).collect();
        raw.extend_from_slice(&line);
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
        // Latin-1, so that each byte stays one and can be compared.
        Some(line.iter().map(|byte| char::from(*byte)).collect())
    }

    fn fields(&mut self, raw: &mut Vec<u8>) -> Option<Vec<String>> {
        let mut fields = Vec::new();
        loop {
            match self.line(raw)? {
                line if line.is_empty() => return Some(fields),
                line => fields.push(line),
            }
        }
    }

    fn message(&mut self, kind: Kind) -> Message {
        let mut message = Message::default();
        let Some(line) = self.line(&mut message.raw) else {
            return message;
        };
        message.line = line;
        let Some(fields) = self.fields(&mut message.raw) else {
            return message;
        };
        message.fields = fields;
        let status = message.status();
        let bodiless = (100..200).contains(&status) || status == 204 || status == 304;
        if kind == Kind::HeadReply || (kind == Kind::Reply && bodiless) {
            message.complete = true;
        } else if message.field("transfer-encoding").is_some() {
            message.complete = self.chunks(&mut message).is_some();
        } else if let Some(length) = message.field("content-length") {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("length {length:?}"));
            message.body = self.take(length);
            message.raw.extend_from_slice(&message.body);
            message.complete = message.body.len() == length;
        } else if kind == Kind::Reply {
            let (body, ended) = self.rest();
            message.raw.extend_from_slice(&body);
            message.body = body;
            message.complete = ended == Ended::Closed;
        } else {
            message.complete = true;
        }
        message
    }

    fn chunks(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let size = self.line(&mut message.raw)?;
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("size {size:?}"));
            if size == 0 {
                message.trailers = self.fields(&mut message.raw)?;
                return Some(());
            }
            let chunk = self.take(size + 2);
            message.raw.extend_from_slice(&chunk);
            message.body.extend_from_slice(&chunk[..chunk.len().min(size)]);
            if chunk.len() < size + 2 {
                return None;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Reply,
    HeadReply,
}

// === impl Listener ===

/// A backend whose connections are handed to the test in the order of their coming.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    socket: TcpListener,
}

impl Listener {
    pub(crate) fn bind() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: socket.local_addr().unwrap(), socket }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Raw {
        self.socket.set_nonblocking(true).unwrap();
        let mut accepted = None;
        eventually!(
            {
                accepted = self.socket.accept().ok();
                accepted.is_some()
            },
            "the proxy does not connect"
        );
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        Raw::over(stream)
    }

    /// Whether no connection waits.
    pub(crate) fn is_untouched(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        self.socket.accept().is_err()
    }
}
