//! An HTTP/2 backend that speaks frame by frame, for what the h2 crate's server would not say.
//!
//! It reads no field lines: which method a request has shows in the first byte of its block, as a
//! client's first field is `:method` from HPACK's static table.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::PATIENCE;
use crate::harness::raw::{Listener, Raw};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE_LENGTH: usize = 24;

/// HPACK's static table (RFC 7541 appendix A): `:method: POST`, `:status: 200`.
const POST: u8 = 0x83;
const STATUS_200: u8 = 0x88;

/// A request that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) stream: u32,
    pub(crate) is_post: bool,
}

/// One connection of the proxy. A thread reads; the test writes.
#[derive(Debug)]
pub(crate) struct FrameBackend {
    writer: Raw,
    came: Receiver<Came>,
}

impl FrameBackend {
    /// The next connection, as soon as the proxy can use it. `settings` are what is announced.
    pub(crate) fn accept(listener: &Listener, settings: &[(u16, u32)]) -> Self {
        let mut reader = listener.accept();
        assert_eq!(reader.take(PREFACE_LENGTH).len(), PREFACE_LENGTH, "no preface");
        let mut writer = Raw::over(reader.stream.try_clone().unwrap());
        let payload = settings
            .iter()
            .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()));
        writer.send(frame(SETTINGS, 0, 0, &payload.collect::<Vec<_>>()));
        let answers = Raw::over(reader.stream.try_clone().unwrap());
        let (sender, came) = channel();
        std::thread::spawn(move || read(reader, answers, &sender));
        Self { writer, came }
    }

    /// The next request.
    pub(crate) fn request(&self) -> Came {
        self.came.recv_timeout(PATIENCE).expect("a request on this connection")
    }

    /// Whether no request waits.
    pub(crate) fn is_untouched(&self) -> bool {
        self.came.try_recv().is_err()
    }

    /// 200 with this body.
    pub(crate) fn answer(&mut self, stream: u32, body: &str) {
        let head = frame(HEADERS, END_HEADERS, stream, &[STATUS_200]);
        self.writer.send([head, frame(DATA, END_STREAM, stream, body.as_bytes())].concat());
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.writer.send(frame(RST_STREAM, 0, stream, &code.to_be_bytes()));
    }

    /// Streams up to `last` may have been processed, those above were not.
    pub(crate) fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.writer.send(frame(GOAWAY, 0, 0, &payload));
    }

    /// Announces other settings.
    pub(crate) fn settings(&mut self, id: u16, value: u32) {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.writer.send(frame(SETTINGS, 0, 0, &payload));
    }

    /// Ends the connection.
    pub(crate) fn close(self) {
        let _ = self.writer.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads until the connection ends; answers what must be answered.
fn read(mut reader: Raw, mut answers: Raw, came: &Sender<Came>) {
    // An idle connection may wait for long.
    reader.stream.set_read_timeout(None).unwrap();
    loop {
        let head = reader.take(9);
        let [high, middle, low, kind, flags, stream @ ..] = &head[..] else {
            return;
        };
        let length = u32::from_be_bytes([0, *high, *middle, *low]);
        let stream = u32::from_be_bytes(stream.try_into().expect("four bytes of nine"));
        let payload = reader.take(usize::try_from(length).unwrap());
        match (*kind, flags & ACK) {
            (SETTINGS, 0) => answers.send(frame(SETTINGS, ACK, 0, &[])),
            (PING, 0) => answers.send(frame(PING, ACK, 0, &payload)),
            (HEADERS, _) => {
                let is_post = payload.first() == Some(&POST);
                came.send(Came { stream, is_post }).is_ok()
            }
            (_, _) => true,
        };
    }
}
