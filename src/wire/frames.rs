//! Reads along the frames that an HTTP/2 client sends (RFC 9113 section 4.1), for two things that h2
//! does not watch: a head that does not come to its end, and frames that carry nothing without end.
//!
//! Pure: time is an argument, in ticks. What is looked at is nine bytes a frame.

/// The octets of the preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// The octets of a frame's header.
const HEADER: usize = 9;
/// Frames that carry nothing which may come at once, beyond what drains.
const EMPTY_MAX: u32 = 2_000;
/// How many of them are forgotten with each tick: a thousand a second is more than pings and window
/// updates of a busy client come to.
const EMPTY_PER_TICK: u32 = 100;
/// How many octets of content are worth one of them: a reader of large replies sends window updates.
const CONTENT_PER_EMPTY: u64 = 1_024;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const END_STREAM: u8 = 0x1;

/// What is known of a client's frames.
#[derive(Debug)]
pub struct FrameMeter {
    header: [u8; HEADER],
    // Octets of the header that have come; all of them while its payload is to come.
    known: usize,
    // Octets of the payload that are still to come.
    payload: usize,
    is_amid_head: bool,
    empty: u32,
    content: u64,
    tick: u32,
}

impl Default for FrameMeter {
    /// That of a connection of which nothing has been read: its preface comes first.
    fn default() -> Self {
        Self {
            header: [0; HEADER],
            known: 0,
            payload: PREFACE,
            is_amid_head: false,
            empty: 0,
            content: 0,
            tick: 0,
        }
    }
}

impl FrameMeter {
    /// These bytes came, at tick `now`.
    pub fn feed(&mut self, mut bytes: &[u8], now: u32) {
        let passed = now.wrapping_sub(std::mem::replace(&mut self.tick, now));
        self.forgive(passed.saturating_mul(EMPTY_PER_TICK));
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.known).min(bytes.len());
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == HEADER {
                self.known = 0;
                self.frame();
            }
        }
    }

    /// So many octets went to the client.
    pub fn sent(&mut self, octets: usize) {
        self.carried(octets as u64);
    }

    /// Whether a head has begun and not ended.
    #[must_use]
    pub fn is_amid_head(&self) -> bool {
        self.is_amid_head
    }

    /// Whether more frames came that carry nothing than a client has reason to send.
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.empty > EMPTY_MAX
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.payload = length;
        match kind {
            HEADERS => {
                self.is_amid_head = flags & END_HEADERS == 0;
                self.carried(length as u64);
            }
            CONTINUATION => {
                self.is_amid_head &= flags & END_HEADERS == 0;
                self.empty += 1;
            }
            DATA if length > 0 || flags & END_STREAM != 0 => self.carried(length as u64),
            _ => self.empty += 1,
        }
    }

    fn carried(&mut self, octets: u64) {
        self.content += octets;
        let worth = self.content / CONTENT_PER_EMPTY;
        self.content %= CONTENT_PER_EMPTY;
        self.forgive(u32::try_from(worth).unwrap_or(u32::MAX));
    }

    fn forgive(&mut self, count: u32) {
        self.empty = self.empty.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A meter behind the preface.
    fn begun() -> FrameMeter {
        let mut meter = FrameMeter::default();
        meter.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0);
        meter
    }

    fn fed(frames: &[Vec<u8>], size: usize) -> FrameMeter {
        let mut meter = begun();
        frames.concat().chunks(size).for_each(|piece| meter.feed(piece, 0));
        meter
    }

    #[test]
    fn a_head_is_whole_with_the_frame_that_says_so_in_pieces_of_any_size() {
        let begun = frame(HEADERS, 0, b"abc");
        let more = frame(CONTINUATION, 0, b"de");
        let last = frame(CONTINUATION, END_HEADERS, b"f");
        let ping = frame(0x6, 0, &[0; 8]);
        for size in 1..40 {
            assert!(fed(&[ping.clone(), begun.clone()], size).is_amid_head());
            assert!(fed(&[begun.clone(), more.clone()], size).is_amid_head());
            assert!(!fed(&[begun.clone(), more.clone(), last.clone()], size).is_amid_head());
            assert!(!fed(&[frame(HEADERS, END_HEADERS, b"abc")], size).is_amid_head());
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_a_flood_from_a_number_on() {
        let max = EMPTY_MAX as usize;
        for kind in [0x2, 0x3, 0x4, 0x6, 0x8, CONTINUATION, DATA, 0xbb] {
            let empty = frame(kind, 0, b"");
            assert!(!fed(&vec![empty.clone(); max], 1_000).is_flood(), "{kind}");
            assert!(fed(&vec![empty; max + 1], 1_000).is_flood(), "{kind}");
        }
        let request = frame(HEADERS, END_HEADERS | END_STREAM, b"abc");
        assert!(!fed(&vec![request; 3 * max], 1_000).is_flood());
    }

    #[test]
    fn time_and_content_make_up_for_them() {
        let mut meter = begun();
        let pings = frame(0x6, 0, &[0; 8]).repeat(EMPTY_PER_TICK as usize);
        (0..1_000).for_each(|tick| meter.feed(&pings, tick));
        assert!(!meter.is_flood(), "{meter:?}");
        let mut meter = begun();
        for _ in 0..2 * EMPTY_MAX {
            meter.feed(&frame(0x8, 0, &[0; 4]), 0);
            meter.sent(2_048);
        }
        assert!(!meter.is_flood(), "{meter:?}");
    }
}
