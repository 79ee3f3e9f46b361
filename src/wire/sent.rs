//! The head of the request that an upstream connection carries, as it was written.
//!
//! A request that is safe to repeat may have to be sent again when its connection breaks, and hyper
//! has taken it apart by then. Copying its fields beforehand costs some two thousand instructions a
//! request, for what nearly never happens; the bytes that are written anyway cost a `memcpy`, and
//! are read back when they are needed.

use std::cell::{Cell, RefCell};

use http::{Method, Request, Uri};

/// The longest head that is kept: a longer request is sent once.
const HEAD_MAX: usize = 64 * 1024;
/// What an idle connection keeps room for: most heads.
const KEPT_MAX: usize = 4 * 1024;
/// The most fields of a head that is read back: a request with more is sent once.
const FIELDS_MAX: usize = 1_024;

/// What a connection has written of its present request's head.
#[derive(Debug, Default)]
pub struct SentHead {
    bytes: RefCell<Vec<u8>>,
    awaited: Cell<bool>,
}

impl SentHead {
    /// The next bytes to be written are a head.
    pub fn await_head(&self) {
        self.awaited.set(true);
        let mut bytes = self.bytes.borrow_mut();
        bytes.clear();
        bytes.shrink_to(KEPT_MAX);
    }

    /// hyper offers a head whole, in front of whatever goes out with it.
    pub fn offer(&self, bytes: &[u8]) {
        if self.awaited.replace(false) && bytes.len() <= HEAD_MAX {
            self.bytes.borrow_mut().extend_from_slice(bytes);
        }
    }

    /// The request whose head this is; `None` if none was written.
    #[must_use]
    pub fn request(&self) -> Option<Request<()>> {
        read(&self.bytes.borrow())
    }
}

fn read(bytes: &[u8]) -> Option<Request<()>> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    let complete = config.parse_request_with_uninit_headers(&mut parsed, bytes, &mut fields);
    if !complete.ok()?.is_complete() {
        return None;
    }
    let method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    let target: Uri = parsed.path?.parse().ok()?;
    let mut request = Request::builder().method(method).uri(target);
    for field in parsed.headers {
        request = request.header(field.name, field.value);
    }
    request.body(()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(pieces: &[&str]) -> Option<Request<()>> {
        let sent = SentHead::default();
        sent.await_head();
        pieces.iter().for_each(|piece| sent.offer(piece.as_bytes()));
        sent.request()
    }

    #[test]
    fn a_head_is_read_back_as_it_was() {
        let head = "GET /a%20b?c=%2F HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nX-Two: \u{e9}\r\n\r\n";
        let request = sent(&[head, "not a head"]).unwrap();
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.uri(), "/a%20b?c=%2F");
        let twice: Vec<_> = request.headers().get_all("x-two").iter().collect();
        assert_eq!((twice[0].as_bytes(), twice[1].as_bytes()), (&b"1"[..], "\u{e9}".as_bytes()));
        assert_eq!(request.headers().len(), 3);
    }

    #[test]
    fn what_goes_out_with_a_head_is_not_taken_for_it() {
        let request = sent(&["PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nA: b"]).unwrap();
        assert_eq!(request.headers().len(), 1);
    }

    #[test]
    fn what_is_no_whole_head_is_no_request() {
        assert!(sent(&[]).is_none());
        assert!(sent(&["GET / HTTP/1.1\r\nHost: h\r\n"]).is_none());
        assert!(
            sent(&[&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(HEAD_MAX))]).is_none()
        );
        let sent = SentHead::default();
        sent.offer(b"GET / HTTP/1.1\r\n\r\n");
        assert!(sent.request().is_none(), "nobody awaited it");
    }
}
