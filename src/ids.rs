//! Request ids and trace parents, from one seed a worker.
//!
//! Pure: the seed is an argument. The ids need to be unlikely to meet, not hard to guess, so a
//! splitmix64 sequence (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)
//! from a random seed is enough, and costs neither a lock nor a system call.

use std::cell::Cell;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use http::HeaderValue;

/// Makes the ids of one worker.
#[derive(Debug)]
pub struct Ids(Cell<u64>);

impl Ids {
    /// A sequence from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A number, uniform over its range.
    pub fn draw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A request id: 32 hexadecimal digits.
    pub fn request_id(&self) -> HeaderValue {
        let mut text = [0; 32];
        hex(self.draw(), &mut text[..16]);
        hex(self.draw(), &mut text[16..]);
        value(&text)
    }

    /// A `traceparent` that starts a trace and leaves the decision to sample to others
    /// (W3C Trace Context, section 3.2.2).
    pub fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(self.draw(), &mut text[3..19]);
        hex(self.draw(), &mut text[19..35]);
        // The parent id must not be all zeros; its lowest bit is given away for that.
        hex(self.draw() | 1, &mut text[36..52]);
        value(&text)
    }

    /// A nonce of 16 bytes in base64 (RFC 6455 section 4.1).
    pub fn websocket_key(&self) -> HeaderValue {
        let nonce = (u128::from(self.draw()) << 64) | u128::from(self.draw());
        value(STANDARD.encode(nonce.to_be_bytes()).as_bytes())
    }
}

fn hex(number: u64, text: &mut [u8]) {
    for (index, digit) in text.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * index)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("digits, letters and dashes are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::trace::{is_request_id, is_traceparent};

    #[test]
    fn ids_are_sound_and_differ() {
        let ids = Ids::new(7);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let (id, parent) = (ids.request_id(), ids.traceparent());
            assert!(is_request_id(&id) && is_traceparent(&parent), "{parent:?}");
            assert!(seen.insert(id) && seen.insert(parent));
        }
    }
}
