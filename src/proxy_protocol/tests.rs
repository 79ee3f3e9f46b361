//! The PROXY protocol's rules at their boundaries, and what no bytes may bring about.

use std::hash::{BuildHasher, RandomState};
use std::{env, iter};

use super::*;

fn proxied(client: &str, local: &str) -> Source {
    Source::Proxied { client: client.parse().unwrap(), local: local.parse().unwrap() }
}

fn block(command: u8, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let rest = parts.concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, kind], &length, &rest].concat()
}

fn vector(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// 203.0.113.7:56324 to 198.51.100.9:443.
const V4: &[u8] = &[203, 0, 113, 7, 198, 51, 100, 9, 0xdc, 0x04, 0x01, 0xbb];

fn v4() -> Source {
    proxied("203.0.113.7:56324", "198.51.100.9:443")
}

/// [2001:db8::7]:56324 to [2001:db8::9]:443.
fn v6_block() -> Vec<u8> {
    let ip = |last| [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    [&ip(7)[..], &ip(9), &V4[8..]].concat()
}

fn v6() -> Source {
    proxied("[2001:db8::7]:56324", "[2001:db8::9]:443")
}

/// Headers with a checksum, which another implementation computed.
fn summed() -> [(Vec<u8>, Source); 2] {
    let sum4 = vector(3, &[0xa0, 0x4e, 0x05, 0x03]);
    let sum6 = vector(3, &[0xfe, 0xf2, 0x0c, 0xfa]);
    let vectors = [&vector(1, b"h2")[..], &sum6, &vector(4, b"")].concat();
    [(block(0x21, 0x11, &[V4, &sum4]), v4()), (block(0x21, 0x21, &[&v6_block(), &vectors]), v6())]
}

fn good_lines() -> Vec<(Vec<u8>, Source)> {
    let longest_v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("TCP6 {longest_v6} {longest_v6} 65535 65535");
    let ends = format!("[{longest_v6}]:65535");
    let unknown = format!("UNKNOWN {longest_v6} {longest_v6} 65535 65535");
    let filled = format!("UNKNOWN {}", "\u{1}".repeat(LINE_MAX - "PROXY UNKNOWN \r\n".len()));
    assert_eq!("PROXY \r\n".len() + unknown.len(), LINE_MAX);
    let lines = [
        ("TCP4 203.0.113.7 198.51.100.9 56324 443", v4()),
        ("TCP4 0.0.0.0 255.255.255.255 0 65535", proxied("0.0.0.0:0", "255.255.255.255:65535")),
        ("TCP6 2001:db8::7 2001:db8::9 56324 443", v6()),
        ("TCP6 :: ::1 1 2", proxied("[::]:1", "[::1]:2")),
        ("TCP6 2001:DB8::7 2001:0db8:0:0:0::9 56324 443", v6()),
        (
            "TCP6 1:2:3:4:5:6:7:: ::5:6:1.2.3.4 1 2",
            proxied("[1:2:3:4:5:6:7:0]:1", "[::5:6:102:304]:2"),
        ),
        // As it is, and not as IPv4.
        (
            "TCP6 ::ffff:1.2.3.4 ::ffff:506:708 1 2",
            proxied("[::ffff:1.2.3.4]:1", "[::ffff:5.6.7.8]:2"),
        ),
        (&longest, proxied(&ends, &ends)),
        ("UNKNOWN", Source::Own),
        ("UNKNOWN ", Source::Own),
        ("UNKNOWN  TCP4 none \u{e4}\0", Source::Own),
        (&unknown, Source::Own),
        (&filled, Source::Own),
    ];
    let whole = |(line, source)| (format!("PROXY {line}\r\n").into_bytes(), source);
    lines.into_iter().map(whole).collect()
}

fn good_blocks() -> Vec<(Vec<u8>, Source)> {
    let noop = vector(4, &[0; 9]);
    let ssl = vector(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 7, b'T', b'L', b'S', b'v', b'1', b'.', b'3']);
    let full = vector(0xe0, &vec![0xff; LENGTH_MAX - V4.len() - VECTOR_START]);
    let mapped = [&[0; 10][..], &[0xff, 0xff, 203, 0, 113, 7], &[0; 15], &[1, 0, 1, 0, 2]].concat();
    let blocks = [
        (block(0x21, 0x11, &[V4]), v4()),
        (block(0x21, 0x21, &[&v6_block()]), v6()),
        (block(0x21, 0x21, &[&mapped]), proxied("[::ffff:203.0.113.7]:1", "[::1]:2")),
        (block(0x21, 0x11, &[V4, &vector(4, b"")]), v4()),
        (block(0x21, 0x11, &[V4, &noop, &ssl, &vector(0xff, b"?"), &noop]), v4()),
        (block(0x21, 0x11, &[V4, &full]), v4()),
        // LOCAL: of any family, with anything behind it.
        (block(0x20, 0x00, &[]), Source::Own),
        (block(0x20, 0x11, &[V4]), Source::Own),
        (block(0x20, 0xff, &[&[3, 0]]), Source::Own),
        // UNSPEC, whichever half says so.
        (block(0x21, 0x00, &[]), Source::Own),
        (block(0x21, 0x00, &[&[3, 0, 9, 9, 9]]), Source::Own),
        (block(0x21, 0x01, &[b"?"]), Source::Own),
        (block(0x21, 0x10, &[b"?"]), Source::Own),
        (block(0x21, 0x00, &[&[9; LENGTH_MAX]]), Source::Own),
        // UDP and UNIX.
        (block(0x21, 0x12, &[V4, &noop]), Source::Own),
        (block(0x21, 0x22, &[&v6_block()]), Source::Own),
        (block(0x21, 0x31, &[&[b'/'; 216], &noop]), Source::Own),
        (block(0x21, 0x32, &[&[0; 216]]), Source::Own),
    ];
    blocks.into_iter().chain(summed()).collect()
}

fn good() -> Vec<(Vec<u8>, Source)> {
    [good_lines(), good_blocks()].concat()
}

#[test]
fn a_header_is_read_whole_and_nothing_behind_it() {
    for (header, source) in good() {
        let (length, shown) = (header.len(), header.escape_ascii().to_string());
        for behind in ["", "G", "\n", "GET / HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}", "PROXY "] {
            let parsed = parse(&[&header[..], behind.as_bytes()].concat());
            assert_eq!(parsed, Ok(Parsed::Complete { length, source }), "{shown} {behind:?}");
        }
        for cut in 0..length {
            assert_eq!(parse(&header[..cut]), Ok(Parsed::Partial), "{cut} bytes of {shown}");
        }
    }
}

/// `bytes` are refused with `fault` from their byte number `first` on, and not before.
fn refused(bytes: &[u8], first: usize, fault: Malformed) {
    let shown = bytes.escape_ascii().to_string();
    for end in 0..=bytes.len() {
        let expected = if end < first { Ok(Parsed::Partial) } else { Err(fault) };
        assert_eq!(parse(&bytes[..end]), expected, "{end} bytes of {shown}");
    }
    assert!(first <= bytes.len(), "{shown}");
    let message = fault.to_string();
    assert!(message.starts_with(char::is_lowercase) && !message.ends_with('.'), "{message}");
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for (text, first) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("PUT / HTTP/1.1\r\n", 2),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
        ("PROPFIND / HTTP/1.1\r\n", 4),
        ("PROXY\r\n", 6),
        ("PROXYTCP4 1.2.3.4", 6),
        ("proxy TCP4 1.2.3.4", 1),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}", 1),
        ("\r\nGET / HTTP/1.1\r\n", 3),
        ("\r\n\r\n\r\n\r\n", 5),
        ("\r\n\r\n\0\r\nQUIT\r\n", 12),
    ] {
        refused(text.as_bytes(), first, Malformed::Signature);
    }
}

