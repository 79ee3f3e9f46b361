//! The PROXY protocol, versions 1 and 2: what a proxy before this one says of whom it speaks for.
//!
//! Pure: bytes in, an answer out. The rules are those of HAProxy's doc/proxy-protocol.txt as of
//! 2020-03-05, whose sections are named below. Whether a peer may send a header at all is for the
//! caller to know beforehand, and never guessed from the bytes (section 5).
//!
//! A header decides which address is believed, so it has one reading or none. It is refused at the
//! first byte with which no header is possible any more, so that plain HTTP or TLS sent to such a
//! port ends at once and not with a timeout.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

#[cfg(test)]
mod tests;

/// The most bytes that a header takes. With so many before it, [`parse`] never asks for more.
pub const HEADER_MAX: usize = FIXED_SIZE + LENGTH_MAX;

/// The most bytes behind the fixed part of a version 2 header. Senders are to stay below a segment
/// of 536 bytes (section 2); this leaves room for certificates' names and clouds' own vectors, and
/// bounds what a connection may make us hold before it has sent anything of use.
const LENGTH_MAX: usize = 4096;

/// What a version 2 header begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of a version 2 header up to its addresses.
const FIXED_SIZE: usize = SIGNATURE.len() + 4;

/// A version 1 header begins with the one, ends with the other, and takes so many bytes with them
/// (section 2.1).
const LINE_START: &[u8; 6] = b"PROXY ";
const CRLF: &[u8; 2] = b"\r\n";
const LINE_MAX: usize = 107;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The start of a header: more bytes are needed.
    Partial,
    /// A header, and whatever comes behind it.
    Complete {
        /// The header's bytes, at most [`HEADER_MAX`]; the byte behind them is the client's first.
        length: usize,
        /// Whose connection it is.
        source: Source,
    },
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The sender's own (`LOCAL`, a health check for example), or one that is not TCP over IP or
    /// `UNKNOWN`. The addresses of the connection itself count.
    Own,
    /// One that the sender relays. IPv4-mapped IPv6 addresses are left as they were sent.
    Proxied {
        /// The address that the client connected from.
        client: SocketAddr,
        /// The address that the client connected to.
        local: SocketAddr,
    },
}

/// The rule that the bytes break: no byte that follows can make a header of them. Always the
/// sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They begin like neither version: the peer does not speak the protocol.
    Signature,
    /// Version 1: the protocol is none of `TCP4`, `TCP6` and `UNKNOWN`.
    Protocol,
    /// Version 1: an address is none, or not of the family announced.
    Address,
    /// Version 1: a port is not a decimal number from 0 to 65535, or has leading zeros.
    Port,
    /// Version 1: not two addresses and two ports, or not exactly one space between them.
    Fields,
    /// Version 1: a carriage return or a line feed that is not part of a CRLF.
    LineEnd,
    /// Version 1: the line cannot end in time.
    LineLength,
    /// Version 2: a version other than 2 behind the signature.
    Version(u8),
    /// Version 2: a command other than `LOCAL` (0) and `PROXY` (1).
    Command(u8),
    /// Version 2: an address family that is not assigned.
    Family(u8),
    /// Version 2: a transport protocol that is not assigned.
    Transport(u8),
    /// Version 2: the length leaves no room for addresses of the family announced.
    LengthBelow(usize),
    /// Version 2: the length is above what is taken here.
    LengthAbove,
    /// Version 2: a type-length-value vector that does not fit what is left of the header.
    Vector,
    /// Version 2: a checksum that is not four bytes long.
    ChecksumLength,
    /// Version 2: more than one checksum, so that neither can be right.
    ChecksumRepeated,
    /// Version 2: the checksum is not that of the header.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => write!(f, "not a PROXY protocol header"),
            Self::Protocol => write!(f, "the protocol is none of TCP4, TCP6 and UNKNOWN"),
            Self::Address => write!(f, "an address is not one of the family announced"),
            Self::Port => write!(f, "a port is not a decimal number from 0 to 65535"),
            Self::Fields => write!(f, "not two addresses and two ports, one space apart"),
            Self::LineEnd => write!(f, "a carriage return or line feed that is not part of a CRLF"),
            Self::LineLength => write!(f, "the line is longer than {LINE_MAX} bytes"),
            Self::Version(version) => write!(f, "version {version} behind the signature of 2"),
            Self::Command(command) => write!(f, "unassigned command {command}"),
            Self::Family(family) => write!(f, "unassigned address family {family}"),
            Self::Transport(transport) => write!(f, "unassigned transport protocol {transport}"),
            Self::LengthBelow(least) => write!(f, "the addresses need a length of {least} bytes"),
            Self::LengthAbove => write!(f, "the length is above {LENGTH_MAX} bytes"),
            Self::Vector => write!(f, "a type-length-value vector does not fit the header"),
            Self::ChecksumLength => write!(f, "the checksum is not {CHECKSUM_SIZE} bytes long"),
            Self::ChecksumRepeated => write!(f, "more than one checksum"),
            Self::Checksum => write!(f, "the checksum is not that of the header"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Reads the header at the beginning of `bytes`, which are what a connection has sent so far.
///
/// What is behind the header is not looked at. A call takes time in proportion to the header, and
/// a peer that sends it byte by byte gets [`HEADER_MAX`] calls at most.
///
/// # Errors
/// A rule that was broken, as soon as the bytes show it, and again with whatever follows. The
/// connection is to be aborted (section 2.1: "as soon as possible").
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let may_begin_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, due)| byte == due);
    if may_begin_with(SIGNATURE) {
        return parse_block(bytes);
    }
    if may_begin_with(LINE_START) {
        return parse_line(bytes);
    }
    Err(Malformed::Signature)
}

