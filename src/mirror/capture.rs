//! An answer as it passes: kept up to a limit, and beyond it known by its length and its hash.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::compare::pair::{Answer, Captured, Outcome};
use crate::mirror::copy::copy_fields;
use crate::mirror::plan::MirrorPlan;
use crate::mirror::stock::{Buffer, Full, Holding, Stock};

/// An answer of which some is still to come.
pub struct Capture {
    status: StatusCode,
    headers: HeaderMap,
    holding: Holding,
    body: Body,
    length: u64,
}

enum Body {
    Kept(Buffer),
    // Boxed: the state of the hash is half a kilobyte, which most never need.
    Hashed(Box<Xxh3>),
    // There was no memory for it: to compare it by length and hash would be to blame the paths for that.
    Starved,
}

// What is printed of it may end up in a log: no header and no body.
impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, length, .. } = self;
        let mut shown = f.debug_struct("Capture");
        shown.field("status", status).field("body", body).field("length", length);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept(_) => "Kept",
            Self::Hashed(_) => "Hashed",
            Self::Starved => "Starved",
        })
    }
}

/// How a path's part of a pair ended, and the account of what is kept of it.
#[derive(Debug)]
pub struct Kept {
    /// How it ended.
    pub outcome: Outcome,
    /// To be dropped after that.
    pub account: Account,
}

/// What accounts for an answer.
#[derive(Debug, Default)]
pub struct Account {
    _head: Option<Holding>,
    _body: Option<Holding>,
}

impl Kept {
    /// A path that did not answer.
    #[must_use]
    pub fn failed(outcome: Outcome) -> Self {
        Self { outcome, account: Account::default() }
    }
}

impl Capture {
    /// The answer with this head; `None` if there is no memory even for that.
    #[must_use]
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        stock: &Arc<Stock>,
        plan: &MirrorPlan,
    ) -> Option<Self> {
        let mut holding = stock.hold(plan.config.memory);
        let headers = copy_fields(headers, &mut holding)?;
        let buffer = Buffer::new(stock.hold(plan.config.memory), plan.config.response_bytes);
        Some(Self { status, headers, holding, body: Body::Kept(buffer), length: 0 })
    }

    /// Some of its body.
    pub fn push(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        match &mut self.body {
            Body::Kept(buffer) => match buffer.push(data) {
                Ok(()) => {}
                Err(Full::Cap) => {
                    let mut hash = Box::new(Xxh3::new());
                    hash.update(buffer.bytes());
                    hash.update(data);
                    self.body = Body::Hashed(hash);
                }
                Err(Full::Memory) => self.body = Body::Starved,
            },
            Body::Hashed(hash) => hash.update(data),
            Body::Starved => {}
        }
    }

    /// How much of its body has come, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// It is whole; `None` if there was no memory for it.
    #[must_use]
    pub fn finish(self) -> Option<Kept> {
        let (kept, hash, holding) = match self.body {
            Body::Kept(buffer) => {
                let (bytes, holding) = buffer.into_parts();
                let hash = xxh3_64(&bytes);
                (Some(Bytes::from(bytes)), hash, Some(holding))
            }
            Body::Hashed(hash) => (None, hash.digest(), None),
            Body::Starved => return None,
        };
        let body = Captured { kept, length: self.length, hash };
        let answer = Answer { status: self.status, headers: self.headers, body };
        let outcome = Outcome::Reply(Box::new(answer));
        Some(Kept { outcome, account: Account { _head: Some(self.holding), _body: holding } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::plan::tests::plan;

    fn captured(response_bytes: usize, memory: usize, pieces: &[&[u8]]) -> Option<Captured> {
        let stock = Arc::<Stock>::default();
        let plan = plan(|config| {
            config.response_bytes = response_bytes;
            config.memory = memory;
        });
        let mut capture = Capture::new(StatusCode::OK, &HeaderMap::new(), &stock, &plan).unwrap();
        pieces.iter().for_each(|piece| capture.push(piece));
        let Some(kept) = capture.finish() else {
            assert_eq!(stock.bytes(), 0);
            return None;
        };
        let body = kept.outcome.reply().unwrap().body.clone();
        assert_eq!(stock.bytes() > 0, body.kept.as_ref().is_some_and(|kept| !kept.is_empty()));
        drop(kept);
        assert_eq!(stock.bytes(), 0);
        Some(body)
    }

    #[test]
    fn what_is_printed_of_it_has_no_header_and_no_body() {
        let stock = Arc::<Stock>::default();
        let headers = [(http::header::SET_COOKIE, "secret".parse().unwrap())].into_iter().collect();
        let capture = Capture::new(StatusCode::OK, &headers, &stock, &plan(|_| {}));
        let mut capture = capture.unwrap();
        capture.push(b"secret");
        let shown = format!("{capture:?} {:?}", capture.body);
        assert!(shown.contains("length: 6") && !shown.contains("secret"), "{shown}");
        let kept = format!("{:?}", capture.finish());
        assert!(!kept.contains("secret"), "{kept}");
    }

    #[test]
    fn what_fits_is_kept_and_of_more_length_and_hash_are_the_same() {
        for (response_bytes, memory, pieces, is_kept) in [
            (4, 4_096, &[&b"ab"[..], b"cd"][..], true),
            (3, 4_096, &[b"ab", b"cd"], false),
            (0, 4_096, &[b"abcd"], false),
        ] {
            let body = captured(response_bytes, memory, pieces).unwrap();
            assert_eq!((body.length, body.hash), (4, xxh3_64(b"abcd")), "{response_bytes}");
            assert_eq!(body.kept.as_deref(), is_kept.then_some(&b"abcd"[..]), "{response_bytes}");
        }
        let empty = captured(0, 4_096, &[]).unwrap();
        assert_eq!((empty.kept.as_deref(), empty.hash), (Some(&b""[..]), xxh3_64(b"")));
        assert!(captured(4, 3, &[b"a", b"bcd"]).is_none(), "no memory is no difference");
    }
}
