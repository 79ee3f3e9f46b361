//! A client that speaks HTTP/2 frame by frame over a blocking socket, as well or as badly as a test
//! wants.
//!
//! What it sends is what the test wrote: no rule of RFC 9113 is checked, and field lines go out as
//! literals, so that a name or a value may be any bytes. What it reads is kept for each stream.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use httlib_hpack::Decoder;

use crate::harness::PATIENCE;
pub(crate) use crate::harness::hpack::{Field, block, integer, literal};
use crate::harness::raw::Ended;

/// Types of frames (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags: of PING and SETTINGS, of DATA and HEADERS, of HEADERS.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// Settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WINDOW_MAX: u32 = i32::MAX as u32;

/// The pseudo fields of a sound request.
pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Vec<Field<'a>> {
    vec![(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
}

/// A sound request with further fields.
pub(crate) fn request_with<'a>(
    method: &'a str,
    path: &'a str,
    fields: &[Field<'a>],
) -> Vec<Field<'a>> {
    [&request(method, path), fields].concat()
}

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What has come on one stream.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    /// The fields of interim responses.
    pub(crate) interims: Vec<Vec<(String, String)>>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) end: Option<End>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With END_STREAM.
    Whole,
    /// With this error code.
    Reset(u32),
}

/// A connection.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    decoder: Decoder<'static>,
    block: Vec<u8>,
    next: u32,
    /// By stream.
    pub(crate) answers: BTreeMap<u32, Answer>,
    /// The peer's settings.
    pub(crate) settings: BTreeMap<u16, u32>,
    /// The last stream and the error code of each GOAWAY.
    pub(crate) goaways: Vec<(u32, u32)>,
    /// What the peer lets us send, by stream; 0 is the connection.
    pub(crate) windows: BTreeMap<u32, u64>,
}

// === impl Answer ===

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        write!(f, "{:?} {:?} {body:?} {:?}", self.end, self.fields, self.trailers)
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.field(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// All values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
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

    /// Status and text of a reply that came whole.
    pub(crate) fn whole(&self) -> (u16, String) {
        assert_eq!(self.end, Some(End::Whole), "{self:?}");
        (self.status(), self.text())
    }
}

// === impl Frames ===