/// The version of IP.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

// === Version 1, section 2.1 ===

fn parse_line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(rest) = line.get(LINE_START.len()..) else {
        return Ok(Parsed::Partial);
    };
    let end = rest.iter().position(|byte| CRLF.contains(byte));
    let (said, end) = rest.split_at(end.unwrap_or(rest.len()));
    let lacks = match end {
        [b'\r', b'\n', ..] => {
            let length = LINE_START.len() + said.len() + CRLF.len();
            return Ok(Parsed::Complete { length, source: whole_line(said)? });
        }
        // It ends what is said, whatever comes of the CRLF.
        [b'\r', ..] => whole_line(said).map(|_| 1)?,
        [] | [_, ..] => open_line(said)?,
    };
    match end {
        [] | [b'\r'] if line.len() + lacks <= LINE_MAX => Ok(Parsed::Partial),
        [] | [b'\r'] => Err(Malformed::LineLength),
        [_, ..] => Err(Malformed::LineEnd),
    }
}

/// Whose connection it is, from all that stands between the line's start and its end.
fn whole_line(said: &[u8]) -> Result<Source, Malformed> {
    let mut fields = said.split(|byte| *byte == b' ');
    let family = match fields.next() {
        Some(b"TCP4") => Family::V4,
        Some(b"TCP6") => Family::V6,
        // "the receiver must ignore anything presented before the CRLF"
        Some(b"UNKNOWN") => return Ok(Source::Own),
        Some(_) | None => return Err(Malformed::Protocol),
    };
    let mut next = || fields.next().filter(|field| !field.is_empty()).ok_or(Malformed::Fields);
    let ips = (address(family, next()?)?, address(family, next()?)?);
    let ports = (port(next()?)?, port(next()?)?);
    if fields.next().is_some() {
        return Err(Malformed::Fields);
    }
    Ok(Source::Proxied {
        client: SocketAddr::new(ips.0, ports.0),
        local: SocketAddr::new(ips.1, ports.1),
    })
}