#[test]
fn a_bad_line_is_refused_at_its_first_wrong_byte() {
    use Malformed::{Address, Fields, LineEnd, LineLength, Port, Protocol};
    // Up to `|` such a line may become a header, and with the byte behind it no more.
    for (marked, fault) in [
        ("TCP|5 1.2.3.4", Protocol),
        ("TCP4|\t1.2.3.4", Protocol),
        ("TCP4|6 1.2.3.4", Protocol),
        ("TCP| 1.2.3.4", Protocol),
        ("| TCP4 1.2.3.4", Protocol),
        ("|tcp4 1.2.3.4", Protocol),
        ("U|DP4 1.2.3.4", Protocol),
        ("UNKNOWN|S\r\n", Protocol),
        ("UNKNOW|\r\n", Protocol),
        ("|\r\n", Protocol),
        ("TCP4 | 1.2.3.4 5.6.7.8 1 2\r\n", Fields),
        ("TCP4 1.2.3.4 | 5.6.7.8 1 2\r\n", Fields),
        ("TCP4 1.2.3.4 5.6.7.8 | 1 2\r\n", Fields),
        ("TCP4 1.2.3.4 5.6.7.8 1 2| \r\n", Fields),
        ("TCP4 1.2.3.4 5.6.7.8 1 2| 3\r\n", Fields),
        ("TCP4|\r\n", Fields),
        ("TCP4 |\r\n", Fields),
        ("TCP4 1.2.3.4|\r\n", Fields),
        ("TCP4 1.2.3.4 5.6.7.8 1|\r\n", Fields),
        ("TCP4 1.2.3.4 5.6.7.8 1 |\r\n", Fields),
        ("TCP4 1.2.3| 5.6.7.8 1 2\r\n", Address),
        ("TCP4 1.2.3.4|.5 6.7.8.9 1 2\r\n", Address),
        ("TCP4 1.2.3.25|6 5.6.7.8 1 2\r\n", Address),
        ("TCP4 1.2.3.4 5.6.0|7.8 1 2\r\n", Address),
        ("TCP4 1.2.3.4 5.6.|-7.8 1 2\r\n", Address),
        ("TCP4 1.2.3.4 5|:6 1 2\r\n", Address),
        ("TCP4 |::1 ::2 1 2\r\n", Address),
        ("TCP4 |localhost ::2 1 2\r\n", Address),
        ("TCP4 1.2.3.4|\u{e4} 5.6.7.8 1 2\r\n", Address),
        ("TCP6 1|.2.3.4 ::2 1 2\r\n", Address),
        ("TCP6 ::1 5|.6.7.8 1 2\r\n", Address),
        ("TCP6 1:2:3:4:5:6:7| ::2 1 2\r\n", Address),
        ("TCP6 1:2:3:4:5:6:7:8|:9 ::2 1 2\r\n", Address),
        ("TCP6 1::2:|:3 ::2 1 2\r\n", Address),
        ("TCP6 ::1234|5 ::2 1 2\r\n", Address),
        ("TCP6 fe80::1|%1 ::2 1 2\r\n", Address),
        ("TCP6 |[::1] ::2 1 2\r\n", Address),
        ("TCP6 ::ffff:01|.2.3.4 ::2 1 2\r\n", Address),
        ("TCP6 ::1 ::|g 1 2\r\n", Address),
        ("TCP4 1.2.3.4 5.6.7.8 6553|6 2\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 0|1 2\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 |-1 2\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 |+1 2\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 1 0|0\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 1 2|\t\r\n", Port),
        ("TCP4 1.2.3.4 5.6.7.8 1 2|\nGET", LineEnd),
        ("TCP4 1.2.3.4 5.6.7.8 1 2\r|GET", LineEnd),
        ("TCP4 1.2.3.4 5.6.7.8 1 2\r|\r\n", LineEnd),
        ("TCP4 1.2|\n", LineEnd),
        ("UNKNOWN a\r|b\r\n", LineEnd),
        ("UNKNOWN a|\nb\r\n", LineEnd),
        // Addresses with IPv4 in them are longer than what the limit was made for.
        (
            &format!("TCP6 {0}5 {0}|5 1 2\r\n", "1111:1111:1111:1111:1111:1111:255.255.255.25"),
            LineLength,
        ),
        (&format!("UNKNOWN {}|x\r\n", "x".repeat(LINE_MAX - 6 - 8 - 2)), LineLength),
        (&format!("UNKNOWN {}|x", "x".repeat(LINE_MAX - 6 - 8 - 2)), LineLength),
    ] {
        let line = format!("PROXY {}", marked.replacen('|', "", 1));
        let first = marked.find('|').map_or(usize::MAX, |at| "PROXY ".len() + at + 1);
        refused(line.as_bytes(), first, fault);
    }
}