impl Frames {
    /// Shakes hands, with windows for whatever may come.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::connect_with(address, &[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]);
        frames.open_window(0, WINDOW_MAX - 65_535);
        frames
    }

    /// Shakes hands with these settings, and opens no window.
    pub(crate) fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(address);
        frames.write(PREFACE);
        frames.settings(settings);
        frames.until(|frames| !frames.settings.is_empty());
        frames
    }

    /// Sends nothing yet.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            decoder: Decoder::default(),
            block: Vec::new(),
            next: 1,
            answers: BTreeMap::new(),
            settings: BTreeMap::new(),
            goaways: Vec::new(),
            windows: BTreeMap::new(),
        }
    }

    /// Sends as far as the other side takes it: it may have closed already.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(frame(kind, flags, stream, payload))
    }

    pub(crate) fn settings(&mut self, settings: &[(u16, u32)]) -> bool {
        let lines = settings
            .iter()
            .map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        let payload = lines.collect::<Vec<_>>().concat();
        self.send(SETTINGS, 0, 0, &payload)
    }

    pub(crate) fn open_window(&mut self, stream: u32, by: u32) -> bool {
        self.send(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
    }

    /// A new stream whose request goes on.
    pub(crate) fn open(&mut self, fields: &[Field<'_>]) -> u32 {
        self.start(fields, END_HEADERS)
    }

    /// A new stream whose request is its head.
    pub(crate) fn ask(&mut self, fields: &[Field<'_>]) -> u32 {
        self.start(fields, END_HEADERS | END_STREAM)
    }

    pub(crate) fn start(&mut self, fields: &[Field<'_>], flags: u8) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(HEADERS, flags, stream, &block(fields));
        stream
    }

    pub(crate) fn data(&mut self, stream: u32, bytes: impl AsRef<[u8]>) -> bool {
        self.send(DATA, 0, stream, bytes.as_ref())
    }

    pub(crate) fn last_data(&mut self, stream: u32, bytes: impl AsRef<[u8]>) -> bool {
        self.send(DATA, END_STREAM, stream, bytes.as_ref())
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) -> bool {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    /// A GET and its reply.
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        let stream = self.ask(&request("GET", path));
        self.answer(stream)
    }

    /// What has come on a stream once it, or the connection, has ended.
    pub(crate) fn answer(&mut self, stream: u32) -> Answer {
        while self.so_far(stream).end.is_none() && self.step().is_ok() {}
        self.so_far(stream)
    }

    /// The same, but once its head is there.
    pub(crate) fn head(&mut self, stream: u32) -> Answer {
        while self.so_far(stream).fields.is_empty() && self.step().is_ok() {}
        self.so_far(stream)
    }

    /// What has come on a stream and was read.
    pub(crate) fn so_far(&self, stream: u32) -> Answer {
        self.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// Reads until it holds.
    pub(crate) fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            if let Err(ended) = self.step() {
                panic!("{ended:?}; GOAWAYs {:?}, {:?}", self.goaways, self.answers);
            }
        }
    }

    /// Reads until the connection ends, or nothing comes for `wait`.
    pub(crate) fn rest(&mut self, wait: Duration) -> Ended {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let ended = loop {
            if let Err(ended) = self.step() {
                break ended;
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ended
    }

    /// Reads one frame, and does what a client has to.
    pub(crate) fn step(&mut self) -> Result<(), Ended> {
        let Frame { kind, flags, stream, payload } = self.read()?;
        match kind {
            DATA => {
                self.answers.entry(stream).or_default().body.extend(payload);
                self.ended(stream, flags);
            }
            HEADERS | CONTINUATION => {
                self.block.extend(payload);
                if flags & END_HEADERS != 0 {
                    self.fields(stream);
                }
                if kind == HEADERS {
                    self.ended(stream, flags);
                }
            }
            RST_STREAM => {
                let code = number(&payload);
                self.answers.entry(stream).or_default().end.get_or_insert(End::Reset(code));
            }
            SETTINGS if flags & ACK == 0 => {
                let settings = payload.chunks_exact(6);
                let settings = settings.map(|line| (number(&line[..2]) as u16, number(&line[2..])));
                self.settings.extend(settings);
                self.send(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => {
                self.send(PING, ACK, 0, &payload);
            }
            GOAWAY => self.goaways.push((number(&payload[..4]), number(&payload[4..8]))),
            WINDOW_UPDATE => {
                *self.windows.entry(stream).or_default() += u64::from(number(&payload));
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, stream: u32, flags: u8) {
        if flags & END_STREAM != 0 {
            self.answers.entry(stream).or_default().end.get_or_insert(End::Whole);
        }
    }

    fn fields(&mut self, stream: u32) {
        let (mut block, mut fields) = (std::mem::take(&mut self.block), Vec::new());
        self.decoder.decode(&mut block, &mut fields).expect("a block that can be read");
        let text = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect::<String>();
        let fields: Vec<_> =
            fields.into_iter().map(|(name, value, _)| (text(name), text(value))).collect();
        let answer = self.answers.entry(stream).or_default();
        let is_interim =
            |(name, value): &(String, String)| name == ":status" && value.starts_with('1');
        if fields.iter().any(is_interim) {
            answer.interims.push(fields);
        } else if answer.fields.is_empty() {
            answer.fields = fields;
        } else {
            answer.trailers = fields;
        }
    }

    /// The next frame.
    pub(crate) fn read(&mut self) -> Result<Frame, Ended> {
        self.fill(9)?;
        let length = number(&self.buffer[..3]) as usize;
        self.fill(9 + length)?;
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let (head, payload) = bytes.split_at(9);
        let stream = number(&head[5..9]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload: payload.to_vec() })
    }

    fn fill(&mut self, count: usize) -> Result<(), Ended> {
        let mut piece = [0; 16 * 1024];
        while self.buffer.len() < count {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Ended::Closed),
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) => {
                    let open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    return Err(if open { Ended::Open } else { Ended::Reset });
                }
            }
        }
        Ok(())
    }
}

/// The bytes of a frame (RFC 9113 section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}