/// What a line without an end lacks at the least, in bytes and with its CRLF; found by trying.
fn open_line(said: &[u8]) -> Result<usize, Malformed> {
    /// One of these makes an address or a port of whatever is the start of one; shortest first.
    const ENDINGS: [&str; 10] =
        ["", "0", ":", "::", ".0", "0.0", ".0.0", "0.0.0", ".0.0.0", "0.0.0.0"];

    let behind = match said.iter().filter(|byte| **byte == b' ').count() {
        _ if said.starts_with(b"UNKNOWN ") => "",
        0 => {
            let mut names = ["TCP4", "TCP6", "UNKNOWN"].iter();
            let is_start = names.any(|name| name.as_bytes().starts_with(said));
            return is_start.then_some(CRLF.len()).ok_or(Malformed::Protocol);
        }
        1 if said.starts_with(b"TCP4") => " 0.0.0.0 0 0",
        1 => " :: 0 0",
        2 => " 0 0",
        3 => " 0",
        _ => "",
    };
    let mut fault = Malformed::Fields;
    for ending in ENDINGS {
        match whole_line(&[said, ending.as_bytes(), behind.as_bytes()].concat()) {
            Ok(_) => return Ok(ending.len() + behind.len() + CRLF.len()),
            Err(last) => fault = last,
        }
    }
    Err(fault)
}

fn address(family: Family, field: &[u8]) -> Result<IpAddr, Malformed> {
    let text = str::from_utf8(field).map_err(|_| Malformed::Address)?;
    let address = match family {
        Family::V4 => text.parse().map(IpAddr::V4),
        Family::V6 => text.parse().map(IpAddr::V6),
    };
    address.map_err(|_| Malformed::Address)
}

fn port(field: &[u8]) -> Result<u16, Malformed> {
    // Leading zeros might be read as octal, and the parser takes a plus sign.
    let is_plain = matches!(field, [b'0'] | [b'1'..=b'9', ..]);
    let text = str::from_utf8(field).ok().filter(|_| is_plain);
    text.and_then(|text| text.parse().ok()).ok_or(Malformed::Port)
}

// === Version 2, section 2.2 ===

fn parse_block(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let fixed = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let Some(block) = announced(fixed)? else {
        return Ok(Parsed::Partial);
    };
    let (least, most) = number(&fixed[2..]);
    if most < block.size {
        return Err(Malformed::LengthBelow(block.size));
    }
    if least > LENGTH_MAX {
        return Err(Malformed::LengthAbove);
    }
    if least < most {
        return Ok(Parsed::Partial);
    }
    let length = FIXED_SIZE + least;
    let header = &bytes[..bytes.len().min(length)];
    let checksum = match block.kind {
        Kind::Tcp(_) | Kind::Unused => checksum(header, FIXED_SIZE + block.size..length)?,
        Kind::Opaque => None,
    };
    if header.len() < length {
        return Ok(Parsed::Partial);
    }
    checksum.map_or(Ok(()), |field| verify(header, field))?;
    let source = match block.kind {
        Kind::Tcp(Family::V4) => proxied::<4>(&header[FIXED_SIZE..]),
        Kind::Tcp(Family::V6) => proxied::<16>(&header[FIXED_SIZE..]),
        Kind::Unused | Kind::Opaque => Some(Source::Own),
    };
    let source = source.expect("all of the header is here, and it is not below the addresses");
    Ok(Parsed::Complete { length, source })
}

/// What lies between the fixed part and the vectors, and how many bytes of it there are.
struct Block {
    kind: Kind,
    size: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Addresses of TCP.
    Tcp(Family),
    /// Addresses that are of no use here: of UDP or UNIX.
    Unused,
    /// What must not be looked into (`LOCAL`), or can't be (UNSPEC, of a size that nobody states).
    Opaque,
}