#[test]
fn a_bad_block_is_refused_at_its_first_wrong_byte() {
    use Malformed::{Checksum, ChecksumLength, ChecksumRepeated, Command, Family, Transport};
    use Malformed::{LengthAbove, LengthBelow, Vector, Version};
    let (v4, v6, sum) = (V4, &v6_block()[..], &vector(3, &[0; 4])[..]);
    let above = [&SIGNATURE[..], &[0x20, 0, 0x10, 0x01, 0]].concat();
    let far_above = [&SIGNATURE[..], &[0x21, 0x11, 0x11, 0x00, 0]].concat();
    for (bytes, first, fault) in [
        (block(0x11, 0x11, &[v4]), 13, Version(1)),
        (block(0x31, 0x11, &[v4]), 13, Version(3)),
        (block(0x01, 0x11, &[v4]), 13, Version(0)),
        (block(0x22, 0x11, &[v4]), 13, Command(2)),
        (block(0x2f, 0x11, &[v4]), 13, Command(15)),
        (block(0x21, 0x41, &[v4]), 14, Family(4)),
        (block(0x21, 0xff, &[v4]), 14, Family(15)),
        (block(0x21, 0x13, &[v4]), 14, Transport(3)),
        (block(0x21, 0x0f, &[v4]), 14, Transport(15)),
        (block(0x21, 0x11, &[&v4[1..]]), 16, LengthBelow(12)),
        (block(0x21, 0x12, &[]), 16, LengthBelow(12)),
        (block(0x21, 0x21, &[&v6[1..]]), 16, LengthBelow(36)),
        (block(0x21, 0x22, &[v4]), 16, LengthBelow(36)),
        (block(0x21, 0x31, &[&[0; 215]]), 16, LengthBelow(216)),
        (block(0x21, 0x32, &[v6]), 16, LengthBelow(216)),
        (above, 16, LengthAbove),
        (far_above, 15, LengthAbove),
        // Less than what a vector starts with.
        (block(0x21, 0x11, &[v4, &[4]]), 16, Vector),
        (block(0x21, 0x11, &[v4, &[4, 0]]), 16, Vector),
        (block(0x21, 0x32, &[&[0; 216], &[4, 0]]), 16, Vector),
        // Beyond the header, or up to two bytes before its end.
        (block(0x21, 0x11, &[v4, &[4, 0, 1]]), 31, Vector),
        (block(0x21, 0x11, &[v4, &[4, 1, 0]]), 30, Vector),
        (block(0x21, 0x11, &[v4, &[4, 0, 0, 9]]), 31, Vector),
        (block(0x21, 0x11, &[v4, &[4, 0, 0, 9, 9]]), 31, Vector),
        (block(0x21, 0x21, &[v6, &vector(1, b"h2"), &[4, 0, 2, 9]]), 60, Vector),
        (block(0x21, 0x12, &[v4, &[4, 0, 1]]), 31, Vector),
        // A checksum has no room, not its size, or a double.
        (block(0x21, 0x11, &[v4, &[3, 0, 3, 9, 9, 9]]), 29, Vector),
        (block(0x21, 0x11, &[v4, &[3, 0, 3, 9, 9, 9, 9, 9, 9]]), 29, Vector),
        (block(0x21, 0x11, &[v4, &[3, 0, 3], &[9; 7]]), 31, ChecksumLength),
        (block(0x21, 0x11, &[v4, &[3, 1, 4], &[9; 260]]), 30, ChecksumLength),
        (block(0x21, 0x11, &[v4, sum, sum]), 36, ChecksumRepeated),
        (block(0x21, 0x11, &[v4, sum]), 35, Checksum),
        (block(0x21, 0x21, &[v6, sum]), 59, Checksum),
        (block(0x21, 0x22, &[v6, sum]), 59, Checksum),
        (block(0x21, 0x31, &[&[0; 216], sum]), 239, Checksum),
    ] {
        refused(&bytes, first, fault);
    }
}

