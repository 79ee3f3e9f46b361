//! As much of HTTP/2's framing (RFC 9113 section 4) as it takes to send frames and to count streams.

use std::collections::{BTreeMap, BTreeSet};

use crate::peers::CUT;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of an input that is a list of frames, each behind a cut: its type, its flags, its
/// stream, its payload. So lengths need not be right by luck.
pub const FRAMES: u8 = 0xf2;

/// The type of a HEADERS frame whose payload is lines of text: `:method: GET`.
const TEXT: u8 = b'H';

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// A list of frames as the bytes of a connection, from `preface` on. The highest bit of a type asks
/// for a cut in front of its frame.
pub fn composed(list: &[u8], preface: &[u8]) -> Vec<u8> {
    let mut bytes = preface.to_vec();
    bytes.extend_from_slice(&frame(SETTINGS, 0, 0, b""));
    for piece in list.split(|byte| *byte == CUT) {
        let [kind, flags, stream, payload @ ..] = piece else {
            continue;
        };
        if kind & 0x80 != 0 {
            bytes.push(CUT);
        }
        let stream = u32::from(*stream);
        let built = match kind & 0x7f {
            TEXT => frame(HEADERS, flags | END_HEADERS, stream, &packed(payload)),
            kind => frame(kind & 0x0f, *flags, stream, payload),
        };
        // The one byte that can't be sent, as it would be a cut.
        bytes.extend(built.iter().map(|byte| if *byte == CUT { CUT - 1 } else { *byte }));
    }
    bytes
}

/// The answer to a ping.
pub fn pong(ping: &[u8]) -> Vec<u8> {
    frame(PING, ACK, 0, ping)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

/// Lines of text as fields that are never indexed (RFC 7541 section 6.2.2).
fn packed(lines: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().skip(1).position(|byte| *byte == b':').map(|at| at + 1);
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        block.push(0);
        for text in [name, value] {
            packed_length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// RFC 7541 section 5.1, with a prefix of seven bits.
fn packed_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).expect("below 127"));
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).expect("below 256"));
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("below 128"));
}

/// What one side of a connection has said.
#[derive(Debug, Default)]
pub struct Said {
    /// Streams with a HEADERS frame.
    pub opened: BTreeSet<u32>,
    /// Streams that were ended in order.
    pub finished: BTreeSet<u32>,
    /// Those, and streams that were broken off.
    pub ended: BTreeSet<u32>,
    /// What came of each stream's body.
    pub bodies: BTreeMap<u32, Vec<u8>>,
    /// What the other side is to send back (section 6.7).
    pub pings: Vec<Vec<u8>>,
}

impl Said {
    /// Reads frames up to the last whole one.
    pub fn of(mut bytes: &[u8]) -> Self {
        let mut said = Self::default();
        while let [l0, l1, l2, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            let Some(payload) = rest.get(..length) else {
                break;
            };
            bytes = &rest[length..];
            let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]) & 0x7fff_ffff;
            match *kind {
                HEADERS => {
                    said.opened.insert(stream);
                }
                // What comes behind the end is of no stream any more.
                DATA if !said.finished.contains(&stream) => {
                    let body = said.bodies.entry(stream).or_default();
                    body.extend_from_slice(content(payload, *flags));
                }
                RESET => {
                    said.ended.insert(stream);
                }
                PING if flags & ACK == 0 => said.pings.push(payload.to_vec()),
                _ => {}
            }
            if matches!(*kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                said.finished.insert(stream);
                said.ended.insert(stream);
            }
        }
        said
    }
}

/// A DATA frame's payload without its padding.
fn content(payload: &[u8], flags: u8) -> &[u8] {
    if flags & PADDED == 0 {
        return payload;
    }
    let Some((padding, rest)) = payload.split_first() else {
        return payload;
    };
    &rest[..rest.len().saturating_sub(usize::from(*padding))]
}