/// What the 13th byte and the 14th announce, the first two of `fixed`, once both are there.
fn announced(fixed: &[u8]) -> Result<Option<Block>, Malformed> {
    let (kind, size) = match *fixed {
        [first, ..] if first >> 4 != 2 => return Err(Malformed::Version(first >> 4)),
        [first, ..] if first & 0xf > 1 => return Err(Malformed::Command(first & 0xf)),
        [] | [_] => return Ok(None),
        // LOCAL: "discard the protocol block including the family which is ignored"
        [0x20, ..] => (Kind::Opaque, 0),
        [_, second, ..] => match (second >> 4, second & 0xf) {
            (family @ 4.., _) => return Err(Malformed::Family(family)),
            (_, transport @ 3..) => return Err(Malformed::Transport(transport)),
            (0, _) | (_, 0) => (Kind::Opaque, 0),
            (1, 1) => (Kind::Tcp(Family::V4), 12),
            (2, 1) => (Kind::Tcp(Family::V6), 36),
            (1, _) => (Kind::Unused, 12),
            (2, _) => (Kind::Unused, 36),
            (_, _) => (Kind::Unused, 216),
        },
    };
    Ok(Some(Block { kind, size }))
}

/// Two addresses of N bytes each, then two ports.
fn proxied<const N: usize>(block: &[u8]) -> Option<Source>
where
    IpAddr: From<[u8; N]>,
{
    let (client, rest) = block.split_first_chunk::<N>()?;
    let (local, rest) = rest.split_first_chunk::<N>()?;
    let (client_port, rest) = rest.split_first_chunk()?;
    let (local_port, _) = rest.split_first_chunk()?;
    Some(Source::Proxied {
        client: SocketAddr::new(IpAddr::from(*client), u16::from_be_bytes(*client_port)),
        local: SocketAddr::new(IpAddr::from(*local), u16::from_be_bytes(*local_port)),
    })
}

/// The least and the most that the two bytes of a number may say, as far as `bytes` has them.
fn number(bytes: &[u8]) -> (usize, usize) {
    let or = |missing| [0, 1].map(|index| bytes.get(index).copied().unwrap_or(missing));
    (u16::from_be_bytes(or(0)).into(), u16::from_be_bytes(or(0xff)).into())
}

/// The bytes of a vector's type and length.
const VECTOR_START: usize = 3;

/// The type of a vector that holds a checksum (`PP2_TYPE_CRC32C`), and the bytes of that.
const CHECKSUM: u8 = 3;
const CHECKSUM_SIZE: usize = 4;

/// Walks the type-length-value vectors, as far as they have come: they fill `area` of the header
/// exactly. Of use is only where in it the checksum is, if there is one.
fn checksum(header: &[u8], area: Range<usize>) -> Result<Option<Range<usize>>, Malformed> {
    let (mut at, mut found) = (area.start, None);
    while at < area.end {
        let room = (area.end - at).checked_sub(VECTOR_START).ok_or(Malformed::Vector)?;
        let Some([kind, rest @ ..]) = header.get(at..) else {
            break;
        };
        at += VECTOR_START;
        let said = number(rest);
        let is_checksum = *kind == CHECKSUM;
        let (least, most) = if is_checksum { (CHECKSUM_SIZE, CHECKSUM_SIZE) } else { said };
        // It is the last one, or leaves room for the start of another.
        if !(least..=most).contains(&room) && least + VECTOR_START > room {
            return Err(Malformed::Vector);
        }
        if is_checksum && found.replace(at..at + CHECKSUM_SIZE).is_some() {
            return Err(Malformed::ChecksumRepeated);
        }
        if !(said.0..=said.1).contains(&least) {
            return Err(Malformed::ChecksumLength);
        }
        if least < most {
            break;
        }
        at += least;
    }
    Ok(found)
}

/// Section 2.2.3: the checksum is that of the whole header, with zeros in its own `field`.
fn verify(header: &[u8], field: Range<usize>) -> Result<(), Malformed> {
    let bytes = header.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if field.contains(&at) { 0 } else { *byte });
    let is_right = crc32c(bytes).to_be_bytes() == header[field.clone()];
    is_right.then_some(()).ok_or(Malformed::Checksum)
}

/// CRC-32C as in RFC 4960 appendix B, bit by bit: a header is short, and comes once a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The Castagnoli polynomial, its highest power in the lowest bit.
    const POLYNOMIAL: u32 = 0x82F6_3B78;

    let shift = |crc: u32, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
    !bytes.fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(byte), shift))
}