#[test]
fn the_checksum_is_castagnolis() {
    let sum = |bytes: &[u8]| crc32c(bytes.iter().copied());
    assert_eq!(sum(b""), 0);
    assert_eq!(sum(b"123456789"), 0xe306_9283);
    // RFC 3720 appendix B.4, whose bytes are in reverse.
    assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
}

#[test]
fn no_byte_of_a_summed_header_can_change_and_bring_another_address() {
    for (header, source) in summed() {
        for (at, value) in (0..header.len()).flat_map(|at| iter::repeat(at).zip(0..=u8::MAX)) {
            let mut bytes = header.clone();
            bytes[at] = value;
            for behind in [0, HEADER_MAX] {
                let parsed = parse(&[&bytes[..], &vec![0; behind]].concat());
                if (FIXED_SIZE..FIXED_SIZE + V4.len()).contains(&at) && value != header[at] {
                    assert_eq!(parsed, Err(Malformed::Checksum), "{at} {value}");
                } else if let Ok(Parsed::Complete { source: other, .. }) = parsed {
                    assert!(other == source || other == Source::Own, "{at} {value} {other:?}");
                }
            }
        }
    }
}

/// A splitmix64 sequence of a seed that is told, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let told = env::var("PROXY_PROTOCOL_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = told.unwrap_or_else(|| RandomState::new().hash_one(0));
        eprintln!("PROXY_PROTOCOL_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    /// One of `headers`, changed in up to four places.
    fn mutated(&mut self, headers: &[(Vec<u8>, Source)]) -> Vec<u8> {
        let mut bytes = headers[self.below(headers.len())].0.clone();
        for _ in 0..self.below(5) {
            let at = self.below(bytes.len() + 1);
            let other = &headers[self.below(headers.len())].0;
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, b" \0:.0\r\n\x03\xff"[self.below(9)]),
                2 => bytes.truncate(bytes.len() - bytes.len().min(at) / 8),
                3 => bytes.extend_from_slice(&other[..self.below(other.len())]),
                4 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                _ => {}
            }
        }
        bytes
    }
}

#[test]
fn whatever_comes_the_answer_neither_reaches_too_far_nor_changes_with_more_bytes() {
    let (mut random, headers, mut seen) = (Random::new(), good(), [0; 3]);
    for _ in 0..100_000 {
        let bytes = random.mutated(&headers);
        let shown = || bytes.escape_ascii().to_string();
        let before = parse(&bytes[..random.below(bytes.len() + 1)]);
        match parse(&bytes) {
            Ok(Parsed::Partial) => {
                assert!(bytes.len() < HEADER_MAX, "{}", shown());
                assert_eq!(before, Ok(Parsed::Partial), "{}", shown());
                seen[0] += 1;
            }
            Ok(Parsed::Complete { length, source }) => {
                let parsed = Ok(Parsed::Complete { length, source });
                assert!(length <= bytes.len().min(HEADER_MAX), "{}", shown());
                assert!(before == parsed || before == Ok(Parsed::Partial), "{}", shown());
                assert_eq!(parse(&bytes[..length]), parsed, "{}", shown());
                seen[1] += 1;
            }
            Err(fault) => {
                // A line that is too long for sure may yet break another rule, too.
                let expected = [Ok(Parsed::Partial), Err(fault), Err(Malformed::LineLength)];
                assert!(expected.contains(&before), "{before:?} {fault} {}", shown());
                seen[2] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 5_000), "{seen:?}");
}

#[test]
fn what_is_waited_for_can_become_a_header() {
    let (mut random, mut headers, mut waited) = (Random::new(), good(), 0);
    headers.retain(|(header, _)| header.len() < 300);
    while waited < 500 {
        let mut bytes = random.mutated(&headers);
        waited += usize::from(parse(&bytes) == Ok(Parsed::Partial));
        while parse(&bytes) == Ok(Parsed::Partial) {
            bytes.push(0);
            let last = bytes.len() - 1;
            let faults = (0..=u8::MAX).map_while(|byte| {
                bytes[last] = byte;
                parse(&bytes).err()
            });
            let faults: Vec<_> = faults.collect();
            // A checksum that has come already is seen to be wrong at the end only.
            let is_open = faults.len() < 256 || faults.contains(&Malformed::Checksum);
            assert!(is_open && last < HEADER_MAX, "{}", bytes.escape_ascii());
        }
    }
}
